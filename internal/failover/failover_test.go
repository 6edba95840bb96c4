package failover

import (
	"math/rand/v2"
	"testing"
	"time"

	"repmgr/internal/cluster"
)

// TestReportsOutOfOrder keeps what is newest: a report that was overtaken on its
// way must not bring back a state that is over.
func TestReportsOutOfOrder(t *testing.T) {
	v := New(1, Policy{})
	v.Observe(PeerReported{Report: Report{Node: 2, Incarnation: 7, Sequence: 5, Server: ServerCrashed}}, t0)
	v.Observe(PeerReported{Report: Report{Node: 2, Incarnation: 7, Sequence: 4, Server: ServerRunning}}, t0.Add(time.Second))
	if got := v.Peers[2].Report.Server; got != ServerCrashed {
		t.Errorf("an older report replaced a newer one: server is %s", got)
	}
	v.Observe(PeerReported{Report: Report{Node: 2, Incarnation: 8, Sequence: 1, Server: ServerRunning}}, t0.Add(2*time.Second))
	if got := v.Peers[2].Report.Server; got != ServerRunning {
		t.Errorf("a restarted daemon's first report was refused: server is %s", got)
	}
	v.Observe(PeerReported{Report: Report{Node: 1, Server: ServerCrashed}}, t0)
	if _, ok := v.Peers[1]; ok {
		t.Error("a node took a report of its own for a peer's")
	}
}

// TestLostAfterAttempts counts failures and time: an upstream is lost after one
// failure and reconnect_attempts more, spread over the reconnect interval.
func TestLostAfterAttempts(t *testing.T) {
	p := Policy{MonitorInterval: time.Second, ReconnectAttempts: 3, ReconnectInterval: time.Second}
	v := New(2, p)
	v.Observe(NodesRead{[]cluster.Node{{ID: 1, Role: cluster.Primary, Active: true}, {ID: 2, Role: cluster.Standby, Active: true, Upstream: 1}}}, t0)
	lost := func(at time.Duration) bool {
		v.Observe(Probed{Node: 1}, t0.Add(at))
		return newFacts(v, t0.Add(at)).lost(1)
	}
	for _, step := range []struct {
		at   time.Duration
		want bool
	}{{0, false}, {0, false}, {time.Second, false}, {2 * time.Second, true}} {
		if got := lost(step.at); got != step.want {
			t.Errorf("after a failure at %s: lost is %v, want %v", step.at, got, step.want)
		}
	}
	v.Observe(Probed{Node: 1, OK: true}, t0.Add(3*time.Second))
	if newFacts(v, t0.Add(3*time.Second)).lost(1) {
		t.Error("an upstream that answered is still lost")
	}
	quick := New(2, p)
	for range 20 {
		quick.Observe(Probed{Node: 1}, t0)
	}
	if newFacts(quick, t0).lost(1) {
		t.Error("many failures within no time made an upstream lost")
	}
}

// TestLostDuringAPause has a primary be away while failover is paused: the end of the pause alone
// does not make it lost.
func TestLostDuringAPause(t *testing.T) {
	v := New(2, Policy{MonitorInterval: time.Second, ReconnectAttempts: 3, ReconnectInterval: time.Second})
	v.Observe(NodesRead{[]cluster.Node{{ID: 1, Role: cluster.Primary, Active: true}, {ID: 2, Role: cluster.Standby, Active: true, Upstream: 1}}}, t0)
	v.Observe(PauseSet{Paused: true}, t0)
	lost := func(seconds int) bool { return newFacts(v, t0.Add(time.Duration(seconds)*time.Second)).lost(1) }
	for s := range 10 {
		v.Observe(Probed{Node: 1}, t0.Add(time.Duration(s)*time.Second))
	}
	if !lost(9) {
		t.Fatal("it is not lost while failover is paused")
	}
	v.Observe(PauseSet{}, t0.Add(9*time.Second))
	for s := 9; s <= 12; s++ {
		if s > 9 {
			v.Observe(Probed{Node: 1}, t0.Add(time.Duration(s)*time.Second))
		}
		if got := lost(s); got != (s == 12) {
			t.Errorf("%d s after the end of the pause lost is %v", s-9, got)
		}
	}
}

