package daemon

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/failover"
	"repmgr/internal/host"
	"repmgr/internal/pg"
	"repmgr/internal/registry"
)

// childWatch is the loop's part of watching a primary's children.
type childWatch struct {
	memory  failover.Children
	looking bool
	at      time.Time // when the last look began
}

// childrenSeen brings the end of a look at the children.
type childrenSeen struct {
	seen []failover.ChildSeen
	err  error
}

// childPolicy is the part of the configuration that decides about children.
func childPolicy(cfg *conf.Config, paused bool) failover.ChildPolicy {
	return failover.ChildPolicy{
		Command: cfg.ChildNodesDisconnectCommand != "", Paused: paused,
		ConnectedMin: cfg.ChildNodesConnectedMinCount, DisconnectMin: cfg.ChildNodesDisconnectMinCount,
		IncludeWitness: cfg.ChildNodesConnectedIncludeWitness, Timeout: cfg.ChildNodesDisconnectTimeout,
	}
}

// watchChildren starts a look at who is attached to this primary, if one is due.
func (d *Daemon) watchChildren(ctx context.Context, now time.Time) {
	w, v := &d.loop.children, d.loop.view
	if v.Local.State != failover.ServerRunning {
		return
	}
	self, known := cluster.Find(v.Nodes, v.Self)
	if !known || self.Role != cluster.Primary || v.Local.Role != cluster.Primary {
		w.memory, w.at = failover.Children{}, time.Time{}
		return
	}
	every := d.cfg.ChildNodesCheckInterval
	if every <= 0 || w.looking || !w.at.IsZero() && now.Sub(w.at) < every {
		return
	}
	w.looking, w.at = true, now
	children := failover.ChildrenOf(v, now)
	d.goes(func() {
		seen, err := d.lookAtChildren(ctx, children)
		d.send(childrenSeen{seen, err})
	})
}

// lookAtChildren asks the own server which of the standbys are attached. One
// whose connection is there counts, whether it streams or catches up.
func (d *Daemon) lookAtChildren(ctx context.Context, children []failover.ChildSeen) ([]failover.ChildSeen, error) {
	if len(children) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	return children, d.lend(ctx, func(conn *pg.Conn) error {
		for i, c := range children {
			if c.Node.Role == cluster.Witness {
				continue
			}
			how, _, err := conn.Attached(ctx, c.Node.Name)
			if err != nil {
				return err
			}
			children[i].Attached = how != pg.Detached
		}
		return nil
	})
}

// takeChildren records what has changed since the last look, and has the command
// run when it is due.
func (d *Daemon) takeChildren(m childrenSeen, now time.Time) {
	w, v := &d.loop.children, d.loop.view
	w.looking = false
	switch {
	case m.err != nil:
		d.log.Debug("the attached standbys could not be listed", "detail", m.err.Error())
		return
	case v.Local.State != failover.ServerRunning || v.Local.Role != cluster.Primary:
		return // it was a primary when the look began
	}
	if !w.memory.Looked() {
		for _, c := range m.seen {
			d.log.Info(fmt.Sprintf("child node %q (ID: %d): attached is %t", c.Node.Name, c.Node.ID, c.Attached))
		}
	}
	events, run, why := w.memory.Look(m.seen, childPolicy(d.cfg, v.Paused), now)
	for _, e := range events {
		d.notice(e.Details)
		d.announce(event{name: e.Name, details: e.Details, about: e.About})
	}
	if run {
		d.runChildrenCommand(d.cfg, why)
	}
}

// runChildrenCommand runs child_nodes_disconnect_command, and nobody waits for
// it: it may be about to stop this server, and this daemon with it. Neither the
// daemon's end nor a time limit ends it.
func (d *Daemon) runChildrenCommand(cfg *conf.Config, why string) {
	line := registry.Expand(cfg.ChildNodesDisconnectCommand, map[byte]string{'p': strconv.Itoa(int(cfg.NodeID))})
	d.notice("running child_nodes_disconnect_command: "+why, "detail", line)
	go func() {
		res, err := host.Run(context.Background(), host.Cmd{Shell: line, Dir: os.TempDir()})
		failed := err != nil || !res.OK()
		if failed {
			text := res.String()
			if err != nil {
				text = err.Error()
			}
			d.log.Error("child_nodes_disconnect_command "+text, "detail", strings.TrimSpace(res.Stderr))
		}
		d.announce(event{name: "child_nodes_disconnect_command", failed: failed, details: line})
	}()
}
