package sim

import (
	"slices"
	"time"

	"repmgr/internal/failover"
	"repmgr/internal/record"
)

// grouped reports whether every node is in the group, by the state directory that it
// has: then one that is lost or taken out leaves the others a majority.
func (w *World) grouped() bool {
	for _, n := range w.nodes {
		m, member := w.check.rec.Member(n.id)
		if votes := m.Voter || w.check.rec.Voters() >= failover.MaximumVoters; !member || m.RaftID != n.raftID || !votes || n.unregistered {
			return false
		}
	}
	return true
}

// agreed reports whether all but one have heard that every node is in the group. A voter that
// only the lost one knew of is none: raft goes by the members that are known to be committed.
func (w *World) agreed(but *node) bool {
	for _, n := range w.nodes {
		for _, o := range w.nodes {
			if n == but || n.dead {
				continue
			}
			if n.daemon.rec == nil || !n.daemon.up {
				return false
			}
			known, _ := n.daemon.rec.Member(o.id)
			if m, _ := w.check.rec.Member(o.id); known.RaftID != m.RaftID || known.Voter != m.Voter {
				return false
			}
		}
	}
	return true
}

// unregister takes a standby or a witness out of the registry for a while: its row
// is deleted, whatever its programs do. Three voters stay, so that the rule does too.
func (w *World) unregister(n *node) {
	r := w.check.rec
	m, _ := r.Member(n.id)
	if voters := r.Voters(); n.level < record.Level || !w.grouped() || r.Lease.Holder == n.id || r.Lease.Former.Holder == n.id || m.Voter && voters <= record.MinimumVoters {
		return
	}
	w.log(n, "unregistered")
	n.unregistered = true
	w.after(nil, w.between(500*time.Millisecond, 20*time.Second), func() {
		w.log(n, "registered")
		n.unregistered = false
	})
}

// loseState has a daemon start with an empty state directory, under a raft id that
// nobody had before (safety notes, B8). Never two of them at the same time: a
// majority that forgets is beyond help.
func (w *World) loseState(n *node) {
	if n.level < record.Level || !n.sound() || !w.grouped() || !w.agreed(n) {
		return
	}
	w.log(n, "the state directory is lost")
	n.daemon.saving = nil
	n.daemon.crash()
	n.disk, n.failedRejoin = disk{stalled: n.disk.stalled}, 0
	if w.Defect != SameRaftID {
		n.raftID = w.rng.Uint64()>>1 | 1
	}
	w.after(nil, w.between(10*time.Millisecond, 10*time.Second), n.daemon.boot)
}

// bury leaves a node without power for good, in some runs, where the others can do
// without: it neither holds the lease, nor may be taking it up just now, nor might be the only one
// who has everything.
func (w *World) bury() {
	r := w.check.rec
	if !w.chance(12) || !w.grouped() || w.policy.SyncMode == record.SyncStrict {
		return
	}
	n, holder := w.nodes[w.rng.IntN(len(w.nodes))], w.nodes[r.Lease.Holder-1]
	promotable := slices.ContainsFunc(w.nodes, func(o *node) bool { return o != n && !o.witness && o.usual > 0 })
	if n == holder || r.Lease.Successor == n.id || r.Lease.Former.Holder == n.id || !promotable || holder.usual == 0 || holder.server.torn || holder.server.incarnation != r.Lease.Incarnation {
		return
	}
	w.log(n, "the machine is gone for good")
	n.powerOff()
	n.dead = true
}
