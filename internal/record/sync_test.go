package record

import (
	"slices"
	"strings"
	"testing"
	"time"

	"repmgr/internal/cluster"
)

func setsAre(t *testing.T, r *Record, want ...Set) {
	t.Helper()
	if !slices.Equal(r.Sync.Sets, want) {
		t.Fatalf("%q may be in force, want %q", r.Sync.Sets, want)
	}
}

// Whatever was in force before the first set may be so until that is settled;
// a set that is added again is the newest again.
func TestSetsUntilTheyAreSettled(t *testing.T) {
	b, c, bc := SetOf(1, 2), SetOf(1, 3), SetOf(1, 2, 3)
	r := group(t, 3)
	taken(t, r, SyncAdd{Term: 1, Node: 1, Seq: 0, Mode: SyncOn, Set: bc})
	setsAre(t, r, "", bc)
	if r.Sync.Waits() {
		t.Error("nothing is promised before the set is settled")
	}
	taken(t, r, SyncDrop{Term: 1, Node: 1, Seq: 1})
	setsAre(t, r, bc)
	taken(t, r, SyncAdd{Term: 1, Node: 1, Seq: 2, Mode: SyncOn, Set: b})
	taken(t, r, SyncAdd{Term: 1, Node: 1, Seq: 3, Mode: SyncOn, Set: c})
	taken(t, r, SyncAdd{Term: 1, Node: 1, Seq: 4, Mode: SyncOn, Set: b})
	setsAre(t, r, bc, c, b)
	if !r.Sync.Waits() {
		t.Error("every set that may be in force is waited for")
	}
	taken(t, r, SyncDrop{Term: 1, Node: 1, Seq: 5})
	setsAre(t, r, b)
}

// A change that was decided before another is refused, however late it comes: a
// set that was added again must not be dropped by an older word.
func TestLateChangesOfTheSetAreRefused(t *testing.T) {
	b, bc := SetOf(1, 2), SetOf(1, 2, 3)
	r := group(t, 3)
	taken(t, r, SyncAdd{Term: 1, Node: 1, Mode: SyncOn, Set: bc})
	taken(t, r, SyncDrop{Term: 1, Node: 1, Seq: 1})
	taken(t, r, SyncAdd{Term: 1, Node: 1, Seq: 2, Mode: SyncOn, Set: b})
	late := SyncDrop{Term: 1, Node: 1, Seq: 3}
	taken(t, r, SyncAdd{Term: 1, Node: 1, Seq: 3, Mode: SyncOn, Set: bc})
	refused(t, r, late, "moved on")
	refused(t, r, SyncAdd{Term: 1, Node: 1, Seq: 3, Mode: SyncOn, Set: ""}, "moved on")
	setsAre(t, r, b, bc)
	refused(t, r, SyncDrop{Term: 1, Node: 2, Seq: 4}, "does not hold")
	refused(t, r, SyncDrop{Term: 2, Node: 1, Seq: 4}, "does not hold")
	taken(t, r, Expire{Term: 1})
	refused(t, r, SyncDrop{Term: 1, Node: 1, Seq: 4}, "does not hold")
}

func TestSetsThatAreRefused(t *testing.T) {
	r := group(t, 3)
	for _, c := range []SyncAdd{{Mode: SyncStrict}, {Mode: SyncOff, Set: SetOf(1, 2)}, {Mode: SyncOn, Set: "ANY 2 (3)"}, {Mode: SyncOn, Set: "ANY 1 (3 2)"},
		{Mode: SyncOn, Set: "FIRST 1 (2)"}, {Mode: SyncOn, Set: "ANY 1 (2) x"}} {
		c.Term, c.Node = 1, 1
		refused(t, r, c, "")
	}
}

// Where the empty set replaces another, that one stays: what it acknowledged may
// be on its members alone.
func TestTheLastSetStaysBesideTheEmptyOne(t *testing.T) {
	b := SetOf(1, 2)
	r := group(t, 3)
	taken(t, r, SyncAdd{Term: 1, Node: 1, Mode: SyncOn, Set: b})
	taken(t, r, SyncDrop{Term: 1, Node: 1, Seq: 1})
	taken(t, r, SyncAdd{Term: 1, Node: 1, Seq: 2, Mode: SyncOn, Set: ""})
	refused(t, r, SyncDrop{Term: 1, Node: 1, Seq: 3, LSN: 5}, "on its members alone")
	setsAre(t, r, b, "")
	taken(t, r, Release{Term: 1, Node: 1, Incarnation: "a"})
	taken(t, r, bid(1, 3, 1000))
	if v := r.Verdict(); v.Winner != 0 {
		t.Errorf("node %d wins without node 2: %s", v.Winner, v.Why)
	}
	taken(t, r, bid(1, 2, 1000))
	if v := r.Verdict(); v.Winner == 0 {
		t.Error(v.Why)
	}
}

