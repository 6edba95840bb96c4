package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// plain makes a primary and a standby by PostgreSQL's own means.
func plain(t *testing.T, ctx context.Context, l *Lab) {
	t.Helper()
	must(t, l.Node(1).InitPrimary(ctx))
	for _, n := range l.Nodes[1:] {
		must(t, n.CloneFrom(ctx, l.Node(1)))
		must(t, n.Start(ctx))
		must(t, streams(ctx, l.Node(1), n))
	}
}

func streams(ctx context.Context, upstream, standby *Node) error {
	return Wait(ctx, time.Minute, standby.Name+" to stream", func() error {
		attached, err := upstream.Attached(ctx, standby)
		if err == nil && !attached {
			err = errors.New("not attached")
		}
		return err
	})
}

func TestCoreEveryWayToProveOneself(t *testing.T) {
	for name, auth := range map[string]Auth{"trust": Trust, "scram": SCRAM, "tls": TLS} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, ctx := open(t, Options{Nodes: 2, Auth: auth, Unsynced: true})
			plain(t, ctx, l)
			c, err := l.NewClient(ctx)
			must(t, err)
			defer c.Close()
			must(t, Wait(ctx, time.Minute, "rows", func() error {
				if c.Acknowledged() < 5 {
					_, err := c.Last()
					return errors.Join(errors.New("fewer than 5"), err)
				}
				return nil
			}))
			if auth == TLS {
				got, err := l.Node(1).SQL(ctx, "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename IN ('repmgr','app')")
				must(t, err)
				if got != "t" {
					t.Errorf("all connections of repmgr and app use TLS: got %q, want t", got)
				}
			}
		})
	}
}

func TestCoreTheClientSeesTheGapAndTheLoss(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, Options{Nodes: 2, Unsynced: true})
	plain(t, ctx, l)
	n1, n2 := l.Node(1), l.Node(2)
	c, err := l.NewClient(ctx)
	must(t, err)
	defer c.Close()
	must(t, Wait(ctx, time.Minute, "the first row", func() error {
		if c.Acknowledged() == 0 {
			return errors.New("none")
		}
		return nil
	}))

	// A standby that does not receive loses what is written meanwhile.
	_, err = n2.SQL(ctx, "ALTER SYSTEM SET primary_conninfo = ''")
	must(t, err)
	must(t, n2.Reload(ctx))
	must(t, Wait(ctx, time.Minute, "the standby to let go", func() error {
		if attached, err := n1.Attached(ctx, n2); err != nil || attached {
			return errors.Join(errors.New("still attached"), err)
		}
		return nil
	}))
	before := c.Acknowledged()
	must(t, Wait(ctx, time.Minute, "rows that will be lost", func() error {
		if c.Acknowledged() < before+5 {
			return errors.New("too few")
		}
		return nil
	}))

	c.Mark()
	must(t, n1.Kill9(ctx))
	if n1.Running() {
		t.Error("a process of node1 survived SIGKILL")
	}
	must(t, n2.program(ctx, "pg_ctl", "-D", n2.DataDir, "promote").Err())
	must(t, Wait(ctx, time.Minute, "writes on node2", func() error { return c.Recovered(n1) }))
	if gap := c.Gap(); gap < 2*writeEvery || gap > time.Minute {
		t.Errorf("gap: got %s, want more than none and less than a minute", gap)
	}
	missing, err := c.Missing(ctx)
	must(t, err)
	if len(missing) < 5 || missing[len(missing)-1].Node != 1 {
		t.Errorf("missing rows: got %d, want at least the 5 that the standby never got, all of node 1", len(missing))
	}
}

func TestAServerThatHangsGoesOnAfterwards(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, Options{Nodes: 1, Unsynced: true})
	n := l.Node(1)
	must(t, n.InitPrimary(ctx))
	must(t, n.Pause(ctx))
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if got, err := n.SQL(short, "SELECT 1"); err == nil {
		t.Errorf("a hung server answered %q", got)
	}
	must(t, n.Resume())
	got, err := n.SQL(ctx, "SELECT 1")
	must(t, err)
	if got != "1" {
		t.Errorf("after resuming: got %q, want 1", got)
	}
	must(t, n.Stop(ctx, "fast"))
	// pg_ctl looks for the lock file, which goes before the process does.
	must(t, Wait(ctx, killTimeout, "the server to be gone", func() error {
		if n.Running() {
			return errors.New("it runs after a fast stop")
		}
		return nil
	}))
}

func TestCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, Options{Nodes: 1, Unsynced: true})
	must(t, l.Node(1).InitPrimary(ctx))
	found, err := l.Node(1).Processes()
	must(t, err)
	memory := memoryOf(t, found)
	must(t, l.Close())
	for _, path := range memory {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("shared memory %s: got %v, want it gone", path, err)
		}
	}
	if left := segmentsOf(t, found[0]); left > 0 {
		t.Errorf("%d System V segments are still there", left)
	}
	for _, pid := range found {
		if isPostgres(pid) && belongs(pid, l.Dir) {
			t.Errorf("process %d is still there", pid)
		}
	}
	if _, err := os.Stat(l.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("folder %s: got %v, want it gone", l.Dir, err)
	}
}

