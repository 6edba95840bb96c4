package verbs

import (
	"errors"
	"strings"
	"time"

	"repmgr/internal/lab"
)

const (
	nodesTable = "SELECT node_id, upstream_node_id, active, node_name, type, location, priority, repluser FROM repmgr.nodes ORDER BY 1"
	slotNames  = "SELECT node_id, slot_name FROM repmgr.nodes ORDER BY 1"
	slotsTable = "SELECT slot_name, slot_type, active FROM pg_replication_slots ORDER BY 1"
)

// script is what both programs are put through.
func (c *conforming) script() {
	c.mistakes()
	c.setUp()
	c.looks()
	c.checks()
	c.daemons()
	c.refusals()
	c.handOver()
	c.takeDown()
}

// mistakes are command lines that nothing can be done with.
func (c *conforming) mistakes() {
	must(c.t, c.l.Node(1).WriteConf(nil))
	for _, line := range []string{
		"", "cluster", "cluste show", "cluster shw", "cluster show extra", "--no-such-option cluster show",
		"cluster event --limit", "cluster event --limit=0", "cluster event --limit=x", "cluster show --csv --nagios",
		"daemon start --wait --no-wait", "node service --action=explode", "node rejoin", "witness register",
		"standby clone", "cluster event --node-id=0", "cluster show -L loud", "cluster show --compact=yes",
		"standby switchover --repmgrd-no-pause --repmgrd-force-unpause", "-f /nowhere/repmgr.conf cluster show",
		"--help", "cluster --help", "--version-number extra", "standby register --wait-sync=-1", "cluster cleanup -k -1",
	} {
		c.on(1, line)
	}
	c.on(1, "cluster show") // no server
	c.on(1, "node status")
	c.on(1, "node status --is-shutdown-cleanly", "lines")
	c.on(1, "node check --role")
	c.on(1, "service status")
	c.on(1, "CLUSTER SHOW -f /nowhere/repmgr.conf")
}

// setUp makes the cluster: a primary, two standbys of which one cascades, and a witness.
func (c *conforming) setUp() {
	one, two, three, four := c.l.Node(1), c.l.Node(2), c.l.Node(3), c.l.Node(4)
	must(c.t, one.InitPrimary(c.ctx))
	c.on(1, "cluster show")
	c.on(1, "standby register")
	c.on(1, "primary register --dry-run")
	c.on(1, "primary register")
	c.on(1, "primary register")
	c.on(1, "master register -F")
	c.on(1, "node status --is-shutdown-cleanly", "lines")

	must(c.t, two.WriteConf(nil))
	must(c.t, three.WriteConf(nil))
	c.on(2, "standby clone @1 --dry-run")
	c.on(2, "standby clone @1 -c --upstream-node-id=9")
	c.on(2, "standby clone @1 -c")
	c.on(2, "standby clone @1 -c")
	c.asks(1, "slots", slotsTable)
	must(c.t, two.Start(c.ctx))
	c.attached(1, 2)
	c.on(2, "standby clone @1 -c -F") // it runs
	c.on(2, "cluster show --csv", "csv")
	c.on(2, "node status")
	c.on(2, "standby register --upstream-node-id=2")
	c.on(2, "standby register --upstream-node-id=9")
	c.on(2, "standby register --dry-run")
	c.on(2, "standby register --wait-sync=60")
	c.on(2, "standby register")
	c.on(2, "standby register -F")
	c.on(3, "standby clone @2 -c --upstream-node-id=2")
	must(c.t, three.Start(c.ctx))
	c.attached(2, 3)
	c.on(3, "standby register --upstream-node-id=2")

	must(c.t, four.InitPrimary(c.ctx))
	must(c.t, four.WriteConf(nil))
	c.on(4, "witness register @4")
	c.on(4, "witness register @1 --dry-run")
	c.on(4, "witness register @1")
	c.on(4, "witness register @1")
	c.on(4, "witness register @1 -F")
	c.asks(1, "nodes", nodesTable)
	c.asks(4, "nodes", nodesTable)
	c.asks(1, "slot names", slotNames)
	c.asks(1, "slots", slotsTable)
	c.asks(2, "slots", slotsTable)
	c.replayed(1, 2)
	c.replayed(2, 3)
}

// attached waits until a standby streams.
func (c *conforming) attached(upstream, standby int) {
	c.t.Helper()
	must(c.t, lab.Wait(c.ctx, time.Minute, "the standby to stream", func() error {
		ok, err := c.l.Node(upstream).Attached(c.ctx, c.l.Node(standby))
		if err == nil && !ok {
			err = errNotYet
		}
		return err
	}))
}

// replayed waits until a standby has the records that its upstream has.
func (c *conforming) replayed(upstream, standby int) {
	c.t.Helper()
	becomes(c.t, c.ctx, "the records to be replayed", c.l.Node(standby), nodesTable, sql(c.t, c.ctx, c.l.Node(upstream), nodesTable))
}

// looks are the commands that only show something.
func (c *conforming) looks() {
	for _, node := range []int{1, 3} {
		c.on(node, "cluster show", "table")
		c.on(node, "cluster show --compact", "table")
		c.on(node, "cluster show --csv", "csv")
		c.on(node, "node status --csv", "csv")
	}
	c.on(4, "cluster show --csv", "csv")
	c.on(2, "cluster show @1", "table")
	c.on(1, "node status", "lines")
	c.on(1, "service status", "table")
	c.on(1, "service status --detail", "table")
	c.on(1, "daemon status --compact --detail", "table")
	c.on(1, "service status --csv", "csv")
	c.on(1, "cluster event", "header")
	c.on(1, "cluster events --compact", "table")
	c.on(1, "cluster event --csv --limit=3", "csv")
	c.on(1, "cluster event --csv --event=standby_register --all", "csv")
	c.on(1, "cluster event --csv --node-id=2 --event=standby_clone", "csv")
	c.on(1, "cluster event --csv --node-name=node3", "csv")
	c.on(1, "cluster event --event=nothing_such")
	c.on(1, "cluster event --node-id=77")
	c.on(1, "cluster event --node-name=nobody")
	c.on(1, "cluster cleanup")
	c.on(1, "cluster cleanup -k 7")
	c.on(1, "node service --list-actions --action=stop", "lines")
	c.on(1, "node service --list-actions --action=promote", "lines")
	c.on(1, "node service --action=reload")
	c.on(1, "node service --action=reload --dry-run")
}

