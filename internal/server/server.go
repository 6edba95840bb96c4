// Package server owns what a daemon does to its own PostgreSQL server under the
// quorum rule: seal it, arm it, promote it to a given timeline, end it, bring it
// back. Every function does one thing, waits for it no longer than its context
// lasts, and leaves no goroutine behind. None decides.
package server

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/pg"
)

// Own is the daemon's own server. The daemon must run as the server's user.
type Own struct {
	Config *conf.Config // conninfo, data_directory, pg_bindir, service_..._command, pg_ctl_options
	Log    func(string) // what an operator should read meanwhile; nil: nobody does
}

// Position is the end of a server's write-ahead log: the end of the last valid
// record on disk, and the timeline whose files hold it.
type Position struct {
	Timeline cluster.Timeline
	LSN      cluster.LSN
}

const (
	pollEvery = 5 * time.Millisecond // of what happens within milliseconds
	signalled = "primary_conninfo"
)

func (o Own) dir() string { return o.Config.DataDirectory }

func (o Own) log(text string) {
	if o.Log != nil {
		o.Log(text)
	}
}

// connect opens a session with the own server.
func (o Own) connect(ctx context.Context) (*pg.Conn, error) {
	info, err := pg.ParseConninfo(o.Config.Conninfo)
	if err != nil {
		return nil, err
	}
	return pg.Connect(ctx, info.With("application_name", "repmgrd"))
}

// farewell bounds the end of a session.
const farewell = time.Second

func hangUp(c *pg.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	_ = c.Close(ctx)
}

// eachWhile calls done every pollEvery until it is true, fails, or ctx ends;
// then the result is false.
func eachWhile(ctx context.Context, done func() (bool, error)) (bool, error) {
	for {
		if ok, err := done(); ok || err != nil {
			return ok, err
		}
		if !pause(ctx, pollEvery) {
			return false, nil
		}
	}
}

// pause waits, and is false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// Postmaster takes hold of the postmaster: the process that postmaster.pid names
// and that is a postgres at work in the data directory's inode (B26). None is an
// error that is os.ErrProcessDone.
func (o Own) Postmaster() (*host.Handle, error) {
	file, err := pg.ReadPostmaster(o.dir())
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = os.ErrProcessDone
		}
		return nil, fault.Wrap(err, fault.SysFailure, "postmaster of %s", o.dir())
	}
	h, err := host.OpenProcess(file.PID)
	if err != nil {
		return nil, fault.Wrap(err, fault.SysFailure, "postmaster of %s", o.dir())
	}
	works, err := host.WorksIn(o.dir(), file.PID) // after the process is held: its number cannot change hands
	if works {
		return h, nil
	}
	if err == nil {
		err = os.ErrProcessDone
	}
	_ = h.Close()
	return nil, fault.Wrap(err, fault.SysFailure, "postmaster of %s", o.dir()).
		WithDetail("postmaster.pid names process %d, which is no postgres that works there.", file.PID)
}

// Reload makes the server read its configuration files again, as their owner and
// not by SQL, whose pg_reload_conf() has to be granted.
func (o Own) Reload() error {
	h, err := o.Postmaster()
	if err != nil {
		return err
	}
	defer h.Close()
	return h.Signal(unix.SIGHUP)
}

// set makes a setting that value, in postgresql.auto.conf, and has the server read it: the
// empty one too, and not what postgresql.conf says.
func (o Own) set(name, value string) error {
	var err error
	if value == "" {
		err = pg.WriteEmptySetting(o.dir(), name)
	} else {
		err = pg.WriteSetting(o.dir(), name, value)
	}
	if err != nil {
		return err
	}
	return o.Reload()
}

// SetReadersWait makes synchronized_standby_slots that value, in postgresql.auto.conf, and has
// the server read it.
func (o Own) SetReadersWait(value string) error {
	if err := o.set("synchronized_standby_slots", value); err != nil {
		return fault.Wrap(err, fault.SysFailure, "synchronized_standby_slots could not be set to %q", value)
	}
	return nil
}

// leaving is how long a postmaster that has removed its postmaster.pid may take to be
// gone: 8 to 60 ms were measured, while it frees its memory.
const leaving = 2 * time.Second

// mustBeDown refuses what may only be done to a server that does not run. One that is
// about to be gone is waited for: whoever stopped it, as pg_ctl does, takes it for stopped
// as soon as its postmaster.pid is not there.
func (o Own) mustBeDown(code fault.Code, what string) error {
	for began := time.Now(); ; time.Sleep(pollEvery) {
		all, err := host.Processes(o.dir())
		switch {
		case err != nil:
			return err
		case len(all) == 0:
			return nil
		case host.Postmaster(o.dir()) != 0, time.Since(began) > leaving:
			return fault.New(code, "could not %s: the server runs", what).
				WithDetail("%d processes work in %s, %d among them.", len(all), o.dir(), all[0].PID)
		}
	}
}

// ask asks the server for one value, and makes sure that the server that answers
// at conninfo is the one in data_directory.
func (o Own) ask(ctx context.Context, c *pg.Conn, expression string, to any) error {
	var dir string
	err := c.QueryRow(ctx, "SELECT pg_catalog.current_setting('data_directory'), "+expression).Scan(&dir, to)
	if err != nil {
		f := fault.Wrap(err, fault.DBQuery, "settings of the server")
		if pg.Code(err) == "42501" {
			f.WithHint("as a superuser: GRANT pg_monitor TO the role of conninfo")
		}
		return f
	}
	own, errOwn := os.Stat(o.dir())
	theirs, errTheirs := os.Stat(dir)
	if err := errors.Join(errOwn, errTheirs); err != nil || !os.SameFile(own, theirs) {
		return fault.New(fault.BadConfig, "the server that answers at conninfo is another than that of data_directory").
			WithDetail("It works in %s; data_directory is %s.", dir, o.dir())
	}
	return nil
}

// control reads pg_control.
func (o Own) control(ctx context.Context) (pg.Control, error) {
	return pg.ReadControl(ctx, o.Config.PgBindir, o.dir())
}

// tool is the path of one of PostgreSQL's programs.
func (o Own) tool(name string) (string, error) {
	return pg.FindTool(o.Config.PgBindir, o.dir(), name)
}

func (o Own) walPath(name string) string { return filepath.Join(o.dir(), "pg_wal", name) }
