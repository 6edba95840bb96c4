package sim

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Shrunk is a run that breaks a promise with as little as was found to do so.
type Shrunk struct {
	Options Options // replay it
	Result  Result  // with its timeline
	From    int     // faults that had struck at first
	Runs    int     // that it took
}

// Shrink looks for the shortest schedule that breaks the same promise as a run
// did: fewer faults (delta debugging: halves, quarters, single ones), fewer nodes,
// less time, in at most so many runs. What is left out changes nothing in what
// else is drawn, but all that follows from it happens otherwise: so a shorter
// schedule may break the promise at another time, by other nodes.
func Shrink(failed Result, o Options, budget int, run func(Options) Result) Shrunk {
	o.Nodes, o.Chaos, o.Only, o.Trace = failed.Nodes, failed.Chaos, ids(failed.Faults), false
	s := &shrinker{best: o, result: failed, budget: budget, run: run}
	for before := -1; before != len(s.best.Only) && s.runs < s.budget; {
		before = len(s.best.Only)
		s.fewerNodes()
		s.fewerFaults()
	}
	s.lessTime()
	s.best.Trace = true
	return Shrunk{Options: s.best, Result: run(s.best), From: len(failed.Faults), Runs: s.runs}
}

type shrinker struct {
	best   Options
	result Result // of best
	runs   int
	budget int
	run    func(Options) Result
}

// try keeps a schedule that breaks the same promise.
func (s *shrinker) try(o Options) bool {
	if s.runs >= s.budget {
		return false
	}
	s.runs++
	r := s.run(o)
	if r.Kind() != s.result.Kind() {
		return false
	}
	o.Only = ids(r.Faults) // those that struck before the end
	s.best, s.result = o, r
	return true
}

func (s *shrinker) fewerNodes() {
	least := 3
	if s.best.Visibility {
		least = 2
	}
	for n := least; n < s.best.Nodes; n++ {
		o := s.best
		if o.Nodes = n; s.try(o) {
			return
		}
	}
}

// fewerFaults leaves out parts of the faults, smaller and smaller ones.
func (s *shrinker) fewerFaults() {
	for parts := 2; s.runs < s.budget; {
		all := s.best.Only
		size := (len(all) + parts - 1) / max(1, parts)
		shorter := false
		for from := 0; from < len(all) && !shorter; from += size {
			o := s.best
			o.Only = slices.Concat(all[:from], all[min(len(all), from+size):])
			shorter = s.try(o)
		}
		switch {
		case shorter:
			parts = max(2, parts-1)
		case size <= 1:
			return
		default:
			parts = min(2*parts, len(all))
		}
	}
}

// lessTime lets the cluster be healed soon after the last fault.
func (s *shrinker) lessTime() {
	last := time.Duration(0)
	for _, f := range s.result.Faults {
		last = max(last, f.At)
	}
	for _, more := range []time.Duration{time.Second, 5 * time.Second, 15 * time.Second} {
		o := s.best
		if o.Chaos = (last + more).Truncate(time.Second); o.Chaos > last && o.Chaos < s.best.Chaos && s.try(o) {
			return
		}
	}
}

func ids(faults []Fault) []string {
	out := []string{}
	for _, f := range faults {
		out = append(out, f.ID)
	}
	return out
}

var startOfViolation = regexp.MustCompile(`^at [0-9.]+ s: `)

// Kind is what promise was broken, without the nodes and numbers; empty: none.
func (r Result) Kind() string {
	words := strings.Fields(number.ReplaceAllString(startOfViolation.ReplaceAllString(r.Violation, ""), "N"))
	return strings.Join(words[:min(len(words), 8)], " ")
}

// Flags are the options as the flags of the tests.
func (o Options) Flags() string {
	text := fmt.Sprintf("-seed %d -nodes %d -chaos %s", o.Seed, o.Nodes, o.Chaos)
	if o.Only != nil {
		text += " -only " + strings.Join(append(o.Only, "none")[:max(1, len(o.Only))], ",")
	}
	if o.Visibility {
		text += " -visibility"
	}
	if o.Defect != "" {
		text += fmt.Sprintf(" -defect '%s'", o.Defect)
	}
	return text
}

// String is all that somebody needs to know of it.
func (s Shrunk) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d breaks a promise: %s\n\n", s.Options.Seed, s.Result.Violation)
	fmt.Fprintf(&b, "again:  go test ./internal/sim -count=1 -v -run TestSeeds -timeline -seeds 1 %s\n", s.Options.Flags())
	fmt.Fprintf(&b, "    or  make simulate ARGS=\"--timeline --seeds 1 %s\"\n\n", s.Options.Flags())
	fmt.Fprintf(&b, "%d of the %d faults that struck are enough, on %d nodes (%d runs to find that out):\n", len(s.Result.Faults), s.From, s.Options.Nodes, s.Runs)
	for _, f := range s.Result.Faults {
		fmt.Fprintf(&b, "%s\n", f)
	}
	b.WriteString("\n" + Timeline(s.Result, 100))
	return b.String()
}
