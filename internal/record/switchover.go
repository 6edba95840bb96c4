package record

import (
	"fmt"
	"slices"
	"time"

	"repmgr/internal/cluster"
)

// Switchover is the operators' word that another node shall be the primary. It is
// open until the lease that it is about is vacant, or until it is called off.
type Switchover struct {
	Number uint64         `json:"number"` // of the last request; zero: there was none
	To     cluster.NodeID `json:"to"`     // zero: none is open
	By     string         `json:"by"`
}

// Open reports whether a request waits to be carried out.
func (s Switchover) Open() bool { return s.To != 0 }

type (
	// RequestSwitchover asks the holder to hand its lease over to another node.
	// Number is one more than that of the last request, so that a late one is refused.
	RequestSwitchover struct {
		Term   uint64         `json:"term"`
		Number uint64         `json:"number"`
		To     cluster.NodeID `json:"to"`
		By     string         `json:"by"`
	}
	// CallOff ends a request that was not carried out.
	CallOff struct {
		Number uint64 `json:"number"`
		Why    string `json:"why"`
	}
	// Succeed takes up the lease that was handed over to its proposer: its bid, the grant
	// and the claim in one, while clients wait. Term is that of the former holder. What the
	// three would refuse it refuses.
	Succeed struct {
		Term        uint64           `json:"term"`
		Vacancy     uint64           `json:"vacancy"`
		Node        cluster.NodeID   `json:"node_id"`
		Incarnation string           `json:"incarnation"`
		Timeline    cluster.Timeline `json:"timeline"`
		LSN         cluster.LSN      `json:"lsn"`
		Line        Line             `json:"line"`
		TTL         time.Duration    `json:"ttl_ns"`
		Life        uint64           `json:"life"` // of the daemon that proposes it
	}
)

// Switchable returns why that node may not be asked for as the next primary, or "".
// It is what RequestSwitchover does, and what is told before it.
func (r *Record) Switchable(to cluster.NodeID) string {
	m, known := r.Member(to)
	switch {
	case r.Rule != Quorum:
		return "the quorum rule is not in force"
	case r.Pause.On:
		return "the cluster is paused: " + r.Pause.Reason
	case r.Lease.State != Held:
		return fmt.Sprintf("the lease is %s", r.Lease.State)
	case !r.Lease.Promoted:
		return fmt.Sprintf("the promotion of node %d is not recorded yet", r.Lease.Holder)
	case r.Switchover.Open():
		return fmt.Sprintf("a switchover to node %d is under way", r.Switchover.To)
	case to == r.Lease.Holder:
		return fmt.Sprintf("node %d is the primary already", to)
	case !known:
		return fmt.Sprintf("node %d is no member of the group", to)
	case !m.Eligible():
		return fmt.Sprintf("node %d may not be promoted: %s", to, ineligible(m))
	}
	return ""
}

func (c RequestSwitchover) apply(r *Record, at time.Time) string {
	switch why := r.Switchable(c.To); {
	case why != "":
		return why
	case c.Term != r.Term:
		return fmt.Sprintf("term %d is over, it is term %d", c.Term, r.Term)
	case c.Number != r.Switchover.Number+1:
		return fmt.Sprintf("request %d came after request %d", c.Number, r.Switchover.Number)
	}
	r.Switchover = Switchover{Number: c.Number, To: c.To, By: c.By}
	r.note(Decision{Term: r.Term, At: at, What: "switchover", Node: c.To, Why: "asked for by " + c.By})
	return ""
}

func (c CallOff) apply(r *Record, at time.Time) string {
	if !r.Switchover.Open() || c.Number != r.Switchover.Number {
		return fmt.Sprintf("request %d is not open", c.Number)
	}
	r.note(Decision{Term: r.Term, At: at, What: WhatCalledOff, Node: r.Switchover.To, Why: c.Why})
	r.Switchover.To = 0
	return ""
}

func (c Succeed) apply(r *Record, at time.Time) string {
	switch {
	case r.Rule != Quorum || c.Term != r.Term:
		return fmt.Sprintf("term %d is over, it is term %d", c.Term, r.Term)
	case r.Lease.Successor != c.Node || r.Lease.End == 0:
		return fmt.Sprintf("the lease was not handed over to node %d", c.Node)
	}
	next := r.Clone()
	why := Bid{Vacancy: c.Vacancy, Node: c.Node, Incarnation: c.Incarnation, Timeline: c.Timeline, LSN: c.LSN, Line: c.Line}.apply(next, at)
	has := func(j Judged) bool { return j.Node == c.Node && next.has(j) }
	if why == "" && !slices.ContainsFunc(next.Verdict().Bids, has) { // then others are to be heard
		why = fmt.Sprintf("node %d does not have everything up to %s", c.Node, r.Lease.End)
	}
	if why == "" {
		why = Close{c.Vacancy}.apply(next, at)
	}
	if why == "" && next.Lease.Holder != c.Node {
		why = fmt.Sprintf("node %d would be granted it", next.Lease.Holder)
	}
	if why == "" {
		why = Claim{Term: next.Term, Node: c.Node, Incarnation: c.Incarnation, TTL: c.TTL, Life: c.Life}.apply(next, at)
	}
	if why == "" {
		*r = *next
	}
	return why
}

// WhatCalledOff is the Decision of a request that was called off.
const WhatCalledOff = "switchover called off"

// has reports whether a bid has all that the last holder had, which was stopped in
// order and has told where its WAL ends. Every commit that was acknowledged lies before.
func (r *Record) has(j Judged) bool {
	return r.Lease.End != 0 && j.WALTerm == r.Term && j.LSN >= r.Lease.End
}
