package api

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
)

// What may be the matter when a daemon is asked, for errors.Is.
var (
	// ErrNotRunning: the machine answers and nobody listens there.
	ErrNotRunning = errors.New("repmgrd is not running there")
	// ErrNoAnswer: nothing came back in time, or the machine can't be reached.
	ErrNoAnswer = errors.New("no answer")
	// ErrOtherCluster: one side does not accept the other's certificate.
	ErrOtherCluster = errors.New("refused: not of the same cluster")
	// ErrWrongNode: a node of this cluster answers, and it is not the one that was meant.
	ErrWrongNode = errors.New("refused: another node answers at that address")
	// ErrDenied: the daemon does not allow this caller to do that.
	ErrDenied = errors.New("not permitted")
	// ErrTwice: another daemon runs with this one's node id, and is listened to.
	ErrTwice = errors.New("another repmgrd speaks for this node")
	// ErrFailed: the daemon was reached and answered with an error.
	ErrFailed = errors.New("the daemon answered with an error")
)

// Error says who was asked, where, and what happened. errors.Is finds one of the
// Err... values in it, and errors.As the *fault.Error that the daemon answered
// with, if it did.
type Error struct {
	Asked   string // "node 3", or "the local repmgrd"
	Address string
	Kind    error // one of ErrNotRunning, ErrNoAnswer, ...
	Err     error // the cause; nil if Kind says it all
}

// Error is one sentence.
func (e *Error) Error() string {
	s := fmt.Sprintf("%s at %s: %v", e.Asked, e.Address, e.Kind)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// Bounds of one call.
const (
	dialTimeout  = 2 * time.Second
	callTimeout  = 5 * time.Second // where ctx has no nearer deadline
	maxAnswer    = 8 << 20
	keepIdle     = 30 * time.Second // less than the server's limit
	maxIdleConns = 2
)

// Target is where a node's daemon listens.
type Target struct {
	ID       cluster.NodeID
	Host     string
	Port     int
	Patience time.Duration // with which a connection is tried; zero: 2 s
}

// Address is host:port.
func (t Target) Address() string { return net.JoinHostPort(t.Host, strconv.Itoa(t.Port)) }

// Client asks one daemon. It keeps its connection between calls, makes a new one
// where that has ended, and is safe for use by several goroutines.
type Client struct {
	asked   string
	address string
	base    string
	http    *http.Client
}

// Dial returns a client of a node's daemon, with Identity.ClientTLS's
// configuration. It does not connect yet. Who answers must be that node.
func Dial(t Target, config *tls.Config) *Client {
	if config == nil {
		config = new(tls.Config)
	}
	config = config.Clone()
	verify := config.VerifyConnection
	config.VerifyConnection = func(s tls.ConnectionState) error {
		if verify == nil {
			return errors.New("dial a daemon: the configuration does not verify certificates")
		}
		if err := verify(s); err != nil {
			return err
		}
		if h, _ := holderOf(s.PeerCertificates[0]); h.Node != t.ID {
			return &refusal{what: fmt.Sprintf("its certificate says %s", h), kind: ErrWrongNode}
		}
		return nil
	}
	patience := cmp.Or(t.Patience, dialTimeout)
	dialer := &net.Dialer{Timeout: patience}
	return newClient(fmt.Sprintf("node %d", t.ID), t.Address(), "https://repmgrd", &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", t.Address())
		},
		TLSClientConfig:     config,
		TLSHandshakeTimeout: patience,
	})
}

// DialUnix returns a client of the daemon that runs on that state directory. It
// does not connect yet.
func DialUnix(stateDir string) *Client {
	path := filepath.Join(stateDir, socketName)
	dialer := &net.Dialer{Timeout: dialTimeout}
	return newClient("the local repmgrd", path, "http://repmgrd", &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			short, done, err := shortPath(path)
			if err != nil {
				return nil, err
			}
			defer done()
			return dialer.DialContext(ctx, "unix", short)
		},
	})
}

func newClient(asked, address, base string, t *http.Transport) *Client {
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
	t.DisableCompression = true
	t.MaxIdleConns = maxIdleConns
	t.MaxIdleConnsPerHost = maxIdleConns
	t.IdleConnTimeout = keepIdle
	t.MaxResponseHeaderBytes = maxHeader
	return &Client{asked: asked, address: address, base: base, http: &http.Client{Transport: t}}
}

// Close closes the kept connections. The client can still be used.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Exchange sends a report and returns the other daemon's.
func (c *Client) Exchange(ctx context.Context, r failover.Report) (failover.Report, error) {
	var own failover.Report
	err := c.call(ctx, http.MethodPost, PathExchange, r, &own)
	return own, err
}

// Status is what the daemon knows of its cluster.
func (c *Client) Status(ctx context.Context) (ClusterView, error) {
	var v ClusterView
	err := c.call(ctx, http.MethodGet, PathStatus, nil, &v)
	return v, err
}

// Members is who is registered, as the daemon knows it.
func (c *Client) Members(ctx context.Context) (Members, error) {
	var m Members
	err := c.call(ctx, http.MethodGet, PathMembers, nil, &m)
	return m, err
}

// Sight is what the daemon's own server shows now.
func (c *Client) Sight(ctx context.Context) (Sight, error) {
	var s Sight
	err := c.call(ctx, http.MethodGet, PathSight, nil, &s)
	return s, err
}

// Sights is what all servers show now whose daemons can ask them; the local daemon
// alone answers it.
func (c *Client) Sights(ctx context.Context) (Sights, error) {
	var s Sights
	err := c.call(ctx, http.MethodGet, PathSights, nil, &s)
	return s, err
}

