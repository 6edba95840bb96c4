package api

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"repmgr/internal/fault"
)

// framesProtocol is what a stream's request asks the connection to be upgraded to.
const framesProtocol = "repmgr-frames"

// lifeHeader names the life of the daemon that opens a stream.
const lifeHeader = "Repmgr-Life"

// Bounds of a stream.
const (
	maxFrame    = 8 << 20
	keptBuffer  = 1 << 20 // of a sender, from one frame to the next
	sendTimeout = 5 * time.Second
)

// A peer that has vanished is noticed after streamIdle + streamProbes * streamProbe.
const (
	streamIdle   = 5 * time.Second
	streamProbe  = 5 * time.Second
	streamProbes = 3
)

// errFrame: what came is not a frame.
var errFrame = errors.New("not a frame")

// frameLength reads a frame's first four bytes, its length in network order.
func frameLength(head [4]byte) (int, error) {
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > maxFrame {
		return 0, fmt.Errorf("%w: its length is %d, and 1 to %d is allowed", errFrame, n, maxFrame)
	}
	return int(n), nil
}

// readFrame reads one frame, which is the caller's. The end between two frames is io.EOF.
func readFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n, err := frameLength(head)
	if err != nil {
		return nil, err
	}
	frame := make([]byte, n)
	if _, err := io.ReadFull(r, frame); errors.Is(err, io.EOF) {
		return nil, io.ErrUnexpectedEOF
	} else if err != nil {
		return nil, err
	}
	return frame, nil
}

// noticeDeath lets the kernel end a connection whose other side has vanished, be
// it idle (keepalive) or with something on its way (user timeout; man 7 tcp).
func noticeDeath(conn net.Conn) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	if c, ok := conn.(*countedConn); ok {
		conn = c.Conn
	}
	t, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	_ = t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: streamIdle, Interval: streamProbe, Count: streamProbes})
	if raw, err := t.SyscallConn(); err == nil {
		limit := streamIdle + streamProbes*streamProbe
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
		})
	}
}

// streams are the connections that were taken from the HTTP server.
type streams struct {
	mu     sync.Mutex
	open   map[net.Conn]bool
	closed bool
	wg     sync.WaitGroup
}

// enter counts a connection in, unless the server is being shut down.
func (s *streams) enter(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.open == nil {
		s.open = map[net.Conn]bool{}
	}
	s.open[conn] = true
	s.wg.Add(1)
	return true
}

func (s *streams) leave(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, conn)
	s.wg.Done()
}

// close ends all, and lets no more in.
func (s *streams) close() {
	s.mu.Lock()
	s.closed = true
	open := s.open
	s.open = map[net.Conn]bool{}
	s.mu.Unlock()
	for conn := range open {
		conn.Close()
	}
}

// wait waits for those who received, until ctx is done.
func (s *streams) wait(ctx context.Context) error {
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stream hands the frames of one connection to the backend, on the goroutine
// that net/http had for it.
func (s *Server) stream(w http.ResponseWriter, r *http.Request) {
	from := callerOf(r).node
	switch {
	case from == 0:
		fail(w, http.StatusForbidden, fault.New(fault.Internal, "a stream needs the certificate of its node"))
		return
	case !strings.EqualFold(r.Header.Get("Upgrade"), framesProtocol) || r.ContentLength != 0:
		w.Header().Set("Upgrade", framesProtocol)
		fail(w, http.StatusUpgradeRequired, fault.New(fault.Internal, "a stream needs an upgrade to %s, and no body", framesProtocol))
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		fail(w, http.StatusInternalServerError, err)
		return
	}
	defer conn.Close()
	if !s.streams.enter(conn) {
		return
	}
	defer s.streams.leave(conn)
	noticeDeath(conn)
	conn.SetDeadline(time.Now().Add(s.limits.request))
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+framesProtocol+"\r\n\r\n"); err != nil {
		return
	}
	conn.SetDeadline(time.Time{})
	life, _ := strconv.ParseUint(r.Header.Get(lifeHeader), 10, 64) // zero: it does not tell
	s.backend.Stream(from, life, func() ([]byte, error) {
		frame, err := readFrame(buffered)
		if errors.Is(err, errFrame) {
			conn.Close()
			s.refusals.note(hostPart(r), fmt.Sprintf("stream of node %d: %v", from, err))
		}
		return frame, err
	})
}

