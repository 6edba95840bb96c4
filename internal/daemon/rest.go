package daemon

import (
	"os"
	"runtime"
	"sync"
	"time"
)

// until is how long it is until the daemon has lived for a multiple of every. What is
// periodic goes by it, so that it falls together: to be woken costs more than what is
// done then.
func (d *Daemon) until(every time.Duration) time.Duration {
	return every - bootTime().Sub(d.began)%every
}

// restAfter is how long nothing has to be the matter before a daemon is said to be at rest.
const restAfter = 5 * time.Second

// processors lets the process run on one processor while all its daemons are at rest. On
// several, Go's scheduler wakes a thread more for each goroutine that can go on, and most of
// them find nothing to do. While anything is decided or done all processors are used.
type processors struct {
	mu        sync.Mutex
	all, used int
	busy      map[*Daemon]bool
}

// process is the one that there is, whatever number of daemons runs in it.
var process = processors{all: runtime.GOMAXPROCS(0), used: runtime.GOMAXPROCS(0), busy: map[*Daemon]bool{}}

// use says that d is busy, or no more. Who has set GOMAXPROCS has decided.
func (p *processors) use(d *Daemon, busy bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.busy, d)
	if busy {
		p.busy[d] = true
	}
	want := 1
	if len(p.busy) > 0 || os.Getenv("GOMAXPROCS") != "" {
		want = p.all
	}
	if want != p.used {
		p.used = want
		runtime.GOMAXPROCS(want)
	}
}
