package daemon_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"repmgr/internal/lab"
)

// The primary's daemon tells of the standbys' and the witness's coming and
// going, and runs the command when too few are attached, and when they are again.
func TestChildNodes(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 2, Witness: true, Conf: map[string]string{"failover": "manual"}})
	primary, standby, witness := l.Node(1), l.Node(2), l.Node(3)
	said := filepath.Join(primary.Dir, "said")
	// One that was never seen attached does not count as gone.
	waitFor(t, ctx, "the standby to be seen attached", func() error {
		err := logged(primary.DaemonLog(), `child node "node2" (ID: 2): attached is true`)
		if err != nil {
			err = logged(primary.DaemonLog(), `standby node "node2" (ID: 2) has connected`)
		}
		return err
	})
	must(t, primary.WriteConf(map[string]string{
		"failover": "manual", "child_nodes_check_interval": "1", "child_nodes_disconnect_timeout": "2",
		"child_nodes_disconnect_command": fmt.Sprintf("echo 'gone from %%p' >> %s", said),
	}))
	must(t, primary.SignalDaemon(syscall.SIGHUP))
	waitLog(t, ctx, primary, "child_nodes_check_interval is now")
	detached := func(node *lab.Node) func() error {
		return func() error {
			n, err := primary.SQL(ctx, "SELECT count(*) FROM repmgr.events WHERE event = 'child_node_disconnect' AND details LIKE '%' || $1 || '%'", node.Name)
			if err == nil && n == "0" {
				err = errors.New("not recorded")
			}
			return err
		}
	}
	must(t, standby.Stop(ctx, "fast"))
	waitFor(t, ctx, "the standby's going to be recorded", detached(standby))
	waitFor(t, ctx, "the command", func() error { return logged(said, "gone from 1") })
	waitEvent(t, ctx, primary, "child_nodes_disconnect_command", primary, true)
	must(t, standby.Start(ctx))
	waitEvent(t, ctx, primary, "child_node_reconnect", primary, true)
	must(t, witness.KillDaemon(ctx))
	waitFor(t, ctx, "the witness's going to be recorded", detached(witness))
	must(t, standby.Stop(ctx, "fast"))
	waitFor(t, ctx, "the command to be run again", func() error {
		text, err := os.ReadFile(said)
		if n := bytes.Count(text, []byte("gone from 1")); err == nil && n < 2 {
			err = fmt.Errorf("it was run %d times", n)
		}
		return err
	})
	got, err := primary.SQL(ctx, "SELECT details FROM repmgr.events WHERE event = 'child_node_reconnect' LIMIT 1")
	if err != nil || !strings.HasPrefix(got, `standby node "node2" (ID: 2) has reconnected after `) {
		t.Errorf("the reconnect is told as %q, %v", got, err)
	}
}

// Streaming is stopped before the candidates are compared, and goes on with the
// new primary; the settings of both are whole again.
func TestStandbyDisconnectOnFailover(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 3, Conf: map[string]string{"standby_disconnect_on_failover": "true"}})
	must(t, l.Node(1).Kill9(ctx))
	waitFor(t, ctx, "a new primary", func() error { _, err := l.Primary(ctx); return err })
	primary, err := l.Primary(ctx)
	must(t, err)
	for _, n := range l.Nodes[1:] {
		waitLog(t, ctx, n, "stop of the WAL receiver after the loss of node 1 is done")
		waitFor(t, ctx, "primary_conninfo of "+n.Name, func() error { return hasConninfo(n) })
		if n != primary {
			waitFollows(t, ctx, n, primary)
		}
	}
}

func hasConninfo(n *lab.Node) error {
	text, err := os.ReadFile(filepath.Join(n.DataDir, "postgresql.auto.conf"))
	if err == nil && !bytes.Contains(text, []byte("primary_conninfo = 'host=")) && !bytes.Contains(text, []byte("primary_conninfo = 'user=")) {
		err = fmt.Errorf("postgresql.auto.conf holds none: %s", text)
	}
	return err
}

