package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"repmgr/internal/fault"
	"repmgr/internal/host"
)

// heapLimit is when garbage is collected: not before. A guard needs a few MB.
const heapLimit = 32 << 20

// Run is the main of the guard's process, of which it changes signals, memory
// and garbage collection. It returns when End asked for it, or when ctx ended or
// SIGTERM came, but never while a deadline runs or while it ends PostgreSQL.
func Run(ctx context.Context, o Options) error {
	// A daemon's death must not be the guard's: it may leave a closed pipe and a
	// terminal that has gone.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP, syscall.SIGINT)
	ctx, stopped := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stopped()
	log := newJournal(o.Log)
	defer log.drain()
	lock, err := takeLock(o.StateDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	k, err := newKeeper(o.DataDirectory, log)
	if err != nil {
		return fault.Wrap(err, fault.SysFailure, "start of the guard")
	}
	s := &server{keeper: k, dog: newWatchdog(o, log), log: log, ending: make(chan struct{})}
	defer s.dog.tend(k)
	settle(o.DataDirectory, log)
	go k.watch()
	go s.dog.run(k)
	if err := s.listen(o.StateDir); err != nil {
		return fault.Wrap(err, fault.SysFailure, "socket of the guard in %s", o.StateDir)
	}
	defer s.close()
	go s.accept()
	log.printf("NOTICE", "guarding %s", o.DataDirectory)
	select {
	case <-s.ending:
	case <-ctx.Done():
		for warned := false; k.retire() != nil; time.Sleep(50 * time.Millisecond) {
			if !warned {
				log.printf("WARNING", "asked to end: waiting until no deadline runs")
				warned = true
			}
		}
	}
	log.printf("NOTICE", "ending")
	return nil
}

// takeLock makes this process the only guard of the state directory. The kernel
// gives the lock up whichever way its holder ends; one that is just ending is
// waited for.
func takeLock(stateDir string) (*os.File, error) {
	path := filepath.Join(stateDir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fault.Wrap(err, fault.SysFailure, "lock of the guard")
	}
	for range 20 {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fault.New(fault.BadPidfile, "another guard runs on this state directory").
			WithDetail("%s is locked.", path)
	}
	return nil, fault.Wrap(err, fault.SysFailure, "lock %s", path)
}

// settle makes the process fit to act at once on a machine that is short of
// memory and time. What is not allowed is written and done without.
func settle(dataDir string, log *journal) {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(heapLimit)
	_, _ = host.Processes(dataDir) // a rehearsal: what a sweep needs is in memory from now on
	if err := lockMemory(); err != nil {
		log.printf("WARNING", "the memory could not be locked, so that a machine short of it may delay this guard: %v (see RLIMIT_MEMLOCK)", err)
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil {
		log.printf("INFO", "the kernel may choose this guard when memory runs out: %v", err)
	}
}

// lockMemory locks what is in memory and what comes to it. Under a limit, what
// is mapped later is left out: there the mapping would fail, and with it the guard.
func lockMemory() error {
	flags := unix.MCL_CURRENT | unix.MCL_ONFAULT
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return err
	}
	if limit.Cur == unix.RLIM_INFINITY || os.Geteuid() == 0 {
		flags |= unix.MCL_FUTURE
	}
	return unix.Mlockall(flags)
}

// journal writes lines from a goroutine of its own, so that a full pipe or a
// disk that hangs keeps nobody waiting.
type journal struct {
	lines chan string
	done  chan struct{}
	lost  atomic.Int64
}

func newJournal(to io.Writer) *journal {
	j := &journal{lines: make(chan string, 256), done: make(chan struct{})}
	if to == nil {
		to = io.Discard
	}
	go func() {
		defer close(j.done)
		for line := range j.lines {
			if n := j.lost.Swap(0); n > 0 {
				line += fmt.Sprintf("(%d lines before this one were lost)\n", n)
			}
			_, _ = io.WriteString(to, line)
		}
	}()
	return j
}

func (j *journal) printf(level, format string, args ...any) {
	line := fmt.Sprintf("[%s] [%s] guard %d: %s\n", host.Now().Format(time.DateTime), level, os.Getpid(), fmt.Sprintf(format, args...))
	select {
	case j.lines <- line:
	default:
		j.lost.Add(1)
	}
}

// drain gives what is not written yet a moment.
func (j *journal) drain() {
	for range 100 {
		if len(j.lines) == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
}
