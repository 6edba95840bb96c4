package failover

import (
	"testing"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// regrant1 asks for a new timeline in the holder's term.
var regrant1 = record.Regrant{Term: 1, Node: 1, Incarnation: "d1", TTL: 5 * time.Second, Why: "its server was restarted"}

// TestStartable opens the gate to the holder alone, while its lease is sure and
// the restart is not overdue.
func TestStartable(t *testing.T) {
	stopped := func(v *View) { v.Local.State, v.Local.Role, v.Local.Since = ServerStopped, cluster.RoleUnknown, t0 }
	for name, c := range map[string]struct {
		view *View
		set  func(*View)
		want Gate
	}{
		"holder":          {holderView(), func(*View) {}, GatePrimary},
		"lease ran out":   {holderView(), func(v *View) { v.Tenure.Deadline = t0 }, GateReadOnly},
		"new timeline":    {holderView(), func(v *View) { v.Observe(Asked{regrant1}, t0) }, GateReadOnly},
		"no guard":        {holderView(), func(v *View) { v.Guard.Alive = false }, GateReadOnly},
		"crashed":         {holderView(), func(v *View) { v.Local.State = ServerCrashed }, GateReadOnly},
		"ended by daemon": {holderView(), func(v *View) { v.Local.Ended = true }, GateReadOnly},
		"overdue":         {holderView(), func(v *View) { v.Local.Since = t0.Add(-4 * time.Second) }, GateReadOnly},
		"giving up":       {holderView(), func(v *View) { v.Doing = GiveUp{Term: 1} }, GateWait},
		"starting":        {holderView(), func(v *View) { v.Doing = StartServer{} }, GateReadOnly},
		"coming back":     {holderView(), func(v *View) { v.Doing = Rejoin{Upstream: 2, Term: 2} }, GateReadOnly},
		"still running":   {holderView(), func(v *View) { v.Local.State = ServerRunning }, GateWait},
		"another holds":   {quorumView(), func(*View) {}, GateReadOnly},
		"no member":       {quorumView(), func(v *View) { v.Group.Record = nil }, GateReadOnly},
		"visibility":      {quorumView(), func(v *View) { v.Group = Group{}; v.Peers = nil }, GateAsItIs},
	} {
		stopped(c.view)
		c.set(c.view)
		if got, why := Startable(c.view); got != c.want {
			t.Errorf("%s: %q (%s), want %q", name, got, why, c.want)
		}
	}
}

// TestOpenedGateHasDeadline says that the guard limits a server from before it may
// start as the primary until it is seen to run, whatever an old look says of
// its directory.
func TestOpenedGateHasDeadline(t *testing.T) {
	v := holderView()
	v.Local.State, v.Local.Role = ServerStopped, cluster.RoleUnknown
	limited := func() bool { _, ok := Deadline(v); return ok }
	if limited() {
		t.Fatal("an armed server that is down needs no deadline")
	}
	old := v.Local
	v.Observe(Ordered{LetStart{}}, t0)
	if !limited() {
		t.Error("no deadline while the gate is being opened")
	}
	v.Observe(Done{Action: LetStart{}}, t0)
	v.Observe(LocalSeen{old}, t0)
	if !limited() || StandDown(v) {
		t.Error("an old look has taken the deadline away")
	}
	old.State, old.Role = ServerRunning, cluster.Standby
	v.Observe(LocalSeen{old}, t0)
	if limited() {
		t.Error("a server that runs read-only needs no deadline")
	}
}

// TestOpenedGateIsLeftAlone says that an opened directory is not armed again while
// the lease is sure, and is at once when it is not.
func TestOpenedGateIsLeftAlone(t *testing.T) {
	v := holderView()
	v.Local.State, v.Local.Role, v.Local.Sealed, v.Local.Since = ServerStopped, cluster.RoleUnknown, true, t0
	v.Observe(Ordered{LetStart{}}, t0)
	v.Observe(Done{Action: LetStart{}}, t0)
	if d := Decide(v, t0); d.Rule != "holder-grace" {
		t.Errorf("decided by %s: %s", d.Rule, d.Why)
	}
	v.Tenure.Deadline = t0
	if d := Decide(v, t0); d.Rule != "arm-stopped" {
		t.Errorf("without the lease, decided by %s: %s", d.Rule, d.Why)
	}
}
