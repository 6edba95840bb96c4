package operators

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"repmgr/internal/lab"
	"repmgr/internal/record"
)

// setOf is synchronous_standby_names as it is written for those nodes.
func setOf(term int, nodes ...*lab.Node) string {
	var names []string
	for _, n := range nodes {
		names = append(names, fmt.Sprintf(`"%s@%d"`, n.Name, term))
	}
	return fmt.Sprintf("ANY 1 (%s)", strings.Join(names, ", "))
}

// waitSet waits until a primary's synchronous_standby_names is that.
func waitSet(t *testing.T, ctx context.Context, primary *lab.Node, want string) {
	t.Helper()
	waitFor(t, ctx, "synchronous_standby_names to be "+want, func() error {
		got, err := primary.SQL(ctx, "SHOW synchronous_standby_names")
		if err == nil && got != want {
			err = fmt.Errorf("it is %q", got)
		}
		return err
	})
}

// waitSettled waits until no other set than the newest counts any more.
func waitSettled(t *testing.T, ctx context.Context, primary *lab.Node, want string) {
	t.Helper()
	waitFor(t, ctx, "the record to hold "+want+" alone", func() error {
		sets, err := setsOf(ctx, primary)
		if err == nil && (len(sets) != 1 || string(sets[0]) != want) {
			err = fmt.Errorf("it holds %q", sets)
		}
		return err
	})
}

// setsOf is what may be in force, as the record on a node says.
func setsOf(ctx context.Context, n *lab.Node) ([]record.Set, error) {
	view, err := n.View(ctx)
	if err == nil && (view.Promotion == nil || view.Promotion.Record == nil) {
		err = fmt.Errorf("%s has no record", n.Name)
	}
	if err != nil {
		return nil, err
	}
	return view.Promotion.Record.Sync.Sets, nil
}

// syncLab is a group of three with the mode, and a table for commits.
func syncLab(t *testing.T, mode string, conf map[string]string) (*lab.Lab, context.Context) {
	t.Helper()
	settings := map[string]string{"synchronous_mode": mode, "synchronous_standby_timeout": "2"}
	for name, value := range conf {
		settings[name] = value
	}
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3, Conf: settings, Settings: map[string]string{"wal_retrieve_retry_interval": "200ms"}})
	waitSettled(t, ctx, l.Node(1), "ANY 1 (2 3)")
	waitSet(t, ctx, l.Node(1), setOf(1, l.Node(2), l.Node(3)))
	_, err := l.Node(1).SQL(ctx, "CREATE TABLE public.commits (n int)")
	must(t, err)
	return l, ctx
}

// commit commits a row on a node and tells when that was acknowledged.
func commit(ctx context.Context, n *lab.Node, row int) <-chan error {
	done := make(chan error, 1)
	go func() {
		r := n.Run(ctx, "psql", "-h", n.Dir, "-p", fmt.Sprint(n.Port), "-U", "postgres", "-d", "repmgr", "-Xqc",
			fmt.Sprintf("INSERT INTO public.commits VALUES (%d)", row))
		done <- r.Err()
	}()
	return done
}

func acknowledged(t *testing.T, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		must(t, err)
	case <-time.After(waitBound):
		t.Fatal("a commit was not acknowledged")
	}
}

// Standbys are taken out when they are gone and put back when they are there
// again; when the last one is gone commits go on, after the record said so. When
// it is switched off, what operators had configured is in force again.
func TestSynchronousOn(t *testing.T) {
	l, ctx := syncLab(t, "on", nil)
	n1, n2, n3 := l.Node(1), l.Node(2), l.Node(3)
	acknowledged(t, commit(ctx, n1, 1))
	must(t, n3.Stop(ctx, "fast"))
	waitSettled(t, ctx, n1, "ANY 1 (2)")
	waitSet(t, ctx, n1, setOf(1, n2))
	acknowledged(t, commit(ctx, n1, 2))
	must(t, n2.Stop(ctx, "fast"))
	acknowledged(t, commit(ctx, n1, 3))
	waitSet(t, ctx, n1, "")
	sets, err := setsOf(ctx, n1)
	must(t, err)
	if got := fmt.Sprint(sets); got != "[ANY 1 (2) ]" {
		t.Errorf("the record says that %s may be in force", got)
	}
	must(t, n2.Start(ctx))
	waitSettled(t, ctx, n1, "ANY 1 (2)")
	must(t, n3.Start(ctx))
	waitSettled(t, ctx, n1, "ANY 1 (2 3)")
	waitSet(t, ctx, n1, setOf(1, n2, n3))
	acknowledged(t, commit(ctx, n1, 4))
	for _, n := range l.Nodes {
		must(t, n.WriteConf(map[string]string{"synchronous_mode": "off"}))
		must(t, n.SignalDaemon(syscall.SIGHUP))
	}
	waitSettled(t, ctx, n1, "")
	waitFor(t, ctx, "the setting to be gone", func() error {
		text, err := os.ReadFile(n1.DataDir + "/postgresql.auto.conf")
		if err == nil && strings.Contains(string(text), "synchronous_standby_names") {
			err = errors.New(string(text))
		}
		return err
	})
	waitFor(t, ctx, "the standbys to bear their own names", func() error {
		got, err := n1.SQL(ctx, "SELECT string_agg(application_name, ' ' ORDER BY application_name) FROM pg_stat_replication WHERE state = 'streaming'")
		if err == nil && got != "node2 node3" {
			err = errors.New(got)
		}
		return err
	})
}

