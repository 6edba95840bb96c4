package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"repmgr/internal/fault"
)

// Process is a process that was found: its number and what /proc says of it.
type Process struct {
	PID     int
	Parent  int
	Started uint64 // clock ticks after boot: with the PID it tells a process from a later one
	Sleeps  bool   // it waits for something, and has nothing to do until that comes
	Title   string // its command line, which PostgreSQL keeps up to date
}

// ticks is how many there are in a second: USER_HZ, which /proc counts in on every
// architecture that Go knows.
const ticks = 100

// Age is how long ago the process was started, to a hundredth of a second.
func (p Process) Age() time.Duration {
	return BootTime() - time.Duration(p.Started)*time.Second/ticks
}

// Processes lists every postgres process that works in that data directory:
// postmaster, backends and orphans whose postmaster has gone. Zombies do not
// count; nor do a shell or an archiver's child that merely stand there. A
// process that this user may not look at is not seen.
func Processes(dataDir string) ([]Process, error) {
	want, err := os.Stat(dataDir)
	if err != nil {
		return nil, fault.Wrap(err, fault.SysFailure, "processes of %s", dataDir)
	}
	return scan(want, true)
}

// WorksIn tells whether that process is one of those that Processes lists, without
// looking at all others.
func WorksIn(dataDir string, pid int) (bool, error) {
	want, err := os.Stat(dataDir)
	if err != nil {
		return false, fault.Wrap(err, fault.SysFailure, "process %d of %s", pid, dataDir)
	}
	_, ok := inspect(pid, want)
	return ok, nil
}

// scan is Processes, if wanted without the titles.
func scan(dir fs.FileInfo, titled bool) ([]Process, error) {
	all, err := pids()
	if err != nil {
		return nil, err
	}
	var out []Process
	for _, pid := range all {
		if p, ok := inspect(pid, dir); ok {
			if titled {
				p.Title = titleOf(pid)
			}
			out = append(out, p)
		}
	}
	return out, nil
}

// pids are the numbers of all processes that are in sight.
func pids() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fault.Wrap(err, fault.SysFailure, "list of processes")
	}
	var out []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			out = append(out, pid)
		}
	}
	return out, nil
}

// inspect tells whether that process is a postgres at work in a directory. The
// directory is compared by device and inode, since the link's text is another
// behind a symbolic link or a bind mount.
func inspect(pid int, dir fs.FileInfo) (Process, bool) {
	// The program first: to ask for a working directory may mean to wait for a file
	// system that hangs, and any process may stand in one.
	if !runsPostgres(pid) {
		return Process{}, false
	}
	return standsIn(pid, dir)
}

// standsIn tells whether that process, which is no zombie, has a directory as its
// working directory.
func standsIn(pid int, dir fs.FileInfo) (Process, bool) {
	cwd, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid), "cwd"))
	if err != nil || !os.SameFile(cwd, dir) {
		return Process{}, false
	}
	p, state, err := readStat(pid)
	return p, err == nil && state != 'Z' && state != 'X'
}

// Ending counts the postgres processes of a data directory that were killed and give
// their memory back, which takes seconds where that is large. The kernel has taken their
// program away by then (exit_mm in kernel/exit.c), so that Processes lists them no more, and
// they can run nothing; what they had attached is detached at the end of it.
func Ending(dataDir string) (int, error) {
	dir, err := os.Stat(dataDir)
	if err != nil {
		return 0, fault.Wrap(err, fault.SysFailure, "processes of %s", dataDir)
	}
	all, err := pids()
	if err != nil {
		return 0, err
	}
	count := 0
	for _, pid := range all {
		if !Exits(pid) {
			continue
		}
		if _, there := standsIn(pid, dir); there {
			count++
		}
	}
	return count, nil
}

// Exits tells whether a process was a postgres and is on its way out of the kernel: its
// program is gone, and it is no zombie yet. It runs nothing any more, but its number is in
// use until then, and its sockets may be (do_exit in kernel/exit.c closes them after it has let
// go of the working directory, so that Ending no longer counts it).
func Exits(pid int) bool {
	if !Alive(pid) {
		return false
	}
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	if _, err := os.Readlink(filepath.Join(proc, "exe")); !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	name, err := os.ReadFile(filepath.Join(proc, "comm"))
	return err == nil && string(name) == "postgres\n"
}

// HasClient tells whether a child of a postmaster was made for a connection: it has a
// socket that its postmaster does not have. A postmaster takes a connection, forks for it
// and lets go of it (BackendStartup in postmaster.c), all before anything else; so what it forks
// otherwise, a WAL receiver too, begins with its own sockets alone, and opens others only
// when it has said what it is. What cannot be looked at has none.
func HasClient(p Process) bool {
	children, err := socketsOf(p.PID) // before the parent's, which may be about to let go of it
	if err != nil {
		return false
	}
	parents, err := socketsOf(p.Parent)
	if err != nil || len(parents) == 0 { // one that listens nowhere is no postmaster
		return false
	}
	for s := range children {
		if !parents[s] {
			return true
		}
	}
	return false
}

// socketsOf are the sockets that a process has open, as /proc names them (man 5
// proc: socket:[INODE]).
func socketsOf(pid int) (map[string]bool, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		switch {
		case errors.Is(err, fs.ErrNotExist): // closed meanwhile
		case err != nil:
			return nil, err
		case strings.HasPrefix(to, "socket:"):
			found[to] = true
		}
	}
	return found, nil
}

func titleOf(pid int) string {
	text, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	return strings.TrimSpace(string(bytes.ReplaceAll(bytes.TrimRight(text, "\x00"), []byte{0}, []byte{' '})))
}

