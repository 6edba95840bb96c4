package sim

import (
	"fmt"
	"slices"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/record"
)

// Under the visibility rule there is no lease and no guard: a daemon looks at its upstream
// itself, hears what the others see, and the best of a visible majority is promoted. Clusters
// of two nodes have nothing else.

// sight is what a daemon of such a cluster keeps.
type sight struct {
	looked  map[cluster.NodeID]time.Duration // when it looked at a server last, by the world's clock
	looking map[cluster.NodeID]bool
	heard   map[cluster.NodeID]time.Duration // when a daemon answered last

	// Of the last look before a promotion: for which loss everybody was asked, and until when that counts.
	askedOf cluster.NodeID
	counts  time.Duration
	asking  bool
}

// Times of an exchange between two daemons, of a look at a server, and of the last look before a
// promotion: how long that may take, and how long it counts.
const (
	unheardAfter = time.Second
	unseenAfter  = time.Second
	lookBound    = 500 * time.Millisecond
	lookCounts   = 100 * time.Millisecond
)

// writing is a change of repmgr.nodes: whose log has that entry has these rows, until the next.
type writing struct {
	at, id int // of the entry
	rows   []cluster.Node
}

// seeing makes a cluster whose primary is node 1, and nothing that a majority agreed to.
func (w *World) seeing() {
	w.policy.Quorum, w.policy.SyncMode, w.wild = false, record.SyncOff, true
	w.by(w.stream("sight"), func() {
		w.gentle = w.chance(40)
		w.policy.StopReceivers, w.policy.SiblingsStreaming = w.chance(30), 5*time.Second
		w.policy.Validate, w.policy.AlwaysPromote, w.policy.ElectionRerun = w.chance(20), w.chance(30), 5*time.Second
		if w.chance(20) {
			w.policy.FailoverDelay, w.policy.PromoteDelay = w.between(0, 3*time.Second), w.between(0, 3*time.Second)
		}
		for _, n := range w.nodes {
			n.manual = w.chance(8)
		}
		w.promotes = w.between(time.Second, time.Minute)
	})
	w.respawns = w.respawns || w.gentle
	w.check = newChecker(&record.Record{})
	w.startServers()
	w.writings = []writing{{3, -3, slices.Clone(w.registry)}}
	for _, n := range w.nodes {
		n.disk.nodes = w.writings[0].rows
		n.daemon.boot()
	}
	w.faults = append(w.faults, kind{"all daemons are paused", (*World).pauseAll}, kind{"all daemons are restarted after a promotion", (*World).restartAll},
		kind{"the daemon dies after it has ordered a promotion", (*World).untold})
	w.only(rough)
	if w.gentle {
		w.only(crashes)
	}
}

// crashes are the faults under which nobody may be promoted beside a primary; rough are all
// that such clusters know.
var (
	crashes = []string{"the daemon dies", "the postmaster dies", "the power goes", "the wall clock jumps", "the startup process is slow", "all daemons are paused",
		"all daemons are restarted after a promotion", "the daemon dies after it has ordered a promotion"}
	rough = append(slices.Clone(crashes), "the daemon is stopped", "a backend is killed", "all of the server is stopped", "the postmaster is stopped",
		"an operator stops the server, or restarts it", "a power cut of all", "a node is cut off", "the cluster is split in two", "a location is cut off",
		"a location has no power", "a node is cut off one way", "a node is cut off, one way after the other", "a node hears late, and is cut off then",
		"a bad network", "the disk stalls")
)

// rows is repmgr.nodes as a server has it.
func (s *server) rows() []cluster.Node {
	newest := &s.n.w.writings[0]
	for i := range s.n.w.writings {
		if x := &s.n.w.writings[i]; x.at > newest.at && len(s.wal) >= x.at && s.wal[x.at-1].id == x.id {
			newest = x
		}
	}
	return newest.rows
}

// writeRows changes repmgr.nodes, on a server that takes writes.
func (s *server) writeRows(change func([]cluster.Node)) {
	rows := slices.Clone(s.rows())
	change(rows)
	at := s.commit()
	s.n.w.writings = append(s.n.w.writings, writing{at, s.wal[at-1].id, rows})
}

// recordPromotion is what registry.RecordPromotion writes.
func (s *server) recordPromotion() {
	s.writeRows(func(rows []cluster.Node) {
		for i := range rows {
			switch r := &rows[i]; {
			case r.ID == s.n.id:
				r.Role, r.Upstream, r.Active = cluster.Primary, 0, true
			case r.Role == cluster.Primary:
				r.Active = false
			}
		}
	})
}

