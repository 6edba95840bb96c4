package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"repmgr/internal/host"
	"repmgr/internal/lab"
)

// The primary crashes: the standbys elect, the others follow, the client goes on
// writing, and the former primary is stopped when it comes back and can be made
// a standby again.
func TestCoreFailover(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 3})
	old := l.Node(1)
	c, err := l.NewClient(ctx)
	must(t, err)
	defer c.Close()
	waitFor(t, ctx, "rows", func() error {
		if c.Acknowledged() < 10 {
			return errors.New("fewer than 10")
		}
		return nil
	})
	c.Mark()
	must(t, old.Kill9(ctx))
	waitFor(t, ctx, "the client to write again", func() error { return c.Recovered(old) })
	primary, err := l.Primary(ctx)
	must(t, err)
	t.Logf("the client saw a gap of %s", c.Gap())
	for _, n := range l.Nodes[1:] {
		if n != primary {
			waitFollows(t, ctx, n, primary)
			waitEvent(t, ctx, primary, "repmgrd_failover_follow", n, true)
		}
	}
	waitEvent(t, ctx, primary, "standby_promote", primary, true)
	waitEvent(t, ctx, primary, "repmgrd_failover_promote", primary, true)
	if got, err := primary.SQL(ctx, "SELECT type || active FROM repmgr.nodes WHERE node_id = 1"); err != nil || got != "primaryfalse" {
		t.Errorf("the record of the old primary says %q, %v", got, err)
	}
	if got, err := primary.SQL(ctx, "SELECT term FROM repmgr.voting_term"); err != nil || got != "2" {
		t.Errorf("the voting term is %q, %v; want 2", got, err)
	}

	// It comes back by itself, writable, and is stopped: often before pg_ctl has
	// seen it up, which then calls the start a failure.
	if err := old.Start(ctx); err != nil {
		t.Logf("stopped before its start was over: %v", err)
	}
	waitFor(t, ctx, "the former primary to be stopped", func() error {
		if old.Running() {
			return errors.New("it runs")
		}
		return nil
	})
	waitEvent(t, ctx, primary, "repmgrd_primary_fenced", old, true)
	must(t, old.BecomeStandby(ctx, primary, true))
	waitFollows(t, ctx, old, primary)
	waitFor(t, ctx, "the former primary's daemon to watch", func() error { return watches(ctx, old) })
	waitFor(t, ctx, "cluster show to find nothing wrong", func() error { return primary.Repmgr(ctx, "cluster", "show").Err() })
}

// A lone standby in the primary's location is promoted, and the next failover
// works too.
func TestFailoverOfALoneStandbyAndBack(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 2, Slots: true})
	a, b := l.Node(1), l.Node(2)
	must(t, a.Kill9(ctx))
	waitPrimary(t, ctx, l, b)
	must(t, a.BecomeStandby(ctx, b, true))
	waitFor(t, ctx, "the daemon of the new standby", func() error { return watches(ctx, a) })
	must(t, b.Kill9(ctx))
	waitPrimary(t, ctx, l, a)
	waitEvent(t, ctx, a, "repmgrd_failover_promote", a, true)
}

// Among equals the priority decides; priority 0 is never promoted, even alone.
func TestFailoverByPriority(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 4, NodeConf: map[int]map[string]string{
		2: {"priority": "0"}, 3: {"priority": "50"}, 4: {"priority": "80"}}})
	waitCalm(t, ctx, l, l.Node(1), 3)
	must(t, l.Node(1).Kill9(ctx))
	waitPrimary(t, ctx, l, l.Node(4))
	waitFollows(t, ctx, l.Node(2), l.Node(4))
	waitFollows(t, ctx, l.Node(3), l.Node(4))
	waitCalm(t, ctx, l, l.Node(4), 2)
	must(t, l.Node(4).Kill9(ctx))
	waitPrimary(t, ctx, l, l.Node(3))
	waitFollows(t, ctx, l.Node(2), l.Node(3))
	must(t, l.Node(3).Kill9(ctx))
	waitLog(t, ctx, l.Node(2), "never-promoted: node 3 is lost")
}

