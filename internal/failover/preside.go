package failover

import (
	"fmt"
	"slices"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// Orders of the group's leader.
type (
	// ChangeMember changes who is in the group: Member is added as a learner or
	// made a voter, as it says, or removed.
	ChangeMember struct {
		Member record.Member
		Remove bool
	}
	// HandLead passes the leadership of the group to another voter.
	HandLead struct{ To uint64 }
)

func (ChangeMember) action() {}
func (HandLead) action()     {}

// MaximumVoters is how many members vote at most: more would make every entry
// slower and no cluster safer.
const MaximumVoters = 7

// claimWithin is how long a winner may take to claim its grant: its daemon may
// have died with it.
func (p Policy) claimWithin() time.Duration { return max(2*time.Second, p.LeaseTTL) }

// Preside returns what the leader of the group has to do for the group, beside
// what it decides for its own node. A node that does not lead has nothing to do.
func Preside(v *View, now time.Time) Decision {
	if !v.Group.Leads || v.Group.Record == nil {
		return Decision{Rule: notLeading, Why: "another node leads the group, or none"}
	}
	return newFacts(v, now).first(leaderRules)
}

// leaderRules are tried in order; the first that applies wins.
var leaderRules = table{{nil, termRules}, {facts.vacant, biddingRules}, {nil, presidingRules}}

// termRules are for a lease that is held or granted.
var termRules = []rule{
	{"expire", "The holder has not renewed its lease for the whole time to live, as this leader saw it.",
		func(f facts) (string, bool) {
			l, since := f.lease(), f.leaseSeen()
			if !f.governed() || l.State != record.Held || f.now.Sub(since) < l.TTL {
				return "", false
			}
			return f.say("node %d did not renew its lease for %s", l.Holder, f.now.Sub(since).Round(10*time.Millisecond)), true
		},
		func(f facts) []Action {
			return f.propose(record.Expire{Term: f.Group.Record.Term, Seq: f.lease().Seq})
		}},
	{"void", "The winner of the bidding did not claim its grant in time.",
		func(f facts) (string, bool) {
			return f.say("node %d did not claim term %d", f.lease().Holder, f.Group.Record.Term),
				f.governed() && f.lease().State == record.Granted && f.now.Sub(f.leaseSeen()) >= f.Policy.claimWithin()
		},
		func(f facts) []Action {
			return f.propose(record.Void{Term: f.Group.Record.Term, Why: fmt.Sprintf("node %d did not claim it", f.lease().Holder)})
		}},
}

// biddingRules are for the time in which bids are waited for.
var biddingRules = []rule{
	{"await-successor", "The lease was handed over in a switchover, and the node that it is for has not bid yet.",
		func(f facts) (string, bool) {
			waits, _ := f.awaitsSuccessor()
			return f.say("node %d has not bid yet", f.lease().Successor), waits && f.now.Sub(f.leaseSeen()) < f.untilBids()
		}, nil},
	{"await-bids", "Nobody holds the lease, and a member that was heard of has not bid yet.",
		func(f facts) (string, bool) {
			n, missing := f.missingBid()
			_, settled := f.awaitsSuccessor()
			return f.say("node %d has not bid yet", n), missing && !settled && f.now.Sub(f.leaseSeen()) < f.Policy.BidWindow
		}, nil},
	{"close", "Nobody holds the lease, and the bids suffice.",
		func(f facts) (string, bool) {
			v := f.Group.Record.Verdict()
			return v.Why, v.Winner != 0
		},
		func(f facts) []Action { return f.propose(record.Close{Vacancy: f.lease().Vacancy}) }},
}

// presidingRules are for everything else.
var presidingRules = []rule{
	{"wait-claimed", "The lease is granted: members do not change now.",
		func(f facts) (string, bool) {
			return f.say("node %d may claim it", f.lease().Holder), f.governed() && f.lease().State == record.Granted
		}, nil},
	{"change-member", "A node that is registered is no member, or not the one it should be, or a member is registered no more.",
		func(f facts) (string, bool) {
			_, why := f.memberChange()
			return why, why != "" && !f.Group.Changing
		},
		func(f facts) []Action {
			c, _ := f.memberChange()
			return []Action{c}
		}},
	{"describe-member", "A member's own settings are not those in the record.",
		func(f facts) (string, bool) {
			d, differs := f.description()
			return f.say("node %d changed its settings", d.Node), differs
		},
		func(f facts) []Action {
			d, _ := f.description()
			return f.propose(d)
		}},
	{"hand-over-lead", "The leader is on the primary's host, and another outlives that host; or the leader is registered no more, and another has to remove it.",
		func(f facts) (string, bool) {
			to, ok := f.betterLeader()
			return f.say("node %d is a better leader", f.Group.Record.NodeOf(to)), ok
		},
		func(f facts) []Action {
			to, _ := f.betterLeader()
			return []Action{HandLead{to}}
		}},
	{"no-winner", "Nobody holds the lease, and the bids do not suffice. It comes after the changes of members: one of them may be what is missing.",
		func(f facts) (string, bool) {
			if !f.vacant() {
				return "", false
			}
			return f.Group.Record.Verdict().Why, true
		}, nil},
	{"presides", "This node leads the group and there is nothing to do.",
		func(f facts) (string, bool) { return "this node leads the group", true }, nil},
}

func (f facts) governed() bool { return f.Group.Record.Rule == record.Quorum }

// vacant reports whether bids are to be closed.
func (f facts) vacant() bool {
	return f.governed() && f.lease().State == record.Vacant && !f.Group.Record.Pause.On
}

// leaseSeen is from when this leader counts the lease: it was seen so, and this
// node has been the leader since. A leader that was elected a moment ago gives a
// holder who was cut off together with everybody the time to renew.
func (f facts) leaseSeen() time.Time {
	if f.LeadSince.After(f.Group.LeaseAt) {
		return f.LeadSince
	}
	return f.Group.LeaseAt
}

// missingBid returns a member that may bid, was heard of since the vacancy
// began or shortly before, and has not bid. One whose daemon says that its server
// is down has nothing to bid: that it declines is not waited for.
func (f facts) missingBid() (cluster.NodeID, bool) {
	for _, m := range f.Group.Record.Members {
		inSet := slices.ContainsFunc(f.Group.Record.Sync.Sets, func(s record.Set) bool { return s.Has(m.Node) })
		if m.Witness || !m.Eligible() && !inSet {
			continue
		}
		_, bid := f.Group.Record.BidOf(m.Node)
		heard, server := m.Node == f.Self, f.local.State
		if !heard {
			heard, server = f.fresh(m.Node) && !f.Peers[m.Node].Silent, f.Peers[m.Node].Report.Server
		}
		if !bid && heard && !server.down() {
			return m.Node, true
		}
	}
	return 0, false
}

// memberChange returns the next change of the members, and why; one at a time.
func (f facts) memberChange() (ChangeMember, string) {
	rec := f.Group.Record
	if _, ok := cluster.Find(f.Nodes, f.Self); !ok {
		return ChangeMember{}, "" // the records were not read: nothing follows from them
	}
	for _, m := range rec.Members {
		n, registered := cluster.Find(f.Nodes, m.Node)
		p := f.progress(m.RaftID)
		r := f.Peers[m.Node].Report
		replaced := registered && f.fresh(m.Node) && r.RaftID != 0 && r.RaftID != m.RaftID && !p.Active
		switch {
		case m.Node == f.Self:
			continue
		case m.Node == rec.Lease.Holder && rec.Rule == record.Quorum && !replaced:
			// it is not taken out; as a learner that was granted the lease it becomes a voter like any other
		case m.Voter && rec.Rule == record.Quorum && rec.Voters() <= record.MinimumVoters && !replaced:
			// it may not go before the rule has ended, or another has taken its place
		case !registered && rec.Rule == record.Quorum && awaited(rec.Sync, m.Node):
			// the holder takes it out of the synchronous set first: a failover would wait for its bid
		case !registered:
			return ChangeMember{Member: m, Remove: true}, f.say("node %d is registered no more", m.Node)
		case replaced:
			return ChangeMember{Member: m, Remove: true}, f.say("node %d has a new state directory", m.Node)
		}
		if registered && !m.Voter && p.Active && p.CaughtUp && rec.Voters() < MaximumVoters && n.ID == m.Node {
			m.Voter = true
			return ChangeMember{Member: m}, f.say("node %d has caught up", m.Node)
		}
	}
	for _, n := range f.Nodes {
		r := f.Peers[n.ID].Report
		if _, member := rec.Member(n.ID); member || n.ID == f.Self || !f.fresh(n.ID) || r.RaftID == 0 {
			continue
		}
		return ChangeMember{Member: record.Member{Node: n.ID, Name: r.Name, RaftID: r.RaftID, Witness: n.Role == cluster.Witness,
			Priority: r.Priority, Automatic: r.Automatic, Location: r.Location, Level: r.Level}}, f.say("node %d is registered and runs", n.ID)
	}
	return ChangeMember{}, ""
}

// awaited reports whether a failover needs the bids of a set that a node is in, and
// the holder is about to change that.
func awaited(s record.Sync, id cluster.NodeID) bool {
	return s.Newest() != "" && slices.ContainsFunc(s.Sets, func(set record.Set) bool { return set.Has(id) })
}

func (f facts) progress(raftID uint64) Progress {
	for _, p := range f.Group.Progress {
		if p.RaftID == raftID {
			return p
		}
	}
	return Progress{}
}

// description returns the settings of a member as its daemon tells them, if the
// record has others.
func (f facts) description() (record.Describe, bool) {
	for _, m := range f.Group.Record.Members {
		n, ok := cluster.Find(f.Nodes, m.Node)
		r := f.Peers[m.Node].Report
		name, priority, automatic, barred := r.Name, r.Priority, r.Automatic, r.Barred
		if m.Node == f.Self {
			name, priority, automatic, barred = f.self.Name, f.self.Priority, f.Policy.Automatic, f.Barred()
		} else if !f.fresh(m.Node) {
			continue
		}
		level := f.announced(m)
		if level < 2 {
			barred = "" // an older program would not understand that word either
		}
		d := record.Describe{Node: m.Node, Name: name, Witness: n.Role == cluster.Witness, Priority: priority, Automatic: automatic, Location: n.Location, Level: level, Barred: barred}
		if ok && d != (record.Describe{Node: m.Node, Name: m.Name, Witness: m.Witness, Priority: m.Priority, Automatic: m.Automatic, Location: m.Location, Level: m.Level, Barred: m.Barred}) {
			return d, true
		}
	}
	return record.Describe{}, false
}

// announced is the level of changes that a member knows, as the record may say it:
// an older program would not understand that word, so it is left out until all are
// known to, and taken back where one has become older (safety notes, B38).
func (f facts) announced(m record.Member) int {
	silent := false
	for _, other := range f.Group.Record.Members {
		switch {
		case other.Node == f.Self:
		case !f.fresh(other.Node):
			silent = true
		case f.Peers[other.Node].Report.Level < 2:
			return 0
		}
	}
	switch {
	case silent:
		return m.Level
	case m.Node == f.Self:
		return record.Level
	}
	return f.Peers[m.Node].Report.Level
}

// handOverAfter is how long a leader leads before it hands over, so that two
// do not play with it.
const handOverAfter = 5 * time.Second

// betterLeader returns a voter to whom the leadership should go.
func (f facts) betterLeader() (uint64, bool) {
	rec := f.Group.Record
	withPrimary := f.governed() && rec.Lease.Holder == f.Self && rec.Lease.State == record.Held
	unregistered := !f.known && len(f.Nodes) > 0
	if !withPrimary && !unregistered || f.now.Sub(f.LeadSince) < handOverAfter {
		return 0, false
	}
	for _, m := range rec.Members {
		if _, registered := cluster.Find(f.Nodes, m.Node); !registered {
			continue
		}
		if p := f.progress(m.RaftID); m.Voter && m.Node != f.Self && p.Active && p.CaughtUp && f.fresh(m.Node) {
			return m.RaftID, true
		}
	}
	return 0, false
}
