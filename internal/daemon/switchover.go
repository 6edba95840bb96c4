package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
	"repmgr/internal/pg"
	"repmgr/internal/record"
	"repmgr/internal/registry"
	"repmgr/internal/server"
)

// Bounds of a hand-over where no parameter bounds it.
const (
	nearBound      = 10 * time.Second      // for the next primary to come near enough, before anything is stopped
	closeLag       = 256 << 10             // bytes that it may lack without being waited for: it gets them while clients wait
	closeBound     = 2 * time.Second       // for it to lack no more than that; then failover.SwitchoverLag will do
	checkpointed   = 60 * time.Second      // for the checkpoint before the stop
	longCheckpoint = time.Second           // after which it is made once more
	lingerBound    = 3 * time.Second       // for a postmaster that has written its last record: its archiver, or a standby that hangs
	caughtEvery    = 5 * time.Millisecond  // between two looks at the next primary
	nearEvery      = 20 * time.Millisecond // the same, while nobody waits for it
)

// Switchover has the request for another primary committed. What comes of it stands
// in the record.
func (b backend) Switchover(ctx context.Context, to cluster.NodeID, by string) (api.SwitchoverAnswer, error) {
	rec, _ := b.d.quorum.known()
	if why := rec.Switchable(to); why != "" {
		return api.SwitchoverAnswer{}, fault.New(fault.SwitchoverFail, "there can be no switchover to node %d: %s", to, why)
	}
	c := record.RequestSwitchover{Term: rec.Term, Number: rec.Switchover.Number + 1, To: to, By: by}
	if why := rec.Unknown(c); why != "" {
		return api.SwitchoverAnswer{}, fault.New(fault.SwitchoverFail, "there can be no switchover yet: %s", why)
	}
	ctx, cancel := context.WithTimeout(ctx, pauseBound)
	defer cancel()
	refused, err := b.d.quorum.insist(ctx, c)
	done, _ := b.d.quorum.known() // a first try may have been answered to nobody
	switch accepted := done.Switchover; {
	case accepted.Number == c.Number && accepted.By == by, err == nil && refused == "":
	case err != nil:
		return api.SwitchoverAnswer{}, fault.Wrap(err, fault.SwitchoverFail, "no majority of the voters has agreed to the switchover").
			WithDetail("It may happen yet, if it was only late.").WithHint("\"repmgr cluster show\" says which voters are seen")
	default:
		return api.SwitchoverAnswer{}, fault.New(fault.SwitchoverFail, "the group refused the switchover: %s", refused)
	}
	b.d.notice(fmt.Sprintf("a switchover to node %d was asked for", to), "detail", by)
	return api.SwitchoverAnswer{Number: c.Number, Term: c.Term, From: rec.Lease.Holder}, nil
}

// stopFor stops the own server in favour of another, and returns when that has all
// of its WAL. Whatever fails leaves the own server either running as before, or
// stopped in order: then it can be started as the primary that it was.
func (d *Daemon) stopFor(ctx context.Context, cfg *conf.Config, a failover.HandOver) error {
	to, ok := cluster.Find(d.peers.nodes(), a.To)
	if !ok {
		return fault.New(fault.SwitchoverFail, "node %d is not registered", a.To)
	}
	theirs, err := registry.Connect(ctx, to) // before the stop: it is looked at again and again
	if err != nil {
		return fault.Wrap(err, fault.SwitchoverFail, "the server of node %d cannot be reached from the primary", a.To)
	}
	defer registry.Close(theirs)
	own, asked := d.ownServer(), time.Now()
	if err := d.comeNear(ctx, cfg, theirs, a.To); err != nil {
		return err
	}
	if err := own.Arm(); err != nil { // it is, but for somebody's hand
		return err
	}
	near := time.Now()
	defer d.endsServer()()
	limit, cancel := context.WithTimeout(ctx, cfg.ShutdownCheckTimeout)
	defer cancel()
	postmaster, end, err := own.ShutDown(limit)
	if err != nil {
		return err
	}
	defer postmaster.Close()
	written := time.Now()
	if err := d.catchUp(ctx, cfg, theirs, a.To, end.LSN); err != nil {
		gone := d.seeOut(ctx, own) // it is started again
		if gone == nil {
			d.send(observed{failover.StoppedInOrder{Number: a.Number}})
		}
		return errors.Join(err, gone)
	}
	d.send(observed{failover.StoppedInOrder{Number: a.Number}})
	d.send(observed{failover.HandedOver{Number: a.Number, End: end.LSN}})
	d.notice(fmt.Sprintf("the own server is stopped, and node %d has everything up to %s", a.To, end.LSN), "detail",
		fmt.Sprintf("near enough after %s, the last record %s later, there %s later", near.Sub(asked).Round(time.Millisecond), written.Sub(near).Round(time.Millisecond), time.Since(written).Round(time.Millisecond)))
	return nil
}

