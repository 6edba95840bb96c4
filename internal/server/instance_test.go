package server

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/host"
	"repmgr/internal/lab"
	"repmgr/internal/lab/ports"
	"repmgr/internal/pg"
)

var (
	baseDir string // of everything that the tests of this package make
	testBin string
	started struct {
		sync.Mutex
		dirs []string
	}
)

// TestMain runs the tests as the user postgres where they were started by root:
// the package is for a daemon that runs as its server's user.
func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	if os.Geteuid() == 0 {
		return runUnprivileged()
	}
	for _, e := range os.Environ() { // the tests' own environment, not the caller's
		if name, _, _ := strings.Cut(e, "="); strings.HasPrefix(name, "PG") {
			os.Unsetenv(name)
		}
	}
	os.Setenv("PGUSER", "postgres")
	bin, err := lab.Find(0)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	testBin = bin
	if baseDir, err = os.MkdirTemp("", "server-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(baseDir)
	defer host.FreeMemory(baseDir)
	defer func() {
		for _, d := range started.dirs {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			_ = host.KillAll(ctx, d)
			cancel()
		}
	}()
	return m.Run()
}

// runUnprivileged runs this program again as postgres. It is started by its link
// in /proc, since the folder it lies in may be closed to that user.
func runUnprivileged() int {
	u, err := user.Lookup("postgres")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	bin, err := lab.Find(0)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	args := slices.DeleteFunc(slices.Clone(os.Args[1:]), func(a string) bool { return strings.HasPrefix(a, "-test.testlogfile") })
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), "REPMGR_PG_BIN="+bin, "HOME=/")
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%+v", explain(err))
	}
}

func mustRun(t testing.TB, args ...string) string {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = baseDir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// within is a context that ends after a time that only a broken function needs.
func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// until waits for a condition, for at most 30 seconds.
func until(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("two minutes have passed without: %s", what)
		}
	}
}

// instance is a real PostgreSQL server in a directory of its own.
type instance struct {
	Own
	name string
	dir  string
	port int
}

var template struct {
	sync.Once
	dir string
}

func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(baseDir, "t")
	check(t, err)
	return dir
}

// newInstance makes a data directory that is not started yet; initdb runs once.
func newInstance(t testing.TB, more string) *instance {
	t.Helper()
	template.Do(func() {
		template.dir = filepath.Join(baseDir, "template")
		mustRun(t, testBin+"/initdb", "-D", template.dir, "-U", "postgres", "-A", "trust", "-k", "--no-sync", "--wal-segsize=1", "-E", "UTF8", "--no-locale")
	})
	i := place(t)
	mustRun(t, "cp", "-a", template.dir, i.dir)
	i.configure(t, more)
	return i
}

// place is an instance without its directory.
func place(t testing.TB) *instance {
	t.Helper()
	parent := tempDir(t)
	i := &instance{name: filepath.Base(parent), dir: filepath.Join(parent, "data"), port: ports.For(t)}
	i.Own = Own{Log: func(s string) { t.Log(i.name + ": " + s) }, Config: &conf.Config{
		Conninfo: i.socket().String(), DataDirectory: i.dir, PgBindir: testBin,
		PgCtlOptions: "-l " + i.dir + ".log", PromoteCheckTimeout: time.Minute,
	}}
	started.Lock()
	started.dirs = append(started.dirs, i.dir)
	started.Unlock()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of %s:\n%s", i.name, i.log())
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_ = host.KillAll(ctx, i.dir)
	})
	return i
}

