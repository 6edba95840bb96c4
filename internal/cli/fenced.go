package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/record"
)

func fencedVerb() verb {
	return verb{
		name:  "service fenced",
		short: "say that a primary which is gone during a pause can write no more",
		long: `While the cluster is paused, or the primary's repmgrd was stopped, the primary holds its lease without a time limit, and nobody else is promoted until it takes one with a limit again. If its host is lost then, for good or for too long, this command ends that lease: a standby is promoted.

It is your word that the server of that node takes no writes: its host is off, its disk is destroyed, or its network is cut in both directions. If that is wrong there are two primaries, and what one of them took is lost. So the node's name is asked for, or taken from --yes=NAME. It is refused while the node's repmgrd is heard of, and while an operator's pause lasts (see "repmgr service unpause"). A lease with a time limit ends by itself, and needs no word.

It may be run on any node whose repmgrd runs; no server need answer. The event cluster_fenced is recorded when there is a primary again.`,
		example: `repmgr -f /etc/repmgr.conf service fenced --node-id=1 --dry-run
repmgr -f /etc/repmgr.conf service fenced --node-id=1
repmgr -f /etc/repmgr.conf service fenced --node-id=1 --yes=node1   # in a script`,
		options: []string{"node-id", "yes", "dry-run"},
		changes: true,
		check: func(s *Session) []error {
			if !s.Opt.Given("node-id") {
				return []error{errors.New("service fenced needs --node-id, the node that is fenced")}
			}
			return nil
		},
		run: serviceFenced,
	}
}

// fencedTimeout is longer than the daemon tries.
const fencedTimeout = 6 * time.Second

func serviceFenced(ctx context.Context, s *Session) error {
	view, err := s.localView(ctx, daemonTimeout)
	if err != nil {
		return fault.Wrap(err, fault.BadConfig, "the repmgrd of this node has to be asked").WithHint("start it, or run this command on another node")
	}
	p := view.Promotion
	if p == nil || p.Record == nil || p.Record.Rule != record.Quorum {
		return fault.New(fault.BadConfig, "the quorum rule is not in force, or this node is no member of the group: there is no lease to end")
	}
	m, found := p.Record.Member(s.Opt.NodeID)
	l := p.Record.Lease
	switch {
	case !found:
		return fault.New(fault.BadConfig, "node %d is no member of the group", s.Opt.NodeID)
	case l.Holder != m.Node || l.State != record.Indefinite:
		return fault.New(fault.BadConfig, "node %q (ID: %d) does not hold a lease without a time limit", m.Name, m.Node).
			WithDetail("The lease is %s, last held by node %d.", l.State, l.Holder).WithHint("a lease with a time limit ends by itself")
	}
	if s.Opt.DryRun {
		s.Talk.Info("the lease of node %q (ID: %d) would be ended, and a standby promoted", m.Name, m.Node)
		return nil
	}
	deed := fmt.Sprintf("A standby will be promoted. If the server of node %q (ID: %d) can still take writes, there will be two primaries.", m.Name, m.Node)
	if err := s.confirm(cluster.Node{ID: m.Node, Name: m.Name}, deed); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, fencedTimeout)
	defer cancel()
	client := api.DialUnix(s.Conf.StateDir())
	defer client.Close()
	if err := client.Fenced(ctx, m.Node); err != nil {
		var said *fault.Error
		if errors.As(err, &said) {
			return said
		}
		return fault.Wrap(err, fault.RepmgrdPause, "the lease could not be ended")
	}
	s.Talk.Say(Entry{Level: Warning, Text: fmt.Sprintf("the lease of node %q (ID: %d) is ended, on your word that it is fenced", m.Name, m.Node),
		Detail: "The standbys choose a new primary now.", Hint: "\"repmgr cluster explain\" shows how; do not start that node's server without its repmgrd"})
	return nil
}
