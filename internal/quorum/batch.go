package quorum

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"

	"repmgr/internal/fault"
)

// Durable is what must be on disk before the messages of its batch are sent.
type Durable struct {
	HardState *raftpb.HardState // nil: unchanged
	Entries   []*raftpb.Entry   // replace what the store has from the first one's index on
	Snapshot  *raftpb.Snapshot  // nil: none; replaces everything that the store has
	MustSync  bool              // false: may be lost in a crash
}

// Batch is what has to be done now, in the order of its fields.
type Batch struct {
	Durable                     // save it
	Messages  []*raftpb.Message // then send them; any may be lost
	Restore   *raftpb.Snapshot  // then take over this state, if there is one
	Committed []Committed       // then apply these
	number    uint64
}

// Committed is an entry that a majority holds. Each is handed out once in a
// process life, in the order of Index; after a restart those behind the stored
// snapshot come again. Raft's own empty entries are left out.
type Committed struct {
	Index, Term uint64
	Data        []byte  // as proposed; nil for a change
	Change      *Change // the members are changed by Done
}

// Next returns what has to be done, false if there is nothing or the batch
// before is not Done yet.
func (g *Group) Next() (b Batch, ok bool) {
	err := g.guard(func() error {
		if g.pending {
			return nil
		}
		if g.quiet = !g.node.HasReady(); g.quiet {
			return nil
		}
		g.ready, g.pending, ok = g.node.Ready(), true, true
		rd := &g.ready
		if rd.SoftState != nil {
			g.soft = *rd.SoftState
		}
		g.batch++
		b = Batch{number: g.batch, Messages: rd.Messages}
		b.Durable = Durable{Entries: rd.Entries, MustSync: rd.MustSync}
		if !raft.IsEmptyHardState(rd.HardState) {
			b.HardState, g.rose = rd.HardState, rd.HardState.GetTerm()
		}
		if !raft.IsEmptySnap(rd.Snapshot) {
			b.Snapshot, b.Restore, b.MustSync = rd.Snapshot, rd.Snapshot, true
		}
		conf := g.conf
		if b.Restore != nil {
			conf = b.Restore.GetMetadata().GetConfState()
		}
		for _, e := range rd.CommittedEntries {
			if c, real := committed(e, conf); real {
				b.Committed = append(b.Committed, c)
				conf = c.Change.on(conf)
				if c.Change != nil && c.Index > g.found { // who forgot that it is committed would count votes among the members of before
					b.HardState, b.MustSync = g.node.BasicStatus().HardState, true
				}
			}
		}
		for _, m := range b.Messages {
			if m.GetType() == raftpb.MsgSnap {
				g.sending[m.GetTo()] = g.now
			}
		}
		return nil
	})
	return b, ok && err == nil
}

// OnlyCommits reports whether a leader's message has no news but how much is committed.
// It need not be sent, since any message may be lost: the next heartbeat tells the same to
// whom it would have reached.
func OnlyCommits(m *raftpb.Message) bool {
	return m.GetType() == raftpb.MsgApp && len(m.GetEntries()) == 0
}

// Done says that all of b is saved, sent and applied. Any other than the batch
// handed out last is ignored.
func (g *Group) Done(b Batch) {
	_ = g.guard(func() error {
		if !g.pending || b.number != g.batch {
			return nil
		}
		rd := g.ready
		g.ready, g.pending = raft.Ready{}, false
		if err := g.store.take(b.Durable); err != nil {
			panic(err)
		}
		if b.Restore != nil {
			meta := b.Restore.GetMetadata()
			g.applied, g.term, g.conf, g.store.changed = meta.GetIndex(), meta.GetTerm(), meta.GetConfState(), meta.GetIndex()
		}
		for _, e := range rd.CommittedEntries {
			if c, real := committed(e, g.conf); real && c.Change != nil {
				g.conf = g.tell().ApplyConfChange(c.Change.raft())
				g.store.changed = e.GetIndex()
				g.drop(c.Change)
			}
			if e.GetType() != raftpb.EntryNormal {
				g.proposed = 0
			}
			g.applied, g.term = e.GetIndex(), e.GetTerm()
		}
		g.tell().Advance(rd)
		g.remember()
		return nil
	})
}