func (i *instance) configure(t testing.TB, more string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(i.dir, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	check(t, err)
	fmt.Fprintf(f, `
port = %d
listen_addresses = '127.0.0.1'
unix_socket_directories = '%s'
cluster_name = '%s'
fsync = off
jit = off
shared_buffers = 16MB
max_connections = 30
wal_keep_size = 256MB
wal_retrieve_retry_interval = 200ms
hot_standby_feedback = off
%s
`, i.port, baseDir, i.name, more)
	check(t, f.Close())
}

// socket is a connection string for the superuser.
func (i *instance) socket() pg.Conninfo {
	return pg.Conninfo{}.With("host", baseDir).With("port", strconv.Itoa(i.port)).With("dbname", "postgres").With("user", "postgres")
}

func (i *instance) log() string {
	text, _ := os.ReadFile(i.dir + ".log")
	return string(text)
}

func (i *instance) start(t testing.TB) {
	t.Helper()
	if err := i.Start(within(t)); err != nil {
		t.Fatalf("%v\n%s", explain(err), i.log())
	}
}

func (i *instance) stop(t testing.TB, mode pg.StopMode) {
	t.Helper()
	check(t, i.Stop(within(t), mode))
}

// clone makes a standby of that server that is not started yet.
func (i *instance) clone(t testing.TB, more string) *instance {
	t.Helper()
	s := place(t)
	check(t, pg.BaseBackup(within(t), pg.BackupSpec{Bindir: testBin, Source: i.socket(), DataDir: s.dir, FastCheckpoint: true}, nil))
	s.configure(t, more)
	check(t, pg.WriteRecovery(s.dir, s.following(i)))
	check(t, pg.WriteStandbySignal(s.dir))
	return s
}

// following is the settings with which i follows that server.
func (i *instance) following(up *instance) pg.Recovery {
	return pg.Recovery{PrimaryConninfo: up.socket().With("application_name", i.name).Without("dbname").String()}
}

// follow points a running standby at that server.
func (i *instance) follow(t testing.TB, up *instance) {
	t.Helper()
	check(t, pg.WriteRecovery(i.dir, i.following(up)))
	check(t, i.Reload())
}

// pair is a primary and a standby that streams from it.
func pair(t testing.TB, more string) (primary, standby *instance) {
	t.Helper()
	primary = newInstance(t, "")
	primary.start(t)
	primary.exec(t, "CREATE TABLE t (i int)", "INSERT INTO t VALUES (0)")
	standby = primary.clone(t, more)
	standby.start(t)
	primary.awaitStreaming(t, standby)
	return primary, standby
}

// conn is a session that finds the tests' table.
func (i *instance) conn(t testing.TB) *pg.Conn {
	t.Helper()
	c, err := pg.Connect(within(t), i.socket())
	check(t, err)
	_, err = c.Exec(within(t), "SET search_path = public")
	check(t, err)
	t.Cleanup(func() { hangUp(c) })
	return c
}

func (i *instance) exec(t testing.TB, statements ...string) {
	t.Helper()
	c := i.conn(t)
	defer hangUp(c)
	for _, s := range statements {
		if _, err := c.Exec(within(t), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func (i *instance) value(t testing.TB, sql string) string {
	t.Helper()
	c := i.conn(t)
	defer hangUp(c)
	var s *string
	if err := c.QueryRow(within(t), "SELECT ("+sql+")::text").Scan(&s); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	if s == nil {
		return ""
	}
	return *s
}

func (i *instance) lsn(t testing.TB, sql string) cluster.LSN {
	t.Helper()
	l, err := cluster.ParseLSN(i.value(t, sql))
	check(t, err)
	return l
}

// flushed is the end of a primary's WAL on its disk.
func (i *instance) flushed(t testing.TB) cluster.LSN {
	t.Helper()
	return i.lsn(t, "pg_current_wal_flush_lsn()")
}

func (i *instance) received(t testing.TB) cluster.LSN {
	t.Helper()
	l, _ := cluster.ParseLSN(i.value(t, "pg_last_wal_receive_lsn()"))
	return l
}

// awaitStreaming waits until the standby has all that the primary has flushed.
func (i *instance) awaitStreaming(t testing.TB, standby *instance) {
	t.Helper()
	until(t, standby.name+" streams from "+i.name, func() bool {
		return i.value(t, "SELECT state FROM pg_stat_replication WHERE application_name = '"+standby.name+"'") == "streaming"
	})
	i.awaitCaughtUp(t, standby)
}

func (i *instance) awaitCaughtUp(t testing.TB, standby *instance) {
	t.Helper()
	end := i.flushed(t)
	until(t, standby.name+" has received "+end.String(), func() bool { return standby.received(t) >= end })
}

// explain is an error with what it says to operators.
func explain(err error) string { return fmt.Sprintf("%v %#v", err, err) }

func (i *instance) rows(t testing.TB) string { t.Helper(); return i.value(t, "SELECT count(*) FROM t") }

// writeFollow makes a server that does not run follow that one.
func writeFollow(s, up *instance) error { return pg.WriteRecovery(s.dir, s.following(up)) }
