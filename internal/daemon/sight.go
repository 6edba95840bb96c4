package daemon

import (
	"context"
	"sync"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/pg"
	"repmgr/internal/registry"
)

// sightBound is how long a server may take to answer by way of its daemon. Whoever has
// not answered by then is asked by the command itself.
const sightBound = 500 * time.Millisecond

// Sight is what the own server shows now.
func (b backend) Sight(ctx context.Context) (api.Sight, error) {
	ctx, cancel := context.WithTimeout(ctx, sightBound)
	defer cancel()
	_, seen, err := b.d.see(ctx)
	if err != nil {
		return api.Sight{}, err
	}
	return api.Sight{Server: seen, Report: b.View().Own}, nil
}

// Sights is what all servers show now, each asked by its own daemon at the same time.
func (b backend) Sights(ctx context.Context) (api.Sights, error) {
	ctx, cancel := context.WithTimeout(ctx, sightBound)
	defer cancel()
	others := b.d.peers.askSights(ctx)
	nodes, seen, err := b.d.see(ctx)
	if err != nil {
		return api.Sights{}, err
	}
	view := b.View()
	out := api.Sights{Nodes: nodes, Seen: others(), Promotion: view.Promotion}
	out.Seen[b.d.cfg.NodeID] = api.Sight{Server: seen, Report: view.Own}
	return out, nil
}

// askSights has every other daemon ask its server; the function that it returns waits for the
// answers. A daemon that was silent the last time is left out: that may change by its next
// report, and is for whoever asks to find out.
func (p *peers) askSights(ctx context.Context) func() map[cluster.NodeID]api.Sight {
	var all sync.WaitGroup
	var mu sync.Mutex
	seen := map[cluster.NodeID]api.Sight{}
	for _, l := range p.list() {
		if l.failing() {
			continue
		}
		all.Go(func() {
			s, err := l.client.Sight(ctx)
			if err != nil {
				p.d.log.Debug("a daemon does not say what its server shows", "detail", err.Error())
				return
			}
			mu.Lock()
			defer mu.Unlock()
			seen[l.target.ID] = s
		})
	}
	return func() map[cluster.NodeID]api.Sight { all.Wait(); return seen }
}

// see asks the own server, over the session that is kept for that, for the records and
// for what is seen of it. Nothing that was known before goes into the answer, and what a new
// session would not have shown is no answer either: a postmaster that is stopped or gone
// lets nobody in while its sessions go on for a while (safety notes, A8 and A11).
func (d *Daemon) see(ctx context.Context) ([]cluster.Node, cluster.Sight, error) {
	cfg := d.eyes.cfg.Load()
	if cfg.WithoutServer() {
		own, found := cluster.Find(d.peers.nodes(), cfg.NodeID)
		if !found {
			return nil, cluster.Sight{}, fault.New(fault.DBConn, "no record of this witness is known")
		}
		return nil, cluster.Sight{Own: &own, Reach: cluster.Up}, nil
	}
	if host.Postmaster(cfg.DataDirectory) == 0 || host.PostmasterStopped(cfg.DataDirectory) {
		return nil, cluster.Sight{}, fault.New(fault.DBConn, "the postmaster of the own server is gone or stopped")
	}
	var nodes []cluster.Node
	var seen cluster.Sight
	err := d.lend(ctx, func(conn *pg.Conn) (err error) {
		if nodes, err = registry.Nodes(ctx, conn); err != nil {
			return err
		}
		own, found := cluster.Find(nodes, cfg.NodeID)
		same := found && own.Conninfo == cfg.Conninfo // else others are led elsewhere by the record
		own.Conninfo = registry.WithoutSecrets(own.Conninfo)
		seen = registry.LookBy(ctx, conn, own, func(context.Context) (cluster.Node, error) { return own, nil })
		if !same || seen.Recovery == cluster.RecoveryUnknown || seen.Senders == nil {
			return fault.New(fault.DBQuery, "the own server did not show all").WithDetail("%s", seen.Failure)
		}
		return nil
	})
	return nodes, seen, err
}

// lend has something asked in the session that is kept for questions. Where there is none, or
// where it has ended, as with a restart of the server, another is opened and kept.
func (d *Daemon) lend(ctx context.Context, ask func(*pg.Conn) error) error {
	select {
	case d.asking <- struct{}{}:
		defer func() { <-d.asking }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if conn := d.asked.take(); conn != nil {
		err := ask(conn)
		if !conn.IsClosed() {
			registry.Close(d.asked.put(conn))
			return err
		}
		if ctx.Err() != nil {
			return err
		}
	}
	conn, err := d.own(ctx, d.eyes.cfg.Load())
	if err != nil {
		return err
	}
	if err = ask(conn); !conn.IsClosed() {
		registry.Close(d.asked.put(conn))
	}
	return err
}
