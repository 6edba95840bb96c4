package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
	"repmgr/internal/pg"
	"repmgr/internal/record"
	"repmgr/internal/registry"
)

// daemonTimeout bounds one question to one daemon.
const daemonTimeout = 2 * time.Second

// serviceVerbs are the actions on the daemons.
func serviceVerbs() []verb {
	return []verb{{
		name:  "service status",
		short: "show the daemon of every node",
		long: `Asks every registered node and its daemon at the same time and prints one line for
each; the daemons ask their servers, as for "repmgr cluster show", and those that do not are asked from here, as all are with --direct. A daemon whose state cannot be told is n/a. Below the table stands by which rule a standby would be promoted, as in "repmgr cluster show".

csv: node_id, node_name, type, pg_running (1 or 0), repmgrd_running (1, 0, -1 unknown),
repmgrd_pid (-1 unknown), paused (1, 0, -1 unknown), priority, upstream_last_seen
(seconds, -1 unknown), location.`,
		example: `repmgr -f /etc/repmgr.conf service status
repmgr -f /etc/repmgr.conf service status --detail
repmgr -f /etc/repmgr.conf service status --format json`,
		options: []string{"detail", "compact", "direct", "dry-run"},
		run:     serviceStatus,
	}, {
		name:  "service pause",
		short: "stop automatic failover on every node",
		long: `Under the quorum rule the whole cluster is paused, by an entry that a majority of the voters has: nothing is promoted, and the primary holds its lease without a time limit, so that its server may be stopped and started in peace. It may be run on any node, also where the server is down, and again. Without a majority it ends with 26.

Under the visibility rule the daemon of every registered node is told not to fail over. Ends with 26 if any daemon could not be told; the others are told all the same.`,
		example: `repmgr -f /etc/repmgr.conf service pause --dry-run
repmgr -f /etc/repmgr.conf service pause`,
		options: []string{"dry-run"},
		changes: true,
		run:     func(ctx context.Context, s *Session) error { return servicePause(ctx, s, true) },
	}, {
		name:    "service unpause",
		short:   "allow automatic failover on every node again",
		long:    "Takes \"repmgr service pause\" back. Under the quorum rule the primary takes a lease with a time limit again, and until it has, nobody else can be promoted.",
		example: "repmgr -f /etc/repmgr.conf service unpause",
		options: []string{"dry-run"},
		changes: true,
		run:     func(ctx context.Context, s *Session) error { return servicePause(ctx, s, false) },
	}}
}

// fleet is how to reach the daemon of each node.
type fleet struct {
	local     cluster.NodeID
	stateDir  string
	endpoints map[cluster.NodeID]registry.Endpoint
	identity  *api.Identity // nil: there is no authority, and only the local daemon can be asked
	patience  time.Duration // with which a connection is tried
}

// patience is connect_timeout of the conninfo that the command starts from, where that is
// shorter than a question to a daemon may take: a host that drops packets shall cost a
// command the same whether it tries the server there or the daemon.
func (s *Session) patience() time.Duration {
	if from, err := s.Conninfo(); err == nil {
		if seconds, err := strconv.Atoi(from.Get("connect_timeout")); err == nil && seconds > 0 {
			return min(daemonTimeout, time.Duration(seconds)*time.Second)
		}
	}
	return daemonTimeout
}

// daemons reads where the daemons listen and makes this run a certificate.
func (s *Session) daemons(ctx context.Context, c *pg.Conn) (fleet, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	f := fleet{local: s.Conf.NodeID, stateDir: s.Conf.StateDir(), patience: s.patience()}
	var err error
	if f.endpoints, err = registry.Endpoints(ctx, c); err != nil {
		return f, err
	}
	cert, key, found, err := registry.Authority(ctx, c)
	if err != nil || !found {
		return f, err
	}
	authority, err := api.ParseAuthority(cert, key)
	if err != nil {
		return f, fault.Wrap(err, fault.BadConfig, "the cluster's certificate authority in repmgr.authority is of no use")
	}
	f.identity, err = authority.Identity("repmgr", s.Conf.NodeID)
	return f, err
}

