package failover

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// rehearsal lets the views of all who go on decide after a fault, by the
// visibility rule, in a time of its own: nobody there sees more than his own
// looks at servers and the others' reports.
type rehearsal struct {
	facts
	o     *Outcome
	views []*View
	looks map[[2]cluster.NodeID]looking // of whom at whom
	at    time.Time
	seq   uint64
	rules map[cluster.NodeID]Decision // the last of each
}

// looking is the last look at a server: when it began, and when it is over.
type looking struct {
	began, over time.Time
	under       bool // it is under way
}

// LookBound is how long a look at another server may take before it has failed.
func (p Policy) LookBound() time.Duration {
	return max(time.Second, min(p.MonitorInterval, 5*time.Second))
}

// noticeWithin is how long it may take until a server that went silent is lost for
// who looks at it: the look that had just succeeded, and those that have to fail.
func (p Policy) noticeWithin() time.Duration {
	each := max(p.ReconnectInterval, p.LookBound())
	return p.MonitorInterval + time.Duration(p.ReconnectAttempts+2)*each
}

// underVisibility is a drill under the visibility rule.
func (f facts) underVisibility(o *Outcome) {
	primary, end := f.newest(), f.newestAt().LSN
	if f.writable() {
		primary, end = f.Self, f.local.Position.LSN
	}
	if primary == 0 {
		o.Why = "no server is seen to take writes now"
		return
	}
	p := f.Policy
	limit := p.noticeWithin() + 2*time.Second
	if o.loses(primary) {
		limit += p.FailoverDelay + p.PromoteDelay + finalWithinHeld + f.bidWindow() + p.suspicion() + 2*p.MonitorInterval + 2*time.Second
		if p.StopReceivers {
			limit += p.SiblingsStreaming
		}
	}
	r := f.rehearse(o, limit)
	switch {
	case o.Promoted:
		o.lacks(end, r.bidOf(o.Node))
	case !o.loses(primary):
		o.Heals, o.Node = true, primary
		o.Rule, o.Why = r.rules[primary].Rule, fmt.Sprintf("node %d goes on as the primary", primary)
		if len(o.Follow) > 0 {
			o.Why += "; " + nodesText(o.Follow, "and") + " would be pointed to another upstream"
		}
	default:
		r.whyNobody()
	}
}

// bidOf is the position that a node offered.
func (r *rehearsal) bidOf(id cluster.NodeID) cluster.LSN {
	for _, v := range r.views {
		if v.Self == id && v.Loss != nil {
			return v.Loss.Bid.Position.LSN
		}
	}
	return 0
}

// rehearse plays what follows until somebody is promoted or the time is over.
func (f facts) rehearse(o *Outcome, limit time.Duration) *rehearsal {
	r := &rehearsal{facts: f, o: o, at: f.now, looks: map[[2]cluster.NodeID]looking{}, rules: map[cluster.NodeID]Decision{}}
	for _, n := range f.Nodes {
		if !f.goesOn(n.ID, o) {
			continue
		}
		v := f.eyes(n.ID, o, f.now)
		v.Group.Known = false
		for _, other := range f.Nodes { // a moment ago all was as it is
			if other.ID != n.ID && f.answers(other.ID) {
				v.Probes[other.ID] = f.seenAs(other.ID)
			}
			r.looks[[2]cluster.NodeID{n.ID, other.ID}] = looking{began: f.now}
		}
		r.views = append(r.views, v)
	}
	for tick := max(100*time.Millisecond, limit/400); r.at.Sub(f.now) < limit && !o.Promoted; r.at = r.at.Add(tick) {
		r.exchange()
		for _, v := range r.views {
			r.look(v)
			r.decide(v)
		}
	}
	return r
}

// answers reports whether a server answered of late, by its daemon's word, or, if
// that is silent, by this node's own look.
func (f facts) answers(id cluster.NodeID) bool {
	if f.heard(id) {
		return f.report(id).Server == ServerRunning
	}
	return f.seen(id)
}

// seenAs is a look at that server that has just succeeded.
func (f facts) seenAs(id cluster.NodeID) Probe {
	p := Probe{At: f.now, OK: true, LastOK: f.now, Role: f.Probes[id].Role, SystemID: f.Probes[id].SystemID, Position: f.Probes[id].Position}
	if f.heard(id) {
		r := f.report(id)
		p.Role, p.SystemID, p.Position = r.Role, r.SystemID, r.Position
	}
	return p
}

