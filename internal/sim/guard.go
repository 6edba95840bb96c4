package sim

import (
	"slices"
	"time"

	"repmgr/internal/failover"
	"repmgr/internal/record"
)

// guard is the process that holds the deadline for the daemon.
type guard struct {
	process
	n        *node
	deadline time.Time // zero: none
	shows    time.Time // what the wall clock will show then, as it went when that was told
	fired    bool
	barred   time.Duration // until then none can be started
}

func (g *guard) String() string { return g.n.String() + ".guard" }

// extend moves the deadline, never backwards.
func (g *guard) extend(to time.Time) bool {
	g.expired()
	if !g.up || g.fired || !to.After(g.n.clock()) {
		return false
	}
	if to.After(g.deadline) {
		g.deadline, g.shows = to, to.Add(g.n.wall)
		g.n.w.after(&g.process, g.n.until(to), g.watch)
	}
	return true
}

// watch is what happens when a deadline may have passed.
func (g *guard) watch() {
	if g.expired(); g.n.w.Defect == WallClock && !g.fired && !g.deadline.IsZero() {
		g.n.w.after(&g.process, 200*time.Millisecond, g.watch) // the clock went back
	}
}

// passed reports whether the deadline is over.
func (g *guard) passed() bool {
	if g.n.w.Defect == WallClock {
		return !g.n.clock().Add(g.n.wall).Before(g.shows)
	}
	return !g.n.clock().Before(g.deadline)
}

// expired ends the server from the deadline on, until it is taken over.
func (g *guard) expired() {
	if g.up && !g.fired && !g.deadline.IsZero() && g.passed() {
		g.fired = true
		g.n.w.log(g, "the deadline has passed")
		g.n.w.after(&g.process, g.n.w.between(2*time.Millisecond, 60*time.Millisecond), g.sweep)
	}
}

func (g *guard) sweep() {
	if !g.fired {
		return
	}
	if g.n.server.up || g.n.server.orphans.up {
		g.n.w.counts.GuardKills++
		g.n.w.tameFails("the guard of node %d ends its server", g.n.id)
		g.kill()
	}
	if g.n.w.Defect != GuardFireOnce && g.n.w.Defect != ChildrenFirst {
		g.n.w.after(&g.process, 20*time.Millisecond, g.sweep)
	}
}

// kill ends every process of the server.
func (g *guard) kill() {
	switch g.n.w.Defect {
	case PostmasterOnly:
		g.n.server.kill(true)
	case ChildrenFirst:
		g.n.server.sweep()
		g.n.server.boot()
	default:
		g.n.server.sweep()
	}
}

// takeOver ends the killing, if nobody is left. The daemon arms the data directory
// first: it may have died between the promotion, which removes standby.signal, and
// its own arming.
func (g *guard) takeOver() {
	g.expired()
	if g.fired && !g.n.server.up && !g.n.server.orphans.up {
		if g.n.w.Defect != NeverArmed && g.n.w.Defect != TakenUnarmed {
			g.n.server.armed, g.n.server.upstream = true, 0
		}
		g.fired, g.deadline = false, time.Time{}
		g.n.w.struckAt(takenOver)
	}
}

func (g *guard) standDown() {
	if g.expired(); !g.fired {
		g.deadline = time.Time{}
	}
}

func (g *guard) crash() {
	if g.up {
		g.end()
		g.deadline, g.fired = time.Time{}, false
		g.n.w.log(g, "the guard is gone")
	}
}

// pollGuard looks at the guard, and starts one if there is none.
func (d *daemon) pollGuard() {
	g, w := &d.n.guard, d.n.w
	if w.Visibility {
		return
	}
	if !g.up {
		d.told, d.acked = time.Time{}, time.Time{}
		if !d.ensuring {
			d.ensuring = true
			w.after(&d.process, w.between(20*time.Millisecond, 800*time.Millisecond), func() {
				if d.ensuring = false; g.barred <= w.now {
					g.start()
				}
				d.pollGuard()
			})
		}
	}
	d.observe(failover.GuardSeen{Alive: g.up, Deadline: g.deadline})
	if g.fired && !d.n.server.up {
		g.takeOver()
		d.told, d.acked = g.deadline, g.deadline
	}
}

// tellGuard tells the guard how long the server may live.
func (d *daemon) tellGuard() {
	g, w := &d.n.guard, d.n.w
	want, watch := failover.Deadline(d.view)
	switch {
	case !g.up, w.Defect == PromoteUnguarded && !d.n.server.writes():
	case watch && want.After(d.told):
		d.told = want
		w.after(&d.process, w.between(50*time.Microsecond, 3*time.Millisecond), func() {
			if g.extend(want) {
				d.acked = g.deadline
				d.soon()
			}
		})
	case !watch && !d.told.IsZero() && failover.StandDown(d.view):
		g.standDown()
		d.told, d.acked = g.deadline, g.deadline
	}
}

func releaseOf(d *daemon, a failover.GiveUp) record.Release {
	return record.Release{Term: a.Term, Node: d.n.id, Incarnation: d.n.server.incarnation, Seq: a.Seq, Why: a.Why, To: a.To, End: a.End}
}

// copyOf makes the data directory one of a standby of another: by a rewind or a clone.
func (s *server) copyOf(up *server) {
	s.wal, s.timeline, s.switches = slices.Clone(up.wal), up.timeline, slices.Clone(up.switches)
	s.flushed, s.torn, s.armed, s.lineText = len(s.wal), false, true, ""
}
