package server

import (
	"context"
	"errors"
	"maps"
	"os"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/pg"
)

const (
	// receiverGrace is how long a WAL receiver may take to go by itself before it
	// is told to: a startup process that waits cannot end it (A2).
	receiverGrace = 50 * time.Millisecond
	// settle is the least time between the setting being in force and the last look
	// for a WAL receiver: one may have been asked for just before.
	settle = 10 * time.Millisecond
	// silentAfter is when a process without a name that sleeps is a connection of which
	// nothing comes: a WAL receiver says what it is before it waits for anything.
	silentAfter = time.Second
	// namedWithin is how long the last look waits for a new process to say what it is.
	namedWithin = 2 * time.Second
)

// Seal stops a standby from receiving WAL, so that a restart does not change it,
// and returns the end of its WAL. It sets primary_conninfo to the empty string in
// postgresql.auto.conf, by its owner and not by ALTER SYSTEM (A27), reads it back
// by a new connection, and requires that no WAL receiver lives. Sealing again
// gives the same position, unless restore_command has brought in more (A4).
func (o Own) Seal(ctx context.Context) (Position, error) {
	c, err := o.Detach(ctx, nil)
	if err != nil {
		return Position{}, err
	}
	defer hangUp(c)
	return o.Settle(ctx, c)
}

// Ready opens a session for a sealing to come, and asks in it what will be asked
// then: a session takes many times as long for a first question as for the next.
func (o Own) Ready(ctx context.Context) (*pg.Conn, error) {
	c, err := o.connect(ctx)
	if err != nil {
		return nil, err
	}
	_, err = o.conninfoInForce(ctx, c)
	if err == nil {
		_, err = c.Progress(ctx)
	}
	if err != nil {
		hangUp(c)
		return nil, err
	}
	return c, nil
}

// Detach is the first half of Seal: nobody is asked for WAL any more, which was read
// back in the session that is returned. Whoever calls it closes that. It is ready, if
// that is of use: from Ready, and nil for none.
func (o Own) Detach(ctx context.Context, ready *pg.Conn) (*pg.Conn, error) {
	err := errors.Join(o.mustBeWhole(), o.emptyConninfo())
	if err == nil {
		if err = o.Reload(); err != nil {
			err = sealFault(err)
		}
	}
	if ready != nil {
		if err == nil && o.detachedIn(ctx, ready) {
			return ready, nil
		}
		hangUp(ready)
	}
	if err != nil {
		return nil, err
	}
	return o.connectSealed(ctx)
}

// readyWithin is how long a session that was there before may take to see the setting.
const readyWithin = 500 * time.Millisecond

// detachedIn reads the empty setting back in a session that was there before, which sees it
// once the postmaster has it. The postmaster tells all its children, the startup process
// perhaps after the session (SignalChildren in postmaster.c), so that this one is told directly. Where
// it cannot be a new connection is made: one that is answered was taken when all of them had been told.
func (o Own) detachedIn(ctx context.Context, c *pg.Conn) bool {
	told, _ := host.ReloadStartup(o.dir())
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	in, err := eachWhile(ctx, func() (bool, error) {
		value, err := o.conninfoInForce(ctx, c)
		return value == "", err
	})
	return in && err == nil && (told || c.Renewed(ctx) == nil)
}

// Settle is the second half: it waits until no WAL receiver lives, and finds the
// end of the WAL.
func (o Own) Settle(ctx context.Context, c *pg.Conn) (Position, error) {
	since := time.Now()
	p, err := o.endReceiver(ctx, c)
	if err != nil {
		return Position{}, err
	}
	if !p.InRecovery {
		return Position{}, notAStandby()
	}
	// No function tells the end of the WAL: the received position is none after a
	// restart, or falls back to the start of a segment (A5). So it is read from where
	// replay stands (A6).
	if p.Replayed == 0 {
		return Position{}, fault.New(fault.FollowFail, "the server names no replayed position")
	}
	at, err := o.end(ctx, p.Timeline, p.Replayed)
	if err != nil {
		return Position{}, err
	}
	if rest := settle - time.Since(since); rest > 0 && !pause(ctx, rest) {
		return Position{}, sealFault(ctx.Err())
	}
	return at, o.stillEnded(ctx, c, p)
}

// stillEnded is the last look: no WAL receiver lives, and none has brought anything
// since. A process that nothing is known of yet, as any new session is for a
// moment, is waited for; a receiver is not.
func (o Own) stillEnded(ctx context.Context, c *pg.Conn, before pg.Progress) error {
	ctx, cancel := context.WithTimeout(ctx, namedWithin)
	defer cancel()
	look := receivers{own: o}
	still, err := eachWhile(ctx, func() (bool, error) {
		p, err := c.Progress(ctx)
		if err != nil {
			return false, err
		}
		if p.Receiving || p.Received != before.Received || !p.InRecovery {
			return false, startedAgain()
		}
		return look.gone(p)
	})
	if err == nil && !still {
		err = startedAgain()
	}
	return err
}

func startedAgain() *fault.Error {
	return fault.New(fault.FollowFail, "the server is not sealed: a WAL receiver was started again").WithHint("Try again.")
}

// Sealed tells whether a running standby receives no WAL and will not: the empty
// primary_conninfo is in force, and no WAL receiver lives.
func (o Own) Sealed(ctx context.Context) (bool, error) {
	c, err := o.connect(ctx)
	if err != nil {
		return false, err
	}
	defer hangUp(c)
	value, err := o.conninfoInForce(ctx, c)
	if err != nil || value != "" {
		return false, err
	}
	limit, cancel := context.WithTimeout(ctx, namedWithin)
	defer cancel()
	look, sealed := receivers{own: o}, false
	if _, err = eachWhile(limit, func() (bool, error) {
		p, err := c.Progress(ctx)
		if err != nil {
			return false, err
		}
		gone, err := look.gone(p)
		sealed = gone && p.InRecovery
		return gone || p.Receiving || !p.InRecovery, err
	}); err != nil {
		return false, err
	}
	return sealed, nil
}

