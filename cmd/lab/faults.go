package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"repmgr/internal/lab"
)

// fault is something that befalls a primary.
type fault struct {
	name    string        // for --only
	label   string        // in the table
	target  time.Duration // of the median gap; zero: none
	conf    map[string]string
	ours    bool // it makes sense for our program alone
	network bool // nodes need networks of their own
	stays   bool // no failover is to come of it
	inPlace bool // the primary itself may come back and serve again
	kept    bool // every acknowledged row is promised, for ever: those of earlier runs in the same cluster are looked for too
	inside  bool // a client on the primary's side goes on writing
	load    bool // pgbench keeps the primary at half of what it can do
	command bool // strike is an operator's command, whose time counts
	strike  func(context.Context, peer, *lab.Node) error
	repair  func(context.Context, peer, *lab.Node) error // what a network, a hypervisor or an init system would do afterwards; may be nil
}

// faults are all that can be measured, in the order of the table.
func faults() []fault {
	short := map[string]string{"lease_ttl": "2s"}
	strict := map[string]string{"synchronous_mode": "strict"}
	switchover := func(ctx context.Context, p peer, n *lab.Node) error { return p.switchover(ctx, n) }
	off := func(ctx context.Context, _ peer, n *lab.Node) error { return n.PowerOff(ctx) }
	kill := func(ctx context.Context, _ peer, n *lab.Node) error { return n.Kill9(ctx) }
	return []fault{
		{name: "switchover", label: "standby switchover", target: 500 * time.Millisecond, network: true, command: true, strike: switchover},
		{name: "switchover-load", label: "the same, pgbench at half load", target: 500 * time.Millisecond, network: true, command: true, load: true, strike: switchover},
		{name: "crash", label: "SIGKILL of every postgres process", target: 500 * time.Millisecond, inPlace: true, strike: kill},
		{name: "crash-sync", label: "the same, synchronous_mode='strict'", target: 500 * time.Millisecond, conf: strict, ours: true, kept: true, strike: kill},
		{name: "host", label: "host gone", target: 6 * time.Second, network: true, strike: off, repair: boot},
		{name: "host-2s", label: "host gone, lease_ttl='2s'", target: 2500 * time.Millisecond, conf: short, ours: true, network: true, strike: off, repair: boot},
		{name: "hang", label: "postmaster and children SIGSTOPped", target: 6 * time.Second,
			strike: func(ctx context.Context, _ peer, n *lab.Node) error { return n.Pause(ctx) },
			repair: func(_ context.Context, _ peer, n *lab.Node) error { return n.Resume() }},
		{name: "partition", label: "partition: primary alone", target: 6 * time.Second, network: true, inside: true,
			strike: func(_ context.Context, _ peer, n *lab.Node) error { return n.Cut() },
			repair: func(_ context.Context, _ peer, n *lab.Node) error { return n.Heal() }},
		{name: "daemon-restart", label: "daemon SIGKILLed, restarted at once", ours: true, stays: true,
			strike: func(ctx context.Context, _ peer, n *lab.Node) error {
				return errors.Join(n.KillDaemon(ctx), n.StartDaemon(ctx))
			}},
		{name: "daemon", label: "daemon SIGKILLed, not restarted", ours: true,
			strike: func(ctx context.Context, _ peer, n *lab.Node) error { return n.KillDaemon(ctx) },
			repair: func(ctx context.Context, _ peer, n *lab.Node) error { return n.StartDaemon(ctx) }},
	}
}

// boot is what the init system of a host does when the power is back.
func boot(ctx context.Context, p peer, n *lab.Node) error {
	return errors.Join(n.Heal(), p.boot(ctx, n))
}

// outcome is what became of one fault.
type outcome struct {
	gap       time.Duration // until a write was acknowledged elsewhere
	gapAfter  time.Duration // the longest between that and the end
	promised  int           // rows that were acknowledged
	missing   int           // of these, those that the primary in the end does not have
	primaries int           // in the end
	back      time.Duration // from the repair, or the fault where there is none, until the cluster was whole
	broken    error         // why it was not, without a human
	took      time.Duration // of the operator's command; zero: there was none
	inside    *insideOutcome
}

// insideOutcome is what a client on the primary's side was told.
type insideOutcome struct {
	acknowledged int // after the cut
	missing      int // of these, in the end
	last         time.Duration
}

