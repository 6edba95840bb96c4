package quorum

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/cryptotest"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// member is a process: a group, its store, and a state that is the list of
// what it applied. The store keeps only what a batch told it to save.
type member struct {
	*Group
	stored  Stored
	state   []string
	applied uint64
	life    uint64
	down    bool
}

// world is a network of members, driven by one seed: messages are lost,
// doubled, late and out of order, links are cut.
type world struct {
	t       *testing.T
	rng     *rand.Rand
	members map[uint64]*member
	ids     []uint64
	wire    []packet
	cut     map[[2]uint64]bool
	now     int
	loss    float64           // share of messages that are lost
	double  float64           // share of messages that come twice
	delay   int               // ticks that a message takes at most
	crash   float64           // chance that a step in working off a batch is the last
	snaps   int               // so many snapshots are lost first
	quiet   bool              // messages that tell only how much is committed are not sent
	late    bool              // a commit index alone never reaches the disk; false: now and then
	marks   Marks             // the most that each has shown; nil: nobody looks
	strict  bool              // who has shown less is not listened to
	history []string          // the longest list of applied entries: all others are beginnings of it
	leaders map[uint64]uint64 // raft term: leader
}

type packet struct {
	at int
	b  []byte
}

func newWorld(t *testing.T, seed uint64) *world {
	cryptotest.SetGlobalRandom(t, seed) // raft draws its election time-outs there
	return &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 1)), members: map[uint64]*member{}, cut: map[[2]uint64]bool{}, marks: Marks{}, leaders: map[uint64]uint64{},
	}
}

func (w *world) start(id uint64, s Stored) *member {
	w.t.Helper()
	m, known := w.members[id]
	if !known {
		m = &member{}
		w.members[id] = m
		w.ids = append(w.ids, id)
	}
	g, err := New(Options{ID: id, Stored: copyOf(s), ElectionTicks: 10, HeartbeatTicks: 1})
	if err != nil {
		w.t.Fatalf("start of %x: %v", id, err)
	}
	*m = member{Group: g, stored: s, life: m.life + 1}
	m.take(s.Snapshot)
	return m
}

// copyOf is what comes back from a disk: nothing of it is shared.
func copyOf(s Stored) Stored {
	c := Stored{}
	if s.Snapshot != nil {
		c.Snapshot = proto.Clone(s.Snapshot).(*raftpb.Snapshot)
	}
	if s.HardState != nil {
		c.HardState = proto.Clone(s.HardState).(*raftpb.HardState)
	}
	for _, e := range s.Entries {
		c.Entries = append(c.Entries, proto.Clone(e).(*raftpb.Entry))
	}
	return c
}

// take takes over the state of a snapshot.
func (m *member) take(s *raftpb.Snapshot) {
	if s != nil {
		m.state = strings.Fields(string(s.GetData()))
		m.applied = s.GetMetadata().GetIndex()
	}
}

// tick lets a tick pass for all: messages arrive, batches are worked off.
func (w *world) tick() {
	w.now++
	for _, id := range w.ids {
		if m := w.members[id]; !m.down {
			m.Tick()
		}
	}
	for range 4 { // a tick is longer than a few messages take
		due := w.wire
		w.wire = nil
		for _, p := range due {
			if p.at > w.now {
				w.wire = append(w.wire, p)
			} else {
				w.deliver(p.b)
			}
		}
		for _, id := range w.ids {
			w.work(id)
		}
	}
	w.check()
}

func (w *world) deliver(b []byte) {
	f, err := DecodeFrame(b)
	if err != nil {
		w.t.Fatal(err)
	}
	m := w.members[f.To]
	if m == nil || m.down || w.cut[[2]uint64{f.From, f.To}] || w.strict && w.marks.Refused(f.From) != nil {
		return
	}
	if err := m.Step(f.Message); err != nil && !errors.Is(err, ErrMessage) && !errors.Is(err, ErrBroken) {
		w.t.Fatal(err)
	}
}

