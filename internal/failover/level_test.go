package failover

import (
	"testing"
	"time"

	"repmgr/internal/record"
)

// The leader has it recorded what each member's program knows: when all are heard of
// and know that word, and not before; and it takes it back where one has become older.
func TestAnnouncedLevels(t *testing.T) {
	v := holderView()
	v.Group.Leads = true
	say := func(id, level int) {
		for node, p := range v.Peers {
			if int(node) == id {
				p.Report.Level = level
				v.Peers[node] = p
			}
		}
	}
	describe := func(level int) {
		t.Helper()
		for range 4 {
			d, differs := newFacts(v, t0).description()
			if !differs {
				break
			}
			change(t, v, d)
		}
		for _, m := range v.Group.Record.Members {
			if m.Level != level {
				t.Errorf("node %d has level %d, want %d", m.Node, m.Level, level)
			}
		}
	}
	describe(0)
	say(2, record.Level)
	describe(0) // node 3 would not understand it
	say(3, record.Level)
	describe(record.Level)
	p := v.Peers[3]
	p.At = t0.Add(-time.Hour) // it is down
	v.Peers[3] = p
	describe(record.Level)
	p.At, p.Report.Level = t0, 0 // and back, as it was before
	v.Peers[3] = p
	describe(0)
}
