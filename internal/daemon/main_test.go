package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"repmgr/internal/daemon"
	"repmgr/internal/lab"
)

// TestMain leaves nothing behind, however the run ends. It is also the guard of a
// daemon that a test makes by itself.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "--guard" {
		os.Exit(daemon.Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	}
	lab.CloseOnInterrupt()
	status := m.Run()
	lab.CloseAll()
	os.Exit(status)
}

// Generous bounds: a busy machine must not fail a test. Strict times are the
// benchmark's.
const (
	scenarioBound = 4 * time.Minute
	waitBound     = 60 * time.Second
)

// bringUp makes a whole cluster as an operator would, with daemons that all see
// their upstream.
func bringUp(t *testing.T, o lab.Options) (*lab.Lab, context.Context) {
	t.Helper()
	t.Parallel()
	l, ctx := open(t, o)
	must(t, l.BringUp(ctx))
	for _, n := range l.Nodes {
		waitFor(t, ctx, n.Name+"'s daemon to watch", func() error { return watches(ctx, n) })
	}
	return l, ctx
}

// open makes a lab that is closed with the test, and tells its logs if the test failed.
func open(t *testing.T, o lab.Options) (*lab.Lab, context.Context) {
	t.Helper()
	o.Unsynced, o.Copied = true, !strings.HasPrefix(t.Name(), "TestCore") // those on every major make theirs by the commands
	l, err := lab.New(o)
	if errors.Is(err, lab.ErrNamespaces) {
		t.Skipf("SKIPPED, NOT TESTED HERE: %v", err)
	}
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), scenarioBound)
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			t.Log(l.Logs())
		}
		if err := l.Close(); err != nil {
			t.Errorf("close the lab: %v", err)
		}
	})
	return l, ctx
}

// watches reports whether a node's daemon is at rest: it has decided that there
// is nothing to do.
func watches(ctx context.Context, n *lab.Node) error {
	switch rule, why := decision(ctx, n); rule {
	case "upstream-visible", "primary-steady":
		return nil
	default:
		return fmt.Errorf("rule %q: %s", rule, why)
	}
}

// decision is the rule that applies on a node, and why.
func decision(ctx context.Context, n *lab.Node) (rule, why string) {
	r, err := n.Report(ctx)
	if err != nil {
		return "", err.Error()
	}
	return r.Rule, r.Why
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func waitFor(t *testing.T, ctx context.Context, what string, cond func() error) {
	t.Helper()
	must(t, lab.Wait(ctx, waitBound, what, cond))
}

// waitLog waits until a node's daemon has logged a line that holds the text.
func waitLog(t *testing.T, ctx context.Context, n *lab.Node, text string) {
	t.Helper()
	waitFor(t, ctx, fmt.Sprintf("%q in the log of %s", text, n.Name), func() error { return logged(n.DaemonLog(), text) })
}

func logged(file, text string) error {
	log, err := os.ReadFile(file)
	if err == nil && !strings.Contains(string(log), text) {
		err = errors.New("not there")
	}
	return err
}

// waitPrimary waits until that node, and no other, takes writes.
func waitPrimary(t *testing.T, ctx context.Context, l *lab.Lab, want *lab.Node) {
	t.Helper()
	waitFor(t, ctx, want.Name+" to be the primary", func() error {
		n, err := l.Primary(ctx)
		if err == nil && n != want {
			err = fmt.Errorf("%s is", n.Name)
		}
		return err
	})
}

// waitFollows waits until standby streams from upstream and the records say so.
func waitFollows(t *testing.T, ctx context.Context, standby, upstream *lab.Node) {
	t.Helper()
	waitFor(t, ctx, standby.Name+" to follow "+upstream.Name, func() error {
		if attached, err := upstream.Attached(ctx, standby); err != nil || !attached {
			return errors.Join(err, errors.New("it is not attached"))
		}
		return recordedUpstream(ctx, upstream, standby, upstream)
	})
}

func recordedUpstream(ctx context.Context, at, node, want *lab.Node) error {
	got, err := at.SQL(ctx, "SELECT upstream_node_id FROM repmgr.nodes WHERE node_id = $1", node.ID)
	if err == nil && got != fmt.Sprint(want.ID) {
		err = fmt.Errorf("its recorded upstream is %s", got)
	}
	return err
}

// waitEvent waits until an event of a node is recorded, with that outcome.
func waitEvent(t *testing.T, ctx context.Context, at *lab.Node, name string, node *lab.Node, successful bool) {
	t.Helper()
	waitFor(t, ctx, fmt.Sprintf("event %s of %s", name, node.Name), func() error {
		n, err := at.SQL(ctx, "SELECT count(*) FROM repmgr.events WHERE event = $1 AND node_id = $2 AND successful = $3", name, node.ID, successful)
		if err == nil && n == "0" {
			err = errors.New("not recorded")
		}
		return err
	})
}

// staysPrimary looks for a while that nothing happens. It can only miss a
// failover that comes later, never see one that was not there.
func staysPrimary(t *testing.T, ctx context.Context, l *lab.Lab, want *lab.Node) {
	t.Helper()
	for end := time.Now().Add(8 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		for _, n := range l.Primaries(ctx) {
			if n != want {
				t.Fatalf("%s takes writes, want only %s", n.Name, want.Name)
			}
		}
	}
	waitPrimary(t, ctx, l, want)
}
