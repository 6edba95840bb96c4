package pg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
)

// ReplConn is a session that speaks the replication protocol. It belongs to one
// goroutine at a time.
type ReplConn struct{ conn *pgconn.PgConn }

// ConnectReplication opens a physical replication session. A user other than
// the connection string's own is not given its password, but looks for one in
// PGPASSWORD and the password file, under the database called replication.
// An empty user is the connection string's own.
func ConnectReplication(ctx context.Context, c Conninfo, user string) (*ReplConn, error) {
	if user != "" && user != c.Get("user") {
		c = c.Without("password").With("user", user)
	}
	attrs := first(c.Get("target_session_attrs"), os.Getenv("PGTARGETSESSIONATTRS"))
	c = c.With("dbname", "replication").With("replication", "true").Without("target_session_attrs")
	list, err := targets(ctx, c)
	if err != nil {
		return nil, connectFault(c, err)
	}
	var conn *pgconn.PgConn
	for _, t := range list {
		one, cancel := context.WithTimeout(ctx, t.timeout)
		t.config.ValidateConnect = replicationTarget(attrs)
		if conn, err = pgconn.ConnectConfig(one, &t.config.Config); err == nil {
			cancel()
			return &ReplConn{conn}, nil
		}
		cancel()
	}
	return nil, connectFault(c, err)
}

// replicationTarget is target_session_attrs for a session that cannot ask
// pg_is_in_recovery: 14 and later say by themselves whether they are a standby,
// and 13 is asked as libpq asks it. A preference is not honoured.
func replicationTarget(attrs string) pgconn.ValidateConnectFunc {
	want, limited := map[string]string{"primary": "off", "read-write": "off", "standby": "on", "read-only": "on"}[attrs]
	if !limited {
		return nil
	}
	return func(ctx context.Context, conn *pgconn.PgConn) error {
		got := conn.ParameterStatus("in_hot_standby")
		if got == "" {
			results, err := conn.Exec(ctx, "SHOW transaction_read_only").ReadAll()
			if err != nil {
				return err
			}
			if len(results) != 1 || len(results[0].Rows) != 1 {
				return errors.New("no answer to SHOW transaction_read_only")
			}
			got = string(results[0].Rows[0][0])
		}
		if got != want {
			return fmt.Errorf("the server is not what target_session_attrs=%s asks for", attrs)
		}
		return nil
	}
}

// Close ends the session; ctx bounds the farewell.
func (r *ReplConn) Close(ctx context.Context) error { return r.conn.Close(ctx) }

// Identity is a server's answer to IDENTIFY_SYSTEM.
type Identity struct {
	SystemID string
	Timeline cluster.Timeline
	Position cluster.LSN // flushed on a primary, replayed or received on a standby
}

// IdentifySystem asks who the server is and how far its WAL reaches.
func (r *ReplConn) IdentifySystem(ctx context.Context) (Identity, error) {
	row, err := r.row(ctx, "IDENTIFY_SYSTEM", 3)
	if err != nil {
		return Identity{}, err
	}
	timeline, err := strconv.ParseUint(row[1], 10, 32)
	if err != nil {
		return Identity{}, queryFault(err, "timeline in the answer to IDENTIFY_SYSTEM")
	}
	lsn, err := cluster.ParseLSN(row[2])
	if err != nil {
		return Identity{}, queryFault(err, "position in the answer to IDENTIFY_SYSTEM")
	}
	return Identity{SystemID: row[0], Timeline: cluster.Timeline(timeline), Position: lsn}, nil
}

// Fork is the end of a timeline: at LSN, its successor began.
type Fork struct {
	Timeline cluster.Timeline
	LSN      cluster.LSN
	Reason   string
}

// same reports whether two forks are one, whatever was noted as their reason.
func (f Fork) same(o Fork) bool { return f.Timeline == o.Timeline && f.LSN == o.LSN }

