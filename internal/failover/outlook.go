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
	if rec == nil {
		return Prospect{Why: "this node is no member of the group, and cannot tell"}
	}
	if rec.Rule != record.Quorum {
		return Prospect{Why: "the quorum rule is not in force"}
	}
	if why := f.standstill(); why != "" {
		return Prospect{Why: why}
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
	o := Outcome{Fault: Gone, Lost: []cluster.NodeID{f.lease().Holder, lost}}
	f.holderLost(&o)
	return Prospect{WouldSucceed: o.Promoted, Node: o.Node, Why: o.Why}
}

// heard reports whether a member can be counted on, as far as this node knows.
func (f facts) heard(id cluster.NodeID) bool {
	return id == f.Self || f.fresh(id) && !f.Peers[id].Silent
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
