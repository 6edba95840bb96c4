package guard

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"repmgr/internal/fault"
	"repmgr/internal/host"
)

// The deadline is CLOCK_BOOTTIME's alone: nothing here reads Go's clock, of
// which the wall clock is a part, and which stands still in a suspended machine.
func TestNoOtherClock(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	check(t, err)
	for _, f := range files {
		text, err := os.ReadFile(f)
		check(t, err)
		for _, clock := range []string{"time.Now", "time.Since", "time.Until", "CLOCK_MONO", "CLOCK_REAL"} {
			if !strings.HasSuffix(f, "_test.go") && strings.Contains(string(text), clock) {
				t.Errorf("%s uses %s", f, clock)
			}
		}
	}
}

// A reader of the log that stands still, or has gone, does not matter.
func TestLogIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	for _, gone := range []bool{false, true} {
		s, state := newServer(t), tempDir(t)
		r, w, err := os.Pipe()
		check(t, err)
		defer r.Close()
		defer w.Close()
		o := options(state, s.dir, "")
		o.Log = w
		fd := int(w.Fd())
		check(t, unix.SetNonblock(fd, true))
		for err == nil { // until it is full
			_, err = unix.Write(fd, make([]byte, 4096))
		}
		check(t, unix.SetNonblock(fd, false))
		g := ensure(t, o)
		if gone {
			r.Close()
		}
		g.extendBy(t, 500*time.Millisecond)
		awaitEnd(t, g)
		check(t, g.TakeOver(t.Context()))
		if s.living(t) != 0 {
			t.Error("somebody is left")
		}
		check(t, g.End(t.Context()))
	}
}

func TestOneGuardPerStateDirectory(t *testing.T) {
	t.Parallel()
	state := filepath.Join(tempDir(t), strings.Repeat("x", 100), strings.Repeat("y", 100))
	check(t, os.MkdirAll(state, 0o700))
	o := logged(t, options(state, tempDir(t), ""))
	g := ensure(t, o)
	g.extendBy(t, time.Minute)
	if info, err := os.Stat(filepath.Join(state, socketName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, %v", info, err)
	}
	out, err := exec.Command(o.Command[0], o.Command[1:]...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another guard runs") {
		t.Errorf("a second guard: %v, %s", err, out)
	}
	if again := ensure(t, o); again.PID() != g.PID() {
		t.Errorf("guards %d and %d", g.PID(), again.PID())
	}
	other := o
	other.DataDirectory = tempDir(t)
	if _, err := Ensure(t.Context(), other); err == nil || !strings.Contains(err.Error(), "holds a deadline for") {
		t.Errorf("for another directory: %v", err)
	}
	g = ensure(t, o)
	check(t, g.StandDown(t.Context()))
	g = ensure(t, other)
	if st := status(t, g); st.DataDirectory != other.DataDirectory {
		t.Errorf("%+v", st)
	}
	check(t, g.End(t.Context()))
	if left, _ := filepath.Glob(filepath.Join(state, "*.sock*")); len(left) != 0 {
		t.Errorf("it left %v", left)
	}
	if next := ensure(t, o); next.PID() == g.PID() {
		t.Error("an ended guard answers")
	}
}

func TestEnsureTellsWhatFailed(t *testing.T) {
	t.Parallel()
	for name, command := range map[string][]string{"nothing": nil, "no program": {"/nonexistent"}, "one that ends": {"/bin/true"}} {
		o := options(tempDir(t), tempDir(t), "")
		o.Command = command
		if _, err := Ensure(t.Context(), o); err == nil || fault.CodeOf(err) == fault.Success {
			t.Errorf("%s: %v", name, err)
		}
	}
	g := ensure(t, logged(t, options(tempDir(t), filepath.Join(baseDir, "absent"), "")))
	if err := g.Extend(t.Context(), host.BootTime()+time.Minute); err == nil {
		t.Error("a guard that could kill nobody was armed")
	}
}

// The guard is asked to end by signals, and does so when no deadline runs; what
// kills it is seen.
func TestSignals(t *testing.T) {
	t.Parallel()
	g := ensure(t, logged(t, options(tempDir(t), tempDir(t), "")))
	g.extendBy(t, time.Minute)
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE, syscall.SIGTERM} {
		check(t, syscall.Kill(g.PID(), s))
	}
	select {
	case <-g.Done():
		t.Fatal("it has ended while a deadline runs")
	case <-time.After(300 * time.Millisecond):
	}
	check(t, g.StandDown(t.Context()))
	ended := func(g *Guard) {
		select {
		case <-g.Done():
		case <-time.After(patience):
			t.Error("the end was not seen")
		}
	}
	ended(g)
	killed := ensure(t, logged(t, options(tempDir(t), tempDir(t), "")))
	check(t, syscall.Kill(killed.PID(), syscall.SIGKILL))
	ended(killed)
	if _, err := killed.Status(t.Context()); err == nil {
		t.Error("a dead guard answers")
	}
}

