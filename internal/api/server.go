package api

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
	"repmgr/internal/registry"
)

// Bounds of one request.
const (
	maxBody         = 1 << 20
	maxHeader       = 16 << 10
	maxReasonLength = 1024
)

// limits are how long the parts of a connection's life may take.
type limits struct {
	handshake time.Duration // from the connection to the end of the TLS handshake
	header    time.Duration // of a request
	request   time.Duration // reading all of it; and again, answering it
	backend   time.Duration // a part of the latter
	idle      time.Duration // between requests
}

var usualLimits = limits{
	handshake: 5 * time.Second,
	header:    5 * time.Second,
	request:   10 * time.Second,
	backend:   8 * time.Second,
	idle:      2 * time.Minute,
}

// Options are what a Server needs.
type Options struct {
	Backend Backend
	Log     *slog.Logger // nil: slog.Default()
}

// Server answers peers over TLS and the command line over a Unix socket.
type Server struct {
	backend  Backend
	log      *slog.Logger
	limits   limits
	refusals *refusals
	streams  streams
	http     *http.Server
}

// caller is who made a request.
type caller struct {
	local bool           // by the Unix socket: the daemon's own user, or root
	node  cluster.NodeID // by certificate; zero: a reader
	since time.Time      // when the connection was taken
}

type callerKey struct{}

func callerOf(r *http.Request) caller {
	c, _ := r.Context().Value(callerKey{}).(caller)
	return c
}

// NewServer returns a server that listens nowhere yet.
func NewServer(o Options) *Server { return newServer(o, usualLimits) }

func newServer(o Options, bounds limits) *Server {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	s := &Server{backend: o.Backend, log: o.Log, limits: bounds, refusals: newRefusals(o.Log)}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	s.http = &http.Server{
		Handler:           s.routes(),
		Protocols:         protocols,
		ReadHeaderTimeout: bounds.header,
		ReadTimeout:       bounds.request,
		WriteTimeout:      bounds.request,
		IdleTimeout:       bounds.idle,
		MaxHeaderBytes:    maxHeader,
		ConnContext:       withCaller,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn),
	}
	return s
}

// withCaller notes who is at the other end of a new connection.
func withCaller(ctx context.Context, conn net.Conn) context.Context {
	c := caller{}
	switch conn := conn.(type) {
	case *tls.Conn:
		// The handshake is over, and verify has accepted this certificate.
		if certs := conn.ConnectionState().PeerCertificates; len(certs) > 0 {
			h, _ := holderOf(certs[0])
			c.node = h.Node
		}
		if taken, ok := conn.NetConn().(*countedConn); ok {
			c.since = taken.taken
		}
	case *countedConn:
		// The user at the other end of the socket has passed examineUser.
		_, c.local = conn.Conn.(*net.UnixConn)
	}
	return context.WithValue(ctx, callerKey{}, c)
}

// ServeTCP answers connections that pass a mutual TLS handshake, until the
// server is shut down, and then returns nil. The configuration is fetched for
// each handshake; as long as it is nil, everyone is refused. It closes l.
func (s *Server) ServeTCP(l net.Listener, config func() *tls.Config) error {
	return s.serve(s.admit(l, examineTLS(config)))
}

// ServeUnix answers the daemon's own user and root, until the server is shut
// down, and then returns nil. The listener is ListenUnix's; it closes it.
func (s *Server) ServeUnix(l net.Listener) error {
	return s.serve(s.admit(l, examineUser))
}

func (s *Server) serve(l net.Listener) error {
	err := s.http.Serve(l)
	l.Close()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("answer requests on %s: %w", l.Addr(), err)
}

// Shutdown stops listening, ends the streams, lets running requests end until
// ctx is done, and then closes what is left.
func (s *Server) Shutdown(ctx context.Context) error {
	s.streams.close()
	err := errors.Join(s.http.Shutdown(ctx), s.streams.wait(ctx))
	if err != nil {
		s.http.Close()
	}
	return err
}

