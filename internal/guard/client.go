package guard

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"repmgr/internal/fault"
	"repmgr/internal/host"
)

// Bounds of the daemon's side, where ctx has no nearer deadline.
const (
	callTimeout     = 2 * time.Second
	takeOverTimeout = 5 * time.Second
	ensureTimeout   = 10 * time.Second
	killTimeout     = 3 * time.Second
)

// errKilled says that there was a guard, which did not answer, and is no more.
var errKilled = errors.New("it was killed")

// Guard is the daemon's hold on a guard process. It is safe for use by several
// goroutines. When a call has failed for any reason but a refusal, the
// connection is over, and Ensure makes a new one.
type Guard struct {
	handle *host.Handle

	mu   sync.Mutex
	conn *net.UnixConn
	in   *bufio.Reader
}

// Ensure attaches to the guard of that state directory, or starts one by
// o.Command and waits until it answers. From then on the guard obeys this
// connection and none from before. A deadline that runs goes on; a guard that
// has fired goes on killing until TakeOver.
func Ensure(ctx context.Context, o Options) (*Guard, error) {
	ctx, cancel := context.WithTimeout(ctx, ensureTimeout)
	defer cancel()
	g, err := attach(ctx, o)
	if !absent(err) {
		return g, err
	}
	child, err := start(o)
	if err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	for {
		select {
		case err := <-ended:
			// Another's guard may have been first.
			if g, ours := attach(ctx, o); ours == nil {
				return g, nil
			}
			return nil, fault.Wrap(err, fault.SysFailure, "the guard ended at once").
				WithHint("See its log; it was started as %q.", o.Command)
		case <-ctx.Done():
			_ = child.Process.Kill() // it never answered, so that it holds nothing
			return nil, fault.Wrap(ctx.Err(), fault.SysFailure, "start of the guard")
		case <-time.After(5 * time.Millisecond):
		}
		if g, err := attach(ctx, o); !absent(err) {
			return g, err
		}
	}
}

// absent tells whether nobody listens there.
func absent(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) || errors.Is(err, errKilled)
}

// start starts a guard in a session of its own, so that what ends the daemon's
// group or terminal does not end it.
func start(o Options) (*exec.Cmd, error) {
	if len(o.Command) == 0 {
		return nil, fault.New(fault.Internal, "there is no command that starts a guard")
	}
	cmd := exec.Command(o.Command[0], o.Command[1:]...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, ok := o.Log.(*os.File)
	if !ok {
		out = os.Stderr
	}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return nil, fault.Wrap(err, fault.SysFailure, "start of the guard")
	}
	return cmd, nil
}

// attach connects and makes this connection the one that the guard obeys.
func attach(ctx context.Context, o Options) (*Guard, error) {
	conn, err := dial(ctx, o)
	if err != nil {
		return nil, err
	}
	g := &Guard{conn: conn, in: bufio.NewReader(conn)}
	peer, err := peerOf(conn)
	if err == nil {
		g.handle, err = host.OpenProcess(int(peer.Pid))
	}
	if err == nil {
		// Its answer says that it lived after it was taken hold of.
		_, err = g.call(ctx, request{Verb: verbAttach, DataDirectory: o.DataDirectory})
		if o.Replace != nil && errors.Is(err, context.DeadlineExceeded) {
			err = g.kill(ctx, o)
		}
	}
	if err != nil {
		g.Close()
		return nil, fault.Wrap(err, fault.SysFailure, "attach to the guard in %s", o.StateDir)
	}
	return g, nil
}

func dial(ctx context.Context, o Options) (conn *net.UnixConn, err error) {
	err = within(o.StateDir, func(dir string) error {
		c, err := new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, socketName))
		if err == nil {
			conn = c.(*net.UnixConn)
		}
		return err
	})
	if err != nil {
		return nil, fault.Wrap(err, fault.SysFailure, "connection to the guard in %s", o.StateDir)
	}
	return conn, nil
}