// committed is what an entry is to the caller; false for one that is nothing
// to it: raft's own, and a change that the members at that point do not allow,
// which is then refused by all alike.
func committed(e *raftpb.Entry, conf *raftpb.ConfState) (Committed, bool) {
	c := Committed{Index: e.GetIndex(), Term: e.GetTerm()}
	if e.GetType() == raftpb.EntryNormal {
		c.Data = e.GetData()
		return c, len(c.Data) > 0
	}
	change, err := changeOf(e)
	if err != nil || change.allowed(conf) != nil {
		return c, false
	}
	c.Change = &change
	return c, true
}

// remember keeps what each peer has acknowledged of what is committed.
func (g *Group) remember() {
	s := g.state()
	commit := s.GetCommit()
	if s.RaftState != raft.StateLeader || commit == g.recalled {
		return
	}
	g.recalled = commit
	g.node.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) {
		g.held[id] = max(g.held[id], min(p.Match, commit))
	})
}

// drop forgets about a peer that was removed.
func (g *Group) drop(c *Change) {
	if c.Kind == Remove {
		delete(g.heard, c.ID)
		delete(g.sending, c.ID)
		delete(g.held, c.ID)
		delete(g.forgetful, c.ID)
	}
}

// WantsSnapshot tells that a peer needs a snapshot and that the one there is
// was made before the last change of members: Compact is to be called.
func (g *Group) WantsSnapshot() bool { return g.broken == nil && g.store.wanted }

// Compact makes data, the caller's state after it applied index, the snapshot,
// and drops older entries, but for some hundred that a peer may still need.
// index lies behind the last change of members and not behind Status.Applied.
func (g *Group) Compact(index uint64, data []byte) (snap *raftpb.Snapshot, err error) {
	err = g.guard(func() error {
		switch {
		case len(data) > MaxState:
			return fault.New(fault.Internal, "a state of %d bytes is too large for a snapshot", len(data)).
				WithDetail("The limit is %d bytes.", MaxState)
		case index < g.store.changed || index > g.applied || index == 0:
			return fault.New(fault.Internal, "no snapshot can be made at index %d", index).
				WithDetail("The last change of members is at %d, applied is everything up to %d.", g.store.changed, g.applied)
		}
		snap, err = g.store.compact(index, g.conf, slices.Clone(data))
		return err
	})
	return snap, err
}

// memory is raft's view of the log. Its snapshot is handed out only while it
// names all members: a newcomer refuses one in which it does not occur.
type memory struct {
	*raft.MemoryStorage
	changed uint64 // index of the last change of members
	wanted  bool
}

func newMemory(s Stored) (*memory, error) {
	m := &memory{MemoryStorage: raft.NewMemoryStorage(), changed: s.Snapshot.GetMetadata().GetIndex()}
	return m, m.take(Durable{HardState: s.HardState, Entries: s.Entries, Snapshot: s.Snapshot})
}

func (m *memory) take(d Durable) error {
	if !raft.IsEmptySnap(d.Snapshot) {
		if err := m.ApplySnapshot(d.Snapshot); err != nil {
			return err
		}
	}
	if d.HardState != nil {
		_ = m.SetHardState(d.HardState)
	}
	return m.Append(d.Entries)
}

// Snapshot implements raft.Storage.
func (m *memory) Snapshot() (*raftpb.Snapshot, error) {
	s, err := m.MemoryStorage.Snapshot()
	if err != nil {
		return nil, err
	}
	if i := s.GetMetadata().GetIndex(); i == 0 || i < m.changed {
		m.wanted = true
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return s, nil
}

func (m *memory) compact(index uint64, conf *raftpb.ConfState, data []byte) (*raftpb.Snapshot, error) {
	have, err := m.MemoryStorage.Snapshot()
	if err != nil {
		return nil, err
	}
	if at := have.GetMetadata().GetIndex(); at >= index {
		if at > index {
			return nil, fmt.Errorf("a newer snapshot is there already, at index %d: %w", at, raft.ErrSnapOutOfDate)
		}
		return have, nil
	}
	snap, err := m.CreateSnapshot(index, proto.Clone(conf).(*raftpb.ConfState), data)
	if err != nil {
		return nil, err
	}
	m.wanted = false
	first, err := m.FirstIndex()
	if err == nil && index > tail && index-tail >= first {
		err = m.MemoryStorage.Compact(index - tail)
	}
	return snap, err
}
