package daemon

import (
	"context"
	"fmt"
	"time"

	"repmgr/internal/fault"
	"repmgr/internal/record"
)

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
