package guard

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"repmgr/internal/host"
)

// acks is what a client was told that has always more in the pipe.
type acks struct {
	count int
	last  time.Duration // host.BootTime at the last of them
	ended chan struct{} // closed when the connection is over; the rest may be read then
}

// insert starts a session that always has more in the pipe, so that its backend
// hardly ever sleeps (safety notes, A8). It returns when it has begun.
func (s *postgres) insert(t testing.TB) *acks {
	t.Helper()
	ctx := t.Context()
	conn, err := pgconn.Connect(ctx, fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres", baseDir, s.port))
	check(t, err)
	_, err = conn.Exec(ctx, "CREATE TABLE t (i int)").ReadAll()
	check(t, err)
	a, begun := &acks{ended: make(chan struct{})}, make(chan struct{})
	go func() {
		defer close(a.ended)
		defer conn.Close(context.Background())
		p := conn.StartPipeline(ctx)
		const window = 200
		send := func() error {
			for range window {
				p.SendQueryParams("INSERT INTO t VALUES (1)", nil, nil, nil, nil)
				p.SendPipelineSync()
			}
			return p.Flush()
		}
		if send() != nil {
			return
		}
		for send() == nil { // one window is on its way while the other is read
			for range window {
				if !a.read(p) {
					return
				}
			}
			if a.count == window {
				close(begun)
			}
		}
	}()
	select {
	case <-begun:
	case <-a.ended:
		t.Fatal("the session ended at once")
	}
	return a
}

// spin starts a session whose backend never sleeps, so that it does not notice
// the death of its postmaster. It returns when that is at work.
func (s *postgres) spin(t testing.TB) {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres", baseDir, s.port))
	check(t, err)
	pid := int(conn.PID())
	go func() {
		defer conn.Close(context.Background())
		_, _ = conn.Exec(context.Background(), "DO $$ BEGIN LOOP PERFORM sqrt(2); END LOOP; END $$").ReadAll()
	}()
	until(t, "a busy session", func() bool {
		list, err := host.Processes(s.dir)
		check(t, err)
		return slices.ContainsFunc(list, func(p host.Process) bool { return p.PID == pid && strings.HasSuffix(p.Title, " DO") })
	})
}

// read takes in one commit.
func (a *acks) read(p *pgconn.Pipeline) bool {
	for {
		result, err := p.GetResults()
		if err != nil {
			return false
		}
		switch r := result.(type) {
		case *pgconn.ResultReader:
			if _, err := r.Close(); err != nil {
				return false
			}
		case *pgconn.PipelineSync:
			a.count, a.last = a.count+1, host.BootTime()
			return true
		default:
			return false
		}
	}
}
