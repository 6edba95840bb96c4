package failover

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// Prospect is what would come of the loss of the primary's host, as far as one
// node can tell from what it heard last.
type Prospect struct {
	WouldSucceed bool             `json:"would_succeed"`
	Why          string           `json:"why"`
	Node         cluster.NodeID   `json:"node_id"`         // who would be promoted by the last reports; zero: nobody
	Needs        []cluster.NodeID `json:"needs,omitempty"` // it would not succeed without each of them
}

// Outlook says whether a failover under the quorum rule would succeed if the
// primary's host vanished now, and if not, why. Positions are those of the last
// reports; whether a standby has diverged is known for sure only when it bids.
func Outlook(v *View, now time.Time) Prospect {
	f, rec := newFacts(v, now), v.Group.Record
	switch {
	case rec == nil:
		return Prospect{Why: "this node is no member of the group, and cannot tell"}
	case rec.Rule != record.Quorum:
		return Prospect{Why: "the quorum rule is not in force"}
	case rec.Pause.On:
		return Prospect{Why: "the cluster is paused: " + rec.Pause.Reason}
	case rec.Lease.State == record.Indefinite:
		return Prospect{Why: fmt.Sprintf("the pause was lifted, and node %d has not taken a timed lease since", rec.Lease.Holder)}
	case rec.Lease.State == record.Granted:
		return Prospect{Why: fmt.Sprintf("term %d is granted to node %d, which has not claimed it yet", rec.Term, rec.Lease.Holder)}
	case rec.Lease.State == record.Vacant:
		return Prospect{Why: "nobody holds the lease: " + rec.Verdict().Why}
	}
	p := f.without(0)
	if !p.WouldSucceed {
		return p
	}
	for _, m := range rec.Members {
		if m.Node != rec.Lease.Holder && !f.without(m.Node).WouldSucceed {
			p.Needs = append(p.Needs, m.Node)
		}
	}
	p.Why = fmt.Sprintf("node %d would be promoted", p.Node)
	if len(p.Needs) > 0 {
		p.Why += "; not without " + nodesText(p.Needs, "and")
	}
	return p
}

// without is the outlook if, beside the holder, that node is lost too.
func (f facts) without(lost cluster.NodeID) Prospect {
	rec := f.Group.Record
	var silent []cluster.NodeID
	left := 0
	for _, m := range rec.Members {
		switch {
		case !m.Voter || m.Node == rec.Lease.Holder:
		case m.Node == lost || !f.heard(m.Node):
			silent = append(silent, m.Node)
		default:
			left++
		}
	}
	if need := rec.Voters()/2 + 1; left < need {
		why := fmt.Sprintf("%d of %d voters would be left, and %d have to agree", left, rec.Voters(), need)
		if len(silent) > 0 {
			why += "; not heard of: " + nodesText(silent, "and")
		}
		return Prospect{Why: why}
	}
	bids, absent := f.foreseen(lost)
	v := bids.Verdict()
	switch {
	case v.Winner != 0:
		return Prospect{WouldSucceed: true, Node: v.Winner, Why: v.Why}
	case slices.ContainsFunc(v.Bids, func(j record.Judged) bool { return j.Verdict == "candidate" }):
		return Prospect{Why: whySetFails(bids, v)}
	}
	for _, j := range v.Bids {
		absent = append(absent, fmt.Sprintf("node %d: %s", j.Node, j.Verdict))
	}
	if len(absent) == 0 {
		absent = []string{"there is none"}
	}
	return Prospect{Why: "no standby could be promoted: " + strings.Join(absent, "; ")}
}

// heard reports whether a member can be counted on, as far as this node knows.
func (f facts) heard(id cluster.NodeID) bool {
	return id == f.Self || f.fresh(id) && !f.Peers[id].Silent
}

