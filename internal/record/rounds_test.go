package record

import (
	"math/rand/v2"
	"testing"
	"time"

	"repmgr/internal/cluster"
)

// TestNoScheduleGivesTwoHolders throws changes in any order, duplicated, late
// and from the wrong node at a record, and holds it to what must never happen:
// a term with two holders, a timeline granted twice, a term that goes back, a
// holder that nobody granted anything.
func TestNoScheduleGivesTwoHolders(t *testing.T) {
	for seed := range uint64(2000) {
		rng := rand.New(rand.NewPCG(seed, 7))
		r := group(t, 3)
		holder := map[uint64]cluster.NodeID{1: 1}
		timeline := map[cluster.Timeline]uint64{1: 1}
		var old []Change
		for range 200 {
			before := r.Clone()
			c := someChange(rng, r)
			if len(old) > 0 && rng.IntN(4) == 0 {
				c = old[rng.IntN(len(old))]
			}
			old = append(old, c)
			why := r.Apply(c, at, 0)
			if r.Term < before.Term || r.TopTimeline < before.TopTimeline || r.Lease.Vacancy < before.Lease.Vacancy {
				t.Fatalf("seed %d: %+v took the record back", seed, c)
			}
			if r.Rule != Quorum || why != "" {
				continue
			}
			if r.Lease.Taken() {
				if was, ok := holder[r.Term]; ok && was != r.Lease.Holder {
					t.Fatalf("seed %d: term %d has holders %d and %d", seed, r.Term, was, r.Lease.Holder)
				}
				holder[r.Term] = r.Lease.Holder
			}
			if term, ok := timeline[r.Lease.Timeline]; ok && term != r.Term && r.Lease.State != Vacant {
				t.Fatalf("seed %d: timeline %d is granted in terms %d and %d", seed, r.Lease.Timeline, term, r.Term)
			} else if r.Lease.State != Vacant {
				timeline[r.Lease.Timeline] = r.Term
			}
			if before.Lease.State == Vacant && r.Lease.Taken() && !before.Lease.Expired {
				t.Fatalf("seed %d: %+v gave a released lease back", seed, c)
			}
		}
	}
}

// someChange is a change that fits the record more often than not.
func someChange(rng *rand.Rand, r *Record) Change {
	node := cluster.NodeID(1 + rng.IntN(3))
	if rng.IntN(2) == 0 {
		node = r.Lease.Holder
	}
	inc := string(rune('a' + int(node) - 1))
	term := r.Term - uint64(rng.IntN(2))
	switch rng.IntN(10) {
	case 0:
		return Release{Term: term, Node: node, Incarnation: inc, Seq: r.Lease.Seq - uint64(rng.IntN(2))}
	case 1:
		return Expire{Term: term, Seq: r.Lease.Seq - uint64(rng.IntN(2))}
	case 2, 3:
		return Bid{Vacancy: r.Lease.Vacancy - uint64(rng.IntN(2)), Node: cluster.NodeID(1 + rng.IntN(3)), Incarnation: inc,
			Timeline: 1, LSN: cluster.LSN(1000 + rng.IntN(100)), Line: "1"}
	case 4:
		return Close{r.Lease.Vacancy - uint64(rng.IntN(2))}
	case 5:
		return Claim{Term: term, Node: node, Incarnation: inc, TTL: time.Second}
	case 6:
		return Promoted{Term: term, Node: node, Timeline: r.Lease.Timeline, Parent: 1, Fork: 900}
	case 7:
		return SetPause{On: rng.IntN(4) == 0, By: "op"}
	case 8:
		return Regrant{Term: term, Node: node, Incarnation: inc}
	default:
		return Renew{Term: term, Node: node, Incarnation: inc, Seq: r.Lease.Seq + uint64(rng.IntN(2))}
	}
}
