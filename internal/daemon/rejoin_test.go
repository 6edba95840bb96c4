package daemon

import (
	"errors"
	"testing"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/record"
)

// TestARejoinForgetsTheSeal: what a server offered is forgotten before a rejoin changes
// it, on disk and by the brain. A rewound server that was judged by its old seal was taken for
// a diverged one, and made a standby again, for ever.
func TestARejoinForgetsTheSeal(t *testing.T) {
	var d *Daemon
	q := aGroup(t, func(of *Daemon) {
		d = of
		d.cfg.DataDirectory, d.incarnation = t.TempDir(), 1
		d.eyes.cfg.Store(d.cfg)
		d.loop, d.notifier, d.guardian = newLoopState(d), newNotifier(d), newGuardian(d)
		var err error
		if d.state, err = openStateDir(d.cfg.StateDir()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.state.close() })
		d.peers.memory.Nodes = []cluster.Node{{ID: 2, Name: "two", Role: cluster.Primary, Active: true, Conninfo: "host=/nonexistent user=x dbname=x"}}
	})
	d.quorum = q
	if err := q.found(t.Context(), "g", "s", record.Member{Node: 1, Name: "one"}); err != nil {
		t.Fatal(err)
	}
	seal := failover.Sealed{Group: "g", Vacancy: 7, Incarnation: "i", Timeline: 1, LSN: 500, Line: "1"}
	if err := q.keepSeal(seal); err != nil {
		t.Fatal(err)
	}
	q.mu.Lock()
	q.current = &record.Record{Group: "g", Rule: record.Quorum, Base: "1", Term: 2}
	q.mu.Unlock()
	err := d.rejoin(t.Context(), d.cfg, failover.Rejoin{Upstream: 2, Term: 2}) // it fails: there is no server
	if err == nil {
		t.Fatal("a directory with nothing in it was made a standby")
	}
	kept := q.sealed()
	if kept.LSN != 0 || kept.Incarnation != "" {
		t.Fatalf("after %v it is still sealed at %s", err, kept.LSN)
	}
	if old := (failover.Sealed{Group: "g", Vacancy: 6, LSN: 400}); q.keepSeal(old) == nil {
		t.Error("it was sealed for an older vacancy")
	}

	// The brain measures the server anew, and does not judge it by what it was.
	v := failover.New(1, failover.Policy{Automatic: true, MonitorInterval: time.Second, Rejoin: "rewind"})
	rec := record.New("g", "s", record.Member{Node: 2, RaftID: 2})
	for id := cluster.NodeID(1); id <= 3; id++ {
		rec.SetMember(record.Member{Node: id, RaftID: uint64(id), Voter: true, Priority: 100, Automatic: true}, time.Time{}, 1)
		v.Nodes = append(v.Nodes, cluster.Node{ID: id, Role: cluster.Standby, Upstream: 2, Active: true})
	}
	why := rec.Apply(record.Begin{Node: 2, Incarnation: "two", Line: "1", TTL: time.Second}, time.Time{}, 2) +
		rec.Apply(record.Regrant{Term: 1, Node: 2, Incarnation: "two", TTL: time.Second}, time.Time{}, 3) +
		rec.Apply(record.Promoted{Term: 2, Node: 2, Timeline: 2, Parent: 1, Fork: 400}, time.Time{}, 4)
	if why != "" {
		t.Fatal(errors.New(why))
	}
	now := bootTime()
	v.Observe(failover.GroupSeen{Group: failover.Group{Record: rec, RaftID: 1}}, now)
	v.Observe(failover.LocalSeen{Local: failover.Local{At: now, State: failover.ServerRunning, Role: cluster.Standby, Incarnation: "i", Sealed: true, Armed: true, Line: "1"}}, now)
	for _, c := range []struct {
		seal failover.Sealed
		want string
	}{{failover.Sealed{Group: "g", Vacancy: rec.Lease.Vacancy, Incarnation: "i", Timeline: 1, LSN: 500, Line: "1"}, "rejoin"}, {failover.Sealed{Group: "g", Vacancy: rec.Lease.Vacancy}, "measure"}} {
		v.Observe(failover.SealedAt{Sealed: c.seal}, now)
		if dec := failover.Decide(v, now); dec.Rule != c.want {
			t.Errorf("sealed at %s: %s: %s, want %s", c.seal.LSN, dec.Rule, dec.Why, c.want)
		}
	}
}
