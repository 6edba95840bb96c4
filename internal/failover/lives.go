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
	over              bool      // another has taken its place
}

// How two lives at one time are told from one after the other.
const (
	overlap  = time.Second      // both were heard for so long: what was on its way when one ended arrives sooner
	present  = 2 * time.Second  // who was heard within this time, and is connected, has not ended
	bereaved = 10 * time.Second // the younger of two is listened to when the elder was silent for so long
	forgets  = time.Minute      // lives that are not heard any more
)

// Voice is what becomes of a life that spoke.
type Voice int

// The voices.
const (
	VoiceHeard   Voice = iota // it speaks for its node
	VoiceWaits                // another one does, and may have ended a moment ago
	VoiceRefused              // another, older one does: two daemons run under one node id
)

// Hear notes that a life of a node's daemon has spoken, age after it started, and
// returns what becomes of it. connected says whether a life holds a connection here.
func (l *Lives) Hear(node cluster.NodeID, id uint64, age time.Duration, connected func(uint64) bool, now time.Time) Voice {
	if l.nodes == nil {
		l.nodes = map[cluster.NodeID]*lives{}
	}
	n := l.nodes[node]
	if n == nil {
		n = &lives{all: map[uint64]*life{}}
		l.nodes[node] = n
	}
	own := n.all[id]
	if own == nil {
		own = &life{first: now, born: now.Add(-age)}
		n.all[id] = own
	}
	own.last = now
	for other, o := range n.all {
		if other != n.current && now.Sub(o.last) > forgets {
			delete(n.all, other)
		}
	}
	return n.judge(id, own, connected, now)
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
	case now.Sub(was.last) < present && connected(n.current), own.over && now.Sub(was.last) < bereaved:
		return VoiceWaits
	default:
		was.over = true
	}
	n.current, own.over = id, false
	return VoiceHeard
}

// beside reports whether two lives were heard at one time.
func (a *life) beside(b *life) bool {
	first, last := a.first, a.last
	if b.first.After(first) {
		first = b.first
	}
	if b.last.Before(last) {
		last = b.last
	}
	return last.Sub(first) >= overlap
}

// Speaks reports whether a life is the one that speaks for its node.
func (l *Lives) Speaks(node cluster.NodeID, id uint64) bool {
	n := l.nodes[node]
	return n != nil && n.current == id
}
