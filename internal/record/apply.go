package record

import (
	"fmt"
	"slices"
	"time"

	"repmgr/internal/cluster"
)

// MinimumVoters is how many voters the quorum rule needs: with two, the loss of
// one is the loss of the majority.
const MinimumVoters = 3

func (c Begin) apply(r *Record, at time.Time) string {
	_, end, err := c.Line.Parse()
	m, known := r.Member(c.Node)
	switch {
	case r.Rule == Quorum:
		return "the quorum rule is in force already"
	case c.Term != r.Term:
		return fmt.Sprintf("it was decided in term %d, it is term %d", c.Term, r.Term)
	case r.Voters() < MinimumVoters:
		return fmt.Sprintf("there are %d voters, %d are needed", r.Voters(), MinimumVoters)
	case !known || m.Witness:
		return fmt.Sprintf("node %d is no member that could hold the lease", c.Node)
	case err != nil:
		return err.Error()
	}
	r.Rule, r.Base, r.Terms, r.Bids = Quorum, c.Line, nil, nil
	r.Term++
	r.Sync, r.Switchover.To = Sync{}, 0
	r.MaximumLag = c.MaximumLag
	r.Terms = append(r.Terms, Term{Term: r.Term, Node: c.Node, Timeline: end})
	r.TopTimeline = max(r.TopTimeline, end)
	r.Lease = Lease{Holder: c.Node, Incarnation: c.Incarnation, Life: c.Life, TTL: c.TTL, LSN: c.LSN, Vacancy: r.Lease.Vacancy,
		Unlimited: r.Lease.Unlimited, Timeline: end, Promoted: true}
	r.unlimit() // the first timed renewal, which the holder's guard knows of, gives it an end
	r.note(Decision{Term: r.Term, At: at, What: "begin", Node: c.Node, Why: fmt.Sprintf("the quorum rule begins with %d voters", r.Voters())})
	return ""
}

func (c End) apply(r *Record, at time.Time) string {
	if r.Rule != Quorum || !r.Lease.Taken() || r.Lease.Holder != c.Node || c.Term != r.Term {
		return "only who holds the lease can end the quorum rule"
	}
	if r.Pause.On {
		return "the cluster is paused, and the other rule knows nothing of it"
	}
	r.Rule, r.Bids, r.Sync, r.Switchover.To = Visibility, nil, Sync{}, 0
	r.Lease = Lease{State: Vacant, Vacancy: r.Lease.Vacancy, Unlimited: r.Lease.Unlimited}
	r.note(Decision{Term: r.Term, At: at, What: "end", Node: c.Node, Why: c.Why})
	return ""
}

// heldBy returns why that node does not hold the lease in that term, or "".
func (r *Record) heldBy(term uint64, node cluster.NodeID, incarnation string) string {
	switch {
	case r.Rule != Quorum:
		return "the quorum rule is not in force"
	case term != r.Term:
		return fmt.Sprintf("term %d is over, it is term %d", term, r.Term)
	case r.Lease.Holder != node || r.Lease.Incarnation != incarnation:
		return fmt.Sprintf("node %d holds the lease", r.Lease.Holder)
	case !r.Lease.Taken():
		return fmt.Sprintf("the lease is %s", r.Lease.State)
	}
	return ""
}

