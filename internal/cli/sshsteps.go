package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/ops"
	"repmgr/internal/pg"
	"repmgr/internal/plan"
	"repmgr/internal/record"
	"repmgr/internal/registry"
	"repmgr/internal/server"
)

// Checkpoint makes one, so that the stop is short, by the right to replicate where the role may no more.
func (b *bySSH) Checkpoint(ctx context.Context) error {
	if b.s.Opt.Superuser != "" {
		b.s.checkpointOf(ctx, b.from)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkpointWithin)
	defer cancel()
	c, err := registry.Connect(ctx, b.from)
	if err != nil {
		return err
	}
	defer registry.Close(c)
	if err = c.Checkpoint(ctx); pg.Code(err) != "42501" {
		return err
	}
	info, err := pg.ParseConninfo(b.from.Conninfo)
	if err != nil {
		return err
	}
	r, err := pg.ConnectReplication(ctx, info, b.from.ReplUser)
	if err == nil {
		err = r.Checkpoint(ctx)
		_ = r.Close(context.WithoutCancel(ctx))
	}
	if err != nil && ctx.Err() == nil {
		b.s.Talk.Info("no checkpoint could be made: the primary may take longer to stop (%v)", err)
		return nil
	}
	return err
}

// stopBound is how long the stop on the primary's host may take.
func (b *bySSH) stopBound() time.Duration {
	return time.Duration(b.at.ShutdownTimeout)*time.Second + handOverMargin
}

// StopPrimary has repmgr on its host stop it.
func (b *bySSH) StopPrimary(ctx context.Context) error {
	b.begun, b.sent = true, time.Now()
	state, err := b.s.remoteState(ctx, b.from, "node service --action=stop --format json --hand-over="+b.order(b.orderBound()), b.stopBound())
	switch {
	case err != nil:
		return fault.Wrap(err, fault.SwitchoverFail, "the primary was not stopped").WithDetail("%s", detailOf(err))
	case state.Standing.Refused != "":
		b.begun, b.refused = false, true
		return fault.New(fault.SwitchoverFail, "the primary's host refused to stop it").WithDetail("%s", state.Standing.Refused)
	}
	end, err := cluster.ParseLSN(state.Standing.EndOfWAL)
	if err != nil || state.State != "SHUTDOWN" || end == 0 {
		return fault.Wrap(err, fault.SwitchoverFail, "that the primary was stopped in order is not known: its state is %s, and its WAL ends at %q", state.State, state.Standing.EndOfWAL)
	}
	b.end = end
	b.s.Talk.Info("the primary was stopped in order, its last checkpoint is at %s and its WAL ends at %s", state.Checkpoint, end)
	return nil
}

func detailOf(err error) string {
	var f *fault.Error
	if errors.As(err, &f) {
		return f.Detail
	}
	return ""
}

// StartPrimary has it started again, and makes sure that it takes writes. Where there is no
// session any more, a primary that goes on taking writes was not stopped.
func (b *bySSH) StartPrimary(ctx context.Context) error {
	if b.refused {
		return nil
	}
	b.back = b.startAgain(ctx)
	b.doubt = b.doubt || b.back != nil
	if b.back == nil {
		b.s.Talk.Notice("%s is the primary as before", named(b.from))
	}
	return b.back
}

func (b *bySSH) startAgain(ctx context.Context) error {
	if err := b.nobodyElse(ctx, false); err != nil {
		_ = b.stillStopped(ctx) // its host shall not start it by itself either
		return err
	}
	deadline := time.Now().Add(b.stopBound() + 2*b.s.Conf.WalReceiveCheckTimeout) // its host does by then
	b.number = max(b.number, 2)                                                   // the second is the host's own
	for {
		order := b.order(2 * b.stopBound()) // it may wait for a stop that goes on
		_, err := b.s.remote(ctx, b.from, "node service --action=start --take-back="+order, 2*b.stopBound())
		switch late := time.Since(b.sent) > b.orderBound(); {
		case err == nil:
			return b.awaitWrites(ctx, backWithin)
		case fault.CodeOf(err) != fault.BadSSH:
			return err
		case late && b.goesOn(ctx):
			b.s.warn(fault.Wrap(err, fault.BadSSH, "the host of %s cannot be told that nothing comes of the switchover", named(b.from)).
				WithHint("its server takes writes; standby.signal may lie in its data directory: run there \"%s\"", b.takeBackByHand()))
			return nil
		case time.Now().After(deadline):
			return err
		}
		time.Sleep(againEvery)
	}
}

