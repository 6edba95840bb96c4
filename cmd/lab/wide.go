package main

import (
	"context"
	"errors"
	"time"

	"repmgr/internal/lab"
)

// How wide the cluster is that the commands ask, beside the one node that is real, and
// how often they ask.
const (
	wideFakes  = 39
	wideSilent = 10
	wideRuns   = 5
)

// wideBound is what a command may take: one connect timeout, and the rest for itself.
const wideBound = lab.ConnectTimeout + 200*time.Millisecond

// wide measures the commands that ask every node in a cluster of fifty, of which ten
// are silent.
func (b *bench) wide(ctx context.Context, c *column) (err error) {
	w, err := lab.NewWide(ctx, wideFakes, wideSilent)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	for _, command := range lab.WideCommands {
		for range wideRuns {
			began := time.Now()
			if err := w.Ask(ctx, command); err != nil {
				return err
			}
			c.wide[command] = append(c.wide[command], time.Since(began))
		}
		b.page.say("%s of %d nodes, %d of them silent: %s", command, 1+wideFakes+wideSilent, wideSilent, summary(c.wide[command]))
	}
	return nil
}

// wideRows are the lines of the table.
func wideRows() (rows []row) {
	for _, command := range lab.WideCommands {
		rows = append(rows, row{"50 nodes, 10 silent: " + command + ", median", wideBound.Seconds(), "%.2f s",
			func(c *column) (float64, bool) { return median(c.wide[command]) }})
	}
	return rows
}
