package quorum

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"repmgr/internal/lab"
)

// The primary's server is killed: another takes over, and it comes back as a
// standby by itself.
func TestCoreQuorumCrash(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3})
	must(t, l.Node(1).Kill9(ctx))
	var primary *lab.Node
	waitFor(t, ctx, "a new primary", func() (err error) {
		primary, err = l.Primary(ctx)
		if err == nil && primary == l.Node(1) {
			err = errors.New("it is still node 1")
		}
		return err
	})
	waitGoverned(t, ctx, l, primary)
	for _, n := range l.Nodes {
		if n != primary {
			waitFollows(t, ctx, n, primary)
		}
	}
}

// A primary that is cut off takes no writes after its lease, though its daemon and
// its clients are with it; after the cut it is a standby, without a human.
func TestCoreQuorumPartition(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3, Namespaces: true})
	old := l.Node(1)
	must(t, old.Cut())
	primary := newPrimary(t, ctx, l, old)
	if standby, err := old.InRecovery(ctx); err == nil && !standby {
		t.Errorf("%s takes writes beside %s", old.Name, primary.Name)
	}
	must(t, old.Heal())
	comesBack(t, ctx, l, primary)
}

// Commits that only a cut-off primary took are counted, kept, and gone.
func TestQuorumDivergedPrimaryIsRewound(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3, Namespaces: true, Settings: map[string]string{"wal_log_hints": "on"}})
	old := l.Node(1)
	_, err := old.Rows(ctx, "CREATE TABLE t (i int)")
	must(t, err)
	waitReplayed(t, ctx, old, "2")
	must(t, old.Cut())
	for i := range 3 {
		_, err := old.Rows(ctx, fmt.Sprintf("INSERT INTO t VALUES (%d)", i))
		must(t, err)
	}
	primary := newPrimary(t, ctx, l, old)
	_, err = primary.Rows(ctx, "INSERT INTO t VALUES (100)")
	must(t, err)
	must(t, old.Heal())
	comesBack(t, ctx, l, primary)
	waitEvent(t, ctx, primary, "repmgrd_commits_discarded", old, false)
	waitFor(t, ctx, "the rewound server to have the new primary's rows alone", func() error {
		got, err := old.SQL(ctx, "SELECT string_agg(i::text, ',' ORDER BY i) FROM t")
		if err == nil && got != "100" {
			err = fmt.Errorf("it has %q", got)
		}
		return err
	})
	details, err := primary.SQL(ctx, "SELECT details FROM repmgr.events WHERE event = 'repmgrd_commits_discarded'")
	must(t, err)
	// The daemon that was cut off may have recorded events meanwhile.
	var n int
	if _, err := fmt.Sscanf(details, "%d commits", &n); err != nil || n < 3 {
		t.Errorf("told: %s", details)
	}
}

// waitReplayed waits until so many standbys have replayed all that the primary has
// written: what commits acknowledge alone is not promised to outlive it.
func waitReplayed(t *testing.T, ctx context.Context, primary *lab.Node, standbys string) {
	t.Helper()
	waitFor(t, ctx, "the standbys to have everything", func() error {
		got, err := primary.SQL(ctx, "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_lsn()")
		if err == nil && got != standbys {
			err = fmt.Errorf("%s of %s have", got, standbys)
		}
		return err
	})
}

// A host that is gone is replaced when its lease is over; it comes back by itself.
func TestQuorumHostGone(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3, Namespaces: true})
	old := l.Node(1)
	must(t, old.PowerOff(ctx))
	primary := newPrimary(t, ctx, l, old)
	must(t, old.Heal())
	must(t, old.Start(ctx)) // as its init would
	if standby, err := old.InRecovery(ctx); err != nil || !standby {
		t.Errorf("the former primary came up writable (%v)", err)
	}
	must(t, old.StartDaemon(ctx))
	comesBack(t, ctx, l, primary)
}

// A server that stands still is ended and replaced.
func TestQuorumServerHangs(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3})
	old := l.Node(1)
	must(t, old.Pause(ctx))
	primary := newPrimary(t, ctx, l, old)
	comesBack(t, ctx, l, primary)
}

