package failover

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// Fault is a way in which nodes are lost, all at the same moment.
type Fault string

// The faults that a drill asks about.
const (
	Crash Fault = "crash" // every process of the server ends at once; its daemon lives, and sees it
	Gone  Fault = "gone"  // the host falls silent, with all that is on it
)

// Outcome is what a fault would lead to, as far as one node can tell from what it
// heard last.
type Outcome struct {
	Fault    Fault            `json:"fault"`
	Lost     []cluster.NodeID `json:"lost_node_ids"`
	Location string           `json:"location,omitempty"`                // that is lost as a whole; empty: the nodes were named
	Heals    bool             `json:"heals"`                             // a server takes writes then, and no operator is needed for that
	Promoted bool             `json:"promoted"`                          // it is another than now
	Node     cluster.NodeID   `json:"node_id"`                           // whose it is; zero: nobody's
	After    time.Duration    `json:"after_ns"`                          // at most, by what is configured, from the fault to the order to promote, or to the end of the last primary's lease
	Lag      *uint64          `json:"lag_bytes"`                         // of WAL that the new primary does not have, by the last reports; null: nobody is promoted, or it is not known
	Kept     bool             `json:"acknowledged_commits_kept"`         // by the synchronous sets that may be in force
	Sets     []record.Set     `json:"synchronous_sets,omitempty"`        // under the quorum rule
	Follow   []cluster.NodeID `json:"follow_another_node_ids,omitempty"` // under the visibility rule: who would be pointed to another upstream
	Rule     string           `json:"rule"`                              // of docs/rules.md, that decided or waits; empty: none was asked
	Why      string           `json:"why"`
}

// Drill says what it would lead to if those nodes were lost now. It asks the rules
// that would decide, with the views that the nodes would have: nothing in here
// knows a rule by itself. Positions are those of the last reports, and what each
// node has configured is taken to be what this one has.
func Drill(v *View, now time.Time, fault Fault, lost ...cluster.NodeID) Outcome {
	f, o := newFacts(v, now), Outcome{Fault: fault, Lost: lost}
	if f.quorumKnown() {
		f.underQuorum(&o)
	} else {
		f.underVisibility(&o)
	}
	return o
}

// Drills asks about each single fault: of each registered node both kinds (one
// without a server cannot crash), of each location where there are several, and
// with pairs of every two nodes.
func Drills(v *View, now time.Time, pairs bool) []Outcome {
	var out []Outcome
	places := map[string][]cluster.NodeID{}
	for _, n := range v.Nodes {
		if !n.WithoutServer() {
			out = append(out, Drill(v, now, Crash, n.ID))
		}
		out = append(out, Drill(v, now, Gone, n.ID))
		places[n.Location] = append(places[n.Location], n.ID)
	}
	for _, n := range v.Nodes {
		if ids := places[n.Location]; len(places) > 1 && ids[0] == n.ID {
			o := Drill(v, now, Gone, ids...)
			o.Location = n.Location
			out = append(out, o)
		}
	}
	for i, a := range v.Nodes {
		for _, b := range v.Nodes[i+1:] {
			if pairs {
				out = append(out, Drill(v, now, Gone, a.ID, b.ID))
			}
		}
	}
	return out
}

// Snapshot is a view that another goroutine may be asked about while this one goes
// on: of what drills need nothing is shared that changes in place.
func (v *View) Snapshot() *View {
	c := New(v.Self, v.Policy)
	for id, p := range v.Peers {
		c.Peers[id] = p
	}
	for id, p := range v.Probes {
		c.Probes[id] = p
	}
	c.Nodes, c.Local, c.Paused, c.Group, c.Disowned, c.Sweep, c.Opening = v.Nodes, v.Local, v.Paused, v.Group, v.Disowned, v.Sweep, v.Opening
	return c
}

// loses reports whether a node is among those that are lost.
func (o *Outcome) loses(id cluster.NodeID) bool { return slices.Contains(o.Lost, id) }

// silences reports whether a node's daemon is lost too.
func (o *Outcome) silences(id cluster.NodeID) bool { return o.Fault == Gone && o.loses(id) }

