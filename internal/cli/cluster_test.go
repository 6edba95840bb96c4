package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cli"
	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/lab"
	"repmgr/internal/pg"
	"repmgr/internal/registry"
)

// outcome is what a command left behind.
type outcome struct {
	code           int
	stdout, stderr string
	took           time.Duration
}

// repmgr runs a command line in this process, as if by an ordinary user.
func repmgr(ctx context.Context, args ...string) outcome {
	var out, talk bytes.Buffer
	begin := time.Now()
	code := cli.Main(ctx, args, cli.System{
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: &talk,
		Getenv: func(string) string { return "" }, Now: time.Now, UID: 1000, Dir: "/", Executable: "/nowhere/bin/repmgr",
	})
	return outcome{code, out.String(), talk.String(), time.Since(begin)}
}

// wants checks an outcome: its status, and what stdout and stderr must hold.
func (o outcome) wants(t *testing.T, code int, stdout, stderr string) {
	t.Helper()
	if o.code != code || !strings.Contains(o.stdout, stdout) || !strings.Contains(o.stderr, stderr) {
		t.Errorf("got status %d, want %d with %q on stdout and %q on stderr\nstdout:\n%s\nstderr:\n%s",
			o.code, code, stdout, stderr, o.stdout, o.stderr)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pair is a primary and a standby, registered by hand: the verbs that register
// are not what is tested here.
type pair struct {
	lab       *lab.Lab
	authority api.Authority
	conf      string // configuration of node 1
}

func newPair(t *testing.T, ctx context.Context, standby bool) pair {
	t.Helper()
	l, err := lab.New(lab.Options{Nodes: 2, Unsynced: true})
	must(t, err)
	t.Cleanup(func() { l.Close() })
	n1, n2 := l.Node(1), l.Node(2)
	must(t, n1.InitPrimary(ctx))
	p := pair{lab: l, conf: filepath.Join(n1.Dir, "repmgr.conf")}
	c := connect(t, ctx, n1)
	_, err = registry.Migrate(ctx, c)
	must(t, err)
	p.authority, err = api.NewAuthority()
	must(t, err)
	must(t, registry.SaveAuthority(ctx, c, p.authority.CertPEM, p.authority.KeyPEM))
	must(t, registry.SaveNode(ctx, c, record(n1, 0, cluster.Primary)))
	must(t, os.WriteFile(p.conf, fmt.Appendf(nil, "node_id=1\nnode_name='node1'\nconninfo='%s'\ndata_directory='%s'\npg_bindir='%s'\n",
		n1.Conninfo(), n1.DataDir, l.Bindir), 0o644))
	if !standby {
		return p
	}
	must(t, registry.SaveNode(ctx, c, record(n2, 1, cluster.Standby)))
	must(t, n2.CloneFrom(ctx, n1))
	must(t, n2.Start(ctx))
	must(t, lab.Wait(ctx, time.Minute, "node2 to stream", func() error {
		if attached, err := n1.Attached(ctx, n2); err != nil || !attached {
			return errors.Join(err, errors.New("not attached"))
		}
		return nil
	}))
	return p
}

func record(n *lab.Node, upstream cluster.NodeID, role cluster.Role) cluster.Node {
	return cluster.Node{ID: cluster.NodeID(n.ID), Upstream: upstream, Active: true, Name: n.Name, Role: role,
		Location: "default", Priority: 100, Conninfo: n.Conninfo(), ReplUser: "repmgr", ConfigFile: "/etc/repmgr.conf"}
}

func connect(t *testing.T, ctx context.Context, n *lab.Node) *pg.Conn {
	t.Helper()
	ci, err := pg.ParseConninfo(n.Conninfo())
	must(t, err)
	c, err := pg.Connect(ctx, ci)
	must(t, err)
	t.Cleanup(func() { registry.Close(c) })
	return c
}

// TestRealNodes asks a real primary and a real standby, whole and broken.
func TestRealNodes(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p := newPair(t, ctx, true)
	n1, n2 := p.lab.Node(1), p.lab.Node(2)

	show := repmgr(ctx, "-f", p.conf, "cluster", "show")
	show.wants(t, 0, " 1  | node1 | primary | * running |          | default  | 100      | 1        | host=", "")
	show.wants(t, 0, " 2  | node2 | standby |   running | node1    | default  | 100      | 1        | host=", "")
	if show.stderr != "" {
		t.Errorf("a healthy cluster has nothing to say, got %q", show.stderr)
	}
	t.Logf("cluster show took %v", show.took)
	repmgr(ctx, "cluster", "show", "--csv", "-d", n2.Conninfo()).wants(t, 0, "1,0,0\n2,0,1\n", "")
	repmgr(ctx, "cluster", "show", "-f", p.conf, "--format=json").wants(t, 0, `"status": "  running"`, "")

	status := repmgr(ctx, "-f", p.conf, "node", "status", "--verbose")
	status.wants(t, 0, "Replication connections: 1 (of maximal 10)", "")
	status.wants(t, 0, "\tPostgreSQL version: "+fmt.Sprint(p.lab.Major)+".", "")
	repmgr(ctx, "-f", p.conf, "master", "status", "--csv").wants(t, 0, "\"Node name\",\"node1\"\n\"Node ID\",\"1\"\n", "")
	repmgr(ctx, "-f", p.conf, "node", "status", "--is-shutdown-cleanly").wants(t, 0, "--state=UP\n", "")
	repmgr(ctx, "__complete", "-f", p.conf, "cluster", "event", "--node-name", "").wants(t, 0, "node1\nnode2\n", "")
	repmgr(ctx, "__complete", "-f", p.conf, "cluster", "event", "--node-id", "").wants(t, 0, "1\tnode1\n2\tnode2\n", "")

	must(t, n2.Stop(ctx, "immediate"))
	repmgr(ctx, "-f", p.conf, "cluster", "show").wants(t, 25, "? unreachable | ? node1", "  - cannot connect to node \"node2\" (ID: 2)\n")
	repmgr(ctx, "-f", p.conf, "cluster", "show", "-v").wants(t, 25, "", "connection refused")
	quiet := repmgr(ctx, "-f", p.conf, "cluster", "show", "--terse")
	quiet.wants(t, 25, "? unreachable", "")
	if quiet.stderr != "" {
		t.Errorf("--terse says %q", quiet.stderr)
	}
	repmgr(ctx, "-f", p.conf, "node", "status").wants(t, 25, "", "node \"node2\" (ID: 2) is not attached")

	must(t, n1.Stop(ctx, "fast"))
	repmgr(ctx, "-f", p.conf, "node", "status", "--is-shutdown-cleanly").wants(t, 0, "--state=SHUTDOWN --last-checkpoint-lsn=0/", "")
	repmgr(ctx, "-f", p.conf, "cluster", "show").wants(t, 6, "", "ERROR: connection to")
	must(t, n1.Start(ctx))
	must(t, n1.Kill9(ctx))
	repmgr(ctx, "-f", p.conf, "node", "status", "--is-shutdown-cleanly").wants(t, 0, "--state=UNCLEAN_SHUTDOWN\n", "")
}

// TestRealRecords reads events and deletes monitoring history of a real server.
func TestRealRecords(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p := newPair(t, ctx, false)
	c := connect(t, ctx, p.lab.Node(1))
	for i := range 25 {
		must(t, registry.RecordEvent(ctx, c, &registry.Event{Node: 1, Name: fmt.Sprintf("event_%d", i), Successful: i%2 == 0, Details: "what, and why"}))
	}
	must(t, registry.RecordEvent(ctx, c, &registry.Event{Node: 9, Name: "gone", Successful: true}))
	lines := func(args ...string) int {
		o := repmgr(ctx, append([]string{"-f", p.conf, "cluster", "event", "--csv"}, args...)...)
		o.wants(t, 0, "", "")
		return strings.Count(o.stdout, "\n")
	}
	for want, args := range map[int][]string{
		20: nil, 26: {"--all"}, 3: {"--limit", "3"}, 25: {"--node-name", "node1", "--all"}, 1: {"--node-id", "9"}, 0: {"--event", "nonsense"},
	} {
		if got := lines(args...); got != want {
			t.Errorf("%v: %d events, want %d", args, got, want)
		}
	}
	repmgr(ctx, "-f", p.conf, "cluster", "events", "--event", "event_3").wants(t, 0, " 1       | node1 | event_3 | f  | ", "")
	repmgr(ctx, "-f", p.conf, "cluster", "event", "--event", "nonsense").wants(t, 0, "no matching events found\n", "")
	repmgr(ctx, "-f", p.conf, "cluster", "event", "--all", "--limit=1").wants(t, 0, "gone", "--all is ignored")

	count := func() int64 {
		n, err := registry.CountMonitoring(ctx, c, registry.History{})
		must(t, err)
		return n
	}
	repmgr(ctx, "-f", p.conf, "cluster", "cleanup").wants(t, 0, "", "there is no monitoring history to delete")
	for _, id := range []cluster.NodeID{2, 2, 3} {
		must(t, registry.AddMonitoring(ctx, c, registry.Sample{Primary: 1, Standby: id, PrimaryLSN: 0x3000000}))
	}
	for _, step := range []struct {
		args []string
		says string
		left int64
	}{
		{[]string{"--dry-run"}, "INFO: would delete 3 rows", 3},
		{[]string{"-k", "1"}, "there is no monitoring history to delete older than 1 days", 3},
		{[]string{"--node-id=3"}, "NOTICE: deleted 1 rows of monitoring history of node 3", 2},
		{nil, "NOTICE: deleted 2 rows", 0},
	} {
		repmgr(ctx, append([]string{"-f", p.conf, "cluster", "cleanup"}, step.args...)...).wants(t, 0, "", step.says)
		if got := count(); got != step.left {
			t.Errorf("cleanup %v left %d rows, want %d", step.args, got, step.left)
		}
	}
	if got := lines("--event", "cluster_cleanup"); got != 2 {
		t.Errorf("%d events cluster_cleanup, want 2: none of a dry run or of nothing", got)
	}
}

// TestHungNodes costs one connect timeout for all that hang, not one for each.
func TestHungNodes(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p := newPair(t, ctx, false)
	n1 := p.lab.Node(1)
	c := connect(t, ctx, n1)
	identity, err := p.authority.Identity("test", 1)
	must(t, err)
	daemon := daemonOn(t, identity)
	must(t, registry.SaveEndpoint(ctx, c, 1, daemon))
	const (
		timeout = 2 * time.Second // connect_timeout, where the conninfo has none
		hanging = 15              // so many that one after the other would take longer than any busy machine for all at once
	)
	for id := cluster.NodeID(2); id <= 20; id++ {
		n := record(n1, 1, cluster.Standby)
		n.ID, n.Name = id, fmt.Sprintf("node%d", id)
		endpoint := daemon
		if id <= 1+hanging {
			hung := hang(t)
			n.Conninfo = fmt.Sprintf("host=127.0.0.1 port=%d user=repmgr dbname=repmgr", hung)
			endpoint = registry.Endpoint{Host: "127.0.0.1", Port: hung}
		}
		must(t, registry.SaveNode(ctx, c, n))
		must(t, registry.SaveEndpoint(ctx, c, id, endpoint))
	}
	for _, args := range [][]string{{"cluster", "show"}, {"service", "status"}} {
		o := repmgr(ctx, append([]string{"-f", p.conf}, args...)...)
		if got := strings.Count(o.stdout, "? unreachable"); got != hanging {
			t.Errorf("%v: %d nodes unreachable, want %d\n%s%s", args, got, hanging, o.stdout, o.stderr)
		}
		if o.took < timeout || o.took >= hanging*timeout {
			t.Errorf("%v took %v, want one timeout of %v", args, o.took, timeout)
		}
		t.Logf("%v took %v", args, o.took)
	}
	m := repmgr(ctx, "-f", p.conf, "cluster", "crosscheck", "--csv")
	if got := strings.Count(m.stdout, ",-1\n"); got != hanging || m.code != 25 {
		t.Errorf("crosscheck: status %d, want 25; %d nodes unreachable, want %d\n%s%s", m.code, got, hanging, m.stdout, m.stderr)
	}
	if m.took < timeout || m.took >= hanging*timeout {
		t.Errorf("crosscheck took %v, want one timeout of %v", m.took, timeout)
	}
	t.Logf("crosscheck took %v", m.took)
	o := repmgr(ctx, "-f", p.conf, "service", "pause")
	o.wants(t, 26, "", "node \"node2\" (ID: 2) could not be paused")
	if o.took >= hanging*timeout {
		t.Errorf("service pause took %v", o.took)
	}
}

// hang listens, accepts, and never says a word.
func hang(t *testing.T) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// backend is a daemon as far as the API shows one.
type backend struct {
	mu     sync.Mutex
	report failover.Report
}

func (b *backend) Report() failover.Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.report
}

func (b *backend) Receive(context.Context, api.Spoken) (failover.Report, error) {
	return b.Report(), nil
}

func (b *backend) View() api.ClusterView {
	return api.ClusterView{Version: api.ViewVersion, Own: b.Report()}
}

func (b *backend) Sight(context.Context) (api.Sight, error) {
	return api.Sight{}, errors.New("it has no server")
}

func (b *backend) Sights(context.Context) (api.Sights, error) {
	return api.Sights{}, errors.New("it has no server")
}

func (b *backend) Fenced(context.Context, cluster.NodeID) error { return nil }

func (b *backend) Pause(_ context.Context, order api.Pause) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.report.Paused, b.report.PauseReason = order.Paused, order.Reason
	return nil
}

