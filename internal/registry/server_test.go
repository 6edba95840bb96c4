package registry

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"repmgr/internal/lab/ports"
	"repmgr/internal/pg"
)

// bindir is where the server's programs are; REPMGR_TEST_BINDIR overrides it.
func bindir() string {
	if dir := os.Getenv("REPMGR_TEST_BINDIR"); dir != "" {
		return dir
	}
	return "/usr/lib/postgresql/15/bin"
}

// asServer makes command run as a user whom PostgreSQL accepts: never root.
func asServer(t *testing.T, command *exec.Cmd) *exec.Cmd {
	t.Helper()
	command.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	command.Dir = "/"
	if os.Getuid() != 0 {
		return command
	}
	uid, gid := serverUser(t)
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	return command
}

func serverUser(t *testing.T) (uid, gid int) {
	t.Helper()
	u, err := user.Lookup("postgres")
	if err != nil {
		t.Skip("PostgreSQL refuses root, and there is no user postgres")
	}
	uid, _ = strconv.Atoi(u.Uid)
	gid, _ = strconv.Atoi(u.Gid)
	return uid, gid
}

// server is a running PostgreSQL server that ends with its test.
type server struct {
	dir  string
	port int
}

// conninfo is how user reaches database.
func (s server) conninfo(user, database string) string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s", s.port, user, database)
}

// startServer initialises and starts a server with the users repmgr (no
// superuser) and postgres, and the database repmgr, owned by repmgr.
func startServer(t *testing.T) server {
	t.Helper()
	if _, err := os.Stat(bindir()); err != nil {
		t.Skipf("PostgreSQL is not installed: %v", err)
	}
	base, err := os.MkdirTemp("", "registry")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	if os.Getuid() == 0 {
		uid, gid := serverUser(t)
		if err := os.Chown(base, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	s := server{dir: filepath.Join(base, "data"), port: ports.For(t)}
	program(t, "initdb", "-D", s.dir, "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--locale=C")
	s.start(t, base)
	c := s.connect(t, "postgres", "postgres")
	for _, sql := range []string{"CREATE ROLE repmgr LOGIN REPLICATION", "CREATE DATABASE repmgr OWNER repmgr"} {
		if _, err := c.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// start runs the server until the test ends.
func (s server) start(t *testing.T, logDir string) {
	t.Helper()
	options := fmt.Sprintf("-p %d -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off -c max_connections=30 -c shared_buffers=8MB", s.port)
	program(t, "pg_ctl", "-D", s.dir, "-w", "-t", "30", "-l", filepath.Join(logDir, fmt.Sprint("log", s.port)), "-o", options, "start")
	t.Cleanup(func() { program(t, "pg_ctl", "-D", s.dir, "-w", "-t", "30", "-m", "immediate", "stop") })
}

// startStandby clones s and starts the clone as its standby.
func (s server) startStandby(t *testing.T) server {
	t.Helper()
	standby := server{dir: s.dir + "-standby", port: ports.For(t)}
	program(t, "pg_basebackup", "-D", standby.dir, "-R", "-c", "fast", "-d", s.conninfo("repmgr", "postgres"))
	standby.start(t, filepath.Dir(s.dir))
	return standby
}

// connect opens a connection that is closed when the test ends.
func (s server) connect(t *testing.T, user, database string) *pg.Conn {
	t.Helper()
	info, err := pg.ParseConninfo(s.conninfo(user, database))
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		c, err := pg.Connect(ctx, info)
		cancel()
		if err == nil {
			t.Cleanup(func() { Close(c) })
			return c
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func program(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := asServer(t, exec.Command(filepath.Join(bindir(), name), args...)).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// psql runs a statement and returns its one column, rows joined by newlines.
func psql(t *testing.T, c *pg.Conn, sql string, args ...any) string {
	t.Helper()
	rows, err := c.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprint(values...))
	}
	if rows.Err() != nil {
		t.Fatalf("%s: %v", sql, rows.Err())
	}
	return strings.Join(lines, "\n")
}