// A witness makes the majority of a standby and itself; without it the standby
// waits, and goes on by itself when the witness is back.
func TestFailoverWithWitness(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 2, Witness: true})
	primary, standby, witness := l.Node(1), l.Node(2), l.Node(3)
	must(t, witness.KillDaemon(ctx)) // first: one that sees its server stop records that, and is no elector any more
	must(t, witness.Stop(ctx, "fast"))
	must(t, primary.Kill9(ctx))
	waitLog(t, ctx, standby, "wait-minority: 1 of 2 nodes")
	must(t, witness.Start(ctx))
	must(t, witness.StartDaemon(ctx))
	waitPrimary(t, ctx, l, standby)
	waitFor(t, ctx, "the witness to follow", func() error { return recordedUpstream(ctx, standby, witness, standby) })
	waitFor(t, ctx, "the witness's copy of the records", func() error { return recordedUpstream(ctx, witness, witness, standby) })
}

// A standby elsewhere that sees nobody of the primary's location does nothing. The word of the
// primary's own daemon that its server is gone is enough.
func TestNoFailoverAcrossLocations(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 2, NodeConf: map[int]map[string]string{1: {"location": "rome"}, 2: {"location": "oslo"}}})
	must(t, l.Node(1).KillDaemon(ctx))
	must(t, l.Node(1).Kill9(ctx))
	waitLog(t, ctx, l.Node(2), `wait-location: no node in the primary's location "rome" is visible`)
	must(t, l.Node(1).Start(ctx))
	waitFor(t, ctx, "the standby to be content", func() error { return watches(ctx, l.Node(2)) })
	must(t, l.Node(1).StartDaemon(ctx))
	waitFor(t, ctx, "the new daemon to watch", func() error { return watches(ctx, l.Node(1)) })
	must(t, l.Node(1).Kill9(ctx))
	waitPrimary(t, ctx, l, l.Node(2))
}

// A server goes on with its promotion when its daemon is killed, and the next daemon tells the
// others so: nobody else is promoted meanwhile. The promotion is made to last by stopping the
// process that carries it out.
func TestPromotionOutlivesItsDaemon(t *testing.T) {
	l, ctx, goOn := promotionThatIsUnread(t, nil)
	next, other := l.Node(2), l.Node(3)
	must(t, next.KillDaemon(ctx))
	must(t, next.StartDaemon(ctx))
	waitLog(t, ctx, next, "wait-own-promotion: the promotion after the loss of node 1 was ordered")
	staysStandby(t, ctx, other, 4*time.Second)
	goOn()
	waitPrimary(t, ctx, l, next)
	waitFollows(t, ctx, other, next)
}

// promotionThatIsUnread brings a cluster up whose primary is lost. Node 2, with those settings, is promoted, and the
// process that reads the order stands still until it may go on.
func promotionThatIsUnread(t *testing.T, conf map[string]string) (l *lab.Lab, ctx context.Context, goOn func()) {
	t.Helper()
	all := map[string]string{"priority": "200"}
	maps.Copy(all, conf)
	l, ctx = bringUp(t, lab.Options{Nodes: 3, NodeConf: map[int]map[string]string{2: all}})
	waitCalm(t, ctx, l, l.Node(1), 2)
	startup, found, err := host.StartupProcess(l.Node(2).DataDir)
	must(t, err)
	if !found {
		t.Fatal("the server of node 2 has no startup process")
	}
	must(t, syscall.Kill(startup.PID, syscall.SIGSTOP))
	must(t, l.Node(1).Kill9(ctx))
	waitLog(t, ctx, l.Node(3), "wait-sibling-promotes: node 2 is being promoted")
	return l, ctx, func() { must(t, syscall.Kill(startup.PID, syscall.SIGCONT)) }
}

