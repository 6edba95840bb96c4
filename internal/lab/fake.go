package lab

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/failover"
)

// fake is a standby that is not there. Its daemon answers the other daemons and the
// commands that ask all nodes, over the real server of package api; its server lets
// everybody in, and answers no question.
type fake struct {
	api.Backend // nil: nobody asks a fake for more than the methods below

	wide     *Wide
	node     cluster.Node
	daemon   api.Target // where the daemon listens
	server   *api.Server
	postgres net.Listener
	born     time.Time
	life     uint64
	told     atomic.Uint64 // reports
	sessions atomic.Int64  // of PostgreSQL
}

// startFake makes a fake that listens in the hub of the lab's network.
func (w *Wide) startFake(id int, authority api.Authority) (*fake, error) {
	f := &fake{wide: w, born: time.Now(), life: rand.Uint64()}
	identity, err := authority.Identity(fmt.Sprintf("node%d", id), cluster.NodeID(id))
	if err != nil {
		return nil, err
	}
	var daemon net.Listener
	if err := inNamespace(w.network.hub(), func() (err error) {
		if f.postgres, err = net.Listen("tcp", hubAddress+":0"); err != nil {
			return err
		}
		daemon, err = net.Listen("tcp", hubAddress+":0")
		return err
	}); err != nil {
		return nil, fmt.Errorf("listen for node %d: %w", id, err)
	}
	f.node = w.record(id, hubAddress, portOf(f.postgres))
	f.daemon = api.Target{ID: f.node.ID, Host: hubAddress, Port: portOf(daemon)}
	f.server = api.NewServer(api.Options{Backend: f, Log: slog.New(slog.DiscardHandler)})
	go f.serveSessions()
	go func() { _ = f.server.ServeTCP(daemon, func() *tls.Config { return identity.ServerTLS() }) }() // ends with close
	return f, nil
}

func portOf(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

func (f *fake) close() error {
	f.postgres.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = f.server.Shutdown(ctx) // what is kept open is cut off then
	return nil
}

// serveSessions lets everybody in.
func (f *fake) serveSessions() {
	for {
		conn, err := f.postgres.Accept()
		if err != nil {
			return
		}
		go f.session(conn)
	}
}

// session is one session of PostgreSQL (manual, "Message Flow"), without encryption and
// without a question that is answered.
func (f *fake) session(conn net.Conn) {
	defer conn.Close()
	b := pgproto3.NewBackend(conn, conn)
	for {
		start, err := b.ReceiveStartupMessage()
		if err != nil {
			return
		}
		if _, begins := start.(*pgproto3.StartupMessage); begins {
			break
		}
		if _, err := conn.Write([]byte("N")); err != nil { // neither TLS nor GSSAPI
			return
		}
	}
	f.sessions.Add(1)
	b.Send(&pgproto3.AuthenticationOk{})
	b.Send(&pgproto3.ParameterStatus{Name: "server_version", Value: fmt.Sprint(f.wide.Major)})
	b.Send(&pgproto3.BackendKeyData{ProcessID: uint32(f.node.ID), SecretKey: make([]byte, 4)})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	for b.Flush() == nil {
		message, err := b.Receive()
		if err != nil {
			return
		}
		switch message.(type) {
		case *pgproto3.Terminate:
			return
		case *pgproto3.Parse:
			b.Send(unanswered)
		case *pgproto3.Query:
			b.Send(unanswered)
			b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		case *pgproto3.Sync:
			b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		}
	}
}

var unanswered = &pgproto3.ErrorResponse{Severity: "ERROR", Code: "0A000", Message: "a fake has no data"}

// Report is that of a standby's daemon where all is well.
func (f *fake) Report() failover.Report {
	return failover.Report{
		Node: f.node.ID, Name: f.node.Name, Incarnation: f.life, Sequence: f.told.Add(1), Version: "fake", PID: 1000 + int(f.node.ID), Age: time.Since(f.born),
		Type: cluster.Standby, Location: f.node.Location, Priority: f.node.Priority, Automatic: true,
		Server: failover.ServerRunning, Role: cluster.Standby, Position: failover.Position{Timeline: 1, LSN: 1 << 24}, Replayed: 1 << 24,
		Receiving: true, Upstream: f.node.Upstream, State: "normal", Rule: "stay", Why: "all is well",
	}
}

// Receive takes a report and forgets it.
func (f *fake) Receive(context.Context, api.Spoken) (failover.Report, error) {
	return f.Report(), nil
}

// View is that of a daemon that has nothing to tell of others.
func (f *fake) View() api.ClusterView { return api.ClusterView{Own: f.Report()} }

// Sight is that of a standby that streams, and of whom the other fakes stream.
func (f *fake) Sight(context.Context) (api.Sight, error) {
	own := f.node
	senders := map[string][]string{}
	for _, other := range f.wide.fakes {
		if other.node.Upstream == own.ID {
			senders[other.node.Name] = []string{"streaming"}
		}
	}
	seen := cluster.Sight{Own: &own, Reach: cluster.Up, Recovery: cluster.InRecovery, Timeline: 1, Received: 1 << 24, Replayed: 1 << 24, Senders: senders}
	return api.Sight{Server: seen, Report: f.Report()}, nil
}

// Reach takes as long as it takes to give up the silent nodes, and says that all others
// are reached; with a relay also that other fakes say so.
func (f *fake) Reach(ctx context.Context, relay api.Relay) ([]api.Outlook, error) {
	select {
	case <-time.After(ConnectTimeout):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	told := []api.Outlook{f.outlook()}
	for _, other := range f.wide.fakes {
		if other != f && relay.To(other.node.ID) {
			told = append(told, other.outlook())
		}
	}
	return told, nil
}

// outlook is what the fake reaches.
func (f *fake) outlook() api.Outlook {
	o := api.Outlook{Node: f.node.ID, Reaches: []api.Sighting{{Node: 1, Reached: true}}}
	for _, other := range f.wide.fakes {
		o.Reaches = append(o.Reaches, api.Sighting{Node: other.node.ID, Reached: true})
	}
	for _, n := range f.wide.silent {
		o.Reaches = append(o.Reaches, api.Sighting{Node: n.ID, Error: fmt.Sprintf(
			"connection to %q: failed to connect to `user=repmgr database=repmgr`: dial error: timeout: dial tcp: i/o timeout", n.Conninfo)})
	}
	return o
}
