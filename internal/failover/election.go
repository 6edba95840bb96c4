package failover

import (
	"fmt"
	"time"

	"repmgr/internal/record"
)

// How long the WAL receiver's end is awaited after the primary is lost. After a
// crash it ends within milliseconds. One whose primary has been silent for all
// attempts hangs on a dead connection and does not end; nothing comes by it.
const (
	finalWithin       = time.Second
	finalWithinSilent = 200 * time.Millisecond
	finalWithinHeld   = 5 * time.Second // for one that was told to end
)

// rulePromote is the rule that promotes. A daemon decides so, tells everybody, and decides again before it does.
const rulePromote = "promote"

// electionRules are for a standby whose primary is lost and who sees no other.
// Each names one reason to wait; the last promotes.
var electionRules = []rule{
	{"wait-own-promotion", "An earlier life of this daemon has ordered the promotion of this server, which may happen yet, and another standby would be promoted meanwhile.",
		func(f facts) (string, bool) {
			return f.say("the promotion after the loss of node %d was ordered, and may happen yet", f.Earlier), f.Earlier != 0 && f.rivals()
		}, nil},
	{"stop-receiver", "The primary is lost and standby_disconnect_on_failover is set: this node stops streaming, so that its position cannot change.",
		func(f facts) (string, bool) {
			order := StopReceiver{Lost: f.upstream} // one that failed delays no failover
			return f.say("node %d is lost, the WAL receiver is stopped", f.upstream),
				f.Policy.StopReceivers && !f.local.Held && f.Loss == nil && f.Setback.Of != Action(order)
		},
		func(f facts) []Action { return []Action{StopReceiver{Lost: f.upstream}} }},
	{"wait-failover-delay", "The primary is lost, and failover_delay has not passed since.",
		func(f facts) (string, bool) {
			return f.say("node %d is lost, the failover begins %s after that", f.upstream, f.Policy.FailoverDelay),
				f.now.Sub(f.lostSince()) < f.Policy.FailoverDelay
		}, nil},
	{"record-without-upstream", "The primary is lost, this node's record names no upstream, and always_promote is off.",
		func(f facts) (string, bool) {
			return f.say("node %d is lost and this node's record names no upstream: it may be out of date", f.upstream),
				f.self.Upstream == 0 && !f.Policy.AlwaysPromote
		}, nil},
	{"never-promoted", "The primary is lost, and this node has priority 0.",
		func(f facts) (string, bool) {
			return f.say("node %d is lost and this node's priority is %d", f.upstream, f.self.Priority), f.self.Priority <= 0
		}, nil},
	{"barred", "The primary is lost, and settings of this node's server forbid that it is promoted.",
		func(f facts) (string, bool) {
			return f.say("node %d is lost, and on this node %s", f.upstream, f.local.Barred), f.local.Barred != ""
		}, nil},
	{"wait-position", "The WAL receiver has not ended yet, so that this node's position is not final.",
		func(f facts) (string, bool) {
			since, limit := f.lostSince(), finalWithin
			if f.local.Held {
				limit = finalWithinHeld
			} else if !f.dead(f.upstream) {
				limit = finalWithinSilent
			}
			fresh := f.local.At.After(since)
			return f.say("node %d is lost, the WAL receiver is at %s", f.upstream, f.local.Position.LSN),
				f.Loss == nil && f.now.Sub(since) < limit && (!fresh || f.local.Receiving)
		}, nil},
	{"bid", "The primary is lost and this node's position is final: it is told to the others.",
		func(f facts) (string, bool) {
			return f.say("node %d is lost, this node is at %s on timeline %d", f.upstream, f.local.Position.LSN, f.local.Position.Timeline), f.Loss == nil
		},
		func(f facts) []Action {
			return []Action{PlaceBid{Bid{Lost: f.upstream, Position: f.local.Position}}}
		}},
	{"wait-sibling-receives", "A sibling streams still, and sibling_nodes_disconnect_timeout has not passed since the bid.",
		func(f facts) (string, bool) {
			n, ok := f.streaming()
			return f.say("node %d has a WAL receiver still, it is given %s", n.ID, f.Policy.SiblingsStreaming),
				ok && f.Policy.StopReceivers && f.now.Sub(f.Loss.BidAt) < f.Policy.SiblingsStreaming
		}, nil},
	{"wait-sibling-sees-primary", "A sibling reached the primary itself not long ago.",
		func(f facts) (string, bool) {
			n, at := f.sees(f.upstream)
			back := at.Sub(f.Peers[f.upstream].Since) > time.Second // since its daemon has said that it is gone
			return f.say("node %d still sees node %d", n.ID, f.upstream), !at.IsZero() && f.Policy.Consensus && (!f.dead(f.upstream) || back)
		}, nil},
	{"wait-location", "Nobody visible is in the primary's location: this may be a cut between locations.",
		func(f facts) (string, bool) {
			where, ok := f.location()
			return f.say("no node in the primary's location %q is visible", where), !ok
		}, nil},
	{"wait-minority", "Half of the nodes that followed the primary, or fewer, are visible.",
		func(f facts) (string, bool) {
			visible, shared := f.electorate()
			return f.say("%d of %d nodes that followed node %d are visible, more than half are needed", visible, shared, f.upstream),
				shared > 1 && visible*2 <= shared
		}, nil},
	{"wait-sibling-promotes", "Another node is being promoted. If its daemon has gone silent since, or was about to order that, its server may go on by itself: until looks at it have failed for long, or a minute and a half.",
		func(f facts) (string, bool) {
			n, ok := f.promoting()
			return f.say("node %d is being promoted", n.ID), ok
		}, nil},
	{"wait-unseen", "A node's daemon is silent, and no look at its server since the bid has told what that is: it may have been promoted. One that answers and lets nobody in is waited for a minute and a half.",
		func(f facts) (string, bool) {
			n, ok := f.unseen()
			return f.say("node %d is silent, and no look at its server since the bid has told what it is", n.ID), ok
		}, nil},
	{"wait-ahead", "A standby is on a newer timeline than this node, or bids after the loss of another primary and has more of the log: the cluster has had another primary since.",
		func(f facts) (string, bool) {
			n, at, ok := f.ahead()
			return f.say("node %d is ahead: timeline %d, %s against %d, %s", n.ID, at.Timeline, at.LSN, f.Loss.Bid.Position.Timeline, f.Loss.Bid.Position.LSN), ok
		}, nil},
	{"wait-bids", "A sibling that may be promoted has not told its position yet.",
		func(f facts) (string, bool) {
			n, ok := f.awaited()
			return f.say("node %d has not bid yet", n.ID), ok && f.now.Sub(f.Loss.BidAt) < f.bidWindow()
		}, nil},
	{"wait-better-candidate", "A sibling has more of the log, or as much of it and a higher priority, or as much of both and a lower node id.",
		func(f facts) (string, bool) {
			n, b, ok := f.better()
			return f.say("node %d is the better candidate: timeline %d, %s, priority %d against %d, %s, %d", n.ID, b.Position.Timeline, b.Position.LSN,
				n.Priority, f.Loss.Bid.Position.Timeline, f.Loss.Bid.Position.LSN, f.self.Priority), ok
		}, nil},
	{"wait-rerun", "The promotion failed or was refused, and is tried again later.",
		func(f facts) (string, bool) {
			return f.say("the last attempt ended without a promotion, the next is %s after it", f.Policy.ElectionRerun),
				!f.Loss.TriedAt.IsZero() && f.now.Sub(f.Loss.TriedAt) < f.Policy.ElectionRerun
		}, nil},
	{"validate", "This node would be promoted, and failover_validation_command is asked first.",
		func(f facts) (string, bool) {
			return "failover_validation_command is asked", f.Policy.Validate && !f.Loss.Approved
		},
		func(f facts) []Action {
			visible, shared := f.electorate()
			return []Action{Validate{Lost: f.upstream, Visible: visible, Shared: shared, Total: len(f.Nodes)}}
		}},
	{"wait-promote-delay", "This node would be promoted, and promote_delay has not passed since its bid.",
		func(f facts) (string, bool) {
			return f.say("the promotion is delayed until %s after the bid", f.Policy.PromoteDelay), f.now.Sub(f.Loss.BidAt) < f.Policy.PromoteDelay
		}, nil},
	{rulePromote, "The primary is lost and this node is the best of a visible majority.",
		func(f facts) (string, bool) {
			visible, shared := f.electorate()
			return f.say("node %d is lost for everyone who can be asked (%d of %d visible), this node is the best candidate at %s",
				f.upstream, visible, shared, f.Loss.Bid.Position.LSN), true
		},
		func(f facts) []Action { return []Action{Promote{Lost: f.upstream}} }},
}

