package daemon

import (
	"context"
	"fmt"
	"strings"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
	"repmgr/internal/record"
)

// pauseNode takes up an operator's order about this node. A pause with an end has it in
// its reason too, so that everybody is told.
func (d *Daemon) pauseNode(m pausing, now time.Time) {
	order, until := m.order, time.Time{}
	if order.Paused && order.Seconds > 0 {
		until = time.Now().Add(time.Duration(order.Seconds) * time.Second).Truncate(time.Second)
		order.Reason = strings.TrimPrefix(order.Reason+", until "+until.Format(time.DateTime)+" at the latest", ", ")
	}
	d.loop.pauseReason, d.loop.pausedUntil = order.Reason, until
	d.loop.view.Observe(failover.PauseSet{Paused: order.Paused}, now)
	d.eyes.kick()
	_ = d.peers.note(func(r *remembered) { // fails for an authority only
		r.Paused, r.PauseReason, r.PausedUntil = order.Paused, order.Reason, until
	})
	d.goes(func() { m.reply <- d.peers.keep() })
	d.notice(map[bool]string{true: "failover is paused", false: "failover is no longer paused"}[order.Paused], "detail", order.Reason)
}

// endPause ends a pause whose time is over, as an operator would.
func (d *Daemon) endPause(wall, now time.Time) {
	until := d.loop.pausedUntil
	if until.IsZero() || wall.Before(until) {
		return
	}
	d.notice("the pause ends by itself", "detail", d.loop.pauseReason)
	d.pauseNode(pausing{api.Pause{}, make(chan error, 1)}, now)
}

// pauseBound is how long an operator's pause is tried: an election of the group's
// leader may be under way.
const pauseBound = 3500 * time.Millisecond

// pauseCluster has the beginning or the end of a pause committed, and waits until
// this daemon's own record says so.
func (d *Daemon) pauseCluster(ctx context.Context, paused bool, reason string) error {
	ctx, cancel := context.WithTimeout(ctx, pauseBound)
	defer cancel()
	if reason == "" {
		reason = "by an operator"
	}
	change := record.SetPause{On: paused, By: fmt.Sprintf("node %d", d.cfg.NodeID), Reason: reason}
	switch refused, err := d.quorum.insist(ctx, change); {
	case err != nil:
		return fault.Wrap(err, fault.RepmgrdPause, "no majority of the voters has agreed").
			WithDetail("It may happen yet, if it was only late.").
			WithHint("\"repmgr cluster show\" says which voters are seen")
	case refused != "":
		return fault.New(fault.RepmgrdPause, "the group refused: %s", refused)
	}
	d.notice(map[bool]string{true: "the cluster is paused", false: "the cluster is no longer paused"}[paused], "detail", reason)
	for rec, _ := d.quorum.known(); rec.Pause.On != paused && ctx.Err() == nil; rec, _ = d.quorum.known() {
		time.Sleep(5 * time.Millisecond)
	}
	return nil
}
