package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
	"repmgr/internal/ops"
	"repmgr/internal/pg"
	"repmgr/internal/record"
	"repmgr/internal/registry"
)

// follow points this node at another one: by follow_command if there is one.
func (d *Daemon) follow(ctx context.Context, cfg *conf.Config, a failover.Follow) error {
	began := time.Now()
	limit := cfg.StandbyFollowTimeout + commandMargin
	if cfg.FollowCommand != "" {
		limit += cfg.RepmgrdStandbyStartupTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	self, _ := cluster.Find(d.peers.nodes(), cfg.NodeID)
	up, _ := cluster.Find(d.peers.nodes(), a.Upstream)
	var err error
	lost := self.Upstream
	if lost == a.Upstream { // it is followed anew
		lost = 0
	}
	if u := d.peers.underway(); u.Lost != 0 { // of an earlier life: who follows shall not be promoted by that
		if _, err := d.takeBackPromotion(u); err != nil {
			d.complain(slog.LevelWarn, err)
		}
	}
	w := d.world(cfg, lost, a.Name)
	switch {
	case self.Role == cluster.Witness:
		err = registry.FollowWitness(ctx, w, a.Upstream, d.planEvent)
		w.Close()
	case cfg.FollowCommand != "":
		err = d.followByCommand(ctx, cfg, a, self.Upstream)
	default:
		err = registry.Follow(ctx, w, registry.FollowRequest{Target: a.Upstream, Primary: a.Holder}, d.planEvent)
		w.Close()
	}
	e := event{name: "repmgrd_failover_follow", about: up,
		details: fmt.Sprintf("node %q (ID: %d) now follows upstream node %q (ID: %d), after %s", self.Name, self.ID, up.Name, up.ID, time.Since(began).Round(time.Millisecond))}
	if err == nil {
		err = d.forgetReceiver()
	}
	if err != nil {
		e.failed, e.details = true, fmt.Sprintf("node %q (ID: %d) cannot follow node %q (ID: %d): %s", self.Name, self.ID, up.Name, up.ID, err)
	}
	d.announce(e)
	return err
}

// followByCommand runs follow_command, and sees that the own server is a standby then.
func (d *Daemon) followByCommand(ctx context.Context, cfg *conf.Config, a failover.Follow, former cluster.NodeID) error {
	if a.Holder { // before the command records who follows it
		up, _ := cluster.Find(d.peers.nodes(), a.Upstream)
		if err := inThat(ctx, up, func(ctx context.Context, c *pg.Conn) error { return d.recordPrimary(ctx, c, up) }); err != nil {
			return err
		}
	}
	line := registry.Expand(cfg.FollowCommand, map[byte]string{'n': strconv.Itoa(int(a.Upstream))})
	if err := d.command(ctx, "follow_command", line, former); err != nil {
		return err
	}
	if err := d.awaitStandby(ctx, cfg); err != nil || a.Name == "" {
		return err
	}
	return d.renameStandby(cfg, a.Name)
}

// recordPrimary writes to the database of the lease's holder that it is the
// primary. One that is a standby by now, or another cluster's, is an error.
func (d *Daemon) recordPrimary(ctx context.Context, c *pg.Conn, up cluster.Node) error {
	server, err := c.Server(ctx)
	if err != nil {
		return err
	}
	rec, _ := d.quorum.known()
	switch {
	case server.SystemID != rec.SystemID:
		return fault.New(fault.FollowFail, "the server of node %q (ID: %d) is of another cluster", up.Name, up.ID).
			WithDetail("Its system identifier is %s, this cluster's %s.", server.SystemID, rec.SystemID).WithHint("correct the node's conninfo")
	case server.InRecovery:
		return fault.New(fault.FollowFail, "node %q (ID: %d) is not the primary, or not any more", up.Name, up.ID).
			WithDetail("By this node's record it holds the lease in term %d, and its server is in recovery.", rec.Term).
			WithHint("nothing was changed; the daemon decides again whom to follow")
	}
	return registry.RecordSuccession(ctx, c, up.ID)
}

// world is what the plans act on. Nobody connects to a node that is lost.
// The own server streams under that application_name; empty: the node's.
func (d *Daemon) world(cfg *conf.Config, lost cluster.NodeID, name string) *registry.World {
	return registry.NewWorld(cfg, registry.WorldOptions{ConfigFile: d.opt.ConfigFile, Lost: lost, StandbyName: name, EndOfWAL: d.ownServer().EndOfWAL,
		Warn: func(err error) { d.complain(slog.LevelWarn, err) }})
}

// renameStandby lets the own server stream under another application_name.
func (d *Daemon) renameStandby(cfg *conf.Config, name string) error {
	recovery, err := pg.ReadRecovery(cfg.DataDirectory)
	if err != nil {
		return err
	}
	info, err := pg.ParseConninfo(recovery.PrimaryConninfo)
	if err != nil {
		return err
	}
	if err := pg.WriteSetting(cfg.DataDirectory, "primary_conninfo", info.With("application_name", name).String()); err != nil {
		return err
	}
	return d.ownServer().Reload()
}

// planEvent logs a plan's progress.
func (d *Daemon) planEvent(e ops.PlanEvent) {
	if e.Err != nil {
		d.complain(slog.LevelWarn, fmt.Errorf("%s: %w", e.Text, e.Err))
		return
	}
	d.log.Info(fmt.Sprintf("step %d of %d (%s): %s", e.Step, e.Of, e.What, e.Text))
}

// startupPoll is the time between two looks at a server that follow_command has
// restarted.
const startupPoll = 100 * time.Millisecond

// awaitStandby waits until the own server answers as a standby: follow_command
// may have restarted it.
func (d *Daemon) awaitStandby(ctx context.Context, cfg *conf.Config) error {
	ctx, cancel := context.WithTimeout(ctx, max(cfg.RepmgrdStandbyStartupTimeout, startupPoll))
	defer cancel()
	for {
		err := d.standby(ctx, cfg)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fault.Wrap(err, fault.DBConn, "this server is no standby %s after follow_command", cfg.RepmgrdStandbyStartupTimeout).
				WithHint("Set repmgrd_standby_startup_timeout higher if the server only needs longer to start.")
		case <-time.After(startupPoll):
		}
	}
}

