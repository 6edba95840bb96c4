package daemon_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"repmgr/internal/lab"
)

// A logical slot for failover is there on the next primary, after a switchover and after a
// crash, with all that its reader has not taken; and a former primary, which has the slot as
// its own, takes over what becomes of it (PostgreSQL 17 and later).
func TestCoreLogicalSlot(t *testing.T) {
	if lab.Major() < 17 {
		t.Skipf("PostgreSQL %d has no logical slots for failover", lab.Major())
	}
	l, ctx := bringUp(t, lab.Options{Nodes: 3, Conf: map[string]string{"use_replication_slots": "true"},
		Settings: map[string]string{"wal_level": "logical", "sync_replication_slots": "on", "hot_standby_feedback": "on"}})
	sql := func(n *lab.Node, statement string) string {
		t.Helper()
		got, err := n.SQL(ctx, statement)
		must(t, err)
		return got
	}
	one, two := l.Node(1), l.Node(2)
	sql(one, "SELECT pg_create_logical_replication_slot('reader', 'test_decoding', false, false, true)")
	waitFor(t, ctx, "the slot on the standbys", func() error { return slotFollows(ctx, one, two, l.Node(3)) })

	sql(one, "CREATE TABLE public.told (id int)")
	sql(one, "INSERT INTO public.told VALUES (1)")
	must(t, two.Repmgr(ctx, "standby", "switchover").Err())
	waitLog(t, ctx, one, `the logical slot "reader", from when this server was the primary, is dropped`)
	sql(two, "INSERT INTO public.told VALUES (2)")
	for _, id := range []int{1, 2} {
		told := fmt.Sprintf("SELECT count(*) FROM pg_logical_slot_peek_changes('reader', NULL, NULL) WHERE data LIKE '%%public.told: INSERT: id[integer]:%d'", id)
		if n := sql(two, told); n != "1" {
			t.Errorf("row %d is told %s times after the switchover", id, n)
		}
	}
	// The worker that met the old slot is started again when 10 s have passed and somebody
	// connects, or a minute has.
	must(t, lab.Wait(ctx, 3*time.Minute, "the slot on the former primary", func() error {
		if err := one.AppExec(ctx, "SELECT 1"); err != nil {
			return err
		}
		return slotFollows(ctx, two, one, l.Node(3))
	}))

	sql(two, "INSERT INTO public.told VALUES (3)")
	waitFor(t, ctx, "the row on the standbys", func() error {
		for _, n := range []*lab.Node{one, l.Node(3)} {
			if got, err := n.SQL(ctx, "SELECT count(*) FROM public.told"); err != nil || got != "3" {
				return fmt.Errorf("%s has %s rows, %v", n.Name, got, err)
			}
		}
		return nil
	})
	must(t, two.Kill9(ctx))
	waitFor(t, ctx, "a new primary", func() error { _, err := l.Primary(ctx); return err })
	primary, err := l.Primary(ctx)
	must(t, err)
	if n := sql(primary, "SELECT count(*) FROM pg_logical_slot_get_changes('reader', NULL, NULL) WHERE data LIKE '%public.told: INSERT: id[integer]:3'"); n != "1" {
		t.Errorf("the row is told %s times after the crash", n)
	}
}

// With manage_synchronized_standby_slots the primary's readers wait for the standbys that stream:
// for all of them, not for one that is gone, and after a switchover for those of the new primary.
func TestCoreSynchronizedSlots(t *testing.T) {
	if lab.Major() < 17 {
		t.Skipf("PostgreSQL %d has no synchronized_standby_slots", lab.Major())
	}
	l, ctx := bringUp(t, lab.Options{Nodes: 3, Conf: map[string]string{"use_replication_slots": "true", "manage_synchronized_standby_slots": "true"},
		Settings: map[string]string{"wal_level": "logical", "sync_replication_slots": "on", "hot_standby_feedback": "on"}})
	one, two, three := l.Node(1), l.Node(2), l.Node(3)
	listed := func(n *lab.Node, want string) {
		t.Helper()
		waitFor(t, ctx, "the slots that readers wait for", func() error {
			got, err := n.SQL(ctx, "SHOW synchronized_standby_slots")
			if err == nil && got != want {
				err = fmt.Errorf("%q, want %q", got, want)
			}
			return err
		})
	}
	told := func(n *lab.Node, id int) { // would hang, were a slot listed that nobody uses
		t.Helper()
		_, err := n.SQL(ctx, "INSERT INTO public.told VALUES ($1)", fmt.Sprint(id))
		must(t, err)
		got, err := n.SQL(ctx, fmt.Sprintf("SELECT count(*) FROM pg_logical_slot_get_changes('reader', NULL, NULL) WHERE data LIKE '%%INSERT: id[integer]:%d'", id))
		if err != nil || got != "1" {
			t.Errorf("row %d is told %s times: %v", id, got, err)
		}
	}
	listed(one, "repmgr_slot_2, repmgr_slot_3")
	_, err := one.SQL(ctx, "CREATE TABLE public.told (id int)")
	must(t, err)
	_, err = one.SQL(ctx, "SELECT pg_create_logical_replication_slot('reader', 'test_decoding', false, false, true)")
	must(t, err)
	told(one, 1)

	must(t, three.Stop(ctx, "fast"))
	listed(one, "repmgr_slot_2")
	told(one, 2)
	must(t, three.Start(ctx))
	listed(one, "repmgr_slot_2, repmgr_slot_3")
	waitFor(t, ctx, "the slot on the standbys", func() error { return slotFollows(ctx, one, two, three) })

	must(t, two.Repmgr(ctx, "standby", "switchover", "--siblings-follow").Err())
	listed(two, "repmgr_slot_1, repmgr_slot_3")
	told(two, 3)
}

// slotFollows reports whether the standbys have the primary's slot, kept on disk. It is
// read meanwhile: a standby takes a slot over when that has come as far as the standby
// itself can decode from.
func slotFollows(ctx context.Context, primary *lab.Node, standbys ...*lab.Node) error {
	for _, statement := range []string{"SELECT pg_log_standby_snapshot()", "SELECT count(*) FROM pg_logical_slot_get_changes('reader', NULL, NULL)"} {
		if _, err := primary.SQL(ctx, statement); err != nil {
			return err
		}
	}
	for _, n := range standbys {
		got, err := n.SQL(ctx, "SELECT synced AND NOT temporary AND invalidation_reason IS NULL FROM pg_replication_slots WHERE slot_name = 'reader'")
		if err != nil || got != "t" {
			return fmt.Errorf("%s: synced %q, %v", n.Name, got, err)
		}
	}
	return nil
}
