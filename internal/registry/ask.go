package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/pg"
)

// AskTimeout bounds what one node may take to answer AskAll, connecting
// included. A host that drops packets is given up by connect_timeout before.
const AskTimeout = 10 * time.Second

// graceForSecond is how long FindPrimary goes on listening after one server
// said that it is the primary: two that say so at once must not be overlooked.
const graceForSecond = 200 * time.Millisecond

// Answer is what one node answered.
type Answer[T any] struct {
	Node  cluster.Node
	Value T
	Err   error
}

// AskAll puts the same question to every node at the same time and returns
// their answers in the order of nodes, so that it takes as long as the slowest.
func AskAll[T any](ctx context.Context, nodes []cluster.Node, ask func(context.Context, cluster.Node) (T, error)) []Answer[T] {
	answers := make([]Answer[T], len(nodes))
	for i := range eachAnswer(ctx, nodes, ask) {
		answers[i.at] = i.Answer
	}
	return answers
}

// placed is an answer and the place of its node in the question's list.
type placed[T any] struct {
	Answer[T]
	at int
}

// eachAnswer delivers the answers as they come and then closes the channel,
// which has room for all of them: nobody must listen to the end.
func eachAnswer[T any](ctx context.Context, nodes []cluster.Node, ask func(context.Context, cluster.Node) (T, error)) <-chan placed[T] {
	out := make(chan placed[T], len(nodes))
	pending := make(chan struct{}, len(nodes))
	for i, n := range nodes {
		go func() {
			ctx, cancel := context.WithTimeout(ctx, AskTimeout)
			defer cancel()
			v, err := ask(ctx, n)
			out <- placed[T]{Answer[T]{Node: n, Value: v, Err: err}, i}
			pending <- struct{}{}
		}()
	}
	go func() {
		for range nodes {
			<-pending
		}
		close(out)
	}()
	return out
}

// Connect opens a connection to a registered node.
func Connect(ctx context.Context, n cluster.Node) (*pg.Conn, error) {
	if n.WithoutServer() {
		return nil, fault.New(fault.DBConn, "node %q is a witness without PostgreSQL", n.Name)
	}
	info, err := pg.ParseConninfo(n.Conninfo)
	if err != nil {
		return nil, fmt.Errorf("conninfo of node %q: %w", n.Name, err)
	}
	return pg.Connect(ctx, info)
}

// Close closes c if there is one; closing never waits long.
func Close(c *pg.Conn) {
	if c == nil || c.Conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.Close(ctx)
}

// claim is a server's answer to whether it is a primary.
type claim struct {
	conn     *pg.Conn // open only if it is
	timeline cluster.Timeline
}

// claimOf connects to n; of a primary the connection stays open.
func claimOf(ctx context.Context, n cluster.Node) (claim, error) {
	c, err := Connect(ctx, n)
	if err != nil {
		return claim{}, err
	}
	var recovering bool
	var timeline int64
	err = c.QueryRow(ctx, `SELECT pg_catalog.pg_is_in_recovery(), CASE WHEN pg_catalog.pg_is_in_recovery() THEN '0'
		ELSE pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8) END::text`).
		Scan(&recovering, hexadecimal{&timeline})
	if err != nil || recovering {
		Close(c)
		return claim{}, err
	}
	return claim{conn: c, timeline: cluster.Timeline(timeline)}, nil
}

// hexadecimal scans a number written in base 16.
type hexadecimal struct{ to *int64 }

// Scan reads src, which must be text.
func (h hexadecimal) Scan(src any) error {
	_, err := fmt.Sscanf(fmt.Sprint(src), "%X", h.to)
	return err
}

// FindPrimary asks the active data nodes of the records, all at the same time,
// and returns the one that is not in recovery with an open connection to it,
// which the caller closes. Where two claim to be the primary, the one on the
// newer timeline is it; on the same timeline neither is, and that is an error.
func FindPrimary(ctx context.Context, nodes []cluster.Node) (cluster.Node, *pg.Conn, error) {
	var candidates []cluster.Node
	for _, n := range nodes {
		if n.Active && n.Role != cluster.Witness {
			candidates = append(candidates, n)
		}
	}
	answers := eachAnswer(ctx, candidates, claimOf)
	claims, failures := gather(answers)
	best, tied := newest(claims)
	for _, c := range claims {
		if c.Value.conn != best.Value.conn || tied != nil {
			Close(c.Value.conn)
		}
	}
	switch {
	case tied != nil:
		return cluster.Node{}, nil, tied
	case best.Value.conn != nil:
		return best.Node, best.Value.conn, nil
	default:
		return cluster.Node{}, nil, noPrimary(candidates, failures)
	}
}

// gather collects the answers until all have come, or until the grace after the
// first primary is over; connections that come later are closed.
func gather(answers <-chan placed[claim]) (claims []Answer[claim], failures []Answer[claim]) {
	var over <-chan time.Time
	for {
		select {
		case a, open := <-answers:
			switch {
			case !open:
				return claims, failures
			case a.Err != nil:
				failures = append(failures, a.Answer)
			case a.Value.conn != nil:
				claims = append(claims, a.Answer)
				if over == nil {
					over = time.After(graceForSecond)
				}
			}
		case <-over:
			go func() {
				for late := range answers {
					Close(late.Value.conn)
				}
			}()
			return claims, failures
		}
	}
}

// newest is the claim on the highest timeline; two on the same one are an error.
func newest(claims []Answer[claim]) (best Answer[claim], tied error) {
	for _, c := range claims {
		switch {
		case best.Value.conn == nil || c.Value.timeline > best.Value.timeline:
			best, tied = c, nil
		case c.Value.timeline == best.Value.timeline:
			tied = fault.New(fault.BadConfig, "two servers take writes").
				WithDetail("nodes %q (ID: %d) and %q (ID: %d) are both primaries, on timeline %d",
					best.Node.Name, best.Node.ID, c.Node.Name, c.Node.ID, c.Value.timeline).
				WithHint("stop the one that must not take writes before anything else")
		}
	}
	return best, tied
}

// noPrimary says of each candidate why it is not the primary.
func noPrimary(asked []cluster.Node, failures []Answer[claim]) error {
	f := fault.New(fault.BadConfig, "no primary was found").
		WithHint("start the primary, or promote a standby with \"repmgr standby promote\"")
	if len(asked) == 0 {
		return f.WithDetail("no active data node is registered").
			WithHint("register the primary with \"repmgr primary register\"")
	}
	detail := fmt.Sprintf("%d of %d nodes are in recovery", len(asked)-len(failures), len(asked))
	var causes []error
	for _, a := range failures {
		detail += fmt.Sprintf("; node %q (ID: %d) did not answer", a.Node.Name, a.Node.ID)
		causes = append(causes, fmt.Errorf("node %q: %w", a.Node.Name, a.Err))
	}
	f.Detail, f.Err = detail, errors.Join(causes...)
	return f
}