// report is the last word of a node, or this node's own.
func (f facts) report(id cluster.NodeID) Report {
	if id == f.Self {
		return Tell(f.View, f.now)
	}
	return f.Peers[id].Report
}

// told is what a node would say after the fault.
func (f facts) told(id cluster.NodeID, o *Outcome) Report {
	r := f.report(id)
	if o.loses(id) {
		r.Server, r.Role, r.Receiving = ServerCrashed, cluster.RoleUnknown, false
	}
	return r
}

// goesOn reports whether a node's daemon can be counted on after the fault.
func (f facts) goesOn(id cluster.NodeID, o *Outcome) bool { return f.heard(id) && !o.silences(id) }

// eyes is what that node would see at now: the same records, its own server as it
// told of it last, and the reports of those who go on.
func (f facts) eyes(id cluster.NodeID, o *Outcome, now time.Time) *View {
	r := f.told(id, o)
	v := New(id, f.Policy)
	v.Policy.Automatic, v.Paused = r.Automatic, r.Paused
	v.Nodes, v.Group, v.Group.Leads = f.Nodes, f.Group, false
	v.Local = Local{State: r.Server, Role: r.Role, SystemID: r.SystemID, Position: r.Position, Replayed: r.Replayed, Receiving: r.Receiving, Barred: r.Barred}
	v.Local.Armed = f.quorumKnown() && f.Group.Record != nil && !f.Group.Record.Pause.On
	v.Local.At, v.Local.Since, v.AnsweredAt = now, f.now, f.now
	v.Guard = GuardSeen{Alive: true}
	for _, n := range f.Nodes {
		if n.ID != id && f.goesOn(n.ID, o) {
			v.Peers[n.ID] = Peer{Report: f.told(n.ID, o), At: now, Since: f.now}
		}
	}
	return v
}

// underQuorum is a drill under the quorum rule.
func (f facts) underQuorum(o *Outcome) {
	rec := f.Group.Record
	switch {
	case rec == nil:
		o.Why = "this node is no member of the group, and cannot tell"
	case !rec.Lease.Taken():
		o.Why = f.standstill()
	case o.loses(rec.Lease.Holder):
		f.holderLost(o)
	default:
		f.holderStays(o)
	}
}

// standstill says why nobody can be promoted whatever is lost; empty: somebody
// might be.
func (f facts) standstill() string {
	rec := f.Group.Record
	switch {
	case rec.Pause.On:
		return "the cluster is paused: " + rec.Pause.Reason
	case rec.Lease.State == record.Indefinite:
		return fmt.Sprintf("the pause was lifted, and node %d has not taken a timed lease since", rec.Lease.Holder)
	case rec.Lease.State == record.Granted:
		return fmt.Sprintf("term %d is granted to node %d, which has not claimed it yet", rec.Term, rec.Lease.Holder)
	case rec.Lease.State == record.Vacant:
		return "nobody holds the lease: " + rec.Verdict().Why
	}
	return ""
}

// minority says why the voters that go on are no majority; empty: they are.
func (f facts) minority(o *Outcome) string {
	rec := f.Group.Record
	left, silent := 0, []cluster.NodeID(nil)
	for _, m := range rec.Members {
		switch {
		case !m.Voter:
		case f.goesOn(m.Node, o):
			left++
		case !o.silences(m.Node):
			silent = append(silent, m.Node)
		}
	}
	need := rec.Voters()/2 + 1
	if left >= need {
		return ""
	}
	why := fmt.Sprintf("%d of %d voters would be left, and %d have to agree", left, rec.Voters(), need)
	if len(silent) > 0 {
		why += "; not heard of: " + nodesText(silent, "and")
	}
	return why
}

