package server

import (
	"context"
	"os"
	"testing"
	"time"

	"repmgr/internal/cluster"
)

// promote promotes a sealed standby and requires what a promotion is to give.
func (i *instance) promote(t testing.TB, to cluster.Timeline) Promoted {
	t.Helper()
	at := i.seal(t)
	start := time.Now()
	p, err := i.PromoteTo(within(t), to)
	check(t, err)
	t.Logf("promoted to %d in %s", to, time.Since(start))
	if want := (Promoted{Timeline: to, Parent: at.Timeline, Fork: at.LSN}); p != want {
		t.Fatalf("promoted: %+v, want %+v", p, want)
	}
	i.exec(t, "INSERT INTO t VALUES (42)")
	return p
}

func TestCorePromoteToNext(t *testing.T) {
	t.Parallel()
	_, standby := pair(t, "")
	standby.promote(t, 2)
	if h, err := standby.Histories(); err != nil || len(h) != 1 || len(h[0].Switches) != 1 || h[0].Switches[0].Child != 2 {
		t.Errorf("histories: %+v, %v", h, err)
	}
	if _, err := standby.PromoteTo(within(t), 3); err == nil {
		t.Error("a primary was promoted")
	}
}

// Before its first checkpoint pg_control still names the old timeline (A7).
func TestCorePositionAfterPromotion(t *testing.T) {
	t.Parallel()
	_, standby := pair(t, "")
	p := standby.promote(t, 3)
	end := standby.flushed(t)
	check(t, standby.Demote(within(t)))
	control, err := standby.control(within(t))
	check(t, err)
	t.Logf("pg_control names timeline %d", control.Timeline)
	if at, err := standby.Position(within(t)); err != nil || at.Timeline != 3 || at.LSN < end || at.LSN <= p.Fork {
		t.Errorf("%v, %v; written were %s", at, err, end)
	}
}

// A gap in the numbers is kept by empty history files, and those who follow go
// over it (A26).
func TestCorePromoteOverGap(t *testing.T) {
	t.Parallel()
	primary, standby := pair(t, "")
	other := primary.clone(t, "")
	other.start(t)
	primary.awaitStreaming(t, other)
	cascaded := primary.clone(t, "")
	check(t, writeFollow(cascaded, standby))
	cascaded.start(t)
	other.seal(t) // else it may have more than the new primary
	primary.awaitCaughtUp(t, standby)
	standby.promote(t, 5)
	other.follow(t, standby)
	for _, s := range []*instance{other, cascaded} {
		until(t, s.name+" has the new primary's row", func() bool { return s.rows(t) == standby.rows(t) })
		s.seal(t)
	}
	for n := cluster.Timeline(2); n < 5; n++ {
		if info, err := os.Stat(standby.walPath(historyFile(n))); err != nil || info.Size() != 0 {
			t.Errorf("timeline %d is not kept free: %v", n, err)
		}
	}
	if at := other.seal(t); at.Timeline != 5 {
		t.Errorf("the follower ends on timeline %d", at.Timeline)
	}
	other.promote(t, 7)
}

// An order that was broken off, or that comes when the server was started anew, promotes nobody.
func TestPromotionComesTooLate(t *testing.T) {
	t.Parallel()
	_, standby := pair(t, "")
	standby.seal(t)
	h, err := standby.Postmaster()
	check(t, err)
	defer h.Close()
	broken, cancel := context.WithCancel(within(t))
	cancel()
	if err := standby.orderPromotion(broken, h); err == nil {
		t.Error("it was ordered after it was broken off")
	}
	check(t, standby.Kill(within(t)))
	standby.start(t)
	if err := standby.orderPromotion(within(t), h); err == nil {
		t.Error("the next postmaster was ordered to")
	}
	if _, err := os.Stat(standby.promoteFile()); !os.IsNotExist(err) {
		t.Errorf("the promote file: %v", err)
	}
}
