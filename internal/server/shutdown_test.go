package server

import (
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"repmgr/internal/cluster"
)

// A primary's server that has written its last record can write nothing any more, though
// its archiver still works; the standby that has everything goes on where it ends, without
// being sealed, and the former primary follows it as it is.
func TestCoreHandOver(t *testing.T) {
	t.Parallel()
	primary := newInstance(t, "archive_mode = on\narchive_command = 'sleep 3'")
	primary.start(t)
	primary.exec(t, "CREATE TABLE t (i int)", "INSERT INTO t VALUES (0)")
	standby := primary.clone(t, "archive_mode = off")
	standby.start(t)
	primary.awaitStreaming(t, standby)
	check(t, primary.Arm())
	if ended, err := primary.Ended(within(t), primary.flushed(t)); err == nil && ended {
		t.Error("a server that runs has ended")
	}
	postmaster, end, err := primary.ShutDown(within(t))
	check(t, err)
	defer postmaster.Close()
	if postmaster.Exited() {
		t.Error("the postmaster has gone: nothing is shown of one that archives")
	}
	ended := func(at cluster.LSN) bool {
		ok, err := primary.Ended(within(t), at)
		return ok && err == nil
	}
	if !ended(end.LSN) || ended(end.LSN+8) || ended(end.LSN-8) {
		t.Errorf("its WAL ends at %s, and at no other place", end.LSN)
	}
	check(t, primary.Disarm())
	if ended(end.LSN) {
		t.Error("whoever starts it would make it a primary: it has not ended for good")
	}
	check(t, primary.Arm())

	until(t, "the standby to have everything", func() bool { return standby.received(t) >= end.LSN })
	session, at, err := standby.Reach(within(t), nil)
	check(t, err)
	if at != end {
		t.Errorf("the standby is at %+v, the primary's WAL ends at %+v", at, end)
	}
	p, err := standby.PromoteIn(within(t), session, 2)
	check(t, err)
	if p != (Promoted{Timeline: 2, Parent: 1, Fork: end.LSN}) {
		t.Errorf("promoted: %+v", p)
	}
	standby.exec(t, "INSERT INTO t VALUES (42)")
	check(t, primary.Kill(within(t)))
	if !ended(end.LSN) {
		t.Error("it has ended, and is gone")
	}
	history, err := standby.History(2)
	check(t, err)
	if r, err := primary.Compare(within(t), history); err != nil || !r.Follows {
		t.Errorf("the former primary: %+v, %v", r, err)
	}
	if _, _, err := standby.Reach(within(t), nil); err == nil {
		t.Error("a primary was taken for a standby")
	}
}

// Whoever stops a server sees its postmaster.pid go before the postmaster, which frees its
// memory first: the gate waits for that, and opens. A server that runs is refused at once.
func TestGateWaitsForThePostmaster(t *testing.T) {
	t.Parallel()
	primary := newInstance(t, "")
	primary.start(t)
	check(t, primary.Arm())
	if err := primary.StartAsPrimary(within(t)); err == nil {
		t.Fatal("the directory of a server that runs was opened")
	}
	postmaster, err := primary.Postmaster()
	check(t, err)
	defer postmaster.Close()
	check(t, os.Remove(filepath.Join(primary.dir, "postmaster.pid")))
	var ends atomic.Bool
	time.AfterFunc(200*time.Millisecond, func() { ends.Store(true); _ = postmaster.Signal(syscall.SIGINT) })
	check(t, primary.StartAsPrimary(within(t)))
	if armed, err := primary.Armed(); armed || err != nil {
		t.Errorf("armed: %v, %v", armed, err)
	}
	if !ends.Load() {
		t.Error("the directory was opened before the postmaster was told to end")
	}
}
