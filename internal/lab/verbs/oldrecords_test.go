package verbs

import (
	"testing"

	"repmgr/internal/lab"
)

// A standby that was cut off has old records, and follows the new primary also where they
// say that it was lost once.
func TestAStandbyFollowsWhomItsRecordsCallInactive(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 3})
	one, two, three := l.Node(1), l.Node(2), l.Node(3)
	must(t, l.BringUpPrimary(ctx)) // without daemons, which would put the records right
	must(t, l.BringUpStandbys(ctx))
	_ = sql(t, ctx, one, "UPDATE repmgr.nodes SET active = false WHERE node_id = 2")
	for _, n := range []*lab.Node{two, three} {
		becomes(t, ctx, "the record", n, "SELECT active FROM repmgr.nodes WHERE node_id = 2", "f")
	}
	must(t, one.Stop(ctx, "fast"))
	must(t, two.Repmgr(ctx, "standby", "promote").Err())
	must(t, three.Repmgr(ctx, "standby", "follow", "--upstream-node-id=2").Err())
	follows(t, l, three, two)
}

// So does a witness, whose records are a copy that it makes itself.
func TestAWitnessFollowsWhomItsRecordsCallInactive(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 2, Witness: true})
	one, two, witness := l.Node(1), l.Node(2), l.Node(3)
	must(t, l.BringUpPrimary(ctx))
	must(t, l.BringUpStandbys(ctx))
	must(t, l.BringUpWitness(ctx))
	_ = sql(t, ctx, witness, "UPDATE repmgr.nodes SET active = false WHERE node_id = 2")
	killCaughtUp(t, ctx, one, "1")
	must(t, two.Repmgr(ctx, "standby", "promote").Err())
	must(t, witness.Repmgr(ctx, "standby", "follow", "--upstream-node-id=2").Err())
	equal(t, "the witness's copy", sql(t, ctx, witness, "SELECT upstream_node_id, (SELECT type || ' ' || active FROM repmgr.nodes WHERE node_id = 2) FROM repmgr.nodes WHERE node_id = 3"), "2 primary true")
}