// holderStays is the loss of others than the primary: it goes on while a majority
// renews its lease.
func (f facts) holderStays(o *Outcome) {
	rec := f.Group.Record
	v := f.eyes(rec.Lease.Holder, o, f.now)
	v.Local.State, v.Local.Role, v.Local.Incarnation = ServerRunning, cluster.Primary, rec.Lease.Incarnation
	v.Tenure = Tenure{Term: rec.Term, Deadline: f.now.Add(Hold(rec.Lease.TTL))}
	minority := f.minority(o)
	at := f.now
	if minority != "" {
		at = v.Tenure.Deadline
	}
	d := Decide(v, at)
	o.Rule, o.Why = d.Rule, d.Why
	if o.Heals = MayWrite(v, at); !o.Heals {
		o.After, o.Why = at.Sub(f.now), fmt.Sprintf("%s: node %d would stop taking writes, since its lease could not be renewed", minority, v.Self)
		return
	}
	o.Node = v.Self
	o.Why = fmt.Sprintf("node %d goes on as the primary", v.Self) + f.commitsWait(o)
}

// commitsWait says what the loss of members of the synchronous set does to commits.
func (f facts) commitsWait(o *Outcome) string {
	k, members := f.Group.Record.Sync.Newest().Parse()
	left := 0
	for _, id := range members {
		if !o.loses(id) {
			left++
		}
	}
	switch {
	case left >= k:
		return ""
	case f.Group.Record.Sync.Mode == record.SyncStrict:
		return fmt.Sprintf("; commits would wait, since %d of %d needed members of the synchronous set are left and synchronous_mode is strict", left, k)
	}
	return fmt.Sprintf("; commits would wait for up to %s (synchronous_standby_timeout), until the synchronous set is what is left", f.Policy.SyncTimeout)
}

// holderLost is the loss of the primary: its lease is given back by its daemon or
// runs out, those who are left bid, and the leader of the group closes the bidding.
func (f facts) holderLost(o *Outcome) {
	if o.Why = f.standstill(); o.Why != "" {
		return
	}
	if o.Why = f.minority(o); o.Why != "" {
		return
	}
	lead, at := f.leader(o)
	if o.Fault == Crash {
		if !f.givesUp(lead, o) {
			return
		}
		f.bidAll(lead, o, at)
	}
	for range 8 { // expiry, the wait for bids, the end of the bidding: there is no longer way
		for id, p := range lead.Peers {
			p.At = at
			lead.Peers[id] = p
		}
		d := Preside(lead, at)
		o.Rule, o.Why = d.Rule, d.Why
		switch d.Rule {
		case "expire":
			lead.take(d.Actions, at)
			f.bidAll(lead, o, at)
		case "await-bids":
			at = at.Add(f.Policy.BidWindow)
		case "close":
			o.Kept, o.Sets = lead.Group.Record.Sync.Waits(), lead.Group.Record.Sync.Sets
			lead.take(d.Actions, at)
			f.won(lead.Group.Record.Lease, at, o)
			return
		default:
			if newFacts(lead, at).vacant() { // no winner; what changes of members might lead to is not gone into
				o.Rule, o.Why = "no-winner", f.whyNobody(lead.Group.Record, o)
				return
			}
			// the lease lasts still
			at = newFacts(lead, at).leaseSeen().Add(lead.Group.Record.Lease.TTL)
		}
	}
}

// leader is the view of the group's leader after the fault, and when it is the
// leader: where the present one is lost, at most two election time-outs later.
func (f facts) leader(o *Outcome) (*View, time.Time) {
	id, at := f.Group.Leader, f.now
	if !f.goesOn(id, o) || id == 0 {
		at = at.Add(2 * f.Group.Record.Lease.TTL / electionsPerLease)
		for _, m := range f.Group.Record.Members {
			if m.Voter && f.goesOn(m.Node, o) {
				id = m.Node
				break
			}
		}
	}
	v := f.eyes(id, o, at)
	v.Group.Leads, v.Group.LeaseAt, v.LeadSince = true, f.now, at // it was renewed a moment ago
	return v, at
}

