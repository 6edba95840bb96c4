package pg

import "fmt"

// query is one text of SQL and the server versions that it is for: from since
// up to but not including until, in the style 150000; zero is no limit. The
// first row that fits is taken.
type query struct {
	since, until int
	sql          string
}

type queries []query

// forVersion returns the text for that server.
func (q queries) forVersion(version int) (string, error) {
	for _, row := range q {
		if version >= row.since && (row.until == 0 || version < row.until) {
			return row.sql, nil
		}
	}
	return "", fmt.Errorf("server version %d is not supported", version)
}

// Every object is named with its schema, since search_path is empty only where
// the session was opened by Connect.
var (
	serverSQL = queries{{sql: `
SELECT pg_catalog.current_setting('server_version_num')::int4,
       pg_catalog.current_setting('server_version'),
       pg_catalog.pg_is_in_recovery(),
       (SELECT system_identifier::text FROM pg_catalog.pg_control_system()),
       (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()),
       (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'data_directory'),
       pg_catalog.pg_postmaster_start_time()`}}

	// Whether the server is in recovery is asked once: it may end between two
	// questions, and each of them fails on the wrong side. The control file is
	// read only where the WAL receiver does not name the timeline.
	progressSQL = queries{{sql: `
WITH s AS MATERIALIZED (SELECT pg_catalog.pg_is_in_recovery() AS rec),
     r AS MATERIALIZED (SELECT pid, status, sender_host, sender_port, slot_name, received_tli
                        FROM pg_catalog.pg_stat_get_wal_receiver() WHERE pid IS NOT NULL)
SELECT s.rec,
       CASE WHEN s.rec THEN NULL ELSE pg_catalog.pg_current_wal_lsn()::text END,
       CASE WHEN s.rec THEN NULL ELSE pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) END,
       CASE WHEN s.rec THEN pg_catalog.pg_last_wal_receive_lsn()::text END,
       CASE WHEN s.rec THEN pg_catalog.pg_last_wal_replay_lsn()::text END,
       CASE WHEN s.rec THEN pg_catalog.pg_is_wal_replay_paused() ELSE false END,
       CASE WHEN s.rec THEN pg_catalog.pg_last_xact_replay_timestamp() END,
       CASE WHEN s.rec THEN pg_catalog.date_part('epoch',
            pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp()) END,
       CASE WHEN s.rec AND r.received_tli IS NULL THEN
            (SELECT GREATEST(c.timeline_id, v.min_recovery_end_timeline)
             FROM pg_catalog.pg_control_checkpoint() c, pg_catalog.pg_control_recovery() v) END,
       r.pid, COALESCE(r.status, ''), COALESCE(r.sender_host, ''), COALESCE(r.sender_port, 0),
       COALESCE(r.slot_name, ''), r.received_tli
FROM s LEFT JOIN r ON s.rec`}}

	settingsSQL = queries{{sql: `SELECT name, setting FROM pg_catalog.pg_settings WHERE name = ANY ($1::text[])`}}

	// The command line is how repmgrd recovers a server before a rewind.
	recoveryTargetsSQL = queries{{sql: `
SELECT name FROM pg_catalog.pg_settings
WHERE name IN ('recovery_target', 'recovery_target_lsn', 'recovery_target_name', 'recovery_target_time', 'recovery_target_xid') AND (setting <> '' OR pending_restart)
   OR name = 'recovery_target_timeline' AND source <> 'command line' AND (setting <> 'latest' OR pending_restart)
ORDER BY name`}}

	attachedSQL = queries{{sql: `
SELECT pid, state FROM pg_catalog.pg_stat_replication
WHERE application_name = $1 OR pg_catalog.regexp_replace(application_name, '@[0-9]+$', '') = $1`}}

	slotsSQL = queries{{sql: `
SELECT slot_name::text, slot_type, active, COALESCE(restart_lsn::text, ''), COALESCE(wal_status, '')
FROM pg_catalog.pg_replication_slots ORDER BY slot_name`}}

	// A standby's own logical slot that was made for failover is from when it was the primary.
	// PostgreSQL 17 has such slots first.
	formerSlotsSQL = queries{
		{since: 170000, sql: `
SELECT slot_name::text FROM pg_catalog.pg_replication_slots
WHERE pg_catalog.pg_is_in_recovery() AND slot_type = 'logical' AND failover AND NOT synced AND NOT active ORDER BY slot_name`},
		{until: 170000, sql: `SELECT ''::text WHERE false`},
	}

	// The standbys that stream by a slot, and what readers of logical slots wait for.
	readersWaitSQL = queries{
		{since: 170000, sql: `
SELECT pg_catalog.current_setting('synchronized_standby_slots'), ARRAY(SELECT s.slot_name::text FROM pg_catalog.pg_replication_slots s
	JOIN pg_catalog.pg_stat_replication r ON r.pid = s.active_pid
	WHERE s.slot_type = 'physical' AND r.state = 'streaming' ORDER BY s.slot_name)`},
		{until: 170000, sql: `SELECT ''::text, ARRAY[]::text[]`},
	}

	createSlotSQL = queries{{sql: `SELECT pg_catalog.pg_create_physical_replication_slot($1, true)`}}
	dropSlotSQL   = queries{{sql: `SELECT pg_catalog.pg_drop_replication_slot($1)`}}

	walSendersSQL = queries{{sql: `
SELECT (SELECT pg_catalog.count(*)::int4 FROM pg_catalog.pg_stat_get_wal_senders()),
       pg_catalog.current_setting('max_wal_senders')::int4`}}

	promoteSQL    = queries{{sql: `SELECT pg_catalog.pg_promote(false)`}}
	canPromoteSQL = queries{{sql: `
SELECT pg_catalog.has_function_privilege('pg_catalog.pg_promote(bool, int4)', 'EXECUTE')`}}

	tablespacesSQL = queries{{sql: `
SELECT oid, spcname::text, pg_catalog.pg_tablespace_location(oid)
FROM pg_catalog.pg_tablespace WHERE pg_catalog.pg_tablespace_location(oid) <> '' ORDER BY spcname`}}

	sizeSQL = queries{{sql: `
SELECT COALESCE(pg_catalog.sum(pg_catalog.pg_database_size(oid)), 0)::int8 FROM pg_catalog.pg_database`}}

	checkpointSQL = queries{{sql: `CHECKPOINT`}}
	reloadSQL     = queries{{sql: `SELECT pg_catalog.pg_reload_conf()`}}
	resumeSQL     = queries{{sql: `SELECT pg_catalog.pg_wal_replay_resume()`}}

	// pg_checkpoint came with 15; to ask about a role that does not exist is an error.
	privilegesSQL = queries{
		{since: 150000, sql: privilegesHead + `r.rolsuper OR pg_catalog.pg_has_role('pg_checkpoint', 'USAGE')` + privilegesTail},
		{until: 150000, sql: privilegesHead + `r.rolsuper` + privilegesTail},
	}
)

const (
	privilegesHead = `
SELECT r.rolname::text, r.rolsuper, r.rolsuper OR r.rolreplication,
       r.rolsuper OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE'),
       r.rolsuper OR pg_catalog.pg_has_role('pg_read_all_settings', 'USAGE'),
       pg_catalog.has_function_privilege('pg_catalog.pg_promote(bool, int4)', 'EXECUTE'),
       pg_catalog.has_function_privilege('pg_catalog.pg_wal_replay_resume()', 'EXECUTE'),
       `
	privilegesTail = `
FROM pg_catalog.pg_roles r WHERE r.rolname = CURRENT_USER`
)
