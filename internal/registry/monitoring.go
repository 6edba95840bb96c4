package registry

import (
	"context"
	"fmt"
	"time"

	"repmgr/internal/cluster"
)

// Sample is a row of repmgr.monitoring_history: how far a standby was behind.
type Sample struct {
	Primary, Standby cluster.NodeID
	Applied          time.Time // commit time of the last transaction replayed; zero: not known
	PrimaryLSN       cluster.LSN
	StandbyLSN       cluster.LSN // last received; zero: not known
	ReplicationLag   int64       // bytes not yet received
	ApplyLag         int64       // bytes received and not yet replayed
}

// AddMonitoring records a sample under the server's own time.
func AddMonitoring(ctx context.Context, q Querier, s Sample) error {
	var applied *time.Time
	if !s.Applied.IsZero() {
		applied = &s.Applied
	}
	var received *string
	if s.StandbyLSN != 0 {
		text := s.StandbyLSN.String()
		received = &text
	}
	_, err := q.Exec(ctx, `
		INSERT INTO repmgr.monitoring_history (primary_node_id, standby_node_id, last_monitor_time, last_apply_time,
		    last_wal_primary_location, last_wal_standby_location, replication_lag, apply_lag)
		VALUES ($1, $2, pg_catalog.clock_timestamp(), $3, $4::text::pg_lsn, $5::text::pg_lsn, $6, $7)`,
		int(s.Primary), int(s.Standby), applied, s.PrimaryLSN.String(), received, s.ReplicationLag, s.ApplyLag)
	return explain(err, "record monitoring history")
}

// History selects rows of repmgr.monitoring_history.
type History struct {
	KeepDays int            // rows younger than that many days are left out; zero: none is
	Standby  cluster.NodeID // zero: every standby
}

const historyWhere = ` WHERE last_monitor_time <= pg_catalog.now() - pg_catalog.make_interval(days => $1)
	AND ($2 = 0 OR standby_node_id = $2)`

// CountMonitoring returns how many rows h selects.
func CountMonitoring(ctx context.Context, q Querier, h History) (int64, error) {
	var n int64
	err := q.QueryRow(ctx, "SELECT count(*) FROM repmgr.monitoring_history"+historyWhere, h.KeepDays, int(h.Standby)).Scan(&n)
	return n, explain(err, "count monitoring history")
}

// CleanupMonitoring deletes the rows that h selects and returns how many they
// were; where that is all of them, the table is truncated.
func CleanupMonitoring(ctx context.Context, q Querier, h History) (int64, error) {
	n, err := CountMonitoring(ctx, q, h)
	if err != nil || n == 0 {
		return 0, err
	}
	if h == (History{}) {
		_, err = q.Exec(ctx, "TRUNCATE TABLE repmgr.monitoring_history")
		return n, explain(err, "delete monitoring history")
	}
	tag, err := q.Exec(ctx, "DELETE FROM repmgr.monitoring_history"+historyWhere, h.KeepDays, int(h.Standby))
	return tag.RowsAffected(), explain(err, "delete monitoring history")
}

// VacuumMonitoring gives the space of deleted history back.
func VacuumMonitoring(ctx context.Context, q Querier) error {
	_, err := q.Exec(ctx, "VACUUM repmgr.monitoring_history")
	return explain(err, fmt.Sprintf("vacuum %s", "repmgr.monitoring_history"))
}
