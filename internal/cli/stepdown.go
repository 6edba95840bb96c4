package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/registry"
)

// stepEvery is the time between two looks at how a step down goes.
const stepEvery = 50 * time.Millisecond

// pausedFor is when a pause for a switchover ends by itself: nobody ends that of a command
// that was killed. It is more than all that a switchover waits for; one that outlasts it
// goes on as when an operator ends the pause.
const pausedFor = 10 * time.Minute

// pause stops automatic failover on every node whose daemon is there, and returns what
// makes it as it was. Without it a daemon could promote its server while the primary is
// stopped, and the primary could not be started again.
func (w *switching) pause(ctx context.Context) (restore func(), err error) {
	paused, err := w.pauseAll(ctx, pausedFor)
	return func() {
		ctx := context.WithoutCancel(ctx)
		if err := w.awaitOver(ctx); err != nil {
			w.s.warn(err)
			return
		}
		w.unpause(ctx, paused)
	}, err
}

// pauseAll pauses them for that long at most, and returns who is to be unpaused again.
func (w *switching) pauseAll(ctx context.Context, bound time.Duration) (paused []cluster.Node, err error) {
	order := w.pauseOrder(bound)
	answers := registry.AskAll(ctx, w.nodes, func(ctx context.Context, n cluster.Node) (was bool, err error) {
		a := w.fleet.report(ctx, n.ID)
		if a.Err != nil || a.Report.Paused {
			return true, nil // one that is silent was told of by the checks
		}
		return false, w.fleet.ask(ctx, n.ID, func(ctx context.Context, c *api.Client) error { return c.Pause(ctx, order) })
	})
	var failed []string
	for _, a := range answers {
		switch {
		case a.Err != nil:
			failed = append(failed, fmt.Sprintf("%s: %v", named(a.Node), a.Err))
			paused = append(paused, a.Node) // it may have heard
		case !a.Value || w.s.Opt.ForceUnpause:
			paused = append(paused, a.Node)
		}
	}
	if len(failed) > 0 {
		err = fault.New(fault.SwitchoverFail, "failover could not be paused on every node").WithDetail("%s", strings.Join(failed, "; "))
	}
	return paused, err
}

func (w *switching) pauseOrder(bound time.Duration) api.Pause {
	return api.Pause{Paused: true, Reason: fmt.Sprintf("switchover from node %d to node %d", w.from.ID, w.to.ID), Seconds: int(bound.Seconds())}
}

// overBound is how long a command that ends early waits for a step down that goes on.
const overBound = 2 * time.Minute

// awaitOver waits until the former primary's daemon is done, or gone: while it is at work its
// server may have to be started again, and nobody else may be promoted.
func (w *switching) awaitOver(ctx context.Context) error {
	if !w.begun {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, overBound)
	defer cancel()
	if err := w.watch(ctx, func(step *api.StepDown, err error) bool {
		return errors.Is(err, api.ErrNotRunning) || err == nil && (step == nil || step.Over)
	}); err != nil {
		return fault.New(fault.RepmgrdPause, "%s may still be at work, and failover stays paused", named(w.from)).
			WithHint("when \"repmgr cluster show\" shows one primary: \"repmgr service unpause\"")
	}
	return nil
}

// watch looks at what the former primary's daemon says of its step down, or why it says
// nothing, until that is enough. An error says that ctx has ended before.
func (w *switching) watch(ctx context.Context, enough func(*api.StepDown, error) bool) error {
	c, err := w.fleet.client(w.from.ID)
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		look, cancel := context.WithTimeout(ctx, daemonTimeout)
		view, err := c.Status(look)
		cancel()
		if enough(view.StepDown, err) {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(stepEvery):
		}
	}
}

// unpause lets those go on that were paused for the switchover.
func (w *switching) unpause(ctx context.Context, nodes []cluster.Node) {
	for _, a := range registry.AskAll(ctx, nodes, func(ctx context.Context, n cluster.Node) (struct{}, error) {
		return struct{}{}, w.fleet.ask(ctx, n.ID, func(ctx context.Context, c *api.Client) error { return c.Pause(ctx, api.Pause{}) })
	}) {
		if a.Err != nil && !errors.Is(a.Err, api.ErrNotRunning) && !errors.Is(a.Err, errNoEndpoint) {
			w.s.warn(fault.Wrap(a.Err, fault.RepmgrdPause, "failover may still be paused on %s", named(a.Node)).WithHint("\"repmgr service unpause\" ends it"))
		}
	}
}

// stepDown has the primary's daemon begin.
func (w *switching) stepDown(ctx context.Context, c *api.Client, to cluster.NodeID) error {
	err := c.StepDown(ctx, to)
	var said *fault.Error
	switch {
	case errors.As(err, &said):
		return said
	case err != nil:
		w.begun = true
		return fault.Wrap(err, fault.SwitchoverFail, "whether the switchover has begun is not known").WithHint("\"repmgr cluster show\" tells who is the primary")
	}
	w.begun = true
	return nil
}

// awaitStepDown waits until the former primary's daemon says how it went.
func (w *switching) awaitStepDown(ctx context.Context) error {
	var went *api.StepDown
	err := w.watch(ctx, func(step *api.StepDown, err error) bool {
		went = step
		return err == nil && (step == nil || step.Over)
	})
	switch {
	case err != nil:
		return fault.Wrap(err, fault.SwitchoverFail, "the switchover has not come to an end").WithHint("\"repmgr cluster show\" tells how it stands")
	case went == nil:
		return fault.New(fault.SwitchoverFail, "the daemon of %s was restarted, and does not know how far the switchover came", named(w.from)).
			WithHint("\"repmgr cluster show\" tells who is the primary; where nobody is, start the former primary without standby.signal, if node %d was not promoted", w.to.ID)
	}
	return went.Err()
}

// Follow has a node's daemon point its server at another.
func (w *switching) Follow(ctx context.Context, n cluster.Node, upstream cluster.NodeID) error {
	err := w.fleet.ask(ctx, n.ID, func(ctx context.Context, c *api.Client) error { return c.Follow(ctx, upstream) })
	if err != nil {
		return fault.Wrap(err, fault.SwitchoverIncomplete, "%s could not be told to follow node %d", named(n), upstream).
			WithHint("\"repmgr standby follow\" there")
	}
	return nil
}
