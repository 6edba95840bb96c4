package verbs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"repmgr/internal/lab"
	"repmgr/internal/lab/labtest"
)

// bySSH is a cluster whose hosts run repmgr for each other by ssh.
func bySSH(t *testing.T, o lab.Options) (l *lab.Lab, ctx context.Context, options string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED, NOT TESTED HERE: only root makes network namespaces")
	}
	o.Namespaces = true
	l, ctx = open(t, o)
	options = sshHosts(t, ctx, 2222, l.Nodes...)
	must(t, l.BringUp(ctx))
	return l, ctx, options
}

// onePrimary makes sure that this node takes writes and no other does.
func onePrimary(t *testing.T, ctx context.Context, l *lab.Lab, want *lab.Node) {
	t.Helper()
	must(t, lab.Wait(ctx, labtest.WaitBound, want.Name+" to be the primary", func() error {
		standby, err := want.InRecovery(ctx)
		if err == nil && standby {
			err = errNotYet
		}
		return err
	}))
	for _, n := range l.Nodes {
		if standby, err := n.InRecovery(ctx); n != want && err == nil && !standby {
			t.Errorf("%s takes writes too", n.Name)
		}
	}
	if _, err := os.Stat(filepath.Join(want.DataDir, "standby.signal")); err == nil {
		t.Errorf("%s would come up read-only", want.Name)
	}
}

// switchover runs the command, which must end with that status and say all of that.
func switchover(t *testing.T, ctx context.Context, n *lab.Node, status int, says []string, args ...string) {
	t.Helper()
	r := n.Repmgr(ctx, append([]string{"standby", "switchover"}, args...)...)
	if t.Logf("%s: %d\n%s", r.Command, r.Code, r.Stderr); r.Code != status {
		t.Fatalf("status %d, want %d", r.Code, status)
	}
	for _, text := range says {
		if !strings.Contains(r.Stderr, text) {
			t.Errorf("it does not say %q", text)
		}
	}
}

// faulty stands for repmgr on a node's host, and does what the file "mode" says when a
// switchover runs it there: the session is lost before or after the work was done, the work
// waits for the test, or something else happens before it. It writes down what it could tell of secrets.
const faulty = `#!/bin/sh
dir=%q
echo "$PGPASSWORD $*" >>$dir/seen
case "$(cat $dir/mode):$*" in
cut:*--action=stop*) "$dir/bin/repmgr" "$@" | exec true; exit 255 ;;
cut:*--action=start*) exit 255 ;;
lost:*--action=stop*) "$dir/bin/repmgr" "$@"; exit 255 ;;
waits:*--action=stop*) touch $dir/stops; while [ -e $dir/mode -a ! -e $dir/goes ]; do sleep 0.05; done ;;
started:*"node status"*--hand-over=*) . $dir/start ;;
held:*"node status"*--hand-over=*) touch $dir/stops; while [ -e $dir/mode -a ! -e $dir/goes ]; do sleep 0.05; done ;;
unsure:*"node status"*--hand-over=*) "$dir/bin/repmgr" "$@"; exit 255 ;;
stays:*"node rejoin"*) exit 1 ;;
esac
exec "$dir/bin/repmgr" "$@"
`

// overSSH is a cluster of three nodes, of which the second alone has a daemon, which is to be the primary.
type overSSH struct {
	t               *testing.T
	ctx             context.Context
	l               *lab.Lab
	one, two, three *lab.Node
	options         string
	rows            int // that the primary has acknowledged
}

func (o *overSSH) file(name string) string { return filepath.Join(o.l.Dir, name) }

func (o *overSSH) mode(text string) { must(o.t, os.WriteFile(o.file("mode"), []byte(text), 0o644)) }

// conf is a node's configuration, with the lab's repmgr or the faulty one for other hosts.
func (o *overSSH) conf(n *lab.Node, more ...string) {
	set := map[string]string{"ssh_options": o.options, "repmgr_bindir": o.file("faulty")}
	for i := 0; i < len(more); i += 2 {
		set[more[i]] = more[i+1]
	}
	must(o.t, n.WriteConf(set))
}

