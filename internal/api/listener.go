package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"repmgr/internal/host"
)

// Bounds of one listening socket. Strangers are those who have not yet shown a
// good certificate; a flood of them leaves the peers' connections alone.
const (
	maxStrangers       = 128
	maxStrangersByHost = 32
	maxConnections     = 256
	maxAcceptPause     = time.Second
	lingerTimeout      = time.Second // for a refused one to read why
	lingerBytes        = 64 << 10
)

// admission is a listener that hands out only connections that were let in. The
// goroutine of run accepts, one goroutine for each newcomer examines it within a
// time limit, and Close ends them all.
type admission struct {
	net.Listener
	examine  examination
	limit    time.Duration // of an examination
	refusals *refusals

	admitted chan net.Conn
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	mu        sync.Mutex
	strangers map[string]int // by host
	waiting   int            // sum of strangers
	open      int            // let in and not closed yet
}

// examination returns the connection to go on with, or why there is none.
type examination func(ctx context.Context, raw net.Conn) (net.Conn, error)

func (s *Server) admit(l net.Listener, examine examination) *admission {
	ctx, cancel := context.WithCancel(context.Background())
	a := &admission{
		Listener: l, examine: examine, limit: s.limits.handshake, refusals: s.refusals, admitted: make(chan net.Conn),
		ctx: ctx, cancel: cancel, strangers: map[string]int{},
	}
	a.wg.Go(a.run)
	return a
}

// Accept returns the next connection that was let in.
func (a *admission) Accept() (net.Conn, error) {
	select {
	case c := <-a.admitted:
		return c, nil
	case <-a.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close stops listening and waits for the newcomers under examination.
func (a *admission) Close() error {
	a.cancel()
	err := a.Listener.Close()
	a.wg.Wait()
	return err
}

// run accepts until the listener is closed. Other errors, such as having no file
// descriptor left, pass; the pause after one grows up to maxAcceptPause.
func (a *admission) run() {
	pause := time.Duration(0)
	for {
		raw, err := a.Listener.Accept()
		if err == nil {
			pause = 0
			a.newcomer(raw)
			continue
		}
		if a.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			a.cancel()
			return
		}
		pause = min(max(2*pause, 5*time.Millisecond), maxAcceptPause)
		a.refusals.note("", fmt.Sprintf("accepting a connection: %v", err))
		select {
		case <-time.After(pause):
		case <-a.ctx.Done():
		}
	}
}

// newcomer starts the examination of a connection, unless there are too many.
func (a *admission) newcomer(raw net.Conn) {
	from := hostOf(raw)
	if err := a.enter(from); err != nil {
		a.refusals.note(from, err.Error())
		raw.Close()
		return
	}
	a.wg.Go(func() {
		counted := &countedConn{Conn: raw, taken: host.Now(), onClose: a.closed}
		ctx, cancel := context.WithTimeout(a.ctx, a.limit)
		defer cancel()
		conn, err := a.examine(ctx, counted)
		full := a.leave(from)
		if err == nil && full {
			err = fmt.Errorf("%d connections are open already", maxConnections)
		}
		if err != nil {
			if a.ctx.Err() == nil {
				a.refusals.note(from, err.Error())
			}
			counted.Close()
			return
		}
		select {
		case a.admitted <- conn:
		case <-a.ctx.Done():
			counted.Close()
		}
	})
}

// enter counts a stranger in, or says why there is no room.
func (a *admission) enter(host string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.strangers[host] >= maxStrangersByHost:
		return fmt.Errorf("%d connections from there have not shown a certificate yet", maxStrangersByHost)
	case a.waiting >= maxStrangers:
		return fmt.Errorf("%d connections have not shown a certificate yet", maxStrangers)
	}
	a.strangers[host]++
	a.waiting++
	a.open++
	return nil
}

// leave counts a stranger out, its examination being over, and says whether
// there are too many connections to keep it.
func (a *admission) leave(host string) (full bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting--
	a.strangers[host]--
	if a.strangers[host] == 0 {
		delete(a.strangers, host)
	}
	return a.open-a.waiting > maxConnections
}

