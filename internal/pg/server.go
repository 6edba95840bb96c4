package pg

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
)

// Server is what does not change while a server runs, except for the role.
type Server struct {
	Version       int    // as server_version_num: 150018
	VersionText   string // as server_version: 15.18 (Debian 15.18-0+deb12u1)
	InRecovery    bool
	SystemID      string           // system identifier, decimal
	Timeline      cluster.Timeline // of the last checkpoint: it lags a promotion, see Progress
	DataDirectory string           // empty if the role may not see it
	StartedAt     time.Time        // of the postmaster, by the server's clock
}

// Major is the major version: 15.
func (s Server) Major() int { return s.Version / 10000 }

// MinVersion is the oldest server_version_num that is supported.
const MinVersion = 130000

// Server asks who the server is.
func (c *Conn) Server(ctx context.Context) (Server, error) {
	var s Server
	var dir *string
	var id string
	err := c.one(ctx, serverSQL, nil, &s.Version, &s.VersionText, &s.InRecovery, &id, &s.Timeline, &dir, &s.StartedAt)
	if err != nil {
		return Server{}, queryFault(err, "identity of the server")
	}
	s.SystemID = id
	if dir != nil {
		s.DataDirectory = *dir
	}
	return s, nil
}

// Progress is how far a server's write-ahead log and its replay have come.
type Progress struct {
	InRecovery bool
	Timeline   cluster.Timeline // written on a primary; received, else recovered to, on a standby

	Written  cluster.LSN // primary only
	Received cluster.LSN // standby only; zero before a WAL receiver has run, and it may lie behind Replayed
	Replayed cluster.LSN // standby only

	ReplayPaused bool
	LastReplayAt time.Time // commit time of the last replayed transaction; zero if there is none
	LagSeconds   float64   // 0 if all that was received is replayed, -1 if unknown, always 0 on a primary

	Receiving      bool   // a WAL receiver process exists
	ReceiverStatus string // the rest is empty unless the role has pg_read_all_stats (pg_monitor)
	ReceiverHost   string
	ReceiverPort   int
	ReceiverSlot   string
}

// Position is the end of the write-ahead log that the server has: written on a
// primary, the greater of received and replayed on a standby.
func (p Progress) Position() cluster.LSN {
	if !p.InRecovery {
		return p.Written
	}
	return max(p.Received, p.Replayed)
}

// Progress asks in one round trip, cheaply enough for every second.
func (c *Conn) Progress(ctx context.Context) (Progress, error) {
	p := Progress{LagSeconds: -1}
	var written, walfile, received, replayed *string
	var replayedAt *time.Time
	var lag *float64
	var control, receiver *cluster.Timeline
	var pid *int32
	err := c.one(ctx, progressSQL, nil, &p.InRecovery, &written, &walfile, &received, &replayed,
		&p.ReplayPaused, &replayedAt, &lag, &control, &pid, &p.ReceiverStatus, &p.ReceiverHost,
		&p.ReceiverPort, &p.ReceiverSlot, &receiver)
	if err == nil {
		err = errors.Join(
			scanLSN(&p.Written, written), scanLSN(&p.Received, received), scanLSN(&p.Replayed, replayed),
			scanWalFile(&p.Timeline, walfile))
	}
	if err != nil {
		return Progress{}, queryFault(err, "progress of the server")
	}
	p.Receiving = pid != nil
	switch {
	case receiver != nil:
		p.Timeline = *receiver
	case control != nil:
		p.Timeline = *control
	}
	if replayedAt != nil {
		p.LastReplayAt = *replayedAt
	}
	switch {
	case !p.InRecovery, p.Received == p.Replayed && p.Received != 0:
		p.LagSeconds = 0
	case lag != nil:
		p.LagSeconds = max(0, *lag)
	}
	return p, nil
}

// one runs a query that returns one row, in one round trip.
func (c *Conn) one(ctx context.Context, q queries, args []any, dest ...any) error {
	sql, err := q.forVersion(c.version())
	if err != nil {
		return err
	}
	return c.QueryRow(ctx, sql, append([]any{pgx.QueryExecModeExec}, args...)...).Scan(dest...)
}

// version is the server_version_num that the server reported at the start of the session.
func (c *Conn) version() int {
	return parseVersion(c.PgConn().ParameterStatus("server_version"))
}

// parseVersion reads server_version, such as "15.18 (Debian ...)", "17beta1" or "18devel".
func parseVersion(s string) int {
	number := func(s string) (int, string) {
		end := 0
		for end < len(s) && s[end] >= '0' && s[end] <= '9' {
			end++
		}
		n, _ := strconv.Atoi(s[:end])
		return n, s[end:]
	}
	major, rest := number(s)
	minor := 0
	if len(rest) > 0 && rest[0] == '.' {
		minor, _ = number(rest[1:])
	}
	return major*10000 + minor
}

func scanLSN(to *cluster.LSN, from *string) (err error) {
	if from != nil {
		*to, err = cluster.ParseLSN(*from)
	}
	return err
}

// scanWalFile takes the timeline from a segment's name: its first 8 digits.
func scanWalFile(to *cluster.Timeline, from *string) error {
	if from == nil {
		return nil
	}
	if len(*from) != 24 {
		return fault.New(fault.DBQuery, "%q is no name of a WAL segment", *from)
	}
	n, err := strconv.ParseUint((*from)[:8], 16, 32)
	*to = cluster.Timeline(n)
	return err
}

// Settings returns the values of the server's parameters in their base units, as
// pg_settings shows them. One that the role may not see, or that the server does
// not know, is missing.
func (c *Conn) Settings(ctx context.Context, names ...string) (map[string]string, error) {
	out := map[string]string{}
	err := c.each(ctx, settingsSQL, []any{names}, func(rows pgx.Rows) error {
		var name, value string
		if err := rows.Scan(&name, &value); err != nil {
			return err
		}
		out[name] = value
		return nil
	})
	if err != nil {
		return nil, queryFault(err, "settings of the server")
	}
	return out, nil
}

// RecoveryTargets returns the parameters that end a recovery before the end of the
// WAL, or hold it on one timeline, and that are set, now or from the next start on.
// A server with one of them does not come up read-only and whole: it stops, or is
// promoted, somewhere (PostgreSQL manual, "Recovery Target").
func (c *Conn) RecoveryTargets(ctx context.Context) (names []string, err error) {
	err = c.each(ctx, recoveryTargetsSQL, nil, func(rows pgx.Rows) error {
		var name string
		err := rows.Scan(&name)
		names = append(names, name)
		return err
	})
	if err != nil {
		return nil, queryFault(err, "recovery targets of the server")
	}
	return names, nil
}

// each calls read for each row of a query.
func (c *Conn) each(ctx context.Context, q queries, args []any, read func(pgx.Rows) error) error {
	sql, err := q.forVersion(c.version())
	if err != nil {
		return err
	}
	rows, err := c.Query(ctx, sql, append([]any{pgx.QueryExecModeExec}, args...)...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := read(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
