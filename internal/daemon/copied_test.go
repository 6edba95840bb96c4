package daemon_test

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"repmgr/internal/lab"
)

// A daemon on a copy of a member's state directory does not run: it would vote a
// second time. The original goes on, and the copy takes part once it is reset.
func TestQuorumCopiedState(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3})
	one, three := l.Node(1), l.Node(3)
	state := three.DataDir + ".repmgr"
	must(t, three.KillDaemon(ctx))
	for _, args := range [][]string{{"cp", "-a", state, state + ".copy"}, {"mv", state, state + ".original"}, {"mv", state + ".copy", state}} {
		must(t, exec.CommandContext(ctx, args[0], args[1:]...).Run())
	}
	refused(t, runDaemon(ctx, three), 1, "the state directory was copied here, or brought back from a backup")

	for _, args := range [][]string{{"mv", state, state + ".copy"}, {"mv", state + ".original", state}} { // moved within its file system
		must(t, exec.CommandContext(ctx, args[0], args[1:]...).Run())
	}
	before, err := one.Report(ctx)
	must(t, err)
	must(t, three.StartDaemon(ctx))
	waitGoverned(t, ctx, l, one)
	if after, err := one.Report(ctx); err != nil || after.Term != before.Term {
		t.Errorf("term %d, %v; it was %d", after.Term, err, before.Term)
	}

	must(t, three.KillDaemon(ctx))
	for _, args := range [][]string{{"mv", state, state + ".original"}, {"mv", state + ".copy", state}} {
		must(t, exec.CommandContext(ctx, args[0], args[1:]...).Run())
	}
	must(t, says(t, three, "cluster reset-quorum --this-node", "this node's part in the group is forgotten")())
	must(t, three.StartDaemon(ctx))
	waitGoverned(t, ctx, l, one)
	waitFor(t, ctx, "three voters again", says(t, one, "cluster show", "3 of 3 seen", "would succeed"))
}

// Two daemons run as one node, each with a server and a state directory of its own:
// the one that was started later is refused by all, and everybody says so.
func TestQuorumOneNodeTwice(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 4})
	one, three, four := l.Node(1), l.Node(3), l.Node(4)
	must(t, four.KillDaemon(ctx))
	must(t, os.RemoveAll(four.DataDir+".repmgr"))
	must(t, four.WriteConf(map[string]string{"node_id": "3", "node_name": "impostor"}))
	must(t, four.StartDaemon(ctx))
	for _, n := range []*lab.Node{one, l.Node(2), four} {
		waitLog(t, ctx, n, "two repmgrd run as node 3: the younger is refused")
	}
	waitEvent(t, ctx, one, "repmgrd_node_refused", one, false)
	waitFor(t, ctx, "the status to say so", says(t, l.Node(2), "service status", "Refused:", "two repmgrd run as node 3"))
	must(t, one.Kill9(ctx)) // the elder votes on, and may be chosen
	primary := newPrimary(t, ctx, l, one)
	for _, n := range []*lab.Node{one, l.Node(2), three} {
		if n != primary {
			waitFollows(t, ctx, n, primary)
		}
	}
	must(t, four.KillDaemon(ctx))
	waitFor(t, ctx, "the refusal to be over", func() error {
		r := l.Node(2).Repmgr(ctx, "service", "status")
		if strings.Contains(r.Stdout, "Refused:") {
			return errors.New(r.Stdout)
		}
		return nil
	})
}