// comeNear makes a checkpoint, so that the stop is short, and waits until the next
// primary lacks little.
func (d *Daemon) comeNear(ctx context.Context, cfg *conf.Config, theirs *pg.Conn, to cluster.NodeID) error {
	conn, err := d.own(ctx, cfg)
	if err != nil {
		return err
	}
	defer registry.Close(conn)
	if err := d.checkpoint(ctx, cfg, conn); err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, nearBound)
	defer cancel()
	for began := time.Now(); ; {
		here, err := conn.Progress(limit)
		if err != nil {
			return err
		}
		there, err := theirs.Progress(limit)
		if err != nil {
			return err
		}
		lag := failover.Lag(here.Written, there.Received)
		near := lag <= closeLag || lag <= failover.SwitchoverLag && time.Since(began) >= closeBound
		if there.InRecovery && there.Receiving && near && (there.Timeline == here.Timeline || there.ReceiverStatus == "") {
			return nil
		}
		select {
		case <-limit.Done():
			return fault.New(fault.SwitchoverFail, "node %d is not near enough to become the primary", to).
				WithDetail("It is a standby: %v, receives: %v, on timeline %d (the primary: %d), and lacks %d bytes; %d are allowed.",
					there.InRecovery, there.Receiving, there.Timeline, here.Timeline, lag, failover.SwitchoverLag)
		case <-time.After(nearEvery):
		}
	}
}

// checkpoint leaves little for that of the shutdown. One that took long has left what was
// written meanwhile: it is made once more.
func (d *Daemon) checkpoint(ctx context.Context, cfg *conf.Config, conn *pg.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, checkpointed)
	defer cancel()
	began := time.Now()
	err := conn.Checkpoint(ctx)
	if err == nil && time.Since(began) > longCheckpoint {
		err = conn.Checkpoint(ctx)
	}
	if pg.Code(err) == "42501" {
		if err = d.checkpointAsReplica(ctx, cfg); err != nil && ctx.Err() == nil {
			d.log.Info("the role may not make a checkpoint before the stop, which would make it short: as a superuser, GRANT pg_checkpoint (15 and later) TO it", "detail", err.Error())
			return nil
		}
	}
	if err != nil {
		return fault.Wrap(err, fault.SwitchoverFail, "no checkpoint could be made before the stop")
	}
	return nil
}

// checkpointAsReplica has one made by the right to replicate. The stop of a server that is in
// the middle of a checkpoint, as for minutes after each promotion, waits for the end of that too.
func (d *Daemon) checkpointAsReplica(ctx context.Context, cfg *conf.Config) error {
	ci, err := pg.ParseConninfo(cfg.Conninfo)
	if err != nil {
		return err
	}
	self, _ := cluster.Find(d.peers.nodes(), cfg.NodeID)
	return pg.CheckpointAsReplica(ctx, ci, self.ReplUser)
}

// catchUp waits until the next primary has everything on disk. One that receives
// nothing any more will not get it.
func (d *Daemon) catchUp(ctx context.Context, cfg *conf.Config, theirs *pg.Conn, to cluster.NodeID, end cluster.LSN) error {
	deadline, ended := time.Now().Add(cfg.WalReceiveCheckTimeout), false
	for {
		look, cancel := context.WithTimeout(ctx, lookTimeout)
		p, err := theirs.Progress(look)
		cancel()
		switch {
		case err != nil:
			return fault.Wrap(err, fault.SwitchoverFail, "whether node %d has all of the primary's WAL is not known", to)
		case p.Received >= end:
			return nil
		case !p.Receiving && ended, time.Now().After(deadline):
			return fault.New(fault.SwitchoverFail, "node %d does not have all of the primary's WAL", to).
				WithDetail("It has received %s, the primary's ends at %s.", p.Received, end)
		}
		ended = !p.Receiving // what it received before that is seen by the next look
		time.Sleep(caughtEvery)
	}
}

// seeOut sees to it that no process of the own server is left, which has written its
// last record and ends by itself: it sends standbys the rest, and archives.
func (d *Daemon) seeOut(ctx context.Context, own server.Own) error {
	if postmaster, err := own.Postmaster(); err == nil {
		defer postmaster.Close()
		timer := time.NewTimer(lingerBound)
		defer timer.Stop()
		select {
		case <-postmaster.Done(): // it waits for its children
		case <-timer.C:
			d.log.Warn("the server has written its last record and does not end: what is left of it is killed", "hint", "An archive_command may be slow, or a standby hang.")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	bound, cancel := context.WithTimeout(ctx, killBound)
	defer cancel()
	return own.Kill(bound)
}

// takeUp starts the own server as the primary that it was. The guard knows until when it
// may live before the directory is opened.
func (d *Daemon) takeUp(ctx context.Context) error {
	if err := d.guardian.extendNow(ctx); err != nil {
		return err
	}
	own := d.ownServer()
	bound, cancel := context.WithTimeout(ctx, killBound)
	defer cancel()
	if err := errors.Join(own.Kill(bound), own.StartAsPrimary(ctx)); err != nil { // a logger may linger
		return err
	}
	return own.Start(ctx)
}

// handedTo is whom a release is for, and up to where it has everything: if the own
// server has ended there for good.
func (d *Daemon) handedTo(ctx context.Context, own server.Own, a failover.GiveUp) (cluster.NodeID, cluster.LSN) {
	if a.To == 0 {
		return 0, 0
	}
	ended, err := own.Ended(ctx, a.End)
	if err != nil || !ended {
		d.log.Warn(fmt.Sprintf("the own server's WAL does not end at %s any more: the lease is given back in favour of nobody", a.End), "detail", fmt.Sprint(err))
		return 0, 0
	}
	return a.To, a.End
}
