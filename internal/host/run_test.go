package host

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"repmgr/internal/fault"
)

func run(t *testing.T, c Cmd) Result {
	t.Helper()
	r, err := Run(context.Background(), c)
	check(t, err)
	return r
}

func TestRunReportsHowItEnded(t *testing.T) {
	t.Parallel()
	r := run(t, Cmd{Shell: `echo out; echo err >&2; echo "$X" "$PWD"; exit 3`, Env: []string{"X=a b"}, Dir: "/usr"})
	if r.Stdout != "out\na b /usr\n" || r.Stderr != "err\n" || r.ExitCode != 3 || r.OK() || r.String() != "exited with status 3" {
		t.Errorf("%+v", r)
	}
	if r := run(t, Cmd{Args: []string{"/bin/echo", "a  b", "$X"}}); r.Stdout != "a  b $X\n" || !r.OK() {
		t.Errorf("%+v", r)
	}
	if r := run(t, Cmd{Shell: "kill -9 $$"}); r.Signal != syscall.SIGKILL || r.OK() || r.ExitCode != -1 {
		t.Errorf("death by a signal: %+v", r)
	}
	if r := run(t, Cmd{Args: []string{"/bin/cat"}, Stdin: strings.NewReader("in")}); r.Stdout != "in" {
		t.Errorf("input: %+v", r)
	}
	if r := run(t, Cmd{Args: []string{"/bin/cat"}}); r.Stdout != "" || !r.OK() {
		t.Errorf("no input: %+v", r)
	}
	if c := credential(); c != nil {
		if r := run(t, Cmd{Shell: "id -u", Credential: c}); strings.TrimSpace(r.Stdout) == "0" {
			t.Errorf("credential: %+v", r)
		}
	}
}

func TestRunThatCannotStart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]Cmd{
		"nothing": {}, "no such program": {Args: []string{"/nonexistent/pg_ctl"}},
		"no such folder": {Shell: "true", Dir: "/nonexistent"}, "no such output": {Shell: "true", OutputTo: "/nonexistent/x"},
	} {
		if _, err := Run(context.Background(), c); fault.CodeOf(err) != fault.LocalCommand {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRunBoundsTheOutput(t *testing.T) {
	t.Parallel()
	r := run(t, Cmd{Shell: "head -c 3000000 /dev/zero; head -c 10 /dev/zero >&2"})
	if len(r.Stdout) > outputLimit+100 || !strings.HasSuffix(r.Stdout, "[1951424 more bytes were left out]") || len(r.Stderr) != 10 {
		t.Errorf("%d bytes, ending with %q", len(r.Stdout), r.Stdout[len(r.Stdout)-40:])
	}
}

// The time limit is for the whole family, also where the child has children
// that keep the pipes.
func TestRunKillsTheGroup(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pid")
	start := time.Now()
	r, err := Run(context.Background(), Cmd{Shell: "echo begun; sleep 60 & echo $! > " + file + "; wait", Timeout: 300 * time.Millisecond})
	if !errors.Is(err, context.DeadlineExceeded) || fault.CodeOf(err) != fault.LocalCommand || !r.TimedOut || r.OK() || r.Stdout != "begun\n" {
		t.Errorf("%+v, %v", r, err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	text, err := os.ReadFile(file)
	check(t, err)
	until(t, "the child gone", func() bool { return !alive(strings.TrimSpace(string(text))) })
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(100*time.Millisecond, cancel)
	if _, err := Run(ctx, Cmd{Shell: "sleep 60"}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func alive(pid string) bool {
	text, err := os.ReadFile("/proc/" + pid + "/stat")
	return err == nil && !strings.Contains(string(text), ") Z ")
}

// A daemon that was left behind holds the pipes: its starter is not waited for longer.
func TestRunDoesNotWaitForADaemon(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pid")
	start := time.Now()
	r := run(t, Cmd{Shell: "setsid sleep 60 & echo $! > " + file + "; echo left"})
	if took := time.Since(start); took > 5*time.Second || r.Stdout != "left\n" || !r.OK() {
		t.Errorf("%+v after %s", r, took)
	}
	text, err := os.ReadFile(file)
	check(t, err)
	if !alive(strings.TrimSpace(string(text))) {
		t.Error("the daemon was killed")
	}
	run(t, Cmd{Shell: "kill " + strings.TrimSpace(string(text))})
}

// pg_ctl start leaves a server that keeps the outputs for as long as it lives.
func TestRunStartsAServer(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	mustRun(t, testBin+"/pg_ctl", "-D", s.dir, "-m", "immediate", "-w", "stop")
	log := filepath.Join(t.TempDir(), "log")
	start := time.Now()
	r := run(t, Cmd{Args: []string{testBin + "/pg_ctl", "-D", s.dir, "-w", "start"}, Dir: "/", OutputTo: log, Credential: credential(), Timeout: time.Minute})
	text, err := os.ReadFile(log)
	check(t, err)
	if !r.OK() || !strings.Contains(string(text), "ready to accept connections") || r.Stdout != "" {
		t.Errorf("%+v after %s\n%s", r, time.Since(start), text)
	}
}
