package lab

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
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
	must(t, Wait(ctx, time.Minute, "the cable to carry", func() error {
		if !reaches(ctx, n2, n1) {
			return errors.New("not yet")
		}
		return nil
	}))
}

// A long line is long in both directions, and loses nothing of a megabyte.
func TestDelay(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, Options{Nodes: 2, Namespaces: true, Unsynced: true})
	const trip = 200 * time.Millisecond
	must(t, l.Delay(trip))
	var listener net.Listener
	must(t, inNamespace(l.Node(1).namespace, func() (err error) {
		listener, err = net.Listen("tcp", l.Node(1).Host+":0")
		return err
	}))
	defer listener.Close()
	go func() {
		if conn, err := listener.Accept(); err == nil {
			_, _ = io.Copy(conn, bytes.NewReader(make([]byte, 1<<20)))
			conn.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	dial := dialer(l.Node(2).namespace)
	conn, err := dial(ctx, "tcp", listener.Addr().String()) // who is where is asked first
	must(t, err)
	defer conn.Close()
	if got, err := io.Copy(io.Discard, conn); err != nil || got != 1<<20 {
		t.Errorf("got %d bytes, %v", got, err)
	}
	before := time.Now()
	again, err := dial(ctx, "tcp", listener.Addr().String())
	must(t, err)
	again.Close()
	if took := time.Since(before); took < trip {
		t.Errorf("a connection was made in %s, the way there and back takes %s", took, trip)
	}
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
