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

// Refusal is why something is not begun, and what to do about it. The zero value is none.
type Refusal struct{ Why, Hint string }

// What to do about the refusals of more than one order.
const (
	unpausedHint = "somebody has ended the pause: see to it that nobody does, and run the switchover again"
	barredHint   = "take away what forbids it, or choose another node: \"repmgr cluster explain\" tells of each what it has to offer"
	whoIsHint    = "\"repmgr cluster show\" tells who is the primary"
)

// stateAs is a server's state, and its role where that was seen.
func stateAs(state ServerState, role cluster.Role) string {
	if role == cluster.RoleUnknown {
		return string(state)
	}
	return string(state) + " as " + role.String()
}

// WhyNotStepDown says why the own server may not be stopped in favour of another now;
// zero: it may. Every daemon that is heard of has to be paused: it could promote its
// server meanwhile, and the own one may have to be started again.
func WhyNotStepDown(v *View, a StepDown, now time.Time) Refusal {
	f := newFacts(v, now)
	p := f.Peers[a.To]
	r := p.Report
	switch no := f.whyNotByHand(); {
	case no != Refusal{}:
		return no
	case !f.writable():
		return Refusal{"this node's server is not the primary", whoIsHint}
	case !f.fresh(a.To) || p.Silent:
		return Refusal{f.say("the daemon of node %d was not heard of lately", a.To), "start repmgrd there, or mend the network between the two nodes"}
	case r.Server != ServerRunning || r.Role != cluster.Standby:
		return Refusal{f.say("the server of node %d is %s", a.To, stateAs(r.Server, r.Role)), f.say("it has to run as a standby of node %d: \"repmgr node status\" there tells more", f.Self)}
	case !r.Receiving || r.Upstream != f.Self:
		return Refusal{f.say("node %d does not stream from this node", a.To), f.say("\"repmgr standby follow --upstream-node-id=%d\" there", f.Self)}
	case r.Barred != "":
		return Refusal{f.say("node %d may not be promoted: %s", a.To, r.Barred), barredHint}
	case !f.Paused:
		return Refusal{"failover is not paused on this node", unpausedHint}
	}
	for _, n := range f.Nodes {
		if n.ID != f.Self && f.fresh(n.ID) && !f.Peers[n.ID].Report.Paused && n.Role != cluster.Witness {
			return Refusal{f.say("failover is not paused on node %d", n.ID), unpausedHint}
		}
	}
	return Refusal{}
}

// WhyNotStepUp says why the own server may not be promoted in place of another now;
// zero: it may.
func WhyNotStepUp(v *View, a StepUp, now time.Time) Refusal {
	f := newFacts(v, now)
	at, writes := f.runsAsPrimary(a.From)
	switch no := f.whyNotByHand(); {
	case no != Refusal{}:
		return no
	case !f.inRecovery():
		return Refusal{f.say("this node's server is %s", stateAs(f.local.State, f.local.Role)), whoIsHint}
	case f.self.Upstream != a.From:
		return Refusal{f.say("this node follows node %d, and not node %d", f.self.Upstream, a.From), f.say("\"repmgr standby follow --upstream-node-id=%d\" here", a.From)}
	case f.local.Barred != "":
		return Refusal{"this node may not be promoted: " + f.local.Barred, barredHint}
	case !f.Paused:
		return Refusal{"failover is not paused on this node", unpausedHint}
	case writes && at.LSN > a.End:
		return Refusal{f.say("node %d takes writes still", a.From), "somebody has started it again: it remains the primary"}
	}
	return Refusal{}
}

// whyNotByHand says why an operator's switchover is none of this daemon's now.
func (f facts) whyNotByHand() Refusal {
	rule, _, _ := RuleInForce(f.View, f.now)
	switch {
	case rule == record.Quorum:
		return Refusal{"the quorum rule is in force, and its daemons hand the lease over", "run \"repmgr standby switchover\" again: it asks them to"}
	case f.RefusedBy != 0 && f.now.Sub(f.RefusedAt) < refusedFor:
		return Refusal{f.say("node %d refuses this daemon", f.RefusedBy), "another repmgrd speaks for this node: stop one of the two"}
	case f.Doing != nil:
		return Refusal{"the daemon is at work: " + Describe(f.Doing), "run the switchover again when that is done: the daemon's log tells"}
	}
	return Refusal{}
}
