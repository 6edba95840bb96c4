// Package failover decides. Observe folds what happened into a View; Decide says
// which rule of one ordered table applies to it, why, and what to do. Nothing in
// here reads a clock, rolls a die or touches the world: see DESIGN.md.
package failover

import (
	"fmt"
	"time"

	"repmgr/internal/cluster"
)

// Decision is the outcome of one look at a View.
type Decision struct {
	Rule    string   // identity of the rule: it goes to the log, the events and the API
	Why     string   // one sentence, with the numbers in it
	Actions []Action // plain data
}

// Action is something to carry out. Actions are comparable values.
type Action interface{ action() }

type (
	// PlaceBid offers this node's position after the loss of its primary.
	PlaceBid struct{ Bid Bid }
	// WithdrawBid ends that offer.
	WithdrawBid struct{}
	// Validate asks failover_validation_command whether this node may be promoted.
	Validate struct {
		Lost                   cluster.NodeID
		Visible, Shared, Total int // its %v, %u and %t
	}
	// Promote makes this node the primary after the loss of another.
	Promote struct{ Lost cluster.NodeID }
	// Follow points this node at Upstream, under that application_name; empty: its own name.
	// An upstream that is followed as the lease's holder has to take writes.
	Follow struct {
		Upstream cluster.NodeID
		Holder   bool // it is followed because it holds the lease
		Name     string
	}
	// Fence stops this node's server: By is the newer primary.
	Fence struct{ By cluster.NodeID }
	// StopReceiver ends this node's WAL receiver after the loss of its primary,
	// and lets none run until ResumeReceiver or Follow.
	StopReceiver struct{ Lost cluster.NodeID }
	// ResumeReceiver lets the WAL receiver run again.
	ResumeReceiver struct{}
	// RecordRole writes to the registry that this node, promoted by hand, is the primary.
	RecordRole struct{}
)

func (PlaceBid) action()    {}
func (WithdrawBid) action() {}
func (Validate) action()    {}
func (Promote) action()     {}
func (Follow) action()      {}
func (Fence) action()       {}
func (RecordRole) action()  {}

func (StopReceiver) action()   {}
func (ResumeReceiver) action() {}

// Decide returns the decision of the first rule that applies to v at now.
func Decide(v *View, now time.Time) Decision {
	f := newFacts(v, now)
	if f.quorumKnown() {
		return f.spaced(f.first(quorumRules))
	}
	return f.spaced(f.first(rules))
}

// first is the decision of the first rule of a table that applies. The last rule
// of each is unconditional.
func (f facts) first(t table) Decision {
	f.brief = true
	for _, p := range t {
		if p.applies != nil && !p.applies(f) {
			continue
		}
		for i := range p.rules {
			if _, ok := p.rules[i].when(f); ok {
				return f.decision(&p.rules[i])
			}
		}
	}
	panic("failover: no rule applies; the last rule must be unconditional")
}

// decision is that of a rule that applies.
func (f facts) decision(r *rule) Decision {
	f.brief = false
	why, _ := r.when(f)
	d := Decision{Rule: r.id, Why: why}
	if r.then != nil {
		d.Actions = r.then(f)
	}
	return d
}

// say puts a reason into words. While a rule is only tried, they are not wanted:
// most rules do not apply, and nobody reads why they would have.
func (f facts) say(format string, args ...any) string {
	if f.brief {
		return format
	}
	return fmt.Sprintf(format, args...)
}

// with puts a reason together of two halves, where that is wanted.
func (f facts) with(text, more string) string {
	if f.brief {
		return text
	}
	return text + more
}

// waitSetback is the rule's name under which an order is withheld for a while
// because it failed just now.
const waitSetback = "wait-after-setback"

// spaced withholds an order that did not succeed a short while ago. Promotions
// have a rule of their own for that, since another candidate may go first.
func (f facts) spaced(d Decision) Decision {
	if len(d.Actions) != 1 || d.Actions[0] != f.Setback.Of {
		return d
	}
	switch d.Actions[0].(type) {
	case Promote, Validate, Propose:
		return d
	}
	if pause := f.Setback.pause(); f.now.Sub(f.Setback.At) < pause {
		return Decision{Rule: waitSetback, Why: fmt.Sprintf("%s; %s failed %d times, it is tried again %s after the last time",
			d.Why, Describe(d.Actions[0]), f.Setback.Times, pause)}
	}
	return d
}

// Table is one of the ordered tables of rules, for the documentation.
type Table struct {
	Name  string
	Rules [][2]string // identity, and one sentence on when it applies
}

// notLeading is the rule's name where a node has nothing to do for the group.
const notLeading = "not-leading"

// Rules returns the tables of all rules, in the order in which they are tried.
func Rules() []Table {
	waits := [2]string{waitSetback, "The order that the rule below would give failed a short while ago."}
	out := []Table{{Name: "The visibility rule", Rules: [][2]string{waits}}, {Name: "The quorum rule", Rules: [][2]string{waits}}, {Name: "The leader of the group", Rules: [][2]string{{notLeading, "Another node leads the group, or none."}}}, {Name: "Synchronous replication"}}
	for i, t := range []table{rules, quorumRules, leaderRules, syncRules} {
		for _, r := range t.all() {
			out[i].Rules = append(out[i].Rules, [2]string{r.id, r.doc})
		}
	}
	return out
}

// Degraded reports whether the node has lost sight of its upstream.
func Degraded(v *View, now time.Time) bool {
	f := newFacts(v, now)
	return f.upstream != 0 && f.lost(f.upstream)
}

// Look is a server that the daemon's eyes should look at, and how often.
type Look struct {
	Node  cluster.NodeID
	Every time.Duration
}

// silentEvery is how often a server is looked at whose daemon says nothing.
const silentEvery = 5 * time.Second

// Looks returns which servers to look at: the upstream and the primary at the
// monitor interval, at the reconnect interval while they fail (the first time at
// once), and the servers of silent daemons now and then, closer while an election is on.
// Under the quorum rule no look decides anything, and each is a process on that server's
// host: what its own daemon says goes for it, and a look is rare.
func Looks(v *View, now time.Time) []Look {
	f := newFacts(v, now)
	if v.Local.State == ServerNone {
		return nil // a witness without PostgreSQL may have no way to log in anywhere
	}
	var out []Look
	for _, n := range v.Nodes {
		if n.ID == v.Self || !n.Active && n.ID != f.upstream && v.Loss == nil || n.WithoutServer() {
			continue
		}
		every := silentEvery
		switch {
		case !f.leads() && (n.ID == f.upstream || n.ID == f.primary):
			switch fails := v.Probes[n.ID].Failures; {
			case fails == 1:
				every = 0
			case fails > 1 && !f.exhausted(n.ID):
				every = v.Policy.ReconnectInterval
			case fails > 1 || !f.vouched(n.ID):
				every = v.Policy.MonitorInterval
			default:
				every = max(v.Policy.MonitorInterval, silentEvery)
			}
		case f.fresh(n.ID) && !v.Peers[n.ID].Silent:
			continue
		case v.Loss != nil:
			every = min(silentEvery, v.Policy.MonitorInterval)
		}
		out = append(out, Look{Node: n.ID, Every: every})
	}
	return out
}