// Switching it off forgets the sets, but not what they acknowledged.
func TestSwitchedOffTheFloorStays(t *testing.T) {
	r := group(t, 3)
	taken(t, r, SyncAdd{Term: 1, Node: 1, Mode: SyncStrict, Set: SetOf(1, 2, 3)})
	taken(t, r, SyncDrop{Term: 1, Node: 1, Seq: 1})
	taken(t, r, SyncAdd{Term: 1, Node: 1, Seq: 2, Mode: SyncOff})
	refused(t, r, SyncDrop{Term: 1, Node: 1, Seq: 3}, "not said")
	taken(t, r, SyncDrop{Term: 1, Node: 1, Seq: 3, LSN: 1050})
	setsAre(t, r, "")
	taken(t, r, Release{Term: 1, Node: 1, Incarnation: "a"})
	taken(t, r, bid(1, 3, 1049))
	if v := r.Verdict(); v.Winner != 0 || !strings.Contains(v.Bids[0].Verdict, "up to 0/41A in term 1") {
		t.Errorf("node %d wins: %+v", v.Winner, v.Bids)
	}
	taken(t, r, bid(1, 2, 1050))
	if v := r.Verdict(); v.Winner != 2 {
		t.Errorf("node %d wins: %s", v.Winner, v.Why)
	}
	// a later set has it all, and the floor is not needed any more
	taken(t, r, Close{1})
	taken(t, r, Claim{Term: 2, Node: 2, Incarnation: "b", TTL: time.Second})
	taken(t, r, SyncAdd{Term: 2, Node: 2, Seq: 4, Mode: SyncOn, Set: SetOf(1, 3)})
	taken(t, r, SyncDrop{Term: 2, Node: 2, Seq: 5})
	if r.Sync.Floor != (Floor{}) {
		t.Errorf("floor %+v", r.Sync.Floor)
	}
}

// Sets outlive a grant until the new holder has settled its own: a second
// failover in between needs what the first one needed.
func TestSetsOutliveAGrant(t *testing.T) {
	bc, ac := SetOf(1, 2, 3), SetOf(1, 1, 3)
	r := group(t, 3)
	taken(t, r, SyncAdd{Term: 1, Node: 1, Mode: SyncOn, Set: bc})
	taken(t, r, SyncDrop{Term: 1, Node: 1, Seq: 1})
	taken(t, r, Release{Term: 1, Node: 1, Incarnation: "a"})
	taken(t, r, bid(1, 2, 1010))
	taken(t, r, bid(1, 3, 1000))
	taken(t, r, Close{1})
	taken(t, r, Claim{Term: 2, Node: 2, Incarnation: "b", TTL: time.Second})
	taken(t, r, SyncAdd{Term: 2, Node: 2, Seq: 2, Mode: SyncOn, Set: ac})
	setsAre(t, r, bc, ac)
	taken(t, r, Expire{Term: 2})
	taken(t, r, bid(2, 3, 1000)) // lacks what node 2 alone may have acknowledged
	taken(t, r, bid(2, 1, 1005))
	if v := r.Verdict(); v.Winner != 0 {
		t.Errorf("node %d wins without node 2: %s", v.Winner, v.Why)
	}
	taken(t, r, Bid{Vacancy: 2, Node: 2, Incarnation: "b", Timeline: 1, LSN: 1010, Line: "1"})
	if v := r.Verdict(); v.Winner != cluster.NodeID(2) {
		t.Errorf("node %d wins: %s", v.Winner, v.Why)
	}
}

// What a former holder has beyond the members of the set was acknowledged to nobody:
// where they all bid, one that may not be promoted blocks nobody. Where its bid is
// what makes the others' suffice, the winner must have what it has.
func TestAFormerHolderThatMayNotWin(t *testing.T) {
	r := group(t, 3)
	taken(t, r, SyncAdd{Term: 1, Node: 1, Mode: SyncOn, Set: SetOf(1, 2, 3)})
	taken(t, r, SyncDrop{Term: 1, Node: 1, Seq: 1})
	taken(t, r, Describe{Node: 1, Automatic: true}) // priority 0
	taken(t, r, Release{Term: 1, Node: 1, Incarnation: "a"})
	taken(t, r, bid(1, 1, 1020))
	taken(t, r, bid(1, 2, 1000))
	if v := r.Verdict(); v.Winner != 0 {
		t.Errorf("node %d wins, and node 3 may have more: %s", v.Winner, v.Why)
	}
	taken(t, r, bid(1, 3, 1010))
	if v := r.Verdict(); v.Winner != 3 {
		t.Errorf("node %d wins: %s", v.Winner, v.Why)
	}
}

// While one set replaces another, commits may be acknowledged by members of both
// that are in neither together.
func TestSetsThatAreMixed(t *testing.T) {
	r := group(t, 4)
	r.Sync.Sets = []Set{SetOf(2, 2, 3), SetOf(2, 3, 4)}
	taken(t, r, Release{Term: 1, Node: 1, Incarnation: "a"})
	taken(t, r, bid(1, 3, 1000)) // one of each; nodes 2 and 4 may have more
	if v := r.Verdict(); v.Winner != 0 || !strings.Contains(v.Why, "ANY 2 (2 3 4)") {
		t.Errorf("node %d wins: %s", v.Winner, v.Why)
	}
	taken(t, r, bid(1, 2, 1010))
	if v := r.Verdict(); v.Winner != 2 {
		t.Errorf("node %d wins: %s", v.Winner, v.Why)
	}
}
