package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
	"repmgr/internal/pg"
	"repmgr/internal/record"
	"repmgr/internal/registry"
)

// Bounds of a drill for real.
const (
	drillTimeout  = 5 * time.Second   // of the daemon's thinking
	drillPatience = 120 * time.Second // until the cluster is whole again, unless --wait says otherwise
	standbyDown   = 5 * time.Second   // before a standby's server is started again: a failover would have begun
	watchEvery    = 20 * time.Millisecond
	watchBound    = time.Second // of one look; a commit that takes longer counts as none
	wholeEvery    = 500 * time.Millisecond
)

// drillCommit is a commit that leaves nothing behind but its record in the
// write-ahead log. It needs no right, and waits for standbys as any other does.
const drillCommit = "SELECT pg_catalog.pg_logical_emit_message(true, 'repmgr', 'drill')"

// DrillStep is something that was seen in a drill for real.
type DrillStep struct {
	Seconds float64        `json:"seconds"` // since the fault was ordered; before it: negative
	Node    cluster.NodeID `json:"node_id"`
	Name    string         `json:"node_name"`
	What    string         `json:"what"`
}

// DrillReport is the answer of "cluster drill --for-real".
type DrillReport struct {
	Version   int            `json:"version"` // of this form, which only grows
	Rule      record.Rule    `json:"rule"`
	Node      cluster.NodeID `json:"node_id"` // whose server was killed
	Name      string         `json:"node_name"`
	Was       cluster.NodeID `json:"primary_before"`
	Is        cluster.NodeID `json:"primary_after"` // zero: nobody
	IsName    string         `json:"primary_after_name"`
	Predicted DrillRow       `json:"predicted"`
	Gap       *float64       `json:"seconds_without_writes"` // from the last acknowledged commit before to the first after; null: there was none after
	Back      *float64       `json:"seconds_until_back"`     // the killed server answers as a standby again; null: it does not
	Discarded []string       `json:"discarded"`              // the events that tell of it
	Whole     bool           `json:"whole"`
	AsSaid    bool           `json:"as_predicted"`
	Issues    []string       `json:"issues"`
	Steps     []DrillStep    `json:"steps"`
}

// Text prints the report.
func (r DrillReport) Text(w io.Writer) {
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, " %-16s %s\n", name+":", fmt.Sprintf(format, args...))
	}
	row("Killed", "the server of %s (ID: %d)", r.Name, r.Node)
	switch {
	case r.Is == 0:
		row("Primary", "nobody takes writes; it was node %d", r.Was)
	case r.Is == r.Was:
		row("Primary", "%s (ID: %d), as before", r.IsName, r.Is)
	default:
		row("Primary", "%s (ID: %d), promoted", r.IsName, r.Is)
	}
	row("As predicted", "%s: %s", map[bool]string{true: "yes", false: "NO"}[r.AsSaid], r.Predicted.Why)
	if r.Gap != nil {
		row("Without writes", "%.3f s", *r.Gap)
	}
	if r.Back != nil {
		row("Back as standby", "after %.3f s", *r.Back)
	}
	for _, d := range r.Discarded {
		row("Discarded", "%s", d)
	}
	if len(r.Discarded) == 0 {
		row("Discarded", "nothing that was told of")
	}
	row("Whole again", "%s", map[bool]string{true: "yes", false: "NO"}[r.Whole])
	for _, i := range r.Issues {
		fmt.Fprintf(w, "  - %s\n", i)
	}
}

// CSV prints one line for each step.
func (r DrillReport) CSV(w io.Writer) {
	for _, s := range r.Steps {
		csvLine(w, fmt.Sprintf("%.3f", s.Seconds), s.Node, s.Name, s.What)
	}
}

// drillForReal kills a server and watches what comes of it.
func (s *Session) drillForReal(ctx context.Context) error {
	c, nodes, f, err := s.everybody(ctx)
	if err != nil {
		return err
	}
	registry.Close(c)
	n, err := s.drilled(nodes)
	if err != nil {
		return err
	}
	said, err := f.predict(ctx, nodes, n.ID)
	if err != nil {
		return err
	}
	s.Talk.Notice("predicted: %s", said.Rows[0].Why)
	if !said.Rows[0].Heals && !s.Opt.Force {
		return fault.New(fault.NodeStatus, "the server of %s is not killed: nobody would take writes afterwards", named(n)).
			WithDetail("%s.", said.Rows[0].Why).WithHint("mend that first; with --force it is killed all the same")
	}
	if s.Opt.DryRun {
		s.Talk.Info("every process of the server of %s would be killed", named(n))
		return nil
	}
	if err := s.confirm(n, fmt.Sprintf("Every process of the server of %s will be killed.", named(n))); err != nil {
		return err
	}
	d := &drill{s: s, nodes: nodes, fleet: f, killed: n, seen: make(chan sighting), state: map[cluster.NodeID]string{},
		report: DrillReport{Version: 1, Rule: said.Rule, Node: n.ID, Name: n.Name, Predicted: said.Rows[0], Discarded: []string{}, Issues: []string{}, Steps: []DrillStep{}}}
	if err := d.run(ctx); err != nil {
		return err
	}
	if err := s.Result(d.report); err != nil {
		return err
	}
	if !d.report.Whole {
		return notWhole(d.report)
	}
	return nil
}

