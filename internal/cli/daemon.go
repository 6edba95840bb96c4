package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"repmgr/internal/api"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/pg"
)

const (
	daemonProgram = "repmgrd"
	daemonWait    = 15 * time.Second       // for its start or its end, as repmgr 5 waits
	daemonPoll    = 200 * time.Millisecond // between two looks
	daemonCommand = 2 * time.Minute        // bound of the command that starts or stops it
)

// daemonVerbs are the actions on this node's repmgrd itself.
func daemonVerbs() []verb {
	return []verb{{
		name:  "daemon start",
		short: "start the repmgrd of this node",
		long: `Runs repmgrd_service_start_command, or where that is not set the repmgrd beside this program, with the same configuration file, which goes into the background. The server need not run: a repmgrd that has seen its cluster before waits for it.

It waits until the daemon answers: for 15 seconds, or as long as --wait says; --no-wait and --wait=0 end it at once. Ends with 27 if the daemon runs already, if the command fails, or if the daemon does not answer in time.`,
		example: `repmgr -f /etc/repmgr.conf daemon start --dry-run
repmgr -f /etc/repmgr.conf daemon start --wait=60`,
		options: []string{"dry-run", "wait", "no-wait"},
		changes: true,
		run:     daemonStart,
	}, {
		name:  "daemon stop",
		short: "stop the repmgrd of this node",
		long: `Runs repmgrd_service_stop_command, or where that is not set sends SIGTERM to the daemon. PostgreSQL is left alone; under the quorum rule the daemon of the primary pauses the cluster before it ends, until it is started again. A repmgrd that is the witness of several clusters ends for all of them.

It waits for the end: for 15 seconds, or as long as --wait says; --no-wait and --wait=0 end it at once. Ends with 27 if no daemon runs, if the command fails, or if the daemon still runs then. A daemon that systemd has started is only stopped by repmgrd_service_stop_command, since systemd would start it again.`,
		example: `repmgr -f /etc/repmgr.conf daemon stop --dry-run
repmgr -f /etc/repmgr.conf daemon stop`,
		options: []string{"dry-run", "wait", "no-wait"},
		changes: true,
		run:     daemonStop,
	}}
}

// localDaemon tells whether this node's repmgrd runs, and its process number: zero
// where that is not known, since it does not answer and there is no PID file.
func (s *Session) localDaemon(ctx context.Context) (pid int, runs bool) {
	view, err := s.localView(ctx, daemonTimeout)
	if errors.Is(err, api.ErrNotRunning) {
		return 0, false
	}
	if err == nil && view.Own.PID != 0 {
		return view.Own.PID, true
	}
	text, err := os.ReadFile(s.Conf.PidFile())
	if err != nil {
		return 0, true
	}
	pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
	return pid, true
}

// daemonPatience is how long to wait for the daemon; zero: not at all.
func (s *Session) daemonPatience() time.Duration {
	switch {
	case s.Opt.NoWait:
		return 0
	case s.Opt.Wait == Unlimited:
		return daemonWait
	}
	return time.Duration(s.Opt.Wait) * time.Second
}

func daemonStart(ctx context.Context, s *Session) error {
	if pid, runs := s.localDaemon(ctx); runs {
		return fault.New(fault.RepmgrdService, "repmgrd runs already on this node").WithDetail("%s", process(pid)).
			WithHint("\"repmgr service status\" shows it; \"repmgr daemon stop\" ends it")
	}
	line, err := s.daemonLine()
	if err != nil {
		return err
	}
	if s.Opt.DryRun {
		s.Talk.Info("would execute \"%s\"", line)
		return nil
	}
	if err := s.daemonCommand(ctx, line); err != nil {
		return err
	}
	patience := s.daemonPatience()
	if patience == 0 {
		return nil
	}
	for until := time.Now().Add(patience); ; time.Sleep(daemonPoll) {
		if view, err := s.localView(ctx, daemonTimeout); err == nil {
			s.Talk.Notice("repmgrd runs; %s", process(view.Own.PID))
			return nil
		}
		if time.Now().After(until) || ctx.Err() != nil {
			return fault.New(fault.RepmgrdService, "repmgrd does not answer %s after it was started", patience).
				WithHint("its log says why (log_file in repmgr.conf); --wait=SECONDS waits longer")
		}
	}
}

