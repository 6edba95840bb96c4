package daemon

import (
	"runtime"
	"testing"
	"time"
)

// What is periodic falls together, and is never late by more than it is periodic.
func TestUntil(t *testing.T) {
	d := &Daemon{began: bootTime().Add(-1350 * time.Millisecond)}
	for _, every := range []time.Duration{200 * time.Millisecond, time.Second, time.Minute} {
		asked := bootTime().Sub(d.began)
		got := d.until(every)
		answered := bootTime().Sub(d.began)
		if from, to := asked+got, answered+got; got <= 0 || got > every || to.Truncate(every) < from {
			t.Errorf("until a multiple of %s: %s, asked after %s", every, got, asked)
		}
	}
}

// A process is at rest when all its daemons are.
func TestProcessors(t *testing.T) {
	t.Setenv("GOMAXPROCS", "")
	all := runtime.GOMAXPROCS(3)
	defer runtime.GOMAXPROCS(all)
	p := processors{all: 3, used: 3, busy: map[*Daemon]bool{}}
	one, two := &Daemon{}, &Daemon{}
	for i, step := range []struct {
		d    *Daemon
		busy bool
		want int
	}{{one, true, 3}, {two, true, 3}, {one, false, 3}, {two, false, 1}, {one, true, 3}, {one, false, 1}} {
		if p.use(step.d, step.busy); runtime.GOMAXPROCS(0) != step.want {
			t.Errorf("step %d: %d processors are used, want %d", i, runtime.GOMAXPROCS(0), step.want)
		}
	}
	t.Setenv("GOMAXPROCS", "3")
	if p.use(one, true); runtime.GOMAXPROCS(0) != 3 {
		t.Error("GOMAXPROCS was set")
	}
	if p.use(one, false); runtime.GOMAXPROCS(0) != 3 {
		t.Error("GOMAXPROCS was set, and is not kept")
	}
}
