package operators

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"repmgr/internal/api"
	"repmgr/internal/lab"
)

// bringUpVisible is a cluster under the visibility rule, whose daemons have seen each other.
func bringUpVisible(t *testing.T, o lab.Options) (*lab.Lab, context.Context) {
	t.Helper()
	l, ctx := bringUp(t, o)
	waitFor(t, ctx, "the daemons to see each other", func() error {
		return l.Node(2).Repmgr(ctx, "standby", "switchover", "--dry-run").Err()
	})
	return l, ctx
}

// unpaused makes sure that nobody is left paused.
func unpaused(t *testing.T, ctx context.Context, l *lab.Lab) {
	t.Helper()
	for _, n := range l.Nodes {
		if r, err := n.Report(ctx); err != nil || r.Paused {
			t.Errorf("%s is paused: %v (%v)", n.Name, r.Paused, err)
		}
	}
}

// Two nodes, a client that writes throughout, there and back: no acknowledged row is
// missing, and who was paused before is paused after it.
func TestCoreSwitchoverByVisibility(t *testing.T) {
	l, ctx := bringUpVisible(t, lab.Options{Nodes: 2})
	one, two := l.Node(1), l.Node(2)
	client, err := l.NewClient(ctx)
	must(t, err)
	defer client.Close()
	client.Mark()
	if r := switchTo(t, ctx, two, two, "--repmgrd-no-pause"); r.Err() != nil || !strings.Contains(r.Stderr, "makes no difference") {
		t.Fatalf("there: %v", r.Err())
	}
	waitFor(t, ctx, "the client to write to node 2", func() error { return client.Recovered(one) })
	t.Logf("no write was acknowledged for %.3f s", client.Gap().Seconds())
	waitPrimary(t, ctx, l, two)
	waitEvent(t, ctx, two, "standby_switchover", two, true)
	unpaused(t, ctx, l)

	must(t, one.Repmgr(ctx, "service", "pause").Err())
	client.Mark()
	waitFor(t, ctx, "the way back to be free", func() error {
		return one.Repmgr(ctx, "standby", "switchover", "--dry-run").Err()
	})
	if r := switchTo(t, ctx, two, one); r.Err() != nil {
		t.Fatalf("back: %v", r.Err())
	}
	waitFor(t, ctx, "the client to write to node 1", func() error { return client.Recovered(two) })
	waitPrimary(t, ctx, l, one)
	client.Close()
	missing, err := client.Missing(ctx)
	must(t, err)
	if len(missing) > 0 {
		t.Errorf("%d acknowledged rows are missing: %v", len(missing), missing)
	}
	for _, n := range l.Nodes {
		if r, err := n.Report(ctx); err != nil || !r.Paused {
			t.Errorf("%s was paused before, and is not any more (%v)", n.Name, err)
		}
	}
}

// The next primary receives nothing, and dies when the primary has been stopped: that is
// started again as what it was.
func TestSwitchoverByVisibilityToOneThatDies(t *testing.T) {
	l, ctx := bringUpVisible(t, lab.Options{Nodes: 2})
	one, two := l.Node(1), l.Node(2)
	must(t, syscall.Kill(receiver(t, ctx, two), syscall.SIGSTOP))
	done := make(chan lab.Result, 1)
	go func() { done <- one.Repmgr(ctx, "standby", "switchover", "--node-id=2") }()
	waitFor(t, ctx, "the primary to be stopped", func() error {
		if _, err := one.SQL(ctx, "SELECT 1"); err == nil {
			return errors.New("it answers")
		}
		return nil
	})
	must(t, two.Kill9(ctx))
	r := <-done
	t.Logf("it ended with %d\n%s", r.Code, r.Stderr)
	if r.Code != 18 || !strings.Contains(r.Stderr, "is the primary as before") {
		t.Errorf("status %d, want 18 and who is the primary", r.Code)
	}
	staysWritable(t, ctx, one)
	unpaused(t, ctx, l)
	must(t, two.Start(ctx))
	waitPrimary(t, ctx, l, one)
	waitFor(t, ctx, "nothing of it to be left", func() error { return switchTo(t, ctx, two, two).Err() })
	waitPrimary(t, ctx, l, two)
}

