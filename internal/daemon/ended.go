package daemon

import (
	"sync"
	"time"
)

// ending is about the orders that end the own server, or start it for a moment only, as the
// one that rewinds it does: a look that finds it running meanwhile does not tell that somebody
// has started it.
type ending struct {
	mu    sync.Mutex
	under int       // how many are under way
	over  time.Time // when the last one was
}

// endsServer keeps that this daemon ends its server, so that it starts it again, and has no
// look contradict until what is returned is called. It is memory first: a stalled disk delays
// no stop.
func (d *Daemon) endsServer() (over func()) {
	e := &d.ending
	e.mu.Lock()
	defer e.mu.Unlock()
	e.under++
	d.noteEnded(true)
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.under, e.over = e.under-1, bootTime()
	}
}

// runsAgain forgets that this daemon ended its server, which a look that began then has found
// running.
func (d *Daemon) runsAgain(at time.Time) {
	e := &d.ending
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.under == 0 && at.After(e.over) {
		d.noteEnded(false)
	}
}

// noteEnded keeps whether this daemon ended its server, and it has not run since.
func (d *Daemon) noteEnded(ended bool) {
	d.noteSoon(func(r *remembered) { r.Ended = ended })
}
