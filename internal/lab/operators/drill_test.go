package operators

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"repmgr/internal/lab"
)

// predicted is who would take writes after the crash of a node's server, as the
// daemon of another tells.
func predicted(ctx context.Context, at *lab.Node, crashed int) (node int, why string, err error) {
	r := at.Repmgr(ctx, "cluster", "drill", "--format", "json")
	if r.Err() != nil {
		return 0, "", r.Err()
	}
	var out struct {
		Outcomes []struct {
			Fault string `json:"fault"`
			Lost  []int  `json:"lost_node_ids"`
			Node  int    `json:"node_id"`
			Why   string `json:"why"`
		} `json:"outcomes"`
	}
	if err := json.Unmarshal([]byte(r.Stdout), &out); err != nil {
		return 0, "", err
	}
	for _, o := range out.Outcomes {
		if o.Fault == "crash" && len(o.Lost) == 1 && o.Lost[0] == crashed {
			return o.Node, o.Why, nil
		}
	}
	return 0, "", fmt.Errorf("no such outcome in %s", r.Stdout)
}

// What the drill says of the primary's crash is what then happens, by either rule:
// the one that may be is promoted, not the one with the lower number.
func TestCoreDrillComesTrue(t *testing.T) {
	conf := map[int]map[string]string{2: {"priority": "0"}}
	for name, bring := range map[string]func(*testing.T, lab.Options) (*lab.Lab, context.Context){"quorum": bringUpQuorum, "visibility": bringUp} {
		t.Run(name, func(t *testing.T) {
			l, ctx := bring(t, lab.Options{Nodes: 3, NodeConf: conf})
			for _, n := range l.Nodes { // any daemon says the same
				waitFor(t, ctx, "the drill on "+n.Name+" to predict node 3", func() error {
					node, why, err := predicted(ctx, n, 1)
					if err == nil && node != 3 {
						err = fmt.Errorf("it predicts node %d: %s", node, why)
					}
					return err
				})
			}
			must(t, l.Node(1).Kill9(ctx))
			if got := newPrimary(t, ctx, l, l.Node(1)); got.ID != 3 {
				t.Errorf("node %d was promoted, node 3 was predicted", got.ID)
			}
		})
	}
}

// drillReport is what a drill for real prints.
type drillReport struct {
	Was    int      `json:"primary_before"`
	Is     int      `json:"primary_after"`
	Gap    *float64 `json:"seconds_without_writes"`
	Back   *float64 `json:"seconds_until_back"`
	Whole  bool     `json:"whole"`
	AsSaid bool     `json:"as_predicted"`
	Said   struct {
		Node int `json:"node_id"`
	} `json:"predicted"`
	Issues []string `json:"issues"`
}

func drillForReal(t *testing.T, ctx context.Context, at *lab.Node, node string, more ...string) (lab.Result, drillReport) {
	t.Helper()
	r := at.Repmgr(ctx, append([]string{"cluster", "drill", "--for-real=" + node, "--format", "json"}, more...)...)
	t.Logf("drill of %s: %s%s", node, r.Stderr, r.Stdout)
	var out drillReport
	if r.Stdout != "" {
		must(t, json.Unmarshal([]byte(r.Stdout), &out))
	}
	return r, out
}

// A drill for real: the primary's server is killed and another takes over, then a
// standby's, and nothing fails over; each time the cluster is whole again at the end.
func TestCoreDrillForReal(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3})
	if r, _ := drillForReal(t, ctx, l.Node(2), "node1"); r.Err() == nil || !strings.Contains(r.Stderr, "no terminal to confirm") {
		t.Errorf("without a confirmation: %s", r.Stderr)
	}
	if r, _ := drillForReal(t, ctx, l.Node(2), "node1", "--dry-run"); r.Err() != nil || !strings.Contains(r.Stderr, "would be killed") {
		t.Errorf("a dry run: %s", r.Stderr)
	}
	if !l.Node(1).Running() {
		t.Fatal("the server was killed all the same")
	}
	r, out := drillForReal(t, ctx, l.Node(2), "node1", "--yes=node1")
	if r.Err() != nil || !out.Whole || out.Was != 1 || out.Is == 1 || out.Gap == nil || out.Back == nil {
		t.Fatalf("of the primary: %v, %+v", r.Err(), out)
	}
	// Which of two standbys has the last record is known only when the primary is gone.
	if out.AsSaid != (out.Is == out.Said.Node) {
		t.Errorf("predicted node %d, node %d it became, and as predicted: %v", out.Said.Node, out.Is, out.AsSaid)
	}
	primary := l.Node(out.Is)
	waitEvent(t, ctx, primary, "cluster_drill", l.Node(1), true)
	waitGoverned(t, ctx, l, primary)

	r, out = drillForReal(t, ctx, primary, "1", "--yes=node1")
	if r.Err() != nil || !out.Whole || !out.AsSaid || out.Was != primary.ID || out.Is != primary.ID || out.Gap != nil || out.Back == nil {
		t.Errorf("of a standby: %v, %+v", r.Err(), out)
	}

	for _, n := range l.Nodes { // without a majority beside the primary it is refused
		if n != primary && n.ID != 1 {
			must(t, n.KillDaemon(ctx))
		}
	}
	must(t, l.Node(1).Stop(ctx, "fast"))
	waitFor(t, ctx, "the drill to be refused", func() error {
		r, _ := drillForReal(t, ctx, primary, primary.Name, "--dry-run")
		if r.Err() == nil || !strings.Contains(r.Stderr, "nobody would take writes afterwards") {
			return fmt.Errorf("it is not: %s", r.Stderr)
		}
		return nil
	})
}
