package verbs

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"repmgr/internal/lab"
)

func TestRegistrationsThatMustNotBe(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 2, Witness: true})
	one, two, other := l.Node(1), l.Node(2), l.Node(3)
	must(t, l.BringUpPrimary(ctx))
	must(t, two.WriteConf(nil))
	must(t, two.Clone(ctx, one, false).Err())

	refused(t, ctx, one, 1, []string{"registered already"}, "primary", "register")
	must(t, one.Repmgr(ctx, "primary", "register", "-F").Err())
	equal(t, "term", sql(t, ctx, one, "SELECT term FROM repmgr.voting_term"), "1")
	refused(t, ctx, two, 1, []string{"cannot be registered", "--wait-start"}, "standby", "register", "--wait-start=0")
	must(t, two.Start(ctx))
	refused(t, ctx, one, 1, []string{"is no standby"}, "standby", "register")
	refused(t, ctx, two, 1, []string{"is a standby"}, "primary", "register")
	refused(t, ctx, two, 1, []string{"its own upstream"}, "standby", "register", "--upstream-node-id=2")
	refused(t, ctx, two, 1, []string{"not registered"}, "standby", "register", "--upstream-node-id=8")
	must(t, two.WriteConf(map[string]string{"node_name": "elsewhere"}))
	since := time.Now() // one that was just started attaches a moment later, and is waited for
	refused(t, ctx, two, 1, []string{"not attached to its upstream", `"elsewhere"`}, "standby", "register")
	if waited := time.Since(since); waited < 2*time.Second {
		t.Errorf("a standby that is not attached was refused after %s", waited)
	}
	must(t, two.WriteConf(nil))
	must(t, two.Repmgr(ctx, "standby", "register", "--dry-run").Err())
	equal(t, "after a dry run", sql(t, ctx, one, "SELECT count(*) FROM repmgr.nodes"), "1")
	must(t, two.Repmgr(ctx, "standby", "register", "--wait-sync=20").Err())
	equal(t, "its own copy", sql(t, ctx, two, "SELECT count(*) FROM repmgr.nodes WHERE node_id = 2 AND active"), "1")
	refused(t, ctx, two, 1, []string{"registered already"}, "standby", "register")
	must(t, two.WriteConf(map[string]string{"node_id": "7"}))
	refused(t, ctx, two, 1, []string{`has the name "node2"`}, "standby", "register")
	must(t, two.WriteConf(nil))

	// A server of another cluster cannot be a member, but can be a witness.
	must(t, other.InitPrimary(ctx))
	must(t, other.WriteConf(nil))
	named := []string{"-h", one.Host, "-p", fmt.Sprint(one.Port)}
	refused(t, ctx, two, 1, []string{"cannot be a witness"}, append(named, "witness", "register")...)
	refused(t, ctx, one, 1, []string{"belongs to the cluster"}, append(named, "witness", "register")...)
	refused(t, ctx, other, 1, []string{"not the primary"}, "-h", two.Host, "-p", fmt.Sprint(two.Port), "witness", "register")
	must(t, other.Repmgr(ctx, append(named, "witness", "register", "--dry-run")...).Err())
	equal(t, "the witness's database after a dry run", sql(t, ctx, other, "SELECT to_regclass('repmgr.nodes')"), "")
	must(t, other.Repmgr(ctx, append(named, "witness", "register")...).Err())
	refused(t, ctx, other, 1, []string{"registered already"}, append(named, "witness", "register")...)
	must(t, other.Repmgr(ctx, append(named, "witness", "register", "-F")...).Err())
	refused(t, ctx, two, 1, []string{"is no standby"}, "standby", "unregister", "--node-id=3")

	must(t, other.Stop(ctx, "fast"))
	refused(t, ctx, other, 6, []string{"cannot be reached"}, "witness", "unregister")
	must(t, other.Repmgr(ctx, append(named, "witness", "unregister", "-F")...).Err())
	must(t, one.Repmgr(ctx, "standby", "unregister", "--node-name=node2").Err())
	equal(t, "records", sql(t, ctx, one, "SELECT node_id FROM repmgr.nodes"), "1")
}

