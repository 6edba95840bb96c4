// Package labtest is what tests of a real cluster have in common: a lab that ends with its
// test, and waiting for what must come. Each package of such tests is a process of its own,
// and runs beside the others.
package labtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"repmgr/internal/lab"
	"repmgr/internal/record"
)

// Main runs a package's tests and ends the process. It leaves nothing behind, however the run ends.
func Main(m *testing.M) {
	lab.CloseOnInterrupt()
	status := m.Run()
	lab.CloseAll()
	os.Exit(status)
}

// Generous bounds: a busy machine must not fail a test. Strict times are the
// benchmark's.
const (
	ScenarioBound = 8 * time.Minute // one test on a lab that Open made
	WaitBound     = 2 * time.Minute // one wait
)

// BringUp makes a whole cluster as an operator would, with daemons that all see
// their upstream.
func BringUp(t *testing.T, o lab.Options) (*lab.Lab, context.Context) {
	t.Helper()
	t.Parallel()
	l, ctx := Open(t, o)
	Must(t, l.BringUp(ctx))
	for _, n := range l.Nodes {
		WaitFor(t, ctx, n.Name+"'s daemon to watch", func() error { return Watches(ctx, n) })
	}
	return l, ctx
}

// Open makes a lab that may be a copy of one that was brought up before, for a test of the
// daemons. Tests named TestCore… run on every major, and make theirs by the commands.
func Open(t *testing.T, o lab.Options) (*lab.Lab, context.Context) {
	t.Helper()
	o.Copied = !strings.HasPrefix(t.Name(), "TestCore")
	return OpenFor(t, ScenarioBound, o)
}

// OpenFor makes a lab that is closed with the test, and tells its logs if the test failed. The
// context ends after bound. Where its network cannot be made the test is skipped.
func OpenFor(t *testing.T, bound time.Duration, o lab.Options) (*lab.Lab, context.Context) {
	t.Helper()
	o.Unsynced = true
	l, err := lab.New(o)
	if errors.Is(err, lab.ErrNamespaces) {
		t.Skipf("SKIPPED, NOT TESTED HERE: %v", err)
	}
	Must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), bound)
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

// Watches answers nil when a node's daemon is at rest: it has decided that there is
// nothing to do.
func Watches(ctx context.Context, n *lab.Node) error {
	r, err := n.Report(ctx)
	if err == nil && r.Rule != "upstream-visible" && r.Rule != "primary-steady" {
		err = fmt.Errorf("rule %q: %s", r.Rule, r.Why)
	}
	return err
}

// Must ends the test where there is an error.
func Must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// WaitFor waits until cond answers nil, for at most WaitBound.
func WaitFor(t *testing.T, ctx context.Context, what string, cond func() error) {
	t.Helper()
	Must(t, lab.Wait(ctx, WaitBound, what, cond))
}

// WaitLog waits until a node's daemon has logged a line that holds the text.
func WaitLog(t *testing.T, ctx context.Context, n *lab.Node, text string) {
	t.Helper()
	WaitFor(t, ctx, fmt.Sprintf("%q in the log of %s", text, n.Name), func() error { return Logged(n.DaemonLog(), text) })
}

// Logged answers nil when a file holds the text.
func Logged(file, text string) error {
	log, err := os.ReadFile(file)
	if err == nil && !strings.Contains(string(log), text) {
		err = errors.New("not there")
	}
	return err
}

// WaitPrimary waits until that node, and no other, takes writes.
func WaitPrimary(t *testing.T, ctx context.Context, l *lab.Lab, want *lab.Node) {
	t.Helper()
	WaitFor(t, ctx, want.Name+" to be the primary", func() error {
		n, err := l.Primary(ctx)
		if err == nil && n != want {
			err = fmt.Errorf("%s is", n.Name)
		}
		return err
	})
}

// WaitFollows waits until standby streams from upstream and the records say so.
func WaitFollows(t *testing.T, ctx context.Context, standby, upstream *lab.Node) {
	t.Helper()
	WaitFor(t, ctx, standby.Name+" to follow "+upstream.Name, func() error {
		if attached, err := upstream.Attached(ctx, standby); err != nil || !attached {
			return errors.Join(err, errors.New("it is not attached"))
		}
		return RecordedUpstream(ctx, upstream, standby, upstream)
	})
}

