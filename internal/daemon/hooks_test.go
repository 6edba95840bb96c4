package daemon_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"repmgr/internal/lab"
)

// The commands of an operator get what their placeholders promise; one that
// refuses a failover is asked again later; one that hangs delays no failover.
func TestHooks(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 2, Conf: map[string]string{"election_rerun_interval": "3", "monitoring_history": "on"}})
	primary, standby := l.Node(1), l.Node(2)
	said := filepath.Join(standby.Dir, "said")
	agree := filepath.Join(standby.Dir, "agree")
	must(t, standby.WriteConf(map[string]string{
		"event_notification_command":  fmt.Sprintf("echo 'n=%%n e=%%e s=%%s p=%%p d=%%d t=%%t' >> %s; test %%e != repmgrd_upstream_disconnect || sleep 300", said),
		"event_notifications":         "repmgrd_start,repmgrd_upstream_disconnect,repmgrd_failover_promote",
		"failover_validation_command": fmt.Sprintf("echo 'validate n=%%n a=%%a v=%%v u=%%u t=%%t' >> %s; test -e %s", said, agree),
	}))
	waitFor(t, ctx, "the monitoring history", func() error {
		n, err := primary.SQL(ctx, "SELECT count(*) FROM repmgr.replication_status WHERE standby_node_id = 2 AND replication_lag IS NOT NULL")
		if err == nil && n != "1" {
			err = errors.New("no row")
		}
		return err
	})
	_, err := standby.StopDaemon(ctx)
	must(t, err)
	must(t, standby.StartDaemon(ctx))
	waitFor(t, ctx, "the start to be told", func() error { return logged(said, "n=2 e=repmgrd_start s=1") })
	must(t, primary.Kill9(ctx))
	waitLog(t, ctx, standby, "failover_validation_command refused the failover")
	if got, err := standby.InRecovery(ctx); err != nil || !got {
		t.Fatalf("promoted against the command's word: %v, %v", got, err)
	}
	must(t, logged(said, "validate n=2 a=node2 v=1 u=1 t=2"))
	must(t, os.WriteFile(agree, nil, 0o644))
	waitPrimary(t, ctx, l, standby) // though the command for the disconnect still sleeps
	waitFor(t, ctx, "the loss to be told", func() error { return logged(said, "n=2 e=repmgrd_upstream_disconnect s=0") })
	text, err := os.ReadFile(said)
	must(t, err)
	if strings.Contains(string(text), "repmgrd_reload") {
		t.Error("an event was told that event_notifications does not name")
	}
}

// degraded_monitoring_timeout ends the daemon, with repmgr 5's exit status.
func TestDegradedMonitoringTimeout(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 2, Conf: map[string]string{"failover": "manual", "degraded_monitoring_timeout": "2"}})
	must(t, l.Node(1).Kill9(ctx))
	waitLog(t, ctx, l.Node(2), "the upstream has been lost for longer than degraded_monitoring_timeout")
	waitFor(t, ctx, "the daemon's end", func() error {
		if l.Node(2).DaemonPID() != 0 {
			return errors.New("it runs")
		}
		return nil
	})
}

// systemd is told when the daemon watches, that its loop goes round, and that it ends.
func TestTellsSystemd(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 1})
	n := l.Node(1)
	_, err := n.StopDaemon(ctx)
	must(t, err)
	path := filepath.Join(n.Dir, "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	must(t, err)
	defer socket.Close()
	must(t, os.Chmod(path, 0o777))
	must(t, n.StartDaemonWith(ctx, []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=900000"}))
	expect := func(want string) {
		t.Helper()
		buffer := make([]byte, 256)
		must(t, socket.SetReadDeadline(time.Now().Add(waitBound)))
		for {
			size, err := socket.Read(buffer)
			must(t, err)
			if strings.Contains(string(buffer[:size]), want) {
				return
			}
		}
	}
	expect("READY=1")
	expect("WATCHDOG=1")
	expect("WATCHDOG=1")
	_, err = n.StopDaemon(ctx)
	must(t, err)
	expect("STOPPING=1")
}
