package quorum

import (
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"
)

// Role is what a member does in the group.
type Role string

// The roles. An Outsider is no member (yet, or any more).
const (
	Leader    Role = "leader"
	Candidate Role = "candidate"
	Follower  Role = "follower"
	Learner   Role = "learner"
	Outsider  Role = "outsider"
)

// Status is what a member knows of the group.
type Status struct {
	ID       uint64
	Leader   uint64 // zero: none known
	Role     Role
	Term     uint64 // raft's, not the cluster's
	Voters   []uint64
	Learners []uint64
	Commit   uint64
	Applied  uint64
	Last     uint64 // end of the saved log
	OwnTerm  bool   // leads, and has applied an entry of its own raft term (B4)
	Changing bool   // leads, and a change of members is not applied yet
	Handing  uint64 // leads, and is handing leadership to this one
	Peers    []Peer // the other members, by id
	Broken   error
}

// Peer is what a member knows of another.
type Peer struct {
	ID        uint64
	Voter     bool
	Match     uint64 // as leader: its log agrees up to here; else zero
	Active    bool   // heard of within an election time-out
	Forgetful bool   // showed less than it once acknowledged: an older copy of its state directory?
}

// Leader is who leads the group, zero if nobody is known, and whether it is this
// node, with an entry of its own raft term applied. Unlike Status it costs nothing.
func (g *Group) Leader() (id uint64, own bool) {
	if g.broken != nil {
		return 0, false
	}
	soft, term := g.soft, g.rose
	if !g.quiet {
		s := g.state()
		soft, term = s.SoftState, s.GetTerm()
	}
	return soft.Lead, soft.RaftState == raft.StateLeader && g.term == term
}

// Applied is the index of the last entry that is Done.
func (g *Group) Applied() uint64 { return g.applied }

// Status returns what is known now. Of a broken group only ID, the members and
// Applied are told.
func (g *Group) Status() Status {
	s := Status{ID: g.id, Role: Outsider, Applied: g.applied, Voters: sorted(g.conf.GetVoters()), Learners: sorted(g.conf.GetLearners())}
	_ = g.guard(func() error {
		rs := g.state()
		s.Leader, s.Term, s.Commit, s.Handing = rs.Lead, rs.GetTerm(), rs.GetCommit(), rs.LeadTransferee
		s.Last, _ = g.store.LastIndex()
		switch {
		case rs.RaftState == raft.StateLeader:
			s.Role = Leader
			s.OwnTerm = g.term == s.Term
			s.Changing = g.proposed == s.Term
		case rs.RaftState != raft.StateFollower:
			s.Role = Candidate
		case slices.Contains(s.Voters, g.id):
			s.Role = Follower
		case slices.Contains(s.Learners, g.id):
			s.Role = Learner
		}
		members := slices.Concat(s.Voters, s.Learners)
		slices.Sort(members)
		s.Peers = make([]Peer, 0, len(members))
		for _, id := range members {
			if id == g.id {
				continue
			}
			at, heard := g.heard[id]
			s.Peers = append(s.Peers, Peer{
				ID: id, Voter: slices.Contains(s.Voters, id),
				Active: heard && g.now-at <= g.election, Forgetful: g.forgetful[id],
			})
		}
		if s.Role == Leader {
			g.node.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) { s.matched(id, p.Match) })
		}
		return nil
	})
	s.Broken = g.broken
	return s
}

// matched notes how far the log of a member agrees with this leader's.
func (s *Status) matched(id, match uint64) {
	for i := range s.Peers {
		if s.Peers[i].ID == id {
			s.Peers[i].Match = match
		}
	}
}

// sorted are ids in order: those of raft are already.
func sorted(ids []uint64) []uint64 {
	if slices.IsSorted(ids) {
		return slices.Clip(ids)
	}
	out := slices.Clone(ids)
	slices.Sort(out)
	return out
}
