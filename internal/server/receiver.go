package server

import (
	"context"
	"fmt"
	"time"

	"repmgr/internal/fault"
	"repmgr/internal/pg"
)

const (
	retryInterval = "wal_retrieve_retry_interval"
	// heldBack is what repmgr 5 adds to wal_retrieve_retry_interval, so that either
	// program undoes what the other has done.
	heldBack = 24 * time.Hour
	// heldWhen is what the startup process waits for when it asks nobody for WAL until the
	// interval is over (manual, "Wait Events of Type Timeout").
	heldWhen = "RecoveryRetrieveRetryInterval"
	// heldFor is for how long it must be seen to wait: it may be in the wait of before, which
	// the new setting ends.
	heldFor = time.Second
	// undoWithin bounds what is undone after a failure.
	undoWithin = 30 * time.Second
)

// HoldReceiver ends the WAL receiver of a standby and keeps it from being started again for
// a day, as repmgr 5 does it: by wal_retrieve_retry_interval. A reload of the
// configuration, or a restart, lets the server try once more; it is no seal. What was
// changed is undone if ctx ends first.
func (o Own) HoldReceiver(ctx context.Context) error {
	c, interval, err := o.standbySession(ctx)
	if err != nil {
		return err
	}
	defer hangUp(c)
	if interval >= heldBack {
		return o.endHeld(ctx, c)
	}
	if err = o.setRetryInterval(ctx, interval+heldBack); err == nil {
		err = o.endHeld(ctx, c)
	}
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWithin)
		defer cancel()
		if errUndo := o.setRetryInterval(undo, interval); errUndo != nil {
			return fmt.Errorf("%w; %s could not be set back to %s: %w", err, retryInterval, interval, errUndo)
		}
	}
	return err
}

// endHeld ends each WAL receiver until the startup process waits for the interval. The
// first failure after a long time is tried again at once (WaitForWALToBecomeAvailable in
// xlogrecovery.c), so that one end is not enough.
func (o Own) endHeld(ctx context.Context, c *pg.Conn) error {
	var since time.Time
	waits := ""
	held, err := inTime(ctx, func() (bool, error) {
		p, err := c.Progress(ctx)
		if err != nil {
			return false, err
		}
		if !p.InRecovery {
			return false, noStandbyToHold()
		}
		if waits, err = o.startupWaits(ctx, c); err != nil {
			return false, err
		}
		if p.Receiving {
			err = o.terminateReceivers()
		}
		if p.Receiving || waits != heldWhen {
			since = time.Time{}
			return false, err
		}
		if since.IsZero() {
			since = time.Now()
		}
		return time.Since(since) >= heldFor, nil
	})
	if err == nil && !held {
		err = fault.New(fault.BadConfig, "the WAL receiver could not be stopped for good").
			WithDetail("The startup process is expected to wait in %s; its wait event is %q. A server whose replay is paused or delayed, or that has WAL to replay, asks for WAL when it is done.", heldWhen, waits).
			WithHint("resume replay, or let it catch up, and try again")
	}
	return err
}

// inTime is eachWhile to which a question that the end of ctx breaks off is no failure of
// its own.
func inTime(ctx context.Context, done func() (bool, error)) (bool, error) {
	ok, err := eachWhile(ctx, done)
	if ctx.Err() != nil {
		return ok, nil
	}
	return ok, err
}

// startupWaits is the wait event of the startup process; "none" if it works.
func (o Own) startupWaits(ctx context.Context, c *pg.Conn) (string, error) {
	var event *string
	err := o.ask(ctx, c, "(SELECT pg_catalog.max(COALESCE(wait_event, 'none')) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'startup')", &event)
	if err == nil && event == nil {
		err = fault.New(fault.BadConfig, "what the server's startup process does may not be seen").
			WithHint("as a superuser: GRANT pg_monitor TO the role of conninfo")
	}
	if err != nil {
		return "", err
	}
	return *event, nil
}

// ReleaseReceiver undoes HoldReceiver, and waits until a WAL receiver runs.
func (o Own) ReleaseReceiver(ctx context.Context) error {
	c, interval, err := o.standbySession(ctx)
	if err != nil {
		return err
	}
	defer hangUp(c)
	if interval >= heldBack {
		if err := o.setRetryInterval(ctx, interval-heldBack); err != nil {
			return err
		}
	}
	runs, err := inTime(ctx, func() (bool, error) {
		p, err := c.Progress(ctx)
		if err == nil && !p.InRecovery {
			err = noStandbyToHold()
		}
		return p.Receiving, err
	})
	if err == nil && !runs {
		err = fault.New(fault.BadConfig, "no WAL receiver runs yet").
			WithDetail("Nothing keeps it from being started any more.").
			WithHint("see this server's log; its upstream may not answer, or primary_conninfo is not set")
	}
	return err
}

// standbySession opens a session with the own server, which must be a standby, and reads the interval.
func (o Own) standbySession(ctx context.Context) (*pg.Conn, time.Duration, error) {
	c, err := o.connect(ctx)
	if err != nil {
		return nil, 0, fault.Wrap(err, fault.DBConn, "the local server cannot be connected to").WithHint("start it; check conninfo")
	}
	interval, err := o.retryIntervalIn(ctx, c)
	if err == nil {
		var p pg.Progress
		if p, err = c.Progress(ctx); err == nil && !p.InRecovery {
			err = noStandbyToHold()
		}
	}
	if err != nil {
		hangUp(c)
		return nil, 0, err
	}
	return c, interval, nil
}

func (o Own) retryIntervalIn(ctx context.Context, c *pg.Conn) (time.Duration, error) {
	var ms int64
	err := o.ask(ctx, c, "(SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = '"+retryInterval+"')", &ms)
	return time.Duration(ms) * time.Millisecond, err
}

// setRetryInterval sets the interval as the file's owner (A27), and waits until a new session has
// it: the postmaster has told all its children by then.
func (o Own) setRetryInterval(ctx context.Context, interval time.Duration) error {
	if err := pg.WriteSetting(o.dir(), retryInterval, fmt.Sprintf("%dms", interval.Milliseconds())); err != nil {
		return err
	}
	if err := o.Reload(); err != nil {
		return err
	}
	in, err := inTime(ctx, func() (bool, error) {
		c, err := o.connect(ctx)
		if err != nil {
			return false, err
		}
		defer hangUp(c)
		now, err := o.retryIntervalIn(ctx, c)
		return now == interval, err
	})
	if err == nil && !in {
		err = fault.New(fault.BadConfig, "%s was not taken over", retryInterval).
			WithDetail("It is set to %s in postgresql.auto.conf, and the server was told to read its configuration.", interval).
			WithHint("see this server's log; an option of its command line would come before the file")
	}
	return err
}

func noStandbyToHold() *fault.Error {
	return fault.New(fault.BadConfig, "this server is no standby").WithHint("only a standby has a WAL receiver")
}
