package sim

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/quorum"
	"repmgr/internal/record"
)

// order carries an order out, or begins to.
func (d *daemon) order(a failover.Action) {
	switch a := a.(type) {
	case failover.Propose:
		d.propose(a.Change)
		return
	case failover.HandLead:
		d.n.w.log(d, "hands the group's leadership to %x", a.To)
		d.group.Transfer(a.To)
		d.work()
		return
	case failover.ChangeMember:
		d.changeMember(a)
		return
	case failover.Rejoin:
		if at := d.n.failedRejoin; at != 0 && d.n.w.now-at < d.n.lasts(4*time.Second) {
			d.n.w.fail("B31: the return of node %d is tried %s after one that failed", d.n.id, d.n.w.now-at)
		}
	case failover.PlaceBid, failover.WithdrawBid:
		d.see(failover.Ordered{Action: a})
		return
	case failover.Promote:
		if !d.lookedLately(a.Lost) {
			return
		}
	case failover.Fence, failover.Demote:
		if d.demoting {
			return
		}
		d.demoting = true
		d.n.w.tameFails("node %d: %s", d.n.id, failover.Describe(a))
		if old := d.view.Doing; old != nil {
			d.see(failover.Done{Action: old, Err: "broken off"})
		}
	}
	d.n.w.log(d, "ORDER %s", failover.Describe(a))
	d.see(failover.Ordered{Action: a})
	d.job++
	h := hand{d: d, s: &d.n.server, a: a, job: d.job, began: d.n.w.now}
	if _, urgent := a.(failover.Demote); !urgent && d.n.w.chance(2) && d.n.w.healed == 0 {
		h.then(50*time.Millisecond, func() { h.done("it failed") })
		return
	}
	h.begin()
}

func (d *daemon) changeMember(a failover.ChangeMember) {
	text, err := json.Marshal(a.Member)
	if err != nil {
		d.n.w.fail("%v", err)
	}
	c := quorum.Change{Kind: quorum.AddLearner, ID: a.Member.RaftID, Context: text}
	switch {
	case a.Remove:
		c.Kind = quorum.Remove
	case a.Member.Voter:
		c.Kind = quorum.AddVoter
	}
	if err := d.group.ProposeChange(c); err == nil {
		d.n.w.log(d, "%s %x", c.Kind, c.ID)
	}
	d.work()
	d.seeGroup()
}

// hand is one order while it is carried out. Between two steps anything may happen.
type hand struct {
	d     *daemon
	s     *server
	a     failover.Action
	job   int
	began time.Duration
}

// then goes on within a while, unless the order was broken off.
func (h hand) then(within time.Duration, do func()) {
	w := h.d.n.w
	w.after(&h.d.process, w.between(within/20, within), func() {
		if h.d.job == h.job {
			do()
		}
	})
}

func (h hand) done(problem string) {
	if problem != "" {
		h.d.n.w.log(h.d, "%s: %s", failover.Describe(h.a), problem)
		if _, ok := h.a.(failover.Rejoin); ok && h.s.receivedAt < h.began {
			h.d.n.failedRejoin = h.d.n.w.now
		}
	}
	h.d.job++
	h.d.demoting = false
	h.d.see(failover.Done{Action: h.a, Err: problem})
	h.d.look()
}

// breakOff ends an order that was overtaken.
func (d *daemon) breakOff() {
	if d.broken == d.job {
		return
	}
	d.job++
	d.broken = d.job
	h := hand{d: d, s: &d.n.server, a: d.view.Doing, job: d.job, began: d.n.w.now}
	h.then(50*time.Millisecond, func() { h.done("broken off") })
}

// promotedWithin is how long an order waits for what PostgreSQL does, such as a promotion.
const promotedWithin = 20 * time.Second

func (h hand) late() bool { return h.d.n.w.now-h.began > promotedWithin }