func (w *world) send(m *raftpb.Message) {
	if m.GetType() == raftpb.MsgSnap && w.snaps > 0 {
		w.snaps--
		return
	}
	if w.quiet && OnlyCommits(m) {
		return
	}
	b, err := Frame{Group: "g", From: m.GetFrom(), To: m.GetTo(), Message: m}.Encode()
	if err != nil {
		w.t.Fatal(err)
	}
	for n := 1; n > 0; n-- {
		if w.rng.Float64() < w.loss {
			continue
		}
		if w.rng.Float64() < w.double {
			n++
		}
		p := packet{at: w.now, b: b}
		if w.delay > 0 {
			p.at += w.rng.IntN(w.delay + 1)
		}
		w.wire = append(w.wire, p)
	}
	if w.delay > 0 {
		w.rng.Shuffle(len(w.wire), func(i, j int) { w.wire[i], w.wire[j] = w.wire[j], w.wire[i] })
	}
}

// work does what a daemon does: save, send, apply, done. It may crash between any two.
func (w *world) work(id uint64) {
	m := w.members[id]
	for !m.down {
		b, ok := m.Next()
		if !ok {
			break
		}
		if w.crashes(m) {
			return
		}
		if d := b.Durable; d.MustSync || len(d.Entries) > 0 || d.Snapshot != nil || !w.late && w.rng.IntN(2) == 0 {
			m.stored.Save(d) // a commit index alone may be lost
		}
		for _, msg := range b.Messages {
			if w.crashes(m) {
				return
			}
			w.send(msg)
		}
		m.take(b.Restore)
		for _, c := range b.Committed {
			if c.Index <= m.applied {
				w.t.Fatalf("%x: index %d comes after %d", id, c.Index, m.applied)
			}
			m.applied = c.Index
			if c.Change != nil {
				m.state = append(m.state, fmt.Sprintf("%d:%x", c.Change.Kind, c.Change.ID))
			} else {
				m.state = append(m.state, string(c.Data))
			}
		}
		m.Done(b)
		if m.WantsSnapshot() {
			w.compact(m)
		}
	}
}

func (w *world) compact(m *member) {
	snap, err := m.Compact(m.Status().Applied, []byte(strings.Join(m.state, " ")))
	if err != nil {
		w.t.Fatal(err)
	}
	m.stored.Compacted(snap)
}

func (w *world) crashes(m *member) bool {
	if w.crash > 0 && w.rng.Float64() < w.crash {
		m.down = true
	}
	return m.down
}

// check is what always holds: one leader a term, one history, and nobody with a sound
// directory is taken for one who has forgotten something.
func (w *world) check() {
	for _, id := range w.ids {
		m := w.members[id]
		if m.down {
			continue
		}
		if w.marks != nil {
			if err := w.marks.Tell(id, m.life, m.Standing()); err != nil && !w.strict {
				w.t.Fatal(err)
			}
		}
		if s := m.Status(); s.Role == Leader {
			if was := w.leaders[s.Term]; was != 0 && was != id {
				w.t.Fatalf("term %d has two leaders, %x and %x", s.Term, was, id)
			}
			w.leaders[s.Term] = id
		}
		n := min(len(m.state), len(w.history))
		if !slices.Equal(m.state[:n], w.history[:n]) {
			w.t.Fatalf("%x applied %v, another %v", id, m.state, w.history)
		}
		if len(m.state) > n {
			w.history = slices.Clone(m.state)
		}
	}
}

// until ticks until it holds. The bound is far from what is ever needed.
func (w *world) until(what string, holds func() bool) {
	w.t.Helper()
	for range 5000 {
		if holds() {
			return
		}
		w.tick()
	}
	for _, id := range w.ids {
		w.t.Logf("%x: %+v", id, w.members[id].Status())
	}
	w.t.Fatalf("not reached: %s", what)
}

// leader is the ready leader with the highest term, nil if there is none.
func (w *world) leader() (best *member) {
	for _, id := range w.ids {
		m := w.members[id]
		if m.down || m.Err() != nil {
			continue
		}
		if s := m.Status(); s.OwnTerm && (best == nil || s.Term > best.Status().Term) {
			best = m
		}
	}
	return best
}

// propose proposes at whoever leads until it is applied there.
func (w *world) propose(data string) {
	w.t.Helper()
	w.until("applied: "+data, func() bool {
		l := w.leader()
		if l == nil || slices.Contains(l.state, data) {
			return l != nil
		}
		_ = l.Propose([]byte(data))
		for range 5 {
			w.tick()
		}
		return slices.Contains(l.state, data)
	})
}