// errNoEndpoint is a daemon that nobody knows the address of: one that has not
// run since the node was registered, or repmgr 5's.
var errNoEndpoint = errors.New("its address is not known: its daemon has not run yet, or is not of this release")

// client is the way to a node's daemon.
func (f fleet) client(id cluster.NodeID) (*api.Client, error) {
	if id == f.local {
		return api.DialUnix(f.stateDir), nil
	}
	e, known := f.endpoints[id]
	if !known || f.identity == nil {
		return nil, errNoEndpoint
	}
	return api.Dial(api.Target{ID: id, Host: e.Host, Port: e.Port, Patience: f.patience}, f.identity.ClientTLS()), nil
}

// ask calls one daemon within daemonTimeout.
func (f fleet) ask(ctx context.Context, id cluster.NodeID, call func(context.Context, *api.Client) error) error {
	return f.askWithin(ctx, id, daemonTimeout, call)
}

// askWithin is ask with a bound of its own.
func (f fleet) askWithin(ctx context.Context, id cluster.NodeID, bound time.Duration, call func(context.Context, *api.Client) error) error {
	c, err := f.client(id)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	return call(ctx, c)
}

// DaemonRunning tells whether a daemon runs, as far as can be told.
type DaemonRunning string

// The answers.
const (
	DaemonRuns    DaemonRunning = "running"
	DaemonStopped DaemonRunning = "not running"
	DaemonUnknown DaemonRunning = "n/a"
)

// ServiceRow is one node of "service status".
type ServiceRow struct {
	ShowRow
	Daemon   DaemonRunning    `json:"repmgrd"`
	PID      *int             `json:"repmgrd_pid"`        // null: not known
	Paused   *bool            `json:"paused"`             // null: not known
	LastSeen *float64         `json:"upstream_last_seen"` // seconds; null: not known
	Report   *failover.Report `json:"report,omitempty"`   // all that the daemon said of itself
}

// Service is the answer of "service status".
type Service struct {
	Version         int          `json:"version"` // of this form, which only grows
	Nodes           []ServiceRow `json:"nodes"`
	Promotion       *Promotion   `json:"promotion,omitempty"` // as the local daemon sees it, else another
	compact, detail bool
}

// DaemonAnswer is what a node's daemon said, or why it said nothing.
type DaemonAnswer struct {
	Report    *failover.Report
	Promotion *api.Promotion
	Err       error
}

// newService makes the answer from what the servers and the daemons said, both
// in the order of the nodes.
func newService(show Show, answers []DaemonAnswer) Service {
	s := Service{Version: 1}
	for i, n := range show.Nodes {
		row := ServiceRow{ShowRow: n, Daemon: DaemonUnknown}
		r, err := answers[i].Report, answers[i].Err
		switch {
		case r != nil:
			row.Daemon, row.PID, row.Paused, row.Report = DaemonRuns, &r.PID, &r.Paused, r
			row.LastSeen = lastSeen(*r, n.UpstreamID)
		case errors.Is(err, api.ErrNotRunning):
			row.Daemon = DaemonStopped
		case err != nil:
			row.Issues = append(row.Issues, fmt.Sprintf("the daemon of node %q (ID: %d) cannot be asked: %v", n.Name, n.ID, err))
		}
		s.Nodes = append(s.Nodes, row)
	}
	return s
}

// promotionOf is the local daemon's word on the promotion rule, or that of the
// first other that has the record.
func promotionOf(nodes []cluster.Node, answers []DaemonAnswer, local cluster.NodeID) *Promotion {
	var other *api.Promotion
	for i, a := range answers {
		switch {
		case a.Promotion == nil:
		case nodes[i].ID == local:
			return newPromotion(a.Promotion)
		case other == nil || other.Record == nil:
			other = a.Promotion
		}
	}
	return newPromotion(other)
}