func (h hand) begin() {
	if h.d.n.w.Visibility {
		h.beginSight()
		return
	}
	switch a := h.a.(type) {
	case failover.Seal:
		h.then(20*time.Millisecond, func() { h.seal(a) })
	case failover.Reach:
		h.then(20*time.Millisecond, func() { h.reach(a) })
	case failover.PromoteTo:
		h.then(5*time.Millisecond, func() { h.promote(a) })
	case failover.Arm:
		h.then(20*time.Millisecond, func() {
			h.arm()
			h.done("")
		})
	case failover.Disarm:
		h.then(20*time.Millisecond, func() {
			h.s.armed = false
			h.done("")
		})
	case failover.Demote:
		h.then(60*time.Millisecond, func() { h.demote(); h.done("") })
	case failover.GiveUp:
		h.then(80*time.Millisecond, func() { h.giveUp(a) })
	case failover.HandOver:
		h.then(200*time.Millisecond, func() { h.handOver(a) })
	case failover.TakeUp:
		h.then(20*time.Millisecond, h.takeUp)
	case failover.StartServer:
		h.then(20*time.Millisecond, h.start)
	case failover.Rejoin:
		h.then(50*time.Millisecond, func() { h.rejoin(a) })
	case failover.Follow:
		h.then(40*time.Millisecond, func() { h.follow(a) })
	default:
		h.done(fmt.Sprintf("%T is unknown here", a))
	}
}

func (h hand) standby() bool { return h.s.up && h.s.ready && h.s.standby && h.s.frozen <= h.d.n.w.now }

// seal stops the receiving for good. The number of the vacancy is on disk before it is told.
func (h hand) seal(a failover.Seal) {
	if !h.standby() {
		h.done("the server is no standby")
		return
	}
	h.s.upstream = 0
	before := len(h.s.wal)
	wait := 5 * time.Millisecond
	if h.s.slow { // it lives on until it is told to go
		wait = 100 * time.Millisecond
	}
	h.then(wait, func() { h.endReceiver(a, before) })
}

// endReceiver waits until the receiver is gone, which flushes what it has written.
func (h hand) endReceiver(a failover.Seal, before int) {
	w := h.d.n.w
	if h.s.stalled > w.now {
		h.then(20*time.Millisecond, func() { h.endReceiver(a, before) })
		return
	}
	if leaky := w.Defect == SealLeaky && h.s.slow; !leaky {
		h.s.endReceiver()
	}
	h.then(20*time.Millisecond, func() {
		if !h.standby() || h.s.receiver.up && w.Defect != SealLeaky {
			h.done("the server is not sealed")
			return
		}
		seal := failover.Sealed{Group: h.d.view.Group.Record.Group, Vacancy: a.Vacancy, Incarnation: h.s.incarnation, Timeline: h.s.timeline, LSN: w.Defect.position(h.s, before), Line: h.s.line()}
		h.d.n.disk.seal = seal
		w.counts.Sealed++
		h.d.see(failover.SealedAt{Sealed: seal})
		h.done("")
	})
}

// reach finds the end of the WAL, and does not wait for the receiver's end.
func (h hand) reach(a failover.Reach) {
	if !h.standby() {
		h.done("the server is no standby")
		return
	}
	h.d.see(failover.ReachedAt{Sealed: failover.Sealed{Group: h.d.view.Group.Record.Group, Vacancy: a.Vacancy, Incarnation: h.s.incarnation, Timeline: h.s.timeline, LSN: h.s.lsn(), Line: h.s.line()}})
	h.done("")
}

// promote waits for the guard, and orders the promotion.
func (h hand) promote(a failover.PromoteTo) {
	guarded := h.d.n.guard.up && h.d.acked.After(h.d.n.clock()) || h.d.n.w.Defect == PromoteUnguarded
	switch {
	case !h.standby():
		h.done("the server is no standby")
	case !guarded && h.d.n.w.now-h.began > 2*time.Second:
		h.done("the guard has no deadline")
	case !guarded:
		h.then(10*time.Millisecond, func() { h.promote(a) })
	default:
		h.firstSync(a)
	}
}

// firstSync puts the first set in force before the promotion is ordered (B17).
func (h hand) firstSync(a failover.PromoteTo) {
	to := a.Timeline
	if h.d.n.w.Defect == TimelineChosen {
		to = h.s.timeline + 1
	}
	order := func() { h.then(5*time.Millisecond, func() { h.s.order(to); h.promoted(a) }) }
	if a.Mode == record.SyncOff || a.Mode == "" || h.d.n.w.Defect == FirstSetEmpty {
		h.s.setNames("", false)
		order()
		return
	}
	if rec := h.d.rec; rec.Term != a.Sync.Term || rec.Sync.Seq != a.Sync.Seq {
		h.done("the synchronous set has changed since")
		return
	}
	h.s.setNames(a.Sync.Names, true)
	h.inForce(a.Sync.Names, order)
}

