package pg

import (
	"strings"
	"testing"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
)

func TestReplicationSession(t *testing.T) {
	t.Parallel()
	p := primary(t)
	server, err := connect(t, p.socket()).Server(within(t, time.Minute))
	check(t, err)
	r, err := ConnectReplication(within(t, time.Minute), p.tcp("streamer", scramPassword).With("target_session_attrs", "primary"), "")
	check(t, err)
	defer r.Close(within(t, time.Minute))
	got, err := r.IdentifySystem(within(t, time.Minute))
	if err != nil || got.SystemID != server.SystemID || got.Timeline != 1 || got.Position == 0 {
		t.Errorf("%+v (%v)", got, err)
	}
	if history, err := r.TimelineHistory(within(t, time.Minute), 1); err != nil || history != nil {
		t.Errorf("timeline 1 has ancestors: %v (%v)", history, err)
	}
	if _, err := r.TimelineHistory(within(t, time.Minute), 7); fault.CodeOf(err) != fault.DBQuery || Code(err) == "" {
		t.Errorf("timeline 7: %v", err)
	}
	ctx := within(t, time.Minute)
	check(t, r.CreateSlot(ctx, "from_protocol"))
	if err := r.CreateSlot(ctx, "from_protocol"); Code(err) != "42710" {
		t.Errorf("twice: %v", err)
	}
	check(t, r.DropSlot(ctx, "from_protocol"))
	check(t, r.DropSlot(ctx, "from_protocol"))
	if err := r.DropSlot(ctx, `in"valid`); err != nil && fault.CodeOf(err) != fault.DBQuery {
		t.Errorf("a quoted name: %v", err)
	}
}

// A role that may replicate, and not ask for a checkpoint, gets one all the same, and the
// backup that it was the beginning of does not go on.
func TestCheckpointOfAReplica(t *testing.T) {
	t.Parallel()
	p := primary(t)
	admin := connect(t, p.socket())
	ctx := within(t, time.Minute)
	var before, after string
	begins := "SELECT redo_lsn::text FROM pg_catalog.pg_control_checkpoint()"
	check(t, admin.QueryRow(ctx, begins).Scan(&before))
	if _, err := admin.Exec(ctx, "SELECT pg_catalog.pg_logical_emit_message(true, 'test', 'something to write')"); err != nil {
		t.Fatal(err)
	}
	r, err := ConnectReplication(ctx, p.tcp("streamer", scramPassword), "")
	check(t, err)
	defer r.Close(within(t, time.Minute))
	check(t, r.Checkpoint(ctx))
	check(t, admin.QueryRow(ctx, begins).Scan(&after))
	if before == after {
		t.Errorf("the last checkpoint began at %s, as before", after)
	}
	if _, err := r.IdentifySystem(ctx); err != nil {
		t.Errorf("the session does not go on: %v", err)
	}
	check(t, r.Close(ctx))
	until(t, "no backup", func() bool {
		var left int
		check(t, admin.QueryRow(ctx, "SELECT count(*)::int FROM pg_catalog.pg_stat_progress_basebackup").Scan(&left))
		return left == 0
	})
}

// The connection string's password belongs to its own user alone.
func TestReplicationUser(t *testing.T) {
	t.Parallel()
	p := primary(t)
	if _, err := ConnectReplication(within(t, time.Minute), p.tcp("monitor", scramPassword), "streamer"); Code(err) != "28P01" {
		t.Errorf("the password of another user: %v", err)
	}
	if _, err := ConnectReplication(within(t, time.Minute), p.tcp("monitor", scramPassword), ""); Code(err) == "" {
		t.Errorf("a role without REPLICATION: %v", err)
	}
	if _, err := ConnectReplication(within(t, time.Minute), p.tcp("streamer", scramPassword).With("target_session_attrs", "standby"), ""); err == nil {
		t.Error("a primary was taken for a standby")
	}
	if _, err := ConnectReplication(within(t, time.Minute), p.tcp("streamer", "x").With("sslmode", "maybe"), ""); fault.CodeOf(err) != fault.DBConn {
		t.Errorf("a bad sslmode: %v", err)
	}
}

