package sim

import (
	"slices"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// aim has something happen within a while of the next time that something changes hands.
func (w *World) aim(at string, within time.Duration, do func()) {
	by := w.rng
	w.aimed[at] = append(w.aimed[at], func() {
		w.by(by, func() {
			w.after(nil, w.between(0, within), func() {
				if w.healed == 0 {
					do()
				}
			})
		})
	})
}

// struckAt has happen what was aimed at that.
func (w *World) struckAt(what string) {
	aimed := w.aimed[what]
	delete(w.aimed, what)
	for _, do := range aimed {
		do()
	}
}

// shrink has the daemon of one member of the synchronous set be silent until the set is
// made smaller for it. Then the disk of another's server stalls, or the walsender of the
// first stands still; and when the former set is dropped, the primary goes. Whatever only
// the first has acknowledged must not be lost.
func (w *World) shrink(*node) {
	_, members := w.check.rec.Sync.Newest().Parse()
	w.rng.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	if len(members) < 2 || !w.nodes[members[0]-1].sound() {
		return
	}
	silent, slow, holder := w.nodes[members[0]-1], &w.nodes[members[1]-1].server, w.nodes[w.check.rec.Lease.Holder-1]
	d := w.policy.SyncTimeout + w.between(8*time.Second, 16*time.Second)
	w.log(silent, "the daemon is stopped for %s", d)
	w.freeze(&silent.daemon.process, d)
	if w.chance(40) {
		w.aim("sync-add", 50*time.Millisecond, func() { holder.server.stopSender(silent.id, w.between(200*time.Millisecond, 3*time.Second)) })
	}
	w.aim("sync-add", 200*time.Millisecond, func() { slow.stall(w.between(300*time.Millisecond, 3*time.Second)) })
	w.aim("sync-drop", 200*time.Millisecond, func() {
		switch w.rng.IntN(4) {
		case 0:
			holder.powerOff()
			w.after(nil, w.between(2*time.Second, 15*time.Second), holder.powerOn)
		case 1:
			w.cut(w.spell(3*time.Second, 15*time.Second), w.apart(func(o *node) bool { return o == holder })...)
		default:
			holder.server.kill(w.chance(30))
		}
	})
}

// resume has a pause end while the primary's server is down. Just then it is started, and after
// that its daemon stands still.
func (w *World) resume(*node) {
	r := w.check.rec
	holder := w.nodes[r.Lease.Holder-1]
	if r.Pause.On || !holder.sound() {
		return
	}
	w.aim("pause", 500*time.Millisecond, func() {
		holder.server.stop()
		w.after(nil, w.between(100*time.Millisecond, 3*time.Second), w.unpause)
		w.aim("pause", 300*time.Millisecond, func() {
			holder.startByHand()
			w.after(nil, w.between(0, 50*time.Millisecond), func() {
				if holder.sound() {
					w.log(holder, "the daemon is stopped")
					w.freeze(&holder.daemon.process, w.between(4*time.Second, 15*time.Second))
				}
			})
		})
	})
	w.command(record.SetPause{On: true, By: "operator", Reason: "maintenance"})
}

// unarmed has the daemon of the next that is promoted die before it has armed the data
// directory. The guard ends the server then; as soon as the daemon is back and has taken
// the guard over, the server is started by hand.
func (w *World) unarmed(*node) {
	w.aim("promotion", 50*time.Millisecond, func() {
		n := w.nodes[w.check.rec.Lease.Holder-1]
		if n.server.armed || !n.server.writes() || !n.sound() {
			return
		}
		n.daemon.crash()
		w.after(nil, w.between(4*time.Second, 12*time.Second), n.daemon.boot)
		w.aim(takenOver, 50*time.Millisecond, n.startByHand)
	})
}

// takenOver is when a guard that has ended its server is told that it has.
const takenOver = "the guard is taken over"

// stall has nothing written to the server's disk for a while.
func (s *server) stall(d time.Duration) {
	w := s.n.w
	w.log(s, "its disk stalls for %s", d)
	s.stalled = w.now + d
	w.stuck = max(w.stuck, s.stalled)
}

// stopSender stops one walsender for a while.
func (s *server) stopSender(of cluster.NodeID, d time.Duration) {
	if x := s.senders[of]; x != nil {
		s.n.w.log(s, "the walsender of node %d stands still for %s", of, d)
		x.frozen = s.n.w.now + d
	}
}

// followByHand has an operator point a standby at the primary, who compares nothing.
func (w *World) followByHand(n *node) {
	l, s := w.check.rec.Lease, &n.server
	if !l.Taken() || !l.Promoted || l.Holder == n.id || !s.up || !s.ready || !s.standby {
		return
	}
	w.log(s, "pointed at node %d by hand, as %q", l.Holder, s.called)
	s.point(l.Holder)
}

// only leaves those kinds of faults.
func (w *World) only(names []string) {
	w.faults = slices.DeleteFunc(w.faults, func(k kind) bool { return !slices.Contains(names, k.name) })
}
