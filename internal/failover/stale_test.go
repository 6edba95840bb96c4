package failover

import (
	"testing"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// TestAnswerBeforeTheRecord says that a record that is behind what the leader has
// answered is not believed: it tells of a lease without a limit in a term that is over.
func TestAnswerBeforeTheRecord(t *testing.T) {
	v := holderView()
	change(t, v, paused, unpaused)
	v.Local.Role = cluster.Standby
	regrant := record.Regrant{Term: 1, Node: 1, Incarnation: "i1", TTL: 5 * time.Second}
	v.Observe(Asked{regrant}, t0)
	v.Observe(Answered{Change: regrant}, t0)
	v.Observe(GroupSeen{Group{Record: v.Group.Record.Clone()}}, t0)
	if MayWrite(v, t0.Add(time.Hour)) {
		t.Error("the lease of the term before has no limit")
	}
	rec := v.Group.Record.Clone()
	rec.Apply(regrant, t0, 10)
	rec.Lease.State = record.Held
	v.Observe(GroupSeen{Group{Record: rec}}, t0.Add(time.Second))
	if !MayWrite(v, t0.Add(3*time.Second)) || MayWrite(v, t0.Add(4*time.Second)) {
		t.Error("the lease of the new term does not count from when it was asked for")
	}
}
