package pg

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
)

// Walsender is a row of pg_stat_replication.
type Walsender struct {
	PID      int
	Name     string // application_name
	State    string
	Priority int // sync_priority: zero where it does not count for synchronous replication
	Sent     cluster.LSN
	Flush    cluster.LSN
}

// Synchronous is the state of a primary's synchronous replication.
type Synchronous struct {
	Names   string      // synchronous_standby_names of this session
	Flushed cluster.LSN // end of the own WAL on disk
	Senders []Walsender // by the start of their connections
}

// Synchronous asks a primary for the state of its synchronous replication. The
// role must be a member of pg_monitor.
func (c *Conn) Synchronous(ctx context.Context) (Synchronous, error) {
	var s Synchronous
	var at string
	if err := c.one(ctx, synchronousSQL, nil, &s.Names, &at); err != nil {
		return s, queryFault(err, "synchronous replication")
	}
	if err := s.Flushed.UnmarshalText([]byte(at)); err != nil {
		return s, err
	}
	err := c.each(ctx, walsendersSQL, nil, func(rows pgx.Rows) error {
		var w Walsender
		var state *string
		var sent, flush string
		if err := rows.Scan(&w.PID, &w.Name, &state, &w.Priority, &sent, &flush); err != nil {
			return err
		}
		if state == nil {
			return fault.New(fault.DBQuery, "the role may not see the walsenders").WithHint("as a superuser: GRANT pg_monitor TO the role of conninfo")
		}
		w.State = *state
		if err := errors.Join(readLSN(sent, &w.Sent), readLSN(flush, &w.Flush)); err != nil {
			return err
		}
		s.Senders = append(s.Senders, w)
		return nil
	})
	if err != nil {
		return s, queryFault(err, "walsenders of the server")
	}
	return s, nil
}

// readLSN reads a position that may be missing.
func readLSN(text string, to *cluster.LSN) error {
	if text == "" {
		return nil
	}
	return to.UnmarshalText([]byte(text))
}

// WriteMessage writes a small record that means nothing, and returns up to where
// the WAL is flushed after it. It waits for no standby, like all of our sessions.
func (c *Conn) WriteMessage(ctx context.Context) (cluster.LSN, error) {
	var at string
	var lsn cluster.LSN
	err := c.one(ctx, messageSQL, nil, &at) // a statement is a transaction: it is committed, and flushed
	if err == nil {
		err = c.one(ctx, flushedSQL, nil, &at)
	}
	if err != nil {
		return 0, queryFault(err, "write to the WAL")
	}
	return lsn, lsn.UnmarshalText([]byte(at))
}

// Checkpointer returns the checkpointer's process and what it waits for.
func (c *Conn) Checkpointer(ctx context.Context) (pid int, waits string, err error) {
	if err := c.one(ctx, checkpointerSQL, nil, &pid, &waits); err != nil {
		return 0, "", queryFault(err, "checkpointer of the server")
	}
	return pid, waits, nil
}

// Version is the server_version_num.
func (c *Conn) Version() int { return c.version() }

var (
	synchronousSQL = queries{{sql: `
SELECT pg_catalog.current_setting('synchronous_standby_names'), pg_catalog.pg_current_wal_flush_lsn()::text`}}
	walsendersSQL = queries{{sql: `
SELECT pid, COALESCE(application_name, ''), state, COALESCE(sync_priority, 0), COALESCE(sent_lsn::text, ''), COALESCE(flush_lsn::text, '')
FROM pg_catalog.pg_stat_replication ORDER BY backend_start, pid`}}
	messageSQL      = queries{{sql: `SELECT pg_catalog.pg_logical_emit_message(true, 'repmgr', '')::text`}}
	flushedSQL      = queries{{sql: `SELECT pg_catalog.pg_current_wal_flush_lsn()::text`}}
	checkpointerSQL = queries{{sql: `
SELECT pid, COALESCE(wait_event, '') FROM pg_catalog.pg_stat_activity WHERE backend_type = 'checkpointer'`}}
)

// ReadSetting returns what postgresql.auto.conf says of one parameter: the last
// line counts. False if it says nothing.
func ReadSetting(dataDir, name string) (value string, set bool, err error) {
	text, err := os.ReadFile(filepath.Join(dataDir, autoConf))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", false, autoConfFault(err, dataDir)
	}
	for _, line := range strings.Split(string(text), "\n") {
		if found, v, ok := parseConfLine(line); ok && found == lowerASCII(name) {
			value, set = v, true
		}
	}
	return value, set, nil
}
