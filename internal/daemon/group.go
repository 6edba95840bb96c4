package daemon

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/quorum"
	"repmgr/internal/raftstore"
	"repmgr/internal/record"
)

// The group's rhythm, in parts of the lease's time to live (safety notes, section C): an
// election takes a fifth, and there are four heartbeats in it. Between two of them is what is
// between two turns of the loop, so that a daemon is woken once for both.
const (
	ticksPerLease  = 40
	electionTicks  = 8
	heartbeatTicks = 2
	compactAfter   = 5000 // entries behind the last snapshot
	proposalBound  = time.Second
)

// group is this daemon's member of the quorum group. One goroutine, run's, owns
// the fields of the first block; others talk to it by its channels, and read what
// stands under the lock. Nothing in here decides anything.
type group struct {
	d     *Daemon
	store *raftstore.Store

	member   *quorum.Group // nil: not a member
	identity raftstore.Identity
	rec      *record.Record // nil: no state was taken over yet
	snapped  uint64         // index of the last snapshot
	asking   map[uint64]uint64
	toldAt   time.Time     // when an operator was told of another founding
	disk     time.Duration // that keeping an entry takes; zero: not measured yet

	unsaved *quorum.Batch // the disk had no room for it; nil: there is none
	triedAt time.Time     // when that was tried last
	fullAt  time.Time     // when an operator was told of it

	frames chan arrived
	queued atomic.Int64 // bytes of frames
	calls  chan func()

	mu      sync.Mutex
	status  quorum.Status
	current *record.Record // as published; never changed in place
	stands  quorum.Standing
	group   string
	nodes   map[cluster.NodeID]uint64     // the raft id under which each node spoke last, by its certificate
	waiting map[uint64]chan quorum.Answer // by request
}

// arrived is a frame and the node that sent it, by its certificate.
type arrived struct {
	from  cluster.NodeID
	frame quorum.Frame
	size  int // bytes, as it came
}

const raftIDKey, sealKey, foundingKey = "raft-id", "seal", "founding"
const trialKey = "trial" // what tryDisk writes

// openGroup opens the store and takes up what it holds.
func openGroup(d *Daemon) (*group, error) {
	store, err := raftstore.Open(d.cfg.StateDir())
	if err != nil {
		return nil, err
	}
	d.onStop("state of the group", store.Close)
	q := &group{d: d, store: store, asking: map[uint64]uint64{}, frames: make(chan arrived, 1024), calls: make(chan func()),
		nodes: map[cluster.NodeID]uint64{}, waiting: map[uint64]chan quorum.Answer{}}
	return q, q.load()
}

func (q *group) load() error {
	if err := q.settle(); err != nil {
		return err
	}
	id, stored, found, err := q.store.Load()
	if err != nil {
		return err
	}
	if !found {
		return q.drawRaftID()
	}
	if err := id.Belongs(q.d.cfg.NodeID, ""); err != nil {
		return err
	}
	return q.join(id, stored)
}

// settle refuses a state directory that was copied here: two daemons would vote in
// one name.
func (q *group) settle() error {
	birth, err := host.Birth(q.store.Path())
	if err != nil {
		return err
	}
	return q.store.Settle(raftstore.Home{Machine: host.MachineID(), File: birth})
}

// drawRaftID gives this state directory an id of its own: never the node's, so
// that a directory that was lost does not vote a second time (safety notes, B8).
func (q *group) drawRaftID() error {
	text, found, err := q.store.Get(raftIDKey)
	if err != nil {
		return err
	}
	if found && len(text) == 8 {
		q.identity.RaftID = binary.BigEndian.Uint64(text)
		return nil
	}
	q.identity.RaftID = mathrand.Uint64()>>1 | 1
	return q.store.Put(raftIDKey, binary.BigEndian.AppendUint64(nil, q.identity.RaftID))
}

