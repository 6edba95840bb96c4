package server

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/pg"
)

// Arm makes sure that whatever starts the data directory, it comes up read-only
// and follows nobody: PostgreSQL reads standby.signal only when it starts, so that
// a running primary is not touched (A25). Both files are on disk when this
// returns. It is cheap where they are there already, and PostgreSQL removes the
// signal at each promotion.
func (o Own) Arm() error {
	if err := o.emptyConninfo(); err != nil {
		return err
	}
	armed, err := pg.HasStandbySignal(o.dir())
	if err != nil {
		return err
	}
	if !armed {
		return pg.WriteStandbySignal(o.dir())
	}
	return o.sync() // whoever wrote it may not have
}

// Armed tells whether the data directory starts read-only and follows nobody.
func (o Own) Armed() (bool, error) {
	text, err := readAll(filepath.Join(o.dir(), "postgresql.auto.conf"))
	if err != nil {
		return false, fault.Wrap(err, fault.BadConfig, "recovery settings of %s", o.dir())
	}
	signal, err := pg.HasStandbySignal(o.dir())
	return signal && emptied(string(text)), err
}

// Detached tells whether the data directory's own settings say that it receives
// WAL from nobody.
func (o Own) Detached() (bool, error) {
	text, err := readAll(filepath.Join(o.dir(), "postgresql.auto.conf"))
	if err != nil {
		return false, fault.Wrap(err, fault.BadConfig, "recovery settings of %s", o.dir())
	}
	return emptied(string(text)), nil
}

// StartReadOnly arms the directory, unless its server comes up read-only anyway: a
// standby's primary_conninfo stays as it is.
func (o Own) StartReadOnly() error {
	for _, name := range []string{"standby.signal", "recovery.signal"} {
		_, err := os.Stat(filepath.Join(o.dir(), name))
		if err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fault.Wrap(err, fault.BadConfig, "data directory %s", o.dir())
		}
	}
	return o.Arm()
}

// StartAsPrimary makes the directory of a primary that was shut down in order start
// as one. That is not synced, on purpose: after a power cut the directory is armed
// again, unless the kernel happened to write in between.
func (o Own) StartAsPrimary(ctx context.Context) error {
	if err := o.mustBeDown(fault.NoRestart, "let the server start as a primary"); err != nil {
		return err
	}
	control, err := o.control(ctx)
	if err != nil {
		return err
	}
	if control.State != "shut down" {
		return fault.New(fault.NoRestart, "the server is not started as a primary: its control file says %q", control.State)
	}
	if broken, err := RewindInterrupted(o.Config.StateDir()); err != nil || broken {
		return fault.Wrap(err, fault.NoRestart, "the server is not started as a primary: a rewind of it was broken off")
	}
	if err := os.Remove(filepath.Join(o.dir(), "standby.signal")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.Wrap(err, fault.SysFailure, "standby.signal of %s", o.dir())
	}
	return nil
}

// Disarm makes the data directory start as a primary. The empty primary_conninfo
// stays: a primary does not read it.
func (o Own) Disarm() error { return pg.RemoveStandbySignal(o.dir()) }

// sync makes the names and files that arm the directory last over a power cut.
func (o Own) sync() error {
	for _, name := range []string{"standby.signal", "postgresql.auto.conf"} {
		f, err := os.Open(filepath.Join(o.dir(), name))
		if err != nil {
			return fault.Wrap(err, fault.SysFailure, "sync of %s", name)
		}
		err = f.Sync()
		_ = f.Close()
		if err != nil {
			return fault.Wrap(err, fault.SysFailure, "sync of %s", name)
		}
	}
	if err := host.SyncDir(o.dir()); err != nil {
		return fault.Wrap(err, fault.SysFailure, "sync of %s", o.dir())
	}
	return nil
}
