package ops

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"repmgr/internal/cluster"
	"repmgr/internal/plan"
)

// base is a step of other verbs as one of a migration.
type base struct{ Step plan.Step[World] }

// Describe says what the step does.
func (s base) Describe() string { return s.Step.Describe() }

// Check is the step's own.
func (s base) Check(ctx context.Context, w Migration) (plan.Status, error) {
	return s.Step.Check(ctx, w)
}

// Do is the step's own.
func (s base) Do(ctx context.Context, w Migration) error { return s.Step.Do(ctx, w) }

// Undo ends the undoing: what is added beside repmgr 5's tables does no harm there.
func (s base) Undo(context.Context, Migration) error { return plan.ErrFinal }

// PauseFailover pauses the daemons of both kinds that are not paused, so that
// while both run neither promotes against the other. What it has paused it undoes.
type PauseFailover struct {
	Theirs, Ours []cluster.NodeID
	Reason       string // kept by ours
}

// Describe says what the step does.
func (s PauseFailover) Describe() string {
	if len(s.Theirs)+len(s.Ours) == 0 {
		return "pause failover on every node"
	}
	return fmt.Sprintf("pause failover on every node: repmgr 5's of %s, this program's of %s", numbers(s.Theirs), numbers(s.Ours))
}

// Check is done where all are paused.
func (s PauseFailover) Check(context.Context, Migration) (plan.Status, error) {
	return plan.Status{Done: len(s.Theirs)+len(s.Ours) == 0}, nil
}

// Do pauses them.
func (s PauseFailover) Do(ctx context.Context, w Migration) error { return s.set(ctx, w, true) }

// Undo lets them fail over again.
func (s PauseFailover) Undo(ctx context.Context, w Migration) error { return s.set(ctx, w, false) }

func (s PauseFailover) set(ctx context.Context, w Migration, paused bool) error {
	var failed []error
	for _, id := range s.Theirs {
		failed = append(failed, w.PauseTheirs(ctx, id, paused))
	}
	for _, id := range s.Ours {
		failed = append(failed, w.PauseOurs(ctx, id, paused, s.Reason))
	}
	return errors.Join(failed...)
}

// numbers lists node ids.
func numbers(ids []cluster.NodeID) string {
	if len(ids) == 0 {
		return "no node"
	}
	text := "node"
	if len(ids) > 1 {
		text = "nodes"
	}
	var all []string
	for _, id := range ids {
		all = append(all, fmt.Sprint(id))
	}
	return text + " " + strings.Join(all, ", ")
}

// StopTheirs ends repmgr 5's daemon of the local node.
type StopTheirs struct{ Node cluster.Node }

// Describe says what the step does.
func (s StopTheirs) Describe() string { return "stop repmgr 5's repmgrd on " + called(s.Node) }

// Check is done where none runs.
func (s StopTheirs) Check(ctx context.Context, w Migration) (plan.Status, error) {
	seen, err := w.Look(ctx, []cluster.NodeID{s.Node.ID})
	return plan.Status{Done: !seen[s.Node.ID].Theirs.Running}, err
}

// Do ends it.
func (s StopTheirs) Do(ctx context.Context, w Migration) error { return w.StopTheirs(ctx) }

// Undo starts it again, unless it has not ended.
func (s StopTheirs) Undo(ctx context.Context, w Migration) error {
	seen, err := w.Look(ctx, []cluster.NodeID{s.Node.ID})
	if err != nil || seen[s.Node.ID].Theirs.Running {
		return err
	}
	return w.StartTheirs(ctx)
}

// TakeOverCopy adds to a witness's database what repmgr 5's daemon, which writes its
// table of nodes anew again and again, could not live with.
type TakeOverCopy struct{}

// Describe says what the step does.
func (TakeOverCopy) Describe() string {
	return "add this program's metadata to the witness's database, and copy the records"
}

// Check is always ready: copying again does no harm.
func (TakeOverCopy) Check(context.Context, Migration) (plan.Status, error) { return ready, nil }

// Do adds it.
func (TakeOverCopy) Do(ctx context.Context, w Migration) error {
	if err := w.CreateMetadata(ctx, OfWitness); err != nil {
		return err
	}
	return w.CopyRecords(ctx)
}

// Undo takes it away.
func (TakeOverCopy) Undo(ctx context.Context, w Migration) error {
	return w.DropMetadata(ctx, OfWitness)
}

// StartOurs starts the local node's daemon, paused from its first moment.
type StartOurs struct {
	Node   cluster.Node
	Reason string
}

// Describe says what the step does.
func (s StartOurs) Describe() string { return "start repmgrd, paused, on " + called(s.Node) }