// readStat reads /proc/PID/stat (man 5 proc): the name in the second field may
// hold blanks and brackets, so the rest is counted from the last bracket.
func readStat(pid int) (Process, byte, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, 0, err
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 20 {
		return Process{}, 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return Process{}, 0, err
	}
	started, err := strconv.ParseUint(fields[19], 10, 64)
	state := fields[0][0]
	return Process{PID: pid, Parent: parent, Started: started, Sleeps: state == 'S'}, state, err
}

// Handle holds on to one process: what is done to it never hits another that
// was given the same number later.
type Handle struct {
	PID  int
	fd   int // of the process
	wake int // an eventfd that ends the watch

	done  chan struct{}
	ended chan struct{} // the watch is over
	close sync.Once
	mu    sync.Mutex // guards fd against use after Close
	gone  bool       // fd is closed
}

// OpenProcess takes hold of a process. One that does not exist is an error that
// is os.ErrProcessDone. A goroutine watches it until it ends or Close is called.
func OpenProcess(pid int) (*Handle, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("process %d: %w", pid, os.ErrProcessDone)
	}
	if err != nil {
		return nil, fault.Wrap(err, fault.SysFailure, "hold of process %d", pid)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fault.Wrap(err, fault.SysFailure, "watch of process %d", pid)
	}
	h := &Handle{PID: pid, fd: fd, wake: wake, done: make(chan struct{}), ended: make(chan struct{})}
	go h.watch()
	return h, nil
}

// watch ends when the process has ended or the eventfd is written to.
func (h *Handle) watch() {
	defer close(h.ended)
	for {
		fds := []unix.PollFd{{Fd: int32(h.fd), Events: unix.POLLIN}, {Fd: int32(h.wake), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case fds[1].Revents != 0, err != nil:
			return
		case fds[0].Revents != 0: // a zombie counts as ended
			close(h.done)
			return
		}
	}
}

// Done is closed when the process has ended, be it reaped or not. It stays open
// after Close.
func (h *Handle) Done() <-chan struct{} { return h.done }

// Exited tells whether the process has ended, without waiting.
func (h *Handle) Exited() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone {
		return false
	}
	fds := []unix.PollFd{{Fd: int32(h.fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1
}

// Signal sends a signal. A process that has ended is an error that is os.ErrProcessDone.
func (h *Handle) Signal(signal unix.Signal) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone {
		return os.ErrClosed
	}
	err := unix.PidfdSendSignal(h.fd, signal, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("process %d: %w", h.PID, os.ErrProcessDone)
	}
	return err
}

// Kill sends SIGKILL. A process that has ended already is no error.
func (h *Handle) Kill() error {
	if err := h.Signal(unix.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// Close lets go of the process, without ending it, and ends the watch.
func (h *Handle) Close() error {
	h.close.Do(func() {
		_, _ = unix.Write(h.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		<-h.ended
		h.mu.Lock()
		defer h.mu.Unlock()
		h.gone = true
		_ = unix.Close(h.fd)
		_ = unix.Close(h.wake)
	})
	return nil
}

// KillAll ends every postgres process of that data directory by SIGKILL, the
// postmaster first, since it would answer the death of its children with a
// restart. It returns when two scans in a row have found nobody, or when ctx ends.
func KillAll(ctx context.Context, dataDir string) error {
	return killUntilNone(ctx, "all processes of "+dataDir, func() ([]Process, error) {
		found, err := Processes(dataDir)
		return postmasterFirst(dataDir, found), err
	})
}

// scanPause is the time between two scans of killUntilNone: a killed process needs a
// moment to go.
const scanPause = 5 * time.Millisecond

// killUntilNone kills whom a scan finds, in its order, until two scans in a row have found
// nobody, or ctx ends.
func killUntilNone(ctx context.Context, what string, scan func() ([]Process, error)) error {
	for clean := 0; ; {
		found, err := scan()
		if err != nil {
			return err
		}
		if clean++; len(found) > 0 {
			clean = 0
			if err := killThese(found); err != nil {
				return err
			}
		}
		if clean == 2 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fault.Wrap(ctx.Err(), fault.SysFailure, "end of %s", what).
				WithDetail("%d processes were left in the last scan: %v.", len(found), found)
		case <-time.After(scanPause):
		}
	}
}

// postmasterFirst puts those whose parent is not among them first: orphans have
// been left to init, and the postmaster is its own. The one that postmaster.pid
// names comes before all.
func postmasterFirst(dataDir string, found []Process) []Process {
	return parentsFirst(readPostmasterPID(dataDir), found)
}

func parentsFirst(named int, found []Process) []Process {
	member := map[int]bool{}
	for _, p := range found {
		member[p.PID] = true
	}
	rank := func(p Process) int {
		switch {
		case p.PID == named:
			return 0
		case !member[p.Parent]:
			return 1
		default:
			return 2
		}
	}
	var out []Process
	for r := range 3 {
		for _, p := range found {
			if rank(p) == r {
				out = append(out, p)
			}
		}
	}
	return out
}

func killThese(list []Process) error {
	for _, p := range list {
		if err := killOne(p); err != nil {
			return fault.Wrap(err, fault.SysFailure, "end of process %d (%s)", p.PID, p.Title)
		}
	}
	return nil
}

// killOne kills that process and no later one with its number.
func killOne(p Process) error { return signalExactly(p, unix.SIGKILL) }

// signalExactly signals that process and no later one with its number: the start
// time is compared once the process is held. One that has ended is no error.
func signalExactly(p Process, signal unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	now, _, err := readStat(p.PID)
	if err != nil || now.Started != p.Started {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, signal, nil, 0); !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// readPostmasterPID reads the first line of postmaster.pid, zero if there is none.
// A standalone backend writes a negative number there.
func readPostmasterPID(dataDir string) int {
	text, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		return 0
	}
	return max(pid, -pid)
}
