package guard

import (
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// usualWatchdogTimeout is short, since it adds to what a server may do when
// guard and daemon are both dead.
const usualWatchdogTimeout = 2 * time.Second

// watchdog is a device that resets this machine when it is open and nobody
// writes to it in time (Linux, Documentation/watchdog/watchdog-api.rst).
type watchdog struct {
	path    string
	timeout time.Duration
	log     *journal

	mu      sync.Mutex
	fd      int // -1: closed
	trouble string
}

func newWatchdog(o Options, log *journal) *watchdog {
	timeout := max(o.WatchdogTimeout.Round(time.Second), 0)
	if timeout == 0 {
		timeout = usualWatchdogTimeout
	}
	return &watchdog{path: o.Watchdog, timeout: timeout, log: log, fd: -1}
}

// run keeps the device as the keeper wants it, for ever.
func (w *watchdog) run(k *keeper) {
	for range time.Tick(w.timeout / 8) {
		w.tend(k)
	}
}

// tend pets the device, or lets it count on, or stops it.
func (w *watchdog) tend(k *keeper) {
	if w.path == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch pet, count := k.mayPet(); {
	case !count:
		w.stop()
	case pet:
		w.pet()
	}
}

func (w *watchdog) counts() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fd >= 0
}

// pet opens the device, which starts it, or writes to it. It is never waited for.
func (w *watchdog) pet() {
	if w.fd < 0 {
		fd, err := unix.Open(w.path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
		if err != nil {
			w.tell("open", err)
			return
		}
		w.fd, w.trouble = fd, ""
		err = unix.IoctlSetPointerInt(fd, unix.WDIOC_SETTIMEOUT, int(w.timeout/time.Second))
		if err != nil && !errors.Is(err, unix.ENOTTY) { // that is no watchdog, but a fifo or a file
			w.tell("set the timeout of", err)
		}
	}
	if _, err := unix.Write(w.fd, []byte("\n")); err != nil && !errors.Is(err, unix.EAGAIN) {
		w.tell("write to", err)
	}
}

// stop is the magic close: after a V the device does not count on.
func (w *watchdog) stop() {
	if w.fd < 0 {
		return
	}
	if _, err := unix.Write(w.fd, []byte("V")); err != nil {
		w.tell("stop", err)
	}
	_ = unix.Close(w.fd)
	w.fd = -1
}

// tell writes about a trouble once.
func (w *watchdog) tell(what string, err error) {
	if text := what + err.Error(); text != w.trouble {
		w.log.printf("ERROR", "could not %s the watchdog %s: %v", what, w.path, err)
		w.trouble = text
	}
}
