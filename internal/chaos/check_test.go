package chaos

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// row is an acknowledged, synchronous row of writer 1.
func row(seq int64, node, timeline int, sent, answered time.Duration) Insert {
	return Insert{RowID: RowID{1, seq}, Node: node, Timeline: timeline, Synced: true, Outcome: Acknowledged, Sent: sent, Answered: answered}
}

func ids(rows []Insert) (seqs []int64) {
	for _, r := range rows {
		seqs = append(seqs, r.Seq)
	}
	return seqs
}

const ms = time.Millisecond

func TestALostRowIsFound(t *testing.T) {
	doubtful, refused := row(3, 1, 1, 30*ms, 40*ms), row(4, 1, 1, 40*ms, 50*ms)
	doubtful.Outcome, refused.Outcome = Unknown, Refused
	inserts := []Insert{row(1, 1, 1, 0, 10*ms), row(2, 1, 1, 20*ms, 30*ms), doubtful, refused}
	present := map[RowID]bool{{1, 1}: true}
	if got := ids(Lost(inserts, present)); len(got) != 1 || got[0] != 2 {
		t.Errorf("lost rows: got %v, want row 2, the only one that was acknowledged and is gone", got)
	}
	if got := Ghosts(inserts, present); len(got) != 0 {
		t.Errorf("ghosts: got %v, want none", got)
	}
	present[RowID{1, 4}] = true
	if got := ids(Ghosts(inserts, present)); len(got) != 1 || got[0] != 4 {
		t.Errorf("ghosts: got %v, want row 4, which was refused and is there", got)
	}
}

func TestWhatAnEmptySetPromises(t *testing.T) {
	plain := row(2, 1, 1, time.Second, time.Second)
	plain.Synced = false
	near, far, elsewhere := row(3, 1, 1, 2*time.Second, 2*time.Second), row(4, 1, 1, 9*time.Second, 9*time.Second), row(5, 2, 2, time.Second, time.Second)
	lost := []Insert{plain, near, far, elsewhere}
	got := ids(Promised(lost, lost))
	if len(got) != 2 || got[0] != 4 || got[1] != 5 {
		t.Errorf("promised rows: got %v, want 4 and 5: the others were acknowledged without a synchronous set, or close to that on the same server", got)
	}
}

func TestTwoWritersAreFound(t *testing.T) {
	// Node 1 acknowledges once more after node 2 began.
	inserts := []Insert{row(1, 1, 1, 0, 10*ms), row(2, 2, 2, 100*ms, 110*ms), row(3, 1, 1, 200*ms, 210*ms), row(4, 2, 2, 300*ms, 310*ms)}
	overlaps := Overlaps(Epochs(inserts))
	if len(overlaps) != 1 || overlaps[0].From != 110*ms || overlaps[0].To != 200*ms {
		t.Errorf("two servers that acknowledge: got %v, want one overlap from 110 to 200 ms", overlaps)
	}
	// An answer that comes late was given at any time since it was asked for.
	late := []Insert{row(1, 1, 1, 0, 10*ms), row(2, 1, 1, 90*ms, 900*ms), row(3, 2, 2, 500*ms, 510*ms), row(4, 2, 2, 600*ms, 610*ms)}
	if got := Overlaps(Epochs(late)); len(got) != 0 {
		t.Errorf("an acknowledgement on its way for long: got %v, want no overlap", got)
	}
	// A server that begins anew is no second one.
	anew := []Span{{1, 1, 0, 10 * ms}, {1, 2, 5 * ms, 20 * ms}}
	if got := Overlaps(anew); len(got) != 0 {
		t.Errorf("one node on two timelines: got %v, want no overlap", got)
	}
}

func TestTwoWritersAreCountedOnce(t *testing.T) {
	spans := []Span{{1, 1, 0, 100 * ms}, {2, 2, 20 * ms, 60 * ms}, {3, 3, 40 * ms, 80 * ms}, {2, 2, 90 * ms, 95 * ms}}
	if got := TwoWriters(Overlaps(spans)); got != 65*ms {
		t.Errorf("time with two writers: got %s, want 65ms (20 to 80, 90 to 95)", got)
	}
}

func TestLongestGaps(t *testing.T) {
	inserts := []Insert{row(1, 1, 1, 0, 100*ms), row(2, 2, 2, 450*ms, 500*ms), row(3, 2, 2, 550*ms, 600*ms)}
	all := []time.Duration{50 * ms}
	if got := LongestGaps(inserts, all, 650*ms); got[0] != (Gap{400 * ms, true}) {
		t.Errorf("gap: got %v, want 400ms, after which another node acknowledged", got)
	}
	if got := LongestGaps(inserts, []time.Duration{550 * ms}, 2*time.Second); got[0] != (Gap{1400 * ms, false}) {
		t.Errorf("gap that had not ended: got %v, want 1.4s", got)
	}
	if got := LongestGaps(nil, []time.Duration{0}, time.Second); got[0].Lasted != time.Second {
		t.Errorf("no acknowledgement at all: got %v, want 1s", got)
	}
	// The gap that goes on when the second group begins is the first one's.
	if got := LongestGaps(inserts, []time.Duration{50 * ms, 300 * ms, 550 * ms}, 800*ms); got[0].Lasted != 400*ms || got[1].Lasted != 100*ms || got[2].Lasted != 200*ms {
		t.Errorf("gaps of three groups: got %v, want 400, 100 and 200 ms", got)
	}
}

