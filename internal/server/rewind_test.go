package server

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/pg"
)

// diverged is a former primary, stopped, with commits that the new one has not.
func diverged(t *testing.T, stop pg.StopMode) (old, primary *instance, fork Position, xids []uint32) {
	t.Helper()
	old, primary = pair(t, "")
	fork = primary.seal(t)
	c := old.conn(t)
	for range 3 {
		var xid uint32
		check(t, c.QueryRow(within(t), "INSERT INTO t VALUES (7) RETURNING pg_current_xact_id()::text::int").Scan(&xid))
		xids = append(xids, xid)
	}
	if stop == pg.Immediate {
		check(t, old.Demote(within(t)))
	} else {
		old.stop(t, stop)
	}
	primary.promote(t, 2)
	return old, primary, fork, xids
}

func (i *instance) history(t testing.TB, timeline cluster.Timeline) History {
	t.Helper()
	h, err := i.History(timeline)
	check(t, err)
	return h
}

func TestCoreRewind(t *testing.T) {
	t.Parallel()
	for _, stop := range []pg.StopMode{pg.Immediate, pg.Fast} {
		t.Run(string(stop), func(t *testing.T) {
			t.Parallel()
			old, primary, fork, xids := diverged(t, stop)
			target := primary.history(t, 2)
			r, err := old.Compare(within(t), target)
			check(t, err)
			if r.Follows || r.Fork != fork || r.Beyond != int64(r.Own.LSN-fork.LSN) || r.Beyond <= 0 {
				t.Fatalf("compared: %+v; the fork is at %v", r, fork)
			}
			kept, err := old.KeepDiverged(within(t), filepath.Join(tempDir(t), "kept", "wal"), fork.LSN, r.Own.Timeline, 1<<30)
			check(t, err)
			if kept.Truncated || kept.Bytes < 1<<20 {
				t.Errorf("kept: %+v", kept)
			}
			if again, err := old.KeepDiverged(within(t), kept.Path, fork.LSN, r.Own.Timeline, 1<<30); err != nil || again != kept {
				t.Errorf("kept again: %+v, %v", again, err)
			}
			d, err := old.CountDiscarded(within(t), r.Own.Timeline, fork.LSN, r.Own.LSN)
			check(t, err)
			state := tempDir(t)
			request := RewindRequest{Source: primary.socket(), History: target, StateDir: state, Recovery: old.following(primary)}
			rewound, err := old.Rewind(within(t), request)
			check(t, err)
			for _, d := range []Discarded{d, rewound} {
				if d.Commits != 3 || len(d.Xacts) != 3 || !d.Listed || d.Bytes != r.Beyond {
					t.Fatalf("discarded: %+v", d)
				}
				for n, x := range d.Xacts {
					if x.XID != xids[n] || x.At.IsZero() || x.LSN < fork.LSN {
						t.Errorf("discarded: %+v, want transaction %d", x, xids[n])
					}
				}
			}
			if left, _ := os.ReadDir(state); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			if info, err := os.Stat(old.dir); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("permissions of the data directory: %v, %v", info.Mode(), err)
			}
			old.start(t)
			primary.awaitStreaming(t, old)
			until(t, "both have the same rows", func() bool { return old.rows(t) == primary.rows(t) })
			dumped := mustRun(t, testBin+"/pg_waldump", "-p", kept.Path, "-s", fork.LSN.String(), "-r", "Transaction", "-e", r.Own.LSN.String())
			if n := strings.Count(dumped, "COMMIT"); n != 3 {
				t.Errorf("the kept WAL has %d commits", n)
			}
		})
	}
}

// A primary that dies soon after its promotion has no checkpoint on its timeline,
// and pg_rewind of 13 to 15 takes it for a server of the timeline before.
func TestRewindSoonAfterPromotion(t *testing.T) {
	t.Parallel()
	first, old := pair(t, "checkpoint_completion_target = 0.9")
	next := first.clone(t, "")
	next.start(t)
	first.awaitStreaming(t, next)
	// Pages that the checkpoint after the promotion has to write, slowly.
	first.exec(t, "CREATE TABLE many AS SELECT i, repeat('x', 1000) AS x FROM generate_series(1, 3000) i")
	first.awaitCaughtUp(t, old)
	first.awaitCaughtUp(t, next)
	next.seal(t) // first, so that it has no more than the new primary
	old.seal(t)
	check(t, first.Demote(within(t)))
	old.promote(t, 2)
	next.follow(t, old)
	old.awaitStreaming(t, next)
	next.seal(t)
	old.exec(t, "INSERT INTO t VALUES (7)")
	check(t, old.Demote(within(t)))
	control, err := old.control(within(t))
	check(t, err)
	if control.Timeline != 1 {
		t.Skip("the checkpoint was faster than the test")
	}
	next.promote(t, 3)
	request := RewindRequest{Source: next.socket(), History: next.history(t, 3), StateDir: tempDir(t), Recovery: old.following(next)}
	d, err := old.Rewind(within(t), request)
	check(t, err)
	if d.Commits != 1 {
		t.Errorf("discarded: %+v, want one commit", d)
	}
	old.start(t)
	next.awaitStreaming(t, old)
	until(t, "both have the same rows", func() bool { return old.rows(t) == next.rows(t) })
}

