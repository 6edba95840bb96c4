package daemon

import (
	"context"
	"fmt"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/record"
)

// assertFenced has it committed that a holder of a lease without a time limit is
// fenced, as an operator says: nothing else ends such a lease when its holder is gone
// (safety notes, B10). One that was heard of lately is not.
func (d *Daemon) assertFenced(ctx context.Context, node cluster.NodeID) error {
	ctx, cancel := context.WithTimeout(ctx, pauseBound)
	defer cancel()
	view := backend{d}.View()
	p := view.Promotion
	if p == nil || p.Record == nil || p.Record.Rule != record.Quorum {
		return fault.New(fault.BadConfig, "the quorum rule is not in force, or this node is no member of the group: there is no lease to end").
			WithHint("run this command on a member of the group: \"repmgr cluster show\"")
	}
	holder, _ := p.Record.Member(node)
	for _, peer := range view.Peers {
		if peer.Node == node && peer.Report != nil && peer.Age < d.eyes.cfg.Load().LeaseTTL {
			return fault.New(fault.BadConfig, "node %q (ID: %d) is not fenced: its repmgrd was heard of %s ago", holder.Name, node, peer.Age.Round(100*time.Millisecond)).
				WithHint("\"repmgr service unpause\" makes its lease one with a time limit")
		}
	}
	c := record.Fenced{Term: p.Record.Term, Node: node, Seq: p.Record.Lease.Seq, By: fmt.Sprintf("an operator on node %d", d.cfg.NodeID)}
	switch refused, err := d.quorum.insist(ctx, c); {
	case err != nil:
		return fault.Wrap(err, fault.RepmgrdPause, "no majority of the voters has agreed").
			WithDetail("It may happen yet, if it was only late.").WithHint("\"repmgr cluster show\" says which voters are seen")
	case refused != "" && !d.ended(c):
		return fault.New(fault.BadConfig, "the group refused: %s", refused)
	}
	d.log.Error(fmt.Sprintf("the lease of node %q (ID: %d) is ended: %s says that it is fenced", holder.Name, node, c.By))
	about, _ := cluster.Find(d.peers.nodes(), node)
	d.announce(event{name: "cluster_fenced", about: about, details: fmt.Sprintf("%s said that node %q (ID: %d) is fenced, and ended its lease in term %d", c.By, holder.Name, node, c.Term)})
	return nil
}

// ended reports whether the record says already what was asked for: the answer to
// an earlier try got lost.
func (d *Daemon) ended(c record.Fenced) bool {
	rec, _ := d.quorum.known()
	for _, n := range rec.Decisions {
		if n.What == "fenced" && n.Term == c.Term && n.Node == c.Node {
			return true
		}
	}
	return false
}
