package sim

import (
	"slices"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/record"
)

// sound reports whether guard and daemon of a node both work. They are never
// broken together: a primary whose guard and daemon both fail is stopped by
// nothing (safety notes, B25). A guard that was started a moment ago and knows no
// deadline yet does not work.
func (n *node) sound() bool {
	if n.w.Visibility {
		return n.daemon.up && n.daemon.frozen <= n.w.now && !n.off
	}
	knows := !n.guard.deadline.IsZero() || !n.server.mayWrite() || n.w.check.rec.Lease.State == record.Indefinite
	return n.daemon.up && n.daemon.frozen <= n.w.now && n.guard.up && knows && !n.off && !n.daemon.ensuring
}

// unguardedFor is how long a primary may write without a guard: a second, a round of looks, and
// the ending of it, by a slow clock.
const unguardedFor = 3 * time.Second

// startByHand starts the server, by whoever does that: it asks nobody. Only where
// the power went in the moment between a promotion and the arming does it have to
// pass the start gate, which arms it (safety notes, B27).
func (n *node) startByHand() {
	n.w.log(n, "the server is started by hand")
	n.server.armed, n.server.gated = n.server.armed || n.server.gated, false
	n.server.boot()
}

// powerOff ends everything on the machine; what was not flushed is lost.
func (n *node) powerOff() {
	if n.off {
		return
	}
	n.w.log(n, "NO POWER")
	s := &n.server
	s.gated = !s.armed && n.w.Defect != NeverArmed && !n.w.Visibility
	s.sweep()
	s.wal = slices.Clip(s.wal[:min(s.flushed, len(s.wal))]) // what was sent stays as it was
	for len(s.switches) > 0 && s.switches[len(s.switches)-1].LSN >= s.lsn() && s.switches[len(s.switches)-1].Child == s.timeline {
		s.timeline, s.switches = s.switches[len(s.switches)-1].Parent, s.switches[:len(s.switches)-1]
	}
	n.daemon.crash()
	n.guard.crash()
	n.off, n.disk.cached = true, n.disk.synced
}

func (n *node) powerOn() {
	w := n.w
	if !n.off || n.dead {
		return
	}
	w.log(n, "power")
	n.off = false
	w.after(nil, w.between(0, 2*time.Second), func() {
		if !n.off {
			if !w.Visibility {
				n.guard.start()
			}
			n.daemon.boot()
		}
	})
	if w.chance(60) && !w.gentle {
		w.after(nil, w.between(0, 3*time.Second), n.startByHand)
	}
}

// freeze stops a process for a while.
func (w *World) freeze(p *process, d time.Duration) {
	if p.up {
		p.frozen = max(p.frozen, w.now+d)
	}
}

// cut cuts links for a while.
func (w *World) cut(d time.Duration, links ...[2]cluster.NodeID) {
	kinds := []traffic{ofDaemons, ofServers}
	switch w.rng.IntN(10) {
	case 0:
		kinds = kinds[:1]
	case 1:
		kinds = kinds[1:]
	}
	w.part(d, kinds, w.chance(30), links)
}

func (w *World) part(d time.Duration, kinds []traffic, keeps bool, links [][2]cluster.NodeID) {
	if w.healed != 0 {
		return
	}
	w.counts.Partitions++
	w.log(name("network"), "cut for %s: %v, daemons and servers: %v, sent again: %v", d, links, kinds, keeps)
	w.net.set(kinds, links, 1, keeps)
	w.after(nil, d, func() { w.net.set(kinds, links, -1, keeps) })
}

// marks are the times that something is waited for: what goes wrong for about as long
// ends when something else begins.
var marks = []time.Duration{standard.LeaseTTL / 5, standard.RestartGrace, failover.Hold(standard.LeaseTTL), standard.LeaseTTL}

// spell draws how long something goes wrong.
func (w *World) spell(a, b time.Duration) time.Duration {
	if w.chance(25) {
		d := time.Duration(float64(marks[w.rng.IntN(len(marks))])*(0.9+0.2*w.rng.Float64())) + w.between(0, 200*time.Millisecond)
		return min(max(a, d), b)
	}
	return w.between(a, b)
}

// apart are the links between two parts of the cluster.
func (w *World) apart(first func(*node) bool) (links [][2]cluster.NodeID) {
	for _, a := range w.nodes {
		for _, b := range w.nodes {
			if first(a) && !first(b) {
				links = append(links, [2]cluster.NodeID{a.id, b.id}, [2]cluster.NodeID{b.id, a.id})
			}
		}
	}
	return links
}

// ways are the links to a node, and those from it.
func (w *World) ways(n *node) (in, out [][2]cluster.NodeID) {
	for i, l := range w.apart(func(o *node) bool { return o == n }) {
		if i%2 == 0 {
			out = append(out, l)
		} else {
			in = append(in, l)
		}
	}
	return in, out
}