// staysStandby looks for a while whether a node is promoted.
func staysStandby(t *testing.T, ctx context.Context, n *lab.Node, long time.Duration) {
	t.Helper()
	for end := time.Now().Add(long); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if standby, err := n.InRecovery(ctx); err == nil && !standby {
			t.Fatalf("%s was promoted beside the one whose promotion is under way", n.Name)
		}
	}
}

// A promotion that the server has not read in its time is taken back before another node is
// promoted: the server does not become a primary when it goes on.
func TestPromotionIsTakenBack(t *testing.T) {
	l, ctx, goOn := promotionThatIsUnread(t, map[string]string{"promote_check_timeout": "2"})
	slow, other := l.Node(2), l.Node(3)
	waitPrimary(t, ctx, l, other)
	goOn()
	waitFollows(t, ctx, slow, other)
	staysStandby(t, ctx, slow, 3*time.Second)
}

// A promotion that the server has read and that takes longer than promote_check_timeout is
// awaited, by the next life of its daemon as well, and nobody else is promoted meanwhile.
func TestPromotionTakesLong(t *testing.T) {
	l, ctx, hangs := promotionThatHangs(t)
	slow, other := l.Node(2), l.Node(3)
	staysStandby(t, ctx, other, 3*time.Second)
	must(t, slow.KillDaemon(ctx))
	must(t, slow.StartDaemon(ctx))
	waitLog(t, ctx, slow, "wait-own-promotion: the promotion after the loss of node 1 was ordered")
	staysStandby(t, ctx, other, 3*time.Second)
	must(t, os.Remove(hangs))
	waitPrimary(t, ctx, l, slow)
	waitFollows(t, ctx, other, slow)
}

// A server that crashes at the end of its recovery would come up as a primary: another is promoted when
// that is seen to, and it comes up as a standby. It follows that one, whose timeline has the number that its own
// had already, only where both began at the same place.
func TestPromotionCrashes(t *testing.T) {
	l, ctx, _ := promotionThatHangs(t)
	slow, other := l.Node(2), l.Node(3)
	must(t, slow.Kill9(ctx))
	waitPrimary(t, ctx, l, other)
	_, err := other.SQL(ctx, "CREATE TABLE later (i int)")
	must(t, err)
	must(t, slow.Start(ctx))
	waitFor(t, ctx, "the server to answer as a standby", func() error {
		standby, err := slow.InRecovery(ctx)
		if err == nil && !standby {
			t.Fatal("it came up as a primary")
		}
		return err
	})
	waitFor(t, ctx, "the server to follow, or its daemon to say why not", func() error {
		_, follows := slow.SQL(ctx, "SELECT FROM later")
		if log, err := os.ReadFile(slow.DaemonLog()); err == nil && strings.Contains(string(log), "two promotions took that number") {
			return nil
		}
		return follows
	})
	staysStandby(t, ctx, slow, 3*time.Second)
}

// A promote_command that only orders, and whose promotion takes longer than it may, is awaited as well.
func TestPromotionByCommandTakesLong(t *testing.T) {
	l, ctx, hangs := promotionThatHangs(t, func(ctx context.Context, n *lab.Node) {
		order := fmt.Sprintf("touch %[1]s/promote && kill -USR1 $(head -1 %[1]s/postmaster.pid)", n.DataDir)
		must(t, n.WriteConf(map[string]string{"promote_check_timeout": "2", "promote_command": order}))
		must(t, n.KillDaemon(ctx))
		must(t, n.StartDaemon(ctx))
	})
	slow, other := l.Node(2), l.Node(3)
	staysStandby(t, ctx, other, 6*time.Second)
	must(t, os.Remove(hangs))
	waitPrimary(t, ctx, l, slow)
	waitFollows(t, ctx, other, slow)
}

