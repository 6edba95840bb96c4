package failover

import (
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// Orders of a switchover under the visibility rule. Nobody but an operator gives them, and
// no rule follows from them: failover is paused meanwhile.
type (
	// StepDown stops the own server in order in favour of another, has that promoted
	// when it has everything, and makes the own server its standby.
	StepDown struct{ To cluster.NodeID }
	// StepUp makes the own server the primary in place of From, whose server was
	// stopped in order and whose WAL ends there.
	StepUp struct {
		From cluster.NodeID
		End  cluster.LSN
	}
)

func (StepDown) action() {}
func (StepUp) action()   {}

// WhyNotStepDown says why the own server may not be stopped in favour of another now;
// empty: it may. Every daemon that is heard of has to be paused: it could promote its
// server meanwhile, and the own one may have to be started again.
func WhyNotStepDown(v *View, a StepDown, now time.Time) string {
	f := newFacts(v, now)
	p := f.Peers[a.To]
	r := p.Report
	switch why := f.whyNotByHand(); {
	case why != "":
		return why
	case !f.writable():
		return "this node's server is not the primary"
	case !f.fresh(a.To) || p.Silent:
		return f.say("the daemon of node %d was not heard of lately", a.To)
	case r.Server != ServerRunning || r.Role != cluster.Standby:
		return f.say("the server of node %d is %s as %s", a.To, r.Server, r.Role)
	case !r.Receiving || r.Upstream != f.Self:
		return f.say("node %d does not stream from this node", a.To)
	case r.Barred != "":
		return f.say("node %d may not be promoted: %s", a.To, r.Barred)
	case !f.Paused:
		return "failover is not paused on this node"
	}
	for _, n := range f.Nodes {
		if n.ID != f.Self && f.fresh(n.ID) && !f.Peers[n.ID].Report.Paused && n.Role != cluster.Witness {
			return f.say("failover is not paused on node %d", n.ID)
		}
	}
	return ""
}

// WhyNotStepUp says why the own server may not be promoted in place of another now;
// empty: it may.
func WhyNotStepUp(v *View, a StepUp, now time.Time) string {
	f := newFacts(v, now)
	at, writes := f.runsAsPrimary(a.From)
	switch why := f.whyNotByHand(); {
	case why != "":
		return why
	case !f.inRecovery():
		return f.say("this node's server is %s as %s", f.local.State, f.local.Role)
	case f.self.Upstream != a.From:
		return f.say("this node follows node %d, and not node %d", f.self.Upstream, a.From)
	case f.local.Barred != "":
		return "this node may not be promoted: " + f.local.Barred
	case !f.Paused:
		return "failover is not paused on this node"
	case writes && at.LSN > a.End:
		return f.say("node %d takes writes still", a.From)
	}
	return ""
}

// whyNotByHand says why an operator's switchover is none of this daemon's now.
func (f facts) whyNotByHand() string {
	rule, _, _ := RuleInForce(f.View, f.now)
	switch {
	case rule == record.Quorum:
		return "the quorum rule is in force, and its daemons hand the lease over"
	case f.RefusedBy != 0 && f.now.Sub(f.RefusedAt) < refusedFor:
		return f.say("node %d refuses this daemon", f.RefusedBy)
	case f.Doing != nil:
		return "the daemon is at work: " + Describe(f.Doing)
	}
	return ""
}