// Bounds and pauses of a run.
const (
	failoverTimeout = 3 * time.Minute
	failuresInRow   = 2                // runs that fail one after the other before a fault is given up
	shortCalm       = time.Second      // in which rows are written, where a series is long
	stayCalm        = 10 * time.Second // how long it is watched that nothing happens
	stayCut         = 3 * time.Second  // how long a fault lasts after the failover
)

// strikes measures one fault as often as it is asked for. A cluster that did
// not become whole, or in which a run failed, is replaced by a new one.
func (b *bench) strikes(ctx context.Context, p peer, bed *bed, f fault, c *column) error {
	total, inRow := b.repeats(p), 0
	var errs []error
	for i := range total {
		l, err := bed.lab(ctx, p, b.network, f.conf)
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		run := fmt.Sprintf("%s %d of %d", f.name, i+1, total)
		at := time.Now()
		o, victim, err := b.once(ctx, p, bed, f)
		if err != nil {
			b.keepLogs(l, p, f, i)
			errs = append(errs, fmt.Errorf("%s: %w", run, err), bed.close())
			if inRow++; ctx.Err() != nil || inRow == failuresInRow {
				break
			}
			b.page.say("%s failed; the next has a new cluster: %v", run, err)
			continue
		}
		inRow = 0
		c.outcomes[f.name] = append(c.outcomes[f.name], o)
		b.page.say("%s %s: %s", at.UTC().Format("15:04:05.000"), run, o)
		if o.bad() || f.target > 0 && o.gap > f.target && p.who().ours() {
			b.keepLogs(l, p, f, i)
		}
		if o.broken == nil {
			continue
		}
		if err := p.restore(ctx, l, victim); err != nil {
			b.page.say("%s: the next has a new cluster, since this one cannot be made whole: %v", run, err)
			if err := bed.close(); err != nil {
				return err
			}
		}
	}
	return errors.Join(errs...)
}

// once makes the fault, waits for the cluster to heal, undoes the fault, and
// waits for the cluster to be whole.
func (b *bench) once(ctx context.Context, p peer, bed *bed, f fault) (outcome, *lab.Node, error) {
	var o outcome
	l := bed.present
	client, err := l.NewClient(ctx)
	if err != nil {
		return o, nil, err
	}
	defer client.Close()
	victim, err := l.Primary(ctx)
	if err != nil {
		return o, nil, err
	}
	var inside *lab.Client
	if f.inside {
		if inside, err = victim.NewInsideClient(ctx); err != nil {
			return o, nil, err
		}
		defer inside.Close()
		inside.Mark()
	}
	if f.load {
		stop, err := b.halfLoad(ctx, bed)
		if err != nil {
			return o, nil, err
		}
		defer stop()
	}
	if err := b.calmDown(ctx, l, f); err != nil {
		return o, nil, err
	}
	client.Mark()
	if inside != nil {
		inside.Mark()
	}
	if err := f.strike(ctx, p, victim); err != nil {
		return o, nil, err
	}
	struck := time.Now()
	if f.command {
		o.took = struck.Sub(client.MarkedAt())
	}
	if err := outlive(ctx, f, client, victim, struck); err != nil {
		return o, nil, err
	}
	o.gap = client.Gap()
	repaired := client.MarkedAt()
	client.Mark()
	if f.repair != nil {
		if err := sleep(ctx, stayCut); err != nil {
			return o, nil, err
		}
		repaired = time.Now()
		if err := f.repair(ctx, p, victim); err != nil {
			return o, nil, err
		}
	}
	o.broken = lab.Wait(ctx, p.patience(), "a whole cluster", func() error { return p.whole(ctx, l) })
	o.back, o.gapAfter = time.Since(repaired), client.Gap()
	client.Close()
	promised := client.Writes()
	if f.kept {
		promised = append(bed.promised, promised...)
		bed.promised = promised
	}
	return o, victim, errors.Join(ctx.Err(), o.reckon(ctx, l, promised, inside))
}

// calmDown leaves the cluster alone before a fault. Where rows are promised that is
// until a standby vouches for each commit: a run is short then, since there are many.
func (b *bench) calmDown(ctx context.Context, l *lab.Lab, f fault) error {
	if !f.kept {
		return sleep(ctx, b.calm)
	}
	if err := lab.Wait(ctx, restoreTimeout, "a synchronous standby", func() error { return l.Synced(ctx) }); err != nil {
		return err
	}
	return sleep(ctx, min(b.calm, shortCalm))
}

