package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"repmgr/internal/lab"
)

// accessPause is how long a client of a register waits between two operations.
const accessPause = 50 * time.Millisecond

// The operations on a register.
const (
	readRegister = "SELECT value FROM public.chaos_registers WHERE key = $1"
	lockRegister = readRegister + " FOR UPDATE"
	setRegister  = "UPDATE public.chaos_registers SET value = $3 WHERE key = $1 AND value = $2"
)

// registers are rows with one number each, one after the other: a new one for
// each round keeps histories short, and an operation that the server carries out long after
// its client went away disturbs no later round.
type registers struct {
	life    *life
	key     atomic.Int64 // of the present register
	numbers atomic.Int64 // that were written; never one twice

	mu        sync.Mutex
	histories map[int64][]Access
	open      map[int64]int // operations that have no answer yet
}

// next makes a new register and turns the clients to it.
func (r *registers) next(ctx context.Context) error {
	key := r.key.Load() + 1
	err := lab.Wait(ctx, mendBound, "a new register to be acknowledged", func() error {
		s, err := r.connect(ctx, nil)
		if err != nil {
			return err
		}
		defer s.close()
		ctx, cancel := context.WithTimeout(ctx, answerBound)
		defer cancel()
		s.warned.Store(false)
		_, err = s.conn.Exec(ctx, "INSERT INTO public.chaos_registers VALUES ($1, 0) ON CONFLICT (key) DO UPDATE SET value = 0", key)
		if err == nil && s.outcome(err) != Acknowledged {
			err = fmt.Errorf("it is not sure to be there")
		}
		return err
	})
	if err == nil {
		r.key.Store(key)
	}
	return err
}

// connect finds the server that takes writes as a driver does: one address after the other.
func (r *registers) connect(ctx context.Context, from *lab.Node) (*session, error) {
	s := &session{}
	config, err := r.life.lab.AppConfig(from, r.life.nodes, "target_session_attrs=read-write")
	if err != nil {
		return nil, err
	}
	s.configure(config)
	if s.conn, err = pgx.ConnectConfig(ctx, config); err != nil {
		return nil, err
	}
	s.opened.Store(true)
	return s, nil
}

// run is the goroutine of one client; it ends with ctx.
func (r *registers) run(ctx context.Context, client int, from *lab.Node) {
	for ctx.Err() == nil {
		s, err := r.connect(ctx, from)
		if err != nil {
			sleep(ctx, 3*retryPause/2+rand.N(retryPause))
			continue
		}
		key, known := int64(0), int64(0)
		for outcome := Acknowledged; outcome == Acknowledged && ctx.Err() == nil; {
			if now := r.begin(); now != key {
				key, known = now, 0
			}
			known, outcome = r.access(ctx, s, client, key, known)
			sleep(ctx, accessPause)
		}
		s.close()
	}
}

// begin announces an operation on the present register.
func (r *registers) begin() (key int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key = r.key.Load()
	r.open[key]++
	return key
}

// access carries out one operation and tells what the register held then.
func (r *registers) access(ctx context.Context, s *session, client int, key, known int64) (int64, Outcome) {
	a := Access{Client: client, Old: known, Sent: r.life.now()}
	s.warned.Store(false)
	waiting, cancel := context.WithTimeout(ctx, answerBound)
	defer cancel()
	var err error
	done := true
	switch rand.IntN(5) {
	case 0, 1:
		a.Set, a.New = true, r.numbers.Add(1)
		tag, failed := s.conn.Exec(waiting, setRegister, key, a.Old, a.New)
		err, done = failed, tag.RowsAffected() == 1
		known = a.New
	case 2:
		a.Locked = true
		err = s.conn.QueryRow(waiting, lockRegister, key).Scan(&a.Old)
		known = a.Old
	default:
		err = s.conn.QueryRow(waiting, readRegister, key).Scan(&a.Old)
		known = a.Old
	}
	a.Answer, a.Outcome = r.life.now(), s.outcome(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[key]--
	if a.Outcome == Acknowledged && !done {
		return a.Old, Acknowledged // another number was there; a read will tell which
	}
	r.histories[key] = append(r.histories[key], a)
	return known, a.Outcome
}

// settled answers nil when every operation on a register has an answer or was given up.
func (r *registers) settled(key int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := r.open[key]; n > 0 {
		return fmt.Errorf("%d have none", n)
	}
	return nil
}

// history is what happened to a register that is not the present one any more,
// with a last read at the end.
func (r *registers) history(ctx context.Context, primary *lab.Node, key int64) ([]Access, error) {
	err := lab.Wait(ctx, 3*answerBound, "the last operations on a register", func() error { return r.settled(key) })
	if err != nil {
		return nil, err
	}
	// The cluster is whole: what it answers now is on every later primary, as with a locked read.
	last := Access{Locked: true, Outcome: Acknowledged, Sent: r.life.now()}
	values, err := primary.AppNumbers(ctx, fmt.Sprintf("SELECT value FROM public.chaos_registers WHERE key = %d", key))
	if err != nil {
		return nil, err
	}
	if len(values) != 1 {
		return nil, fmt.Errorf("register %d was acknowledged and is not on %s", key, primary.Name)
	}
	last.Old, last.Answer = values[0], r.life.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	return append(slices.Clone(r.histories[key]), last), nil
}
