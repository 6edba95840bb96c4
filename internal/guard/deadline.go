package guard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"repmgr/internal/host"
)

// Pauses between two sweeps.
const (
	sweepPause = 5 * time.Millisecond  // while somebody lives
	watchPause = 20 * time.Millisecond // when nobody does: for a later postmaster
	watchShare = 5                     // and at least so many times what a sweep takes
)

// keeper holds the deadline and ends PostgreSQL when it passes. The goroutine of
// watch does that; all other methods are called from any.
type keeper struct {
	log   *journal
	timer int // a timerfd on CLOCK_BOOTTIME

	sweeping sync.Mutex // one sweep at a time; taken before mu

	mu       sync.Mutex // never held over anything that may wait
	path     string     // the data directory's name
	dir      *os.File   // and the directory itself, held while there is a deadline
	info     fs.FileInfo
	deadline time.Duration
	fired    bool
	retired  bool // the guard ends: no more deadlines
	firedAt  time.Duration
	killed   int
	living   int
	clean    int              // sweeps in a row that found nobody
	seen     map[process]bool // of the last sweep
	trouble  string           // the last error that was written
}

// process tells one from a later one that was given its number.
type process struct {
	pid     int
	started uint64
}

func newKeeper(path string, log *journal) (*keeper, error) {
	timer, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	return &keeper{log: log, timer: timer, path: path}, nil
}

// watch waits for the deadline, and then ends PostgreSQL until it is taken over.
// It has a thread of its own, which comes before others where that is allowed.
func (k *keeper) watch() {
	runtime.LockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, -20)
	for {
		// The timer ends the wait; the second is for a timer that does not.
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(k.timer), Events: unix.POLLIN}}, 1000)
		for k.over() {
			time.Sleep(k.sweep())
		}
		k.mu.Lock()
		_ = k.set(k.deadline) // a timer that has run out is readable until it is set again
		k.mu.Unlock()
	}
}

// set sets the timer; zero stops it. mu is held.
func (k *keeper) set(deadline time.Duration) error {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(deadline.Nanoseconds())}
	return unix.TimerfdSettime(k.timer, unix.TFD_TIMER_ABSTIME, &spec, nil)
}

// over tells whether the deadline has passed, by whoever looks first.
func (k *keeper) over() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.isOver()
}

func (k *keeper) isOver() bool {
	now := host.BootTime()
	if !k.fired && k.deadline != 0 && now >= k.deadline {
		k.fired, k.firedAt, k.killed, k.living, k.clean, k.seen = true, now, 0, -1, 0, nil
		k.log.printf("ALERT", "the deadline passed %s ago and was not extended: ending PostgreSQL in %s", now-k.deadline, k.path)
	}
	return k.fired
}

// sweep kills whoever is there, and returns how long to wait for the next.
func (k *keeper) sweep() time.Duration {
	k.sweeping.Lock()
	defer k.sweeping.Unlock()
	k.mu.Lock()
	info, path, fired := k.info, k.path, k.fired
	k.mu.Unlock()
	if !fired { // taken over meanwhile
		return 0
	}
	began := host.BootTime()
	found, err := host.Sweep(info)
	if err == nil && len(found) == 0 {
		// Nobody works in the directory that was there. Has its name been given to another?
		if now, statErr := os.Stat(path); statErr == nil && !os.SameFile(now, info) {
			found, err = host.Sweep(now)
		}
	}
	took := host.BootTime() - began
	if k.count(found, err) {
		return max(watchPause, watchShare*took)
	}
	return sweepPause
}

// count notes what a sweep has found, and says whether that is nobody.
func (k *keeper) count(found []host.Process, err error) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	seen := make(map[process]bool, len(found))
	for _, p := range found {
		id := process{p.PID, p.Started}
		if seen[id] = true; !k.seen[id] {
			k.killed++
		}
	}
	k.seen, k.living = seen, len(found)
	if text := fmt.Sprint(err); err != nil && text != k.trouble {
		k.log.printf("ERROR", "%s", text)
		k.trouble = text
	}
	if len(found) > 0 || err != nil {
		k.clean = 0
		return false
	}
	if k.clean++; k.clean == 2 {
		k.log.printf("NOTICE", "no process of %s is left %s after the deadline; %d were killed", k.path, host.BootTime()-k.deadline, k.killed)
	}
	return true
}

// extend moves the deadline, never backwards.
func (k *keeper) extend(deadline time.Duration) error {
	if err := k.hold(); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	over, now := k.isOver(), host.BootTime()
	switch {
	case over:
		return ErrFired
	case k.retired:
		return errors.New("this guard is about to end")
	case k.dir == nil:
		return errors.New("the data directory was let go of meanwhile")
	case deadline <= k.deadline:
		return nil
	case deadline <= now:
		return fmt.Errorf("that deadline passed %s ago", now-deadline)
	case deadline > now+maxAhead:
		return fmt.Errorf("that deadline is more than %s away", maxAhead)
	}
	if err := k.set(deadline); err != nil {
		return fmt.Errorf("set the timer: %w", err)
	}
	k.deadline = deadline
	return nil
}

// hold opens the data directory, unless it is. What is killed at the deadline is
// what works there, whatever its name is then; and no disk is asked for it then.
func (k *keeper) hold() error {
	k.mu.Lock()
	held, path := k.dir != nil, k.path
	k.mu.Unlock()
	if held {
		return nil
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open data directory", Path: path, Err: err}
	}
	dir := os.NewFile(uintptr(fd), path)
	info, err := dir.Stat()
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil || k.dir != nil || k.path != path {
		dir.Close()
		return err
	}
	k.dir, k.info = dir, info
	return nil
}

// release ends the deadline. mu is held.
func (k *keeper) release() {
	k.deadline, k.fired = 0, false
	_ = k.set(0)
	if k.dir != nil {
		k.dir.Close() // by O_PATH: nothing is written, and nothing waits
		k.dir, k.info = nil, nil
	}
}

// standDown is for a daemon that holds no timed lease.
func (k *keeper) standDown() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.isOver() {
		return ErrFired
	}
	k.release()
	return nil
}

// takeOver ends the killing, if two scans in a row have found nobody.
func (k *keeper) takeOver() error {
	k.sweeping.Lock() // what a running sweep has found is still killed
	defer k.sweeping.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.isOver() {
		return nil
	}
	if k.clean < 2 {
		return fmt.Errorf("processes of %s are still there: %d", k.path, k.living)
	}
	k.release()
	k.log.printf("NOTICE", "taken over: PostgreSQL may run again")
	return nil
}

// retire ends the keeper's work for good; refused while there is a deadline.
func (k *keeper) retire() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.isOver():
		return ErrFired
	case k.deadline != 0:
		return fmt.Errorf("a deadline runs, and passes in %s", k.deadline-host.BootTime())
	}
	k.retired = true
	return nil
}

// adopt takes another data directory, if nothing depends on the one it has.
func (k *keeper) adopt(path string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if path == k.path {
		return nil
	}
	if k.isOver() || k.deadline != 0 {
		return fmt.Errorf("this guard holds a deadline for %s, not for %s", k.path, path)
	}
	k.release()
	k.path = path
	return nil
}

func (k *keeper) status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.isOver()
	return Status{
		PID: os.Getpid(), DataDirectory: k.path, Deadline: k.deadline,
		Fired: k.fired, FiredAt: k.firedAt, Killed: k.killed, Living: k.living,
	}
}

// mayPet tells whether the watchdog is to be kept from resetting this machine
// (pet), and whether it is to count at all.
func (k *keeper) mayPet() (pet, count bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.isOver() || k.clean > 0, k.deadline != 0
}
