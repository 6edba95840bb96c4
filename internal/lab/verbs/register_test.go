package verbs

import (
	"fmt"
	"net"
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
	if took := time.Since(started); took > 10*time.Second {
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
