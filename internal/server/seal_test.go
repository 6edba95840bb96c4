package server

import (
	"context"
	"net"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"repmgr/internal/cluster"
	"repmgr/internal/host"
	"repmgr/internal/pg"
)

// seal seals a server and requires that it is, that nothing moves afterwards, and
// that pg_waldump finds the end there.
func (i *instance) seal(t testing.TB) Position {
	t.Helper()
	start := time.Now()
	at, err := i.Seal(within(t))
	check(t, err)
	t.Logf("sealed at %d %s in %s", at.Timeline, at.LSN, time.Since(start))
	if sealed, err := i.Sealed(within(t)); err != nil || !sealed {
		t.Fatalf("Sealed: %v, %v", sealed, err)
	}
	start = time.Now()
	again, err := i.Seal(within(t))
	check(t, err)
	t.Logf("sealed again in %s", time.Since(start))
	if again != at {
		t.Fatalf("sealed at %v, again at %v", at, again)
	}
	from := at.LSN / walPage * walPage
	if from < at.LSN && from%(1<<20) != 0 { // the instances' segments have 1 MiB
		from -= walPage // the last record may begin there
	}
	end, err := i.EndOfWAL(within(t), at.Timeline, from)
	check(t, err)
	if end != at.LSN {
		t.Fatalf("sealed at %s, pg_waldump ends at %s", at.LSN, end)
	}
	return at
}

// sealWithAll is seal, of a running standby that must have all that its upstream
// had flushed before, and exactly what it had received.
func (i *instance) sealWithAll(t testing.TB, flushed cluster.LSN) Position {
	t.Helper()
	at := i.seal(t)
	if received := i.received(t); at.LSN < flushed || at.LSN != received {
		t.Errorf("sealed at %v; received were %s, and the primary had flushed %s before", at, received, flushed)
	}
	return at
}

// load writes until stop is called.
func (i *instance) load(t testing.TB) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, testBin+"/psql", i.socket().String(), "-X", "-q", "-c",
		"DO $$ BEGIN LOOP INSERT INTO t SELECT generate_series(1, 20); COMMIT; END LOOP; END $$")
	check(t, cmd.Start())
	done := func() { cancel(); _ = cmd.Wait() }
	t.Cleanup(done)
	before := i.flushed(t)
	until(t, "the load writes", func() bool { return i.flushed(t) > before+1<<16 })
	return done
}

// A session that was there before is as good as a new one, as long as the setting
// reaches it; one that is of no use any more does no harm.
func TestSealInAReadySession(t *testing.T) {
	t.Parallel()
	primary, standby := pair(t, "")
	ready, err := standby.Ready(within(t))
	check(t, err)
	used, err := standby.Detach(within(t), ready)
	check(t, err)
	if used != ready {
		t.Error("another session was opened")
	}
	at, err := standby.Settle(within(t), used)
	check(t, err)
	hangUp(used)
	if again := standby.sealWithAll(t, primary.flushed(t)); again != at {
		t.Errorf("sealed at %v, in a new session at %v", at, again)
	}

	ready, err = standby.Ready(within(t))
	check(t, err)
	standby.stop(t, pg.Fast)
	standby.start(t)
	used, err = standby.Detach(within(t), ready)
	check(t, err)
	if used == ready {
		t.Error("a session with a server that has ended was used")
	}
	hangUp(used)

	// The postmaster tells nobody: what was written is not in force.
	standby.follow(t, primary)
	ready, err = standby.Ready(within(t))
	check(t, err)
	postmaster, err := standby.Postmaster()
	check(t, err)
	defer postmaster.Close()
	check(t, postmaster.Signal(unix.SIGSTOP))
	ctx, cancel := context.WithTimeout(within(t), 2*time.Second)
	defer cancel()
	if _, err := standby.Detach(ctx, ready); err == nil {
		t.Error("detached, though the postmaster stands still")
	}
	check(t, postmaster.Signal(unix.SIGCONT))
}

// The startup process that is told directly ends the WAL receiver and asks for none, though its
// postmaster, which stands still, tells nobody.
func TestReloadStartup(t *testing.T) {
	t.Parallel()
	_, standby := pair(t, "")
	check(t, standby.emptyConninfo())
	postmaster, err := standby.Postmaster()
	check(t, err)
	defer postmaster.Close()
	check(t, postmaster.Signal(unix.SIGSTOP))
	defer postmaster.Signal(unix.SIGCONT)
	found, err := host.ReloadStartup(standby.Config.DataDirectory)
	check(t, err)
	if !found {
		t.Fatal("no startup process was found")
	}
	ended, err := eachWhile(within(t), func() (bool, error) {
		all, err := host.Processes(standby.Config.DataDirectory)
		for _, p := range all {
			if receiverTitle.MatchString(p.Title) {
				return false, err
			}
		}
		return true, err
	})
	check(t, err)
	if !ended {
		t.Error("a WAL receiver lives on")
	}
}

