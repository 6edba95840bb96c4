package verbs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"repmgr/internal/lab"
)

// unchanged is run before commands that are refused; what it returns compares what
// they might have changed: the records, slots and events, and a standby's settings.
func unchanged(t *testing.T, ctx context.Context, primary, standby *lab.Node) (check func()) {
	t.Helper()
	state := func() string {
		auto, err := os.ReadFile(filepath.Join(standby.DataDir, "postgresql.auto.conf"))
		must(t, err)
		return strings.Join([]string{sql(t, ctx, primary, records), sql(t, ctx, primary, "SELECT slot_name FROM pg_replication_slots ORDER BY 1"),
			sql(t, ctx, primary, events), string(auto)}, "\n")
	}
	was := state()
	return func() {
		t.Helper()
		equal(t, "what the commands left", state(), was)
	}
}

// A standby of another cluster, whose records name this cluster's primary, as after
// a mistake in its conninfo.
func TestAServerOfAnotherClusterIsNoMember(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 2})
	one, other := l.Node(1), l.Node(2)
	must(t, l.BringUpPrimary(ctx))
	must(t, other.InitPrimary(ctx))
	must(t, other.WriteConf(nil))
	must(t, other.Repmgr(ctx, "primary", "register").Err())
	_, err := other.Rows(ctx, "DELETE FROM repmgr.endpoints")
	must(t, err)
	_, err = other.Rows(ctx, "UPDATE repmgr.nodes SET node_id = 1, node_name = 'node1', conninfo = $1", one.Conninfo())
	must(t, err)
	_, err = other.Rows(ctx, "INSERT INTO repmgr.nodes (node_id, upstream_node_id, active, node_name, type, location, priority, conninfo, repluser, config_file) "+
		"VALUES (2, 1, true, 'node2', 'standby', 'default', 100, $1, 'repmgr', $2)", other.Conninfo(), other.ConfFile())
	must(t, err)
	must(t, other.Stop(ctx, "fast"))
	must(t, other.Run(ctx, "touch", other.DataDir+"/standby.signal").Err())
	must(t, other.Start(ctx))

	const identifier = "SELECT system_identifier FROM pg_control_system()"
	says := []string{"another cluster", sql(t, ctx, one, identifier), sql(t, ctx, other, identifier)}
	check := unchanged(t, ctx, one, other)
	refused(t, ctx, other, 1, says, "standby", "register")
	refused(t, ctx, other, 1, says, "standby", "register", "-F")
	refused(t, ctx, other, 23, says, "standby", "follow")
	refused(t, ctx, other, 23, says, "standby", "follow", "--upstream-node-id=1")
	check()
}

func TestAFollowThatFindsNoSlotOrSenderFree(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 3, Slots: true, Upstream: map[int]int{3: 2}})
	one, two, three := l.Node(1), l.Node(2), l.Node(3)
	must(t, l.BringUpPrimary(ctx))
	must(t, l.BringUpStandbys(ctx))
	for setting, says := range map[string]string{"max_replication_slots": "replication slots", "max_wal_senders": "WAL senders"} {
		must(t, os.WriteFile(filepath.Join(one.DataDir, "postgresql.auto.conf"), []byte(setting+" = 1\n"), 0o600))
		must(t, one.Stop(ctx, "fast"))
		must(t, one.Start(ctx))
		attached(t, ctx, one, two)
		check := unchanged(t, ctx, one, three)
		refused(t, ctx, three, 23, []string{"too few free " + says, "1 needed, 0 free", setting}, "standby", "follow")
		check()
		attached(t, ctx, two, three)
	}
}

func TestAPasswordThatIsWrong(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 2, Auth: lab.SCRAM})
	one, two := l.Node(1), l.Node(2)
	must(t, l.BringUpPrimary(ctx))
	must(t, two.WriteConf(nil))
	must(t, two.BecomeStandby(ctx, one, false))
	check := unchanged(t, ctx, one, two)
	for _, c := range []struct {
		node   *lab.Node
		status int
		verb   string
	}{{one, 6, "primary register -F"}, {two, 1, "standby register --wait-start=0"}, {two, 6, "standby follow"}, {two, 6, "standby promote"}} {
		r := c.node.Run(ctx, "env", append([]string{"PGPASSWORD=sesame", l.Dir + "/bin/repmgr", "-f", c.node.ConfFile()}, strings.Fields(c.verb)...)...)
		checkRefused(t, r, c.status, []string{"password authentication failed", fmt.Sprintf("%q", "repmgr")})
		if strings.Contains(r.Stdout+r.Stderr, "sesame") {
			t.Errorf("%s shows the password:\n%s", c.verb, r.Stderr)
		}
	}
	check()
}
