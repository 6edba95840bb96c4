package server

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"repmgr/internal/host"
	"repmgr/internal/pg"
)

// ordered orders a promotion of a standby, and returns what tells what becomes of it.
func (i *instance) ordered(t *testing.T) *Order {
	t.Helper()
	p, err := i.Ordering()
	check(t, err)
	check(t, i.OrderPromotion(within(t)))
	return &p
}

func (i *instance) wantFate(t *testing.T, p *Order, want Fate) {
	t.Helper()
	if got, err := i.Fate(within(t), p); got != want || err != nil {
		t.Fatalf("the promotion's fate is %d (%v), want %d", got, err, want)
	}
}

// untilFate waits until the fate is that one.
func (i *instance) untilFate(t *testing.T, p *Order, want Fate) {
	t.Helper()
	until(t, "the promotion's fate", func() bool {
		got, err := i.Fate(within(t), p)
		check(t, err)
		return got == want
	})
}

// recovers reports whether the server is a standby.
func (i *instance) recovers(t *testing.T) bool {
	t.Helper()
	return i.value(t, "SELECT pg_is_in_recovery()") == "true"
}

// A promotion that is not hindered happens; and it did when the server has been stopped since.
func TestFateOfPromotion(t *testing.T) {
	t.Parallel()
	_, standby := pair(t, "")
	p := standby.ordered(t)
	standby.untilFate(t, p, Happened)
	check(t, standby.Stop(within(t), pg.Fast))
	standby.wantFate(t, p, Happened)
	if signal, err := pg.HasStandbySignal(standby.dir); signal || err != nil {
		t.Errorf("a primary that was stopped is armed: %v", err)
	}
}

// An order that the startup process has not read is taken back: it does not promote the server when that goes on.
func TestFateOfPromotionTakenBack(t *testing.T) {
	t.Parallel()
	_, standby := pair(t, "")
	startup, found, err := host.StartupProcess(standby.dir)
	if err != nil || !found {
		t.Fatalf("no startup process: %v", err)
	}
	check(t, unix.Kill(startup.PID, unix.SIGSTOP))
	defer func() { _ = unix.Kill(startup.PID, unix.SIGCONT) }()
	p := standby.ordered(t)
	standby.wantFate(t, p, MayHappen)
	if back, err := standby.TakeBack(); !back || err != nil {
		t.Fatalf("it was not taken back: %v", err)
	}
	if back, err := standby.TakeBack(); back || err != nil {
		t.Errorf("it was taken back twice: %v", err)
	}
	standby.wantFate(t, p, MayHappen) // who has not asked the server
	check(t, unix.Kill(startup.PID, unix.SIGCONT))
	standby.exec(t, "SELECT pg_sleep(1)")
	if !standby.recovers(t) {
		t.Error("the server has left recovery")
	}
}

// An order ends with the server that it was given to.
func TestFateOfPromotionOfAnotherLife(t *testing.T) {
	t.Parallel()
	_, standby := pair(t, "")
	p, err := standby.Ordering()
	check(t, err)
	standby.wantFate(t, &p, MayHappen)
	check(t, standby.Stop(within(t), pg.Fast))
	standby.wantFate(t, &p, IsOff)
	standby.start(t)
	standby.wantFate(t, &p, IsOff)
	p.Commanded = true // it may have been given to this one
	standby.wantFate(t, &p, MayHappen)
}

// A server that ends when it has removed standby.signal, and has not left recovery, would come up as a primary. It
// comes up as a standby.
func TestFateOfPromotionThatEnds(t *testing.T) {
	t.Parallel()
	_, standby := pair(t, "")
	hangs := filepath.Join(filepath.Dir(standby.dir), filepath.Base(standby.dir)+".hangs")
	check(t, os.WriteFile(hangs, nil, 0o644))
	defer os.Remove(hangs)
	standby.exec(t, "ALTER SYSTEM SET recovery_end_command = 'while test -e "+hangs+"; do sleep 0.1; done'")
	standby.exec(t, "SELECT pg_reload_conf()")
	p := standby.ordered(t)
	until(t, "the end of recovery", func() bool {
		signal, err := pg.HasStandbySignal(standby.dir)
		check(t, err)
		return !signal
	})
	standby.wantFate(t, p, Leaving)
	if on, err := standby.conn(t).Promotes(within(t)); !on || err != nil {
		t.Errorf("it does not say that it goes on with its promotion: %v", err)
	}
	standby.Quit(within(t), 0)
	standby.untilFate(t, p, IsOff)
	if !p.Armed {
		t.Error("it is not told that the server was armed")
	}
	standby.start(t)
	if !standby.recovers(t) {
		t.Error("it came up as a primary")
	}
}