// notWhole is the error of a drill after which something is wrong still.
func notWhole(r DrillReport) error {
	e := fault.New(fault.NodeStatus, "the cluster is not whole again after the drill")
	if r.Rule == record.Visibility && r.Is != r.Was {
		return e.WithHint("under the visibility rule a former primary does not come back by itself: on node %q run \"repmgr standby clone --force\", and start its server", r.Name)
	}
	return e.WithHint("\"repmgr cluster show\" and \"repmgr cluster event\" tell more")
}

// drilled is the node that --for-real names.
func (s *Session) drilled(nodes []cluster.Node) (cluster.Node, error) {
	for _, n := range nodes {
		if id, err := strconv.Atoi(s.Opt.ForReal); n.Name != s.Opt.ForReal && (err != nil || cluster.NodeID(id) != n.ID) {
			continue
		}
		if n.WithoutServer() {
			return n, fault.New(fault.BadConfig, "%s has no server that could be killed", named(n))
		}
		return n, nil
	}
	return cluster.Node{}, fault.New(fault.BadConfig, "no node %q is registered", s.Opt.ForReal).WithHint("\"repmgr cluster show\" lists them")
}

// confirm has the name of the node typed to which something will be done, or takes it
// from --yes.
func (s *Session) confirm(n cluster.Node, deed string) error {
	if s.Opt.Given("yes") {
		if s.Opt.Yes != n.Name {
			return fault.New(fault.BadConfig, "--yes=%s is not the name of the node to which it would be done: that is %q", s.Opt.Yes, n.Name)
		}
		return nil
	}
	in, ok := s.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return fault.New(fault.BadConfig, "there is no terminal to confirm it at").WithHint("in a script confirm it with --yes=%s", n.Name)
	}
	return s.typed(n, deed)
}

// typed has the node's name typed.
func (s *Session) typed(n cluster.Node, deed string) error {
	fmt.Fprintf(s.Stderr, "%s Type the node's name to go on: ", deed)
	line, err := bufio.NewReader(s.Stdin).ReadString('\n')
	if text := strings.TrimSpace(line); text != n.Name {
		return fault.New(fault.BadConfig, "nothing was done: %q was typed, and the node's name is %q", text, n.Name)
	}
	if err != nil && err != io.EOF {
		return fault.Wrap(err, fault.BadConfig, "nothing was done")
	}
	return nil
}

// predict asks the daemons, the local one first, what the crash of that node's
// server would lead to.
func (f fleet) predict(ctx context.Context, nodes []cluster.Node, id cluster.NodeID) (Drill, error) {
	order := slices.Clone(nodes)
	slices.SortStableFunc(order, func(a, b cluster.Node) int {
		first := func(n cluster.Node) int {
			if n.ID == f.local {
				return 0
			}
			return 1
		}
		return first(a) - first(b)
	})
	var last error
	for _, n := range order {
		var said api.Drill
		last = f.ask(ctx, n.ID, func(ctx context.Context, c *api.Client) (err error) {
			said, err = c.Drill(ctx, false)
			return err
		})
		if last != nil {
			continue
		}
		said.Outcomes = slices.DeleteFunc(said.Outcomes, func(o failover.Outcome) bool {
			return o.Fault != failover.Crash || o.Location != "" || len(o.Lost) != 1 || o.Lost[0] != id
		})
		if len(said.Outcomes) == 1 {
			return newDrill(said, nodes), nil
		}
	}
	return Drill{}, noDaemon(last, "what the drill would lead to cannot be asked for")
}

// The states that a watch tells apart.
const (
	stateGone    = "gone"
	stateStandby = "standby"
	stateSilent  = "takes no writes"
	stateWrites  = "takes writes"
)

// sighting is one look at a server.
type sighting struct {
	at    time.Time
	node  cluster.Node
	state string
}

