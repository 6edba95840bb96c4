package sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/quorum"
	"repmgr/internal/record"
)

// Raft's times: a tick is a fiftieth of the lease's time to live, an election a fifth.
const (
	electionTicks = 10
	compactEvery  = 200                    // entries
	askedEvery    = 150 * time.Millisecond // when nothing is new: at every other tick
)

// disk is what outlives the daemon; of cached, what was not synced is lost with the power.
type disk struct {
	cached, synced quorum.Stored
	seal           failover.Sealed
	tries          int            // of a rejoin, in vain
	ended          bool           // this daemon ended its server, and it has not run since
	stalled        time.Duration  // until then nothing is synced
	nodes          []cluster.Node // under the visibility rule: the records as they were read last
	promotes       cluster.NodeID // after whose loss its server was ordered to promote itself, and in which life
	promotesIn     int
	paused         bool // the daemons, by an operator
	promotesAt     time.Duration
}

// daemon is repmgrd: the brain and the group as they are, the eyes and the hands as models.
type daemon struct {
	process
	n        *node
	view     *failover.View
	group    *quorum.Group
	rec      *record.Record
	compact  uint64 // index of the last snapshot
	life     uint64 // drawn at random
	sequence uint64
	saving   *quorum.Batch
	asked    map[uint64]record.Change // own proposals under way, by request
	askers   map[uint64]uint64        // as leader: who made a request, by raft id
	turning  bool
	looking  bool
	ready    bool
	leader   leadership
	rule     string        // that decided last
	calm     bool          // each table's last word was one that nothing follows from
	changed  bool          // the record was, by more than a renewal
	turned   time.Duration // when the brain was asked last

	sight    sight
	job      int // of the hands; an older one was broken off
	broken   int // the one that ends since it was overtaken
	demoting bool
	told     time.Time // the deadline that was sent to the guard
	acked    time.Time // and that the guard has
	ensuring bool
	syncDue  time.Duration // when the walsenders are looked at again

	ticks, turns func() // tick and turn, which happen over and over
}

// leadership is what is watched of the group between two batches.
type leadership struct {
	leader uint64
	own    bool
}

func (d *daemon) String() string { return d.n.String() }

// boot starts the daemon from what is on disk.
func (d *daemon) boot() {
	n, w := d.n, d.n.w
	if d.up || n.off {
		return
	}
	*d = daemon{process: process{life: d.process.life, rng: d.rng}, n: n}
	d.start()
	d.ticks, d.turns = d.tick, d.turn
	d.life, d.asked, d.askers = w.rng.Uint64(), map[uint64]record.Change{}, map[uint64]uint64{}
	d.view = failover.New(n.id, w.policy)
	d.view.Policy.Automatic = !n.manual
	d.view.Life = d.life
	stored := n.disk.cached
	stored.Entries = slices.Clone(stored.Entries)
	group, err := quorum.New(quorum.Options{ID: n.raftID, Stored: stored, ElectionTicks: electionTicks, HeartbeatTicks: 1})
	if err != nil {
		w.fail("node %d cannot start from what it stored: %v", n.id, err)
	}
	d.group = group
	d.restore(stored.Snapshot.GetData(), stored.Snapshot.GetMetadata().GetIndex())
	w.log(d, "the daemon starts")
	if n.disk.tries > 0 {
		d.see(failover.RejoinsKept{Tries: n.disk.tries})
	}
	if w.Defect == SealForgotten && n.server.upstream == 0 && n.server.standby && n.server.up {
		n.server.upstream = w.row(n.id).Upstream
		n.server.receive()
	}
	if n.disk.seal.LSN != 0 {
		d.see(failover.SealedAt{Sealed: n.disk.seal})
	}
	if d.rec == nil && !w.Visibility {
		d.see(failover.RuleRead{Quorum: true}) // the registry says so
	}
	if w.Visibility {
		d.see(failover.NodesRead{Nodes: n.disk.nodes})
		d.see(failover.PauseSet{Paused: n.disk.paused})
		d.sight = sight{looked: map[cluster.NodeID]time.Duration{}, looking: map[cluster.NodeID]bool{}, heard: map[cluster.NodeID]time.Duration{}}
		if n.disk.promotes != 0 {
			d.see(failover.PromotionKept{Lost: n.disk.promotes})
			w.after(&d.process, time.Second, d.awaitPromotion)
		}
		w.after(&d.process, 0, d.gaze)
	} else {
		d.see(failover.NodesRead{Nodes: w.rows()})
	}
	d.see(failover.LocalSeen{Local: d.eyes()})
	d.told, d.acked = n.guard.deadline, n.guard.deadline
	d.work()
	d.seeGroup()
	d.pollGuard()
	w.after(&d.process, w.between(time.Millisecond, 50*time.Millisecond), func() { d.ready = true; d.kick(); d.soon() })
	w.after(&d.process, 0, d.tick)
	w.after(&d.process, 0, d.speak)
	w.after(&d.process, 0, d.read)
}

