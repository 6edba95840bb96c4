package daemon

import (
	"log/slog"
	"testing"
	"time"

	"repmgr/internal/conf"
	"repmgr/internal/failover"
)

// TestDemotionBreaksOff says that what is under way when the server is to be ended is
// broken off: a promotion that goes on would find the server started again, read-only, and without a lease.
func TestDemotionBreaksOff(t *testing.T) {
	d := &Daemon{cfg: &conf.Config{NodeID: 1, DataDirectory: t.TempDir(), FailoverValidationCommand: "sleep 300"}, log: slog.New(slog.DiscardHandler), in: make(chan message, 10)}
	d.eyes, d.peers, d.notifier, d.guardian = newEyes(d), newPeers(d), newNotifier(d), newGuardian(d)
	d.quorum = &group{d: d}
	d.loop = newLoopState(d)
	var err error
	if d.state, err = openStateDir(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	defer d.state.close()
	under := failover.Validate{Lost: 2}
	d.order(t.Context(), under, bootTime())
	time.Sleep(100 * time.Millisecond)
	d.order(t.Context(), failover.Demote{Why: "its lease ran out"}, bootTime())
	for end := time.After(time.Minute); ; {
		select {
		case m := <-d.in:
			if f, ok := m.(finished); ok && f.action == under {
				if f.err == nil {
					t.Error("it was not broken off")
				}
				d.group.Wait()
				return
			}
		case <-end:
			t.Fatal("it goes on")
		}
	}
}
