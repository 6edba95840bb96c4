package daemon

import (
	"io"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"repmgr/internal/conf"
	"repmgr/internal/host"
)

// A guard is never told that nothing limits the server after it was told the
// deadline that a promotion waits for, however the two cross on their way.
func TestGuardKnowsTheDeadlineOfAPromotion(t *testing.T) {
	d := &Daemon{log: slog.New(slog.NewTextHandler(io.Discard, nil)), cfg: &conf.Config{StateDirectory: t.TempDir(), DataDirectory: t.TempDir()}}
	d.eyes = newEyes(d)
	g, ctx := newGuardian(d), t.Context()
	held, err := g.ensure(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	t.Cleanup(func() { // a guard with a deadline ends for nobody
		if t.Failed() {
			_ = syscall.Kill(held.PID(), syscall.SIGKILL)
		}
	})
	g.hold(held)
	for n := range 3000 {
		g.want(true, 0, true)
		told := make(chan error, 1)
		go func() {
			_, err := g.tell(ctx, held, 0)
			told <- err
		}()
		g.want(true, host.BootTime()+time.Minute, false)
		if err := g.extendNow(ctx); err != nil {
			t.Fatal(err)
		}
		if err := <-told; err != nil {
			t.Fatal(err)
		}
		status, err := held.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if status.Deadline == 0 {
			t.Fatalf("round %d: the promotion is ordered, and the guard has no deadline", n)
		}
		if err := held.StandDown(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := held.End(ctx); err != nil {
		t.Error(err)
	}
}
