package daemon

import (
	"context"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/failover"
)

// gateBound is how long the gate waits for what cannot be told yet: the daemon may
// not have seen the server's end.
const gateBound = 3 * time.Second

// starting asks how the own server, which is about to be started, shall come up.
type starting struct {
	until   time.Time
	reply   chan api.StartAnswer
	ordered bool
}

// Startable lets the own server start as the primary, if that is safe, and sees to
// it that it comes up read-only otherwise.
func (b backend) Startable(ctx context.Context) (api.StartAnswer, error) {
	b.d.eyes.kick()
	reply := make(chan api.StartAnswer, 1)
	if err := b.ask(ctx, &starting{until: bootTime().Add(gateBound), reply: reply}); err != nil {
		return api.StartAnswer{}, err
	}
	answer, err := await(ctx, reply)
	if err != nil || answer.As != failover.GateReadOnly {
		return answer, err
	}
	return answer, b.d.ownServer().StartReadOnly()
}

// attendGates answers those who ask to start the server. Opening is an order like
// any other: while it is carried out nothing else is, so that the lease is not
// given back by the one hand and the directory opened by the other.
func (d *Daemon) attendGates(ctx context.Context, now time.Time) {
	waiting := d.loop.gates
	d.loop.gates = nil
	for _, g := range waiting {
		as, why := failover.Startable(d.loop.view)
		switch {
		case g.ordered:
			d.loop.gates = append(d.loop.gates, g)
			continue
		case as == failover.GateWait && now.Before(g.until):
			d.loop.gates = append(d.loop.gates, g)
			continue
		case as == failover.GateWait && d.loop.view.Local.State == failover.ServerRunning:
			as = failover.GateAsItIs
		case as == failover.GateWait:
			as = failover.GateReadOnly
		case as == failover.GatePrimary:
			g.ordered = true
			d.loop.gates = append(d.loop.gates, g)
			d.order(ctx, failover.LetStart{}, now)
			continue
		}
		g.reply <- api.StartAnswer{As: as, Why: why}
	}
}

// gateOpened answers those who asked, after the order was carried out.
func (d *Daemon) gateOpened(err error) {
	answer := api.StartAnswer{As: failover.GatePrimary, Why: "this node holds the lease"}
	if err != nil {
		answer = api.StartAnswer{As: failover.GateReadOnly, Why: err.Error()}
	}
	var left []*starting
	for _, g := range d.loop.gates {
		if g.ordered {
			g.reply <- answer
		} else {
			left = append(left, g)
		}
	}
	d.loop.gates = left
}

// letStart opens the directory, after the guard knows until when its server may live.
func (d *Daemon) letStart(ctx context.Context) error {
	if err := d.guardian.extendNow(ctx); err != nil {
		return err
	}
	return d.ownServer().StartAsPrimary(ctx)
}
