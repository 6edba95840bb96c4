package verbs

import (
	"os"
	"strings"
	"testing"

	"repmgr/internal/lab"
)

func TestEveryVerbWithPasswordsAndWithCertificates(t *testing.T) {
	t.Parallel()
	for name, auth := range map[string]lab.Auth{"SCRAM": lab.SCRAM, "TLS": lab.TLS} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, ctx := open(t, lab.Options{Nodes: 3, Witness: true, Auth: auth, Slots: true})
			must(t, l.BringUpPrimary(ctx))
			must(t, l.BringUpStandbys(ctx))
			must(t, l.BringUpWitness(ctx))
			must(t, l.Node(1).Kill9(ctx))
			must(t, l.Node(2).Repmgr(ctx, "standby", "promote").Err())
			must(t, l.Node(3).Repmgr(ctx, "standby", "follow").Err())
			equal(t, "records", sql(t, ctx, l.Node(3), records+" OFFSET 2"), "3 standby 2 t repmgr_slot_3\n4 witness 1 t ")
		})
	}
}

// A password that stands in a conninfo is used, and shown nowhere but in the
// settings of the standby, where PostgreSQL needs it.
func TestAPasswordInTheConninfoIsNotShown(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 2, Auth: lab.SCRAM})
	one, two := l.Node(1), l.Node(2)
	must(t, one.InitPrimary(ctx))
	_, err := one.Rows(ctx, "SET password_encryption = 'scram-sha-256'; ALTER ROLE repmgr PASSWORD 'open sesame'' \\'")
	must(t, err)
	with := func(n *lab.Node) map[string]string {
		return map[string]string{"conninfo": n.Conninfo() + ` password='open sesame\' \\'`}
	}
	must(t, one.WriteConf(map[string]string{"conninfo": strings.ReplaceAll(with(one)["conninfo"], `\`, `\\`)}))
	must(t, two.WriteConf(map[string]string{"conninfo": strings.ReplaceAll(with(two)["conninfo"], `\`, `\\`)}))
	said := ""
	run := func(n *lab.Node, args ...string) {
		t.Helper()
		r := n.Repmgr(ctx, append(args, "-L", "DEBUG", "-v")...)
		must(t, r.Err())
		said += r.Stdout + r.Stderr
	}
	run(one, "primary", "register")
	run(two, "-d", with(one)["conninfo"], "standby", "clone", "-c", "--dry-run")
	run(two, "-d", with(one)["conninfo"], "standby", "clone", "-c")
	must(t, two.Start(ctx))
	attached(t, ctx, one, two)
	run(two, "standby", "register")
	run(two, "standby", "follow")
	run(two, "cluster", "show")
	if strings.Contains(said, "sesame") {
		t.Errorf("the password is shown:\n%s", said)
	}
	auto, err := os.ReadFile(two.DataDir + "/postgresql.auto.conf")
	must(t, err)
	if !strings.Contains(string(auto), `password=''open sesame`) {
		t.Errorf("primary_conninfo lacks the password:\n%s", auto)
	}
}