// drill is a drill for real, while it is under way.
type drill struct {
	s      *Session
	nodes  []cluster.Node
	fleet  fleet
	killed cluster.Node
	report DrillReport

	seen   chan sighting
	state  map[cluster.NodeID]string
	begun  time.Time // when the fault was ordered; zero: not yet
	gone   bool      // and was seen
	last   time.Time // of the last commit before the fault
	order  time.Time // when its end was ordered
	looked time.Time // when it was last looked whether all is well
}

// run watches every server, kills the one, and goes on until all is well or the
// time is over.
func (d *drill) run(ctx context.Context) error {
	patience := drillPatience
	if d.s.Opt.Given("wait") && d.s.Opt.Wait != Unlimited {
		patience = time.Duration(d.s.Opt.Wait) * time.Second
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	for _, n := range d.nodes {
		if n.Role != cluster.Witness {
			go d.watch(ctx, n)
		}
	}
	var end <-chan time.Time
	settle := time.After(2 * time.Second) // until each server was seen
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case at := <-d.seen:
			d.take(at)
		case <-settle:
			if err := d.strike(ctx); err != nil {
				return err
			}
			end = time.After(patience)
		case <-end:
			d.whole(ctx, false)
			d.finish(ctx)
			return nil
		}
		if !d.begun.IsZero() && d.over(ctx) {
			d.finish(ctx)
			return nil
		}
	}
}

// strike kills the server.
func (d *drill) strike(ctx context.Context) error {
	for _, n := range d.nodes {
		if d.state[n.ID] == stateWrites {
			d.report.Was = n.ID
		}
	}
	if d.report.Was == 0 && !d.s.Opt.Force {
		return fault.New(fault.NodeStatus, "nobody takes writes now: the drill would tell nothing").WithHint("\"repmgr cluster show\" tells what is wrong")
	}
	d.begun = d.s.Now()
	err := d.fleet.ask(ctx, d.killed.ID, func(ctx context.Context, c *api.Client) error { return c.Fault(ctx, d.killed.ID, api.FaultCrash) })
	if err != nil {
		return fault.Wrap(err, fault.RepmgrdService, "the server of %s could not be killed", named(d.killed))
	}
	d.say(d.begun, d.killed, "every process of the server is killed")
	return nil
}

// say notes a step, and tells it.
func (d *drill) say(at time.Time, n cluster.Node, what string) {
	step := DrillStep{Seconds: at.Sub(d.begun).Seconds(), Node: n.ID, Name: n.Name, What: what}
	d.report.Steps = append(d.report.Steps, step)
	d.s.Talk.Notice("%+8.3f s  %s: %s", step.Seconds, n.Name, what)
}

// take folds one look in.
func (d *drill) take(at sighting) {
	was := d.state[at.node.ID]
	d.state[at.node.ID] = at.state
	if d.begun.IsZero() || at.at.Before(d.begun) {
		if at.state == stateWrites {
			d.last = at.at
		}
		return
	}
	again := at.state == stateWrites && (at.node.ID != d.killed.ID || d.gone)
	if again && d.killed.ID == d.report.Was && d.report.Gap == nil {
		gap := at.at.Sub(d.last).Seconds()
		d.report.Gap = &gap
	}
	if at.node.ID == d.killed.ID {
		d.gone = d.gone || at.state == stateGone
		if d.gone && at.state == stateStandby && d.report.Back == nil {
			back := at.at.Sub(d.begun).Seconds()
			d.report.Back = &back
		}
	}
	if at.state != was {
		d.say(at.at, at.node, at.state)
	}
}

// over reports whether the drill has shown what there is to see. Now and then it
// looks at the whole cluster, and starts a standby's server again.
func (d *drill) over(ctx context.Context) bool {
	now := d.s.Now()
	if d.killed.ID != d.report.Was && d.gone && d.order.IsZero() && now.Sub(d.begun) >= standbyDown {
		d.order = now
		err := d.fleet.ask(ctx, d.killed.ID, func(ctx context.Context, c *api.Client) error { return c.Fault(ctx, d.killed.ID, api.FaultOver) })
		if err != nil {
			d.s.Talk.Warning("the server of %s could not be started again: %v", named(d.killed), err)
		} else {
			d.say(now, d.killed, "the server is started again")
		}
	}
	d.report.Is = 0
	for _, n := range d.nodes {
		if d.state[n.ID] == stateWrites {
			d.report.Is, d.report.IsName = n.ID, n.Name
		}
	}
	if !d.gone || d.report.Is == 0 || now.Sub(d.looked) < wholeEvery {
		return false
	}
	stays := d.report.Rule == record.Visibility && d.killed.ID == d.report.Was // an operator brings it back
	if d.report.Back == nil && !stays && d.report.Is != d.killed.ID {
		return false
	}
	d.looked = now
	return d.whole(ctx, stays)
}

