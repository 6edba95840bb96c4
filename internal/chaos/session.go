package chaos

import (
	"context"
	"errors"
	"net"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// session is a client's connection, made so that what is told of a commit can be believed.
type session struct {
	conn   *pgx.Conn
	opened atomic.Bool // nothing is dialled any more
	warned atomic.Bool // the server said WARNING since the last statement began
}

// errNoCancel answers the driver's wish to cancel a statement that took too long.
var errNoCancel = errors.New("nothing is cancelled")

// configure prepares a way to a server; several at once, if it is not known yet
// which server it will be. A driver that gives up asks the server
// to cancel: that would end a synchronous wait, and show everybody a commit
// that no standby has (safety notes, A13). So this one only goes away.
func (s *session) configure(config *pgx.ConnConfig) {
	// One message, one answer, which comes after the commit.
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "WARNING" || n.Severity == "WARNING" {
			s.warned.Store(true)
		}
	}
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if s.opened.Load() {
			return nil, errNoCancel
		}
		return dial(ctx, network, address)
	}
}

// outcome is what an answer says of the statement: an error that the server sent
// while it went on living is a refusal; a warning, or silence, leaves doubt.
func (s *session) outcome(err error) Outcome {
	var refused *pgconn.PgError
	switch {
	case err == nil && !s.warned.Load():
		return Acknowledged
	case errors.As(err, &refused) && refused.Severity == "ERROR" && !s.warned.Load():
		return Refused
	}
	return Unknown
}

// close leaves without waiting for a host that may be gone.
func (s *session) close() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = s.conn.Close(ctx)
}