// routes is who may do what: acting needs to be a node or on this machine as the
// daemon's user, reports need to be from the node itself, and reading is open to
// everyone who came in.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+PathExchange, s.exchange)
	mux.HandleFunc("POST "+PathStream, s.stream)
	mux.HandleFunc("POST "+PathPause, acting(s.pause))
	mux.HandleFunc("POST "+PathFenced, acting(s.fenced))
	mux.HandleFunc("POST "+PathWake, acting(s.wake))
	mux.HandleFunc("POST "+PathFollow, acting(s.follow))
	mux.HandleFunc("POST "+PathStart, acting(s.startable))
	mux.HandleFunc("GET "+PathMembers, acting(s.members))
	mux.HandleFunc("GET "+PathSight, acting(s.sight))
	mux.HandleFunc("GET "+PathSights, s.sights)
	mux.HandleFunc("GET "+PathStatus, s.status)
	mux.HandleFunc("GET "+PathDrill, s.drill)
	mux.HandleFunc("GET "+PathReach, s.reach)
	mux.HandleFunc("POST "+PathFault, acting(s.fault))
	mux.HandleFunc("POST "+PathSwitch, acting(s.switchover))
	mux.HandleFunc("POST "+PathRejoin, acting(s.rejoin))
	mux.HandleFunc("POST "+PathStepDown, acting(s.stepDown))
	mux.HandleFunc("POST "+PathStepUp, acting(s.stepUp))
	for path, check := range checks {
		mux.HandleFunc("GET "+path, s.health(check))
		mux.HandleFunc("OPTIONS "+path, s.health(check))
	}
	return s.bounded(mux)
}

// bounded limits the body of every request, and the time that the backend has.
func (s *Server) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), s.limits.backend)
		defer cancel()
		r = r.WithContext(ctx)
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		next.ServeHTTP(w, r)
	})
}

// acting lets only those through who may change something.
func acting(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if c := callerOf(r); !c.local && c.node == 0 {
			fail(w, http.StatusForbidden, fault.New(fault.Internal, "a reader's certificate may not change anything"))
			return
		}
		next(w, r)
	}
}

func (s *Server) exchange(w http.ResponseWriter, r *http.Request) {
	c := callerOf(r)
	from := c.node
	if from == 0 {
		fail(w, http.StatusForbidden, fault.New(fault.Internal, "a report needs the certificate of its node"))
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		failReading(w, err)
		return
	}
	report, err := decodeReport(body)
	if err != nil {
		s.refusals.note(hostPart(r), fmt.Sprintf("node %d: %v", from, err))
		fail(w, http.StatusBadRequest, err)
		return
	}
	if report.Node != from {
		err := fault.New(fault.Internal, "node %d sent a report of node %d", from, report.Node)
		s.refusals.note(hostPart(r), err.Error())
		fail(w, http.StatusForbidden, err)
		return
	}
	own, err := s.backend.Receive(r.Context(), Spoken{Report: report, Since: c.since, HangUp: func() { w.Header().Set("Connection", "close") }})
	switch {
	case errors.Is(err, ErrTwice):
		fail(w, http.StatusConflict, err)
		return
	case err != nil:
		fail(w, http.StatusServiceUnavailable, err)
		return
	}
	answer(w, http.StatusOK, own)
}

// decodeReport reads a report and checks what every report has. Unknown fields
// are let pass: a newer peer may send some.
func decodeReport(body []byte) (failover.Report, error) {
	var r failover.Report
	if err := json.Unmarshal(body, &r); err != nil {
		return failover.Report{}, fmt.Errorf("read the report: %w", err)
	}
	if r.Node <= 0 {
		return failover.Report{}, fmt.Errorf("read the report: %d is no node", r.Node)
	}
	return r, nil
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	v := s.backend.View()
	v.Version = ViewVersion
	// A connection string may hold a password; who reads the status needs neither.
	nodes := make([]cluster.Node, len(v.Nodes))
	for i, n := range v.Nodes {
		n.Conninfo = ""
		nodes[i] = n
	}
	v.Nodes = nodes
	answer(w, http.StatusOK, v)
}

