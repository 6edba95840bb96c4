package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"repmgr/internal/lab"
)

// How long the demo waits for what it shows.
const (
	healTimeout   = 90 * time.Second
	calm          = 2 * time.Second // of ordinary life before something happens
	enoughRows    = 100
	writesTimeout = 30 * time.Second
)

func demoCommand() *cobra.Command {
	var keep, teardown bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Three nodes, a client, and a primary that dies",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if teardown {
				return teardownKept(cmd.Context(), stdoutPage())
			}
			d := &demo{page: stdoutPage(), keep: keep}
			return d.run(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "leave the cluster running in the end, and say how to play with it")
	cmd.Flags().BoolVar(&teardown, "teardown", false, "end and remove the clusters that were kept")
	return cmd
}

func teardownKept(ctx context.Context, p *page) error {
	kept := lab.Kept()
	if len(kept) == 0 {
		p.say("No cluster was kept.")
	}
	for _, dir := range kept {
		if err := lab.Teardown(ctx, dir); err != nil {
			return err
		}
		p.say("Removed %s.", dir)
	}
	return nil
}

// demo is one showing.
type demo struct {
	page   *page
	keep   bool
	lab    *lab.Lab
	client *lab.Client
}

func (d *demo) run(ctx context.Context) (err error) {
	d.lab, err = lab.New(lab.Options{Quorum: true, Settings: map[string]string{"wal_log_hints": "on"}, Echo: func(n *lab.Node, command string) { d.page.command(n.Name, d.shorten(command)) }})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.end(ctx, err)) }()
	for _, act := range []func(context.Context) error{d.build, d.write, d.kill, d.comeBack, d.reckon} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	return nil
}

// shorten leaves the lab's folder out of a command, for the reader's sake.
func (d *demo) shorten(command string) string { return strings.ReplaceAll(command, d.lab.Dir+"/", "") }

// build makes the cluster.
func (d *demo) build(ctx context.Context) error {
	d.page.chapter("A cluster of three nodes: PostgreSQL %d, on loopback ports, as user %s, in %s", d.lab.Major, d.lab.Account(), d.lab.Dir)
	if err := d.lab.BringUp(ctx); err != nil {
		return err
	}
	if err := d.lab.DaemonsWatch(ctx); err != nil {
		return err
	}
	return d.show(ctx, d.lab.Node(1), "cluster", "show")
}

// show runs a command and quotes its answer.
func (d *demo) show(ctx context.Context, n *lab.Node, args ...string) error {
	result := n.Repmgr(ctx, args...)
	d.page.quote(result.Stdout)
	if result.Stderr != "" {
		d.page.quote(result.Stderr)
	}
	// Warnings about a node that is down are part of the show, and of the exit status.
	if result.Code < 0 {
		return result.Err()
	}
	return nil
}

// write starts the client.
func (d *demo) write(ctx context.Context) (err error) {
	d.page.chapter("A client writes one row after the other, and counts what was acknowledged")
	if d.client, err = d.lab.NewClient(ctx); err != nil {
		return err
	}
	began := time.Now()
	err = lab.Wait(ctx, writesTimeout, "the client's first rows", func() error {
		if n := d.client.Acknowledged(); n < enoughRows || time.Since(began) < calm {
			_, err := d.client.Last()
			return errors.Join(fmt.Errorf("%d were acknowledged", n), err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	rows := d.client.Acknowledged()
	d.page.say("%d rows were acknowledged in %.1f s, by node1.", rows, time.Since(began).Seconds())
	return nil
}

// kill ends the primary and shows how the cluster heals.
func (d *demo) kill(ctx context.Context) error {
	primary := d.lab.Node(1)
	processes, err := primary.Processes()
	if err != nil {
		return err
	}
	d.page.chapter("SIGKILL to the %d processes of the primary, node1, now", len(processes))
	d.client.Mark()
	w := watch(d.page, d.lab, d.client)
	defer w.stop()
	if err := primary.Kill9(ctx); err != nil {
		return err
	}
	if err := lab.Wait(ctx, healTimeout, "the client to be served again", func() error { return d.client.Recovered(primary) }); err != nil {
		return err
	}
	return d.othersFollow(ctx, primary)
}

// othersFollow waits until every standby but the one given streams from the new primary.
func (d *demo) othersFollow(ctx context.Context, except *lab.Node) error {
	return lab.Wait(ctx, healTimeout, "the other standby to follow", func() error {
		primary, err := d.lab.Primary(ctx)
		if err != nil {
			return err
		}
		for _, n := range d.lab.Nodes {
			if n == primary || n == except {
				continue
			}
			if attached, err := primary.Attached(ctx, n); err != nil || !attached {
				return errors.Join(fmt.Errorf("%s does not stream from %s", n.Name, primary.Name), err)
			}
		}
		return nil
	})
}

// comeBack watches the old primary become a standby.
func (d *demo) comeBack(ctx context.Context) error {
	primary, err := d.lab.Primary(ctx)
	if err != nil {
		return err
	}
	if err := d.show(ctx, primary, "cluster", "show"); err != nil {
		return err
	}
	old := d.lab.Node(1)
	d.page.chapter("The old primary comes back as a standby, by itself")
	w := watch(d.page, d.lab, d.client)
	defer w.stop()
	err = lab.Wait(ctx, healTimeout, "node1 to follow the new primary", func() error {
		if attached, err := primary.Attached(ctx, old); err != nil || !attached {
			return errors.Join(errors.New("it does not stream"), err)
		}
		return nil
	})
	if err == nil {
		w.tell(old.Name, green, "follows "+primary.Name)
	}
	return err
}

// reckon shows the final state and what the client lost.
func (d *demo) reckon(ctx context.Context) error {
	d.page.chapter("The end")
	primary, err := d.lab.Primary(ctx)
	if err != nil {
		return err
	}
	if err := d.othersFollow(ctx, nil); err != nil {
		return err
	}
	for _, args := range [][]string{{"cluster", "show"}, {"service", "status"}, {"cluster", "event", "--limit=12"}} {
		if err := d.show(ctx, primary, args...); err != nil {
			return err
		}
	}
	gap := d.client.Gap()
	d.client.Close()
	missing, err := d.client.Missing(ctx)
	if err != nil {
		return err
	}
	d.page.say("")
	d.page.say("The client: %d rows acknowledged, longest gap %s, %s.", d.client.Acknowledged(),
		d.page.paint(bold, fmt.Sprintf("%d ms", gap.Milliseconds())), d.page.paint(bold, fmt.Sprintf("%d rows lost", len(missing))))
	if len(missing) > 0 {
		d.page.say("(Replication is asynchronous here: what the standbys had not received when the primary died is lost. synchronous replication prevents it. The log of node1 names each discarded transaction.)")
	}
	return nil
}

// end removes the cluster, or says how to play with it.
func (d *demo) end(ctx context.Context, failure error) error {
	if d.client != nil {
		d.client.Close()
	}
	if failure != nil && ctx.Err() == nil {
		d.page.chapter("What the logs say")
		d.page.quote(d.lab.Logs())
	}
	if d.keep && failure == nil {
		return d.playground()
	}
	if err := d.lab.Close(); err != nil {
		return err
	}
	d.page.say("Everything was stopped and removed.")
	return nil
}

func (d *demo) playground() error {
	if err := d.lab.Keep(); err != nil {
		return err
	}
	d.page.chapter("It goes on running; play with it")
	for _, line := range d.lab.Playground() {
		d.page.say("  %s", line)
	}
	return nil
}
