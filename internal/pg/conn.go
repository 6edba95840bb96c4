package pg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"repmgr/internal/fault"
)

// Conn is one session with one server. It belongs to one goroutine at a time.
// Give Close a context with a deadline: it tells the server that it leaves.
type Conn struct{ *pgx.Conn }

// Connect opens a session by repmgr's conventions: connect_timeout is 2 s unless
// set, the application is called repmgr unless named, search_path is empty and
// commits wait for the local disk only. The error is a *fault.Error that never
// holds a password.
func Connect(ctx context.Context, c Conninfo) (*Conn, error) {
	list, err := targets(ctx, c.Without("replication"))
	if err != nil {
		return nil, connectFault(c, err)
	}
	conn, err := eachTarget(ctx, c, list, func(ctx context.Context, t target) (*pgx.Conn, error) {
		setSession(t.config)
		return pgx.ConnectConfig(ctx, t.config)
	})
	if err != nil {
		return nil, connectFault(c, err)
	}
	return &Conn{conn}, nil
}

// eachTarget tries one address after the other. Where standbys are preferred a
// second round takes anybody.
func eachTarget(ctx context.Context, c Conninfo, list []target, connect func(context.Context, target) (*pgx.Conn, error)) (*pgx.Conn, error) {
	rounds := []func(*pgx.ConnConfig){func(*pgx.ConnConfig) {}}
	if c.Get("target_session_attrs") == "prefer-standby" && len(list) > 1 {
		rounds = []func(*pgx.ConnConfig){
			func(config *pgx.ConnConfig) { config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsStandby },
			func(config *pgx.ConnConfig) { config.ValidateConnect = nil },
		}
	}
	var failed []error
	for _, prepare := range rounds {
		failed = failed[:0]
		for _, t := range list {
			prepare(t.config)
			one, cancel := context.WithTimeout(ctx, t.timeout)
			end := keepRefused(t.config)
			conn, err := connect(one, t)
			end()
			cancel()
			if err == nil {
				return conn, nil
			}
			failed = append(failed, err)
			if ctx.Err() != nil {
				return nil, errors.Join(failed...)
			}
		}
	}
	return nil, errors.Join(failed...)
}

// setSession gives a session its settings in the startup packet, which saves the
// round trips of SET.
func setSession(config *pgx.ConnConfig) {
	// A session asks most questions once: preparing them would double the round trips.
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	p := config.RuntimeParams
	p["search_path"] = ""
	p["synchronous_commit"] = "local"
	p["default_transaction_read_only"] = "off"       // where writes are frozen by that, the cluster is managed all the same
	p["idle_in_transaction_session_timeout"] = "10s" // who is frozen in the middle of a change holds up the others no longer
	p["client_encoding"] = "UTF8"
}

// hints says what to do about the SQLSTATEs that end a connection attempt
// (PostgreSQL manual, "PostgreSQL Error Codes").
var hints = map[string]string{
	"28P01": "Check the password: it is taken from PGPASSWORD or from a line for this host, port, database and user in ~/.pgpass, which must have mode 0600.",
	"28000": "Check that pg_hba.conf of that server has a line for this user, database and client address, and that the role exists and may log in.",
	"3D000": "Create the database, or correct dbname in the connection string.",
	"53300": "All connection slots are taken: raise max_connections or superuser_reserved_connections, or find who holds them in pg_stat_activity.",
	"57P03": "The server is starting up or shutting down: look into its log, or wait.",
	"42704": "Check the parameter named: the server does not know it.",
}

func connectFault(c Conninfo, err error) error {
	err = withoutSecrets(c, err)
	f := fault.Wrap(err, fault.DBConn, "connection to %q", c.Redacted())
	var server *pgconn.PgError
	var dns *net.DNSError
	switch {
	case errors.As(err, &server):
		f.WithDetail("The server answered: %s (SQLSTATE %s).", server.Message, server.Code).WithHint("%s", hints[server.Code])
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		f.WithHint("Nobody listens there: check that PostgreSQL runs, and its port and listen_addresses.")
	case errors.As(err, &dns):
		f.WithHint("Check the host name, or use hostaddr.")
	case errors.Is(err, context.DeadlineExceeded):
		f.WithDetail("No answer within connect_timeout.").WithHint("Check the network, the firewall and whether the server hangs; connect_timeout may be raised in the connection string.")
	}
	return f
}

// redacted is an error whose text has lost its passwords, but whose cause can
// still be asked for.
type redacted struct {
	text  string
	cause error
}

func (r redacted) Error() string { return r.text }
func (r redacted) Unwrap() error { return r.cause }

// Code returns the SQLSTATE that a server answered with, empty if err is not a
// server's answer.
func Code(err error) string {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return server.Code
	}
	return ""
}

// queryFault tells that a query did not work out. The exit code is DBQuery.
func queryFault(err error, format string, args ...any) error {
	f := fault.Wrap(err, fault.DBQuery, "%s", fmt.Sprintf(format, args...))
	if Code(err) == "42501" {
		f.WithHint("Grant pg_monitor (and REPLICATION) to the role, or connect as a role that has it.")
	}
	return f
}
