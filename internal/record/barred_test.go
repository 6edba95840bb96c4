package record

import "testing"

// TestBarred: a node whose server's settings forbid its promotion does not win with the
// most WAL, and the reason is told. Where what it has may have been acknowledged, nobody
// who lacks that wins (safety notes, B27 and B39).
func TestBarred(t *testing.T) {
	r := group(t, 3)
	taken(t, r, Describe{Node: 2, Priority: 100, Automatic: true, Barred: "recovery_target_time is set"})
	if m, _ := r.Member(2); m.Eligible() {
		t.Error("it is eligible")
	}
	taken(t, r, Release{Term: 1, Node: 1, Incarnation: "a", Why: "the server crashed"})
	taken(t, r, bid(1, 2, 1200))
	refused(t, r, Close{1}, "no eligible standby has bid in vacancy 1; node 2 has the most, and is not eligible: recovery_target_time is set")
	taken(t, r, bid(1, 3, 1100))
	v := r.Verdict()
	if v.Winner != 3 || v.Bids[0].Verdict != "not eligible: recovery_target_time is set" {
		t.Errorf("%+v", v)
	}
	r.Sync = Sync{Mode: SyncOn, Sets: []Set{"ANY 1 (2 3)"}}
	refused(t, r, Close{1}, "node 2 may not be promoted and has more")
	taken(t, r, Describe{Node: 2, Priority: 100, Automatic: true})
	if v := r.Verdict(); v.Winner != 2 {
		t.Errorf("it may be promoted again: %+v", v)
	}
}