// History asks who the server is, and for the ancestors of its timeline, the oldest first.
func (r *ReplConn) History(ctx context.Context) (id Identity, forks []Fork, err error) {
	if id, err = r.IdentifySystem(ctx); err == nil && id.Timeline > 1 {
		forks, err = r.TimelineHistory(ctx, id.Timeline)
	}
	return id, forks, err
}

// TimelineHistory asks for the ancestors of a timeline, the oldest first.
// Timeline 1 has none.
func (r *ReplConn) TimelineHistory(ctx context.Context, tli cluster.Timeline) ([]Fork, error) {
	if tli <= 1 {
		return nil, nil
	}
	row, err := r.row(ctx, fmt.Sprintf("TIMELINE_HISTORY %d", tli), 2)
	if err != nil {
		return nil, err
	}
	return ParseHistory(row[1])
}

// ParseHistory reads the contents of a timeline history file. An empty one,
// which only keeps a number from being used, has no forks.
func ParseHistory(text string) ([]Fork, error) {
	var out []Fork
	for n, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if len(fields) < 2 {
			return nil, fault.New(fault.DBQuery, "timeline history, line %d: a timeline and a position are expected", n+1)
		}
		timeline, err := strconv.ParseUint(fields[0], 10, 32)
		if err != nil {
			return nil, fault.New(fault.DBQuery, "timeline history, line %d: %q is no timeline", n+1, fields[0])
		}
		lsn, err := cluster.ParseLSN(fields[1])
		if err != nil {
			return nil, fault.Wrap(err, fault.DBQuery, "timeline history, line %d", n+1)
		}
		out = append(out, Fork{cluster.Timeline(timeline), lsn, strings.Join(fields[2:], " ")})
	}
	return out, nil
}

// CreateSlot makes a physical slot that keeps WAL from now on, for roles that
// may stream but own no database session. An existing one is an error with
// SQLSTATE 42710.
func (r *ReplConn) CreateSlot(ctx context.Context, name string) error {
	_, err := r.conn.Exec(ctx, "CREATE_REPLICATION_SLOT "+quoteIdentifier(name)+" PHYSICAL RESERVE_WAL").ReadAll()
	if err != nil {
		return slotFault(err, "replication slot %q could not be created", name)
	}
	return nil
}

// DropSlot removes a slot that nobody uses. One that does not exist is no error.
func (r *ReplConn) DropSlot(ctx context.Context, name string) error {
	_, err := r.conn.Exec(ctx, "DROP_REPLICATION_SLOT "+quoteIdentifier(name)).ReadAll()
	if err == nil || Code(err) == "42704" {
		return nil
	}
	return slotFault(err, "replication slot %q could not be dropped", name)
}

// Checkpoint makes the server write a checkpoint at once, and waits for it, for roles that
// may replicate and not ask for one: CHECKPOINT is a superuser's and, from 15 on,
// pg_checkpoint's. A base backup that is to begin fast begins with one, and with a new
// segment of WAL, which standbys receive whole (do_pg_backup_start in xlog.c). It is given
// up as soon as it has begun, and shown as under way until the session is closed.
func (r *ReplConn) Checkpoint(ctx context.Context) error {
	command := "BASE_BACKUP (LABEL 'repmgr: checkpoint', CHECKPOINT 'fast', MAX_RATE 1024)"
	if major, _, _ := strings.Cut(r.conn.ParameterStatus("server_version"), "."); major == "13" || major == "14" {
		command = "BASE_BACKUP LABEL 'repmgr: checkpoint' FAST MAX_RATE 1024"
	}
	results := r.conn.Exec(ctx, command)
	begun := results.NextResult() // where the backup begins: behind the checkpoint
	if begun {
		if err := r.conn.CancelRequest(ctx); err != nil { // it would go on to its end
			return errors.Join(err, r.conn.Close(ctx))
		}
	}
	if err := results.Close(); err != nil && !(begun && Code(err) == canceled) {
		return queryFault(err, "checkpoint by the beginning of a base backup")
	}
	return nil
}

