package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/ops"
	"repmgr/internal/pg"
	"repmgr/internal/raftstore"
	"repmgr/internal/registry"
	"repmgr/internal/server"
)

// Standing is what a switchover by ssh has to know of a node, as repmgr on its host sees it.
type Standing struct {
	Program         string         `json:"program"` // its version
	Node            cluster.NodeID `json:"node_id"`
	SystemID        string         `json:"system_identifier"` // by the control file
	EndOfWAL        string         `json:"end_of_wal,omitempty"`
	Quorum          string         `json:"quorum,omitempty"` // why the quorum rule may be in force
	DaemonRuns      bool           `json:"repmgrd_running"`
	CannotRewind    string         `json:"cannot_rewind,omitempty"`
	StopCommand     string         `json:"stop_command,omitempty"`
	ShutdownTimeout int            `json:"shutdown_check_timeout"` // seconds
	HandOvers       uint64         `json:"hand_overs"`             // serial number of the last switchover by ssh that it has heard of
	Clock           int64          `json:"clock"`                  // CLOCK_BOOTTIME there, milliseconds
	Unable          string         `json:"unable,omitempty"`       // why repmgr cannot do its work there
	Refused         string         `json:"refused,omitempty"`      // why an order was not begun: nothing was changed

	heard time.Time     // when it was
	took  time.Duration // to hear it
}

// standing looks at this node without its server's help. A node that the quorum rule has ever
// touched is told of, whatever its daemon says now.
func (s *Session) standing(ctx context.Context) *Standing {
	cfg := s.Conf
	at := &Standing{Program: cluster.Version, Node: cfg.NodeID, ShutdownTimeout: int(cfg.ShutdownCheckTimeout.Seconds())}
	defer func() { at.Clock = host.BootTime().Milliseconds() }()
	at.Quorum = rememberedRule(cfg.StateDir())
	view, err := s.localView(ctx, daemonTimeout)
	if err == nil && view.Own.PromotionRule == "quorum" {
		at.Quorum = "its daemon says so"
	}
	if at.DaemonRuns = !errors.Is(err, api.ErrNotRunning); !at.DaemonRuns {
		if at.DaemonRuns, err = daemonRuns(cfg.StateDir(), cfg.DataDirectory); err != nil {
			at.Unable = err.Error()
		}
	}
	if cfg.WithoutServer() {
		return at
	}
	s.standingOfServer(ctx, at)
	return at
}

// standingOfServer looks at the data directory, and at what this host remembers of switchovers.
func (s *Session) standingOfServer(ctx context.Context, at *Standing) {
	cfg := s.Conf
	handed, err := readHandedOver(cfg.StateDir())
	if err != nil {
		at.Unable = err.Error()
	}
	at.HandOvers = handed.Serial
	if info, err := os.Stat(cfg.DataDirectory); err != nil {
		at.Unable = err.Error()
	} else if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != os.Getuid() {
		at.Unable = fmt.Sprintf("%s belongs to the user %d, and it is run as %d", cfg.DataDirectory, owner, os.Getuid())
	}
	if err := writable(cfg.StateDir()); err != nil {
		at.Unable = err.Error()
	}
	control, err := pg.ReadControl(ctx, cfg.PgBindir, cfg.DataDirectory)
	if err != nil {
		at.Unable = err.Error()
		return
	}
	at.SystemID = control.SystemID
	if signalled, err := pg.HasStandbySignal(cfg.DataDirectory); err != nil {
		at.Unable = err.Error()
	} else if signalled && handed.Begun && control.State == "in production" {
		at.Unable = "a switchover by ssh was broken off and has left standby.signal: run there \"repmgr node service --action=start --take-back\""
	} else if signalled && control.State == "in production" {
		at.Quorum = "standby.signal lies in the primary's data directory, where the daemons put it under the quorum rule"
	}
	if err := server.CanRewind(control); err != nil {
		at.CannotRewind = err.Error()
	} else if _, err := pg.FindTool(cfg.PgBindir, cfg.DataDirectory, "pg_rewind"); err != nil {
		at.CannotRewind = err.Error()
	}
	commands, err := s.serviceCommands()
	if err != nil {
		at.Unable = err.Error()
	}
	for _, c := range commands {
		if c[0] == "stop" {
			at.StopCommand = c[1]
		}
	}
}

