package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"repmgr/internal/cluster"
)

func mustURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func pemOf(c tls.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})
}

func keyPEMOf(t testing.TB, c tls.Certificate) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// forge makes a certificate with that name, signed by signer, or by itself.
func forge(t testing.TB, name string, signer *tls.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: notBefore, NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if name != "" {
		template.URIs = []*url.URL{mustURL(t, name)}
	}
	parent, parentKey := template, any(key)
	if signer != nil {
		parent, parentKey = signer.Leaf, signer.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	if signer != nil {
		c.Certificate = append(c.Certificate, signer.Certificate...)
	}
	return c
}

// presenting is a client's configuration that shows those certificates.
func presenting(certs ...tls.Certificate) *tls.Config {
	return &tls.Config{
		InsecureSkipVerify: true, VerifyConnection: func(tls.ConnectionState) error { return nil },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if len(certs) == 0 {
				return &tls.Certificate{}, nil
			}
			return &certs[0], nil
		},
	}
}

func TestStrangersAreRefused(t *testing.T) {
	t.Parallel()
	a, b := authority(t), authority(t)
	good, err := a.Issue("node", 1)
	if err != nil {
		t.Fatal(err)
	}
	others, _ := b.Issue("node", 1)
	expired, _ := a.issue("node", 1, time.Now().Add(-nodeLife-time.Hour))
	rootKey := tls.Certificate{Certificate: [][]byte{a.cert.Raw}, Leaf: a.cert, PrivateKey: a.key}
	ours := "repmgr://" + a.ClusterID() + "/node/1"
	old := presenting(good)
	old.MaxVersion = tls.VersionTLS12
	for _, c := range []struct {
		name   string
		config *tls.Config
		says   string
	}{
		{"no certificate", presenting(), "client didn't provide a certificate"},
		{"another cluster's", presenting(others), "its certificate is of another cluster (" + b.ClusterID()},
		{"expired", presenting(expired), "its certificate, of node 1, expired on"},
		{"self-signed with our name", presenting(forge(t, ours, nil)), "not signed by this cluster's authority"},
		{"signed by a node", presenting(forge(t, ours, &good)), "not signed by this cluster's authority"},
		{"signed, but names nobody", presenting(forge(t, "", &rootKey)), "names nobody of this cluster"},
		{"signed, but of another name", presenting(forge(t, "repmgr://x/node/1", &rootKey)), "names nobody of this cluster"},
		{"TLS 1.2", old, "client offered only unsupported versions"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			three := serve(t, a, 3)
			_, err := client(t, three.target, c.config).Exchange(within(t), sampleReport(1))
			if !errors.Is(err, ErrOtherCluster) {
				t.Errorf("the client's error is %v", err)
			}
			three.await(t, c.says)
			if len(three.received) != 0 {
				t.Error("the report was taken in")
			}
		})
	}
}

func TestImpostorsAreNotAsked(t *testing.T) {
	t.Parallel()
	a, b := authority(t), authority(t)
	for _, c := range []struct {
		name   string
		server *node
		kind   error
		says   string
	}{
		{"another cluster's", serve(t, b, 3), ErrOtherCluster, "its certificate is of another cluster"},
		{"another node", serve(t, a, 4), ErrWrongNode, "its certificate says node 4"},
		{"a reader", serve(t, a, 0), ErrWrongNode, "its certificate is a reader's"},
	} {
		c.server.target.ID = 3
		_, err := client(t, c.server.target, identity(t, a, 1).ClientTLS()).Exchange(within(t), sampleReport(1))
		if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
		if len(c.server.received) != 0 {
			t.Errorf("%s: it got the report", c.name)
		}
	}
	if _, err := client(t, serve(t, a, 3).target, nil).Health(within(t)); err == nil {
		t.Error("a client without a configuration trusts anyone")
	}
}

// raw opens a plain connection to n and sends text.
func (n *node) raw(t testing.TB, text string) net.Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", n.target.Address(), patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, text)
	return c
}

// ends waits until the other side has ended c, and returns what it sent before.
func ends(t testing.TB, c net.Conn) string {
	t.Helper()
	text, err := io.ReadAll(c)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatal("the connection was left open")
	}
	return string(text)
}