// CheckpointAsReplica is Checkpoint in a session of its own, opened as by ConnectReplication.
func CheckpointAsReplica(ctx context.Context, c Conninfo, user string) error {
	r, err := ConnectReplication(ctx, c, user)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close(context.WithoutCancel(ctx)) }()
	return r.Checkpoint(ctx)
}

// canceled is the SQLSTATE of a command that was given up (PostgreSQL manual, "Error Codes").
const canceled = "57014"

// row runs a command that answers with one row of at least n columns.
func (r *ReplConn) row(ctx context.Context, command string, n int) ([]string, error) {
	results, err := r.conn.Exec(ctx, command).ReadAll()
	if err != nil {
		return nil, queryFault(err, "%s", command)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) < n {
		return nil, fault.New(fault.DBQuery, "%s: the answer is not one row of %d columns", command, n)
	}
	out := make([]string, len(results[0].Rows[0]))
	for i, v := range results[0].Rows[0] {
		out[i] = string(v)
	}
	return out, nil
}

func quoteIdentifier(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// Local is what a server that wants to follow has: its identity and the end of
// its write-ahead log.
type Local struct {
	SystemID string
	Timeline cluster.Timeline
	Position cluster.LSN
	Forks    []Fork // how its timeline came about; nil: not known
}

// CanFollow tells whether a server may be pointed at the target: the same
// system, and no WAL beyond the place where the target's history left the
// server's. History is the target's TimelineHistory. PostgreSQL sees no difference between two
// timelines of one number: a server would stream what does not follow from what it has. It must be asked before
// anything is changed: a server that follows replays what is beyond the fork
// and can then only be rewound.
func CanFollow(local Local, target Identity, history []Fork) (ok bool, reason string) {
	switch {
	case local.SystemID != target.SystemID:
		return false, fmt.Sprintf("the system identifiers differ: %s here, %s on the target", local.SystemID, target.SystemID)
	case target.Timeline < local.Timeline:
		return false, fmt.Sprintf("this server is on timeline %d and the target on timeline %d, which is older", local.Timeline, target.Timeline)
	case target.Timeline == local.Timeline && local.Forks != nil && !slices.EqualFunc(local.Forks, history, Fork.same):
		return false, fmt.Sprintf("timeline %d came about otherwise on the target than here: two promotions took that number", local.Timeline)
	case target.Timeline == local.Timeline:
		if local.Position > target.Position {
			return false, fmt.Sprintf("this server's WAL reaches %s and the target's only %s", local.Position, target.Position)
		}
		return true, fmt.Sprintf("both are on timeline %d and the target's WAL reaches %s", local.Timeline, target.Position)
	}
	for _, f := range history {
		if f.Timeline != local.Timeline {
			continue
		}
		if local.Position > f.LSN {
			return false, fmt.Sprintf("timeline %d ended at %s and this server's WAL reaches %s: it has diverged", f.Timeline, f.LSN, local.Position)
		}
		return true, fmt.Sprintf("timeline %d ended at %s and this server's WAL reaches %s", f.Timeline, f.LSN, local.Position)
	}
	return false, fmt.Sprintf("timeline %d of this server is no ancestor of the target's timeline %d", local.Timeline, target.Timeline)
}

// CanFollow asks the target for its identity and history and judges by them.
func (r *ReplConn) CanFollow(ctx context.Context, local Local) (ok bool, reason string, err error) {
	identity, err := r.IdentifySystem(ctx)
	if err != nil {
		return false, "", err
	}
	var history []Fork
	if identity.Timeline > local.Timeline || identity.Timeline == local.Timeline && local.Forks != nil {
		if history, err = r.TimelineHistory(ctx, identity.Timeline); err != nil {
			return false, "", err
		}
	}
	ok, reason = CanFollow(local, identity, history)
	return ok, reason, nil
}