func TestAStandbyIsRegisteredWhileItIsDown(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 2})
	one, two := l.Node(1), l.Node(2)
	must(t, l.BringUpPrimary(ctx))
	must(t, two.WriteConf(nil))
	refused(t, ctx, two, 1, []string{"is down", "no primary was named"}, "standby", "register", "-F")
	must(t, two.Repmgr(ctx, "-h", one.Host, "-p", fmt.Sprint(one.Port), "-U", "repmgr", "-d", "repmgr", "standby", "register", "-F").Err())
	equal(t, "record", sql(t, ctx, one, records), "1 primary  t \n2 standby 1 t ")
}

func TestANewPrimaryReplacesADeadOneInTheRecords(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 2})
	must(t, l.BringUpPrimary(ctx))
	must(t, l.BringUpStandbys(ctx))
	one, two := l.Node(1), l.Node(2)
	must(t, two.Run(ctx, l.Bindir+"/pg_ctl", "-D", two.DataDir, "-w", "promote").Err())
	refused(t, ctx, two, 1, []string{"another primary", "node1"}, "primary", "register", "-F")
	// Promoted by hand: what `standby promote` would have recorded is made up for.
	refused(t, ctx, two, 8, []string{"has a primary"}, "standby", "promote")
	must(t, one.Kill9(ctx))
	must(t, two.Repmgr(ctx, "standby", "promote").Err())
	equal(t, "records", sql(t, ctx, two, records), "1 primary  f \n2 primary  t ")
	must(t, two.Repmgr(ctx, "primary", "register", "-F").Err())
	must(t, two.Repmgr(ctx, "primary", "unregister", "--node-id=1").Err())
	equal(t, "records", sql(t, ctx, two, records), "2 primary  t ")
}

// hung is a host that takes connections and never answers.
func hung(t *testing.T) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	_, port, err = net.SplitHostPort(l.Addr().String())
	must(t, err)
	return port
}

func TestServersThatDoNotAnswer(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 2, Auth: lab.SCRAM})
	one, two := l.Node(1), l.Node(2)
	must(t, one.WriteConf(nil))
	must(t, two.WriteConf(nil))
	refused(t, ctx, one, 6, []string{"cannot be reached", "refused"}, "primary", "register")
	refused(t, ctx, one, 6, []string{"cannot be reached"}, "standby", "promote")
	refused(t, ctx, one, 6, []string{"cannot be reached", "rejoin"}, "standby", "follow")
	must(t, l.BringUpPrimary(ctx))

	clone := func(port string) []string {
		return []string{"-h", "127.0.0.1", "-p", port, "-U", "repmgr", "-d", "repmgr", "standby", "clone"}
	}
	started := time.Now()
	refused(t, ctx, two, 6, []string{"source cannot be reached"}, clone(hung(t))...)
	if took := time.Since(started); took > hungBound {
		t.Errorf("a hung host took %s", took)
	}
	refused(t, ctx, two, 6, []string{"source cannot be reached", "refused"}, clone(fmt.Sprint(two.Port))...)
	wrong := two.Run(ctx, "env", append([]string{"PGPASSWORD=sesame", l.Dir + "/bin/repmgr", "-f", two.ConfFile()}, clone(fmt.Sprint(one.Port))...)...)
	checkRefused(t, wrong, 6, []string{"password authentication failed"})
	if strings.Contains(wrong.Stdout+wrong.Stderr, "sesame") {
		t.Errorf("the password is shown:\n%s", wrong.Stderr)
	}
	equal(t, "the data directory", two.Run(ctx, "ls", two.Dir).Stdout, "repmgr.conf\n")
}