// checks are those of one node, by themselves and as a monitoring system reads them.
func (c *conforming) checks() {
	for _, node := range []int{1, 2} {
		c.on(node, "node check", "lines")
		c.on(node, "node check --csv", "csv")
		for _, check := range []string{"role", "replication-lag", "archive-ready", "upstream", "downstream", "slots", "missing-slots", "data-directory-config", "repmgrd", "db-connection"} {
			c.on(node, "node check --"+check)
			c.on(node, "node check --nagios --"+check, "lines")
		}
		c.on(node, "node check --csv --role", "csv")
		c.on(node, "node check --csv --downstream", "csv")
	}
	c.on(2, "node check --role --upstream")
	c.on(1, "primary check --nagios --role", "lines")
}

// daemons are watched, paused and stopped.
func (c *conforming) daemons() {
	c.on(1, "service pause")
	c.on(1, "service unpause --dry-run")
	c.on(1, "service unpause")
	c.on(1, "daemon stop")
	must(c.t, c.l.StartDaemons(c.ctx))
	must(c.t, c.l.DaemonsWatch(c.ctx))
	must(c.t, lab.Wait(c.ctx, time.Minute, "every daemon to answer", func() error {
		r := c.l.Node(1).Repmgr(c.ctx, "service", "status", "--csv")
		if strings.Count(r.Stdout, ",1,1,") != 4 || strings.Count(r.Stdout, ",-1,default") != 1 {
			return errors.New(r.Stdout)
		}
		return nil
	}))
	c.newEvents() // the daemons record in any order
	c.on(1, "service status", "table")
	c.on(2, "service status --csv", "csv")
	c.on(1, "daemon pause --dry-run")
	c.on(1, "daemon pause")
	c.on(3, "service status --csv", "csv")
	c.on(1, "node check --repmgrd")
	c.on(1, "node check --nagios --repmgrd", "lines")
	c.on(2, "service unpause")
	c.on(4, "service status --csv", "csv")
	c.on(1, "daemon start")
	c.on(1, "cluster matrix", "table")
	c.on(2, "cluster crosscheck --csv", "csv")
	for _, n := range c.l.Nodes {
		_, err := n.StopDaemon(c.ctx)
		must(c.t, err)
	}
	c.newEvents()
}

// refusals are what must not be done to a cluster that is whole.
func (c *conforming) refusals() {
	c.on(1, "standby promote")
	c.on(2, "standby promote")
	c.on(2, "standby promote --dry-run")
	c.on(1, "standby follow")
	c.on(2, "standby follow --upstream-node-id=2")
	c.on(2, "standby follow --upstream-node-id=9")
	c.on(2, "node rejoin @1")
	c.on(1, "standby switchover")
	c.on(1, "primary unregister")
	c.on(1, "primary unregister --node-id=2")
	c.on(2, "standby unregister") // node 3 follows it
	c.on(1, "standby unregister --node-id=9")
	c.on(1, "witness unregister --node-id=2")
	c.on(3, "standby follow --upstream-node-id=1 --dry-run")
	c.on(3, "standby follow --upstream-node-id=1")
	c.attached(1, 3)
	c.asks(1, "nodes", nodesTable)
	c.asks(1, "slots", slotsTable)
	c.asks(2, "slots", slotsTable)
}

// handOver lets node 2 take the place of the primary, which comes back as its standby.
func (c *conforming) handOver() {
	c.replayed(1, 2)
	c.replayed(1, 3)
	must(c.t, c.l.Node(1).Stop(c.ctx, "fast"))
	c.primary = 2
	c.on(1, "node status --is-shutdown-cleanly", "lines")
	c.on(2, "cluster show", "table")
	c.on(2, "cluster show --csv", "csv")
	c.on(2, "node check --upstream")
	c.on(2, "service pause")
	c.on(3, "standby follow")
	c.on(2, "standby promote --dry-run")
	c.on(2, "standby promote")
	c.on(2, "cluster show --csv", "csv")
	c.on(3, "standby follow --dry-run")
	c.on(3, "standby follow")
	c.attached(2, 3)
	c.on(1, "node rejoin @2 --dry-run")
	c.on(1, "node rejoin @2")
	c.attached(2, 1)
	c.on(4, "witness register @2 -F")
	c.on(2, "cluster show --csv", "csv")
	c.asks(2, "nodes", nodesTable)
	c.asks(4, "nodes", nodesTable)
	c.asks(2, "slots", slotsTable)
}

// takeDown removes the records again.
func (c *conforming) takeDown() {
	c.on(3, "standby unregister")
	c.on(3, "standby unregister")
	c.on(4, "witness unregister --dry-run")
	c.on(4, "witness unregister")
	must(c.t, c.l.Node(1).Stop(c.ctx, "fast"))
	c.on(2, "standby unregister --node-id=1")
	c.on(2, "primary unregister")
	c.on(2, "primary unregister -F")
	c.asks(2, "nodes", nodesTable)
}