// change asks whoever leads until the members are so.
func (w *world) change(kind Kind, id uint64) {
	w.t.Helper()
	is := func(s Status) bool {
		switch kind {
		case AddVoter:
			return slices.Contains(s.Voters, id)
		case AddLearner:
			return slices.Contains(s.Learners, id)
		}
		return !slices.Contains(s.Voters, id) && !slices.Contains(s.Learners, id)
	}
	w.until(fmt.Sprintf("%v %x", kind, id), func() bool {
		l := w.leader()
		if l == nil || is(l.Status()) {
			return l != nil
		}
		if err := l.ProposeChange(Change{Kind: kind, ID: id}); err != nil && !errors.Is(err, ErrChanging) && !errors.Is(err, ErrNotReady) && !errors.Is(err, ErrDropped) {
			w.t.Fatal(err)
		}
		w.tick()
		return false
	})
}

// join makes id, a newcomer, a voter.
func (w *world) join(id uint64) {
	w.t.Helper()
	w.start(id, Stored{})
	w.change(AddLearner, id)
	w.until("caught up", func() bool {
		l := w.leader()
		return l != nil && slices.ContainsFunc(l.Status().Peers, func(p Peer) bool { return p.ID == id && p.Match > 0 })
	})
	w.change(AddVoter, id)
}

// three is a founder grown to three voters.
func three(t *testing.T, seed uint64) *world {
	w := newWorld(t, seed)
	w.start(0xa, Found(0xa, []byte("founded")))
	if err := w.members[0xa].Campaign(); err != nil {
		t.Fatal(err)
	}
	w.propose("first")
	w.join(0xb)
	w.join(0xc)
	return w
}

// same waits until all of ids have applied the same, up to the history's end.
func (w *world) same(ids ...uint64) {
	w.t.Helper()
	w.until("all the same", func() bool {
		for _, id := range ids {
			if !slices.Equal(w.members[id].state, w.history) {
				return false
			}
		}
		return true
	})
}

func (w *world) isolate(id uint64, cut bool) {
	for _, other := range w.ids {
		w.cut[[2]uint64{id, other}], w.cut[[2]uint64{other, id}] = cut, cut
	}
}

func TestGrow(t *testing.T) {
	w := three(t, 1)
	w.same(0xa, 0xb, 0xc)
	want := []string{"founded", "first", "2:b", "1:b", "2:c", "1:c"}
	if !slices.Equal(w.history, want) {
		t.Errorf("applied %v, expected %v", w.history, want)
	}
	for _, m := range w.members {
		if s := m.Status(); !slices.Equal(s.Voters, []uint64{0xa, 0xb, 0xc}) || s.Leader != 0xa {
			t.Errorf("%+v", s)
		}
	}
}

// A power cut of all, directly after the third voter was taken in and before anything
// else was written: without the founder, two of three voters are a majority still.
func TestAMemberChangeOutlivesAPowerCut(t *testing.T) {
	w := newWorld(t, 3)
	w.late = true
	w.start(0xa, Found(0xa, []byte("founded")))
	if err := w.members[0xa].Campaign(); err != nil {
		t.Fatal(err)
	}
	w.join(0xb)
	w.join(0xc)
	w.same(0xa, 0xb, 0xc)
	w.isolate(0xa, true)
	w.start(0xb, w.members[0xb].stored)
	w.start(0xc, w.members[0xc].stored)
	w.until("a leader", func() bool { l := w.leader(); return l != nil && l.id != 0xa })
}

func TestLeaderChange(t *testing.T) {
	w := three(t, 2)
	w.isolate(0xa, true)
	for _, lost := range []string{"lost", "lost too", "and this"} {
		if err := w.members[0xa].Propose([]byte(lost)); err != nil { // only it will ever have this
			t.Fatal(err)
		}
	}
	w.until("another leader", func() bool { l := w.leader(); return l != nil && l.id != 0xa })
	w.propose("second")
	w.until("the old one steps down", func() bool { return w.members[0xa].Status().Role != Leader })
	if err := w.members[0xa].Propose([]byte("lost")); !errors.Is(err, ErrNotLeader) {
		t.Errorf("proposing at one that is cut off: %v", err)
	}
	w.isolate(0xa, false)
	w.same(0xa, 0xb, 0xc)
	w.start(0xa, w.members[0xa].stored) // what was replaced is not in its store any more
	w.same(0xa, 0xb, 0xc)
	if slices.Contains(w.history, "lost") {
		t.Error("what one alone had was applied")
	}
	w.leader().Transfer(0xa)
	w.until("handed over", func() bool { l := w.leader(); return l != nil && l.id == 0xa })
}
