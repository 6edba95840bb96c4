package failover

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"repmgr/internal/cluster"
)

// TestOneWinner lets the views of a whole cluster decide after the primary has
// crashed, each from records of its own that may be stale, with reports that
// arrive one by one: never are two nodes promoted, and somebody is as long as
// more than half of those who followed the primary are there.
func TestOneWinner(t *testing.T) {
	promotions := 0
	for seed := range uint64(3_000) {
		c := newElection(seed)
		for range 250 {
			c.step()
		}
		if len(c.promoted) > 1 {
			t.Fatalf("seed %d: nodes %v were promoted\n%s", seed, c.promoted, c.story)
		}
		promotions += len(c.promoted)
	}
	if promotions < 1_500 {
		t.Errorf("only %d of 3000 elections had a winner", promotions)
	}
}

// election is a cluster in one goroutine. Node 1 is the lost primary, whose
// daemon says so to everybody.
type election struct {
	rng      *rand.Rand
	now      time.Time
	views    map[cluster.NodeID]*View
	seq      uint64
	looked   map[cluster.NodeID]bool // made its last look, and nothing has changed since
	promoted []cluster.NodeID
	story    string
}

func newElection(seed uint64) *election {
	c := &election{rng: rand.New(rand.NewPCG(seed, 7)), now: t0, views: map[cluster.NodeID]*View{}, looked: map[cluster.NodeID]bool{}}
	size := cluster.NodeID(3 + c.rng.IntN(3))
	for id := cluster.NodeID(2); id <= size; id++ {
		v := New(id, Policy{Automatic: true, MonitorInterval: time.Second, ReconnectAttempts: 3, ReconnectInterval: time.Second, Consensus: true, ElectionRerun: time.Minute})
		v.Observe(NodesRead{c.records(id, size)}, c.now)
		v.Observe(LocalSeen{Local{At: c.now.Add(time.Millisecond), State: ServerRunning, Role: cluster.Standby,
			Position: Position{1, cluster.LSN(100 + c.rng.IntN(2))}}}, c.now)
		c.views[id] = v
	}
	for _, v := range c.views {
		v.Observe(PeerReported{Report: Report{Node: 1, Server: ServerCrashed}}, c.now)
		for id := range c.views {
			v.Observe(PeerReported{Report: c.report(id)}, c.now)
		}
	}
	return c
}

// records are what one node read lately: of another node they may be old.
func (c *election) records(self, size cluster.NodeID) []cluster.Node {
	nodes := []cluster.Node{{ID: 1, Role: cluster.Primary, Active: true, Priority: 100}}
	for id := cluster.NodeID(2); id <= size; id++ {
		n := cluster.Node{ID: id, Role: cluster.Standby, Active: true, Upstream: 1, Priority: 100}
		if id != self {
			n.Active = c.rng.IntN(4) > 0
			if c.rng.IntN(5) == 0 {
				n.Upstream = 2 + cluster.NodeID(c.rng.IntN(int(size)-1))
			}
		}
		nodes = append(nodes, n)
	}
	return nodes
}

func (c *election) report(id cluster.NodeID) Report {
	v := c.views[id]
	c.seq++
	r := Report{Node: id, Sequence: c.seq, Automatic: true, Priority: 100, Type: cluster.Standby, Server: v.Local.State, Role: v.Local.Role, Position: v.Local.Position, Upstream: 1}
	if v.Loss != nil {
		bid := v.Loss.Bid
		r.Bid = &bid
	}
	if v.Doing != nil {
		r.Deciding = Describe(v.Doing)
	}
	return r
}

// step lets one node, drawn at random, hear another's report or decide.
func (c *election) step() {
	c.now = c.now.Add(time.Duration(c.rng.IntN(3)) * time.Millisecond)
	if c.rng.IntN(12) == 0 { // news is late: somebody's patience may end meanwhile
		c.now = c.now.Add(400 * time.Millisecond)
	}
	ids := make([]cluster.NodeID, 0, len(c.views))
	for id := cluster.NodeID(2); len(ids) < len(c.views); id++ {
		ids = append(ids, id)
	}
	c.heartbeats(ids)
	id, other := ids[c.rng.IntN(len(ids))], ids[c.rng.IntN(len(ids))]
	v := c.views[id]
	v.Observe(PeerReported{Report: Report{Node: 1, Server: ServerCrashed}}, c.now)
	if c.rng.IntN(3) == 0 {
		v.Observe(PeerReported{Report: c.report(other)}, c.now)
		return
	}
	d := Decide(v, c.now)
	for _, a := range d.Actions {
		_, promotes := a.(Promote)
		if promotes && !c.looked[id] {
			c.lastLook(id, ids)
			return
		}
		v.Observe(Ordered{a}, c.now)
		c.story += fmt.Sprintf("node %d: %s: %s\n", id, d.Rule, d.Why)
		if promotes {
			c.promoted = append(c.promoted, id)
		}
	}
	c.looked[id] = false
}

// heartbeats bring each node's report to each other before the last one is no
// longer news: all can talk, if late.
func (c *election) heartbeats(ids []cluster.NodeID) {
	for _, id := range ids {
		for _, other := range ids {
			if c.now.Sub(c.views[id].Peers[other].At) > 1200*time.Millisecond {
				c.views[id].Observe(PeerReported{Report: c.report(other)}, c.now)
			}
		}
	}
}

// lastLook exchanges reports with everybody, as the daemon does before a
// promotion: each side hears the other.
func (c *election) lastLook(id cluster.NodeID, ids []cluster.NodeID) {
	for _, other := range ids {
		c.views[other].Observe(PeerReported{Report: c.report(id)}, c.now)
		c.views[id].Observe(PeerReported{Report: c.report(other)}, c.now)
	}
	c.looked[id] = true
}