// A shutdown checkpoint that the standby did not get is a divergence; an immediate
// stop leaves none (A23).
func TestCoreCompare(t *testing.T) {
	t.Parallel()
	for stop, follows := range map[pg.StopMode]bool{pg.Fast: false, pg.Immediate: true} {
		t.Run(string(stop), func(t *testing.T) {
			t.Parallel()
			old, primary := pair(t, "")
			if _, err := primary.Compare(within(t), History{Timeline: 1}); err == nil {
				t.Error("a standby was compared that is not sealed")
			}
			primary.seal(t)
			old.stop(t, stop)
			primary.promote(t, 2)
			r, err := old.Compare(within(t), primary.history(t, 2))
			check(t, err)
			if r.Follows != follows {
				t.Fatalf("compared: %+v", r)
			}
			request := RewindRequest{Source: primary.socket(), History: primary.history(t, 2), StateDir: tempDir(t), Recovery: old.following(primary)}
			d, err := old.Rewind(within(t), request)
			check(t, err)
			if d.Commits != 0 {
				t.Errorf("discarded: %+v", d)
			}
			old.start(t)
			primary.awaitStreaming(t, old)
		})
	}
}

func TestCompareHistories(t *testing.T) {
	two := History{Timeline: 2, Switches: []Switch{{1, 100, 2}}}
	three := History{Timeline: 3, Switches: []Switch{{1, 80, 3}}}
	five := History{Timeline: 5, Switches: []Switch{{1, 100, 2}, {2, 200, 5}}}
	one := History{Timeline: 1}
	ended := History{Timeline: 1, End: 90}
	for _, c := range []struct {
		name        string
		own         Position
		mine, other History
		follows     bool
		fork        Position
	}{
		{"same timeline", Position{1, 50}, one, one, true, Position{1, 50}},
		{"same timeline, the other is behind", Position{1, 95}, one, ended, false, Position{1, 90}},
		{"before the fork", Position{1, 99}, one, two, true, Position{1, 99}},
		{"at the fork", Position{1, 100}, one, two, true, Position{1, 100}},
		{"beyond the fork", Position{1, 101}, one, two, false, Position{1, 100}},
		{"the grandparent", Position{1, 70}, one, five, true, Position{1, 70}},
		{"the parent", Position{2, 200}, two, five, true, Position{2, 200}},
		{"beyond the parent's fork", Position{2, 201}, two, five, false, Position{2, 200}},
		{"another child", Position{2, 150}, two, three, false, Position{1, 80}},
		{"another child, the other way round", Position{3, 150}, three, two, false, Position{1, 80}},
		{"the child against its parent", Position{2, 150}, two, one, false, Position{1, 100}},
		{"children that left at one place", Position{3, 150}, History{Timeline: 3, Switches: []Switch{{1, 100, 3}}}, two, false, Position{1, 100}},
	} {
		r, err := compare(c.own, c.mine, c.other)
		if err != nil || r.Follows != c.follows || r.Fork != c.fork {
			t.Errorf("%s: %+v, %v", c.name, r, err)
		}
	}
	if _, err := compare(Position{3, 1}, History{Timeline: 3}, two); err == nil {
		t.Error("histories that have nothing in common were compared")
	}
}