// lostSince is when the primary was found lost: by its daemon's word, or by the
// attempt that was one too many.
func (f facts) lostSince() time.Time {
	if f.dead(f.upstream) {
		return f.Peers[f.upstream].Since
	}
	return f.Probes[f.upstream].LostAt
}

// promotionWords begin what Describe says of a promotion, of that for a switchover as well.
const promotionWords = "promotion "

// Describe names an action in a few words, for reports and logs.
func Describe(a Action) string {
	switch a := a.(type) {
	case PlaceBid:
		return fmt.Sprintf("bid after the loss of node %d", a.Bid.Lost)
	case WithdrawBid:
		return "withdrawal of the bid"
	case Validate:
		return fmt.Sprintf("validation of the failover from node %d", a.Lost)
	case Promote:
		return fmt.Sprintf(promotionWords+"after the loss of node %d", a.Lost)
	case Follow:
		return fmt.Sprintf("following node %d", a.Upstream)
	case Fence:
		return fmt.Sprintf("stop in favour of node %d", a.By)
	case StopReceiver:
		return fmt.Sprintf("stop of the WAL receiver after the loss of node %d", a.Lost)
	case ResumeReceiver:
		return "restart of the WAL receiver"
	case RecordRole:
		return "recording of the promotion"
	default:
		return describeQuorum(a)
	}
}

