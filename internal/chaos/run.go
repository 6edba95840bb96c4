package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"repmgr/internal/lab"
)

// Options are what a run is.
type Options struct {
	System System
	Setup  Setup
	Seed   uint64
	Faults int           // how many are made; zero: no bound
	For    time.Duration // no group of faults begins when this has passed; zero: no bound
	Kinds  []string      // of faults; none: all
	Logs   string        // where the logs of a failed run are kept; each failure makes a folder in it
	Say    func(format string, args ...any)
}

// Round is some groups of faults from one whole cluster to the next, and what came of them.
type Round struct {
	Number     int
	Faults     []string // as they were made, group by group, in the order of their ends
	Made       int      // of them, those that struck something
	Gaps       []Gap    // of each group
	Failovers  int      // another node took over
	InPlace    int      // the same node took over from itself, on a new timeline
	Unknown    int      // rows of which their writers do not know
	Lost       int      // rows that were acknowledged and are not there
	Promised   int      // of them, those that synchronous replication had promised
	TwoWriters time.Duration
	Back       time.Duration // from the last healing until the cluster was whole
	Broken     error         // why it did not become whole by itself
	Unfinished bool          // the run was interrupted before the cluster was whole
	Violations []string
}

// Result is a whole run.
type Result struct {
	System       string
	Setup        Setup
	Seed         uint64
	Took         time.Duration
	Rounds       []Round
	Interrupted  bool
	Acknowledged int
	Ended        int      // services that ended without a fault
	Violations   []string // found at the end, beside those of the rounds
	Logs         []string // folders that were kept
}

// Failed says that a promise was broken or a cluster did not come back.
func (r *Result) Failed() bool {
	for _, round := range r.Rounds {
		if len(round.Violations) > 0 || round.Broken != nil {
			return true
		}
	}
	return len(r.Violations) > 0
}

// Faults is how many struck something.
func (r *Result) Faults() (made int) {
	for _, round := range r.Rounds {
		made += round.Made
	}
	return made
}

// Groups is how many groups of faults there were.
func (r *Result) Groups() (groups int) {
	for _, round := range r.Rounds {
		groups += len(round.Gaps)
	}
	return groups
}

// Run makes faults until there were enough, or ctx ends: then what lasts is healed, and
// what was acknowledged is looked for, in bounded time. An error means that the run itself
// went wrong; what the system did wrong is in the result.
func Run(ctx context.Context, o Options) (*Result, error) {
	faults, err := newSchedule(o.Seed, o.Kinds)
	if err != nil {
		return nil, err
	}
	r := &run{Options: o, result: &Result{System: o.System.Name(), Setup: o.Setup, Seed: o.Seed}, schedule: faults, began: time.Now()}
	err = r.lives(ctx)
	r.result.Took, r.result.Interrupted = time.Since(r.began), ctx.Err() != nil
	return r.result, err
}

// run is one run.
type run struct {
	Options
	result   *Result
	schedule *schedule
	began    time.Time
	life     *life
}

func (r *run) enough(ctx context.Context) bool {
	return r.late(ctx) || r.Faults > 0 && r.result.Faults() >= r.Faults
}

// late says that no further group of faults may begin.
func (r *run) late(ctx context.Context) bool {
	return ctx.Err() != nil || r.For > 0 && time.Since(r.began) >= r.For
}

// left is how many faults are still to be made, at most as many as a round has.
func (r *run) left() int {
	if r.Faults == 0 {
		return mostGroups * mostFaults
	}
	return r.Faults - r.result.Faults()
}

// outlive is a context that ends some time after ctx: for what has to be done after an interrupt too.
func outlive(ctx context.Context, by time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(by, cancel) })
	return longer, func() { stop(); cancel() }
}

// How long is taken for what comes after an interrupt.
const (
	lastHealing = 20 * time.Second // for the end of a fault, and for the end of what is left of all
	lastWhole   = 30 * time.Second // until the cluster is whole
	lastLook    = 30 * time.Second // for rows and registers
)

// lives makes one cluster after the other: a new one where the last did not come back.
func (r *run) lives(ctx context.Context) error {
	for first := true; first || !r.enough(ctx); first = false {
		r.Say("A cluster of %d nodes is made (%s, synchronous: %s).", r.Setup.Nodes, r.result.System, r.Setup.Sync)
		var err error
		if r.life, err = begin(ctx, r.System, r.Setup, r.Say); err != nil {
			return err
		}
		err = r.rounds(ctx)
		if err == nil {
			looking, cancel := outlive(ctx, lastLook)
			err = r.reckon(looking)
			cancel()
		}
		r.life.rest()
		r.result.Ended += r.life.ended
		if err := errors.Join(err, r.life.lab.Close()); err != nil {
			return err
		}
	}
	return nil
}

// calm is how long clients have a whole cluster between two rounds.
const calm = time.Second