// A daemon that is killed and comes back within the lease changes nothing; one
// that stays away costs its server, and another takes over.
func TestQuorumDaemonKilled(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3})
	one := l.Node(1)
	for range 3 {
		must(t, one.KillDaemon(ctx))
		must(t, one.StartDaemon(ctx))
		waitGoverned(t, ctx, l, one)
	}
	if r, err := one.Report(ctx); err != nil || r.Term != 1 {
		t.Errorf("term %d (%v), want 1: the lease changed hands", r.Term, err)
	}
	must(t, one.KillDaemon(ctx))
	primary := newPrimary(t, ctx, l, one)
	waitFor(t, ctx, "the guard to have ended the server", func() error {
		if one.Running() {
			return errors.New("it runs")
		}
		return nil
	})
	must(t, one.StartDaemon(ctx))
	comesBack(t, ctx, l, primary)
}

// A daemon that stands still cannot keep its primary alive.
func TestQuorumDaemonStopped(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3})
	one := l.Node(1)
	must(t, one.SignalDaemon(syscall.SIGSTOP))
	primary := newPrimary(t, ctx, l, one)
	if standby, err := one.InRecovery(ctx); err == nil && !standby {
		t.Errorf("%s takes writes beside %s", one.Name, primary.Name)
	}
	must(t, one.SignalDaemon(syscall.SIGCONT))
	comesBack(t, ctx, l, primary)
}

// A guard that stands still is replaced before it is needed, where nothing limits the server.
func TestQuorumGuardStopped(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3})
	two := l.Node(2)
	waitFor(t, ctx, "its guard to answer", func() error { // one that stands still before it ever has is another story
		v, err := two.View(ctx)
		if err == nil && (v.Promotion == nil || !v.Promotion.Guard.Alive) {
			err = errors.New("there is none")
		}
		return err
	})
	stopped, err := two.Guards()
	must(t, err)
	if len(stopped) != 1 {
		t.Fatalf("guards %d", stopped)
	}
	must(t, syscall.Kill(stopped[0], syscall.SIGSTOP))
	waitFor(t, ctx, "another guard", func() error {
		guards, err := two.Guards()
		if err == nil && (len(guards) != 1 || guards[0] == stopped[0]) {
			err = fmt.Errorf("guards %d, and %d was stopped", guards, stopped[0])
		}
		return err
	})
	waitLog(t, ctx, two, "the guard does not answer, and is replaced")
	waitGoverned(t, ctx, l, l.Node(1))
}

// Ending a daemon in order pauses the cluster, and ends no server; its start ends
// the pause.
func TestQuorumDaemonRestart(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3})
	one := l.Node(1)
	_, err := one.StopDaemon(ctx)
	must(t, err)
	staysPrimary(t, ctx, l, one)
	must(t, one.StartDaemon(ctx))
	comesBack(t, ctx, l, one)
	waitFor(t, ctx, "the pause to be over", func() error {
		r, err := l.Node(2).Report(ctx)
		if err == nil && r.Paused {
			err = errors.New(r.PauseReason)
		}
		return err
	})
	if r, err := one.Report(ctx); err != nil || r.Term != 1 {
		t.Errorf("term %d (%v), want 1", r.Term, err)
	}
}

// Without a majority the primary is read-only, with all its data; with it, it is
// the primary again.
func TestQuorumLostAndFound(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3, Namespaces: true})
	one := l.Node(1)
	must(t, l.Node(2).Cut())
	must(t, l.Node(3).Cut())
	waitFor(t, ctx, "the primary to be read-only", func() error {
		standby, err := one.InRecovery(ctx)
		if err == nil && !standby {
			err = errors.New("it takes writes")
		}
		return err
	})
	must(t, l.Heal())
	waitFor(t, ctx, "a primary", func() error { _, err := l.Primary(ctx); return err })
	primary, err := l.Primary(ctx)
	must(t, err)
	comesBack(t, ctx, l, primary)
}

