package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
	"repmgr/internal/pg"
	"repmgr/internal/registry"
	"repmgr/internal/server"
)

// promotedEvery is the time between two looks at whether the other node's server was promoted.
const promotedEvery = 10 * time.Millisecond

// stepping is an operator's order of a switchover under the visibility rule: one of
// failover.StepDown and failover.StepUp.
type stepping struct {
	asker context.Context // an order whose asker is gone is not begun: it may be told late
	order failover.Action
	reply chan error
}

// StepDown begins to stop the own server in favour of another. How that goes stands in
// the view.
func (b backend) StepDown(ctx context.Context, to cluster.NodeID) error {
	b.d.peers.askAll(ctx) // who was paused a moment ago may not have said so yet
	return b.step(ctx, failover.StepDown{To: to})
}

// StepUp begins to promote the own server in place of another, which was stopped. An
// error with the code SwitchoverFail says that it has not begun, and will not.
func (b backend) StepUp(ctx context.Context, from cluster.NodeID, end cluster.LSN) error {
	if err := b.d.hasAll(ctx, end); err != nil {
		return err
	}
	return b.step(ctx, failover.StepUp{From: from, End: end})
}

func (b backend) step(ctx context.Context, order failover.Action) error {
	reply := make(chan error, 1)
	if err := b.ask(ctx, stepping{ctx, order, reply}); err != nil {
		return err
	}
	err, late := await(ctx, reply)
	return errors.Join(err, late)
}

// stepOrdered takes an operator's order up, or says why not. One that is being carried out is
// not begun a second time: the question may have come twice.
func (d *Daemon) stepOrdered(ctx context.Context, m stepping, now time.Time) error {
	order := m.order
	v, no := d.loop.view, failover.Refusal{}
	if v.Doing == order {
		return nil
	}
	if err := m.asker.Err(); err != nil {
		return err
	}
	switch a := order.(type) {
	case failover.StepDown:
		if no = failover.WhyNotStepDown(v, a, now); no.Why == "" {
			d.loop.stepDown = &api.StepDown{To: a.To}
		}
	case failover.StepUp:
		no = failover.WhyNotStepUp(v, a, now)
	}
	if no.Why != "" {
		return fault.New(fault.SwitchoverFail, "node %d does not begin: %s", d.cfg.NodeID, no.Why).WithHint("%s", no.Hint)
	}
	d.notice("an operator's switchover: " + failover.Describe(order))
	d.order(ctx, order, now)
	return nil
}

// stepped keeps for the view how the last step down has ended.
func (d *Daemon) stepped(a failover.StepDown, err error) {
	d.loop.stepDown = &api.StepDown{To: a.To, Over: true}
	if err != nil {
		d.loop.stepDown.Fail(err)
	}
}

// stepDown stops the own server in order, has the other node's promoted when that has
// everything, and makes the own one its standby. Until the other daemon was asked
// everything is undone on failure. From then on the own server is started as a primary
// only if that daemon has not begun for sure: a doubt leaves it stopped.
func (d *Daemon) stepDown(ctx context.Context, cfg *conf.Config, a failover.StepDown) error {
	to, ok := cluster.Find(d.peers.nodes(), a.To)
	client := d.peers.newClient(a.To)
	if !ok || client == nil {
		return fault.New(fault.SwitchoverFail, "there is no way to the daemon of node %d", a.To)
	}
	defer client.Close()
	theirs, err := registry.Connect(ctx, to)
	if err != nil {
		return fault.Wrap(err, fault.SwitchoverFail, "the server of node %d cannot be reached from the primary", a.To)
	}
	defer registry.Close(theirs)
	if err := d.comeNear(ctx, cfg, theirs, a.To); err != nil {
		return err
	}
	own := d.ownServer()
	end, err := d.stopArmed(ctx, cfg, own)
	if err == nil {
		err = d.catchUp(ctx, cfg, theirs, a.To, end)
	}
	if err == nil {
		err = ended(ctx, own, end)
	}
	if err != nil {
		return d.standAgain(ctx, own, to, err)
	}
	d.notice(fmt.Sprintf("the own server is stopped, and node %d has everything up to %s", a.To, end))
	if err := client.StepUp(ctx, d.cfg.NodeID, end); notBegun(err) {
		return d.standAgain(ctx, own, to, fault.Wrap(err, fault.SwitchoverFail, "node %d is not promoted", a.To))
	} else if err != nil {
		d.complain(slog.LevelWarn, fault.Wrap(err, fault.SwitchoverFail, "whether node %d has begun its promotion is not known: it is looked at", a.To))
	}
	if err := awaitPromoted(ctx, cfg, to, theirs); err != nil {
		return err
	}
	if err := d.returnTo(ctx, cfg, own, to); err != nil {
		return fault.Wrap(err, fault.SwitchoverIncomplete, "node %d is the primary, and the former one is not its standby yet", a.To).
			WithHint("repmgr -f %s node rejoin -d '%s'", d.opt.ConfigFile, registry.WithoutSecrets(to.Conninfo))
	}
	return nil
}

