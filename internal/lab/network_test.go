package lab

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"
)

// reaches says whether from can open a connection to the server of to.
func reaches(ctx context.Context, from, to *Node) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := dialer(from.namespace)(ctx, "tcp", to.Host+":5432")
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

func TestCutCableAndLostLink(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, Options{Nodes: 3, Namespaces: true, Unsynced: true})
	plain(t, ctx, l)
	n1, n2, n3 := l.Node(1), l.Node(2), l.Node(3)
	expect := func(what string, from, to *Node, want bool) {
		t.Helper()
		if got := reaches(ctx, from, to); got != want {
			t.Errorf("%s: %s reaches %s: got %v, want %v", what, from.Name, to.Name, got, want)
		}
	}
	expect("whole", n2, n1, true)

	must(t, l.CutLink(n1, n2))
	expect("link 1-2 lost", n2, n1, false)
	expect("link 1-2 lost", n1, n2, false)
	expect("link 1-2 lost", n3, n1, true)
	expect("link 1-2 lost", n2, n3, true)
	must(t, l.Heal())
	expect("healed", n2, n1, true)

	must(t, n1.Cut())
	expect("node1 cut off", n2, n1, false)
	expect("node1 cut off", n1, n3, false)
	expect("node1 cut off", n2, n3, true)
	if standby, err := n1.InRecovery(ctx); err != nil || standby {
		t.Errorf("a cut-off primary, asked through its socket: got standby %v, %v", standby, err)
	}
	must(t, l.Heal())
	must(t, Wait(ctx, 20*time.Second, "the cable to carry", func() error {
		if !reaches(ctx, n2, n1) {
			return errors.New("not yet")
		}
		return nil
	}))
}

func TestAPowerFailureSendsNoLastWord(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, Options{Nodes: 2, Namespaces: true})
	plain(t, ctx, l)
	n1, n2 := l.Node(1), l.Node(2)
	must(t, n1.PowerOff(ctx))
	if n1.Running() {
		t.Error("a server process survived a power failure")
	}
	// Without a last word the standby believes itself connected.
	got, err := n2.SQL(ctx, "SELECT status FROM pg_stat_wal_receiver")
	must(t, err)
	if got != "streaming" {
		t.Errorf("walreceiver right after its upstream's power failure: got %q, want streaming", got)
	}
	must(t, l.Close())
	if left, _ := filepath.Glob(filepath.Join(namespaceFolder, namespacePrefix(filepath.Base(l.Dir))+"*")); len(left) > 0 {
		t.Errorf("namespaces left behind: %v", left)
	}
}