// RecordedUpstream answers nil when the record of a node, as a server has it, names that upstream.
func RecordedUpstream(ctx context.Context, at, node, want *lab.Node) error {
	got, err := at.SQL(ctx, "SELECT upstream_node_id FROM repmgr.nodes WHERE node_id = $1", node.ID)
	if err == nil && got != fmt.Sprint(want.ID) {
		err = fmt.Errorf("its recorded upstream is %s", got)
	}
	return err
}

// WaitEvent waits until an event of a node is recorded, with that outcome.
func WaitEvent(t *testing.T, ctx context.Context, at *lab.Node, name string, node *lab.Node, successful bool) {
	t.Helper()
	WaitFor(t, ctx, fmt.Sprintf("event %s of %s", name, node.Name), func() error {
		n, err := at.SQL(ctx, "SELECT count(*) FROM repmgr.events WHERE event = $1 AND node_id = $2 AND successful = $3", name, node.ID, successful)
		if err == nil && n == "0" {
			err = errors.New("not recorded")
		}
		return err
	})
}

// StaysPrimary looks for a while that nothing happens. It can only miss a
// failover that comes later, never see one that was not there.
func StaysPrimary(t *testing.T, ctx context.Context, l *lab.Lab, want *lab.Node) {
	t.Helper()
	for end := time.Now().Add(8 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		for _, n := range l.Primaries(ctx) {
			if n != want {
				t.Fatalf("%s takes writes, want only %s", n.Name, want.Name)
			}
		}
	}
	WaitPrimary(t, ctx, l, want)
}

// BringUpQuorum is BringUp, until the quorum rule is in force everywhere.
func BringUpQuorum(t *testing.T, o lab.Options) (*lab.Lab, context.Context) {
	t.Helper()
	t.Parallel()
	o.Quorum = true
	l, ctx := Open(t, o)
	Must(t, l.BringUp(ctx))
	WaitGoverned(t, ctx, l, l.Node(1))
	return l, ctx
}

// WaitGoverned waits until every node is at rest under the quorum rule, with that
// one as the primary.
func WaitGoverned(t *testing.T, ctx context.Context, l *lab.Lab, primary *lab.Node) {
	t.Helper()
	for _, n := range l.Nodes {
		want, why := "standby-follows", ""
		if n == primary {
			want, why = "primary-holds", "the lease is held" // not one that is indefinite, as after a pause or a restart
		}
		WaitFor(t, ctx, n.Name+" to be at rest under the quorum rule", func() error {
			r, err := n.Report(ctx)
			if err == nil && (r.Rule != want || !strings.Contains(r.Why, why) || r.PromotionRule != record.Quorum || r.Voters < 3) {
				err = fmt.Errorf("rule %q (%s), promotion by %s, %d voters", r.Rule, r.Why, r.PromotionRule, r.Voters)
			}
			return err
		})
	}
}

// NewPrimary waits until another node than the old one takes writes.
func NewPrimary(t *testing.T, ctx context.Context, l *lab.Lab, old *lab.Node) *lab.Node {
	t.Helper()
	var primary *lab.Node
	WaitFor(t, ctx, "a new primary", func() error {
		for _, n := range l.Nodes {
			if n == old {
				continue
			}
			if standby, err := n.InRecovery(ctx); err == nil && !standby {
				primary = n
				return nil
			}
		}
		return errors.New("nobody else takes writes")
	})
	return primary
}

// ComesBack waits until that node is the only primary and all others follow it.
func ComesBack(t *testing.T, ctx context.Context, l *lab.Lab, primary *lab.Node) {
	t.Helper()
	WaitPrimary(t, ctx, l, primary)
	WaitGoverned(t, ctx, l, primary)
	for _, n := range l.Nodes {
		if n != primary && n.ID <= 3 {
			WaitFollows(t, ctx, n, primary)
		}
	}
}

// Says is a condition for WaitFor: a command on a node ends well, and its output holds all of want.
func Says(t *testing.T, n *lab.Node, command string, want ...string) func() error {
	t.Helper()
	return func() error {
		r := n.Repmgr(t.Context(), strings.Fields(command)...)
		for _, text := range want {
			if !strings.Contains(r.Stdout+r.Stderr, text) {
				return errors.Join(r.Err(), fmt.Errorf("%q is not in\n%s%s", text, r.Stdout, r.Stderr))
			}
		}
		return r.Err()
	}
}
