package daemon

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"repmgr/internal/failover"
	"repmgr/internal/fault"
	"repmgr/internal/guard"
	"repmgr/internal/host"
)

// guardian keeps a guard beside this daemon and tells it the deadline. Its
// goroutine owns the connection.
type guardian struct {
	d       *Daemon
	changed chan struct{}
	telling sync.Mutex // held from the look at what is wanted until the guard knows it

	mu       sync.Mutex
	wanted   bool          // a guard shall be there
	deadline time.Duration // host.BootTime; zero: none
	stand    bool          // there shall be no deadline
	stood    bool          // and the guard knows
	harmless bool          // the server cannot write
	guard    *guard.Guard
}

func newGuardian(d *Daemon) *guardian { return &guardian{d: d, changed: make(chan struct{}, 1)} }

// cannotWrite says whether the server cannot write, so that a guard which does not answer
// may be replaced. Where it could, a guard may hold the only copy of a deadline.
func (g *guardian) cannotWrite(so bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.harmless = so
}

// mayReplace is asked just before a guard that does not answer is killed, and tells of it.
func (g *guardian) mayReplace() bool {
	g.mu.Lock()
	may := g.harmless && g.stand && g.deadline == 0
	g.mu.Unlock()
	if may {
		g.d.log.Warn("the guard does not answer, and is replaced: the server cannot write")
	}
	return may
}

// want says whether a guard shall be there, and until when the server may live;
// a zero deadline with stand says that nothing limits it.
func (g *guardian) want(wanted bool, deadline time.Duration, stand bool) {
	g.mu.Lock()
	same := g.wanted == wanted && g.deadline == deadline && g.stand == stand
	g.stood = g.stood && same
	g.wanted, g.deadline, g.stand = wanted, deadline, stand
	g.mu.Unlock()
	if !same {
		g.wake()
	}
}

