package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"repmgr/internal/failover"
	"repmgr/internal/lab"
	"repmgr/internal/record"
)

// peer is a program that is measured. A new one implements this and joins peers();
// one that does not speak repmgr's language brings its own way to set up a
// cluster in a lab's nodes.
type peer interface {
	// name heads the peer's column.
	name() string
	// repeats says how often a fault is made, given the wish.
	repeats(wish int) int
	// ours says whether it is this repository's program.
	ours() bool
	// short names it in a path.
	short() string
	// up makes a cluster of three data nodes with the peer at work on each, and
	// waits until it is whole; conf are more settings.
	up(ctx context.Context, network bool, conf map[string]string) (*lab.Lab, error)
	// whole answers nil when there is one primary, all others stream from it and
	// the peer is at work on each node.
	whole(ctx context.Context, l *lab.Lab) error
	// patience is how long it is waited for a cluster to become whole by itself.
	patience() time.Duration
	// restore is the human: it makes a cluster whole that did not become so by
	// itself, or says that this cannot be done.
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

func (f *family) ours() bool { return f.software == nil }

func (f *family) short() string { return strings.ReplaceAll(f.title, " ", "-") }

func (f *family) up(ctx context.Context, network bool, conf map[string]string) (*lab.Lab, error) {
	all := maps.Clone(f.conf)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, conf)
	l, err := lab.New(lab.Options{Software: f.software, Conf: all, Namespaces: network, Quorum: f.ours()})
	if err != nil {
		return nil, err
	}
	err = l.BringUp(ctx)
	if err == nil {
		err = l.DaemonsWatch(ctx)
	}
	if err == nil {
		err = lab.Wait(ctx, restoreTimeout, "a whole cluster", func() error { return f.whole(ctx, l) })
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w\n%s", err, l.Logs()), l.Close())
	}
	return l, nil
}

// How long a cluster has to become whole: repmgr 5 does nothing of that kind by
// itself, and is not waited for as long.
const (
	restoreTimeout = 2 * time.Minute
	briefly        = 10 * time.Second
)

func (f *family) patience() time.Duration {
	if f.ours() {
		return restoreTimeout
	}
	return briefly
}

// errIncurable says that a cluster of ours that does not become whole is not
// mended: nobody may have to.
var errIncurable = errors.New("it has to become whole by itself")

func (f *family) restore(ctx context.Context, l *lab.Lab, dead *lab.Node) error {
	if f.ours() {
		return errIncurable
	}
	if err := errors.Join(dead.KillDaemon(ctx), dead.Kill9(ctx), dead.Heal()); err != nil {
		return err
	}
	primary, err := l.Primary(ctx)
	if err != nil {
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
	return lab.Wait(ctx, restoreTimeout, "a whole cluster", func() error { return f.whole(ctx, l) })
}

// wholeEvery is how often a command of the peer is started to ask whether the
// cluster is whole: more would take the processor from what is measured.
const wholeEvery = 300 * time.Millisecond

func (f *family) whole(ctx context.Context, l *lab.Lab) (err error) {
	defer func() {
		if err != nil {
			_ = sleep(ctx, wholeEvery)
		}
	}()
	primary, err := l.Primary(ctx)
	if err != nil {
		return err
	}
	for _, n := range l.Nodes {
		if n == primary {
			continue
		}
		if attached, err := primary.Attached(ctx, n); err != nil || !attached {
			return errors.Join(fmt.Errorf("%s does not stream from %s", n.Name, primary.Name), err)
		}
	}
	if f.ours() {
		return governed(ctx, l, primary)
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

// governed answers nil when every node is at rest under the quorum rule, by the
// word of its own daemon.
func governed(ctx context.Context, l *lab.Lab, primary *lab.Node) error {
	for _, n := range l.Nodes {
		want := "standby-follows"
		if n == primary {
			want = "primary-holds"
		}
		r, err := report(ctx, n)
		if err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
		if r.Rule != want || r.PromotionRule != record.Quorum || r.Voters < len(l.Nodes) {
			return fmt.Errorf("%s: rule %q (%s), promotion by %s, %d voters", n.Name, r.Rule, r.Why, r.PromotionRule, r.Voters)
		}
	}
	return nil
}

// report is what a node's daemon says of itself.
func report(ctx context.Context, n *lab.Node) (failover.Report, error) {
	status := n.Repmgr(ctx, "service", "status", "--format", "json")
	var out struct {
		Nodes []struct {
			ID     int             `json:"node_id"`
			Report failover.Report `json:"report"`
		} `json:"nodes"`
	}
	if err := json.Unmarshal([]byte(status.Stdout), &out); err != nil {
		return failover.Report{}, fmt.Errorf("%w: %s", err, status.Stderr)
	}
	for _, row := range out.Nodes {
		if row.ID == n.ID {
			return row.Report, nil
		}
	}
	return failover.Report{}, errors.New("it is not listed")
}

func (f *family) show(ctx context.Context, n *lab.Node) error {
	return n.Repmgr(ctx, "cluster", "show").Err()
}

func (f *family) daemon(n *lab.Node) int { return n.DaemonPID() }
