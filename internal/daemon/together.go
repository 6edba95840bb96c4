package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os/signal"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"repmgr/internal/fault"
)

// One process may be the witness of several clusters: a daemon for each, with a
// file, a state directory, a port and a log line's beginning of its own. They
// share nothing: what breaks one, be it a panic, is that one's alone, and it is
// started again as a service manager would.

// againAfter is how long a daemon that ended waits before it is started again; it
// doubles with each try up to the bound.
const againAfter, againBound = 5 * time.Second, 5 * time.Minute

// together refuses files that cannot be served by one process, before anything
// is started.
func (f *flags) together(all []Options) error {
	if f.pidFile != "" {
		return fault.New(fault.BadConfig, "--pid-file names one file, and there are %d configuration files", len(all)).
			WithHint("Set repmgrd_pid_file in each; by default the file is in the state directory.")
	}
	taken := map[string]string{}
	for i := range all {
		o := &all[i]
		o.Among = true
		cfg, _, err := o.Load()
		if err != nil {
			return fault.Wrap(err, fault.BadConfig, "%s", o.ConfigFile)
		}
		if !cfg.WithoutServer() {
			return fault.New(fault.BadConfig, "%s names a PostgreSQL server, and a server has a repmgrd of its own", o.ConfigFile).
				WithHint("Several files may be given for a witness without PostgreSQL alone: start this one by itself.")
		}
		for _, own := range [][2]string{
			{"state_directory", cfg.StateDir()},
			{"daemon_port", net.JoinHostPort(cfg.DaemonListenAddress, fmt.Sprint(cfg.DaemonPort))},
			{"repmgrd_pid_file", o.PidFile},
		} {
			if own[1] == "-" {
				continue
			}
			if other, found := taken[own[0]+own[1]]; found {
				return fault.New(fault.BadConfig, "%s and %s have the same %s, %s", other, o.ConfigFile, own[0], own[1]).
					WithHint("Each cluster needs its own: set %s in one of them.", own[0])
			}
			taken[own[0]+own[1]] = o.ConfigFile
		}
	}
	return nil
}

// runTogether is the whole life of a repmgrd of several witnesses. It ends when
// it is asked to, or if none of them can be started.
func runTogether(ctx context.Context, all []Options, ready func()) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	first, ends := make(chan error, len(all)), make(chan error, len(all))
	for _, opt := range all {
		var once sync.Once
		told := func(err error) { once.Do(func() { first <- err }) }
		go func() { ends <- keepRunning(ctx, opt, told) }()
	}
	var errs []error
	for range all {
		errs = append(errs, <-first)
	}
	if !slices.Contains(errs, nil) {
		stop()
	} else {
		errs = nil
		_, _ = sd.SdNotify(false, sd.SdNotifyReady) // without systemd there is nobody to tell
		ready()
		<-ctx.Done()
		_, _ = sd.SdNotify(false, sd.SdNotifyStopping)
	}
	for range all {
		errs = append(errs, <-ends)
	}
	return errors.Join(errs...)
}

// keepRunning runs a daemon until ctx ends, again and again if it fails; told is
// how its starts went.
func keepRunning(ctx context.Context, opt Options, told func(error)) error {
	opt.Ready = func() { told(nil) }
	for wait := againAfter; ; wait = min(2*wait, againBound) {
		began := bootTime()
		err := Run(ctx, opt)
		told(err)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if bootTime().Sub(began) > againBound {
			wait = againAfter
		}
		sayFailed(opt, err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// sayFailed tells of a daemon that ended, in its own log if that can be written.
func sayFailed(opt Options, err error) {
	sink := newSink(opt)
	defer sink.close()
	if cfg, _, err := opt.Load(); err == nil {
		_ = sink.configure(cfg, opt.LogLevel) // else standard error is told
	}
	f := faultOf(err)
	d := Daemon{log: slog.New(logHandler{sink: sink})}
	d.complain(slog.LevelError, fault.Wrap(err, f.Code, "repmgrd does not run for this cluster now").WithDetail("%s", f.Detail).WithHint("%s", f.Hint))
}

// contained runs f. Among several daemons in one process a panic of one is its
// error, and ends it alone.
func (d *Daemon) contained(f func() error) (err error) {
	if d.opt.Among {
		defer func() {
			if p := recover(); p != nil {
				d.log.Log(context.Background(), levelCrit, fmt.Sprintf("panic: %v", p), "detail", string(debug.Stack()))
				err = fault.New(fault.Internal, "a defect of repmgrd ended it: %v", p).WithHint("Report it, with the lines of the log that begin with goroutine.")
			}
		}()
	}
	return f()
}
