package operators

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"repmgr/internal/lab"
)

// switchTo runs `standby switchover` on a node, for another or itself.
func switchTo(t *testing.T, ctx context.Context, at, to *lab.Node, more ...string) lab.Result {
	t.Helper()
	began := time.Now()
	r := at.Repmgr(ctx, append([]string{"standby", "switchover", fmt.Sprintf("--node-id=%d", to.ID)}, more...)...)
	t.Logf("switchover to %s, run on %s: %.2f s\n%s", to.Name, at.Name, time.Since(began).Seconds(), r.Stderr)
	return r
}

// Idle and under a client's writes, back and forth, run on any node: the roles are
// exchanged, no acknowledged row is missing, and the term has moved on by one each time.
func TestCoreSwitchover(t *testing.T) {
	for name, mode := range map[string]string{"asynchronous": "off", "synchronous": "strict"} {
		t.Run(name, func(t *testing.T) {
			l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3, Conf: map[string]string{"synchronous_mode": mode}})
			one, two, three := l.Node(1), l.Node(2), l.Node(3)
			if mode == "strict" {
				waitSettled(t, ctx, one, "ANY 1 (2 3)")
			}
			if r := switchTo(t, ctx, two, two, "--dry-run"); r.Err() != nil || !strings.Contains(r.Stderr, "nothing was changed") {
				t.Fatalf("a dry run: %v", r.Err())
			}
			waitPrimary(t, ctx, l, one)
			if r := switchTo(t, ctx, two, two); r.Err() != nil {
				t.Fatal(r.Err())
			}
			waitPrimary(t, ctx, l, two)
			waitEvent(t, ctx, two, "standby_switchover", two, true)
			waitGoverned(t, ctx, l, two)

			client, err := l.NewClient(ctx)
			must(t, err)
			defer client.Close()
			waitFor(t, ctx, "the client to write", func() error {
				if client.Acknowledged() < 20 {
					return errors.New("not yet")
				}
				return nil
			})
			client.Mark()
			if r := switchTo(t, ctx, one, three, "--siblings-follow", "--force-rewind"); r.Err() != nil || !strings.Contains(r.Stderr, "makes no difference") {
				t.Fatalf("under load: %v", r.Err())
			}
			waitFor(t, ctx, "the client to write to node 3", func() error { return client.Recovered(two) })
			t.Logf("%s: no write was acknowledged for %.3f s", name, client.Gap().Seconds())
			comesBack(t, ctx, l, three)
			client.Close()
			missing, err := client.Missing(ctx)
			must(t, err)
			if len(missing) > 0 {
				t.Errorf("%d acknowledged rows are missing: %v", len(missing), missing)
			}
			if r, err := three.Report(ctx); err != nil || r.Term != 3 {
				t.Errorf("term %d (%v), want 3", r.Term, err)
			}
			lost, err := three.SQL(ctx, "SELECT count(*) FROM repmgr.events WHERE event IN ('repmgrd_commits_discarded', 'repmgrd_failover_promote')")
			must(t, err)
			if lost != "0" {
				t.Errorf("%s events tell of a failover, or of discarded commits", lost)
			}
		})
	}
}

// What cannot be asked for is refused before anything happens.
func TestSwitchoverIsRefused(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3, Witness: true, NodeConf: map[int]map[string]string{2: {"priority": "0"}}})
	one := l.Node(1)
	refused := func(status int, says string, args ...string) {
		t.Helper()
		r := one.Repmgr(ctx, append([]string{"standby", "switchover"}, args...)...)
		if r.Code != status || !strings.Contains(r.Stderr, says) {
			t.Errorf("%v: status %d, want %d and %q:\n%s", args, r.Code, status, says, r.Stderr)
		}
	}
	refused(1, "node 9 is not registered", "--node-id=9")
	refused(1, `node "nobody" is not registered`, "--node-name=nobody")
	refused(1, "exclude each other", "--node-id=3", "--repmgrd-no-pause", "--repmgrd-force-unpause")
	refused(18, "node 1 is the primary already")
	refused(18, "priority 0", "--node-id=2", "--force")
	refused(18, "a witness", "--node-id=4", "--force")
	must(t, one.Repmgr(ctx, "service", "pause").Err())
	refused(18, "the cluster is paused", "--node-id=3")
	must(t, one.Repmgr(ctx, "service", "unpause").Err())
	waitGoverned(t, ctx, l, one)

	three := l.Node(3)
	control := func(status int, says, option string) {
		t.Helper()
		if r := three.Repmgr(ctx, "node", "control", option); r.Code != status || !strings.Contains(r.Stderr, says) {
			t.Errorf("node control %s: status %d, want %d and %q:\n%s", option, r.Code, status, says, r.Stderr)
		}
	}
	control(1, "under the quorum rule", "--disable-wal-receiver")
	control(1, "daemon stop", "--enable-wal-receiver")
	must(t, three.KillDaemon(ctx))
	control(1, "under the quorum rule", "--disable-wal-receiver")
	control(0, "a WAL receiver runs", "--enable-wal-receiver") // nobody seals
	refused(18, "does not answer", "--node-id=3", "--force")
	must(t, three.StartDaemon(ctx))
	waitGoverned(t, ctx, l, one)
	_, err := three.Rows(ctx, "SELECT pg_catalog.pg_wal_replay_pause()")
	must(t, err)
	refused(18, "replay of node \"node3\" (ID: 3) is paused", "--node-id=3")
	_, err = three.Rows(ctx, "SELECT pg_catalog.pg_wal_replay_resume()")
	must(t, err)
	staysPrimary(t, ctx, l, one)
	if r, err := one.Report(ctx); err != nil || r.Term != 1 {
		t.Errorf("term %d (%v), want 1", r.Term, err)
	}
}