// foreseen is the record as it would be after the holder's lease ran out and
// every standby that was heard of had bid, and why the others would not bid.
func (f facts) foreseen(lost cluster.NodeID) (rec *record.Record, absent []string) {
	rec = f.Group.Record.Clone()
	rec.Apply(record.Expire{Term: rec.Term, Seq: rec.Lease.Seq}, time.Time{}, rec.Index)
	switches, end, _ := rec.Line().Parse() // one that cannot be read makes every bid a diverged one
	for _, m := range rec.Members {
		if m.Node == rec.Lease.Holder || m.Witness {
			continue
		}
		r := f.Peers[m.Node].Report
		server, role, at, receives := r.Server, r.Role, r.Position, r.Receiving
		if m.Node == f.Self {
			server, role, at, receives = f.local.State, f.local.Role, f.local.Position, f.local.Receiving
		}
		if receives || at.Timeline == 0 {
			at.Timeline = end
		}
		switch {
		case m.Node == lost || !f.heard(m.Node):
			absent = append(absent, fmt.Sprintf("node %d was not heard of", m.Node))
		case server != ServerRunning || role != cluster.Standby:
			absent = append(absent, fmt.Sprintf("the server of node %d is %s", m.Node, serverText(server, role)))
		case at.LSN == 0:
			absent = append(absent, fmt.Sprintf("the position of node %d is not known", m.Node))
		default:
			rec.Apply(record.Bid{Vacancy: rec.Lease.Vacancy, Node: m.Node, Timeline: at.Timeline, LSN: at.LSN,
				Line: record.LineOf(switches, at.Timeline)}, time.Time{}, rec.Index)
		}
	}
	return rec, absent
}

func serverText(s ServerState, r cluster.Role) string {
	if s == ServerRunning {
		return "no standby's"
	}
	return string(s)
}

// whySetFails says which members of a synchronous set would be missed: a commit
// may be on them alone.
func whySetFails(rec *record.Record, v record.Verdict) string {
	for _, set := range rec.Sync.Sets {
		k, members := set.Parse()
		var missing []cluster.NodeID
		for _, id := range members {
			counts := slices.ContainsFunc(v.Bids, func(j record.Judged) bool {
				return j.Node == id && j.Declined == "" && !strings.HasPrefix(j.Verdict, "diverged")
			})
			if !counts {
				missing = append(missing, id)
			}
		}
		if len(members) > 0 && len(missing) >= k {
			return fmt.Sprintf("an acknowledged commit may be on %s alone, by the synchronous set %s", nodesText(missing, "and"), set)
		}
	}
	return v.Why
}

// nodesText is "node 2" or "nodes 2, 3 and 4".
func nodesText(ids []cluster.NodeID, and string) string {
	if len(ids) == 1 {
		return fmt.Sprintf("node %d", ids[0])
	}
	words := make([]string, len(ids))
	for i, id := range ids {
		words[i] = fmt.Sprint(id)
	}
	last := len(words) - 1
	return "nodes " + strings.Join(words[:last], ", ") + " " + and + " " + words[last]
}

// Heard reports whether a node's daemon was heard of lately; of itself a node
// always hears.
func Heard(v *View, id cluster.NodeID, now time.Time) bool { return newFacts(v, now).heard(id) }

// RuleInForce says by which rule a standby would be promoted as far as this node
// knows, why, and what would make it safer.
func RuleInForce(v *View, now time.Time) (rule record.Rule, why, hint string) {
	f := newFacts(v, now)
	if f.quorumKnown() {
		switch rec := v.Group.Record; {
		case rec == nil:
			return record.Quorum, "this node is no member of the group yet, and waits", ""
		case rec.Rule != record.Quorum:
			return record.Quorum, "this node's record is behind the others', and it waits", ""
		}
		return record.Quorum, fmt.Sprintf("%d voters", v.Group.Record.Voters()), ""
	}
	heard := 0
	for _, n := range v.Nodes {
		if f.heard(n.ID) {
			heard++
		}
	}
	const risk = "A primary that is cut off goes on taking writes under this rule. "
	const witness = risk + "A third voter removes the risk: a standby, or a witness, which is one small process."
	switch {
	case !v.Policy.Automatic:
		return record.Visibility, "failover='manual' on this node", ""
	case !v.Policy.Quorum:
		return record.Visibility, "promotion_rule='visibility' on this node", risk + "promotion_rule='auto' on every node removes the risk."
	case len(v.Nodes) < record.MinimumVoters:
		return record.Visibility, fmt.Sprintf("fewer than three voters: %d registered", len(v.Nodes)), witness
	case heard < record.MinimumVoters:
		return record.Visibility, fmt.Sprintf("fewer than three voters: of %d registered nodes, %d run a daemon that was heard of", len(v.Nodes), heard), witness
	case v.Paused:
		return record.Visibility, "the quorum rule begins when this node is no longer paused", ""
	}
	return record.Visibility, "three voters run, and the quorum rule is about to begin", ""
}