// promotionThatHangs brings a cluster up whose primary is lost. The promotion of node 2 hangs at the
// end of recovery until that file is removed, and its daemon has told so.
func promotionThatHangs(t *testing.T, first ...func(context.Context, *lab.Node)) (l *lab.Lab, ctx context.Context, hangs string) {
	t.Helper()
	l, ctx = bringUp(t, lab.Options{Nodes: 3, NodeConf: map[int]map[string]string{2: {"priority": "200", "promote_check_timeout": "2"}}})
	waitCalm(t, ctx, l, l.Node(1), 2)
	slow := l.Node(2)
	for _, do := range first {
		do(ctx, slow)
		waitFor(t, ctx, "its daemon to watch", func() error { return watches(ctx, slow) })
		waitCalm(t, ctx, l, l.Node(1), 2)
	}
	hangs = filepath.Join(filepath.Dir(slow.DataDir), "hangs")
	must(t, os.WriteFile(hangs, nil, 0o644))
	t.Cleanup(func() { _ = os.Remove(hangs) })
	_, err := slow.SQL(ctx, "ALTER SYSTEM SET recovery_end_command = 'while test -e "+hangs+"; do sleep 0.1; done'")
	must(t, err)
	_, err = slow.SQL(ctx, "SELECT pg_reload_conf()")
	must(t, err)
	must(t, l.Node(1).Kill9(ctx))
	waitLog(t, ctx, slow, "no other is promoted until it is one")
	return l, ctx, hangs
}

// A promote_command that fails, and has ordered nothing, delays nobody for long.
func TestPromotionCommandFails(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 3, NodeConf: map[int]map[string]string{2: {"priority": "200", "promote_command": "false"}}})
	waitCalm(t, ctx, l, l.Node(1), 2)
	must(t, l.Node(1).Kill9(ctx))
	waitPrimary(t, ctx, l, l.Node(3))
	waitFollows(t, ctx, l.Node(2), l.Node(3))
}

// A cascaded standby whose upstream dies follows the primary; when the primary
// dies, the standby below another one stays where it is.
func TestCoreCascade(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 4, Upstream: map[int]int{3: 2, 4: 2}})
	must(t, l.Node(2).Kill9(ctx))
	waitFollows(t, ctx, l.Node(3), l.Node(1))
	waitFollows(t, ctx, l.Node(4), l.Node(1))
	waitEvent(t, ctx, l.Node(1), "standby_failure", l.Node(2), false)
	must(t, l.Node(2).Start(ctx))
	waitEvent(t, ctx, l.Node(1), "standby_recovery", l.Node(2), true)
	must(t, l.Node(4).Repmgr(ctx, "standby", "follow", "--upstream-node-id=3").Err())
	waitFor(t, ctx, "node 4 below node 3", func() error { return recordedUpstream(ctx, l.Node(1), l.Node(4), l.Node(3)) })
	waitFor(t, ctx, "node 2 to watch", func() error { return watches(ctx, l.Node(2)) })
	waitFor(t, ctx, "the daemon of node 4 to know its new upstream", func() error {
		r, err := l.Node(4).Report(ctx)
		if err == nil && r.Upstream != 3 {
			err = fmt.Errorf("it says %d", r.Upstream)
		}
		return err
	})
	must(t, l.Node(1).Kill9(ctx))
	waitFor(t, ctx, "a new primary", func() error { _, err := l.Primary(ctx); return err })
	waitFollows(t, ctx, l.Node(4), l.Node(3))
}

