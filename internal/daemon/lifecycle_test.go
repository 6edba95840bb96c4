package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"repmgr/internal/lab"
	"repmgr/internal/quorum"
	"repmgr/internal/raftstore"
)

// A daemon's life around the failover: what it refuses to start with, what a
// signal does, what it leaves behind.
func TestLifecycle(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 2, Auth: lab.SCRAM})
	n, other := l.Node(2), l.Node(1)
	daemon := func(args ...string) lab.Result { return runDaemon(ctx, n, args...) }
	t.Run("a second daemon is refused", func(t *testing.T) {
		refused(t, daemon("--daemonize=false", "--no-pid-file"), 3, "another repmgrd watches this node")
		refused(t, daemon(), 3, "another repmgrd watches this node") // the parent tells it too
	})
	t.Run("a second daemon with a state directory of its own is refused", func(t *testing.T) {
		other := filepath.Join(n.Dir, "second.conf")
		text, err := os.ReadFile(n.ConfFile())
		must(t, err)
		must(t, os.WriteFile(other, append(text, "\nstate_directory = '"+filepath.Join(n.Dir, "second")+"'\ndaemon_port = 1\n"...), 0o644))
		refused(t, n.Program(ctx, "repmgrd", "-f", other, "--daemonize=false", "--no-pid-file"), 3, "another repmgrd watches the server of this data directory")
	})
	t.Run("reload", func(t *testing.T) {
		log := filepath.Join(n.Dir, "moved.log")
		must(t, n.WriteConf(map[string]string{"monitor_interval_secs": "2", "log_file": log}))
		must(t, n.SignalDaemon(syscall.SIGHUP))
		waitFor(t, ctx, "the new log file", func() error { return logged(log, `monitor_interval_secs is now "2"`) })
		must(t, os.Rename(log, log+".1"))
		must(t, n.WriteConf(map[string]string{"monitor_interval_secs": "never", "log_file": log}))
		must(t, n.SignalDaemon(syscall.SIGHUP))
		waitFor(t, ctx, "the refusal of a broken file", func() error { return logged(log+".1", "the configuration was not reloaded") })
		must(t, n.WriteConf(map[string]string{"log_file": log}))
		must(t, n.SignalDaemon(syscall.SIGHUP))
		waitFor(t, ctx, "the log file to be opened anew", func() error { return logged(log, `monitor_interval_secs is now "1"`) })
	})
	t.Run("end", func(t *testing.T) {
		pidFile := filepath.Join(n.Dir, "repmgrd.pid")
		if _, err := os.Stat(pidFile); err != nil {
			t.Error(err)
		}
		status, err := n.StopDaemon(ctx)
		must(t, err)
		if _, err := os.Stat(pidFile); status != 0 || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("ended with status %d, PID file: %v", status, err)
		}
		waitEvent(t, ctx, other, "repmgrd_shutdown", n, true)
	})
	t.Run("a wrong data directory", func(t *testing.T) {
		_, err := other.StopDaemon(ctx) // it would hold the directory's lock
		must(t, err)
		defer func() { must(t, other.StartDaemon(ctx)) }()
		must(t, n.WriteConf(map[string]string{"data_directory": other.DataDir, "state_directory": filepath.Join(n.Dir, "elsewhere")}))
		refused(t, daemon(), 1, "data_directory is not the server's")
	})
	t.Run("not registered", func(t *testing.T) {
		must(t, n.WriteConf(map[string]string{"node_id": "77"}))
		refused(t, daemon(), 1, `node 77 ("node2") is not registered`)
	})
	t.Run("the port is taken", func(t *testing.T) {
		must(t, n.WriteConf(map[string]string{"daemon_port": "1"}))
		refused(t, daemon(), 1, "repmgrd cannot listen")
	})
	t.Run("the server is down and nothing is known", func(t *testing.T) {
		must(t, n.WriteConf(map[string]string{"state_directory": filepath.Join(n.Dir, "new"), "conninfo": "host=127.0.0.1 port=1 user=repmgr dbname=repmgr"}))
		refused(t, daemon(), 6, "the own server does not answer, and nothing is known yet")
	})
	t.Run("into the background", func(t *testing.T) { inBackground(t, ctx, n, daemon) })
}

// runDaemon runs a daemon to its end, or into the background.
func runDaemon(ctx context.Context, n *lab.Node, args ...string) lab.Result {
	return n.Program(ctx, "repmgrd", append([]string{"-f", n.ConfFile()}, args...)...)
}

func refused(t *testing.T, r lab.Result, code int, text string) {
	t.Helper()
	if r.Code != code || !strings.Contains(r.Stderr, text) {
		t.Errorf("exit status %d, want %d with %q:\n%s", r.Code, code, text, r.Stderr)
	}
}

