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

// readyEvery is how often a session for the next sealing is seen to. It may be longer
// than a failover, in which nobody shall open one.
const readyEvery = 10 * time.Second

// readySession is a session with the own standby that is kept for the next sealing:
// to open one is a process more on a host in the moment in which it has most to do.
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

// keepReady sees to it that there is one while a seal may be wanted. It asks it
// something each time: after a restart of the server it is worth nothing.
func (d *Daemon) keepReady(ctx context.Context) {
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	defer func() { registry.Close(d.ready.take()) }()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		r := d.shared.load().report
		rec, _ := d.quorum.known()
		if r.Server != failover.ServerRunning || r.Role != cluster.Standby || rec.Rule != record.Quorum || rec.Lease.State == record.Vacant {
			if r.Role == cluster.Primary || rec.Rule != record.Quorum {
				registry.Close(d.ready.take())
			}
			continue
		}
		limit, cancel := context.WithTimeout(ctx, lookTimeout)
		conn := d.ready.take()
		if conn != nil {
			if _, err := conn.Progress(limit); err != nil {
				registry.Close(conn)
				conn = nil
			}
		}
		if conn == nil {
			conn, _ = d.ownServer().Ready(limit) // else at the next tick; the eyes tell what is wrong
		}
		cancel()
		registry.Close(d.ready.put(conn))
	}
}