func (b *backend) Startable(context.Context) (api.StartAnswer, error) { return api.StartAnswer{}, nil }

func (b *backend) Drill(context.Context, bool) (api.Drill, error) { return api.Drill{}, nil }

func (b *backend) Reach(context.Context, api.Relay) ([]api.Outlook, error) { return nil, nil }

func (b *backend) Switchover(context.Context, cluster.NodeID, string) (api.SwitchoverAnswer, error) {
	return api.SwitchoverAnswer{}, nil
}

func (b *backend) StepDown(context.Context, cluster.NodeID) error            { return nil }
func (b *backend) StepUp(context.Context, cluster.NodeID, cluster.LSN) error { return nil }
func (b *backend) Rejoin(context.Context) error                              { return nil }

func (b *backend) Fault(context.Context, api.Fault) error { return nil }

func (b *backend) Follow(context.Context, cluster.NodeID) error { return nil }

func (b *backend) Wake() {}

func (b *backend) Stream(_ cluster.NodeID, _ uint64, receive func() ([]byte, error)) {
	for err := error(nil); err == nil; {
		_, err = receive()
	}
}

// daemonOn serves a daemon over TLS until the test ends.
func daemonOn(t *testing.T, identity *api.Identity) registry.Endpoint {
	t.Helper()
	_, e := serve(t, identity, &backend{report: failover.Report{Node: 1, PID: 4711}})
	return e
}