// outlive waits until the clients are served again, by another node unless the
// victim may come back, or, where none is to take over, until it is sure that none does.
func outlive(ctx context.Context, f fault, client *lab.Client, victim *lab.Node, struck time.Time) error {
	if !f.stays {
		return lab.Wait(ctx, failoverTimeout, "a primary", func() error {
			if f.inPlace {
				return client.Resumed(victim, struck)
			}
			return client.Recovered(victim)
		})
	}
	if err := sleep(ctx, stayCalm); err != nil {
		return err
	}
	if last, err := client.Last(); last.Node != victim.ID {
		return fmt.Errorf("%s is not the primary any more, node%d is: %w", victim.Name, last.Node, err)
	}
	return nil
}

// reckon counts what of the promised is not there, and what the client inside was told.
func (o *outcome) reckon(ctx context.Context, l *lab.Lab, promised []lab.Write, inside *lab.Client) error {
	if len(promised) == 0 {
		return errors.New("no row was ever acknowledged")
	}
	// Where two call themselves primary, the one that the clients were led to counts.
	end := l.Node(promised[len(promised)-1].Node)
	primaries := l.Primaries(ctx)
	o.primaries = len(primaries)
	if len(primaries) == 1 {
		end = primaries[0]
	}
	missing, err := end.Missing(ctx, promised)
	if err != nil {
		return err
	}
	o.missing, o.promised = len(missing), len(promised)
	if inside == nil {
		return nil
	}
	inside.Close()
	return o.reckonInside(ctx, end, inside)
}

func (o *outcome) reckonInside(ctx context.Context, end *lab.Node, inside *lab.Client) error {
	o.inside = &insideOutcome{}
	after := func(w lab.Write) bool { return w.At.After(inside.MarkedAt()) }
	for _, w := range inside.Writes() {
		if after(w) {
			o.inside.acknowledged++
			o.inside.last = w.At.Sub(inside.MarkedAt())
		}
	}
	missing, err := end.Missing(ctx, inside.Writes())
	if err != nil {
		return err
	}
	for _, w := range missing {
		if after(w) {
			o.inside.missing++
		}
	}
	return nil
}

// String is one run's line.
func (o outcome) String() string {
	s := fmt.Sprintf("gap %.2f s, later at most %.2f s; %d of %d rows missing; primaries: %d; ",
		o.gap.Seconds(), o.gapAfter.Seconds(), o.missing, o.promised, o.primaries)
	if o.broken != nil {
		s += fmt.Sprintf("NOT WHOLE: %v", o.broken)
	} else {
		s += fmt.Sprintf("whole after %.1f s", o.back.Seconds())
	}
	if o.took > 0 {
		s += fmt.Sprintf("; the command took %.2f s", o.took.Seconds())
	}
	if o.inside != nil {
		s += fmt.Sprintf("; inside: %d acknowledged after the cut, the last at %.2f s, %d of them missing", o.inside.acknowledged, o.inside.last.Seconds(), o.inside.missing)
	}
	return s
}

// keepLogs saves the logs of a cluster that did not do as it should, where that was asked for.
func (b *bench) keepLogs(l *lab.Lab, p peer, f fault, run int) {
	if b.logs == "" {
		return
	}
	dir := filepath.Join(b.logs, fmt.Sprintf("%s-%s-%d", p.who().short(), f.name, run+1))
	if err := l.SaveLogs(dir); err != nil {
		b.page.say("%v", err)
		return
	}
	b.page.say("the logs are in %s", dir)
}

// bed is the cluster that faults are made in: kept as long as it is whole and
// its configuration is the one that is wanted.
type bed struct {
	present  *lab.Lab
	conf     string
	promised []lab.Write // that were acknowledged in it and must not be lost
	rate     int         // half of what pgbench can do in it, transactions a second; zero: not known
}

// lab is the present cluster, or a new one.
func (d *bed) lab(ctx context.Context, p peer, network bool, conf map[string]string) (*lab.Lab, error) {
	if d.present != nil && d.conf == fmt.Sprint(conf) {
		return d.present, nil
	}
	if err := d.close(); err != nil {
		return nil, err
	}
	var err error
	d.present, err = p.up(ctx, network, conf)
	d.conf = fmt.Sprint(conf)
	return d.present, err
}

// close ends the present cluster, if there is one.
func (d *bed) close() error {
	l := d.present
	d.present, d.promised, d.rate = nil, nil, 0
	if l == nil {
		return nil
	}
	return l.Close()
}
