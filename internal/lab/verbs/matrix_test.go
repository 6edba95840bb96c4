package verbs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"repmgr/internal/lab"
)

// TestWhoReachesWhom has daemons look round in a network that has cuts.
func TestWhoReachesWhom(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED, NOT TESTED HERE: only root makes network namespaces")
	}
	l, ctx := open(t, lab.Options{Nodes: 3, Witness: true, Plain: true, Namespaces: true, Conf: map[string]string{"failover": "manual"}})
	must(t, l.BringUp(ctx))
	one, two, three := l.Node(1), l.Node(2), l.Node(3)
	must(t, l.DaemonsWatch(ctx))
	all := table("* * * *", "* * * *", "* * * *", "* * * *")
	shows(t, ctx, one, all, 0, "cluster", "matrix")
	shows(t, ctx, two, all, 0, "cluster", "crosscheck")
	shows(t, ctx, l.Node(4), all, 0, "cluster", "matrix")

	must(t, l.CutLink(two, three))
	began := time.Now()
	shows(t, ctx, one, table("* * * *", "* * x *", "* x * *", "* * * *"), 25, "cluster", "matrix")
	shows(t, ctx, one, table("* * * *", "* * x *", "* x * *", "* * * *"), 25, "cluster", "crosscheck")
	if took := time.Since(began); took > hungBound {
		t.Errorf("both took %s", took)
	}
	must(t, l.Heal())

	must(t, l.CutLink(one, three))
	shows(t, ctx, one, table("* * x *", "* * * *", "? ? ? ?", "* * * *"), 25, "cluster", "matrix")
	shows(t, ctx, one, table("* * x *", "* * * *", "x * * *", "* * * *"), 25, "cluster", "crosscheck")
	must(t, l.Heal())

	must(t, one.KillDaemon(ctx)) // its machine is the command's own
	shows(t, ctx, one, all, 0, "cluster", "matrix")
	must(t, three.KillDaemon(ctx))
	shows(t, ctx, one, table("* * * *", "* * * *", "? ? ? ?", "* * * *"), 12, "cluster", "matrix")
	r := one.Repmgr(ctx, "cluster", "crosscheck", "--csv")
	if r.Code != 25 {
		t.Errorf("csv with a node that is not known: status %d, want 25", r.Code)
	}
	equal(t, "csv", r.Stdout, "1,1,0\n1,2,0\n1,3,0\n1,4,0\n2,1,0\n2,2,0\n2,3,0\n2,4,0\n3,1,-2\n3,2,-2\n3,3,-2\n3,4,-2\n4,1,0\n4,2,0\n4,3,0\n4,4,0\n")
}

// TestWhoReachesWhomBySSH has nodes without daemons, as a cluster of repmgr 5 has them.
func TestWhoReachesWhomBySSH(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED, NOT TESTED HERE: only root makes network namespaces")
	}
	l, ctx := open(t, lab.Options{Nodes: 3, Namespaces: true})
	one, three := l.Node(1), l.Node(3)
	options := sshHosts(t, ctx, 2222, l.Nodes...)
	must(t, l.BringUpPrimary(ctx))
	must(t, l.BringUpStandbys(ctx))
	shows(t, ctx, one, table("* * *", "? ? ?", "? ? ?"), 12, "cluster", "matrix") // at port 22 nobody listens
	for _, n := range l.Nodes {
		must(t, n.WriteConf(map[string]string{"ssh_options": options, "repmgr_bindir": l.Dir + "/bin"}))
	}
	all := table("* * *", "* * *", "* * *")
	shows(t, ctx, one, all, 0, "cluster", "matrix")
	shows(t, ctx, three, all, 0, "cluster", "crosscheck")

	must(t, l.CutLink(one, three))
	shows(t, ctx, one, table("* * x", "* * *", "? ? ?"), 25, "cluster", "matrix")
	shows(t, ctx, one, table("* * x", "* * *", "x * *"), 25, "cluster", "crosscheck")
	must(t, l.Heal())
	must(t, three.Stop(ctx, "fast"))
	shows(t, ctx, one, table("* * x", "* * x", "? ? ?"), 25, "cluster", "crosscheck")
}

// table is what is printed for nodes that reach each other so.
func table(rows ...string) string {
	head, rule := " Name  | ID", "-------+----"
	var lines strings.Builder
	for i, r := range rows {
		head, rule = fmt.Sprintf("%s | %d", head, i+1), rule+"+---"
		fmt.Fprintf(&lines, " node%d | %[1]d  | %s\n", i+1, strings.ReplaceAll(r, " ", " | "))
	}
	return head + "\n" + rule + "\n" + lines.String()
}

// shows waits until a command prints that table: daemons notice late that a cable was
// mended, for TCP sends again ever more seldom.
func shows(t *testing.T, ctx context.Context, n *lab.Node, want string, status int, args ...string) {
	t.Helper()
	var last lab.Result
	if err := lab.Wait(ctx, time.Minute, "the table", func() error {
		last = n.Repmgr(ctx, args...)
		if last.Code != status || firstLines(last.Stdout, strings.Count(want, "\n")) != want {
			return errNotYet
		}
		return nil
	}); err != nil {
		t.Errorf("%v on %s: status %d, want %d with\n%s\ngot\n%s%s", args, n.Name, last.Code, status, want, last.Stdout, last.Stderr)
	}
}

var errNotYet = errors.New("not yet")

// firstLines are the first lines of a text; what issues there are stands below a table.
func firstLines(text string, count int) string {
	lines := strings.SplitAfter(text, "\n")
	return strings.Join(lines[:min(count, len(lines))], "")
}
