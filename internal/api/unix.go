package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"repmgr/internal/fault"
)

// The daemon's files in its state directory.
const (
	socketName = "repmgrd.sock"
	lockName   = "repmgrd.lock"
)

// maxSocketPath is the longest path that fits a socket's address.
const maxSocketPath = 107

// ListenUnix makes the daemon's socket, repmgrd.sock, in its state directory,
// which must exist. A socket that a dead daemon left is replaced; while another
// daemon lives there the error is a *fault.Error. What decides is a lock on
// repmgrd.lock, which the kernel gives up whichever way its holder ends.
func ListenUnix(stateDir string) (net.Listener, error) {
	lock, err := lockStateDir(stateDir)
	if err != nil {
		return nil, err
	}
	l, err := listenIn(stateDir)
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("listen on %s: %w", filepath.Join(stateDir, socketName), err)
	}
	l.lock = lock
	return l, nil
}

// lockStateDir takes the state directory for this process, which is the lock's
// holder until the file is closed.
func lockStateDir(stateDir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(stateDir, lockName), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the state directory: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		defer f.Close()
		text := make([]byte, 20)
		n, _ := f.ReadAt(text, 0)
		e := fault.New(fault.BadPidfile, "another repmgrd runs on this state directory").
			WithHint("stop that one first, or set another \"state_directory\" if it is for another node")
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text[:n]))); err == nil {
			return nil, e.WithDetail("%s is held by process %d", stateDir, pid)
		}
		return nil, e.WithDetail("%s is held by another process", stateDir)
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock the state directory: %w", err)
	}
	return f, nil
}

// unixListener is the socket together with what must stay open as long as it.
type unixListener struct {
	*net.UnixListener
	path string
	lock *os.File
	once sync.Once
}

// Close removes the socket's name, and only then gives the lock up.
func (l *unixListener) Close() error {
	err := net.ErrClosed
	l.once.Do(func() {
		os.Remove(l.path)
		err = l.UnixListener.Close()
		l.lock.Close()
	})
	return err
}

// listenIn makes the socket under a temporary name, and gives it its real one
// when it is closed to other users, so that nobody meets it half made.
func listenIn(stateDir string) (*unixListener, error) {
	making := filepath.Join(stateDir, socketName+".new")
	if err := os.Remove(making); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	address, done, err := shortPath(making)
	if err != nil {
		return nil, err
	}
	defer done()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: address, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	path := filepath.Join(stateDir, socketName)
	if err = os.Chmod(making, 0o600); err == nil {
		err = os.Rename(making, path)
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return &unixListener{UnixListener: l, path: path}, nil
}

// shortPath is another name of path that fits a socket's address: by way of its
// directory's open file, until done is called.
func shortPath(path string) (short string, done func(), err error) {
	if len(path) <= maxSocketPath {
		return path, func() {}, nil
	}
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, &os.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir, filepath.Base(path)), func() { unix.Close(dir) }, nil
}

// examineUser lets in the daemon's own user, and root. The socket's mode says the
// same; this holds even if someone has changed the mode.
func examineUser(_ context.Context, conn net.Conn) (net.Conn, error) {
	uid, err := peerUser(conn)
	if err != nil {
		return nil, fmt.Errorf("ask who is at the other end of the socket: %w", err)
	}
	if !mayUse(uid, os.Geteuid()) {
		return nil, fmt.Errorf("it is user %d, and only user %d and root may", uid, os.Geteuid())
	}
	return conn, nil
}

// mayUse says whether user uid may act on a daemon of user own.
func mayUse(uid, own int) bool { return uid == own || uid == 0 }

// peerUser is the effective user id of the process that connected.
func peerUser(conn net.Conn) (int, error) {
	if c, ok := conn.(*countedConn); ok {
		conn = c.Conn
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, fmt.Errorf("%T is no Unix socket", conn)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return int(cred.Uid), nil
}