func TestGarbageDoesNoHarm(t *testing.T) {
	t.Parallel()
	state := tempDir(t)
	g := ensure(t, logged(t, options(state, tempDir(t), "")))
	deadline := g.extendBy(t, time.Minute)
	conn, err := net.Dial("unix", filepath.Join(state, socketName))
	check(t, err)
	defer conn.Close()
	check(t, conn.SetDeadline(time.Now().Add(patience)))
	in := bufio.NewReader(conn)
	for _, line := range []string{
		"", "garbage", "{}", `{"verb":""}`, `{"verb":"fly"}`, `{"verb":"extend","deadline_ns":"x"}`, `{"verb":"extend","deadline_ns":1e30}`,
		`{"verb":"extend","deadline_ns":9000000000000000000}`, `{"verb":"stand-down"}`, `{"verb":"take-over"}`, `{"verb":"end"}`,
		`{"verb":"attach","data_directory":"/elsewhere"}`, "\x00\xff\x00", "[[[[",
	} {
		_, err := io.WriteString(conn, line+"\n")
		check(t, err)
		text, err := in.ReadString('\n')
		if err != nil || !strings.Contains(text, `"error"`) {
			t.Errorf("%q was answered with %q, %v", line, text, err)
		}
	}
	_, _ = io.WriteString(conn, strings.Repeat("x", maxLine+1))
	if text, err := in.ReadString('\n'); err != nil || !strings.Contains(text, "no longer than") {
		t.Errorf("a long line was answered with %q, %v", text, err)
	}
	if st := status(t, g); st.Deadline != deadline || st.Fired {
		t.Errorf("%+v", st)
	}
	g.extendBy(t, 2*time.Minute)
}

// Another user, which a thread of root's process can become, is refused even
// where somebody has opened the socket's mode.
func TestOtherUsersAreRefused(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	state := tempDir(t)
	g := ensure(t, logged(t, options(state, tempDir(t), "")))
	path := filepath.Join(state, socketName)
	for _, p := range []string{path, state, baseDir} {
		check(t, os.Chmod(p, 0o777))
	}
	answers := make(chan string, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its goroutine
		if _, _, errno := syscall.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 65534, ^uintptr(0)); errno != 0 {
			answers <- errno.Error()
			return
		}
		conn, err := net.Dial("unix", path)
		if err != nil {
			answers <- err.Error()
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, `{"verb":"status"}`+"\n")
		text, _ := io.ReadAll(conn)
		answers <- string(text)
	}()
	if got := <-answers; got != "" {
		t.Errorf("another user was answered with %q", got)
	}
	status(t, g)
}

// device is a fifo that plays a watchdog.
type device struct{ *os.File }

func newDevice(t *testing.T) device {
	t.Helper()
	path := filepath.Join(tempDir(t), "watchdog")
	check(t, unix.Mkfifo(path, 0o600))
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	check(t, err)
	t.Cleanup(func() { f.Close() })
	return device{f}
}

// got is what was written to it within that time.
func (d device) got(t *testing.T, wait time.Duration) string {
	t.Helper()
	check(t, d.SetReadDeadline(time.Now().Add(wait)))
	text := make([]byte, 4096)
	n, err := d.Read(text)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	return string(text[:n])
}

func TestWatchdogIsPettedWhileADeadlineRuns(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	g := ensure(t, logged(t, options(tempDir(t), tempDir(t), d.Name())))
	if got := d.got(t, 300*time.Millisecond); got != "" {
		t.Errorf("%q without a deadline", got)
	}
	g.extendBy(t, time.Minute)
	for range 3 {
		if got := d.got(t, patience); strings.Trim(got, "\n") != "" || got == "" {
			t.Errorf("petted with %q", got)
		}
	}
	if !status(t, g).Watchdog {
		t.Error("it does not tell of its watchdog")
	}
	check(t, g.StandDown(t.Context()))
	if got := d.got(t, patience); !strings.HasSuffix(got, "V") {
		t.Errorf("stopped with %q", got)
	}
	if got := d.got(t, 300*time.Millisecond); got != "" || status(t, g).Watchdog {
		t.Errorf("%q after the end", got)
	}
	g.extendBy(t, 500*time.Millisecond) // nobody works there: the machine is not to be reset
	awaitEnd(t, g)
	d.got(t, patience)
	if got := d.got(t, patience); got == "" {
		t.Error("it is not petted though nobody is left")
	}
}

// Without watch nobody is killed: as where nobody can be.
func TestWatchdogIsLeftAloneWhileSomebodyLives(t *testing.T) {
	t.Parallel()
	s, d, log := newServer(t), newDevice(t), newJournal(io.Discard)
	k, err := newKeeper(s.dir, log)
	check(t, err)
	defer unix.Close(k.timer)
	w := newWatchdog(Options{Watchdog: d.Name()}, log)
	check(t, k.extend(host.BootTime()+2*time.Second))
	w.tend(k)
	if got := d.got(t, patience); got != "\n" {
		t.Errorf("%q before the deadline", got)
	}
	until(t, "the deadline to pass", k.over)
	w.tend(k)
	if got := d.got(t, 50*time.Millisecond); got != "" || !w.counts() {
		t.Errorf("%q after the deadline", got)
	}
	k.sweep() // finds them
	w.tend(k)
	if got := d.got(t, 50*time.Millisecond); got != "" {
		t.Errorf("%q while somebody lives", got)
	}
	if err := k.takeOver(); err == nil {
		t.Error("taken over while somebody may live")
	}
	until(t, "nobody left", func() bool { k.sweep(); return k.status().Living == 0 })
	w.tend(k)
	if got := d.got(t, patience); got != "\n" {
		t.Errorf("%q when nobody is left", got)
	}
}
