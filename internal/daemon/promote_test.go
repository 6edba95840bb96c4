package daemon_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"repmgr/internal/conf"
	"repmgr/internal/host"
	"repmgr/internal/lab"
	"repmgr/internal/ops"
	"repmgr/internal/pg"
	"repmgr/internal/registry"
)

// A promotion that PostgreSQL has noted before a WAL receiver that it asked for
// was started is not slept over until wal_retrieve_retry_interval ends. The
// moment is made to last: while the standby's postmaster is stopped, nothing is
// started, and the startup process is told what the postmaster would tell it.
func TestPromotionIsNotSleptOver(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 2, Settings: map[string]string{"wal_retrieve_retry_interval": "60s"}})
	must(t, l.BringUpPrimary(ctx))
	must(t, l.BringUpStandbys(ctx))
	standby := l.Node(2)
	postmaster, err := pg.ReadPostmaster(standby.DataDir)
	must(t, err)
	must(t, syscall.Kill(postmaster.PID, syscall.SIGSTOP))
	must(t, l.Node(1).Kill9(ctx))
	waitFor(t, ctx, "the end of the stream", func() error { return logged(standby.ServerLog(), "invalid record length") })
	must(t, os.WriteFile(filepath.Join(standby.DataDir, "promote"), nil, 0o600))
	must(t, host.NudgePromotion(standby.DataDir)) // once: as the postmaster would
	waitFor(t, ctx, "the order to be noted", func() error { return logged(standby.ServerLog(), "received promote request") })
	must(t, syscall.Kill(postmaster.PID, syscall.SIGCONT))

	cfg, _, err := conf.Load(conf.Files{ReadFile: os.ReadFile, ReadDir: os.ReadDir}, standby.ConfFile())
	must(t, err)
	w := registry.NewWorld(cfg, registry.WorldOptions{Lost: 1})
	defer w.Close()
	must(t, w.AwaitPromotion(ctx, ops.Promotion{Timeout: 30 * time.Second, Interval: time.Second}))
}