// recordOf is the record that a text says. Many start from the same: it is read once.
func (w *World) recordOf(text []byte) *record.Record {
	r, known := w.texts[string(text)]
	if !known {
		var err error
		if r, err = record.Decode(text); err != nil {
			w.fail("%v", err)
		}
		w.texts[string(text)] = r
	}
	return r.Clone()
}

// crash ends the daemon; a batch that was being saved may be on disk.
func (d *daemon) crash() {
	if !d.up {
		return
	}
	if d.saving != nil && d.n.w.chance(50) {
		d.save(*d.saving)
	}
	d.end()
	d.n.w.log(d, "the daemon is gone")
}

func (d *daemon) restore(data []byte, index uint64) {
	if len(data) == 0 {
		return
	}
	d.rec, d.compact = d.n.w.recordOf(data), index
}

// tick is the daemon's clock.
func (d *daemon) tick() {
	w := d.n.w
	w.after(&d.process, d.n.lasts(standard.LeaseTTL/50), d.ticks)
	d.group.Tick()
	d.work()
	d.watchGroup()
	since := w.now - d.turned
	idle := since < d.n.lasts(askedEvery) || since < d.n.lasts(3*askedEvery) && d.steady()
	if d.leader.own && !idle {
		d.seeGroup() // for the others' progress
	}
	d.pollGuard()
	if !idle {
		d.soon()
		return
	}
	if r, due := failover.Renewal(d.view, d.n.clock()); due {
		d.propose(r)
	}
	d.tellGuard()
}

// observe hands an event to the brain, which is asked soon what follows from it, if
// it tells anything new. For what follows from time alone it is asked at every other
// tick, but where nothing can: then twice a second.
func (d *daemon) observe(e failover.Event) {
	fresh := d.fresh(e)
	d.see(e)
	if fresh {
		d.soon()
	}
}

// fresh reports whether an event tells what the brain does not know yet.
func (d *daemon) fresh(e failover.Event) bool {
	v := d.view
	switch e := e.(type) {
	case failover.LocalSeen:
		l := v.Local
		l.At, l.Since, l.Position.LSN, l.Replayed = e.Local.At, e.Local.Since, e.Local.Position.LSN, e.Local.Replayed
		return e.Local != l
	case failover.PeerReported:
		old, r := v.Peers[e.Report.Node], e.Report
		o := old.Report
		return d.n.clock().Sub(old.At) > time.Second || o.Incarnation != r.Incarnation || o.Server != r.Server || o.Role != r.Role || o.Term != r.Term ||
			o.RaftID != r.RaftID || o.Voters != r.Voters || o.Priority != r.Priority || o.Type != r.Type || o.Upstream != r.Upstream || o.Receiving != r.Receiving || o.Barred != r.Barred || o.PromotionRule != r.PromotionRule
	case failover.NodesRead:
		return !slices.Equal(e.Nodes, v.Nodes)
	case failover.GuardSeen:
		return e.Alive != v.Guard.Alive || e.Deadline.IsZero() != v.Guard.Deadline.IsZero()
	case failover.GroupSeen:
		g := e.Group
		return d.changed || g.Leads != v.Group.Leads || g.Leader != v.Group.Leader || g.Changing != v.Group.Changing || !slices.Equal(g.Progress, v.Group.Progress)
	case failover.Answered:
		_, renewal := e.Change.(record.Renew)
		return !renewal || e.Err != "" || e.Refused != "" || !d.steady()
	}
	return true
}

// nothingFollows are the rules of each table after which nothing is ordered until
// something happens, or a lease comes near its end.
var nothingFollows = map[string]bool{"primary-holds": true, "standby-follows": true, "presides": true, "not-leading": true,
	"sync-not-here": true, "sync-off": true, "sync-settled": true}

