package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/registry"
)

// clusterVerbs are the actions on all nodes together.
func clusterVerbs() []verb {
	return []verb{{
		name:  "cluster show",
		short: "show every node, its state and what is wrong",
		long: `Asks every registered node at the same time and prints one line for each, whatever
its state. Where this node's daemon runs, it and the others ask their servers, over sessions that are open: that is quicker than a new session with each. Servers whose daemon does not answer at once are asked by a new session from here, and with --direct or --verbose all are. Only a new session shows whether one is let in, and from here; json says in "asked" who has asked a node: daemon or session.

Status: * runs, and takes writes or is a witness; blank is a standby that
runs; ! contradicts the records; ? cannot be told; - is known to be out.

Below the table stands what the daemon of this node says, if it runs: by which rule a standby would be promoted, and under the quorum rule the term, the lease, which voters are seen, the synchronous set, and whether a failover would succeed now.

csv: node_id, availability (0 or -1), recovery (0 primary, 1 standby, -1 unknown).
Ends with 25 if anything is wrong with any node. Without a configuration file it
starts from the server that the connection options name.`,
		example: `repmgr -f /etc/repmgr.conf cluster show
repmgr -f /etc/repmgr.conf cluster show --compact
repmgr -h node1 -U repmgr -d repmgr cluster show --format json`,
		options: []string{"compact", "direct", "connection"},
		config:  configOrConnect,
		run:     clusterShow,
	}, matrixVerb(), crosscheckVerb(), explainVerb(), drillVerb(), resetQuorumVerb(), {
		name:  "cluster event",
		short: "show what happened in the cluster",
		long: `Prints the events of repmgr.events, newest first.

csv: node_id, node_name, event, successful (t or f), timestamp.`,
		example: `repmgr -f /etc/repmgr.conf cluster event --limit 50
repmgr -f /etc/repmgr.conf cluster event --event repmgrd_failover_promote --all`,
		options: []string{"all", "limit", "event", "node-id", "node-name", "compact"},
		run:     clusterEvent,
	}, {
		name:  "cluster cleanup",
		short: "delete old monitoring history",
		long: `Deletes rows of repmgr.monitoring_history on the primary: those older than
--keep-history days, or all of them.`,
		example: `repmgr -f /etc/repmgr.conf cluster cleanup --keep-history 7 --dry-run
repmgr -f /etc/repmgr.conf cluster cleanup -k 7`,
		options: []string{"keep-history", "node-id", "dry-run"},
		changes: true,
		run:     clusterCleanup,
	}}
}

// ShowRow is one node of "cluster show".
type ShowRow struct {
	ID             cluster.NodeID    `json:"node_id"`
	Name           string            `json:"node_name"`
	Role           cluster.Role      `json:"type"`
	Active         bool              `json:"active"`
	Reach          cluster.Reach     `json:"reach"`
	Asked          AskedBy           `json:"asked"`
	InRecovery     *bool             `json:"in_recovery"` // null: not known
	Status         string            `json:"status"`
	UpstreamID     cluster.NodeID    `json:"upstream_node_id"` // by the record; 0: none
	Upstream       string            `json:"upstream"`         // as in the table
	Location       string            `json:"location"`
	Priority       int               `json:"priority"`
	Timeline       *cluster.Timeline `json:"timeline"` // null: not known
	TimelineShown  string            `json:"-"`
	Conninfo       string            `json:"conninfo"` // without secrets
	Issues         []string          `json:"issues"`
	SomethingWrong bool              `json:"-"`
}

// AskedBy tells who has asked a node's server for what is shown of it.
type AskedBy string

// The askers: its daemon over a session that was open, or this command by a new one.
const (
	AskedByDaemon  AskedBy = "daemon"
	AskedBySession AskedBy = "session"
)

// Show is the answer of "cluster show".
type Show struct {
	Version   int        `json:"version"` // of this form, which only grows
	Nodes     []ShowRow  `json:"nodes"`
	Promotion *Promotion `json:"promotion,omitempty"` // nil: no daemon answers here
	compact   bool
}

// newShow makes the answer from what was seen.
func newShow(sights []cluster.Sight, compact bool) Show {
	s := Show{Version: 1, compact: compact, Nodes: make([]ShowRow, len(sights))}
	for i, a := range cluster.Assess(sights) {
		seen := sights[i]
		n := seen.Node
		row := ShowRow{
			ID: n.ID, Name: n.Name, Role: n.Role, Active: n.Active, Reach: seen.Reach, Asked: AskedBySession,
			Status: a.Status, UpstreamID: n.Upstream, Upstream: a.Upstream, Location: n.Location,
			Priority: n.Priority, TimelineShown: timelineCell(seen), Conninfo: redact(n.Conninfo),
			Issues: append([]string{}, a.Issues...), SomethingWrong: a.Bad,
		}
		if seen.ByDaemon {
			row.Asked = AskedByDaemon
		}
		if seen.Recovery != cluster.RecoveryUnknown {
			in := seen.Recovery == cluster.InRecovery
			row.InRecovery = &in
		}
		if seen.Timeline != 0 && n.Role != cluster.Witness {
			row.Timeline = &seen.Timeline
		}
		s.Nodes[i] = row
	}
	return s
}