func (r *run) rounds(ctx context.Context) error {
	for !r.enough(ctx) {
		if r.life.linear() {
			if err := r.life.registers.next(ctx); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
		}
		if sleep(ctx, calm); ctx.Err() != nil {
			return nil
		}
		round, err := r.round(ctx, r.schedule.next(r.left()))
		if err != nil {
			return err
		}
		r.result.Rounds = append(r.result.Rounds, round)
		r.Say("%s", round)
		if len(round.Violations) > 0 || round.Broken != nil {
			r.keep(fmt.Sprintf("round-%d", round.Number))
		}
		if round.Broken == nil {
			continue
		}
		if err := r.System.Mend(ctx, r.life.lab, r.life.heir(ctx)); err != nil {
			r.Say("This cluster is given up, since it is not mended: %v", err)
			return nil
		}
	}
	return nil
}

// round makes some groups of faults, heals them, and waits for the cluster to be whole.
func (r *run) round(ctx context.Context, groups []Group) (Round, error) {
	l := r.life
	round := Round{Number: len(r.result.Rounds) + 1}
	var began []time.Duration // each group
	for i, group := range groups {
		sleep(ctx, group.Pause)
		if i > 0 && r.late(ctx) {
			break
		}
		began = append(began, l.now())
		l.befallAll(ctx, group.Faults, &round)
	}
	healing, cancel := outlive(ctx, lastHealing)
	defer cancel()
	if err := l.hosts.rest(healing); err != nil && ctx.Err() == nil {
		return round, err
	}
	healed := l.now()
	waiting, cancel := outlive(ctx, lastWhole)
	defer cancel()
	round.Broken = lab.Wait(waiting, r.System.Patience(), "a whole cluster", func() error {
		err := r.System.Whole(waiting, l.lab)
		if err == nil && l.linear() {
			err = l.lab.Synced(waiting)
		}
		return err
	})
	round.Back = l.now() - healed
	if round.Broken != nil && ctx.Err() != nil {
		round.Broken, round.Unfinished = nil, true
	}
	looking, cancel := outlive(ctx, lastLook)
	defer cancel()
	return round, r.judge(looking, &round, began)
}

// befallAll lets a group of faults happen and end.
func (l *life) befallAll(ctx context.Context, group []Fault, round *Round) {
	var strikes sync.WaitGroup
	var mu sync.Mutex
	for _, f := range group {
		strikes.Go(func() {
			sleep(ctx, f.After)
			if ctx.Err() != nil {
				return
			}
			told, made := l.befall(ctx, f)
			mu.Lock()
			defer mu.Unlock()
			round.Faults = append(round.Faults, told)
			if made {
				round.Made++
			}
		})
	}
	strikes.Wait()
}

// healBound bounds what is done to end a fault.
const healBound = 5 * time.Minute

// befall lets one fault happen and end, and tells it.
func (l *life) befall(ctx context.Context, f Fault) (told string, made bool) {
	n := l.target(f)
	role := "standby"
	if n == l.primary() {
		role = "primary"
	}
	at := l.now()
	acting, cancel := outlive(ctx, lastHealing)
	defer cancel()
	heal, what, err := kindOf(f.Kind).strike(acting, l, n, f.Which)
	told = fmt.Sprintf("%s %s %s (%s)", time.Now().UTC().Format("15:04:05.000"), f.Kind, n.Name, role)
	if what != "" {
		told += ": " + what
	}
	switch {
	case errors.Is(err, errNothing):
		return told + ": " + errNothing.Error(), false
	case err != nil:
		told += fmt.Sprintf(" [%s]", oneLine(err))
	}
	if heal == nil {
		return told, true
	}
	sleep(ctx, f.For-(l.now()-at))
	healing, cancel := context.WithTimeout(acting, healBound)
	defer cancel()
	if err := heal(healing); err != nil {
		told += fmt.Sprintf(" [healing it: %s]", oneLine(err))
	}
	return told + fmt.Sprintf(" for %.1f s", (l.now()-at).Seconds()), true
}

// longestWord is how much of an error stands in a line.
const longestWord = 160

func oneLine(err error) string {
	s := strings.Join(strings.Fields(err.Error()), " ")
	return s[:min(len(s), longestWord)]
}

// keep saves the logs of everything, and the story so far.
func (r *run) keep(name string) {
	dir := filepath.Join(r.Logs, fmt.Sprintf("seed-%d-%s", r.Seed, name))
	if err := r.life.lab.SaveLogs(dir); err != nil {
		r.Say("%v", err)
		return
	}
	var story strings.Builder
	fmt.Fprintf(&story, "%s, seed %d, %d nodes, synchronous: %s\n", r.result.System, r.Seed, r.Setup.Nodes, r.Setup.Sync)
	for _, round := range r.result.Rounds {
		fmt.Fprintln(&story, round)
	}
	if err := os.WriteFile(filepath.Join(dir, "story.txt"), []byte(story.String()), 0o644); err != nil {
		r.Say("%v", err)
	}
	r.result.Logs = append(r.result.Logs, dir)
	r.Say("The logs are kept in %s", dir)
}
