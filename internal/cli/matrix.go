package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/registry"
)

// reachTimeout bounds the question to one daemon what it reaches: it tries each
// connection for api.ReachBound at most.
const reachTimeout = api.ReachBound + time.Second

func matrixVerb() verb {
	return verb{
		name:  "cluster matrix",
		short: "show which node reaches which",
		long: `Asks the daemon of every registered node, all at the same time and by way of this node's daemon where that can, to connect to every node by the recorded conninfo, and prints a line for each node: * it reaches the node of that column, x it does not, ? it could not be asked. A connection is tried for 4 seconds at most, whatever connect_timeout says. Where no daemon runs on this machine the command itself looks for its node. Where a node's daemon does not answer and its server is reached from here, repmgr is run on its host by ssh, as repmgr 5 does it (ssh_options, repmgr_bindir, --remote-user).

csv: the node_id that looks, the node_id that is looked at, 0 (reached), -1 (not) or -2 (not known).

Ends with 25 if a node does not reach another, with --csv also if anything is not known; else with 12 if a daemon could not be asked, with 15 if one has answered with an error. --verbose says why.`,
		example: `repmgr -f /etc/repmgr.conf cluster matrix
repmgr -f /etc/repmgr.conf cluster matrix --csv
repmgr -h node1 -U repmgr -d repmgr cluster matrix --format json`,
		options: []string{"connection", "node-id"},
		config:  configOrConnect,
		run:     func(ctx context.Context, s *Session) error { return clusterMatrix(ctx, s, false) },
	}
}

func crosscheckVerb() verb {
	return verb{
		name:  "cluster crosscheck",
		short: "show which node reaches which, as all nodes know it",
		long: `As "repmgr cluster matrix", but every daemon also asks those that the daemon of this node does not hear of: a node that cannot be asked from here has its line if any other node can ask it. It takes no longer, unless there is one that the daemon of this node hears of and that cannot be asked from here.

csv and exit status are those of "repmgr cluster matrix".`,
		example: `repmgr -f /etc/repmgr.conf cluster crosscheck
repmgr -f /etc/repmgr.conf cluster crosscheck --format json`,
		options: []string{"connection", "node-id"},
		config:  configOrConnect,
		run:     func(ctx context.Context, s *Session) error { return clusterMatrix(ctx, s, true) },
	}
}

// CellState is whether one node reaches another.
type CellState int

// The states, by the numbers of the csv.
const (
	CellUnknown CellState = iota - 2
	CellLost
	CellReached
)

var cellSigns = map[CellState]string{CellUnknown: "?", CellLost: "x", CellReached: "*"}

// MarshalText writes the state's word, for JSON.
func (c CellState) MarshalText() ([]byte, error) {
	return []byte(map[CellState]string{CellUnknown: "unknown", CellLost: "unreachable", CellReached: "reached"}[c]), nil
}

// MatrixCell is what is known of the way from one node to another.
type MatrixCell struct {
	ID    cluster.NodeID `json:"node_id"`
	State CellState      `json:"state"`
	Error string         `json:"error,omitempty"` // why it is not reached
}

// MatrixRow is what one node reaches.
type MatrixRow struct {
	ID    cluster.NodeID `json:"node_id"`
	Name  string         `json:"node_name"`
	Error string         `json:"error,omitempty"` // why it could not be asked
	Cells []MatrixCell   `json:"reaches"`

	err error // Error, before it was text
}

// Matrix is the answer of "cluster matrix" and "cluster crosscheck".
type Matrix struct {
	Version int         `json:"version"` // of this form, which only grows
	Nodes   []MatrixRow `json:"nodes"`
}

// newMatrix makes the table of what was told by each node, in the order of the
// answers' nodes. A node that cannot be asked from here may be known by others.
func newMatrix(answers []registry.Answer[[]api.Outlook]) Matrix {
	type way struct{ from, to cluster.NodeID }
	known := map[way]MatrixCell{}
	told := map[cluster.NodeID]bool{}
	for _, a := range answers {
		for _, o := range a.Value {
			told[o.Node] = true
			for _, seen := range o.Reaches {
				cell := MatrixCell{ID: seen.Node, State: CellLost, Error: seen.Error}
				if seen.Reached {
					cell.State = CellReached
				}
				if was, looked := known[way{o.Node, seen.Node}]; !looked || was.State < cell.State {
					known[way{o.Node, seen.Node}] = cell
				}
			}
		}
	}
	m := Matrix{Version: 1}
	for _, a := range answers {
		row := MatrixRow{ID: a.Node.ID, Name: a.Node.Name}
		if a.Err != nil && !told[row.ID] {
			row.err, row.Error = a.Err, a.Err.Error()
		}
		for _, to := range answers {
			cell, looked := known[way{row.ID, to.Node.ID}]
			if !looked {
				cell = MatrixCell{ID: to.Node.ID, State: CellUnknown}
			}
			row.Cells = append(row.Cells, cell)
		}
		m.Nodes = append(m.Nodes, row)
	}
	return m
}

// Text prints the table: a column for each node, headed by its number.
func (m Matrix) Text(w io.Writer) {
	g := grid{header: []string{"Name", "ID"}}
	for _, n := range m.Nodes {
		id := fmt.Sprint(n.ID)
		g.header = append(g.header, id)
		row := []string{n.Name, id}
		for _, c := range n.Cells {
			row = append(row, cellSigns[c.State])
		}
		g.rows = append(g.rows, row)
	}
	g.write(w)
}