// whole looks at the cluster as "cluster show" does, and reports whether nothing
// is wrong, or, if it stays away, only what is wrong with the killed server.
func (d *drill) whole(ctx context.Context, stays bool) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*askTimeout)
	defer cancel()
	nodes := d.nodes
	if primary, ok := cluster.Find(d.nodes, d.report.Is); ok {
		if c, err := registry.Connect(ctx, primary); err == nil {
			if read, err := registered(ctx, c); err == nil {
				nodes = read
			}
			registry.Close(c)
		}
	}
	show := newShow(look(ctx, nodes, start{daemons: d.fleet}), false)
	d.report.Issues = []string{}
	others := true
	for _, n := range show.Nodes {
		d.report.Issues = append(d.report.Issues, n.Issues...)
		if n.SomethingWrong && n.ID != d.killed.ID {
			others = false
		}
		if n.SomethingWrong && len(n.Issues) == 0 {
			d.report.Issues = append(d.report.Issues, fmt.Sprintf("node %q (ID: %d) is %s", n.Name, n.ID, n.Status))
		}
	}
	wrong := slices.ContainsFunc(show.Nodes, func(n ShowRow) bool { return n.SomethingWrong })
	d.report.Whole = !wrong && !(d.killed.ID != d.report.Was && d.report.Is != d.report.Was)
	return !wrong || stays && others
}

// finish judges what was seen, and records the event.
func (d *drill) finish(ctx context.Context) {
	r := &d.report
	r.AsSaid = r.Is == r.Predicted.Node
	primary, ok := cluster.Find(d.nodes, r.Is)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c, err := registry.Connect(ctx, primary)
	if err != nil {
		d.s.warn(err)
		return
	}
	defer registry.Close(c)
	d.discarded(ctx, c)
	details := fmt.Sprintf("the server of node %q (ID: %d) was killed in a drill; node %q (ID: %d) takes writes", r.Name, r.Node, r.IsName, r.Is)
	if r.Gap != nil {
		details += fmt.Sprintf(" after %.3f s without any", *r.Gap)
	}
	if r.Back != nil {
		details += fmt.Sprintf("; the server was back after %.3f s", *r.Back)
	}
	if !r.Whole {
		details += "; the cluster is not whole again"
	}
	if err := registry.Announce(ctx, c, d.s.Conf, registry.Event{Node: r.Node, Name: "cluster_drill", Successful: r.Whole, Details: details, About: primary}); err != nil {
		d.s.warn(err)
	}
}

// discarded reads what the daemons told of commits that were thrown away.
func (d *drill) discarded(ctx context.Context, c *pg.Conn) {
	var age float64 // by the server's clock
	events, err := registry.Events(ctx, c, registry.EventFilter{Node: d.killed.ID, Name: "repmgrd_commits_discarded", Limit: 5})
	if err != nil {
		d.s.warn(err)
		return
	}
	for _, e := range events {
		if err := c.QueryRow(ctx, "SELECT EXTRACT(EPOCH FROM clock_timestamp() - $1::timestamptz)::float8", e.At).Scan(&age); err == nil && age < d.s.Now().Sub(d.begun).Seconds()+1 {
			d.report.Discarded = append(d.report.Discarded, e.Details)
		}
	}
}

// watch looks at one server again and again, and tells what it sees.
func (d *drill) watch(ctx context.Context, n cluster.Node) {
	var c *pg.Conn
	defer func() { registry.Close(c) }()
	for ctx.Err() == nil {
		state := stateGone
		c, state = lookOnce(ctx, n, c)
		select {
		case d.seen <- sighting{d.s.Now(), n, state}:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(watchEvery):
		case <-ctx.Done():
		}
	}
}

// lookOnce looks at a server by a connection that is kept while it is of use.
func lookOnce(ctx context.Context, n cluster.Node, c *pg.Conn) (*pg.Conn, string) {
	ctx, cancel := context.WithTimeout(ctx, watchBound)
	defer cancel()
	if c == nil {
		var err error
		if c, err = registry.Connect(ctx, n); err != nil {
			return nil, stateGone
		}
	}
	var standby bool
	if err := c.QueryRow(ctx, "SELECT pg_catalog.pg_is_in_recovery()").Scan(&standby); err != nil {
		registry.Close(c)
		return nil, stateGone
	}
	if standby {
		return c, stateStandby
	}
	if _, err := c.Exec(ctx, drillCommit); err != nil {
		registry.Close(c)
		return nil, stateSilent
	}
	return c, stateWrites
}
