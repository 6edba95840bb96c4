package daemon

import (
	"sync"
	"time"

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
	conn  *pg.Conn
	timer *time.Timer
}

// keep closes the one before.
func (s *sealedSession) keep(conn *pg.Conn) {
	registry.Close(s.take())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = conn
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
