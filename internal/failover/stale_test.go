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

// behind leaves a view with the record from before the quorum rule began; node 3
// says that it is in force, in that term.
func behind(term uint64) func(*View) {
	return func(v *View) {
		v.Group.Record, v.Group.Known = record.New("g", "", record.Member{Node: 1}), false
		p := v.Peers[3]
		p.Report.Group, p.Report.PromotionRule, p.Report.Term = "g", record.Quorum, term
		v.Peers[3] = p
	}
}

// TestRecordBehind says that a member whose disk stalled when the quorum rule began
// does not decide by the other one, where a majority might grant the lease to
// somebody else; and that the word of a record that is behind its own counts for nothing.
func TestRecordBehind(t *testing.T) {
	v := quorumView()
	behind(1)(v)
	v.Peers[1] = Peer{At: t0, Since: t0, Report: Report{Node: 1, Server: ServerCrashed, Group: "g", PromotionRule: record.Quorum, Term: 1}}
	for at := t0; at.Before(t0.Add(5 * time.Second)); at = at.Add(500 * time.Millisecond) {
		for id, p := range v.Peers {
			p.At = at
			v.Peers[id] = p
		}
		if d := Decide(v, at); d.Rule != "record-behind" || d.Actions != nil {
			t.Fatalf("decided by %s: %+v", d.Rule, d.Actions)
		}
	}
	behind(0)(v)
	delete(v.Peers, 1)
	if d := Decide(v, t0); d.Rule == "record-behind" {
		t.Error("a record that is no newer was believed")
	}
}
