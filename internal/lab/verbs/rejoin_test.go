package verbs

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"repmgr/internal/lab"
)

// A former primary, without any daemon: what cannot be is refused, one that diverged is
// rewound only if that is asked for, and one that did not follows as it is; and what
// node check says on the way.
func TestNodeRejoinAndCheck(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 2, Settings: map[string]string{"wal_log_hints": "on"}})
	one, two := l.Node(1), l.Node(2)
	must(t, l.BringUpPrimary(ctx))
	must(t, two.WriteConf(nil))
	must(t, two.BecomeStandby(ctx, one, false))
	to := func(n *lab.Node) []string { return []string{"-d", n.Conninfo()} }

	r := one.Repmgr(ctx, "node", "check")
	if r.Err() != nil || !strings.Contains(r.Stdout, "\tServer role: OK (node is primary)\n") || !strings.Contains(r.Stdout, "\tDownstream servers: OK (1 of 1") {
		t.Errorf("node check of a healthy primary: %v\n%s", r.Err(), r.Stdout)
	}
	r = two.Repmgr(ctx, "node", "check", "--upstream", "--nagios")
	equal(t, "the upstream", strings.TrimSpace(r.Stdout), `REPMGR_UPSTREAM_SERVER OK: node is attached to upstream node "node1" (ID: 1)`)
	r = two.Repmgr(ctx, "node", "check", "--repmgrd", "--nagios")
	equal(t, "no repmgrd", fmt.Sprint(r.Code, r.Stdout), "2REPMGRD CRITICAL: repmgrd not running\n")
	r = two.Repmgr(ctx, "node", "check", "--data-directory-config", "--optformat", "-LINFO")
	equal(t, "what repmgr 5 asks for", r.Stdout, "--configured-data-directory=OK\n")
	if r = two.Repmgr(ctx, "node", "check", "--role", "--csv"); r.Code != 1 {
		t.Errorf("--csv with one check: status %d\n%s", r.Code, r.Stderr)
	}

	refused(t, ctx, one, 24, []string{"the local server runs"}, append(to(two), "node", "rejoin")...)
	must(t, one.Kill9(ctx))
	must(t, two.Repmgr(ctx, "standby", "promote").Err())
	if r = two.Repmgr(ctx, "node", "check", "--downstream"); r.Code != 0 {
		t.Errorf("its former upstream is no downstream: status %d, %s", r.Code, r.Stdout)
	}
	must(t, one.Start(ctx)) // as a second primary, which writes what the other does not have
	_ = sql(t, ctx, one, "CREATE TABLE diverged (i int)")
	must(t, one.Stop(ctx, "fast"))
	refused(t, ctx, one, 24, []string{"has what node \"node2\" (ID: 2) does not have", "--force-rewind"}, append(to(two), "node", "rejoin")...)
	r = one.Repmgr(ctx, append(to(two), "node", "rejoin", "--force-rewind", "--dry-run")...)
	if r.Err() != nil || !strings.Contains(r.Stderr, "pg_rewind would discard") || one.Running() {
		t.Errorf("a dry run: %v\n%s", r.Err(), r.Stderr)
	}
	// The primary writes on meanwhile: what is copied ends before what the server needs to answer.
	go two.Run(ctx, "psql", "-h", two.Dir, "-p", fmt.Sprint(two.Port), "-U", "postgres", "-Xc",
		"DO 'BEGIN FOR i IN 1..500 LOOP PERFORM pg_logical_emit_message(false, $$t$$, $$more$$), pg_sleep(0.005); END LOOP; END'")
	r = one.Repmgr(ctx, append(to(two), "node", "rejoin", "--force-rewind")...)
	t.Logf("rejoin: %s", r.Stderr)
	must(t, r.Err())
	follows(t, l, one, two)
	equal(t, "what was discarded", sql(t, ctx, one, "SELECT to_regclass('diverged')"), "")
	equal(t, "the last event", sql(t, ctx, two, "SELECT successful FROM repmgr.events WHERE event = 'node_rejoin' AND node_id = 1 ORDER BY event_timestamp DESC LIMIT 1"), "t")
	equal(t, "the record", sql(t, ctx, two, "SELECT type, upstream_node_id, active FROM repmgr.nodes WHERE node_id = 1"), "standby 2 t")

	must(t, two.Stop(ctx, "fast")) // in order: the standby has everything
	must(t, one.Repmgr(ctx, "standby", "promote").Err())
	must(t, two.Repmgr(ctx, append(to(one), "node", "rejoin")...).Err())
	follows(t, l, two, one)
}

// follows waits until a standby streams from another.
func follows(t *testing.T, l *lab.Lab, standby, upstream *lab.Node) {
	t.Helper()
	must(t, lab.Wait(t.Context(), 2*time.Minute, standby.Name+" to stream", func() error {
		attached, err := upstream.Attached(t.Context(), standby)
		if err == nil && !attached {
			err = fmt.Errorf("it is not attached to %s", upstream.Name)
		}
		return err
	}))
}
