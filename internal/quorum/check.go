package quorum

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// spoken are the messages that members send each other. Proposals are not
// among them: they are asked of the leader, with an answer.
var spoken = []raftpb.MessageType{
	raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp,
	raftpb.MsgSnap, raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgTimeoutNow,
}

// check refuses what raft would take as an order of its own or panic on.
func check(m *raftpb.Message, id uint64) error {
	no := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s from %x to %x: %s", ErrMessage, m.GetType(), m.GetFrom(), m.GetTo(), fmt.Sprintf(format, args...))
	}
	from := m.GetFrom()
	switch {
	case m == nil:
		return fmt.Errorf("%w: it is empty", ErrMessage)
	case !slices.Contains(spoken, m.GetType()):
		return no("not a message between members")
	case m.GetTo() != id:
		return no("this is %x", id)
	case from == id || from == raft.None || raft.IsLocalMsgTarget(from):
		return no("no member has that id")
	case m.GetTerm() == 0:
		return no("it has no term")
	case len(m.GetEntries()) > 0 && m.GetType() != raftpb.MsgApp:
		return no("it has entries")
	case m.GetType() == raftpb.MsgSnap:
		meta := m.GetSnapshot().GetMetadata()
		if meta.GetIndex() == 0 || meta.GetTerm() == 0 || meta.GetTerm() > m.GetTerm() || !soundConf(meta.GetConfState()) {
			return no("the snapshot is not one")
		}
	}
	index, term := m.GetIndex(), m.GetLogTerm()
	for _, e := range m.GetEntries() {
		if e.GetIndex() != index+1 || e.GetTerm() < term || e.GetTerm() > m.GetTerm() {
			return no("after entry %d (term %d) comes %d (term %d)", index, term, e.GetIndex(), e.GetTerm())
		}
		index, term = e.GetIndex(), e.GetTerm()
	}
	return nil
}

// soundConf tells whether raft can start from these members: each once, at
// least one voter, nothing of a joint change, which nobody here makes.
func soundConf(c *raftpb.ConfState) bool {
	all := slices.Concat(c.GetVoters(), c.GetLearners())
	slices.Sort(all)
	return len(c.GetVoters()) > 0 && len(c.GetVotersOutgoing()) == 0 && len(c.GetLearnersNext()) == 0 &&
		all[0] != raft.None && len(slices.Compact(slices.Clone(all))) == len(all)
}
