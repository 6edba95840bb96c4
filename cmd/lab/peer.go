package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"repmgr/internal/lab"
)

// peer is a program that is measured, at one choice of settings. A new one
// implements this and joins peers(); one that does not speak repmgr's language
// brings its own way to set up a cluster in a lab's nodes.
type peer interface {
	// who says who it is.
	who() who
	// up makes a cluster of three data nodes with the peer at work on each, and
	// waits until it is whole; conf are more settings, which only ours is given.
	up(ctx context.Context, network bool, conf map[string]string) (*lab.Lab, error)
	// boot starts what the host of a node starts when the power is back.
	boot(ctx context.Context, n *lab.Node) error
	// whole answers nil when there is one primary, all others stream from it and
	// the peer is at work on each node.
	whole(ctx context.Context, l *lab.Lab) error
	// patience is how long it is waited for a cluster to become whole by itself.
	patience() time.Duration
	// restore is the human: it makes a cluster whole that did not become so by
	// itself, or says that this cannot be done.
	restore(ctx context.Context, l *lab.Lab, dead *lab.Node) error
	// switchover makes another node the primary in place of this one, as an operator would.
	switchover(ctx context.Context, n *lab.Node) error
	// show asks for the state of the cluster, as an operator would.
	show(ctx context.Context, n *lab.Node) error
	// daemons are the process numbers of all that the peer needs on a node beside PostgreSQL.
	daemons(n *lab.Node) []int
}

// who tells one peer from another.
type who struct {
	number   int
	program  string // as --peers knows it
	title    string // what the program calls itself
	settings string // empty: ours
}

// The programs, and the settings of those that are not ours.
const (
	ours            = "ours"
	repmgr5         = "repmgr5"
	patroni         = "patroni"
	defaultSettings = "default"
	fastestSettings = "fastest"
)

// everybody is who there can be.
var everybody = []who{
	{1, ours, "repmgr (ours)", ""},
	{2, repmgr5, "repmgr 5", defaultSettings},
	{3, repmgr5, "repmgr 5", fastestSettings},
	{4, patroni, "Patroni", defaultSettings},
	{5, patroni, "Patroni", fastestSettings},
}

// name heads the peer's column.
func (w who) name() string { return strings.TrimSpace(w.title + " " + w.settings) }

// short names it in a path and on the command line.
func (w who) short() string { return strings.TrimSuffix(w.program+"-"+w.settings, "-") }

func (w who) ours() bool { return w.program == ours }

// slow says that a failover takes it up to a minute.
func (w who) slow() bool { return w.settings == defaultSettings }

// called says whether a name of the command line means it: its number, its short
// name, or its program's, which means both choices of settings.
func (w who) called(name string) bool {
	return name == strconv.Itoa(w.number) || name == w.short() || name == w.program
}

// chosen are those of everybody who are meant by the names; all if there are none.
func chosen(names []string) ([]who, error) {
	for _, name := range names {
		if !slices.ContainsFunc(everybody, func(w who) bool { return w.called(name) }) {
			return nil, fmt.Errorf("measure peer %q: who there is, by number, name or program: %s", name, callable())
		}
	}
	return slices.DeleteFunc(slices.Clone(everybody), func(w who) bool {
		return len(names) > 0 && !slices.ContainsFunc(names, w.called)
	}), nil
}

// callable lists everybody for a message.
func callable() string {
	var list []string
	for _, w := range everybody {
		list = append(list, fmt.Sprintf("%d %s", w.number, w.short()))
	}
	return strings.Join(list, ", ")
}

// peers are those of the wanted that can be measured here, and why others cannot.
func peers(ctx context.Context, wanted []who, network bool) (found []peer, missing []string) {
	absent := map[string]error{}
	var old *lab.Software
	var other *lab.Patroni
	old, absent[repmgr5] = lab.Repmgr5(0)
	if other, absent[patroni] = lab.FindPatroni(ctx); !network && absent[patroni] == nil {
		absent[patroni] = errors.New("its ports are the same on each node, which needs network namespaces, and they need root")
	}
	for _, w := range wanted {
		switch err := absent[w.program]; {
		case err != nil:
			missing = append(missing, fmt.Sprintf("%s: %v", w.short(), err))
		case w.program == patroni:
			w.title = other.Name()
			found = append(found, &patroniPeer{id: w, programs: other})
		case w.program == repmgr5:
			w.title = old.Version(ctx)
			found = append(found, &family{id: w, software: old})
		default:
			found = append(found, &family{id: w})
		}
	}
	return found, missing
}

// family is repmgr and its relatives: one command line, different programs and settings.
type family struct {
	id       who
	software *lab.Software // nil: ours
	noSSH    error         // why nothing can be done by ssh in the present cluster
}

// fastestRepmgr5 are the lowest values that repmgr 5 accepts.
var fastestRepmgr5 = map[string]string{"reconnect_attempts": "1", "reconnect_interval": "1", "monitor_interval_secs": "1"}

func (f *family) who() who { return f.id }

