package quorum

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"repmgr/internal/fault"
)

// TestChaos loses, doubles and delays messages, cuts links and crashes members
// at any point of their work, from what they saved. world.check looks on.
func TestChaos(t *testing.T) {
	seeds := uint64(40)
	if testing.Short() {
		seeds = 5
	}
	applied := 0
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := three(t, seed)
			w.loss, w.double, w.delay, w.crash = 0.1, 0.1, 3, 0.002
			acknowledged := []string{}
			for n := range 60 {
				w.disturb()
				data := fmt.Sprintf("n%d", n)
				l := w.leader()
				if l == nil || l.Propose([]byte(data)) != nil {
					w.tick()
					continue
				}
				for range w.rng.IntN(12) {
					w.tick()
				}
				if slices.Contains(l.state, data) {
					acknowledged = append(acknowledged, data)
				}
			}
			w.loss, w.double, w.delay, w.crash = 0, 0, 0, 0
			clear(w.cut)
			w.revive(1)
			w.propose("last")
			w.same(0xa, 0xb, 0xc)
			for _, a := range acknowledged {
				if !slices.Contains(w.history, a) {
					t.Fatalf("%s was applied by a leader and is lost", a)
				}
			}
			applied += len(acknowledged)
		})
	}
	if applied < int(seeds) {
		t.Errorf("hardly anything was ever applied: %d entries in %d runs", applied, seeds)
	}
}

// disturb cuts or mends a link, compacts somewhere, revives the dead.
func (w *world) disturb() {
	id := w.ids[w.rng.IntN(len(w.ids))]
	switch w.rng.IntN(12) {
	case 0:
		w.isolate(id, true)
	case 1:
		to := w.ids[w.rng.IntN(len(w.ids))]
		w.cut[[2]uint64{id, to}] = true // one direction only
	case 2, 3, 4:
		clear(w.cut)
	case 5:
		if m := w.members[id]; !m.down && m.Status().Applied > m.store.changed {
			w.compact(m)
		}
	case 6:
		w.members[id].down = true
	case 7:
		if m := w.members[id]; !m.down {
			m.Transfer(w.ids[w.rng.IntN(len(w.ids))])
		}
	}
	w.revive(0.3)
}

func (w *world) revive(chance float64) {
	for _, id := range w.ids {
		if m := w.members[id]; m.down && w.rng.Float64() < chance {
			w.start(id, m.stored)
		}
	}
}

// TestSameSeed: one seed is one history, also of the elections.
func TestSameSeed(t *testing.T) {
	run := func() string {
		w := three(t, 7)
		w.loss, w.delay = 0.2, 3
		for n := range 30 {
			w.disturb()
			if l := w.leader(); l != nil {
				_ = l.Propose(fmt.Appendf(nil, "n%d", n))
			}
			for range 5 {
				w.tick()
			}
		}
		return fmt.Sprint(w.now, w.history, w.leaders)
	}
	if a, b := run(), run(); a != b {
		t.Errorf("two runs of one seed:\n%s\n%s", a, b)
	}
}

func TestNewcomerBySnapshot(t *testing.T) {
	w := three(t, 3)
	for n := range 2 * tail / 10 {
		l := w.leader()
		for i := range 15 {
			if err := l.Propose(fmt.Appendf(nil, "e%d.%d", n, i)); err != nil {
				t.Fatal(err)
			}
		}
		w.tick()
	}
	l := w.leader()
	w.compact(l)
	if first, _ := l.store.FirstIndex(); first < 2 || l.Status().Applied-first > tail+1 {
		t.Errorf("entries from %d on are kept, applied is %d", first, l.Status().Applied)
	}
	w.snaps = 2
	w.join(0xd)
	w.same(0xa, 0xb, 0xc, 0xd)
	if w.members[0xd].stored.Snapshot == nil {
		t.Error("the newcomer came by without a snapshot")
	}
	w.change(Remove, 0xb)
	w.until("gone", func() bool { return len(w.leader().Status().Voters) == 3 })
	w.propose("without it")
	w.members[0xb].down = true
	w.propose("still without it")
}

func TestCommitsAreToldByHeartbeats(t *testing.T) {
	w := newWorld(t, 7)
	w.start(1, Found(1, nil))
	w.join(2)
	w.join(3)
	w.quiet = true
	for n := range 20 {
		data := fmt.Sprint("entry", n)
		w.propose(data)
		w.tick() // a heartbeat and what comes of it
		w.tick()
		for _, id := range w.ids {
			if !slices.Contains(w.members[id].state, data) {
				t.Fatalf("%x has not applied %s", id, data)
			}
		}
	}
}

func TestRemoveLeader(t *testing.T) {
	w := three(t, 4)
	w.same(0xa, 0xb, 0xc)
	w.change(Remove, 0xa)
	w.until("another leader", func() bool { l := w.leader(); return l != nil && l.id != 0xa })
	w.until("it steps down", func() bool { return w.members[0xa].Status().Role == Outsider })
	w.propose("without it")
}