// late has a node hear for a while nothing of what the others answer, then all of it,
// or the last, and a moment after that nothing any more. In half of the cases nobody hears
// it from shortly before that moment: what it learns late is the last that it learns.
func (w *World) late(n *node) {
	in, out := w.ways(n)
	d := w.between(time.Second, 3*time.Second) + w.between(0, time.Second)
	if mute := w.between(10*time.Millisecond, 400*time.Millisecond); w.chance(50) {
		d = time.Second + time.Duration(w.rng.Int64N(int64(failover.Hold(standard.LeaseTTL)-time.Second))) // as long as it still holds the lease
		w.part(d, []traffic{ofDaemons}, true, in)
		w.after(nil, d-mute, func() { w.part(mute+time.Second, []traffic{ofDaemons}, false, out) })
	} else {
		w.part(d, []traffic{ofDaemons}, w.chance(50), in)
	}
	w.after(nil, d+w.between(20*time.Millisecond, time.Second), func() {
		w.cut(w.spell(3*time.Second, 12*time.Second), append(in, out...)...)
	})
}

// flap cuts a node off in one direction after the other, and in the end in both.
func (w *World) flap(n *node) {
	in, out := w.ways(n)
	at := time.Duration(0)
	for range 1 + w.rng.IntN(4) {
		links, d := out, w.spell(100*time.Millisecond, 3500*time.Millisecond)
		if w.chance(60) {
			links = in
		}
		w.after(nil, at, func() { w.cut(d, links...) })
		at += d + w.between(0, time.Second)
	}
	w.after(nil, at, func() { w.cut(w.spell(time.Second, 12*time.Second), append(in, out...)...) })
}

var faults = []kind{
	{"the daemon dies", func(w *World, n *node) {
		if n.sound() {
			n.daemon.crash()
			w.after(nil, w.between(10*time.Millisecond, 10*time.Second), n.daemon.boot)
		}
	}},
	{"the daemon is stopped", func(w *World, n *node) {
		if n.sound() {
			d := time.Duration(w.rng.Int64N(int64(12 * time.Second)))
			w.log(n, "the daemon is stopped for %s", d)
			w.freeze(&n.daemon.process, d)
		}
	}},
	{"the guard dies", func(w *World, n *node) {
		if n.sound() {
			n.guard.crash()
		}
	}},
	{"the guard dies, and cannot be started for a while", func(w *World, n *node) {
		if n.sound() {
			d := w.between(time.Second, 15*time.Second)
			w.log(n, "no guard can be started for %s", d)
			n.guard.barred = w.now + d
			n.guard.crash()
			guard, daemon := n.guard.life, n.daemon.life
			w.after(nil, unguardedFor+w.between(0, 5*time.Second), func() { // the daemon had the time to end its server
				unguarded := !n.guard.up && n.guard.life == guard && n.daemon.life == daemon // the same loss of it all the time, not the next
				if w.healed == 0 && unguarded && n.daemon.up && n.daemon.frozen <= w.now && !n.off {
					w.log(n, "the daemon is stopped, and there is no guard")
					w.freeze(&n.daemon.process, w.between(time.Second, 12*time.Second))
				}
			})
		}
	}},
	{"the postmaster dies", func(w *World, n *node) { n.server.kill(w.chance(60) && !w.gentle) }},
	{"a backend is killed", func(w *World, n *node) {
		w.log(&n.server, "a backend crashes")
		n.server.restart()
	}},
	{"all of the server is stopped", func(w *World, n *node) {
		d := w.spell(100*time.Millisecond, 8*time.Second)
		w.log(&n.server, "stopped for %s", d)
		w.freeze(&n.server.process, d)
		w.stuck = max(w.stuck, n.server.frozen)
	}},
	{"the postmaster is stopped", func(w *World, n *node) { // clients go on (A11)
		d := w.between(100*time.Millisecond, 15*time.Second)
		w.log(&n.server, "the postmaster is stopped for %s", d)
		n.server.hung = w.now + d
	}},
	{"an operator stops the server, or restarts it", func(w *World, n *node) {
		w.log(&n.server, "stopped by an operator")
		n.server.stop()
		w.after(nil, w.between(50*time.Millisecond, 10*time.Second), n.startByHand)
	}},
	{"the server is started by hand", func(w *World, n *node) { n.startByHand() }},
	{"the power goes", func(w *World, n *node) {
		n.powerOff()
		w.after(nil, w.between(500*time.Millisecond, 15*time.Second), n.powerOn)
	}},
	{"a power cut of all", func(w *World, n *node) {
		if w.chance(20) {
			for _, n := range w.nodes {
				n.powerOff()
				w.after(nil, w.between(500*time.Millisecond, 15*time.Second), n.powerOn)
			}
		}
	}},
	{"a node is cut off", func(w *World, n *node) {
		w.cut(w.spell(100*time.Millisecond, 15*time.Second), w.apart(func(o *node) bool { return o == n })...)
	}},
	{"the cluster is split in two", func(w *World, n *node) {
		side := w.rng.IntN(1 << len(w.nodes))
		w.cut(w.spell(100*time.Millisecond, 15*time.Second), w.apart(func(o *node) bool { return side>>(o.id-1)&1 == 1 })...)
	}},
	{"a location is cut off", func(w *World, n *node) {
		if w.places > 1 {
			w.cut(w.spell(100*time.Millisecond, 15*time.Second), w.apart(func(o *node) bool { return o.place == n.place })...)
		}
	}},
	{"a location has no power", func(w *World, n *node) {
		for _, o := range w.nodes {
			if w.places > 1 && o.place == n.place {
				o.powerOff()
				w.after(nil, w.between(500*time.Millisecond, 15*time.Second), o.powerOn)
			}
		}
	}},
	{"a node is cut off one way", func(w *World, n *node) {
		links := w.apart(func(o *node) bool { return o == n })
		one := links[:0:0]
		way := w.rng.IntN(2)
		for i := way; i < len(links); i += 2 {
			one = append(one, links[i])
		}
		w.cut(w.spell(100*time.Millisecond, 15*time.Second), one...)
	}},
	{"a node is cut off, one way after the other", (*World).flap},
	{"a node hears late, and is cut off then", (*World).late},
	{"a bad network", func(w *World, n *node) {
		w.net.worse, w.net.loss, w.net.twice = w.between(0, 400*time.Millisecond), 40*w.rng.Float64(), 30*w.rng.Float64()
		w.log(name("network"), "worse by %s, loses %.0f %%, doubles %.0f %%", w.net.worse, w.net.loss, w.net.twice)
		w.after(nil, w.between(500*time.Millisecond, 10*time.Second), w.net.calm)
	}},
	{"the disk stalls", func(w *World, n *node) {
		if w.tame && (n.daemon.leader.own || slices.ContainsFunc(w.nodes, func(o *node) bool { return o != n && o.disk.stalled > w.now-5*time.Second })) {
			return // two of them may be a majority; and a group that elects its leader twice over renews nothing for longer than a lease lasts
		}
		d := w.spell(100*time.Millisecond, 12*time.Second)
		whose := w.rng.IntN(3) // of both, the daemon, the server
		if whose != 2 {
			w.log(n, "the daemon's disk stalls for %s", d)
			n.disk.stalled = w.now + d
		}
		if whose != 1 {
			n.server.stall(d)
		}
	}},
	{"an operator pauses the cluster", (*World).pause},
	{"a pause ends, and the primary's server is started just then", (*World).resume},
	{"a node is unregistered", (*World).unregister},
	{"a state directory is lost", (*World).loseState},
	{"a priority is changed", (*World).reprioritize},
	{"an operator asks for a switchover", (*World).switchover},
	{"an operator changes synchronous_mode", (*World).unsync},
	{"the wall clock jumps", func(w *World, n *node) {
		n.wall += time.Duration(w.rng.Int64N(int64(2*time.Minute))) - time.Minute
		w.log(n, "the wall clock is %s off", n.wall)
	}},
	{"the startup process is slow", func(w *World, n *node) { // a reader's lock, which is replicated, is in the way of several
		for _, o := range w.nodes {
			o.server.hold(o == n && w.chance(70) || w.chance(40))
		}
	}},
	{"the synchronous set shrinks, and the primary goes", (*World).shrink},
	{"the daemon dies before it has armed the promoted server", (*World).unarmed},
	{"a standby is pointed at the primary by hand", (*World).followByHand},
}

