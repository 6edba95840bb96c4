package daemon

import (
	"context"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/failover"
	"repmgr/internal/pg"
)

// underway is a promotion by the visibility rule that was ordered and is not known to be over:
// the server goes on with it whatever becomes of this daemon, and the next one has to tell the
// others, who would promote another.
type underway struct {
	Lost      cluster.NodeID `json:"lost"` // zero: there is none
	PID       int            `json:"pid"`  // of the postmaster
	StartedAt time.Time      `json:"started_at"`
	OrderedAt time.Time      `json:"ordered_at"`
}

// keptWithin is how long a stalled disk may delay a promotion.
const keptWithin = time.Second

// beginsPromotion keeps that a promotion is ordered, and returns what forgets it: not if this
// daemon is told to stop meanwhile, since the server goes on.
func (d *Daemon) beginsPromotion(ctx context.Context, cfg *conf.Config, lost cluster.NodeID) (over func()) {
	file, err := pg.ReadPostmaster(cfg.DataDirectory)
	if err != nil {
		return func() {}
	}
	tried := d.noteUnderway(underway{lost, file.PID, file.StartedAt, time.Now()})
	select {
	case <-tried:
	case <-time.After(keptWithin):
	}
	return func() {
		if ctx.Err() == nil {
			d.noteUnderway(underway{})
		}
	}
}

// noteUnderway remembers it, or that there is none.
func (d *Daemon) noteUnderway(u underway) (tried <-chan struct{}) {
	return d.noteSoon(func(r *remembered) { r.Underway = u })
}

// forgetPromotion is for a server that follows another: what was ordered once does not happen any more.
func (d *Daemon) forgetPromotion() {
	if d.peers.underway().Lost != 0 {
		d.noteUnderway(underway{})
	}
}

// takeUpPromotion makes the view know of a promotion that an earlier life of this daemon has
// ordered, while the same postmaster runs and is a standby still, and as long as that life would have waited.
func (d *Daemon) takeUpPromotion(u underway, now time.Time) {
	if u.Lost == 0 {
		return
	}
	left := d.cfg.PromoteCheckTimeout + commandMargin - max(0, time.Since(u.OrderedAt))
	file, err := pg.ReadPostmaster(d.cfg.DataDirectory)
	if err != nil || file.PID != u.PID || !file.StartedAt.Equal(u.StartedAt) || d.loop.view.Local.Role == cluster.Primary || left <= 0 {
		d.forgetPromotion()
		return
	}
	d.loop.view.Observe(failover.PromotionKept{Lost: u.Lost, For: left}, now)
}