// Check is done where it answers.
func (s StartOurs) Check(ctx context.Context, w Migration) (plan.Status, error) {
	seen, err := w.Look(ctx, []cluster.NodeID{s.Node.ID})
	return plan.Status{Done: seen[s.Node.ID].Ours.Answers}, err
}

// Do starts it.
func (s StartOurs) Do(ctx context.Context, w Migration) error {
	if err := w.PauseAhead(ctx, s.Reason); err != nil {
		return err
	}
	return w.StartOurs(ctx)
}

// Undo ends it. That it is to start paused stays written down: who starts it by hand
// is to know what is about.
func (s StartOurs) Undo(ctx context.Context, w Migration) error { return w.StopOurs(ctx) }

// Verify looks whether the daemons of one kind are at work on nodes, paused, those of the
// other are not, and the primary is who it was.
type Verify struct {
	Back     bool // repmgr 5's are to be at work, and not this program's
	Nodes    []cluster.NodeID
	Primary  cluster.NodeID
	Timeline cluster.Timeline // its
}

// Describe says what the step does.
func (s Verify) Describe() string {
	what := "verify that repmgrd answers on %s, paused, that repmgr 5's is gone there, and that node %d is the primary on timeline %d"
	if s.Back {
		what = "verify that repmgr 5's repmgrd runs on %s, paused, that this program's is gone there, and that node %d is the primary on timeline %d"
	}
	return fmt.Sprintf(what, numbers(s.Nodes), s.Primary, s.Timeline)
}

// Check is always ready.
func (s Verify) Check(context.Context, Migration) (plan.Status, error) { return ready, nil }

// Do waits until it is so.
func (s Verify) Do(ctx context.Context, w Migration) error {
	satisfy := Migrating.verify
	if s.Back {
		satisfy = Migrating.verifyBack
	}
	return awaitSamePrimary(ctx, w, s.Nodes, s.Primary, s.Timeline, satisfy)
}

// Undo has nothing to take back.
func (s Verify) Undo(context.Context, Migration) error { return nil }

// verify says what is not as it should be after the node was migrated.
func (m Migrating) verify() error {
	switch {
	case m.Theirs.Running:
		return errors.New("repmgr 5's repmgrd runs: a service manager may have started it again")
	case !m.Ours.Answers:
		return errors.New("repmgrd does not answer")
	case !m.Ours.Paused:
		return errors.New("failover is not paused")
	}
	return nil
}

// verifyBack says what is not as it should be after the node was given back.
func (m Migrating) verifyBack() error {
	switch {
	case m.Ours.Answers:
		return errors.New("this program's repmgrd runs: a service manager may have started it again")
	case !m.Theirs.Running:
		return errors.New("repmgr 5's repmgrd does not run")
	case !m.Theirs.Paused:
		return errors.New("failover is not paused")
	}
	return nil
}

// awaitSamePrimary waits until nodes satisfy, and primary is the primary on that timeline.
func awaitSamePrimary(ctx context.Context, w Migration, nodes []cluster.NodeID, primary cluster.NodeID, tli cluster.Timeline, satisfy func(Migrating) error) error {
	ids := nodes
	if !slices.Contains(ids, primary) {
		ids = append([]cluster.NodeID{primary}, ids...)
	}
	return w.Await(ctx, ids, func(id cluster.NodeID, m Migrating) error {
		switch {
		case m.Why != "":
			return errors.New("its server cannot be asked: " + m.Why)
		case id == primary && (m.InRecovery || m.Timeline != tli):
			return fmt.Errorf("it was the primary on timeline %d", tli)
		case !slices.Contains(nodes, id):
			return nil
		}
		return satisfy(m)
	})
}

// Resume lets the daemons fail over again, the last one last: where that is the primary's,
// and this program's, the quorum rule begins when nobody else is paused any more.
type Resume struct {
	Back  bool // repmgr 5's
	Nodes []cluster.NodeID
}

// Describe says what the step does.
func (s Resume) Describe() string {
	if s.Back {
		return "end repmgr 5's pause, since failover was not paused before"
	}
	return "end the pause, since failover was not paused before"
}

// Check is always ready.
func (s Resume) Check(context.Context, Migration) (plan.Status, error) { return ready, nil }

// Do ends it everywhere.
func (s Resume) Do(ctx context.Context, w Migration) error {
	for _, id := range s.Nodes {
		var err error
		if s.Back {
			err = w.PauseTheirs(ctx, id, false)
		} else {
			err = w.PauseOurs(ctx, id, false, "")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Undo ends the undoing: every daemon is of one kind, and they agree among
// themselves, paused or not. What is left is to end the pause.
func (s Resume) Undo(context.Context, Migration) error { return plan.ErrFinal }
