package server

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/host"
	"repmgr/internal/pg"
)

func (i *instance) processes(t testing.TB) []host.Process {
	t.Helper()
	all, err := host.Processes(i.dir)
	check(t, err)
	return all
}

// A running primary is not touched by standby.signal, until any restart (A25).
func TestCoreArmedPrimary(t *testing.T) {
	t.Parallel()
	primary := newInstance(t, "")
	primary.start(t)
	primary.exec(t, "CREATE TABLE t (i int)")
	check(t, primary.Arm())
	check(t, primary.Arm())
	if armed, err := primary.Armed(); err != nil || !armed {
		t.Fatalf("Armed: %v, %v", armed, err)
	}
	primary.exec(t, "INSERT INTO t VALUES (1)")
	backend := primary.conn(t)
	check(t, unix.Kill(int(backend.PgConn().PID()), unix.SIGKILL))
	until(t, "the server is back, read-only", func() bool {
		c, err := primary.connect(within(t))
		if err != nil {
			return false
		}
		defer hangUp(c)
		p, err := c.Progress(within(t))
		return err == nil && p.InRecovery
	})
	if sealed, err := primary.Sealed(within(t)); err != nil || !sealed {
		t.Errorf("Sealed: %v, %v", sealed, err)
	}
	primary.promote(t, 2)
	if armed, err := primary.Armed(); err != nil || armed {
		t.Errorf("armed after a promotion, which takes the signal away: %v, %v", armed, err)
	}
	check(t, primary.Arm())
	primary.stop(t, pg.Fast)
	check(t, primary.Disarm())
	primary.start(t)
	primary.exec(t, "INSERT INTO t VALUES (1)")
}

// What tools leave in comments is no setting: pgBackRest comments out what it replaces.
func TestCommentsDoNotCount(t *testing.T) {
	o := Own{Config: &conf.Config{DataDirectory: t.TempDir()}}
	file := filepath.Join(o.dir(), "postgresql.auto.conf")
	check(t, os.WriteFile(file, []byte("# Removed by pgBackRest restore # primary_conninfo = 'host=a'\nPrimary_Conninfo 'host=b'\n"), 0o600))
	if armed, err := o.Armed(); err != nil || armed {
		t.Errorf("armed at first: %v, %v", armed, err)
	}
	check(t, o.Arm())
	armed, err := o.Armed()
	detached, errDetached := o.Detached()
	if err := errors.Join(err, errDetached); err != nil || !armed || !detached {
		t.Errorf("armed: %v, detached: %v, %v", armed, detached, err)
	}
	check(t, pg.WriteSetting(o.dir(), "primary_conninfo", "host=c"))
	if armed, err := o.Armed(); err != nil || armed {
		t.Errorf("armed while it follows: %v, %v", armed, err)
	}
}

// A server that only recovers to a point takes writes from there on: the gate arms it.
func TestGateArmsTargetedRecovery(t *testing.T) {
	o := Own{Config: &conf.Config{DataDirectory: t.TempDir()}}
	check(t, os.WriteFile(filepath.Join(o.dir(), "recovery.signal"), nil, 0o600))
	check(t, o.StartReadOnly())
	if armed, err := o.Armed(); err != nil || !armed {
		t.Errorf("armed: %v, %v", armed, err)
	}
}

func TestCoreDemote(t *testing.T) {
	t.Parallel()
	primary := newInstance(t, "")
	primary.start(t)
	primary.exec(t, "CREATE TABLE t (i int)")
	primary.load(t)
	memory := primary.sharedMemory()
	if memory.attached() == 0 {
		t.Errorf("nobody is attached to %+v of a running server", memory)
	}
	start := time.Now()
	check(t, primary.Demote(within(t)))
	t.Logf("demoted in %s", time.Since(start))
	if left := primary.processes(t); len(left) > 0 || memory.attached() > 0 {
		t.Errorf("left: %v; attached: %d", left, memory.attached())
	}
	if armed, err := primary.Armed(); err != nil || !armed {
		t.Errorf("Armed: %v, %v", armed, err)
	}
	at, err := primary.Position(within(t))
	check(t, err)
	primary.start(t)
	until(t, "all is replayed", func() bool { return primary.lsn(t, "pg_last_wal_replay_lsn()") == at.LSN })
	if again := primary.seal(t); again != at {
		t.Errorf("stopped at %v, sealed at %v", at, again)
	}
	check(t, primary.Demote(within(t)))
	check(t, primary.Demote(within(t))) // of nobody
}

