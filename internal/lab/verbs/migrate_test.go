package verbs

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"repmgr/internal/lab"
)

// takeover is a cluster of repmgr 5 that is taken over while a client writes.
type takeover struct {
	t   *testing.T
	ctx context.Context
	l   *lab.Lab
	bin string // of this program
}

// repmgr5 brings up a primary, two standbys and a witness with Debian's packages, and
// lets each repmgr.conf have what this program needs on a host of four nodes.
func repmgr5(t *testing.T) *takeover {
	t.Helper()
	five, err := lab.Repmgr5(0)
	if err != nil {
		t.Skipf("SKIPPED, NOT TESTED HERE: %v", err)
	}
	l, ctx := open(t, lab.Options{Nodes: 3, Witness: true, Software: five, Patient: 30, Conf: map[string]string{"monitor_interval_secs": "1"}})
	must(t, l.BringUp(ctx))
	must(t, l.DaemonsWatch(ctx))
	m := &takeover{t: t, ctx: ctx, l: l}
	m.bin, err = l.OurPrograms()
	must(t, err)
	for _, n := range l.Nodes {
		must(t, n.WriteConf(map[string]string{"daemon_port": fmt.Sprint(n.DaemonPort), "log_file": filepath.Join(n.Dir, "taken.log"),
			"lease_ttl": "20"})) // the machine may be busy
	}
	return m
}

// migrate runs the command on a node; it must end with that status and say that.
func (m *takeover) migrate(n *lab.Node, status int, says string, args ...string) {
	m.t.Helper()
	r := m.run(n, args...)
	if r.Code != status || !strings.Contains(r.Stderr, says) {
		m.t.Fatalf("%s: status %d, want %d, and %q\n%s", r.Command, r.Code, status, says, r.Stderr)
	}
	if status != 0 {
		checkRefused(m.t, r, status, nil)
	}
}

// migrates runs the command until it succeeds: on a busy machine a node may not answer in
// time, which is a refusal that changes nothing.
func (m *takeover) migrates(n *lab.Node, args ...string) {
	m.t.Helper()
	must(m.t, lab.Wait(m.ctx, 4*time.Minute, "the migration of "+n.Name, func() error {
		r := m.run(n, args...)
		if r.Code > 1 {
			m.t.Fatal(r.Err())
		}
		return r.Err()
	}))
}

// run runs the command on a node.
func (m *takeover) run(n *lab.Node, args ...string) lab.Result {
	m.t.Helper()
	r := n.Run(m.ctx, filepath.Join(m.bin, "repmgr"), append([]string{"-f", n.ConfFile(), "migrate", "--wait=120"}, args...)...)
	m.t.Logf("%s migrate %v: status %d\n%s", n.Name, args, r.Code, r.Stderr)
	return r
}

// are waits until the daemons are so.
func (m *takeover) are(want ...string) {
	m.t.Helper()
	must(m.t, lab.Wait(m.ctx, 2*time.Minute, "the daemons", func() error {
		if got := m.daemons(); got != strings.Join(want, "\n") {
			return fmt.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
		}
		return nil
	}))
}

// daemons says of each node whether repmgr 5's daemon runs and is paused, and of ours the same.
func (m *takeover) daemons() string {
	m.t.Helper()
	var lines []string
	for _, n := range m.l.Nodes {
		theirs := sql(m.t, m.ctx, n, `SELECT CASE WHEN repmgr.repmgrd_is_running() THEN 'theirs' ELSE 'none' END,
			CASE WHEN repmgr.repmgrd_is_paused() THEN 'paused' ELSE 'watches' END`)
		ours := ""
		if r, err := n.Report(m.ctx); err == nil {
			ours = ", ours " + map[bool]string{true: "paused", false: "watches"}[r.Paused]
		}
		lines = append(lines, theirs+ours)
	}
	return strings.Join(lines, "\n")
}

const (
	unmigrated = "theirs watches"
	mixed      = "theirs paused"
	half       = "none paused, ours paused"
	migrated   = "none paused, ours watches"

	ourTables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'repmgr'::regnamespace AND relname IN ('endpoints', 'authority', 'quorum', 'schema_version')"
	timeline  = "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)"
)

