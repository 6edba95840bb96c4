package daemon

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"repmgr/internal/failover"
	"repmgr/internal/record"
)

// leaveBound is how long an orderly end may take for the group's sake.
const leaveBound = 3 * time.Second

// leave sees to it that ending this daemon ends nothing else. Where this node
// holds a timed lease, the cluster is paused first, which makes the lease
// indefinite, so that the guard has no deadline left; the next daemon lifts that
// pause. If it cannot be committed the guard stays, with its deadline. A host that
// shuts down hands over instead (safety notes, B10).
func (d *Daemon) leave(whole context.Context) {
	ctx, cancel := context.WithTimeout(whole, leaveBound)
	defer cancel()
	rec, _ := d.quorum.known()
	if rec.Rule != record.Quorum || rec.Lease.Holder != d.cfg.NodeID || rec.Lease.State != record.Held {
		d.guardian.end(ctx)
		return
	}
	if shuttingDown(ctx) {
		d.handOver(whole)
		return
	}
	d.leaving.Store(true) // from now on nobody here lifts that pause
	pause := record.SetPause{On: true, Auto: true, By: d.pauser(), Reason: fmt.Sprintf("repmgrd of the primary, node %d, was stopped", d.cfg.NodeID)}
	refused, err := d.quorum.insist(ctx, pause)
	if err != nil || refused != "" {
		d.log.Error("the cluster could not be paused: "+outcome(refused, err), "hint", "PostgreSQL will be stopped when the lease ends, unless repmgrd is started again before.")
		return
	}
	d.notice("the cluster is paused until this repmgrd is started again: nothing is promoted meanwhile")
	for ctx.Err() == nil && !d.guardian.standsDown() {
		time.Sleep(10 * time.Millisecond)
	}
	d.guardian.end(ctx)
}

// How long the hand-over of a host that shuts down may take, and its server's stop
// before it is killed: less than the guard's deadline by default.
const (
	handOverBound = 15 * time.Second
	fastGrace     = 3 * time.Second // the others count the lease's end meanwhile
)

// resigning asks the loop to give the lease back from now on.
type resigning struct {
	why   string
	reply chan failover.GiveUp // its zero: there is nothing to give back
}

// handOver stops the own server in order, so that its standbys have everything, and
// gives the lease back: another takes over at once, and not when the lease runs out.
// Where that fails the guard stays with its deadline, which nobody extends any more.
func (d *Daemon) handOver(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, handOverBound)
	defer cancel()
	reply := make(chan failover.GiveUp, 1)
	d.send(resigning{"the host is shut down", reply})
	order, err := await(ctx, reply)
	if err != nil || order == (failover.GiveUp{}) {
		return
	}
	d.notice("the host is shut down: the server is stopped, and the lease given back")
	err = d.giveUp(ctx, d.eyes.cfg.Load(), order)
	d.send(finished{order, err})
	if err == nil {
		d.guardian.end(ctx)
	}
}

// resign is the loop's part of it: from here on nothing is renewed.
func (d *Daemon) resign(m resigning, now time.Time) {
	order, holds := failover.Resign(d.loop.view, m.why)
	if holds {
		if d.loop.breakOff != nil {
			d.loop.breakOff()
		}
		d.loop.view.Observe(failover.Ordered{Action: order}, now)
	}
	m.reply <- order
}

func (d *Daemon) pauser() string { return fmt.Sprintf("repmgrd of node %d", d.cfg.NodeID) }

// resumeOwnPause lifts the pause that an earlier life of this daemon set when it
// was stopped.
func (d *Daemon) resumeOwnPause(ctx context.Context, now time.Time) {
	rec := d.loop.view.Group.Record
	if d.leaving.Load() || rec == nil || !rec.Pause.On || !rec.Pause.Auto || rec.Pause.By != d.pauser() || now.Sub(d.loop.resumedAt) < time.Second {
		return
	}
	d.loop.resumedAt = now
	d.goes(func() {
		if refused, err := d.quorum.propose(ctx, record.SetPause{Auto: true, By: d.pauser(), Reason: "repmgrd was started again"}); err != nil || refused != "" {
			d.log.Info("the pause of this daemon's own could not be lifted yet: " + outcome(refused, err))
		}
	})
}

// shuttingDown asks systemd whether the host is going down.
func shuttingDown(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	out, _ := exec.CommandContext(ctx, "systemctl", "is-system-running").Output() // it exits with 1 then
	return strings.TrimSpace(string(out)) == "stopping"
}
