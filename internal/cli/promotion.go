package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/record"
)

// promotionTimeout bounds the wait for the local daemon's word on the promotion
// rule, which comes while the servers are asked.
const promotionTimeout = time.Second

// Promotion is by which rule standbys are promoted, and what stands behind it, as
// one daemon sees it.
type Promotion struct {
	Rule        record.Rule        `json:"rule"`
	Why         string             `json:"why"`
	Hint        string             `json:"hint,omitempty"`
	Term        uint64             `json:"term,omitempty"`
	Lease       *Lease             `json:"lease,omitempty"` // under the quorum rule, with what follows
	Voters      []api.Voter        `json:"voters,omitempty"`
	Leader      cluster.NodeID     `json:"leader_node_id,omitempty"` // of the daemons' group; 0: none known
	Synchronous *Synchronous       `json:"synchronous,omitempty"`
	Paused      bool               `json:"paused"`
	Failover    *failover.Prospect `json:"failover,omitempty"`
	Broken      string             `json:"broken,omitempty"`  // why the daemon's part in the group is out of order
	Refused     []api.RefusedNode  `json:"refused,omitempty"` // who is not listened to
	Full        []api.FullDisk     `json:"disk_full,omitempty"`
	Barred      []api.Barred       `json:"barred,omitempty"`          // who may not be promoted
	TooShort    string             `json:"lease_too_short,omitempty"` // for what lease_ttl is too short, as measured

	names map[cluster.NodeID]string
	pause string
}

// Lease is the primary's right to take writes.
type Lease struct {
	State   record.LeaseState `json:"state"`
	Holder  cluster.NodeID    `json:"node_id"`      // the last one, while it is vacant
	Left    *float64          `json:"seconds_left"` // null: only the holder's own daemon can tell
	Renewed float64           `json:"seconds_since_change"`
}

// Synchronous is what a commit waits for: each of the sets, while they change.
type Synchronous struct {
	Mode record.SyncMode `json:"mode"`
	Sets []record.Set    `json:"sets"`
}

// newPromotion makes of a daemon's word what operators are shown; nil of none.
func newPromotion(p *api.Promotion) *Promotion {
	if p == nil {
		return nil
	}
	out := &Promotion{Rule: p.Rule, Why: p.Why, Hint: p.Hint, Broken: p.Broken, Refused: p.Refused, Full: p.Full, Barred: p.Barred, names: map[cluster.NodeID]string{}}
	r := p.Record
	if r == nil || r.Rule != record.Quorum {
		return out
	}
	for _, m := range r.Members {
		out.names[m.Node] = m.Name
	}
	out.Term, out.Voters, out.Leader, out.Failover, out.TooShort = r.Term, p.Voters, p.Leader, p.Failover, p.TooShort
	out.Synchronous = &Synchronous{Mode: r.Sync.Mode, Sets: append([]record.Set{}, r.Sync.Sets...)}
	out.Paused, out.pause = r.Pause.On, r.Pause.Reason
	out.Lease = &Lease{State: r.Lease.State, Holder: r.Lease.Holder, Renewed: p.Unchanged.Seconds()}
	if p.Left != nil {
		left := max(0, p.Left.Seconds())
		out.Lease.Left = &left
	}
	return out
}

// text prints the block below a table.
func (p *Promotion) text(w io.Writer) {
	if p == nil {
		return
	}
	fmt.Fprintln(w)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, " %-14s %s\n", name+":", fmt.Sprintf(format, args...))
	}
	row("Promotion rule", "%s (%s)", p.Rule, p.Why)
	if p.Hint != "" {
		fmt.Fprintf(w, " %-14s %s\n", "", p.Hint)
	}
	if p.Broken != "" {
		row("Out of order", "%s", p.Broken)
	}
	for _, r := range p.Refused {
		row("Refused", "%s: %s", p.name(r.Node), r.Why)
	}
	for _, d := range p.Full {
		row("Disk full", "%s: %d MB left", p.name(d.Node), d.Room>>20)
	}
	for _, b := range p.Barred {
		row("Not eligible", "%s (ID: %d): %s", b.Name, b.Node, b.Why)
	}
	if p.Lease == nil {
		return
	}
	row("Term", "%d", p.Term)
	row("Lease", "%s", p.leaseText())
	if p.TooShort != "" {
		row("Too short", "%s", p.TooShort)
	}
	row("Voters", "%s", p.votersText())
	row("Synchronous", "%s", p.syncText())
	if f := p.Failover; f != nil {
		row("Failover", "%s: %s", map[bool]string{true: "would succeed", false: "would not succeed now"}[f.WouldSucceed], f.Why)
	}
}

