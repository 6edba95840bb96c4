package quorum

import "repmgr/internal/fault"

// Standing is what a member has on its disk, by its own word.
type Standing struct {
	Term uint64 `json:"term"` // raft's; it only grows
	Last uint64 `json:"last"` // end of its log
	Safe uint64 `json:"safe"` // end of what is in its log and known to be committed: never taken back
}

// Standing is this member's own, as of what is saved; zero of a broken one.
func (g *Group) Standing() (s Standing) {
	_ = g.guard(func() error {
		rs := g.state()
		s.Term = rs.GetTerm()
		s.Last, _ = g.store.LastIndex()
		s.Safe = min(s.Last, rs.GetCommit())
		return nil
	})
	return s
}

// Mark is the most that a member has shown. Forgot: a later life of it has shown less,
// and its votes count no more, for it may have forgotten some of them.
type Mark struct {
	Term   uint64 `json:"term"`
	Index  uint64 `json:"index"`
	Life   uint64 `json:"life"` // of the process that showed it
	Forgot bool   `json:"forgot,omitempty"`
}

// Marks are those of the members, by raft id. A member that answers a leader is
// held to its word by that leader alone; these are every member's memory of every
// other, and are to be kept over restarts (safety notes, B8).
type Marks map[uint64]Mark

// Tell notes the word of a life of a member, and returns an error if it has less than
// an earlier life: its state directory is an older copy, or its disk has lost what was
// synced. One life's words may come in any order. A life that is over is not to be told of.
func (m Marks) Tell(id, life uint64, s Standing) error {
	if s == (Standing{}) {
		return m.Refused(id) // nothing was told
	}
	mark := m[id]
	switch {
	case mark.Forgot:
	case mark.Life != life && (s.Term < mark.Term || s.Last < mark.Index):
		mark.Forgot = true
	default:
		mark.Term, mark.Index, mark.Life = max(mark.Term, s.Term), max(mark.Index, s.Safe), life
	}
	m[id] = mark
	return m.Refused(id)
}

// Refused returns why nothing that a member says is to be taken in; nil: it is.
// It stays so until the member is removed and has joined anew.
func (m Marks) Refused(id uint64) error {
	mark := m[id]
	if !mark.Forgot {
		return nil
	}
	return fault.New(fault.BadConfig, "raft member %x has forgotten what it once had, and its vote does not count", id).
		WithDetail("It had term %d and entry %d of the group's log, and has shown less since: its state directory was brought back from a backup, or its disk lost what was written.", mark.Term, mark.Index).
		WithHint("On that node: stop repmgrd, run repmgr cluster reset-quorum --this-node, and start repmgrd.")
}

// Keep drops the marks of all but these members, and reports whether there were any.
func (m Marks) Keep(members []uint64) bool {
	wanted := map[uint64]bool{}
	for _, id := range members {
		wanted[id] = true
	}
	dropped := false
	for id := range m {
		if !wanted[id] {
			delete(m, id)
			dropped = true
		}
	}
	return dropped
}
