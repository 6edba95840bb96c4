package cli

import (
	"context"
	"slices"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/pg"
	"repmgr/internal/registry"
)

// askTimeout bounds what a connected server may take to answer the questions of
// one step. Connecting is bounded by connect_timeout.
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
	seen  map[cluster.NodeID]api.Sight  // by their daemons, just now

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

// sightsTimeout bounds the local daemon's answer for all nodes.
const sightsTimeout = time.Second

// quickly is what every server shows whose daemon asks it now, over the sessions and
// connections that the daemons have open; nil where there is something that only
// sessions of our own can show, or where the local daemon has not all that takes.
func (s *Session) quickly(ctx context.Context) *api.Sights {
	if s.ConfPath == "" || s.Conf.WithoutServer() || s.Conf.StateDir() == "" || s.Opt.Direct || s.Opt.Verbose || s.elsewhere() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, sightsTimeout)
	defer cancel()
	c := api.DialUnix(s.Conf.StateDir())
	defer c.Close()
	all, err := c.Sights(ctx)
	if err != nil {
		return nil
	}
	if own, found := cluster.Find(all.Nodes, s.Conf.NodeID); !found || own.Conninfo != s.Conf.Conninfo {
		return nil
	}
	for _, n := range all.Nodes {
		seen, found := all.Seen[n.ID]
		switch {
		case !found && n.WithoutServer():
			return nil // its daemon is asked by a certificate, which has to be read first
		case found && (seen.Server.Own == nil || seen.Server.Own.Conninfo != registry.WithoutSecrets(n.Conninfo)):
			delete(all.Seen, n.ID) // the record leads to another server than its daemon's
		}
	}
	return &all
}

// byDaemon is what the daemon of n has seen.
func byDaemon(n cluster.Node, seen cluster.Sight) cluster.Sight {
	seen.Node, seen.ByDaemon = n, true
	if n.WithoutServer() {
		seen.Own = &n // it has no database of its own
	}
	return seen
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
	if seen, found := f.seen[n.ID]; found {
		return byDaemon(n, seen.Server)
	}
	if f.conn != nil && f.node.ID == n.ID {
		return registry.LookBy(ctx, f.conn, n, func(context.Context) (cluster.Node, error) { return f.node, nil })
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
	return registry.LookBy(ctx, c, n, func(ctx context.Context) (cluster.Node, error) { return registry.Node(ctx, c, n.ID) })
}

// sight is that of a witness without PostgreSQL, whose daemon alone can be asked.
func (f fleet) sight(ctx context.Context, n cluster.Node) cluster.Sight {
	if err := f.alive(ctx, n.ID); err != nil {
		return cluster.Sight{Node: n, Failure: err.Error()}
	}
	return cluster.Sight{Node: n, Own: &n, Reach: cluster.Up}
}

// reachOf tells a server that refuses this user from one that does not answer.
// One that is starting up or stopping counts as down, as it does for libpq's ping.
func reachOf(err error) cluster.Reach {
	if code := pg.Code(err); code != "" && code != "57P03" {
		return cluster.Rejected
	}
	return cluster.Down
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
