package server

import (
	"context"
	"errors"
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
	// namedWithin is how long the last look waits for a new process to say what it is.
	namedWithin = time.Second
)

// Seal stops a standby from receiving WAL, so that a restart does not change it,
// and returns the end of its WAL. It sets primary_conninfo to the empty string in
// postgresql.auto.conf, by its owner and not by ALTER SYSTEM (A27), reads it back
// on a new connection, and requires that no WAL receiver lives. Sealing again
// gives the same position, unless restore_command has brought in more (A4).
func (o Own) Seal(ctx context.Context) (Position, error) {
	c, err := o.Detach(ctx)
	if err != nil {
		return Position{}, err
	}
	defer hangUp(c)
	return o.Settle(ctx, c)
}

// Detach is the first half of Seal: nobody is asked for WAL any more, which was read
// back in the new session that is returned. Whoever calls it closes that.
func (o Own) Detach(ctx context.Context) (*pg.Conn, error) {
	if err := errors.Join(o.mustBeWhole(), o.emptyConninfo()); err != nil {
		return nil, err
	}
	if err := o.Reload(); err != nil {
		return nil, sealFault(err)
	}
	return o.connectSealed(ctx)
}

// Settle is the second half: it waits until no WAL receiver lives, and finds the
// end of the WAL. It asks for what is in shared memory, so that any session with
// the own server will do; in a new one the first question takes long.
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
	still, err := eachWhile(ctx, func() (bool, error) {
		p, err := c.Progress(ctx)
		if err != nil {
			return false, err
		}
		if p.Receiving || p.Received != before.Received || !p.InRecovery {
			return false, startedAgain()
		}
		return o.receiverGone(p)
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
	p, err := c.Progress(ctx)
	if err != nil || !p.InRecovery {
		return false, err
	}
	return o.receiverGone(p)
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
	start := time.Now()
	gone, err := eachWhile(ctx, func() (gone bool, err error) {
		if p, err = c.Progress(ctx); err != nil {
			return false, err
		}
		gone, err = o.receiverGone(p)
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

// receiverGone goes by what the server said, and looks for the process: one that
// is starting is not shown by the server yet, and a child forked a moment ago still
// bears its postmaster's title.
func (o Own) receiverGone(p pg.Progress) (bool, error) {
	if p.Receiving {
		return false, nil
	}
	all, err := host.Processes(o.dir())
	if err != nil {
		return false, err
	}
	member := map[int]bool{}
	for _, q := range all {
		member[q.PID] = true
	}
	for _, q := range all {
		unnamed := member[q.Parent] && !strings.HasPrefix(q.Title, "postgres:")
		if unnamed || receiverTitle.MatchString(q.Title) {
			return false, nil
		}
	}
	return true, nil
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
