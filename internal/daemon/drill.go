package daemon

import (
	"context"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/record"
)

// startAgainBound is how long the start of a server may take after a drill's fault.
const startAgainBound = 2 * time.Minute

// drillView is what the daemon knows, and when that was.
type drillView struct {
	view *failover.View
	at   time.Time
}

// Drill asks the brain what each single fault would lead to. It thinks on the
// caller's goroutine, one caller at a time, so that the loop goes on.
func (b backend) Drill(ctx context.Context, pairs bool) (api.Drill, error) {
	reply := make(chan drillView, 1)
	if err := b.ask(ctx, drilling{reply}); err != nil {
		return api.Drill{}, err
	}
	known, err := await(ctx, reply)
	if err != nil {
		return api.Drill{}, err
	}
	b.d.drills.Lock()
	defer b.d.drills.Unlock()
	if ctx.Err() != nil {
		return api.Drill{}, ctx.Err()
	}
	return api.Drill{Rule: failover.RuleOf(known.view, known.at), Outcomes: failover.Drills(known.view, known.at, pairs)}, nil
}

// Fault ends the own server as a crash would, or starts a standby's again. Nothing
// else is told of it: what follows must be what follows a crash.
func (b backend) Fault(ctx context.Context, what api.Fault) error {
	cfg, seen := b.d.eyes.cfg.Load(), b.d.shared.load()
	if cfg.WithoutServer() {
		return fault.New(fault.BadConfig, "node %d has no server that could fail", cfg.NodeID)
	}
	if what == api.FaultCrash {
		if seen.local.State != failover.ServerRunning {
			return fault.New(fault.NodeStatus, "the server of node %d is %s, and cannot crash", cfg.NodeID, seen.local.State)
		}
		b.d.log.Warn("drill: every process of the own server is ended, as an operator asked", "detail", cfg.DataDirectory)
		return host.KillAll(ctx, cfg.DataDirectory)
	}
	if seen.local.State != failover.ServerCrashed || !seen.local.Armed {
		return fault.New(fault.NodeStatus, "the server of node %d is %s, and is not started", cfg.NodeID, seen.local.State).
			WithDetail("Only one that crashed and comes up read-only is started after a drill; standby.signal is there: %v.", seen.local.Armed)
	}
	b.d.goes(func() { b.d.startAgain(seen.report.PromotionRule == record.Quorum) })
	return nil
}

// startAgain starts the own server after a drill.
func (d *Daemon) startAgain(guarded bool) {
	ctx, cancel := context.WithTimeout(context.Background(), startAgainBound)
	defer cancel()
	var err error
	if guarded {
		err = d.guardian.letStart(ctx)
	}
	if err == nil {
		err = d.ownServer().Start(ctx)
	}
	if err != nil {
		d.log.Error("drill: the own server could not be started again: " + err.Error())
	}
	d.eyes.kick()
}
