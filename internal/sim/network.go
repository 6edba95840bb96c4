package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"repmgr/internal/cluster"
)

// traffic is who talks: a firewall may stop the daemons and let the servers through,
// or the other way round.
type traffic int

const (
	ofDaemons traffic = iota
	ofServers
)

// network is the links between the nodes. Each direction fails on its own.
type network struct {
	w     *World
	links [2][][]link
	rngs  [][]*rand.Rand // what the delays of a direction are drawn from
	delay time.Duration
	worse time.Duration // more delay, for a while
	loss  float64       // per cent
	twice float64
}

// link is one direction between two nodes, for one kind of traffic.
type link struct {
	cut   int      // how many faults hold it cut
	keeps bool     // its ends keep the connection, and what was sent comes when it is back
	held  []func() // that
}

// keptMost is how many messages a link that is cut keeps.
const keptMost = 200

func (n *network) build(w *World, count int) {
	n.w, n.delay = w, w.between(100*time.Microsecond, 10*time.Millisecond)
	for from := range count {
		n.rngs = append(n.rngs, nil)
		for to := range count {
			n.rngs[from] = append(n.rngs[from], w.stream(fmt.Sprintf("n%d to n%d", from+1, to+1)))
		}
		for t := range n.links {
			n.links[t] = append(n.links[t], make([]link, count))
		}
	}
	n.calm()
}

func (n *network) calm() { n.worse, n.loss, n.twice = 0, 0.1, 0.5 }

// heal makes every link whole; what was held is lost.
func (n *network) heal() {
	n.calm()
	for t := range n.links {
		for i := range n.links[t] {
			clear(n.links[t][i])
		}
	}
}

func (n *network) link(t traffic, from, to cluster.NodeID) *link { return &n.links[t][from-1][to-1] }

func (n *network) open(t traffic, from, to cluster.NodeID) bool {
	w := n.w
	return n.link(t, from, to).cut == 0 && !w.nodes[from-1].off && !w.nodes[to-1].off
}

// send carries something to another node: later, twice, out of order, or not at all.
// It happens to a process there; that of a server (nil) happens to the world.
func (n *network) send(from, to cluster.NodeID, p *process, deliver func()) {
	w, t, sender := n.w, ofServers, n.w.rng
	if p != nil {
		t = ofDaemons
		do := deliver
		deliver = func() { w.give(p, do) }
	}
	for copies := 1; copies > 0; copies-- {
		w.rng = n.rngs[from-1][to-1]
		lost, twice := w.chance(n.loss), w.chance(n.twice)
		late := n.delay/2 + time.Duration(w.rng.Int64N(int64(n.delay))) + time.Duration(w.rng.Float64()*2*float64(n.worse))
		if w.chance(1) {
			late += w.between(0, 500*time.Millisecond)
		}
		w.rng = sender
		switch {
		case lost:
			continue
		case !n.open(t, from, to):
			n.hold(t, from, to, deliver)
			continue
		case twice:
			copies++
		}
		w.after(nil, late, func() {
			if n.open(t, from, to) {
				deliver()
			} else {
				n.hold(t, from, to, deliver)
			}
		})
	}
}

// hold keeps what a link that is cut does not carry, if its ends keep the connection:
// TCP sends it again, until the other end has it.
func (n *network) hold(t traffic, from, to cluster.NodeID, deliver func()) {
	if l := n.link(t, from, to); l.cut > 0 && l.keeps && len(l.held) < keptMost && !n.w.nodes[from-1].off && !n.w.nodes[to-1].off {
		l.held = append(l.held, deliver)
	}
}

// set cuts links or opens them; faults may overlap.
func (n *network) set(kinds []traffic, links [][2]cluster.NodeID, by int, keeps bool) {
	for _, t := range kinds {
		for _, ends := range links {
			l := n.link(t, ends[0], ends[1])
			l.cut = max(0, l.cut+by)
			if by > 0 {
				l.keeps = keeps
			} else if l.cut == 0 {
				n.resend(l)
			}
		}
	}
}

// resend delivers what a link has kept, in order.
func (n *network) resend(l *link) {
	for i, deliver := range l.held {
		n.w.after(nil, n.delay+time.Duration(i)*10*time.Microsecond, deliver)
	}
	l.held = nil
}
