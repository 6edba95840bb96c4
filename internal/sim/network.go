package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"repmgr/internal/cluster"
)

// network is the links between the nodes. Each direction fails on its own.
type network struct {
	w     *World
	cut   [][]int        // how many faults hold it cut
	rngs  [][]*rand.Rand // what its delays are drawn from
	delay time.Duration
	worse time.Duration // more delay, for a while
	loss  float64       // per cent
	twice float64
}

func (n *network) build(w *World, count int) {
	n.w, n.delay = w, w.between(100*time.Microsecond, 10*time.Millisecond)
	for from := range count {
		n.cut, n.rngs = append(n.cut, make([]int, count)), append(n.rngs, nil)
		for to := range count {
			n.rngs[from] = append(n.rngs[from], w.stream(fmt.Sprintf("n%d to n%d", from+1, to+1)))
		}
	}
	n.calm()
}

func (n *network) calm() { n.worse, n.loss, n.twice = 0, 0.1, 0.5 }

func (n *network) open(from, to cluster.NodeID) bool {
	w := n.w
	return n.cut[from-1][to-1] == 0 && !w.nodes[from-1].off && !w.nodes[to-1].off
}

// send carries something to another node: later, twice, out of order, or not at all.
// It happens to a process there, if there is one, and else to the world.
func (n *network) send(from, to cluster.NodeID, p *process, deliver func()) {
	w := n.w
	sender := w.rng
	for copies := 1; copies > 0; copies-- {
		w.rng = n.rngs[from-1][to-1]
		lost, twice := w.chance(n.loss), w.chance(n.twice)
		late := n.delay/2 + time.Duration(w.rng.Int64N(int64(n.delay))) + n.worse
		if w.chance(1) {
			late += w.between(0, 500*time.Millisecond)
		}
		w.rng = sender
		if lost || !n.open(from, to) {
			continue
		}
		if twice {
			copies++
		}
		w.after(nil, late, func() {
			switch {
			case !n.open(from, to):
			case p == nil:
				deliver()
			default:
				w.give(p, deliver)
			}
		})
	}
}

// set cuts links or opens them; faults may overlap.
func (n *network) set(links [][2]cluster.NodeID, by int) {
	for _, l := range links {
		c := &n.cut[l[0]-1][l[1]-1]
		*c = max(0, *c+by)
	}
}