func describeQuorum(a Action) string {
	switch a := a.(type) {
	case Propose:
		return "proposal of " + record.KindOf(a.Change)
	case FoundGroup:
		return "founding of the group"
	case BeginQuorum:
		return "beginning of the quorum rule"
	case Seal:
		return fmt.Sprintf("sealing for vacancy %d", a.Vacancy)
	case PromoteTo:
		return fmt.Sprintf("promotion to timeline %d in term %d", a.Timeline, a.Term)
	case Arm:
		return "arming of the data directory"
	case EndQuorum:
		return "end of the quorum rule"
	case Disarm:
		return "disarming of the data directory"
	case LetStart:
		return "opening of the start gate"
	case Demote:
		return "stop of the server: " + a.Why
	case GiveUp:
		return fmt.Sprintf("release of the lease in term %d", a.Term)
	case StartServer:
		return "start of the server, read-only"
	case HandOver:
		return fmt.Sprintf("stop of the server for a switchover to node %d", a.To)
	case Reach:
		return fmt.Sprintf("look for the end of the own WAL in vacancy %d", a.Vacancy)
	case TakeUp:
		return "start of the server as the primary that it was"
	case Rejoin:
		return fmt.Sprintf("return of the server as a standby of node %d", a.Upstream)
	case ChangeMember:
		return fmt.Sprintf("change of member node %d", a.Member.Node)
	case HandLead:
		return "handing over of the group's leadership"
	case WriteSync:
		return fmt.Sprintf("setting of synchronous_standby_names to %q", a.Names)
	case ProveSync:
		return "proof that only the newest synchronous set is in force"
	case RestoreSync:
		return "return to the operators' synchronous_standby_names"
	case StepDown:
		return fmt.Sprintf("stop of the server in favour of node %d, and its return as a standby", a.To)
	case StepUp:
		return fmt.Sprintf(promotionWords+"in place of node %d", a.From)
	default:
		return "nothing"
	}
}
