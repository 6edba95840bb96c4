package record

import (
	"strings"
	"testing"

	"repmgr/internal/cluster"
)

// Two versions in one group: whatever the leader takes is read by all, and what is
// not understood by one of them is not taken until it has announced that it is.
func TestLevels(t *testing.T) {
	changes := []Change{Renew{Term: 1}, SetPause{On: true}, Describe{Node: 2, Name: "n2"}, SyncAdd{Set: SetOf(1, 2)}, Fenced{Term: 1, Node: 1}, Release{Term: 1, Node: 1}}
	fenced := changes[4]
	for old := range cluster.NodeID(4) { // zero: none is old
		r := group(t, 3)
		levels := map[cluster.NodeID]int{}
		for i, m := range r.Members {
			m.Level, levels[m.Node] = Level, Level
			if m.Node == old {
				m.Level, levels[m.Node] = 0, 1 // it has announced nothing, and knows the first forms alone
			}
			r.Members[i] = m
		}
		for _, c := range changes {
			text, err := EncodeEntry(c, 1, 1, at)
			if err != nil {
				t.Fatal(err)
			}
			why := r.Unknown(c)
			for _, m := range r.Members {
				if _, _, err := decodeEntry(text, levels[m.Node]); err != nil && why == "" {
					t.Errorf("node %d is old: %s was taken, and node %d cannot read it: %v", old, KindOf(c), m.Node, err)
				}
			}
			if (why != "") != (old != 0 && c == fenced) {
				t.Errorf("node %d is old: %s: %q", old, KindOf(c), why)
			}
		}
		if old == 0 {
			continue
		}
		if why := r.Unknown(fenced); !strings.Contains(why, "node "+string('0'+rune(old))) {
			t.Errorf("%q does not say whom to update", why)
		}
		taken(t, r, Describe{Node: old, Level: Level})
		if why := r.Unknown(fenced); why != "" {
			t.Errorf("node %d was updated: %s", old, why)
		}
		taken(t, r, Describe{Node: old}) // and put back
		if r.Unknown(fenced) == "" {
			t.Errorf("node %d was put back to an older version, and what it does not know is taken", old)
		}
	}
	if levelOf(Describe{Node: 2, Barred: "x"}) < 2 {
		t.Error("what bars a member is told to an older version")
	}
	text, err := EncodeEntry(Describe{Node: 2, Level: 2}, 1, 1, at)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := decodeEntry(text, 1); err == nil {
		t.Error("a field that came later is passed over by an older version")
	}
}

func TestFenced(t *testing.T) {
	r := group(t, 3)
	refused(t, r, Fenced{Term: 1, Node: 1}, "has a time limit")
	taken(t, r, SetPause{On: true, Auto: true, By: "repmgrd of node 1"})
	taken(t, r, Renew{Term: 1, Node: 1, Incarnation: "a", Seq: 1})
	refused(t, r, Fenced{Term: 1, Node: 2, Seq: 1}, "does not hold")
	refused(t, r, Fenced{Term: 2, Node: 1, Seq: 1}, "does not hold")
	refused(t, r, Fenced{Term: 1, Node: 1, Seq: 0}, "has renewed its lease meanwhile")
	taken(t, r, SetPause{On: true, Reason: "works"})
	refused(t, r, Fenced{Term: 1, Node: 1, Seq: 1}, "lift that pause first")
	taken(t, r, SetPause{})
	if r.Lease.State != Indefinite {
		t.Fatalf("%+v", r.Lease)
	}
	taken(t, r, SetPause{On: true, Auto: true, By: "repmgrd of node 1"})
	taken(t, r, Fenced{Term: 1, Node: 1, Seq: 1, By: "an operator"})
	if r.Lease.State != Vacant || r.Lease.Expired || r.Pause.On {
		t.Fatalf("%+v, %+v", r.Lease, r.Pause)
	}
	refused(t, r, Renew{Term: 1, Node: 1, Incarnation: "a", Seq: 2}, "the lease is vacant") // it may not come back
	taken(t, r, bid(1, 2, 1000))
	taken(t, r, Close{1})
	if r.Lease.Holder != 2 {
		t.Fatalf("%+v", r.Lease)
	}
}
