package registry

import (
	"context"

	"github.com/jackc/pgx/v5"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/ops"
	"repmgr/internal/pg"
)

// repmgr 5's daemons know of each other by what they write into the shared memory of
// each node's server. The functions that read and write it work on a standby too, and
// everybody may call them.

// SurveyMigrate reads the records and finds out who takes writes.
func (w *World) SurveyMigrate(ctx context.Context) (ops.MigrateSurvey, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	c, _, err := w.openLocal(ctx)
	if err != nil {
		return ops.MigrateSurvey{}, err
	}
	if err := w.records(ctx, c); err != nil {
		return ops.MigrateSurvey{}, err
	}
	s := ops.MigrateSurvey{Self: w.cfg.NodeID, Endpoint: w.endpoint()}
	n, conn, err := FindPrimary(ctx, w.nodes)
	if err != nil {
		return s, err
	}
	w.primary.keep(n, conn)
	w.nodes, err = Nodes(ctx, conn)
	s.Nodes, s.Primary = w.nodes, n.ID
	if err == nil && w.opt.Superuser == "" {
		s.Unready = mayCreate(ctx, conn)
	}
	return s, err
}

// mayCreate says why c's user cannot add our tables, if some are missing.
func mayCreate(ctx context.Context, c *pg.Conn) error {
	_, current, err := Installed(ctx, c)
	if err != nil || current {
		return err
	}
	var may bool
	err = c.QueryRow(ctx, "SELECT pg_catalog.has_schema_privilege('repmgr', 'CREATE') AND pg_catalog.has_table_privilege('repmgr.nodes', 'REFERENCES')").Scan(&may)
	if err != nil || may {
		return explain(err, "ask for this user's privileges")
	}
	user := c.Config().User
	role := pgx.Identifier{user}.Sanitize()
	return fault.New(fault.BadConfig, "user %q may not add tables to the schema repmgr", user).
		WithDetail("repmgr 5's extension left the schema to the superuser who created it").
		WithHint("name a superuser with --superuser, or as one: GRANT ALL ON SCHEMA repmgr TO %s; GRANT ALL ON ALL TABLES IN SCHEMA repmgr TO %s", role, role)
}

// LookMigrating looks at a node's server and what it knows of repmgr 5's daemon. One that
// cannot be asked is a fact and no error; Ours is left to the caller.
func LookMigrating(ctx context.Context, n cluster.Node) ops.Migrating {
	var m ops.Migrating
	c, err := Connect(ctx, n)
	if err != nil {
		return ops.Migrating{Why: err.Error()}
	}
	defer Close(c)
	p, err := c.Progress(ctx)
	if err != nil {
		return ops.Migrating{Why: err.Error()}
	}
	m.InRecovery, m.Timeline = p.InRecovery, p.Timeline
	var installed bool
	// Who may not see the status (that takes pg_monitor) sees the receiver's process.
	err = c.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver WHERE COALESCE(status, 'streaming') = 'streaming'),
		pg_catalog.to_regprocedure('repmgr.repmgrd_is_paused()') IS NOT NULL`).Scan(&m.Streaming, &installed)
	if err == nil && installed {
		t := &m.Theirs
		err = c.QueryRow(ctx, `SELECT repmgr.get_local_node_id() IS NOT NULL, GREATEST(repmgr.get_repmgrd_pid(), 0),
			COALESCE(repmgr.repmgrd_is_running(), false), COALESCE(repmgr.repmgrd_is_paused(), false)`).Scan(&t.Loaded, &t.PID, &t.Running, &t.Paused)
	}
	if err != nil {
		return ops.Migrating{Why: err.Error()}
	}
	return m
}

// PauseTheirs lets repmgr 5's daemon of a node pause failover, or end the pause. It need
// not run: the server keeps the word for it.
func (w *World) PauseTheirs(ctx context.Context, id cluster.NodeID, paused bool) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	n, _ := cluster.Find(w.nodes, id)
	c, err := Connect(ctx, n)
	if err != nil {
		return err
	}
	defer Close(c)
	var now bool
	if _, err = c.Conn.Exec(ctx, "SELECT repmgr.repmgrd_pause($1)", paused); err == nil {
		err = c.QueryRow(ctx, "SELECT repmgr.repmgrd_is_paused()").Scan(&now)
	}
	if err == nil && now != paused {
		err = fault.New(fault.RepmgrdPause, "node %q did not take it", n.Name)
	}
	return explain(err, "pause repmgr 5's daemon of node "+n.Name)
}

// DropMetadata removes our own tables. Those of repmgr 5 stay as they are.
func (w *World) DropMetadata(ctx context.Context, in ops.Database) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	c, err := w.database(ctx, in)
	if err != nil {
		return err
	}
	_, err = c.Conn.Exec(ctx, "DROP TABLE IF EXISTS repmgr.endpoints, repmgr.authority, repmgr.quorum, repmgr.schema_version")
	return explain(err, "remove this program's tables")
}

// Founding is what the primary's database knows of the daemons' group.
func (w *World) Founding(ctx context.Context) (f Founding, err error) {
	err = w.onPrimary(ctx, func(c *pg.Conn) error {
		f, err = ReadFounding(ctx, c)
		return err
	})
	return f, err
}

// PauseAhead lets the local daemon start paused.
func (w *World) PauseAhead(_ context.Context, reason string) error {
	return PauseAhead(w.cfg.StateDir(), reason)
}
