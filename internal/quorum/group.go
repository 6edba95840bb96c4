// Package quorum is the Raft group of the daemons: go.etcd.io/raft's state
// machine behind a boundary that it cannot take anybody down across. It has no
// clock, no disk and no network: the caller ticks it, saves what Next hands
// out, sends what is to be sent, applies what is committed, and says Done.
// What entries mean is not its business. Not safe for concurrent use.
package quorum

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"repmgr/internal/fault"
)

var (
	// ErrNotLeader: only the leader takes proposals, see Status.Leader for who that is.
	ErrNotLeader = errors.New("this node is not the leader of the group")
	// ErrNotReady: the leader has not yet applied an entry of its own raft term.
	ErrNotReady = errors.New("the leader has not applied an entry of its own term yet")
	// ErrChanging: another change of members is not applied yet.
	ErrChanging = errors.New("another change of members is not applied yet")
	// ErrDropped: the proposal was not taken; it may be proposed again.
	ErrDropped = errors.New("the proposal was dropped: leadership is being handed over, or too much is not committed yet")
	// ErrBroken: the group is out of order in this process, for good.
	ErrBroken = errors.New("the raft group of this node is broken")
	// ErrMessage: a message that no member of a sound group sends to this node.
	ErrMessage = errors.New("raft message refused")
)

// The bounds of what is handed in, in bytes. A message fits a frame with room to spare.
const (
	MaxData     = 512 << 10 // of one entry
	MaxState    = 7 << 20   // of a snapshot
	messageSize = 256 << 10 // entries are put together in one message up to this
	uncommitted = 8 << 20   // what a leader takes on without a majority's answer
	inflight    = 64        // messages with entries under way to one peer
	tail        = 500       // entries kept behind a snapshot for those who lag
)

// Options are what a group is made of.
type Options struct {
	ID                            uint64 // the raft id: random for each state directory, never zero
	Stored                        Stored // what the store held; empty for a node that waits to be added
	ElectionTicks, HeartbeatTicks int    // in calls of Tick
	Log                           func(string)
}

// Group is this node's member of the Raft group.
type Group struct {
	id        uint64
	election  int
	node      *raft.RawNode    // by tell, where that may change its state
	known     raft.BasicStatus // that state, by state; without a HardState: it is not known
	soft      raft.SoftState   // as the last batch had it
	rose      uint64           // raft term, as the last batch had it
	quiet     bool             // and so both still are: raft has nothing to say
	store     *memory
	conf      *raftpb.ConfState // the members as of applied
	found     uint64            // the commit index that the store held at the start
	applied   uint64
	term      uint64 // raft term of the entry at applied
	proposed  uint64 // raft term in which a change was proposed that is not applied yet
	ready     raft.Ready
	pending   bool              // ready was handed out and is not Done
	batch     uint64            // number of the batch that was handed out last
	now       int               // ticks
	heard     map[uint64]int    // peer: tick of its last message
	sending   map[uint64]int    // peer: tick at which a snapshot was sent to it
	held      map[uint64]uint64 // peer: committed index that it once acknowledged
	recalled  uint64            // what was committed when that was looked at last; zero: a peer has acknowledged something since
	forgetful map[uint64]bool   // peers that showed less than they once acknowledged
	log       func(string)
	broken    error
}

// New starts a member from what its store held.
func New(o Options) (g *Group, err error) {
	defer func() {
		if r := recover(); r != nil {
			g, err = nil, broken(fmt.Sprint(r))
		}
	}()
	if err := o.Stored.check(); err != nil {
		return nil, err
	}
	g = &Group{
		id: o.ID, election: o.ElectionTicks, log: o.Log,
		heard: map[uint64]int{}, sending: map[uint64]int{}, held: map[uint64]uint64{}, forgetful: map[uint64]bool{},
	}
	if g.store, err = newMemory(o.Stored); err != nil {
		return nil, err
	}
	meta := o.Stored.Snapshot.GetMetadata()
	g.applied, g.term, g.conf = meta.GetIndex(), meta.GetTerm(), raftpb.EnsureConfState(meta.GetConfState())
	g.node, err = raft.NewRawNode(&raft.Config{
		ID:                        o.ID,
		Storage:                   g.store,
		ElectionTick:              o.ElectionTicks,
		HeartbeatTick:             o.HeartbeatTicks,
		PreVote:                   true,
		CheckQuorum:               true,
		StepDownOnRemoval:         true,
		DisableProposalForwarding: true,
		MaxSizePerMsg:             messageSize,
		MaxUncommittedEntriesSize: uncommitted,
		MaxInflightMsgs:           inflight,
		Logger:                    logger(g.log),
	})
	if err != nil {
		return nil, err
	}
	g.found = o.Stored.HardState.GetCommit()
	g.soft, g.rose = g.state().SoftState, g.state().GetTerm()
	return g, nil
}

