package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/record"
)

// wholeEvery is how long Whole lets pass before it answers no: its commands
// must not take the processor from what is waited for.
const wholeEvery = 300 * time.Millisecond

// Whole answers nil when there is one primary, all other data nodes stream from
// it, and a daemon is at work on each node: ours at rest, under the quorum rule
// where the lab is for it.
func (l *Lab) Whole(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			pause(ctx, wholeEvery)
		}
	}()
	primary, err := l.Streaming(ctx)
	if err != nil {
		return err
	}
	if l.software.Ours {
		return l.governed(ctx, primary)
	}
	status := primary.Repmgr(ctx, "service", "status", "--csv")
	if err := status.Err(); err != nil {
		return err
	}
	for _, line := range strings.Split(strings.TrimSpace(status.Stdout), "\n") {
		// node_id,node_name,type,pg_running,repmgrd_running,...
		if fields := strings.Split(line, ","); len(fields) < 5 || fields[4] != "1" {
			return fmt.Errorf("a daemon does not run: %s", line)
		}
	}
	return nil
}

// Streaming is the one primary, when every other data node streams from it.
func (l *Lab) Streaming(ctx context.Context) (*Node, error) {
	primary, err := l.Primary(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range l.Nodes {
		if n == primary || n.Witness {
			continue
		}
		if attached, err := primary.Attached(ctx, n); err != nil || !attached {
			return nil, errors.Join(fmt.Errorf("%s does not stream from %s", n.Name, primary.Name), err)
		}
	}
	return primary, nil
}

// Synced answers nil when the primary's commits wait for a standby that is there.
func (l *Lab) Synced(ctx context.Context) error {
	primary, err := l.Primary(ctx)
	if err != nil {
		return err
	}
	states, err := primary.SQL(ctx, "SELECT string_agg(sync_state, ',') FROM pg_stat_replication")
	if err == nil && !slices.ContainsFunc(strings.Split(states, ","), func(s string) bool { return s == "sync" || s == "quorum" }) {
		err = fmt.Errorf("no standby of %s is synchronous: %q", primary.Name, states)
	}
	return err
}

// governed answers nil when every node is at rest, by the word of its own daemon.
func (l *Lab) governed(ctx context.Context, primary *Node) error {
	if !l.options.Quorum {
		return nil
	}
	for _, n := range l.Nodes {
		want := "standby-follows"
		switch {
		case n == primary:
			want = "primary-holds"
		case n.Witness:
			want = "witness-votes"
		}
		r, err := n.Report(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
		if r.Rule != want || r.PromotionRule != record.Quorum || r.Voters < len(l.Nodes) {
			return fmt.Errorf("%s: rule %q (%s), promotion by %s, %d voters", n.Name, r.Rule, r.Why, r.PromotionRule, r.Voters)
		}
	}
	return nil
}

// Report is what the node's daemon, which has to be ours, says of itself.
func (n *Node) Report(ctx context.Context) (failover.Report, error) {
	view, err := n.View(ctx)
	return view.Own, err
}

// View is what the node's daemon, which has to be ours, knows of the cluster. It is asked
// by its socket: a command would start a program and open sessions for each question.
func (n *Node) View(ctx context.Context) (api.ClusterView, error) {
	daemon := api.DialUnix(n.StateDir())
	defer daemon.Close()
	view, err := daemon.Status(ctx)
	if err == nil && view.Own.Node != cluster.NodeID(n.ID) {
		err = fmt.Errorf("ask the daemon of %s: node %d answers", n.Name, view.Own.Node)
	}
	return view, err
}

// PrimaryBut is the one primary when a node is left out of account.
func (l *Lab) PrimaryBut(ctx context.Context, dead *Node) (*Node, error) {
	primaries := slices.DeleteFunc(l.Primaries(ctx), func(n *Node) bool { return n == dead })
	if len(primaries) != 1 {
		return nil, fmt.Errorf("find the primary beside %s: found %d, expected one", dead.Name, len(primaries))
	}
	return primaries[0], nil
}

// recloneTimeout bounds the wait for a node whose cable was plugged in to reach another.
const recloneTimeout = 2 * time.Minute

// Reclone is what a human does with a node that does not come back by itself: it
// is ended, cloned anew from the primary with the commands under test, and its daemon started.
func (n *Node) Reclone(ctx context.Context, primary *Node) error {
	if err := errors.Join(n.KillDaemon(ctx), n.Kill9(ctx), n.Heal()); err != nil {
		return err
	}
	if err := Wait(ctx, recloneTimeout, "the network of "+n.Name, func() error {
		return n.Clone(ctx, primary, true, "--dry-run").Err()
	}); err != nil {
		return err
	}
	if err := n.BecomeStandby(ctx, primary, true); err != nil {
		return err
	}
	return n.StartDaemon(ctx)
}
