package daemon

import (
	"context"
	"sync"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
)

// relayBound is how long the daemon waits for what others reach: it leaves them
// the time to find that out, and its own caller the time to get the answer.
const relayBound = api.ReachBound + 500*time.Millisecond

// reaching looks round when it is asked to, once for all who ask meanwhile: in a
// crosscheck every daemon asks every other one at the same time.
type reaching struct {
	d    *Daemon
	asks chan chan<- []api.Sighting // with room for the answer
}

func newReaching(d *Daemon) *reaching {
	return &reaching{d: d, asks: make(chan chan<- []api.Sighting)}
}

// run answers until ctx ends.
func (r *reaching) run(ctx context.Context) {
	var waiting []chan<- []api.Sighting
	seen := make(chan []api.Sighting, 1)
	for {
		select {
		case <-ctx.Done():
			return
		case who := <-r.asks:
			if waiting = append(waiting, who); len(waiting) == 1 {
				r.d.goes(func() { seen <- api.LookRound(ctx, r.d.peers.nodes(), r.alive) })
			}
		case answer := <-seen:
			for _, who := range waiting {
				who <- answer
			}
			waiting = nil
		}
	}
}

// alive tells whether the daemon of a node answers.
func (r *reaching) alive(ctx context.Context, id cluster.NodeID) error {
	if id == r.d.cfg.NodeID {
		return nil
	}
	for _, l := range r.d.peers.list() {
		if l.target.ID == id {
			_, err := l.client.Health(ctx)
			return err
		}
	}
	return &api.Error{Asked: "its daemon", Address: "an unknown address", Kind: api.ErrNoAnswer}
}

// Reach is what this node reaches, and what those reach whose daemons it can ask.
func (b backend) Reach(ctx context.Context, relay api.Relay) ([]api.Outlook, error) {
	own := make(chan []api.Sighting, 1)
	select {
	case b.d.reaching.asks <- own:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	told := b.d.peers.outlooks(ctx, relay)
	seen, err := await(ctx, own)
	if err != nil {
		return nil, err
	}
	return append([]api.Outlook{{Node: b.d.cfg.NodeID, Reaches: seen}}, told...), nil
}

// outlooks asks the other daemons that are meant what their nodes reach, all at the same time.
// What does not answer in time is left out, and so is who was silent the last time:
// trying that one may take longer than all that the others have to tell.
func (p *peers) outlooks(ctx context.Context, relay api.Relay) []api.Outlook {
	ctx, cancel := context.WithTimeout(ctx, relayBound)
	defer cancel()
	var mu sync.Mutex
	var told []api.Outlook
	var all sync.WaitGroup
	for _, l := range p.list() {
		if !relay.To(l.target.ID) || l.failing() {
			continue
		}
		all.Go(func() {
			if o, err := l.client.Reach(ctx, api.Relay{Of: relay.Then}); err == nil {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, o...)
			}
		})
	}
	all.Wait()
	return told
}
