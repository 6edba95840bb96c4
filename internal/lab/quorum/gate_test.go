package quorum

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"repmgr/internal/lab"
)

// timeline is that of a running primary.
func timeline(t *testing.T, ctx context.Context, n *lab.Node) string {
	t.Helper()
	got, err := n.SQL(ctx, "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)")
	must(t, err)
	return got
}

// A restart through the gate keeps the timeline, the lease and the rows of an
// unlogged table; the directory is armed again after it.
func TestGateRestart(t *testing.T) {
	// The gate is shut again when the lease is not sure for a moment, as on a busy machine.
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3, Conf: map[string]string{"lease_ttl": "30s", "primary_restart_grace": "60s"}})
	one := l.Node(1)
	_, err := one.Rows(ctx, "CREATE UNLOGGED TABLE u AS SELECT 1 AS i")
	must(t, err)
	before := timeline(t, ctx, one)
	restarted := one.Repmgr(ctx, "node", "service", "--action=restart")
	must(t, restarted.Err())
	comesBack(t, ctx, l, one)
	if after := timeline(t, ctx, one); after != before {
		t.Errorf("timeline %s, before the restart %s: %s", after, before, restarted.Stderr)
	}
	rows, err := one.SQL(ctx, "SELECT count(*) FROM u")
	must(t, err)
	if r, err := one.Report(ctx); rows != "1" || err != nil || r.Term != 1 {
		t.Errorf("%s rows in the unlogged table, want 1; term %d, want 1 (%v)", rows, r.Term, err)
	}
	// It is armed again, so whoever starts it now, this or its daemon, starts no primary.
	must(t, one.Stop(ctx, "immediate"))
	_ = one.Start(ctx)
	waitFor(t, ctx, "it to answer", func() error {
		rows, err := one.Rows(ctx, "SELECT CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END")
		if err == nil && rows[0][0] == before {
			t.Fatal("it came up writable after a crash, without a promotion")
		}
		return err
	})
}

// A restart past the gate comes up read-only; the daemon, which holds the lease,
// promotes it on a new timeline, and the standbys follow.
func TestGateRestartByHand(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3, Conf: map[string]string{"primary_restart_grace": "60s"}})
	one := l.Node(1)
	before := timeline(t, ctx, one)
	must(t, one.Stop(ctx, "fast"))
	must(t, one.Start(ctx))
	waitFor(t, ctx, "a new term", func() error {
		r, err := one.Report(ctx)
		if err == nil && r.Term < 2 {
			err = fmt.Errorf("term %d", r.Term)
		}
		return err
	})
	comesBack(t, ctx, l, one)
	if after := timeline(t, ctx, one); after == before {
		t.Errorf("timeline %s still: it came up writable by itself", after)
	}
}

// A gate that was opened, and through which nobody goes, is closed before the
// lease is given back.
func TestGateIsClosedAgain(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3})
	one := l.Node(1)
	must(t, one.Stop(ctx, "fast"))
	must(t, one.Repmgr(ctx, "node", "startable").Err())
	must(t, logged(one.DaemonLog(), "opening of the start gate is done"))
	primary := newPrimary(t, ctx, l, one)
	if err := one.Start(ctx); err == nil { // it may have been started by its daemon already
		if standby, err := one.InRecovery(ctx); err != nil || !standby {
			t.Errorf("started late, the former primary takes writes (%v)", err)
		}
	}
	comesBack(t, ctx, l, primary)
}

// A former primary that boots, through the gate and before its daemon, takes no write.
func TestGateAtBoot(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3, Namespaces: true})
	old := l.Node(1)
	must(t, old.PowerOff(ctx))
	primary := newPrimary(t, ctx, l, old)
	must(t, old.Heal())
	must(t, old.Repmgr(ctx, "node", "startable").Err())
	must(t, old.Start(ctx))
	waitFor(t, ctx, "it to answer as a standby", func() error {
		standby, err := old.InRecovery(ctx)
		if err == nil && !standby {
			t.Fatal("it takes writes")
		}
		return err
	})
	if _, err := old.Rows(ctx, "CREATE TABLE w (i int)"); err == nil {
		t.Error("it took a write")
	}
	must(t, old.StartDaemon(ctx))
	comesBack(t, ctx, l, primary)
	if standby, err := old.InRecovery(ctx); err != nil || !standby {
		t.Error(errors.Join(err, errors.New("it is no standby")))
	}
}

// A primary that was stopped in a pause, and left open as one, keeps nobody from taking over
// when the pause ends.
func TestQuorumStoppedInAPause(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3})
	old := l.Node(1)
	must(t, l.Node(2).Repmgr(ctx, "service", "pause").Err())
	must(t, old.Stop(ctx, "fast"))
	must(t, old.Run(ctx, "rm", "-f", old.DataDir+"/standby.signal").Err())
	must(t, l.Node(2).Repmgr(ctx, "service", "unpause").Err())
	comesBack(t, ctx, l, newPrimary(t, ctx, l, old))
}
