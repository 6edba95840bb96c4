package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
)

// A witness without PostgreSQL has no server to look at and no database to read
// the records from. It learns the members from the primary's daemon, and keeps
// what it learnt in its state directory.

// firstWithout is first of a witness without PostgreSQL: it must have been
// introduced to its cluster when it was registered.
func (e *eyes) firstWithout(known remembered) error {
	e.d.loop.view.Observe(failover.LocalSeen{Local: noServer()}, bootTime())
	if len(known.Nodes) > 0 && known.Certificate != "" {
		return nil
	}
	return fault.New(fault.BadConfig, "nothing is known yet of this witness's cluster").
		WithDetail("%s names no server: it is the configuration of a witness without PostgreSQL.", e.d.opt.ConfigFile).
		WithHint("Register it: repmgr -f %s witness register -h <the primary's host> -U repmgr -d repmgr", e.d.opt.ConfigFile)
}

func noServer() failover.Local { return failover.Local{At: bootTime(), State: failover.ServerNone} }

// watchMembers reads the members from the primary's daemon, now and then and when
// asked to, until ctx ends.
func (e *eyes) watchMembers(ctx context.Context) {
	tick := time.NewTicker(registryEvery)
	defer tick.Stop()
	for {
		if err := e.d.peers.learn(ctx); err != nil && ctx.Err() == nil {
			e.d.log.Debug("the members could not be read", "detail", err.Error())
		}
		select {
		case <-ctx.Done():
			return
		case <-e.kicks:
		case <-tick.C:
		}
		e.d.send(observed{failover.LocalSeen{Local: noServer()}})
	}
}

// learn takes over the members as the primary's daemon knows them. The others are
// not asked: their copy of the records may be an old one.
func (p *peers) learn(ctx context.Context) error {
	l := p.primaryLink()
	if l == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	m, err := l.client.Members(ctx)
	if err != nil || len(m.Nodes) == 0 {
		return err
	}
	p.mu.Lock()
	same := slices.Equal(m.Nodes, p.memory.Nodes) && maps.Equal(m.Daemons, p.memory.Endpoints)
	p.mu.Unlock()
	if same {
		return nil
	}
	if err := p.update(func(r *remembered) { r.Nodes, r.Endpoints = m.Nodes, m.Daemons }); err != nil {
		p.d.complain(slog.LevelWarn, err)
	}
	p.d.notice(fmt.Sprintf("%d nodes are registered", len(m.Nodes)), "detail", fmt.Sprintf("as node %d says", l.target.ID))
	p.d.send(observed{failover.NodesRead{Nodes: m.Nodes}})
	return nil
}

// primaryLink is the way to the daemon whose server takes the cluster's writes, as
// it says itself; nil: none does. Of two that say so the newer is meant.
func (p *peers) primaryLink() *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.links[p.primary]
}

// notePrimary keeps who takes the cluster's writes, for who reads the members.
func (p *peers) notePrimary(v *failover.View, now time.Time) {
	var best cluster.NodeID
	var newest cluster.Timeline
	for id, peer := range v.Peers {
		r := peer.Report
		if r.Type == cluster.Witness || r.Server != failover.ServerRunning || r.Role != cluster.Primary || now.Sub(peer.At) > lookTimeout {
			continue
		}
		if r.Position.Timeline > newest {
			best, newest = id, r.Position.Timeline
		}
	}
	p.mu.Lock()
	p.primary = best
	p.mu.Unlock()
}

// primaryIs reports whether that node takes the cluster's writes.
func (p *peers) primaryIs(node cluster.NodeID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.primary == node && node != 0
}

// daemons is where each node's daemon listens, this one included.
func (p *peers) daemons() map[cluster.NodeID]api.Endpoint {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[cluster.NodeID]api.Endpoint{}
	for _, n := range p.memory.Nodes {
		if t := targetOf(n, p.memory.Endpoints); t.Host != "" {
			out[n.ID] = api.Endpoint{Host: t.Host, Port: t.Port}
		}
	}
	return out
}
