package daemon_test

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"repmgr/internal/conf"
	"repmgr/internal/host"
	"repmgr/internal/lab"
	"repmgr/internal/ops"
	"repmgr/internal/registry"
)

// A promotion that PostgreSQL has noted while it starts a WAL receiver is not
// slept over until wal_retrieve_retry_interval ends. The moment is made to last:
// the stream breaks, and the new receiver waits for a postmaster that is stopped.
func TestPromotionIsNotSleptOver(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 2, Settings: map[string]string{"wal_retrieve_retry_interval": "60s"}})
	must(t, l.BringUpPrimary(ctx))
	must(t, l.BringUpStandbys(ctx))
	primary, standby := l.Node(1), l.Node(2)
	must(t, primary.Pause(ctx))
	found, err := host.Processes(primary.DataDir)
	must(t, err)
	for _, p := range found {
		if strings.Contains(p.Title, "walsender") {
			must(t, syscall.Kill(p.PID, syscall.SIGKILL))
		}
	}
	waitFor(t, ctx, "a WAL receiver that waits for an answer", func() error {
		return logged(standby.ServerLog(), "server closed the connection unexpectedly")
	})
	cfg, _, err := conf.Load(conf.Files{ReadFile: os.ReadFile, ReadDir: os.ReadDir}, standby.ConfFile())
	must(t, err)
	w := registry.NewWorld(cfg, registry.WorldOptions{Lost: 1})
	defer w.Close()
	began := time.Now()
	must(t, registry.Promote(ctx, w, ops.PromoteOptions{}, func(ops.PlanEvent) {}))
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("the promotion took %s", took)
	}
	must(t, primary.Resume())
}
