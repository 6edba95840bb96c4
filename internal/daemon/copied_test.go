package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
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

// heardOf is a condition: a daemon has taken in what that life of another's has to tell.
func heardOf(ctx context.Context, at, n *lab.Node, life uint64) func() error {
	return func() error {
		view, err := at.View(ctx)
		if err != nil {
			return err
		}
		for _, p := range view.Peers {
			if p.Node == cluster.NodeID(n.ID) && p.Report != nil && p.Report.Incarnation == life {
				return nil
			}
		}
		return fmt.Errorf("%s has not heard of life %d of %s", at.Name, life, n.Name)
	}
}

// What a daemon had said when it was killed, and what comes when its next life has been heard
// for a while, is held against nobody: no two daemons run, and its member has forgotten nothing.
func TestQuorumLateWords(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3, Plain: true})
	two, three := l.Node(2), l.Node(3)
	rows, err := l.Node(1).Rows(ctx, "SELECT certificate, private_key FROM repmgr.authority")
	must(t, err)
	authority, err := api.ParseAuthority([]byte(rows[0][0]), []byte(rows[0][1]))
	must(t, err)
	identity, err := authority.Identity(three.Name, cluster.NodeID(three.ID))
	must(t, err)
	old, err := three.Report(ctx)
	must(t, err)
	var made []*api.Client // with a connection each
	for range 3 {
		c := api.Dial(api.Target{ID: cluster.NodeID(two.ID), Host: two.Host, Port: two.DaemonPort}, identity.ClientTLS())
		defer c.Close()
		_, err := c.Exchange(ctx, old)
		must(t, err)
		made = append(made, c)
	}
	must(t, three.KillDaemon(ctx))
	must(t, three.StartDaemon(ctx))
	waitFor(t, ctx, "the next life to have more than the former one, and to be known", func() error {
		r, err := three.Report(ctx)
		if err == nil && (r.Standing.Safe <= old.Standing.Last || r.Age < 3*time.Second) {
			err = fmt.Errorf("%+v after %s, it was %+v", r.Standing, r.Age, old.Standing)
		}
		return errors.Join(err, heardOf(ctx, two, three, r.Incarnation)())
	})
	for _, c := range made {
		if _, err := c.Exchange(ctx, old); !errors.Is(err, api.ErrFailed) {
			t.Errorf("a word that came late: %v", err)
		}
		if r := two.Repmgr(ctx, "service", "status"); strings.Contains(r.Stdout, "Refused:") {
			t.Error(r.Stdout)
		}
	}
	for _, text := range []string{"has forgotten what it once had", "two repmgrd run as node"} {
		if logged(two.DaemonLog(), text) == nil {
			t.Errorf("node 2 says that %s", text)
		}
	}
	waitGoverned(t, ctx, l, l.Node(1))
	life, err := three.Report(ctx)
	must(t, err)
	must(t, heardOf(ctx, two, three, life.Incarnation)())
}