// recordStandby writes who follows whom.
func (s *server) recordStandby(id, upstream cluster.NodeID) {
	s.writeRows(func(rows []cluster.Node) {
		r := &rows[id-1]
		if r.Upstream, r.Active = upstream, true; r.Role != cluster.Witness {
			r.Role = cluster.Standby
		}
	})
}

// writer is the newest server that takes writes; nil: none does.
func (w *World) writer() (found *server) {
	for _, n := range w.nodes {
		if s := &n.server; s.writes() && (found == nil || s.timeline > found.timeline) {
			found = s
		}
	}
	return found
}

// focus is the node at which more goes wrong than at others.
func (w *World) focus() *node {
	switch s := w.writer(); {
	case !w.Visibility:
		return w.nodes[w.check.rec.Lease.Holder-1]
	case s != nil:
		return s.n
	}
	return w.nodes[0]
}

// gaze looks at the servers that the brain wants looked at.
func (d *daemon) gaze() {
	w := d.n.w
	w.after(&d.process, d.n.lasts(100*time.Millisecond), d.gaze)
	for _, l := range failover.Looks(d.view, d.n.clock()) {
		if at, ever := d.sight.looked[l.Node]; d.sight.looking[l.Node] || ever && w.now-at < d.n.lasts(l.Every) {
			continue
		}
		d.sight.looking[l.Node] = true
		d.probe(w.nodes[l.Node-1])
	}
}

// probe is one look at another node's server: it answers, or its host refuses at once, or nobody does.
func (d *daemon) probe(o *node) {
	w := d.n.w
	takes, hangs := 2*w.net.delay+w.between(time.Millisecond, 30*time.Millisecond), false
	if w.chance(10) {
		takes += time.Duration(w.rng.Int64N(int64(900 * time.Millisecond))) // a session of a busy server
	}
	if open := w.net.open(ofServers, d.n.id, o.id) && w.net.open(ofServers, o.id, d.n.id); !open || !d.reaches(o) && o.server.up {
		takes, hangs = d.n.lasts(unseenAfter), true
	}
	w.after(&d.process, takes, func() {
		d.sight.looking[o.id], d.sight.looked[o.id] = false, w.now
		e := failover.Probed{Node: o.id, OK: !hangs && d.reaches(o)}
		if p := d.view.Peers[o.id]; e.OK && (p.Silent || d.n.clock().Sub(p.At) > 2*time.Second) {
			e.Role, e.SystemID, e.Position = cluster.Standby, "s", failover.Position{Timeline: o.server.timeline, LSN: o.server.lsn()}
			if !o.server.standby {
				e.Role = cluster.Primary
			}
			if w.chance(3) { // it answers, and lets nobody in
				e.Role = cluster.RoleUnknown
			}
		}
		d.observe(e)
	})
}

// report is what this daemon has to say.
func (d *daemon) report() failover.Event {
	d.sequence++
	r := failover.Tell(d.view, d.n.clock())
	r.Name, r.Incarnation, r.Sequence, r.Rule, r.Priority = d.n.String(), d.life, d.sequence, d.rule, d.n.priority
	return failover.PeerReported{Report: r}
}

// exchange tells the others what this daemon knows, and hears what they do.
func (d *daemon) exchange() {
	w, told := d.n.w, d.report()
	for _, o := range w.nodes {
		if o == d.n {
			continue
		}
		began := w.now
		d.send(o, func(p *daemon) {
			p.observe(told)
			answer := p.report()
			p.send(d.n, func(d *daemon) {
				d.sight.heard[o.id] = w.now
				d.observe(answer)
			})
		})
		w.after(&d.process, d.n.lasts(unheardAfter), func() {
			if d.sight.heard[o.id] < began {
				d.observe(failover.PeerSilent{Node: o.id})
			}
		})
	}
}

// lookedLately reports whether everybody was asked just now, and asks them otherwise: a promotion is
// decided again after that.
func (d *daemon) lookedLately(lost cluster.NodeID) bool {
	w, s := d.n.w, &d.sight
	if s.askedOf == lost && w.now < s.counts {
		s.counts = 0
		return true
	}
	if s.asking {
		return false
	}
	s.asking = true
	began := w.now
	d.exchange()
	var wait func()
	wait = func() {
		silent := func(o *node) bool { return o != d.n && s.heard[o.id] < began }
		if slices.ContainsFunc(w.nodes, silent) && w.now-began < d.n.lasts(lookBound) {
			w.after(&d.process, 5*time.Millisecond, wait)
			return
		}
		for _, o := range w.nodes {
			if silent(o) {
				d.observe(failover.PeerSilent{Node: o.id})
			}
		}
		s.asking, s.askedOf, s.counts = false, lost, w.now+d.n.lasts(lookCounts)
		d.soon()
	}
	wait()
	return false
}

