package api

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// stream opens a stream that ends with the test.
func stream(t testing.TB, c *Client) *Stream {
	t.Helper()
	s, err := c.OpenStream(within(t), 77)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func (m *memory) count() (frames, streams int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.frames), m.streams
}

// over waits until the other side has noticed or made the end.
func over(t testing.TB, s *Stream) {
	t.Helper()
	select {
	case <-s.Done():
	case <-time.After(patience):
		t.Fatal("the stream is still open")
	}
}

func TestFramesArriveInOrder(t *testing.T) {
	t.Parallel()
	a := authority(t)
	three := serve(t, a, 3)
	s := stream(t, client(t, three.target, identity(t, a, 1).ClientTLS()))
	frames := [][]byte{{0}, bytes.Repeat([]byte("x"), maxFrame), []byte("GET / HTTP/1.1\r\n\r\n")}
	for i := range 1000 {
		frames = append(frames, fmt.Appendf(nil, "%d", i))
	}
	for _, f := range frames {
		if err := s.Send(f); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "all frames", func() bool { n, _ := three.count(); return n == len(frames) })
	if three.life != 77 {
		t.Errorf("opened by life %d, want 77", three.life)
	}
	for i, f := range frames {
		if got := three.frames[i]; !bytes.Equal(got.frame, f) || got.from != 1 {
			t.Fatalf("frame %d came as %.20q from %d", i, got.frame, got.from)
		}
	}
	for _, f := range [][]byte{nil, make([]byte, maxFrame+1)} {
		if err := s.Send(f); !errors.Is(err, ErrFailed) {
			t.Errorf("a frame of %d bytes: %v", len(f), err)
		}
	}
	if err := s.Send([]byte("more")); err != nil {
		t.Errorf("after frames that are not allowed: %v", err)
	}
	s.Close()
	s.Close()
	over(t, s)
	await(t, "the end", func() bool { n, open := three.count(); return open == 0 && n == len(frames)+1 })
	if err := s.Send([]byte("x")); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("after its end: %v", err)
	}
	if text := three.String(); text != "" {
		t.Errorf("something was logged: %s", text)
	}
}

// A stream is kept for longer than a request may take.
func TestIdleStreamIsKept(t *testing.T) {
	t.Parallel()
	a := authority(t)
	three := hasty(t, a, 3)
	s := stream(t, client(t, three.target, identity(t, a, 1).ClientTLS()))
	idle, err := (&net.Dialer{}).DialContext(within(t), "tcp", three.target.Address())
	if err != nil {
		t.Fatal(err)
	}
	ends(t, idle) // every limit of the hasty one is the same
	if err := s.Send([]byte("late")); err != nil {
		t.Fatal(err)
	}
	await(t, "the frame", func() bool { n, _ := three.count(); return n == 1 })
}

