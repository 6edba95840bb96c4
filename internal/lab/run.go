package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Result is how a program ended.
type Result struct {
	Command        string // as one would type it
	Stdout, Stderr string
	Code           int // exit status; -1 if it was killed or did not start
	failure        error
}

// Err is nil if the program ended with status zero, and else tells all.
func (r Result) Err() error {
	if r.Code == 0 && r.failure == nil {
		return nil
	}
	reason := fmt.Errorf("exit status %d", r.Code)
	if r.failure != nil {
		reason = r.failure
	}
	return fmt.Errorf("%s: %w\n%s%s", r.Command, reason, r.Stdout, r.Stderr)
}

// lingerTimeout is how long output is waited for after a program was killed:
// a child of its own may hold the pipe open.
const lingerTimeout = 2 * time.Second

// run runs a program to its end. When ctx ends it is killed, with all that it started.
func (l *Lab) run(ctx context.Context, namespace, program string, args ...string) Result {
	return l.finish(ctx, namespace, l.command(ctx, program, args...))
}

func (l *Lab) finish(ctx context.Context, namespace string, cmd *exec.Cmd) Result {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = lingerTimeout
	result := Result{Command: strings.Join(cmd.Args, " "), Code: -1}
	if err := l.start(namespace, cmd); err != nil {
		result.failure = err
		return result
	}
	err := cmd.Wait()
	result.Stdout, result.Stderr = stdout.String(), stderr.String()
	var ended *exec.ExitError
	switch {
	case ctx.Err() != nil:
		result.failure = ctx.Err()
	case errors.Is(err, exec.ErrWaitDelay): // it ended; a server that it started holds the pipe
		result.Code = cmd.ProcessState.ExitCode()
	case err == nil || errors.As(err, &ended):
		result.Code = cmd.ProcessState.ExitCode()
	default:
		result.failure = err
	}
	return result
}
