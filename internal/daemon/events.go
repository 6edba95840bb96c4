package daemon

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/pg"
	"repmgr/internal/record"
	"repmgr/internal/registry"
)

// Bounds of what is written to the primary's database.
const (
	errandBound   = 5 * time.Second // one errand, connecting included
	errandsBound  = 256             // errands that wait; more are dropped with a warning
	drainDeadline = 3 * time.Second // when the daemon stops

	recordAgainEvery = 3 * time.Second // events that could not be recorded
)

// event is something to be recorded and told to the operator's command.
type event struct {
	name    string
	failed  bool
	details string
	about   cluster.Node // the node that %p, %c and %a speak of
	unkept  bool         // not recorded, only notified of
}

// errand is work on the primary's database that nobody waits for. conn is nil
// when no primary could be reached.
type errand struct {
	name string
	do   func(ctx context.Context, conn *pg.Conn) error
	dry  bool // needs no connection
}

// notifier runs errands one after the other, so that events keep their order and
// a slow command delays nothing but the next one.
type notifier struct {
	d     *Daemon
	cfg   atomic.Pointer[conf.Config]
	queue chan errand
	quit  chan struct{}
	ended atomic.Bool

	waiting []registry.Event // were told, and are recorded when there is a primary again; run's alone
	kept    *pg.Conn         // with the primary of the last errand, for the next; run's alone
}

// keepFor keeps an event that could not be recorded, since nobody takes writes
// now: an outage's own events would be missing otherwise.
func (n *notifier) keepFor(e registry.Event) {
	if len(n.waiting) < errandsBound {
		n.waiting = append(n.waiting, e)
	}
}

// recordWaiting records what was kept, if a primary can be reached now.
func (n *notifier) recordWaiting() {
	if len(n.waiting) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), errandBound)
	defer cancel()
	conn := n.primary(ctx)
	if conn == nil {
		return
	}
	defer n.keep(conn)
	for len(n.waiting) > 0 {
		if err := registry.RecordEvent(ctx, conn, &n.waiting[0]); err != nil {
			n.d.log.Warn("event " + n.waiting[0].Name + " could not be recorded: " + err.Error())
		}
		n.waiting = n.waiting[1:]
	}
}

func newNotifier(d *Daemon) *notifier {
	n := &notifier{d: d, queue: make(chan errand, errandsBound), quit: make(chan struct{})}
	n.cfg.Store(d.cfg)
	return n
}

func (n *notifier) setConfig(cfg *conf.Config) { n.cfg.Store(cfg) }

// close lets run end once the queue is empty.
func (n *notifier) close() {
	if !n.ended.Swap(true) {
		close(n.quit)
	}
}

func (n *notifier) add(e errand) {
	select {
	case n.queue <- e:
	default:
		n.d.log.Warn("too many events wait to be written; one is dropped", "detail", e.name)
	}
}

func (n *notifier) run() {
	again := time.NewTicker(recordAgainEvery)
	defer again.Stop()
	for {
		select {
		case e := <-n.queue:
			n.runOne(e)
		case <-again.C:
			n.keep(nil)
			n.recordWaiting()
		case <-n.quit:
			defer n.keep(nil)
			end := time.Now().Add(drainDeadline)
			for len(n.queue) > 0 && time.Now().Before(end) {
				n.runOne(<-n.queue)
			}
			return
		}
	}
}

func (n *notifier) runOne(e errand) {
	ctx, cancel := context.WithTimeout(context.Background(), errandBound)
	defer cancel()
	var conn *pg.Conn
	if !e.dry {
		conn = n.primary(ctx)
		defer n.keep(conn)
	}
	if err := e.do(ctx, conn); err != nil {
		n.d.log.Warn(e.name + " could not be written or told: " + err.Error())
	}
}

// keep leaves the session for the next errand; nil: it is closed.
func (n *notifier) keep(conn *pg.Conn) {
	if n.kept != conn {
		registry.Close(n.kept)
	}
	n.kept = conn
}

// primary returns a session with the server that takes writes: that of the last errand, or
// one with the own server if it does, or with the one that holds the lease, or with the
// one that says so when all are asked.
func (n *notifier) primary(ctx context.Context) *pg.Conn {
	if n.kept != nil && writes(ctx, n.kept) {
		return n.kept
	}
	n.keep(nil)
	report := n.d.shared.load().report
	self := cluster.Node{ID: report.Node, Name: report.Name, Conninfo: n.cfg.Load().Conninfo, Active: true, Role: report.Type}
	if report.Role == cluster.Primary && report.Type != cluster.Witness {
		if conn, err := registry.Connect(ctx, self); err == nil {
			return conn
		} // it may just have been stopped, in favour of another
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	nodes := n.d.peers.nodes()
	if conn := n.holder(ctx, nodes); conn != nil {
		return conn
	}
	_, conn, err := registry.FindPrimary(ctx, nodes)
	if err != nil {
		return nil
	}
	return conn
}

// holder returns a session with the server that the record says is the primary, if it takes writes.
func (n *notifier) holder(ctx context.Context, nodes []cluster.Node) *pg.Conn {
	rec, _ := n.d.quorum.known()
	node, known := cluster.Find(nodes, rec.Lease.Holder)
	if rec.Rule != record.Quorum || !rec.Lease.Promoted || !known {
		return nil
	}
	conn, err := registry.Connect(ctx, node)
	if err != nil || writes(ctx, conn) {
		return conn
	}
	registry.Close(conn)
	return nil
}

// writes reports whether the server of that session still takes writes.
func writes(ctx context.Context, conn *pg.Conn) bool {
	var yes bool
	err := conn.QueryRow(ctx, "SELECT NOT pg_catalog.pg_is_in_recovery()").Scan(&yes)
	return err == nil && yes
}

// announce has an event recorded and told, in its turn.
func (d *Daemon) announce(e event) {
	d.log.Log(context.Background(), slog.LevelDebug, "event "+e.name, "detail", e.details)
	e.unkept = e.unkept || d.cfg.WithoutServer() // it may have no way to the primary's database
	row := registry.Event{Node: d.loop.view.Self, Name: e.name, Successful: !e.failed, At: time.Now(), Details: e.details, About: e.about}
	d.notifier.add(errand{name: "event " + e.name, dry: e.unkept, do: func(ctx context.Context, conn *pg.Conn) error {
		if conn == nil && !e.unkept {
			d.notifier.keepFor(row)
		}
		return registry.Announce(ctx, conn, d.notifier.cfg.Load(), row)
	}})
}