// heal mends everything, and lets an operator do what nobody else does.
func (w *World) heal() {
	w.log(name("world"), "all is healed")
	w.healed = w.now
	w.net.heal()
	w.by(w.stream("burial"), w.bury)
	for _, n := range w.nodes {
		n.powerOn()
		if r := w.check.rec; w.grouped() && n.usual == 0 && (r.Lease.Holder == n.id || r.Lease.Former.Holder == n.id) {
			n.usual = n.priority // nobody bars the one that may be the only one who has everything
		}
		n.setPriority(n.usual)
		n.unregistered, n.guard.barred = false, 0
		w.after(nil, w.between(0, 5*time.Second), n.update)
		n.server.hung, n.disk.stalled, n.server.stalled = 0, 0, 0 // what is frozen goes on when its time comes
		n.server.hold(false)
		w.after(nil, w.between(0, 2*time.Second), n.daemon.boot)
		if !w.Visibility {
			w.after(nil, w.between(0, 2*time.Second), n.operator)
		}
	}
	if w.Visibility {
		w.setPaused(false)
		w.writtenAt = w.now
		w.administrator()
	}
}

// operator ends a pause, starts a server that an operator has stopped, and asks for the return
// of one that was tried in vain too often. Whatever else is down is the daemons' to start.
func (n *node) operator() {
	if n.w.check.rec.Pause.On {
		n.w.unpause()
	}
	if n.daemon.up && n.daemon.rule == "rejoin-gave-up" {
		n.daemon.see(failover.RejoinsKept{})
	}
	if !n.server.up && n.server.clean && !n.disk.ended && n.daemon.view.Doing == nil {
		n.startByHand()
	}
	n.w.after(nil, n.w.between(2*time.Second, 8*time.Second), n.operator)
}
