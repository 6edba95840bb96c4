package failover

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// drillCase is a view, a fault, and what it leads to.
type drillCase struct {
	name  string
	view  func(t *testing.T) *View
	fault Fault
	lost  []cluster.NodeID
	node  cluster.NodeID // who takes writes then; zero: nobody
	after time.Duration
	lag   int64 // -1: nobody is promoted
	rule  string
	why   string
}

func nodes(ids ...cluster.NodeID) []cluster.NodeID { return ids }

func (c drillCase) run(t *testing.T) {
	t.Helper()
	v := c.view(t)
	before := *v.Snapshot()
	o := Drill(v, t0, c.fault, c.lost...)
	lag := int64(-1)
	if o.Lag != nil {
		lag = int64(*o.Lag)
	}
	if o.Node != c.node || o.Heals != (c.node != 0) || o.Rule != c.rule || !strings.Contains(o.Why, c.why) || lag != c.lag || (o.After-c.after).Abs() > 200*time.Millisecond {
		t.Errorf("%s: %s of %v\n got node %d, after %s, lag %d, %s: %s\nwant node %d, after %s, lag %d, %s: ...%s...", c.name, c.fault, c.lost,
			o.Node, o.After, lag, o.Rule, o.Why, c.node, c.after, c.lag, c.rule, c.why)
	}
	if v.Loss != nil || v.Group.Record != before.Group.Record || len(v.Peers) != len(before.Peers) || v.Local != before.Local {
		t.Errorf("%s: the drill changed the view", c.name)
	}
}

