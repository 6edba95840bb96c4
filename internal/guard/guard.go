// Package guard is the small process that outlives a hang or the death of the
// daemon and holds a deadline for it: if the daemon does not extend it in time,
// the guard ends PostgreSQL, every process of the data directory, and any later
// postmaster of it, until a daemon takes over. Run is the process, Ensure and
// Guard are the daemon's side of it. It decides nothing.
package guard

import (
	"errors"
	"io"
	"time"
)

// The guard's files in the state directory.
const (
	socketName = "guard.sock"
	lockName   = "guard.lock"
)

// maxAhead bounds a deadline: one further away than this is a mistake.
const maxAhead = time.Hour

// ErrFired says that the deadline has passed, and the guard ends PostgreSQL until it is
// taken over. For errors.Is.
var ErrFired = errors.New("the deadline has passed")

// Options are what a guard and its daemon have to know.
type Options struct {
	StateDir      string // holds guard.sock and guard.lock; must exist
	DataDirectory string // of the server that is to be ended
	// Log takes the guard's lines; nil: none. Where it blocks, lines are lost and
	// nothing waits. For Ensure it must be an *os.File, which becomes the output
	// of a guard that is started; anything else: that of this process.
	Log io.Writer
	// Watchdog is a device such as /dev/watchdog; empty: none.
	Watchdog string
	// WatchdogTimeout is what the device is set to, in whole seconds; zero: 2 s.
	WatchdogTimeout time.Duration
	// Command starts a guard with these options; only Ensure uses it.
	Command []string
	// Replace is asked whether Ensure may kill a guard that does not answer, as one that was
	// stopped by a signal, and start another; nil: it may not. Only where the server cannot
	// write: whatever deadline that guard has is gone with it.
	Replace func() bool
}

// Status is what a guard tells of itself. Times are host.BootTime's.
type Status struct {
	PID           int           `json:"pid"`
	DataDirectory string        `json:"data_directory"`
	Deadline      time.Duration `json:"deadline_ns"` // zero: none
	Fired         bool          `json:"fired"`       // it ends PostgreSQL, until TakeOver
	FiredAt       time.Duration `json:"fired_at_ns"` // the last time; kept after TakeOver
	Killed        int           `json:"killed"`      // processes since FiredAt
	Living        int           `json:"living"`      // of them, in the last scan; -1: there was none yet
	Watchdog      bool          `json:"watchdog"`    // the device is open and counts
	Protocol      int           `json:"protocol"`    // that the guard knows; zero: 1
}

// The verbs of a request.
const (
	verbAttach   = "attach" // what changes something is done for the last who attached
	verbStatus   = "status"
	verbExtend   = "extend"
	verbStand    = "stand-down"
	verbTakeOver = "take-over"
	verbEnd      = "end"
)

// Protocol is the newest form of a request that this program knows, as a guard and as a
// daemon. A guard lives on when its daemon is updated or put back, so that the two may
// differ. A new verb or field is a new number, which stands in the requests that need it:
// an older guard refuses them, and all others go on as before. What a guard adds to its
// answers older daemons pass over.
const Protocol = 1

// request and answer are one line of JSON each.
type request struct {
	Protocol      int           `json:"protocol,omitempty"` // that this request needs; zero: 1
	Verb          string        `json:"verb"`
	Deadline      time.Duration `json:"deadline_ns,omitempty"`
	DataDirectory string        `json:"data_directory,omitempty"`
}

type answer struct {
	Error  string `json:"error,omitempty"`
	Fired  bool   `json:"error_fired,omitempty"` // the error is ErrFired
	Status Status `json:"status"`
}