// writable tells why no file can be made in a directory, or the directory itself.
func writable(dir string) error {
	err := unix.Access(dir, unix.W_OK|unix.X_OK)
	if errors.Is(err, fs.ErrNotExist) {
		dir = filepath.Dir(dir)
		err = unix.Access(dir, unix.W_OK|unix.X_OK)
	}
	if err != nil {
		return fmt.Errorf("state directory: %s: %w", dir, err)
	}
	return nil
}

// rememberedRule says why the quorum rule may be in force by what a daemon has left in its
// state directory; "" if nothing says so.
func rememberedRule(stateDir string) string {
	quorum, err := registry.RememberedQuorum(stateDir)
	switch {
	case err != nil:
		return "what its daemon remembers cannot be read: " + err.Error()
	case quorum:
		return "its daemon remembers it"
	}
	_, remembers := os.Stat(filepath.Join(stateDir, "cluster.json"))
	if _, err := os.Stat(filepath.Join(stateDir, raftstore.FileName)); remembers != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Sprintf("there is a record of the daemons' group in %s, and nothing that says by which rule", stateDir)
	}
	return ""
}

// daemonRuns tells whether a daemon holds its lock on one of these directories. One that hangs
// holds it too, and one that is about to start.
func daemonRuns(stateDir, dataDir string) (bool, error) {
	for _, path := range []string{filepath.Join(stateDir, "lock"), dataDir} {
		if path == "" {
			continue
		}
		if locked, err := host.Locked(path); err != nil || locked {
			return locked, err
		}
	}
	return false, nil
}

const (
	handOverMargin  = 30 * time.Second // what the stop of a server may take beyond shutdown_check_timeout
	recoveredWithin = 10 * time.Minute // a start, where what did not stop in order was ended
)

// handedOver is what this host remembers of switchovers by ssh, in its state directory.
type handedOver struct {
	Format int `json:"format"`
	ops.HandOver
	Nodes []cluster.Node `json:"nodes"` // as they were registered before the stop: who may take writes now
}

// handOverFormat is that of handedOver.
const handOverFormat = 1

func handOverFile(stateDir string) string { return filepath.Join(stateDir, "handover.json") }

func readHandedOver(stateDir string) (h handedOver, err error) {
	text, err := os.ReadFile(handOverFile(stateDir))
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &h)
	}
	if err == nil && h.Format != handOverFormat {
		err = fmt.Errorf("it is of format %d, and this program knows %d", h.Format, handOverFormat)
	}
	if err != nil {
		return handedOver{}, fault.Wrap(err, fault.SwitchoverFail, "what is remembered of switchovers cannot be read: %s", handOverFile(stateDir))
	}
	return h, nil
}

// handing is an order of a switchover by ssh that is carried out on the primary's host. Orders
// exclude each other, so that one that follows a lost session waits for what that has begun.
type handing struct {
	s     *Session
	own   server.Own
	order ops.HandOverOrder
	was   handedOver // before the order
	now   handedOver // with it
}

// takeOrder waits for its turn and looks whether the order counts still. Nothing is changed yet.
func (s *Session) takeOrder(ctx context.Context, order ops.HandOverOrder) (g *handing, end func(), err error) {
	governed, err := s.governed(ctx)
	if why := rememberedRule(s.Conf.StateDir()); err != nil || governed || why != "" {
		return nil, nil, fault.New(fault.SwitchoverFail, "the quorum rule is in force, or may be: the daemons carry a switchover out").WithDetail("%s", why)
	}
	end, err = s.lockHandOver(ctx)
	if err != nil {
		return nil, nil, err
	}
	g = &handing{s: s, own: server.Own{Config: s.Conf}, order: order}
	if g.was, err = readHandedOver(s.Conf.StateDir()); err == nil {
		if order.Number == 0 {
			g.order = g.was.ByHand()
		}
		g.now = g.was
		g.now.HandOver, err = g.was.Take(g.order, host.BootTime())
	}
	if err != nil {
		end()
		return nil, nil, err
	}
	return g, end, nil
}

