package quorum

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"repmgr/internal/fault"
)

// Kind is what a Change does.
type Kind int

// The changes of members. A member joins as a learner and is made a voter when
// it has caught up; a voter that is added as a learner stops voting.
const (
	AddVoter Kind = iota + 1
	AddLearner
	Remove
)

var kinds = map[Kind]raftpb.ConfChangeType{
	AddVoter: raftpb.ConfChangeAddNode, AddLearner: raftpb.ConfChangeAddLearnerNode, Remove: raftpb.ConfChangeRemoveNode,
}

func (k Kind) String() string {
	switch k {
	case AddVoter:
		return "add voter"
	case AddLearner:
		return "add learner"
	case Remove:
		return "remove"
	}
	return fmt.Sprintf("change %d", int(k))
}

// Change changes one member. Context is handed out with it when it is applied.
type Change struct {
	Kind    Kind
	ID      uint64
	Context []byte
}

// ProposeChange asks for one change of members. It is refused while another is
// not applied, and by a leader that may not know of an older one yet.
func (g *Group) ProposeChange(c Change) error {
	return g.guard(func() error {
		s := g.state()
		switch {
		case s.RaftState != raft.StateLeader:
			return ErrNotLeader
		case g.term != s.GetTerm():
			return ErrNotReady
		case g.proposed == s.GetTerm():
			return ErrChanging
		case len(c.Context) > MaxData:
			return fault.New(fault.Internal, "the context of a change has %d bytes", len(c.Context)).WithDetail("The limit is %d bytes.", MaxData)
		}
		if err := c.allowed(g.conf); err != nil {
			return err
		}
		if err := g.tell().ProposeConfChange(c.raft()); err != nil {
			return dropped(err)
		}
		g.proposed = s.GetTerm()
		return nil
	})
}

// allowed tells why c cannot be made where conf are the members. Raft panics
// where the last voter goes.
func (c Change) allowed(conf *raftpb.ConfState) error {
	voter, learner := slices.Contains(conf.GetVoters(), c.ID), slices.Contains(conf.GetLearners(), c.ID)
	no := func(why string) error {
		return fault.New(fault.BadConfig, "cannot %s %x: %s", c.Kind, c.ID, why).
			WithDetail("Voters are %x, learners %x.", conf.GetVoters(), conf.GetLearners())
	}
	switch {
	case c.ID == raft.None || raft.IsLocalMsgTarget(c.ID):
		return no("not a raft id")
	case kinds[c.Kind] == 0 && c.Kind != AddVoter:
		return no("no such change")
	case c.Kind == AddVoter && !learner:
		return no("only a learner becomes a voter")
	case c.Kind == AddLearner && learner:
		return no("it is one already")
	case c.Kind == Remove && !voter && !learner:
		return no("not a member")
	case c.Kind != AddVoter && voter && len(conf.GetVoters()) == 1:
		return no("it is the only voter")
	}
	return nil
}

// on is conf after the change.
func (c *Change) on(conf *raftpb.ConfState) *raftpb.ConfState {
	if c == nil {
		return conf
	}
	other := func(id uint64) bool { return id == c.ID }
	next := &raftpb.ConfState{
		Voters:   slices.DeleteFunc(slices.Clone(conf.GetVoters()), other),
		Learners: slices.DeleteFunc(slices.Clone(conf.GetLearners()), other),
	}
	switch c.Kind {
	case AddVoter:
		next.Voters = append(next.Voters, c.ID)
	case AddLearner:
		next.Learners = append(next.Learners, c.ID)
	}
	return next
}

func (c Change) raft() *raftpb.ConfChange {
	return &raftpb.ConfChange{Type: kinds[c.Kind].Enum(), NodeId: new(c.ID), Context: c.Context}
}

// changeOf reads an entry that changes members.
func changeOf(e *raftpb.Entry) (Change, error) {
	cc := &raftpb.ConfChange{}
	if e.GetType() != raftpb.EntryConfChange {
		return Change{}, fmt.Errorf("entry %d is of type %v, which nobody here proposes", e.GetIndex(), e.GetType())
	}
	if err := proto.Unmarshal(e.GetData(), cc); err != nil {
		return Change{}, err
	}
	for k, t := range kinds {
		if t == cc.GetType() {
			return Change{Kind: k, ID: cc.GetNodeId(), Context: cc.GetContext()}, nil
		}
	}
	return Change{}, fmt.Errorf("entry %d is a %v, which nobody here proposes", e.GetIndex(), cc.GetType())
}
