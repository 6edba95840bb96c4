package api

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
)

// situation is a view with a node in that state.
func situation(declared, seen cluster.Role, server failover.ServerState) ClusterView {
	r := sampleReport(3)
	r.Type, r.Role, r.Server = declared, seen, server
	return ClusterView{Own: r}
}

// behind is a standby that has replayed that many bytes less than the primary had
// written when it was last heard of.
func behind(bytes cluster.LSN) ClusterView {
	v := situation(cluster.Standby, cluster.Standby, failover.ServerRunning)
	primary, witness, old := sampleReport(1), sampleReport(4), sampleReport(2)
	primary.Type, primary.Role = cluster.Primary, cluster.Primary
	primary.Position = failover.Position{Timeline: 2, LSN: v.Own.Replayed + bytes}
	witness.Type, witness.Role = cluster.Witness, cluster.Primary
	witness.Position = failover.Position{Timeline: 9, LSN: 1 << 60}
	old.Type, old.Role = cluster.Primary, cluster.Primary
	old.Position = failover.Position{Timeline: 1, LSN: 1 << 60}
	v.Peers = []Peer{{Node: 4, Report: &witness}, {Node: 2, Report: &old}, {Node: 1, Report: &primary}, {Node: 5}, {Node: 6, Report: &old}}
	return v
}

// TestHealthEndpoints asks each endpoint in each situation. "yes" and "no" stand
// in the order of the endpoints.
func TestHealthEndpoints(t *testing.T) {
	t.Parallel()
	stuck := situation(cluster.Primary, cluster.Primary, failover.ServerRunning)
	stuck.Turned = maxTurn + time.Second
	cut := situation(cluster.Standby, cluster.Standby, failover.ServerRunning)
	cut.Own.Receiving = false
	ahead := behind(0)
	ahead.Peers[2].Report.Position.LSN = 1
	early := situation(cluster.Primary, cluster.Primary, failover.ServerRunning)
	early.Unready = "0 of 2 synchronous standbys have what it has"
	type answers struct{ primary, replica, readOnly, readiness, health, liveness, lag10MB string }
	for _, c := range []struct {
		name string
		view ClusterView
		want answers
	}{
		{"primary", situation(cluster.Primary, cluster.Primary, failover.ServerRunning), answers{"yes", "no", "yes", "yes", "yes", "yes", "no"}},
		{"promoted a moment ago", situation(cluster.Standby, cluster.Primary, failover.ServerRunning), answers{"yes", "no", "yes", "yes", "yes", "yes", "no"}},
		{"primary that may not be sent clients yet", early, answers{"no", "no", "no", "no", "yes", "yes", "no"}},
		{"standby", situation(cluster.Standby, cluster.Standby, failover.ServerRunning), answers{"no", "yes", "yes", "yes", "yes", "yes", "yes"}},
		{"standby that does not receive", cut, answers{"no", "yes", "yes", "no", "yes", "yes", "yes"}},
		{"witness", situation(cluster.Witness, cluster.Primary, failover.ServerRunning), answers{"no", "no", "no", "no", "yes", "yes", "no"}},
		{"fenced primary", situation(cluster.Primary, cluster.Primary, failover.ServerFenced), answers{"no", "no", "no", "no", "no", "yes", "no"}},
		{"hung primary", situation(cluster.Primary, cluster.Primary, failover.ServerUnreachable), answers{"no", "no", "no", "no", "no", "yes", "no"}},
		{"stopped standby", situation(cluster.Standby, cluster.Standby, failover.ServerStopped), answers{"no", "no", "no", "no", "no", "yes", "no"}},
		{"not looked at yet", situation(cluster.Primary, cluster.RoleUnknown, failover.ServerUnknown), answers{"no", "no", "no", "no", "no", "yes", "no"}},
		{"role not known", situation(cluster.Primary, cluster.RoleUnknown, failover.ServerRunning), answers{"no", "no", "no", "no", "yes", "yes", "no"}},
		{"stuck daemon", stuck, answers{"no", "no", "no", "no", "no", "no", "no"}},
		{"standby 10 MB behind", behind(10 << 20), answers{"no", "yes", "yes", "yes", "yes", "yes", "yes"}},
		{"standby a byte more behind", behind(10<<20 + 1), answers{"no", "yes", "yes", "yes", "yes", "yes", "no"}},
		{"standby ahead of the report", ahead, answers{"no", "yes", "yes", "yes", "yes", "yes", "yes"}},
	} {
		h := NewServer(Options{Backend: &memory{own: c.view.Own, view: c.view}}).http.Handler
		for path, want := range map[string]string{
			"/": c.want.primary, "/primary": c.want.primary, "/read-write": c.want.primary, "/primary?lag=junk": c.want.primary,
			"/replica": c.want.replica, "/standby": c.want.replica, "/read-only": c.want.readOnly, "/readiness": c.want.readiness,
			"/health": c.want.health, "/liveness": c.want.liveness, PathHealth: c.want.liveness,
			"/replica?lag=10MB": c.want.lag10MB, "/standby?lag=10485760": c.want.lag10MB,
		} {
			for _, method := range []string{"GET", "HEAD", "OPTIONS"} {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
				got := map[int]string{200: "yes", 503: "no"}[w.Code]
				if got != want {
					t.Errorf("%s: %s %s is %d, want %s: %s", c.name, method, path, w.Code, want, w.Body)
				}
			}
		}
	}
}