// awaitWrites waits until the primary takes writes.
func (b *bySSH) awaitWrites(ctx context.Context, bound time.Duration) error {
	for deadline := time.Now().Add(bound); ; time.Sleep(receivedEvery) {
		switch takes, err := writes(ctx, b.from); {
		case takes:
			return nil
		case time.Now().After(deadline):
			return fault.Wrap(err, fault.SwitchoverFail, "the server of %s takes no writes", named(b.from))
		}
	}
}

// goesOn tells whether the primary takes writes and goes on doing so.
func (b *bySSH) goesOn(ctx context.Context) bool {
	for until := time.Now().Add(settled); time.Now().Before(until); time.Sleep(settled / 10) {
		if takes, _ := writes(ctx, b.from); !takes {
			return false
		}
	}
	return true
}

// writes tells whether a node's server takes writes. An error says that it is not known.
func writes(ctx context.Context, n cluster.Node) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, elsewhereWithin)
	defer cancel()
	c, err := registry.Connect(ctx, n)
	if err != nil {
		return false, err
	}
	defer registry.Close(c)
	p, err := c.Progress(ctx)
	return err == nil && !p.InRecovery, err
}

// AwaitWAL waits until the own server has everything on disk. One that receives nothing any
// more will not get it.
func (b *bySSH) AwaitWAL(ctx context.Context) error {
	ended := false
	for deadline := time.Now().Add(b.s.Conf.WalReceiveCheckTimeout); ; {
		look, cancel := context.WithTimeout(ctx, askTimeout)
		p, err := b.local.Progress(look)
		cancel()
		switch {
		case err != nil:
			return fault.Wrap(err, fault.SwitchoverFail, "whether this standby has all of the primary's WAL is not known")
		case !p.InRecovery:
			return fault.New(fault.SwitchoverFail, "this server is no standby any more")
		case p.Received >= b.end:
			return nil
		case !p.Receiving && ended, time.Now().After(deadline):
			return fault.New(fault.SwitchoverFail, "this standby does not have all of the primary's WAL").
				WithDetail("It has received %s, the primary's ends at %s.", p.Received, b.end)
		}
		ended = !p.Receiving
		time.Sleep(receivedEvery)
	}
}

// nobodyElse makes sure that no other server takes writes, and that no daemon may promote its
// own. Before the promotion that is so of the former primary too, and each daemon that was paused
// has to say so; before that one is started again, a daemon that is silent is still paused.
func (b *bySSH) nobodyElse(ctx context.Context, promotion bool) error {
	for _, a := range registry.AskAll(ctx, b.nodes, func(ctx context.Context, n cluster.Node) (struct{}, error) {
		if n.Role != cluster.Witness && (promotion || n.ID != b.from.ID) {
			if takes, _ := writes(ctx, n); takes {
				return struct{}{}, fault.New(fault.SwitchoverFail, "%s takes writes", named(n))
			}
		}
		switch d := b.fleet.report(ctx, n.ID); {
		case d.Err != nil && promotion && b.survey.Seen[n.ID].Daemon == "":
			return struct{}{}, fault.Wrap(d.Err, fault.SwitchoverFail, "the daemon of %s, which was paused, does not answer any more: its server may be promoted", named(n))
		case d.Err != nil:
		case d.Promotion != nil && d.Promotion.Rule == record.Quorum:
			return struct{}{}, fault.New(fault.SwitchoverFail, "the quorum rule is in force, as the daemon of %s says", named(n))
		case !d.Report.Paused && d.Report.Automatic:
			return struct{}{}, fault.New(fault.SwitchoverFail, "failover is not paused on %s: its server may be promoted", named(n))
		}
		return struct{}{}, nil
	}) {
		if a.Err != nil {
			return a.Err
		}
	}
	return nil
}