// join makes this daemon a member with that state; an empty one waits to be added.
func (q *group) join(id raftstore.Identity, stored quorum.Stored) error {
	member, err := quorum.New(quorum.Options{ID: id.RaftID, Stored: stored, ElectionTicks: electionTicks, HeartbeatTicks: heartbeatTicks,
		Log: func(text string) { q.d.log.Debug("group: " + text) }})
	if err != nil {
		return fault.Wrap(err, fault.BadConfig, "the group's state cannot be taken up").
			WithHint("If this directory is damaged: repmgr cluster reset-quorum --this-node, and the node joins again.")
	}
	q.member, q.identity = member, id
	if s := stored.Snapshot; s != nil && len(s.GetData()) > 0 {
		if q.rec, err = record.Decode(s.GetData()); err != nil {
			return fault.Wrap(err, fault.BadConfig, "the group's state in %s cannot be taken up", q.store.Path()).
				WithHint("Run the version of repmgr that wrote it, or a later one: nothing was changed. To stay with this version see \"Going back\" in docs/upgrade.md.")
		}
		q.snapped = s.GetMetadata().GetIndex()
	}
	return nil
}

// run is the goroutine of the group, until ctx ends.
func (q *group) run(ctx context.Context) {
	tick := time.NewTimer(q.untilTick())
	defer tick.Stop()
	trial := time.NewTicker(measureEvery)
	defer trial.Stop()
	q.pump()
	q.publish()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if q.member != nil && q.unsaved == nil {
				for range heartbeatTicks {
					q.member.Tick()
				}
			}
			tick.Reset(q.untilTick())
		case <-trial.C:
			q.tryDisk()
		case a := <-q.frames:
			q.handle(a)
		case call := <-q.calls:
			call()
		}
		for range len(q.frames) {
			q.handle(<-q.frames)
		}
		if q.pump() || q.moved() {
			q.publish()
		}
	}
}

// untilTick is how long it is until the group ticks again: as often as there is a
// heartbeat, and then once for each tick since. Nothing is due in between but an
// election, which is that much later at most.
func (q *group) untilTick() time.Duration { return q.d.until(heartbeatTicks * q.pace()) }

// pace is how long a tick is: by the lease that is in force, which all members
// know, so that an election costs no lease after the primary's lease_ttl was changed.
func (q *group) pace() time.Duration {
	ttl := q.d.eyes.cfg.Load().LeaseTTL
	if q.rec != nil && q.rec.Lease.TTL > 0 {
		ttl = q.rec.Lease.TTL
	}
	return max(10*time.Millisecond, ttl/ticksPerLease)
}

// queuedBytes is how much may wait to be handled: a disk that stalls stops that,
// and peers go on sending.
const queuedBytes = 32 << 20

// receive takes in a frame of so many bytes that node sent; one more than can be
// taken is lost, as the network might have lost it.
func (q *group) receive(from cluster.NodeID, f quorum.Frame, size int) {
	if q.queued.Add(int64(size)) <= queuedBytes {
		select {
		case q.frames <- arrived{from, f, size}:
			return
		default:
		}
	}
	q.queued.Add(-int64(size))
}

// handle takes in one frame. Those of another group, or in another's name, are refused.
func (q *group) handle(a arrived) {
	q.queued.Add(-int64(a.size))
	f := a.frame
	if q.member == nil {
		if f.Message == nil || f.To != q.identity.RaftID {
			return
		}
		if f.Group == q.d.peers.disowned() {
			q.stranger(a.from, f.Group)
			return
		}
		id := raftstore.Identity{Group: f.Group, RaftID: q.identity.RaftID, Node: q.d.cfg.NodeID}
		err := q.store.Create(id, quorum.Stored{})
		if err == nil {
			err = q.join(id, quorum.Stored{})
		}
		if err != nil {
			q.d.complain(levelNotice, err)
			return
		}
		q.d.notice("this node joins the group", "detail", fmt.Sprintf("group %s, invited by node %d", f.Group, a.from))
	}
	if f.Group != q.identity.Group {
		q.stranger(a.from, f.Group)
		return
	}
	if f.To != q.identity.RaftID {
		q.d.log.Debug(fmt.Sprintf("group: a frame of node %d is for group %s, raft id %x; this is group %s, raft id %x", a.from, f.Group, f.To, q.identity.Group, q.identity.RaftID))
		return
	}
	if q.rec != nil {
		if node := q.rec.NodeOf(f.From); node != 0 && node != a.from {
			q.d.log.Warn(fmt.Sprintf("group: node %d spoke in the name of node %d", a.from, node))
			return
		}
	}
	q.mu.Lock()
	q.nodes[a.from] = f.From
	q.mu.Unlock()
	switch {
	case q.unsaved != nil && f.Answer == nil: // lost, as by the network: what they lead to could not be saved
	case f.Message != nil:
		if err := q.member.Step(f.Message); err != nil {
			q.d.log.Debug("group: " + err.Error())
		}
	case f.Proposal != nil:
		if err := q.proposeFor(f.From, f.Proposal.Request, f.Proposal.Data); err != nil {
			q.send(f.From, quorum.Frame{Answer: &quorum.Answer{Request: f.Proposal.Request, Refused: err.Error(), Leader: q.member.Status().Leader}})
		}
	case f.Answer != nil:
		q.answered(*f.Answer)
	}
}

