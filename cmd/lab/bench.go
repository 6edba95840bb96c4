package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"repmgr/internal/lab"
)

// errMissed says that a figure of ours is worse than its target.
var errMissed = errors.New("a target was missed")

// bench is one measurement of all peers.
type bench struct {
	page     *page
	runs     int
	peerRuns int
	slowRuns int
	rest     time.Duration
	calm     time.Duration
	only     []string
	check    bool
	logs     string // where logs of what went wrong are kept; empty: nowhere
	network  bool   // nodes have networks of their own
}

// The things that are measured beside faults.
const (
	atRest   = "rest"
	showTime = "show"
	wideTime = "wide"
)

// everything is all that --only can name.
func everything() []string {
	names := []string{atRest, showTime, wideTime}
	for _, f := range faults() {
		names = append(names, f.name)
	}
	return names
}

func benchCommand() *cobra.Command {
	b := &bench{}
	var names []string
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure failover, the daemon at rest and cluster show",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b.page = stdoutPage()
			return b.run(cmd.Context(), names)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&b.runs, "runs", 10, "how often each fault is made to ours")
	flags.IntVar(&b.peerRuns, "peer-runs", 2, "the same for the others at their fastest settings")
	flags.IntVar(&b.slowRuns, "slow-runs", 1, "the same for the others at their default settings, which takes a minute each time")
	flags.DurationVar(&b.rest, "rest", 20*time.Second, "how long a daemon at rest is watched")
	flags.DurationVar(&b.calm, "calm", 3*time.Second, "how long the cluster is left alone before a fault")
	flags.StringSliceVar(&b.only, "only", everything(), "what to measure")
	flags.StringSliceVar(&names, "peers", nil, "whom to measure, by number, name or program: "+callable()+" (default: all that are installed)")
	flags.StringVar(&b.logs, "logs", "", "keep the logs of clusters that did not do as they should in this folder")
	flags.BoolVar(&b.check, "check", false, "exit with status 2 if a figure of ours misses its target")
	return cmd
}

func (b *bench) run(ctx context.Context, names []string) error {
	b.network = os.Geteuid() == 0
	for _, name := range b.only {
		if !slices.Contains(everything(), name) {
			return fmt.Errorf("measure %q: what there is: %s", name, strings.Join(everything(), ", "))
		}
	}
	if !b.network {
		b.page.say("Hosts that are gone or cut off need network namespaces, and they need root: not measured.")
	}
	wanted, err := chosen(names)
	if err != nil {
		return err
	}
	found, missing := peers(ctx, wanted, b.network)
	for _, why := range missing {
		b.page.say("Not measured: %s", why)
	}
	var columns []*column
	for _, p := range found {
		c := &column{who: p.who(), outcomes: map[string][]outcome{}, wide: map[string][]time.Duration{}}
		columns = append(columns, c)
		if err := b.measure(ctx, p, c); err != nil {
			if ctx.Err() != nil {
				return err
			}
			// One peer's failure must not hide what the others did.
			c.failure = err
			b.page.say("%s: %v", c.who.name(), err)
		}
	}
	b.page.say("")
	printTable(b.page, columns)
	for _, c := range columns {
		if c.failure != nil {
			return fmt.Errorf("%s was not measured wholly", c.who.name())
		}
	}
	if b.check && slices.ContainsFunc(columns, func(c *column) bool { return c.who.ours() && missed(c) }) {
		return errMissed
	}
	return nil
}

// repeats is how often a fault is made to a peer.
func (b *bench) repeats(p peer) int {
	switch w := p.who(); {
	case w.ours():
		return b.runs
	case w.slow():
		return b.slowRuns
	}
	return b.peerRuns
}

// measure fills one peer's column.
func (b *bench) measure(ctx context.Context, p peer, c *column) (err error) {
	b.page.chapter("%s", p.who().name())
	var d bed
	defer func() {
		if err != nil && ctx.Err() == nil && d.present != nil {
			err = fmt.Errorf("%w\n%s", err, d.present.Logs())
		}
		err = errors.Join(err, d.close())
	}()
	for _, m := range []struct {
		what string
		do   func(context.Context, peer, *lab.Lab, *column) error
	}{{atRest, b.restful}, {showTime, b.shows}} {
		if !slices.Contains(b.only, m.what) {
			continue
		}
		l, err := d.lab(ctx, p, b.network, nil)
		if err != nil {
			return err
		}
		if err := m.do(ctx, p, l, c); err != nil {
			return fmt.Errorf("measure %s: %w", m.what, err)
		}
	}
	var errs []error
	if slices.Contains(b.only, wideTime) && b.network && p.who().ours() {
		if err := b.wide(ctx, c); err != nil {
			errs = append(errs, fmt.Errorf("measure %s: %w", wideTime, err))
		}
	}
	for _, f := range faults() {
		if !slices.Contains(b.only, f.name) || f.network && !b.network || f.ours && !p.who().ours() {
			continue
		}
		if err := b.strikes(ctx, p, &d, f, c); err != nil {
			if ctx.Err() != nil {
				return err
			}
			// The other faults are measured all the same, with a new cluster.
			b.page.say("%v", err)
			errs = append(errs, err, d.close())
		}
	}
	return errors.Join(errs...)
}

// restful measures the hungriest of the three daemons while nothing happens.
func (b *bench) restful(ctx context.Context, p peer, l *lab.Lab, c *column) error {
	if err := sleep(ctx, b.calm); err != nil {
		return err
	}
	before := make([]lab.Usage, len(l.Nodes))
	for i, n := range l.Nodes {
		var err error
		if before[i], err = usage(p.daemons(n)); err != nil {
			return err
		}
	}
	began := time.Now()
	if err := sleep(ctx, b.rest); err != nil {
		return err
	}
	watched := time.Since(began)
	for i, n := range l.Nodes {
		after, err := usage(p.daemons(n))
		if err != nil {
			return err
		}
		share := 100 * (after.CPU - before[i].CPU).Seconds() / watched.Seconds()
		b.page.say("%s: %.2f %% of a core over %.0f s, %.1f MiB resident", n.Name, share, watched.Seconds(), mebibytes(after.Resident))
		c.cpu = append(c.cpu, share)
		c.resident = append(c.resident, mebibytes(after.Resident))
	}
	return nil
}

// usage adds up what several processes and their descendants have used.
func usage(pids []int) (sum lab.Usage, err error) {
	for _, pid := range pids {
		u, err := lab.UsageOf(pid)
		if err != nil {
			return sum, err
		}
		sum.CPU, sum.Resident = sum.CPU+u.CPU, sum.Resident+u.Resident
	}
	return sum, nil
}

func mebibytes(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// showRuns is how often the state is asked for.
const showRuns = 10

func (b *bench) shows(ctx context.Context, p peer, l *lab.Lab, c *column) error {
	for range showRuns {
		began := time.Now()
		if err := p.show(ctx, l.Node(2)); err != nil {
			return err
		}
		c.show = append(c.show, time.Since(began))
	}
	b.page.say("cluster show: %s", summary(c.show))
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
