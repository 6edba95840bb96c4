package daemon

import (
	"os"
	"path/filepath"
	"testing"

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