func TestParseHistory(t *testing.T) {
	t.Parallel()
	got, err := ParseHistory("# comment\n1\t0/3000148\tno recovery target specified\n\n 2 1/0 \n")
	check(t, err)
	if len(got) != 2 || got[0] != (Fork{1, 0x3000148, "no recovery target specified"}) || got[1] != (Fork{2, 1 << 32, ""}) {
		t.Errorf("%+v", got)
	}
	if got, err := ParseHistory(""); err != nil || len(got) != 0 {
		t.Errorf("an empty placeholder: %v (%v)", got, err)
	}
	for _, bad := range []string{"1", "x 0/1", "1 0-1", "-1 0/1"} {
		if _, err := ParseHistory(bad); err == nil {
			t.Errorf("%q is a history", bad)
		}
	}
}

func TestCanFollow(t *testing.T) {
	t.Parallel()
	history := []Fork{{1, 100, ""}, {2, 200, ""}}
	for name, one := range map[string]struct {
		local  Local
		target Identity
		ok     bool
		reason string
	}{
		"same place":                     {Local{"a", 1, 50, nil}, Identity{"a", 1, 50}, true, "both are on timeline 1"},
		"behind":                         {Local{"a", 1, 50, nil}, Identity{"a", 1, 60}, true, "both"},
		"ahead":                          {Local{"a", 1, 61, nil}, Identity{"a", 1, 60}, false, "reaches 0/3D"},
		"another system":                 {Local{"a", 1, 50, nil}, Identity{"b", 1, 50}, false, "identifiers differ: a here, b on the target"},
		"older target":                   {Local{"a", 3, 50, nil}, Identity{"a", 2, 500}, false, "which is older"},
		"before the fork":                {Local{"a", 1, 99, nil}, Identity{"a", 3, 500}, true, "ended at 0/64"},
		"at the fork":                    {Local{"a", 2, 200, nil}, Identity{"a", 3, 500}, true, "ended at 0/C8"},
		"beyond the fork":                {Local{"a", 1, 101, nil}, Identity{"a", 3, 500}, false, "diverged"},
		"beyond an old fork":             {Local{"a", 1, 150, nil}, Identity{"a", 3, 500}, false, "diverged"},
		"the same number, the same fork": {Local{"a", 3, 250, []Fork{{1, 100, "by hand"}, {2, 200, ""}}}, Identity{"a", 3, 500}, true, "both"},
		"the same number, another fork":  {Local{"a", 3, 250, []Fork{{1, 100, ""}, {2, 201, ""}}}, Identity{"a", 3, 500}, false, "two promotions took that number"},
		"no ancestor":                    {Local{"a", 4, 50, nil}, Identity{"a", 5, 500}, false, "no ancestor"},
	} {
		ok, reason := CanFollow(one.local, one.target, history)
		if ok != one.ok || !strings.Contains(reason, one.reason) {
			t.Errorf("%s: %v, %q", name, ok, reason)
		}
	}
}

// A promoted server's history says who can follow it.
func TestCanFollowAPromotedServer(t *testing.T) {
	t.Parallel()
	p := primary(t)
	s := p.clone(t, "")
	s.start(t)
	c := connect(t, s.socket())
	server, err := c.Server(within(t, time.Minute))
	check(t, err)
	before, err := c.Progress(within(t, time.Minute))
	check(t, err)
	check(t, c.Promote(within(t, time.Minute)))
	until(t, "a primary", func() bool { got, err := c.Progress(within(t, time.Minute)); check(t, err); return !got.InRecovery })
	r, err := ConnectReplication(within(t, time.Minute), s.socket(), "")
	check(t, err)
	defer r.Close(within(t, time.Minute))
	for name, one := range map[string]struct {
		position cluster.LSN
		ok       bool
	}{"before": {before.Replayed, true}, "beyond": {before.Replayed + 1<<30, false}} {
		ok, reason, err := r.CanFollow(within(t, time.Minute), Local{server.SystemID, 1, one.position, nil})
		if err != nil || ok != one.ok {
			t.Errorf("%s: %v, %q (%v)", name, ok, reason, err)
		}
	}
	s.stop(t, "immediate")
	if _, _, err := r.CanFollow(within(t, time.Minute), Local{server.SystemID, 1, 1, nil}); fault.CodeOf(err) != fault.DBQuery {
		t.Errorf("a dead target: %v", err)
	}
}