func TestStreamNeedsANode(t *testing.T) {
	t.Parallel()
	a, b := authority(t), authority(t)
	three, dir := serve(t, a, 3), stateDir(t)
	others, err := b.Issue("node", 1)
	if err != nil {
		t.Fatal(err)
	}
	local := serveUnix(t, dir)
	wrong := three.target
	wrong.ID = 4
	for name, c := range map[string]struct {
		client *Client
		kind   error
	}{
		"a reader":          {client(t, three.target, identity(t, a, 0).ClientTLS()), ErrDenied},
		"another cluster's": {client(t, three.target, presenting(others)), ErrOtherCluster},
		"nobody":            {client(t, three.target, presenting()), ErrOtherCluster},
		"the local socket":  {DialUnix(dir), ErrDenied},
		"to another node":   {client(t, wrong, identity(t, a, 1).ClientTLS()), ErrWrongNode},
		"to nobody":         {DialUnix(stateDir(t)), ErrNotRunning},
	} {
		if _, err := c.client.OpenStream(within(t), 77); !errors.Is(err, c.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, n := range []*node{three, local} {
		if frames, streams := n.count(); frames+streams != 0 {
			t.Error("a stream was opened")
		}
	}
	h := &http.Client{Transport: &http.Transport{TLSClientConfig: identity(t, a, 1).ClientTLS()}}
	defer h.CloseIdleConnections()
	resp, err := h.Post("https://"+three.target.Address()+PathStream, "", nil)
	if err != nil || resp.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("without an upgrade: %v, %v", resp, err)
	}
}

func TestBadFramesEndTheStream(t *testing.T) {
	t.Parallel()
	a := authority(t)
	three := serve(t, a, 3)
	c := client(t, three.target, identity(t, a, 1).ClientTLS())
	for length, says := range map[uint32]string{0: "its length is 0", maxFrame + 1: "its length is 8388609", 1<<32 - 1: "its length is 4294967295"} {
		s := stream(t, c)
		if err := s.Send([]byte("good")); err != nil {
			t.Fatal(err)
		}
		s.conn.Write(binary.BigEndian.AppendUint32(nil, length))
		over(t, s)
		three.await(t, says)
	}
	s := stream(t, c) // ends in the middle of a frame
	s.conn.Write([]byte{0, 0, 0, 9, 'x'})
	s.Close()
	await(t, "the end of all", func() bool { frames, open := three.count(); return frames == 3 && open == 0 })
	if _, err := c.Exchange(within(t), sampleReport(1)); err != nil {
		t.Errorf("the peer is refused after that: %v", err)
	}
}

func TestStalledReaderDoesNotBlockTheSender(t *testing.T) {
	t.Parallel()
	a := authority(t)
	three := serve(t, a, 3)
	three.block = make(chan struct{})
	defer close(three.block)
	s := stream(t, client(t, three.target, identity(t, a, 1).ClientTLS()))
	start, frame := time.Now(), make([]byte, 1<<20)
	var err error
	for err == nil && time.Since(start) < patience {
		err = s.Send(frame)
	}
	if !errors.Is(err, ErrNoAnswer) {
		t.Errorf("after %s: %v", time.Since(start), err)
	}
	over(t, s)
}

func TestShutdownEndsStreams(t *testing.T) {
	t.Parallel()
	a := authority(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &memory{}
	server, id := NewServer(Options{Backend: m}), identity(t, a, 3)
	ended := make(chan error, 1)
	go func() { ended <- server.ServeTCP(l, id.ServerTLS) }()
	s := stream(t, client(t, Target{ID: 3, Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port}, identity(t, a, 1).ClientTLS()))
	await(t, "the stream", func() bool { _, open := m.count(); return open == 1 })
	if err := server.Shutdown(within(t)); err != nil {
		t.Error(err)
	}
	if _, open := m.count(); open != 0 {
		t.Error("the backend still receives")
	}
	over(t, s)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A daemon that takes the connection and says nothing.
func TestOpenStreamEndsWithItsContext(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	c := client(t, Target{ID: 3, Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port}, identity(t, authority(t), 1).ClientTLS())
	if _, err := c.OpenStream(ctx, 77); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("the error is %v", err)
	}
}

func FuzzFrameLength(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 1, 'x'})
	f.Add([]byte{0, 0x80, 0, 0})
	f.Add([]byte{0, 0x80, 0, 1})
	f.Add([]byte("GET / HTTP/1.1"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) < 4 {
			return
		}
		n, err := frameLength([4]byte(text[:4]))
		if want := binary.BigEndian.Uint32(text); err == nil && (uint32(n) != want || n < 1 || n > maxFrame) ||
			err != nil && (want >= 1 && want <= maxFrame || !errors.Is(err, errFrame)) {
			t.Errorf("%x is a length of %d, %v", text[:4], n, err)
		}
		if n > 1<<16 {
			return
		}
		frame, err := readFrame(io.LimitReader(strings.NewReader(string(text)), int64(len(text))))
		if (err == nil) != (n > 0 && len(text) >= 4+n) || err == nil && !bytes.Equal(frame, text[4:4+n]) {
			t.Errorf("%x is read as %x, %v", text, frame, err)
		}
	})
}
