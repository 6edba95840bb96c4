package record

import (
	"fmt"
	"slices"
	"strings"

	"repmgr/internal/cluster"
)

// Verdict is what the bids of the open vacancy come to.
type Verdict struct {
	Winner cluster.NodeID // zero: nobody can be granted the lease yet
	Why    string         // one sentence, of the winner or of what is missing
	Bids   []Judged       // all, with what was made of each
}

// isLastHolder reports whether a bid comes from the data directory that held the
// lease last: it has every commit that was acknowledged (safety notes, B21).
func (r *Record) isLastHolder(b Bid) bool {
	return b.Node == r.Lease.Holder && b.Incarnation == r.Lease.Incarnation
}

// Verdict judges the bids: after a switchover whom it is for, if it has everything;
// else highest term of its WAL, then LSN, then priority, then lowest node id. It is what Close does, and what is told before it.
func (r *Record) Verdict() Verdict {
	var out Verdict
	out.Bids = slices.Grow(out.Bids, len(r.Bids))
	standing := make([]Standing, len(r.Bids)) // of those that have something to offer
	for i, b := range r.Bids {
		m, _ := r.Member(b.Node)
		j := Judged{Bid: b, Priority: m.Priority}
		if b.Declined == "" {
			standing[i] = r.Judge(b.Line, b.LSN, r.isLastHolder(b))
			j.WALTerm = standing[i].WALTerm
		}
		out.Bids = append(out.Bids, j)
	}
	best := -1
	for i := range out.Bids {
		j := &out.Bids[i]
		m, _ := r.Member(j.Node)
		switch {
		case j.Declined != "":
			j.Verdict = "declined: " + j.Declined
		case standing[i].Diverged:
			j.Verdict = "diverged: its history is not the cluster's"
		case !m.Eligible():
			j.Verdict = "not eligible: " + ineligible(m)
		case j.WALTerm < r.Sync.Floor.Term || j.WALTerm == r.Sync.Floor.Term && j.LSN < r.Sync.Floor.LSN:
			j.Verdict = fmt.Sprintf("lacks what was acknowledged synchronously up to %s in term %d", r.Sync.Floor.LSN, r.Sync.Floor.Term)
		case r.tooFarBehind(j.Bid):
			j.Verdict = fmt.Sprintf("more than maximum_lag_on_failover (%d bytes) behind %s", r.MaximumLag, r.Lease.LSN)
		case best < 0 || outranks(*j, out.Bids[best]):
			best = i
			j.Verdict = "candidate"
		default:
			j.Verdict = "candidate"
		}
	}
	for i, j := range out.Bids { // whom a switchover is for needs to have everything, not the most
		if j.Node == r.Lease.Successor && j.Verdict == "candidate" && r.has(j) {
			best = i
		}
	}
	out.Winner, out.Why = r.pick(out.Bids, standing, best)
	if out.Winner != 0 {
		out.Bids[best].Verdict = "winner"
	}
	return out
}

func ineligible(m Member) string {
	var why []string
	if m.Witness {
		why = append(why, "a witness")
	}
	if m.Priority <= 0 {
		why = append(why, "priority 0")
	}
	if !m.Automatic {
		why = append(why, "failover=manual")
	}
	if m.Barred != "" {
		why = append(why, m.Barred)
	}
	return strings.Join(why, ", ")
}

// pick says whether the best candidate may win now.
func (r *Record) pick(bids []Judged, standing []Standing, best int) (cluster.NodeID, string) {
	counts := func(id cluster.NodeID) bool {
		i := slices.IndexFunc(bids, func(j Judged) bool { return j.Node == id })
		return i >= 0 && bids[i].Declined == "" && !standing[i].Diverged
	}
	if r.Pause.On {
		return 0, "the cluster is paused: " + r.Pause.Reason
	}
	if best < 0 {
		return 0, fmt.Sprintf("no eligible standby has bid in vacancy %d", r.Lease.Vacancy) + barredFrom(bids, standing)
	}
	w := bids[best]
	all := func(j Judged) bool { return r.isLastHolder(j.Bid) || r.has(j) }
	hasAll := slices.ContainsFunc(bids, func(j Judged) bool { return counts(j.Node) && all(j) })
	why, suffices := r.Sync.satisfied(counts)
	if !suffices && !hasAll {
		return 0, why
	}
	// A member of a set may have what the best candidate does not have (safety notes,
	// B39), and so may who has all where its bid is what the others' lack: the last holder, or
	// who has what that had at a hand-over. Where theirs suffice, what it has beyond them was
	// acknowledged to nobody.
	for _, j := range bids {
		mustHave := slices.ContainsFunc(r.Sync.Sets, func(s Set) bool { return s.Has(j.Node) }) || all(j) && !suffices
		if mustHave && counts(j.Node) && (j.WALTerm > w.WALTerm || j.WALTerm == w.WALTerm && j.LSN > w.LSN) {
			return 0, fmt.Sprintf("node %d may not be promoted and has more than node %d, which could be: %s against %s", j.Node, w.Node, j.LSN, w.LSN)
		}
	}
	if w.Node == r.Lease.Successor && r.has(w) {
		return w.Node, fmt.Sprintf("the lease was handed over to node %d, which has all of the former primary's WAL: term %d, %s", w.Node, w.WALTerm, w.LSN)
	}
	offers := 0
	for _, j := range bids {
		if j.Declined == "" {
			offers++
		}
	}
	return w.Node, fmt.Sprintf("node %d has the most WAL of %d bids: term %d, %s, priority %d", w.Node, offers, w.WALTerm, w.LSN, w.Priority)
}

// barredFrom names who has the most, where that one may not be promoted: an operator can let it.
func barredFrom(bids []Judged, standing []Standing) string {
	most := -1
	for i, j := range bids {
		if j.Declined == "" && !standing[i].Diverged && (most < 0 || outranks(j, bids[most])) {
			most = i
		}
	}
	if most < 0 || !strings.HasPrefix(bids[most].Verdict, "not eligible") {
		return ""
	}
	return fmt.Sprintf("; node %d has the most, and is %s", bids[most].Node, bids[most].Verdict)
}

// tooFarBehind measures against the position of the holder's last renewal. With a
// synchronous set nothing acknowledged can be missing, and the bound is not needed.
func (r *Record) tooFarBehind(b Bid) bool {
	return r.MaximumLag >= 0 && !r.Sync.Waits() && r.Lease.LSN > b.LSN && uint64(r.Lease.LSN-b.LSN) > uint64(r.MaximumLag)
}

// outranks compares two bids of one history.
func outranks(a, b Judged) bool {
	switch {
	case a.WALTerm != b.WALTerm:
		return a.WALTerm > b.WALTerm
	case a.LSN != b.LSN:
		return a.LSN > b.LSN
	case a.Priority != b.Priority:
		return a.Priority > b.Priority
	default:
		return a.Node < b.Node
	}
}