func timelineCell(s cluster.Sight) string {
	switch {
	case s.Node.Role == cluster.Witness:
		return "n/a"
	case s.Reach != cluster.Up:
		return ""
	case s.Timeline == 0:
		return "?"
	}
	return fmt.Sprint(s.Timeline)
}

// Text prints the table.
func (s Show) Text(w io.Writer) {
	g := grid{header: []string{"ID", "Name", "Role", "Status", "Upstream", "Location", "Priority", "Timeline", "Connection string"}}
	if s.compact {
		g.header = []string{"ID", "Name", "Role", "Status", "Upstream", "Location", "Prio.", "TLI"}
	}
	for _, n := range s.Nodes {
		row := []string{fmt.Sprint(n.ID), n.Name, n.Role.String(), n.Status, n.Upstream, n.Location, fmt.Sprint(n.Priority), n.TimelineShown}
		if !s.compact {
			row = append(row, n.Conninfo)
		}
		g.rows = append(g.rows, row)
	}
	g.write(w)
	s.Promotion.text(w)
}

// CSV prints one line for each node: its id, whether it is available, whether it is in recovery.
func (s Show) CSV(w io.Writer) {
	for _, n := range s.Nodes {
		available, recovery := 0, -1
		if n.Reach != cluster.Up {
			available = -1
		}
		if n.InRecovery != nil {
			recovery = 0
			if *n.InRecovery {
				recovery = 1
			}
		}
		csvLine(w, n.ID, available, recovery)
	}
}

func clusterShow(ctx context.Context, s *Session) error {
	sights, promotion, err := s.lookAtAll(ctx)
	if err != nil {
		return err
	}
	show := newShow(s.quieter(sights), s.Opt.Compact)
	show.Promotion = promotion
	if err := s.Result(show); err != nil {
		return err
	}
	var issues []string
	wrong := false
	for _, n := range show.Nodes {
		issues = append(issues, n.Issues...)
		wrong = wrong || n.SomethingWrong
	}
	s.issues(issues, hidesFailures(sights))
	if wrong {
		return said(fault.NodeStatus)
	}
	return nil
}

// lookAtAll is every node's sight, and the local daemon's word on the promotion rule. Servers
// that could not be asked by way of their daemons are asked by sessions of our own.
func (s *Session) lookAtAll(ctx context.Context) ([]cluster.Sight, *Promotion, error) {
	if quick := s.quickly(ctx); quick != nil {
		return look(ctx, quick.Nodes, start{seen: quick.Seen}), newPromotion(quick.Promotion), nil
	}
	promotion := s.localPromotion(ctx)
	early := s.lookEarly(ctx)
	defer early.End()
	c, err := s.Connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer registry.Close(c)
	nodes, err := registered(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	from := s.startFrom(c, nodes)
	from.early = early
	if slices.ContainsFunc(nodes, cluster.Node.WithoutServer) {
		from.daemons, _ = s.daemons(ctx, c) // who may not read the authority cannot ask them: the sight says so
	}
	return look(ctx, nodes, from), promotion(), nil
}

// quieter leaves out why connections failed where nobody asked for it.
func (s *Session) quieter(sights []cluster.Sight) []cluster.Sight {
	if s.Opt.Verbose || s.Format() == "json" {
		return sights
	}
	out := make([]cluster.Sight, len(sights))
	for i, one := range sights {
		one.Failure = ""
		out[i] = one
	}
	return out
}

func hidesFailures(sights []cluster.Sight) bool {
	for _, s := range sights {
		if s.Failure != "" {
			return true
		}
	}
	return false
}

// issues prints what is wrong below a table. In csv and json the result stands
// alone: csv by repmgr's rule, json because it holds the issues itself.
func (s *Session) issues(issues []string, hidden bool) {
	if len(issues) == 0 || s.Opt.Terse || s.Format() != "text" {
		return
	}
	fmt.Fprintln(s.Stdout)
	e := Entry{Level: Warning, Text: "the following issues were detected\n  - " + strings.Join(issues, "\n  - ")}
	if hidden && !s.Opt.Verbose {
		e.Hint = "--verbose shows why a connection failed"
	}
	s.Talk.Say(e)
}
