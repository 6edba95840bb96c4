package daemon

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/failover"
	"repmgr/internal/record"
)

// TestLeaseThatBecameTooShort: the holder tells of it when it has been so for a while, not
// again at once, and when it is over.
func TestLeaseThatBecameTooShort(t *testing.T) {
	var said bytes.Buffer
	d := &Daemon{cfg: &conf.Config{NodeID: 1}, log: slog.New(slog.NewTextHandler(&said, nil))}
	d.loop = newLoopState(d)
	v := d.loop.view
	rec := record.New("g", "", record.Member{Node: 1})
	for id := cluster.NodeID(1); id <= 3; id++ {
		rec.SetMember(record.Member{Node: id, RaftID: uint64(id), Voter: true}, time.Time{}, 1)
	}
	rec.Apply(record.Begin{Node: 1, Incarnation: "i", Line: "1", TTL: 5 * time.Second}, time.Time{}, 2)
	v.Group.Record, v.Local.Incarnation = rec, "i"
	now := bootTime()
	after := func(wait, sweep time.Duration, want int, last string) {
		t.Helper()
		now = now.Add(wait)
		v.Observe(failover.SweepTimed{Took: sweep}, now)
		d.watchLease(now)
		lines := strings.Split(strings.TrimSpace(said.String()), "\n")
		if got := strings.Count(said.String(), "\n"); got != want || !strings.Contains(lines[len(lines)-1], last) {
			t.Errorf("%d lines, want %d and the last to say %q:\n%s", got, want, last, &said)
		}
	}
	after(0, time.Millisecond, 0, "")
	after(time.Minute, time.Second, 0, "")
	after(shortFor-time.Second, time.Second, 0, "") // busy for a moment
	after(time.Second/2, time.Millisecond, 0, "")
	after(time.Minute, time.Second, 0, "")
	after(shortFor, time.Second, 1, "lease_ttl (5s) is too short: to find and end the processes of node 1's server takes 2.02s there")
	after(time.Minute, time.Second, 1, "")
	after(shortAgain, time.Second, 2, "is too short")
	after(time.Second, time.Millisecond, 3, "suffices again")
	v.Local.Incarnation = "another" // it holds the lease no more
	after(time.Hour, time.Second, 3, "")
	after(time.Hour, time.Second, 3, "")
}