// exchange brings each report to everybody who goes on.
func (r *rehearsal) exchange() {
	r.seq++
	for _, v := range r.views {
		said := Tell(v, r.at)
		base := r.told(v.Self, r.o)
		said.Incarnation, said.Sequence, said.Name, said.Priority = base.Incarnation, base.Sequence+r.seq, base.Name, base.Priority
		for _, other := range r.views {
			other.Observe(PeerReported{Report: said}, r.at)
		}
	}
}

// look brings what a node sees of its own server, and of those that its rules say
// it looks at: a look at a host that is gone fails when its time is over.
func (r *rehearsal) look(v *View) {
	local := v.Local
	local.At = r.at
	if up, ok := cluster.Find(v.Nodes, newFacts(v, r.at).upstream); ok && r.o.loses(up.ID) && r.o.Fault == Crash {
		local.Receiving = false // the connection ends with the processes
	}
	v.Observe(LocalSeen{Local: local}, r.at)
	for _, n := range v.Nodes {
		key := [2]cluster.NodeID{v.Self, n.ID}
		if l := r.looks[key]; l.under && !r.at.Before(l.over) {
			seen := r.seenAs(n.ID)
			v.Observe(Probed{Node: n.ID, OK: r.answers(n.ID) && !r.o.loses(n.ID), Role: seen.Role, SystemID: seen.SystemID, Position: seen.Position}, r.at)
			l.under = false
			r.looks[key] = l
		}
	}
	for _, due := range Looks(v, r.at) {
		key := [2]cluster.NodeID{v.Self, due.Node}
		l := r.looks[key]
		if l.under || r.at.Sub(l.began) < due.Every {
			continue
		}
		l = looking{began: r.at, over: r.at, under: true}
		if r.o.silences(due.Node) || !r.answers(due.Node) && !r.o.loses(due.Node) {
			l.over = r.at.Add(r.Policy.LookBound())
		}
		r.looks[key] = l
	}
}

// decide lets a node decide, and carries out what it orders. Orders succeed at
// once: what they take is not configured.
func (r *rehearsal) decide(v *View) {
	for range 4 {
		d := Decide(v, r.at)
		r.rules[v.Self] = d
		changed := false
		for _, a := range d.Actions {
			switch a := a.(type) {
			case PlaceBid, WithdrawBid:
				v.Observe(Ordered{a}, r.at)
				changed = true
			case Validate, StopReceiver, ResumeReceiver:
				v.Observe(Ordered{a}, r.at)
				v.Observe(Done{Action: a}, r.at)
				v.Local.Receiving = false
				changed = true
			case Follow:
				if !slices.Contains(r.o.Follow, v.Self) {
					r.o.Follow = append(r.o.Follow, v.Self)
				}
				v.Observe(Ordered{a}, r.at)
				v.Observe(Done{Action: a}, r.at)
			case Promote:
				r.o.Heals, r.o.Promoted, r.o.Node, r.o.After, r.o.Rule, r.o.Why = true, true, v.Self, r.at.Sub(r.now), d.Rule, d.Why
				return
			}
		}
		if !changed {
			return
		}
	}
}

// whyNobody says for each standby that goes on what it waits for.
func (r *rehearsal) whyNobody() {
	var why []string
	for _, v := range r.views {
		n, _ := cluster.Find(v.Nodes, v.Self)
		d := r.rules[v.Self]
		if r.o.loses(v.Self) || n.Role != cluster.Standby {
			continue
		}
		if r.o.Rule == "" || strings.HasPrefix(r.o.Rule, "wait-better") {
			r.o.Rule = d.Rule
		}
		why = append(why, fmt.Sprintf("node %d: %s", v.Self, d.Why))
	}
	if len(why) == 0 {
		why = []string{"no standby's daemon that was heard of is left"}
	}
	r.o.Why = "nobody would be promoted: " + strings.Join(why, "; ")
}

// RuleOf names the rule by which the drills of a view are decided.
func RuleOf(v *View, now time.Time) record.Rule {
	if newFacts(v, now).quorumKnown() {
		return record.Quorum
	}
	return record.Visibility
}
