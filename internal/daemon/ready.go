package daemon

import (
	"context"
	"sync"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/pg"
	"repmgr/internal/record"
	"repmgr/internal/registry"
)

// readyFirst is when a session is made ready for the first time, and readyEvery how often it
// is seen to. The latter may be longer than a failover, in which nobody shall open one.
const (
	readyFirst = time.Second
	readyEvery = 10 * time.Second
)

// readySession is a session with the own server that is kept for what must not wait for a
// new one, which is a process more on that host.
type readySession struct {
	mu   sync.Mutex
	conn *pg.Conn
}

// take hands the session over, or nil.
func (r *readySession) take() *pg.Conn { return r.put(nil) }

// put keeps a session, and returns the one that was kept.
func (r *readySession) put(conn *pg.Conn) *pg.Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.conn
	r.conn = conn
	return was
}

// see looks whether the session still answers, which it does not after a restart of the
// server, and opens another where there is none.
func (r *readySession) see(ctx context.Context, open func(context.Context) (*pg.Conn, error)) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	conn := r.take()
	if conn != nil {
		if _, err := conn.Progress(ctx); err != nil {
			registry.Close(conn)
			conn = nil
		}
	}
	if conn == nil {
		conn, _ = open(ctx) // else the next time; the eyes tell what is wrong
	}
	registry.Close(r.put(conn))
}

// summonReady has the session seen to when a switchover is asked for, and when the server begins
// to stream: it is wanted in a moment, while clients wait, and the sealing before, or a start
// of the server, has left none.
func (d *Daemon) summonReady() {
	l, v := &d.loop, d.loop.view
	streams := v.Local.State == failover.ServerRunning && v.Local.Role == cluster.Standby && v.Local.Receiving
	wanted := streams && !l.streamed
	l.streamed = streams
	if rec := v.Group.Record; rec != nil && rec.Switchover.Open() && rec.Switchover.Number != l.summoned {
		l.summoned, wanted = rec.Switchover.Number, true
	}
	if !wanted {
		return
	}
	select {
	case d.summons <- struct{}{}:
	default: // it is about to be seen to
	}
}

// keepReady sees to it that there is a session for the next sealing while one may be
// wanted, and one for the questions of operators while the server runs. Each has its own:
// a question that hangs must not cost a failover time.
func (d *Daemon) keepReady(ctx context.Context) {
	next := time.NewTimer(readyFirst)
	defer next.Stop()
	defer func() { registry.Close(d.ready.take()); registry.Close(d.asked.take()) }()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.summons:
		case <-next.C:
			next.Reset(readyEvery)
		}
		r := d.shared.load().report
		rec, _ := d.quorum.known()
		switch {
		case r.Role == cluster.Primary || rec.Rule != record.Quorum:
			registry.Close(d.ready.take())
		case r.Server == failover.ServerRunning && r.Role == cluster.Standby && rec.Lease.State != record.Vacant:
			d.ready.see(ctx, d.ownServer().Ready)
		}
		if r.Server != failover.ServerRunning {
			registry.Close(d.asked.take())
			continue
		}
		limit, cancel := context.WithTimeout(ctx, lookTimeout)
		_ = d.lend(limit, func(conn *pg.Conn) error { _, err := conn.Progress(limit); return err }) // the eyes tell what is wrong
		cancel()
	}
}
