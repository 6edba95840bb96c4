package lab

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Repmgr runs the command line under test on this node to its end. Unless args
// name a configuration file, -f and the node's come first.
func (n *Node) Repmgr(ctx context.Context, args ...string) Result {
	return n.RepmgrWith(ctx, nil, args...)
}

// RepmgrWith is Repmgr with more in the command's environment.
func (n *Node) RepmgrWith(ctx context.Context, environment []string, args ...string) Result {
	bindir, err := n.lab.programs()
	if err != nil {
		return Result{Command: "repmgr", Code: -1, failure: err}
	}
	if !slices.Contains(args, "-f") {
		args = append([]string{"-f", n.ConfFile()}, args...)
	}
	n.echo("repmgr " + strings.Join(args, " "))
	cmd := n.command(ctx, filepath.Join(bindir, "repmgr"), args...)
	cmd.Env = append(cmd.Env, environment...)
	return n.lab.finish(ctx, n.namespace, cmd)
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

// daemonService is the name of the daemon among a node's services.
const daemonService = "repmgrd"

// DaemonLog is the file that the daemon's output goes to.
func (n *Node) DaemonLog() string { return n.ServiceLog(daemonService) }

// StartDaemon starts repmgrd in the foreground, as a service manager would.
func (n *Node) StartDaemon(ctx context.Context, args ...string) error {
	return n.StartDaemonWith(ctx, nil, args...)
}

// StartDaemonWith is StartDaemon with more in the daemon's environment.
func (n *Node) StartDaemonWith(ctx context.Context, environment []string, args ...string) error {
	bindir, err := n.lab.programs()
	if err != nil {
		return err
	}
	args = append([]string{"-f", n.ConfFile(), "--daemonize=false"}, args...)
	n.echo("repmgrd " + strings.Join(args, " "))
	return n.StartService(ctx, daemonService, environment, filepath.Join(bindir, "repmgrd"), args...)
}

// DaemonPID is the daemon's process number; zero if none runs.
func (n *Node) DaemonPID() int { return n.ServicePID(daemonService) }

// SignalDaemon sends a signal to the daemon, for example SIGHUP or SIGSTOP.
func (n *Node) SignalDaemon(signal syscall.Signal) error {
	return n.SignalService(daemonService, signal)
}

// StopDaemon asks the daemon to end and waits for it. Its exit status is
// returned; no daemon is no error, and status zero.
func (n *Node) StopDaemon(ctx context.Context) (status int, err error) {
	return n.EndService(ctx, daemonService, syscall.SIGTERM)
}

// KillDaemon ends the daemon with SIGKILL.
func (n *Node) KillDaemon(ctx context.Context) error {
	_, err := n.EndService(ctx, daemonService, syscall.SIGKILL)
	return err
}