func (c Renew) apply(r *Record, at time.Time) string {
	back := r.Rule == Quorum && c.Term == r.Term && r.Lease.State == Vacant && r.Lease.Expired &&
		r.Lease.Holder == c.Node && r.Lease.Incarnation == c.Incarnation
	if why := r.heldBy(c.Term, c.Node, c.Incarnation); why != "" && !back {
		return why
	}
	switch again := !back && c.Seq == r.Lease.Seq && c.Life == r.Lease.Life && c.TTL == r.Lease.TTL; {
	case again:
		return "" // its answer was lost, and the holder's own record may be behind: the lease counts from the first try
	case c.Seq <= r.Lease.Seq:
		return fmt.Sprintf("renewal %d came after renewal %d", c.Seq, r.Lease.Seq)
	}
	if back {
		r.note(Decision{Term: r.Term, Vacancy: r.Lease.Vacancy, At: at, What: "reinstate", Node: c.Node, Why: "the holder came back before anybody was granted the lease"})
	}
	// A pause, or another one, may have begun and ended while this was on its way (B10).
	unlimited := r.Pause.On || r.Lease.State == Indefinite && !(c.Timed && c.Unlimited == r.Lease.Unlimited)
	r.Lease.Seq, r.Lease.Life, r.Lease.LSN, r.Lease.TTL, r.MaximumLag = c.Seq, c.Life, c.LSN, c.TTL, c.MaximumLag
	r.Bids = nil
	if unlimited {
		r.unlimit()
	} else {
		r.Lease.State = Held
	}
	return ""
}

// unlimit takes the time limit off the lease. Each time has a number, so that the
// renewal that ends one does not end the next.
func (r *Record) unlimit() {
	if r.Lease.State != Indefinite {
		r.Lease.Unlimited++
	}
	r.Lease.State = Indefinite
}

// vacate opens a new vacancy.
func (r *Record) vacate(what, why string, expired bool, at time.Time) {
	r.Lease.State, r.Lease.Why, r.Lease.Expired = Vacant, why, expired
	r.Lease.Successor, r.Lease.End = 0, 0
	r.Lease.Vacancy++
	r.Bids, r.Switchover.To = nil, 0
	r.note(Decision{Term: r.Term, Vacancy: r.Lease.Vacancy, At: at, What: what, Node: r.Lease.Holder, Why: why})
}

func (c Release) apply(r *Record, at time.Time) string {
	if why := r.heldBy(c.Term, c.Node, c.Incarnation); why != "" {
		return why
	}
	if c.Seq < r.Lease.Seq {
		return fmt.Sprintf("renewal %d came after the release, which knew of %d", r.Lease.Seq, c.Seq)
	}
	asked := r.Switchover.Open() && c.To == r.Switchover.To && c.End != 0 && r.Lease.Promoted
	r.vacate("release", c.Why, false, at)
	if asked {
		r.Lease.Successor, r.Lease.End, r.Lease.LSN = c.To, c.End, max(r.Lease.LSN, c.End)
	}
	return ""
}

func (c Expire) apply(r *Record, at time.Time) string {
	if r.Rule != Quorum || r.Lease.State != Held || c.Term != r.Term || c.Seq != r.Lease.Seq {
		return "the lease has moved on"
	}
	r.vacate("expire", fmt.Sprintf("node %d did not renew its lease for %s", r.Lease.Holder, r.Lease.TTL), true, at)
	return ""
}

func (b Bid) apply(r *Record, _ time.Time) string {
	m, known := r.Member(b.Node)
	old, again := r.BidOf(b.Node)
	_, end, err := b.Line.Parse()
	switch {
	case r.Rule != Quorum || r.Lease.State != Vacant || b.Vacancy != r.Lease.Vacancy:
		return fmt.Sprintf("vacancy %d is not open", b.Vacancy)
	case !known || m.Witness:
		return fmt.Sprintf("node %d is no member that could bid", b.Node)
	case again && (old.Declined == "" || b.Declined != ""):
		return fmt.Sprintf("node %d has bid already", b.Node)
	case b.Declined == "" && (err != nil || end != b.Timeline || b.LSN == 0):
		return fmt.Sprintf("the bid of node %d makes no sense: %q, timeline %d, %s", b.Node, b.Line, b.Timeline, b.LSN)
	}
	bids := slices.DeleteFunc(slices.Clone(r.Bids), func(o Bid) bool { return o.Node == b.Node })
	r.Bids = append(bids, b)
	slices.SortFunc(r.Bids, func(a, b Bid) int { return int(a.Node - b.Node) })
	r.TopTimeline = max(r.TopTimeline, b.Timeline)
	return ""
}