// A child of the postmaster that has no name yet is a session if it has a client, and may be a
// WAL receiver if it has none.
func TestHasClient(t *testing.T) {
	t.Parallel()
	_, standby := pair(t, "")
	at := standby.conn(t).PgConn().Conn().RemoteAddr()
	silent, err := net.Dial(at.Network(), at.String())
	check(t, err)
	defer silent.Close()
	postmaster, err := standby.Postmaster()
	check(t, err)
	defer postmaster.Close()
	var all []host.Process
	var session host.Process
	found, err := eachWhile(within(t), func() (bool, error) {
		var err error
		all, err = host.Processes(standby.Config.DataDirectory)
		for _, p := range all {
			if p.Parent == postmaster.PID && !strings.HasPrefix(p.Title, "postgres:") && host.HasClient(p) {
				session = p
			}
		}
		return session.PID != 0, err
	})
	check(t, err)
	if !found {
		t.Fatal("a connection of which nothing comes is no session")
	}
	withoutClient := regexp.MustCompile(`^postgres: (.*: )?(startup|checkpointer|background writer)\b`)
	looked := 0
	for _, p := range all {
		if !withoutClient.MatchString(p.Title) {
			continue
		}
		looked++
		if host.HasClient(p) {
			t.Errorf("%q has a client", p.Title)
		}
	}
	if looked != 3 {
		t.Errorf("%d of 3 processes without a client were found", looked)
	}
	// One whose postmaster is not in sight is looked at no further.
	if host.HasClient(host.Process{PID: session.PID, Parent: 1 << 30}) {
		t.Error("a session was told from nobody's sockets")
	}
}

// A new connection is answered by a running postmaster only.
func TestRenewed(t *testing.T) {
	t.Parallel()
	_, standby := pair(t, "")
	c, err := standby.Ready(within(t))
	check(t, err)
	defer hangUp(c)
	check(t, c.Renewed(within(t)))
	postmaster, err := standby.Postmaster()
	check(t, err)
	defer postmaster.Close()
	check(t, postmaster.Signal(unix.SIGSTOP))
	ctx, cancel := context.WithTimeout(within(t), time.Second)
	defer cancel()
	if c.Renewed(ctx) == nil {
		t.Error("answered, though the postmaster stands still")
	}
	check(t, postmaster.Signal(unix.SIGCONT))
}

// Clients that look for the new primary, and connections of which nothing comes, make
// children of the postmaster that have no name yet: there is no end to them.
func TestSealWhileClientsConnect(t *testing.T) {
	t.Parallel()
	primary, standby := pair(t, "")
	c := standby.conn(t)
	at := c.PgConn().Conn().RemoteAddr()
	dial := func() (net.Conn, error) { return net.Dial(at.Network(), at.String()) }
	for range 2 {
		silent, err := dial()
		check(t, err)
		defer silent.Close()
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		var open []net.Conn
		for i := 0; ; i++ {
			select {
			case <-stop:
				for _, c := range open {
					c.Close()
				}
				return
			case <-time.After(20 * time.Millisecond):
			}
			if c, err := dial(); err == nil {
				open = append(open, c)
			}
			if len(open) > 5 {
				open[0].Close()
				open = open[1:]
			}
		}
	}()
	defer func() { close(stop); <-done }()
	ctx, cancel := context.WithTimeout(within(t), 30*time.Second)
	defer cancel()
	flushed := primary.flushed(t)
	primary.awaitStreaming(t, standby)
	at1, err := standby.Seal(ctx)
	check(t, err)
	if at1.LSN < flushed {
		t.Errorf("sealed at %v, and the primary had flushed %s before", at1, flushed)
	}
	if sealed, err := standby.Sealed(ctx); err != nil || !sealed {
		t.Errorf("Sealed: %v, %v", sealed, err)
	}
}

func TestCoreSeal(t *testing.T) {
	t.Parallel()
	primary, standby := pair(t, "")
	if sealed, err := standby.Sealed(within(t)); err != nil || sealed {
		t.Fatalf("a standby that streams: %v, %v", sealed, err)
	}
	want := standby.sealWithAll(t, primary.flushed(t))
	primary.exec(t, "INSERT INTO t VALUES (1)")
	if standby.rows(t) != "1" {
		t.Error("a sealed standby has a later row")
	}
	standby.stop(t, pg.Fast)
	standby.start(t)
	if at := standby.seal(t); at != want {
		t.Errorf("after a restart: sealed at %v, before at %v", at, want)
	}
	standby.stop(t, pg.Immediate)
	if at, err := standby.Position(within(t)); err != nil || at != want {
		t.Errorf("stopped: %v, %v; before %v", at, err, want)
	}
	standby.start(t)
	if at := standby.seal(t); at != want {
		t.Errorf("after an immediate restart: sealed at %v, before at %v", at, want)
	}
	if _, err := primary.Seal(within(t)); err == nil {
		t.Error("a primary was sealed")
	}
}