// memoryOf are the POSIX segments that a server's processes have mapped. That the
// server has any, and a System V one, is what the test stands on.
func memoryOf(t *testing.T, processes []int) []string {
	t.Helper()
	if len(processes) == 0 || segmentsOf(t, processes[0]) != 1 {
		t.Fatalf("processes %d: want a postmaster with a System V segment", processes)
	}
	var found []string
	for _, pid := range processes {
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
		must(t, err)
		for line := range strings.Lines(string(maps)) {
			if at := strings.Index(line, "/dev/shm/PostgreSQL."); at >= 0 {
				found = append(found, strings.TrimSpace(line[at:]))
			}
		}
	}
	if len(found) == 0 {
		t.Fatal("the server has no POSIX segment")
	}
	return found
}

// segmentsOf counts the System V segments that a process made.
func segmentsOf(t *testing.T, pid int) (n int) {
	t.Helper()
	b, err := os.ReadFile("/proc/sysvipc/shm")
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if fields := strings.Fields(line); len(fields) > 4 && fields[4] == fmt.Sprint(pid) {
			n++
		}
	}
	return n
}

func TestTheReaperClearsWhatAKilledRunLeft(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, Options{Nodes: 1, Unsynced: true})
	must(t, l.Node(1).InitPrimary(ctx))
	who, err := unprivileged()
	must(t, err)
	if abandoned(l.Dir, who) {
		t.Fatal("a lab whose process lives counts as abandoned")
	}
	// No process has this number and this start time.
	must(t, os.WriteFile(filepath.Join(l.Dir, ownerFile), []byte("1 1\n"), 0o644))
	must(t, Reap(ctx))
	if _, err := os.Stat(l.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("folder: got %v, want it gone", err)
	}
	if l.Node(1).Running() {
		t.Error("the server was not ended")
	}
}

func TestAKeptLabOutlivesClose(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, Options{Nodes: 1, Unsynced: true})
	must(t, l.Node(1).InitPrimary(ctx))
	must(t, l.Keep())
	must(t, l.Close())
	must(t, Reap(ctx))
	if !l.Node(1).Running() {
		t.Error("the server of a kept lab was ended")
	}
	must(t, Teardown(ctx, l.Dir))
	if l.Node(1).Running() {
		t.Error("the server survived the teardown")
	}
	if err := Teardown(ctx, "/tmp"); err == nil || !strings.Contains(err.Error(), "no lab was kept") {
		t.Errorf("tearing down a folder that is no lab: got %v", err)
	}
}

func TestLongestGap(t *testing.T) {
	start := time.Now()
	at := func(seconds ...int) (writes []Write) {
		for _, s := range seconds {
			writes = append(writes, Write{At: start.Add(time.Duration(s) * time.Second)})
		}
		return writes
	}
	for _, c := range []struct {
		name            string
		writes          []Write
		mark, now, want int
	}{
		{"none at all counts from the mark", at(), 2, 5, 3},
		{"a gap before the mark does not count", at(0, 10, 11, 12), 11, 12, 1},
		{"a gap across the mark counts whole", at(0, 1, 7, 8), 2, 8, 6},
		{"a gap that has not ended counts up to now", at(0, 1, 2), 2, 9, 7},
	} {
		got := longestGap(c.writes, start.Add(time.Duration(c.mark)*time.Second), start.Add(time.Duration(c.now)*time.Second))
		if want := time.Duration(c.want) * time.Second; got != want {
			t.Errorf("%s: got %s, want %s", c.name, got, want)
		}
	}
}

func TestServersAreFoundBehindALink(t *testing.T) {
	bindir, err := Find(0)
	must(t, err)
	root, unpacked := t.TempDir(), filepath.Join(t.TempDir(), "open")
	must(t, os.MkdirAll(filepath.Join(unpacked, "15"), 0o755))
	must(t, os.Symlink(bindir, filepath.Join(unpacked, "15", "bin")))
	must(t, os.Symlink(unpacked, filepath.Join(root, ".pg")))
	must(t, os.WriteFile(filepath.Join(root, "go.mod"), []byte("module repmgr\n"), 0o644))
	t.Chdir(root)
	t.Setenv("REPMGR_PG_BIN", "")
	got, err := Find(15)
	must(t, err)
	if strings.HasPrefix(got, root) {
		t.Errorf("servers behind the link .pg: got %s, want the folder that it leads to", got)
	}
}

// A cluster that was copied is one that the commands could have made: each node's
// finds nothing wrong with it, and its record is that node's.
func TestACopiedCluster(t *testing.T) {
	t.Parallel()
	for range 2 { // the second is not the one that was made first
		l, ctx := open(t, Options{Nodes: 2, Unsynced: true, Copied: true, NodeConf: map[int]map[string]string{2: {"priority": "7", "location": "oslo"}}})
		if !l.copies() {
			t.Fatal("it would not be copied")
		}
		must(t, l.BringUp(ctx))
		must(t, l.DaemonsWatch(ctx))
		for _, n := range l.Nodes {
			must(t, Wait(ctx, time.Minute, "cluster show to find nothing wrong", func() error { return n.Repmgr(ctx, "cluster", "show").Err() }))
		}
		got, err := l.Node(1).Rows(ctx, "SELECT conninfo, config_file, priority, location, host, port FROM repmgr.nodes JOIN repmgr.endpoints USING (node_id) ORDER BY node_id")
		must(t, err)
		want := fmt.Sprint([][]string{
			{l.Node(1).Conninfo(), l.Node(1).ConfFile(), "100", "default", l.Node(1).Host, fmt.Sprint(l.Node(1).DaemonPort)},
			{l.Node(2).Conninfo(), l.Node(2).ConfFile(), "7", "oslo", l.Node(2).Host, fmt.Sprint(l.Node(2).DaemonPort)},
		})
		if fmt.Sprint(got) != want {
			t.Errorf("the records are\n%s\nwant\n%s", got, want)
		}
	}
}