func TestGarbageIsRefused(t *testing.T) {
	t.Parallel()
	a := authority(t)
	three := serve(t, a, 3)
	if got := ends(t, three.raw(t, "GET / HTTP/1.1\r\nHost: node3\r\n\r\n")); !strings.Contains(got, "repmgrd speaks HTTPS") {
		t.Errorf("plain HTTP was answered with %q", got)
	}
	three.await(t, "it spoke plain HTTP")
	ends(t, three.raw(t, "\x00\x00\x00\x08\x04\xd2\x16\x2f and so on"))
	three.await(t, "it did not speak TLS")
	// A handshake of TLS that claims to be very long, and one of nothing but zeros.
	ends(t, three.raw(t, "\x16\x03\x01\xff\xff"+strings.Repeat("x", 1<<16)))
	ends(t, three.raw(t, "\x16\x03\x01\x00\x05\x01\x00\x00\x00\x00"))
	ends(t, three.raw(t, "POST /v1/exchange HTTP/1.1\r\n\r\n"+strings.Repeat("x", 4<<20)))
	if _, err := client(t, three.target, identity(t, a, 1).ClientTLS()).Exchange(within(t), sampleReport(1)); err != nil {
		t.Errorf("a peer is refused after the garbage: %v", err)
	}
	if strings.Contains(three.String(), "panic") {
		t.Error(three.String())
	}
}

// TestRefusedReadsWhy: what a refused one has sent and nobody read must not reset
// the connection, since with it the reason could be lost on the way.
func TestRefusedReadsWhy(t *testing.T) {
	t.Parallel()
	three := serve(t, authority(t), 3)
	text, err := io.ReadAll(three.raw(t, "GET / HTTP/1.1\r\n\r\n"+strings.Repeat("x", 16<<10)))
	if err != nil || !strings.Contains(string(text), "repmgrd speaks HTTPS") {
		t.Errorf("it read %q and then %v", text, err)
	}
}

// talk opens a TLS connection to n as the holder of that identity.
func (n *node) talk(t testing.TB, id *Identity) *tls.Conn {
	t.Helper()
	c, err := (&tls.Dialer{Config: id.ClientTLS()}).DialContext(within(t), "tcp", n.target.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c.(*tls.Conn)
}

// endless is a body without an end.
type endless struct{}

func (endless) Read(b []byte) (int, error) { return copy(b, bytes.Repeat([]byte("["), len(b))), nil }

func TestHugeRequestsAreRefused(t *testing.T) {
	t.Parallel()
	a := authority(t)
	three, one := serve(t, a, 3), identity(t, a, 1)
	for _, path := range []string{PathExchange, PathPause, PathFollow} {
		c := three.talk(t, one)
		req, _ := http.NewRequest(http.MethodPost, "https://repmgrd"+path, io.LimitReader(endless{}, 1<<30))
		sent := make(chan struct{})
		go func() { req.Write(c); close(sent) }()
		resp, err := http.ReadResponse(bufio.NewReader(c), req)
		if err != nil || resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: a gigabyte was answered with %v, %v", path, resp, err)
		}
		<-sent // since the server has closed the connection
	}
	c := three.talk(t, one)
	go fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: repmgrd\r\nX-Long: %s\r\n\r\n", strings.Repeat("x", 1<<20))
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a megabyte of header was answered with %v, %v", resp, err)
	}
	if len(three.received) != 0 || len(three.paused) != 0 {
		t.Error("something was taken in")
	}
}

func TestBadBodiesAreRefused(t *testing.T) {
	t.Parallel()
	a := authority(t)
	three, one := serve(t, a, 3), identity(t, a, 1)
	h := &http.Client{Transport: &http.Transport{TLSClientConfig: one.ClientTLS()}}
	t.Cleanup(h.CloseIdleConnections)
	for _, c := range []struct {
		path, body string
		want       int
	}{
		{PathExchange, "", 400},
		{PathExchange, "{", 400},
		{PathExchange, "[]", 400},
		{PathExchange, "{}", 400},
		{PathExchange, `{"node_id":1} {"node_id":1}`, 400},
		{PathExchange, `{"node_id":1,"position":{"lsn":"here"}}`, 400},
		{PathExchange, strings.Repeat("[", 100000), 400},
		{PathExchange, `{"node_id":1,"of_a_newer_version":true}`, 200},
		{PathFollow, "", 400},
		{PathFollow, `{"upstream_node_id":-1}`, 400},
		{PathPause, "", 400},
		{PathPause, "{}", 400},
		{PathPause, `{"paused":"yes"}`, 400},
		{PathPause, `{"paused":true,"reason":"` + strings.Repeat("x", maxReasonLength+1) + `"}`, 400},
		{"/v1/nothing", "", 404},
	} {
		resp, err := h.Post("https://"+three.target.Address()+c.path, "application/json", strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("POST %s %.60q: status %d, want %d", c.path, c.body, resp.StatusCode, c.want)
		}
	}
}