// An immediate stop does nothing while the postmaster is stopped (A12).
func TestDemoteOfFrozenPostmaster(t *testing.T) {
	t.Parallel()
	primary := newInstance(t, "")
	primary.start(t)
	h, err := primary.Postmaster()
	check(t, err)
	defer h.Close()
	check(t, h.Signal(unix.SIGSTOP))
	check(t, primary.Demote(within(t)))
	if left := primary.processes(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// Whoever is attached to the shared memory may write, in whatever namespace it is.
func TestKillWaitsForAttached(t *testing.T) {
	t.Parallel()
	primary := newInstance(t, "")
	primary.start(t)
	memory := primary.sharedMemory()
	data, err := unix.SysvShmAttach(memory.id, 0, unix.SHM_RDONLY)
	check(t, err)
	done := make(chan error, 1)
	ctx := within(t)
	go func() { done <- primary.Kill(ctx) }()
	until(t, "all processes have gone", func() bool { return len(primary.processes(t)) == 0 })
	until(t, "one is attached", func() bool { return memory.attached() == 1 })
	select {
	case err := <-done:
		t.Errorf("Kill has returned: %v", err)
	case <-time.After(50 * time.Millisecond): // what is wrongly early is seen on most machines
	}
	check(t, unix.SysvShmDetach(data))
	check(t, <-done)
}

// A backend that does not sleep outlives its postmaster, and goes on (A8).
func TestStartRefusesBesideOrphans(t *testing.T) {
	t.Parallel()
	primary := newInstance(t, "")
	primary.start(t)
	c := primary.conn(t)
	go func() { _, _ = c.Exec(context.Background(), "DO $$ BEGIN LOOP END LOOP; END $$") }() // ends with its session
	until(t, "the loop runs", func() bool {
		return primary.value(t, "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'DO %'") == "1"
	})
	h, err := primary.Postmaster()
	check(t, err)
	defer h.Close()
	check(t, h.Kill())
	<-h.Done()
	if err := primary.Start(within(t)); err == nil || !strings.Contains(err.Error(), "former postmaster") {
		t.Errorf("%v", err)
	}
	check(t, primary.Kill(within(t)))
	check(t, primary.Disarm())
	primary.start(t)
}

func TestWaitsToDie(t *testing.T) {
	for status, want := range map[string]bool{
		"State:\tD (disk sleep)\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n": true,
		"State:\tD (disk sleep)\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000100\n": true,
		"State:\tD (disk sleep)\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000004000\n": false,
		"State:\tS (sleeping)\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n":   false,
		"": false,
	} {
		if got := waitsToDie(status); got != want {
			t.Errorf("%q: %v", status, got)
		}
	}
}

// A postmaster.pid that names another process keeps a server from starting; one
// that names a zombie would (A10).
func TestStartWithStalePidFile(t *testing.T) {
	t.Parallel()
	for want, program := range map[string][]string{"zombie": {"/bin/true"}, "another process": {"/bin/sleep", "60"}} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			s := newInstance(t, "")
			s.start(t)
			text, err := os.ReadFile(filepath.Join(s.dir, "postmaster.pid"))
			check(t, err)
			s.stop(t, pg.Fast)
			other := exec.Command(program[0], program[1:]...)
			check(t, other.Start())
			t.Cleanup(func() { _ = other.Process.Kill(); _ = other.Wait() })
			if want == "zombie" {
				until(t, "it is a zombie", func() bool { state, _ := processState(other.Process.Pid); return state == 'Z' })
			}
			_, rest, _ := strings.Cut(string(text), "\n")
			lines := strings.Split(rest, "\n")
			lines[5] = "  0 0" // no shared memory is left
			check(t, os.WriteFile(filepath.Join(s.dir, "postmaster.pid"), []byte(strconv.Itoa(other.Process.Pid)+"\n"+strings.Join(lines, "\n")), 0o600))
			err = s.Start(within(t))
			if want == "zombie" {
				check(t, err)
			} else if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v", err)
			}
		})
	}
}

