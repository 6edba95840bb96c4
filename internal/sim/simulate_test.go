package sim

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// make simulate: the test binary, built once, starts itself once for every core,
// since raft's random numbers can be made repeatable for a whole process only
// (testing/cryptotest), and in a test only.
var (
	simulate = flag.Bool("simulate", false, "run the schedules on all cores, and print a summary")
	cores    = flag.Int("cores", runtime.NumCPU(), "with -simulate: how many at once")
	within   = flag.Duration("for", 0, "with -simulate: begin no schedule after that time; 0: no limit")
	child    = flag.Int("child", -1, "the number of a process that -simulate started, which reports to file descriptor 3")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *simulate {
		os.Exit(drive())
	}
	os.Exit(m.Run())
}

// report is what a child has done so far.
type report struct {
	Done     int
	Counts   Counts
	Coverage Coverage
	Failed   []broken
	Text     string `json:",omitempty"` // of a shrunk schedule
}

type broken struct {
	Seed      uint64
	Violation string
}

// TestChild is one of the processes of make simulate.
func TestChild(t *testing.T) {
	if *child < 0 {
		t.Skip("make simulate runs this")
	}
	out := json.NewEncoder(os.NewFile(3, "reports"))
	sofar, began, told := report{Coverage: newCoverage()}, time.Now(), time.Now()
	for i := *child; i < *seeds && (*within == 0 || time.Since(began) < *within); i += *cores {
		o := options(*first + uint64(i))
		r := run(t, o)
		if sound := o; r.Violation != "" && o.Defect != "" {
			if sound.Defect = ""; run(t, sound).Violation != "" {
				r.Violation = "" // it is not the mistake that this seed notices
			}
		}
		sofar.Done++
		sofar.Counts.Add(r.Counts)
		sofar.Coverage.Add(r.Coverage)
		if r.Violation != "" {
			sofar.Failed = append(sofar.Failed, broken{o.Seed, r.Violation})
			if !*all && *budget == 0 { // whether a mistake is noticed is all that is asked
				sofar.Text = shrunk(t, r, o).String()
			}
			if !*all {
				break
			}
		}
		if *traced {
			fmt.Println(Timeline(r, len(r.Timeline)))
		}
		if time.Since(told) > time.Second {
			told = time.Now()
			_ = out.Encode(sofar)
		}
	}
	if err := out.Encode(sofar); err != nil {
		t.Fatal(err)
	}
}

// drive is make simulate. Its result is the exit code.
func drive() int {
	if *budget == 0 {
		sum, cpu := search(options(*first), *seeds, true)
		fmt.Print(summary(sum, cpu, *sighted))
		return min(1, len(sum.Failed))
	}
	missed := 0
	for _, d := range planted {
		if !strings.Contains(string(d.defect), *defect) || *fresh && d.seed != 0 {
			continue
		}
		sum, _ := search(Options{Seed: *first, Defect: d.defect, Visibility: d.defect.sighted()}, int(*budget), false)
		verdict := "NOT NOTICED"
		switch {
		case len(sum.Failed) > 0:
			verdict = fmt.Sprintf("noticed by seed %d: %.160s", sum.Failed[0].Seed, sum.Failed[0].Violation)
		case d.spare != "":
			verdict = "not noticed, and need not be: " + d.spare
		default:
			missed++
		}
		fmt.Printf("%2d %-75s %s (%d schedules)\n", d.number, d.defect, verdict, sum.Done)
	}
	return min(1, missed)
}

// search lets all cores run schedules, until the first that breaks a promise.
func search(o Options, count int, aloud bool) (sum report, cpu time.Duration) {
	type message struct {
		from int
		report
	}
	reports, latest := make(chan message), make([]report, *cores)
	var children []*exec.Cmd
	for i := range *cores {
		c, lines := begin(i, o, count)
		children = append(children, c)
		go func() {
			for {
				m := message{from: i}
				line, err := lines.ReadBytes('\n')
				if err == nil && json.Unmarshal(line, &m.report) == nil {
					reports <- m
					continue
				}
				reports <- message{from: -1}
				return
			}
		}()
	}
	began, told := time.Now(), time.Now()
	for running := *cores; running > 0; {
		m := <-reports
		if m.from < 0 {
			running--
			continue
		}
		if known := len(latest[m.from].Failed); aloud {
			for _, b := range m.Failed[known:] { // now: whoever interrupts a long run has them
				fmt.Fprintf(os.Stderr, "BROKEN: seed %d: %s\n", b.Seed, b.Violation)
			}
		}
		latest[m.from] = m.report
		sum = add(latest)
		if len(sum.Failed) > 0 && !*all {
			for i, c := range children {
				if i != m.from {
					_ = c.Process.Kill() // this process's own child
				}
			}
		}
		if aloud && time.Since(told) > 5*time.Second {
			told = time.Now()
			fmt.Fprintf(os.Stderr, "%s: %d of %d schedules, %.1f virtual hours, %d faults, %d failovers, %d broke a promise\n",
				time.Since(began).Round(time.Second), sum.Done, count, sum.Counts.Virtual.Hours(), sum.Counts.Faults, sum.Counts.Failovers, len(sum.Failed))
		}
	}
	for i, c := range children {
		err := c.Wait()
		if err != nil && len(sum.Failed) == 0 {
			sum.Failed = append(sum.Failed, broken{o.Seed, fmt.Sprintf("process %d ended without a word: %v", i, err)})
		}
		cpu += c.ProcessState.UserTime() + c.ProcessState.SystemTime()
	}
	return sum, cpu
}

