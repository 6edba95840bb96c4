package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// registers are how many rows the clients contend for.
const registers = 3

// access is one operation of a client on a register: a write of a value that no
// other writes, or a read that locks the row. Both are commits, and wait as one; a
// row is locked until its commit is over.
type access struct {
	register int
	write    bool
	value    int // written, or read; zero: nothing was written yet
	call     time.Duration
	back     time.Duration // when its client was told that it is done; zero: that is unknown
}

// access makes a commit of this server an operation on a register, if the row is
// not locked. Only commits for which standbys are waited for are: no other is
// promised to be there later.
func (s *server) access(id int) *access {
	w := s.n.w
	register := w.rng.IntN(3 * registers)
	if register >= registers || slices.ContainsFunc(s.pending, func(c waiting) bool { return c.of != nil && c.of.register == register }) {
		return nil
	}
	a := &access{register: register, write: w.chance(50), value: id, call: w.now}
	if a.write {
		s.wal[len(s.wal)-1].writes = int8(register + 1)
	} else {
		a.value = last(s.wal[:len(s.wal)-1], register)
	}
	w.history.all = append(w.history.all, a)
	return a
}

// history is what the clients did to the registers.
type history struct{ all []*access }

// last is what a server's log leaves in a register.
func last(wal []entry, register int) int {
	for _, e := range slices.Backward(wal) {
		if e.writes == int8(register+1) {
			return e.id
		}
	}
	return 0
}

// model is a register.
var model = porcupine.Model{
	Init: func() any { return 0 },
	Step: func(state, input, _ any) (bool, any) {
		a := input.(*access)
		return a.write || a.value == state.(int), a.value
	},
}

// judge says which register is not linearizable, in porcupine's judgment. Of what
// nobody knows the outcome, only a write that was read by somebody counts: it may
// have taken effect at any time since.
func (h *history) judge() (violation string, operations int) {
	for register := range registers {
		read := map[int]bool{}
		var kept []porcupine.Operation
		for _, a := range h.all {
			if a.register == register && !a.write && a.back != 0 {
				read[a.value] = true
			}
		}
		for _, a := range h.all {
			back := a.back
			if a.register != register || back == 0 && !(a.write && read[a.value]) {
				continue
			}
			if back == 0 {
				back = time.Duration(1<<63 - 1)
			}
			kept = append(kept, porcupine.Operation{Input: a, Call: int64(a.call), Return: int64(back)})
		}
		operations += len(kept)
		if porcupine.CheckOperationsTimeout(model, kept, 10*time.Second) == porcupine.Illegal {
			return fmt.Sprintf("S2: the %d operations of the clients on register %d are not linearizable", len(kept), register), operations
		}
	}
	return "", operations
}

// linear judges what the clients saw of a run that has come to its end.
func (w *World) linear() string {
	violation, operations := w.history.judge()
	w.counts.Operations = operations
	if violation != "" {
		violation = fmt.Sprintf("at %.3f s: %s", w.now.Seconds(), violation)
	}
	return violation
}
