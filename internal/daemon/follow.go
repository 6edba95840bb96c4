package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/failover"
	"repmgr/internal/ops"
	"repmgr/internal/registry"
)

// follow points this node at another one: by follow_command if there is one.
func (d *Daemon) follow(ctx context.Context, cfg *conf.Config, a failover.Follow) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, cfg.StandbyFollowTimeout+commandMargin)
	defer cancel()
	self, _ := cluster.Find(d.peers.nodes(), cfg.NodeID)
	up, _ := cluster.Find(d.peers.nodes(), a.Upstream)
	var err error
	switch w := d.world(cfg, self.Upstream); {
	case self.Role == cluster.Witness:
		err = registry.FollowWitness(ctx, w, d.planEvent)
		w.Close()
	case cfg.FollowCommand != "":
		line := registry.Expand(cfg.FollowCommand, map[byte]string{'n': strconv.Itoa(int(a.Upstream))})
		err = d.command(ctx, "follow_command", line, self.Upstream)
	default:
		err = registry.Follow(ctx, w, registry.FollowRequest{Target: a.Upstream}, d.planEvent)
		w.Close()
	}
	e := event{name: "repmgrd_failover_follow", about: up,
		details: fmt.Sprintf("node %q (ID: %d) now follows upstream node %q (ID: %d), after %s", self.Name, self.ID, up.Name, up.ID, time.Since(began).Round(time.Millisecond))}
	if err != nil {
		e.failed, e.details = true, fmt.Sprintf("node %q (ID: %d) cannot follow node %q (ID: %d): %s", self.Name, self.ID, up.Name, up.ID, err)
	}
	d.announce(e)
	return err
}

// world is what the plans act on. Nobody connects to a node that is lost.
func (d *Daemon) world(cfg *conf.Config, lost cluster.NodeID) *registry.World {
	return registry.NewWorld(cfg, registry.WorldOptions{ConfigFile: d.opt.ConfigFile, Lost: lost,
		Warn: func(err error) { d.complain(slog.LevelWarn, err) }})
}

// planEvent logs a plan's progress.
func (d *Daemon) planEvent(e ops.PlanEvent) {
	if e.Err != nil {
		d.complain(slog.LevelWarn, fmt.Errorf("%s: %w", e.Text, e.Err))
		return
	}
	d.log.Info(fmt.Sprintf("step %d of %d (%s): %s", e.Step, e.Of, e.What, e.Text))
}
