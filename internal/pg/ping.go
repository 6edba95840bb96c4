package pg

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"repmgr/internal/fault"
)

// Reach is what a server answers to a startup packet, as libpq's PQping sees it.
type Reach uint8

// The answers. A server that asks for a password, or refuses for any reason but
// being in the middle of a start or a stop, is accepting connections.
const (
	NoAnswer Reach = iota
	Rejecting
	Accepting
)

// String is the answer in words.
func (r Reach) String() string {
	return [...]string{"no answer", "rejecting connections", "accepting connections"}[r]
}

// Ping asks whether a server takes connections, without logging in: no password
// is sent and the server's log stays free of failed logins. Of several hosts the
// best answer counts. It is bounded by ctx and by connect_timeout for an address.
func Ping(ctx context.Context, c Conninfo) Reach {
	list, err := targets(ctx, c.Without("replication"))
	if err != nil {
		return NoAnswer
	}
	best := NoAnswer
	for _, t := range list {
		if best = max(best, pingTarget(ctx, t)); best == Accepting {
			break
		}
	}
	return best
}

func pingTarget(ctx context.Context, t target) Reach {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	address, err := t.config.LookupFunc(ctx, t.config.Host)
	if err != nil {
		return NoAnswer
	}
	conn, err := t.config.DialFunc(ctx, pgNetwork(address[0]), pgAddress(address[0], t.config.Port))
	if err != nil {
		return NoAnswer
	}
	defer conn.Close()
	// A connection that is closed under a blocked read is how the context ends it.
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if deadline, ok := ctx.Deadline(); ok {
		if conn.SetDeadline(deadline) != nil {
			return NoAnswer
		}
	}
	secured, err := secure(ctx, conn, t.config.TLSConfig)
	if err != nil {
		return NoAnswer
	}
	return startup(secured, t)
}

// Renewed has the server that c is a session with answer a new connection, up to
// where a session would begin: to the request for TLS, which a process of its own
// answers that the postmaster has started for it (backend_startup.c; postmaster.c
// before 17). What the postmaster was at work on before it took that connection is done then.
func (c *Conn) Renewed(ctx context.Context) error {
	at := c.PgConn().Conn().RemoteAddr()
	var d net.Dialer
	conn, err := d.DialContext(ctx, at.Network(), at.String())
	if err != nil {
		return fault.Wrap(err, fault.DBConn, "a new connection to %s", at)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err = conn.Write(requestTLS); err == nil {
		_, err = io.ReadFull(conn, make([]byte, 1))
	}
	if err != nil {
		return fault.Wrap(err, fault.DBConn, "no answer to a new connection to %s", at)
	}
	return nil
}

// requestTLS is SSLRequest (PostgreSQL manual, "Message Formats").
var requestTLS = binary.BigEndian.AppendUint32([]byte{0, 0, 0, 8}, 80877103)

// secure asks for TLS where the connection string prefers it, so that a server
// that insists on it does not log a refusal for each ping. The certificate is
// not checked: nothing secret is sent.
func secure(ctx context.Context, conn net.Conn, config *tls.Config) (net.Conn, error) {
	if config == nil {
		return conn, nil
	}
	if _, err := conn.Write(requestTLS); err != nil {
		return nil, err
	}
	answer := make([]byte, 1)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return nil, err
	}
	switch answer[0] {
	case 'S':
		config = config.Clone()
		config.InsecureSkipVerify, config.VerifyPeerCertificate, config.VerifyConnection = true, nil, nil
		secured := tls.Client(conn, config)
		return secured, secured.HandshakeContext(ctx)
	case 'N':
		return conn, nil
	default:
		return nil, errors.New("no answer to the request for TLS")
	}
}

// startup sends the startup packet and judges the first message that comes back.
func startup(conn net.Conn, t target) Reach {
	frontend := pgproto3.NewFrontend(conn, conn)
	frontend.Send(&pgproto3.StartupMessage{
		ProtocolVersion: pgproto3.ProtocolVersion30,
		Parameters:      map[string]string{"user": t.config.User, "database": t.config.Database, "application_name": "repmgr"},
	})
	if frontend.Flush() != nil {
		return NoAnswer
	}
	message, err := frontend.Receive()
	if err != nil {
		return NoAnswer
	}
	if e, ok := message.(*pgproto3.ErrorResponse); ok {
		if e.Code == "57P03" { // cannot_connect_now
			return Rejecting
		}
		return Accepting
	}
	if _, ok := message.(*pgproto3.AuthenticationOk); ok {
		// A session began: saying goodbye keeps "unexpected EOF" out of the
		// server's log. One that was asked for a password may just hang up.
		frontend.Send(&pgproto3.Terminate{})
		_ = frontend.Flush()
	}
	return Accepting
}

func pgNetwork(address string) string {
	network, _ := pgconn.NetworkAddress(address, 0)
	return network
}

func pgAddress(address string, port uint16) string {
	_, a := pgconn.NetworkAddress(address, port)
	return a
}