// strangerAgain is how often an operator is told of another founding.
const strangerAgain = time.Minute

// stranger tells that another node takes part in a group of another founding: one
// of the two was given up for lost, and the other is in force (safety notes, B9).
func (q *group) stranger(from cluster.NodeID, group string) {
	if now := bootTime(); now.Sub(q.toldAt) >= strangerAgain {
		q.toldAt = now
		q.d.log.Error(fmt.Sprintf("node %d takes part in another founding of the group, and is refused", from),
			"detail", fmt.Sprintf("This node's state is of group %s, the other's of group %s.", q.identity.Group, group),
			"hint", "Where the state is of the group that was given up, stop repmgrd and run: repmgr cluster reset-quorum --this-node")
	}
}

// pump does what the group has to do now, in its order: keep, send, apply. It
// reports whether the record changed.
func (q *group) pump() bool {
	changed := false
	for q.member != nil {
		b, ok := q.next()
		if !ok {
			break
		}
		restored, err := q.restored(b)
		if err != nil { // of a newer version: it is not kept, so that what is there stays whole
			q.stop(err)
			return true
		}
		began := bootTime()
		err = q.store.Save(b.Durable)
		if b.Durable.MustSync && err == nil {
			q.disk = failover.Smoothed(q.disk, bootTime().Sub(began))
		}
		if errors.Is(err, syscall.ENOSPC) {
			q.noRoom(b, err)
			return true
		}
		if err != nil {
			q.member.Fail("its state could not be saved: " + err.Error())
			q.d.complain(levelNotice, err)
			return true
		}
		if q.unsaved != nil {
			q.unsaved, changed = nil, true
			q.d.notice("the state of the group can be saved again")
		}
		for _, m := range b.Messages {
			if quorum.OnlyCommits(m) && q.onlyRenews(b.Committed) {
				continue
			}
			q.send(m.GetTo(), quorum.Frame{Message: m})
		}
		if restored != nil {
			q.rec, q.snapped, changed = restored, b.Restore.GetMetadata().GetIndex(), true
		}
		for _, c := range b.Committed {
			if err := q.apply(c); err != nil {
				q.stop(err)
				return true
			}
			changed = true
		}
		q.member.Done(b)
	}
	q.compact()
	return changed
}

// restored is the record that a leader has sent as a whole; nil where it has not.
func (q *group) restored(b quorum.Batch) (*record.Record, error) {
	if b.Restore == nil {
		return nil, nil
	}
	return record.Decode(b.Restore.GetData())
}

// stop ends this node's part in the group, since it does not understand what the others
// have agreed on.
func (q *group) stop(why error) {
	q.member.Fail(why.Error())
	q.d.log.Error("this node's member of the group stops: " + why.Error())
}

// onlyRenews reports whether what is committed keeps a timed lease as it was, and nothing
// else. Nobody waits for that but its holder, who gets an answer. So the others are not told
// at once that it is committed, which would be two frames and two awakenings for each of them:
// the next heartbeat tells.
func (q *group) onlyRenews(committed []quorum.Committed) bool {
	if q.rec == nil || q.rec.Lease.State != record.Held || q.rec.Pause.On {
		return false
	}
	for _, c := range committed {
		if c.Change != nil {
			return false
		}
		if _, change, err := record.DecodeEntry(c.Data); err != nil || record.KindOf(change) != "renew" {
			return false
		}
	}
	return len(committed) > 0
}

