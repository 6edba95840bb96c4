package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"repmgr/internal/lab"
	"repmgr/internal/record"
)

// bringUpWithWitness makes two data nodes and a witness without PostgreSQL, and
// waits until the quorum rule is in force on all three.
func bringUpWithWitness(t *testing.T, o lab.Options) (*lab.Lab, context.Context) {
	t.Helper()
	t.Parallel()
	o.Nodes, o.Witness, o.Plain, o.Quorum = 2, true, true, true
	l, ctx := open(t, o)
	must(t, l.BringUp(ctx))
	waitVoting(t, ctx, l, l.Node(1))
	return l, ctx
}

// waitVoting waits until the data nodes are at rest under the quorum rule, with
// that one as the primary, and the witness votes.
func waitVoting(t *testing.T, ctx context.Context, l *lab.Lab, primary *lab.Node) {
	t.Helper()
	for _, n := range l.Nodes {
		want := map[bool]string{true: "primary-holds", false: "standby-follows"}[n == primary]
		if n.Plain {
			want = "witness-votes"
		}
		waitFor(t, ctx, n.Name+" to be at rest under the quorum rule", func() error {
			r, err := n.Report(ctx)
			if err == nil && (r.Rule != want || r.PromotionRule != record.Quorum || r.Voters != 3) {
				err = fmt.Errorf("rule %q (%s), promotion by %s, %d voters", r.Rule, r.Why, r.PromotionRule, r.Voters)
			}
			return err
		})
	}
}

// Two data nodes and a witness without PostgreSQL fail over by quorum after a
// crash; the witness is shown, and follows the records.
func TestWitnessCrash(t *testing.T) {
	l, ctx := bringUpWithWitness(t, lab.Options{})
	one, two, witness := l.Node(1), l.Node(2), l.Node(3)
	shown := one.Repmgr(ctx, "cluster", "show", "--compact")
	must(t, shown.Err())
	if !strings.Contains(shown.Stdout, "witness | * running") {
		t.Errorf("cluster show:\n%s", shown.Stdout)
	}
	must(t, one.Kill9(ctx))
	waitPrimary(t, ctx, l, two)
	waitVoting(t, ctx, l, two)
	waitFollows(t, ctx, one, two)
	waitFor(t, ctx, "the witness to name the new primary", func() error { return recordedUpstream(ctx, two, witness, two) })
	// A former primary streams before its record says that it is active.
	waitFor(t, ctx, "a whole cluster", func() error { return witness.Repmgr(ctx, "cluster", "show").Err() })
}

// A primary that is cut off from the other two takes no writes beside the new one.
// The witness alone being gone changes nothing.
func TestWitnessPartition(t *testing.T) {
	l, ctx := bringUpWithWitness(t, lab.Options{Namespaces: true})
	one, two, witness := l.Node(1), l.Node(2), l.Node(3)
	must(t, witness.Cut())
	staysPrimary(t, ctx, l, one)
	must(t, witness.Heal())
	waitVoting(t, ctx, l, one)
	must(t, one.Cut())
	waitFor(t, ctx, "the other node to be the primary", func() error {
		standby, err := two.InRecovery(ctx)
		if err == nil && standby {
			err = errors.New("it is a standby")
		}
		return err
	})
	if standby, err := one.InRecovery(ctx); err == nil && !standby {
		t.Errorf("%s takes writes beside %s", one.Name, two.Name)
	}
	must(t, one.Heal())
	waitPrimary(t, ctx, l, two)
	waitVoting(t, ctx, l, two)
	waitFollows(t, ctx, one, two)
}
