package verbs

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"repmgr/internal/lab"
)

// hungBound is far more than the connect timeout of two seconds that a command
// may spend a few times over, and far less than TCP would wait.
const hungBound = 30 * time.Second

// TestHostsThatHang has a server that takes connections and never answers.
func TestHostsThatHang(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 3, Slots: true})
	stopped := func(n *lab.Node) hanging {
		return hanging{
			begin: func() error { return n.Pause(ctx) },
			end:   n.Resume,
		}
	}
	hostsThatHang(t, ctx, l, stopped(l.Node(1)))
	own := stopped(l.Node(2))
	must(t, own.begin())
	quickly(t, ctx, l.Node(2), 1, []string{"cannot be reached", "no primary was named"}, "standby", "register", "-F")
	quickly(t, ctx, l.Node(2), 6, []string{"cannot be reached"}, "standby", "follow")
	must(t, own.end())
}

// TestHostsThatDropPackets has a host that nothing comes back from.
func TestHostsThatDropPackets(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED, NOT TESTED HERE: only root makes network namespaces")
	}
	l, ctx := open(t, lab.Options{Nodes: 3, Slots: true, Namespaces: true})
	hostsThatHang(t, ctx, l, hanging{
		begin: func() error {
			return errors.Join(l.CutLink(l.Node(1), l.Node(2)), l.CutLink(l.Node(1), l.Node(3)))
		},
		end: l.Heal,
	})
}

// hanging makes a host hang, and ends it.
type hanging struct{ begin, end func() error }

// hostsThatHang lets the primary hang under every command of a standby that needs it.
func hostsThatHang(t *testing.T, ctx context.Context, l *lab.Lab, primary hanging) {
	t.Helper()
	one, two, three := l.Node(1), l.Node(2), l.Node(3)
	must(t, l.BringUpPrimary(ctx))
	must(t, two.WriteConf(nil))
	must(t, three.WriteConf(nil))
	must(t, two.BecomeStandby(ctx, one, false))
	state := func() string {
		auto, err := os.ReadFile(two.DataDir + "/postgresql.auto.conf")
		must(t, err)
		return sql(t, ctx, one, records) + "\n" + sql(t, ctx, one, slots) + "\n" + sql(t, ctx, one, events) + "\n" + string(auto)
	}
	was := state()
	must(t, primary.begin())
	quickly(t, ctx, three, 6, []string{"source cannot be reached"}, cloneOf(one)...)
	quickly(t, ctx, two, 1, []string{"no primary was found", "did not answer"}, "standby", "register", "-F")
	quickly(t, ctx, two, 23, []string{"no primary was found", "did not answer"}, "standby", "follow")
	quickly(t, ctx, two, 23, []string{"no primary was found", "did not answer"}, "standby", "follow", "--upstream-node-id=1")
	must(t, primary.end())
	if exists(three, "data") {
		t.Error("the clone left a directory")
	}
	attached(t, ctx, one, two)
	equal(t, "what the commands left", state(), was)
}

// quickly is refused within a bounded time.
func quickly(t *testing.T, ctx context.Context, n *lab.Node, status int, says []string, args ...string) {
	t.Helper()
	began := time.Now()
	refused(t, ctx, n, status, says, args...)
	if took := time.Since(began); took > hungBound {
		t.Errorf("%v took %s", args, took)
	}
}