func TestRefusedChanges(t *testing.T) {
	w := three(t, 5)
	l := w.leader()
	for _, c := range []Change{
		{Kind: AddVoter, ID: 0xd}, {Kind: AddVoter, ID: 0xa}, {Kind: Remove, ID: 0xd}, {Kind: AddLearner, ID: 0}, {ID: 0xd}, {Kind: 9, ID: 0xd},
	} {
		if err := l.ProposeChange(c); fault.CodeOf(err) != fault.BadConfig {
			t.Errorf("%v: %v", c, err)
		}
	}
	if err := l.ProposeChange(Change{Kind: AddLearner, ID: 0xd, Context: []byte("node 4")}); err != nil {
		t.Fatal(err)
	}
	if err := l.ProposeChange(Change{Kind: AddLearner, ID: 0xe}); !errors.Is(err, ErrChanging) || !l.Status().Changing {
		t.Errorf("a second change at once: %v", err)
	}
	if err := w.members[0xb].ProposeChange(Change{Kind: Remove, ID: 0xd}); !errors.Is(err, ErrNotLeader) {
		t.Errorf("at a follower: %v", err)
	}
	w.same(0xa, 0xb, 0xc)
	alone := newWorld(t, 6)
	m := alone.start(0xa, Found(0xa, nil))
	_ = m.Campaign()
	alone.propose("x")
	for _, k := range []Kind{Remove, AddLearner} {
		if err := m.ProposeChange(Change{Kind: k, ID: 0xa}); fault.CodeOf(err) != fault.BadConfig {
			t.Errorf("%v of the only voter: %v", k, err)
		}
	}
	if err := m.Propose(nil); err == nil {
		t.Error("an empty entry was taken")
	}
}

// TestOldDirectory brings a member back from an older copy of its directory:
// that member alone is broken, and the others go on.
func TestOldDirectory(t *testing.T) {
	w := three(t, 8)
	w.marks = nil // nobody looks
	w.same(0xa, 0xb, 0xc)
	b := w.members[0xb]
	old := copyOf(b.stored)
	w.propose("second")
	w.propose("third")
	w.same(0xa, 0xb, 0xc)
	w.start(0xb, old)
	b = w.members[0xb]
	w.until("broken", func() bool { return b.Err() != nil })
	if !strings.Contains(b.Err().(*fault.Error).Detail, "out of range") || !errors.Is(b.Err(), ErrBroken) {
		t.Errorf("%v", b.Err())
	}
	for what, err := range map[string]error{"Step": b.Step(nil), "Propose": b.Propose([]byte("x")), "ProposeChange": b.ProposeChange(Change{}), "Campaign": b.Campaign()} {
		if !errors.Is(err, ErrBroken) {
			t.Errorf("%s of a broken group: %v", what, err)
		}
	}
	b.Tick()
	b.Transfer(0xa)
	b.Done(Batch{})
	if _, ok := b.Next(); ok {
		t.Error("a broken group has something to do")
	}
	if _, err := b.Compact(1, nil); !errors.Is(err, ErrBroken) {
		t.Errorf("Compact of a broken group: %v", err)
	}
	if s := b.Status(); s.Broken == nil || s.Role != Outsider || len(s.Voters) != 3 {
		t.Errorf("%+v", s)
	}
	w.propose("fourth")
	w.same(0xa, 0xc)
	if w.members[0xa].Err() != nil || w.members[0xc].Err() != nil {
		t.Error("another one broke too")
	}
}

// TestForgetful: who once saw a member acknowledge more does not count it in
// an election, and says so.
func TestForgetful(t *testing.T) {
	w := three(t, 9)
	w.same(0xa, 0xb, 0xc)
	old := copyOf(w.members[0xb].stored)
	w.propose("second")
	w.same(0xa, 0xb, 0xc)
	a := w.leader()
	last, term := old.Last()
	err := a.Step(&raftpb.Message{
		Type: raftpb.MsgVote.Enum(), From: new(uint64(0xb)), To: new(a.id), Term: new(a.Status().Term + 5), Index: new(last), LogTerm: new(term),
	})
	if !errors.Is(err, ErrMessage) {
		t.Errorf("the vote was not refused: %v", err)
	}
	forgetful := func() bool {
		return slices.ContainsFunc(a.Status().Peers, func(p Peer) bool { return p.ID == 0xb && p.Forgetful })
	}
	if !forgetful() {
		t.Errorf("%+v", a.Status())
	}
	w.propose("third") // it was a late message only: the next answer shows that
	w.until("cleared", func() bool { return !forgetful() })
}

