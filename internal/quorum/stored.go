package quorum

import (
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"repmgr/internal/fault"
)

// Stored is what a store holds of a group. A caller's own state starts from
// Snapshot's data; the entries behind it are handed out again.
type Stored struct {
	Snapshot  *raftpb.Snapshot  // nil: none
	HardState *raftpb.HardState // nil: none
	Entries   []*raftpb.Entry   // without a gap, from the snapshot's index + 1 on
}

// Found is a founder's first state: a group of id alone, whose state is data.
func Found(id uint64, data []byte) Stored {
	return Stored{
		Snapshot: &raftpb.Snapshot{Data: data, Metadata: &raftpb.SnapshotMetadata{
			Index: new(uint64(1)), Term: new(uint64(1)),
			ConfState: &raftpb.ConfState{Voters: []uint64{id}, AutoLeave: new(false)},
		}},
		HardState: &raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(0)), Commit: new(uint64(1))},
	}
}

// Empty tells that nothing is stored.
func (s Stored) Empty() bool {
	return raft.IsEmptySnap(s.Snapshot) && raft.IsEmptyHardState(s.HardState) && len(s.Entries) == 0
}

// Save is what saving d means: the rule that a store follows.
func (s *Stored) Save(d Durable) {
	if !raft.IsEmptySnap(d.Snapshot) {
		s.Snapshot, s.Entries = d.Snapshot, nil
	}
	if len(d.Entries) > 0 {
		first, keep := d.Entries[0].GetIndex(), len(s.Entries)
		for keep > 0 && s.Entries[keep-1].GetIndex() >= first {
			keep--
		}
		if keep < len(s.Entries) {
			s.Entries = slices.Clip(s.Entries[:keep]) // a copy of s may have the others still
		}
		s.Entries = append(s.Entries, d.Entries...)
	}
	if d.HardState != nil {
		s.HardState = d.HardState
	}
	s.settle()
}

// Compacted is what storing a snapshot made by Compact means.
func (s *Stored) Compacted(snap *raftpb.Snapshot) {
	if snap.GetMetadata().GetIndex() <= s.Snapshot.GetMetadata().GetIndex() {
		return
	}
	s.Snapshot = snap
	s.settle()
}

// settle drops entries that the snapshot covers and raises the commit index to
// it: that one need not be synced, so the stored one may be older.
func (s *Stored) settle() {
	at := s.Snapshot.GetMetadata().GetIndex()
	for len(s.Entries) > 0 && s.Entries[0].GetIndex() <= at {
		s.Entries = s.Entries[1:]
	}
	if s.HardState.GetCommit() < at {
		h := &raftpb.HardState{}
		if s.HardState != nil {
			h = proto.Clone(s.HardState).(*raftpb.HardState)
		}
		h.Commit = new(at)
		s.HardState = h
	}
}

// Last is the index and the term of the last entry, zero if there is nothing.
func (s Stored) Last() (index, term uint64) {
	if n := len(s.Entries); n > 0 {
		return s.Entries[n-1].GetIndex(), s.Entries[n-1].GetTerm()
	}
	return s.Snapshot.GetMetadata().GetIndex(), s.Snapshot.GetMetadata().GetTerm()
}

// check refuses a state that no run of this program has left behind.
func (s Stored) check() error {
	bad := func(format string, args ...any) error {
		return fault.New(fault.BadConfig, "the stored state of the raft group does not hold together").
			WithDetail(format, args...).
			WithHint("the state directory is damaged or was put together by hand: remove this node from the group and let it join anew")
	}
	meta := s.Snapshot.GetMetadata()
	index, term := meta.GetIndex(), meta.GetTerm()
	if index > 0 && !soundConf(meta.GetConfState()) {
		return bad("The snapshot at index %d names no sound set of members.", index)
	}
	for _, e := range s.Entries {
		if e.GetIndex() != index+1 || e.GetTerm() < term {
			return bad("After index %d (term %d) comes index %d (term %d).", index, term, e.GetIndex(), e.GetTerm())
		}
		index, term = e.GetIndex(), e.GetTerm()
	}
	h := s.HardState
	if h.GetCommit() < meta.GetIndex() || h.GetCommit() > index || h.GetTerm() < term {
		return bad("The log goes from %d to %d (term %d); committed is %d in term %d.", meta.GetIndex(), index, term, h.GetCommit(), h.GetTerm())
	}
	return nil
}