// TestDeadByItsDaemonDuringAPause says that what a daemon has seen of its server in a pause
// makes it lost to nobody: operators may have started it since.
func TestDeadByItsDaemonDuringAPause(t *testing.T) {
	down := Local{At: t0, State: ServerCrashed}
	ends := map[string]func(v *View){
		"the pause ends":                     func(v *View) { v.Observe(PauseSet{}, t0.Add(1)) },
		"a switchover is called off":         func(v *View) { v.Observe(Done{Action: StepDown{To: 2}, Err: "no"}, t0.Add(1)) },
		"a switchover is done":               func(v *View) { v.Observe(Done{Action: StepDown{To: 2}}, t0.Add(1)) },
		"and a look from before says so too": func(v *View) { v.Observe(PauseSet{}, t0.Add(1)); v.Observe(LocalSeen{down}, t0.Add(2)) },
	}
	for name, end := range ends {
		primary, standby := New(1, Policy{}), New(2, Policy{})
		dead := func(paused bool) bool {
			r := Tell(primary, t0)
			r.Paused = paused
			standby.Observe(PeerReported{Report: r}, t0)
			return newFacts(standby, t0).dead(1)
		}
		primary.Observe(PauseSet{Paused: true}, t0)
		primary.Observe(LocalSeen{down}, t0)
		if dead(true) || !dead(false) {
			t.Fatalf("%s: before it, dead is %v where its daemon is paused, %v where it is not", name, dead(true), dead(false))
		}
		if end(primary); dead(false) {
			t.Errorf("%s: the server is dead before it was looked at again", name)
		}
		primary.Observe(LocalSeen{Local{At: t0.Add(3), State: ServerCrashed}}, t0.Add(3))
		if !dead(false) {
			t.Errorf("%s: the server is not dead though it was looked at again", name)
		}
	}
}

// TestBidOutlivesLook says that a bid keeps the numbers it was placed with, and
// that a failed promotion marks it.
func TestBidOutlivesLook(t *testing.T) {
	v := New(2, Policy{})
	bid := Bid{Lost: 1, Position: Position{1, 100}}
	v.Observe(Ordered{PlaceBid{bid}}, t0)
	v.Observe(LocalSeen{Local{Position: Position{1, 200}}}, t0)
	if v.Loss.Bid != bid {
		t.Errorf("the bid moved: %+v", v.Loss.Bid)
	}
	v.Observe(Ordered{Promote{Lost: 1}}, t0)
	v.Observe(Done{Action: Promote{Lost: 1}, Err: "no"}, t0)
	if !v.Loss.Bid.Failed || v.Doing != nil || !v.Loss.TriedAt.Equal(t0) {
		t.Errorf("a failed promotion left %+v, doing %v", v.Loss, v.Doing)
	}
}

// TestPromotesOnlyWhoMay draws views at random: Decide never panics, and never
// promotes a node that may not be promoted, nor without a visible majority.
func TestPromotesOnlyWhoMay(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	promoted := 0
	for range 200_000 {
		v := randomView(rng)
		d := Decide(v, t0)
		for _, a := range d.Actions {
			if _, ok := a.(Promote); !ok {
				continue
			}
			promoted++
			f := newFacts(v, t0)
			visible, shared := f.electorate()
			if v.Paused || !v.Policy.Automatic || f.self.Priority <= 0 || f.self.Role != cluster.Standby ||
				v.Local.State != ServerRunning || v.Local.Role == cluster.Primary || !f.lost(f.upstream) || shared > 1 && visible*2 <= shared {
				t.Fatalf("promoted by %s: %+v", d.Why, v)
			}
		}
	}
	if promoted < 100 {
		t.Fatalf("only %d of the views led to a promotion: the test says little", promoted)
	}
}

func randomView(rng *rand.Rand) *View {
	chance := func(percent int) bool { return rng.IntN(100) < percent }
	age := func() time.Time { return t0.Add(-time.Duration(rng.IntN(4000)) * time.Millisecond) }
	v := New(1, Policy{Automatic: chance(90), MonitorInterval: time.Second, Consensus: chance(50), ElectionRerun: time.Minute})
	v.Paused = chance(5)
	states := []ServerState{ServerRunning, ServerRunning, ServerRunning, ServerCrashed, ServerStarting, ServerStopped}
	for id := cluster.NodeID(1); id <= 5; id++ {
		n := cluster.Node{ID: id, Active: chance(95), Priority: 100 * min(1, rng.IntN(6)), Role: cluster.Standby, Upstream: 2}
		if id == 2 {
			n.Role, n.Upstream = cluster.Primary, 0
		} else if chance(10) {
			n.Role = cluster.Witness
		}
		v.Nodes = append(v.Nodes, n)
		bid := Bid{Lost: 2, Position: Position{1, cluster.LSN(rng.IntN(3))}, Failed: chance(10)}
		role := cluster.Role(1 + rng.IntN(2))
		if id == 1 {
			v.Local = Local{At: t0, State: states[rng.IntN(len(states))], Role: role, Position: bid.Position, Receiving: chance(20)}
			if chance(80) {
				v.Loss = &Loss{Bid: bid, BidAt: age()}
			}
			continue
		}
		v.Peers[id] = Peer{At: age(), Since: age(), Report: Report{Node: id, Automatic: true, Priority: n.Priority, Server: states[rng.IntN(len(states))], Role: role, Position: bid.Position, Bid: &bid}}
		v.Probes[id] = Probe{At: age(), OK: chance(30), LostAt: age(), Role: role}
	}
	return v
}