// readRows reads the records in the own database. A witness copies them from the primary.
func (d *daemon) readRows() {
	from := &d.n.server
	if d.n.witness {
		from = d.n.w.writer()
	}
	if from != nil && d.reaches(from.n) {
		d.n.disk.nodes = from.rows()
	} else if !d.n.witness {
		return // a witness reads the copy that it has
	}
	d.observe(failover.NodesRead{Nodes: d.n.disk.nodes})
}

// beginSight carries out, or begins to, what is ordered under the visibility rule alone.
func (h hand) beginSight() {
	s, d := h.s, h.d
	switch a := h.a.(type) {
	case failover.Promote:
		h.then(100*time.Millisecond, func() {
			if !h.standby() {
				h.done("the server is no standby")
				return
			}
			d.n.disk.promotes, d.n.disk.promotesIn, d.n.disk.promotesAt = a.Lost, s.life, d.n.w.now
			s.order(s.timeline + 1)
			d.n.w.moment(ordered)
			h.promotedBySight()
		})
	case failover.Validate:
		h.then(200*time.Millisecond, func() {
			problem := ""
			if d.n.w.chance(20) {
				problem = "it was refused"
			}
			h.done(problem)
		})
	case failover.Follow:
		h.then(40*time.Millisecond, func() { h.followSeen(a) })
	case failover.Fence:
		h.then(60*time.Millisecond, func() {
			s.sweep()
			d.n.disk.ended = true
			h.done("")
		})
	case failover.StopReceiver:
		h.then(20*time.Millisecond, func() {
			if !s.held {
				s.held, s.withheld = true, s.upstream
			}
			s.point(0)
			h.done("")
		})
	case failover.ResumeReceiver:
		h.then(20*time.Millisecond, func() {
			s.held = false
			s.point(s.withheld)
			h.done("")
		})
	case failover.RecordRole:
		h.then(20*time.Millisecond, h.recordRole)
	default:
		h.done(fmt.Sprintf("%T is unknown here", a))
	}
}

// promotedBySight waits until the server is promoted, or will not be by that order.
func (h hand) promotedBySight() {
	switch {
	case h.s.up && h.s.ready && !h.s.standby:
		h.d.kick()
		h.d.n.disk.promotes = 0
		h.recordRole()
	case h.d.promotionIsOff():
		h.d.n.disk.promotes = 0
		h.done("the server has not left recovery")
	default:
		h.then(100*time.Millisecond, h.promotedBySight)
	}
}

// promotionIsOff reports whether the promotion that was ordered will not happen. What is late is taken back
// if the server has not read it. One that ended at the end of its recovery is armed first.
func (d *daemon) promotionIsOff() bool {
	w, s, kept := d.n.w, &d.n.server, &d.n.disk
	late := w.now-kept.promotesAt > w.promotes
	switch {
	case s.orphans.up, s.up && !s.ready:
		return false
	case !s.up && s.standby && !s.armed && w.Defect != EndUnarmed:
		s.armed = true
		return false // the next look tells whether somebody was faster
	case !s.up || s.life != kept.promotesIn || s.promote == 0:
		return true
	}
	return late && (s.takeBack() || w.Defect == PromotionGivenUp)
}

// awaitPromotion has the next life of a daemon look at what the one before has ordered.
func (d *daemon) awaitPromotion() {
	kept := &d.n.disk
	switch {
	case kept.promotes == 0 || !d.up:
		return
	case d.n.server.writes() || d.promotionIsOff():
		kept.promotes = 0
		d.observe(failover.PromotionKept{})
		return
	}
	d.n.w.after(&d.process, d.n.lasts(time.Second), d.awaitPromotion)
}

func (h hand) recordRole() {
	if !h.s.answers() || h.s.standby {
		h.done("the own server takes no writes")
		return
	}
	h.s.recordPromotion()
	h.done("")
}

// followSeen points the server, or a witness's row, at a primary.
func (h hand) followSeen(a failover.Follow) {
	w, n := h.d.n.w, h.d.n
	up := &w.nodes[a.Upstream-1].server
	switch {
	case !h.d.reaches(up.n):
		h.done("the upstream does not answer")
		return
	case up.standby:
		h.done("there is no primary to write a record to")
		return
	case n.witness:
		up.recordStandby(n.id, a.Upstream)
		h.d.readRows()
		h.done("")
		return
	case !h.standby():
		h.done("the server is no standby")
		return
	}
	h.s.held = false
	h.s.point(a.Upstream)
	h.then(20*time.Millisecond, func() {
		if !h.d.reaches(up.n) || up.standby {
			h.done("it is not recorded")
			return
		}
		up.recordStandby(n.id, a.Upstream)
		h.attached()
	})
}

