package daemon

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/pg"
	"repmgr/internal/record"
	"repmgr/internal/registry"
)

// smallCommit is the smallest thing that has to reach the disk before it returns:
// a transaction whose only content is an empty logical message, not waited for by
// standbys (PostgreSQL manual, "System Administration Functions"). It needs no right.
const smallCommit = "SET synchronous_commit = local; SELECT pg_catalog.pg_logical_emit_message(true, 'repmgr', '')"

// watchWrites commits something small on the own server now and then while it is
// the primary under the quorum rule, and tells how long that is under way: a
// server whose disk is stalled answers queries and takes no commit.
func (d *Daemon) watchWrites(ctx context.Context) {
	var conn *pg.Conn
	defer func() { registry.Close(conn) }()
	for {
		cfg := d.eyes.cfg.Load()
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(time.Second, cfg.MonitorInterval)):
		}
		report := d.shared.load().report
		if cfg.PrimaryWriteTimeout == 0 || report.Server != failover.ServerRunning || report.Role != cluster.Primary || report.PromotionRule != record.Quorum {
			registry.Close(conn)
			conn = nil
			continue
		}
		if conn == nil {
			limit, cancel := context.WithTimeout(ctx, lookTimeout)
			conn, _ = d.own(limit, cfg) // that it does not answer is the eyes' to tell
			cancel()
		}
		if conn != nil && !d.commitSomething(ctx, conn) {
			registry.Close(conn)
			conn = nil
		}
	}
}

// commitSomething reports whether the connection can be used again.
func (d *Daemon) commitSomething(ctx context.Context, conn *pg.Conn) bool {
	began := bootTime()
	d.send(observed{failover.Writing{Since: began}})
	_, err := conn.Conn.PgConn().Exec(ctx, smallCommit).ReadAll()
	d.send(observed{failover.Writing{}})
	var server *pgconn.PgError
	if errors.As(err, &server) && server.Code[:2] == "53" { // insufficient resources: disk_full and its like
		d.log.Warn("the server takes no writes: "+server.Message, "hint", "Free space where pg_wal and the tables are.")
	}
	return err == nil
}
