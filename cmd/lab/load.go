package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"repmgr/internal/lab"
)

// How the load of a fault is made: pgbench's own transactions (manual, "pgbench").
const (
	loadScale   = 10
	loadClients = 8
	fullFor     = 5 * time.Second // for which it does what it can, to find out what half of that is
)

// pgbench runs it against a node, in the client's database.
func pgbench(ctx context.Context, on *lab.Node, args ...string) lab.Result {
	where := []string{"-h", on.Host, "-p", strconv.Itoa(on.Port), "-U", "app"}
	return on.Run(ctx, "pgbench", append(append(where, args...), "app")...)
}

// processed reads from what pgbench prints how much it did.
func processed(text string) int {
	_, rest, _ := strings.Cut(text, "number of transactions actually processed: ")
	word, _, _ := strings.Cut(rest, "\n")
	word, _, _ = strings.Cut(word, "/")
	count, _ := strconv.Atoi(strings.TrimSpace(word))
	return count
}

// halfLoad keeps the primary, whichever node that is, at half of what it can do until stop
// is called. What it can do is found out once for a cluster.
func (b *bench) halfLoad(ctx context.Context, d *bed) (stop func(), err error) {
	l := d.present
	if d.rate == 0 {
		primary, err := l.Primary(ctx)
		if err != nil {
			return nil, err
		}
		if err := pgbench(ctx, primary, "-i", "-q", "-s", strconv.Itoa(loadScale)).Err(); err != nil {
			return nil, err
		}
		full := pgbench(ctx, primary, "-n", "-c", strconv.Itoa(loadClients), "-j", "2", "-T", strconv.Itoa(int(fullFor.Seconds())))
		if d.rate = processed(full.Stdout) / int(fullFor.Seconds()) / 2; d.rate == 0 {
			return nil, fmt.Errorf("pgbench did nothing: %s", full.Stderr)
		}
		b.page.say("half of what pgbench can do here: %d transactions a second", d.rate)
	}
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		for sleep(ctx, 50*time.Millisecond) == nil {
			if primary, err := l.Primary(ctx); err == nil {
				pgbench(ctx, primary, "-n", "-c", strconv.Itoa(loadClients), "-j", "2", "-R", strconv.Itoa(d.rate), "-T", "600")
			}
		}
	})
	return func() { cancel(); done.Wait() }, nil
}
