package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"repmgr/internal/lab"
)

// peer is a program that is measured. A new one implements this and joins peers();
// one that does not speak repmgr's language brings its own way to set up a
// cluster in a lab's nodes.
type peer interface {
	// name heads the peer's column.
	name() string
	// repeats says how often a fault is made, given the wish.
	repeats(wish int) int
	// up makes a cluster of three data nodes with the peer at work on each.
	up(ctx context.Context, network bool) (*lab.Lab, error)
	// restore makes a node that was killed a standby of the present primary, and
	// waits until the cluster is whole and the peer at work.
	restore(ctx context.Context, l *lab.Lab, dead *lab.Node) error
	// show asks for the state of the cluster, as an operator would.
	show(ctx context.Context, n *lab.Node) error
	// daemon is the process number of the peer's daemon on a node.
	daemon(n *lab.Node) int
}

// family is repmgr and its relatives: one command line, different programs and settings.
type family struct {
	title    string
	software *lab.Software // nil: ours
	conf     map[string]string
	most     int // repeats at most; zero: as wished
}

// fastest are the lowest values that repmgr 5 accepts.
var fastest = map[string]string{"reconnect_attempts": "1", "reconnect_interval": "1", "monitor_interval_secs": "1"}

// peers are those that can be measured here, ours first, and why others cannot.
func peers(ctx context.Context, slowRuns int) (found []peer, missing []string) {
	found = append(found, &family{title: "repmgr (ours)"})
	old, err := lab.Repmgr5(0)
	if err != nil {
		return found, append(missing, err.Error())
	}
	version := old.Version(ctx)
	return append(found,
		&family{title: version + " default", software: old, most: slowRuns},
		&family{title: version + " fastest", software: old, conf: fastest},
	), missing
}

func (f *family) name() string { return f.title }

func (f *family) repeats(wish int) int {
	if f.most > 0 {
		return min(wish, f.most)
	}
	return wish
}

func (f *family) up(ctx context.Context, network bool) (*lab.Lab, error) {
	l, err := lab.New(lab.Options{Software: f.software, Conf: f.conf, Namespaces: network})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(l.BringUp(ctx), l.DaemonsWatch(ctx)); err != nil {
		return nil, errors.Join(fmt.Errorf("%w\n%s", err, l.Logs()), l.Close())
	}
	return l, nil
}

// restoreTimeout bounds the wait for the cluster to be whole again.
const restoreTimeout = 2 * time.Minute

func (f *family) restore(ctx context.Context, l *lab.Lab, dead *lab.Node) error {
	primary, err := l.Primary(ctx)
	if err != nil {
		return err
	}
	// The daemon is started anew whatever became of it, so that every run begins alike.
	if err := errors.Join(dead.KillDaemon(ctx), dead.Heal()); err != nil {
		return err
	}
	if err := lab.Wait(ctx, restoreTimeout, "the new primary's network", func() error {
		return dead.Repmgr(ctx, "-h", primary.Host, "-p", fmt.Sprint(primary.Port), "-U", "repmgr", "-d", "repmgr", "standby", "clone", "-F", "--dry-run").Err()
	}); err != nil {
		return err
	}
	if err := dead.BecomeStandby(ctx, primary, true); err != nil {
		return err
	}
	if err := dead.StartDaemon(ctx); err != nil {
		return err
	}
	return lab.Wait(ctx, restoreTimeout, "a whole cluster", func() error { return f.whole(ctx, l, primary) })
}

// whole answers nil when all stream from the primary and every daemon says that it runs.
func (f *family) whole(ctx context.Context, l *lab.Lab, primary *lab.Node) error {
	for _, n := range l.Nodes {
		if n == primary {
			continue
		}
		if attached, err := primary.Attached(ctx, n); err != nil || !attached {
			return errors.Join(fmt.Errorf("%s does not stream from %s", n.Name, primary.Name), err)
		}
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

func (f *family) show(ctx context.Context, n *lab.Node) error {
	return n.Repmgr(ctx, "cluster", "show").Err()
}

func (f *family) daemon(n *lab.Node) int { return n.DaemonPID() }