// TestDrillQuorum has the losses that a group of three or four may have. The lease
// lasts 5 s, an election of the leader 2 s at most, the bidding 300 ms.
func TestDrillQuorum(t *testing.T) {
	view := func(sets ...func(*View)) func(*testing.T) *View {
		return func(*testing.T) *View {
			v := outlookView()
			v.Group.Leader = 2
			report(1, func(r *Report) { r.Position.LSN = 130 })(v)
			for _, set := range sets {
				set(v)
			}
			return v
		}
	}
	changed := func(changes ...record.Change) func(*testing.T) *View {
		return func(t *testing.T) *View {
			v := view()(t)
			change(t, v, changes...)
			return v
		}
	}
	witness := settings(2, func(m *record.Member) { m.Witness = true })
	witnessNode := func(v *View) {
		v.Nodes = slices.Clone(v.Nodes)
		v.Nodes[1].Role = cluster.Witness
		report(2, func(r *Report) { r.Server, r.Role, r.Position = ServerNone, cluster.RoleUnknown, Position{} })(v)
	}
	noPriority := func(v *View) {
		fourth(v)
		settings(2, func(m *record.Member) { m.Priority = 0 })(v)
		report(2, func(r *Report) { r.Position.LSN = 120 })(v)
	}
	late := func(v *View) { v.Group.Record.MaximumLag, v.Group.Record.Lease.LSN = 10, 200 }
	for _, c := range []drillCase{
		{"the primary's server", view(), Crash, nodes(1), 2, 0, 30, "close", "node 2 has the most WAL of 2 bids"},
		{"the primary's host", view(), Gone, nodes(1), 2, 5 * time.Second, 30, "close", "node 2 has the most WAL of 2 bids"},
		{"the primary's host, which leads the group", view(func(v *View) { v.Group.Leader = 1 }), Gone, nodes(1), 2, 7 * time.Second, 30, "close", "node 2 has the most WAL"},
		{"this node has more", view(func(v *View) { v.Local.Position.LSN = 125 }), Crash, nodes(1), 3, 0, 5, "close", "node 3 has the most WAL"},
		{"a standby's server", view(), Crash, nodes(2), 1, 0, -1, "primary-holds", "node 1 goes on as the primary"},
		{"a standby's host", view(), Gone, nodes(3), 1, 0, -1, "primary-holds", "node 1 goes on as the primary"},
		{"two standbys' hosts", view(), Gone, nodes(2, 3), 0, 3500 * time.Millisecond, -1, "lease-ran-out", "1 of 3 voters would be left, and 2 have to agree: node 1 would stop taking writes"},
		{"two standbys' servers", view(), Crash, nodes(2, 3), 1, 0, -1, "primary-holds", "goes on"},
		{"the primary's host and another", view(), Gone, nodes(1, 3), 0, 0, -1, "", "1 of 3 voters would be left"},
		{"two hosts of four", view(fourth), Gone, nodes(1, 3), 0, 0, -1, "", "2 of 4 voters would be left, and 3 have to agree"},
		{"two servers of three", view(), Crash, nodes(1, 2), 3, 0, 30, "close", "node 3 has the most WAL of 1 bids"},
		{"all servers", view(), Crash, nodes(1, 2, 3), 0, 0, -1, "no-winner", "there is none"},
		{"a silent standby, which led the group: a crash is healed", view(silent(2)), Crash, nodes(1), 3, 2 * time.Second, 30, "close", "node 3 has the most WAL of 1 bids"},
		{"a silent standby: the loss of the host is not", view(silent(2)), Gone, nodes(1), 0, 0, -1, "", "1 of 3 voters would be left, and 2 have to agree; not heard of: node 2"},
		{"two and a witness", view(witness, witnessNode), Gone, nodes(1), 3, 5 * time.Second, 30, "close", "node 3 has the most WAL of 1 bids"},
		{"the witness", view(witness, witnessNode), Gone, nodes(2), 1, 0, -1, "primary-holds", "goes on"},
		{"the only standby beside a witness", view(witness, witnessNode), Crash, nodes(1, 3), 0, 0, -1, "no-winner", "there is none"},
		{"who is slow is waited for", view(func(v *View) { report(2, func(r *Report) { r.Position.LSN = 0 })(v) }), Crash, nodes(1), 3, 300 * time.Millisecond, 30, "close", "node 3 has the most WAL of 1 bids"},
		{"a server that does not run declines", view(func(v *View) { report(2, func(r *Report) { r.Server = ServerStopped })(v) }), Crash, nodes(1), 3, 0, 30, "close", "node 3 has the most WAL of 1 bids"},
		{"a member of the set with priority 0 has more", view(noPriority, syncSet("ANY 1 (2 3 4)")), Crash, nodes(1), 0, 0, -1, "no-winner", "node 2 may not be promoted and has more than node 3"},
		{"one with priority 0 outside the set has more", view(noPriority, syncSet("ANY 1 (3 4)")), Crash, nodes(1), 3, 0, 30, "close", "node 3 has the most WAL of 3 bids"},
		{"a member of the set is lost too", view(fourth, func(v *View) {
			v.Group.Record.SetMember(record.Member{Node: 5, RaftID: 5, Voter: true, Witness: true}, t0, 6)
		}, syncSet("ANY 1 (2 3)")), Crash, nodes(1, 3), 0, 0, -1, "no-winner", "an acknowledged commit may be on node 3 alone"},
		{"paused", changed(paused), Crash, nodes(1), 0, 0, -1, "", "the cluster is paused: works"},
		{"paused, and a standby is lost", changed(paused), Gone, nodes(2), 1, 0, -1, "primary-holds", "goes on"},
		{"paused, and all standbys are", changed(paused), Gone, nodes(2, 3), 1, 0, -1, "primary-holds", "goes on"},
		{"nobody holds the lease", changed(expired), Crash, nodes(2), 0, 0, -1, "", "nobody holds the lease"},
		{"the lag is above maximum_lag_on_failover", view(late), Crash, nodes(1), 0, 0, -1, "no-winner", "more than maximum_lag_on_failover (10 bytes) behind 0/C8"},
		{"not with a synchronous set", view(late, syncSet("ANY 1 (2 3)")), Crash, nodes(1), 2, 0, 100, "close", "node 2 has the most WAL"},
		{"this node is no member", view(func(v *View) { v.Group.Record = nil }), Crash, nodes(1), 0, 0, -1, "", "no member of the group"},
	} {
		c.run(t)
	}
}