// saveAgain is how long a batch waits that the disk had no room for.
const saveAgain = 500 * time.Millisecond

// next is what the group has to do now: the batch before, if it could not be saved.
func (q *group) next() (quorum.Batch, bool) {
	if q.unsaved == nil {
		return q.member.Next()
	}
	if now := bootTime(); now.Sub(q.triedAt) >= saveAgain {
		q.triedAt = now
		return *q.unsaved, true
	}
	return quorum.Batch{}, false
}

// noRoom keeps a batch that a full disk did not take. Nothing of it was sent, and the
// file is as it was before: it is tried again, and until then this member says
// nothing. After any other failure of a disk nobody knows what is on it.
func (q *group) noRoom(b quorum.Batch, err error) {
	now := bootTime()
	q.unsaved, q.triedAt = &b, now
	if q.fullAt.IsZero() || now.Sub(q.fullAt) >= time.Minute {
		q.fullAt = now
		q.d.complain(slog.LevelError, fault.Wrap(err, fault.SysFailure, "this node takes no part in the group: the disk of its state directory is full").
			WithHint("Free space there: it goes on by itself."))
	}
}

// apply takes one committed entry in, and answers who asked for it.
func (q *group) apply(c quorum.Committed) error {
	if q.rec == nil {
		return errors.New("an entry came before the state that it belongs to")
	}
	rec := q.rec.Clone()
	if c.Change != nil {
		m, err := record.DecodeMember(c.Change.Context)
		if err != nil {
			return err
		}
		if c.Change.Kind == quorum.Remove {
			rec.RemoveMember(c.Change.ID, time.Time{}, c.Index)
		} else {
			rec.SetMember(m, time.Time{}, c.Index)
		}
		q.rec = rec
		return nil
	}
	entry, change, err := record.DecodeEntry(c.Data)
	if err != nil {
		return err
	}
	refused := rec.Apply(change, entry.At, c.Index)
	q.rec = rec
	if _, ours := q.asking[entry.Request]; ours {
		q.answer(quorum.Answer{Request: entry.Request, Index: c.Index, Refused: refused})
	}
	if renewal := record.KindOf(change) == "renew"; !renewal || refused != "" {
		q.d.log.Debug(fmt.Sprintf("group: entry %d, %s of node %d", c.Index, entry.Kind, entry.Node), "detail", string(entry.Body)+" "+refused)
	}
	return nil
}

// answer tells who proposed an entry what became of it: at once, from here, so
// that a slow disk of the asker does not count (safety notes, B5).
func (q *group) answer(a quorum.Answer) {
	to := q.asking[a.Request]
	delete(q.asking, a.Request)
	if to == q.identity.RaftID {
		q.answered(a)
		return
	}
	q.send(to, quorum.Frame{Answer: &a})
}

func (q *group) answered(a quorum.Answer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if reply := q.waiting[a.Request]; reply != nil {
		delete(q.waiting, a.Request)
		reply <- a
	}
}

func (q *group) send(to uint64, f quorum.Frame) {
	f.Group, f.From, f.To = q.identity.Group, q.identity.RaftID, to
	node := cluster.NodeID(0)
	if q.rec != nil {
		node = q.rec.NodeOf(to)
	}
	if node == 0 {
		q.mu.Lock()
		for from, id := range q.nodes {
			if id == to {
				node = from
			}
		}
		q.mu.Unlock()
	}
	q.d.peers.sendFrame(node, f)
}

// compact makes a snapshot now and then, and when a newcomer needs one.
func (q *group) compact() {
	if q.member == nil || q.rec == nil {
		return
	}
	applied := q.member.Status().Applied
	if applied < q.snapped+compactAfter && !q.member.WantsSnapshot() || applied <= q.snapped {
		return
	}
	text, err := q.rec.Encode()
	if err == nil {
		var snap *raftpb.Snapshot
		if snap, err = q.member.Compact(applied, text); err == nil {
			err = q.store.Compacted(snap)
		}
	}
	if err != nil {
		q.d.log.Warn("the group's log could not be shortened: " + err.Error())
	}
	q.snapped = applied
}

