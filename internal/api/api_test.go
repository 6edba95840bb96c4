package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
	"repmgr/internal/host"
)

// patience bounds every wait of these tests; none is expected to come near it.
const patience = 30 * time.Second

// memory is a backend that answers from what a test puts into it.
type memory struct {
	mu       sync.Mutex
	own      failover.Report
	view     ClusterView
	seen     cluster.Sight
	received []failover.Report
	paused   []Pause
	faults   []Fault
	asked    []string // switchovers
	rejoined int
	woken    int
	followed []cluster.NodeID
	since    time.Time // when the last one's connection was taken
	hangUp   bool
	err      error  // of Receive and Pause
	streams  int    // that are open
	life     uint64 // that opened the last one
	frames   []sentFrame
	block    chan struct{} // if not nil, nothing is received before it is closed
}

func (m *memory) Report() failover.Report { m.mu.Lock(); defer m.mu.Unlock(); return m.own }

func (m *memory) Receive(_ context.Context, s Spoken) (failover.Report, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.received = append(m.received[:min(len(m.received), 10)], s.Report)
	m.since = s.Since
	if m.hangUp {
		s.HangUp()
	}
	return m.own, m.err
}

func (m *memory) Stream(from cluster.NodeID, life uint64, receive func() ([]byte, error)) {
	m.mu.Lock()
	m.streams++
	m.life = life
	block := m.block
	m.mu.Unlock()
	defer func() { m.mu.Lock(); defer m.mu.Unlock(); m.streams-- }()
	for {
		if block != nil {
			<-block
		}
		f, err := receive()
		if err != nil {
			return
		}
		m.mu.Lock()
		m.frames = append(m.frames, sentFrame{from, f})
		m.mu.Unlock()
	}
}

func (m *memory) View() ClusterView {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.view
	v.Own = m.own
	return v
}

func (m *memory) Sight(context.Context) (Sight, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Sight{Server: m.seen, Report: m.own}, m.err
}

func (m *memory) Sights(context.Context) (Sights, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Sights{Nodes: m.view.Nodes, Seen: map[cluster.NodeID]Sight{m.own.Node: {Server: m.seen, Report: m.own}}}, m.err
}

func (m *memory) Fenced(context.Context, cluster.NodeID) error { return nil }

func (m *memory) Pause(_ context.Context, order Pause) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.paused = append(m.paused, order)
	return m.err
}

func (m *memory) Startable(context.Context) (StartAnswer, error) { return StartAnswer{}, m.err }

func (m *memory) Drill(_ context.Context, pairs bool) (Drill, error) {
	d := Drill{Rule: "quorum", Outcomes: make([]failover.Outcome, 1)}
	if pairs {
		d.Outcomes = make([]failover.Outcome, 2)
	}
	return d, m.err
}

func (m *memory) Reach(_ context.Context, relay Relay) ([]Outlook, error) {
	told := []Outlook{{Node: 3, Reaches: []Sighting{{Node: 3, Reached: true}, {Node: 4, Error: "no route to host"}}}}
	for id := cluster.NodeID(5); id < 7; id++ {
		if relay.To(id) {
			told = append(told, Outlook{Node: id})
		}
	}
	return told, m.err
}

func (m *memory) Switchover(_ context.Context, to cluster.NodeID, by string) (SwitchoverAnswer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = append(m.asked, fmt.Sprintf("node %d by %s", to, by))
	return SwitchoverAnswer{Number: 4, Term: 2, From: 3}, m.err
}

func (m *memory) StepDown(_ context.Context, to cluster.NodeID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = append(m.asked, fmt.Sprintf("step down for node %d", to))
	return m.err
}

func (m *memory) StepUp(_ context.Context, from cluster.NodeID, end cluster.LSN) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = append(m.asked, fmt.Sprintf("step up for node %d at %s", from, end))
	return m.err
}

func (m *memory) Rejoin(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rejoined++
	return m.err
}

func (m *memory) Fault(_ context.Context, what Fault) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults = append(m.faults, what)
	return m.err
}

func (m *memory) Follow(_ context.Context, upstream cluster.NodeID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.followed = append(m.followed, upstream)
	return m.err
}

func (m *memory) Wake() { m.mu.Lock(); defer m.mu.Unlock(); m.woken++ }

// sentFrame is a frame of a stream, and whose it is.
type sentFrame struct {
	from  cluster.NodeID
	frame []byte
}

// journal collects what a server logs.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(b)
}

func (j *journal) String() string { j.mu.Lock(); defer j.mu.Unlock(); return j.buf.String() }

// await waits until the journal says text.
func (j *journal) await(t *testing.T, text string) {
	t.Helper()
	await(t, "the log to say "+text, func() bool { return strings.Contains(j.String(), text) })
}

func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %s for %s", patience, what)
		}
	}
}

// node is one daemon's server, on a port of loopback.
type node struct {
	*memory
	*journal
	id     *Identity
	target Target
}