// The operations of a register, each 10 ms long from a time on.
func read(at time.Duration, value int64) Access {
	return Access{Client: 1, Old: value, Outcome: Acknowledged, Sent: at * ms, Answer: (at + 10) * ms}
}

func set(at time.Duration, old, value int64) Access {
	return Access{Client: 2, Set: true, Old: old, New: value, Outcome: Acknowledged, Sent: at * ms, Answer: (at + 10) * ms}
}

func unsure(a Access) Access {
	a.Outcome = Unknown
	return a
}

func TestLinearizable(t *testing.T) {
	for name, c := range map[string]struct {
		history []Access
		want    bool
	}{
		"one after the other":                    {[]Access{read(0, 0), set(20, 0, 1), read(40, 1), set(60, 1, 2), read(80, 2)}, true},
		"at the same time, in either order":      {[]Access{set(0, 0, 1), read(5, 0), read(5, 1)}, true},
		"an acknowledged set is gone":            {[]Access{set(0, 0, 1), read(20, 1), read(40, 0)}, false},
		"an acknowledged set is never seen":      {[]Access{set(0, 0, 1), read(20, 0)}, false},
		"two sets of one number":                 {[]Access{set(0, 0, 1), set(20, 0, 2)}, false},
		"a read goes back":                       {[]Access{set(0, 0, 1), read(2, 1), read(20, 0)}, false},
		"an unknown set that happened":           {[]Access{unsure(set(0, 0, 1)), read(100, 1)}, true},
		"an unknown set that happened late":      {[]Access{unsure(set(0, 0, 1)), read(50, 0), read(100, 1)}, true},
		"an unknown set that never happened":     {[]Access{unsure(set(0, 0, 1)), read(50, 0), set(100, 0, 2), read(150, 2)}, true},
		"an unknown set that came and went":      {[]Access{unsure(set(0, 0, 1)), read(50, 1), read(100, 0)}, false},
		"an unknown set below another that held": {[]Access{unsure(set(0, 0, 1)), set(50, 1, 2), read(100, 2)}, true},
		"a chain of unknown sets, the end seen":  {[]Access{unsure(set(0, 0, 1)), unsure(set(20, 1, 2)), read(100, 2)}, true},
		"a chain of unknown sets that cannot be": {[]Access{unsure(set(0, 0, 1)), unsure(set(20, 1, 2)), read(100, 2), read(150, 1)}, false},
		"a number from nowhere":                  {[]Access{read(0, 7)}, false},
		"a set seen before it was sent":          {[]Access{read(0, 1), unsure(set(50, 0, 1))}, false},
	} {
		err := Linearizable(c.history, nil)
		if got := err == nil; got != c.want {
			t.Errorf("%s: got linearizable %v (%v), want %v", name, got, err, c.want)
		}
	}
}

func TestAWrongHistoryIsDrawnAndNamed(t *testing.T) {
	var drawing strings.Builder
	err := Linearizable([]Access{set(0, 0, 1), read(20, 1), read(40, 0)}, &drawing)
	if err == nil || !strings.Contains(err.Error(), "read 0") {
		t.Errorf("the operation with no place: got %v, want it to name the read of 0", err)
	}
	if !strings.Contains(drawing.String(), "<html") {
		t.Error("the drawing is no page")
	}
}

func TestASeedDrawsTheSameFaults(t *testing.T) {
	draw := func(seed uint64, kinds ...string) string {
		s, err := newSchedule(seed, kinds)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for range 50 {
			for _, g := range s.next(mostGroups * mostFaults) {
				for _, f := range g.Faults {
					fmt.Fprintln(&b, g.Pause, f)
				}
			}
		}
		return b.String()
	}
	if first, again := draw(1), draw(1); first != again {
		t.Error("the same seed drew different faults")
	}
	if draw(1) == draw(2) {
		t.Error("different seeds drew the same faults")
	}
	all := ""
	for seed := range uint64(20) {
		all += draw(seed)
	}
	for _, name := range Kinds() {
		if !strings.Contains(all, " "+name+",") {
			t.Errorf("1000 rounds have no %s", name)
		}
	}
	if strings.Contains(draw(1, "cut", "power"), "kill") {
		t.Error("a kind that was not asked for was drawn")
	}
	if _, err := newSchedule(1, []string{"cot"}); err == nil {
		t.Error("a kind that there is not: got no error")
	}
}

func TestHowManyFaultsAreWantedChangesNoFault(t *testing.T) {
	for seed := range uint64(50) {
		all, err := newSchedule(seed, nil)
		if err != nil {
			t.Fatal(err)
		}
		few, _ := newSchedule(seed, nil)
		whole, part := all.next(mostGroups*mostFaults), few.next(2)
		var first, faults []Fault
		for _, g := range whole {
			first = append(first, g.Faults...)
		}
		for _, g := range part {
			faults = append(faults, g.Faults...)
		}
		if !slices.Equal(faults, first[:min(2, len(first))]) {
			t.Errorf("seed %d: the first two of its faults: got %v, want the start of %v", seed, faults, first)
		}
		if got, want := few.next(99), all.next(99); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("seed %d: the next round after one that was cut short: got %v, want %v", seed, got, want)
		}
	}
}