// admit adds lines in front of a server's pg_hba.conf.
func admit(t *testing.T, ctx context.Context, n *lab.Node, lines string) {
	t.Helper()
	path := filepath.Join(n.DataDir, "pg_hba.conf")
	old, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, append([]byte(lines+"\n"), old...), 0o600))
	must(t, n.Reload(ctx))
}

func TestASuperuserMakesTheMetadataForTheOrdinaryUser(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 1})
	one := l.Node(1)
	must(t, one.InitPrimary(ctx))
	must(t, one.WriteConf(nil))
	_, err := one.Rows(ctx, "ALTER DATABASE repmgr OWNER TO postgres")
	must(t, err)
	const schema = "SELECT nspowner::regrole FROM pg_namespace WHERE nspname = 'repmgr'"
	refused(t, ctx, one, 1, []string{"may not create the schema", "--superuser"}, "primary", "register")
	refused(t, ctx, one, 1, []string{`"repmgr" is no superuser`}, "primary", "register", "-S", "repmgr")
	refused(t, ctx, one, 6, []string{"pg_hba.conf"}, "primary", "register", "-S", "postgres")
	equal(t, "the schema's owner", sql(t, ctx, one, schema), "")
	admit(t, ctx, one, "host repmgr postgres all trust")
	must(t, one.Repmgr(ctx, "primary", "register", "-S", "postgres", "--dry-run").Err())
	equal(t, "the schema's owner after a dry run", sql(t, ctx, one, schema), "")
	must(t, one.Repmgr(ctx, "primary", "register", "-S", "postgres").Err())
	equal(t, "the schema's owner", sql(t, ctx, one, schema), "repmgr")
	equal(t, "tables of others", sql(t, ctx, one, "SELECT relname FROM pg_class WHERE relnamespace = 'repmgr'::regnamespace AND relowner <> 'repmgr'::regrole"), "")
	equal(t, "record", sql(t, ctx, one, records), "1 primary  t ")
	must(t, one.Repmgr(ctx, "primary", "register", "-F").Err()) // from now on without one
}

func TestSlotsThatOnlyTheReplicationUserMayMake(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 3, Slots: true, Conf: map[string]string{"replication_user": "streamer"}})
	one, two, three := l.Node(1), l.Node(2), l.Node(3)
	must(t, one.InitPrimary(ctx))
	_, err := one.Rows(ctx, "ALTER ROLE repmgr NOREPLICATION; CREATE ROLE streamer LOGIN REPLICATION")
	must(t, err)
	admit(t, ctx, one, "host replication streamer all trust")
	must(t, one.WriteConf(nil))
	must(t, one.Repmgr(ctx, "primary", "register").Err())
	must(t, l.BringUpStandbys(ctx))
	becomes(t, ctx, "slots", one, slots, "repmgr_slot_2 f t\nrepmgr_slot_3 f t")
	equal(t, "who streams", sql(t, ctx, one, "SELECT DISTINCT usename FROM pg_stat_replication"), "streamer")
	must(t, three.Repmgr(ctx, "standby", "follow", "--upstream-node-id=2").Err())
	becomes(t, ctx, "slots", one, slots, "repmgr_slot_2 f t")
	becomes(t, ctx, "slots", two, slots, "repmgr_slot_3 f t")
}

func TestSlotsThatNobodyMayMake(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 2, Slots: true})
	one, two := l.Node(1), l.Node(2)
	must(t, l.BringUpPrimary(ctx))
	_, err := one.Rows(ctx, "ALTER ROLE repmgr NOREPLICATION")
	must(t, err)
	must(t, two.WriteConf(nil))
	r := two.Repmgr(ctx, cloneOf(one)...)
	checkRefused(t, r, 1, []string{"refuses a replication connection", "ALTER ROLE ... REPLICATION"})
	if exists(two, "data") {
		t.Error("the directory was made")
	}
	becomes(t, ctx, "slots", one, slots, "")
}
