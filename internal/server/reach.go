package server

import (
	"context"

	"repmgr/internal/fault"
	"repmgr/internal/pg"
)

// Reach finds the end of a standby's WAL while clients wait, and leaves its WAL receiver
// alone: so the position is a lower bound, and Seal is for where another matters. The
// session is ready, if that is of use (from Ready; nil: none), and whoever calls it closes it.
func (o Own) Reach(ctx context.Context, ready *pg.Conn) (*pg.Conn, Position, error) {
	c, standby, err := o.inRecovery(ctx, ready)
	if err != nil {
		return nil, Position{}, err
	}
	at, err := o.reach(ctx, c, standby)
	if err != nil {
		hangUp(c)
		return nil, Position{}, err
	}
	return c, at, nil
}

func (o Own) reach(ctx context.Context, c *pg.Conn, standby bool) (Position, error) {
	if !standby {
		return Position{}, notAStandby()
	}
	if err := o.mustBeWhole(); err != nil {
		return Position{}, err
	}
	p, err := c.Progress(ctx)
	switch {
	case err != nil:
		return Position{}, err
	case p.Replayed == 0:
		return Position{}, fault.New(fault.FollowFail, "the server names no replayed position")
	}
	return o.end(ctx, p.Timeline, p.Replayed)
}