func serve(t *testing.T, identity *api.Identity, b *backend) (*api.Server, registry.Endpoint) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := api.NewServer(api.Options{Backend: b, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	go s.ServeTCP(l, identity.ServerTLS)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s.Shutdown(ctx)
	})
	return s, registry.Endpoint{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port}
}

// TestDaemons asks and pauses the local daemon by its socket and another over TLS.
func TestDaemons(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p := newPair(t, ctx, true)
	n1 := p.lab.Node(1)
	c := connect(t, ctx, n1)

	off := repmgr(ctx, "-f", p.conf, "service", "status")
	off.wants(t, 0, " 1  | node1 | primary | * running |          | not running | n/a | n/a     | n/a\n", "")
	off.wants(t, 0, " 2  | node2 | standby |   running | node1    | n/a         | n/a | n/a     | n/a\n", "address is not known")

	local := &backend{report: failover.Report{Node: 1, PID: 100}}
	remote := &backend{report: failover.Report{Node: 2, PID: 200, Upstream: 1, Saw: []failover.Seen{{Node: 1, Ago: 1200 * time.Millisecond}}}}
	identity, err := p.authority.Identity("node2", 2)
	must(t, err)
	remoteServer, endpoint := serve(t, identity, remote)
	must(t, registry.SaveEndpoint(ctx, c, 2, endpoint))
	localServer, _ := serve(t, identity, local)
	state := n1.DataDir + ".repmgr"
	must(t, os.MkdirAll(state, 0o700))
	socket, err := api.ListenUnix(state)
	must(t, err)
	go localServer.ServeUnix(socket)

	status := repmgr(ctx, "-f", p.conf, "daemon", "status")
	status.wants(t, 0, " 1  | node1 | primary | * running |          | running | 100 | no      | n/a\n", "")
	status.wants(t, 0, " 2  | node2 | standby |   running | node1    | running | 200 | no      | 1 second(s) ago\n", "")
	t.Logf("service status took %v", status.took)
	repmgr(ctx, "-f", p.conf, "service", "status", "--csv").wants(t, 0, "2,node2,standby,1,1,200,0,100,1,default\n", "")

	repmgr(ctx, "-f", p.conf, "service", "pause", "--dry-run").wants(t, 0, "", "INFO: node \"node2\" (ID: 2) would be paused\n")
	if local.Report().Paused || remote.Report().Paused {
		t.Error("a dry run has paused a daemon")
	}
	repmgr(ctx, "-f", p.conf, "service", "pause").wants(t, 0, "", "NOTICE: node \"node2\" (ID: 2) paused\n")
	if !local.Report().Paused || !remote.Report().Paused {
		t.Error("a daemon is not paused")
	}
	repmgr(ctx, "-f", p.conf, "service", "status").wants(t, 0, "| 200 | yes     |", "")
	repmgr(ctx, "-f", p.conf, "service", "unpause").wants(t, 0, "", "NOTICE: node \"node1\" (ID: 1) unpaused\n")
	if local.Report().Paused || remote.Report().Paused {
		t.Error("a daemon is still paused")
	}

	must(t, remoteServer.Shutdown(ctx))
	gone := repmgr(ctx, "-f", p.conf, "service", "pause")
	gone.wants(t, 26, "", "ERROR: node \"node2\" (ID: 2) could not be paused\n")
	gone.wants(t, 26, "", "NOTICE: node \"node1\" (ID: 1) paused\n")
	repmgr(ctx, "-f", p.conf, "service", "status").wants(t, 0, "node1    | not running | n/a | n/a     | n/a\n", "")
}

