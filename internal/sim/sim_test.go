package sim

import (
	"flag"
	"strings"
	"testing"
	"testing/cryptotest"
)

var (
	seeds  = flag.Int("seeds", 50, "how many schedules to run")
	first  = flag.Uint64("seed", 1, "the first seed")
	budget = flag.Uint64("defects", 0, "plant defects, and let each take so many schedules to be noticed")
	all    = flag.Bool("all", false, "go on after a seed that breaks a promise")
	traced = flag.Bool("timeline", false, "print the timeline of every seed")
)

// run runs a seed; raft's random numbers come from it too.
func run(t *testing.T, o Options) (r Result) {
	t.Run("", func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, o.Seed)
		r = Run(o)
	})
	return r
}

func text(lines []Line) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.String() + "\n")
	}
	return b.String()
}

// TestSeeds runs schedules, and prints the timeline of the first that breaks a promise.
func TestSeeds(t *testing.T) {
	var total Counts
	for i := 0; i < *seeds && (*all || !t.Failed()); i++ {
		seed := *first + uint64(i)
		r := run(t, Options{Seed: seed, Trace: *traced})
		total.Add(r.Counts)
		if r.Violation != "" {
			if !*traced && !t.Failed() {
				r = run(t, Options{Seed: seed, Trace: true})
			}
			t.Errorf("seed %d: %s", seed, r.Violation)
		}
		if len(r.Timeline) > 0 {
			t.Log("\n" + text(r.Timeline))
		}
	}
	t.Logf("%d schedules: %+v", *seeds, total)
}

// TestDefects plants mistakes into the hands: each is noticed, but for those that
// another safeguard makes up for.
func TestDefects(t *testing.T) {
	if *budget == 0 {
		t.Skip("takes minutes: -defects 300")
	}
	for _, d := range []struct {
		defect Defect
		within uint64 // times the budget
		spare  bool   // something else makes up for it
	}{
		{SealForgotten, 5, false}, {SealLeaky, 1, false}, {ReleaseUnswept, 1, false}, {PromoteUnguarded, 5, false}, {NeverArmed, 1, false},
		{VoteForgotten, 1, false}, {TakenUnarmed, 1, true}, {GuardFireOnce, 1, true}, // what is started again is armed, by "arm-stopped" at the latest
	} {
		t.Run(string(d.defect), func(t *testing.T) {
			for seed := *first; seed < *first+*budget*d.within; seed++ {
				if r := run(t, Options{Seed: seed, Defect: d.defect}); r.Violation != "" {
					t.Logf("seed %d: %s", seed, r.Violation)
					return
				}
			}
			if !d.spare {
				t.Error("not noticed")
			}
		})
	}
}
