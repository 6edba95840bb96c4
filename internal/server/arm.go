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
	detached, err := o.Detached()
	if err != nil || !detached {
		return false, err
	}
	return pg.HasStandbySignal(o.dir())
}

// Detached tells whether the data directory's own settings say that it receives
// WAL from nobody: the last of them counts, and what a comment says does not.
func (o Own) Detached() (bool, error) {
	value, set, err := pg.ReadSetting(o.dir(), signalled)
	return set && value == "", err
}

// StartReadOnly arms the directory, unless its server comes up read-only anyway: a
// standby's primary_conninfo stays as it is. With recovery.signal alone a server
// takes writes once it has recovered. One whose rewind was broken off is refused.
func (o Own) StartReadOnly() error {
	if err := o.mustBeWhole(); err != nil {
		return err
	}
	standby, err := pg.HasStandbySignal(o.dir())
	if err != nil || standby {
		return err
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
	if err := o.mustBeWhole(); err != nil {
		return err
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