// Health is the daemon's node in a few words; it is no error if that is not well.
func (c *Client) Health(ctx context.Context) (Health, error) {
	var h Health
	err := c.call(ctx, http.MethodGet, PathHealth, nil, &h)
	return h, err
}

// Pause stops automatic failover on the daemon's node, or resumes it.
func (c *Client) Pause(ctx context.Context, order Pause) error {
	return c.call(ctx, http.MethodPost, PathPause, order, nil)
}

// Fenced ends the lease without a time limit of a node that is fenced.
func (c *Client) Fenced(ctx context.Context, node cluster.NodeID) error {
	return c.call(ctx, http.MethodPost, PathFenced, fencedRequest{Node: node}, nil)
}

// Switchover asks the group of daemons for another primary; by says who asks. What comes
// of it stands in the cluster record (Status).
func (c *Client) Switchover(ctx context.Context, to cluster.NodeID, by string) (SwitchoverAnswer, error) {
	var a SwitchoverAnswer
	err := c.call(ctx, http.MethodPost, PathSwitch, switchRequest{To: to, By: by}, &a)
	return a, err
}

// StepDown has the daemon begin to stop its server in favour of another node's. How that
// goes stands in its view (Status).
func (c *Client) StepDown(ctx context.Context, to cluster.NodeID) error {
	return c.call(ctx, http.MethodPost, PathStepDown, stepDownRequest{To: to}, nil)
}

// StepUp has the daemon begin to promote its server in place of another, which was stopped
// and whose WAL ends there. An error with the code SwitchoverFail is its word that it does not.
func (c *Client) StepUp(ctx context.Context, from cluster.NodeID, end cluster.LSN) error {
	return c.call(ctx, http.MethodPost, PathStepUp, stepUpRequest{From: from, End: end}, nil)
}

// Rejoin has the daemon make its own server, which was stopped by hand, a standby.
func (c *Client) Rejoin(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, PathRejoin, nil, nil)
}

// Startable sees to it that the daemon's own server, which is about to be started,
// comes up as it may, and says how.
func (c *Client) Startable(ctx context.Context) (StartAnswer, error) {
	var a StartAnswer
	err := c.call(ctx, http.MethodPost, PathStart, nil, &a)
	return a, err
}

// Drill is what each single fault would lead to, with pairs also that of every two nodes.
func (c *Client) Drill(ctx context.Context, pairs bool) (Drill, error) {
	path := PathDrill
	if pairs {
		path += "?pairs=true"
	}
	var d Drill
	err := c.call(ctx, http.MethodGet, path, nil, &d)
	return d, err
}

// Fault makes that node's server fail, or ends that; the daemon that is asked must be the node's.
func (c *Client) Fault(ctx context.Context, node cluster.NodeID, what Fault) error {
	return c.call(ctx, http.MethodPost, PathFault, faultRequest{Node: node, What: what}, nil)
}

// Follow has the daemon begin to point its node's server at upstream. How that
// ends is seen at the upstream, and in the daemon's log.
func (c *Client) Follow(ctx context.Context, upstream cluster.NodeID) error {
	return c.call(ctx, http.MethodPost, PathFollow, followRequest{Upstream: upstream}, nil)
}

// Wake asks the daemon to look again now, after something was changed.
func (c *Client) Wake(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, PathWake, nil, nil)
}

// call makes one request and reads its answer into out, if that is not nil.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return c.failed(ErrFailed, fmt.Errorf("encode the question: %w", err))
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return c.failed(ErrFailed, err)
	}
	// Every request may be made twice to the same effect. Saying so lets the
	// transport repeat one at once whose kept connection has just ended.
	req.Header["Idempotency-Key"] = []string{}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.failed(kindOf(ctx, err), cause(err))
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return c.failed(kindOf(ctx, err), cause(err))
	case len(text) > maxAnswer:
		return c.failed(ErrFailed, fmt.Errorf("the answer is larger than %d bytes", maxAnswer))
	}
	return c.read(resp.StatusCode, path, text, out)
}

// read takes in an answer.
func (c *Client) read(status int, path string, text []byte, out any) error {
	if status >= 400 && !(path == PathHealth && status == http.StatusServiceUnavailable) {
		kind := ErrFailed
		switch status {
		case http.StatusForbidden:
			kind = ErrDenied
		case http.StatusConflict:
			kind = ErrTwice
		}
		var f failure
		if err := json.Unmarshal(text, &f); err != nil || f.Msg == "" {
			return c.failed(kind, fmt.Errorf("HTTP status %d", status))
		}
		return c.failed(kind, &fault.Error{Code: fault.Code(f.Code), Msg: f.Msg, Detail: f.Detail, Hint: f.Hint})
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return c.failed(ErrFailed, fmt.Errorf("read the answer: %w", err))
	}
	return nil
}

func (c *Client) failed(kind, err error) error {
	return &Error{Asked: c.asked, Address: c.address, Kind: kind, Err: err}
}

// kindOf tells the ways of not getting an answer apart.
func kindOf(ctx context.Context, err error) error {
	var op *net.OpError
	switch {
	case errors.Is(err, ErrWrongNode):
		return ErrWrongNode
	case errors.Is(err, ErrOtherCluster):
		return ErrOtherCluster
	case errors.As(err, &op) && op.Op == "remote error":
		// An alert: in TLS 1.3 the server judges our certificate after our side of
		// the handshake is over.
		return ErrOtherCluster
	case ctx.Err() != nil:
		return ErrNoAnswer
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, os.ErrNotExist):
		return ErrNotRunning
	case errors.Is(err, os.ErrPermission):
		return ErrDenied
	}
	return ErrNoAnswer
}

// cause strips the method and the made-up address that net/http puts in front.
func cause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