// stopArmed stops the own server in order, and waits until its last record is written.
// Before that it sees to it that whatever starts the directory from here on, a supervisor or
// a boot, makes it come up read-only.
func (d *Daemon) stopArmed(ctx context.Context, cfg *conf.Config, own server.Own) (cluster.LSN, error) {
	if err := own.Arm(); err != nil {
		return 0, err
	}
	limit, cancel := context.WithTimeout(ctx, cfg.ShutdownCheckTimeout)
	defer cancel()
	postmaster, end, err := own.ShutDown(limit)
	if err != nil {
		return 0, err
	}
	return end.LSN, postmaster.Close()
}

// ended makes sure that the own server is still as it was stopped, and comes up read-only.
func ended(ctx context.Context, own server.Own, end cluster.LSN) error {
	if same, err := own.Ended(ctx, end); err != nil || !same {
		return fault.Wrap(err, fault.SwitchoverFail, "the own server's WAL does not end at %s any more: something has started it", end)
	}
	return nil
}

// notBegun reports whether that is a daemon's word that it does not begin, or the question did
// not get to it.
func notBegun(err error) bool {
	var said *fault.Error
	return errors.As(err, &said) && said.Code == fault.SwitchoverFail || errors.Is(err, api.ErrNotRunning)
}

// standAgain starts the own server as the primary that it was, and says why. Nobody else was
// asked to be promoted.
func (d *Daemon) standAgain(ctx context.Context, own server.Own, to cluster.Node, why error) error {
	err := endServer(ctx, own) // what did not end in time is ended, and the directory armed
	if err == nil {
		err = d.nobodyElse(ctx, to)
	}
	if err == nil {
		err = own.Disarm()
	}
	if err == nil {
		err = own.Start(ctx)
	}
	if err == nil { // a recovery takes its time, in which a pause may have ended
		if err = d.nobodyElse(ctx, to); err != nil {
			err = errors.Join(err, endServer(ctx, own))
		}
	}
	if err != nil {
		return fault.Wrap(errors.Join(why, err), fault.SwitchoverFail, "the switchover was broken off, and the primary is not started again").
			WithHint("if no other node takes writes (\"repmgr cluster show\"), remove standby.signal from the data directory of node %d and start it", d.cfg.NodeID)
	}
	f := faultOf(why)
	return fault.Wrap(why, fault.SwitchoverFail, "the switchover was called off").
		WithDetail("%s Node %d was started again, and is the primary as before.", f.Detail, d.cfg.NodeID).WithHint("%s", f.Hint)
}

// endServer ends what is left of the own server, whatever became of the order.
func endServer(ctx context.Context, own server.Own) error {
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), killBound)
	defer cancel()
	return own.Kill(bound)
}

// nobodyElse makes sure that the server that was to be the primary takes no writes, by its own
// word if it answers, and that no daemon that is heard of has promoted its server meanwhile, or
// may: somebody may have ended the pause.
func (d *Daemon) nobodyElse(ctx context.Context, to cluster.Node) error {
	look, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if c, err := registry.Connect(look, to); err == nil {
		defer registry.Close(c)
		if p, err := c.Progress(look); err == nil && !p.InRecovery {
			return fault.New(fault.SwitchoverFail, "node %d takes writes", to.ID)
		}
	}
	d.peers.askAll(ctx)
	for _, p := range (backend{d}).View().Peers {
		r := p.Report
		switch {
		case r == nil || r.Type == cluster.Witness || p.Age > lookTimeout:
		case r.Server == failover.ServerRunning && r.Role == cluster.Primary:
			return fault.New(fault.SwitchoverFail, "node %d takes writes", p.Node)
		case !r.Paused:
			return fault.New(fault.SwitchoverFail, "failover is not paused on node %d any more: it may be promoted", p.Node)
		}
	}
	return nil
}