// Everything loses power at once, and comes back in any order, read-only, until
// a majority is there; what was acknowledged is there too.
func TestQuorumPowerCutOfAll(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3, Namespaces: true})
	primary := l.Node(1)
	_, err := primary.Rows(ctx, "CREATE TABLE t (i int)")
	must(t, err)
	for round, order := range [][]int{{2, 1, 3}, {3, 2, 1}, {1, 3, 2}} {
		_, err := primary.Rows(ctx, fmt.Sprintf("INSERT INTO t VALUES (%d)", round))
		must(t, err)
		waitReplayed(t, ctx, primary, "2")
		for _, n := range l.Nodes {
			must(t, n.PowerOff(ctx))
		}
		must(t, l.Heal())
		for i, id := range order {
			n := l.Node(id)
			must(t, n.Start(ctx))
			if standby, err := n.InRecovery(ctx); err != nil || !standby && i < 2 {
				t.Errorf("order %v: %s came up writable (%v)", order, n.Name, err)
			}
			must(t, n.StartDaemon(ctx))
		}
		waitFor(t, ctx, "a primary", func() (err error) { primary, err = l.Primary(ctx); return err })
		comesBack(t, ctx, l, primary)
		if got, err := primary.SQL(ctx, "SELECT count(*) FROM t"); err != nil || got != fmt.Sprint(round+1) {
			t.Errorf("order %v: %s rows are left of %d (%v)", order, got, round+1, err)
		}
	}
}

// A server that has no connection left is alive: nothing is promoted.
func TestQuorumCrowdedServer(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3, Settings: map[string]string{"max_connections": "25", "max_wal_senders": "5"}})
	one := l.Node(1)
	crowd, err := one.Crowd(ctx)
	must(t, err)
	defer crowd()
	waitLog(t, ctx, one, "has no connection left for repmgrd")
	staysPrimary(t, ctx, l, one)
	if r, err := one.Report(ctx); err == nil && r.Term != 1 {
		t.Errorf("term %d, want 1: the lease changed hands", r.Term)
	}
}

// A postmaster that was stopped serves who is connected, this daemon too, and lets
// nobody in: another takes over.
func TestQuorumPostmasterStopped(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3, Conf: map[string]string{"primary_write_timeout": "5s"}})
	old := l.Node(1)
	postmaster, err := os.ReadFile(filepath.Join(old.DataDir, "postmaster.pid"))
	must(t, err)
	pid, err := strconv.Atoi(strings.SplitN(string(postmaster), "\n", 2)[0])
	must(t, err)
	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	primary := newPrimary(t, ctx, l, old)
	must(t, logged(old.DaemonLog(), "was stopped by a signal"))
	comesBack(t, ctx, l, primary)
}

// A commit that does not return, though queries do, costs the lease: every process
// that writes WAL stands still, as on a disk that is stalled.
func TestQuorumWritesStall(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3, Conf: map[string]string{"primary_write_timeout": "5s"}})
	old := l.Node(1)
	var pid int
	waitFor(t, ctx, "the session that commits", func() error {
		got, err := old.SQL(ctx, "SELECT max(pid) FROM pg_stat_activity WHERE application_name = 'repmgrd' AND query LIKE '%pg_logical_emit_message%' AND pid <> pg_backend_pid()")
		if err == nil {
			pid, err = strconv.Atoi(got)
		}
		return err
	})
	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	primary := newPrimary(t, ctx, l, old)
	must(t, logged(old.DaemonLog(), "has not returned"))
	comesBack(t, ctx, l, primary)
}

// Standbys whose replay is paused do not attach to a new primary. Their daemons wait for that,
// but not when their bids are wanted.
func TestQuorumBidsThoughItWaitsToAttach(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 4, Conf: map[string]string{"standby_follow_timeout": "3600"}})
	first := l.Node(1)
	for _, n := range l.Nodes[1:] {
		_, err := n.Rows(ctx, "SELECT pg_catalog.pg_wal_replay_pause()")
		must(t, err)
	}
	_, err := first.Rows(ctx, "CREATE TABLE t (i int)") // replay stops at a record
	must(t, err)
	must(t, first.KillDaemon(ctx))
	must(t, first.Kill9(ctx))
	second := newPrimary(t, ctx, l, first) // whose promotion ends the pause
	for _, n := range l.Nodes[1:] {
		if n != second {
			waitLog(t, ctx, n, "wait up to 1h0m0s until node")
		}
	}
	must(t, second.Stop(ctx, "fast"))
	newPrimary(t, ctx, l, second)
}

