package failover

import (
	"fmt"
	"time"
)

// How long the WAL receiver's end is awaited after the primary is lost. After a
// crash it ends within milliseconds. One whose primary has been silent for all
// attempts hangs on a dead connection and does not end; nothing comes by it.
const (
	finalWithin       = time.Second
	finalWithinSilent = 200 * time.Millisecond
)

// electionRules are for a standby whose primary is lost and who sees no other.
// Each names one reason to wait; the last promotes.
var electionRules = []rule{
	{"never-promoted", "The primary is lost, and this node has priority 0.",
		func(f facts) (string, bool) {
			return fmt.Sprintf("node %d is lost and this node's priority is %d", f.upstream, f.self.Priority), f.self.Priority <= 0
		}, nil},
	{"wait-position", "The WAL receiver has not ended yet, so that this node's position is not final.",
		func(f facts) (string, bool) {
			since, limit := f.lostSince(), finalWithin
			if !f.dead(f.upstream) {
				limit = finalWithinSilent
			}
			fresh := f.local.At.After(since)
			return fmt.Sprintf("node %d is lost, the WAL receiver is at %s", f.upstream, f.local.Position.LSN),
				f.Loss == nil && f.now.Sub(since) < limit && (!fresh || f.local.Receiving)
		}, nil},
	{"bid", "The primary is lost and this node's position is final: it is told to the others.",
		func(f facts) (string, bool) {
			return fmt.Sprintf("node %d is lost, this node is at %s on timeline %d", f.upstream, f.local.Position.LSN, f.local.Position.Timeline), f.Loss == nil
		},
		func(f facts) []Action {
			return []Action{PlaceBid{Bid{Lost: f.upstream, Position: f.local.Position}}}
		}},
	{"wait-sibling-sees-primary", "A sibling reached the primary itself not long ago.",
		func(f facts) (string, bool) {
			n, sees := f.sees(f.upstream)
			return fmt.Sprintf("node %d still sees node %d", n.ID, f.upstream), sees && f.Policy.Consensus && !f.dead(f.upstream)
		}, nil},
	{"wait-location", "Nobody visible is in the primary's location: this may be a cut between locations.",
		func(f facts) (string, bool) {
			where, ok := f.location()
			return fmt.Sprintf("no node in the primary's location %q is visible", where), !ok
		}, nil},
	{"wait-minority", "Half of the nodes that followed the primary, or fewer, are visible.",
		func(f facts) (string, bool) {
			visible, shared := f.electorate()
			return fmt.Sprintf("%d of %d nodes that followed node %d are visible, more than half are needed", visible, shared, f.upstream),
				shared > 1 && visible*2 <= shared
		}, nil},
	{"wait-sibling-promotes", "Another node is being promoted.",
		func(f facts) (string, bool) {
			for _, n := range f.Nodes {
				if f.fresh(n.ID) && f.Peers[n.ID].Report.Deciding == Describe(Promote{Lost: f.upstream}) {
					return fmt.Sprintf("node %d is being promoted", n.ID), true
				}
			}
			return "", false
		}, nil},
	{"wait-bids", "A sibling that may be promoted has not told its position yet.",
		func(f facts) (string, bool) {
			n, ok := f.awaited()
			return fmt.Sprintf("node %d has not bid yet", n.ID), ok && f.now.Sub(f.Loss.BidAt) < f.bidWindow()
		}, nil},
	{"wait-better-candidate", "A sibling has more of the log, or as much of it and a higher priority, or as much of both and a lower node id.",
		func(f facts) (string, bool) {
			n, b, ok := f.better()
			return fmt.Sprintf("node %d is the better candidate: timeline %d, %s, priority %d against %d, %s, %d", n.ID, b.Position.Timeline, b.Position.LSN,
				n.Priority, f.Loss.Bid.Position.Timeline, f.Loss.Bid.Position.LSN, f.self.Priority), ok
		}, nil},
	{"wait-rerun", "The promotion failed or was refused, and is tried again later.",
		func(f facts) (string, bool) {
			return fmt.Sprintf("the last attempt ended without a promotion, the next is %s after it", f.Policy.ElectionRerun),
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
	{"promote", "The primary is lost and this node is the best of a visible majority.",
		func(f facts) (string, bool) {
			visible, shared := f.electorate()
			return fmt.Sprintf("node %d is lost for everyone who can be asked (%d of %d visible), this node is the best candidate at %s",
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
		return fmt.Sprintf("promotion after the loss of node %d", a.Lost)
	case Follow:
		return fmt.Sprintf("following node %d", a.Upstream)
	case Fence:
		return fmt.Sprintf("stop in favour of node %d", a.By)
	case RecordRole:
		return "recording of the promotion"
	default:
		return "nothing"
	}
}
