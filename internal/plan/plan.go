// Package plan expresses a command as a list of steps that can be explained
// before they are run, checked one by one, and undone up to a point of no
// return. It knows nothing of PostgreSQL.
package plan

import (
	"context"
	"errors"
	"fmt"
)

// Step is one change to a world W. A step is a struct whose exported fields say
// everything about it; the world is passed in, never held, so that a step can be
// printed, compared and stored.
type Step[W any] interface {
	// Describe says in one line and in the imperative what the step does.
	Describe() string
	// Check asks whether the step is done, ready or blocked; it changes nothing.
	Check(ctx context.Context, w W) (Status, error)
	// Do carries the step out.
	Do(ctx context.Context, w W) error
	// Undo takes the step back, or returns ErrFinal past the point of no return.
	Undo(ctx context.Context, w W) error
}

// ErrFinal is returned by the Undo of a step that cannot be taken back.
var ErrFinal = errors.New("cannot be undone")

// Status is the answer of Check. The zero Status is ready.
type Status struct {
	Done   bool
	Reason string // why the step may not run; empty when it may
	Hint   string // what the operator can do about it
}

// Plan is an ordered list of steps.
type Plan[W any] struct {
	Name  string
	Steps []Step[W]
}

// What says which kind of news an Event brings.
type What string

// The kinds of Event.
const (
	Doing   What = "do"
	Skipped What = "skip"  // the step was done already
	Ready   What = "ready" // dry run: the step would be done
	Blocked What = "blocked"
	Failed  What = "fail"
	Undone  What = "undo"
)

// Event is one line of a plan's progress.
type Event struct {
	Step, Of int // Step counts from 1
	What     What
	Text     string // the step's own description
	Status   Status
	Err      error
}

// BlockedError reports a step that may not run.
type BlockedError struct {
	Step string
	Status
}

// Error names the step and why it may not run.
func (e *BlockedError) Error() string { return e.Step + ": " + e.Reason }

// Explain checks every step and changes nothing: it is the whole of a dry run.
// The error is a *BlockedError for the first step that may not run, or the
// first check that could not be made.
func (p Plan[W]) Explain(ctx context.Context, w W, on func(Event)) error {
	var blocked error
	for i, s := range p.Steps {
		ev := Event{Step: i + 1, Of: len(p.Steps), What: Ready, Text: s.Describe()}
		st, err := s.Check(ctx, w)
		ev.Status = st
		switch {
		case err != nil:
			ev.What, ev.Err = Failed, err
			on(ev)
			return fmt.Errorf("%s: %w", s.Describe(), err)
		case st.Done:
			ev.What = Skipped
		case st.Reason != "":
			ev.What = Blocked
			if blocked == nil {
				blocked = &BlockedError{Step: s.Describe(), Status: st}
			}
		}
		on(ev)
	}
	return blocked
}

// Run carries the plan out and reports each step to on. When a step fails, the
// steps done before it are undone in reverse order until one is final; the
// failed step is undone too, since it may be half done.
func (p Plan[W]) Run(ctx context.Context, w W, on func(Event)) error {
	var done []int
	for i, s := range p.Steps {
		ev := Event{Step: i + 1, Of: len(p.Steps), Text: s.Describe()}
		st, err := s.Check(ctx, w)
		ev.Status = st
		if err == nil && st.Done {
			ev.What = Skipped
			on(ev)
			continue
		}
		if err == nil && st.Reason != "" {
			err = &BlockedError{Step: s.Describe(), Status: st}
		} else if err == nil {
			ev.What = Doing
			on(ev)
			done = append(done, i)
			err = s.Do(ctx, w)
		}
		if err != nil {
			ev.What, ev.Err = Failed, err
			on(ev)
			return errors.Join(fmt.Errorf("%s: %w", s.Describe(), err), p.unwind(context.WithoutCancel(ctx), w, done, on))
		}
	}
	return nil
}

// unwind undoes the steps of done, last first, until one is final.
func (p Plan[W]) unwind(ctx context.Context, w W, done []int, on func(Event)) error {
	for k := len(done) - 1; k >= 0; k-- {
		s := p.Steps[done[k]]
		err := s.Undo(ctx, w)
		if errors.Is(err, ErrFinal) {
			return nil
		}
		on(Event{Step: done[k] + 1, Of: len(p.Steps), What: Undone, Text: s.Describe(), Err: err})
		if err != nil {
			return fmt.Errorf("undo %s: %w", s.Describe(), err)
		}
	}
	return nil
}