// A rewind that is broken off leaves a directory that must not be started.
func TestCoreRewindInterrupted(t *testing.T) {
	t.Parallel()
	old, primary, fork, _ := diverged(t, pg.Immediate)
	file := filepath.Join(old.dir, primary.value(t, "SELECT pg_relation_filepath('t')"))
	check(t, os.Chmod(file, 0o400)) // what pg_rewind cannot write: a dry run does not notice
	state := tempDir(t)
	request := RewindRequest{Source: primary.socket(), History: primary.history(t, 2), StateDir: state, Recovery: old.following(primary)}
	kept, err := old.KeepDiverged(within(t), filepath.Join(state, "wal"), fork.LSN, 1, 1<<10)
	if err != nil || !kept.Truncated || kept.Bytes != 0 {
		t.Errorf("kept within 1 KiB: %+v, %v", kept, err)
	}
	if interrupted, err := RewindInterrupted(state); err != nil || interrupted {
		t.Fatalf("before: %v, %v", interrupted, err)
	}
	// Something that is refused before anything is changed leaves no mark.
	nobody := request
	nobody.Source = request.Source.With("port", strconv.Itoa(old.port))
	if _, err := old.Rewind(within(t), nobody); err == nil {
		t.Fatal("rewound from nobody")
	}
	if interrupted, err := RewindInterrupted(state); err != nil || interrupted {
		t.Fatalf("after a refusal: %v, %v", interrupted, err)
	}
	check(t, os.Chmod(file, 0o600)) // the server recovers first, which writes too
	control, err := old.control(within(t))
	check(t, err)
	if !control.ShutDownCleanly() {
		check(t, old.recoverCleanly(within(t), Position{1, fork.LSN}))
	}
	// Nor does a pg_rewind that ends before it changes anything: the source may be busy. The
	// rehearsal is over with the first that comes, however much would follow.
	busy := *old.Config
	busy.PgBindir = toolsWith(t, `case "$*" in
*--dry-run*) `+testBin+`/pg_rewind "$@" > /dev/null 2>&1 && printf '      0/999999 kB (0%%) copied\r   1024/999999 kB (0%%) copied\r' >&2 && exec sleep 600 ;;
*) echo "pg_rewind: error: connection to server failed: timeout expired" >&2; exit 1 ;;
esac`)
	if _, err := (Own{Config: &busy, Log: old.Log}).Rewind(within(t), request); err == nil || !strings.HasSuffix(err.Error(), "pg_rewind has failed: exit status 1") {
		t.Fatalf("from a busy source: %v", err)
	}
	if interrupted, err := RewindInterrupted(state); err != nil || interrupted {
		t.Fatalf("after a busy source: %v, %v", interrupted, err)
	}
	if info, err := os.Stat(old.dir); err != nil || info.Mode().Perm()&closed != 0 {
		t.Errorf("the directory is closed to servers after a busy source: %v, %v", info.Mode(), err)
	}
	check(t, os.Chmod(file, 0o400))
	if _, err := old.Rewind(within(t), request); err == nil || !strings.Contains(err.Error(), "must not be started") {
		t.Fatalf("interrupted: %v", err)
	}
	if interrupted, err := RewindInterrupted(state); err != nil || !interrupted {
		t.Fatalf("after it was broken off: %v, %v", interrupted, err)
	}
	check(t, os.Chmod(file, 0o600))
	byHand := exec.Command(testBin+"/pg_ctl", "start", "-w", "-t", "60", "-D", old.dir, "-l", old.dir+".log", "-o", "-p "+strconv.Itoa(old.port))
	out, _ := byHand.CombinedOutput() // pg_ctl of 18 takes the refusal for a recovery target that was reached
	if err := exec.Command(testBin+"/pg_ctl", "status", "-D", old.dir).Run(); err == nil {
		t.Errorf("a directory whose rewind was broken off was started by hand:\n%s", out)
	}
	if _, err := old.Rewind(within(t), request); err == nil || !strings.Contains(err.Error(), "cloned") {
		t.Fatalf("again: %v", err)
	}
	check(t, ClearRewind(state))
	if interrupted, err := RewindInterrupted(state); err != nil || interrupted {
		t.Fatalf("cleared: %v, %v", interrupted, err)
	}
}