// CSV prints a line for each cell: who looks, who is looked at, the state.
func (m Matrix) CSV(w io.Writer) {
	for _, n := range m.Nodes {
		for _, c := range n.Cells {
			csvLine(w, n.ID, c.ID, int(c.State))
		}
	}
}

// code is the exit status: the gravest of what is wrong comes first.
func (m Matrix) code(csv bool) fault.Code {
	code := fault.Success
	for _, n := range m.Nodes {
		for _, c := range n.Cells {
			if c.State == CellLost || csv && c.State == CellUnknown {
				return fault.NodeStatus
			}
		}
		switch {
		case errors.Is(n.err, api.ErrFailed):
			code = fault.Internal
		case n.err != nil:
			code = cmp.Or(code, fault.BadSSH)
		}
	}
	return code
}

// problems says what could not be asked, and with more also who does not reach whom and why.
func (m Matrix) problems(more bool) []string {
	var out []string
	for _, n := range m.Nodes {
		if n.err != nil {
			out = append(out, fmt.Sprintf("node %q (ID: %d) cannot be asked what it reaches: %v", n.Name, n.ID, n.err))
		}
	}
	for _, n := range m.Nodes {
		for i, c := range n.Cells {
			if more && c.State == CellLost {
				out = append(out, fmt.Sprintf("node %q (ID: %d) does not reach node %q (ID: %d): %s", n.Name, n.ID, m.Nodes[i].Name, c.ID, c.Error))
			}
		}
	}
	return out
}

func clusterMatrix(ctx context.Context, s *Session, others bool) error {
	c, nodes, f, err := s.everybody(ctx)
	if err != nil {
		return err
	}
	registry.Close(c)
	here := f.local
	if s.ConfPath == "" {
		here = s.Opt.NodeID
	}
	heard, relay := s.hearing(ctx)
	if !others {
		relay = api.Relay{}
	}
	byLocal := sync.OnceValues(func() ([]api.Outlook, error) {
		return f.reach(ctx, f.local, api.Relay{Of: heard, Then: relay.Of})
	})
	ask := func(heard []cluster.NodeID, relay api.Relay) outlooks {
		return registry.AskAll(ctx, nodes, func(ctx context.Context, n cluster.Node) ([]api.Outlook, error) {
			if slices.Contains(heard, n.ID) {
				told, _ := byLocal()
				if i := slices.IndexFunc(told, func(o api.Outlook) bool { return o.Node == n.ID }); i >= 0 {
					return told[i : i+1], nil
				}
			}
			if n.ID == f.local && len(heard) > 0 {
				if told, err := byLocal(); err == nil {
					return told, nil
				}
			}
			told, err := f.reach(ctx, n.ID, relay)
			if err != nil && n.ID == here {
				return []api.Outlook{{Node: here, Reaches: api.LookRound(ctx, nodes, f.alive)}}, nil
			}
			return told, err
		})
	}
	told := ask(heard, relay)
	if missing := newMatrix(told).missing(); others && slices.ContainsFunc(missing, func(id cluster.NodeID) bool { return !relay.To(id) }) {
		told = ask(nil, api.Relay{Of: missing})
	}
	m := newMatrix(s.bySSH(ctx, told, f, here, others))
	if err := s.Result(m); err != nil {
		return err
	}
	lost := slices.ContainsFunc(m.Nodes, func(n MatrixRow) bool {
		return slices.ContainsFunc(n.Cells, func(c MatrixCell) bool { return c.State == CellLost })
	})
	s.issues(m.problems(s.Opt.Verbose), lost)
	if code := m.code(s.Format() == "csv"); code != fault.Success {
		return said(code)
	}
	return nil
}

// missing are the nodes of which nobody has told what they reach.
func (m Matrix) missing() (ids []cluster.NodeID) {
	for _, n := range m.Nodes {
		if n.err != nil {
			ids = append(ids, n.ID)
		}
	}
	return ids
}

// hearing is whom the local daemon hears of, who are asked by way of it, over connections
// that are open; and whom every daemon shall ask besides: those that it does not hear of. To
// have everybody tell of everybody would be as many questions as pairs of nodes. Whom the
// local daemon hears of and nobody can ask all the same is asked for afterwards.
func (s *Session) hearing(ctx context.Context) (heard []cluster.NodeID, relay api.Relay) {
	if s.ConfPath == "" || s.Conf.StateDir() == "" {
		return nil, api.Relay{All: true}
	}
	view, err := s.localView(ctx, daemonTimeout)
	if err != nil {
		return nil, api.Relay{All: true}
	}
	for _, p := range view.Peers {
		if p.Error == "" && p.Report != nil {
			heard = append(heard, p.Node)
		} else {
			relay.Of = append(relay.Of, p.Node)
		}
	}
	return heard, relay
}

// reach asks the daemon of a node what that reaches, and what others do.
func (f fleet) reach(ctx context.Context, id cluster.NodeID, relay api.Relay) (told []api.Outlook, err error) {
	err = f.askWithin(ctx, id, reachTimeout, func(ctx context.Context, c *api.Client) error {
		told, err = c.Reach(ctx, relay)
		return err
	})
	return told, err
}

// alive tells whether the daemon of a node answers.
func (f fleet) alive(ctx context.Context, id cluster.NodeID) error {
	return f.ask(ctx, id, func(ctx context.Context, c *api.Client) error {
		_, err := c.Health(ctx)
		return err
	})
}
