package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// service is a program that this lab started on a node and that lives until it is ended.
type service struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// ServiceLog is the file that a service's output goes to.
func (n *Node) ServiceLog(name string) string { return filepath.Join(n.Dir, name+".log") }

// StartService starts a program in the foreground, as a service manager would,
// with more in its environment. The name is for the other methods and the log.
func (n *Node) StartService(ctx context.Context, name string, environment []string, program string, args ...string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.services[name] != nil {
		return fmt.Errorf("start %s of %s: it runs already", name, n.Name)
	}
	log, err := os.OpenFile(n.ServiceLog(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the log of %s of %s: %w", name, n.Name, err)
	}
	defer log.Close()
	if err := n.lab.account.own(n.ServiceLog(name)); err != nil {
		return err
	}
	// It lives until it is stopped: ctx bounds only its start.
	if err := ctx.Err(); err != nil {
		return err
	}
	cmd := n.command(context.Background(), program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(cmd.Env, environment...)
	if err := n.lab.start(n.namespace, cmd); err != nil {
		return fmt.Errorf("start %s of %s: %w", name, n.Name, err)
	}
	s := &service{cmd: cmd, done: make(chan struct{})}
	if n.services == nil {
		n.services = map[string]*service{}
	}
	n.services[name] = s
	go n.reap(name, s)
	return nil
}

// reap waits for a service's end; it ends with the service.
func (n *Node) reap(name string, s *service) {
	_ = s.cmd.Wait() // the exit status is in s.cmd.ProcessState
	n.mu.Lock()
	if n.services[name] == s {
		delete(n.services, name)
	}
	n.mu.Unlock()
	close(s.done)
}

func (n *Node) service(name string) *service {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.services[name]
}

// ServicePID is a service's process number; zero if it does not run.
func (n *Node) ServicePID(name string) int {
	if s := n.service(name); s != nil {
		return s.cmd.Process.Pid
	}
	return 0
}

// SignalService sends a signal to a service, for example SIGHUP or SIGSTOP.
func (n *Node) SignalService(name string, signal syscall.Signal) error {
	s := n.service(name)
	if s == nil {
		return fmt.Errorf("send %s to %s of %s: it does not run", signal, name, n.Name)
	}
	return s.cmd.Process.Signal(signal)
}

// EndService sends a signal that ends a service, and waits for its end. Its exit
// status is returned; a service that does not run is no error, and status zero.
func (n *Node) EndService(ctx context.Context, name string, signal syscall.Signal) (status int, err error) {
	s := n.service(name)
	if s == nil {
		return 0, nil
	}
	if err := s.cmd.Process.Signal(signal); err != nil && n.service(name) == s {
		return 0, fmt.Errorf("send %s to %s of %s: %w", signal, name, n.Name, err)
	}
	err = Wait(ctx, settle, "the end of "+name+" of "+n.Name, func() error {
		select {
		case <-s.done:
			return nil
		default:
			return fmt.Errorf("process %d is still there\n%s", s.cmd.Process.Pid, tail(n.ServiceLog(name)))
		}
	})
	if err != nil {
		return 0, err
	}
	return s.cmd.ProcessState.ExitCode(), nil
}
