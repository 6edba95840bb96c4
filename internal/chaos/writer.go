package chaos

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"repmgr/internal/lab"
)

// How writers behave.
const (
	writePause    = 30 * time.Millisecond  // between two rows
	connectFirst  = 500 * time.Millisecond // for one try at all nodes: a node that is gone must not hide one that is there,
	connectLast   = 4 * time.Second        // and where no server at all answers, the machine may be busy, and patience grows
	retryPause    = 100 * time.Millisecond // between two tries
	writeBound    = 2 * time.Second        // for one row; then the writer goes away
	answerBound   = 5 * time.Second        // for any other answer
	tableCreation = `CREATE TABLE IF NOT EXISTS public.chaos_rows (
			writer int, seq bigint, node int NOT NULL, timeline int NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (writer, seq));
		CREATE TABLE IF NOT EXISTS public.chaos_registers (key int PRIMARY KEY, value bigint NOT NULL);
		GRANT ALL ON public.chaos_rows, public.chaos_registers TO app`
	// The row says itself where it was written.
	insertRow = `INSERT INTO public.chaos_rows (writer, seq, node, timeline)
		VALUES ($1, $2, $3, ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int)
		RETURNING timeline, current_setting('synchronous_standby_names') <> ''`
)

// writer inserts rows, one per transaction, into whichever server takes writes.
type writer struct {
	life   *life
	number int
	from   *lab.Node // on whose side of the cable it lives; nil: outside
	nodes  []*lab.Node

	mu   sync.Mutex
	rows []Insert
	last error // why there is no connection, or the last failure
}

// run is the writer's goroutine; it ends with ctx.
func (w *writer) run(ctx context.Context) {
	seq, bound := int64(0), connectFirst
	for ctx.Err() == nil {
		s := &session{}
		connecting, cancel := context.WithTimeout(ctx, bound)
		node, conn, err := w.life.lab.ConnectWriter(connecting, w.from, w.nodes, s.configure)
		cancel()
		if err != nil {
			w.failed(err)
			if !strings.Contains(err.Error(), "read only") { // what the driver says of a standby that answered
				bound = min(2*bound, connectLast)
			}
			sleep(ctx, retryPause/2+rand.N(retryPause))
			continue
		}
		s.conn, bound = conn, connectFirst
		s.opened.Store(true)
		for outcome := Acknowledged; outcome == Acknowledged && ctx.Err() == nil; {
			seq++
			outcome = w.insert(ctx, s, node, seq)
			sleep(ctx, writePause)
		}
		s.close()
	}
}

func (w *writer) insert(ctx context.Context, s *session, node *lab.Node, seq int64) Outcome {
	row := Insert{RowID: RowID{w.number, seq}, Node: node.ID, Sent: w.life.now()}
	s.warned.Store(false)
	waiting, cancel := context.WithTimeout(ctx, writeBound)
	defer cancel()
	err := s.conn.QueryRow(waiting, insertRow, w.number, seq, node.ID).Scan(&row.Timeline, &row.Synced)
	row.Answered, row.Outcome = w.life.now(), s.outcome(err)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rows = append(w.rows, row)
	if err != nil {
		w.last = err
	}
	return row.Outcome
}

func (w *writer) failed(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !errors.Is(err, context.Canceled) {
		w.last = err
	}
}

// since are the rows from one on, by their place.
func (w *writer) since(place int) []Insert {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Insert(nil), w.rows[place:]...)
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// after are the rows that were answered after a moment.
func (w *writer) after(moment time.Duration) []Insert {
	w.mu.Lock()
	defer w.mu.Unlock()
	first, _ := slices.BinarySearchFunc(w.rows, moment, func(row Insert, at time.Duration) int { return int(row.Answered - at) })
	return slices.Clone(w.rows[first:])
}

// newest is the newest row that was acknowledged.
func (w *writer) newest() (Insert, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, row := range slices.Backward(w.rows) {
		if row.Outcome == Acknowledged {
			return row, true
		}
	}
	return Insert{}, false
}
