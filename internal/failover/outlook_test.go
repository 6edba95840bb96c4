package failover

import (
	"strings"
	"testing"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// outlookView is node 3 of the healthy group of three, which gets along well.
func outlookView() *View {
	return viewOf(3, func(v *View) {
		v.Local.Role, v.Local.Receiving = cluster.Standby, true
		report(2, func(r *Report) { r.Position, r.Receiving = Position{1, 100}, true })(v)
	})
}

func report(id cluster.NodeID, set func(*Report)) func(*View) {
	return func(v *View) {
		p := v.Peers[id]
		set(&p.Report)
		v.Peers[id] = p
	}
}

func silent(ids ...cluster.NodeID) func(*View) {
	return func(v *View) {
		for _, id := range ids {
			p := v.Peers[id]
			p.At = t0.Add(-time.Minute)
			v.Peers[id] = p
		}
	}
}

func settings(id cluster.NodeID, set func(*record.Member)) func(*View) {
	return func(v *View) {
		for i := range v.Group.Record.Members {
			if m := &v.Group.Record.Members[i]; m.Node == id {
				set(m)
			}
		}
	}
}

func syncSet(sets ...record.Set) func(*View) {
	return func(v *View) { v.Group.Record.Sync = record.Sync{Mode: record.SyncOn, Sets: sets} }
}

// fourth adds a fourth voter, a standby that gets along well too.
func fourth(v *View) {
	v.Nodes = append(v.Nodes, cluster.Node{ID: 4, Role: cluster.Standby, Upstream: 1, Active: true, Priority: 100})
	v.Group.Record.SetMember(record.Member{Node: 4, RaftID: 4, Voter: true, Priority: 100, Automatic: true}, t0, 5)
	v.Peers[4] = Peer{At: t0, Report: Report{Node: 4, Server: ServerRunning, Role: cluster.Standby, Position: Position{1, 100}, Receiving: true}}
}

// TestOutlook has a view for each answer.
func TestOutlook(t *testing.T) {
	all := func(sets ...func(*View)) func(*View) {
		return func(v *View) {
			for _, set := range sets {
				set(v)
			}
		}
	}
	for _, tt := range []struct {
		name    string
		set     func(*View)
		changes []record.Change
		node    cluster.NodeID // who would be promoted; zero: it would not succeed
		why     string
	}{
		{"all is well, and both are needed", nil, nil, 2, "node 2 would be promoted; not without nodes 2 and 3"},
		{"the highest position wins", func(v *View) { v.Local.Position.LSN = 200 }, nil, 3, "node 3 would be promoted"},
		{"a fourth makes nobody needed, but for the majority of three", fourth, nil, 2, "not without nodes 2, 3 and 4"},
		{"a majority without the primary is not seen", silent(2), nil, 0, "1 of 3 voters would be left, and 2 have to agree; not heard of: node 2"},
		{"the primary's silence does not count", silent(1), nil, 2, "node 2 would be promoted"},
		{"nobody is eligible", all(settings(2, func(m *record.Member) { m.Priority = 0 }), settings(3, func(m *record.Member) { m.Automatic = false })), nil, 0,
			"no standby could be promoted: node 2: not eligible: priority 0; node 3: not eligible: failover=manual"},
		{"the only other standby is down", all(settings(3, func(m *record.Member) { m.Witness = true }), report(2, func(r *Report) { r.Server = ServerStopped })), nil, 0,
			"no standby could be promoted: the server of node 2 is stopped"},
		{"a server that takes writes is no standby", all(settings(3, func(m *record.Member) { m.Witness = true }), report(2, func(r *Report) { r.Role = cluster.Primary })), nil, 0,
			"the server of node 2 is no standby's"},
		{"all are too far behind", func(v *View) { v.Group.Record.MaximumLag, v.Group.Record.Lease.LSN = 10, 200 }, nil, 0, "more than maximum_lag_on_failover (10 bytes) behind 0/C8"},
		{"one is not", func(v *View) {
			v.Group.Record.MaximumLag, v.Group.Record.Lease.LSN, v.Local.Position.LSN = 10, 200, 195
		}, nil, 3, "node 3 would be promoted"},
		{"a synchronous set needs one who is silent", all(fourth, settings(4, func(m *record.Member) { m.Voter = false }), silent(4), syncSet("ANY 1 (2 4)")), nil, 0,
			"an acknowledged commit may be on node 4 alone, by the synchronous set ANY 1 (2 4)"},
		{"it needs one of them if two acknowledge", all(fourth, settings(4, func(m *record.Member) { m.Voter = false }), silent(4), syncSet("ANY 2 (2 4)")), nil, 2, "not without nodes 2 and 3"},
		{"a member has more than who could win", all(fourth, settings(2, func(m *record.Member) { m.Priority = 0 }), report(2, func(r *Report) { r.Position.LSN = 300 }), syncSet("ANY 2 (2 3 4)")), nil, 0,
			"node 2 may not be promoted and has more than node 3"},
		{"a paused cluster", nil, []record.Change{paused}, 0, "the cluster is paused: works"},
		{"a pause that was lifted", nil, []record.Change{paused, record.SetPause{}}, 0, "node 1 has not taken a timed lease since"},
		{"a failover under way", nil, []record.Change{expired}, 0, "nobody holds the lease: no eligible standby has bid in vacancy 1"},
		{"a grant", nil, granted, 0, "term 2 is granted to node 2"},
		{"no member", func(v *View) { v.Group.Record = nil }, nil, 0, "no member of the group"},
		{"a standby that left the cluster's history", all(settings(3, func(m *record.Member) { m.Witness = true }), report(2, func(r *Report) { r.Position, r.Receiving = Position{7, 100}, false })), nil, 0,
			"node 2: diverged"},
	} {
		v := outlookView()
		change(t, v, tt.changes...)
		if tt.set != nil {
			tt.set(v)
		}
		got := Outlook(v, t0)
		if got.Node != tt.node || got.WouldSucceed != (tt.node != 0) || !strings.Contains(got.Why, tt.why) {
			t.Errorf("%s: got %+v, want node %d: %q", tt.name, got, tt.node, tt.why)
		}
	}
}

// TestRuleInForce has a view for each reason.
func TestRuleInForce(t *testing.T) {
	visible := func(set func(*View)) func(*View) {
		return func(v *View) {
			v.Group.Record, v.Group.Known = nil, false
			set(v)
		}
	}
	for why, set := range map[string]func(*View){
		"quorum: 3 voters": func(*View) {},
		"quorum: this node is no member of the group yet, and waits":                                   func(v *View) { v.Group.Record = nil },
		"visibility: failover='manual' on this node":                                                   visible(func(v *View) { v.Policy.Automatic, v.Policy.Quorum = false, false }),
		"visibility: promotion_rule='visibility' on this node":                                         visible(func(v *View) { v.Policy.Quorum = false }),
		"visibility: fewer than three voters: 2 registered":                                            visible(func(v *View) { v.Nodes = v.Nodes[:2] }),
		"visibility: fewer than three voters: of 3 registered nodes, 2 run a daemon that was heard of": visible(silent(3)),
		"visibility: the quorum rule begins when this node is no longer paused":                        visible(func(v *View) { v.Paused = true }),
		"visibility: three voters run, and the quorum rule is about to begin":                          visible(func(*View) {}),
	} {
		v := quorumView()
		set(v)
		rule, reason, hint := RuleInForce(v, t0)
		if got := string(rule) + ": " + reason; got != why {
			t.Errorf("got %q, want %q", got, why)
		}
		if fewer := strings.Contains(why, "fewer"); fewer != strings.Contains(hint, "witness") {
			t.Errorf("%s: the hint is %q", why, hint)
		}
	}
}