func (c Close) apply(r *Record, at time.Time) string {
	if r.Rule != Quorum || r.Lease.State != Vacant || c.Vacancy != r.Lease.Vacancy {
		return fmt.Sprintf("vacancy %d is not open", c.Vacancy)
	}
	v := r.Verdict()
	if v.Winner == 0 {
		return v.Why
	}
	bid, _ := r.BidOf(v.Winner)
	if r.isLastHolder(bid) && bid.Timeline == r.Lease.Timeline && !r.Lease.Promoted {
		r.recordUnrecorded(bid) // it was promoted and could not say so any more
	}
	r.Term++
	r.TopTimeline++
	r.Lease = Lease{State: Granted, Holder: v.Winner, Incarnation: bid.Incarnation, LSN: bid.LSN, TTL: r.Lease.TTL, Former: r.Lease.last(),
		Vacancy: r.Lease.Vacancy, Unlimited: r.Lease.Unlimited, Timeline: r.TopTimeline, Why: r.Lease.Why, Successor: r.Lease.Successor}
	if v.Winner != r.Lease.Successor {
		r.Lease.Successor = 0
	}
	r.note(Decision{Term: r.Term, Vacancy: c.Vacancy, At: at, What: "grant", Node: v.Winner, Why: v.Why, Bids: v.Bids})
	return ""
}

// recordUnrecorded adds the promotion that only the winner's own history tells of.
func (r *Record) recordUnrecorded(b Bid) {
	switches, end, err := b.Line.Parse()
	if err != nil || len(switches) == 0 {
		return
	}
	last := switches[len(switches)-1]
	r.addTerm(Term{Term: r.Term, Node: b.Node, Timeline: end, Parent: last.Parent, Fork: last.LSN})
}

func (r *Record) addTerm(t Term) {
	r.Terms = append(slices.Clone(r.Terms), t)
	if extra := len(r.Terms) - keptTerms; extra > 0 {
		base := *r
		base.Terms = r.Terms[:extra]
		r.Base, r.Terms = base.Line(), slices.Delete(slices.Clone(r.Terms), 0, extra)
	}
}

func (c Claim) apply(r *Record, _ time.Time) string {
	if r.Rule != Quorum || r.Lease.State != Granted || c.Term != r.Term || r.Lease.Holder != c.Node || r.Lease.Incarnation != c.Incarnation {
		return fmt.Sprintf("term %d is not granted to node %d", c.Term, c.Node)
	}
	r.Lease.State, r.Lease.Seq, r.Lease.Life, r.Lease.TTL, r.Bids = Held, 0, c.Life, c.TTL, nil
	if r.Pause.On {
		r.unlimit()
	}
	return ""
}

func (c Regrant) apply(r *Record, at time.Time) string {
	if why := r.heldBy(c.Term, c.Node, c.Incarnation); why != "" {
		return why
	}
	if !r.Lease.Promoted {
		return fmt.Sprintf("timeline %d was granted, and is not known to have been used", r.Lease.Timeline)
	}
	r.Term++
	r.TopTimeline++
	r.Lease.Seq, r.Lease.Life, r.Lease.TTL, r.Lease.Timeline, r.Lease.Promoted = 0, c.Life, c.TTL, r.TopTimeline, false
	r.Lease.Successor, r.Switchover.To = 0, 0
	r.note(Decision{Term: r.Term, At: at, What: "regrant", Node: c.Node, Why: c.Why})
	return ""
}

