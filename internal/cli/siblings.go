package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/pg"
	"repmgr/internal/registry"
)

// siblings are the nodes that followed the former primary, and whose daemons can
// be told to follow the new one.
type siblings struct {
	nodes []cluster.Node
	fleet fleet
}

// findSiblings asks the daemon of every node whether it is there. One that is not
// makes it fail, unless --force was given.
func (s *Session) findSiblings(ctx context.Context, nodes []cluster.Node) (siblings, error) {
	c, err := s.Connect(ctx)
	if err != nil {
		return siblings{}, err
	}
	defer registry.Close(c)
	f, err := s.daemons(ctx, c)
	if err != nil {
		return siblings{}, err
	}
	found := siblings{fleet: f}
	var silent []string
	for _, a := range registry.AskAll(ctx, nodes, func(ctx context.Context, n cluster.Node) (api.Health, error) {
		var h api.Health
		err := f.ask(ctx, n.ID, func(ctx context.Context, c *api.Client) (err error) {
			h, err = c.Health(ctx)
			return err
		})
		return h, err
	}) {
		switch {
		case a.Node.WithoutServer(): // its record is all that there is to change
		case a.Err != nil:
			silent = append(silent, fmt.Sprintf("%s: %v", named(a.Node), a.Err))
		default:
			found.nodes = append(found.nodes, a.Node)
		}
	}
	if len(silent) > 0 {
		e := fault.New(fault.BadConfig, "%d of %d siblings cannot be told to follow", len(silent), len(nodes)).
			WithDetail("%s", strings.Join(silent, "; ")).
			WithHint("their repmgrd must run; with -F/--force they are left: run \"repmgr standby follow\" on each then")
		if !s.Opt.Force {
			return found, e
		}
		s.warn(e)
	}
	return found, found.fit(ctx, c)
}

// fit finds out whether the new primary can take all of them.
func (b siblings) fit(ctx context.Context, c *pg.Conn) error {
	used, limit, err := c.WalSenders(ctx)
	standbys := len(b.standbys())
	if err != nil || limit-used >= standbys {
		return err
	}
	return fault.New(fault.BadConfig, "too few free WAL senders for the siblings").
		WithDetail("max_wal_senders is %d, of which %d are in use; %d siblings are to follow", limit, used, standbys).
		WithHint("raise max_wal_senders of this server, and restart it")
}

// standbys are those of them that stream.
func (b siblings) standbys() []cluster.Node {
	var out []cluster.Node
	for _, n := range b.nodes {
		if n.Role == cluster.Standby {
			out = append(out, n)
		}
	}
	return out
}

// follow tells all of them at the same time to follow the local node, and waits
// for the standbys until they are attached. It returns what did not come to pass.
func (b siblings) follow(ctx context.Context, s *Session) []string {
	var left []string
	for _, a := range registry.AskAll(ctx, b.nodes, func(ctx context.Context, n cluster.Node) (struct{}, error) {
		return struct{}{}, b.fleet.ask(ctx, n.ID, func(ctx context.Context, c *api.Client) error { return c.Follow(ctx, s.Conf.NodeID) })
	}) {
		if a.Err != nil {
			left = append(left, fmt.Sprintf("%s: %v", named(a.Node), a.Err))
		} else {
			s.Talk.Info("%s was told to follow", named(a.Node))
		}
	}
	if len(left) > 0 {
		return left
	}
	ctx, cancel := context.WithTimeout(ctx, s.Conf.StandbyFollowTimeout)
	defer cancel()
	for {
		away := b.away(ctx, s)
		if len(away) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return away
		case <-time.After(siblingsPoll):
		}
	}
}

// siblingsPoll is the time between two looks at who is attached.
const siblingsPoll = 200 * time.Millisecond

// away says which standbys do not stream from the local server.
func (b siblings) away(ctx context.Context, s *Session) []string {
	c, err := s.Connect(ctx)
	if err != nil {
		return []string{err.Error()}
	}
	defer registry.Close(c)
	var out []string
	for _, n := range b.standbys() {
		if at, _, err := c.Attached(ctx, n.Name); err != nil || at != pg.Attached {
			out = append(out, fmt.Sprintf("%s has not attached within standby_follow_timeout (%s)", named(n), s.Conf.StandbyFollowTimeout))
		}
	}
	return out
}