// receiver is the process that receives WAL on a standby.
func receiver(t *testing.T, ctx context.Context, n *lab.Node) int {
	t.Helper()
	text, err := n.SQL(ctx, "SELECT pid FROM pg_stat_wal_receiver")
	must(t, err)
	pid, err := strconv.Atoi(text)
	must(t, err)
	return pid
}

// beginSwitchover begins one in which the next primary receives nothing, until the
// primary has been stopped. Its end comes by the channel.
func beginSwitchover(t *testing.T, ctx context.Context, from, to *lab.Node) (process int, end <-chan lab.Result) {
	t.Helper()
	process = receiver(t, ctx, to)
	must(t, syscall.Kill(process, syscall.SIGSTOP))
	done := make(chan lab.Result, 1)
	go func() { done <- from.Repmgr(ctx, "standby", "switchover", fmt.Sprintf("--node-id=%d", to.ID)) }()
	waitLog(t, ctx, from, "hand-over: ")
	waitFor(t, ctx, "the primary to be stopped", func() error {
		if _, err := from.SQL(ctx, "SELECT 1"); err == nil {
			return errors.New("it answers")
		}
		return nil
	})
	return process, done
}

// The next primary does not get everything, and its daemon dies meanwhile: the primary
// is started again as what it was, on its timeline, and the others follow it still.
func TestCoreSwitchoverIsUndone(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3, Conf: map[string]string{"wal_receive_check_timeout": "3"}})
	one, two := l.Node(1), l.Node(2)
	_, err := one.Rows(ctx, "CREATE UNLOGGED TABLE t AS SELECT 1 AS i")
	must(t, err)
	process, end := beginSwitchover(t, ctx, one, two)
	must(t, two.KillDaemon(ctx))
	r := <-end
	t.Logf("it ended with %d\n%s", r.Code, r.Stderr)
	if r.Code != 18 || !strings.Contains(r.Stderr, "does not have all of the primary's WAL") {
		t.Errorf("status %d, want 18 and why", r.Code)
	}
	must(t, syscall.Kill(process, syscall.SIGCONT))
	must(t, two.StartDaemon(ctx))
	comesBack(t, ctx, l, one)
	if r, err := one.Report(ctx); err != nil || r.Term != 1 || r.Position.Timeline != 1 {
		t.Errorf("term %d, timeline %d (%v), want 1 and 1", r.Term, r.Position.Timeline, err)
	}
	if rows, err := one.SQL(ctx, "SELECT count(*) FROM t"); err != nil || rows != "1" {
		t.Errorf("the unlogged table has %s rows (%v): the server came up as a standby", rows, err)
	}
	waitEvent(t, ctx, one, "standby_switchover", two, false)
	if r := switchTo(t, ctx, two, two); r.Err() != nil { // nothing of it is left that would stand in the way
		t.Fatal(r.Err())
	}
	comesBack(t, ctx, l, two)
}

// The daemon of the next primary stands still when the lease has been handed over:
// another that has everything is promoted, and that is told.
func TestSwitchoverToOneThatFallsSilent(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3})
	one, two, three := l.Node(1), l.Node(2), l.Node(3)
	process, end := beginSwitchover(t, ctx, one, two)
	must(t, two.SignalDaemon(syscall.SIGSTOP))
	must(t, syscall.Kill(process, syscall.SIGCONT))
	r := <-end
	t.Logf("it ended with %d\n%s", r.Code, r.Stderr)
	if r.Code != 18 || !strings.Contains(r.Stderr, "node 3 became the primary, and not node 2") {
		t.Errorf("status %d, want 18 and who is the primary", r.Code)
	}
	must(t, two.SignalDaemon(syscall.SIGCONT))
	comesBack(t, ctx, l, three)
}

// A former primary that an operator stopped is left alone by its daemon, until `node
// rejoin` hands it over; without a daemon the command says what is to be started.
func TestNodeRejoinUnderQuorum(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3})
	two, three := l.Node(2), l.Node(3)
	must(t, three.Stop(ctx, "fast"))
	waitFor(t, ctx, "its daemon to leave it alone", func() error {
		r, err := three.Report(ctx)
		if err == nil && r.Rule != "standby-down" {
			err = fmt.Errorf("%s: %s", r.Rule, r.Why)
		}
		return err
	})
	rejoin := func(more ...string) lab.Result {
		r := three.Repmgr(ctx, append([]string{"node", "rejoin", "-d", two.Conninfo()}, more...)...)
		t.Logf("status %d\n%s", r.Code, r.Stderr)
		return r
	}
	if r := rejoin("--dry-run"); r.Err() != nil || !strings.Contains(r.Stderr, "would have it done") || three.Running() {
		t.Errorf("a dry run: %v", r.Err())
	}
	must(t, three.KillDaemon(ctx))
	if r := rejoin(); r.Code != 24 || !strings.Contains(r.Stderr, "start repmgrd") {
		t.Errorf("without a daemon: status %d", r.Code)
	}
	must(t, three.StartDaemon(ctx))
	waitFor(t, ctx, "the rejoin", func() error { return rejoin().Err() })
	comesBack(t, ctx, l, l.Node(1))
}