// Tick lets one tick of time pass. Ticks lost in a freeze are not made up for.
func (g *Group) Tick() {
	_ = g.guard(func() error {
		g.now++
		for id, at := range g.sending {
			if g.now-at >= g.election { // lost or arrived: raft finds out by asking
				delete(g.sending, id)
				g.tell().ReportSnapshot(id, raft.SnapshotFailure)
			}
		}
		g.tell().Tick()
		return nil
	})
}

// Step takes a message of a peer. A message that is refused changes nothing.
func (g *Group) Step(m *raftpb.Message) error {
	return g.guard(func() error {
		if err := check(m, g.id); err != nil {
			return err
		}
		if slices.Contains(g.conf.GetVoters(), m.GetFrom()) || slices.Contains(g.conf.GetLearners(), m.GetFrom()) {
			g.heard[m.GetFrom()] = g.now // others cost no memory
		}
		if g.forgot(m) {
			return fmt.Errorf("%w: %x once acknowledged index %d and has less now", ErrMessage, m.GetFrom(), g.held[m.GetFrom()])
		}
		if m.GetType() == raftpb.MsgAppResp {
			g.recalled = 0
		}
		if err := g.tell().Step(m); err != nil {
			return fmt.Errorf("%w: %w", ErrMessage, err)
		}
		return nil
	})
}

// Propose asks for data to be committed. That it was, is seen by its being
// applied: a nil error only says that the leader has taken it.
func (g *Group) Propose(data []byte) error {
	return g.guard(func() error {
		switch {
		case !g.leads():
			return ErrNotLeader
		case len(data) == 0 || len(data) > MaxData:
			return fault.New(fault.Internal, "an entry of %d bytes cannot be proposed", len(data)).
				WithDetail("An entry has 1 to %d bytes.", MaxData)
		}
		return dropped(g.tell().Propose(data))
	})
}

// Transfer hands leadership to another voter, if this node leads. Proposals
// are dropped until that is done or an election time-out has passed.
func (g *Group) Transfer(to uint64) {
	_ = g.guard(func() error {
		if g.leads() && to != g.id && slices.Contains(g.conf.GetVoters(), to) {
			g.tell().TransferLeader(to)
		}
		return nil
	})
}

// Campaign stands for election now. Without a majority's consent nothing comes of it.
func (g *Group) Campaign() error {
	return g.guard(func() error { return g.tell().Campaign() })
}

// Fail puts the group out of order for good: where a batch could not be saved,
// or where an entry is of a kind that this program does not know.
func (g *Group) Fail(reason string) {
	if g.broken == nil {
		g.broken = broken(reason)
	}
}

// Err is why the group is broken, nil if it is not.
func (g *Group) Err() error { return g.broken }

// guard is the boundary: raft panics where going on would be unsafe, and what
// is unsafe for the group must not take the lease and the server with it.
func (g *Group) guard(do func() error) (err error) {
	if g.broken != nil {
		return g.broken
	}
	defer func() {
		if r := recover(); r != nil {
			g.broken = broken(fmt.Sprint(r))
			logger(g.log).say(g.broken.Error())
			err = g.broken
		}
	}()
	return do()
}

func broken(reason string) error {
	return fault.Wrap(ErrBroken, fault.Internal, "this node takes no part in the group any more").
		WithDetail("%s", reason).
		WithHint("if the state directory is an older copy or was lost, remove this node from the group and let it join anew")
}

// tell is raft, which is about to be told something: its state is not known any more.
func (g *Group) tell() *raft.RawNode {
	g.known.HardState, g.quiet = nil, false
	return g.node
}

// state is raft's. It is asked for after every message, and raft makes it anew each time.
func (g *Group) state() raft.BasicStatus {
	if g.known.HardState == nil {
		g.known = g.node.BasicStatus()
	}
	return g.known
}

func (g *Group) leads() bool { return g.state().RaftState == raft.StateLeader }

// forgot tells whether the sender shows less than it once acknowledged of what
// is committed: a state directory of an hour ago. A late duplicate of an old
// message looks the same, so the message is dropped and nothing more.
func (g *Group) forgot(m *raftpb.Message) bool {
	from := m.GetFrom()
	has := m.GetIndex()
	switch m.GetType() {
	case raftpb.MsgVote, raftpb.MsgPreVote: // Index is the end of the sender's log
	case raftpb.MsgAppResp:
		if m.GetTerm() < g.state().GetTerm() {
			return false
		}
		if m.GetReject() {
			has = m.GetRejectHint()
		} else if has == 0 {
			return false // an answer that only tells its term
		}
	default:
		return false
	}
	if has >= g.held[from] {
		delete(g.forgetful, from)
		return false
	}
	if m.GetType() == raftpb.MsgAppResp && !m.GetReject() {
		return false // an old acknowledgement, harmless
	}
	g.forgetful[from] = true
	return true
}

func dropped(err error) error {
	if errors.Is(err, raft.ErrProposalDropped) {
		return ErrDropped
	}
	return err
}
