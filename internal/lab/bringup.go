package lab

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// attachTimeout bounds the wait for a standby to stream.
const attachTimeout = 30 * time.Second

// BringUp makes the whole cluster as an operator would, with the commands under
// test: the primary, each standby cloned, started and registered, the witness,
// and a daemon on every node.
func (l *Lab) BringUp(ctx context.Context) error {
	for _, step := range []func(context.Context) error{l.BringUpPrimary, l.BringUpStandbys, l.BringUpWitness, l.StartDaemons} {
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
	if err := n.InitPrimary(ctx); err != nil {
		return err
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

// Logs are the ends of all logs of the lab, for the message of a failed test.
func (l *Lab) Logs() string {
	var b strings.Builder
	for _, n := range l.Nodes {
		fmt.Fprintf(&b, "--- %s: repmgrd\n%s\n--- %s: postgres\n%s\n", n.Name, tail(n.DaemonLog()), n.Name, tail(n.ServerLog()))
	}
	return b.String()
}
