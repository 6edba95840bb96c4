// Package daemon is repmgrd: eyes that turn the outside into facts, one loop
// that owns the brain's view and asks it for decisions, and hands that carry
// them out. It owns the goroutines and the clock. See DESIGN.md.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/conf"
	"repmgr/internal/fault"
)

// Options are repmgrd's flags, apart from those that main carries out itself.
type Options struct {
	Load       func() (*conf.Config, []conf.Warning, error) // reads the configuration file
	ConfigFile string                                       // absolute path, for messages and for what is run
	PidFile    string                                       // overrides repmgrd_pid_file; "-": none
	LogLevel   string                                       // overrides log_level
	History    bool                                         // -m: monitoring_history on
	Ready      func()                                       // called once when the daemon watches; nil: nobody asks
	Among      bool                                         // other daemons run in this process: see together.go
}

// Daemon is one running repmgrd. All its fields but those in "shared" belong to
// the goroutine of the loop, or never change after New.
type Daemon struct {
	opt  Options
	cfg  *conf.Config
	sink *logSink
	log  *slog.Logger

	incarnation uint64
	began       time.Time
	in          chan message // to the loop
	wake        chan struct{}
	loop        loopState
	eyes        *eyes
	peers       *peers
	voices      *voices
	notifier    *notifier
	reaching    *reaching
	quorum      *group
	ending      ending
	sealed      sealedSession
	ready       readySession
	summons     chan struct{} // to keepReady
	asked       readySession  // for the questions of operators
	senders     readySession  // for the looks at the standbys that are waited for
	asking      chan struct{} // held by who asks in it
	guardian    *guardian
	syncing     sync.Mutex // held while synchronous_standby_names is written
	promoting   sync.Mutex // held while a promotion is ordered, or an order taken back
	drills      sync.Mutex // held while a drill is thought through
	server      *api.Server
	state       *stateDir
	pidFile     string
	leaving     atomic.Bool // it pauses the cluster, and ends
	diskFull    atomic.Bool // a write of this daemon's own was refused for want of room
	fail        context.CancelCauseFunc

	cleanups []cleanup
	group    sync.WaitGroup
	shared   shared
}

// cleanup is one step of the way back; they run last first.
type cleanup struct {
	name string
	do   func() error
}

func faultOf(err error) *fault.Error {
	var f *fault.Error
	if errors.As(err, &f) {
		return f
	}
	return &fault.Error{Code: fault.Internal, Msg: "unexpected", Err: err}
}

// Run is the whole life of a repmgrd: it returns when ctx ends or a signal asks
// it to stop, or with the reason why it cannot run. The code of the error is
// the exit status.
func Run(ctx context.Context, opt Options) error {
	asked, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	// A log that goes to a pipe whose reader is gone must not end the daemon. A
	// handler, not ignoring: that would be passed on to the commands that are run.
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, syscall.SIGPIPE)
	defer signal.Stop(pipe)
	d, err := New(opt)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	go func() {
		select {
		case <-asked.Done():
			d.leave(ctx)
			cancel(context.Cause(asked))
		case <-ctx.Done():
		}
	}()
	if err := d.contained(func() error { return d.Start(ctx, cancel) }); err != nil {
		cancel(err)
		return errors.Join(err, d.Stop())
	}
	for {
		select {
		case <-hup:
			if err := d.contained(func() error { d.reload(); return nil }); err != nil {
				cancel(err)
			}
		case <-ctx.Done():
			cause := context.Cause(ctx)
			var reason *fault.Error // of fail; a signal's cause is another error
			failed := errors.As(cause, &reason)
			d.notice("repmgrd ends", "detail", cause.Error())
			d.announce(event{name: "repmgrd_shutdown", failed: failed, details: cause.Error()})
			if err := d.Stop(); err != nil || !failed {
				return err
			}
			return reason
		}
	}
}

// New reads the configuration and takes what only one daemon may have: the log,
// the state directory and the PID file. A failure leaves nothing behind.
func New(opt Options) (*Daemon, error) {
	cfg, warnings, err := opt.Load()
	if err != nil {
		return nil, err
	}
	d := &Daemon{opt: opt, cfg: cfg, sink: newSink(opt), incarnation: rand.Uint64(), began: bootTime(), in: make(chan message, 256), wake: make(chan struct{}, 1), asking: make(chan struct{}, 1), summons: make(chan struct{}, 1)}
	if opt.History {
		cfg.MonitoringHistory = true
	}
	if err := d.sink.configure(cfg, opt.LogLevel); err != nil {
		return nil, err
	}
	d.log = slog.New(logHandler{sink: d.sink})
	d.onStop("log", d.sink.close)
	for _, w := range warnings {
		d.log.Warn(w.String())
	}
	if err := d.contained(d.open); err != nil {
		return nil, errors.Join(err, d.Stop())
	}
	return d, nil
}

