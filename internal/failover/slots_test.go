package failover

import (
	"slices"
	"testing"
	"time"

	"repmgr/internal/cluster"
)

// The readers of logical slots wait for the standbys that stream, have some patience with one
// that is gone, and wait for nobody who could not be promoted.
func TestSlotWatch(t *testing.T) {
	ids := func(ids ...cluster.NodeID) []cluster.NodeID { return ids }
	nodes := []cluster.Node{
		{ID: 1, Role: cluster.Primary, Active: true, Priority: 100},
		{ID: 2, Role: cluster.Standby, Active: true, Priority: 100},
		{ID: 3, Role: cluster.Standby, Active: true, Priority: 100},
		{ID: 4, Role: cluster.Standby, Active: true, Priority: 0},
		{ID: 5, Role: cluster.Standby, Active: false, Priority: 100},
		{ID: 6, Role: cluster.Witness, Active: true, Priority: 100},
	}
	w := SlotWatch{}
	for _, step := range []struct {
		at             time.Duration
		primary        bool
		listed, stream []cluster.NodeID
		want           []cluster.NodeID
	}{
		{0, false, ids(2, 3), ids(2), nil},
		{1 * time.Second, true, ids(3, 5), ids(2, 4, 6), ids(2, 3)}, // 3 was listed, and has its time
		{6 * time.Second, true, ids(2, 3), ids(2), ids(2, 3)},
		{7 * time.Second, true, ids(2, 3), ids(2), ids(2)},
		{8 * time.Second, true, ids(2), ids(2, 3), ids(2, 3)},
		{20 * time.Second, true, ids(2, 3), nil, nil},
		{21 * time.Second, false, nil, nil, nil},
		{22 * time.Second, true, ids(2), nil, ids(2)}, // the primary once more
	} {
		if got := w.Look(1, nodes, step.primary, step.listed, step.stream, t0.Add(step.at), 5*time.Second); !slices.Equal(got, step.want) {
			t.Errorf("after %s: %v, want %v", step.at, got, step.want)
		}
	}
}