func (f *family) up(ctx context.Context, network bool, conf map[string]string) (*lab.Lab, error) {
	all := map[string]string{}
	if f.id.settings == fastestSettings {
		maps.Copy(all, fastestRepmgr5)
	}
	maps.Copy(all, conf)
	l, err := lab.New(lab.Options{Software: f.software, Conf: all, Namespaces: network, Quorum: f.software == nil})
	if err != nil {
		return nil, err
	}
	err = l.BringUp(ctx)
	if err == nil {
		err = l.DaemonsWatch(ctx)
	}
	if err == nil {
		err = becomeWhole(ctx, f, l)
	}
	if err == nil && f.software != nil && network {
		err = f.ssh(ctx, l)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w\n%s", err, l.Logs()), l.Close())
	}
	return l, nil
}

// sshPort is where each host's sshd listens.
const sshPort = 2222

// ssh lets repmgr 5 do at other nodes what it does by ssh. Without it all else is measured.
func (f *family) ssh(ctx context.Context, l *lab.Lab) error {
	options, err := lab.StartSSH(ctx, sshPort, l.Nodes...)
	if f.noSSH = err; errors.Is(err, lab.ErrNoSSH) {
		return nil
	}
	for _, n := range l.Nodes {
		err = errors.Join(err, n.WriteConf(map[string]string{"ssh_options": options}))
	}
	return err
}

// How long a cluster has to become whole: repmgr 5 does nothing of that kind by
// itself, and is not waited for as long.
const (
	restoreTimeout = 2 * time.Minute
	briefly        = 10 * time.Second
)

// becomeWhole waits until a cluster is whole that somebody has made so.
func becomeWhole(ctx context.Context, p peer, l *lab.Lab) error {
	return lab.Wait(ctx, restoreTimeout, "a whole cluster", func() error { return p.whole(ctx, l) })
}

func (f *family) patience() time.Duration {
	if f.software == nil {
		return restoreTimeout
	}
	return briefly
}

func (f *family) boot(ctx context.Context, n *lab.Node) error {
	return errors.Join(n.Start(ctx), n.StartDaemon(ctx))
}

// errIncurable says that a cluster of ours that does not become whole is not
// mended: nobody may have to.
var errIncurable = errors.New("it has to become whole by itself")

func (f *family) restore(ctx context.Context, l *lab.Lab, dead *lab.Node) error {
	if f.software == nil {
		return errIncurable
	}
	primary, err := l.PrimaryBut(ctx, dead)
	if err != nil {
		return err
	}
	if err := dead.Reclone(ctx, primary); err != nil {
		return err
	}
	return becomeWhole(ctx, f, l)
}

func (f *family) whole(ctx context.Context, l *lab.Lab) error { return l.Whole(ctx) }

// next is whom the primary changes places with.
func next(n *lab.Node) int { return n.ID%3 + 1 }

func (f *family) switchover(ctx context.Context, n *lab.Node) error {
	if f.software == nil {
		return n.Repmgr(ctx, "standby", "switchover", fmt.Sprintf("--node-id=%d", next(n))).Err()
	}
	if f.noSSH != nil {
		return f.noSSH
	}
	return n.Lab().Node(next(n)).Repmgr(ctx, "standby", "switchover", "--siblings-follow").Err()
}

func (f *family) show(ctx context.Context, n *lab.Node) error {
	return n.Repmgr(ctx, "cluster", "show").Err()
}

func (f *family) daemons(n *lab.Node) []int { return []int{n.DaemonPID()} }

// patroniPeer is Patroni with an etcd member on each node.
type patroniPeer struct {
	id       who
	programs *lab.Patroni
}

// fastestPatroni are the lowest values that Patroni accepts.
var fastestPatroni = map[string]any{"ttl": 20, "loop_wait": 1, "retry_timeout": 3}

func (p *patroniPeer) who() who { return p.id }

func (p *patroniPeer) up(ctx context.Context, _ bool, _ map[string]string) (*lab.Lab, error) {
	var settings map[string]any
	if p.id.settings == fastestSettings {
		settings = fastestPatroni
	}
	return p.programs.Up(ctx, lab.Options{}, settings)
}

func (p *patroniPeer) boot(ctx context.Context, n *lab.Node) error {
	var errs []error
	for _, program := range p.programs.Programs() {
		errs = append(errs, p.programs.Start(ctx, n, program))
	}
	return errors.Join(errs...)
}

func (p *patroniPeer) whole(ctx context.Context, l *lab.Lab) error { return p.programs.Whole(ctx, l) }

func (p *patroniPeer) patience() time.Duration { return restoreTimeout }

func (p *patroniPeer) restore(ctx context.Context, l *lab.Lab, _ *lab.Node) error {
	primary, err := l.Primary(ctx)
	if err == nil {
		err = p.programs.Reinit(ctx, primary)
	}
	if err != nil {
		return err
	}
	return becomeWhole(ctx, p, l)
}

func (p *patroniPeer) switchover(ctx context.Context, n *lab.Node) error {
	return p.programs.Control(ctx, n, "switchover", "--leader", n.Name, "--candidate", fmt.Sprintf("node%d", next(n)), "--force").Err()
}

func (p *patroniPeer) show(ctx context.Context, n *lab.Node) error {
	return p.programs.Control(ctx, n, "list").Err()
}

func (p *patroniPeer) daemons(n *lab.Node) (pids []int) {
	for _, program := range p.programs.Programs() {
		pids = append(pids, n.ServicePID(program))
	}
	return pids
}
