package cli

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/pg"
	"repmgr/internal/registry"
)

// askTimeout bounds what a connected server may take to answer the questions of
// one sight. Connecting is bounded by connect_timeout.
const askTimeout = 3 * time.Second

// registered reads the records by the connection that the command starts from.
func registered(ctx context.Context, c *pg.Conn) ([]cluster.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	nodes, err := registry.Nodes(ctx, c)
	if err != nil {
		return nil, err
	}
	if len(nodes) == 0 {
		return nil, fault.New(fault.BadConfig, "no node is registered").
			WithHint("\"repmgr primary register\" on the primary makes the first record")
	}
	return nodes, nil
}

// start is the connection that the command starts from and the record of the node
// that it leads to, so that this node need not be connected to twice. The zero
// start is none.
type start struct {
	conn  *pg.Conn
	node  cluster.Node
	early registry.Early[cluster.Sight] // of nodes that are being looked at already

	daemons fleet // the way to those that have no server
}

// lookEarly begins to look at the other nodes that the daemon of this node
// remembers, while the records are being read.
func (s *Session) lookEarly(ctx context.Context) registry.Early[cluster.Sight] {
	var others []cluster.Node
	if s.ConfPath != "" {
		others = slices.DeleteFunc(registry.Remembered(s.Conf.StateDir()), func(n cluster.Node) bool {
			return n.ID == s.Conf.NodeID || n.WithoutServer()
		})
	}
	return registry.AskEarly(ctx, others, start{}.lookAt)
}

// startFrom tells which of the nodes c leads to: the configured one, if its
// record has the conninfo of the configuration.
func (s *Session) startFrom(c *pg.Conn, nodes []cluster.Node) start {
	own, found := cluster.Find(nodes, s.Conf.NodeID)
	if s.ConfPath == "" || !found || own.Conninfo != s.Conf.Conninfo {
		return start{}
	}
	return start{conn: c, node: own}
}

// look asks every node at the same time, so that it takes as long as the slowest.
func look(ctx context.Context, nodes []cluster.Node, from start) []cluster.Sight {
	answers := registry.AskAll(ctx, nodes, func(ctx context.Context, n cluster.Node) (cluster.Sight, error) {
		return from.lookAt(ctx, n), nil
	})
	sights := make([]cluster.Sight, len(nodes))
	for i, a := range answers {
		sights[i] = a.Value
	}
	return sights
}

// lookAt is one node's sight.
func (f start) lookAt(ctx context.Context, n cluster.Node) cluster.Sight {
	if f.conn != nil && f.node.ID == n.ID {
		return lookBy(ctx, f.conn, n, func(context.Context) (cluster.Node, error) { return f.node, nil })
	}
	if n.WithoutServer() {
		return f.daemons.sight(ctx, n)
	}
	if seen, asked := f.early.Answer(n); asked {
		seen.Node = n
		return seen
	}
	c, err := registry.Connect(ctx, n)
	if err != nil {
		return cluster.Sight{Node: n, Reach: reachOf(err), Failure: err.Error()}
	}
	defer registry.Close(c)
	return lookBy(ctx, c, n, func(ctx context.Context) (cluster.Node, error) { return registry.Node(ctx, c, n.ID) })
}

// sight is that of a witness without PostgreSQL, whose daemon alone can be asked.
func (f fleet) sight(ctx context.Context, n cluster.Node) cluster.Sight {
	if err := f.alive(ctx, n.ID); err != nil {
		return cluster.Sight{Node: n, Failure: err.Error()}
	}
	return cluster.Sight{Node: n, Own: &n, Reach: cluster.Up}
}

// lookBy is the sight of a node that is connected to, and whose own copy of its
// record own reads. A question that is not answered leaves its part unknown, and
// the others count all the same.
func lookBy(ctx context.Context, c *pg.Conn, n cluster.Node, own func(context.Context) (cluster.Node, error)) cluster.Sight {
	s := cluster.Sight{Node: n, Reach: cluster.Up}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	p, err := c.Progress(ctx)
	if err != nil {
		s.Failure = err.Error()
		return s
	}
	s.Recovery = cluster.NotInRecovery
	if p.InRecovery {
		s.Recovery = cluster.InRecovery
	}
	s.Timeline, s.Received, s.Replayed, s.ReplayPaused = p.Timeline, p.Received, p.Replayed, p.ReplayPaused
	if copied, err := own(ctx); err == nil {
		s.Own = &copied
	}
	s.Senders = senders(ctx, c)
	return s
}

// reachOf tells a server that refuses this user from one that does not answer.
// One that is starting up or stopping counts as down, as it does for libpq's ping.
func reachOf(err error) cluster.Reach {
	if code := pg.Code(err); code != "" && code != "57P03" {
		return cluster.Rejected
	}
	return cluster.Down
}

// senders is the state of every walsender by the name of its node; nil if it could
// not be read. In the view the state is null for a role that may not see it.
func senders(ctx context.Context, c *pg.Conn) map[string][]string {
	rows, err := c.Query(ctx, `SELECT COALESCE(application_name, ''), COALESCE(state, '')
		FROM pg_catalog.pg_stat_replication`, pgx.QueryExecModeExec)
	if err != nil {
		return nil
	}
	found := map[string][]string{}
	var name, state string
	if _, err = pgx.ForEachRow(rows, []any{&name, &state}, func() error {
		name = cluster.NodeOfStandby(name)
		found[name] = append(found[name], state)
		return nil
	}); err != nil {
		return nil
	}
	return found
}

// redact is a registered conninfo that may be shown. It is shown as it was
// written unless it holds a secret.
func redact(conninfo string) string {
	c, err := pg.ParseConninfo(conninfo)
	if err != nil {
		return "(unreadable)"
	}
	if shown := c.Redacted(); shown != c.String() {
		return shown
	}
	return conninfo
}
