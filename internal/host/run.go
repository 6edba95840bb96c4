// Package host owns what is done on one machine: commands run, processes found,
// watched and ended, files written so that they last. It knows what a data
// directory of PostgreSQL looks like from outside, and never talks SQL.
package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"repmgr/internal/fault"
)

// Cmd is a command to run: Shell as a line for /bin/sh, or Args as it is.
type Cmd struct {
	Shell string   // a line for /bin/sh -c
	Args  []string // a program and its arguments; used where Shell is empty
	Env   []string // added to this process's environment, as NAME=value
	Dir   string   // working directory; empty: this process's
	Stdin io.Reader

	// Timeout ends the whole process group; zero: only ctx does.
	Timeout time.Duration

	// OutputTo names a file that takes both outputs, appended, instead of the
	// Result. A command that leaves a server behind (pg_ctl start) needs it, or
	// "/dev/null", since the server keeps the pipes open.
	OutputTo string

	// Stdout takes the standard output while the command runs, instead of the
	// Result; nil: the Result has it.
	Stdout io.Writer

	// EndsWithUs sends the command SIGTERM when this process ends, however it ends.
	EndsWithUs bool

	// Credential runs the command as another user; nil: as this process.
	Credential *syscall.Credential
}

// Result is what became of a command that was started.
type Result struct {
	Stdout   string // at most outputLimit bytes, then a note
	Stderr   string
	ExitCode int            // -1 if a signal ended it
	Signal   syscall.Signal // that ended it; zero: it exited
	TimedOut bool           // its group was killed for taking too long
}

// OK tells whether the command exited with status 0 in time.
func (r Result) OK() bool { return r.ExitCode == 0 && r.Signal == 0 && !r.TimedOut }

// String says how the command ended, in words.
func (r Result) String() string {
	switch {
	case r.TimedOut:
		return "took too long and was killed"
	case r.Signal != 0:
		return fmt.Sprintf("was ended by signal %d (%s)", int(r.Signal), r.Signal)
	default:
		return fmt.Sprintf("exited with status %d", r.ExitCode)
	}
}

const (
	outputLimit = 1 << 20
	// pipeGrace is how long a finished command's descendants may keep its pipes
	// open before they are closed and what was read so far is taken.
	pipeGrace = 250 * time.Millisecond
)

// Run runs a command to its end. The error says that it could not be started, or
// that it was stopped because of Timeout or ctx; a status other than 0 and death
// by a signal are in the Result alone, see Result.OK.
func Run(ctx context.Context, c Cmd) (Result, error) {
	args := c.Args
	if c.Shell != "" {
		args = []string{"/bin/sh", "-c", c.Shell}
	}
	if len(args) == 0 {
		return Result{}, fault.New(fault.LocalCommand, "there is no command to run")
	}
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Timeout)
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Stdin = c.Dir, c.Stdin
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: c.Credential}
	if c.EndsWithUs {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
	}
	cmd.WaitDelay = pipeGrace
	killed := false
	cmd.Cancel = func() error {
		killed = true
		return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	stdout, stderr := &limited{}, &limited{}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if c.Stdout != nil {
		cmd.Stdout = c.Stdout
	}
	if c.OutputTo != "" {
		f, err := os.OpenFile(c.OutputTo, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			return Result{}, fault.Wrap(err, fault.LocalCommand, "output file of %s", args[0])
		}
		defer f.Close()
		cmd.Stdout, cmd.Stderr = f, f
	}
	if err := cmd.Start(); err != nil {
		return Result{}, fault.Wrap(err, fault.LocalCommand, "start of %s", args[0]).WithHint("Check that the program exists and may be run; pg_bindir in repmgr.conf names the folder of PostgreSQL's programs.")
	}
	err := cmd.Wait()
	r := Result{Stdout: stdout.String(), Stderr: stderr.String(), ExitCode: cmd.ProcessState.ExitCode(), TimedOut: killed}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		r.Signal = status.Signal()
	}
	if killed {
		return r, fault.Wrap(ctx.Err(), fault.LocalCommand, "%s %s", args[0], r)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return r, fault.Wrap(err, fault.LocalCommand, "run of %s", args[0])
	}
	return r, nil
}

// limited keeps the first outputLimit bytes and counts the rest.
type limited struct {
	kept    bytes.Buffer
	dropped int
}

func (l *limited) Write(p []byte) (int, error) {
	keep := min(len(p), outputLimit-l.kept.Len())
	l.kept.Write(p[:keep])
	l.dropped += len(p) - keep
	return len(p), nil
}

func (l *limited) String() string {
	if l.dropped == 0 {
		return l.kept.String()
	}
	return fmt.Sprintf("%s\n[%d more bytes were left out]", l.kept.String(), l.dropped)
}