// givesUp lets the daemon of the crashed holder decide, and gives the lease back
// if that is what it does.
func (f facts) givesUp(lead *View, o *Outcome) bool {
	rec := f.Group.Record
	v := f.eyes(rec.Lease.Holder, o, f.now)
	v.Local.Incarnation = rec.Lease.Incarnation
	v.Tenure = Tenure{Term: rec.Term, Deadline: f.now.Add(Hold(rec.Lease.TTL))}
	d := Decide(v, f.now)
	o.Rule, o.Why = d.Rule, d.Why
	for _, a := range d.Actions {
		if g, ok := a.(GiveUp); ok {
			c := record.Release{Term: g.Term, Node: v.Self, Incarnation: rec.Lease.Incarnation, Seq: g.Seq, Why: g.Why}
			lead.take([]Action{Propose{c}}, f.now)
			return true
		}
	}
	return false
}

// take makes proposals changes of the record that this view sees.
func (v *View) take(actions []Action, now time.Time) {
	g := v.Group
	g.Record = g.Record.Clone()
	for _, a := range actions {
		if p, ok := a.(Propose); ok {
			g.Record.Apply(p.Change, time.Time{}, g.Record.Index)
		}
	}
	v.Observe(GroupSeen{Group: g}, now)
}

// bidAll has all bid in the open vacancy whose servers could, by their last reports,
// and those decline whose servers do not run. Whether one has diverged is known
// for sure only when it is sealed.
func (f facts) bidAll(lead *View, o *Outcome, now time.Time) {
	rec := lead.Group.Record
	var bids []Action
	for _, m := range rec.Members {
		if m.Witness || !f.goesOn(m.Node, o) {
			continue
		}
		b := record.Bid{Vacancy: rec.Lease.Vacancy, Node: m.Node}
		if r := f.told(m.Node, o); r.Server != ServerRunning {
			b.Declined = "its server is " + string(r.Server)
		} else if r.Role != cluster.Standby || r.Position.LSN == 0 {
			continue
		} else {
			switches, end, _ := rec.Line().Parse() // one that cannot be read makes every bid a diverged one
			b.Timeline, b.LSN = r.Position.Timeline, r.Position.LSN
			if r.Receiving || b.Timeline == 0 {
				b.Timeline = end
			}
			b.Line = record.LineOf(switches, b.Timeline)
		}
		bids = append(bids, Propose{b})
	}
	lead.take(bids, now)
}

// won notes who was granted the lease.
func (f facts) won(l record.Lease, at time.Time, o *Outcome) {
	o.Heals, o.Promoted, o.Node, o.After = true, true, l.Holder, at.Sub(f.now)
	last := f.Group.Record.Lease
	end := last.LSN
	if f.heard(last.Holder) {
		end = max(end, f.report(last.Holder).Position.LSN)
	}
	o.lacks(end, l.LSN)
}

// lacks notes what a new primary that has everything up to has does not have.
func (o *Outcome) lacks(end, has cluster.LSN) {
	lag := uint64(max(end, has) - has)
	o.Lag = &lag
}

// whyNobody says why no bid wins.
func (f facts) whyNobody(rec *record.Record, o *Outcome) string {
	v := rec.Verdict()
	if slices.ContainsFunc(v.Bids, func(j record.Judged) bool { return j.Verdict == "candidate" }) {
		return whySetFails(rec, v)
	}
	var why []string
	for _, m := range rec.Members {
		if o.loses(m.Node) || m.Witness {
			continue
		}
		r := f.told(m.Node, o)
		switch {
		case !f.goesOn(m.Node, o):
			why = append(why, fmt.Sprintf("node %d was not heard of", m.Node))
		case r.Server != ServerRunning || r.Role != cluster.Standby:
			why = append(why, fmt.Sprintf("the server of node %d is %s", m.Node, serverText(r.Server, r.Role)))
		case r.Position.LSN == 0:
			why = append(why, fmt.Sprintf("the position of node %d is not known", m.Node))
		}
	}
	for _, j := range v.Bids {
		if j.Declined == "" {
			why = append(why, fmt.Sprintf("node %d: %s", j.Node, j.Verdict))
		}
	}
	if len(why) == 0 {
		why = []string{"there is none"}
	}
	return "no standby could be promoted: " + strings.Join(why, "; ")
}
