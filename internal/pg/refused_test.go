package pg

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// TestRefusedTLSCostsOneConnection counts what a server sees of one session under
// sslmode=prefer: a real connection is relayed, so that the count is the network's.
func TestRefusedTLSCostsOneConnection(t *testing.T) {
	t.Parallel()
	info := relayed(t)
	for mode, want := range map[string]int32{"prefer": 1, "disable": 1} {
		t.Run(mode, func(t *testing.T) {
			info.seen.Store(0)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			c, err := Connect(ctx, info.conninfo.With("sslmode", mode))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(ctx)
			if _, err := c.Server(ctx); err != nil {
				t.Fatal(err)
			}
			if got := info.seen.Load(); got != want {
				t.Errorf("the server saw %d connections, want %d", got, want)
			}
		})
	}
}

// TestRefusedTLSIsNotKept says that a session that insists on TLS fails, and
// leaves no connection behind.
func TestRefusedTLSIsNotKept(t *testing.T) {
	t.Parallel()
	info := relayed(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if c, err := Connect(ctx, info.conninfo.With("sslmode", "require")); err == nil {
		c.Close(ctx)
		t.Fatal("a session without TLS was opened under sslmode=require")
	}
	until(t, "the end of every connection", func() bool { return info.open.Load() == 0 })
}

// relay passes connections on to a real server and counts them.
type relay struct {
	conninfo   Conninfo
	seen, open atomic.Int32
}

func relayed(t *testing.T) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	host, port, _ := net.SplitHostPort(l.Addr().String())
	plain := newInstance(t)
	plain.start(t)
	server := plain.tcp("postgres", "")
	r := &relay{conninfo: server.With("host", host).With("port", port)}
	to := net.JoinHostPort(server.Get("host"), server.Get("port"))
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			r.seen.Add(1)
			r.open.Add(1)
			go r.pass(in, to)
		}
	}()
	return r
}

func (r *relay) pass(in net.Conn, to string) {
	defer r.open.Add(-1)
	defer in.Close()
	out, err := new(net.Dialer).DialContext(context.Background(), "tcp", to)
	if err != nil {
		return
	}
	defer out.Close()
	go func() {
		_, _ = io.Copy(out, in) // until the client closes
		out.Close()
	}()
	_, _ = io.Copy(in, out)
}