func (c Promoted) apply(r *Record, at time.Time) string {
	switch {
	case r.Rule != Quorum || !r.Lease.Taken() || c.Term != r.Term || r.Lease.Holder != c.Node:
		return fmt.Sprintf("node %d does not hold term %d", c.Node, c.Term)
	case r.Lease.Promoted:
		return "it is recorded already"
	case c.Timeline != r.Lease.Timeline:
		return fmt.Sprintf("timeline %d was granted, not %d", r.Lease.Timeline, c.Timeline)
	}
	r.Lease.Promoted = true
	r.addTerm(Term(c))
	r.note(Decision{Term: r.Term, Vacancy: r.Lease.Vacancy, At: at, What: "promoted", Node: c.Node, Why: fmt.Sprintf("timeline %d began at %s of timeline %d", c.Timeline, c.Fork, c.Parent)})
	return ""
}

func (c Void) apply(r *Record, at time.Time) string {
	if r.Rule != Quorum || r.Lease.State != Granted || c.Term != r.Term {
		return "there is no such grant"
	}
	r.vacate("void", c.Why, false, at)
	// Who was granted it and did not claim it never held it.
	f := r.Lease.Former
	r.Lease.Holder, r.Lease.Incarnation, r.Lease.LSN, r.Lease.Timeline, r.Lease.Promoted = f.Holder, f.Incarnation, f.LSN, f.Timeline, f.Promoted
	return ""
}

func (c Fenced) apply(r *Record, at time.Time) string {
	switch {
	case r.Rule != Quorum:
		return "the quorum rule is not in force"
	case c.Term != r.Term || !r.Lease.Taken() || r.Lease.Holder != c.Node:
		return fmt.Sprintf("node %d does not hold the lease in term %d", c.Node, c.Term)
	case r.Lease.State != Indefinite:
		return "the lease has a time limit, and ends by itself"
	case c.Seq != r.Lease.Seq:
		return fmt.Sprintf("node %d has renewed its lease meanwhile: it is not fenced", c.Node)
	case r.Pause.On && !r.Pause.Auto:
		return "an operator has paused the cluster: lift that pause first"
	}
	if r.Pause.On { // set by a daemon when it was stopped, and nobody is there to lift it
		r.note(Decision{Term: r.Term, At: at, What: "unpause", Why: "the lease is ended by an operator"})
		r.Pause = Pause{}
	}
	r.vacate("fenced", fmt.Sprintf("%s says that node %d is fenced", c.By, c.Node), false, at)
	return ""
}

func (c Withdraw) apply(r *Record, at time.Time) string {
	if r.Rule != Quorum || r.Lease.State != Vacant || c.Vacancy != r.Lease.Vacancy {
		return fmt.Sprintf("vacancy %d is not open", c.Vacancy)
	}
	if b, bid := r.BidOf(c.Node); !bid || b.Declined != "" {
		return fmt.Sprintf("node %d has offered nothing", c.Node)
	}
	r.Lease.Vacancy++ // what ended the lease, and who may take it up again, stays as it was
	r.Bids = nil
	r.note(Decision{Term: r.Term, Vacancy: r.Lease.Vacancy, At: at, What: "withdraw", Node: c.Node, Why: c.Why})
	return ""
}

func (c SetPause) apply(r *Record, at time.Time) string {
	if c.Auto && !c.On && !(r.Pause.On && r.Pause.Auto && r.Pause.By == c.By) {
		return "the pause is not that daemon's own"
	}
	if c.Auto && c.On && r.Pause.On {
		return "" // an operator's pause stays an operator's
	}
	if c.On && r.Switchover.Open() {
		return fmt.Sprintf("a switchover to node %d is under way, which would find nobody to end it", r.Switchover.To)
	}
	if r.Pause.On != c.On {
		what := map[bool]string{true: "pause", false: "unpause"}[c.On]
		r.note(Decision{Term: r.Term, At: at, What: what, Why: c.Reason})
	}
	if c.On && !r.Pause.On && r.Lease.Taken() {
		// Anew where there is no limit yet: a timed renewal from between two pauses would
		// end it, and its holder, who has seen the second one, counts no time.
		r.Lease.State = Indefinite
		r.Lease.Unlimited++
	}
	r.Pause = Pause{On: c.On, By: c.By, Reason: c.Reason, Auto: c.On && c.Auto}
	return "" // lifting it leaves the lease indefinite, until its holder takes a timed one (B10)
}

