// Package verbs holds the tests of repmgr's commands against real clusters.
package verbs

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"repmgr/internal/lab"
	"repmgr/internal/lab/labtest"
)

// TestMain leaves nothing behind, however the run ends.
func TestMain(m *testing.M) { labtest.Main(m) }

// testTimeout bounds one test, the building of the programs by the first included.
const testTimeout = 10 * time.Minute

// open makes a lab that ends with its test.
func open(t *testing.T, options lab.Options) (*lab.Lab, context.Context) {
	t.Helper()
	return labtest.OpenFor(t, testTimeout, options)
}

var must = labtest.Must

// sql returns the answer of a node's server, rows joined by newlines and columns by blanks.
func sql(t *testing.T, ctx context.Context, n *lab.Node, query string) string {
	t.Helper()
	rows, err := n.Rows(ctx, query)
	must(t, err)
	var lines []string
	for _, r := range rows {
		lines = append(lines, strings.Join(r, " "))
	}
	return strings.Join(lines, "\n")
}

// refused runs repmgr, which must end with that status and say all of that, and
// what to do.
func refused(t *testing.T, ctx context.Context, n *lab.Node, status int, says []string, args ...string) {
	t.Helper()
	r := n.Repmgr(ctx, args...)
	checkRefused(t, r, status, says)
}

func checkRefused(t *testing.T, r lab.Result, status int, says []string) {
	t.Helper()
	if r.Code != status {
		t.Errorf("%s: status %d, want %d\n%s", r.Command, r.Code, status, r.Stderr)
	}
	for _, text := range append(says, "ERROR: ", "HINT: ") {
		if !strings.Contains(r.Stderr, text) {
			t.Errorf("%s: does not say %q:\n%s", r.Command, text, r.Stderr)
		}
	}
}

// killCaughtUp kills a primary's server once its standbys have replayed all of
// its WAL, so that any of them may be promoted and the others can follow.
func killCaughtUp(t *testing.T, ctx context.Context, primary *lab.Node, standbys string) {
	t.Helper()
	becomes(t, ctx, "standbys that have replayed everything", primary,
		"SELECT count(*) FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_lsn()", standbys)
	must(t, primary.Kill9(ctx))
}

// becomes waits until a query's answer is what is wanted.
func becomes(t *testing.T, ctx context.Context, what string, n *lab.Node, query, want string) {
	t.Helper()
	must(t, lab.Wait(ctx, labtest.WaitBound, what, func() error {
		if got := sql(t, ctx, n, query); got != want {
			return fmt.Errorf("got\n%s\nwant\n%s", got, want)
		}
		return nil
	}))
}

// equal compares what was got with what is wanted.
func equal(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got\n%s\nwant\n%s", what, got, want)
	}
}

const (
	records = "SELECT node_id, type, upstream_node_id, active, slot_name FROM repmgr.nodes ORDER BY 1"
	slots   = "SELECT slot_name, temporary, active FROM pg_replication_slots ORDER BY 1"
	events  = "SELECT node_id, event, successful FROM repmgr.events ORDER BY event_timestamp"
)

func TestAClusterIsSetUpPromotedAndFollowed(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Slots: true, Witness: true})
	must(t, l.BringUpPrimary(ctx))
	must(t, l.BringUpStandbys(ctx))
	must(t, l.BringUpWitness(ctx))
	equal(t, "records", sql(t, ctx, l.Node(1), records), "1 primary  t repmgr_slot_1\n2 standby 1 t repmgr_slot_2\n3 standby 1 t repmgr_slot_3\n4 witness 1 t ")
	equal(t, "the witness's records", sql(t, ctx, l.Node(4), records), sql(t, ctx, l.Node(1), records))
	equal(t, "slots", sql(t, ctx, l.Node(1), slots), "repmgr_slot_2 f t\nrepmgr_slot_3 f t")
	equal(t, "events", sql(t, ctx, l.Node(1), events), "1 cluster_created t\n1 primary_register t\n2 standby_clone t\n2 standby_register t\n3 standby_clone t\n3 standby_register t\n4 witness_register t")
	equal(t, "endpoints", sql(t, ctx, l.Node(4), "SELECT count(*) FROM repmgr.endpoints"), "4")
	equal(t, "authority", sql(t, ctx, l.Node(4), "SELECT certificate FROM repmgr.authority"), sql(t, ctx, l.Node(1), "SELECT certificate FROM repmgr.authority"))

	refused(t, ctx, l.Node(1), 8, []string{"primary already"}, "standby", "promote")
	refused(t, ctx, l.Node(2), 8, []string{"has a primary", `"node1"`}, "standby", "promote")
	killCaughtUp(t, ctx, l.Node(1), "2")
	refused(t, ctx, l.Node(3), 23, []string{"no primary"}, "standby", "follow")
	must(t, l.Node(2).Repmgr(ctx, "standby", "promote", "--dry-run").Err())
	if standby, err := l.Node(2).InRecovery(ctx); !standby || err != nil {
		t.Fatalf("a dry run promoted the standby (%v)", err)
	}
	must(t, l.Node(2).Repmgr(ctx, "standby", "promote").Err())
	must(t, l.Node(3).Repmgr(ctx, "standby", "follow", "--dry-run").Err())
	equal(t, "slots after a dry run", sql(t, ctx, l.Node(2), slots), "")
	must(t, l.Node(3).Repmgr(ctx, "standby", "follow").Err())
	must(t, l.Node(4).Repmgr(ctx, "standby", "follow").Err())
	equal(t, "records", sql(t, ctx, l.Node(2), records), "1 primary  f repmgr_slot_1\n2 primary  t repmgr_slot_2\n3 standby 2 t repmgr_slot_3\n4 witness 2 t ")
	equal(t, "the witness's records", sql(t, ctx, l.Node(4), records), sql(t, ctx, l.Node(2), records))
	equal(t, "slots", sql(t, ctx, l.Node(2), slots), "repmgr_slot_3 f t")
	equal(t, "last events", sql(t, ctx, l.Node(2), events+" OFFSET 7"), "2 standby_promote t\n3 standby_follow t")

	must(t, l.Node(1).Start(ctx)) // the former primary: writable, on the old timeline
	refused(t, ctx, l.Node(3), 23, []string{"cannot follow", "timeline"}, "standby", "follow", "--upstream-node-id=1")
	refused(t, ctx, l.Node(1), 1, []string{"is no standby"}, "standby", "follow")
	refused(t, ctx, l.Node(2), 1, []string{"upstream of other nodes"}, "primary", "unregister", "-F")
	must(t, l.Node(3).Repmgr(ctx, "primary", "unregister", "--node-id=1").Err())
	must(t, l.Node(3).Repmgr(ctx, "standby", "unregister").Err())
	must(t, l.Node(4).Repmgr(ctx, "witness", "unregister").Err())
	equal(t, "records", sql(t, ctx, l.Node(2), records), "2 primary  t repmgr_slot_2")
}