func TestHealthSaysWhy(t *testing.T) {
	t.Parallel()
	v := behind(5 << 20)
	h := NewServer(Options{Backend: &memory{own: v.Own, view: v}}).http.Handler
	for path, want := range map[string]string{
		"/primary":         "the role is standby",
		"/replica?lag=1MB": "5242880 bytes behind the primary, and at most 1048576 are asked for",
		"/replica?lag=8MB": "",
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		var got Health
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if got.Why != want || got.OK != (want == "") || got.Node != 3 || got.Role != cluster.Standby {
			t.Errorf("%s: %s", path, w.Body)
		}
		if strings.Contains(path, "lag") && (got.Lag == nil || *got.Lag != 5<<20) {
			t.Errorf("%s: the lag is not told: %s", path, w.Body)
		}
	}
	early := situation(cluster.Primary, cluster.Primary, failover.ServerRunning)
	early.Unready = "0 of 2 synchronous standbys have what it has"
	h = NewServer(Options{Backend: &memory{own: early.Own, view: early}}).http.Handler
	for _, path := range []string{"/primary", "/read-only", "/readiness"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), early.Unready) {
			t.Errorf("%s: %d, %s", path, w.Code, w.Body)
		}
	}
	h = NewServer(Options{Backend: &memory{own: v.Own, view: v}}).http.Handler
	for _, junk := range []string{"junk", "-1", "1.5MB", "10XB", "MB", "99999999999TB", "%25"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/replica?lag="+junk, nil))
		if w.Code != http.StatusBadRequest {
			t.Errorf("lag=%s is answered with %d", junk, w.Code)
		}
	}
}

func TestParseBytes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]uint64{
		"0": 0, "1048576": 1 << 20, "1024kB": 1 << 20, "16MB": 16 << 20, "1GB": 1 << 30, "1 tb": 1 << 40, "7B": 7,
	} {
		if got, err := parseBytes(text); err != nil || got != want {
			t.Errorf("%s is %d, want %d (%v)", text, got, want, err)
		}
	}
}

// TestHealthOverBothSockets asks as a load balancer does, with a reader's
// certificate, and as an administrator does on the machine.
func TestHealthOverBothSockets(t *testing.T) {
	t.Parallel()
	a := authority(t)
	three := serve(t, a, 3)
	balancer := &http.Client{Transport: &http.Transport{TLSClientConfig: identity(t, a, 0).ClientTLS()}}
	t.Cleanup(balancer.CloseIdleConnections)
	for path, want := range map[string]int{"/replica": 200, "/primary": 503, "/nothing": 404} {
		resp, err := balancer.Get("https://" + three.target.Address() + path)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, resp.StatusCode, want)
		}
	}
	dir := stateDir(t)
	n := serveUnix(t, dir)
	n.view.Turned = time.Hour
	c := DialUnix(dir)
	t.Cleanup(c.Close)
	if h, err := c.Health(within(t)); err != nil || h.OK || !strings.Contains(h.Why, "1h0m0s") {
		t.Errorf("health of a stuck daemon: %+v, %v", h, err)
	}
}

