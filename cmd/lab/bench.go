package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
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
	slowRuns int
	rest     time.Duration
	calm     time.Duration
	only     []string
	check    bool
	network  bool // nodes have networks of their own
}

// The things that are measured.
const (
	crash    = "crash"
	hostGone = "host"
	atRest   = "rest"
	showTime = "show"
)

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
	flags.IntVar(&b.runs, "runs", 10, "how often each fault is made")
	flags.IntVar(&b.slowRuns, "slow-runs", 1, "the same for repmgr 5 at its default settings, which takes a minute each time")
	flags.DurationVar(&b.rest, "rest", 20*time.Second, "how long a daemon at rest is watched")
	flags.DurationVar(&b.calm, "calm", 3*time.Second, "how long the cluster is left alone before a fault")
	flags.StringSliceVar(&b.only, "only", []string{crash, hostGone, atRest, showTime}, "what to measure")
	flags.StringSliceVar(&names, "peers", nil, "whom to measure, by number: 1 is ours (default: all that are installed)")
	flags.BoolVar(&b.check, "check", false, "exit with status 2 if a figure of ours misses its target")
	return cmd
}

func (b *bench) run(ctx context.Context, names []string) error {
	b.network = os.Geteuid() == 0
	if !b.network && slices.Contains(b.only, hostGone) {
		b.page.say("A host that is gone needs network namespaces, and they need root: not measured.")
	}
	found, missing := peers(ctx, b.slowRuns)
	for _, why := range missing {
		b.page.say("Not measured: %s", why)
	}
	var columns []*column
	for i, p := range found {
		if len(names) > 0 && !slices.Contains(names, fmt.Sprint(i+1)) {
			continue
		}
		c := &column{title: p.name()}
		columns = append(columns, c)
		if err := b.measure(ctx, p, c); err != nil {
			if ctx.Err() != nil {
				return err
			}
			// One peer's failure must not hide what the others did.
			c.failure = err
			b.page.say("%s: %v", p.name(), err)
		}
	}
	b.page.say("")
	printTable(b.page, columns)
	for _, c := range columns {
		if c.failure != nil {
			return fmt.Errorf("%s was not measured wholly", c.title)
		}
	}
	if b.check && missed(columns[0]) {
		return errMissed
	}
	return nil
}

// measure fills one peer's column, with one cluster.
func (b *bench) measure(ctx context.Context, p peer, c *column) (err error) {
	b.page.chapter("%s", p.name())
	l, err := p.up(ctx, b.network)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w\n%s", err, l.Logs())
		}
		err = errors.Join(err, l.Close())
	}()
	for _, m := range []struct {
		what string
		do   func(context.Context, peer, *lab.Lab, *column) error
	}{{atRest, b.restful}, {showTime, b.shows}, {crash, b.crashes}, {hostGone, b.hostsGone}} {
		if !slices.Contains(b.only, m.what) || (m.what == hostGone && !b.network) {
			continue
		}
		if err := m.do(ctx, p, l, c); err != nil {
			return fmt.Errorf("measure %s: %w", m.what, err)
		}
	}
	return nil
}

// restful measures the hungriest of the three daemons while nothing happens.
func (b *bench) restful(ctx context.Context, p peer, l *lab.Lab, c *column) error {
	if err := sleep(ctx, b.calm); err != nil {
		return err
	}
	before := make([]lab.Usage, len(l.Nodes))
	for i, n := range l.Nodes {
		var err error
		if before[i], err = lab.UsageOf(p.daemon(n)); err != nil {
			return err
		}
	}
	began := time.Now()
	if err := sleep(ctx, b.rest); err != nil {
		return err
	}
	watched := time.Since(began)
	for i, n := range l.Nodes {
		after, err := lab.UsageOf(p.daemon(n))
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

func (b *bench) crashes(ctx context.Context, p peer, l *lab.Lab, c *column) error {
	kill := func(ctx context.Context, n *lab.Node) error { return n.Kill9(ctx) }
	return b.faults(ctx, p, l, fault{"crash", kill, &c.crash, &c.crashLost})
}

func (b *bench) hostsGone(ctx context.Context, p peer, l *lab.Lab, c *column) error {
	powerOff := func(ctx context.Context, n *lab.Node) error { return n.PowerOff(ctx) }
	return b.faults(ctx, p, l, fault{"host gone", powerOff, &c.host, &c.hostLost})
}

// fault is something that befalls a primary, and where its figures go.
type fault struct {
	name string
	make func(context.Context, *lab.Node) error
	gaps *[]time.Duration
	lost *[]int
}

// failoverTimeout bounds the wait for a new primary.
const failoverTimeout = 3 * time.Minute

func (b *bench) faults(ctx context.Context, p peer, l *lab.Lab, f fault) error {
	total := p.repeats(b.runs)
	for i := range total {
		gap, lost, err := b.once(ctx, p, l, f)
		if err != nil {
			return fmt.Errorf("%s %d of %d: %w", f.name, i+1, total, err)
		}
		*f.gaps, *f.lost = append(*f.gaps, gap), append(*f.lost, lost)
		b.page.say("%s %d of %d: gap %.2f s, %d rows lost", f.name, i+1, total, gap.Seconds(), lost)
	}
	return nil
}

// once makes the fault, waits for the cluster to heal, and makes it whole again.
func (b *bench) once(ctx context.Context, p peer, l *lab.Lab, f fault) (time.Duration, int, error) {
	client, err := l.NewClient(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer client.Close()
	if err := sleep(ctx, b.calm); err != nil {
		return 0, 0, err
	}
	victim, err := l.Primary(ctx)
	if err != nil {
		return 0, 0, err
	}
	client.Mark()
	if err := f.make(ctx, victim); err != nil {
		return 0, 0, err
	}
	if err := lab.Wait(ctx, failoverTimeout, "a new primary", func() error { return client.Recovered(victim) }); err != nil {
		return 0, 0, err
	}
	gap := client.Gap()
	client.Close()
	missing, err := client.Missing(ctx)
	if err != nil {
		return 0, 0, err
	}
	return gap, len(missing), p.restore(ctx, l, victim)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
