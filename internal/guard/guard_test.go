package guard

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"repmgr/internal/host"
	"repmgr/internal/lab/ports"
	"repmgr/internal/pg"
)

// testBin is where the server's programs are; REPMGR_TEST_BINDIR overrides it.
var testBin = cmp.Or(os.Getenv("REPMGR_TEST_BINDIR"), "/usr/lib/postgresql/15/bin")

// patience bounds every wait of these tests; none is expected to come near it.
const patience = 30 * time.Second

var (
	baseDir string // of everything that the tests of this package make
	started struct {
		sync.Mutex
		dirs []string
	}
)

// TestMain is also the guard's process, and the daemon's.
func TestMain(m *testing.M) {
	if len(os.Args) == 5 && os.Args[1] == "guard" {
		err := Run(context.Background(), Options{
			StateDir: os.Args[2], DataDirectory: os.Args[3], Watchdog: os.Args[4], WatchdogTimeout: time.Second, Log: os.Stderr,
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) == 4 && os.Args[1] == "daemon" {
		os.Exit(playDaemon(os.Args[2], os.Args[3]))
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "guard-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	baseDir = dir
	own(dir)
	defer os.RemoveAll(dir)
	defer host.FreeMemory(dir)
	defer func() {
		for _, d := range started.dirs {
			_ = host.KillAll(context.Background(), d)
		}
	}()
	return m.Run()
}

// playDaemon keeps PostgreSQL alive by a short lease for as long as it runs.
func playDaemon(stateDir, dataDir string) int {
	ctx := context.Background()
	g, err := Ensure(ctx, options(stateDir, dataDir, ""))
	for first := true; err == nil; time.Sleep(50 * time.Millisecond) {
		if err = g.Extend(ctx, host.BootTime()+daemonLease); err == nil && first {
			fmt.Println(g.PID())
			first = false
		}
	}
	fmt.Println(err)
	return 1
}

const daemonLease = 3 * time.Second

// credential is the user postgres for a test that runs as root, which
// PostgreSQL refuses.
func credential() *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		panic(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

func own(path string) {
	if c := credential(); c != nil {
		os.Chown(path, int(c.Uid), int(c.Gid))
	}
}

func command(args ...string) *exec.Cmd {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = baseDir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential()}
	return cmd
}

func mustRun(t testing.TB, args ...string) {
	t.Helper()
	if out, err := command(args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func until(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s have passed without: %s", patience, what)
		}
	}
}

// postgres is a real PostgreSQL server.
type postgres struct {
	dir  string
	port int
}

var template struct {
	sync.Once
	dir string
}

// newServer starts a server in a directory of its own; initdb runs only once.
func newServer(t testing.TB) *postgres {
	t.Helper()
	template.Do(func() {
		template.dir = filepath.Join(baseDir, "template")
		mustRun(t, testBin+"/initdb", "-D", template.dir, "-U", "postgres", "-A", "trust", "--no-sync", "--wal-segsize=1", "--no-locale")
	})
	s := &postgres{dir: filepath.Join(tempDir(t), "data"), port: ports.For(t)}
	mustRun(t, "cp", "-a", template.dir, s.dir)
	conf, err := os.OpenFile(filepath.Join(s.dir, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	check(t, err)
	fmt.Fprintf(conf, "port = %d\nlisten_addresses = ''\nunix_socket_directories = '%s'\nfsync = off\njit = off\nshared_buffers = 16MB\n", s.port, baseDir)
	check(t, conf.Close())
	started.Lock()
	started.dirs = append(started.dirs, s.dir)
	started.Unlock()
	t.Cleanup(func() { _ = host.KillAll(context.Background(), s.dir) })
	s.start(t)
	return s
}

// launch starts a postmaster that is this process's child, and so is reaped
// also where init does not do that.
func (s *postgres) launch(t testing.TB) *exec.Cmd {
	t.Helper()
	cmd := command(testBin+"/postgres", "-D", s.dir)
	log, err := os.OpenFile(s.dir+".log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	check(t, err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	check(t, cmd.Start())
	return cmd
}

// start starts a postmaster and waits until it takes connections.
func (s *postgres) start(t testing.TB) {
	t.Helper()
	cmd := s.launch(t)
	go cmd.Wait()
	until(t, "a server that is ready", func() bool {
		pm, err := pg.ReadPostmaster(s.dir)
		return err == nil && pm.PID == cmd.Process.Pid && pm.Status == "ready"
	})
}

func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(baseDir, "t")
	check(t, err)
	own(dir)
	return dir
}

func (s *postgres) living(t testing.TB) int {
	t.Helper()
	list, err := host.Processes(s.dir)
	check(t, err)
	return len(list)
}

// options are those of a guard that is this test program.
func options(stateDir, dataDir, watchdog string) Options {
	return Options{
		StateDir: stateDir, DataDirectory: dataDir, Watchdog: watchdog,
		Command: []string{os.Args[0], "guard", stateDir, dataDir, watchdog},
	}
}

// logged is options with a log file, which is shown if the test fails.
func logged(t testing.TB, o Options) Options {
	t.Helper()
	path := filepath.Join(tempDir(t), "guard.log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	check(t, err)
	o.Log = f
	t.Cleanup(func() {
		f.Close()
		if text, _ := os.ReadFile(path); t.Failed() {
			t.Logf("the guard's log:\n%s", text)
		}
	})
	return o
}

// ensure attaches to the guard or starts it; it is ended with the test.
func ensure(t testing.TB, o Options) *Guard {
	t.Helper()
	g, err := Ensure(t.Context(), o)
	check(t, err)
	endLater(t, g.PID())
	t.Cleanup(g.Close)
	return g
}

// endLater kills that guard when the test ends.
func endLater(t testing.TB, pid int) {
	h, err := host.OpenProcess(pid)
	check(t, err)
	t.Cleanup(func() { h.Kill(); <-h.Done(); h.Close() })
}

func status(t testing.TB, g *Guard) Status {
	t.Helper()
	s, err := g.Status(t.Context())
	check(t, err)
	return s
}

func (g *Guard) extendBy(t testing.TB, d time.Duration) time.Duration {
	t.Helper()
	deadline := host.BootTime() + d
	check(t, g.Extend(t.Context(), deadline))
	return deadline
}

// awaitEnd waits until the guard has fired and nobody is left.
func awaitEnd(t testing.TB, g *Guard) Status {
	t.Helper()
	var s Status
	until(t, "the guard to have ended PostgreSQL", func() bool { s = status(t, g); return s.Fired && s.Living == 0 })
	return s
}

func TestDeadlineEndsAll(t *testing.T) {
	t.Parallel()
	s, other := newServer(t), newServer(t)
	acked := s.insert(t)
	s.spin(t)
	g := ensure(t, logged(t, options(tempDir(t), s.dir, "")))
	deadline := g.extendBy(t, 500*time.Millisecond)
	st := awaitEnd(t, g)
	if s.living(t) != 0 || st.Killed < 5 || st.FiredAt < deadline || st.PID != g.PID() {
		t.Errorf("%d are left; %+v", s.living(t), st)
	}
	<-acked.ended
	t.Logf("fired %s after the deadline; the last of %d commits was acknowledged %s after it", st.FiredAt-deadline, acked.count, acked.last-deadline)
	// What is acknowledged late is what was on its way; an orphan would go on for ever.
	if acked.count == 0 || acked.last > deadline+10*time.Second {
		t.Errorf("%d commits, the last %s after the deadline", acked.count, acked.last-deadline)
	}
	if other.living(t) == 0 {
		t.Error("another server was ended too")
	}
	if err := g.Extend(t.Context(), host.BootTime()+time.Minute); !errors.Is(err, ErrFired) {
		t.Errorf("an extension after the end: %v", err)
	}
	if err := g.StandDown(t.Context()); !errors.Is(err, ErrFired) {
		t.Errorf("standing down after the end: %v", err)
	}
	if err := g.End(t.Context()); !errors.Is(err, ErrFired) {
		t.Errorf("ending after the end: %v", err)
	}
}

func TestLaterPostmasterIsEndedUntilTakeOver(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	g := ensure(t, logged(t, options(tempDir(t), s.dir, "")))
	g.extendBy(t, 500*time.Millisecond)
	before := awaitEnd(t, g).Killed
	later, ended := s.launch(t), make(chan error, 1)
	go func() { ended <- later.Wait() }()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("a later postmaster ended in order")
		}
	case <-time.After(patience):
		t.Fatal("a later postmaster lives")
	}
	until(t, "the later postmaster to be counted", func() bool { return status(t, g).Killed > before && s.living(t) == 0 })
	// A daemon that comes and only looks changes nothing.
	g = ensure(t, options(filepath.Dir(socketOf(t, g)), s.dir, ""))
	if !status(t, g).Fired {
		t.Error("attaching has ended the killing")
	}
	check(t, g.TakeOver(t.Context()))
	if st := status(t, g); st.Fired || st.Deadline != 0 || st.Killed <= before {
		t.Errorf("taken over: %+v", st)
	}
	s.start(t)
	g.extendBy(t, time.Minute)
	if s.living(t) == 0 {
		t.Error("the server was ended")
	}
}

// A server whose directory was renamed is still the one that is meant.
func TestRenamedDirectory(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	g := ensure(t, logged(t, options(tempDir(t), s.dir, "")))
	g.extendBy(t, 500*time.Millisecond)
	moved := s.dir + ".moved"
	check(t, os.Rename(s.dir, moved))
	awaitEnd(t, g)
	if list, err := host.Processes(moved); err != nil || len(list) != 0 {
		t.Errorf("%v are left (%v)", list, err)
	}
}

func TestExtensionInTime(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	g := ensure(t, logged(t, options(tempDir(t), s.dir, "")))
	before := s.living(t)
	first := g.extendBy(t, 4*time.Second)
	late := g.extendBy(t, time.Minute)
	check(t, g.Extend(t.Context(), first)) // no step back
	if st := status(t, g); st.Deadline != late || st.Fired {
		t.Errorf("%+v, and the deadline is %s", st, late)
	}
	if err := g.End(t.Context()); err == nil {
		t.Error("it was ended while a deadline runs")
	}
	until(t, "the first deadline to pass", func() bool { return host.BootTime() > first+100*time.Millisecond })
	if st := status(t, g); st.Fired || s.living(t) < before {
		t.Errorf("%+v, %d of %d processes", st, s.living(t), before)
	}
	for name, d := range map[string]time.Duration{"too far": host.BootTime() + 2*time.Hour, "for ever": 1<<63 - 1} {
		if err := g.Extend(t.Context(), d); err == nil {
			t.Errorf("a deadline that is %s was taken", name)
		}
	}
	check(t, g.StandDown(t.Context()))
	if err := g.Extend(t.Context(), host.BootTime()-time.Second); err == nil || errors.Is(err, ErrFired) {
		t.Errorf("a deadline in the past: %v", err)
	}
	check(t, g.TakeOver(t.Context())) // of nothing
	last := g.extendBy(t, 3*time.Second)
	check(t, g.StandDown(t.Context()))
	until(t, "the last deadline to pass", func() bool { return host.BootTime() > last+100*time.Millisecond })
	if st := status(t, g); st.Fired || st.Deadline != 0 || s.living(t) < before {
		t.Errorf("after standing down: %+v", st)
	}
	check(t, g.End(t.Context()))
}

// daemon is a process that plays the daemon.
func daemon(t *testing.T, stateDir, dataDir string) (*exec.Cmd, int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "daemon", stateDir, dataDir)
	cmd.Stderr = os.Stderr
	if f := logged(t, Options{}).Log.(*os.File); f != nil {
		cmd.Stderr = f
	}
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	check(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("the daemon said %q", line)
	}
	endLater(t, pid)
	return cmd, pid
}

func TestDaemonThatStopsOrDies(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			s, state := newServer(t), tempDir(t)
			cmd, guard := daemon(t, state, s.dir)
			if s.living(t) == 0 {
				t.Fatal("the server was ended too early")
			}
			check(t, cmd.Process.Signal(signal))
			until(t, "the server to be ended", func() bool { return s.living(t) == 0 })
			g := ensure(t, options(state, s.dir, ""))
			if st := awaitEnd(t, g); st.PID != guard {
				t.Errorf("another guard answers: %+v, not %d", st, guard)
			}
		})
	}
}