// steady reports whether nothing follows from time alone for a second.
func (d *daemon) steady() bool {
	v, now := d.view, d.n.clock()
	if !d.calm || d.rec == nil || !v.Guard.Alive || d.rec.Lease.State != record.Held && d.rec.Lease.State != record.Indefinite {
		return false
	}
	limited := d.rec.Lease.State == record.Held
	overdue := v.Group.Leads && limited && now.Sub(v.Group.LeaseAt) > time.Second
	unsure := limited && d.rec.Lease.Holder == d.n.id && v.Tenure.Deadline.Sub(now) < standard.LeaseTTL/2
	return !overdue && !unsure
}

func (d *daemon) soon() {
	if !d.turning {
		d.turning = true
		d.n.w.after(&d.process, d.n.w.between(50*time.Microsecond, 2*time.Millisecond), d.turns)
	}
}

// turn decides and gives orders.
func (d *daemon) turn() {
	d.turning = false
	if !d.ready {
		return
	}
	w, now := d.n.w, d.n.clock()
	d.turned, d.calm = w.now, true
	if failover.Overtaken(d.view, now) && w.Defect != OvertakenAwaited {
		d.breakOff()
	}
	d.tellGuard()
	if r, due := failover.Renewal(d.view, now); due {
		d.propose(r)
	}
	for i, decision := range []failover.Decision{failover.Decide(d.view, now), d.preside(now)} {
		w.decided(quorumTable+i, d, decision.Rule)
		d.calm = d.calm && nothingFollows[decision.Rule]
		if i == 0 && decision.Rule != d.rule {
			d.rule = decision.Rule
			w.log(d, "%s: %s", decision.Rule, decision.Why)
			if w.Visibility {
				w.after(&d.process, time.Millisecond, d.exchange)
			}
		}
		for _, a := range w.Defect.orders(decision) {
			d.order(a)
		}
	}
	d.synchronize()
	d.tellGuard()
}

// eyes is what a look at the own server finds.
func (d *daemon) eyes() failover.Local {
	if d.n.witness {
		return failover.Local{At: d.n.clock(), State: failover.ServerRunning, Role: cluster.Primary, SystemID: "w", Incarnation: d.n.server.incarnation}
	}
	return d.n.server.local()
}

// kick makes the daemon look soon: its pidfd tells of the postmaster's death.
func (d *daemon) kick() {
	if d.up && !d.looking {
		d.looking = true
		d.n.w.after(&d.process, d.n.w.between(time.Millisecond, 20*time.Millisecond), d.look)
	}
}

// look looks at the server. That it has crashed is said after its orphans are gone.
func (d *daemon) look() {
	d.looking = false
	w, s := d.n.w, &d.n.server
	if !s.up && s.orphans.up && w.Defect != ReleaseUnswept {
		d.looking = true
		w.after(&d.process, w.between(5*time.Millisecond, 100*time.Millisecond), func() {
			if s.orphans.up && !s.forks() {
				s.orphans.end()
			}
			if w.Defect == ScanOnce {
				d.looking = false
				d.observe(failover.LocalSeen{Local: d.eyes()})
				return
			}
			d.look()
		})
		return
	}
	l := d.eyes()
	if l.State == failover.ServerUnreachable && d.view.Local.State != l.State {
		d.looking = true
		w.after(&d.process, time.Second, func() { d.looking = false; d.observe(failover.LocalSeen{Local: d.eyes()}) })
		return
	}
	d.observe(failover.LocalSeen{Local: l})
}

// speak tells the others what this daemon knows.
func (d *daemon) speak() {
	w, v := d.n.w, d.view
	w.after(&d.process, d.n.lasts(500*time.Millisecond), d.speak)
	d.kick()
	if w.Visibility {
		d.exchange()
		return
	}
	d.sequence++
	self, _ := cluster.Find(v.Nodes, d.n.id)
	r := failover.Report{Node: d.n.id, Name: d.n.String(), Incarnation: d.life, Sequence: d.sequence, Type: self.Role, Priority: d.n.priority, Automatic: true,
		Server: v.Local.State, Role: v.Local.Role, Position: v.Local.Position, Receiving: v.Local.Receiving, Upstream: self.Upstream, RaftID: d.n.raftID, Rule: d.rule, Level: d.n.level, Location: d.n.location(), Barred: v.Barred()}
	if d.rec != nil {
		r.PromotionRule, r.Term, r.Voters = d.rec.Rule, d.rec.Term, d.rec.Voters()
	}
	var told failover.Event = failover.PeerReported{Report: r} // one for all
	say := func(p *daemon) {
		w.Defect.unseals(p, told)
		p.observe(told)
	}
	for _, to := range w.nodes {
		if to != d.n {
			d.send(to, say)
		}
	}
}