// keep makes last what is remembered now.
func (g *handing) keep() error {
	g.now.Format = handOverFormat
	text, err := json.MarshalIndent(g.now, "", "  ")
	if err != nil {
		return err
	}
	return host.WriteFileDurable(handOverFile(g.s.Conf.StateDir()), text, 0o600)
}

// keepIfPossible is of what is not worth a primary that stays stopped for a full disk: the stop was
// kept, which no later order begins again.
func (g *handing) keepIfPossible() {
	if err := g.keep(); err != nil {
		g.s.warn(err)
	}
}

// handOver is the first order: it stops the primary, after which whatever starts the server
// brings it up read-only. What it has begun it takes back if it fails, or if nobody hears it.
func (s *Session) handOver(ctx context.Context) error {
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP) // a session that is gone is an error of the answer's writing
	ctx, cancel := context.WithTimeout(ctx, s.Conf.ShutdownCheckTimeout+handOverMargin)
	defer cancel()
	g, end, err := s.takeOrder(ctx, s.Opt.HandOver)
	if err == nil {
		defer end()
		err = g.begin(ctx)
	}
	if err != nil {
		return s.Result(ShutdownState{Version: 1, State: "UNKNOWN", Standing: &Standing{Program: cluster.Version, Node: s.Conf.NodeID, Refused: inOneLine(err)}})
	}
	answer, err := g.stopReadOnly(ctx)
	if err == nil {
		err = s.Result(answer) // who cannot hear it does not promote
	}
	if err != nil {
		return errors.Join(err, g.takeBack(context.WithoutCancel(ctx)))
	}
	return nil
}

// begin remembers that this switchover stops the server, which has to be a primary that runs and
// that no other one has stopped.
func (g *handing) begin(ctx context.Context) (err error) {
	if g.now.Nodes, err = g.runningPrimary(ctx); err != nil {
		return err
	}
	g.now.Begun = true
	return g.keep()
}

// runningPrimary returns the records, as the own server has them, if that runs as the primary and
// is started as one again.
func (g *handing) runningPrimary(ctx context.Context) ([]cluster.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c, err := g.s.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer registry.Close(c)
	p, err := c.Progress(ctx)
	if err != nil {
		return nil, err
	}
	control, err := pg.ReadControl(ctx, g.s.Conf.PgBindir, g.s.Conf.DataDirectory)
	if err != nil {
		return nil, err
	}
	signalled, err := pg.HasStandbySignal(g.s.Conf.DataDirectory)
	if err == nil && (p.InRecovery || signalled || control.State != "in production") {
		err = fault.New(fault.SwitchoverFail, "the server is no primary that may be stopped").
			WithDetail("In recovery: %t; standby.signal: %t; its control file says %q.", p.InRecovery, signalled, control.State)
	}
	if err != nil {
		return nil, err
	}
	return registered(ctx, c)
}

// stopReadOnly stops the primary in order, and says where its WAL ends.
func (g *handing) stopReadOnly(ctx context.Context) (none ShutdownState, err error) {
	limit, cancel := context.WithTimeout(ctx, g.s.Conf.ShutdownCheckTimeout)
	defer cancel()
	postmaster, err := g.own.Postmaster()
	if err != nil {
		return none, err
	}
	defer postmaster.Close()
	if err := g.own.Arm(); err != nil {
		return none, err
	}
	if host.BootTime() > g.order.Before {
		return none, fault.New(fault.SwitchoverFail, "the order to stop the primary took too long to begin")
	}
	if err := g.own.Stop(limit, pg.Fast); err != nil {
		return none, fault.Wrap(err, fault.SwitchoverFail, "the primary was not stopped in order within shutdown_check_timeout")
	}
	end, err := g.own.LastRecord(ctx)
	if err != nil {
		return none, err
	}
	select {
	case <-postmaster.Done():
	case <-limit.Done():
		return none, fault.Wrap(limit.Err(), fault.SwitchoverFail, "the server that ended is not the one that ran")
	}
	if err := g.own.Arm(); err != nil { // a promotion meanwhile takes the signal away
		return none, err
	}
	if err := g.ended(ctx, end.LSN); err != nil {
		return none, err
	}
	state, lsn := stateOfServer(ctx, g.s)
	if state != "SHUTDOWN" {
		return none, fault.New(fault.SwitchoverFail, "the primary was stopped, and is said to be %s", state)
	}
	g.now.End = end.LSN
	return g.answer(lsn), errors.Join(g.keep(), g.watch())
}