// A session hangs, so that the primary's server does not end: it is ended, and started
// again as what it was.
func TestSwitchoverByVisibilityWithoutAnEnd(t *testing.T) {
	l, ctx := bringUpVisible(t, lab.Options{Nodes: 2, Conf: map[string]string{"shutdown_check_timeout": "3"}})
	one, two := l.Node(1), l.Node(2)
	client, err := l.NewClient(ctx)
	must(t, err)
	defer client.Close()
	// One that sleeps: another may hold a lock when it is stopped, and then nobody can connect.
	go one.Run(ctx, "psql", "-h", one.Dir, "-p", fmt.Sprint(one.Port), "-U", "postgres", "-d", "postgres", "-Xc", "SELECT pg_sleep(3600)")
	var pid int
	waitFor(t, ctx, "the session", func() error {
		text, err := one.SQL(ctx, "SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
		if err == nil && text == "0" {
			err = errors.New("there is none")
		}
		if err == nil {
			pid, err = strconv.Atoi(text)
		}
		return err
	})
	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	r := switchTo(t, ctx, one, two)
	client.Mark()
	if r.Code != 18 || !strings.Contains(r.Stderr, "not shut down in time") {
		t.Errorf("status %d, want 18 and why", r.Code)
	}
	staysWritable(t, ctx, one)
	unpaused(t, ctx, l)
	waitFor(t, ctx, "the client to write again", func() error {
		last, err := client.Last()
		if last.Node != 1 || last.At.Before(client.MarkedAt()) {
			return errors.Join(err, errors.New("not yet"))
		}
		return nil
	})
	client.Close()
	missing, err := client.Missing(ctx)
	must(t, err)
	if len(missing) > 0 {
		t.Errorf("%d acknowledged rows are missing: %v", len(missing), missing)
	}
}

// Somebody ends the pause while the primary is stopped, and the next primary does not get
// everything: that may be promoted by itself now, so that the former one stays stopped.
func TestSwitchoverByVisibilityAndTheEndOfThePause(t *testing.T) {
	l, ctx := bringUpVisible(t, lab.Options{Nodes: 2, Conf: map[string]string{"wal_receive_check_timeout": "5"}})
	one, two := l.Node(1), l.Node(2)
	process := receiver(t, ctx, two)
	must(t, syscall.Kill(process, syscall.SIGSTOP))
	done := make(chan lab.Result, 1)
	go func() { done <- one.Repmgr(ctx, "standby", "switchover", "--node-id=2") }()
	waitFor(t, ctx, "the primary to be stopped", func() error {
		if _, err := one.SQL(ctx, "SELECT 1"); err == nil {
			return errors.New("it answers")
		}
		return nil
	})
	must(t, two.Repmgr(ctx, "service", "unpause").Err())
	r := <-done
	t.Logf("it ended with %d\n%s", r.Code, r.Stderr)
	if r.Code != 18 || !strings.Contains(r.Stderr, "is not started again") {
		t.Errorf("status %d, want 18 and that the primary stays stopped", r.Code)
	}
	must(t, syscall.Kill(process, syscall.SIGCONT))
	waitPrimary(t, ctx, l, two)
	if one.Running() {
		t.Error("the former primary runs beside the new one")
	}
}

// A pause with an end, as a switchover takes it, is ended by the daemons themselves, also by
// one that was started again meanwhile: whoever asked for it may have been killed.
func TestPauseThatEnds(t *testing.T) {
	l, ctx := bringUpVisible(t, lab.Options{Nodes: 2})
	standby := l.Node(2)
	for _, n := range l.Nodes {
		c := api.DialUnix(n.StateDir())
		must(t, c.Pause(ctx, api.Pause{Paused: true, Reason: "switchover", Seconds: 25}))
		c.Close()
	}
	must(t, standby.KillDaemon(ctx))
	must(t, standby.StartDaemon(ctx))
	must(t, l.Node(1).Kill9(ctx))
	waitFor(t, ctx, "the new daemon to be paused", func() error {
		r, err := standby.Report(ctx)
		if err == nil && (r.PID != standby.DaemonPID() || !r.Paused || !strings.HasPrefix(r.PauseReason, "switchover, until ")) {
			err = fmt.Errorf("process %d, paused: %t, %q", r.PID, r.Paused, r.PauseReason)
		}
		return err
	})
	waitLog(t, ctx, standby, "paused: failover is paused")
	waitPrimary(t, ctx, l, standby)
	waitLog(t, ctx, standby, "the pause ends by itself")
}

// staysWritable makes sure that a server takes writes.
func staysWritable(t *testing.T, ctx context.Context, n *lab.Node) {
	t.Helper()
	waitFor(t, ctx, n.Name+" to take writes", func() error {
		text, err := n.SQL(ctx, "SELECT pg_is_in_recovery()::text")
		if err == nil && text != "false" {
			err = errors.New("it is in recovery: " + text)
		}
		return err
	})
}