// kill ends a guard that did not answer; its error is errKilled when that is done. It is
// asked once more first: this process may have stood still, and not the guard. That somebody
// listens still says that the process which was taken hold of is that one, and no later one
// of its number.
func (g *Guard) kill(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	conn, err := dial(ctx, o)
	if err != nil {
		return err
	}
	again := &Guard{handle: g.handle, conn: conn, in: bufio.NewReader(conn)}
	defer conn.Close()
	switch _, err := again.Status(ctx); {
	case err == nil:
		return fault.New(fault.SysFailure, "the guard, process %d, answers late", g.PID())
	case !errors.Is(err, context.DeadlineExceeded):
		return err
	case !o.Replace():
		return fault.Wrap(err, fault.SysFailure, "the guard, process %d, does not answer, and may hold a deadline that matters", g.PID())
	}
	if err := g.handle.Kill(); err != nil {
		return err
	}
	select {
	case <-g.Done():
		return errKilled
	case <-ctx.Done():
		return fault.Wrap(ctx.Err(), fault.SysFailure, "end of the guard, process %d, which does not answer", g.PID())
	}
}

// Extend moves the deadline, a reading of host.BootTime. When it returns nil the
// guard knows it. An earlier deadline than the one that runs changes nothing; once
// that has passed the error is ErrFired.
func (g *Guard) Extend(ctx context.Context, deadline time.Duration) error {
	_, err := g.call(ctx, request{Verb: verbExtend, Deadline: deadline})
	return err
}

// StandDown ends the deadline: this node holds no timed lease. Once the deadline
// has passed the error is ErrFired.
func (g *Guard) StandDown(ctx context.Context) error {
	_, err := g.call(ctx, request{Verb: verbStand})
	return err
}

// TakeOver ends the killing after the deadline has passed, and leaves no
// deadline. It waits for the last process to go, and is an error if one does not.
func (g *Guard) TakeOver(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, takeOverTimeout)
	defer cancel()
	for {
		status, err := g.call(ctx, request{Verb: verbTakeOver})
		if err == nil || !status.Fired { // no guard that is still at it
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(sweepPause):
		}
	}
}

// Status is what the guard tells of itself.
func (g *Guard) Status(ctx context.Context) (Status, error) {
	return g.call(ctx, request{Verb: verbStatus})
}

// End ends the guard and waits for it; refused while a deadline runs.
func (g *Guard) End(ctx context.Context) error {
	if _, err := g.call(ctx, request{Verb: verbEnd}); err != nil {
		return err
	}
	select {
	case <-g.Done():
		return nil
	case <-ctx.Done():
		return fault.Wrap(ctx.Err(), fault.SysFailure, "end of the guard")
	}
}

// PID is the guard's process.
func (g *Guard) PID() int { return g.handle.PID }

// Done is closed when the guard's process has ended, however it did.
func (g *Guard) Done() <-chan struct{} { return g.handle.Done() }

// Close lets go of the guard without ending it.
func (g *Guard) Close() {
	if g.handle != nil {
		_ = g.handle.Close()
	}
	_ = g.conn.Close()
}

// call sends one request and reads its answer.
func (g *Guard) call(ctx context.Context, r request) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	text, err := json.Marshal(r)
	if err != nil {
		return Status{}, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	// What breaks off in the middle leaves an answer that nobody waits for: over.
	defer context.AfterFunc(ctx, func() { g.conn.Close() })()
	var a answer
	_, err = g.conn.Write(append(text, '\n'))
	if err == nil {
		text, err = g.in.ReadBytes('\n')
	}
	if err == nil {
		err = json.Unmarshal(text, &a)
	}
	switch {
	case err != nil:
		g.conn.Close()
		return Status{}, fault.Wrap(errors.Join(ctx.Err(), err), fault.SysFailure, "the guard did not answer")
	case a.Fired:
		return a.Status, fault.Wrap(ErrFired, fault.SysFailure, "the guard refused to %s", r.Verb)
	case a.Error != "":
		return a.Status, fault.New(fault.SysFailure, "the guard refused to %s: %s", r.Verb, a.Error)
	}
	return a.Status, nil
}