func TestAStandbyFollowsAStandbyAndBack(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Slots: true, Upstream: map[int]int{3: 2}})
	must(t, l.BringUpPrimary(ctx))
	must(t, l.BringUpStandbys(ctx))
	equal(t, "slots of the upstream", sql(t, ctx, l.Node(2), slots), "repmgr_slot_3 f t")
	equal(t, "slots of the primary", sql(t, ctx, l.Node(1), slots), "repmgr_slot_2 f t")
	must(t, l.Node(3).Repmgr(ctx, "standby", "follow").Err())
	equal(t, "slots of the former upstream", sql(t, ctx, l.Node(2), slots), "")
	equal(t, "slots of the primary", sql(t, ctx, l.Node(1), slots), "repmgr_slot_2 f t\nrepmgr_slot_3 f t")
	must(t, l.Node(3).Repmgr(ctx, "standby", "follow", "--upstream-node-id=2").Err())
	equal(t, "record", sql(t, ctx, l.Node(1), records+" OFFSET 2"), "3 standby 2 t repmgr_slot_3")
	receivers := "SELECT count(*) FROM pg_stat_wal_receiver"
	refused(t, ctx, l.Node(1), 1, []string{"no standby"}, "node", "control", "--disable-wal-receiver")
	must(t, l.Node(3).Repmgr(ctx, "node", "control", "--disable-wal-receiver", "--dry-run").Err())
	equal(t, "receivers after a dry run", sql(t, ctx, l.Node(3), receivers), "1")
	must(t, l.Node(3).Repmgr(ctx, "node", "control", "--disable-wal-receiver").Err())
	equal(t, "receivers", sql(t, ctx, l.Node(3), receivers), "0")
	must(t, l.Node(3).Repmgr(ctx, "node", "control", "--enable-wal-receiver").Err())
	equal(t, "receivers again", sql(t, ctx, l.Node(3), receivers), "1")
	refused(t, ctx, l.Node(2), 1, []string{"upstream of other nodes", "node3"}, "standby", "unregister")
	refused(t, ctx, l.Node(3), 23, []string{"follow itself"}, "standby", "follow", "--upstream-node-id=3")
	refused(t, ctx, l.Node(3), 23, []string{"not registered"}, "standby", "follow", "--upstream-node-id=8")
}

func TestAStandbyThatDoesNotAttachIsAFailure(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 3, Conf: map[string]string{"standby_follow_timeout": "3"}})
	must(t, l.BringUpPrimary(ctx))
	must(t, l.BringUpStandbys(ctx))
	// What stands on the command line comes before every file, so node 3 goes on
	// with its old upstream whatever its settings say.
	n := l.Node(3)
	must(t, n.Stop(ctx, "fast"))
	must(t, n.Run(ctx, l.Bindir+"/pg_ctl", "-D", n.DataDir, "-s", "-w", "-l", n.ServerLog(), "-o",
		"-c primary_conninfo='"+l.Node(1).Conninfo()+" application_name=node3'", "start").Err())
	refused(t, ctx, n, 23, []string{"has not attached", "pg_hba.conf"}, "standby", "follow", "--upstream-node-id=2")
	equal(t, "event", sql(t, ctx, l.Node(1), events+" OFFSET 6"), "3 standby_follow f")
}