// TestRememberedMembers are a hint that saves time: what the records say is shown,
// whatever the daemon wrote down, and a member that is none any more is not waited for.
func TestRememberedMembers(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p := newPair(t, ctx, true)
	n1, n2 := p.lab.Node(1), p.lab.Node(2)
	state := t.TempDir()
	old, err := os.ReadFile(p.conf)
	must(t, err)
	must(t, os.WriteFile(p.conf, append(old, "state_directory='"+state+"'\n"...), 0o644))
	remember := func(nodes ...cluster.Node) {
		t.Helper()
		text, err := json.Marshal(map[string]any{"format": 1, "nodes": nodes})
		must(t, err)
		must(t, os.WriteFile(filepath.Join(state, "cluster.json"), text, 0o600))
	}
	plain := repmgr(ctx, "-f", p.conf, "cluster", "show")
	plain.wants(t, 0, "| node2 | standby |   running | node1", "")
	strange := n1.Conninfo() + " application_name=strange"
	gone := record(n2, 1, cluster.Standby)
	gone.ID, gone.Conninfo = 9, fmt.Sprintf("host=127.0.0.1 port=%d user=repmgr dbname=repmgr connect_timeout=60", hang(t))
	moved := record(n2, 1, cluster.Standby)
	moved.Conninfo = strange
	hung := moved
	hung.Conninfo = gone.Conninfo
	for name, nodes := range map[string][]cluster.Node{
		"as they are":        {record(n1, 0, cluster.Primary), record(n2, 1, cluster.Standby)},
		"one is hung now":    {record(n2, 1, cluster.Standby), gone},
		"one was elsewhere":  {moved},
		"one was nowhere":    {hung},
		"two, one conninfo":  {record(n2, 1, cluster.Standby), {ID: 5, Conninfo: n2.Conninfo()}},
		"one that is no way": {{ID: 2, Conninfo: "host='"}},
	} {
		remember(nodes...)
		o := repmgr(ctx, "-f", p.conf, "cluster", "show")
		if o.code != 0 || o.stdout != plain.stdout || o.stderr != "" {
			t.Errorf("%s: got status %d\n%s%s\nwant\n%s", name, o.code, o.stdout, o.stderr, plain.stdout)
		}
		if o.took >= time.Minute {
			t.Errorf("%s: took %v, which is the timeout of the one that is no member", name, o.took)
		}
	}
	must(t, os.WriteFile(filepath.Join(state, "cluster.json"), []byte("{"), 0o600))
	repmgr(ctx, "-f", p.conf, "cluster", "show").wants(t, 0, plain.stdout, "")
	c := connect(t, ctx, n1)
	must(t, lab.Wait(ctx, time.Minute, "the sessions that no record asked for to be closed", func() error {
		var left int
		err := c.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'strange'").Scan(&left)
		if err == nil && left > 0 {
			err = fmt.Errorf("%d are left", left)
		}
		return err
	}))
	remember(record(n2, 1, cluster.Standby))
	must(t, n2.Stop(ctx, "immediate"))
	repmgr(ctx, "-f", p.conf, "cluster", "show", "-v").wants(t, 25, "? unreachable | ? node1", "connection refused")
}