// pauseAll is maintenance of the whole cluster, if every daemon hears of it: the primary's server may be
// restarted by hand, and the pause ends when that runs again.
func (w *World) pauseAll(*node) {
	for _, n := range w.nodes {
		if !n.sound() || n.disk.paused {
			return // the command says who has not heard it
		}
	}
	w.log(name("operator"), "pauses all daemons")
	w.setPaused(true)
	ends := w.between(time.Second, 10*time.Second)
	if s := w.writer(); s != nil && s.up && w.chance(50) {
		w.after(nil, w.between(500*time.Millisecond, 3*time.Second), func() {
			s.stop()
			w.after(nil, w.between(50*time.Millisecond, 3*time.Second), s.n.startByHand)
		})
		ends += 8 * time.Second
	}
	w.after(nil, ends, func() { w.setPaused(false) })
}

// restartAll has every daemon end some time after the next promotion, as an update of all nodes does, and
// start again: one has heard nobody then, and some are away.
func (w *World) restartAll(*node) {
	w.aim("promotion", 4*time.Second, func() {
		for _, n := range w.nodes {
			if n.sound() {
				n.daemon.crash()
				w.after(nil, w.between(10*time.Millisecond, 12*time.Second), n.daemon.boot)
			}
		}
	})
}

// ordered is when a server is told to promote itself.
const ordered = "order"

// untold has the daemon of the next server that is told to promote itself die soon after, and start again.
func (w *World) untold(*node) {
	w.aim(ordered, time.Second, func() {
		for _, n := range w.nodes {
			if n.server.promote != 0 && n.sound() {
				n.daemon.crash()
				w.after(nil, w.between(10*time.Millisecond, 5*time.Second), n.daemon.boot)
			}
		}
	})
}

func (w *World) setPaused(on bool) {
	for _, n := range w.nodes {
		n.disk.paused = on
		w.after(&n.daemon.process, w.between(0, 200*time.Millisecond), func() { n.daemon.observe(failover.PauseSet{Paused: n.disk.paused}) })
	}
}

// seenPromoted checks a promotion.
func (w *World) seenPromoted(s *server) {
	w.counts.Promotions++
	w.counts.Failovers++
	w.moment("promotion")
	w.alone(s)
}

// alone checks that no other server takes writes, where nothing but crashes happen: then a
// promotion follows a primary's end.
func (w *World) alone(s *server) {
	for _, n := range w.nodes {
		if o := &n.server; w.gentle && w.healed == 0 && o != s && o.writes() {
			w.fail("V1: two servers take writes: node %d on timeline %d and node %d on timeline %d, and nothing but crashes happened", s.n.id, s.timeline, n.id, o.timeline)
		}
	}
}

// settledWithin is how long two servers may take writes when everything is well: one of the two
// daemons ends its own as soon as it hears of the other.
const settledWithin = 10 * time.Second

// sees checks now and then what has lasted for too long (V2, V4).
func (w *World) sees() {
	writers := 0
	for _, n := range w.nodes {
		if d := &n.daemon; n.server.writes() && d.up && d.ready && d.frozen <= w.now {
			writers++
		}
	}
	if w.healed == 0 || writers < 2 {
		w.twoSince = w.now
	}
	if w.now-w.twoSince > settledWithin {
		w.fail("V2: two servers take writes for %s after everything was healed", w.now-w.twoSince)
	}
	for _, n := range w.nodes {
		a, follows := n.daemon.view.Doing.(failover.Follow)
		if !follows {
			n.idle = state{}
			continue
		}
		up := w.nodes[a.Upstream-1]
		gone := n.daemon.up && n.daemon.frozen <= w.now && !up.server.up && !up.server.clean && !up.disk.paused && up.daemon.up && up.daemon.ready && up.daemon.frozen <= w.now
		if d := n.idle.lasts(n, gone && (w.gentle || w.healed != 0)); d > idleWithin {
			w.fail("V4: node %d waits for %s to attach to node %d, whose daemon says that its server is gone", n.id, d, a.Upstream)
		}
	}
}

// idleWithin is longer than it takes to hear that a server is gone.
const idleWithin = 6 * time.Second

