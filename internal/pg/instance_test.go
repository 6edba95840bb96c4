package pg

import (
	"cmp"
	"context"
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

// instance is a real PostgreSQL server in a directory of its own.
type instance struct {
	dir  string // data directory
	port int
}

var (
	baseDir   string // of everything that the tests of this package make
	instances struct {
		sync.Mutex
		dirs []string
	}
)

// TestMain gives the servers of this package a place, and stops what still runs.
func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	for _, e := range os.Environ() { // the tests' own environment, not the caller's
		if name, _, _ := strings.Cut(e, "="); strings.HasPrefix(name, "PG") {
			os.Unsetenv(name)
		}
	}
	dir, err := os.MkdirTemp("", "pg-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	baseDir = dir
	own(dir)
	defer os.RemoveAll(dir)
	defer func() {
		for _, d := range instances.dirs {
			command(testBin+"/pg_ctl", "-D", d, "-m", "immediate", "-w", "stop").Run()
		}
	}()
	return m.Run()
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

// own gives a path to the user that servers run as.
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

func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(baseDir, "t")
	if err != nil {
		t.Fatal(err)
	}
	own(dir)
	return dir
}

// write puts a file of the servers' user into place.
func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	own(path)
}

// newInstance makes a data directory that is not started yet.
func newInstance(t testing.TB) *instance {
	t.Helper()
	i := &instance{dir: filepath.Join(tempDir(t), "data"), port: ports.For(t)}
	mustRun(t, testBin+"/initdb", "-D", i.dir, "-U", "postgres", "-A", "trust", "--no-sync", "--wal-segsize=1", "-E", "UTF8", "--no-locale")
	i.configure(t, "")
	return i
}

// configure appends to postgresql.conf what every test server has, and more.
func (i *instance) configure(t testing.TB, more string) {
	t.Helper()
	path := filepath.Join(i.dir, "postgresql.conf")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, string(text)+fmt.Sprintf(`
port = %d
listen_addresses = '127.0.0.1'
unix_socket_directories = '%s'
fsync = off
jit = off
shared_buffers = 16MB
max_connections = 30
logging_collector = off
`, i.port, baseDir)+more)
}

func (i *instance) start(t testing.TB) {
	t.Helper()
	instances.Lock()
	instances.dirs = append(instances.dirs, i.dir)
	instances.Unlock()
	log := i.dir + ".log"
	if out, err := command(testBin+"/pg_ctl", "-D", i.dir, "-l", log, "-w", "start").CombinedOutput(); err != nil {
		text, _ := os.ReadFile(log)
		t.Fatalf("start: %v\n%s\n%s", err, out, text)
	}
}

func (i *instance) stop(t testing.TB, mode string) {
	t.Helper()
	mustRun(t, testBin+"/pg_ctl", "-D", i.dir, "-m", mode, "-w", "stop")
}

func (i *instance) log(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(i.dir + ".log")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// tcp is a connection string for that role over TCP.
func (i *instance) tcp(role, password string) Conninfo {
	c := Conninfo{}.With("host", "127.0.0.1").With("port", strconv.Itoa(i.port)).With("dbname", "postgres").With("user", role)
	if password != "" {
		c = c.With("password", password)
	}
	return c
}

// socket is a connection string for the superuser.
func (i *instance) socket() Conninfo {
	return i.tcp("postgres", "").With("host", baseDir)
}

func connect(t testing.TB, c Conninfo) *Conn {
	t.Helper()
	conn, err := Connect(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(within(t, time.Minute)) })
	return conn
}

func (i *instance) exec(t testing.TB, statements ...string) {
	t.Helper()
	conn := connect(t, i.socket())
	for _, s := range statements {
		if _, err := conn.Exec(context.Background(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// within is a context that ends after d.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// until waits for a condition, for at most two minutes.
func until(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("two minutes have passed without: %s", what)
		}
	}
}

// The roles of the shared primary and what their passwords must survive.
const (
	scramPassword = `a b'c\d"e =x%`
	tlsPassword   = "only over tls"
)

var shared struct {
	sync.Mutex
	primary, standby *instance
	ca               *authority
}

// primary is the server that all tests of this package share: SCRAM and TLS for
// TCP, a monitoring role and a replication role. It must not be stopped.
func primary(t testing.TB) *instance {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.primary != nil {
		return shared.primary
	}
	i := newInstance(t)
	shared.ca = newAuthority(t, tempDir(t))
	shared.ca.server(t, i.dir)
	i.configure(t, "password_encryption = 'scram-sha-256'\nssl = on\nssl_ca_file = 'ca.crt'\nwal_level = replica\nmax_wal_senders = 8\nmax_replication_slots = 4\nwal_keep_size = 64MB\n")
	write(t, filepath.Join(i.dir, "pg_hba.conf"), `
local   all         all               trust
local   replication all               trust
hostssl all         certified  all    cert
hostssl all         tlsonly    all    scram-sha-256
host    all         tlsonly    all    reject
host    replication streamer   all    scram-sha-256
host    all         postgres   all    trust
host    all         nobody     all    trust
host    all         all        all    scram-sha-256
`)
	i.start(t)
	i.exec(t,
		"CREATE ROLE monitor LOGIN PASSWORD "+literal(scramPassword), "GRANT pg_monitor TO monitor",
		"CREATE ROLE plain LOGIN PASSWORD 'plain'",
		"CREATE ROLE tlsonly LOGIN PASSWORD "+literal(tlsPassword),
		"CREATE ROLE certified LOGIN",
		"CREATE ROLE streamer LOGIN REPLICATION PASSWORD "+literal(scramPassword))
	shared.primary = i
	return i
}

func literal(s string) string {
	return " E'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s) + "'"
}

// standby is a standby of the shared primary that all tests share. It must not
// be promoted or stopped.
func standby(t testing.TB) *instance {
	t.Helper()
	p := primary(t)
	shared.Lock()
	defer shared.Unlock()
	if shared.standby == nil {
		i := p.clone(t, "")
		i.start(t)
		shared.standby = i
	}
	return shared.standby
}

// clone makes a standby of that server that is not started yet.
func (i *instance) clone(t testing.TB, more string) *instance {
	t.Helper()
	s := &instance{dir: filepath.Join(tempDir(t), "data"), port: ports.For(t)}
	err := BaseBackup(within(t, time.Minute), BackupSpec{
		Bindir: testBin, Source: i.socket(), DataDir: s.dir, FastCheckpoint: true, Credential: credential(),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.configure(t, more)
	source := i.socket().With("application_name", "standby"+strconv.Itoa(s.port)).Without("dbname")
	if err := WriteRecovery(s.dir, Recovery{PrimaryConninfo: source.String()}); err != nil {
		t.Fatal(err)
	}
	if err := WriteStandbySignal(s.dir); err != nil {
		t.Fatal(err)
	}
	return s
}

func (i *instance) name() string { return "standby" + strconv.Itoa(i.port) }

// serverUser is the operating system user that the servers run as.
func serverUser() string {
	if os.Geteuid() == 0 {
		return "postgres"
	}
	u, err := user.Current()
	if err != nil {
		panic(err)
	}
	return u.Username
}

// percent writes every byte as a URI may have it.
func percent(s string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, "%%%02X", s[i])
	}
	return b.String()
}

// testMajor is the major version of the servers under test.
func testMajor(t testing.TB) int {
	t.Helper()
	text := mustRun(t, testBin+"/postgres", "--version") // postgres (PostgreSQL) 15.18 (Debian ...)
	return parseVersion(text[strings.IndexAny(text, "0123456789"):]) / 10000
}