// emptyConninfo sets primary_conninfo to the empty string, unless the file says
// so already.
func (o Own) emptyConninfo() error {
	if detached, err := o.Detached(); err == nil && detached {
		return nil
	}
	return pg.WriteEmptySetting(o.dir(), signalled)
}

// connectSealed opens sessions until one starts out with the empty setting: the
// postmaster has signalled all its children by then. A server that has just been
// started refuses sessions for a while.
func (o Own) connectSealed(ctx context.Context) (*pg.Conn, error) {
	var last error
	var c *pg.Conn
	ok, err := eachWhile(ctx, func() (bool, error) {
		conn, err := o.connect(ctx)
		if err != nil {
			if last = err; pg.Code(err) == "57P03" { // starting up
				return false, nil
			}
			return false, err
		}
		value, err := o.conninfoInForce(ctx, conn)
		if err == nil && value == "" {
			c = conn
			return true, nil
		}
		hangUp(conn)
		last = fault.New(fault.FollowFail, "primary_conninfo is not empty yet")
		return false, err
	})
	switch {
	case err != nil:
		return nil, sealFault(err)
	case !ok:
		return nil, sealFault(errors.Join(ctx.Err(), last))
	}
	return c, nil
}

// conninfoInForce is the primary_conninfo that a session of the own server sees.
func (o Own) conninfoInForce(ctx context.Context, c *pg.Conn) (string, error) {
	var value string
	err := o.ask(ctx, c, "pg_catalog.current_setting('primary_conninfo')", &value)
	return value, err
}

// endReceiver waits until no WAL receiver lives. One that stays is told to go:
// with the empty setting in force it does not come back (A3).
func (o Own) endReceiver(ctx context.Context, c *pg.Conn) (p pg.Progress, err error) {
	start, look := time.Now(), receivers{own: o}
	gone, err := eachWhile(ctx, func() (gone bool, err error) {
		if p, err = c.Progress(ctx); err != nil {
			return false, err
		}
		gone, err = look.gone(p)
		if err == nil && !gone && time.Since(start) >= receiverGrace {
			err = o.terminateReceivers()
		}
		return gone, err
	})
	switch {
	case err != nil:
		return p, sealFault(err)
	case !gone:
		return p, sealFault(ctx.Err()).WithDetail("A WAL receiver has outlived SIGTERM.")
	}
	return p, nil
}

var receiverTitle = regexp.MustCompile(`^postgres: (.*: )?walreceiver\b`)

// receivers is a look for a WAL receiver. It goes by what the server says, and by the
// processes: one that is starting is not shown by the server yet, and a child forked a
// moment ago still bears its postmaster's title. Those that the first look has
// found without a name are waited for, unless they have a client (host.HasClient), and not those that
// come after them: there is no end to these where clients look for a new primary.
type receivers struct {
	own     Own
	looked  bool
	unnamed map[int]uint64 // when they were started, by process id
}

// gone reports whether none was there at the first look. One that is there begins the
// look anew.
func (r *receivers) gone(p pg.Progress) (bool, error) {
	if p.Receiving {
		r.looked = false
		return false, nil
	}
	all, err := host.Processes(r.own.dir())
	if err != nil {
		return false, err
	}
	member, unnamed := map[int]bool{}, map[int]uint64{}
	for _, q := range all {
		member[q.PID] = true
	}
	for _, q := range all {
		if receiverTitle.MatchString(q.Title) {
			r.looked = false
			return false, nil
		}
		silent := q.Sleeps && q.Age() > silentAfter
		if member[q.Parent] && !strings.HasPrefix(q.Title, "postgres:") && !silent && !host.HasClient(q) {
			unnamed[q.PID] = q.Started
		}
	}
	if !r.looked {
		r.looked, r.unnamed = true, unnamed
	}
	maps.DeleteFunc(r.unnamed, func(pid int, started uint64) bool { return unnamed[pid] != started })
	return len(r.unnamed) == 0, nil
}

// terminateReceivers sends SIGTERM to the WAL receiver; pg_terminate_backend does
// not, and SIGKILL would restart the server (A3). It flushes what it has written.
func (o Own) terminateReceivers() error {
	all, err := host.Processes(o.dir())
	if err != nil {
		return err
	}
	for _, p := range all {
		if !receiverTitle.MatchString(p.Title) {
			continue
		}
		if err := o.terminate(p); err != nil {
			return fault.Wrap(err, fault.SysFailure, "end of the WAL receiver, process %d", p.PID).
				WithHint("The daemon must run as the operating system user of its server.")
		}
	}
	return nil
}

// terminate sends SIGTERM to a process that still is the one that was found.
func (o Own) terminate(p host.Process) error {
	h, err := host.OpenProcess(p.PID)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer h.Close()
	all, err := host.Processes(o.dir())
	if err != nil {
		return err
	}
	for _, q := range all {
		if q.PID == p.PID && q.Started == p.Started {
			if err := h.Signal(unix.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
				return err
			}
		}
	}
	return nil
}

func notAStandby() *fault.Error {
	return fault.New(fault.FollowFail, "the server is no standby").WithHint("Only a standby is sealed; a primary is fenced.")
}

func sealFault(err error) *fault.Error {
	return fault.Wrap(err, fault.FollowFail, "the server could not be sealed")
}
