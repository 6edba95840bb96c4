package sim

import (
	"fmt"
	"time"

	"repmgr/internal/failover"
	"repmgr/internal/record"
)

// settle gives the nodes of half of the clusters two or three locations. Under the quorum rule
// they decide nothing: but whole locations fail, and they are further from each other.
func (w *World) settle() {
	w.by(w.stream("locations"), func() {
		if w.places = 1; w.chance(50) {
			w.places, w.net.far = 2+w.rng.IntN(2), w.between(0, 40*time.Millisecond)
		}
		for _, n := range w.nodes {
			n.place = w.rng.IntN(w.places)
			w.row(n.id).Location = n.location()
		}
	})
	w.by(w.stream("versions"), w.release)
}

func (n *node) location() string { return fmt.Sprintf("place%d", n.place+1) }

// oldest is the level of the oldest program that takes part: the first that announces its own.
const oldest = 2

// release has the programs of some nodes of a quarter of the clusters be of an older level at
// first. They are updated one after the other while things go wrong, or when all is healed.
func (w *World) release() {
	old := w.chance(25)
	for _, n := range w.nodes {
		if n.level = record.Level; !old || !w.chance(60) {
			continue
		}
		n.level = oldest + w.rng.IntN(record.Level-oldest)
		if w.chance(70) {
			w.after(nil, time.Duration(w.rng.Int64N(int64(w.Chaos))), n.update)
		}
	}
}

// update puts the newest program in the place of an older one, and restarts the daemon.
func (n *node) update() {
	w := n.w
	switch {
	case n.level == record.Level || n.dead:
		return
	case n.off || !n.sound() || w.tame && w.healed == 0: // a daemon that is away for seconds is nothing that costs nobody the lease
		w.after(nil, w.between(100*time.Millisecond, 2*time.Second), n.update)
		return
	}
	w.log(n, "its program is updated, from level %d", n.level)
	n.level = record.Level
	n.daemon.crash()
	w.after(nil, w.between(10*time.Millisecond, 3*time.Second), n.daemon.boot)
}

// unknown says why this node, as the leader, takes no such proposal: its own program does not
// know it, or a member's does not (safety notes, B38).
func (d *daemon) unknown(text []byte) string {
	e, change, err := record.DecodeEntry(text)
	switch {
	case err != nil:
		return err.Error()
	case e.Version > d.n.level:
		return fmt.Sprintf("level %d is not known here", e.Version)
	case d.rec == nil || d.n.w.Defect == LevelIgnored:
		return ""
	}
	return d.rec.Unknown(change)
}

// ofLevel is what the leader's brain orders as a program of its level does, which announces
// no higher one for itself.
func (d *daemon) ofLevel(decision failover.Decision) failover.Decision {
	for i, a := range decision.Actions {
		p, proposes := a.(failover.Propose)
		c, describes := p.Change.(record.Describe)
		if !proposes || !describes || c.Node != d.n.id || c.Level <= d.n.level {
			continue
		}
		c.Level = d.n.level
		decision.Actions[i] = failover.Propose{Change: c}
		m, _ := d.rec.Member(c.Node)
		if c == (record.Describe{Node: m.Node, Name: m.Name, Witness: m.Witness, Priority: m.Priority, Automatic: m.Automatic, Location: m.Location, Level: m.Level, Barred: m.Barred}) {
			decision.Actions = nil // the record says so
		}
	}
	return decision
}