// open takes the state directory and what is in it.
func (d *Daemon) open() (err error) {
	if d.state, err = openStateDir(d.cfg.StateDir()); err != nil {
		return err
	}
	d.onStop("state directory", d.state.close)
	if err := d.lockData(); err != nil {
		return err
	}
	if err := d.takePidFile(); err != nil {
		return err
	}
	d.eyes = newEyes(d)
	d.peers = newPeers(d)
	d.voices = newVoices(d)
	d.notifier = newNotifier(d)
	d.reaching = newReaching(d)
	d.guardian = newGuardian(d)
	if d.quorum, err = openGroup(d); err != nil {
		return err
	}
	if err := d.voices.adopt(); err != nil {
		return err
	}
	d.loop = newLoopState(d)
	return nil
}

func (d *Daemon) onStop(name string, do func() error) {
	d.cleanups = append(d.cleanups, cleanup{name, do})
}

// goes runs f in a goroutine that Stop waits for.
func (d *Daemon) goes(f func()) {
	d.group.Add(1)
	go func() {
		defer d.group.Done()
		if err := d.contained(func() error { f(); return nil }); err != nil {
			go d.drain()
			d.fail(err)
		}
	}()
}

// Start listens, then watches and decides until ctx ends; fail ends it early.
func (d *Daemon) Start(ctx context.Context, fail context.CancelCauseFunc) error {
	d.fail = fail
	if err := d.eyes.first(ctx); err != nil {
		return err
	}
	if err := d.listen(fail); err != nil {
		return err
	}
	d.notice(fmt.Sprintf("repmgrd %s watches node %q (ID: %d)", version(), d.cfg.NodeName, d.cfg.NodeID), "detail", fmt.Sprintf("configuration %s, daemons on port %d", d.opt.ConfigFile, d.cfg.DaemonPort))
	if err := d.takeUpGroup(ctx); err != nil {
		return err
	}
	d.goes(func() { d.quorum.run(ctx) })
	d.goes(func() { d.guardian.run(ctx) })
	d.goes(func() { d.watchWrites(ctx) })
	d.goes(func() { d.watchSweeps(ctx) })
	d.goes(func() { d.runLoop(ctx, fail) })
	d.goes(func() { d.eyes.watchLocal(ctx) })
	d.goes(func() { d.peers.run(ctx) })
	d.goes(func() { d.notifier.run() })
	d.goes(func() { d.reaching.run(ctx) })
	d.goes(func() { d.keepReady(ctx) })
	d.goes(func() { d.beat(ctx) })
	if d.opt.Ready != nil {
		d.opt.Ready()
	}
	return nil
}

// listen opens the Unix socket and the port for the other daemons.
func (d *Daemon) listen(fail context.CancelCauseFunc) error {
	d.server = api.NewServer(api.Options{Backend: backend{d}, Log: d.log})
	unix, err := api.ListenUnix(d.cfg.StateDir())
	if err != nil {
		return err
	}
	address := net.JoinHostPort(d.cfg.DaemonListenAddress, fmt.Sprint(d.cfg.DaemonPort))
	tcp, err := net.Listen("tcp", address)
	if err != nil {
		unix.Close()
		return fault.Wrap(err, fault.BadConfig, "repmgrd cannot listen on %s", address).
			WithHint("Another program may use the port: set daemon_port and daemon_listen_address, then register the node again with --force.")
	}
	d.onStop("server", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		return d.server.Shutdown(ctx)
	})
	serve := func(err error) {
		if err != nil && !errors.Is(err, net.ErrClosed) {
			fail(fault.Wrap(err, fault.SysFailure, "repmgrd cannot serve"))
		}
	}
	d.goes(func() { serve(d.server.ServeUnix(unix)) })
	d.goes(func() { serve(d.server.ServeTCP(tcp, d.peers.serverTLS)) })
	return nil
}

// Stop ends what Start began, in the reverse order, after the context is done.
func (d *Daemon) Stop() error {
	if d.notifier != nil {
		d.notifier.close()
	}
	var errs []error
	for i := len(d.cleanups) - 1; i >= 0; i-- {
		c := d.cleanups[i]
		if c.name == "state of the group" {
			d.group.Wait() // nobody may use it any more
		}
		if err := c.do(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.name, err))
		}
	}
	d.cleanups = nil
	return errors.Join(errs...)
}

// reload reads the configuration anew; on any error the old one stays in force.
func (d *Daemon) reload() {
	cfg, warnings, err := d.opt.Load()
	if err != nil {
		d.complain(slog.LevelError, fault.Wrap(err, fault.BadConfig, "the configuration was not reloaded").WithDetail("The former values stay in force."))
		return
	}
	for _, w := range warnings {
		d.log.Warn(w.String())
	}
	if d.opt.History {
		cfg.MonitoringHistory = true
	}
	if cfg.WithoutServer() != d.cfg.WithoutServer() || cfg.NodeID != d.cfg.NodeID || cfg.NodeName != d.cfg.NodeName || cfg.StateDir() != d.cfg.StateDir() {
		d.log.Error("node_id, node_name, data_directory and state_directory cannot change while repmgrd runs; nothing was reloaded")
		return
	}
	if err := d.sink.configure(cfg, d.opt.LogLevel); err != nil {
		d.complain(slog.LevelError, err)
		return
	}
	d.send(reloaded{cfg})
}
