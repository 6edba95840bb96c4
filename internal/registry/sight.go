package registry

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"repmgr/internal/cluster"
	"repmgr/internal/pg"
)

// lookTimeout bounds what a connected server may take to answer the questions of
// one sight.
const lookTimeout = 3 * time.Second

// LookBy is the sight of a node that is connected to, and whose own copy of its
// record own reads. A question that is not answered leaves its part unknown, and
// the others count all the same.
func LookBy(ctx context.Context, c *pg.Conn, n cluster.Node, own func(context.Context) (cluster.Node, error)) cluster.Sight {
	s := cluster.Sight{Node: n, Reach: cluster.Up}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
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
	s.Senders = Senders(ctx, c)
	return s
}

// Senders is the state of every walsender by the name of its node; nil if it could
// not be read. In the view the state is null for a role that may not see it.
func Senders(ctx context.Context, c *pg.Conn) map[string][]string {
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
