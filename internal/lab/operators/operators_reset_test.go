package operators

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"repmgr/internal/lab"
)

// A node whose part in the group is lost or damaged is taken in again under a new
// raft id, the primary's too.
func TestQuorumStateLost(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3})
	one, three := l.Node(1), l.Node(3)
	if r := three.Repmgr(ctx, "cluster", "reset-quorum", "--this-node"); r.Code != 3 || !strings.Contains(r.Stderr, "repmgrd runs on this node") {
		t.Errorf("beside a daemon: %v", r.Err())
	}
	for _, damage := range []bool{false, true} {
		before, err := three.Report(ctx)
		must(t, err)
		must(t, three.KillDaemon(ctx))
		if damage {
			must(t, os.WriteFile(filepath.Join(three.DataDir+".repmgr", "quorum.db"), []byte(strings.Repeat("damaged ", 10000)), 0o600))
		}
		must(t, says(t, three, "cluster reset-quorum --this-node --dry-run", "would be forgotten")())
		must(t, says(t, three, "cluster reset-quorum --this-node", "this node's part in the group is forgotten")())
		must(t, three.StartDaemon(ctx))
		waitGoverned(t, ctx, l, one)
		if after, err := three.Report(ctx); err != nil || after.RaftID == before.RaftID {
			t.Errorf("damaged: %v: its raft id was %x, and is %x (%v)", damage, before.RaftID, after.RaftID, err)
		}
		waitFor(t, ctx, "three voters again", says(t, one, "cluster show", "3 of 3 seen", "would succeed"))
	}
	_, err := one.StopDaemon(ctx)
	must(t, err)
	must(t, says(t, one, "cluster reset-quorum --this-node")())
	must(t, one.StartDaemon(ctx))
	var primary *lab.Node
	waitFor(t, ctx, "a primary that holds the lease", func() (err error) {
		if primary, err = l.Primary(ctx); err != nil {
			return err
		}
		r, err := primary.Report(ctx)
		if err == nil && r.Rule != "primary-holds" {
			err = errors.New(r.Rule)
		}
		return err
	})
	comesBack(t, ctx, l, primary)
}

// When a majority is lost for ever, an operator goes on with what is left; those
// of the group that was given up are refused, and told so.
func TestQuorumGivenUp(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3})
	one, two, three := l.Node(1), l.Node(2), l.Node(3)
	const give = "cluster reset-quorum --force --yes-the-other-voters-are-lost"
	_, err := two.StopDaemon(ctx)
	must(t, err)
	if r := two.Repmgr(ctx, strings.Fields(give)...); r.Code != 1 || !strings.Contains(r.Stderr, "takes writes") {
		t.Errorf("beside a primary: %v", r.Err())
	}
	must(t, three.KillDaemon(ctx))
	must(t, two.Kill9(ctx))
	must(t, three.Kill9(ctx))
	readOnly := func() error {
		standby, err := one.InRecovery(ctx)
		if err == nil && !standby {
			err = errors.New("it takes writes")
		}
		return err
	}
	waitFor(t, ctx, "the primary to be read-only", readOnly)
	_, err = one.StopDaemon(ctx)
	must(t, err)
	must(t, says(t, one, give+" --dry-run", "would be promoted from timeline 1")())
	must(t, readOnly())
	must(t, says(t, one, give, "is given up", "is the primary, under the visibility rule")())
	waitPrimary(t, ctx, l, one)
	waitEvent(t, ctx, one, "cluster_reset_quorum", one, true)
	must(t, one.StartDaemon(ctx))
	waitFor(t, ctx, "the visibility rule", func() error { return watches(ctx, one) })

	must(t, says(t, two, "cluster reset-quorum --this-node")())
	for _, n := range []*lab.Node{two, three} {
		must(t, n.Start(ctx))
		must(t, n.StartDaemon(ctx))
	}
	waitLog(t, ctx, three, "takes part in another founding of the group, and is refused")
	waitPrimary(t, ctx, l, one)
	must(t, three.KillDaemon(ctx))
	must(t, says(t, three, "cluster reset-quorum --this-node")())
	must(t, three.StartDaemon(ctx))
	comesBack(t, ctx, l, one)
	groups, err := one.SQL(ctx, "SELECT count(*) FROM repmgr.quorum WHERE rule = 'quorum'")
	if err != nil || groups != "1" {
		t.Errorf("%s groups are recorded (%v)", groups, err)
	}
}