// startable is for the machine of the server alone.
func (s *Server) startable(w http.ResponseWriter, r *http.Request) {
	if !callerOf(r).local {
		fail(w, http.StatusForbidden, fault.New(fault.Internal, "a server is started from its own machine"))
		return
	}
	a, err := s.backend.Startable(r.Context())
	if err != nil {
		fail(w, http.StatusServiceUnavailable, err)
		return
	}
	answer(w, http.StatusOK, a)
}

// rejoin is for the machine of the server alone.
func (s *Server) rejoin(w http.ResponseWriter, r *http.Request) {
	if !callerOf(r).local {
		fail(w, http.StatusForbidden, fault.New(fault.Internal, "a server is made a standby from its own machine"))
		return
	}
	if err := s.backend.Rejoin(r.Context()); err != nil {
		fail(w, http.StatusServiceUnavailable, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// members answers who is registered, for nodes alone: connection strings tell
// more than a reader has to know.
func (s *Server) members(w http.ResponseWriter, r *http.Request) {
	v := s.backend.View()
	m := Members{Nodes: make([]cluster.Node, len(v.Nodes)), Daemons: v.Daemons}
	for i, n := range v.Nodes {
		n.Conninfo = registry.WithoutSecrets(n.Conninfo)
		m.Nodes[i] = n
	}
	answer(w, http.StatusOK, m)
}

// sight is for nodes, as members is.
func (s *Server) sight(w http.ResponseWriter, r *http.Request) {
	seen, err := s.backend.Sight(r.Context())
	if err != nil {
		fail(w, http.StatusServiceUnavailable, err)
		return
	}
	answer(w, http.StatusOK, seen)
}

// sights is for this machine alone: the records are whole, so that who asks can connect
// to those that are missing. Whoever may use the socket may read the daemon's copy of them.
func (s *Server) sights(w http.ResponseWriter, r *http.Request) {
	if !callerOf(r).local {
		fail(w, http.StatusForbidden, fault.New(fault.Internal, "the records are for this machine"))
		return
	}
	seen, err := s.backend.Sights(r.Context())
	if err != nil {
		fail(w, http.StatusServiceUnavailable, err)
		return
	}
	answer(w, http.StatusOK, seen)
}

func (s *Server) pause(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		failReading(w, err)
		return
	}
	var p struct {
		Paused  *bool  `json:"paused"`
		Reason  string `json:"reason"`
		Seconds int    `json:"seconds"`
	}
	if err := json.Unmarshal(body, &p); err != nil || p.Paused == nil || len(p.Reason) > maxReasonLength || p.Seconds < 0 {
		fail(w, http.StatusBadRequest, fault.New(fault.RepmgrdPause, `expected {"paused": true or false, "reason": "...", "seconds": ...}, the latter two optional`))
		return
	}
	order := Pause{*p.Paused, p.Reason, p.Seconds}
	if err := s.backend.Pause(r.Context(), order); err != nil {
		fail(w, http.StatusServiceUnavailable, err)
		return
	}
	answer(w, http.StatusOK, order)
}

func (s *Server) fenced(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		failReading(w, err)
		return
	}
	var p fencedRequest
	if err := json.Unmarshal(body, &p); err != nil || p.Node <= 0 {
		fail(w, http.StatusBadRequest, fault.New(fault.BadConfig, `expected {"node_id": a node's number}`))
		return
	}
	if err := s.backend.Fenced(r.Context(), p.Node); err != nil {
		fail(w, http.StatusServiceUnavailable, err)
		return
	}
	answer(w, http.StatusOK, p)
}

// drill reads only: it is open to who may read the status.
func (s *Server) drill(w http.ResponseWriter, r *http.Request) {
	d, err := s.backend.Drill(r.Context(), r.URL.Query().Get("pairs") == "true")
	if err != nil {
		fail(w, http.StatusServiceUnavailable, err)
		return
	}
	answer(w, http.StatusOK, d)
}

func (s *Server) fault(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		failReading(w, err)
		return
	}
	var f faultRequest
	if err := json.Unmarshal(body, &f); err != nil || f.What != FaultCrash && f.What != FaultOver {
		fail(w, http.StatusBadRequest, fault.New(fault.BadConfig, `expected {"node_id": ..., "what": "crash" or "over"}`))
		return
	}
	if own := s.backend.Report().Node; f.Node != own {
		fail(w, http.StatusBadRequest, fault.New(fault.BadConfig, "the fault is meant for node %d, this is node %d", f.Node, own))
		return
	}
	if err := s.backend.Fault(r.Context(), f.What); err != nil {
		fail(w, http.StatusServiceUnavailable, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) follow(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		failReading(w, err)
		return
	}
	var f followRequest
	if err := json.Unmarshal(body, &f); err != nil || f.Upstream <= 0 {
		fail(w, http.StatusBadRequest, fault.New(fault.FollowFail, `expected {"upstream_node_id": a number}`))
		return
	}
	if err := s.backend.Follow(r.Context(), f.Upstream); err != nil {
		fail(w, http.StatusServiceUnavailable, err)
		return
	}
	answer(w, http.StatusAccepted, f)
}

func (s *Server) switchover(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		failReading(w, err)
		return
	}
	var c switchRequest
	if err := json.Unmarshal(body, &c); err != nil || c.To <= 0 || len(c.By) > maxReasonLength {
		fail(w, http.StatusBadRequest, fault.New(fault.BadConfig, `expected {"to_node_id": ..., "by": "..."}`))
		return
	}
	a, err := s.backend.Switchover(r.Context(), c.To, c.By)
	if err != nil {
		fail(w, http.StatusServiceUnavailable, err)
		return
	}
	answer(w, http.StatusOK, a)
}