// stillStopped has the former primary's host say once more that its server is stopped for this
// switchover, and where its WAL ends. From then on that host does nothing of itself.
func (b *bySSH) stillStopped(ctx context.Context) error {
	state, err := b.s.remoteState(ctx, b.from, "node status --is-shutdown-cleanly --format json --hand-over="+b.order(b.orderBound()), remoteTimeout)
	if err != nil {
		return fault.Wrap(err, fault.SwitchoverFail, "whether %s is still stopped is not known", named(b.from)).WithDetail("%s", detailOf(err))
	}
	if state.State != "SHUTDOWN" || state.Standing.EndOfWAL != b.end.String() {
		return fault.New(fault.SwitchoverFail, "%s is not as it was stopped: it is %s, and its WAL ends at %q", named(b.from), state.State, state.Standing.EndOfWAL)
	}
	return nil
}

// PromoteLocal promotes the own server, and records it. An interrupt does not break that off.
func (b *bySSH) PromoteLocal(ctx context.Context) error {
	how, err := b.world.Promotion(ctx)
	if err == nil {
		err = b.nobodyElse(ctx, true)
	}
	asked := host.BootTime()
	if err == nil {
		err = b.stillStopped(ctx)
	}
	if err = errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	if took := host.BootTime() - asked; took > ops.PromotedWithin*9/10 {
		return fault.New(fault.SwitchoverFail, "%s was stopped still %s ago, which is too long", named(b.from), took.Round(time.Millisecond))
	}
	ctx = context.WithoutCancel(ctx)
	b.ordered = true
	if err := b.world.Promote(ctx, how); err != nil {
		if standby, unknown := b.world.InRecovery(ctx); unknown != nil || standby {
			return fault.Wrap(err, fault.SwitchoverFail, "%s was not promoted", named(b.to)).WithDetail("%s", detailOf(err)).
				WithHint("look into the log of its server; promote_check_timeout may be raised")
		}
	}
	b.took = true
	b.record(ctx)
	return nil
}

// record makes the own node the primary of the records.
func (b *bySSH) record(ctx context.Context) {
	survey, method, err := b.world.SurveyPromote(ctx)
	if err == nil {
		var p ops.Plan
		if p, err = ops.StandbyPromote(survey, ops.PromoteOptions{Promotion: method}); err == nil {
			err = ops.Carry(ctx, p, b.world, fault.PromotionFail, func(plan.Event) {})
		}
	}
	if err != nil {
		b.leave(fault.Wrap(err, fault.SwitchoverIncomplete, "the promotion of %s could not be recorded", named(b.to)), "repmgr -f "+pg.Quote(b.s.ConfPath)+" standby promote")
	}
}

// leave tells of what is left to do, and by which command.
func (b *bySSH) leave(err error, command string) {
	b.left = append(b.left, err.Error())
	b.s.Talk.Say(Entry{Level: Warning, Text: err.Error(), Detail: detailOf(err), Hint: "run: " + command})
}

