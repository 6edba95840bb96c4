package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
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
	primary, err := l.PrimaryBut(ctx, dead)
	if err != nil {
		return err
	}
	if err := dead.Reclone(ctx, primary); err != nil {
		return err
	}
	return lab.Wait(ctx, restoreTimeout, "a whole cluster", func() error { return f.whole(ctx, l) })
}

func (f *family) whole(ctx context.Context, l *lab.Lab) error { return l.Whole(ctx) }

func (f *family) show(ctx context.Context, n *lab.Node) error {
	return n.Repmgr(ctx, "cluster", "show").Err()
}

func (f *family) daemon(n *lab.Node) int { return n.DaemonPID() }