func (s *Server) stepDown(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		failReading(w, err)
		return
	}
	var c stepDownRequest
	if err := json.Unmarshal(body, &c); err != nil || c.To <= 0 {
		fail(w, http.StatusBadRequest, fault.New(fault.BadConfig, `expected {"to_node_id": a number}`))
		return
	}
	if err := s.backend.StepDown(r.Context(), c.To); err != nil {
		fail(w, http.StatusServiceUnavailable, err)
		return
	}
	answer(w, http.StatusAccepted, c)
}

func (s *Server) stepUp(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		failReading(w, err)
		return
	}
	var c stepUpRequest
	if err := json.Unmarshal(body, &c); err != nil || c.From <= 0 || c.End == 0 {
		fail(w, http.StatusBadRequest, fault.New(fault.BadConfig, `expected {"from_node_id": a number, "end": a position}`))
		return
	}
	if err := s.backend.StepUp(r.Context(), c.From, c.End); err != nil {
		fail(w, http.StatusServiceUnavailable, err)
		return
	}
	answer(w, http.StatusAccepted, c)
}

func (s *Server) wake(w http.ResponseWriter, r *http.Request) {
	s.backend.Wake()
	w.WriteHeader(http.StatusNoContent)
}

func hostPart(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return "the local socket"
	}
	return host
}

// answer writes v as JSON. An error of writing means that the caller has gone.
func answer(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"error":"the answer could not be encoded"}`)
	}
	h := w.Header()
	h["Content-Type"] = []string{"application/json"}
	h["Cache-Control"] = []string{"no-store"}
	w.WriteHeader(status)
	w.Write(body)
}

// fail writes err, with what an operator can do about it if it says so.
func fail(w http.ResponseWriter, status int, err error) {
	answer(w, status, failureOf(err))
}

func failureOf(err error) failure {
	f := failure{Code: int(fault.CodeOf(err)), Msg: err.Error()}
	var e *fault.Error
	if errors.As(err, &e) {
		f.Detail, f.Hint = e.Detail, e.Hint
	}
	return f
}

func failReading(w http.ResponseWriter, err error) {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		fail(w, http.StatusRequestEntityTooLarge, fault.New(fault.Internal, "the body is larger than %d bytes", maxBody))
		return
	}
	fail(w, http.StatusBadRequest, fault.Wrap(err, fault.Internal, "read the body"))
}
