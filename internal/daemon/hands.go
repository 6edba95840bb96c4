package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/pg"
	"repmgr/internal/registry"
)

// Bounds of what the hands do where no parameter bounds it.
const (
	commandMargin   = 30 * time.Second // for an operator's command, beyond what it waits for itself
	validationBound = 60 * time.Second
	fenceGrace      = 2 * time.Second // for an immediate stop, before every process is killed
	recordBound     = 10 * time.Second
)

// carryOut does what was ordered and returns how it went. It runs in a
// goroutine of its own and is bounded, but for a promotion that the server has begun (promoteServer).
func (d *Daemon) carryOut(ctx context.Context, a failover.Action) error {
	cfg := d.eyes.cfg.Load()
	switch a := a.(type) {
	case failover.Promote:
		return d.promote(ctx, cfg, a)
	case failover.Follow:
		return d.follow(ctx, cfg, a)
	case failover.Fence:
		return d.fence(ctx, cfg, a)
	case failover.Validate:
		return d.validate(ctx, cfg, a)
	case failover.RecordRole:
		return d.recordPromotion(ctx, cfg)
	case failover.StopReceiver:
		return d.stopReceiver(ctx, cfg)
	case failover.ResumeReceiver:
		return d.resumeReceiver(cfg)
	case failover.StepDown:
		return d.stepDown(ctx, cfg, a)
	case failover.StepUp:
		return d.stepUp(ctx, cfg, a)
	}
	if err, ok := d.govern(ctx, cfg, a); ok {
		return err
	}
	return fmt.Errorf("nobody knows how to carry out %s", failover.Describe(a))
}

// promote makes the own server the primary: by promote_command if there is one.
func (d *Daemon) promote(ctx context.Context, cfg *conf.Config, a failover.Promote) error {
	began := time.Now()
	lost, _ := cluster.Find(d.peers.nodes(), a.Lost)
	by := d.promotesBy("promote_command", cfg.PromoteCommand, a.Lost)
	if by == nil {
		by = d.promotesBy("service_promote_command", cfg.ServicePromoteCommand, a.Lost)
	}
	err := d.promoteServer(ctx, cfg, a.Lost, by, false)
	if err != nil {
		d.announce(event{name: "repmgrd_promote_error", failed: true, unkept: true, details: err.Error(), about: lost})
		return err
	}
	took := time.Since(began).Round(time.Millisecond)
	d.eyes.kick() // the others are told by the next report, before anything is recorded
	if cfg.PromoteCommand == "" {
		if err := d.recordPromotion(ctx, cfg); err != nil {
			return err
		}
		d.announce(event{name: "standby_promote", details: fmt.Sprintf("server %q (ID: %d) was successfully promoted to primary", cfg.NodeName, cfg.NodeID)})
	}
	d.notifier.add(errand{name: "the voting term", do: func(ctx context.Context, conn *pg.Conn) error {
		if conn == nil {
			return errors.New("the new primary does not answer")
		}
		_, err := registry.RaiseTerm(ctx, conn)
		return err
	}})
	d.announce(event{name: "repmgrd_failover_promote", about: lost,
		details: fmt.Sprintf("node %q (ID: %d) promoted to primary in %s; old primary %q (ID: %d) marked as failed", cfg.NodeName, cfg.NodeID, took, lost.Name, lost.ID)})
	return nil
}

// promotesBy is that command as what orders a promotion in place of a node; nil: it is not set.
func (d *Daemon) promotesBy(name, line string, lost cluster.NodeID) func(context.Context) error {
	if line == "" {
		return nil
	}
	return func(ctx context.Context) error { return d.command(ctx, name, line, lost) }
}

// recordPromotion writes to the own database, which is the cluster's now, who is primary.
func (d *Daemon) recordPromotion(ctx context.Context, cfg *conf.Config) error {
	return d.inOwn(ctx, cfg, func(ctx context.Context, c *pg.Conn) error { return registry.RecordPromotion(ctx, c, cfg.NodeID) })
}

// inOwn does something in the own database, within the bound for what is recorded.
func (d *Daemon) inOwn(ctx context.Context, cfg *conf.Config, do func(context.Context, *pg.Conn) error) error {
	return inSession(ctx, func(ctx context.Context) (*pg.Conn, error) { return d.own(ctx, cfg) }, do)
}

