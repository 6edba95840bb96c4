package api

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
)

// maxTurn is how long the daemon's loop may take before it counts as stuck.
const maxTurn = 30 * time.Second

// check answers a health question about h, the node's own state: why it is to be
// answered with no, or "" for yes.
type check struct {
	judge func(v ClusterView, h Health) string
	lag   bool // a standby's lag may be asked for
}

// checks are the health endpoints, by Patroni's names and with its meanings: 200
// is yes and 503 is no. Only liveness is about the daemon; the others are about
// the server, and are no if the daemon's knowledge of it is too old to be told.
var checks = map[string]check{
	"/{$}":        {judge: isPrimary},
	"/primary":    {judge: isPrimary},
	"/read-write": {judge: isPrimary},
	"/replica":    {judge: isReplica, lag: true},
	"/standby":    {judge: isReplica, lag: true},
	"/read-only":  {judge: isReadable, lag: true},
	"/readiness":  {judge: isReady, lag: true},
	"/health":     {judge: isRunning},
	"/liveness":   {judge: isAlive},
	PathHealth:    {judge: isAlive},
}

func isRunning(v ClusterView, h Health) string {
	if why := isAlive(v, h); why != "" {
		return why
	}
	if h.Server != failover.ServerRunning {
		return fmt.Sprintf("the server is %s", h.Server)
	}
	return ""
}

// isPrimary is yes only for a running primary that clients may be sent to: not before
// its lease is sure, nor before as many standbys as commits wait for have what it had
// when it became the primary. A witness's server is no primary
// of the cluster, though it is not in recovery.
func isPrimary(v ClusterView, h Health) string {
	if why := isRunning(v, h); why != "" {
		return why
	}
	if h.Role != cluster.Primary {
		return fmt.Sprintf("the role is %s", h.Role)
	}
	return v.Unready
}

func isReplica(v ClusterView, h Health) string {
	if why := isRunning(v, h); why != "" {
		return why
	}
	if h.Role != cluster.Standby {
		return fmt.Sprintf("the role is %s", h.Role)
	}
	return ""
}

// isReadable is yes for a primary and for a standby.
func isReadable(v ClusterView, h Health) string {
	if h.Role == cluster.Primary {
		return isPrimary(v, h)
	}
	return isReplica(v, h)
}

// isReady is yes for a primary, and for a standby that receives.
func isReady(v ClusterView, h Health) string {
	why := isReadable(v, h)
	if why == "" && h.Role == cluster.Standby && !v.Own.Receiving {
		return "the standby does not receive from its upstream"
	}
	return why
}

// isAlive is no if the daemon's loop has come to a stand.
func isAlive(v ClusterView, h Health) string {
	if v.Turned > maxTurn {
		return fmt.Sprintf("the daemon has not looked round for %s", v.Turned.Round(time.Second))
	}
	return ""
}

// health answers a check. ?lag= bounds how far a standby may be behind, in bytes
// or with kB, MB, GB, TB (of 1024); a value that can't be read is answered with 400.
func (s *Server) health(c check) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		view := s.backend.View()
		h := healthOf(view)
		h.Why = c.judge(view, h)
		if text := r.URL.Query().Get("lag"); c.lag && text != "" {
			limit, err := parseBytes(text)
			if err != nil {
				fail(w, http.StatusBadRequest, err)
				return
			}
			h.Lag = lagOf(view)
			if h.Why == "" && h.Role == cluster.Standby && h.Lag != nil && *h.Lag > limit {
				h.Why = fmt.Sprintf("%d bytes behind the primary, and at most %d are asked for", *h.Lag, limit)
			}
		}
		h.OK = h.Why == ""
		status := http.StatusOK
		if !h.OK {
			status = http.StatusServiceUnavailable
		}
		answer(w, status, h)
	}
}

func healthOf(v ClusterView) Health {
	r := v.Own
	role := r.Role
	if r.Type == cluster.Witness {
		role = cluster.Witness
	}
	return Health{
		Node: r.Node, Name: r.Name, Version: r.Version, Role: role, Server: r.Server, Paused: r.Paused,
		Timeline: r.Position.Timeline, LSN: r.Position.LSN, Replayed: r.Replayed,
	}
}

// lagOf is how many bytes this standby has not replayed of what the primary, when
// last heard of, had written; nil if no primary was heard of.
func lagOf(v ClusterView) *uint64 {
	var primary *failover.Report
	for _, p := range v.Peers {
		r := p.Report
		if r == nil || r.Type == cluster.Witness || r.Role != cluster.Primary || r.Server != failover.ServerRunning {
			continue
		}
		if primary == nil || r.Position.Timeline > primary.Position.Timeline {
			primary = r
		}
	}
	if primary == nil {
		return nil
	}
	lag := uint64(0)
	if primary.Position.LSN > v.Own.Replayed {
		lag = uint64(primary.Position.LSN - v.Own.Replayed)
	}
	return &lag
}

var byteUnits = []struct {
	name  string
	bytes uint64
}{{"kb", 1 << 10}, {"mb", 1 << 20}, {"gb", 1 << 30}, {"tb", 1 << 40}, {"b", 1}, {"", 1}}

// parseBytes reads a number of bytes, as "1048576", "1MB" or "10 kB".
func parseBytes(s string) (uint64, error) {
	lower := strings.ToLower(strings.TrimSpace(s))
	for _, unit := range byteUnits {
		number, ok := strings.CutSuffix(lower, unit.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(number), 10, 64)
		if err != nil || n > math.MaxUint64/unit.bytes {
			break
		}
		return n * unit.bytes, nil
	}
	return 0, fmt.Errorf("lag=%.40q is no number of bytes: expected one like 1048576, 512kB or 10MB", s)
}