// A former primary that diverged and cannot be rewound (no checksums, no
// wal_log_hints) is left stopped, with the reason and the command to run; where
// auto_rejoin='clone' it is cloned anew, and where it is off it is left alone.
func TestQuorumRejoinWithoutRewind(t *testing.T) {
	for mode, then := range map[string]func(t *testing.T, ctx context.Context, l *lab.Lab, old, primary *lab.Node){
		"clone": func(t *testing.T, ctx context.Context, l *lab.Lab, old, primary *lab.Node) {
			comesBack(t, ctx, l, primary)
			waitLog(t, ctx, old, "the server cannot be rewound, it is cloned anew")
		},
		"rewind": func(t *testing.T, ctx context.Context, _ *lab.Lab, old, primary *lab.Node) {
			waitEvent(t, ctx, primary, "repmgrd_rejoin", old, false)
			waitFor(t, ctx, "the reason to be shown", func() error { return staysDown(ctx, old, "rejoin") })
			waitLog(t, ctx, old, "wal_log_hints")
		},
		"off": func(t *testing.T, ctx context.Context, _ *lab.Lab, old, _ *lab.Node) {
			waitFor(t, ctx, "it to be left alone", func() error { return staysDown(ctx, old, "rejoin-is-off") })
		},
	} {
		t.Run(mode, func(t *testing.T) {
			l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3, Namespaces: true, Unchecked: true,
				Settings: map[string]string{"wal_log_hints": "off"}, Conf: map[string]string{"auto_rejoin": mode}})
			old := l.Node(1)
			primary := diverges(t, ctx, l, old)
			then(t, ctx, l, old, primary)
		})
	}
}

// diverges lets the primary, cut off, write what the next one, which it returns, does not have;
// the network is whole again then.
func diverges(t *testing.T, ctx context.Context, l *lab.Lab, old *lab.Node) *lab.Node {
	t.Helper()
	_, err := old.Rows(ctx, "CREATE TABLE t (i int)")
	must(t, err)
	must(t, old.Cut())
	_, err = old.Rows(ctx, "INSERT INTO t VALUES (1)")
	must(t, err)
	primary := newPrimary(t, ctx, l, old)
	must(t, old.Heal())
	return primary
}

// A rewind that is broken off leaves a directory in which nothing can be started: it is cloned
// anew, whether or not auto_rejoin lets a server be cloned that cannot be rewound.
func TestQuorumRejoinAfterABrokenRewind(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3, Namespaces: true})
	old := l.Node(1)
	for _, n := range l.Nodes {
		must(t, n.WriteFile("data/note", "no server reads this"))
	}
	must(t, os.Chmod(filepath.Join(old.DataDir, "note"), 0o400)) // what pg_rewind cannot write: its rehearsal does not notice
	primary := diverges(t, ctx, l, old)
	comesBack(t, ctx, l, primary)
	waitLog(t, ctx, old, "the rewind was broken off")
	waitEvent(t, ctx, primary, "repmgrd_rejoin", old, true)
}