// inThat does the same in another node's database.
func inThat(ctx context.Context, n cluster.Node, do func(context.Context, *pg.Conn) error) error {
	return inSession(ctx, func(ctx context.Context) (*pg.Conn, error) { return registry.Connect(ctx, n) }, do)
}

func inSession(ctx context.Context, connect func(context.Context) (*pg.Conn, error), do func(context.Context, *pg.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, recordBound)
	defer cancel()
	conn, err := connect(ctx)
	if err != nil {
		return err
	}
	defer registry.Close(conn)
	return do(ctx, conn)
}

// own connects to the own server.
func (d *Daemon) own(ctx context.Context, cfg *conf.Config) (*pg.Conn, error) {
	ci, err := pg.ParseConninfo(cfg.Conninfo)
	if err != nil {
		return nil, err
	}
	return pg.Connect(ctx, ci.With("application_name", "repmgrd"))
}

// fence stops the own server, since another primary is newer: at once, by an
// immediate stop, which leaves no shutdown checkpoint that the new primary does
// not have (safety notes, A23). Processes that outlive it are killed.
func (d *Daemon) fence(ctx context.Context, cfg *conf.Config, a failover.Fence) error {
	newer, _ := cluster.Find(d.peers.nodes(), a.By)
	_ = d.peers.note(func(r *remembered) { r.FencedBy = a.By }) // kept on disk after the stop: that cannot wait
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fenceGrace+20*time.Second)
	defer cancel()
	d.ownServer().Quit(ctx, fenceGrace) // what it leaves is killed below
	if err := host.KillAll(ctx, cfg.DataDirectory); err != nil {
		return err
	}
	if err := d.peers.keep(); err != nil {
		d.log.Warn("that this node is fenced could not be kept: " + err.Error())
	}
	d.log.Error(fmt.Sprintf("this node was a primary beside node %q (ID: %d), which is newer: its server has been stopped", newer.Name, newer.ID),
		"hint", fmt.Sprintf("Writes that only this server took are in %s. To bring it back as a standby: repmgr -f %s standby clone --force -h <host of %s>, start it, and repmgr standby register --force.", cfg.DataDirectory, d.opt.ConfigFile, newer.Name))
	d.announce(event{name: "repmgrd_primary_fenced", about: newer,
		details: fmt.Sprintf("former primary %q (ID: %d) was stopped: node %q (ID: %d) is the newer primary", cfg.NodeName, cfg.NodeID, newer.Name, newer.ID)})
	return nil
}

// validate asks failover_validation_command whether the failover may go on.
func (d *Daemon) validate(ctx context.Context, cfg *conf.Config, a failover.Validate) error {
	line := registry.Expand(cfg.FailoverValidationCommand, map[byte]string{'n': strconv.Itoa(int(cfg.NodeID)), 'a': cfg.NodeName,
		'v': strconv.Itoa(a.Visible), 'u': strconv.Itoa(a.Shared), 't': strconv.Itoa(a.Total)})
	res, err := host.Run(ctx, host.Cmd{Shell: line, Timeout: validationBound})
	if err != nil {
		return fault.Wrap(err, fault.LocalCommand, "failover_validation_command could not be run")
	}
	d.notice("failover_validation_command "+res.String(), "detail", strings.TrimSpace(res.Stdout+res.Stderr))
	if !res.OK() {
		return fault.New(fault.LocalCommand, "failover_validation_command refused the failover").WithHint("It is asked again after election_rerun_interval (%s).", cfg.ElectionRerunInterval)
	}
	return nil
}

// command runs an operator's command with what repmgrd adds to its environment.
func (d *Daemon) command(ctx context.Context, name, line string, lost cluster.NodeID) error {
	d.notice("running "+name, "detail", line)
	res, err := host.Run(ctx, host.Cmd{Shell: line, Env: []string{"REPMGRD_LOST_NODE=" + strconv.Itoa(int(lost))}, Dir: os.TempDir()})
	if err != nil {
		return fault.Wrap(err, fault.LocalCommand, "%s could not be run to its end", name)
	}
	if !res.OK() {
		return fault.New(fault.LocalCommand, "%s %s", name, res).WithDetail("%s", strings.TrimSpace(res.Stderr))
	}
	return nil
}
