package operators

import (
	"errors"
	"strings"
	"testing"

	"repmgr/internal/lab"
)

// What operators see under the quorum rule before, while and after a server is lost.
func TestOperatorsSee(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3})
	for _, n := range l.Nodes {
		for _, command := range []string{"cluster show", "service status"} {
			waitFor(t, ctx, command+" on "+n.Name, says(t, n, command, "Promotion rule: quorum (3 voters)",
				"Lease:         held by node1 (ID: 1), ", "Voters:        3 of 3 seen\n", "Failover:      would succeed: node 2 would be promoted; not without nodes 2 and 3"))
		}
	}
	must(t, says(t, l.Node(1), "cluster show", " s left\n")())
	must(t, says(t, l.Node(2), "cluster show", "renewed ")())
	must(t, says(t, l.Node(3), "cluster explain", "the quorum rule began, with node1 (ID: 1) as the primary")())
	must(t, l.Node(3).KillDaemon(ctx))
	waitFor(t, ctx, "the missing voter", says(t, l.Node(2), "cluster show", "not seen: node3 (ID: 3)", "would not succeed now: 1 of 3 voters would be left, and 2 have to agree; not heard of: node 3"))
	if r := l.Node(3).Repmgr(ctx, "cluster", "explain"); r.Code != 27 || !strings.Contains(r.Stderr, "start repmgrd on this node") {
		t.Errorf("without a daemon: %v", r.Err())
	}
	if r := l.Node(3).Repmgr(ctx, "cluster", "show"); r.Code != 0 || strings.Contains(r.Stdout+r.Stderr, "Promotion") {
		t.Errorf("without a daemon: %v\n%s", r.Err(), r.Stdout)
	}
	must(t, l.Node(3).StartDaemon(ctx))
	waitFor(t, ctx, "the voter", says(t, l.Node(2), "cluster show", "3 of 3 seen"))
	must(t, l.Node(1).Kill9(ctx))
	waitFor(t, ctx, "the decision", says(t, l.Node(3), "cluster explain", "Term 2 went to node", "node1 (ID: 1) gave its lease back", "winner", "took writes"))
}

// A standby on whose server a recovery target is set is not promoted, whatever its
// priority; it is told where one looks, before and after.
func TestQuorumRecoveryTarget(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3, NodeConf: map[int]map[string]string{2: {"priority": "200"}}})
	one, two, three := l.Node(1), l.Node(2), l.Node(3)
	waitFor(t, ctx, "the one with the higher priority to be next", says(t, one, "cluster show", "would succeed: node 2 would be promoted"))
	_, err := two.Rows(ctx, "ALTER SYSTEM SET recovery_target_name = 'never'")
	must(t, err)
	must(t, two.Restart(ctx, "fast"))
	waitFollows(t, ctx, two, one)
	const why = "recovery_target_name is set"
	for _, n := range l.Nodes {
		waitFor(t, ctx, "the reason to be shown on "+n.Name, says(t, n, "cluster show", "Not eligible:  node2 (ID: 2): "+why, "would succeed: node 3 would be promoted"))
	}
	waitEvent(t, ctx, one, "repmgrd_ineligible", two, false)
	must(t, one.Kill9(ctx))
	waitPrimary(t, ctx, l, three)
	waitFor(t, ctx, "the decision to be explained", says(t, three, "cluster explain", "Term 2 went to node3", "Not eligible now: node2 (ID: 2): "+why))
	waitFollows(t, ctx, two, three) // repmgrd writes the same file when it points it there
	_, err = two.Rows(ctx, "ALTER SYSTEM RESET recovery_target_name")
	must(t, err)
	must(t, two.Restart(ctx, "fast"))
	waitEvent(t, ctx, three, "repmgrd_ineligible", two, true)
	comesBack(t, ctx, l, three)
}

// A standby that is made to receive WAL again by hand, after it has offered its position,
// takes the offer back, is sealed again and offers anew.
func TestQuorumUnsealedByHand(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3, Namespaces: true, NodeConf: map[int]map[string]string{2: {"priority": "0"}, 3: {"priority": "0"}}})
	one, two, three := l.Node(1), l.Node(2), l.Node(3)
	must(t, one.PowerOff(ctx))
	bids := func() error {
		r := three.Repmgr(ctx, "cluster", "explain")
		if strings.Count(r.Stdout, "not eligible: priority 0") != 3 { // each, and in the reason why nobody is promoted
			return errors.Join(r.Err(), errors.New(r.Stdout))
		}
		return nil
	}
	waitFor(t, ctx, "both to offer what they have", bids)
	_, err := two.Rows(ctx, "ALTER SYSTEM SET primary_conninfo = '"+strings.ReplaceAll(three.Conninfo(), "'", "''")+"'")
	must(t, err)
	_, err = two.Rows(ctx, "SELECT pg_reload_conf()")
	must(t, err)
	waitFor(t, ctx, "the offer to be taken back", says(t, three, "cluster explain", "node2 (ID: 2) took its offer back"))
	waitLog(t, ctx, two, "proposal of withdraw: accepted")
	waitFor(t, ctx, "both to offer again", bids)
	if value, err := two.SQL(ctx, "SHOW primary_conninfo"); err != nil || value != "" {
		t.Errorf("it offers, and would receive from %q (%v)", value, err)
	}
	must(t, l.Heal())
	must(t, one.Start(ctx))
	must(t, one.StartDaemon(ctx))
	comesBack(t, ctx, l, one)
}
