package quorum

import (
	"os"
	"path/filepath"
	"testing"

	"repmgr/internal/lab"
)

// The host of the primary is shut down: its daemon is stopped first, and hands over.
// Nothing has to run out, nothing is paused, and no commit is discarded.
func TestQuorumHostShutsDown(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3})
	old := l.Node(1)
	programs := filepath.Join(l.Dir, "programs")
	must(t, os.Mkdir(programs, 0o755))
	must(t, os.WriteFile(filepath.Join(programs, "systemctl"), []byte("#!/bin/sh\n[ \"$*\" = is-system-running ] && echo stopping\nexit 1\n"), 0o755))
	must(t, old.KillDaemon(ctx))
	must(t, old.StartDaemonWith(ctx, []string{"PATH=" + programs + ":" + os.Getenv("PATH")}))
	waitGoverned(t, ctx, l, old)
	_, err := old.StopDaemon(ctx)
	must(t, err)
	if old.Running() {
		t.Error("its server runs on")
	}
	must(t, logged(old.DaemonLog(), "the lease is given back"))
	primary := newPrimary(t, ctx, l, old)
	must(t, says(t, primary, "cluster explain", "node1 (ID: 1) gave its lease back", "the host is shut down")())
	if r, err := primary.Report(ctx); err != nil || r.Paused {
		t.Errorf("paused: %v, %v", r.Paused, err)
	}
	must(t, old.Start(ctx)) // as its init does
	must(t, old.StartDaemon(ctx))
	comesBack(t, ctx, l, primary)
	if n, err := primary.SQL(ctx, "SELECT count(*) FROM repmgr.events WHERE event = 'repmgrd_commits_discarded'"); err != nil || n != "0" {
		t.Errorf("commits were discarded %s times, %v", n, err)
	}
}