func authority(t testing.TB) Authority {
	t.Helper()
	a, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func identity(t testing.TB, a Authority, id cluster.NodeID) *Identity {
	t.Helper()
	i, err := a.Identity("node", id)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func sampleReport(id cluster.NodeID) failover.Report {
	return failover.Report{
		Node: id, Name: "node", Incarnation: 1 << 63, Sequence: 7, Version: "6.0", PID: 1234, SystemID: "7123456789012345678",
		Type: cluster.Standby, Role: cluster.Standby, Location: "default", Priority: 100, Automatic: true,
		Server: failover.ServerRunning, Position: failover.Position{Timeline: 1, LSN: 0x3000148}, Replayed: 0x3000148,
		Receiving: true, Upstream: 1, Saw: []failover.Seen{{Node: 1, Ago: 200 * time.Millisecond}},
		State: "normal", Rule: "watch-upstream", Why: "the upstream answers",
	}
}

// serve starts node id of that authority, and stops it when the test ends.
func serve(t testing.TB, a Authority, id cluster.NodeID) *node {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{memory: &memory{own: sampleReport(id)}, journal: &journal{}, id: identity(t, a, id)}
	n.target = Target{ID: id, Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port}
	n.start(t, func(s *Server) error { return s.ServeTCP(l, n.id.ServerTLS) })
	return n
}

func (n *node) start(t testing.TB, run func(*Server) error) {
	s := NewServer(Options{Backend: n.memory, Log: slog.New(slog.NewTextHandler(n.journal, nil))})
	n.run(t, s, func() error { return run(s) })
}

// run serves until the test ends.
func (n *node) run(t testing.TB, s *Server, run func() error) {
	ended := make(chan error, 1)
	go func() { ended <- run() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s.Shutdown(ctx)
		if err := <-ended; err != nil {
			t.Errorf("the server ended with: %v", err)
		}
	})
}

func client(t testing.TB, to Target, config *tls.Config) *Client {
	c := Dial(to, config)
	t.Cleanup(c.Close)
	return c
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// A report is known to be said after its connection was taken, and no later: a daemon that has
// ended since may have said it, but none that had ended before. To say more for sure, the
// connection is given up.
func TestSince(t *testing.T) {
	t.Parallel()
	a := authority(t)
	three := serve(t, a, 3)
	began := host.Now()
	raw, err := net.Dial("tcp", three.target.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	sent := &writes{Conn: raw}
	conn := tls.Client(sent, identity(t, a, 1).ClientTLS())
	reader := bufio.NewReader(conn)
	exchange := func() (since time.Time, kept bool) {
		t.Helper()
		body, err := json.Marshal(sampleReport(1))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: repmgrd\r\nContent-Length: %d\r\n\r\n%s", PathExchange, len(body), body); err != nil {
			t.Fatal(err)
		}
		r, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil || r.StatusCode != http.StatusOK {
			t.Fatalf("%s, %v", r.Status, err)
		}
		three.memory.mu.Lock()
		defer three.memory.mu.Unlock()
		return three.since, !r.Close
	}
	first, kept := exchange()
	if first.Before(began) || !first.Before(sent.at[1]) || !kept {
		t.Errorf("taken %v after this side began; the handshake was answered %v after that; kept: %v", first.Sub(began), sent.at[1].Sub(began), kept)
	}
	three.memory.mu.Lock()
	three.hangUp = true
	three.memory.mu.Unlock()
	if again, kept := exchange(); !again.Equal(first) || kept {
		t.Errorf("the same connection was taken %v later; kept: %v", again.Sub(first), kept)
	}
}

// writes is a connection, and when something was sent over it.
type writes struct {
	net.Conn
	at []time.Time
}

func (w *writes) Write(b []byte) (int, error) {
	w.at = append(w.at, host.Now())
	return w.Conn.Write(b)
}

func TestDaemonsExchangeReports(t *testing.T) {
	t.Parallel()
	a := authority(t)
	three := serve(t, a, 3)
	c := client(t, three.target, identity(t, a, 1).ClientTLS())
	got, err := c.Exchange(within(t), sampleReport(1))
	if err != nil {
		t.Fatal(err)
	}
	if got.Node != 3 || got.Position.LSN != 0x3000148 || got.Saw[0].Ago != 200*time.Millisecond {
		t.Errorf("the answer is %+v", got)
	}
	if len(three.received) != 1 || three.received[0].Node != 1 || three.received[0].Incarnation != 1<<63 {
		t.Errorf("received %+v", three.received)
	}
}

func TestReportMustBeOfItsSender(t *testing.T) {
	t.Parallel()
	a := authority(t)
	three := serve(t, a, 3)
	c := client(t, three.target, identity(t, a, 1).ClientTLS())
	_, err := c.Exchange(within(t), sampleReport(2))
	if !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "node 1 sent a report of node 2") {
		t.Errorf("the error is %v", err)
	}
	if len(three.received) != 0 {
		t.Error("the report was taken in")
	}
}

func TestDaemonsErrorsArriveWhole(t *testing.T) {
	t.Parallel()
	a := authority(t)
	three := serve(t, a, 3)
	three.err = fault.New(fault.RepmgrdPause, "can't pause").WithDetail("a switchover runs").WithHint("wait for it")
	err := client(t, three.target, identity(t, a, 1).ClientTLS()).Pause(within(t), Pause{Paused: true, Reason: "maintenance"})
	var f *fault.Error
	if !errors.As(err, &f) || f.Code != fault.RepmgrdPause || f.Detail != "a switchover runs" || f.Hint != "wait for it" {
		t.Errorf("the error is %#v", err)
	}
	if !errors.Is(err, ErrFailed) || !strings.HasPrefix(err.Error(), "node 3 at 127.0.0.1:") {
		t.Errorf("the error is %v", err)
	}
}

func BenchmarkExchange(b *testing.B) {
	a := authority(b)
	three := serve(b, a, 3)
	c := client(b, three.target, identity(b, a, 1).ClientTLS())
	r := sampleReport(1)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Exchange(ctx, r); err != nil {
			b.Fatal(err)
		}
	}
}
