package operators

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"repmgr/internal/lab"
)

// shown is what "cluster show" says of each node on n, and who has asked it.
func shown(ctx context.Context, n *lab.Node, options ...string) (nodes []map[string]any, asked string, err error) {
	r := n.Repmgr(ctx, append([]string{"cluster", "show", "--format", "json"}, options...)...)
	var answer struct {
		Nodes []map[string]any `json:"nodes"`
	}
	if err := json.Unmarshal([]byte(r.Stdout), &answer); err != nil {
		return nil, "", errors.Join(r.Err(), err)
	}
	for _, row := range answer.Nodes {
		asked += fmt.Sprintf("%v ", row["asked"])
		delete(row, "asked")
	}
	return answer.Nodes, strings.TrimSpace(asked), nil
}

// agrees checks that the daemons show what sessions of the command itself show, and who is asked how.
func agrees(ctx context.Context, n *lab.Node, asked string) func() error {
	return func() error {
		quick, how, err := shown(ctx, n)
		if err != nil {
			return err
		}
		direct, by, err := shown(ctx, n, "--direct")
		switch {
		case err != nil:
			return err
		case how != asked || strings.Contains(by, "daemon"):
			return fmt.Errorf("asked by %s, and with --direct by %s", how, by)
		case !reflect.DeepEqual(quick, direct):
			return fmt.Errorf("the daemons show\n%v\nsessions show\n%v", quick, direct)
		}
		return nil
	}
}

// What the daemons show of their servers is what a session with each shows, and whatever is
// not as it should be is asked by a session. Nothing is shown that was true a moment ago.
func TestSights(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3})
	two, three := l.Node(2), l.Node(3)
	const all, lacking = "daemon daemon daemon", "daemon daemon session"
	for _, n := range l.Nodes {
		waitFor(t, ctx, "the daemons to show it all on "+n.Name, agrees(ctx, n, all))
	}

	must(t, three.Stop(ctx, "fast"))
	// Its record may say that it has failed, or say so still after it was stopped.
	down := func(status any) bool { return status == "? unreachable" || status == "- failed" }
	nodes, how, err := shown(ctx, two)
	if must(t, err); how != lacking || !down(nodes[2]["status"]) {
		t.Errorf("the server of node 3 was stopped, and is shown as %v, asked by %s", nodes[2]["status"], how)
	}
	waitFor(t, ctx, "a server that is stopped", agrees(ctx, two, lacking))
	must(t, three.Start(ctx))
	waitFor(t, ctx, "the server to be back", agrees(ctx, two, all))

	must(t, three.SignalPostmaster(syscall.SIGSTOP))
	nodes, how, err = shown(ctx, two)
	must(t, three.SignalPostmaster(syscall.SIGCONT))
	if must(t, err); how != lacking || !down(nodes[2]["status"]) {
		t.Errorf("nobody can connect to node 3, and it is shown as %v, asked by %s", nodes[2]["status"], how)
	}
	waitFor(t, ctx, "the postmaster to go on", agrees(ctx, two, all))

	must(t, three.SignalDaemon(syscall.SIGSTOP))
	waitFor(t, ctx, "a daemon that hangs", agrees(ctx, two, lacking))
	must(t, three.SignalDaemon(syscall.SIGCONT))
	waitFor(t, ctx, "the daemon to go on", agrees(ctx, two, all))

	must(t, three.KillDaemon(ctx))
	waitFor(t, ctx, "a daemon that is gone", agrees(ctx, two, lacking))
	waitFor(t, ctx, "no daemon here", agrees(ctx, three, "session session session"))

	// A record that leads elsewhere is followed there.
	must(t, three.StartDaemon(ctx))
	waitFor(t, ctx, "the daemon to be back", agrees(ctx, two, all))
	_, err = l.Node(1).Rows(ctx, "UPDATE repmgr.nodes SET conninfo = conninfo || ' connect_timeout=3' WHERE node_id = 3")
	must(t, err)
	waitFor(t, ctx, "another connection string", agrees(ctx, two, lacking))
}