// begin starts a child, and returns what it reports.
func begin(i int, o Options, count int) (*exec.Cmd, *bufio.Reader) {
	c := exec.Command(os.Args[0], "-test.run=^TestChild$", "-test.timeout=0", fmt.Sprintf("-child=%d", i), fmt.Sprintf("-cores=%d", *cores),
		fmt.Sprintf("-seed=%d", o.Seed), fmt.Sprintf("-seeds=%d", count), fmt.Sprintf("-nodes=%d", o.Nodes), fmt.Sprintf("-chaos=%s", o.Chaos),
		"-only="+*only, "-defect="+string(o.Defect), fmt.Sprintf("-for=%s", *within), fmt.Sprintf("-all=%v", *all), fmt.Sprintf("-defects=%d", *budget), fmt.Sprintf("-timeline=%v", *traced), fmt.Sprintf("-visibility=%v", o.Visibility))
	c.Env = append(os.Environ(), "GOMAXPROCS=1", "GOGC=400", "GODEBUG=asyncpreemptoff=1") // one goroutine works, and the garbage is small
	c.Stderr = os.Stderr
	if *traced {
		c.Stdout = os.Stdout
	}
	r, w, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	defer w.Close()
	c.ExtraFiles = []*os.File{w}
	if err := c.Start(); err != nil {
		panic(err)
	}
	return c, bufio.NewReader(r)
}

func add(reports []report) report {
	sum := report{Coverage: newCoverage()}
	for _, r := range reports {
		sum.Done += r.Done
		sum.Counts.Add(r.Counts)
		if r.Done > 0 {
			sum.Coverage.Add(r.Coverage)
		}
		sum.Failed, sum.Text = append(sum.Failed, r.Failed...), sum.Text+r.Text
	}
	slices.SortFunc(sum.Failed, func(a, b broken) int { return int(a.Seed) - int(b.Seed) })
	return sum
}

// summary is what came of a search, in words.
func summary(sum report, cpu time.Duration, visibility bool) string {
	var b strings.Builder
	c := sum.Counts
	fmt.Fprintf(&b, "%d schedules, %.2f virtual hours, %.1f million events; %.1f hours in a minute of one core\n", sum.Done, c.Virtual.Hours(), float64(c.Events)/1e6, c.Virtual.Hours()/cpu.Minutes())
	if visibility {
		fmt.Fprintf(&b, "%d promotions, %d partitions, %d acknowledged commits\n", c.Promotions, c.Partitions, c.Commits)
	} else {
		fmt.Fprintf(&b, "%d failovers, %d grants, %d regrants, %d promotions, %d expiries, %d releases, %d voids, %d reinstated, %d seals, %d kills by a guard\n",
			c.Failovers, c.Grants, c.Regrants, c.Promotions, c.Expiries, c.Releases, c.Voids, c.Reinstated, c.Sealed, c.GuardKills)
		fmt.Fprintf(&b, "%d rewinds, %d partitions, %d entries of the record, %d acknowledged commits, %d operations on synchronous registers\n", c.Rewinds, c.Partitions, c.Changes, c.Commits, c.Operations)
	}
	table(&b, fmt.Sprintf("%d faults", c.Faults), sum.Coverage.Faults)
	for i, name := range []string{"rules of visibility", "rules of the quorum", "rules of the leader", "rules of synchronous replication"} {
		table(&b, name, sum.Coverage.Rules[i])
	}
	table(&b, "entries accepted", sum.Coverage.Entries)
	table(&b, "entries refused", sum.Coverage.Refusals)
	fmt.Fprintf(&b, "\nnever reached:\n  %s\n", strings.Join(sum.Coverage.Missed(visibility), "\n  "))
	if reasons, err := sum.Coverage.Unrefused("../record/apply.go", "../record/verdict.go", "../record/sync.go"); err == nil && !visibility {
		fmt.Fprintf(&b, "  refusal: %s\n", strings.Join(reasons, "\n  refusal: "))
	}
	for _, f := range sum.Failed {
		fmt.Fprintf(&b, "\nBROKEN: seed %d: %s", f.Seed, f.Violation)
	}
	verdict := "\nno promise was broken\n"
	if len(sum.Failed) > 0 {
		verdict = fmt.Sprintf("\n\n%s\n%d schedules broke a promise\n", sum.Text, len(sum.Failed))
	}
	return b.String() + verdict
}

// table lists what was reached, the most first; of what is rare, a seed.
func table(b *strings.Builder, title string, m map[string]Reached) {
	if len(m) == 0 {
		return
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(x, y string) int {
		if m[x].Times != m[y].Times {
			return m[y].Times - m[x].Times
		}
		return strings.Compare(x, y)
	})
	fmt.Fprintf(b, "\n%s:\n", title)
	for _, k := range keys {
		fmt.Fprintf(b, "%10d  %s", m[k].Times, k)
		if m[k].Times < 100 {
			fmt.Fprintf(b, " (seed %d)", m[k].Seed)
		}
		b.WriteString("\n")
	}
}
