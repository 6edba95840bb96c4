package daemon

import (
	"testing"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/record"
)

// The session for the next sealing is seen to once for each request for a switchover, when that
// is made and not when the lease was handed over, and each time the server begins to stream.
func TestWhatSummonsTheReadySession(t *testing.T) {
	d := &Daemon{summons: make(chan struct{}, 1)}
	d.loop.view = failover.New(2, failover.Policy{})
	summoned := func() bool {
		d.summonReady()
		select {
		case <-d.summons:
			return true
		default:
			return false
		}
	}
	if summoned() {
		t.Error("nothing is known, and it was summoned")
	}
	rec := &record.Record{}
	d.loop.view.Group.Record = rec
	for _, step := range []struct {
		now       record.Switchover
		receiving bool
		want      bool
	}{
		{record.Switchover{}, false, false},
		{record.Switchover{}, true, true},
		{record.Switchover{}, true, false},
		{record.Switchover{Number: 1, To: 2}, true, true},
		{record.Switchover{Number: 1, To: 2}, true, false}, // under way
		{record.Switchover{Number: 1}, false, false},       // over, and sealed
		{record.Switchover{Number: 1}, true, true},         // it follows the new primary
		{record.Switchover{Number: 2, To: 3}, true, true},  // the others are sealed, in synchronous mode
	} {
		rec.Switchover = step.now
		d.loop.view.Local = failover.Local{State: failover.ServerRunning, Role: cluster.Standby, Receiving: step.receiving}
		if got := summoned(); got != step.want {
			t.Errorf("%+v, receiving: %v: %v, want %v", step.now, step.receiving, got, step.want)
		}
	}
}