// moved reports whether what others know of the group's leadership is out of date.
func (q *group) moved() bool {
	if q.member == nil {
		return false
	}
	s := q.member.Status()
	q.mu.Lock()
	defer q.mu.Unlock()
	old := q.status
	if s.Leader != old.Leader || s.OwnTerm != old.OwnTerm || s.Changing != old.Changing || (s.Broken != nil) != (old.Broken != nil) || len(s.Peers) != len(old.Peers) {
		return true
	}
	for i, p := range s.Peers {
		if p.Active != old.Peers[i].Active || caughtUp(s, p) != caughtUp(old, old.Peers[i]) {
			return true
		}
	}
	return false
}

// publish tells the loop and the askers what is known now.
func (q *group) publish() { q.d.send(observed{failover.GroupSeen{Group: q.seen()}}) }

// takeUp applies what was committed in an earlier life, before run begins.
func (q *group) takeUp() failover.Group {
	q.pump()
	return q.seen()
}

// seen is what is known now, in the brain's words; the askers get to know it too.
func (q *group) seen() failover.Group {
	g := failover.Group{RaftID: q.identity.RaftID, Disk: q.disk}
	var s quorum.Status
	if q.member != nil {
		s = q.member.Status()
		g.Leads, g.Changing = s.OwnTerm, s.Changing
		for _, p := range s.Peers {
			g.Progress = append(g.Progress, failover.Progress{RaftID: p.ID, Active: p.Active, CaughtUp: caughtUp(s, p)})
		}
		switch {
		case s.Broken != nil:
			g.Broken = s.Broken.Error()
		case q.unsaved != nil:
			g.Broken = "the disk of the state directory is full"
		}
	}
	switch {
	case q.rec == nil:
	case q.rec.NodeOf(q.identity.RaftID) == q.d.cfg.NodeID:
		g.Record, g.Leader = q.rec, q.rec.NodeOf(s.Leader)
	default: // it was removed
		g.Known = q.rec.Rule == record.Quorum
	}
	if s.Role != quorum.Leader {
		clear(q.asking)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.status, q.current, q.group = s, q.rec, q.identity.Group
	if q.member != nil {
		q.stands = q.member.Standing()
	}
	return g
}

// standingNow is what this node has on its disk of the group's log.
func (q *group) standingNow() failover.Standing {
	q.mu.Lock()
	defer q.mu.Unlock()
	return failover.Standing(q.stands)
}

func caughtUp(s quorum.Status, p quorum.Peer) bool { return p.Match+50 >= s.Commit && p.Match > 0 }

// do runs f in the group's goroutine.
func (q *group) do(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	select {
	case q.calls <- func() { done <- f() }:
		return <-done
	case <-ctx.Done():
		return ctx.Err()
	}
}

// propose asks the leader for a change and waits for the answer: refused is the
// record's word, err says that nobody knows.
func (q *group) propose(ctx context.Context, c record.Change) (refused string, err error) {
	ctx, cancel := context.WithTimeout(ctx, proposalBound)
	defer cancel()
	request := mathrand.Uint64()
	data, err := record.EncodeEntry(c, q.d.cfg.NodeID, request, time.Now())
	if err != nil {
		return "", err
	}
	reply := make(chan quorum.Answer, 1)
	q.mu.Lock()
	leader, own := q.status.Leader, q.status.ID
	node := cluster.NodeID(0)
	if q.current != nil {
		node = q.current.NodeOf(leader)
	}
	frame := quorum.Frame{Group: q.group, From: own, To: leader, Proposal: &quorum.Proposal{Request: request, Data: data}}
	if leader != 0 {
		q.waiting[request] = reply
	}
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		delete(q.waiting, request)
		q.mu.Unlock()
	}()
	switch {
	case leader == 0:
		return "", errNoLeader
	case leader != own:
		q.d.peers.sendFrame(node, frame)
	default:
		if err := q.do(ctx, func() error { return q.proposeFor(own, request, data) }); err != nil {
			return "", err
		}
	}
	select {
	case a := <-reply:
		if a.Index == 0 {
			return "", errors.New(a.Refused)
		}
		return a.Refused, nil
	case <-ctx.Done():
		return "", fmt.Errorf("no answer from the leader, node %d: %w", node, ctx.Err())
	}
}