func (p *Promotion) name(id cluster.NodeID) string { return nameOf(p.names, id) }

func nameOf(names map[cluster.NodeID]string, id cluster.NodeID) string {
	if name := names[id]; name != "" {
		return fmt.Sprintf("%s (ID: %d)", name, id)
	}
	return fmt.Sprintf("node %d", id)
}

func (p *Promotion) leaseText() string {
	l := p.Lease
	switch {
	case l.State == record.Indefinite && p.Paused:
		return fmt.Sprintf("held by %s without a time limit: the cluster is paused, %s", p.name(l.Holder), p.pause)
	case l.State == record.Indefinite:
		return fmt.Sprintf("held by %s without a time limit, until it takes a timed one again", p.name(l.Holder))
	case l.State == record.Granted:
		return fmt.Sprintf("granted to %s %.1f s ago, not claimed yet", p.name(l.Holder), l.Renewed)
	case l.State == record.Held && l.Left != nil:
		return fmt.Sprintf("held by %s, %.1f s left", p.name(l.Holder), *l.Left)
	case l.State == record.Held:
		return fmt.Sprintf("held by %s, renewed %.1f s ago", p.name(l.Holder), l.Renewed)
	}
	return fmt.Sprintf("vacant since %.1f s, last held by %s", l.Renewed, p.name(l.Holder))
}

func (p *Promotion) votersText() string {
	var missing []string
	for _, v := range p.Voters {
		if !v.Seen {
			missing = append(missing, fmt.Sprintf("%s (ID: %d)", v.Name, v.Node))
		}
	}
	text := fmt.Sprintf("%d of %d seen", len(p.Voters)-len(missing), len(p.Voters))
	if len(missing) > 0 {
		text += "; not seen: " + strings.Join(missing, ", ")
	}
	if p.Leader == 0 {
		text += "; they have no leader that this node knows: no majority"
	}
	return text
}

func (p *Promotion) syncText() string {
	var sets []string
	for _, s := range p.Synchronous.Sets {
		k, members := s.Parse()
		var names []string
		for _, id := range members {
			names = append(names, p.name(id))
		}
		if k > 0 {
			sets = append(sets, fmt.Sprintf("%d of %s", k, strings.Join(names, ", ")))
		}
	}
	switch {
	case len(sets) > 0:
		return strings.Join(sets, "; or, while this changes, ")
	case p.Synchronous.Mode == record.SyncOn || p.Synchronous.Mode == record.SyncStrict:
		return "no standby now: a commit is acknowledged by the primary alone"
	}
	return "not managed"
}

// localPromotion asks the local daemon in the background; the function that it
// returns waits for the answer, and is nil where none came.
func (s *Session) localPromotion(ctx context.Context) func() *Promotion {
	answer := make(chan *Promotion, 1)
	if s.ConfPath == "" || s.Conf.StateDir() == "" {
		answer <- nil
		return func() *Promotion { return <-answer }
	}
	go func() {
		view, err := s.localView(ctx, promotionTimeout)
		if err != nil {
			answer <- nil
			return
		}
		answer <- newPromotion(view.Promotion)
	}()
	return func() *Promotion { return <-answer }
}

// localView is what the local daemon knows.
func (s *Session) localView(ctx context.Context, bound time.Duration) (api.ClusterView, error) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	c := api.DialUnix(s.Conf.StateDir())
	defer c.Close()
	return c.Status(ctx)
}