// write has a node take a row.
func (o *overSSH) write(n *lab.Node) {
	o.t.Helper()
	_ = sql(o.t, o.ctx, n, "INSERT INTO kept VALUES (1)")
	o.rows++
}

// calledOff has the switchover fail, after which everything is as before.
func (o *overSSH) calledOff(says ...string) {
	o.t.Helper()
	o.write(o.one)
	switchover(o.t, o.ctx, o.two, 18, append(says, "the switchover was called off", "is the primary as before"))
	o.asBefore()
}

func (o *overSSH) asBefore() {
	o.t.Helper()
	o.is(o.one)
	follows(o.t, o.l, o.two, o.one)
}

// is makes sure that this node alone is the primary, that it has every row, and that the daemon is not paused.
func (o *overSSH) is(primary *lab.Node) {
	o.t.Helper()
	onePrimary(o.t, o.ctx, o.l, primary)
	equal(o.t, "rows on "+primary.Name, sql(o.t, o.ctx, primary, "SELECT count(*) FROM kept"), strconv.Itoa(o.rows))
	if r, err := o.two.Report(o.ctx); err != nil || r.Paused {
		o.t.Errorf("the daemon is paused: %v (%v)", r.Paused, err)
	}
}

// begins has the switchover begin on a node, and wait at one of its orders to the primary's host.
func (o *overSSH) begins(ctx context.Context, n *lab.Node, mode string) <-chan lab.Result {
	o.t.Helper()
	o.write(o.one)
	o.mode(mode)
	done := make(chan lab.Result, 1)
	go func() { done <- n.Repmgr(ctx, "standby", "switchover") }()
	must(o.t, lab.Wait(o.ctx, labtest.WaitBound, "the order", func() error { _, err := os.Stat(o.file("stops")); return err }))
	o.mode("")
	return done
}

// goesOn lets it, and reads how it ends.
func (o *overSSH) goesOn(done <-chan lab.Result, status int, says ...string) {
	o.t.Helper()
	must(o.t, os.WriteFile(o.file("goes"), nil, 0o644))
	r := <-done
	if o.t.Logf("%s: %d\n%s", r.Command, r.Code, r.Stderr); r.Code != status {
		o.t.Fatalf("status %d, want %d", r.Code, status)
	}
	for _, text := range says {
		if !strings.Contains(r.Stderr, text) {
			o.t.Errorf("it does not say %q", text)
		}
	}
	must(o.t, errors.Join(os.Remove(o.file("goes")), os.Remove(o.file("stops"))))
}

