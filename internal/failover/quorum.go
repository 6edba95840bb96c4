package failover

import (
	"slices"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// Orders of the quorum rule.
type (
	// Propose asks the group for a change of the record. It keeps nobody busy.
	Propose struct{ Change record.Change }
	// FoundGroup makes the group, with this node as its only member.
	FoundGroup struct{}
	// BeginQuorum arms the server, sets a guard, and proposes the quorum rule.
	BeginQuorum struct{ Term uint64 }
	// EndQuorum proposes the visibility rule.
	EndQuorum struct {
		Term uint64
		Why  string
	}
	// Seal ends the receiving of WAL for good, and finds the final position.
	Seal struct{ Vacancy uint64 }
	// PromoteTo makes the own server the primary, on the timeline that was granted.
	// First Sync is put in force, unless the mode is off (safety notes, B17).
	PromoteTo struct {
		Term     uint64
		Timeline cluster.Timeline
		Mode     record.SyncMode
		Sync     WriteSync
	}
	// Arm sees to it that the running primary's server comes up read-only after
	// whatever may happen to it.
	Arm struct{}
	// Disarm is the opposite: the server's next start is a primary's.
	Disarm struct{}
	// Demote ends the own server at once; it stays armed.
	Demote struct{ Why string }
	// GiveUp ends what is left of the own server and releases the lease; in a
	// switchover to node To, whose server has all WAL up to End.
	GiveUp struct {
		Term uint64
		Seq  uint64 // of the last renewal
		Why  string
		Fast bool           // it answers: it is stopped in order first, so that its standbys have everything
		To   cluster.NodeID // zero: to nobody in particular
		End  cluster.LSN
	}
	// StartServer starts the own server, which is armed, and so comes up read-only.
	StartServer struct{}
	// Rejoin makes this node's server a standby of the holder again: as it is,
	// rewound, or cloned anew, as auto_rejoin allows.
	Rejoin struct {
		Upstream cluster.NodeID
		Term     uint64
		Name     string // application_name under which it streams in that term; empty: the node's
	}
)

func (Propose) action()     {}
func (FoundGroup) action()  {}
func (BeginQuorum) action() {}
func (EndQuorum) action()   {}
func (Seal) action()        {}
func (PromoteTo) action()   {}
func (Arm) action()         {}
func (Disarm) action()      {}
func (Demote) action()      {}
func (GiveUp) action()      {}
func (StartServer) action() {}
func (Rejoin) action()      {}

// quorumKnown reports whether the quorum rule is in force as far as this node
// knows. A node that is no member, or not yet, decides nothing by itself then, nor
// does one whose record is behind another's.
func (f facts) quorumKnown() bool {
	rec := f.Group.Record
	if rec == nil && (f.Group.Known || !f.Owed.IsZero()) || rec != nil && rec.Rule == record.Quorum {
		return true
	}
	for _, n := range f.Nodes {
		r := f.Peers[n.ID].Report
		news := rec == nil && (r.Group == "" || r.Group != f.Disowned) || rec != nil && r.Group == rec.Group && r.Term > rec.Term // it begins with a new term
		if f.fresh(n.ID) && r.PromotionRule == record.Quorum && news {
			return true
		}
	}
	return false
}

var noLease record.Lease

// lease is the lease as this node knows it; a node that is no member knows none.
func (f facts) lease() *record.Lease {
	if f.Group.Record == nil {
		return &noLease
	}
	return &f.Group.Record.Lease
}

// holds reports whether the record says that this node, with this data
// directory, holds the lease; whether it still may write is another question.
func (f facts) holds() bool {
	return f.Group.Record != nil && f.Group.Record.Holds(f.Self, f.local.Incarnation)
}

// sure reports whether this node's lease lasts a little longer.
func (f facts) sure() bool { return MayWrite(f.View, f.now.Add(f.margin())) }

// mayBePromoted reports whether the own server is in recovery, and may leave it yet: by an
// order of this life of the daemon, or of an earlier one, for which the lease had a limit.
func (f facts) mayBePromoted() bool {
	_, limited := Deadline(f.View)
	return f.inRecovery() && !f.ReadOnly && (f.promotes() || limited)
}

// mayWriteYet reports whether the own server takes writes, or may do so without another order: it
// hangs, or a promotion is under way.
func (f facts) mayWriteYet() bool {
	hangs := f.holds() && f.local.State == ServerUnreachable && !f.ReadOnly
	return f.writable() || hangs || f.mayBePromoted()
}

// regrants reports whether this node has asked for a new timeline in the term that its
// record knows. It may have been granted since, and the server may not write on the old one any more.
func (f facts) regrants() bool {
	for c := range f.Asked {
		if r, ok := c.(record.Regrant); ok && r.Term == f.Group.Record.Term {
			return true
		}
	}
	return false
}

// standing judges the own server's history and final position. Only a sealed
// server's are sure: while it receives, its position may be another history's
// (safety notes, A5 and A14).
func (f facts) standing() record.Standing {
	if !f.sealedNow() {
		return record.Standing{}
	}
	return f.Group.Record.Judge(f.Seal.Line, f.Seal.LSN, false)
}

// inRecovery reports whether the own server runs as a standby.
func (f facts) inRecovery() bool {
	return f.local.State == ServerRunning && f.local.Role == cluster.Standby
}

// untaken reports whether nobody holds the lease.
func (f facts) untaken() bool { return !f.lease().Taken() }

func (f facts) witness() bool { return f.self.Role == cluster.Witness }

// asked reports whether a change was proposed and its answer is still awaited,
// or the record refused it.
func (f facts) asked(c record.Change) (string, bool) {
	a, ok := f.Asked[c]
	switch {
	case !ok, a.Err != "" && f.now.Sub(a.At) > 50*time.Millisecond:
		return "", false
	case a.Waiting && f.now.Sub(a.At) < time.Second:
		return "the answer is awaited", true
	case a.Refused != "" && f.now.Sub(a.At) < time.Second:
		return "refused: " + a.Refused, true
	case !a.Waiting && a.Err == "" && f.now.Sub(a.At) < time.Second:
		return "it was accepted, and this node's record lags behind", true
	}
	return "", a.Err != "" && f.now.Sub(a.At) <= 50*time.Millisecond
}

// groupRules are for a primary under the visibility rule that could be under the other.
var groupRules = []rule{
	{"disarm", "This server takes writes under the visibility rule, and would come up read-only after a restart.",
		func(f facts) (string, bool) {
			return "standby.signal is there", f.writable() && f.local.Armed
		},
		func(facts) []Action { return []Action{Disarm{}} }},
	{"lease-too-short", "The quorum rule could begin, but lease_ttl is too short for the links between the voters, for their disks, or for the hosts of their servers.",
		func(f facts) (string, bool) {
			why := f.whyTooShort()
			return why, why != "" && f.writable() && f.Policy.Quorum && f.Group.Record.Voters() >= record.MinimumVoters
		}, nil},
	{"begin-awaits-members", "The quorum rule could begin, but so many registered nodes have no part in the group that they could promote one of theirs by the other rule.",
		func(f facts) (string, bool) {
			if f.Group.Record == nil {
				return "", false
			}
			without, all := f.outsiders()
			return f.say("%d of %d other nodes are no members of the group", without, all),
				f.writable() && f.Policy.Quorum && f.Group.Record.Voters() >= record.MinimumVoters && 2*without > all
		}, nil},
	{"begin-quorum", "There are three voters and all of them know it: the quorum rule can begin.",
		func(f facts) (string, bool) {
			rec := f.Group.Record
			ready := f.writable() && f.Policy.Quorum && rec != nil && !f.Paused && !rec.Pause.On && rec.Voters() >= record.MinimumVoters && f.votersToBe() >= record.MinimumVoters && f.local.Line != ""
			if !ready {
				return "", false
			}
			for _, m := range rec.Members {
				if m.Voter && m.Node != f.Self && (!f.fresh(m.Node) || f.Peers[m.Node].Report.Voters < record.MinimumVoters) {
					return "", false
				}
			}
			return f.say("%d voters", rec.Voters()), true
		},
		func(f facts) []Action { return []Action{BeginQuorum{f.Group.Record.Term}} }},
	{"found-group", "Three daemons are registered and run, and there is no group yet: the primary's founds it.",
		func(f facts) (string, bool) {
			running := 1
			for _, n := range f.Nodes {
				if n.ID != f.Self && f.fresh(n.ID) && f.Peers[n.ID].Report.RaftID != 0 {
					running++
				}
			}
			return f.say("%d daemons are registered and run", running),
				f.writable() && f.Policy.Quorum && f.Group.Record == nil && !f.Group.Known && f.Group.RaftID != 0 && f.Group.Broken == "" && running >= record.MinimumVoters
		},
		func(facts) []Action { return []Action{FoundGroup{}} }},
}

// outsiders counts the active nodes beside this one that are no members of the
// group, and all: those would not learn from it that the quorum rule has begun.
func (f facts) outsiders() (without, all int) {
	for _, n := range f.Nodes {
		if n.ID == f.Self || !n.Active {
			continue
		}
		all++
		if _, member := f.Group.Record.Member(n.ID); !member {
			without++
		}
	}
	return without, all
}

// quorumRules are those of a member under the quorum rule; of the others, the
// first says that they wait.
var quorumRules = table{{nil, standingRules}, {facts.holds, slices.Concat(downForSwitchover, holderRules, switchoverRules, primaryHolds)},
	{facts.untaken, slices.Concat(successionRules, vacancyRules)}, {nil, memberRules}, {facts.mustRejoin, rejoinRules}, {nil, downRules},
	{facts.misplaced, measureRules}, {nil, standbyFollows}}

// standingRules come before all else: they are about what this node knows, and what it is
// doing.
var standingRules = []rule{
	{"lease-forgotten", "An earlier life of this daemon held the lease, as its guard's deadline tells, and what it knew is lost: a promotion that it ordered may happen yet, so the server is ended before others may be promoted, be there a guard or not.",
		func(f facts) (string, bool) {
			return "the lease of an earlier life of this daemon ends", !f.Owed.IsZero() && !f.down() && !f.sure() && !f.now.Add(f.margin()).Before(f.Owed)
		},
		func(facts) []Action { return []Action{Demote{"the lease of an earlier life of this daemon ends"}} }},
	{"not-registered", "This node has no record in repmgr.nodes, and does not hold the lease, which a holder has to give back all the same.",
		func(f facts) (string, bool) {
			return f.say("node %d is not registered", f.Self), !f.known && !f.holds()
		}, nil},
	{"primary-without-record", "This server takes writes, the cluster is under the quorum rule, and this node has no record to show that it may.",
		func(f facts) (string, bool) {
			return "this node is no member of the group, and its server takes writes", f.Group.Record == nil && f.writable()
		},
		func(f facts) []Action { return []Action{Demote{"this node is no member of the group"}} }},
	{"record-behind", "The other daemons' records say that the quorum rule has begun, and this node's does not yet: it waits.",
		func(f facts) (string, bool) {
			return "this node's record is behind the others'", f.Group.Record != nil && f.Group.Record.Rule != record.Quorum
		}, nil},
	{"lease-ran-out", "This server takes writes, or may be promoted yet, and its lease is not sure any more: it is stopped before others may be promoted, be there a guard or not.",
		func(f facts) (string, bool) {
			_, ending := f.Doing.(GiveUp)
			if f.Group.Record == nil || !f.mayWriteYet() || f.sure() || ending {
				return "", false
			}
			return f.whyUnsure(), true
		},
		func(f facts) []Action { return []Action{Demote{f.whyUnsure()}} }},
	{"guard-is-gone", "This server takes writes, or may be promoted yet, and nothing would stop it if this daemon hung.",
		func(f facts) (string, bool) {
			_, ending := f.Doing.(GiveUp) // of a server that does not take writes
			return "there is no guard", f.mayWriteYet() && (f.writable() || !ending) && f.lease().State == record.Held && !f.Guard.Alive && !f.GuardSince.IsZero() && f.now.Sub(f.GuardSince) > time.Second
		},
		func(f facts) []Action { return []Action{Demote{"there is no guard"}} }},
	{"busy", "An order is being carried out.",
		func(f facts) (string, bool) { return f.busyWith(f.Doing) }, nil},
	refusedTwice,
	{"wait-membership", "The cluster is under the quorum rule, and this node is no member of the group yet.",
		func(f facts) (string, bool) {
			return "this node is no member of the group yet", f.Group.Record == nil
		}, nil},
	witnessVotes,
	{"arm-stopped", "The data directory was a primary's, nothing runs there, and whoever starts it would make it a primary: it is armed.",
		func(f facts) (string, bool) {
			if !f.down() || !f.local.Sealed || f.local.Armed || f.witness() || f.Group.Record.Pause.On || f.Opened && f.holds() && f.sure() {
				return "", false
			}
			return f.say("the server is %s and standby.signal is not there", f.local.State), true
		},
		func(facts) []Action { return []Action{Arm{}} }},
	{"wait-record", "This node is sealed for a vacancy that its record does not know yet: the record is behind.",
		func(f facts) (string, bool) {
			return f.say("it was sealed for vacancy %d, the record is at vacancy %d", f.Seal.Vacancy, f.lease().Vacancy),
				f.Seal.Group == f.Group.Record.Group && f.Seal.Vacancy > f.lease().Vacancy
		}, nil},
}

// releasedWithin is how long this node's record may lag behind a release that was
// answered before it is asked for again.
const releasedWithin = 250 * time.Millisecond

// holderRules are for the node that holds the lease.
var holderRules = []rule{
	{"holder-paused", "The holder's server does not run, and the cluster is paused: it is left to the operators.",
		func(f facts) (string, bool) {
			return f.with("the cluster is paused: ", f.Group.Record.Pause.Reason), f.Group.Record.Pause.On && f.local.State != ServerRunning
		}, nil},
	{"holder-resumed", "A pause has ended, and the holder's server was not looked at since: that it did not run before says nothing, operators may have started it.",
		func(f facts) (string, bool) {
			return f.with("the server was ", string(f.local.State)), f.stale(f.now) && f.local.State != ServerRunning
		}, nil},
	{"given-back", "The holder's server is gone and the lease was given back; this node's record does not say so yet.",
		func(f facts) (string, bool) {
			return "the lease was given back", f.down() && !f.Tenure.ReleasedAt.IsZero() && f.now.Sub(f.Tenure.ReleasedAt) < releasedWithin
		}, nil},
	{"give-up", "The holder's server is gone or hangs: what is left of it is ended, and the lease given back.",
		func(f facts) (string, bool) {
			why, gone := f.goneFor()
			return why, gone && (f.sure() || f.Tenure.Given || f.Shut)
		},
		func(f facts) []Action {
			why, _ := f.goneFor()
			return f.giveUp(why)
		}},
	{"disk-full", "The disk of the primary's server is full for primary_write_timeout, and a standby that has everything has room: the server is stopped in order, and the lease given back.",
		func(f facts) (string, bool) {
			n, full := f.handsOverFull()
			return f.say("%d MB are left here, and %d MB on node %d", f.local.Room>>20, f.Peers[n].Report.Room>>20, n), full && !f.Group.Record.Pause.On
		},
		func(f facts) []Action {
			give := f.giveUp("its disk is full")[0].(GiveUp)
			give.Fast = true
			return []Action{give}
		}},
	{"start-read-only", "The holder's lease ran out and its server is down: it is started read-only, to be the primary again when the majority is back.",
		func(f facts) (string, bool) {
			return f.with("the server is ", string(f.local.State)), !f.sure() && f.mayStart()
		},
		func(facts) []Action { return []Action{StartServer{}} }},
	{"holder-grace", "The holder's server was stopped or is starting: a restart is waited for.",
		func(f facts) (string, bool) {
			if f.local.State == ServerRunning {
				return "", false
			}
			return f.say("the server is %s for %s", f.local.State, f.now.Sub(f.local.Since).Round(100*time.Millisecond)), true
		}, nil},
	{"arm-to-regrant", "The holder's server came up read-only, and would come up writable next time, or follow somebody: it is armed, without which neither its lease becomes a timed one after a pause nor a new timeline is asked for.",
		func(f facts) (string, bool) {
			return "standby.signal is not there, or primary_conninfo is not empty", f.inRecovery() && !f.local.Armed && (f.lease().Promoted || !f.sure())
		},
		func(facts) []Action { return []Action{Arm{}} }},
	{"wait-lease", "The record says that this node holds the lease, and it is not sure for how long: its server stays read-only.",
		func(f facts) (string, bool) {
			return f.whyUnsure(), f.inRecovery() && !f.sure()
		}, nil},
	{"record-promotion", "The holder's server was promoted, and the record does not say so yet; this comes before all else, also after a restart.",
		func(f facts) (string, bool) {
			return f.say("timeline %d", f.lease().Timeline), (f.writable() || f.inRecovery()) && f.unrecorded()
		},
		func(f facts) []Action {
			switches, end, err := f.local.Line.Parse()
			if err != nil || len(switches) == 0 {
				return nil
			}
			s := switches[len(switches)-1]
			return f.propose(record.Promoted{Term: f.Group.Record.Term, Node: f.Self, Timeline: end, Parent: s.Parent, Fork: s.LSN})
		}},
	{"holder-barred", "The holder's server came up read-only, and its settings forbid that it is promoted: the lease is given back.",
		func(f facts) (string, bool) {
			return f.local.Barred, f.inRecovery() && f.local.Barred != ""
		},
		func(f facts) []Action { return f.giveUp(f.local.Barred) }},
	{"promotion-failed", "The promotion of the holder's server failed, and may happen yet: the server is ended, and the lease given back.",
		func(f facts) (string, bool) {
			p, tried := f.Setback.Of.(PromoteTo)
			return f.say("promotion to timeline %d", p.Timeline), f.inRecovery() && !f.lease().Promoted && tried && p.Term == f.Group.Record.Term
		},
		func(f facts) []Action { return f.giveUp("its promotion failed") }},
	{"first-set", "This node claimed the lease: before its server is promoted, the record says for whom its commits will wait.",
		func(f facts) (string, bool) {
			if !f.inRecovery() || f.lease().Promoted || !f.firstSetMissing() {
				return "", false
			}
			return f.say("mode %s, %q", f.syncMode(), f.firstSet()), true
		},
		func(f facts) []Action { return f.propose(f.syncAdd(f.firstSet())) }},
	{"promote-granted", "This node was granted the lease and claimed it: its server is promoted.",
		func(f facts) (string, bool) {
			return f.say("term %d, timeline %d", f.Group.Record.Term, f.lease().Timeline), f.inRecovery() && !f.lease().Promoted
		},
		func(f facts) []Action {
			r := f.Group.Record
			return []Action{PromoteTo{r.Term, f.lease().Timeline, f.syncMode(), WriteSync{r.Term, r.Sync.Seq, f.syncNames(r.Sync.Newest())}}}
		}},
	{"regrant-waits", "The holder's server came up read-only, again and again: each promotion costs a timeline, so it waits a little longer each time, unless the lease is held without a gap by now.",
		func(f facts) (string, bool) {
			return f.say("%s are left", f.waits().Round(100*time.Millisecond)), f.inRecovery() && f.waits() > 0 && !f.Group.Record.Pause.On
		}, nil},
	{"regrant", "The holder's server was restarted and came up read-only: a new term and timeline are asked for.",
		func(f facts) (string, bool) {
			return "the server came up read-only under a lease that is held", f.inRecovery()
		},
		func(f facts) []Action {
			return f.propose(record.Regrant{Term: f.Group.Record.Term, Node: f.Self, Incarnation: f.local.Incarnation, TTL: f.Policy.LeaseTTL, Life: f.Life, Why: "its server was restarted"})
		}},
	{"wrong-timeline", "The holder's server was promoted to another timeline than the one it was granted.",
		func(f facts) (string, bool) {
			return f.say("timeline %d instead of %d", f.local.Position.Timeline, f.lease().Timeline),
				f.writable() && f.local.Line != "" && f.local.Position.Timeline != f.lease().Timeline
		},
		func(f facts) []Action { return []Action{Demote{"it is on a timeline that was not granted"}} }},
	{"disarm-paused", "The cluster is paused, so that nobody else can be promoted: the primary's server may be restarted as one.",
		func(f facts) (string, bool) {
			return "standby.signal is there", f.writable() && f.local.Armed && f.lease().State == record.Indefinite && f.Group.Record.Pause.On
		},
		func(facts) []Action { return []Action{Disarm{}} }},
	{"arm", "The primary's data directory would come up writable after a crash: it is armed, after a pause before the lease is a timed one again.",
		func(f facts) (string, bool) {
			return "standby.signal is not there", f.writable() && !f.local.Armed && !f.Group.Record.Pause.On
		},
		func(facts) []Action { return []Action{Arm{}} }},
	{"end-quorum", "Fewer than three voters are left by the records, or promotion_rule='visibility': the quorum rule is ended before a voter goes.",
		func(f facts) (string, bool) {
			if !f.known || !f.writable() || !f.sure() || f.lease().State != record.Held {
				return "", false
			}
			why := f.whyEnd()
			return why, why != ""
		},
		func(f facts) []Action { return []Action{EndQuorum{f.Group.Record.Term, f.whyEnd()}} }},
}

// primaryHolds is where the holder has nothing to do.
var primaryHolds = []rule{{"primary-holds", "This server takes writes and this node holds the lease.",
	func(f facts) (string, bool) {
		return f.say("term %d, the lease is %s", f.Group.Record.Term, f.lease().State), true
	}, nil}}

// vacancyRules are for the time in which nobody holds the lease.
var vacancyRules = []rule{
	{"claim", "This node was granted the lease.",
		func(f facts) (string, bool) {
			return f.say("term %d is granted to this node", f.Group.Record.Term),
				f.lease().State == record.Granted && f.lease().Holder == f.Self && f.inRecovery() && f.Guard.Alive && f.local.Barred == ""
		},
		func(f facts) []Action {
			return f.propose(record.Claim{Term: f.Group.Record.Term, Node: f.Self, Incarnation: f.local.Incarnation, TTL: f.Policy.LeaseTTL, Life: f.Life})
		}},
	{"wait-claim", "This node was granted the lease, and its server or its guard is not ready, or its server's settings forbid a promotion.",
		func(f facts) (string, bool) {
			return f.say("the server is %s, guard: %v, forbidden by: %q", f.local.State, f.Guard.Alive, f.local.Barred), f.lease().State == record.Granted && f.lease().Holder == f.Self
		}, nil},
	{"vacancy-paused", "Nobody holds the lease, and the cluster is paused.",
		func(f facts) (string, bool) {
			return f.with("the cluster is paused: ", f.Group.Record.Pause.Reason), f.lease().State == record.Vacant && f.Group.Record.Pause.On
		}, nil},
	{"witness-waits-for-grant", "Nobody holds the lease; a witness has nothing to bid.",
		func(f facts) (string, bool) {
			return f.say("vacancy %d", f.lease().Vacancy), f.lease().State == record.Vacant && f.witness()
		}, nil},
	{"vacancy-is-manual", "Nobody holds the lease, and failover=manual on this node.",
		func(f facts) (string, bool) {
			return f.say("vacancy %d", f.lease().Vacancy), f.lease().State == record.Vacant && !f.Policy.Automatic && f.inRecovery()
		}, nil},
	{"withdraw-bid", "This node has offered its position and is sealed no more, as after a change by hand: it takes the offer back before it is sealed again.",
		func(f facts) (string, bool) {
			return f.withdrawal(), f.lease().State == record.Vacant && f.inRecovery() && f.hasBid() && !f.sealedNow() &&
				f.Group.Record.Unknown(record.Withdraw{}) == "" // else it is only sealed again
		},
		func(f facts) []Action {
			return f.propose(record.Withdraw{Vacancy: f.lease().Vacancy, Node: f.Self, Why: f.withdrawal()})
		}},
	{"decline-full", "Nobody holds the lease; this node's disk is full, and another that may be chosen has room.",
		func(f facts) (string, bool) {
			return f.say("%d MB are left", f.local.Room>>20), f.declinesFull()
		},
		func(f facts) []Action {
			if _, known := f.Group.Record.BidOf(f.Self); known {
				return nil
			}
			return f.propose(record.Bid{Vacancy: f.lease().Vacancy, Node: f.Self, Declined: "its disk is full"})
		}},
	{"seal", "Nobody holds the lease: this node stops receiving WAL, so that its position is final.",
		func(f facts) (string, bool) {
			return f.say("vacancy %d: %s", f.lease().Vacancy, f.lease().Why), f.lease().State == record.Vacant && f.inRecovery() && !f.sealedNow()
		},
		func(f facts) []Action { return []Action{Seal{f.lease().Vacancy}} }},
	{"wait-barred", "Settings of this node's server forbid that it is promoted, and the record does not say so yet: it offers nothing before.",
		func(f facts) (string, bool) {
			m, _ := f.Group.Record.Member(f.Self)
			return f.local.Barred, f.lease().State == record.Vacant && f.inRecovery() && f.local.Barred != "" && m.Barred == "" && !f.hasBid()
		}, nil},
	{"place-bid", "This node is sealed: its position is offered.",
		func(f facts) (string, bool) {
			return f.say("vacancy %d: timeline %d, %s", f.lease().Vacancy, f.Seal.Timeline, f.Seal.LSN),
				f.lease().State == record.Vacant && f.inRecovery() && !f.hasBid()
		},
		func(f facts) []Action { return f.propose(f.ownBid()) }},
	{"decline", "This node's server does not run: the others need not wait for its bid.",
		func(f facts) (string, bool) {
			_, known := f.Group.Record.BidOf(f.Self)
			return f.with("the server is ", string(f.local.State)), f.lease().State == record.Vacant && f.local.State != ServerRunning && !known
		},
		func(f facts) []Action {
			why := "its server is " + string(f.local.State)
			if f.local.Torn {
				why = tornText
			}
			return f.propose(record.Bid{Vacancy: f.lease().Vacancy, Node: f.Self, Declined: why})
		}},
	{"rewind-broken-off", "Nobody holds the lease, and a rewind of this node's server was broken off: it may not be started, and has nothing to offer.",
		func(f facts) (string, bool) {
			if f.lease().State != record.Vacant || !f.down() || !f.local.Torn {
				return "", false
			}
			return f.Group.Record.Verdict().Why, true
		}, nil},
	{"start-to-bid", "Nobody holds the lease, and this node's server is down: it is started read-only.",
		func(f facts) (string, bool) {
			return f.with("the server is ", string(f.local.State)), f.lease().State == record.Vacant && f.mayStart() && f.now.Sub(f.Group.LeaseAt) > max(f.untilBids(), f.startAfter())
		},
		func(facts) []Action { return []Action{StartServer{}} }},
	{"wait-grant", "Nobody holds the lease yet.",
		func(f facts) (string, bool) {
			if f.lease().State != record.Vacant {
				return "", false
			}
			return f.Group.Record.Verdict().Why, true
		}, nil},
}

// memberRules are for those who do not hold the lease while another does.
var memberRules = []rule{
	{"wait-promotion", "Another node is being promoted.",
		func(f facts) (string, bool) {
			return f.say("term %d belongs to node %d, and its promotion is not recorded yet", f.Group.Record.Term, f.lease().Holder),
				!f.lease().Taken() || !f.lease().Promoted
		}, nil},
	{"follow-paused", "Another node is the primary, and the cluster is paused.",
		func(f facts) (string, bool) {
			return f.with("the cluster is paused: ", f.Group.Record.Pause.Reason), f.Group.Record.Pause.On && (f.local.State != ServerRunning || f.mustFollow() != 0)
		}, nil},
}

// rejoinRules are for one whose server cannot simply follow.
var rejoinRules = []rule{
	{"rejoin-is-off", "This node's server has to be made a standby again, and auto_rejoin='off'.",
		func(f facts) (string, bool) {
			return f.say("node %d is the primary; this server is %s", f.lease().Holder, f.local.State), f.Policy.Rejoin == "off"
		}, nil},
	{"rejoin-gave-up", "This node's server could not be made a standby again, several times over.",
		func(f facts) (string, bool) {
			return f.say("%d attempts failed; repmgr standby clone --force makes it anew", f.Rejoins.Tries), f.Rejoins.Tries >= rejoinAttempts
		}, nil},
	{"rejoin-waits", "This node's server could not be made a standby again a short while ago, or was and has to be once more.",
		func(f facts) (string, bool) {
			wait := f.Rejoins.wait(f.Self)
			return f.say("attempt %d is made %s after the last", f.Rejoins.Tries+1, wait), f.now.Sub(f.Rejoins.At) < wait
		}, nil},
	{"rejoin-by-old-record", "Another daemon knows a later term than this node's record, by which the server's history cannot be judged: the record is waited for.",
		func(f facts) (string, bool) {
			n, term := f.laterTerm()
			return f.say("node %d knows term %d, and this node's record term %d", n, term, f.Group.Record.Term), n != 0
		}, nil},
	{"rejoin", "This node's server was the primary, or crashed as a standby, or has what the primary does not have: it is made a standby again.",
		func(f facts) (string, bool) {
			s := f.standing()
			return f.say("node %d is the primary in term %d; this server is %s at %s, diverged: %v", f.lease().Holder, f.Group.Record.Term, f.local.State, f.local.Position.LSN, s.Diverged), true
		},
		func(f facts) []Action { return []Action{Rejoin{f.lease().Holder, f.Group.Record.Term, f.streamName()}} }},
}

// laterTerm is a node of the same group whose daemon's record is of a later term than this
// node's, and that term; zero: there is none that is heard of.
func (f facts) laterTerm() (cluster.NodeID, uint64) {
	for _, n := range f.Nodes {
		if r := f.Peers[n.ID].Report; n.ID != f.Self && f.fresh(n.ID) && r.Group == f.Group.Record.Group && r.Term > f.Group.Record.Term {
			return n.ID, r.Term
		}
	}
	return 0, 0
}

// downRules are for a standby that an operator has to see to.
var downRules = []rule{
	{"standby-down", "This node's server is a standby's and does not run: an operator stopped it, or it crashed a moment ago.",
		func(f facts) (string, bool) {
			return f.with("the server is ", string(f.local.State)), f.local.State != ServerRunning
		}, nil},
	{"follow-holder-is-manual", "There is a new primary and failover=manual: an operator points this node to it.",
		func(f facts) (string, bool) {
			if f.Policy.Automatic || f.witness() || f.local.Sealed {
				return "", false
			}
			n := f.mustFollow()
			return f.say("node %d is the primary", n), n != 0
		}, nil},
}

// measureRules are for one that has to follow another than it does.
var measureRules = []rule{
	{"measure", "This node follows nobody, or not the primary: it stops receiving WAL, so that its position can be compared with the primary's history.",
		func(f facts) (string, bool) {
			return f.say("node %d is the primary in term %d", f.lease().Holder, f.Group.Record.Term), f.inRecovery() && !f.sealedNow()
		},
		func(f facts) []Action { return []Action{Seal{f.lease().Vacancy}} }},
	{"follow-holder", "This node follows nobody, or not the primary, and can.",
		func(f facts) (string, bool) {
			return f.say("node %d is the primary in term %d", f.lease().Holder, f.Group.Record.Term), true
		},
		func(f facts) []Action { return []Action{f.follow()} }},
}

// standbyFollows is where a member has nothing to do.
var standbyFollows = []rule{
	{"standby-follows", "This node follows the primary.",
		func(f facts) (string, bool) {
			return f.say("node %d is the primary in term %d", f.lease().Holder, f.Group.Record.Term), true
		}, nil},
}

// rejoinAttempts is how often a return is tried before an operator has to look:
// each try may cost a rewind.
const rejoinAttempts = 5

// propose asks for a change, unless that was done a moment ago.
func (f facts) propose(c record.Change) []Action {
	if _, waiting := f.asked(c); waiting {
		return nil
	}
	return []Action{Propose{c}}
}

func (f facts) giveUp(why string) []Action {
	return []Action{GiveUp{Term: f.Group.Record.Term, Seq: max(f.Tenure.Seq, f.lease().Seq), Why: why}}
}

func (f facts) whyUnsure() string {
	r := f.Group.Record
	switch {
	case r == nil:
		return "there is no record"
	case !f.holds() && r.Lease.Taken():
		return f.say("node %d holds the lease in term %d", r.Lease.Holder, r.Term)
	case !f.holds():
		return f.say("the lease is %s in term %d", r.Lease.State, r.Term)
	case f.Tenure.Deadline.IsZero():
		return "no renewal of the lease was answered"
	}
	return "the lease could not be renewed in time"
}

// goneFor reports whether the holder's server has been away for too long, each
// way of being away by its own bound.
func (f facts) goneFor() (string, bool) {
	away := f.now.Sub(f.local.Since)
	limit := time.Duration(0)
	switch f.local.State {
	case ServerCrashed, ServerFenced:
	case ServerStopped:
		limit = f.Policy.RestartGrace
	case ServerStarting:
		limit = f.Policy.RecoveryGrace
	case ServerUnreachable: // it is found out late: what counts is when it answered last, or was about to be started
		limit, away = f.Policy.HangBound, f.now.Sub(f.AnsweredAt)
	default:
		stuck := f.now.Sub(f.Writing)
		return f.say("a commit on the primary's server has not returned, or its postmaster was stopped, for %s", stuck.Round(100*time.Millisecond)),
			f.local.Role == cluster.Primary && !f.Writing.IsZero() && f.Policy.WriteBound > 0 && stuck >= f.Policy.WriteBound
	}
	return f.say("the primary's server is %s for %s", f.local.State, away.Round(10*time.Millisecond)), away >= limit
}

// votersToBe counts the registered nodes that are voters, or will be: those that run, and
// members that are to become voters when they are heard of again, such as one whose state
// directory was lost. Only an operator takes a node's vote away for good.
func (f facts) votersToBe() int {
	count := 0
	for _, n := range f.Nodes {
		_, member := f.Group.Record.Member(n.ID)
		if member || f.fresh(n.ID) && f.Peers[n.ID].Report.RaftID != 0 {
			count++
		}
	}
	return count
}

// whyEnd says why the quorum rule should not be in force any more; empty: it should.
func (f facts) whyEnd() string {
	switch n := f.votersToBe(); {
	case n < record.MinimumVoters:
		return f.say("%d voters are registered, %d are needed", n, record.MinimumVoters)
	case f.Policy.Automatic && !f.Policy.Quorum:
		return "promotion_rule='visibility' on the primary"
	}
	return ""
}

// unrecorded reports whether the own server has been promoted to the timeline that
// it was granted, and the record does not say so. Nobody else is given that number.
func (f facts) unrecorded() bool {
	if f.lease().Promoted {
		return false
	}
	_, end, err := f.local.Line.Parse()
	return err == nil && end == f.lease().Timeline
}

// down reports whether no process of the own server is left.
func (f facts) down() bool { return f.local.State.down() }

func (s ServerState) down() bool {
	return s == ServerCrashed || s == ServerFenced || s == ServerStopped
}

// startAfter is how long a vacancy is open before a server that is down is started
// for it: the others have their chance first where they may be promoted, for a start is
// the greatest load on a host there is, and would come to nothing.
func (f facts) startAfter() time.Duration {
	for _, n := range f.Nodes {
		if n.ID != f.Self && f.candidate(n) {
			return f.Policy.BidWindow + time.Second
		}
	}
	return f.Policy.BidWindow
}

// mayStart reports whether a server that is down may be started by the daemon, which arms it
// first, so that it receives nothing: it was a primary's, or it crashed as a standby and nobody
// else has started it; nobody stopped it in order, and no rewind of it was broken off.
func (f facts) mayStart() bool {
	return (f.downAsPrimary() || f.downAsStandby()) && !f.local.Torn && f.Policy.Rejoin != "off" && !f.witness()
}

// sealedNow reports whether this node is sealed in the open vacancy.
func (f facts) sealedNow() bool {
	return f.Seal.Group == f.Group.Record.Group && f.Seal.Vacancy == f.lease().Vacancy && f.Seal.Incarnation == f.local.Incarnation && f.local.Sealed && !f.local.Receiving && f.Seal.LSN != 0
}

func (f facts) hasBid() bool {
	b, ok := f.Group.Record.BidOf(f.Self)
	return ok && b.Declined == ""
}

// withdrawal says why what this node offered is not true any more.
func (f facts) withdrawal() string {
	switch {
	case f.local.Receiving:
		return "its server receives WAL"
	case !f.local.Sealed:
		return "its server may receive WAL: primary_conninfo is set"
	}
	return "its data directory is another, or was measured anew"
}

func (f facts) ownBid() record.Bid {
	return record.Bid{Vacancy: f.Seal.Vacancy, Node: f.Self, Incarnation: f.Seal.Incarnation, Timeline: f.Seal.Timeline, LSN: f.Seal.LSN, Line: f.Seal.Line}
}

// mustRejoin reports whether the own server cannot simply follow: it is down and
// was a primary's, it crashed as a standby, or it has diverged.
func (f facts) mustRejoin() bool {
	if f.witness() {
		return false
	}
	return f.downAsPrimary() || f.downAsStandby() || f.inRecovery() && f.standing().Diverged
}

// downAsStandby reports whether the own server crashed beside another primary, and
// whoever else starts servers has had the time to start it.
func (f facts) downAsStandby() bool {
	return f.local.State == ServerCrashed && f.now.Sub(f.local.Since) >= f.Policy.RestartGrace
}

// downAsPrimary reports whether the own server is down and was a primary's: it was
// ended by this daemon, or it crashed and is armed. One that an operator stopped
// in order is theirs to start.
func (f facts) downAsPrimary() bool {
	switch f.local.State {
	case ServerCrashed, ServerFenced:
		return f.local.Ended || f.local.Armed && f.local.Sealed
	case ServerStopped:
		return f.local.Ended
	}
	return false
}

// strays reports whether the own server seems to have what the primary does not
// have, though it points at the right node: it was away while the primary
// changed, and changed back. Its upstream refuses it for ever. Whether that is so
// is measured, for an unsealed server's position is not sure; and where its
// timeline is newer than the record here, it is the record that is old.
func (f facts) strays() bool {
	if !f.inRecovery() || f.local.Sealed || !f.lease().Promoted || f.now.Sub(f.local.Since) <= 5*time.Second {
		return false
	}
	_, end, err := f.local.Line.Parse()
	return err == nil && end < f.lease().Timeline &&
		f.Group.Record.Judge(f.local.Line, f.local.Position.LSN, false).Diverged
}

// mustFollow returns whom the own server has to be pointed at: the primary, or
// the standby that its record names; zero: it is right as it is.
func (f facts) mustFollow() cluster.NodeID {
	holder := f.lease().Holder
	if f.local.State != ServerRunning || f.local.Role == cluster.Primary && !f.witness() {
		return 0
	}
	up, known := cluster.Find(f.Nodes, f.self.Upstream)
	switch {
	case f.witness() && f.self.Upstream != holder:
		return holder
	case f.witness():
		return 0
	case f.strays():
		return holder
	case f.cascades(up, known) && !f.circles() && !f.missedAsSync():
		if f.local.Sealed {
			return up.ID // cascaded
		}
		return 0
	case f.local.Sealed || f.self.Upstream != holder:
		return holder
	}
	if _, wrong := f.misnamed(); wrong {
		return holder
	}
	return 0
}

// cascades reports whether who is recorded behind that node belongs there: it is a standby that is
// there. Who followed it as the primary is not recorded behind it any more (registry.RecordSuccession).
func (f facts) cascades(up cluster.Node, known bool) bool {
	return known && up.ID != f.lease().Holder && up.Role == cluster.Standby && up.Active && f.alive(up.ID)
}

// circles reports whether this node, by what is registered, would get its WAL from itself: a
// former primary that is pointed nowhere yet may be registered behind a standby that followed it.
func (f facts) circles() bool {
	at := f.self.Upstream
	for range f.Nodes {
		up, known := cluster.Find(f.Nodes, at)
		if at == f.Self || !f.cascades(up, known) {
			return at == f.Self
		}
		at = up.Upstream
	}
	return false // others circle, and see to it themselves
}

// misplaced reports whether the own server has to be pointed at another.
func (f facts) misplaced() bool { return f.mustFollow() != 0 }

// follow is the order to follow whom this node must follow.
func (f facts) follow() Follow {
	a := Follow{Upstream: f.mustFollow()}
	if a.Upstream == f.lease().Holder && !f.witness() {
		a.Holder, a.Name = true, f.streamName()
	}
	return a
}

// Overtaken reports whether the order under way has lost its purpose, and keeps this node from
// what is urgent: to wait until the own server has attached to a node that is the primary no
// more, while others wait for its bid. Under the visibility rule that is one that is lost.
func Overtaken(v *View, now time.Time) bool {
	a, follows := v.Doing.(Follow)
	r := v.Group.Record
	switch {
	case !follows:
		return false
	case r == nil || r.Rule != record.Quorum:
		return newFacts(v, now).lost(a.Upstream)
	}
	return !r.Lease.Taken() || a.Holder && a.Upstream != r.Lease.Holder || v.Local.State.down()
}
