package cli

import (
	"errors"
	"fmt"
	"io"

	"repmgr/internal/fault"
	"repmgr/internal/plan"
)

// Outcome is how a verb that changes something ended. It has no table: as text it
// is what the verb said, as json it stands alone on stdout.
type Outcome struct {
	Version int        `json:"version"` // of this form, which only grows
	Command string     `json:"command"`
	DryRun  bool       `json:"dry_run"`
	Steps   []PlanStep `json:"steps"` // of the plan; empty where the verb has none
	Status  int        `json:"exit_status"`
	Error   *Wrong     `json:"error"` // null: none, or one was told for each node
}

// PlanStep is one step of a plan, and what became of it.
type PlanStep struct {
	Text  string    `json:"step"`
	State StepState `json:"state"`
}

// StepState is what became of a step.
type StepState string

// The states of a step.
const (
	StepDone     StepState = "done"
	StepNeedless StepState = "done already"
	StepWould    StepState = "would be done"
	StepBlocked  StepState = "not possible"
	StepFailed   StepState = "failed"
	StepUndone   StepState = "undone"
)

// stepStates are the states by the news that a plan tells.
var stepStates = map[plan.What]StepState{
	plan.Doing: StepDone, plan.Skipped: StepNeedless, plan.Ready: StepWould,
	plan.Blocked: StepBlocked, plan.Failed: StepFailed, plan.Undone: StepUndone,
}

// Wrong is why a verb gave up.
type Wrong struct {
	Message string `json:"message"`
	Detail  string `json:"detail"`
	Hint    string `json:"hint"`
}

// Text prints nothing: the verb has said what it did.
func (Outcome) Text(io.Writer) {}

// CSV prints nothing, as in repmgr 5.
func (Outcome) CSV(io.Writer) {}

// note keeps a plan's news for the outcome.
func (s *Session) note(e plan.Event) {
	for len(s.steps) < e.Step {
		s.steps = append(s.steps, PlanStep{})
	}
	state := stepStates[e.What]
	if e.What == plan.Undone && e.Err != nil {
		state = StepFailed
	}
	s.steps[e.Step-1] = PlanStep{e.Text, state}
}

// outcome is how the verb ended with err.
func (s *Session) outcome(err error) Outcome {
	o := Outcome{Version: 1, Command: s.Verb, DryRun: s.Opt.DryRun, Steps: append([]PlanStep{}, s.steps...), Status: int(fault.CodeOf(err))}
	if err == nil || errors.Is(err, errSaid) {
		return o
	}
	o.Error = &Wrong{Message: err.Error()}
	var f *fault.Error
	if errors.As(err, &f) {
		o.Error.Detail, o.Error.Hint = f.Detail, f.Hint
	}
	return o
}

// ServiceCommands is the answer of "node service --list-actions": the command of
// each action, in the order of the list.
type ServiceCommands struct {
	Version  int              `json:"version"` // of this form, which only grows
	Commands []ServiceCommand `json:"commands"`
	one      bool             // of one action, as scripts want it
}

// ServiceCommand is the line of the shell that an action runs.
type ServiceCommand struct {
	Action string `json:"action"`
	Line   string `json:"command"`
}

// Text prints the list, or the command alone if one action was named.
func (c ServiceCommands) Text(w io.Writer) {
	if c.one {
		fmt.Fprintln(w, c.Commands[0].Line)
		return
	}
	fmt.Fprintf(w, "Following commands would be executed for each action:\n\n")
	for _, one := range c.Commands {
		fmt.Fprintf(w, "%9s: \"%s\"\n", one.Action, one.Line)
	}
	fmt.Fprintln(w)
}

// CSV is the text: repmgr 5 has no other form.
func (c ServiceCommands) CSV(w io.Writer) { c.Text(w) }

// ShutdownState is the answer of "node status --is-shutdown-cleanly".
type ShutdownState struct {
	Version    int    `json:"version"` // of this form, which only grows
	State      string `json:"state"`
	Checkpoint string `json:"last_checkpoint_lsn"` // empty unless shut down in order

	Standing *Standing `json:"standing,omitempty"` // for a switchover by ssh; never in the line
}

// Text prints the line that scripts read.
func (s ShutdownState) Text(w io.Writer) {
	line := "--state=" + s.State
	if s.Checkpoint != "" {
		line += " --last-checkpoint-lsn=" + s.Checkpoint
	}
	fmt.Fprintln(w, line)
}

// CSV is the text: repmgr 5 has no other form.
func (s ShutdownState) CSV(w io.Writer) { s.Text(w) }
