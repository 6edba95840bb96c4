package main

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"repmgr/internal/chaos"
)

// errBroken says that a promise was broken, or a cluster did not come back.
var errBroken = errors.New("a promise was broken")

func chaosCommand() *cobra.Command {
	o := chaos.Options{}
	var system, report string
	cmd := &cobra.Command{
		Use:   "chaos",
		Short: "Break real clusters at random, and check what their clients were told",
		Long: `Makes a cluster whose nodes have networks of their own, draws faults from a seed, and lets clients
write and read all the time. After each fault, or group of faults that overlap, the causes are taken away, and the
cluster has to become whole by itself. Needs root.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			page := stdoutPage()
			o.Say = func(format string, args ...any) { page.say(format, args...) }
			if !slices.Contains([]string{"off", "on", "strict"}, o.Setup.Sync) {
				return fmt.Errorf("--sync=%s: expected off, on or strict", o.Setup.Sync)
			}
			var err error
			if o.System, err = chaos.Find(cmd.Context(), system); err != nil {
				return err
			}
			if o.Seed == 0 {
				o.Seed = rand.Uint64N(1 << 32)
			}
			page.say("Seed %d. The faults that it draws are the same each time; what comes of them is a real cluster's.", o.Seed)
			result, err := chaos.Run(cmd.Context(), o)
			if result != nil && len(result.Rounds) > 0 {
				err = errors.Join(err, tellChaos(page, result, report))
			}
			if err == nil && result.Failed() {
				return errBroken
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.Uint64Var(&o.Seed, "seed", 0, "what the faults are drawn from (default: drawn anew)")
	flags.IntVar(&o.Faults, "faults", 20, "how many faults are made")
	flags.DurationVar(&o.For, "for", 0, "how long faults are made, instead of how many")
	flags.IntVar(&o.Setup.Nodes, "nodes", 3, "how many nodes the cluster has")
	flags.StringVar(&o.Setup.Sync, "sync", "on", "synchronous replication: off, on or strict")
	flags.StringVar(&system, "system", "repmgr", "whose cluster: "+strings.Join(chaos.Systems, ", "))
	flags.StringSliceVar(&o.Kinds, "kinds", nil, "only these kinds of faults: "+strings.Join(chaos.Kinds(), ", "))
	flags.StringVar(&report, "report", "", "add the table to this file too")
	flags.StringVar(&o.Logs, "logs", "chaos-logs", "where the logs of what went wrong are kept")
	cmd.MarkFlagsMutuallyExclusive("faults", "for")
	return cmd
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
	var gaps, failoverGaps, back []time.Duration
	var failovers, inPlace, lost, promised, unknown, whole, violations int
	var two time.Duration
	for _, round := range r.Rounds {
		gaps = append(gaps, round.Gap)
		if round.Failovers > 0 {
			failoverGaps = append(failoverGaps, round.Gap)
		}
		if round.Broken == nil {
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
		{"faults", fmt.Sprintf("%d, in %d groups", r.Faults(), len(r.Rounds))},
		{"failovers", fmt.Sprintf("%d, and %d times the same node began a new timeline", failovers, inPlace)},
		{"client gap, all groups: median / p90 / worst", distribution(gaps)},
		{"client gap, groups with a failover", distribution(failoverGaps)},
		{"rows acknowledged / unknown", fmt.Sprintf("%d / %d", r.Acknowledged, unknown)},
		{"acknowledged rows lost", fmt.Sprintf("%d, of which synchronous: %d", lost, promised)},
		{"seconds with two writers", fmt.Sprintf("%.2f", two.Seconds())},
		{"whole by itself", fmt.Sprintf("%d of %d", whole, len(r.Rounds))},
		{"whole again after: median / p90 / worst", distribution(back)},
		{"programs that ended without a fault", fmt.Sprint(r.Ended)},
		{"violations", fmt.Sprint(violations + len(r.Violations))},
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
