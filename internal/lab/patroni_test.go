package lab

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"
)

// TestPatroniServesAgain proves the yardstick of the benchmark and the chaos lab: a
// whole cluster whose primary's server dies serves its client again, and is whole again.
func TestPatroniServesAgain(t *testing.T) {
	t.Parallel()
	if os.Getenv("REPMGR_TEST_PEERS") == "" {
		t.Skip("SKIPPED, NOT TESTED HERE: another system's cluster takes minutes to start; REPMGR_TEST_PEERS=1 has it tested")
	}
	// Three programs in Python, and a primary, take minutes to start on a busy machine.
	ctx, cancel := context.WithTimeout(t.Context(), 5*testTimeout)
	defer cancel()
	p, err := FindPatroni(ctx)
	if err != nil {
		t.Skipf("SKIPPED, NOT TESTED HERE: %v", err)
	}
	l, err := p.Up(ctx, Options{Settings: map[string]string{"max_connections": "77"}}, map[string]any{"ttl": 20, "loop_wait": 1, "retry_timeout": 3})
	if errors.Is(err, ErrNamespaces) {
		t.Skipf("SKIPPED, NOT TESTED HERE: %v", err)
	}
	must(t, err)
	defer l.Close()
	first := l.Node(1)
	if got, err := first.SQL(ctx, "SHOW max_connections"); err != nil || got != "77" {
		t.Errorf("max_connections: got %s (%v), want 77", got, err)
	}
	must(t, p.Control(ctx, first, "list").Err())
	c, err := l.NewClient(ctx)
	must(t, err)
	defer c.Close()
	must(t, Wait(ctx, testTimeout, "a row", func() error {
		if c.Acknowledged() == 0 {
			return errors.New("none")
		}
		return nil
	}))
	c.Mark()
	if err := c.Resumed(first, time.Now()); err == nil {
		t.Error("resumed: got yes before the fault, want no, since the session is the one before it")
	}
	must(t, first.Kill9(ctx))
	struck := time.Now()
	must(t, Wait(ctx, testTimeout, "the client to be served again", func() error { return c.Resumed(first, struck) }))
	must(t, Wait(ctx, testTimeout, "a whole cluster", func() error { return p.Whole(ctx, l) }))
}