// send lets something happen in another daemon.
func (d *daemon) send(to *node, do func(*daemon)) {
	d.n.w.net.send(message{t: ofDaemons, from: d.n.id, to: to.id, daemon: &to.daemon, say: do})
}

// read reads the registry, which may be a little old.
func (d *daemon) read() {
	w := d.n.w
	if w.Visibility {
		d.readRows()
		w.after(&d.process, d.n.lasts(2*time.Second), d.read)
		return
	}
	if d.rec != nil && d.rec.Lease.Promoted && d.rec.Holds(d.n.id, d.n.server.incarnation) && d.n.server.writes() && w.row(d.n.id).Role != cluster.Primary {
		w.succession(d.n.id) // an earlier life of this daemon was to write it
	}
	nodes := w.rows()
	w.after(&d.process, w.between(50*time.Millisecond, 500*time.Millisecond), func() { d.observe(failover.NodesRead{Nodes: nodes}) })
	w.after(&d.process, d.n.lasts(2*time.Second), d.read)
}

// work does what the group has to do: save, then send, then apply.
func (d *daemon) work() {
	for d.saving == nil {
		b, ok := d.group.Next()
		if !ok {
			return
		}
		if b.HardState == nil && len(b.Entries) == 0 && b.Snapshot == nil {
			d.finish(b)
			continue
		}
		d.store(b)
	}
}

// store has a batch on disk in a while, and goes on then.
func (d *daemon) store(b quorum.Batch) {
	w := d.n.w
	if w.Defect == SentUnsaved {
		d.dispatch(b.Messages)
		b.Messages = nil
	}
	d.saving = &b
	takes := w.between(100*time.Microsecond, 10*time.Millisecond)
	if stall := d.n.disk.stalled - w.now; stall > 0 {
		takes += stall
	}
	w.after(&d.process, takes, func() {
		d.saving = nil
		d.save(b)
		d.finish(b)
		d.work()
	})
}

func (d *daemon) save(b quorum.Batch) {
	if d.n.w.Defect == VoteForgotten {
		b.HardState = nil
	}
	d.n.disk.cached.Save(b.Durable)
	if b.MustSync {
		d.n.disk.synced = d.n.disk.cached // what comes later is appended, and is not in here
	}
}

func (d *daemon) finish(b quorum.Batch) {
	w := d.n.w
	d.dispatch(b.Messages)
	if b.Restore != nil {
		d.restore(b.Restore.GetData(), b.Restore.GetMetadata().GetIndex())
	}
	if len(b.Committed) > 0 && d.rec != nil {
		d.rec = d.rec.Clone()
	}
	for _, c := range b.Committed {
		e := w.committed(d.n, c)
		if d.rec == nil {
			w.fail("S3: node %d applies index %d and has no record", d.n.id, c.Index)
		}
		if e.Version > d.n.level {
			w.fail("B38: node %d meets an entry of kind %q at index %d, of level %d, and its program knows %d", d.n.id, e.Kind, c.Index, e.Version, d.n.level)
		}
		before := d.rec.Lease.State
		d.apply(c, e)
		d.changed = d.changed || e.Kind != "renew" || d.rec.Lease.State != before
	}
	d.changed = d.changed || b.Restore != nil
	d.group.Done(b)
	if err := d.group.Err(); err != nil {
		w.fail("the group of node %d is broken: %v", d.n.id, err)
	}
	if len(b.Committed) > 0 || b.Restore != nil {
		d.seeGroup()
	}
	if at := d.group.Applied(); d.rec != nil && at > d.compact+compactEvery || d.rec != nil && d.group.WantsSnapshot() {
		d.snapshot(at)
	}
}

func (d *daemon) dispatch(messages []*raftpb.Message) {
	for _, m := range messages {
		d.frame(quorum.Frame{Group: "g", From: m.GetFrom(), To: m.GetTo(), Message: m})
	}
}

func (d *daemon) snapshot(at uint64) {
	text, err := d.rec.Encode()
	if err != nil {
		d.n.w.fail("%v", err)
	}
	if snap, err := d.group.Compact(at, text); err == nil {
		d.n.disk.cached.Compacted(snap)
		d.n.disk.synced = d.n.disk.cached
		d.compact = at
	}
}