// awaitPromoted waits until the other server takes writes.
func awaitPromoted(ctx context.Context, cfg *conf.Config, to cluster.Node, c *pg.Conn) error {
	limit, cancel := context.WithTimeout(ctx, cfg.PromoteCheckTimeout)
	defer cancel()
	for again := false; ; again = true {
		var err error
		if again && (c == nil || c.IsClosed()) {
			if c, err = registry.Connect(limit, to); err == nil {
				defer registry.Close(c)
			}
		}
		if err == nil && c != nil {
			var p pg.Progress
			if p, err = c.Progress(limit); err == nil && !p.InRecovery {
				return nil
			}
		}
		select {
		case <-limit.Done():
			return fault.Wrap(errors.Join(limit.Err(), err), fault.SwitchoverFail, "node %d was asked to be the primary, and was not promoted within promote_check_timeout", to.ID).
				WithDetail("It may be yet, so that the former primary stays stopped: two would take writes.").
				WithHint("If node %d takes writes, \"repmgr node rejoin\" brings the former primary back. If it never will, stop it, remove standby.signal on the former primary, and start that.", to.ID)
		case <-time.After(promotedEvery):
		}
	}
}

// returnTo makes the own server, which was stopped in order, a standby of the new primary.
func (d *Daemon) returnTo(ctx context.Context, cfg *conf.Config, own server.Own, up cluster.Node) error {
	if err := d.seeOut(ctx, own); err != nil {
		return err
	}
	history, err := historyAt(ctx, up)
	if err != nil {
		return err
	}
	relation, err := own.Compare(ctx, history)
	if err != nil {
		return err
	}
	if !relation.Follows {
		return fault.New(fault.RejoinFail, "its history is not the new primary's: %d bytes lie beyond %s of timeline %d", relation.Beyond, relation.Fork.LSN, relation.Fork.Timeline)
	}
	if err := inThat(ctx, up, func(ctx context.Context, c *pg.Conn) error { return recordAsStandby(ctx, c, cfg, up) }); err != nil {
		return err
	}
	w := d.world(cfg, 0, "")
	defer w.Close()
	if err := w.PointAt(ctx, up); err != nil {
		return err
	}
	return own.Start(ctx)
}

// historyAt asks a primary for its timeline, and how that came about.
func historyAt(ctx context.Context, n cluster.Node) (server.History, error) {
	info, err := pg.ParseConninfo(n.Conninfo)
	if err != nil {
		return server.History{}, err
	}
	c, err := pg.ConnectReplication(ctx, info, n.ReplUser)
	if err != nil {
		return server.History{}, err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	id, forks, err := c.History(ctx)
	history := server.NewHistory(id.Timeline, forks)
	history.End = id.Position
	return history, err
}

// hasAll makes sure that the own standby has everything up to a position.
func (d *Daemon) hasAll(ctx context.Context, end cluster.LSN) error {
	conn, err := d.own(ctx, d.eyes.cfg.Load())
	if err != nil {
		return fault.Wrap(err, fault.SwitchoverFail, "node %d does not begin", d.cfg.NodeID)
	}
	defer registry.Close(conn)
	p, err := conn.Progress(ctx)
	if has := max(p.Received, p.Replayed); err != nil || has < end {
		return fault.Wrap(err, fault.SwitchoverFail, "node %d does not begin: it has %s, and the former primary had %s", d.cfg.NodeID, has, end)
	}
	return nil
}

// stepUp makes the own server the primary. Its order stays in force however long it takes: the former primary
// stays stopped, and nobody else is promoted meanwhile.
func (d *Daemon) stepUp(ctx context.Context, cfg *conf.Config, a failover.StepUp) error {
	by := d.promotesBy("service_promote_command", cfg.ServicePromoteCommand, a.From) // promote_command is for a failover
	if err := d.promoteServer(ctx, cfg, a.From, by, true); err != nil {
		return err
	}
	d.eyes.kick()
	if err := d.recordPromotion(ctx, cfg); err != nil {
		return err
	}
	d.announce(event{name: "standby_promote", details: fmt.Sprintf("server %q (ID: %d) was successfully promoted to primary", cfg.NodeName, cfg.NodeID)})
	return nil
}
