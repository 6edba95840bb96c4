package pg

import (
	"bytes"
	"context"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// sslRequest is the packet that asks for TLS (PostgreSQL manual, "Message
// Formats"). A server that answers N goes on with the same connection.
var sslRequest = []byte{0, 0, 0, 8, 4, 210, 22, 47}

// refusals spares the second connection that the driver makes under
// sslmode=prefer, which is the default: a server without TLS says so, and the
// driver closes the connection and dials again. Here the first connection is
// kept and handed out as the second, as libpq does it; every look at a server
// would otherwise cost it two backends.
type refusals struct {
	dial pgconn.DialFunc
	kept *askedConn // refused TLS, and was closed by the driver
	addr string
	over bool // the attempt has ended: nothing is kept any more
}

// keepRefused puts a refusals between config and its dialer for one attempt,
// which end ends.
func keepRefused(config *pgx.ConnConfig) (end func()) {
	r := &refusals{dial: config.DialFunc}
	dial := config.DialFunc
	config.DialFunc = r.next
	return func() {
		r.over = true
		config.DialFunc = dial
		if r.kept != nil {
			r.kept.Conn.Close()
		}
	}
}

func (r *refusals) next(ctx context.Context, network, addr string) (net.Conn, error) {
	if c := r.kept; c != nil && r.addr == addr {
		r.kept = nil
		if err := c.SetDeadline(time.Time{}); err == nil {
			return c.Conn, nil
		}
		c.Conn.Close()
	}
	conn, err := r.dial(ctx, network, addr)
	if err != nil || r.over {
		return conn, err
	}
	r.addr = addr
	return &askedConn{Conn: conn, r: r}, nil
}

// askedConn notices that TLS was asked for and refused.
type askedConn struct {
	net.Conn
	r       *refusals
	said    bool // something was written
	asked   bool // and that was an SSLRequest, whose answer is awaited
	refused bool
}

// Write is part of net.Conn.
func (c *askedConn) Write(b []byte) (int, error) {
	c.asked = !c.said && bytes.Equal(b, sslRequest)
	c.said = true
	return c.Conn.Write(b)
}

// Read is part of net.Conn.
func (c *askedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.asked {
		c.asked, c.refused = false, n == 1 && b[0] == 'N'
	}
	return n, err
}

// Close is part of net.Conn. A connection on which nothing but the refusal
// happened is kept.
func (c *askedConn) Close() error {
	if c.refused && c.r.kept == nil && !c.r.over {
		c.r.kept = c
		return nil
	}
	return c.Conn.Close()
}