// A daemon does not start with what another node, or a later version, has left.
func TestStateOfOthers(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 2})
	n := l.Node(2)
	_, err := n.StopDaemon(ctx)
	must(t, err)
	daemon := func() lab.Result { return runDaemon(ctx, n) }
	t.Run("the state of another cluster", func(t *testing.T) {
		for name, id := range map[string]raftstore.Identity{
			"another node": {Group: "g", RaftID: 5, Node: 1},
		} {
			dir := filepath.Join(n.Dir, name)
			store, err := raftstore.Open(dir)
			must(t, err)
			must(t, store.Create(id, quorum.Stored{}))
			must(t, store.Close())
			must(t, giveAway(dir, n))
			must(t, n.WriteConf(map[string]string{"state_directory": dir}))
			refused(t, daemon(), 1, "the state directory belongs to "+name)
		}
	})
	t.Run("the state of another version", func(t *testing.T) {
		dir := filepath.Join(n.Dir, "newer")
		must(t, os.Mkdir(dir, 0o700))
		must(t, os.WriteFile(filepath.Join(dir, "cluster.json"), []byte(`{"format": 2}`), 0o600))
		must(t, giveAway(dir, n))
		must(t, n.WriteConf(map[string]string{"state_directory": dir}))
		refused(t, daemon(), 1, "Format 2 was found, this version knows formats up to 1")
		if text, err := os.ReadFile(filepath.Join(dir, "cluster.json")); err != nil || string(text) != `{"format": 2}` {
			t.Errorf("it was touched: %s %v", text, err)
		}
	})
}

// giveAway makes a directory and what is in it the lab user's.
func giveAway(dir string, n *lab.Node) error {
	info, err := os.Stat(n.ConfFile())
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t)
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, int(owner.Uid), int(owner.Gid)))
	})
}

// inBackground starts the daemon as an operator would, and while its server is
// down: the cluster is remembered.
func inBackground(t *testing.T, ctx context.Context, n *lab.Node, daemon func(...string) lab.Result) {
	log := filepath.Join(n.Dir, "background.log")
	must(t, n.WriteConf(map[string]string{"log_file": log}))
	must(t, n.Stop(ctx, "fast"))
	must(t, daemon().Err())
	waitFor(t, ctx, "the daemon to wait", func() error { return logged(log, "repmgrd waits for it") })
	must(t, n.Start(ctx))
	waitFor(t, ctx, "the daemon to watch", func() error { return watches(ctx, n) })
	r, err := n.Report(ctx)
	must(t, err)
	must(t, syscall.Kill(r.PID, syscall.SIGTERM))
	waitFor(t, ctx, "its end", func() error { return logged(log, "repmgrd ends") })
}

// The failover works as well with passwords and with certificates only.
func TestFailoverByProof(t *testing.T) {
	for name, auth := range map[string]lab.Auth{"scram": lab.SCRAM, "tls": lab.TLS} {
		t.Run(name, func(t *testing.T) {
			l, ctx := bringUp(t, lab.Options{Nodes: 3, Auth: auth, Slots: true})
			must(t, l.Node(1).Kill9(ctx))
			waitFor(t, ctx, "a new primary", func() error { _, err := l.Primary(ctx); return err })
			primary, err := l.Primary(ctx)
			must(t, err)
			for _, n := range l.Nodes[1:] {
				if n != primary {
					waitFollows(t, ctx, n, primary)
				}
			}
		})
	}
}

// slow passes connections on to a server, each after a while, and returns its own port.
func slow(t *testing.T, port int, by time.Duration) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { listener.Close() })
	pass := func(client net.Conn) {
		defer client.Close()
		time.Sleep(by)
		server, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return
		}
		defer server.Close()
		go func() {
			_, _ = io.Copy(server, client)
			server.Close()
		}()
		_, _ = io.Copy(client, server)
	}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go pass(client)
		}
	}()
	return listener.Addr().(*net.TCPAddr).Port
}

// On a host where a session takes longer to open than a look may take, the daemon gets
// one all the same.
func TestSessionsThatTakeLong(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 1})
	n := l.Node(1)
	_, err := n.StopDaemon(ctx)
	must(t, err)
	port := slow(t, n.Port, 2500*time.Millisecond)
	must(t, n.WriteConf(map[string]string{"conninfo": fmt.Sprintf("host=127.0.0.1 port=%d user=repmgr dbname=repmgr connect_timeout=20", port)}))
	must(t, n.StartDaemon(ctx))
	waitFor(t, ctx, "the daemon to watch its server", func() error { return watches(ctx, n) })
}
