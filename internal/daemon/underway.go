package daemon

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
	"repmgr/internal/ops"
	"repmgr/internal/pg"
	"repmgr/internal/registry"
	"repmgr/internal/server"
)

// underway is a promotion by the visibility rule that was ordered and is not known to be over:
// the server goes on with it whatever becomes of this daemon, and the next one has to tell the
// others, who would promote another.
type underway struct {
	Lost      cluster.NodeID `json:"lost"` // zero: there is none
	OrderedAt time.Time      `json:"ordered_at"`
	Stays     bool           `json:"stays,omitempty"` // it is not taken back, however long it takes
	server.Order
}

func (u underway) same(o underway) bool { return u.Lost == o.Lost && u.OrderedAt.Equal(o.OrderedAt) }

// Bounds of looking at a promotion that takes long.
const (
	keptWithin = time.Second     // how long a stalled disk may delay the order
	fateEvery  = time.Second     // between two looks
	readWithin = 3 * time.Second // by the server, from looking for the order to saying that it goes on with it
)

// promoteServer has the own server promoted in place of another, and returns when it is a primary, or
// will not be one by that order. An order that takes longer than promote_check_timeout is taken back, unless it
// stays. With a command it is the command that gives it.
func (d *Daemon) promoteServer(ctx context.Context, cfg *conf.Config, lost cluster.NodeID, command func(context.Context) error, stays bool) error {
	own := d.ownServer()
	order, err := own.Ordering()
	if err != nil {
		return err
	}
	order.Commanded = command != nil
	u := underway{Lost: lost, OrderedAt: time.Now(), Stays: stays, Order: order}
	defer d.beginsPromotion(ctx, u)()
	var refused error
	if command != nil {
		limit, cancel := context.WithTimeout(ctx, cfg.PromoteCheckTimeout+commandMargin)
		refused = command(limit)
		cancel()
	} else if err := d.givesOrder(ctx, own); err != nil {
		return err
	}
	w := d.world(cfg, lost, "")
	defer w.Close()
	for ordered, told := time.Now(), false; ; {
		if refused == nil {
			if err := w.AwaitPromotion(ctx, ops.Promotion{Timeout: fateEvery, Interval: cfg.PromoteCheckInterval}); err == nil {
				return nil
			}
		} else {
			wait(ctx, fateEvery)
		}
		late := refused != nil || time.Since(ordered) > cfg.PromoteCheckTimeout
		f, unknown := d.fateOf(ctx, w, &u, refused != nil || late && !stays)
		switch {
		case f == server.Happened:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case f == server.IsOff && refused != nil:
			return refused
		case f == server.IsOff:
			return fault.New(fault.PromotionFail, "the server has not left recovery").
				WithDetail("It ended, or had not begun with that within promote_check_timeout, and the order was taken back.").
				WithHint("look into its log: it replays all that it has first, and a query may be in the way of that; promote_check_timeout may be raised")
		case late && !told:
			told = true
			d.tellOverdue(u, errors.Join(refused, unknown))
		}
	}
}

// givesOrder gives the order, and nobody takes an earlier one back meanwhile.
func (d *Daemon) givesOrder(ctx context.Context, own server.Own) error {
	d.promoting.Lock()
	defer d.promoting.Unlock()
	return own.OrderPromotion(ctx)
}

// beginsPromotion keeps that a promotion is ordered, and returns what forgets it: not if this
// daemon is told to stop meanwhile, since the server goes on.
func (d *Daemon) beginsPromotion(ctx context.Context, u underway) (over func()) {
	tried := d.noteSoon(func(r *remembered) { r.Underway = u })
	select {
	case <-tried:
	case <-time.After(keptWithin):
	}
	return func() {
		if ctx.Err() == nil {
			d.forgetPromotion(u)
		}
	}
}

// forgetPromotion is for one that is over.
func (d *Daemon) forgetPromotion(u underway) {
	d.noteSoon(func(r *remembered) {
		if r.Underway.same(u) {
			r.Underway = underway{}
		}
	})
}

// takeBackPromotion takes the order back where the server has not read it, and reports whether it was there.
func (d *Daemon) takeBackPromotion(u underway) (bool, error) {
	d.promoting.Lock()
	defer d.promoting.Unlock()
	if !d.peers.underway().same(u) {
		return false, nil // another was ordered since
	}
	back, err := d.ownServer().TakeBack()
	if back {
		d.notice("the order to promote the server was taken back")
	}
	return back, err
}

// noteArmed keeps that the server's directory was armed.
func (d *Daemon) noteArmed(u underway) {
	d.noteSoon(func(r *remembered) {
		if r.Underway.same(u) {
			r.Underway.Armed = true
		}
	})
}