// inForce waits until commits wait by that value.
func (h hand) inForce(names string, do func()) {
	switch {
	case h.s.waits == names:
		do()
	case !h.s.up || h.late():
		h.done("the checkpointer has not read the setting")
	default:
		h.then(5*time.Millisecond, func() { h.inForce(names, do) })
	}
}

func (h hand) promoted(a failover.PromoteTo) {
	switch {
	case h.s.up && h.s.ready && !h.s.standby && h.s.timeline == a.Timeline:
		h.d.n.w.succession(h.d.n.id)
		h.done("")
	case !h.s.up || h.s.ready && !h.s.standby:
		h.done("the server is gone, or on another timeline")
	case h.late() && h.d.n.w.Defect == PromotionLeft:
		h.done("the promotion took too long")
	case h.late():
		h.s.sweep() // an order that was read stays in force (B22)
		h.d.n.disk.ended = true
		h.done("the promotion took too long")
	default:
		h.then(10*time.Millisecond, func() { h.promoted(a) })
	}
}

func (h hand) arm() {
	if h.d.n.w.Defect != NeverArmed {
		h.s.armed, h.s.upstream = true, 0
	}
}

// demote ends the server; it stays armed.
func (h hand) demote() {
	switch w := h.d.n.w; {
	case w.Defect == ScanOnce && h.s.orphans.up && h.s.forks():
		h.s.kill(false)
	default:
		h.s.sweep()
	}
	h.arm()
	h.s.clean, h.s.upstream, h.d.n.disk.ended = false, 0, true
}

// giveUp ends what is left of the server, then releases the lease.
func (h hand) giveUp(a failover.GiveUp) {
	if left := h.d.n.w.Defect == PromotionLeft && h.s.promote != 0; !left && h.d.n.w.Defect != ReleaseUnswept {
		h.demote()
	}
	if a.To != 0 && h.s.lsn() != a.End {
		a.To, a.End = 0, 0 // it was started since
	}
	change := releaseOf(h.d, a)
	h.d.propose(change)
	var wait func()
	wait = func() {
		switch asked := h.d.view.Asked[change]; {
		case asked.Waiting && h.d.n.w.now-h.began < 2*time.Second:
			h.then(20*time.Millisecond, wait)
		case asked.Waiting:
			h.done("the release was not answered")
		default:
			h.done(asked.Refused + asked.Err)
		}
	}
	h.then(20*time.Millisecond, wait)
}

// handOver stops the server in order. Its last record may reach the next primary or not.
func (h hand) handOver(a failover.HandOver) {
	s, to := h.s, &h.d.n.w.nodes[a.To-1].server
	if !s.answers() || s.standby {
		h.done("the server is no primary that could be stopped")
		return
	}
	s.stop()
	end := len(s.wal) // after the shutdown checkpoint
	h.d.n.disk.ended = true
	h.then(50*time.Millisecond, func() {
		h.d.view.Observe(failover.StoppedInOrder{Number: a.Number}, h.d.n.clock())
		if len(to.wal) < end || to.wal[end-1] != s.wal[end-1] {
			h.then(time.Second, func() { h.done("the next primary does not have everything") })
			return
		}
		h.d.view.Observe(failover.HandedOver{Number: a.Number, End: cluster.LSN(end)}, h.d.n.clock())
		h.done("")
	})
}

// takeUp starts the server as the primary that it was.
func (h hand) takeUp() {
	if guarded := h.d.n.guard.up && h.d.acked.After(h.d.n.clock()); !guarded || h.s.up || !h.s.clean {
		h.done("the server may not start as a primary")
		return
	}
	h.s.armed = false
	h.s.boot()
	h.started()
}

func (h hand) start() {
	if h.s.torn {
		h.done("the data directory is torn")
		return
	}
	h.arm()
	h.d.n.guard.takeOver()
	h.s.boot()
	h.started()
}

// started waits for the server.
func (h hand) started() {
	switch {
	case h.s.up && h.s.ready:
		h.done("")
	case !h.s.up || h.late():
		h.done("the server does not start")
	default:
		h.then(50*time.Millisecond, h.started)
	}
}

