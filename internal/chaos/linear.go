package chaos

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// Access is one operation of a client on a register: a row with one number, that
// begins at zero. Every compare-and-set writes a number that no other writes.
type Access struct {
	Client  int
	Set     bool  // a compare-and-set of New for Old; else a read, that got Old
	Locked  bool  // a read that locks the row, and so waits as a commit does
	Old     int64 // that was expected, or read
	New     int64
	Outcome Outcome
	Sent    time.Duration
	Answer  time.Duration // or given up
}

// String is the operation as a line of a story.
func (a Access) String() string {
	what := fmt.Sprintf("read %d", a.Old)
	switch {
	case a.Set:
		what = fmt.Sprintf("set %d -> %d", a.Old, a.New)
	case a.Locked:
		what = fmt.Sprintf("locked read %d", a.Old)
	}
	doubt := ""
	if a.Outcome == Unknown {
		doubt = " (unknown)"
	}
	return fmt.Sprintf("client %d: %s%s, %.3f to %.3f s", a.Client, what, doubt, a.Sent.Seconds(), a.Answer.Seconds())
}

// certain prepares a history for the checker, so that each operation in it surely
// happened within its interval:
//
//   - A read without an answer, and whatever was refused, says nothing. So does a
//     set that found another number: what was there instead, reads tell.
//   - A set whose outcome is unknown may happen at any later time, or never. Its number is
//     written by nobody else: if somebody saw it, it happened before that answer;
//     if nobody did, no later set can have happened in its place, and it is left out.
//
// Nothing is lost by this: numbers are unique, so leaving out or narrowing an
// operation in this way makes no history linearizable that was not, nor the reverse.
func certain(history []Access) []Access {
	seen := map[int64]time.Duration{} // number → first answer that shows it
	for _, a := range history {
		if a.Outcome != Acknowledged {
			continue
		}
		if first, ok := seen[a.Old]; !ok || a.Answer < first {
			seen[a.Old] = a.Answer
		}
	}
	// A set of unknown outcome that was seen shows, in turn, what it replaced.
	for again := true; again; {
		again = false
		for _, a := range history {
			shown, ok := seen[a.New]
			if !a.Set || a.Outcome != Unknown || !ok {
				continue
			}
			if first, ok := seen[a.Old]; !ok || shown < first {
				seen[a.Old], again = shown, true
			}
		}
	}
	var kept []Access
	for _, a := range history {
		shown, ok := seen[a.New]
		switch {
		case a.Outcome == Acknowledged:
			kept = append(kept, a)
		case a.Outcome == Unknown && a.Set && ok && shown >= a.Sent:
			a.Answer = shown
			kept = append(kept, a)
		}
	}
	return kept
}

// register is the checker's model: one number, zero at first.
var register = porcupine.Model{
	Init: func() any { return int64(0) },
	Step: func(state, input, _ any) (bool, any) {
		a := input.(Access)
		if a.Old != state.(int64) {
			return false, state
		}
		if a.Set {
			return true, a.New
		}
		return true, state
	},
	DescribeOperation: func(input, _ any) string { return input.(Access).String() },
}

// linearTimeout bounds the search of one history.
const linearTimeout = time.Minute

// Linearizable answers nil if the history of one register is linearizable, by
// porcupine's word. A drawing of the history is written to w if it is not and w is not nil.
func Linearizable(history []Access, w io.Writer) error {
	kept := certain(history)
	var operations []porcupine.Operation
	for _, a := range kept {
		operations = append(operations, porcupine.Operation{ClientId: a.Client, Input: a, Call: int64(a.Sent), Return: int64(a.Answer)})
	}
	result, info := porcupine.CheckOperationsVerbose(register, operations, linearTimeout)
	switch result {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("decide whether %d operations are linearizable: not within %s", len(kept), linearTimeout)
	}
	if w != nil {
		if err := porcupine.Visualize(register, info, w); err != nil {
			return fmt.Errorf("%d operations are not linearizable (and cannot be drawn: %w)", len(kept), err)
		}
	}
	return fmt.Errorf("%d operations are not linearizable%s", len(kept), firstStuck(kept, info))
}

// firstStuck names the operation that the longest order which the checker found
// could not be continued with.
func firstStuck(kept []Access, info porcupine.LinearizationInfo) string {
	placed := map[Access]bool{}
	for _, orders := range info.PartialLinearizationsOperations() {
		if len(orders) == 0 {
			continue
		}
		longest := slices.MaxFunc(orders, func(a, b []porcupine.Operation) int { return len(a) - len(b) })
		for _, operation := range longest {
			placed[operation.Input.(Access)] = true
		}
	}
	left := slices.DeleteFunc(slices.Clone(kept), func(a Access) bool { return placed[a] })
	if len(left) == 0 {
		return ""
	}
	return "; the first with no place in any order: " + slices.MinFunc(left, func(a, b Access) int { return int(a.Answer - b.Answer) }).String()
}