// insist proposes until the group has answered or ctx ends: a leader may just be
// elected. Only for a change that may be made twice.
func (q *group) insist(ctx context.Context, c record.Change) (refused string, err error) {
	for {
		if refused, err = q.propose(ctx, c); err == nil {
			return refused, nil
		}
		select {
		case <-ctx.Done():
			return "", err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

var errNoLeader = errors.New("no leader of the group is known: a majority cannot be reached")

// proposeFor proposes an entry for the member with that raft id, which is told what
// became of it. What this program does not understand would put every member out
// of order that applies it (safety notes, B38).
func (q *group) proposeFor(from, request uint64, data []byte) error {
	_, change, err := record.DecodeEntry(data)
	if err == nil && q.rec != nil {
		if why := q.rec.Unknown(change); why != "" {
			err = errors.New(why)
		}
	}
	if err == nil {
		err = q.member.Propose(data)
	}
	if err == nil {
		q.asking[request] = from
	}
	return err
}

// change proposes a change of the members.
func (q *group) change(ctx context.Context, a failover.ChangeMember) error {
	text, err := json.Marshal(a.Member)
	if err != nil {
		return err
	}
	c := quorum.Change{Kind: quorum.AddLearner, ID: a.Member.RaftID, Context: text}
	switch {
	case a.Remove:
		c.Kind = quorum.Remove
	case a.Member.Voter:
		c.Kind = quorum.AddVoter
	}
	return q.do(ctx, func() error { return q.member.ProposeChange(c) })
}

func (q *group) handLead(ctx context.Context, to uint64) error {
	return q.do(ctx, func() error { q.member.Transfer(to); return nil })
}

// foundingName is the name of the group that this node founds, the same until it has.
func (q *group) foundingName() (string, error) {
	text, found, err := q.store.Get(foundingKey)
	if err != nil || found {
		return string(text), err
	}
	name := rand.Text()
	return name, q.store.Put(foundingKey, []byte(name))
}

// found makes this node the only member of a new group.
func (q *group) found(ctx context.Context, uuid, systemID string, founder record.Member) error {
	return q.do(ctx, func() error {
		if q.member != nil {
			return errors.New("this node is a member of a group already")
		}
		founder.RaftID = q.identity.RaftID
		text, err := record.New(uuid, systemID, founder).Encode()
		if err != nil {
			return err
		}
		id := raftstore.Identity{Group: uuid, RaftID: q.identity.RaftID, Node: q.d.cfg.NodeID, SystemID: systemID}
		stored := quorum.Found(q.identity.RaftID, text)
		if err := q.store.Create(id, stored); err != nil {
			return err
		}
		if err := q.join(id, stored); err != nil {
			return err
		}
		err = q.member.Campaign()
		q.pump()
		q.publish()
		return err
	})
}

// known is the record as it was applied here, nil for no member, and the group's uuid.
func (q *group) known() (*record.Record, string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.current == nil {
		return &record.Record{Rule: record.Visibility}, q.group
	}
	return q.current, q.group
}

// sealed and keepSeal keep this node's final position over a restart: a bid
// counts only after that (safety notes, section C).
func (q *group) sealed() failover.Sealed {
	var s failover.Sealed
	if text, found, err := q.store.Get(sealKey); err == nil && found {
		_ = json.Unmarshal(text, &s) // an unreadable one is none: the server is sealed again
	}
	return s
}

func (q *group) keepSeal(s failover.Sealed) error {
	if kept := q.sealed(); kept.Group == s.Group && kept.Vacancy > s.Vacancy {
		return fmt.Errorf("this node is sealed for vacancy %d, and its record is behind", kept.Vacancy)
	}
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return q.store.Put(sealKey, text)
}

// bootTime is the clock of everything that a lease depends on: it counts through
// a suspension, and no wall clock moves it.
func bootTime() time.Time { return host.Now() }