// toolsWith is a folder of PostgreSQL's programs with another pg_rewind.
func toolsWith(t *testing.T, script string) string {
	t.Helper()
	dir := tempDir(t)
	entries, err := os.ReadDir(testBin)
	check(t, err)
	for _, e := range entries {
		if e.Name() != "pg_rewind" {
			check(t, os.Symlink(filepath.Join(testBin, e.Name()), filepath.Join(dir, e.Name())))
		}
	}
	check(t, os.WriteFile(filepath.Join(dir, "pg_rewind"), []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	return dir
}

// rewinder makes a role that may do what pg_rewind needs, and no more.
func (i *instance) rewinder(t *testing.T) pg.Conninfo {
	t.Helper()
	i.exec(t, "CREATE ROLE rewinder LOGIN",
		"GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_dir(text, boolean, boolean) TO rewinder",
		"GRANT EXECUTE ON FUNCTION pg_catalog.pg_stat_file(text, boolean) TO rewinder",
		"GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text) TO rewinder",
		"GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) TO rewinder")
	return i.socket().With("user", "rewinder")
}

// The role needs no more than pg_rewind does.
func TestRewindWithoutSuperuser(t *testing.T) {
	t.Parallel()
	old, primary, _, _ := diverged(t, pg.Fast)
	request := RewindRequest{Source: primary.rewinder(t), History: primary.history(t, 2), StateDir: tempDir(t)}
	if _, err := old.Rewind(within(t), request); err == nil || !strings.Contains(err.Error(), "whom the server follows") {
		t.Errorf("without an upstream: %v", err)
	}
	request.Recovery = old.following(primary)
	_, err := old.Rewind(within(t), request)
	check(t, err)
	old.start(t)
	primary.awaitStreaming(t, old)
}

// A server is not judged, and not changed, by the history of a primary that was promoted
// once more since, nor by that of one that takes no writes.
func TestRewindByAnOldHistory(t *testing.T) {
	t.Parallel()
	old, primary, _, _ := diverged(t, pg.Immediate)
	request := RewindRequest{Source: primary.socket(), History: primary.history(t, 2), StateDir: tempDir(t), Recovery: old.following(primary)}
	primary.stop(t, pg.Fast)
	check(t, pg.WriteStandbySignal(primary.dir))
	primary.start(t)
	before, err := os.ReadFile(filepath.Join(old.dir, "global", "pg_control"))
	check(t, err)
	refused := func(why string) {
		t.Helper()
		if _, err := old.Rewind(within(t), request); err == nil || !strings.Contains(err.Error(), why) {
			t.Fatalf("not refused since %q: %v", why, err)
		}
		if after, err := os.ReadFile(filepath.Join(old.dir, "global", "pg_control")); err != nil || !bytes.Equal(before, after) {
			t.Errorf("it was changed though it was refused since %q (%v)", why, err)
		}
	}
	refused("takes no writes")
	primary.promote(t, 3)
	refused("is on timeline 3")
	request.History = primary.history(t, 3)
	_, err = old.Rewind(within(t), request)
	check(t, err)
	old.start(t)
	primary.awaitStreaming(t, old)
}

// The checkpoint after a promotion is spread over checkpoint_timeout where much was
// changed: a role that may only replicate ends it at once.
func TestRewindMakesTheCheckpointFast(t *testing.T) {
	t.Parallel()
	old := newInstance(t, "")
	old.start(t)
	old.exec(t, "CREATE TABLE t (i int)")
	primary := old.clone(t, "checkpoint_timeout = 1h\nbgwriter_lru_maxpages = 0\nshared_buffers = 32MB")
	primary.start(t)
	old.awaitStreaming(t, primary)
	old.exec(t, "CREATE TABLE much AS SELECT repeat('x', 1000) FROM generate_series(1, 14000)") // 2000 buffers, 0.1 s each at least
	old.awaitCaughtUp(t, primary)
	_, err := primary.Seal(within(t))
	check(t, err)
	old.exec(t, "INSERT INTO t VALUES (7)")
	old.stop(t, pg.Fast)
	primary.promote(t, 2)
	request := RewindRequest{Source: primary.rewinder(t), History: primary.history(t, 2), StateDir: tempDir(t), Recovery: old.following(primary)}
	_, err = old.Rewind(within(t), request)
	check(t, err)
	old.start(t)
	primary.awaitStreaming(t, old)
}

func TestCanRewind(t *testing.T) {
	for _, c := range []struct {
		control pg.Control
		can     bool
	}{{pg.Control{}, false}, {pg.Control{Checksums: true}, true}, {pg.Control{WALLogHints: true}, true}} {
		if err := CanRewind(c.control); (err == nil) != c.can {
			t.Errorf("%+v: %v", c.control, err)
		}
	}
}

// A directory whose rewind was broken off is a mixture of two servers: nothing
// here may start it.
func TestStartRefusesInterruptedRewind(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	if err := os.WriteFile(filepath.Join(state, markerName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	o := Own{Config: &conf.Config{DataDirectory: t.TempDir(), StateDirectory: state}}
	_, sealed := o.Seal(t.Context())
	for what, err := range map[string]error{"start": o.Start(t.Context()), "gate": o.StartReadOnly(), "seal": sealed} {
		if err == nil || !strings.Contains(err.Error(), "broken off") {
			t.Errorf("%s: got %v", what, err)
		}
	}
}
