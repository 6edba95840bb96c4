package operators

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"repmgr/internal/lab"
	"repmgr/internal/record"
)

// A pause is one fact for all: nothing is promoted while it lasts, and the
// primary's server may be killed and started meanwhile.
func TestQuorumPause(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3})
	one, two, three := l.Node(1), l.Node(2), l.Node(3)
	if r := two.Repmgr(ctx, "standby", "promote"); r.Code != 8 || !strings.Contains(r.Stderr, "its daemons choose the primary") {
		t.Errorf("a promotion by hand: %v", r.Err())
	}
	must(t, says(t, two, "service pause --dry-run", "the whole cluster would be paused")())
	must(t, says(t, three, "service pause", "the whole cluster is paused")())
	must(t, says(t, three, "service pause", "It was before")())
	for _, n := range l.Nodes {
		waitFor(t, ctx, "all to be paused on "+n.Name, func() error {
			r := n.Repmgr(ctx, "service", "status", "--csv")
			if strings.Count(r.Stdout, ",1,100,") != 3 {
				return errors.New(r.Stdout)
			}
			return says(t, n, "cluster show", "held by node1 (ID: 1) without a time limit: the cluster is paused, \"repmgr service pause\" on node \"node3\" (ID: 3)", "would not succeed now: the cluster is paused")()
		})
	}
	waitLog(t, ctx, one, "disarming of the data directory is done")

	must(t, one.Kill9(ctx))
	for end := time.Now().Add(8 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if n, err := l.Primary(ctx); err == nil {
			t.Fatalf("%s is the primary while the cluster is paused", n.Name)
		}
	}
	must(t, says(t, one, "service pause", "the whole cluster is paused")()) // though no server answers there
	must(t, one.Start(ctx))
	waitPrimary(t, ctx, l, one)
	if r, err := one.Report(ctx); err != nil || r.Term != 1 || r.Position.Timeline != 1 {
		t.Errorf("the restart cost a term or a timeline: %+v, %v", r, err)
	}
	must(t, says(t, two, "service unpause", "the whole cluster is unpaused")())
	waitLog(t, ctx, one, "] arming of the data directory is done")
	comesBack(t, ctx, l, one)
	waitFor(t, ctx, "a timed lease", says(t, one, "cluster show", " s left", "would succeed: "))

	must(t, says(t, one, "service pause")())
	must(t, one.Stop(ctx, "fast"))
	must(t, says(t, one, "service unpause")())
	waitFor(t, ctx, "another primary", func() error {
		n, err := l.Primary(ctx)
		if err == nil && n == one {
			err = errors.New("still the one that is stopped")
		}
		return err
	})
	primary, err := l.Primary(ctx)
	must(t, err)
	comesBack(t, ctx, l, primary)

	for _, n := range l.Nodes {
		if n != primary {
			must(t, n.KillDaemon(ctx))
		}
	}
	if r := primary.Repmgr(ctx, "service", "pause"); r.Code != 26 || !strings.Contains(r.Stderr, "no majority of the voters has agreed") {
		t.Errorf("without a majority: %v", r.Err())
	}
}

// With fewer than three voters registered the quorum rule ends before one goes;
// with three it begins again.
func TestQuorumEndsAndBegins(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3})
	one, three := l.Node(1), l.Node(3)
	must(t, three.Repmgr(ctx, "standby", "unregister").Err())
	for _, n := range l.Nodes[:2] {
		waitFor(t, ctx, n.Name+" to be under the visibility rule in a group of two", func() error {
			r, err := n.Report(ctx)
			if err == nil && (r.PromotionRule != record.Visibility || r.Voters != 2) {
				err = fmt.Errorf("rule %s, %d voters", r.PromotionRule, r.Voters)
			}
			return errors.Join(err, says(t, n, "cluster show", "Promotion rule: visibility (fewer than three voters: 2 registered)", "witness")())
		})
	}
	waitEvent(t, ctx, one, "repmgrd_quorum_end", one, true)
	waitLog(t, ctx, one, "disarming of the data directory is done")
	waitPrimary(t, ctx, l, one)
	waitFor(t, ctx, "the rule to be recorded", func() error {
		got, err := one.SQL(ctx, "SELECT rule FROM repmgr.quorum")
		if err == nil && got != "visibility" {
			err = errors.New(got)
		}
		return err
	})
	must(t, three.Repmgr(ctx, "standby", "register").Err())
	waitGoverned(t, ctx, l, one)
}