// Stream carries frames to one daemon, which does not answer them. It is not
// safe for use by several goroutines, but for Close and Done.
type Stream struct {
	client *Client
	conn   net.Conn
	buf    []byte
	done   chan struct{}
}

// OpenStream makes a connection of its own and upgrades it. What is told when it
// fails is as with all calls; ctx is for the opening only. life is the number that
// the calling daemon drew when it started, as in its reports.
func (c *Client) OpenStream(ctx context.Context, life uint64) (*Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, c.failed(kindOf(ctx, err), err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err = c.upgrade(ctx, conn, life)
	if err == nil && !stop() {
		err = c.failed(ErrNoAnswer, ctx.Err())
	}
	if err != nil {
		stop()
		conn.Close()
		return nil, err
	}
	noticeDeath(conn)
	s := &Stream{client: c, conn: conn, done: make(chan struct{})}
	go s.watch()
	return s, nil
}

// connect makes a connection as the transport of the calls does.
func (c *Client) connect(ctx context.Context) (net.Conn, error) {
	t := c.http.Transport.(*http.Transport)
	raw, err := t.DialContext(ctx, "", "")
	if err != nil || t.TLSClientConfig == nil {
		return raw, err
	}
	conn := tls.Client(raw, t.TLSClientConfig)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}

// upgrade asks for the stream.
func (c *Client) upgrade(ctx context.Context, conn net.Conn, life uint64) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+PathStream, nil)
	if err != nil {
		return c.failed(ErrFailed, err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", framesProtocol)
	req.Header.Set(lifeHeader, strconv.FormatUint(life, 10))
	sent := req.Write(conn) // if it failed, an alert that says why may still be read
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxHeader+maxBody)), req)
	if err != nil {
		return c.failed(kindOf(ctx, err), errors.Join(err, sent))
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusSwitchingProtocols && strings.EqualFold(resp.Header.Get("Upgrade"), framesProtocol) {
		return nil
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return c.failed(kindOf(ctx, err), err)
	}
	if err := c.read(resp.StatusCode, PathStream, text, nil); err != nil {
		return err
	}
	return c.failed(ErrFailed, fmt.Errorf("HTTP status %d for a stream", resp.StatusCode))
}

// watch notices the end of the stream: nothing is ever sent back on it.
func (s *Stream) watch() {
	defer close(s.done)
	io.Copy(io.Discard, s.conn)
	s.Close()
}

// Done is closed when the stream is over, whichever side ended it.
func (s *Stream) Done() <-chan struct{} { return s.done }

// Send sends one frame of 1 byte to 8 MiB, and waits no longer than some seconds
// for the connection to take it. That it returns nil does not mean that the frame
// has arrived. After an error the stream is closed; but for a length that is
// not allowed, which changes nothing.
func (s *Stream) Send(frame []byte) error {
	if len(frame) == 0 || len(frame) > maxFrame {
		return s.client.failed(ErrFailed, fmt.Errorf("a frame of %d bytes: 1 to %d are allowed", len(frame), maxFrame))
	}
	s.buf = binary.BigEndian.AppendUint32(s.buf[:0], uint32(len(frame)))
	s.buf = append(s.buf, frame...)
	err := s.conn.SetWriteDeadline(time.Now().Add(sendTimeout))
	if err == nil {
		_, err = s.conn.Write(s.buf)
	}
	if cap(s.buf) > keptBuffer {
		s.buf = nil
	}
	if err != nil {
		s.Close()
		return s.client.failed(ErrNoAnswer, err)
	}
	return nil
}

// Close ends the stream. It may be called again. TLS is not told, for which one
// would wait for the other side once more.
func (s *Stream) Close() {
	if t, ok := s.conn.(*tls.Conn); ok {
		t.NetConn().Close()
		return
	}
	s.conn.Close()
}