// rejoin makes the server a standby: as it is, where its history allows, else rewound.
func (h hand) rejoin(a failover.Rejoin) {
	w, n := h.d.n.w, h.d.n
	up := &w.nodes[a.Upstream-1].server
	reachable := func() bool { return h.d.reaches(w.nodes[a.Upstream-1]) && up.writes() }
	if !reachable() {
		h.done("the upstream does not answer")
		return
	}
	n.guard.takeOver()
	h.s.sweep()
	h.s.armed, h.s.upstream, h.s.clean, n.disk.ended = true, 0, false, true
	back := func(name string) {
		h.s.upstream, n.disk.seal = a.Upstream, failover.Sealed{}
		h.s.named(name)
		w.succession(a.Upstream)
		*w.row(n.id) = w.standbyRow(n.id, a.Upstream)
		h.s.boot()
		h.started()
	}
	blind := w.Defect == RejoinBlind || w.Defect == RewindSkipped && up.timeline == h.s.timeline
	if _, err := up.serve(h.s); (err == nil || blind) && !h.s.torn {
		h.then(50*time.Millisecond, func() { back(a.Name) })
		return
	}
	h.s.torn = true
	w.ids++
	h.s.incarnation = fmt.Sprintf("d%d.%d", n.id, w.ids)
	h.then(3*time.Second, func() {
		if !reachable() {
			h.done("the rewind was broken off")
			return
		}
		h.s.copyOf(up)
		w.counts.Rewinds++
		back("") // it is measured before it gets the name of the term
	})
}

// succession records who is the primary, and those behind nobody who followed the former one,
// until they follow the next.
func (w *World) succession(id cluster.NodeID) {
	row := w.row(id)
	if row.Role == cluster.Primary && row.Active {
		return // it was promoted anew, or somebody else has written it
	}
	for i := range w.registry {
		former := &w.registry[i]
		if former.Role != cluster.Primary {
			continue
		}
		former.Role, former.Active = cluster.Standby, false
		for j := range w.registry {
			if r := &w.registry[j]; r.Role == cluster.Standby && r.Upstream == former.ID && w.Defect != NobodyLeaves {
				r.Upstream = 0
			}
		}
	}
	row.Role, row.Upstream, row.Active = cluster.Primary, 0, true
}

func (w *World) standbyRow(id, upstream cluster.NodeID) cluster.Node {
	row := *w.row(id)
	row.Role, row.Upstream, row.Active = cluster.Standby, upstream, true
	return row
}

// writesTo reports whether a primary is there to write a record to.
func (h hand) writesTo() bool {
	return slices.ContainsFunc(h.d.n.w.nodes, func(o *node) bool { return o.server.writes() && h.d.reaches(o) })
}

// reaches reports whether a node's server takes connections from here.
func (d *daemon) reaches(o *node) bool {
	w, id := o.w, d.n.id
	return o.server.up && o.server.ready && max(o.server.frozen, o.server.hung) <= w.now && w.net.open(ofServers, id, o.id) && w.net.open(ofServers, o.id, id)
}

// follow points the server at another.
func (h hand) follow(a failover.Follow) {
	w, n := h.d.n.w, h.d.n
	if n.witness {
		w.row(n.id).Upstream = a.Upstream
		h.done("")
		return
	}
	if !h.standby() {
		h.done("the server is no standby")
		return
	}
	if up := w.nodes[a.Upstream-1]; !h.d.reaches(up) || a.Holder && !up.server.writes() || !h.writesTo() {
		h.done("the upstream does not answer, or is no primary any more")
		return
	}
	n.disk.seal = failover.Sealed{}
	h.s.named(a.Name)
	h.s.point(a.Upstream)
	h.then(w.between(0, 20*time.Millisecond), func() {
		if !h.writesTo() {
			h.done("it is not recorded")
			return
		}
		if a.Holder {
			w.succession(a.Upstream)
		}
		*w.row(n.id) = w.standbyRow(n.id, a.Upstream)
		h.attached()
	})
}

// attachedWithin is standby_follow_timeout.
const attachedWithin = 30 * time.Second

// attached waits until the server streams from whom it is pointed at.
func (h hand) attached() {
	switch {
	case h.s.streams():
		h.done("")
	case h.d.n.w.now-h.began > attachedWithin:
		h.done("the server has not attached to its upstream")
	default:
		h.then(50*time.Millisecond, h.attached)
	}
}
