package daemon

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/failover"
)

// TestLineOfAStandby says that the brain is told of a standby's history too: one that
// was away while the primary changed may have left the cluster's, and be refused by its upstream for ever.
func TestLineOfAStandby(t *testing.T) {
	dir := t.TempDir()
	err := os.Mkdir(filepath.Join(dir, "pg_wal"), 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "pg_wal", "00000002.history"), []byte("1\t0/3000060\tno recovery target specified\n"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{cfg: &conf.Config{DataDirectory: dir}}
	d.eyes, d.peers = newEyes(d), newPeers(d)
	for state, want := range map[failover.ServerState]string{failover.ServerRunning: "1@0/3000060 2", failover.ServerStarting: ""} {
		got := d.withDirectory(failover.Local{State: state, Role: cluster.Standby, Position: failover.Position{Timeline: 2, LSN: 0x3000100}})
		if string(got.Line) != want {
			t.Errorf("%s: %q, want %q", state, got.Line, want)
		}
	}
}

// TestIncarnation: a data directory is the same one after it was moved, or mounted from a
// device with another number, and another one after it was made anew, though its times were kept.
func TestIncarnation(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	file := filepath.Join(dir, "PG_VERSION")
	at := time.Now().Add(-time.Hour)
	put := func(name string) {
		t.Helper()
		if err := os.WriteFile(name, []byte("15\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if got := incarnationOf(dir); got != "" {
		t.Errorf("there is none, and it is %q", got)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	put(file)
	first := incarnationOf(dir)
	if err := os.Rename(dir, dir+".moved"); err != nil {
		t.Fatal(err)
	}
	if got := incarnationOf(dir + ".moved"); got != first || first == "" {
		t.Errorf("moved: %q, before %q", got, first)
	}
	put(filepath.Join(dir+".moved", "new"))
	if err := os.Rename(filepath.Join(dir+".moved", "new"), filepath.Join(dir+".moved", "PG_VERSION")); err != nil {
		t.Fatal(err)
	}
	if got := incarnationOf(dir + ".moved"); got == first {
		t.Errorf("made anew: %q as before", got)
	}
	st := unix.Statx_t{Ino: 7, Dev_major: 8, Dev_minor: 1, Mtime: unix.StatxTimestamp{Sec: 5}}
	other := st
	other.Dev_minor = 2
	if incarnationFrom(st) != incarnationFrom(other) {
		t.Error("the device's number counts")
	}
	other.Btime = unix.StatxTimestamp{Sec: 9} // not told of in Mask: it means nothing
	if incarnationFrom(st) != incarnationFrom(other) {
		t.Error("a time of making counts that the file system does not keep")
	}
	other.Mask |= unix.STATX_BTIME
	if incarnationFrom(st) == incarnationFrom(other) {
		t.Error("the time of making does not count")
	}
}
