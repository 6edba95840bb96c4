package daemon

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/host"
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
// server whose disk is stalled answers queries and takes no commit. A postmaster
// that was stopped counts as well: who is connected goes on, and nobody else gets in
// (safety notes, A11).
func (d *Daemon) watchWrites(ctx context.Context) {
	var conn *pg.Conn
	defer func() { registry.Close(conn) }()
	var stopped time.Time // since when the postmaster was seen so
	for {
		cfg := d.eyes.cfg.Load()
		select {
		case <-ctx.Done():
			return
		case <-time.After(d.until(max(time.Second, cfg.MonitorInterval))):
		}
		report := d.shared.load().report
		governs := cfg.PrimaryWriteTimeout != 0 && report.Server == failover.ServerRunning && report.Role == cluster.Primary && report.PromotionRule == record.Quorum
		if governs && host.PostmasterStopped(cfg.DataDirectory) {
			if stopped.IsZero() {
				stopped = bootTime()
				d.log.Warn("the postmaster of the own server was stopped by a signal: nobody can connect")
				d.send(observed{failover.Writing{Since: stopped}})
			}
			continue
		}
		if !stopped.IsZero() {
			stopped = time.Time{}
			d.send(observed{failover.Writing{}})
		}
		if !governs {
			d.diskFull.Store(false)
			registry.Close(conn)
			conn = nil
			continue
		}
		if conn == nil {
			limit, cancel := context.WithTimeout(ctx, lookTimeout)
			conn, _ = d.own(limit, cfg) // that it does not answer is the eyes' to tell
			cancel()
		}
		if conn == nil {
			continue
		}
		if err := d.commitSomething(ctx, conn); err != nil {
			registry.Close(conn)
			conn = nil
			if full(err) {
				d.diskFull.Store(true)
			}
		} else {
			d.diskFull.Store(false)
		}
	}
}

// commitSomething tells since when a commit is under way, for as long as it is.
func (d *Daemon) commitSomething(ctx context.Context, conn *pg.Conn) error {
	d.send(observed{failover.Writing{Since: bootTime()}})
	_, err := conn.Conn.PgConn().Exec(ctx, smallCommit).ReadAll()
	d.send(observed{failover.Writing{}})
	return err
}

// full tells whether a server has refused a write since its disk is full
// (PostgreSQL manual, "PostgreSQL Error Codes": disk_full).
func full(err error) bool {
	var server *pgconn.PgError
	return errors.As(err, &server) && server.Code == "53100"
}