// While paused nothing happens; afterwards it does, without being triggered.
func TestCorePause(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 3})
	must(t, l.Node(2).Repmgr(ctx, "service", "pause").Err())
	must(t, l.Node(1).Kill9(ctx))
	waitLog(t, ctx, l.Node(2), "paused: failover is paused")
	waitLog(t, ctx, l.Node(3), "paused: failover is paused")
	// A pause outlives the daemon.
	must(t, l.Node(2).KillDaemon(ctx))
	must(t, l.Node(2).StartDaemon(ctx))
	waitFor(t, ctx, "the daemon of node 2 to answer", func() error {
		r, err := l.Node(2).Report(ctx)
		if err == nil && r.PID != l.Node(2).DaemonPID() {
			err = fmt.Errorf("process %d answers", r.PID)
		}
		return err
	})
	if n, err := l.Primary(ctx); err == nil {
		t.Fatalf("%s was promoted while paused", n.Name)
	}
	must(t, l.Node(3).Repmgr(ctx, "service", "unpause").Err())
	waitFor(t, ctx, "a new primary", func() error { _, err := l.Primary(ctx); return err })
}

// failover=manual: nothing is promoted and nobody follows by itself; a promotion
// by hand is accepted. The primary dies within a record whose beginning the
// standbys have: what they received reaches beyond where the new timeline begins,
// and what they can replay does not.
func TestManualFailover(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 3, Conf: map[string]string{"failover": "manual"}})
	waitFor(t, ctx, "half a record on the standbys", func() error { return halfRecord(ctx, l) })
	must(t, l.Node(1).Kill9(ctx))
	waitLog(t, ctx, l.Node(2), "upstream-lost-is-manual")
	must(t, l.Node(2).Repmgr(ctx, "standby", "promote").Err())
	waitPrimary(t, ctx, l, l.Node(2))
	waitLog(t, ctx, l.Node(3), "follow-is-manual")
	waitEvent(t, ctx, l.Node(2), "standby_disconnect_manual", l.Node(3), true)
	must(t, l.Node(3).Repmgr(ctx, "standby", "follow").Err())
	waitFollows(t, ctx, l.Node(3), l.Node(2))
}

// halfRecord has the primary write a long record in a transaction that stays open.
// Its WAL writer flushes whole pages only meanwhile, and so much is sent.
func halfRecord(ctx context.Context, l *lab.Lab) error {
	go func() {
		_, _ = l.Node(1).SQL(ctx, "SELECT pg_logical_emit_message(false, 'lab', repeat('x', 20000)), pg_sleep(10)")
	}()
	time.Sleep(time.Second) // the WAL writer comes by every 200 ms
	for _, n := range l.Nodes[1:] {
		half, err := n.SQL(ctx, "SELECT pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()")
		if err != nil {
			return err
		}
		if half != "t" {
			return fmt.Errorf("%s has replayed all that it received", n.Name)
		}
	}
	return nil
}

// waitCalm waits until all daemons have recorded their start, and every standby has what
// the primary wrote: whichever is promoted then, the others have not diverged from it.
func waitCalm(t *testing.T, ctx context.Context, l *lab.Lab, primary *lab.Node, standbys int) {
	t.Helper()
	for _, n := range l.Nodes {
		waitEvent(t, ctx, primary, "repmgrd_start", n, true)
	}
	waitFor(t, ctx, "all standbys to have everything", func() error {
		got, err := primary.SQL(ctx, "SELECT count(*) FROM pg_stat_replication WHERE flush_lsn = pg_current_wal_insert_lsn()")
		if err == nil && got != fmt.Sprint(standbys) {
			err = fmt.Errorf("%s of them have", got)
		}
		return err
	})
}

// A promotion by hand, by PostgreSQL's own means, is recorded and followed.
func TestPromotedBehindOurBack(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 3, NodeConf: map[int]map[string]string{2: {"failover": "manual"}, 3: {"priority": "0"}}})
	waitCalm(t, ctx, l, l.Node(1), 2)
	must(t, l.Node(1).Kill9(ctx))
	waitLog(t, ctx, l.Node(2), "upstream-lost-is-manual")
	if _, err := l.Node(2).SQL(ctx, "SELECT pg_promote()"); err != nil {
		t.Fatal(err)
	}
	waitFollows(t, ctx, l.Node(3), l.Node(2))
	waitFor(t, ctx, "the record", func() error {
		got, err := l.Node(2).SQL(ctx, "SELECT type FROM repmgr.nodes WHERE node_id = 2")
		if err == nil && got != "primary" {
			err = fmt.Errorf("type is %s", got)
		}
		return err
	})
}