// A primary that comes back finds its standby again, though that one had stopped
// streaming and its daemon was started anew meanwhile.
func TestReceiverResumes(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 2, NodeConf: map[int]map[string]string{2: {"standby_disconnect_on_failover": "true", "priority": "0"}}})
	primary, standby := l.Node(1), l.Node(2)
	must(t, primary.Kill9(ctx))
	waitLog(t, ctx, standby, "never-promoted")
	waitFor(t, ctx, "the setting to be taken away", func() error {
		if hasConninfo(standby) == nil {
			return errors.New("it is there")
		}
		return nil
	})
	must(t, standby.KillDaemon(ctx))
	must(t, primary.Start(ctx))
	must(t, standby.StartDaemon(ctx))
	waitLog(t, ctx, standby, "restart of the WAL receiver is done")
	waitFollows(t, ctx, standby, primary)
}

// Both delays are waited for, and a primary that comes back within them stays.
func TestDelays(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 2, Conf: map[string]string{"failover_delay": "3600"}})
	primary, standby := l.Node(1), l.Node(2)
	must(t, primary.Kill9(ctx))
	waitLog(t, ctx, standby, "wait-failover-delay")
	must(t, primary.Start(ctx))
	waitFor(t, ctx, "the standby to be content", func() error { return watches(ctx, standby) })
	must(t, standby.WriteConf(map[string]string{"failover_delay": "0", "promote_delay": "4"}))
	must(t, standby.SignalDaemon(syscall.SIGHUP))
	waitLog(t, ctx, standby, "promote_delay is now")
	began := time.Now()
	must(t, primary.Kill9(ctx))
	waitPrimary(t, ctx, l, standby)
	if took := time.Since(began); took < 4*time.Second {
		t.Errorf("promoted after %s", took)
	}
	must(t, logged(standby.DaemonLog(), "wait-promote-delay"))
}

// A standby whose record names no upstream is promoted where always_promote says so.
func TestAlwaysPromote(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 2})
	primary, standby := l.Node(1), l.Node(2)
	_, err := primary.SQL(ctx, "UPDATE repmgr.nodes SET upstream_node_id = NULL WHERE node_id = 2")
	must(t, err)
	waitFor(t, ctx, "the record to arrive", func() error {
		r, err := standby.Report(ctx)
		if err == nil && r.Upstream != 0 {
			err = fmt.Errorf("its upstream is %d", r.Upstream)
		}
		return err
	})
	must(t, primary.Kill9(ctx))
	waitLog(t, ctx, standby, "record-without-upstream: node 1 is lost")
	must(t, standby.WriteConf(map[string]string{"always_promote": "true"}))
	must(t, standby.SignalDaemon(syscall.SIGHUP))
	waitPrimary(t, ctx, l, standby)
}

// A standby whose record is inactive is made active by its daemon, or refused.
func TestInactiveNode(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 2})
	primary, standby := l.Node(1), l.Node(2)
	inactive := func() {
		t.Helper()
		_, err := standby.StopDaemon(ctx)
		must(t, err)
		_, err = primary.SQL(ctx, "UPDATE repmgr.nodes SET active = false WHERE node_id = 2")
		must(t, err)
		waitFor(t, ctx, "the record to arrive", func() error {
			got, err := standby.SQL(ctx, "SELECT active::text FROM repmgr.nodes WHERE node_id = 2")
			if err == nil && got != "false" {
				err = errors.New("active is " + got)
			}
			return err
		})
	}
	inactive()
	must(t, standby.StartDaemon(ctx))
	waitFor(t, ctx, "the record to be active", func() error {
		got, err := primary.SQL(ctx, "SELECT active::text FROM repmgr.nodes WHERE node_id = 2")
		if err == nil && got != "true" {
			err = errors.New("active is " + got)
		}
		return err
	})
	inactive()
	said := filepath.Join(standby.Dir, "said")
	must(t, standby.WriteConf(map[string]string{"repmgrd_exit_on_inactive_node": "true",
		"event_notification_command": fmt.Sprintf("echo '%%e %%s %%d' >> %s", said)}))
	r := standby.Program(ctx, "repmgrd", "-f", standby.ConfFile(), "--daemonize=false")
	if r.Code != 1 || !strings.Contains(r.Stderr, `node "node2" (ID: 2) is marked as inactive`) {
		t.Errorf("exit status %d:\n%s", r.Code, r.Stderr)
	}
	must(t, logged(said, "repmgrd_start 0 node"))
}