// daemonLine is the command that starts this node's daemon.
func (s *Session) daemonLine() (string, error) {
	if line := s.Conf.RepmgrdServiceStartCommand; line != "" {
		return line, nil
	}
	program := filepath.Join(filepath.Dir(s.Executable), daemonProgram)
	if _, err := os.Stat(program); err != nil {
		return "", fault.Wrap(err, fault.RepmgrdService, "there is no repmgrd beside this program").
			WithHint("set repmgrd_service_start_command in %s", s.ConfPath)
	}
	return pg.QuoteAll([]string{program, "-f", s.ConfPath}), nil
}

func daemonStop(ctx context.Context, s *Session) error {
	pid, runs := s.localDaemon(ctx)
	if !runs {
		return fault.New(fault.RepmgrdService, "no repmgrd runs on this node").
			WithHint("\"repmgr service status\" shows those of all nodes")
	}
	line := s.Conf.RepmgrdServiceStopCommand
	daemon, err := s.holdDaemon(pid, line == "")
	if err != nil {
		return err
	}
	defer daemon.Close()
	switch {
	case s.Opt.DryRun && line != "":
		s.Talk.Info("would execute \"%s\"", line)
		return nil
	case s.Opt.DryRun:
		s.Talk.Info("would send SIGTERM to repmgrd; %s", process(pid))
		return nil
	case line != "":
		err = s.daemonCommand(ctx, line)
	default:
		s.Talk.Notice("SIGTERM is sent to repmgrd; %s", process(pid))
		err = daemon.Signal(unix.SIGTERM)
	}
	patience := s.daemonPatience()
	if err != nil && !errors.Is(err, os.ErrProcessDone) || patience == 0 {
		return err
	}
	select {
	case <-daemon.Done():
		s.Talk.Notice("repmgrd has ended")
		return nil
	case <-ctx.Done():
	case <-time.After(patience):
	}
	return fault.New(fault.RepmgrdService, "repmgrd still runs %s after it was told to stop", patience).WithDetail("%s", process(pid)).
		WithHint("its log says what it waits for; --wait=SECONDS waits longer")
}

// holdDaemon takes hold of the daemon's process, so that no other is hit or waited
// for. With signal it must be one that stays away when it is sent one.
func (s *Session) holdDaemon(pid int, signal bool) (*host.Handle, error) {
	if !host.Runs(pid, daemonProgram) {
		return nil, fault.New(fault.RepmgrdService, "repmgrd runs on this node, and its process is not known").
			WithDetail("It does not answer and has no PID file, or it is in another container (found: process %d).", pid).
			WithHint("stop it by the service manager, or where it was started")
	}
	// NOTIFY_SOCKET is what systemd gives to a service of Type=notify (man 3 sd_notify).
	environment, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if signal && bytes.Contains(append([]byte{0}, environment...), []byte("\x00NOTIFY_SOCKET=")) {
		return nil, fault.New(fault.RepmgrdService, "repmgrd was started by systemd, which would start it again").WithDetail("%s", process(pid)).
			WithHint("set repmgrd_service_stop_command in %s, for example to 'sudo systemctl stop repmgrd'", s.ConfPath)
	}
	daemon, err := host.OpenProcess(pid)
	if err != nil {
		return nil, fault.Wrap(err, fault.RepmgrdService, "repmgrd cannot be stopped")
	}
	return daemon, nil
}

// daemonCommand runs a command that starts or stops the daemon to its end.
func (s *Session) daemonCommand(ctx context.Context, line string) error {
	s.Talk.Notice("executing \"%s\"", line)
	r, err := host.Run(ctx, host.Cmd{Shell: line, Timeout: daemonCommand})
	if err != nil {
		return fault.Wrap(err, fault.RepmgrdService, "the command could not be run")
	}
	if !r.OK() {
		return fault.New(fault.RepmgrdService, "the command %s", r).
			WithDetail("%s", strings.TrimSpace(r.Stdout+r.Stderr)).WithHint("try it by hand: %s", line)
	}
	return nil
}

// process is how messages name the daemon's process.
func process(pid int) string {
	if pid == 0 {
		return "its process number is not known"
	}
	return fmt.Sprintf("its process number is %d", pid)
}
