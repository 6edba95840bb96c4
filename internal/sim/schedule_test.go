package sim

import (
	"slices"
	"testing"
	"time"
)

// TestReplay: a seed gives the same run again, to the last line, and so does the list of the faults that struck.
func TestReplay(t *testing.T) {
	for seed := uint64(1); seed <= 5; seed++ {
		r := run(t, Options{Seed: seed, Trace: true})
		again := run(t, Options{Seed: seed, Trace: true})
		named := run(t, Options{Seed: seed, Trace: true, Nodes: r.Nodes, Chaos: r.Chaos, Only: ids(r.Faults)})
		if !slices.Equal(r.Timeline, again.Timeline) {
			t.Errorf("seed %d runs in another way the second time", seed)
		}
		if one, err := r.Fingerprint(); err != nil {
			t.Fatal(err)
		} else if two, _ := again.Fingerprint(); one != two {
			t.Errorf("seed %d has two fingerprints: %x, %x", seed, one, two)
		}
		if !slices.Equal(r.Timeline, named.Timeline) {
			t.Errorf("seed %d runs in another way when its faults are named", seed)
		}
	}
}

// TestThinned: what strikes is the same, whether something else is left out or not.
func TestThinned(t *testing.T) {
	for seed := uint64(1); seed <= 3; seed++ {
		r := run(t, Options{Seed: seed})
		for _, f := range planned(r.Faults) {
			thin := run(t, Options{Seed: seed, Nodes: r.Nodes, Chaos: r.Chaos, Only: []string{f.ID}}).Faults
			if len(thin) != 1 || thin[0].Kind != f.Kind || thin[0].At != f.At {
				t.Fatalf("seed %d: alone, fault %s is %v, not %v", seed, f.ID, thin, f)
			}
		}
		short := run(t, Options{Seed: seed, Nodes: r.Nodes, Chaos: r.Chaos / 2}).Faults
		if all := planned(r.Faults); !slices.EqualFunc(planned(short), all[:len(planned(short))], alike) {
			t.Errorf("seed %d: in half the time other faults strike: %v, not %v", seed, short, all)
		}
	}
}

// planned are those that no event brought with it.
func planned(faults []Fault) (out []Fault) {
	for _, f := range faults {
		if f.ID[0] >= '0' && f.ID[0] <= '9' {
			out = append(out, f)
		}
	}
	return out
}

func alike(a, b Fault) bool {
	return a.ID == b.ID && a.Kind == b.Kind && a.At.Round(time.Millisecond) == b.At.Round(time.Millisecond)
}