// tellOverdue tells that the promotion takes longer than it may, and what can be done about it.
func (d *Daemon) tellOverdue(u underway, why error) {
	text := "the server was ordered to be promoted, and is no primary yet"
	if u.Commanded {
		text = "a command may have ordered the server's promotion, and it is no primary yet"
	}
	if why != nil {
		text += ": " + why.Error()
	}
	const hint = "it may become one at any time: no other is promoted until it is one, or has ended; look into its log; if that cannot be known, end the server, and repmgrd"
	lost, _ := cluster.Find(d.peers.nodes(), u.Lost)
	d.log.Warn(text, "hint", hint)
	d.announce(event{name: "repmgrd_promote_error", failed: true, unkept: true, about: lost, details: text + "; " + hint})
}

// fateOf looks at a promotion that was ordered. One that is late is taken back, unless the server has
// read the order: then nothing takes it back but the server's end. It may happen where that is not
// known, which the error says.
func (d *Daemon) fateOf(ctx context.Context, w *registry.World, u *underway, late bool) (server.Fate, error) {
	f, err := d.lookAt(ctx, w, u)
	if f != server.MayHappen || err != nil || !late {
		return f, err
	}
	back, err := d.takeBackPromotion(*u)
	if err != nil {
		return f, err
	}
	wait(ctx, readWithin)
	goesOn, unasked := w.Promotes(ctx)
	if f, err = d.lookAt(ctx, w, u); f != server.MayHappen || err != nil || goesOn || ctx.Err() != nil {
		return f, err
	}
	switch barred := pg.Code(unasked) == "42501"; {
	case unasked == nil, back && !u.Commanded:
		return server.IsOff, nil
	case barred:
		d.complain(slog.LevelWarn, fault.Wrap(unasked, fault.PromotionFail, "whether the server goes on with its promotion cannot be asked, and it is taken to be off").
			WithHint("GRANT EXECUTE ON FUNCTION pg_wal_replay_resume() to the role of conninfo"))
		return server.IsOff, nil
	}
	return f, unasked
}

// lookAt is a look at that promotion, by the server's own word first. Who is asked nothing answers nothing; a standby
// that does has read standby.signal.
func (d *Daemon) lookAt(ctx context.Context, w *registry.World, u *underway) (server.Fate, error) {
	own, armed := d.ownServer(), u.Armed
	standby, unasked := w.InRecovery(ctx)
	f, err := own.Fate(ctx, &u.Order)
	if u.Armed && !armed {
		d.log.Warn("the server ended before it had left recovery, and would start as a primary: it is to start as a standby", "detail", "standby.signal is written to its data directory")
		d.noteArmed(*u)
	}
	switch {
	case unasked == nil && !standby:
		f, err = server.Happened, nil
	case unasked == nil && armed && f == server.MayHappen:
		f, err = server.IsOff, nil
	}
	if f == server.Happened && u.Armed { // its next start shall be a primary's
		d.notice("the server was started before standby.signal was written, and is a primary: that file is removed again")
		return f, own.Disarm()
	}
	return f, err
}

// takeUpPromotion makes the view know of a promotion that an earlier life of this daemon has
// ordered, and goes on looking at it until it has happened or is off.
func (d *Daemon) takeUpPromotion(ctx context.Context, u underway, now time.Time) {
	if u.Lost == 0 {
		return
	}
	if d.loop.view.Local.Role == cluster.Primary {
		d.forgetPromotion(u)
		return
	}
	d.loop.view.Observe(failover.PromotionKept{Lost: u.Lost}, now)
	d.goes(func() { d.awaitPromotion(ctx, u) })
}

// awaitPromotion tells the view when that promotion is over.
func (d *Daemon) awaitPromotion(ctx context.Context, u underway) {
	cfg := d.eyes.cfg.Load()
	w := d.world(cfg, u.Lost, "")
	defer w.Close()
	limit := cfg.PromoteCheckTimeout
	if u.Commanded {
		limit += commandMargin // its command may be at it yet
	}
	for began, told := time.Now(), false; d.peers.underway().same(u); wait(ctx, fateEvery) {
		late := time.Since(u.OrderedAt) > limit || time.Since(began) > limit // the wall clock may have been set
		f, unknown := d.fateOf(ctx, w, &u, late && !u.Stays)
		switch {
		case ctx.Err() != nil:
			return // the next life looks at it
		case f == server.Happened:
			d.notice("the promotion that was ordered before repmgrd was restarted has happened")
			d.forgetPromotion(u)
		case f == server.IsOff:
			d.notice("the promotion that was ordered before repmgrd was restarted is off")
			d.forgetPromotion(u)
		case late && !told:
			told = true
			d.tellOverdue(u, unknown)
		}
	}
	d.send(observed{failover.PromotionKept{}})
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
