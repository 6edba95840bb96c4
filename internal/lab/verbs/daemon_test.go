package verbs

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"repmgr/internal/host"
	"repmgr/internal/lab"
)

// TestDaemonStartAndStop starts and stops a repmgrd by the program itself, by the
// configured commands, and by commands that fail.
func TestDaemonStartAndStop(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 1})
	must(t, l.BringUpPrimary(ctx))
	n := l.Node(1)
	pidFile := filepath.Join(n.Dir, "repmgrd.pid")
	repmgr := func(status int, says string, args ...string) {
		t.Helper()
		if r := n.Repmgr(ctx, args...); r.Code != status || !strings.Contains(r.Stderr, says) {
			t.Fatalf("%s: status %d, want %d, and %q\n%s", r.Command, r.Code, status, says, r.Stderr)
		}
	}
	pid := func() int {
		t.Helper()
		text, err := os.ReadFile(pidFile)
		must(t, err)
		number, err := strconv.Atoi(strings.TrimSpace(string(text)))
		must(t, err)
		return number
	}
	repmgr(27, "no repmgrd runs", "daemon", "stop")
	repmgr(0, "would execute", "daemon", "start", "--dry-run")
	if exists(n, "repmgrd.pid") {
		t.Fatal("a dry run has started repmgrd")
	}
	repmgr(0, "repmgrd runs", "daemon", "start", "--wait=60")
	first := pid()
	repmgr(27, "runs already", "daemon", "start")
	repmgr(0, "would send SIGTERM to repmgrd; its process number is "+strconv.Itoa(first), "daemon", "stop", "--dry-run")
	must(t, syscall.Kill(first, syscall.SIGSTOP))
	repmgr(27, "still runs 1s after", "daemon", "stop", "--wait=1")
	must(t, syscall.Kill(first, syscall.SIGCONT)) // it ends by the signal that waited
	must(t, lab.Wait(ctx, testTimeout, "the end of repmgrd", func() error {
		if host.Alive(first) {
			return errNotYet
		}
		return nil
	}))
	repmgr(0, "", "daemon", "start", "--wait=60")
	repmgr(0, "repmgrd has ended", "daemon", "stop", "--wait=60")
	if exists(n, "repmgrd.pid") {
		t.Error("the PID file is left")
	}

	must(t, n.WriteConf(map[string]string{"repmgrd_service_start_command": "echo no such unit >&2; exit 5"}))
	r := n.Repmgr(ctx, "daemon", "start")
	checkRefused(t, r, 27, []string{"exited with status 5", "no such unit"})
	must(t, n.WriteConf(map[string]string{"repmgrd_service_start_command": "true"}))
	repmgr(27, "does not answer 1s after", "daemon", "start", "--wait=1")
	repmgr(0, "", "daemon", "start", "--no-wait")

	must(t, n.StartDaemonWith(ctx, []string{"NOTIFY_SOCKET=" + filepath.Join(n.Dir, "nobody")}))
	must(t, lab.Wait(ctx, time.Minute, "the daemon to answer", func() error {
		if n.Repmgr(ctx, "daemon", "start", "--dry-run").Code != 27 {
			return errNotYet
		}
		return nil
	}))
	checkRefused(t, n.Repmgr(ctx, "daemon", "stop"), 27, []string{"started by systemd"})
	must(t, n.WriteConf(map[string]string{"repmgrd_service_stop_command": "kill $(cat " + pidFile + ")"}))
	repmgr(0, "repmgrd has ended", "daemon", "stop", "--wait=60")
}