func (g *guardian) wake() {
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

// run keeps the guard until ctx ends. A guard is left alive then: the next
// daemon takes it over, or it does what it is there for.
func (g *guardian) run(ctx context.Context) {
	for ctx.Err() == nil {
		g.mu.Lock()
		wanted := g.wanted
		g.mu.Unlock()
		if wanted {
			if err := g.attend(ctx); err != nil && ctx.Err() == nil {
				g.d.complain(slog.LevelError, fault.Wrap(err, faultOf(err).Code, "the guard"))
				g.d.send(observed{failover.GuardSeen{}})
			}
		}
		select {
		case <-ctx.Done():
		case <-g.changed:
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// first looks for the guard of an earlier life before anything is decided: its
// deadline tells until when that life's lease was sure.
func (g *guardian) first(ctx context.Context) failover.GuardSeen {
	held, err := g.ensure(ctx)
	if err != nil {
		g.d.complain(slog.LevelError, err)
		return failover.GuardSeen{}
	}
	defer held.Close()
	status, err := held.Status(ctx)
	if err != nil {
		g.d.complain(slog.LevelError, err)
		return failover.GuardSeen{}
	}
	return seenOf(status)
}

func seenOf(s guard.Status) failover.GuardSeen {
	seen := failover.GuardSeen{Alive: true}
	if s.Deadline != 0 && !s.Fired {
		seen.Deadline = host.Now().Add(s.Deadline - host.BootTime())
	}
	return seen
}

// attend makes sure that there is a guard, and passes every change of the
// deadline on, until the guard or ctx ends.
func (g *guardian) attend(ctx context.Context) error {
	held, err := g.ensure(ctx)
	if err != nil {
		return err
	}
	defer held.Close()
	status, err := held.Status(ctx)
	if err != nil {
		return err
	}
	if err := g.takeOver(ctx, held); err != nil {
		return err
	}
	g.hold(held)
	defer g.hold(nil)
	g.d.send(observed{seenOf(status)})
	var told time.Duration
	for {
		if told, err = g.tell(ctx, held, told); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-held.Done():
			return fault.New(fault.SysFailure, "the guard is gone").WithDetail("Its process was %d.", held.PID())
		case <-g.changed:
		case <-time.After(g.d.until(askGuardEvery)):
			if _, err := held.Status(ctx); err != nil {
				return err
			}
		}
	}
}

// askGuardEvery is how often a guard that needs to be told nothing is asked whether it
// answers: a standby's is found to hang before its server is promoted.
const askGuardEvery = 10 * time.Second

// takeOver ends the killing of a guard whose deadline has passed: the server is
// armed, so that it may be started again.
func (g *guardian) takeOver(ctx context.Context, held *guard.Guard) error {
	status, err := held.Status(ctx)
	if err != nil || !status.Fired {
		return err
	}
	g.d.log.Warn("the guard ended the server, since its lease was not renewed in time")
	if err := g.d.ownServer().Arm(); err != nil {
		return err
	}
	return held.TakeOver(ctx)
}

// letStart makes sure that the guard does not end a server that is about to be
// started, read-only.
func (g *guardian) letStart(ctx context.Context) error {
	g.mu.Lock()
	held := g.guard
	g.mu.Unlock()
	if held == nil {
		return fault.New(fault.SysFailure, "there is no guard")
	}
	return g.takeOver(ctx, held)
}

func (g *guardian) hold(held *guard.Guard) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.guard = held
}

// tell passes on what is wanted now.
func (g *guardian) tell(ctx context.Context, held *guard.Guard, told time.Duration) (time.Duration, error) {
	g.telling.Lock()
	defer g.telling.Unlock()
	g.mu.Lock()
	deadline, stand := g.deadline, g.stand
	g.mu.Unlock()
	switch {
	case deadline != 0 && deadline <= host.BootTime(): // the daemon ends the server by itself, or has
	case deadline != 0 && deadline != told:
		return deadline, held.Extend(ctx, deadline)
	case deadline == 0 && stand && told != -1:
		err := held.StandDown(ctx)
		g.mu.Lock()
		g.stood = err == nil
		g.mu.Unlock()
		return -1, err
	}
	return told, nil
}

// standsDown reports whether the guard was told that nothing limits the server.
func (g *guardian) standsDown() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.guard == nil || g.stand && g.stood
}

// end ends the guard; it refuses while a deadline runs, and stays.
func (g *guardian) end(ctx context.Context) {
	g.mu.Lock()
	held := g.guard
	g.wanted = false
	g.mu.Unlock()
	if held == nil {
		return
	}
	if err := held.End(ctx); err != nil {
		g.d.log.Info("the guard stays: " + err.Error())
	}
}

// await waits until there is a guard.
func (g *guardian) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		g.mu.Lock()
		held := g.guard
		g.mu.Unlock()
		if held != nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fault.New(fault.SysFailure, "there is no guard")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// extendNow has the guard know the deadline before this returns: a promotion
// must not be ordered earlier, and nothing older may take the deadline away after it.
func (g *guardian) extendNow(ctx context.Context) error {
	g.telling.Lock()
	defer g.telling.Unlock()
	g.mu.Lock()
	held, deadline, stand := g.guard, g.deadline, g.stand
	g.mu.Unlock()
	switch {
	case held == nil:
		return fault.New(fault.SysFailure, "there is no guard")
	case deadline == 0 && stand:
		return nil // the lease has no limit
	case deadline == 0:
		return fault.New(fault.SysFailure, "the lease is not sure")
	}
	return held.Extend(ctx, deadline)
}

// ensure attaches to the guard, or starts one. One that does not answer is replaced where
// the server cannot write: else it stays, and the server is ended for want of a guard.
func (g *guardian) ensure(ctx context.Context) (*guard.Guard, error) {
	cfg := g.d.eyes.cfg.Load()
	o := guard.Options{StateDir: cfg.StateDir(), DataDirectory: cfg.DataDirectory, Watchdog: cfg.WatchdogDevice, Replace: g.mayReplace}
	if exe, err := os.Executable(); err == nil {
		o.Command = []string{exe, guardFlag, o.StateDir, o.DataDirectory, o.Watchdog}
	}
	if f, err := os.OpenFile(filepath.Join(o.StateDir, "guard.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
		defer f.Close() // a guard that is started has its own
		o.Log = f
	}
	return guard.Ensure(ctx, o)
}

// guardFlag makes repmgrd a guard instead: for this daemon's own use.
const guardFlag = "--guard"

// runGuard is the guard's process.
func runGuard(ctx context.Context, args []string, log *os.File) error {
	if len(args) != 3 {
		return fault.New(fault.BadConfig, "%s is for repmgrd's own use", guardFlag)
	}
	return guard.Run(ctx, guard.Options{StateDir: args[0], DataDirectory: args[1], Watchdog: args[2], Log: log})
}
