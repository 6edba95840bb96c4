package daemon

import (
	"log/slog"
	"testing"
	"time"

	"repmgr/internal/conf"
	"repmgr/internal/failover"
	"repmgr/internal/quorum"
	"repmgr/internal/record"
)

// A daemon that pauses the cluster in order to end must not lift that pause
// itself: its next renewal would make the lease a timed one that nobody guards.
func TestLeavingDaemonKeepsItsPause(t *testing.T) {
	for _, leaving := range []bool{false, true} {
		d := &Daemon{cfg: &conf.Config{NodeID: 1}, log: slog.New(slog.DiscardHandler)}
		d.quorum = &group{d: d, waiting: map[uint64]chan quorum.Answer{}}
		d.loop.view = failover.New(1, failover.Policy{})
		d.loop.view.Group.Record = &record.Record{Rule: record.Quorum, Pause: record.Pause{On: true, Auto: true, By: d.pauser()}}
		d.leaving.Store(leaving)
		d.resumeOwnPause(t.Context(), time.Unix(1000, 0))
		d.group.Wait()
		if lifted := !d.loop.resumedAt.IsZero(); lifted == leaving {
			t.Errorf("leaving: %v, the pause is lifted: %v", leaving, lifted)
		}
	}
}
