package sim

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/cryptotest"
)

var (
	seeds   = flag.Int("seeds", 300, "how many schedules to run")
	first   = flag.Uint64("seed", 1, "the first seed")
	nodes   = flag.Int("nodes", 0, "how many nodes; 0: by the seed")
	chaos   = flag.Duration("chaos", 0, "for how long things go wrong; 0: by the seed")
	only    = flag.String("only", "", "the faults that strike, by their names, with commas between them; none; empty: all of the seed")
	defect  = flag.String("defect", "", "plant this mistake; with -defects: all whose words these are among")
	budget  = flag.Uint64("defects", 0, "plant every mistake in turn, and let each take so many schedules to be noticed")
	fresh   = flag.Bool("unseeded", false, "with -defects: only those that no seed is known for")
	all     = flag.Bool("all", false, "go on after a seed that breaks a promise")
	sighted = flag.Bool("visibility", false, "clusters under the visibility rule, which have no group")
	hashes  = flag.Bool("fingerprints", false, "print one number a seed for all that happened, to compare two versions of this program by")
	traced  = flag.Bool("timeline", false, "print the timeline of every seed, and do not shrink")
)

// options are those of a seed, by the flags.
func options(seed uint64) Options {
	return Options{Seed: seed, Nodes: *nodes, Chaos: *chaos, Only: faultsOf(*only), Visibility: *sighted, Defect: Defect(*defect), Trace: *traced || *hashes}
}

func faultsOf(text string) []string {
	switch text {
	case "":
		return nil
	case "none":
		return []string{}
	}
	return strings.Split(text, ",")
}

// run runs a seed; raft's random numbers come from it too.
func run(t *testing.T, o Options) (r Result) {
	t.Run("", func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, o.Seed)
		r = Run(o)
	})
	return r
}

func shrunk(t *testing.T, r Result, o Options) Shrunk {
	return Shrink(r, o, 500, func(o Options) Result { return run(t, o) })
}

// TestSeeds runs schedules, and shrinks the first that breaks a promise.
func TestSeeds(t *testing.T) {
	var total Counts
	for i := 0; i < *seeds && (*all || !t.Failed()); i++ {
		o := options(*first + uint64(i))
		r := run(t, o)
		total.Add(r.Counts)
		switch {
		case r.Violation != "" && !*traced && !t.Failed():
			t.Errorf("\n%s", shrunk(t, r, o))
		case r.Violation != "":
			t.Errorf("seed %d: %s", o.Seed, r.Violation)
		}
		if *traced {
			t.Logf("\n%s", Timeline(r, len(r.Timeline)))
		}
		if *hashes {
			n, err := r.Fingerprint()
			if err != nil {
				t.Fatal(err)
			}
			fmt.Printf("%d %016x\n", o.Seed, n)
		}
	}
	t.Logf("%d schedules: %+v", *seeds, total)
}

// TestVisibility runs schedules of clusters under the visibility rule.
func TestVisibility(t *testing.T) {
	for seed := uint64(1); seed <= 300 && !t.Failed(); seed++ {
		o := Options{Seed: seed, Visibility: true}
		if r := run(t, o); r.Violation != "" {
			t.Errorf("\n%s", shrunk(t, r, o))
		}
	}
}

// TestKept runs the seeds of testdata/seeds.txt: those that broke a promise once,
// and those that reach what few others do.
func TestKept(t *testing.T) {
	text, err := os.ReadFile("testdata/seeds.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if words, why, ok := strings.Cut(strings.TrimSpace(line), "#"); ok && words != "" {
			o := kept(t, strings.Fields(words))
			if r := run(t, o); r.Violation != "" {
				t.Errorf("%s (%s)\n%s", strings.TrimSpace(words), strings.TrimSpace(why), shrunk(t, r, o))
			}
		}
	}
}

// kept reads the options of a line, which are written as the flags are.
func kept(t *testing.T, words []string) (o Options) {
	f := flag.NewFlagSet("", flag.ContinueOnError)
	f.Uint64Var(&o.Seed, "seed", 0, "")
	f.IntVar(&o.Nodes, "nodes", 0, "")
	f.DurationVar(&o.Chaos, "chaos", 0, "")
	f.BoolVar(&o.Visibility, "visibility", false, "")
	list := f.String("only", "", "")
	if err := f.Parse(words); err != nil || o.Seed == 0 || f.NArg() > 0 {
		t.Fatalf("seeds.txt: %v: %v", words, err)
	}
	o.Only = faultsOf(*list)
	return o
}

// TestShrunk plants a mistake, and shrinks the first schedule that notices it to
// a handful of faults, which can be replayed from what is printed.
func TestShrunk(t *testing.T) {
	for seed := uint64(1); seed <= 300; seed++ {
		o := Options{Seed: seed, Defect: BidReceived}
		r := run(t, o)
		if !strings.HasPrefix(r.Kind(), "S2") {
			continue // a cluster that is not whole in time takes more faults to show
		}
		s := shrunk(t, r, o)
		t.Logf("\n%s", s)
		again := s.Options
		again.Trace = false
		switch r2 := run(t, again); {
		case len(s.Result.Faults) > 5:
			t.Errorf("%d faults are left of %d", len(s.Result.Faults), s.From)
		case r2.Violation != s.Result.Violation || r2.Kind() != r.Kind():
			t.Errorf("replayed: %q, not %q as it was shrunk, and %q at first", r2.Violation, s.Result.Violation, r.Violation)
		}
		if sound := run(t, Options{Seed: seed, Nodes: again.Nodes, Chaos: again.Chaos, Only: again.Only}); sound.Violation != "" {
			t.Errorf("without the mistake: %s", sound.Violation)
		}
		for _, want := range []string{fmt.Sprintf("-seed %d ", seed), " n1 ", "FAULT", "VIOLATION", "-defect '" + string(BidReceived)} {
			if !strings.Contains(s.String(), want) {
				t.Errorf("%q is not in what is printed", want)
			}
		}
		return
	}
	t.Error("not noticed")
}