// TestDrillSynchronous says what a set means for what can be lost, and for commits.
func TestDrillSynchronous(t *testing.T) {
	v := outlookView()
	v.Policy.SyncTimeout = 10 * time.Second
	if o := Drill(v, t0, Crash, 1); o.Kept || !o.Promoted {
		t.Errorf("without a set: %+v", o)
	}
	syncSet("ANY 1 (2 3)")(v)
	if o := Drill(v, t0, Crash, 1); !o.Kept || o.Node != 2 || len(o.Sets) != 1 {
		t.Errorf("with a set: %+v", o)
	}
	if o := Drill(v, t0, Crash, 2); strings.Contains(o.Why, "wait") {
		t.Errorf("one of two is left: %s", o.Why)
	}
	if o := Drill(v, t0, Crash, 2, 3); !strings.Contains(o.Why, "commits would wait for up to 10s (synchronous_standby_timeout)") {
		t.Errorf("nobody is left: %s", o.Why)
	}
	v.Group.Record.Sync.Mode = record.SyncStrict
	if o := Drill(v, t0, Crash, 2, 3); !strings.Contains(o.Why, "0 of 1 needed members of the synchronous set are left and synchronous_mode is strict") {
		t.Errorf("nobody is left, strict: %s", o.Why)
	}
	syncSet("", "ANY 1 (2 3)")(v)
	if o := Drill(v, t0, Crash, 1); o.Kept {
		t.Error("the empty set may be in force still, and nothing is said to be lost")
	}
}

// TestDrillVisibility has what becomes of a cluster without a quorum. One that went
// silent is lost 5 s after the look that had just succeeded: three more of a
// second each after the first.
func TestDrillVisibility(t *testing.T) {
	three := `
n1 primary says=0s lsn=130 ok=0s
n2 standby upstream=1 self
n3 standby upstream=1 says=0s lsn=110`
	two := `
n1 primary says=0s lsn=130 ok=0s
n2 standby upstream=1 self`
	places := `
n1 primary loc=rome says=0s lsn=130 ok=0s
n2 standby upstream=1 loc=oslo self
n3 standby upstream=1 loc=rome says=0s`
	cascade := `
n1 primary says=0s lsn=130 ok=0s
n2 standby upstream=1 self
n3 standby upstream=2 says=0s`
	view := func(text string) func(*testing.T) *View {
		return func(t *testing.T) *View { return parseView(t, text) }
	}
	const noticed = 5 * time.Second
	for _, c := range []drillCase{
		{"the primary's server", view(three), Crash, nodes(1), 3, 0, 20, "promote", "this node is the best candidate at 0/6E"},
		{"the primary's host", view(three), Gone, nodes(1), 3, noticed + 200*time.Millisecond, 20, "promote", "(2 of 2 visible)"},
		{"a standby's host", view(three), Gone, nodes(3), 1, 0, -1, "primary-steady", "node 1 goes on as the primary"},
		{"the best standby with it", view(three), Gone, nodes(1, 3), 0, 0, -1, "wait-minority", "node 2: 1 of 2 nodes that followed node 1 are visible"},
		{"the server of the best standby with it", view(three), Crash, nodes(1, 3), 2, 0, 30, "promote", "(2 of 2 visible)"},
		{"two nodes", view(two), Crash, nodes(1), 2, 0, 30, "promote", "(1 of 1 visible)"},
		{"two nodes, the host", view(two), Gone, nodes(1), 2, noticed + 200*time.Millisecond, 30, "promote", "(1 of 1 visible)"},
		{"two nodes, the standby", view(two), Gone, nodes(2), 1, 0, -1, "primary-steady", "goes on"},
		{"both", view(two), Gone, nodes(1, 2), 0, 0, -1, "", "no standby's daemon that was heard of is left"},
		{"the primary's location", view(places), Gone, nodes(1, 3), 0, 0, -1, "wait-location", `no node in the primary's location "rome" is visible`},
		{"the primary alone", view(places), Gone, nodes(1), 2, noticed + 200*time.Millisecond, 30, "promote", "(2 of 2 visible)"},
		{"paused", view("\npolicy paused" + three + " paused"), Crash, nodes(1), 0, 0, -1, "paused", "failover is paused"},
		{"manual here", view("\npolicy manual" + three), Crash, nodes(1), 3, 0, 20, "promote", "best candidate"},
		{"manual everywhere", view("\npolicy manual" + three + " manual"), Crash, nodes(1), 0, 0, -1, "upstream-lost-is-manual", "failover is manual on this node"},
		{"priority 0", view(three + " prio=0"), Crash, nodes(1), 2, 0, 30, "promote", "best candidate"},
		{"failover_delay", view("\npolicy failover-delay" + three), Crash, nodes(1), 3, 10 * time.Second, 20, "promote", "best candidate"},
		{"promote_delay", view("\npolicy promote-delay" + three), Crash, nodes(1), 3, 10 * time.Second, 20, "promote", "best candidate"},
		{"a validation that agrees", view("\npolicy validate" + three), Crash, nodes(1), 3, 0, 20, "promote", "best candidate"},
		{"the upstream of another", view(cascade), Gone, nodes(2), 1, 0, -1, "primary-steady", "goes on as the primary; node 3 would be pointed to another upstream"},
		{"no primary", view("\nn1 primary says=0s server=crashed\nn2 standby upstream=1 self"), Crash, nodes(2), 0, 0, -1, "", "no server is seen to take writes now"},
		{"a silent witness", view(two + "\nn3 witness upstream=1"), Crash, nodes(1), 0, 0, -1, "wait-minority", "1 of 2 nodes that followed node 1 are visible"},
	} {
		c.run(t)
	}
}