// unsettled says why the cluster is not whole; empty: it is.
func (w *World) unsettled() string {
	p := w.writer()
	if p == nil {
		return "no server takes writes"
	}
	rows := p.rows()
	for _, n := range w.nodes {
		s, row := &n.server, rows[n.id-1]
		switch {
		case s == p && (row.Role != cluster.Primary || !row.Active):
			return fmt.Sprintf("node %d takes writes, and is recorded as %s, active %v", n.id, row.Role, row.Active)
		case s == p:
		case n.witness && row.Upstream != p.n.id:
			return fmt.Sprintf("the witness node %d is recorded behind node %d", n.id, row.Upstream)
		case n.witness:
		case s.writes():
			return fmt.Sprintf("node %d takes writes beside node %d", n.id, p.n.id)
		case row.Role != cluster.Standby || !row.Active || row.Upstream != s.upstream:
			return fmt.Sprintf("node %d is recorded as %s of node %d, active %v, and follows node %d: receives %v, at %s on timeline %d", n.id, row.Role, row.Upstream, row.Active, s.upstream, s.streams(), s.lsn(), s.timeline)
		default:
			if why := w.astray(s, p); why != "" {
				return why
			}
		}
	}
	return ""
}

// administrator does what nobody else does under the visibility rule, when everything is well: a standby
// that is down is started, a former primary and one that has left the history is cloned, and
// where no server takes writes for long the one that has most is made the primary.
func (w *World) administrator() {
	w.after(nil, 3*time.Second, w.administrator)
	p := w.writer()
	promotes := slices.ContainsFunc(w.nodes, func(n *node) bool { return n.server.promote != 0 })
	if p == nil && !promotes {
		if w.now-w.writtenAt > 30*time.Second {
			w.choosePrimary()
		}
		return
	}
	if w.writtenAt = w.now; p == nil || !p.answers() || p.rows()[p.n.id-1].Role != cluster.Primary {
		return // it is to be promoted, or recorded as the primary
	}
	for _, n := range w.nodes {
		s := &n.server
		if n.witness || s == p {
			continue
		}
		_, err := p.serve(s)
		switch {
		case !s.up && s.armed && err == nil:
			n.startByHand()
		case !s.up || err != nil && !s.writes() && s.answers(): // a receiver that is turned away is there for a moment, again and again
			w.log(s, "cloned by hand from node %d", p.n.id)
			s.sweep()
			s.copyOf(p)
			s.upstream, s.held, n.disk.ended = p.n.id, false, false
			p.recordStandby(n.id, p.n.id)
			s.boot()
		case w.now > w.healed+30*time.Second && s.standby && s.streams() && w.misled(s, p):
			w.log(s, "told to follow node %d by hand", p.n.id) // it was away while the primary changed, and came back behind the former one
			s.point(p.n.id)
			p.recordStandby(n.id, p.n.id)
		}
	}
}

// misled reports whether a standby follows another than the primary and nobody wanted it there, or
// another than it is recorded behind.
func (w *World) misled(s, p *server) bool {
	rows := p.rows()
	return s.upstream != rows[s.n.id-1].Upstream || !w.cascades && s.upstream != p.n.id && rows[s.upstream-1].Role == cluster.Standby
}

// reasons are rules for which a standby may wait longer than an administrator does: its record may be
// out of date, another has what it has not, or the primary was stopped in order.
var reasons = []string{"record-without-upstream", "wait-ahead", "wait-location"}

// overdue checks that somebody was promoted where only the primary is down, and a standby that may be
// promoted follows it (V3).
func (w *World) overdue() {
	down, could := 0, cluster.NodeID(0)
	for _, n := range w.nodes {
		s := &n.server
		switch {
		case n.witness:
		case !s.up || !s.ready:
			down++
		case n.priority > 0 && !n.manual && s.standby && !slices.Contains(reasons, n.daemon.rule):
			could = n.id
		}
	}
	if down == 1 && could != 0 && !w.cascades {
		w.fail("V3: only the primary is down, and nobody is promoted, though node %d could be%s", could, w.allRules())
	}
}

// choosePrimary has the administrator make a server the primary.
func (w *World) choosePrimary() {
	var best *server
	for _, n := range w.nodes {
		if s := &n.server; !n.witness && (best == nil || s.timeline > best.timeline || s.timeline == best.timeline && s.lsn() > best.lsn()) {
			best = s
		}
	}
	w.overdue()
	w.writtenAt = w.now
	w.log(best, "made the primary by hand")
	if best.up {
		best.order(best.timeline + 1)
		return
	}
	best.armed = false
	best.boot()
}
