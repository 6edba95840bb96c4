package quorum

import (
	"testing"

	"repmgr/internal/lab"
)

// The primary's daemon was stopped, which paused the cluster, and its host is lost
// after that: nothing ends its lease but an operator's word.
func TestQuorumFencedByAnOperator(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3, Namespaces: true, Settings: map[string]string{"wal_log_hints": "on"}})
	old, two := l.Node(1), l.Node(2)
	_, err := old.StopDaemon(ctx)
	must(t, err)
	if r := two.Repmgr(ctx, "service", "fenced", "--node-id=2", "--yes=node2"); r.Code == 0 {
		t.Error("node 2 does not hold the lease")
	}
	if r := two.Repmgr(ctx, "service", "fenced", "--node-id=1"); r.Code == 0 {
		t.Error("it was not confirmed")
	}
	if r := two.Repmgr(ctx, "service", "fenced", "--node-id=1", "--yes=node2"); r.Code == 0 {
		t.Error("another name was given")
	}
	must(t, old.PowerOff(ctx))
	must(t, says(t, two, "service fenced --node-id=1 --dry-run", "would be ended")())
	if p, err := l.Primary(ctx); err == nil {
		t.Errorf("%s took over by itself", p.Name)
	}
	waitFor(t, ctx, "the lease to be ended", says(t, two, "service fenced --node-id=1 --yes=node1", "the lease of node \"node1\" (ID: 1) is ended"))
	primary := newPrimary(t, ctx, l, old)
	waitEvent(t, ctx, primary, "cluster_fenced", two, true) // who was told
	must(t, says(t, primary, "cluster explain", "the lease of node1 (ID: 1) was ended by an operator")())
	must(t, old.Heal())
	must(t, old.Start(ctx))
	must(t, old.StartDaemon(ctx))
	comesBack(t, ctx, l, primary)
	if r := two.Repmgr(ctx, "service", "fenced", "--node-id=1", "--yes=node1"); r.Code == 0 {
		t.Error("node 1 does not hold the lease any more")
	}
}