func TestRefusedMessages(t *testing.T) {
	w := three(t, 10)
	w.same(0xa, 0xb, 0xc)
	b := w.members[0xb]
	good := func() *raftpb.Message {
		return &raftpb.Message{Type: raftpb.MsgApp.Enum(), From: new(uint64(0xa)), To: new(uint64(0xb)), Term: new(b.Status().Term), Index: new(uint64(3)), LogTerm: new(uint64(1))}
	}
	for what, spoil := range map[string]func(*raftpb.Message){
		"proposal":        func(m *raftpb.Message) { m.Type = raftpb.MsgProp.Enum() },
		"hup":             func(m *raftpb.Message) { m.Type = raftpb.MsgHup.Enum() },
		"storage":         func(m *raftpb.Message) { m.Type = raftpb.MsgStorageAppendResp.Enum() },
		"to another":      func(m *raftpb.Message) { m.To = new(uint64(0xc)) },
		"from itself":     func(m *raftpb.Message) { m.From = new(uint64(0xb)) },
		"without term":    func(m *raftpb.Message) { m.Term = nil },
		"gap":             func(m *raftpb.Message) { m.Entries = []*raftpb.Entry{{Index: new(uint64(9)), Term: new(uint64(1))}} },
		"empty snapshot":  func(m *raftpb.Message) { m.Type = raftpb.MsgSnap.Enum() },
		"unknown answers": func(m *raftpb.Message) { m.Type, m.From = raftpb.MsgAppResp.Enum(), new(uint64(0xee)) },
	} {
		m := good()
		spoil(m)
		if err := b.Step(m); !errors.Is(err, ErrMessage) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := b.Step(nil); !errors.Is(err, ErrMessage) || b.Err() != nil {
		t.Errorf("nothing: %v, %v", err, b.Err())
	}
}

func TestRefusedState(t *testing.T) {
	sound := Found(0xa, nil)
	for what, spoil := range map[string]func(*Stored){
		"no members":       func(s *Stored) { s.Snapshot.Metadata.ConfState = nil },
		"gap":              func(s *Stored) { s.Entries = []*raftpb.Entry{{Index: new(uint64(3)), Term: new(uint64(1))}} },
		"commit too high":  func(s *Stored) { s.HardState.Commit = new(uint64(5)) },
		"commit too low":   func(s *Stored) { s.HardState = nil },
		"term of the past": func(s *Stored) { s.HardState.Term = new(uint64(0)) },
	} {
		s := copyOf(sound)
		spoil(&s)
		if _, err := New(Options{ID: 0xa, Stored: s, ElectionTicks: 10, HeartbeatTicks: 1}); fault.CodeOf(err) != fault.BadConfig {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := New(Options{ID: 0, ElectionTicks: 10, HeartbeatTicks: 1}); err == nil {
		t.Error("a member without an id")
	}
}

// A member that was brought back from an older copy cannot make a majority with one
// who never saw it acknowledge anything: here a leader that was elected after its own
// restart. What the others remember outlives that restart.
func TestForgottenVote(t *testing.T) {
	for _, remembered := range []bool{false, true} {
		w := three(t, 10)
		w.strict = true
		w.same(0xa, 0xb, 0xc)
		old := copyOf(w.members[0xb].stored)
		w.propose("second")
		w.same(0xa, 0xb, 0xc)
		for range 20 {
			w.tick()
		}
		kept, err := json.Marshal(w.marks)
		if err != nil {
			t.Fatal(err)
		}
		w.isolate(0xc, true)
		w.start(0xa, w.members[0xa].stored)
		w.start(0xb, old)
		w.marks = Marks{}
		if remembered {
			if err := json.Unmarshal(kept, &w.marks); err != nil {
				t.Fatal(err)
			}
		}
		for range 500 {
			w.tick()
		}
		leads := w.members[0xa].Status().Role == Leader || w.members[0xb].Status().Role == Leader
		if leads == remembered {
			t.Errorf("the marks were kept: %v; a leader was elected: %v", remembered, leads)
		}
		if !remembered {
			continue
		}
		if err := w.marks.Tell(0xa, w.members[0xa].life, Standing{Term: 1, Last: 1, Safe: 1}); err != nil {
			t.Errorf("what a life told earlier and comes late: %v", err)
		}
		if w.marks.Refused(0xb) == nil {
			t.Errorf("%x is not refused: %+v shown, %+v remembered", 0xb, w.members[0xb].Standing(), w.marks[0xb])
		}
		w.isolate(0xc, false) // with a true majority the group goes on, and takes the node in anew
		w.propose("third")
		w.members[0xb].down = true
		w.change(Remove, 0xb)
		if !w.marks.Keep([]uint64{0xa, 0xc}) || w.marks.Refused(0xb) != nil {
			t.Errorf("a removed member is remembered: %v", w.marks)
		}
		w.join(0xd)
		w.propose("fourth")
		w.same(0xa, 0xc, 0xd)
	}
}
