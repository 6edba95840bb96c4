package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/host"
	"repmgr/internal/record"
)

// presideAgain is how soon the leader repeats an order that changed nothing yet.
const presideAgain = 500 * time.Millisecond

// governTurn is the quorum rule's part of a turn: what the leader of the group has
// to do, the renewal of the own lease, and the guard's deadline.
func (d *Daemon) governTurn(ctx context.Context, now time.Time) {
	v := d.loop.view
	d.attendGates(ctx, now)
	d.preside(ctx, failover.Preside(v, now), now)
	if c, due := failover.Renewal(v, now); due {
		d.ask(ctx, failover.Propose{Change: c}, now)
	}
	d.resumeOwnPause(ctx, now)
	d.guide()
	d.rememberRule()
	d.forgetRejoins()
	d.syncTurn(ctx, now)
	d.watchLease(now)
	d.tellReady(now)
}

// tellReady tells when clients may be sent to a server that has begun to take writes.
func (d *Daemon) tellReady(now time.Time) {
	was, v := d.loop.unready, d.loop.view
	d.loop.unready = failover.Unready(v, now)
	switch waits := d.loop.unready != ""; {
	case waits == (was != ""):
	case waits:
		d.log.Info("clients are not sent to this server yet: " + d.loop.unready)
	case v.Local.State == failover.ServerRunning && v.Local.Role == cluster.Primary:
		d.notice("clients may be sent to this server")
	}
}

// preside carries out what the leader of the group has to do.
func (d *Daemon) preside(ctx context.Context, dec failover.Decision, now time.Time) {
	l := &d.loop
	if dec.Rule != l.presiding.Rule || !slices.Equal(dec.Actions, l.presiding.Actions) {
		d.log.Debug("leader of the group: " + dec.Rule + ": " + dec.Why)
	}
	l.presiding = dec
	for _, a := range dec.Actions {
		if p, ok := a.(failover.Propose); ok {
			d.ask(ctx, p, now)
			continue
		}
		if last, again := l.presided[a]; again && now.Sub(last) < presideAgain {
			continue
		}
		l.presided[a] = now
		d.goes(func() {
			if err := d.carryOut(ctx, a); err != nil {
				d.log.Info(failover.Describe(a) + ": " + err.Error())
			}
		})
	}
	for a, at := range l.presided {
		if now.Sub(at) > time.Minute {
			delete(l.presided, a)
		}
	}
}

// ask has a change proposed; the answer comes as an event.
func (d *Daemon) ask(ctx context.Context, p failover.Propose, now time.Time) {
	v := d.loop.view
	v.Observe(failover.Asked(p), now)
	guardFirst := failover.GuardFirst(v, p.Change, now)
	if guardFirst {
		d.guide()
	}
	d.goes(func() {
		var refused string
		var err error
		if guardFirst {
			err = d.guardian.extendNow(ctx)
		}
		if b, ok := p.Change.(record.Bid); ok && b.Declined == "" && err == nil {
			err = d.stillSealed(ctx)
		}
		if err == nil {
			refused, err = d.quorum.propose(ctx, p.Change)
		}
		e := failover.Answered{Change: p.Change, Refused: refused}
		if err != nil {
			e.Err = err.Error()
		}
		if kind := record.KindOf(p.Change); kind != "renew" || refused != "" {
			d.log.Info(fmt.Sprintf("proposal of %s: %s", kind, outcome(refused, err)))
		}
		d.send(observed{e})
	})
}

func outcome(refused string, err error) string {
	switch {
	case err != nil:
		return "no answer: " + err.Error()
	case refused != "":
		return "refused: " + refused
	}
	return "accepted"
}

// guide tells the guardian what the view says.
func (d *Daemon) guide() {
	v := d.loop.view
	deadline := time.Duration(0)
	if at, limited := failover.Deadline(v); limited {
		deadline = host.SinceBoot(at)
	}
	d.guardian.cannotWrite(failover.Harmless(v))
	d.guardian.want(v.Group.Known && d.cfg.DataDirectory != "", deadline, failover.StandDown(v))
}

// rememberRule keeps in the state directory that the quorum rule is in force: a
// daemon that starts without its group's state must not decide by the other one.
func (d *Daemon) rememberRule() {
	known := d.loop.view.Group.Known
	if known == d.loop.known {
		return
	}
	d.loop.known = known
	d.goes(func() {
		if err := d.peers.remember(func(r *remembered) { r.Quorum = known }); err != nil {
			d.complain(slog.LevelWarn, err)
		}
	})
	rule := record.Visibility
	if known {
		rule = record.Quorum
	}
	d.notice(fmt.Sprintf("standbys are promoted by the %s rule", rule))
}

// forgetRejoins keeps in the state directory that the own server is what it should be.
func (d *Daemon) forgetRejoins() {
	if d.loop.view.Rejoins.Tries > 0 || d.peers.rejoins() == 0 {
		return
	}
	d.noteSoon(func(r *remembered) { r.Rejoins = 0 })
}

// governsSoon reports whether the quorum rule wants another turn soon.
func (d *Daemon) governsSoon(now time.Time) bool {
	r := d.loop.view.Group.Record
	if r == nil || r.Rule != record.Quorum {
		return false
	}
	return failover.LeaseEnds(d.loop.view, now) || r.Lease.State == record.Vacant || r.Lease.State == record.Granted || !r.Lease.Promoted
}

// takeUpGroup makes the view know, before anything is decided, what the state
// directory holds of the group, and what the guard holds of the lease.
func (d *Daemon) takeUpGroup(ctx context.Context) error {
	now := bootTime()
	known, err := d.state.load()
	if err != nil {
		return err
	}
	d.loop.known = known.Quorum
	d.loop.view.Observe(failover.RuleRead{Quorum: known.Quorum, Disowned: known.Disowned}, now)
	d.loop.view.Observe(failover.RejoinsKept{Tries: known.Rejoins}, now)
	d.takeUpPromotion(ctx, known.Underway, now)
	d.loop.view.Observe(failover.GroupSeen{Group: d.quorum.takeUp()}, now)
	d.loop.view.Observe(failover.SealedAt{Sealed: d.quorum.sealed()}, now)
	if d.loop.view.Group.Known && d.cfg.DataDirectory != "" {
		d.loop.view.Observe(d.guardian.first(ctx), now)
	}
	return nil
}
