package failover

import (
	"strings"
	"testing"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// opened is the holder in term 1 with a synchronous set, whose server takes writes from t0 on.
func opened(t *testing.T, mode record.SyncMode, set record.Set) *View {
	t.Helper()
	v := holderView()
	v.Policy.SyncMode, v.Policy.SyncTimeout = mode, 10*time.Second
	for i, m := range v.Group.Record.Members {
		v.Group.Record.Members[i].Name = "n" + string('0'+rune(m.Node))
	}
	change(t, v, record.SyncAdd{Term: 1, Node: 1, Mode: mode, Set: set})
	l := v.Local
	l.Role = cluster.Standby
	v.Observe(LocalSeen{Local: l}, t0.Add(-time.Second))
	v.Observe(LocalSeen{Local: v.primaryAt(1000)}, t0)
	return v
}

// primaryAt is a look at the own server as a primary at that position.
func (v *View) primaryAt(lsn cluster.LSN) Local {
	l := v.Local
	l.Role, l.State, l.Position.LSN = cluster.Primary, ServerRunning, lsn
	return l
}

// flushedUpTo brings a look at the standbys: up to where each has flushed.
func flushedUpTo(v *View, now time.Time, flushed map[string]cluster.LSN) {
	seen := SyncSeen{LSN: 5000}
	for name, lsn := range flushed {
		seen.Senders = append(seen.Senders, Sender{Name: name, State: "streaming", Flush: lsn})
	}
	v.Observe(seen, now)
}

// TestUnready: clients are sent to a primary when as many standbys as a commit waits for
// have what it had in the beginning, under the names of this term, and from then on.
func TestUnready(t *testing.T) {
	v := opened(t, record.SyncStrict, "ANY 1 (2 3)")
	steps := []struct {
		what string
		do   func()
		want string
	}{
		{"nobody streams", func() {}, "0 of 2 synchronous standbys have what this server had when it became the primary (0/3E8)"},
		{"one streams and lacks the end", func() { flushedUpTo(v, t0, map[string]cluster.LSN{"n2@1": 999}) }, "0 of 2"},
		{"one has it under an old name", func() { flushedUpTo(v, t0, map[string]cluster.LSN{"n2": 4000, "n3@0": 4000, "other@1": 4000}) }, "0 of 2"},
		{"hours have passed", func() { v.Tenure.Deadline = t0.Add(99 * time.Hour) }, "0 of 2"},
		{"one has it", func() { flushedUpTo(v, t0, map[string]cluster.LSN{"n2@1": 999, "n3@1": 1000}) }, ""},
		{"all have gone since", func() { flushedUpTo(v, t0, nil) }, ""},
		{"the server hung for a moment", func() {
			v.Observe(LocalSeen{Local: Local{At: t0, State: ServerUnreachable, Incarnation: "i1"}}, t0)
			v.Observe(LocalSeen{Local: v.primaryAt(2000)}, t0)
		}, ""},
		{"another session, armed", func() { l := v.primaryAt(2000); l.Session, l.Armed = 2, true; v.Observe(LocalSeen{Local: l}, t0) }, ""},
		{"another session, and it would come back as a primary", func() { l := v.primaryAt(3000); l.Session, l.Armed = 3, false; v.Observe(LocalSeen{Local: l}, t0) }, "(0/BB8)"},
		{"it was down", func() {
			flushedUpTo(v, t0, map[string]cluster.LSN{"n2@1": 3000})
			v.Observe(LocalSeen{Local: Local{At: t0, State: ServerStarting, Incarnation: "i1"}}, t0)
			v.Observe(LocalSeen{Local: v.primaryAt(3500)}, t0)
		}, "(0/DAC)"},
		{"the lease ran out", func() { flushedUpTo(v, t0, map[string]cluster.LSN{"n2@1": 3500}); v.Tenure.Deadline = t0 }, "could not be renewed"},
	}
	for _, s := range steps {
		s.do()
		now := t0
		if s.what == "hours have passed" {
			now = t0.Add(9 * time.Hour)
		}
		if got := Unready(v, now); got != s.want && (s.want == "" || !strings.Contains(got, s.want)) {
			t.Errorf("%s: %q, want %q", s.what, got, s.want)
		}
	}
}

// TestUnreadyIsBounded: with synchronous_mode=on no longer than a commit would wait; and
// where nothing is waited for, there is nothing to wait for.
func TestUnreadyIsBounded(t *testing.T) {
	v := opened(t, record.SyncOn, "ANY 1 (2)")
	v.Tenure.Deadline = t0.Add(time.Hour)
	if Unready(v, t0.Add(9*time.Second)) == "" || Unready(v, t0.Add(10*time.Second)) != "" {
		t.Error("it is not waited for as long as synchronous_standby_timeout")
	}
	if why := Unready(opened(t, record.SyncOff, ""), t0); why != "" {
		t.Errorf("asynchronous: %s", why)
	}
	v = opened(t, record.SyncOn, "ANY 1 (2)")
	v.Group.Record.Rule = record.Visibility
	if why := Unready(v, t0); why != "" {
		t.Errorf("by the visibility rule: %s", why)
	}
}

// TestUnreadyAfterAPromotion: what counts is the end that the first look after it shows.
func TestUnreadyAfterAPromotion(t *testing.T) {
	v := quorumView()
	change(t, v, claimed...)
	sealed(v)
	sure(v)
	for i, m := range v.Group.Record.Members {
		v.Group.Record.Members[i].Name = "n" + string('0'+rune(m.Node))
	}
	change(t, v, record.SyncAdd{Term: 2, Node: 2, Mode: record.SyncStrict, Set: "ANY 1 (1 3)"})
	a := PromoteTo{Term: 2, Timeline: 2}
	v.Observe(Ordered{Action: a}, t0)
	v.Observe(Done{Action: a}, t0)
	for _, mode := range []record.SyncMode{record.SyncOn, record.SyncStrict} {
		v.Group.Record.Sync.Mode = mode
		if why := Unready(v, t0); !strings.Contains(why, "0 of 2") {
			t.Errorf("%s, before the first look: %q", mode, why)
		}
	}
	flushedUpTo(v, t0, map[string]cluster.LSN{"n3@2": 150})
	if Unready(v, t0) == "" {
		t.Error("it is ready, and nobody knows what for")
	}
	l := v.primaryAt(200)
	l.At = t0.Add(time.Second)
	v.Observe(LocalSeen{Local: l}, t0)
	flushedUpTo(v, t0, map[string]cluster.LSN{"n3@2": 199})
	if Unready(v, t0) == "" {
		t.Error("it is ready, and the standby lacks the end of the recovery")
	}
	flushedUpTo(v, t0, map[string]cluster.LSN{"n3@2": 200})
	if why := Unready(v, t0); why != "" {
		t.Error(why)
	}
}