// apply takes in an entry, and tells who asked for it what came of it.
func (d *daemon) apply(c quorum.Committed, e decoded) {
	why := e.applyTo(d.rec, c, d.n.w.Defect)
	if to, ok := d.askers[e.Request]; ok && c.Change == nil {
		delete(d.askers, e.Request)
		if to == d.n.raftID {
			d.answered(quorum.Answer{Request: e.Request, Index: c.Index, Refused: why})
		} else {
			d.frame(quorum.Frame{Group: "g", From: d.n.raftID, To: to, Answer: &quorum.Answer{Request: e.Request, Index: c.Index, Refused: why}})
		}
	}
}

// decoded is an entry of the log as the first node that applied it read it: what
// the same bytes mean is the same for all.
type decoded struct {
	record.Entry
	data   []byte
	change record.Change // nil: a change of members
	member record.Member
	err    error
}

func decode(c quorum.Committed) (d decoded) {
	switch {
	case c.Change == nil:
		d.data = c.Data
		d.Entry, d.change, d.err = record.DecodeEntry(c.Data)
	default:
		d.data = fmt.Appendf(nil, "%s %x %s", c.Change.Kind, c.Change.ID, c.Change.Context)
		if c.Change.Kind != quorum.Remove {
			d.member, d.err = record.DecodeMember(c.Change.Context)
		}
	}
	return d
}

// applyTo changes the record by what was committed, and returns why it was refused.
func (d *decoded) applyTo(r *record.Record, c quorum.Committed, planted Defect) string {
	switch {
	case d.err != nil:
		return d.err.Error()
	case c.Change == nil:
		return planted.apply(r, d.change, d.At, c.Index)
	case c.Change.Kind == quorum.Remove:
		r.RemoveMember(c.Change.ID, epoch, c.Index)
	default:
		r.SetMember(d.member, epoch, c.Index)
	}
	return ""
}

// frame sends a frame: a proposal, an answer and a snapshot as bytes. Raft's other
// messages are most of them, and go as they are: who gets one changes nothing in it.
func (d *daemon) frame(f quorum.Frame) {
	if m := f.Message; m != nil && m.GetType() != raftpb.MsgSnap {
		if to := d.n.w.ofRaft(f.To); to != nil {
			d.n.w.net.send(message{t: ofDaemons, from: d.n.id, to: to.id, daemon: &to.daemon, raft: m})
		}
		return
	}
	text, err := f.Encode()
	if err != nil {
		d.n.w.fail("%v", err)
	}
	if to := d.n.w.ofRaft(f.To); to != nil {
		d.send(to, func(p *daemon) { p.receive(text) })
	}
}

// ofRaft is the node whose state directory has that raft id; nil: none has.
func (w *World) ofRaft(id uint64) *node {
	for _, n := range w.nodes {
		if n.raftID == id {
			return n
		}
	}
	return nil
}

func (d *daemon) receive(text []byte) {
	f, err := quorum.DecodeFrame(text)
	if err != nil {
		d.n.w.fail("%v", err)
	}
	d.take(f)
}

func (d *daemon) take(f quorum.Frame) {
	switch {
	case f.To != d.n.raftID:
		return
	case f.Proposal != nil:
		d.asks(f.From, f.Proposal.Request, f.Proposal.Data)
	case f.Answer != nil:
		d.answered(*f.Answer)
	default:
		_ = d.group.Step(f.Message)
	}
	d.work()
	d.watchGroup()
}

// propose asks the leader for a change.
func (d *daemon) propose(c record.Change) {
	d.n.w.Defect.proposes(d, c)
	d.see(failover.Asked{Change: c})
	if _, renewal := c.(record.Renew); !renewal {
		d.n.w.log(d, "proposes %s %+v", record.KindOf(c), c)
	}
	request := d.n.w.rng.Uint64() >> 1
	text, err := record.EncodeEntry(c, d.n.id, request, epoch)
	if err != nil {
		d.n.w.fail("%v", err)
	}
	d.asked[request] = c
	send := func() {
		if to, _ := d.group.Leader(); to != 0 && to != d.n.raftID {
			d.frame(quorum.Frame{Group: "g", From: d.n.raftID, To: to, Proposal: &quorum.Proposal{Request: request, Data: text}})
			return
		}
		d.n.w.after(&d.process, 0, func() { d.asks(d.n.raftID, request, text); d.work() })
	}
	if failover.GuardFirst(d.view, c, d.n.clock()) && d.n.w.Defect != PromoteUnguarded {
		d.guarded(send)
		return
	}
	send()
}