// Empty history files that a promotion has left, which did not happen, keep a
// standby from starting.
func TestStartDropsPlaceholders(t *testing.T) {
	t.Parallel()
	_, standby := pair(t, "")
	standby.seal(t)
	standby.stop(t, pg.Fast)
	check(t, standby.reserve(1, 4))
	standby.start(t)
	if _, err := os.Stat(standby.walPath(historyFile(2))); err == nil {
		t.Error("the file is still there")
	}
	standby.promote(t, 4)
	check(t, standby.Arm())
	standby.stop(t, pg.Fast)
	standby.start(t)
	for n := cluster.Timeline(2); n <= 4; n++ {
		if _, err := os.Stat(standby.walPath(historyFile(n))); err != nil {
			t.Errorf("timeline %d: %v", n, err)
		}
	}
}

// A promotion that cannot go on is taken back.
func TestPromotionIsTakenBack(t *testing.T) {
	t.Parallel()
	_, standby := pair(t, "")
	standby.seal(t)
	var startup int
	for _, p := range standby.processes(t) {
		if strings.Contains(p.Title, " startup ") {
			startup = p.PID
		}
	}
	check(t, unix.Kill(startup, unix.SIGSTOP))
	short := standby.Own
	c := *short.Config
	c.PromoteCheckTimeout = 300 * time.Millisecond
	short.Config = &c
	if p, err := short.PromoteTo(within(t), 2); err == nil {
		t.Errorf("promoted: %v", p)
	}
	if _, err := os.Stat(standby.promoteFile()); !os.IsNotExist(err) {
		t.Errorf("the promote file: %v", err)
	}
	check(t, unix.Kill(startup, unix.SIGCONT))
	if _, err := standby.PromoteTo(within(t), 1); err == nil {
		t.Error("promoted to the present timeline")
	}
	standby.promote(t, 3)
}

// A server with much memory is dead before it has given that back, and is started when it has.
func TestStartAfterMuchMemory(t *testing.T) {
	t.Parallel()
	i := newInstance(t, "shared_buffers = 400MB\nhuge_pages = off\n")
	i.start(t)
	i.exec(t, "CREATE UNLOGGED TABLE big AS SELECT repeat('x', 1000) AS x FROM generate_series(1, 350000)")
	conn := i.conn(t) // one that has touched it too
	_, err := conn.Exec(within(t), "SELECT count(*) FROM big")
	check(t, err)
	began := time.Now()
	check(t, i.Kill(within(t)))
	ending, err := host.Ending(i.dir)
	check(t, err)
	t.Logf("after %s nobody can run, and %d give memory back", time.Since(began), ending)
	check(t, i.Start(within(t)))
	if standby := i.value(t, "SELECT pg_is_in_recovery()"); standby != "t" && standby != "true" {
		t.Errorf("in recovery: %s", standby)
	}
}

// A killed postmaster has its number and its port until its sockets are closed, which takes
// a while where many clients wait to be taken; no server starts beside it.
func TestStartAfterManyClients(t *testing.T) {
	t.Parallel()
	i := newInstance(t, "max_connections = 3000\n")
	i.start(t)
	h, err := i.Postmaster()
	check(t, err)
	defer h.Close()
	check(t, h.Signal(unix.SIGSTOP)) // it takes none
	info := i.socket()
	for range 4000 {
		c, err := net.Dial("unix", filepath.Join(info.Get("host"), ".s.PGSQL."+info.Get("port")))
		check(t, err)
		defer c.Close()
	}
	check(t, h.Kill())
	ctx := within(t)
	for host.Runs(h.PID, "postgres") && ctx.Err() == nil { // Start looks at that first
	}
	check(t, i.awaitEnding(ctx))
	if state, _ := processState(h.PID); state != 'Z' && state != 0 {
		t.Errorf("the postmaster is not dead: %c", state)
	}
	check(t, i.Kill(within(t)))
	check(t, i.Start(within(t)))
}

// Why a server did not start stands in its log, and in the error.
func TestStartTellsWhy(t *testing.T) {
	t.Parallel()
	i := newInstance(t, "")
	log := filepath.Join(i.dir, "start.log")
	check(t, os.WriteFile(filepath.Join(i.dir, "postgresql.auto.conf"), []byte("shared_buffers = 'few'\n"), 0o600))
	for _, options := range []string{"-s -l " + log, "--log=" + log, "--log " + log, "-l" + log} {
		config := *i.Config
		config.PgCtlOptions = options
		own := i.Own
		own.Config = &config
		if err := own.Start(within(t)); err == nil || strings.Count(explain(err), "invalid value for parameter") != 1 {
			t.Errorf("%s: %v", options, explain(err))
		}
	}
}