// lastSeen is for how many seconds the daemon has not reached its upstream.
func lastSeen(r failover.Report, upstream cluster.NodeID) *float64 {
	if r.Upstream != 0 {
		upstream = r.Upstream
	}
	for _, seen := range r.Saw {
		if seen.Node == upstream && upstream != 0 && seen.Ago >= 0 {
			seconds := seen.Ago.Seconds()
			return &seconds
		}
	}
	return nil
}

// Text prints the table.
func (s Service) Text(w io.Writer) {
	last, priority, ago := "Upstream last seen", "Priority", "second(s) ago"
	if s.compact {
		last, priority, ago = "Upstr. last", "Prio.", "sec(s) ago"
	}
	g := grid{header: []string{"ID", "Name", "Role", "Status", "Upstream"}}
	if s.detail {
		g.header = append(g.header, "Location", priority)
	}
	g.header = append(g.header, "repmgrd", "PID", "Paused?", last)
	for _, n := range s.Nodes {
		row := []string{fmt.Sprint(n.ID), n.Name, n.Role.String(), n.Status, n.Upstream}
		if s.detail {
			row = append(row, n.Location, fmt.Sprint(n.Priority))
		}
		pid, paused, seen := "n/a", "n/a", "n/a"
		if n.PID != nil {
			pid = fmt.Sprint(*n.PID)
		}
		if n.Paused != nil {
			paused = map[bool]string{true: "yes", false: "no"}[*n.Paused]
		}
		if n.LastSeen != nil {
			seen = fmt.Sprintf("%d %s", int(*n.LastSeen), ago)
		}
		g.rows = append(g.rows, append(row, string(n.Daemon), pid, paused, seen))
	}
	g.write(w)
	s.Promotion.text(w)
}

// CSV prints one line for each node; numbers that are not known are -1.
func (s Service) CSV(w io.Writer) {
	bit := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	for _, n := range s.Nodes {
		running, pid, paused, seen := -1, -1, -1, -1
		if n.Daemon != DaemonUnknown {
			running = bit(n.Daemon == DaemonRuns)
		}
		if n.PID != nil {
			pid = *n.PID
		}
		if n.Paused != nil {
			paused = bit(*n.Paused)
		}
		if n.LastSeen != nil {
			seen = int(*n.LastSeen)
		}
		csvLine(w, n.ID, n.Name, n.Role, bit(n.Reach == cluster.Up), running, pid, paused, n.Priority, seen, n.Location)
	}
}

// reached is what one node's server and daemon said.
type reached struct {
	sight  cluster.Sight
	daemon DaemonAnswer
}

