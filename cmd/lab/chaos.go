package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"repmgr/internal/chaos"
	"repmgr/internal/lab"
)

// errBroken says that a promise was broken, or a cluster did not come back.
var errBroken = errors.New("a promise was broken")

func chaosCommand() *cobra.Command {
	o := chaos.Options{}
	var system, report string
	var possible bool
	cmd := &cobra.Command{
		Use:   "chaos",
		Short: "Break real clusters at random, and check what their clients were told",
		Long: `Makes a cluster whose nodes have networks of their own, draws faults from a seed, and lets clients
write and read all the time. After some of them, which overlap or strike while the cluster recovers from the last, the causes
are taken away, and the cluster has to become whole by itself. An interrupted run tells what it found so far. Needs root.

Exit status 2 says that a promise was broken: the seed, the story and the folder of the logs are printed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			page := stdoutPage()
			o.Say = func(format string, args ...any) { page.say(format, args...) }
			if !slices.Contains([]string{"off", "on", "strict"}, o.Setup.Sync) {
				return fmt.Errorf("--sync=%s: expected off, on or strict", o.Setup.Sync)
			}
			if flags := cmd.Flags(); flags.Changed("for") && !flags.Changed("faults") {
				o.Faults = 0
			}
			if o.Seed == 0 {
				o.Seed = rand.Uint64N(1 << 32)
			}
			err := runChaos(cmd.Context(), page, o, system, report)
			if possible && errors.Is(err, lab.ErrNamespaces) {
				page.say("SKIPPED, NOT TESTED HERE: real clusters under random faults: %v", err)
				return nil
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.Uint64Var(&o.Seed, "seed", 0, "what the faults are drawn from (default: drawn anew)")
	flags.IntVar(&o.Faults, "faults", 20, "how many faults are made; 0: no bound")
	flags.DurationVar(&o.For, "for", 0, "how long faults are made (without --faults: as many as there are time for)")
	flags.IntVar(&o.Setup.Nodes, "nodes", 3, "how many nodes the cluster has")
	flags.StringVar(&o.Setup.Sync, "sync", "on", "synchronous replication: off, on or strict")
	flags.StringVar(&system, "system", "repmgr", "whose cluster: "+strings.Join(chaos.Systems, ", "))
	flags.StringSliceVar(&o.Kinds, "kinds", nil, "only these kinds of faults: "+strings.Join(chaos.Kinds(), ", "))
	flags.StringVar(&report, "report", "", "add the table to this file too")
	flags.StringVar(&o.Logs, "logs", "chaos-logs", "where the logs of what went wrong are kept")
	flags.BoolVar(&possible, "if-possible", false, "say so, and succeed, where nodes cannot have networks of their own")
	return cmd
}

// errVacant says that a run shows nothing.
var errVacant = errors.New("no fault struck, or no row was acknowledged: nothing was tested")

// runChaos makes one run and tells its figures.
func runChaos(ctx context.Context, page *page, o chaos.Options, system, report string) error {
	var err error
	if o.System, err = chaos.Find(ctx, system); err != nil {
		return err
	}
	page.say("Seed %d. The faults that it draws are the same each time; what comes of them is a real cluster's.", o.Seed)
	result, err := chaos.Run(ctx, o)
	if result != nil && len(result.Rounds) > 0 {
		err = errors.Join(err, tellChaos(page, result, report))
	}
	switch {
	case result != nil && result.Failed():
		if err != nil {
			page.say("%v", err)
		}
		page.say("BROKEN. The same faults again: make chaos ARGS='%s'", again(o, system, result.Faults()))
		return errors.Join(errBroken, err)
	case err == nil && (result.Faults() == 0 || result.Acknowledged == 0):
		return errVacant
	}
	return err
}

// again are the flags that repeat the faults of a run.
func again(o chaos.Options, system string, made int) string {
	flags := fmt.Sprintf("--seed %d --faults %d --nodes %d --sync %s --system %s", o.Seed, made, o.Setup.Nodes, o.Setup.Sync, system)
	if len(o.Kinds) > 0 {
		flags += " --kinds " + strings.Join(o.Kinds, ",")
	}
	return flags
}

// tellChaos prints the figures of a run, and adds them to a file if one is named.
func tellChaos(p *page, r *chaos.Result, report string) error {
	lines := chaosFigures(r)
	p.say("")
	for _, line := range lines {
		p.say("%s", line)
	}
	if report == "" {
		return nil
	}
	f, err := os.OpenFile(report, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	_, err = fmt.Fprintf(f, "%s\n\n", strings.Join(lines, "\n"))
	return errors.Join(err, f.Close())
}

// chaosFigures are the lines of the table of one run.
func chaosFigures(r *chaos.Result) []string {
	var gaps, moved, back []time.Duration
	var failovers, inPlace, lost, promised, unknown, whole, violations int
	var two time.Duration
	for _, round := range r.Rounds {
		for _, g := range round.Gaps {
			gaps = append(gaps, g.Lasted)
			if g.Moved {
				moved = append(moved, g.Lasted)
			}
		}
		if round.Broken == nil && !round.Unfinished {
			whole++
			back = append(back, round.Back)
		}
		failovers, inPlace = failovers+round.Failovers, inPlace+round.InPlace
		lost, promised, unknown = lost+round.Lost, promised+round.Promised, unknown+round.Unknown
		two += round.TwoWriters
		violations += len(round.Violations)
	}
	table := [][]string{
		{r.System, fmt.Sprintf("seed %d, %d nodes, synchronous: %s, %s", r.Seed, r.Setup.Nodes, r.Setup.Sync, r.Took.Round(time.Second))},
		{"faults", fmt.Sprintf("%d, in %d groups, in %d rounds", r.Faults(), r.Groups(), len(r.Rounds))},
		{"failovers", fmt.Sprintf("%d, and %d times the same node began a new timeline", failovers, inPlace)},
		{"client gap, all groups: median / p90 / worst", distribution(gaps)},
		{"client gap, those after which another node acknowledged", distribution(moved)},
		{"rows acknowledged / unknown", fmt.Sprintf("%d / %d", r.Acknowledged, unknown)},
		{"acknowledged rows lost", fmt.Sprintf("%d, of which synchronous: %d", lost, promised)},
		{"seconds with two writers", fmt.Sprintf("%.2f", two.Seconds())},
		{"whole by itself", fmt.Sprintf("%d of %d", whole, len(r.Rounds))},
		{"whole again after: median / p90 / worst", distribution(back)},
		{"programs that ended without a fault", fmt.Sprint(r.Ended)},
		{"violations", fmt.Sprint(violations + len(r.Violations))},
	}
	if r.Interrupted {
		table[0][1] += ", INTERRUPTED"
	}
	lines := aligned(table)
	for _, dir := range r.Logs {
		lines = append(lines, "logs: "+dir)
	}
	return lines
}

// distribution tells the median, the ninth tenth and the worst.
func distribution(d []time.Duration) string {
	if len(d) == 0 {
		return "-"
	}
	sorted := slices.Sorted(slices.Values(d))
	return fmt.Sprintf("%.2f / %.2f / %.2f s", quantile(sorted, 0.5).Seconds(), quantile(sorted, 0.9).Seconds(), sorted[len(sorted)-1].Seconds())
}

// quantile is the smallest of sorted values that a share of them does not exceed.
func quantile[T cmp.Ordered](sorted []T, share float64) T {
	return sorted[min(len(sorted)-1, int(share*float64(len(sorted))))]
}