// halt stops a process, and waits until none of its threads runs: one may answer yet.
func halt(t *testing.T, pid int) {
	t.Helper()
	check(t, syscall.Kill(pid, syscall.SIGSTOP))
	until(t, "all threads to stand still", func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		check(t, err)
		for _, path := range threads {
			if text, err := os.ReadFile(path); err != nil || !strings.Contains(string(text), ") T ") {
				return false
			}
		}
		return len(threads) > 0
	})
}

// A guard that is stopped is replaced where the server cannot write, and nowhere else.
func TestAGuardThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	o := logged(t, options(tempDir(t), tempDir(t), ""))
	first := ensure(t, o)
	first.extendBy(t, time.Minute)
	halt(t, first.PID())
	ctx, cancel := context.WithTimeout(t.Context(), 2*callTimeout)
	defer cancel()
	if g, err := Ensure(ctx, o); err == nil || first.handle.Exited() {
		t.Errorf("guard %+v, %v", g, err)
	}
	may := false
	o.Replace = func() bool { return may }
	if g, err := Ensure(t.Context(), o); err == nil || first.handle.Exited() {
		t.Errorf("not where it may not: guard %+v, %v", g, err)
	}
	may = true
	second := ensure(t, o)
	o.Replace = nil
	if second.PID() == first.PID() || !first.handle.Exited() {
		t.Error("the one that does not answer was not replaced")
	}
	if st := status(t, second); st.Deadline != 0 {
		t.Errorf("%+v", st)
	}
	if third := ensure(t, o); third.PID() != second.PID() {
		t.Error("one that answers was replaced")
	}
}

// A daemon that is restarted in time costs nothing.
func TestRestartedDaemonTakesItsGuardOver(t *testing.T) {
	t.Parallel()
	s, state := newServer(t), tempDir(t)
	first := ensure(t, logged(t, options(state, s.dir, "")))
	first.extendBy(t, time.Minute)
	cmd, pid := daemon(t, state, s.dir) // while the first deadline runs
	if pid != first.PID() {
		t.Fatalf("guards %d and %d", first.PID(), pid)
	}
	if err := first.StandDown(t.Context()); err == nil {
		t.Error("the guard obeys two")
	}
	check(t, cmd.Process.Signal(syscall.SIGKILL))
	cmd.Wait()
	g := ensure(t, options(state, s.dir, ""))
	if st := status(t, g); st.PID != pid || st.Fired || st.Deadline == 0 || s.living(t) == 0 {
		t.Errorf("%+v, %d processes", st, s.living(t))
	}
	check(t, g.StandDown(t.Context()))
	select {
	case <-g.Done():
		t.Error("the guard has ended")
	default:
	}
}

func socketOf(t testing.TB, g *Guard) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", g.PID()))
	check(t, err)
	return filepath.Join(strings.Split(string(text), "\x00")[2], socketName)
}