func (c Describe) apply(r *Record, _ time.Time) string {
	for i, m := range r.Members {
		if m.Node == c.Node {
			r.Members = slices.Clone(r.Members)
			m.Name, m.Witness, m.Priority, m.Automatic, m.Location, m.Level, m.Barred = c.Name, c.Witness, c.Priority, c.Automatic, c.Location, c.Level, c.Barred
			r.Members[i] = m
			return ""
		}
	}
	return fmt.Sprintf("node %d is no member", c.Node)
}

// changesSync returns why a node may not change the synchronous set, or "".
func (r *Record) changesSync(term uint64, node cluster.NodeID, seq uint64) string {
	switch {
	case r.Rule != Quorum || term != r.Term || r.Lease.Holder != node || !r.Lease.Taken():
		return fmt.Sprintf("node %d does not hold term %d", node, term)
	case seq != r.Sync.Seq:
		return fmt.Sprintf("the synchronous set has moved on: change %d, not %d", r.Sync.Seq, seq)
	}
	return ""
}

func (c SyncAdd) apply(r *Record, at time.Time) string {
	if why := r.changesSync(c.Term, c.Node, c.Seq); why != "" {
		return why
	}
	switch {
	case !c.Set.Valid():
		return fmt.Sprintf("%q is no synchronous set", c.Set)
	case c.Mode == SyncStrict && c.Set == "":
		return "with synchronous_mode=strict the set is never empty"
	case c.Mode == SyncOff && c.Set != "":
		return "with synchronous_mode=off nothing is waited for"
	}
	was := r.Sync
	r.Sync.add(c.Mode, c.Set)
	if was.Mode != c.Mode || (was.Newest() == "") != (c.Set == "") {
		r.note(Decision{Term: r.Term, At: at, What: "synchronous", Node: c.Node, Why: fmt.Sprintf("mode %s, %s", c.Mode, c.Set.describe())})
	}
	return ""
}

func (c SyncDrop) apply(r *Record, _ time.Time) string {
	if why := r.changesSync(c.Term, c.Node, c.Seq); why != "" {
		return why
	}
	switch {
	case len(r.Sync.Sets) < 2:
		return "there is one set only"
	case r.Sync.Newest() == "" && r.Sync.Mode != SyncOff:
		return "what the former set acknowledged may be on its members alone"
	case r.Sync.Newest() == "" && c.LSN == 0:
		return "up to which position the former set acknowledged is not said"
	}
	r.Sync.settle(c.Term, c.LSN)
	return ""
}

// SetMember takes a member in, or changes one. The group's membership changes
// by Raft's own entries, which carry the member.
func (r *Record) SetMember(m Member, at time.Time, index uint64) {
	r.Index = max(r.Index, index)
	old, known := r.Member(m.Node)
	r.Members = slices.DeleteFunc(slices.Clone(r.Members), func(o Member) bool { return o.Node == m.Node })
	r.Members = append(r.Members, m)
	slices.SortFunc(r.Members, func(a, b Member) int { return int(a.Node - b.Node) })
	if !known || old.Voter != m.Voter || old.RaftID != m.RaftID {
		r.note(Decision{Term: r.Term, At: at, What: map[bool]string{true: "voter", false: "learner"}[m.Voter], Node: m.Node, Why: "it joined the group"})
	}
}

// RemoveMember takes a member out by the Raft id of its state directory.
func (r *Record) RemoveMember(raftID uint64, at time.Time, index uint64) {
	r.Index = max(r.Index, index)
	if node := r.NodeOf(raftID); node != 0 {
		r.Members = slices.DeleteFunc(slices.Clone(r.Members), func(o Member) bool { return o.RaftID == raftID })
		r.note(Decision{Term: r.Term, At: at, What: "removed", Node: node, Why: "it left the group"})
	}
}
