package sim

import (
	"time"

	"repmgr/internal/failover"
	"repmgr/internal/record"
)

// command has an operator ask a daemon that runs for a change of the record.
func (w *World) command(c record.Change) {
	for _, i := range w.rng.Perm(len(w.nodes)) {
		if d := &w.nodes[i].daemon; d.up && d.frozen <= w.now {
			d.propose(c)
			return
		}
	}
}

// pause is maintenance of the whole cluster, in which servers are restarted by hand.
func (w *World) pause(n *node) {
	w.command(record.SetPause{On: true, By: "operator", Reason: "maintenance"})
	if w.chance(50) {
		w.after(nil, w.between(100*time.Millisecond, 4*time.Second), func() {
			n.server.stop()
			w.after(nil, w.between(50*time.Millisecond, 3*time.Second), n.startByHand)
		})
	}
	w.after(nil, w.between(500*time.Millisecond, 12*time.Second), w.unpause)
}

// unpause asks until the record says so.
func (w *World) unpause() {
	if w.check.rec.Pause.On {
		w.command(record.SetPause{By: "operator", Reason: "done"})
		w.after(nil, w.between(100*time.Millisecond, 3*time.Second), w.unpause)
	}
}

// reprioritize makes a node one that is never promoted, or one that may be.
func (w *World) reprioritize(n *node) {
	if n.witness {
		return
	}
	n.setPriority(100 - n.priority)
	w.after(nil, w.between(time.Second, 20*time.Second), func() { n.setPriority(n.usual) })
}

func (n *node) setPriority(to int) {
	n.w.log(n, "priority %d", to)
	n.priority, n.w.row(n.id).Priority = to, to
}

// switchover asks for another primary: any node, since what is not possible is refused.
func (w *World) switchover(n *node) {
	r := w.check.rec
	w.log(name("operator"), "wants node %d to be the primary", n.id)
	w.command(record.RequestSwitchover{Term: r.Term, Number: r.Switchover.Number + 1, To: n.id, By: "operator"})
}

// unsync has the operators switch synchronous replication off for a while, or on where it is off:
// each node's configuration is reloaded at a time of its own.
func (w *World) unsync(*node) {
	usual := w.policy.SyncMode
	if w.wild || usual == record.SyncStrict || w.switched {
		return
	}
	w.switched = true
	mode := record.SyncOff
	if usual != record.SyncOn {
		mode = record.SyncOn
	}
	w.setMode(mode)
	w.after(nil, w.between(2*time.Second, 20*time.Second), func() { w.setMode(usual); w.switched = false })
}

func (w *World) setMode(mode record.SyncMode) {
	w.log(name("operator"), "synchronous_mode=%s", mode)
	w.policy.SyncMode = mode
	for _, n := range w.nodes {
		w.after(nil, w.between(0, 5*time.Second), func() {
			if d := &n.daemon; d.up {
				w.after(&d.process, 0, func() { d.observe(failover.PolicySet{Policy: w.policy}) })
			}
		})
	}
}
