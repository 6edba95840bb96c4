package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// attachTimeout bounds the wait for a standby to stream.
const attachTimeout = 2 * time.Minute

// BringUp makes the whole cluster as an operator would, with the commands under
// test: the primary, each standby cloned, started and registered, the witness,
// and a daemon on every node.
func (l *Lab) BringUp(ctx context.Context) error {
	steps := []func(context.Context) error{l.BringUpPrimary, l.BringUpStandbys, l.BringUpWitness, l.StartDaemons}
	if l.copies() {
		steps = []func(context.Context) error{l.copyCluster, l.BringUpWitness, l.StartDaemons}
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// BringUpPrimary makes node 1 the registered primary.
func (l *Lab) BringUpPrimary(ctx context.Context) error {
	n := l.Node(1)
	if err := n.InitPrimary(ctx); err != nil {
		return err
	}
	if err := n.WriteConf(nil); err != nil {
		return err
	}
	return n.Repmgr(ctx, "primary", "register").Err()
}

// BringUpStandbys clones, starts and registers every other data node.
func (l *Lab) BringUpStandbys(ctx context.Context) error {
	for _, n := range l.Nodes[1:] {
		if n.Witness {
			continue
		}
		upstream := l.Node(1)
		if id, ok := l.options.Upstream[n.ID]; ok {
			upstream = l.Node(id)
		}
		if err := n.WriteConf(nil); err != nil {
			return err
		}
		if err := n.BecomeStandby(ctx, upstream, false); err != nil {
			return err
		}
	}
	return nil
}

// BecomeStandby clones the node from upstream, starts it and registers it with
// the commands under test; force overwrites what is there. Its repmgr.conf has
// to be written already.
func (n *Node) BecomeStandby(ctx context.Context, upstream *Node, force bool) error {
	register := []string{"standby", "register", "--upstream-node-id=" + strconv.Itoa(upstream.ID)}
	if force {
		register = append(register, "-F")
	}
	if err := n.Clone(ctx, upstream, force).Err(); err != nil {
		return err
	}
	if err := n.Start(ctx); err != nil {
		return err
	}
	if err := n.Repmgr(ctx, register...).Err(); err != nil {
		return err
	}
	return Wait(ctx, attachTimeout, n.Name+" to stream from "+upstream.Name, func() error {
		attached, err := upstream.Attached(ctx, n)
		if err == nil && !attached {
			err = errors.New("it is not in pg_stat_replication")
		}
		return err
	})
}

// Clone runs standby clone on this node, with a fast checkpoint.
func (n *Node) Clone(ctx context.Context, upstream *Node, force bool, more ...string) Result {
	args := []string{"-h", upstream.Host, "-U", repmgrRole, "-d", repmgrRole, "-p", strconv.Itoa(upstream.Port)}
	if n.lab.options.Auth == TLS {
		args = []string{"-d", upstream.Conninfo()}
	}
	args = append(args, "standby", "clone", "-c", "--upstream-node-id="+strconv.Itoa(upstream.ID))
	if force {
		args = append(args, "-F")
	}
	return n.Repmgr(ctx, append(args, more...)...)
}

// BringUpWitness makes and registers the witness, if the lab has one.
func (l *Lab) BringUpWitness(ctx context.Context) error {
	if !l.options.Witness {
		return nil
	}
	n := l.Nodes[len(l.Nodes)-1]
	if !n.Plain {
		if err := n.InitPrimary(ctx); err != nil {
			return err
		}
	}
	if err := n.WriteConf(nil); err != nil {
		return err
	}
	primary := l.Node(1)
	args := []string{"-h", primary.Host, "-U", repmgrRole, "-d", repmgrRole, "-p", strconv.Itoa(primary.Port)}
	if l.options.Auth == TLS {
		args = []string{"-d", primary.Conninfo()}
	}
	return n.Repmgr(ctx, append(args, "witness", "register")...).Err()
}

// StartDaemons starts a daemon on every node that has none.
func (l *Lab) StartDaemons(ctx context.Context) error {
	for _, n := range l.Nodes {
		if n.DaemonPID() != 0 {
			continue
		}
		if err := n.StartDaemon(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Logs are the ends of what the nodes' programs said, for the message of a failed test.
func (l *Lab) Logs() string {
	var b strings.Builder
	for _, n := range l.Nodes {
		logs, _ := filepath.Glob(filepath.Join(n.Dir, "*.log"))
		for _, path := range logs {
			fmt.Fprintf(&b, "--- %s: %s\n%s\n", n.Name, strings.TrimSuffix(filepath.Base(path), ".log"), tail(path))
		}
	}
	return b.String()
}

// SaveLogs copies the logs of everything that ran on the nodes into a folder, which it makes.
func (l *Lab) SaveLogs(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("save the logs: %w", err)
	}
	for _, n := range l.Nodes {
		logs, _ := filepath.Glob(filepath.Join(n.Dir, "*.log"))
		guards, _ := filepath.Glob(filepath.Join(n.Dir, "*", "guard.log"))
		for _, path := range append(logs, guards...) {
			b, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, n.Name+"-"+filepath.Base(path)), b, 0o644)
			}
			if err != nil {
				return fmt.Errorf("save the logs: %w", err)
			}
		}
	}
	return nil
}

// watchTimeout bounds the wait for daemons to be at work.
const watchTimeout = 60 * time.Second

// DaemonsWatch waits until the cluster's own record says that every daemon that
// was started here has begun its work, under the rule that the lab is for.
func (l *Lab) DaemonsWatch(ctx context.Context) error {
	var want []string
	for _, n := range l.Nodes {
		if n.DaemonPID() != 0 && !n.Plain { // that one has no way to record it
			want = append(want, strconv.Itoa(n.ID))
		}
	}
	if err := l.recordedStart(ctx, want); err != nil || !l.options.Quorum {
		return err
	}
	return Wait(ctx, watchTimeout, "the quorum rule to be in force", func() error {
		primary, err := l.Primary(ctx)
		if err != nil {
			return err
		}
		rule, err := primary.SQL(ctx, "SELECT rule FROM repmgr.quorum")
		if err == nil && rule != "quorum" {
			err = fmt.Errorf("the rule is %q", rule)
		}
		return err
	})
}

func (l *Lab) recordedStart(ctx context.Context, want []string) error {
	return Wait(ctx, watchTimeout, "the daemons to be at work", func() error {
		primary, err := l.Primary(ctx)
		if err != nil {
			return err
		}
		got, err := primary.SQL(ctx, `SELECT count(DISTINCT node_id) FROM repmgr.events
			WHERE event = 'repmgrd_start' AND successful AND node_id::text = ANY (string_to_array($1, ','))`, strings.Join(want, ","))
		if err == nil && got != strconv.Itoa(len(want)) {
			err = fmt.Errorf("%s of %d have recorded the event repmgrd_start", got, len(want))
		}
		return err
	})
}

// Playground are lines for a shell that let one use a lab that is kept.
func (l *Lab) Playground() []string {
	become := ""
	if l.account.drop {
		become = "setpriv --reuid=" + l.account.name + " --regid=" + strconv.Itoa(l.account.gid) + " --clear-groups "
	}
	bindir, _ := l.programs() // they are there: the cluster was made by them
	lines := []string{"cd " + l.Dir, "export PATH=" + bindir + ":" + l.Bindir + ":$PATH"}
	for _, n := range l.Nodes {
		lines = append(lines, fmt.Sprintf("# %s: psql -h %s -p %d -U postgres; log: %s", n.Name, n.Dir, n.Port, n.DaemonLog()))
	}
	first := l.Nodes[0]
	return append(lines,
		become+"repmgr -f "+first.ConfFile()+" cluster show",
		become+"pg_ctl -D "+first.DataDir+" -m immediate stop   # let a server die",
		become+"pg_ctl -D "+first.DataDir+" -l "+first.ServerLog()+" start",
		"# and in the end, in the repository: make demo ARGS=--teardown")
}