// The commands of repmgr.conf are run as they stand there, with their placeholders.
func TestConfiguredCommands(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 3, Software: lab.OursWithCommands()})
	must(t, l.Node(1).Kill9(ctx))
	waitFor(t, ctx, "a new primary", func() error { _, err := l.Primary(ctx); return err })
	primary, err := l.Primary(ctx)
	must(t, err)
	for _, n := range l.Nodes[1:] {
		if n != primary {
			waitFollows(t, ctx, n, primary)
			waitLog(t, ctx, n, "running follow_command")
		}
	}
	waitLog(t, ctx, primary, "running promote_command")
	waitEvent(t, ctx, primary, "standby_promote", primary, true)
}

// A promotion that fails is tried by the next candidate.
func TestFailedPromotion(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 3, NodeConf: map[int]map[string]string{2: {"promote_command": "exit 7", "priority": "200"}}})
	waitCalm(t, ctx, l, l.Node(1), 2)
	must(t, l.Node(1).Kill9(ctx))
	waitPrimary(t, ctx, l, l.Node(3))
	waitLog(t, ctx, l.Node(2), "promote_command exited with status 7")
	waitFollows(t, ctx, l.Node(2), l.Node(3))
}

// Daemons come and go without a failover, and without their servers' noticing.
func TestDaemonsComeAndGo(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 3})
	must(t, l.Node(1).KillDaemon(ctx))
	staysPrimary(t, ctx, l, l.Node(1))
	must(t, l.Node(1).StartDaemon(ctx))
	waitFor(t, ctx, "the new daemon to watch", func() error { return watches(ctx, l.Node(1)) })
	for _, n := range l.Nodes {
		status, err := n.StopDaemon(ctx)
		must(t, err)
		if status != 0 {
			t.Errorf("the daemon of %s ended with status %d", n.Name, status)
		}
	}
	must(t, l.StartDaemons(ctx))
	for _, n := range l.Nodes {
		waitFor(t, ctx, n.Name+"'s daemon to watch", func() error { return watches(ctx, n) })
	}
	waitEvent(t, ctx, l.Node(1), "repmgrd_shutdown", l.Node(3), true)
	staysPrimary(t, ctx, l, l.Node(1))
}

// The primary is cut off: the others go on, and when the network heals the
// former primary is stopped.
func TestCutOff(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 3, Namespaces: true})
	old := l.Node(1)
	must(t, old.Cut())
	waitFor(t, ctx, "a new primary on the other side", func() error {
		for _, n := range l.Nodes[1:] {
			if standby, err := n.InRecovery(ctx); err == nil && !standby {
				return nil
			}
		}
		return errors.New("both are standbys")
	})
	must(t, l.Heal())
	waitFor(t, ctx, "the former primary to be stopped", func() error {
		if old.Running() {
			return errors.New("it runs")
		}
		return nil
	})
	primary, err := l.Primary(ctx)
	must(t, err)
	waitFor(t, ctx, "service status", func() error {
		r := primary.Repmgr(ctx, "service", "status")
		if !strings.Contains(r.Stdout, "- failed") {
			return errors.New(r.Stdout)
		}
		return nil
	})
}

// Only one standby is cut off from the primary: the others still see it, and it
// waits.
func TestOnlyOneLosesSight(t *testing.T) {
	l, ctx := bringUp(t, lab.Options{Nodes: 3, Namespaces: true})
	must(t, l.CutLink(l.Node(1), l.Node(2)))
	waitLog(t, ctx, l.Node(2), "wait-sibling-sees-primary: node 3 still sees node 1")
	staysPrimary(t, ctx, l, l.Node(1))
	must(t, l.Heal())
	waitFor(t, ctx, "the standby to be content", func() error { return watches(ctx, l.Node(2)) })
}