// hasty is serve with limits that a test can wait for.
func hasty(t testing.TB, a Authority, id cluster.NodeID) *node {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{memory: &memory{own: sampleReport(id)}, journal: &journal{}, id: identity(t, a, id)}
	n.target = Target{ID: id, Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port}
	brief := limits{handshake: time.Second, header: time.Second, request: time.Second, backend: time.Second, idle: time.Second}
	s := newServer(Options{Backend: n.memory, Log: slog.New(slog.NewTextHandler(n.journal, nil))}, brief)
	n.run(t, s, func() error { return s.ServeTCP(l, n.id.ServerTLS) })
	return n
}

// drip sends text a byte at a time until the other side has had enough.
func drip(c net.Conn, text string) {
	for i := 0; ; i++ {
		if _, err := c.Write([]byte{text[i%len(text)]}); err != nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestSlowOnesAreCutOff(t *testing.T) {
	t.Parallel()
	a := authority(t)
	three, one := hasty(t, a, 3), identity(t, a, 1)
	silent := three.raw(t, "")
	slow := three.raw(t, "\x16\x03\x01\x40\x00")
	go drip(slow, "x")
	header := three.talk(t, one)
	go drip(header, "GET /primary HTTP/1.1\r\nX-Slow: ")
	body := three.talk(t, one)
	fmt.Fprintf(body, "POST %s HTTP/1.1\r\nHost: repmgrd\r\nContent-Length: 100000\r\n\r\n", PathExchange)
	go drip(body, " ")
	idle := three.talk(t, one)
	used := three.talk(t, one)
	fmt.Fprint(used, "GET /liveness HTTP/1.1\r\nHost: repmgrd\r\n\r\n")
	for name, c := range map[string]net.Conn{
		"says nothing": silent, "shakes hands slowly": slow, "sends a slow header": header, "sends a slow body": body,
		"asks nothing": idle, "asks nothing more": used,
	} {
		start := time.Now()
		ends(t, c)
		if took := time.Since(start); took > patience/2 {
			t.Errorf("one that %s was kept for %s", name, took)
		}
	}
	three.await(t, "it did not finish the TLS handshake in time")
}

// TestCrowdOfStrangers: while as many strangers as are let in sit there, a peer's
// kept connection works; and when they have gone, a new one is let in.
func TestCrowdOfStrangers(t *testing.T) {
	t.Parallel()
	a := authority(t)
	three, one := serve(t, a, 3), identity(t, a, 1)
	c := client(t, three.target, one.ClientTLS())
	if _, err := c.Exchange(within(t), sampleReport(1)); err != nil {
		t.Fatal(err)
	}
	crowd := make([]net.Conn, maxStrangersByHost)
	for i := range crowd {
		crowd[i] = three.raw(t, "")
	}
	if got := ends(t, three.raw(t, "")); got != "" {
		t.Errorf("one too many was told %q", got)
	}
	three.await(t, "have not shown a certificate yet")
	if _, err := c.Exchange(within(t), sampleReport(1)); err != nil {
		t.Errorf("the crowd cut off a peer: %v", err)
	}
	for _, s := range crowd {
		s.Close()
	}
	await(t, "a new connection to be let in", func() bool {
		_, err := client(t, three.target, one.ClientTLS()).Health(within(t))
		return err == nil
	})
}

// TestHostsAreForgotten: many hosts, one after the other, leave nothing behind.
func TestHostsAreForgotten(t *testing.T) {
	t.Parallel()
	a := &admission{strangers: map[string]int{}}
	for i := range 1000 {
		host := fmt.Sprint(i)
		if err := a.enter(host); err != nil {
			t.Fatal(err)
		}
		a.leave(host)
		a.closed()
	}
	if len(a.strangers) != 0 || a.waiting != 0 || a.open != 0 {
		t.Errorf("%d hosts, %d waiting, %d open", len(a.strangers), a.waiting, a.open)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	a := authority(t)
	three, one := serve(t, a, 3), identity(t, a, 1)
	open := make([]*tls.Conn, maxConnections)
	for i := range open {
		open[i] = three.talk(t, one)
		fmt.Fprint(open[i], "GET /liveness HTTP/1.1\r\nHost: repmgrd\r\n\r\n")
		if _, err := http.ReadResponse(bufio.NewReader(open[i]), nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := ends(t, three.talk(t, one)); got != "" {
		t.Errorf("one too many was told %q", got)
	}
	three.await(t, fmt.Sprintf("%d connections are open already", maxConnections))
	open[0].Close()
	await(t, "a new connection to be let in", func() bool {
		_, err := client(t, three.target, one.ClientTLS()).Health(within(t))
		return err == nil
	})
}

func TestRefusalsAreCountedAndNotRepeated(t *testing.T) {
	t.Parallel()
	j := &journal{}
	now := time.Unix(0, 0)
	r := newRefusals(slog.New(slog.NewTextHandler(j, nil)))
	r.now = func() time.Time { return now }
	for range 1000 {
		r.note("10.0.0.1", "garbage")
	}
	r.note("10.0.0.2", "garbage")
	if got := strings.Count(j.String(), "\n"); got != 2 {
		t.Errorf("%d lines, want 2:\n%s", got, j)
	}
	now = now.Add(refusalSilence)
	r.note("10.0.0.1", "garbage")
	if !strings.Contains(j.String(), "not_shown=999") {
		t.Errorf("the silent ones are not counted:\n%s", j)
	}
	before := strings.Count(j.String(), "\n")
	for i := range 10 * maxRefusals {
		r.note(fmt.Sprintf("10.1.%d.%d", i/256, i%256), "garbage")
	}
	if got := strings.Count(j.String(), "\n") - before; got > maxRefusals || len(r.seen) > maxRefusals+1 {
		t.Errorf("%d lines about many hosts, %d remembered", got, len(r.seen))
	}
	now = now.Add(refusalMemory)
	r.note("10.0.0.3", "garbage")
	if len(r.seen) != 1 {
		t.Errorf("%d hosts are remembered for ever", len(r.seen))
	}
}

func TestDaemonWithoutCertificateRefuses(t *testing.T) {
	t.Parallel()
	a := authority(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{memory: &memory{}, journal: &journal{}}
	n.target = Target{ID: 3, Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port}
	n.start(t, func(s *Server) error { return s.ServeTCP(l, func() *tls.Config { return nil }) })
	if _, err := client(t, n.target, identity(t, a, 1).ClientTLS()).Health(within(t)); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("the error is %v", err)
	}
	n.await(t, "this daemon has no certificate yet")
}

func TestReaderMayReadOnly(t *testing.T) {
	t.Parallel()
	a := authority(t)
	three := serve(t, a, 3)
	c := client(t, three.target, identity(t, a, 0).ClientTLS())
	if _, err := c.Status(within(t)); err != nil {
		t.Errorf("status: %v", err)
	}
	if _, err := c.Health(within(t)); err != nil {
		t.Errorf("health: %v", err)
	}
	if d, err := c.Drill(within(t), false); err != nil || len(d.Outcomes) != 1 {
		t.Errorf("drill: %+v, %v", d, err)
	}
	if o, err := c.Reach(within(t), Relay{}); err != nil || len(o) != 1 {
		t.Errorf("reach: %+v, %v", o, err)
	}
	_, exchange := c.Exchange(within(t), sampleReport(1))
	_, switched := c.Switchover(within(t), 2, "a reader")
	for name, err := range map[string]error{
		"exchange": exchange, "pause": c.Pause(within(t), Pause{Paused: true}), "wake": c.Wake(within(t)), "fault": c.Fault(within(t), 3, FaultCrash), "switchover": switched, "rejoin": c.Rejoin(within(t)),
		"step down": c.StepDown(within(t), 2), "step up": c.StepUp(within(t), 1, 1),
	} {
		if !errors.Is(err, ErrDenied) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(three.received)+len(three.paused)+len(three.faults)+len(three.asked)+three.rejoined+three.woken != 0 {
		t.Error("a reader changed something")
	}
}

// TestSilenceAndAbsence: a daemon that is not there, and one that does not answer.
func TestSilenceAndAbsence(t *testing.T) {
	t.Parallel()
	one := identity(t, authority(t), 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	to := Target{ID: 3, Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := client(t, to, one.ClientTLS()).Health(ctx); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("silent: %v", err)
	}
	l.Close()
	_, err = client(t, to, one.ClientTLS()).Health(within(t))
	if !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "node 3 at "+to.Address()+": repmgrd is not running there") {
		t.Errorf("absent: %v", err)
	}
}