// write writes rows in one session all the time. stop ends it: not one write may have
// failed, and all must be there.
func (m *takeover) write() (stop func()) {
	m.t.Helper()
	primary := m.l.Node(1)
	must(m.t, primary.AppExec(m.ctx, "CREATE TABLE public.steady (value bigint PRIMARY KEY); GRANT ALL ON public.steady TO app"))
	_, conn, err := m.l.ConnectWriter(m.ctx, nil, []*lab.Node{primary}, nil)
	must(m.t, err)
	var end atomic.Bool
	done := make(chan error, 1)
	written := int64(0)
	go func() {
		defer conn.Close(context.WithoutCancel(m.ctx))
		for !end.Load() {
			if _, err := conn.Exec(m.ctx, "INSERT INTO public.steady VALUES ($1)", written+1); err != nil {
				done <- err
				return
			}
			written++
			time.Sleep(5 * time.Millisecond)
		}
		done <- nil
	}()
	return func() {
		m.t.Helper()
		end.Store(true)
		if err := <-done; err != nil {
			m.t.Errorf("write %d failed: %v", written+1, err)
		}
		there, err := primary.AppNumbers(m.ctx, "SELECT count(*) FROM public.steady")
		must(m.t, err)
		if there[0] != written || written == 0 {
			m.t.Errorf("%d rows are there, %d were acknowledged", there[0], written)
		}
		m.t.Logf("%d writes", written)
	}
}

// TestMigrate takes a running cluster of repmgr 5 over, node by node, while a client
// writes; before that, what stands in the way is found and changes nothing.
func TestMigrate(t *testing.T) {
	t.Parallel()
	m := repmgr5(t)
	one, two, three, four := m.l.Node(1), m.l.Node(2), m.l.Node(3), m.l.Node(4)
	stop := m.write()
	onTimeline, registered := sql(t, m.ctx, one, timeline), sql(t, m.ctx, one, records)

	m.migrates(two, "--dry-run")
	equal(t, "our tables after a dry run", sql(t, m.ctx, one, ourTables), "0")
	m.migrate(one, 1, "the primary is migrated last")
	must(t, four.SignalPostmaster(syscall.SIGSTOP))
	m.migrate(two, 1, `node "node4" (ID: 4) cannot be reached`)
	must(t, four.SignalPostmaster(syscall.SIGCONT))
	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", two.DaemonPort))
	must(t, err)
	m.migrate(two, 1, "repmgrd could not listen on")
	must(t, listener.Close())
	equal(t, "our tables after a refusal", sql(t, m.ctx, one, ourTables), "0")
	m.are(unmigrated, unmigrated, unmigrated, unmigrated)

	must(t, two.SignalDaemon(syscall.SIGSTOP))
	m.migrate(two, 27, "still runs 2s after it was told to stop", "--wait=2")
	m.are(unmigrated, unmigrated, unmigrated, unmigrated)
	must(t, two.SignalDaemon(syscall.SIGCONT)) // it ends by the signal that waited
	must(t, lab.Wait(m.ctx, time.Minute, "the end of repmgr 5's repmgrd", func() error {
		if two.DaemonPID() != 0 {
			return errNotYet
		}
		return nil
	}))
	must(t, two.StartDaemon(m.ctx))
	m.are(unmigrated, unmigrated, unmigrated, unmigrated)
	becomes(t, m.ctx, "records that repmgr 5 has not changed", one, records, registered)

	m.migrates(two)
	m.are(mixed, half, mixed, mixed)
	m.migrates(three)
	m.migrates(four)
	m.are(mixed, half, half, half)
	m.migrates(one)
	m.are(migrated, migrated, migrated, migrated)
	m.migrate(three, 0, "nothing left to migrate")

	becomes(t, m.ctx, "the quorum rule", one, "SELECT rule FROM repmgr.quorum", "quorum")
	_, err = m.l.Streaming(m.ctx)
	must(t, err)
	stop()
	equal(t, "timeline", sql(t, m.ctx, one, timeline), onTimeline)
	equal(t, "records", sql(t, m.ctx, one, records), registered)
	equal(t, "events", sql(t, m.ctx, one, "SELECT event, successful FROM repmgr.events WHERE event ~ 'failover|promote|migrate' ORDER BY event_timestamp"), "cluster_migrate t")
	if r := one.Run(m.ctx, filepath.Join(m.bin, "repmgr"), "-f", one.ConfFile(), "cluster", "show"); r.Code != 0 {
		t.Errorf("cluster show: status %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}