// TestSetbackSpacesOrders says that an order that failed is given again, later
// each time, and that success forgets the failures.
func TestSetbackSpacesOrders(t *testing.T) {
	v := New(3, Policy{Automatic: true, MonitorInterval: time.Second})
	v.Observe(NodesRead{[]cluster.Node{{ID: 1, Role: cluster.Primary}, {ID: 2, Role: cluster.Standby, Upstream: 1, Active: true},
		{ID: 3, Role: cluster.Standby, Upstream: 1, Active: true}}}, t0)
	v.Observe(LocalSeen{Local{At: t0, State: ServerRunning, Role: cluster.Standby}}, t0)
	order := Follow{Upstream: 2}
	due := func(at time.Duration) bool {
		v.Observe(PeerReported{Report: Report{Node: 2, Server: ServerRunning, Role: cluster.Primary, Position: Position{2, 1}}}, t0.Add(at))
		d := Decide(v, t0.Add(at))
		return len(d.Actions) == 1 && d.Actions[0] == order
	}
	if !due(0) {
		t.Fatalf("nothing to follow: %+v", Decide(v, t0))
	}
	for i, pause := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
		v.Observe(Done{Action: order, Err: "no"}, t0)
		if due(pause*time.Second-1) || !due(pause*time.Second) {
			t.Errorf("after failure %d the order is not due after %d s", i+1, pause)
		}
	}
	v.Observe(Done{Action: order}, t0)
	if v.Setback != (Setback{}) || v.Nodes[2].Upstream != 2 {
		t.Errorf("after a success: setback %+v, upstream %d", v.Setback, v.Nodes[2].Upstream)
	}
}

// TestReceiverDelaysNoFailover says that a WAL receiver that cannot be stopped
// is left, and that one that was stopped runs again once the node follows.
func TestReceiverDelaysNoFailover(t *testing.T) {
	order := StopReceiver{Lost: 1}
	lost := func() *View {
		v := New(2, Policy{Automatic: true, MonitorInterval: time.Second, StopReceivers: true})
		v.Observe(NodesRead{[]cluster.Node{{ID: 1, Role: cluster.Primary, Active: true}, {ID: 2, Role: cluster.Standby, Active: true, Upstream: 1, Priority: 1}}}, t0)
		v.Observe(LocalSeen{Local{At: t0, State: ServerRunning, Role: cluster.Standby}}, t0)
		v.Observe(PeerReported{Report: Report{Node: 1, Server: ServerCrashed}}, t0)
		return v
	}
	v := lost()
	if d := Decide(v, t0); len(d.Actions) != 1 || d.Actions[0] != Action(order) {
		t.Fatalf("decided %+v", d)
	}
	v.Observe(Done{Action: order, Err: "no"}, t0)
	v.Observe(LocalSeen{Local{At: t0.Add(1), State: ServerRunning, Role: cluster.Standby}}, t0)
	if d := Decide(v, t0); d.Rule != "bid" {
		t.Errorf("after the stop failed: %+v", d)
	}
	v = lost()
	v.Observe(Done{Action: order}, t0)
	if !v.Local.Held || Decide(v, t0).Rule != "wait-position" {
		t.Errorf("after the stop: %+v, held %v", Decide(v, t0), v.Local.Held)
	}
	v.Observe(Done{Action: Follow{Upstream: 3}}, t0)
	if v.Local.Held {
		t.Error("held after the node follows another one")
	}
}

// TestOutdated: what a look has told since counts more than the last word of a daemon that has
// gone silent.
func TestOutdated(t *testing.T) {
	v := parseView(t, "\nn1 primary says=5ms server=crashed\nn2 standby self upstream=1 bid=1:100 placed=2s\nn3 standby upstream=1 says=1s silent bid=1:90\nn4 standby upstream=1 says=200ms bid=1:90")
	v.Probes[3] = Probe{At: t0.Add(-100 * time.Millisecond), OK: true, LastOK: t0.Add(-100 * time.Millisecond), Role: cluster.Primary, Position: Position{2, 120}}
	if d := Decide(v, t0); d.Rule != "follow-new-primary" {
		t.Errorf("%s: %s", d.Rule, d.Why)
	}
}