// standby asks whether the own server answers and is in recovery.
func (d *Daemon) standby(ctx context.Context, cfg *conf.Config) error {
	conn, err := d.own(ctx, cfg)
	if err != nil {
		return err
	}
	defer registry.Close(conn)
	p, err := conn.Progress(ctx)
	if err == nil && !p.InRecovery {
		err = errors.New("it takes writes")
	}
	return err
}

// followOrdered takes up an operator's order to follow upstream. Under the quorum
// rule nobody gives such orders: who follows whom is in the record.
func (d *Daemon) followOrdered(ctx context.Context, upstream cluster.NodeID, now time.Time) error {
	v, order := d.loop.view, failover.Follow{Upstream: upstream}
	up, known := cluster.Find(d.peers.nodes(), upstream)
	rule, _, _ := failover.RuleInForce(v, now)
	switch {
	case rule == record.Quorum:
		return fault.New(fault.FollowFail, "the cluster is under the quorum rule: its daemons choose whom a node follows").
			WithHint("\"repmgr standby switchover\" makes another node the primary, and all follow it")
	case v.Doing == order:
		return nil
	case v.Doing != nil:
		return fault.New(fault.FollowFail, "the daemon is at work: %s", failover.Describe(v.Doing)).WithHint("try again when it is done")
	case !known, upstream == d.cfg.NodeID:
		return fault.New(fault.FollowFail, "node %d cannot be followed from here", upstream).
			WithDetail("This is node %d, and it knows %d nodes.", d.cfg.NodeID, len(d.peers.nodes())).
			WithHint("\"repmgr cluster show\" lists the nodes; one that was just registered is known a moment later")
	}
	d.notice(fmt.Sprintf("an operator's order: follow node %q (ID: %d)", up.Name, up.ID))
	d.order(ctx, order, now)
	return nil
}
