package chaos

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"repmgr/internal/lab"
)

// How probers behave.
const (
	probeEvery = 50 * time.Millisecond
	// steady is the longest time between two answers that are taken for one: a
	// server that stood still in between took no writes.
	steady     = 500 * time.Millisecond
	askWriting = `SELECT NOT pg_is_in_recovery(),
		CASE WHEN pg_is_in_recovery() THEN 0 ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END`
)

// prober asks one node's server, from the node's own side of its cable, whether
// it takes writes.
type prober struct {
	life *life
	node *lab.Node

	mu    sync.Mutex
	spans []Span
}

// run is the prober's goroutine; it ends with ctx.
func (p *prober) run(ctx context.Context) {
	for ctx.Err() == nil {
		s := &session{}
		config, err := p.life.lab.AppConfig(p.node, []*lab.Node{p.node}, "")
		if err == nil {
			s.configure(config)
			connecting, cancel := context.WithTimeout(ctx, answerBound)
			s.conn, err = pgx.ConnectConfig(connecting, config)
			cancel()
		}
		if err == nil {
			s.opened.Store(true)
			p.watch(ctx, s)
			s.close()
		}
		sleep(ctx, probeEvery)
	}
}

// watch asks until there is no answer. Between two answers on one connection the
// server did not begin anew, so that between two that say yes it took writes:
// from the first answer to the last question.
func (p *prober) watch(ctx context.Context, s *session) {
	open := -1 // the span that goes on
	var answered time.Duration
	for ctx.Err() == nil {
		var writing bool
		var timeline int
		sent := p.life.now()
		asking, cancel := context.WithTimeout(ctx, answerBound)
		err := s.conn.QueryRow(asking, askWriting).Scan(&writing, &timeline)
		cancel()
		if err != nil {
			return
		}
		if now := p.life.now(); now-sent > steady || sent-answered > steady {
			open = -1
		}
		answered = p.life.now()
		p.mu.Lock()
		switch {
		case !writing:
			open = -1
		case open >= 0 && p.spans[open].Timeline == timeline:
			p.spans[open].To = sent
		default:
			open = len(p.spans)
			p.spans = append(p.spans, Span{p.node.ID, timeline, answered, answered})
		}
		p.mu.Unlock()
		sleep(ctx, probeEvery)
	}
}

// seen are the spans so far.
func (p *prober) seen() []Span {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Span(nil), p.spans...)
}
