package lab

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Crowd takes every connection of the node's server that is not kept for
// superusers, those of the programs under test too, until release is called.
func (n *Node) Crowd(ctx context.Context) (release func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	done, full := make(chan struct{}), make(chan struct{}, 1)
	go func() {
		defer close(done)
		var all []*pgx.Conn
		defer func() {
			for _, c := range all {
				discard(c)
			}
		}()
		for ctx.Err() == nil {
			conn, err := n.connectApp(ctx, "", nil)
			if err == nil {
				all = append(all, conn)
				continue
			}
			select {
			case full <- struct{}{}:
			default:
			}
			select { // it is full, or not there
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond): // each try takes a place for a moment, those kept for superusers too
			}
		}
	}()
	release = func() { cancel(); <-done }
	// Those who had connections before lose them to the crowd.
	for range 5 {
		select {
		case <-full:
		case <-ctx.Done():
			release()
			return nil, ctx.Err()
		}
		if err = n.exec(ctx, "postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '"+repmgrRole+"' AND backend_type = 'client backend'"); err != nil {
			release()
			return nil, err
		}
		time.Sleep(200 * time.Millisecond)
	}
	return release, nil
}
