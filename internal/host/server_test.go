package host

import (
	"cmp"
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

	"repmgr/internal/lab/ports"
)

// testBin is where the server's programs are; REPMGR_TEST_BINDIR overrides it.
var testBin = cmp.Or(os.Getenv("REPMGR_TEST_BINDIR"), "/usr/lib/postgresql/15/bin")

var (
	baseDir string // of everything that the tests of this package make
	started struct {
		sync.Mutex
		dirs []string
	}
)

// TestMain gives the servers of this package a place, and ends what still runs.
func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	if len(os.Args) == 2 && os.Args[1] == "zombie" {
		return makeZombie()
	}
	dir, err := os.MkdirTemp("", "host-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	baseDir = dir
	own(dir)
	defer os.RemoveAll(dir)
	defer FreeMemory(dir)
	defer func() {
		for _, d := range started.dirs {
			command(testBin+"/pg_ctl", "-D", d, "-m", "immediate", "-w", "stop").Run()
		}
	}()
	return m.Run()
}

// makeZombie leaves a child that has ended and is not reaped until its input ends.
func makeZombie() int {
	child := exec.Command("/bin/true")
	if err := child.Start(); err != nil {
		return 1
	}
	fmt.Println(child.Process.Pid)
	os.Stdin.Read(make([]byte, 1))
	return 0
}

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

func mustRun(t testing.TB, args ...string) string {
	t.Helper()
	out, err := command(args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// server is a real PostgreSQL server that runs.
type server struct {
	dir  string
	port int
}

var template struct {
	sync.Once
	dir string
}

// newServer starts a server in a directory of its own; initdb runs only once.
func newServer(t testing.TB) *server {
	t.Helper()
	template.Do(func() {
		template.dir = filepath.Join(baseDir, "template")
		mustRun(t, testBin+"/initdb", "-D", template.dir, "-U", "postgres", "-A", "trust", "--no-sync", "--wal-segsize=1", "--no-locale")
	})
	parent, err := os.MkdirTemp(baseDir, "t")
	check(t, err)
	own(parent)
	s := &server{dir: filepath.Join(parent, "data"), port: ports.For(t)}
	mustRun(t, "cp", "-a", template.dir, s.dir)
	conf, err := os.OpenFile(filepath.Join(s.dir, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	check(t, err)
	fmt.Fprintf(conf, "port = %d\nlisten_addresses = ''\nunix_socket_directories = '%s'\nfsync = off\njit = off\nshared_buffers = 16MB\n", s.port, baseDir)
	check(t, conf.Close())
	started.Lock()
	started.dirs = append(started.dirs, s.dir)
	started.Unlock()
	mustRun(t, testBin+"/pg_ctl", "-D", s.dir, "-l", s.dir+".log", "-w", "start")
	return s
}

// session runs a statement in a session of its own, which goes on when this returns.
func (s *server) session(t testing.TB, sql string) *exec.Cmd {
	t.Helper()
	cmd := command(testBin+"/psql", "-h", baseDir, "-p", strconv.Itoa(s.port), "-U", "postgres", "-X", "-q", "-c", sql)
	check(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

func (s *server) postmaster(t testing.TB) int {
	t.Helper()
	pid := readPostmasterPID(s.dir)
	if pid == 0 {
		t.Fatal("there is no postmaster")
	}
	return pid
}

// until waits for a condition, for at most 20 seconds.
func until(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("20 s have passed without: %s", what)
		}
	}
}

func processes(t testing.TB, dir string) []Process {
	t.Helper()
	list, err := Processes(dir)
	check(t, err)
	return list
}