// A server that is to be rewound is started to recover, and stopped, which every look at it
// sees here; where nothing comes of the rewind then, it is tried again all the same.
func TestQuorumRejoinAfterARewindThatFailed(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3, Namespaces: true})
	old := l.Node(1)
	programs, may := filepath.Join(old.Dir, "bin"), filepath.Join(old.Dir, "may-rewind")
	must(t, old.Run(ctx, "sh", "-c", "mkdir $1 && ln -s $2/* $1 && rm $1/pg_ctl $1/pg_rewind", "", programs, l.Bindir).Err())
	must(t, old.WriteFile("bin/pg_ctl", "#!/bin/sh\ncase \"$*\" in *stop) sleep 3;; esac\nexec "+l.Bindir+"/pg_ctl \"$@\"\n"))
	must(t, old.WriteFile("bin/pg_rewind", "#!/bin/sh\n[ -e "+may+" ] || exit 1\nexec "+l.Bindir+"/pg_rewind \"$@\"\n"))
	must(t, old.Run(ctx, "chmod", "755", programs+"/pg_ctl", programs+"/pg_rewind").Err())
	must(t, old.KillDaemon(ctx))
	must(t, old.WriteConf(map[string]string{"pg_bindir": programs}))
	must(t, old.StartDaemon(ctx))
	waitGoverned(t, ctx, l, old)
	primary := diverges(t, ctx, l, old)
	waitLog(t, ctx, old, "return of the server as a standby of node "+strconv.Itoa(primary.ID)+" did not succeed")
	must(t, old.WriteFile("may-rewind", ""))
	comesBack(t, ctx, l, primary)
}

// The daemon that was to record a promotion may have ended before: the records are put right,
// and a standby that is recorded behind the former primary is behind nobody until it follows.
func TestQuorumRecordsAPromotionAgain(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3})
	primary := l.Node(1)
	must(t, l.Node(3).KillDaemon(ctx))
	_, err := primary.Rows(ctx, `UPDATE repmgr.nodes SET type = CASE node_id WHEN 2 THEN 'primary' ELSE 'standby' END,
		upstream_node_id = CASE WHEN node_id <> 2 THEN 2 END`)
	must(t, err)
	waitFor(t, ctx, "the records to be right", func() error {
		got, err := primary.SQL(ctx, "SELECT string_agg(node_id || type || active || COALESCE(upstream_node_id, 0), ' ' ORDER BY node_id) FROM repmgr.nodes")
		if want := "1primarytrue0 2standbytrue1 3standbytrue0"; err == nil && got != want {
			err = fmt.Errorf("they are %q", got)
		}
		return err
	})
	must(t, l.Node(3).StartDaemon(ctx))
	waitFollows(t, ctx, l.Node(3), primary)
}

// A standby that follows by a command follows the new primary, which is recorded as that before.
func TestQuorumFollowCommand(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3, NodeConf: map[int]map[string]string{3: {"priority": "0"}}})
	standby := l.Node(3)
	programs, err := l.OurPrograms()
	must(t, err)
	must(t, standby.WriteConf(map[string]string{"priority": "0",
		"follow_command": fmt.Sprintf(`[ "$(%s/psql -qAt -d "%s" -c "SELECT type FROM repmgr.nodes WHERE node_id = %%n")" = primary ] && %s/repmgr -f %s standby follow --upstream-node-id=%%n`,
			l.Bindir, l.Node(2).Conninfo(), programs, standby.ConfFile())}))
	must(t, standby.SignalDaemon(syscall.SIGHUP))
	waitLog(t, ctx, standby, "follow_command is now")
	must(t, l.Node(1).Kill9(ctx))
	waitFollows(t, ctx, standby, l.Node(2))
	waitLog(t, ctx, standby, "running follow_command")
	waitEvent(t, ctx, l.Node(2), "repmgrd_failover_follow", standby, true)
}

// A server that was promoted by hand, on a newer timeline, keeps nobody from following the holder.
func TestQuorumFollowsTheHolderBesideAnother(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3})
	primary, other := l.Node(1), l.Node(3)
	must(t, other.KillDaemon(ctx))
	_, err := other.SQL(ctx, "SELECT pg_promote()")
	must(t, err)
	_, err = primary.Rows(ctx, "UPDATE repmgr.nodes SET upstream_node_id = NULL WHERE node_id = 2")
	must(t, err)
	waitFollows(t, ctx, l.Node(2), primary)
}

// staysDown reports whether a node's server does not run, by a rule of that name's
// beginning.
func staysDown(ctx context.Context, n *lab.Node, rule string) error {
	r, err := n.Report(ctx)
	if err == nil && (n.Running() || !strings.HasPrefix(r.Rule, rule)) {
		err = fmt.Errorf("running: %v, rule %q: %s", n.Running(), r.Rule, r.Why)
	}
	return err
}