// watch has a process that outlives the session take the stop back, if no other order comes in
// time: the command that has ordered it may be killed. Its own order is the next one, which the
// question before the promotion makes void.
func (g *handing) watch() error {
	cfg := g.s.Conf
	after := 2 * cfg.WalReceiveCheckTimeout
	order := g.order
	order.Number++
	order.Before = host.BootTime() + after + 2*(cfg.ShutdownCheckTimeout+handOverMargin)
	err := detached(filepath.Join(cfg.StateDir(), "handover.log"), "", g.s.Executable, "-f", g.s.ConfPath, "node", "service", "--action=start",
		"--take-back="+order.String(), fmt.Sprintf("--after=%d", int(after.Seconds())))
	if err != nil {
		return fault.Wrap(err, fault.SwitchoverFail, "nobody would take the stop back if the switchover were broken off")
	}
	return nil
}

// ended makes sure that the server is as this switchover has left it: its WAL ends there, nobody
// works in its directory, and whatever starts it brings it up read-only.
func (g *handing) ended(ctx context.Context, end cluster.LSN) error {
	same, err := g.own.Ended(ctx, end)
	running, listed := host.Processes(g.s.Conf.DataDirectory)
	if err = errors.Join(err, listed); err != nil || !same || len(running) > 0 {
		return fault.Wrap(err, fault.SwitchoverFail, "the primary is not as it was stopped, with its WAL up to %s: something has started it", end).
			WithDetail("%d processes work in its directory.", len(running))
	}
	return nil
}

// answer says where the server's WAL ends.
func (g *handing) answer(checkpoint cluster.LSN) ShutdownState {
	return ShutdownState{Version: 1, State: "SHUTDOWN", Checkpoint: checkpoint.String(),
		Standing: &Standing{Program: cluster.Version, Node: g.s.Conf.NodeID, EndOfWAL: g.now.End.String()}}
}

// handedOverStill is the order just before the promotion: it makes sure that the server is still
// stopped, and for this switchover. Nothing but an order takes that back from here on.
func (s *Session) handedOverStill(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	g, end, err := s.takeOrder(ctx, s.Opt.HandOver)
	if err != nil {
		return err
	}
	defer end()
	if g.was.HandOverID != g.order.HandOverID || !g.now.Begun || g.now.End == 0 {
		return fault.New(fault.SwitchoverFail, "the primary is not stopped for this switchover any more")
	}
	if err := g.ended(ctx, g.now.End); err != nil {
		return err
	}
	g.now.Confirmed = host.BootTime()
	if err := g.keep(); err != nil {
		return err
	}
	_, lsn := stateOfServer(ctx, s)
	return s.Result(g.answer(lsn))
}

// handBack takes a stop back. A switchover that has stopped nothing here is not begun any more
// after that, however late its order to stop comes.
func (s *Session) handBack(ctx context.Context) error {
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP) // what is begun is done, though nobody listens any more
	if s.Opt.After > 0 && !s.nothingComes(ctx, s.Opt.TakeBack, s.Opt.After) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 3*(s.Conf.ShutdownCheckTimeout+handOverMargin))
	defer cancel()
	g, end, err := s.takeOrder(ctx, s.Opt.TakeBack)
	if err != nil {
		return err
	}
	defer end()
	if g.was.Begun && g.was.HandOverID != g.order.HandOverID {
		if _, err := g.runningPrimary(ctx); err != nil {
			return fault.Wrap(err, fault.SwitchoverFail, "the server was stopped for another switchover")
		}
	}
	switch {
	case !g.now.Begun && g.order.Before == 0:
		return fault.New(fault.SwitchoverFail, "no switchover by ssh has stopped this server, or it was taken back")
	case !g.now.Begun:
		return g.keep()
	}
	g.keepIfPossible() // orders before this one count no more, whatever comes of it
	return g.takeBack(context.WithoutCancel(ctx))
}

