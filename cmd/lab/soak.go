package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"repmgr/internal/lab"
)

// soak lets a whole cluster work as hard as the machine can, and watches that
// nothing fails over: a slow server, disk or link is no dead one.
type soak struct {
	page       *page
	lasts      time.Duration
	clients    int
	scale      int
	checkpoint time.Duration
	roundTrip  time.Duration
	ttl        string
}

func soakCommand() *cobra.Command {
	s := &soak{}
	cmd := &cobra.Command{
		Use:   "soak",
		Short: "Saturate a cluster with pgbench, and see that nothing fails over",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s.page = stdoutPage()
			return s.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&s.lasts, "for", time.Hour, "how long")
	flags.IntVar(&s.clients, "clients", 8, "sessions of pgbench; 0: none")
	flags.IntVar(&s.scale, "scale", 20, "scale of pgbench's tables")
	flags.DurationVar(&s.checkpoint, "checkpoint", 30*time.Second, "how often a checkpoint is forced")
	flags.DurationVar(&s.roundTrip, "round-trip", 0, "make every way there and back that long")
	flags.StringVar(&s.ttl, "lease-ttl", "", "lease_ttl, if not the default")
	return cmd
}

func (s *soak) run(ctx context.Context) (err error) {
	// A standby may fall behind by more than wal_keep_size over slow links.
	conf := map[string]string{"use_replication_slots": "true"}
	if s.ttl != "" {
		conf["lease_ttl"] = s.ttl
	}
	l, err := (&family{}).up(ctx, true, conf)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if s.roundTrip > 0 {
		if err := l.Delay(s.roundTrip); err != nil {
			return err
		}
	}
	primary, err := l.Primary(ctx)
	if err != nil {
		return err
	}
	if s.clients > 0 {
		if err := pgbench(ctx, primary, "-i", "-q", "-s", strconv.Itoa(s.scale)).Err(); err != nil {
			return err
		}
	}
	before, err := primary.Report(ctx)
	if err != nil {
		return err
	}
	s.page.say("%s is the primary in term %d, on timeline %d; %s of load begin.", primary.Name, before.Term, before.Position.Timeline, s.lasts)
	transactions, checkpoints, err := s.load(ctx, l, primary)
	if err != nil {
		return err
	}
	after, err := primary.Report(ctx)
	if err != nil {
		return err
	}
	s.page.say("%s, %d clients: %d transactions (%.0f a second), %d checkpoints; term %d before and %d after.", s.lasts, s.clients,
		transactions, float64(transactions)/s.lasts.Seconds(), checkpoints, before.Term, after.Term)
	if after.Term != before.Term {
		return fmt.Errorf("something failed over: term %d became term %d", before.Term, after.Term)
	}
	began := time.Now()
	if err := becomeWhole(ctx, &family{}, l); err != nil {
		return fmt.Errorf("%w\n%s", err, l.Logs())
	}
	s.page.say("All standbys stream, %s after the end of the load.", time.Since(began).Round(100*time.Millisecond))
	return nil
}

// load runs pgbench, checkpoints and a watch of the term until the time is over.
func (s *soak) load(ctx context.Context, l *lab.Lab, primary *lab.Node) (transactions, checkpoints int, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.lasts)
	defer cancel()
	var all sync.WaitGroup
	all.Go(func() {
		for s.clients > 0 && ctx.Err() == nil {
			out := pgbench(ctx, primary, "-n", "-c", strconv.Itoa(s.clients), "-j", "2", "-T", "60")
			transactions += processed(out.Stdout)
		}
	})
	all.Go(func() {
		for sleep(ctx, s.checkpoint) == nil {
			if _, err := primary.SQL(ctx, "CHECKPOINT"); err == nil {
				checkpoints++
			}
		}
	})
	minute := time.Now()
	for sleep(ctx, 5*time.Second) == nil {
		p, lookErr := l.Primary(ctx)
		if lookErr == nil && p != primary {
			err = fmt.Errorf("%s is the primary now\n%s", p.Name, l.Logs())
			cancel()
		}
		if time.Since(minute) >= time.Minute {
			minute = time.Now()
			r, reportErr := primary.Report(ctx)
			behind, behindErr := primary.SQL(ctx, "SELECT coalesce(string_agg(application_name || ' ' || round((pg_current_wal_lsn() - flush_lsn) / 1048576), ', '), 'none') FROM pg_stat_replication")
			s.page.say("%s term %d, rule %s, position %s; standbys and how many MB they lack: %s (%v)", minute.UTC().Format("15:04:05"), r.Term, r.Rule, r.Position.LSN,
				behind, errors.Join(lookErr, reportErr, behindErr))
		}
	}
	all.Wait()
	return transactions, checkpoints, err
}