// With strict a commit waits for as long as no standby has it, and is
// acknowledged when one has.
func TestSynchronousStrict(t *testing.T) {
	l, ctx := syncLab(t, "strict", nil)
	n1, n2, n3 := l.Node(1), l.Node(2), l.Node(3)
	acknowledged(t, commit(ctx, n1, 1))
	must(t, n2.Stop(ctx, "fast"))
	must(t, n3.Stop(ctx, "fast"))
	done := commit(ctx, n1, 2)
	select {
	case err := <-done:
		t.Fatalf("a commit that no standby has was acknowledged: %v", err)
	case <-time.After(8 * time.Second): // four times as long as a standby may be gone
	}
	names, err := n1.SQL(ctx, "SHOW synchronous_standby_names")
	if err != nil || names == "" {
		t.Errorf("synchronous_standby_names is %q, %v", names, err)
	}
	must(t, n3.Start(ctx))
	acknowledged(t, done)
	waitSettled(t, ctx, n1, "ANY 1 (3)")
}

// The primary is killed again and again under load: whatever was acknowledged is
// on the next one.
func TestSynchronousFailovers(t *testing.T) {
	rounds := 10
	if text := os.Getenv("REPMGR_SYNC_ROUNDS"); text != "" {
		var err error
		rounds, err = strconv.Atoi(text)
		must(t, err)
	}
	for _, mode := range []string{"on", "strict"} {
		t.Run(mode, func(t *testing.T) {
			// Before 16, pg_rewind refuses a server that was killed before the first checkpoint after its promotion.
			l, ctx := syncLab(t, mode, map[string]string{"auto_rejoin": "clone"})
			client, err := l.NewClient(ctx)
			must(t, err)
			defer client.Close()
			for round := range (rounds + 1) / 2 {
				primary, err := l.Primary(ctx)
				must(t, err)
				count := client.Acknowledged()
				waitFor(t, ctx, "load", func() error {
					if client.Acknowledged() < count+100 {
						return fmt.Errorf("%d rows", client.Acknowledged()-count)
					}
					return nil
				})
				client.Mark()
				must(t, primary.Kill9(ctx))
				waitFor(t, ctx, "another primary", func() error { return client.Recovered(primary) })
				now, err := l.Primary(ctx)
				must(t, err)
				missing, err := client.Missing(ctx)
				must(t, err)
				if len(missing) > 0 {
					t.Fatalf("round %d: %d acknowledged rows are missing on %s, the first is %+v", round, len(missing), now.Name, missing[0])
				}
				t.Logf("round %d: %s took over after %s, %d rows are acknowledged", round, now.Name, client.Gap(), client.Acknowledged())
				waitGoverned(t, ctx, l, now)
				waitWaited(t, ctx, now, 2)
			}
		})
	}
}

// waitWaited waits until commits wait for one of that many standbys, and for nothing else.
func waitWaited(t *testing.T, ctx context.Context, primary *lab.Node, members int) {
	t.Helper()
	waitFor(t, ctx, "a synchronous set that is settled", func() error {
		sets, err := setsOf(ctx, primary)
		if err == nil && len(sets) == 1 {
			if _, of := sets[0].Parse(); len(of) == members {
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("%q may be in force", sets))
	})
}

// A primary that comes back has commits that nobody was told of, and that no standby may
// have: clients are not sent to it before one of the set has all that it had.
func TestPrimaryAnswersNotYet(t *testing.T) {
	l, ctx := syncLab(t, "strict", nil)
	one := l.Node(1)
	waitFor(t, ctx, "clients to be sent to the primary", func() error { return health(ctx, one, "/primary", http.StatusOK, "") })
	for _, n := range l.Nodes[1:] {
		must(t, n.Pause(ctx)) // its server alone: the daemons agree
	}
	must(t, one.Kill9(ctx)) // it held the lease last, so that its bid alone suffices
	waitFor(t, ctx, "the server to take writes again", func() error {
		standby, err := one.InRecovery(ctx)
		if err == nil && standby {
			err = errors.New("it is in recovery")
		}
		return err
	})
	const why = "0 of 2 synchronous standbys have what this server had"
	for _, path := range []string{"/primary", "/read-only"} {
		waitFor(t, ctx, "the reason at "+path, func() error { return health(ctx, one, path, http.StatusServiceUnavailable, why) })
	}
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		must(t, health(ctx, one, "/primary", http.StatusServiceUnavailable, why))
	}
	for _, n := range l.Nodes[1:] {
		must(t, n.Resume())
	}
	waitFor(t, ctx, "clients to be sent there again", func() error { return health(ctx, one, "/primary", http.StatusOK, "") })
	must(t, logged(one.DaemonLog(), "clients may be sent to this server"))
}

// health asks a node's daemon one of the questions that load balancers ask.
func health(ctx context.Context, n *lab.Node, path string, want int, says string) error {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(n.DataDir+".repmgr", "repmgrd.sock"))
	}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://repmgrd"+path, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && (answer.StatusCode != want || !strings.Contains(string(text), says)) {
		err = fmt.Errorf("%s is answered with %d, %s", path, answer.StatusCode, text)
	}
	return err
}
