package daemon

import (
	"context"
	"errors"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
	"repmgr/internal/record"
)

// backend answers the API's questions. What changes something goes through the loop.
type backend struct{ d *Daemon }

// Report is the daemon's latest report.
func (b backend) Report() failover.Report { return b.d.shared.load().report }

// Receive takes in a peer's report and answers with this daemon's own, as it is
// after the loop has seen the other's.
func (b backend) Receive(ctx context.Context, s api.Spoken) (failover.Report, error) {
	doubted, err := b.d.voices.hear(s.Report, s.Since)
	if doubted || err != nil {
		s.HangUp()
	}
	if err != nil {
		return failover.Report{}, err
	}
	b.d.peers.heard(s.Report.Node)
	reply := make(chan failover.Report, 1)
	if err := b.ask(ctx, received{s.Report, reply}); err != nil {
		return failover.Report{}, err
	}
	return await(ctx, reply)
}

// View is all that the daemon knows.
func (b backend) View() api.ClusterView {
	ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
	defer cancel()
	reply := make(chan api.ClusterView, 1)
	err := b.ask(ctx, viewing{reply})
	if err == nil {
		var view api.ClusterView
		if view, err = await(ctx, reply); err == nil {
			return view
		}
	}
	last := b.d.shared.load() // a loop that stands still is not vouched for
	now := bootTime()
	out := api.ClusterView{Version: api.ViewVersion, Own: last.report, Turned: now.Sub(last.turned)}
	if !last.sureTo.IsZero() && !now.Before(last.sureTo) {
		out.Unready = "the lease has run out since the daemon looked round"
	}
	return out
}

// Pause stops or resumes automatic failover: under the quorum rule of the whole
// cluster, by an entry that a majority has; else on this node, over restarts.
func (b backend) Pause(ctx context.Context, order api.Pause) error {
	if p := b.View().Promotion; p != nil && p.Rule == record.Quorum {
		if order.Seconds > 0 {
			return fault.New(fault.RepmgrdPause, "the pause of a whole cluster has no end of its own").
				WithHint("pause without a time, and end it by \"repmgr service unpause\"")
		}
		return b.d.pauseCluster(ctx, order.Paused, order.Reason)
	}
	reply := make(chan error, 1)
	if err := b.ask(ctx, pausing{order, reply}); err != nil {
		return err
	}
	err, late := await(ctx, reply)
	if late != nil {
		return late
	}
	return err
}

// Follow begins to point the own server at upstream. What is said of such an order
// when it ends stands in the log and in the events.
func (b backend) Follow(ctx context.Context, upstream cluster.NodeID) error {
	reply := make(chan error, 1)
	if err := b.ask(ctx, following{upstream, reply}); err != nil {
		return err
	}
	err, late := await(ctx, reply)
	return errors.Join(err, late)
}

// Fenced ends the lease of a node that an operator says is fenced.
func (b backend) Fenced(ctx context.Context, node cluster.NodeID) error {
	return b.d.assertFenced(ctx, node)
}

// Wake has everything looked at again now.
func (b backend) Wake() {
	b.d.eyes.stale.Store(true)
	b.d.eyes.kick()
	select {
	case b.d.wake <- struct{}{}:
	default:
	}
}

func (b backend) ask(ctx context.Context, m message) error {
	select {
	case b.d.in <- m:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func await[T any](ctx context.Context, reply <-chan T) (T, error) {
	select {
	case v := <-reply:
		return v, nil
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
}
