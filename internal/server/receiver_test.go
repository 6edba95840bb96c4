package server

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"repmgr/internal/fault"
)

func (i *instance) receives(t testing.TB) bool {
	t.Helper()
	c, err := i.connect(within(t))
	check(t, err)
	defer hangUp(c)
	p, err := c.Progress(within(t))
	check(t, err)
	return p.Receiving
}

func (i *instance) interval(t testing.TB) time.Duration {
	t.Helper()
	c, err := i.connect(within(t))
	check(t, err)
	defer hangUp(c)
	now, err := i.retryIntervalIn(within(t), c)
	check(t, err)
	return now
}

func TestAReceiverThatIsHeldBack(t *testing.T) {
	t.Parallel()
	primary, standby := pair(t, "")
	until(t, "the standby streams", func() bool { return standby.receives(t) })
	before := standby.interval(t)

	var f *fault.Error
	if err := primary.HoldReceiver(within(t)); !errors.As(err, &f) || f.Code != fault.BadConfig || !strings.Contains(f.Msg, "no standby") {
		t.Errorf("a primary has a WAL receiver: %v", err)
	}
	// Replay that is paused cannot be seen to wait: nothing stays changed.
	standby.exec(t, "SELECT pg_wal_replay_pause()")
	primary.exec(t, "CREATE TABLE more AS SELECT 1 AS n")
	until(t, "replay is paused", func() bool { return standby.value(t, "SELECT pg_is_wal_replay_paused()") == "true" })
	ctx, cancel := context.WithCancel(within(t))
	done := make(chan error, 1)
	go func() { done <- standby.HoldReceiver(ctx) }()
	until(t, "the receiver is gone", func() bool { return !standby.receives(t) })
	time.AfterFunc(2*heldFor, cancel) // it would have seen enough by then
	if err := <-done; err == nil {
		t.Error("held, though replay is paused")
	}
	if now := standby.interval(t); now != before {
		t.Errorf("the interval is %s after a failure, was %s", now, before)
	}
	standby.exec(t, "SELECT pg_wal_replay_resume()")
	until(t, "the standby streams again", func() bool { return standby.receives(t) })

	held := func() {
		t.Helper()
		check(t, standby.HoldReceiver(within(t)))
		if now := standby.interval(t); standby.receives(t) || now != before+heldBack {
			t.Fatalf("receives: %v; the interval is %s, was %s", standby.receives(t), now, before)
		}
	}
	held()
	check(t, standby.Reload()) // lets the server try once more
	until(t, "a reload brings the receiver back", func() bool { return standby.receives(t) })
	held()
	flushed := primary.flushed(t)
	check(t, standby.ReleaseReceiver(within(t)))
	if now := standby.interval(t); now != before {
		t.Errorf("the interval is %s, was %s", now, before)
	}
	until(t, "what was written meanwhile", func() bool { return standby.received(t) >= flushed })
	check(t, standby.ReleaseReceiver(within(t))) // it runs already
}
