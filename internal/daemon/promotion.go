package daemon

import (
	"time"

	"repmgr/internal/api"
	"repmgr/internal/failover"
	"repmgr/internal/record"
)

// promotion is what operators see of the rule by which standbys are promoted.
// The record is shared: it is never changed in place.
func (d *Daemon) promotion(now time.Time) *api.Promotion {
	v := d.loop.view
	g := v.Group
	p := &api.Promotion{Record: g.Record, Leader: g.Leader, Broken: g.Broken, Guard: api.Guard{Alive: v.Guard.Alive}}
	p.Rule, p.Why, p.Hint = failover.RuleInForce(v, now)
	if end, limited := failover.Deadline(v); limited {
		left := end.Sub(now)
		p.Left = &left
		if v.Guard.Alive {
			p.Guard.Left = &left // it is told every deadline at once
		}
	}
	p.Refused = d.voices.refused()
	for _, n := range v.Nodes {
		r := v.Peers[n.ID].Report
		if n.ID == v.Self {
			r = d.shared.load().report
		}
		if r.Full {
			p.Full = append(p.Full, api.FullDisk{Node: n.ID, Room: r.Room})
		}
	}
	p.Barred = d.barred(now)
	if g.Record == nil {
		return p
	}
	p.Unchanged = now.Sub(g.LeaseAt)
	for _, m := range g.Record.Members {
		if m.Voter {
			p.Voters = append(p.Voters, api.Voter{Node: m.Node, Name: m.Name, Seen: failover.Heard(v, m.Node, now)})
		}
	}
	if g.Record.Rule == record.Quorum {
		outlook := failover.Outlook(v, now)
		p.Failover, p.TooShort = &outlook, failover.TooShort(v, now)
	}
	return p
}

// barred lists the nodes whose servers forbid a promotion, as they say.
func (d *Daemon) barred(now time.Time) (out []api.Barred) {
	v := d.loop.view
	for _, n := range v.Nodes {
		why := v.Barred()
		if n.ID != v.Self {
			if why = v.Peers[n.ID].Report.Barred; !failover.Heard(v, n.ID, now) {
				continue
			}
		}
		if why != "" {
			out = append(out, api.Barred{Node: n.ID, Name: n.Name, Why: why})
		}
	}
	return out
}
