package lab

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestPatroniServesAgain proves the yardstick of the benchmark and the chaos lab: a
// whole cluster whose primary's server dies serves its client again, and is whole again.
func TestPatroniServesAgain(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
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
	must(t, Wait(ctx, time.Minute, "a row", func() error {
		if c.Acknowledged() == 0 {
			return errors.New("none")
		}
		return nil
	}))
	c.Mark()
	must(t, first.Kill9(ctx))
	struck := time.Now()
	if err := c.Resumed(first, struck); err == nil {
		t.Error("resumed: got yes at once, want no, since every process of the server is gone")
	}
	must(t, Wait(ctx, time.Minute, "the client to be served again", func() error { return c.Resumed(first, struck) }))
	must(t, Wait(ctx, 2*time.Minute, "a whole cluster", func() error { return p.Whole(ctx, l) }))
}