// guarded does something once the guard knows the deadline.
func (d *daemon) guarded(do func()) {
	g, w := &d.n.guard, d.n.w
	want, watch := failover.Deadline(d.view)
	if !watch {
		do()
		return
	}
	w.after(&d.process, w.between(50*time.Microsecond, 3*time.Millisecond), func() {
		if g.extend(want) {
			d.told, d.acked = want, g.deadline
			do()
		}
	})
}

// asks takes a proposal in, if this node leads.
func (d *daemon) asks(from, request uint64, text []byte) {
	var err error
	if why := d.unknown(text); why != "" {
		err = errors.New(why)
	} else {
		err = d.group.Propose(text)
	}
	if err == nil {
		d.askers[request] = from
		return
	}
	leader, _ := d.group.Leader()
	a := quorum.Answer{Request: request, Refused: err.Error(), Leader: leader}
	if from == d.n.raftID {
		d.answered(a)
	} else {
		d.frame(quorum.Frame{Group: "g", From: d.n.raftID, To: from, Answer: &a})
	}
}

func (d *daemon) answered(a quorum.Answer) {
	c, ok := d.asked[a.Request]
	if _, renewal := c.(record.Renew); !ok || renewal && d.n.w.Defect == OwnDiskRenews {
		return
	}
	delete(d.asked, a.Request)
	e := failover.Answered{Change: c}
	if a.Index == 0 {
		e.Err = a.Refused
	} else {
		e.Refused = a.Refused
	}
	d.observe(e)
}

// watchGroup notices that another node leads.
func (d *daemon) watchGroup() {
	leader, own := d.group.Leader()
	if l := (leadership{leader, own}); l != d.leader {
		d.leader = l
		d.n.w.log(d, "the group's leader is %x, ready here: %v", l.leader, l.own)
		d.seeGroup()
	}
}

func (d *daemon) seeGroup() {
	s := d.group.Status()
	g := failover.Group{Known: !d.n.w.Visibility, Record: d.rec, RaftID: d.n.raftID, Leads: d.n.w.Defect.leads(s), Changing: s.Changing}
	if d.rec != nil {
		g.Leader = d.rec.NodeOf(s.Leader)
	}
	for _, p := range s.Peers {
		g.Progress = append(g.Progress, failover.Progress{RaftID: p.ID, Active: p.Active, CaughtUp: p.Match+10 > s.Commit})
	}
	d.observe(failover.GroupSeen{Group: g})
	d.changed = false
}

// row is a node's record in the registry, or what it was or will be.
func (w *World) row(id cluster.NodeID) *cluster.Node { return &w.registry[id-1] }

// rows is the registry as it can be read now.
func (w *World) rows() []cluster.Node {
	return slices.DeleteFunc(slices.Clone(w.registry), func(r cluster.Node) bool { return w.nodes[r.ID-1].unregistered })
}

// found makes the group as it is when the quorum rule has begun.
func (w *World) found(begin record.Begin) {
	var rec *record.Record
	var voters, learners []uint64
	for _, n := range w.nodes {
		m := record.Member{Node: n.id, Name: n.String(), RaftID: n.raftID, Voter: int(n.id) <= failover.MaximumVoters, Witness: n.witness, Priority: n.priority, Automatic: true}
		if rec == nil {
			rec = record.New("g", "s", m)
		}
		rec.SetMember(m, epoch, 1)
		if m.Voter {
			voters = append(voters, n.raftID)
		} else {
			learners = append(learners, n.raftID)
		}
	}
	if why := rec.Apply(begin, epoch, 1); why != "" {
		panic(fmt.Sprint("sim: ", why))
	}
	text, err := rec.Encode()
	if err != nil {
		panic(err)
	}
	for _, n := range w.nodes {
		s := quorum.Found(n.raftID, text)
		s.Snapshot.Metadata.ConfState.Voters, s.Snapshot.Metadata.ConfState.Learners = slices.Clone(voters), slices.Clone(learners)
		n.disk.cached, n.disk.synced = s, s
	}
	w.check.begin(w, text)
}