// At each step something fails, and there is one primary: the one that it was until the other is
// promoted. Then it succeeds, there with a sibling, and back without the former primary.
func TestSwitchoverBySSH(t *testing.T) {
	t.Parallel()
	l, ctx, options := bySSH(t, lab.Options{Nodes: 3, Slots: true, Unsynced: true, Copied: true, Conf: map[string]string{"failover": "manual"},
		Settings: map[string]string{"wal_retrieve_retry_interval": "200ms"}})
	o := &overSSH{t: t, ctx: ctx, l: l, one: l.Node(1), two: l.Node(2), three: l.Node(3), options: options}
	one, two, three := o.one, o.two, o.three
	must(t, os.Mkdir(o.file("faulty"), 0o755))
	must(t, os.WriteFile(o.file("faulty/repmgr"), fmt.Appendf(nil, faulty, l.Dir), 0o755))
	must(t, errors.Join(os.WriteFile(o.file("seen"), nil, 0o666), os.Chmod(o.file("seen"), 0o666)))
	o.mode("")
	must(t, l.DaemonsWatch(ctx)) // and read their configurations no more
	for _, n := range l.Nodes {
		o.conf(n)
		if n != two {
			_, err := n.StopDaemon(ctx)
			must(t, err)
		}
	}
	_ = sql(t, ctx, one, "CREATE TABLE kept (i int)")
	_ = sql(t, ctx, one, "UPDATE repmgr.nodes SET conninfo = conninfo || ' sslpassword=geheim' WHERE node_id = 2")
	o.refusals()
	o.failures()
	o.withoutWAL()
	o.promotionFails()
	o.killed()
	o.twoAtOnce()

	o.write(three)
	switchover(t, ctx, one, 0, []string{"is the primary now"}, "--siblings-follow")
	o.is(one)
	equal(t, "records", sql(t, ctx, one, records), "1 primary  t repmgr_slot_1\n2 standby 1 t repmgr_slot_2\n3 standby 1 t repmgr_slot_3")
	follows(t, l, two, one)
	follows(t, l, three, one)
	becomes(t, ctx, "slots", three, slots, "")
	equal(t, "the last event", sql(t, ctx, one, "SELECT node_id, successful FROM repmgr.events WHERE event = 'standby_switchover' ORDER BY event_timestamp DESC LIMIT 1"), "1 t")

	o.write(one)
	o.mode("stays")
	switchover(t, ctx, two, 22, []string{"something is left to do", "node rejoin --no-wait"})
	o.is(two)
	if _, err := os.Stat(filepath.Join(one.DataDir, "standby.signal")); err != nil {
		t.Errorf("the former primary would come up as one: %v", err)
	}
	r := one.Repmgr(ctx, "node", "service", "--action=start", "--take-back")
	if r.Code != 18 || !strings.Contains(r.Stderr, "takes writes: this server stays stopped") && !strings.Contains(r.Stderr, "may be about to promote") {
		t.Errorf("%s: status %d\n%s", r.Command, r.Code, r.Stderr)
	}
	must(t, one.Repmgr(ctx, "-d", two.Conninfo(), "node", "rejoin").Err())
	follows(t, l, one, two)
	if seen, err := os.ReadFile(o.file("seen")); err != nil || strings.Contains(string(seen), "geheim") {
		t.Errorf("a command on another host has a secret (%v):\n%s", err, seen)
	}
}

// refusals are what is told before anything is changed.
func (o *overSSH) refusals() {
	t, ctx := o.t, o.ctx
	t.Helper()
	switchover(t, ctx, o.one, 18, []string{"has to be run on node \"node2\" (ID: 2)"}, "--node-id=2")
	r := o.two.RepmgrWith(ctx, []string{"PGPASSWORD=geheim"}, "standby", "switchover", "--dry-run", "--siblings-follow")
	must(t, r.Err())
	for _, text := range []string{"stop node \"node1\" (ID: 1) in order", "all checks passed", "pg_ctl"} {
		if !strings.Contains(r.Stderr, text) {
			t.Errorf("a dry run does not say %q:\n%s", text, r.Stderr)
		}
	}
	memory := o.one.StateDir() + "/cluster.json" // of the daemon that ran
	must(t, o.one.Run(ctx, "sh", "-c", `mv "$0" "$0.own" && echo '{"format": 1, "quorum": true}' >"$0"`, memory).Err())
	switchover(t, ctx, o.two, 18, []string{"the quorum rule is in force", "its daemon remembers it"}, "--force")
	must(t, os.Rename(memory+".own", memory))
	o.asBefore()
}

// failures of the session, of the stop, and of what it is followed by.
func (o *overSSH) failures() {
	o.t.Helper()
	pgctl := o.l.Bindir + "/pg_ctl -D " + o.one.DataDir
	o.mode("cut")
	o.calledOff("cannot be told that nothing comes of the switchover")
	o.mode("lost")
	o.calledOff()
	o.mode("")
	must(o.t, os.Chmod(o.one.DataDir, 0o500)) // nothing can be armed
	o.calledOff("permission denied")
	must(o.t, os.Chmod(o.one.DataDir, 0o700))
	o.conf(o.one, "service_stop_command", "sleep 1000", "shutdown_check_timeout", "1")
	o.calledOff("within shutdown_check_timeout")
	o.conf(o.one, "service_stop_command", pgctl+" -m immediate stop")
	o.calledOff("not shut down in order")
	o.conf(o.one)
	must(o.t, os.WriteFile(o.file("start"), []byte(pgctl+" -w -l "+o.one.ServerLog()+" start >&2\n"), 0o644))
	o.mode("started")
	o.calledOff("something has started it")
	o.mode("unsure")
	o.calledOff("is still stopped is not known")
	o.mode("")
}