// A server that follow_command restarts is waited for, and one that does not
// come back makes the following fail.
func TestStandbyStartupTimeout(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 3, NodeConf: map[int]map[string]string{3: {"priority": "0"}}}) // it may have more WAL than node 2
	primary, standby := l.Node(2), l.Node(3)
	must(t, standby.WriteConf(map[string]string{"repmgrd_standby_startup_timeout": "1",
		"follow_command": fmt.Sprintf("%s/pg_ctl -D %s -m fast stop", l.Bindir, standby.DataDir)}))
	must(t, standby.SignalDaemon(syscall.SIGHUP))
	waitLog(t, ctx, standby, "repmgrd_standby_startup_timeout is now")
	must(t, l.Node(1).Kill9(ctx))
	waitPrimary(t, ctx, l, primary)
	waitLog(t, ctx, standby, "this server is no standby 1s after follow_command")
	waitEvent(t, ctx, primary, "repmgrd_failover_follow", standby, false)
}

// The placeholders of a command that is told of an event speak of the node that
// the event is about.
func TestEventPlaceholders(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 2})
	primary, standby := l.Node(1), l.Node(2)
	said := filepath.Join(standby.Dir, "said")
	must(t, standby.WriteConf(map[string]string{
		"event_notification_command": fmt.Sprintf(`printf 'e=%%%%s p=%%%%s a=%%%%s c=%%%%s\n' "%%e" "%%p" "%%a" "%%c" >> %s`, said)}))
	must(t, standby.SignalDaemon(syscall.SIGHUP))
	waitLog(t, ctx, standby, "event_notification_command is now")
	must(t, primary.Kill9(ctx))
	waitPrimary(t, ctx, l, standby)
	recorded, err := standby.SQL(ctx, "SELECT conninfo FROM repmgr.nodes WHERE node_id = 1")
	must(t, err)
	for _, name := range []string{"repmgrd_upstream_disconnect", "repmgrd_failover_promote"} {
		waitFor(t, ctx, name+" to be told", func() error {
			return logged(said, fmt.Sprintf("e=%s p=1 a=node1 c=%s\n", name, recorded))
		})
	}
}

// syslogSocket is where log/syslog looks for a daemon.
const syslogSocket = "/dev/log"

// log_facility sends the log of both programs to syslog, with the facility and the level.
func TestSyslog(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 1})
	n := l.Node(1)
	if _, err := os.Lstat(syslogSocket); err == nil {
		t.Skip("SKIPPED, NOT TESTED HERE: this machine has a syslog daemon")
	}
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: syslogSocket, Net: "unixgram"})
	if err != nil {
		t.Skipf("SKIPPED, NOT TESTED HERE: %v", err)
	}
	t.Cleanup(func() { socket.Close(); os.Remove(syslogSocket) })
	must(t, os.Chmod(syslogSocket, 0o666))
	_, err = n.StopDaemon(ctx)
	must(t, err)
	must(t, n.WriteConf(map[string]string{"log_facility": "LOCAL3"}))
	must(t, n.StartDaemon(ctx))
	const local3, notice = 19 << 3, 5
	waitSyslog(t, socket, local3|notice, "repmgrd", "watches node \"node1\" (ID: 1)")
	// So does the command, if it is told to log as the file says.
	must(t, n.Repmgr(ctx, "primary", "register", "-F", "--log-to-file").Err())
	waitSyslog(t, socket, local3|notice, "repmgr", "registered as primary")
}

// waitSyslog reads what syslog is told until a line holds text, which must come from
// that program with that priority.
func waitSyslog(t *testing.T, socket *net.UnixConn, priority int, program, text string) {
	t.Helper()
	buffer := make([]byte, 1<<16)
	must(t, socket.SetReadDeadline(time.Now().Add(waitBound)))
	for {
		size, err := socket.Read(buffer)
		must(t, err)
		line := string(buffer[:size])
		if !strings.Contains(line, text) {
			continue
		}
		if !strings.HasPrefix(line, fmt.Sprintf("<%d>", priority)) || !strings.Contains(line, program+"[") {
			t.Errorf("the line is %q", line)
		}
		return
	}
}
