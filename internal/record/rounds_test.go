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
			if r.Switchover.Open() && (!r.Lease.Taken() || r.Pause.On || r.Switchover.To == r.Lease.Holder) {
				t.Fatalf("seed %d: after %+v a switchover to node %d is open: %+v, paused: %v", seed, c, r.Switchover.To, r.Lease, r.Pause.On)
			}
			if before.Lease.State == Vacant && r.Lease.Taken() && !before.Lease.Expired && r.Term == before.Term {
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
	switch rng.IntN(13) {
	case 0:
		c := Release{Term: term, Node: node, Incarnation: inc, Seq: r.Lease.Seq - uint64(rng.IntN(2))}
		if rng.IntN(2) == 0 {
			c.To, c.End = r.Switchover.To, cluster.LSN(1000+rng.IntN(100))
		}
		return c
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
	case 9:
		return RequestSwitchover{Term: term, Number: r.Switchover.Number + uint64(rng.IntN(3)), To: cluster.NodeID(1 + rng.IntN(3)), By: "op"}
	case 10:
		return CallOff{Number: r.Switchover.Number - uint64(rng.IntN(2))}
	case 11:
		return Succeed{Term: term, Vacancy: r.Lease.Vacancy - uint64(rng.IntN(2)), Node: node, Incarnation: inc, Timeline: 1, LSN: cluster.LSN(1000 + rng.IntN(200)), Line: "1", TTL: time.Second}
	default:
		return Renew{Term: term, Node: node, Incarnation: inc, Seq: r.Lease.Seq + uint64(rng.IntN(2))}
	}
}

// A winner that was behind where the last promotion had been, and died before it
// could say that it was promoted, has the cluster's history all the same.
func TestAnUnrecordedPromotionFromFurtherBack(t *testing.T) {
	r := group(t, 3)
	taken(t, r, Release{Term: 1, Node: 1, Incarnation: "a"})
	taken(t, r, bid(1, 2, 1010))
	taken(t, r, Close{1})
	taken(t, r, Claim{Term: 2, Node: 2, Incarnation: "b", TTL: time.Second})
	taken(t, r, Promoted{Term: 2, Node: 2, Timeline: 2, Parent: 1, Fork: 1010})
	taken(t, r, Expire{Term: 2})
	taken(t, r, bid(2, 3, 1000))
	taken(t, r, Close{2})
	taken(t, r, Claim{Term: 3, Node: 3, Incarnation: "c", TTL: time.Second})
	taken(t, r, Expire{Term: 3})
	beyond := Line("1@0/3FC 3") // 1020: what no history of the cluster has
	if s := r.Judge(beyond, 1030, true); !s.Diverged {
		t.Errorf("%s, which left timeline 1 beyond its end, is judged %+v", beyond, s)
	}
	taken(t, r, Bid{Vacancy: 3, Node: 2, Incarnation: "b", Timeline: 2, LSN: 1050, Line: "1@0/3F2 2"})
	taken(t, r, Bid{Vacancy: 3, Node: 3, Incarnation: "c", Timeline: 3, LSN: 1020, Line: "1@0/3E8 3"})
	if v := r.Verdict(); v.Winner != 3 {
		t.Fatalf("node %d wins: %s", v.Winner, v.Why)
	}
	taken(t, r, Close{3})
	if r.Line() != "1@0/3E8 3" {
		t.Errorf("the history of the cluster is %s", r.Line())
	}
	if s := r.Judge("1@0/3F2 2", 1050, false); !s.Diverged || s.Fork != 1000 {
		t.Errorf("the former history is judged %+v", s)
	}
}