// reachAll asks every node's server and daemon. What a daemon that asks its server now says
// of itself comes with that; the others are asked from here, servers and daemons at the same time.
func (s *Session) reachAll(ctx context.Context) ([]cluster.Node, []registry.Answer[reached], error) {
	if quick := s.quickly(ctx); quick != nil {
		return quick.Nodes, s.reachRest(ctx, quick), nil
	}
	c, nodes, f, err := s.everybody(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer registry.Close(c)
	from := s.startFrom(c, nodes)
	from.daemons = f
	return nodes, registry.AskAll(ctx, nodes, func(ctx context.Context, n cluster.Node) (reached, error) {
		return from.reach(ctx, n, func(ctx context.Context) DaemonAnswer { return f.report(ctx, n.ID) }), nil
	}), nil
}

// reachRest adds those to what the daemons have seen who are missing there. The way to their
// daemons is read while their servers are tried.
func (s *Session) reachRest(ctx context.Context, quick *api.Sights) []registry.Answer[reached] {
	way := sync.OnceValues(func() (fleet, error) {
		c, err := s.Connect(ctx)
		if err != nil {
			return fleet{}, err
		}
		defer registry.Close(c)
		return s.daemons(ctx, c)
	})
	from := start{seen: quick.Seen}
	return registry.AskAll(ctx, quick.Nodes, func(ctx context.Context, n cluster.Node) (reached, error) {
		if seen, found := quick.Seen[n.ID]; found {
			said := DaemonAnswer{Report: &seen.Report}
			if n.ID == s.Conf.NodeID {
				said.Promotion = quick.Promotion
			}
			return reached{byDaemon(n, seen.Server), said}, nil
		}
		return from.reach(ctx, n, func(ctx context.Context) DaemonAnswer {
			ctx, cancel := context.WithTimeout(ctx, daemonTimeout) // reading the way is part of it
			defer cancel()
			f, err := way()
			if err != nil {
				return DaemonAnswer{Err: err}
			}
			return f.report(ctx, n.ID)
		}), nil
	})
}

// reach asks a node's server and, at the same time, its daemon.
func (f start) reach(ctx context.Context, n cluster.Node, daemon func(context.Context) DaemonAnswer) reached {
	asked := make(chan DaemonAnswer, 1)
	go func() { asked <- daemon(ctx) }()
	return reached{f.lookAt(ctx, n), <-asked}
}

func serviceStatus(ctx context.Context, s *Session) error {
	nodes, answers, err := s.reachAll(ctx)
	if err != nil {
		return err
	}
	sights, said := make([]cluster.Sight, len(nodes)), make([]DaemonAnswer, len(nodes))
	for i, a := range answers {
		sights[i], said[i] = a.Value.sight, a.Value.daemon
	}
	service := newService(newShow(s.quieter(sights), false), said)
	service.compact, service.detail = s.Opt.Compact, s.Opt.Detail
	service.Promotion = promotionOf(nodes, said, s.Conf.NodeID)
	if err := s.Result(service); err != nil {
		return err
	}
	var issues []string
	for _, n := range service.Nodes {
		issues = append(issues, n.Issues...)
	}
	s.issues(issues, hidesFailures(sights))
	return nil
}

// report asks a daemon for its own report.
func (f fleet) report(ctx context.Context, id cluster.NodeID) DaemonAnswer {
	var a DaemonAnswer
	a.Err = f.ask(ctx, id, func(ctx context.Context, c *api.Client) error {
		view, err := c.Status(ctx)
		if err == nil {
			a.Report, a.Promotion = &view.Own, view.Promotion
		}
		return err
	})
	return a
}

// everybody is all nodes, the way to their daemons, and the connection by which
// both were read; the caller closes it.
func (s *Session) everybody(ctx context.Context) (*pg.Conn, []cluster.Node, fleet, error) {
	c, err := s.Connect(ctx)
	if err != nil {
		return nil, nil, fleet{}, err
	}
	nodes, err := registered(ctx, c)
	var f fleet
	if err == nil {
		f, err = s.daemons(ctx, c)
	}
	if err != nil {
		registry.Close(c)
		return nil, nil, f, err
	}
	return c, nodes, f, nil
}

// servicePause tells every daemon to stop failing over, or that it may again;
// under the quorum rule one of them is enough.
func servicePause(ctx context.Context, s *Session, pause bool) error {
	done := map[bool]string{true: "paused", false: "unpaused"}[pause]
	reason := fmt.Sprintf("\"repmgr service %s\" on node %q (ID: %d)", strings.TrimSuffix(done, "d"), s.Conf.NodeName, s.Conf.NodeID)
	view, err := s.localView(ctx, daemonTimeout)
	if here := view.Promotion; err == nil && here != nil && here.Rule == record.Quorum {
		local := fleet{local: s.Conf.NodeID, stateDir: s.Conf.StateDir()}
		return s.pauseCluster(ctx, local, s.Conf.NodeID, here, pause, reason)
	}
	c, nodes, f, err := s.everybody(ctx)
	if err != nil {
		return err
	}
	registry.Close(c)
	if id, there := f.governedBy(ctx, nodes); there != nil {
		return s.pauseCluster(ctx, f, id, there, pause, reason)
	}
	if !pause {
		reason = ""
	}
	answers := registry.AskAll(ctx, nodes, func(ctx context.Context, n cluster.Node) (struct{}, error) {
		return struct{}{}, f.ask(ctx, n.ID, func(ctx context.Context, c *api.Client) error {
			if s.Opt.DryRun {
				_, err := c.Status(ctx)
				return err
			}
			return c.Pause(ctx, api.Pause{Paused: pause, Reason: reason})
		})
	})
	failed := 0
	for _, a := range answers {
		switch {
		case a.Err != nil:
			failed++
			s.Talk.Say(Entry{Level: Error, Text: fmt.Sprintf("node %q (ID: %d) could not be %s", a.Node.Name, a.Node.ID, done), Detail: a.Err.Error()})
		case s.Opt.DryRun:
			s.Talk.Info("node %q (ID: %d) would be %s", a.Node.Name, a.Node.ID, done)
		default:
			s.Talk.Notice("node %q (ID: %d) %s", a.Node.Name, a.Node.ID, done)
		}
	}
	if failed > 0 {
		return fault.New(fault.RepmgrdPause, "%d of %d nodes could not be %s", failed, len(nodes), done).
			WithHint("\"repmgr service status\" shows which daemons run; run this command again when they do")
	}
	return nil
}

// governedBy finds a node whose daemon has the record of a cluster under the
// quorum rule.
func (f fleet) governedBy(ctx context.Context, nodes []cluster.Node) (cluster.NodeID, *api.Promotion) {
	answers := registry.AskAll(ctx, nodes, func(ctx context.Context, n cluster.Node) (*api.Promotion, error) {
		a := f.report(ctx, n.ID)
		return a.Promotion, a.Err
	})
	for _, a := range answers {
		if p := a.Value; a.Err == nil && p != nil && p.Record != nil && p.Rule == record.Quorum {
			return a.Node.ID, p
		}
	}
	return 0, nil
}

// pauseCluster pauses the whole cluster by way of one daemon, or lifts the pause.
func (s *Session) pauseCluster(ctx context.Context, f fleet, by cluster.NodeID, p *api.Promotion, pause bool, reason string) error {
	if p.Record == nil {
		return fault.New(fault.RepmgrdPause, "the daemon of this node is no member of the group yet").
			WithDetail("The cluster is under the quorum rule: %s.", p.Why).WithHint("run this command on another node")
	}
	did := map[bool]string{true: "paused", false: "unpaused"}[pause]
	if s.Opt.DryRun {
		s.Talk.Info("the whole cluster would be %s, by way of the daemon of node %d", did, by)
		return nil
	}
	client, err := f.client(by)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.Pause(ctx, api.Pause{Paused: pause, Reason: reason}); err != nil {
		e := fault.New(fault.RepmgrdPause, "the cluster could not be %s", did).WithDetail("%v", err)
		var said *fault.Error
		if errors.As(err, &said) {
			e = e.WithDetail("%s. %s", said.Msg, said.Detail).WithHint("%s", said.Hint)
		}
		return e
	}
	e := Entry{Level: Notice, Text: "the whole cluster is " + did}
	switch {
	case p.Record.Pause.On == pause:
		e.Detail = "It was before. The quorum rule is in force: one daemon's word is enough."
	case pause:
		e.Detail = fmt.Sprintf("Nothing is promoted; node %d holds its lease without a time limit.", p.Record.Lease.Holder)
		e.Hint = "\"repmgr service unpause\" on any node ends it"
	default:
		e.Detail = fmt.Sprintf("Standbys may be promoted again as soon as node %d has taken a lease with a time limit.", p.Record.Lease.Holder)
	}
	s.Talk.Say(e)
	return nil
}
