package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// daemonProcess is a repmgrd that this lab started.
type daemonProcess struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// Repmgr runs the command line under test on this node to its end. Unless args
// name a configuration file, -f and the node's come first.
func (n *Node) Repmgr(ctx context.Context, args ...string) Result {
	bindir, err := n.lab.programs()
	if err != nil {
		return Result{Command: "repmgr", Code: -1, failure: err}
	}
	if !slices.Contains(args, "-f") {
		args = append([]string{"-f", n.ConfFile()}, args...)
	}
	n.echo("repmgr " + strings.Join(args, " "))
	return n.Run(ctx, filepath.Join(bindir, "repmgr"), args...)
}

// Program runs one of the programs under test with these arguments and no others.
func (n *Node) Program(ctx context.Context, name string, args ...string) Result {
	bindir, err := n.lab.programs()
	if err != nil {
		return Result{Command: name, Code: -1, failure: err}
	}
	return n.Run(ctx, filepath.Join(bindir, name), args...)
}

func (n *Node) echo(command string) {
	if n.lab.options.Echo != nil {
		n.lab.options.Echo(n, command)
	}
}

// DaemonLog is the file that the daemon's output goes to.
func (n *Node) DaemonLog() string { return filepath.Join(n.Dir, "repmgrd.log") }

// StartDaemon starts repmgrd in the foreground, as a service manager would.
func (n *Node) StartDaemon(ctx context.Context, args ...string) error {
	return n.StartDaemonWith(ctx, nil, args...)
}

// StartDaemonWith is StartDaemon with more in the daemon's environment.
func (n *Node) StartDaemonWith(ctx context.Context, environment []string, args ...string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.daemon != nil {
		return fmt.Errorf("start the daemon of %s: it runs already", n.Name)
	}
	bindir, err := n.lab.programs()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(n.DaemonLog(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the log of the daemon of %s: %w", n.Name, err)
	}
	defer log.Close()
	if err := n.lab.account.own(n.DaemonLog()); err != nil {
		return err
	}
	// It lives until it is stopped: ctx bounds only its start.
	if err := ctx.Err(); err != nil {
		return err
	}
	cmd := n.command(context.Background(), filepath.Join(bindir, "repmgrd"), append([]string{"-f", n.ConfFile(), "--daemonize=false"}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(cmd.Env, environment...)
	n.echo("repmgrd " + strings.Join(cmd.Args[1:], " "))
	if err := n.lab.start(n.namespace, cmd); err != nil {
		return fmt.Errorf("start the daemon of %s: %w", n.Name, err)
	}
	d := &daemonProcess{cmd: cmd, done: make(chan struct{})}
	n.daemon = d
	go n.reap(d)
	return nil
}

// reap waits for a daemon's end; it ends with the daemon.
func (n *Node) reap(d *daemonProcess) {
	_ = d.cmd.Wait() // the exit status is in d.cmd.ProcessState
	n.mu.Lock()
	if n.daemon == d {
		n.daemon = nil
	}
	n.mu.Unlock()
	close(d.done)
}

func (n *Node) currentDaemon() *daemonProcess {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.daemon
}

// DaemonPID is the daemon's process number; zero if none runs.
func (n *Node) DaemonPID() int {
	if d := n.currentDaemon(); d != nil {
		return d.cmd.Process.Pid
	}
	return 0
}

// SignalDaemon sends a signal to the daemon, for example SIGHUP or SIGSTOP.
func (n *Node) SignalDaemon(signal syscall.Signal) error {
	d := n.currentDaemon()
	if d == nil {
		return fmt.Errorf("send %s to the daemon of %s: none runs", signal, n.Name)
	}
	return d.cmd.Process.Signal(signal)
}

// StopDaemon asks the daemon to end and waits for it. Its exit status is
// returned; no daemon is no error, and status zero.
func (n *Node) StopDaemon(ctx context.Context) (status int, err error) {
	return n.endDaemon(ctx, syscall.SIGTERM)
}

// KillDaemon ends the daemon with SIGKILL.
func (n *Node) KillDaemon(ctx context.Context) error {
	_, err := n.endDaemon(ctx, syscall.SIGKILL)
	return err
}

func (n *Node) endDaemon(ctx context.Context, signal syscall.Signal) (int, error) {
	d := n.currentDaemon()
	if d == nil {
		return 0, nil
	}
	if err := d.cmd.Process.Signal(signal); err != nil && n.currentDaemon() == d {
		return 0, fmt.Errorf("send %s to the daemon of %s: %w", signal, n.Name, err)
	}
	err := Wait(ctx, settle, "the end of the daemon of "+n.Name, func() error {
		select {
		case <-d.done:
			return nil
		default:
			return fmt.Errorf("process %d is still there\n%s", d.cmd.Process.Pid, tail(n.DaemonLog()))
		}
	})
	if err != nil {
		return 0, err
	}
	return d.cmd.ProcessState.ExitCode(), nil
}