// TestDrills asks about every node, both ways, every location and every pair.
func TestDrills(t *testing.T) {
	v := outlookView()
	v.Nodes = slices.Clone(v.Nodes)
	for i, place := range []string{"rome", "oslo", "oslo"} {
		v.Nodes[i].Location = place
	}
	v.Nodes[2].Role, v.Nodes[2].Conninfo = cluster.Witness, cluster.DaemonConninfo("n3", 7433)
	var got []string
	for _, o := range Drills(v, t0, true) {
		text := string(o.Fault) + o.Location
		for _, id := range o.Lost {
			text += string(rune('0' + id))
		}
		got = append(got, text)
	}
	if want := "crash1 gone1 crash2 gone2 gone3 gonerome1 goneoslo23 gone12 gone13 gone23"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
	if n := len(Drills(v, t0, false)); n != 7 {
		t.Errorf("%d without the pairs", n)
	}
}

// TestDrillOfAnyView draws views at random: no drill fails, none promotes who is
// lost or may not be promoted, and none changes the view.
func TestDrillOfAnyView(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	promoted := 0
	for range 200 {
		v := randomView(rng)
		v.Peers[2] = Peer{At: t0, Report: Report{Node: 2, Server: ServerRunning, Role: cluster.Primary}}
		lost := []cluster.NodeID{2}
		if rng.IntN(2) == 0 {
			lost = append(lost, cluster.NodeID(1+rng.IntN(5)))
		}
		o := Drill(v, t0, []Fault{Crash, Gone}[rng.IntN(2)], lost...)
		if o.Why == "" || o.Heals != (o.Node != 0) || slices.Contains(lost, o.Node) {
			t.Fatalf("%+v", o)
		}
		if o.Promoted {
			promoted++
			if n, _ := cluster.Find(v.Nodes, o.Node); n.Role != cluster.Standby {
				t.Fatalf("%s was promoted: %+v", n.Role, o)
			}
		}
	}
	if promoted < 20 {
		t.Errorf("only %d of the views led to a promotion: the test says little", promoted)
	}
}
