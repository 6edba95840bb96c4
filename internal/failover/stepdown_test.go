package failover

import (
	"strings"
	"testing"
	"time"

	"repmgr/internal/cluster"
)

// steppable is node 1, the primary of a paused cluster of three under the visibility rule,
// or node 2, one of its standbys.
func steppable(self cluster.NodeID, now time.Time) *View {
	v := New(self, Policy{Automatic: true, MonitorInterval: time.Second})
	v.Paused = true
	for id := cluster.NodeID(1); id <= 3; id++ {
		n := cluster.Node{ID: id, Role: cluster.Standby, Upstream: 1, Active: true, Priority: 100}
		r := Report{Node: id, Paused: true, Server: ServerRunning, Role: cluster.Standby, Receiving: true, Upstream: 1, Automatic: true}
		if id == 1 {
			n.Role, n.Upstream, r.Role, r.Receiving, r.Upstream = cluster.Primary, 0, cluster.Primary, false, 0
		}
		v.Nodes = append(v.Nodes, n)
		if id != self {
			v.Observe(PeerReported{Report: r}, now)
		}
	}
	v.Local = Local{At: now, State: ServerRunning, Role: cluster.Standby, Receiving: true}
	if self == 1 {
		v.Local.Role, v.Local.Receiving = cluster.Primary, false
	}
	return v
}

func TestWhyNotStep(t *testing.T) {
	now := time.Unix(1000, 0)
	report := func(id cluster.NodeID, f func(*Report)) func(*View) {
		return func(v *View) {
			p := v.Peers[id]
			f(&p.Report)
			v.Peers[id] = p
		}
	}
	for name, tt := range map[string]struct {
		self cluster.NodeID
		set  func(*View)
		says string // empty: it may begin
	}{
		"down":                       {1, func(*View) {}, ""},
		"down, a silent sibling":     {1, func(v *View) { delete(v.Peers, 3) }, ""},
		"down, from a standby":       {1, func(v *View) { v.Local.Role = cluster.Standby }, "is not the primary"},
		"down, stopped already":      {1, func(v *View) { v.Local.State = ServerStopped }, "is not the primary"},
		"down, a silent target":      {1, func(v *View) { delete(v.Peers, 2) }, "not heard of lately"},
		"down, target is down":       {1, report(2, func(r *Report) { r.Server = ServerCrashed }), "is crashed"},
		"down, target is a primary":  {1, report(2, func(r *Report) { r.Role = cluster.Primary }), "as primary"},
		"down, target is detached":   {1, report(2, func(r *Report) { r.Receiving = false }), "does not stream"},
		"down, target is cascaded":   {1, report(2, func(r *Report) { r.Upstream = 3 }), "does not stream"},
		"down, target is barred":     {1, report(2, func(r *Report) { r.Barred = "recovery_target is set" }), "recovery_target"},
		"down, not paused":           {1, func(v *View) { v.Paused = false }, "not paused on this node"},
		"down, target is not paused": {1, report(2, func(r *Report) { r.Paused = false }), "not paused on node 2"},
		"down, a sibling is not":     {1, report(3, func(r *Report) { r.Paused = false }), "not paused on node 3"},
		"down, at work":              {1, func(v *View) { v.Doing = Follow{Upstream: 2} }, "at work"},
		"down, twice":                {1, func(v *View) { v.RefusedBy, v.RefusedAt = 2, now }, "refuses this daemon"},
		"down, quorum":               {1, func(v *View) { v.Group.Known = true }, "quorum rule is in force"},
		"up":                         {2, func(*View) {}, ""},
		"up, a primary":              {2, func(v *View) { v.Local.Role = cluster.Primary }, "running as primary"},
		"up, follows another":        {2, func(v *View) { v.Nodes[1].Upstream = 3 }, "follows node 3"},
		"up, barred":                 {2, func(v *View) { v.Local.Barred = "recovery_target is set" }, "recovery_target"},
		"up, not paused":             {2, func(v *View) { v.Paused = false }, "not paused"},
		"up, the former one writes":  {2, report(1, func(r *Report) { r.Position.LSN = 501 }), "takes writes still"},
		"up, its last words":         {2, report(1, func(r *Report) { r.Position.LSN = 500 }), ""},
		"up, at work":                {2, func(v *View) { v.Doing = Follow{Upstream: 1} }, "at work"},
		"up, quorum":                 {2, func(v *View) { v.Group.Known = true }, "quorum rule is in force"},
	} {
		v := steppable(tt.self, now)
		tt.set(v)
		no := WhyNotStepDown(v, StepDown{To: 2}, now)
		if tt.self == 2 {
			no = WhyNotStepUp(v, StepUp{From: 1, End: 500}, now)
		}
		if (no.Why == "") != (tt.says == "") || !strings.Contains(no.Why, tt.says) || (no.Hint == "") != (no.Why == "") {
			t.Errorf("%s: %q, want %q, and a hint: %q", name, no.Why, tt.says, no.Hint)
		}
	}
}