// closed counts a connection out, whichever way it came to its end.
func (a *admission) closed() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open--
}

// countedConn tells of its end, once.
type countedConn struct {
	net.Conn
	taken   time.Time // who had ended by then does not finish the handshake
	once    sync.Once
	onClose func()
}

func (c *countedConn) Close() error {
	c.once.Do(c.onClose)
	return c.Conn.Close()
}

// hostOf is the address of the other side without its port.
func hostOf(c net.Conn) string {
	host, _, err := net.SplitHostPort(c.RemoteAddr().String())
	if err != nil {
		return "the local socket"
	}
	return host
}

// notHTTPS answers someone who speaks plain HTTP, in words that they can read.
const notHTTPS = "HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n" +
	"repmgrd speaks HTTPS on this port, and wants a certificate of its cluster\n"

// examineTLS is the handshake. The configuration is fetched for each, so that a
// certificate or an authority can be exchanged while the daemon runs.
func examineTLS(config func() *tls.Config) examination {
	return func(ctx context.Context, raw net.Conn) (net.Conn, error) {
		c := config()
		if c == nil {
			return nil, errors.New("this daemon has no certificate yet")
		}
		conn := tls.Server(raw, c)
		err := conn.HandshakeContext(ctx)
		if err == nil {
			return conn, nil
		}
		var header tls.RecordHeaderError
		switch {
		case errors.As(err, &header) && looksLikeHTTP(header.RecordHeader):
			raw.SetWriteDeadline(time.Now().Add(lingerTimeout))
			raw.Write([]byte(notHTTPS))
			err = errors.New("it spoke plain HTTP")
		case errors.As(err, &header):
			err = errors.New("it did not speak TLS")
		case ctx.Err() != nil:
			return nil, errors.New("it did not finish the TLS handshake in time")
		default:
			err = fmt.Errorf("TLS handshake: %w", err)
		}
		linger(raw)
		return nil, err
	}
}

// linger ends our side of a connection and reads on for a moment: closing while
// something is unread would reset the connection, and the other side might lose
// the alert that tells it why it was refused.
func linger(raw net.Conn) {
	if c, ok := raw.(*countedConn); ok {
		raw = c.Conn
	}
	if t, ok := raw.(*net.TCPConn); ok && t.CloseWrite() == nil {
		t.SetReadDeadline(time.Now().Add(lingerTimeout))
		io.CopyN(io.Discard, t, lingerBytes)
	}
}

func looksLikeHTTP(start [5]byte) bool {
	switch string(start[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "DELET", "CONNE", "PATCH", "TRACE":
		return true
	}
	return false
}

// Bounds of what is written about strangers.
const (
	refusalSilence = time.Minute
	refusalMemory  = 10 * time.Minute // then a host is forgotten
	maxRefusals    = 128
)

// refusals writes a line about each refused host and reason, and then is silent
// about that pair for refusalSilence, counting.
type refusals struct {
	log *slog.Logger
	now func() time.Time

	mu   sync.Mutex
	seen map[refused]*tally
}

type refused struct{ host, why string }

type tally struct {
	since      time.Time // of the last line
	suppressed int
}

func newRefusals(log *slog.Logger) *refusals {
	return &refusals{log: log, now: time.Now, seen: map[refused]*tally{}}
}

// note writes that host was refused and why, unless it did so of late. When too
// many are remembered, the rest share one line.
func (r *refusals) note(host, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, key := r.now(), refused{host, why}
	for k, t := range r.seen {
		if now.Sub(t.since) >= refusalMemory {
			delete(r.seen, k)
		}
	}
	if r.seen[key] == nil && len(r.seen) >= maxRefusals {
		key = refused{}
	}
	t := r.seen[key]
	switch {
	case t == nil:
		t = &tally{}
		r.seen[key] = t
	case now.Sub(t.since) < refusalSilence:
		t.suppressed++
		return
	}
	r.log.Warn("refused a connection", "from", host, "why", why, "not_shown", t.suppressed)
	t.since, t.suppressed = now, 0
}