// nothingComes waits that long, and tells whether no order came after the one before this.
func (s *Session) nothingComes(ctx context.Context, order ops.HandOverOrder, after time.Duration) bool {
	for until := host.BootTime() + after; host.BootTime() < until && ctx.Err() == nil; time.Sleep(200 * time.Millisecond) {
		h, err := readHandedOver(s.Conf.StateDir())
		if err == nil && (h.HandOverID != order.HandOverID || h.Number >= order.Number || !h.Begun) {
			return false
		}
	}
	return ctx.Err() == nil
}

// takeBack makes the server the primary that it was: one that runs as such is left alone, and
// what is in the middle of its end is ended. It is done only as long as nobody else takes writes.
func (g *handing) takeBack(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, recoveredWithin)
	defer cancel()
	if err := g.alone(ctx); err != nil {
		return err
	}
	runs, err := g.stillPrimary(ctx)
	if err != nil {
		return err
	}
	if !runs {
		if err := g.own.Kill(ctx); err != nil {
			return err
		}
	}
	if err := g.own.Disarm(); err != nil {
		return err
	}
	if !runs {
		err := g.own.Start(ctx)
		if err == nil { // a recovery takes its time
			err = g.alone(ctx)
		}
		if err != nil {
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), handOverMargin)
			defer cancel()
			return errors.Join(err, g.own.Kill(end)) // it is armed again
		}
	}
	g.now.Begun, g.now.Confirmed, g.now.End = false, 0, 0
	g.keepIfPossible()
	how := "was started again"
	if runs {
		how = "was not stopped"
	}
	g.s.Talk.Notice("nothing came of switchover %d: this server is the primary as before, and %s", g.order.Serial, how)
	return nil
}

// stillPrimary tells whether the server was not stopped. One that is neither a primary nor was
// stopped as one by this switchover is an error: it is a standby now.
func (g *handing) stillPrimary(ctx context.Context) (bool, error) {
	control, err := pg.ReadControl(ctx, g.s.Conf.PgBindir, g.s.Conf.DataDirectory)
	if err != nil {
		return false, err
	}
	armed, err := g.own.Armed()
	if err != nil {
		return false, err
	}
	if wasPrimary := slices.Contains([]string{"in production", "shutting down", "shut down"}, control.State); !armed && !wasPrimary {
		return false, fault.New(fault.SwitchoverFail, "the server is no primary that was stopped for a switchover: its control file says %q", control.State)
	}
	info, err := g.s.Conninfo()
	if err != nil || control.State != "in production" || pg.Ping(ctx, info) != pg.Accepting {
		return false, err
	}
	control, err = pg.ReadControl(ctx, g.s.Conf.PgBindir, g.s.Conf.DataDirectory)
	return err == nil && control.State == "in production", err // it may have been started read-only in between
}

// alone makes sure that no other node takes writes. Who takes a stop back by hand, or for a command
// that was killed, has no other word for that than the nodes' own: each has to answer.
func (g *handing) alone(ctx context.Context) error {
	for _, a := range registry.AskAll(ctx, g.now.Nodes, func(ctx context.Context, n cluster.Node) (bool, error) {
		if n.ID == g.s.Conf.NodeID || n.Role == cluster.Witness {
			return false, nil
		}
		return writes(ctx, n)
	}) {
		switch {
		case a.Value:
			return fault.New(fault.SwitchoverFail, "%s takes writes: this server stays stopped", named(a.Node)).WithHint("\"repmgr node rejoin\" makes it a standby")
		case a.Err != nil && a.Node.Active && (g.order.Before == 0 || g.s.Opt.After > 0):
			return fault.Wrap(a.Err, fault.SwitchoverFail, "whether %s takes writes is not known", named(a.Node)).
				WithHint("if it never will, remove standby.signal from %s and start the server", g.s.Conf.DataDirectory)
		}
	}
	return nil
}

// lockHandOver waits until no other command hands this node's server over.
func (s *Session) lockHandOver(ctx context.Context) (unlock func(), err error) {
	dir := s.Conf.StateDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.Wrap(err, fault.BadConfig, "the state directory cannot be made")
	}
	f, err := os.OpenFile(filepath.Join(dir, "handover.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fault.Wrap(err, fault.BadConfig, "the state directory cannot be used")
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fault.Wrap(err, fault.SwitchoverFail, "another command hands this node's server over")
		case <-time.After(100 * time.Millisecond):
		}
	}
}