// CancelPromotion stops the own server, which an order may wait for, takes that back, and starts
// it again as what it is. Only if that is a standby the former primary may be started.
func (b *bySSH) CancelPromotion(ctx context.Context) error {
	if !b.ordered {
		return nil
	}
	if b.took {
		return plan.ErrFinal
	}
	b.doubt = true
	ctx, cancel := context.WithTimeout(ctx, b.s.Conf.ShutdownCheckTimeout+handOverMargin)
	defer cancel()
	own := server.Own{Config: b.s.Conf}
	if err := own.Stop(ctx, pg.Fast); err != nil {
		b.down = fmt.Sprintf("%s could not be stopped: %s", named(b.to), inOneLine(err))
		return plan.ErrFinal
	}
	if err := own.CancelPromotion(); err != nil {
		b.down = fmt.Sprintf("%s is stopped, and its order to promote could not be taken back: %s", named(b.to), inOneLine(err))
		return plan.ErrFinal
	}
	control, err := pg.ReadControl(ctx, b.s.Conf.PgBindir, b.s.Conf.DataDirectory)
	signalled, unknown := pg.HasStandbySignal(b.s.Conf.DataDirectory)
	standby := errors.Join(err, unknown) == nil && signalled && control.State == "shut down in recovery"
	if err := own.Start(ctx); err != nil {
		b.down = fmt.Sprintf("%s is stopped, and could not be started again: %s", named(b.to), inOneLine(err))
	} else if takes, err := writes(ctx, b.to); err == nil {
		standby, b.took = !takes, takes
	}
	b.doubt, b.ordered = !standby && !b.took, !standby
	b.world.Close() // its session has ended with the server
	if b.world = b.s.world(); b.took {
		b.record(ctx)
	}
	if !standby {
		return plan.ErrFinal
	}
	return nil
}

// Rejoin has repmgr on its host make the former primary a standby.
func (b *bySSH) Rejoin(ctx context.Context, n cluster.Node) error {
	info, err := pg.ParseConninfo(b.to.Conninfo)
	if err != nil {
		return nil
	}
	command := "node rejoin --no-wait -d " + pg.Quote(info.WithoutSecrets().String())
	if b.s.Opt.Given("force-rewind") {
		command += " --force-rewind"
		if b.s.Opt.ForceRewind != "" {
			command += "=" + pg.Quote(b.s.Opt.ForceRewind)
		}
	}
	if _, err = b.s.remote(ctx, n, command, b.s.Conf.NodeRejoinTimeout+remoteTimeout); err == nil {
		err = b.AwaitFollows(ctx, n, b.to.ID)
	}
	if err != nil {
		b.leave(fault.Wrap(err, fault.SwitchoverIncomplete, "%s does not follow %s", named(n), named(b.to)).WithDetail("%s", detailOf(err)), "on its host: "+b.s.remoteRepmgr(n)+" "+command)
		return nil
	}
	b.dropFormerSlot(ctx, n)
	return nil
}

// dropFormerSlot drops the slot by which the own server followed the former primary: nobody uses
// it any more, and it would keep WAL there for ever.
func (b *bySSH) dropFormerSlot(ctx context.Context, n cluster.Node) {
	if b.to.SlotName == "" {
		return
	}
	slot, err := b.world.Slot(ctx, n.ID, b.to.SlotName)
	if err == nil && slot.Exists && slot.Physical && !slot.Active {
		err = b.world.DropSlot(ctx, n.ID, b.to.SlotName)
	}
	if err != nil {
		b.s.warn(fault.Wrap(err, fault.DBQuery, "the replication slot %q on %s, which nobody uses any more, could not be dropped", b.to.SlotName, named(n)))
	}
}

// Attach has repmgr on its host let a sibling follow.
func (b *bySSH) Attach(ctx context.Context, n cluster.Node) error {
	const command = "standby follow"
	_, err := b.s.remote(ctx, n, command, b.s.Conf.StandbyFollowTimeout+remoteTimeout)
	if err == nil && n.Role == cluster.Standby {
		err = b.AwaitFollows(ctx, n, b.to.ID)
	}
	if err != nil {
		b.leave(fault.Wrap(err, fault.SwitchoverIncomplete, "%s does not follow %s", named(n), named(b.to)).WithDetail("%s", detailOf(err)), "on its host: "+b.s.remoteRepmgr(n)+" "+command)
	}
	return nil
}