// withoutWAL has the standby receive nothing from just before the stop on.
func (o *overSSH) withoutWAL() {
	t, ctx, two := o.t, o.ctx, o.two
	t.Helper()
	done := o.begins(ctx, two, "waits")
	conninfo := sql(t, ctx, two, "SHOW primary_conninfo")
	_ = sql(t, ctx, two, "ALTER SYSTEM SET primary_conninfo = ''")
	must(t, two.Reload(ctx))
	becomes(t, ctx, "the standby to receive nothing", two, "SELECT count(*) FROM pg_stat_wal_receiver", "0")
	o.write(o.one)
	o.goesOn(done, 18, "does not have all of the primary's WAL", "is the primary as before")
	_ = sql(t, ctx, two, "ALTER SYSTEM SET primary_conninfo = '"+strings.ReplaceAll(conninfo, "'", "''")+"'")
	must(t, two.Reload(ctx))
	o.asBefore()
}

// promotionFails has the order come to nothing, and then the standby not start again after it was taken back.
func (o *overSSH) promotionFails() {
	o.t.Helper()
	o.conf(o.two, "service_promote_command", "false")
	o.calledOff("node \"node2\" (ID: 2) was not promoted")
	o.conf(o.two, "service_promote_command", "false", "service_start_command", "false")
	o.write(o.one)
	switchover(o.t, o.ctx, o.two, 18, []string{"node \"node2\" (ID: 2) is stopped, and could not be started again", "start the server of node \"node2\"", "is the primary as before"})
	o.is(o.one)
	o.conf(o.two)
	must(o.t, o.two.Start(o.ctx))
	o.asBefore()
}

// killed ends the command while the primary is stopped: its host starts it again. The order that
// hung on the way comes after that, and is not heeded.
func (o *overSSH) killed() {
	o.t.Helper()
	o.conf(o.one, "wal_receive_check_timeout", "2")
	ctx, kill := context.WithCancel(o.ctx)
	done := o.begins(ctx, o.two, "held")
	kill()
	<-done
	onePrimary(o.t, o.ctx, o.l, o.one)
	must(o.t, os.WriteFile(o.file("goes"), nil, 0o644))
	_ = o.two.Repmgr(o.ctx, "service", "unpause") // of the other nodes no daemon runs
	o.asBefore()
	labtest.WaitFor(o.t, o.ctx, "a word of the host about it", func() error {
		log, err := os.ReadFile(filepath.Join(o.one.StateDir(), "handover.log"))
		if err == nil && !strings.Contains(string(log), "is the primary as before, and was started again") {
			err = fmt.Errorf("handover.log says %q", log)
		}
		return err
	})
	must(o.t, errors.Join(os.Remove(o.file("goes")), os.Remove(o.file("stops"))))
	o.conf(o.one)
}

// twoAtOnce has a switchover to the third node begin and end while one to the second has ordered
// the stop, which comes late.
func (o *overSSH) twoAtOnce() {
	t, ctx := o.t, o.ctx
	t.Helper()
	done := o.begins(ctx, o.two, "waits")
	switchover(t, ctx, o.three, 0, []string{"is the primary now"}, "--siblings-follow")
	o.goesOn(done, 18, "refused to stop it", "This command has stopped nothing")
	o.is(o.three)
	follows(t, o.l, o.one, o.three)
	follows(t, o.l, o.two, o.three)
}