func TestCoreSealUnderLoad(t *testing.T) {
	t.Parallel()
	primary, standby := pair(t, "")
	stop := primary.load(t)
	at := standby.seal(t)
	stop()
	received := standby.received(t)
	if at.LSN > received || received-at.LSN > 1<<20 {
		t.Errorf("sealed at %s; received were %s", at.LSN, received)
	}
	standby.stop(t, pg.Fast)
	standby.start(t)
	if again := standby.seal(t); again != at {
		t.Errorf("sealed at %v, after a restart at %v", at, again)
	}
}

func TestCoreSealUpstreamKilled(t *testing.T) {
	t.Parallel()
	primary, standby := pair(t, "")
	primary.exec(t, "INSERT INTO t SELECT generate_series(1, 10000)")
	want := primary.flushed(t)
	primary.awaitCaughtUp(t, standby)
	check(t, host.KillAll(within(t), primary.dir))
	until(t, "the WAL receiver has gone", func() bool { return standby.value(t, "SELECT count(*) FROM pg_stat_wal_receiver") == "0" })
	standby.sealWithAll(t, want)
}

// A WAL receiver is ended by the startup process, which does not come to that
// while it waits (A2).
func TestCoreSealWhileReplayWaits(t *testing.T) {
	t.Parallel()
	cases := map[string]func(t *testing.T, primary, standby *instance){
		"paused": func(t *testing.T, primary, standby *instance) { standby.exec(t, "SELECT pg_wal_replay_pause()") },
		"delay":  func(t *testing.T, primary, standby *instance) {},
		"conflict": func(t *testing.T, primary, standby *instance) {
			reader := standby.conn(t)
			for _, sql := range []string{"BEGIN", "SELECT count(*) FROM t"} {
				_, err := reader.Exec(within(t), sql)
				check(t, err)
			}
			primary.exec(t, "ALTER TABLE t ADD COLUMN more int")
		},
	}
	for name, wait := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			more := "max_standby_streaming_delay = -1\n"
			if name == "delay" {
				more += "recovery_min_apply_delay = '1h'\n"
			}
			primary, standby := pair(t, more)
			wait(t, primary, standby)
			replayed := standby.lsn(t, "pg_last_wal_replay_lsn()")
			primary.exec(t, "INSERT INTO t (i) SELECT generate_series(1, 50000)")
			want := primary.flushed(t)
			primary.awaitCaughtUp(t, standby)
			at := standby.sealWithAll(t, want)
			if now := standby.lsn(t, "pg_last_wal_replay_lsn()"); now >= want {
				t.Errorf("replay did not wait: %s, before %s, sent were %s", now, replayed, want)
			}
			standby.stop(t, pg.Immediate)
			standby.start(t)
			if again := standby.seal(t); again != at {
				t.Errorf("after a restart: sealed at %v, before at %v", again, at)
			}
		})
	}
}

// Where much is received and not replayed, the end is found without printing all.
func TestSealFarBehind(t *testing.T) {
	t.Parallel()
	primary, standby := pair(t, "")
	standby.exec(t, "SELECT pg_wal_replay_pause()")
	primary.exec(t, "INSERT INTO t SELECT generate_series(1, 300000)")
	want := primary.flushed(t)
	primary.awaitCaughtUp(t, standby)
	at := standby.sealWithAll(t, want)
	s, err := standby.segments()
	check(t, err)
	count := 0
	start := time.Now()
	w := span{1, standby.lsn(t, "pg_last_wal_replay_lsn()"), toTheEnd, false}
	end, _, err := standby.walk(within(t), s, w, func(record) { count++ })
	check(t, err)
	t.Logf("all %d records were printed in %s", count, time.Since(start))
	if count < 10*skimmed || end != at.LSN {
		t.Errorf("sealed at %s; the last of %d records ends at %s", at.LSN, count, end)
	}
}

func TestEndOfRecord(t *testing.T) {
	const segment = 1 << 20
	for _, c := range []struct{ at, length, want cluster.LSN }{
		{0x1000028, 54, 0x1000060},
		{0x1001FD0, 48, 0x1002000},                // to the end of its page
		{0x1001FD0, 49, 0x1002000 + 24 + 8},       // one byte into the next
		{0x10FFFF8, 24, 0x1100000 + 40 + 16},      // into the next segment
		{0x1001FF8, 8 + 8168 + 1, 0x1004000 + 32}, // a whole page between
	} {
		if got := endOfRecord(c.at, c.length, segment); got != c.want {
			t.Errorf("endOfRecord(%s, %d) = %s, want %s", c.at, c.length, got, c.want)
		}
	}
}

func TestParseRecord(t *testing.T) {
	const line = "rmgr: XLOG        len (rec/tot):     24/    24, tx:          0, lsn: 0/01528988, prev 0/01528950, desc: SWITCH \n"
	r, err := parseRecord(line, 16<<20)
	if err != nil || r.End != 0x2000000 || r.LSN != 0x1528988 || r.Manager != "XLOG" {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := parseRecord("rmgr: something else\n", 16<<20); err == nil || !strings.Contains(err.Error(), "pg_waldump") {
		t.Errorf("a line that is none: %v", err)
	}
}
