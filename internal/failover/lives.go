package failover

import (
	"time"

	"repmgr/internal/cluster"
)

// Lives knows, for each node, which life of a daemon speaks for it: two that run
// under one node id, with a copied state directory or with one each, must not both
// be listened to (safety notes, B8). A life is known by the number that a daemon
// draws when it starts.
type Lives struct{ nodes map[cluster.NodeID]*lives }

type lives struct {
	current uint64 // is listened to; zero: none yet
	all     map[uint64]*life
}

type life struct {
	born, first, last time.Time // by its own word; when it was heard here first, and last
	alive             time.Time // it ran at that time for sure: what is heard last may have been on its way for long
	over              bool      // another has taken its place
}

// Word is a report of a life of a node's daemon. What a daemon had said when it ended may
// arrive long after its next life was heard: the kernel goes on sending it. So a word counts
// as said at no later time than is sure.
type Word struct {
	Life  uint64
	Age   time.Duration // of the life, by its own word
	Since time.Time     // it was said after that: when it was asked for, or the connection was made that it came over
}

// How two lives at one time are told from one after the other.
const (
	overlap  = time.Second      // both ran for so long: one that is being stopped may do so for a moment
	present  = 2 * time.Second  // who was heard within this time, and is connected, has not ended
	bereaved = 10 * time.Second // the younger of two is listened to when the elder was silent for so long
	forgets  = time.Minute      // lives that are not heard any more
)

// Voice is what becomes of a life that spoke.
type Voice int

// The voices.
const (
	VoiceHeard   Voice = iota // it speaks for its node
	VoiceDoubted              // it does, but another was heard beside it: whether both still run is to be found out
	VoiceWaits                // another one does, and may have ended a moment ago; or this one has, and its word comes late
	VoiceRefused              // another, older one does: two daemons run under one node id
)

// Hear notes a word of a node's daemon, and returns what becomes of its life. connected says
// whether a life holds a connection here. Who is not VoiceHeard has to speak over a new
// connection the next time: a life that is over cannot, and so never counts beside another.
func (l *Lives) Hear(node cluster.NodeID, w Word, connected func(uint64) bool, now time.Time) Voice {
	if l.nodes == nil {
		l.nodes = map[cluster.NodeID]*lives{}
	}
	n := l.nodes[node]
	if n == nil {
		n = &lives{all: map[uint64]*life{}}
		l.nodes[node] = n
	}
	own := n.all[w.Life]
	if own == nil {
		own = &life{first: now, born: now.Add(-w.Age)}
		n.all[w.Life] = own
	}
	own.last, own.alive = now, later(own.alive, w.Since)
	if born := now.Add(-w.Age); born.Before(own.born) {
		own.born = born // the first word had been on its way for longer
	}
	for other, o := range n.all {
		if other != n.current && now.Sub(o.last) > forgets {
			delete(n.all, other)
		}
	}
	return n.judge(w.Life, own, connected, now)
}

func (n *lives) judge(id uint64, own *life, connected func(uint64) bool, now time.Time) Voice {
	for other, o := range n.all {
		if other == id || now.Sub(o.last) > bereaved || !own.beside(o) {
			continue
		}
		if o.born.Before(own.born) {
			if n.current == id {
				n.current, o.over = other, false
			}
			return VoiceRefused
		}
		if n.current == other {
			n.current, own.over = id, false
		}
	}
	switch was := n.all[n.current]; {
	case n.current == id, was == nil:
	case !own.alive.After(was.first): // what is over comes late; if it is not, it can show that
		return VoiceWaits
	case now.Sub(was.last) < present && connected(n.current), own.over && now.Sub(was.last) < bereaved:
		return VoiceWaits
	default:
		was.over = true
	}
	n.current, own.over = id, false
	for other, o := range n.all {
		if other != id && now.Sub(o.last) <= bereaved && !o.last.Before(own.first) {
			return VoiceDoubted
		}
	}
	return VoiceHeard
}

// beside reports whether two lives ran at one time: each for sure when both had been heard.
func (a *life) beside(b *life) bool {
	until := a.alive
	if b.alive.Before(until) {
		until = b.alive
	}
	return until.Sub(later(a.first, b.first)) >= overlap
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Speaks reports whether a life is the one that speaks for its node.
func (l *Lives) Speaks(node cluster.NodeID, id uint64) bool {
	n := l.nodes[node]
	return n != nil && n.current == id
}
