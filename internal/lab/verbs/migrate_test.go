package verbs

import (
	"context"
	"fmt"
	"net"
	"os"
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

// repmgr5 brings up a primary, two standbys and where it is asked for a witness with Debian's
// packages, and lets each repmgr.conf have what this program needs on a host of several nodes.
func repmgr5(t *testing.T, witness bool, conf map[string]string) *takeover {
	t.Helper()
	five, err := lab.Repmgr5(0)
	if err != nil {
		t.Skipf("SKIPPED, NOT TESTED HERE: %v", err)
	}
	l, ctx := open(t, lab.Options{Nodes: 3, Witness: witness, Software: five, Patient: 30, Conf: conf})
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

// migrate runs the command on a node until it ends with that status and says that: on a
// busy machine it may be refused for another reason first.
func (m *takeover) migrate(n *lab.Node, status int, says string, args ...string) {
	m.t.Helper()
	must(m.t, lab.Wait(m.ctx, 2*time.Minute, says, func() error {
		r := m.run(n, args...)
		if r.Code != status || !strings.Contains(r.Stderr, says) {
			return fmt.Errorf("%s: status %d\n%s", r.Command, r.Code, r.Stderr)
		}
		if status != 0 {
			checkRefused(m.t, r, status, nil)
		}
		return nil
	}))
}

// migrates runs the command until it succeeds: on a busy machine a server or a daemon may
// not answer in time. What failed must have left the daemons as they were.
func (m *takeover) migrates(n *lab.Node, args ...string) {
	m.t.Helper()
	must(m.t, lab.Wait(m.ctx, 4*time.Minute, "the migration of "+n.Name, func() error {
		before := m.daemons()
		r := m.run(n, args...)
		if r.Code != 0 {
			m.are(strings.Split(before, "\n")...)
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

// refuses has nodes that cannot be taken over yet: that is found, and changes nothing.
func (m *takeover) refuses() {
	m.t.Helper()
	one, two, four := m.l.Node(1), m.l.Node(2), m.l.Node(4)
	m.migrates(two, "--dry-run")
	equal(m.t, "our tables after a dry run", sql(m.t, m.ctx, one, ourTables), "0")
	m.migrate(one, 1, "the primary is migrated last")
	must(m.t, four.SignalPostmaster(syscall.SIGSTOP))
	m.migrate(two, 1, `node "node4" (ID: 4) cannot be reached`)
	must(m.t, four.SignalPostmaster(syscall.SIGCONT))
	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", two.DaemonPort))
	must(m.t, err)
	m.migrate(two, 1, "repmgrd could not listen on")
	must(m.t, listener.Close())
	equal(m.t, "our tables after a refusal", sql(m.t, m.ctx, one, ourTables), "0")
	m.are(unmigrated, unmigrated, unmigrated, unmigrated)

	must(m.t, two.SignalDaemon(syscall.SIGSTOP))
	m.migrate(two, 27, "still runs 2s after it was told to stop", "--wait=2")
	m.are(unmigrated, unmigrated, unmigrated, unmigrated)
	must(m.t, two.SignalDaemon(syscall.SIGCONT)) // it ends by the signal that waited
	must(m.t, lab.Wait(m.ctx, time.Minute, "the end of repmgr 5's repmgrd", func() error {
		if two.DaemonPID() != 0 {
			return errNotYet
		}
		return nil
	}))
	must(m.t, two.StartDaemon(m.ctx))
	m.are(unmigrated, unmigrated, unmigrated, unmigrated)
}

// TestMigrate takes a running cluster of repmgr 5 over, node by node, while a client
// writes, gives it back, and takes it over again; before that, what stands in the way is
// found and changes nothing.
func TestMigrate(t *testing.T) {
	t.Parallel()
	m := repmgr5(t, true, map[string]string{"monitor_interval_secs": "1"})
	one, two, three, four := m.l.Node(1), m.l.Node(2), m.l.Node(3), m.l.Node(4)
	stop := m.write()
	onTimeline, registered := sql(t, m.ctx, one, timeline), sql(t, m.ctx, one, records)

	m.refuses()
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

	m.migrate(two, 1, "on the way back the primary comes first", "--back")
	m.migrates(one, "--back")
	m.are(mixed, half, half, half)
	m.migrates(four, "--back")
	m.migrates(two, "--back")
	m.are(mixed, mixed, half, mixed)
	m.migrates(three, "--back")
	m.are(unmigrated, unmigrated, unmigrated, unmigrated)
	m.migrate(three, 0, "nothing to give back", "--back")
	for _, n := range []*lab.Node{one, four} {
		equal(t, "our tables after the way back, of "+n.Name, sql(t, m.ctx, n, ourTables), "0")
	}
	if exists(one, "data/standby.signal") {
		t.Error("the primary would come up read-only")
	}
	if r := one.Repmgr(m.ctx, "cluster", "show"); r.Code != 0 {
		t.Errorf("repmgr 5's cluster show: status %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}

	for _, n := range []*lab.Node{four, three, two, one} {
		m.migrates(n)
	}
	m.are(migrated, migrated, migrated, migrated)
	becomes(t, m.ctx, "the quorum rule again", one, "SELECT rule FROM repmgr.quorum", "quorum")
	_, err := m.l.Streaming(m.ctx)
	must(t, err)
	stop()
	equal(t, "timeline", sql(t, m.ctx, one, timeline), onTimeline)
	equal(t, "records", sql(t, m.ctx, one, records), registered)
	equal(t, "events", sql(t, m.ctx, one, "SELECT event, successful FROM repmgr.events WHERE event ~ 'failover|promote|migrate' ORDER BY event_timestamp"), "cluster_migrate t\ncluster_migrate_back t\ncluster_migrate t")
	if r := one.Run(m.ctx, filepath.Join(m.bin, "repmgr"), "-f", one.ConfFile(), "cluster", "show"); r.Code != 0 {
		t.Errorf("cluster show: status %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}

// TestMigratePrimaryDies lets the primary die while both kinds of daemons run: none of
// them promotes its server, and when the primary is back the migration goes on.
func TestMigratePrimaryDies(t *testing.T) {
	t.Parallel()
	m := repmgr5(t, false, map[string]string{"monitor_interval_secs": "1", "reconnect_attempts": "1", "reconnect_interval": "1"})
	one, two, three := m.l.Node(1), m.l.Node(2), m.l.Node(3)
	m.migrates(two)
	m.are(mixed, half, mixed)
	must(t, one.Kill9(m.ctx))
	must(t, lab.Wait(m.ctx, 2*time.Minute, "both kinds of daemons to see that the primary is gone", func() error {
		r, err := two.Report(m.ctx)
		if err != nil || r.Rule != "paused" {
			return fmt.Errorf("node2: rule %q, %v", r.Rule, err)
		}
		log, err := os.ReadFile(three.DaemonLog())
		if err == nil && !strings.Contains(string(log), "repmgrd on this node is paused") {
			err = errNotYet
		}
		return err
	}))
	for _, n := range []*lab.Node{two, three} {
		equal(t, n.Name+" is in recovery", sql(t, m.ctx, n, "SELECT pg_is_in_recovery()"), "t")
	}
	m.migrate(three, 1, "no primary was found")
	must(t, one.Start(m.ctx))
	m.are(mixed, half, mixed) // repmgr 5's daemon has written itself down in the new shared memory
	m.migrates(three)
	m.migrates(one)
	m.are(migrated, migrated, migrated)
}
