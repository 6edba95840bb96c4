package daemon

import (
	"context"
	"sync"
	"time"

	"repmgr/internal/fault"
	"repmgr/internal/pg"
	"repmgr/internal/registry"
)

// sealedFor is how long a session is kept: those who do not win have no use for it.
const sealedFor = 5 * time.Second

// sealedSession is the session in which the own server was sealed last. The
// promotion goes on in it, since a new one is a process on a host that may have
// just taken over somebody else's load.
type sealedSession struct {
	mu    sync.Mutex
	at    time.Time // when no WAL receiver was there, by the look that ended the sealing
	conn  *pg.Conn
	timer *time.Timer
}

// keep closes the one before.
func (s *sealedSession) keep(conn *pg.Conn) {
	s.hold(conn)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = bootTime()
}

// hold is keep for a session in which nothing was sealed.
func (s *sealedSession) hold(conn *pg.Conn) {
	registry.Close(s.take())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn, s.at = conn, time.Time{}
	s.timer = time.AfterFunc(sealedFor, func() { registry.Close(s.takeOnly(conn)) })
}

// take hands the session over, or nil.
func (s *sealedSession) take() *pg.Conn { return s.takeOnly(nil) }

// takeOnly is take, unless another than that one is kept by now; nil means any.
func (s *sealedSession) takeOnly(only *pg.Conn) *pg.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil || only != nil && s.conn != only {
		return nil
	}
	conn := s.conn
	s.timer.Stop()
	s.conn = nil
	return conn
}

// freshSeal is how long the look that ended the sealing counts. A new one needs a session,
// which takes long where it matters most; what is done by hand in that second is found by the
// eyes, and the bid taken back.
const freshSeal = time.Second

// led reports whether there is a leader to propose to.
func (q *group) led() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.status.Leader != 0
}

// stillSealed looks, at the moment of a bid, whether the server receives WAL again, since
// somebody has changed that by hand (safety notes, B12). Then it has to be sealed anew.
func (d *Daemon) stillSealed(ctx context.Context) error {
	d.sealed.mu.Lock()
	at := d.sealed.at
	d.sealed.mu.Unlock()
	if !at.IsZero() && bootTime().Sub(at) < freshSeal || !d.quorum.led() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, sealBound)
	defer cancel()
	sealed, err := d.ownServer().Sealed(ctx)
	if err != nil || sealed {
		return err
	}
	if err := d.forgetSeal(); err != nil {
		return err
	}
	return fault.New(fault.FollowFail, "the server is not sealed any more").WithHint("Leave primary_conninfo to repmgrd.")
}