func TestStatusHasNoConnectionStrings(t *testing.T) {
	t.Parallel()
	a := authority(t)
	three := serve(t, a, 3)
	three.view.Nodes = []cluster.Node{{ID: 1, Name: "alpha", Conninfo: "host=alpha password=secret"}}
	v, err := client(t, three.target, identity(t, a, 1).ClientTLS()).Status(within(t))
	if err != nil || len(v.Nodes) != 1 || v.Nodes[0].Name != "alpha" {
		t.Fatalf("%+v, %v", v.Nodes, err)
	}
	if v.Nodes[0].Conninfo != "" {
		t.Errorf("the status tells %q", v.Nodes[0].Conninfo)
	}
	if three.view.Nodes[0].Conninfo == "" {
		t.Error("the backend's own view was changed")
	}
}

// FuzzDecodeReport: whatever comes in is refused or understood, and what was
// understood says the same when it is sent on.
func FuzzDecodeReport(f *testing.F) {
	whole, err := json.Marshal(sampleReport(3))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	for _, s := range []string{``, `{}`, `null`, `[]`, `{"node_id":1e9}`, `{"node_id":1,"role":"king"}`, `{"node_id":1,"bid":{"lost":2,"position":{"timeline":1,"lsn":"0/1"}}}`,
		`{"node_id":1,"saw":[{"node":2,"ago_ns":-1}],"replayed":"FFFFFFFF/FFFFFFFF"}`, "{\"node_id\":1,\"why\":\"\xff\\u0000\"}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := decodeReport(text)
		if err != nil {
			return
		}
		first, err := json.Marshal(r)
		if err != nil {
			t.Fatalf("%+v can't be sent on: %v", r, err)
		}
		again, err := decodeReport(first)
		if err != nil || again.Node != r.Node {
			t.Fatalf("%s can't be read again: %v", first, err)
		}
		if second, _ := json.Marshal(again); string(second) != string(first) {
			t.Errorf("%s became %s", first, second)
		}
	})
}

// BenchmarkAtRest is the work of one process that exchanges with 4 peers twice a
// second each, and is asked as often, all of it in this process: so the figure is
// twice one daemon's.
func BenchmarkAtRest(b *testing.B) {
	const peers = 4
	a := authority(b)
	clients := make([]*Client, peers)
	for i := range clients {
		clients[i] = client(b, serve(b, a, cluster.NodeID(i+2)).target, identity(b, a, 1).ClientTLS())
		clients[i].Health(b.Context())
	}
	r := sampleReport(1)
	start, before := time.Now(), processTime(b)
	tick := time.NewTicker(250 * time.Millisecond) // and so each client's share counts for both directions
	defer tick.Stop()
	for b.Loop() {
		<-tick.C
		for _, c := range clients {
			if _, err := c.Exchange(b.Context(), r); err != nil {
				b.Fatal(err)
			}
		}
	}
	used, took := processTime(b)-before, time.Since(start)
	b.ReportMetric(100*float64(used)/float64(took), "%core")
	b.ReportMetric(resident(b), "MiB-resident")
}

func processTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// resident is what the process has in memory, in MiB.
func resident(b *testing.B) float64 {
	b.Helper()
	text, err := os.ReadFile(filepath.Join("/proc/self", "statm"))
	if err != nil {
		b.Fatal(err)
	}
	var size, pages int
	fmt.Sscan(string(text), &size, &pages)
	return float64(pages*os.Getpagesize()) / (1 << 20)
}
