package guard

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of the socket.
const (
	maxLine     = 8 << 10
	maxSessions = 64
)

// server answers on the guard's socket: one goroutine for each session.
type server struct {
	keeper *keeper
	dog    *watchdog
	log    *journal
	ending chan struct{} // closed when the guard was asked to end, and does

	path     string
	listener *net.UnixListener

	acting sync.Mutex // over the question who is the holder and what is done for it

	mu       sync.Mutex
	sessions int
	holder   *net.UnixConn // of the daemon that attached last
}

// listen makes the socket under another name, and gives it its own when it is
// closed to other users.
func (s *server) listen(stateDir string) error {
	making := socketName + ".new"
	if err := os.Remove(filepath.Join(stateDir, making)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	err := within(stateDir, func(dir string) (err error) {
		s.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, making), Net: "unix"})
		return err
	})
	if err != nil {
		return err
	}
	s.listener.SetUnlinkOnClose(false)
	s.path = filepath.Join(stateDir, socketName)
	if err = os.Chmod(filepath.Join(stateDir, making), 0o600); err == nil {
		err = os.Rename(filepath.Join(stateDir, making), s.path)
	}
	return err
}

// within calls do with a name of a directory that is short enough for any socket
// in it: a socket's address holds no more than 107 bytes.
func within(dir string, do func(short string) error) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	return do(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// close removes the socket; the lock is still held.
func (s *server) close() {
	os.Remove(s.path)
	s.listener.Close()
}

// accept lets sessions in until the socket is closed.
func (s *server) accept() {
	for {
		conn, err := s.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no file descriptor is left, or the like
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if err := s.enter(conn); err != nil {
			s.log.printf("WARNING", "refused a connection: %v", err)
			conn.Close()
			continue
		}
		go s.session(conn)
	}
}

// enter counts a session in: this guard's own user, or root.
func (s *server) enter(conn *net.UnixConn) error {
	peer, err := peerOf(conn)
	if err != nil {
		return fmt.Errorf("ask who is at the other end of the socket: %w", err)
	}
	if uid := int(peer.Uid); uid != 0 && uid != os.Geteuid() {
		return fmt.Errorf("it is user %d, and only user %d and root may", uid, os.Geteuid())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions >= maxSessions {
		return fmt.Errorf("%d are open", s.sessions)
	}
	s.sessions++
	return nil
}

// peerOf is the process at the other end: for a client, the guard.
func peerOf(conn *net.UnixConn) (cred *unix.Ucred, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	if e := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); e != nil {
		return nil, e
	}
	return cred, err
}

// session answers one client until it goes. A line that is no request is
// answered with an error; one that does not end ends the session.
func (s *server) session(conn *net.UnixConn) {
	defer func() {
		conn.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sessions--
		if s.holder == conn {
			s.holder = nil
		}
	}()
	lines := bufio.NewScanner(conn)
	lines.Buffer(make([]byte, 0, 512), maxLine)
	for lines.Scan() {
		var r request
		err := json.Unmarshal(lines.Bytes(), &r)
		if err == nil {
			err = s.do(conn, r)
		}
		if !s.reply(conn, err) {
			return
		}
		if err == nil && r.Verb == verbEnd {
			close(s.ending)
			return
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		s.reply(conn, fmt.Errorf("a request is no longer than %d bytes", maxLine))
	}
}

func (s *server) reply(conn *net.UnixConn, err error) bool {
	a := answer{Status: s.keeper.status(), Fired: errors.Is(err, ErrFired)}
	a.Status.Protocol = Protocol
	a.Status.Watchdog = s.dog.counts()
	if err != nil {
		a.Error = err.Error()
	}
	text, _ := json.Marshal(a) // plain fields always encode
	_, err = conn.Write(append(text, '\n'))
	return err == nil
}

// do carries out one request.
func (s *server) do(conn *net.UnixConn, r request) error {
	if r.Protocol > Protocol {
		return fmt.Errorf("this guard knows requests up to protocol %d, and this is one of protocol %d: a repmgrd of an older version has started it, and it ends when repmgrd is stopped while it holds no deadline", Protocol, r.Protocol)
	}
	if r.Verb == verbStatus {
		return nil
	}
	s.acting.Lock()
	defer s.acting.Unlock()
	if r.Verb == verbAttach {
		return s.attach(conn, r)
	}
	s.mu.Lock()
	holds := s.holder == conn
	s.mu.Unlock()
	if !holds {
		return errors.New("another has attached to this guard, or this one has not")
	}
	defer s.dog.tend(s.keeper)
	switch r.Verb {
	case verbExtend:
		return s.keeper.extend(r.Deadline)
	case verbStand:
		return s.keeper.standDown()
	case verbTakeOver:
		return s.keeper.takeOver()
	case verbEnd:
		return s.keeper.retire()
	}
	return fmt.Errorf("%q is not known here", r.Verb)
}

// attach makes a session the one that the guard obeys, and ends the one before:
// what that had sent and was not read is void.
func (s *server) attach(conn *net.UnixConn, r request) error {
	if err := s.keeper.adopt(r.DataDirectory); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holder != nil && s.holder != conn {
		s.holder.Close()
	}
	s.holder = conn
	return nil
}
