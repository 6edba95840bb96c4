package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/pg"
)

const (
	// immediateGrace is how long an immediate stop may take before everything is
	// killed: 38 to 61 ms were seen (A12).
	immediateGrace = 200 * time.Millisecond
	// stuckAfter is when a killed process that waits for a disk counts as dead: it
	// can answer no client any more (B20).
	stuckAfter = time.Second
)

// Demote stops the server as a crash would: an immediate stop, then Kill for what
// outlives it. It leaves no shutdown checkpoint, which standbys would not have (A23).
func (o Own) Demote(ctx context.Context) error {
	memory := o.sharedMemory()
	o.Quit(ctx, immediateGrace)
	return o.kill(ctx, memory)
}

// Quit orders an immediate stop, and waits for the postmaster's end, at most that
// long. What outlives it has to be killed.
func (o Own) Quit(ctx context.Context, grace time.Duration) { o.order(ctx, unix.SIGQUIT, grace) }

// StopFast orders a fast stop, which ends sessions and sends standbys the rest, and
// waits for the postmaster's end, at most that long: a frozen standby is waited for
// much longer (A12). What outlives it has to be killed.
func (o Own) StopFast(ctx context.Context, grace time.Duration) { o.order(ctx, unix.SIGINT, grace) }

func (o Own) order(ctx context.Context, stop unix.Signal, grace time.Duration) {
	h, err := o.Postmaster()
	if err != nil { // there is none, and may be orphans
		return
	}
	defer h.Close()
	if h.Signal(stop) != nil {
		return
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-h.Done():
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Kill ends every process of the server and returns when that is proved: nobody
// works in the data directory, nobody is attached to the server's shared memory
// where that can be told (A9), and whatever starts the directory comes up
// read-only. Nothing may be released before (B20). Who was killed and still gives memory
// back can run nothing, and is not waited for.
func (o Own) Kill(ctx context.Context) error { return o.kill(ctx, o.sharedMemory()) }

func (o Own) kill(ctx context.Context, memory sharedMemory) error {
	if armed, err := o.Armed(); err == nil && armed {
		return o.killAll(ctx, memory)
	}
	// Between the look at the processes and the arming one may have been started
	// that takes writes: whatever is there after the arming is ended too.
	if err := o.killAll(ctx, memory); err != nil {
		return err
	}
	return o.killAll(ctx, o.sharedMemory())
}

// killAll ends what runs now, and arms the directory.
func (o Own) killAll(ctx context.Context, memory sharedMemory) error {
	stuck, err := o.killProcesses(ctx)
	if err != nil {
		return err
	}
	var attached int
	gone, _ := eachWhile(ctx, func() (bool, error) {
		if attached = memory.attached(); attached <= stuck {
			return true, nil
		}
		ending, err := host.Ending(o.dir()) // after the look at who is attached: who has gone since is not counted twice
		return err == nil && attached <= stuck+ending, nil
	})
	if !gone {
		return fault.Wrap(ctx.Err(), fault.SysFailure, "processes are still attached to the shared memory of the server").
			WithDetail("%d are attached to System V segment %d; none works in %s.", attached, memory.id, o.dir()).
			WithHint("They may be in another container: the daemon must see its server's processes (ipcs -m -p, ipcs -m -i %d).", memory.id)
	}
	return o.Arm()
}

// killProcesses ends the processes, and returns how many of them are dead but for
// a disk that does not answer.
func (o Own) killProcesses(ctx context.Context) (stuck int, err error) {
	for {
		round, cancel := context.WithTimeout(ctx, stuckAfter)
		err := host.KillAll(round, o.dir())
		cancel()
		if err == nil {
			return 0, nil
		}
		all, listErr := host.Processes(o.dir())
		if listErr != nil {
			return 0, errors.Join(err, listErr)
		}
		stuck := 0
		for _, p := range all {
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
			if waitsToDie(string(text)) {
				stuck++
			}
		}
		switch {
		case stuck == len(all) && stuck > 0:
			o.log(fmt.Sprintf("%d processes of the server are killed and wait for a disk; they can answer no client", stuck))
			return stuck, nil
		case ctx.Err() != nil:
			return 0, err
		}
	}
}

// waitsToDie tells from /proc/PID/status whether a process is in a wait that
// cannot be interrupted (D) with SIGKILL pending.
func waitsToDie(status string) bool {
	const killed = 1 << (unix.SIGKILL - 1)
	waits, pending := false, false
	for _, line := range strings.Split(status, "\n") {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch name {
		case "State":
			waits = strings.HasPrefix(value, "D")
		case "SigPnd", "ShdPnd":
			mask, _ := strconv.ParseUint(value, 16, 64)
			pending = pending || mask&killed != 0
		}
	}
	return waits && pending
}

// sharedMemory is the System V segment that a server's processes are attached to:
// a few bytes that PostgreSQL keeps to tell that one of them lives.
type sharedMemory struct {
	id    int
	key   int64
	known bool
}

// sharedMemory reads which segment it is from postmaster.pid, which a stop removes.
func (o Own) sharedMemory() sharedMemory {
	file, err := pg.ReadPostmaster(o.dir())
	return sharedMemory{id: file.ShmID, key: file.ShmKey, known: err == nil && file.ShmKey != 0}
}

// attached is how many processes are attached. A segment that is gone, that is
// another's by now or that cannot be looked at (of another user, or in another
// namespace) has none: it proves nothing then.
func (m sharedMemory) attached() int {
	if !m.known {
		return 0
	}
	var desc unix.SysvShmDesc
	if _, err := unix.SysvShmCtl(m.id, unix.IPC_STAT, &desc); err != nil || int64(desc.Perm.Key) != m.key {
		return 0
	}
	return int(desc.Nattch)
}
