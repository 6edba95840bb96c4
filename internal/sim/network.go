package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"repmgr/internal/cluster"
	"repmgr/internal/quorum"
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
	far   time.Duration // more between two locations
	worse time.Duration // more delay, for a while
	loss  float64       // per cent
	twice float64
	free  []*message // that have arrived
}

// link is one direction between two nodes, for one kind of traffic.
type link struct {
	cut   int        // how many faults hold it cut
	keeps bool       // its ends keep the connection, and what was sent comes when it is back
	held  []*message // that
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

// message is on its way from one node to another: to a daemon there, or it just happens.
type message struct {
	t        traffic
	from, to cluster.NodeID
	daemon   *daemon
	raft     *raftpb.Message // of the group, or what else there is to say
	say      func(*daemon)
	do       func()
	reply    reply // of a WAL receiver to its walsender, where it is neither
	again    bool  // it was held, and comes however the link is now
}

// arrive tells the daemon what the message says.
func (m *message) arrive() {
	if r := m.raft; r != nil {
		m.daemon.take(quorum.Frame{Group: "g", From: r.GetFrom(), To: r.GetTo(), Message: r})
		return
	}
	m.say(m.daemon)
}

// sent is a message on its way.
func (n *network) sent(m *message) *message {
	last := len(n.free) - 1
	if last < 0 {
		n.free, last = append(n.free, new(message)), 0
	}
	kept := n.free[last]
	n.free = n.free[:last]
	*kept = *m
	return kept
}

// arrived forgets a message that was delivered: the next one is made of it.
func (n *network) arrived(m *message) {
	*m = message{}
	n.free = append(n.free, m)
}

// send carries a message: later, twice, out of order, or not at all.
func (n *network) send(m message) {
	w, sender := n.w, n.w.rng
	for copies := 1; copies > 0; copies-- {
		w.rng = n.rngs[m.from-1][m.to-1]
		lost, twice := w.chance(n.loss), w.chance(n.twice)
		late := n.delay/2 + time.Duration(w.rng.Int64N(int64(n.delay))) + time.Duration(w.rng.Float64()*2*float64(n.worse))
		if w.chance(1) {
			late += w.between(0, 500*time.Millisecond)
		}
		if w.nodes[m.from-1].place != w.nodes[m.to-1].place {
			late += n.far
		}
		w.rng = sender
		switch {
		case lost:
			continue
		case !n.open(m.t, m.from, m.to):
			n.hold(&m)
			continue
		case twice:
			copies++
		}
		w.queue.push(w.now+late, event{rng: w.rng, sent: n.sent(&m)})
	}
}

// deliver has a message arrive: in the process that it is for, if that is there, and
// in one that is stopped when it goes on.
func (n *network) deliver(m *message) {
	if !m.again && !n.open(m.t, m.from, m.to) {
		n.hold(m)
		return
	}
	if m.daemon == nil {
		n.happen(m)
		return
	}
	switch p, w := &m.daemon.process, n.w; {
	case !p.up:
	case p.frozen > w.now:
		later := *m
		w.after(p, 0, later.arrive)
	default:
		w.by(p.rng, m.arrive)
	}
}

// happen does what a message is about that is for no daemon.
func (n *network) happen(m *message) {
	if m.do != nil {
		m.do()
		return
	}
	n.w.nodes[m.to-1].server.sends(&n.w.nodes[m.from-1].server, m.reply)
}

// hold keeps what a link that is cut does not carry, if its ends keep the connection:
// TCP sends it again, until the other end has it.
func (n *network) hold(m *message) {
	if l := n.link(m.t, m.from, m.to); l.cut > 0 && l.keeps && len(l.held) < keptMost && !n.w.nodes[m.from-1].off && !n.w.nodes[m.to-1].off {
		kept := *m
		kept.again = true
		l.held = append(l.held, &kept)
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
	for i, m := range l.held {
		n.w.queue.push(n.w.now+n.delay+time.Duration(i)*10*time.Microsecond, event{rng: n.w.rng, sent: m})
	}
	l.held = nil
}
