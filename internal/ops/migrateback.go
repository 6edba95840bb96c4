package ops

import (
	"context"
	"fmt"
	"slices"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/plan"
)

// Why failover is paused on the way back, as MigratePause and MigrateKept on the way in.
const (
	BackPause = "repmgr migrate --back"
	BackKept  = "repmgr migrate --back: failover was paused before"
)

// MigrateBack plans `repmgr migrate --back` for the local node: repmgr 5's daemon instead
// of this program's. The primary comes first, while the others' daemons can still agree
// to the pause, then all others in any order. On the last one the metadata is made what
// repmgr 5 has left, and failover what it was before.
func MigrateBack(s MigrateSurvey) (MigratePlan, error) {
	p := MigratePlan{Name: "migrate --back"}
	if err := s.checkBack(); err != nil {
		return p, err
	}
	left := slices.DeleteFunc(s.primaryLast(), func(id cluster.NodeID) bool { return id == s.Self || s.Seen[id].back() })
	if s.Self != s.Primary && slices.Contains(left, s.Primary) && !s.Seen[s.Self].back() {
		return p, fault.New(fault.BadConfig, "on the way back the primary comes first").
			WithDetail("this program's daemon, or none, runs on %s", called(s.node(s.Primary))).
			WithHint("run \"repmgr migrate --back\" on %s first", called(s.node(s.Primary)))
	}
	resume := s.resumesBack()
	reason := BackPause
	if !resume {
		reason = BackKept
	}
	self, tli := s.node(s.Self), s.Seen[s.Primary].Timeline
	p.Steps = []plan.Step[Migration]{
		PauseFailover{Theirs: s.unpaused(theirsUnpaused), Ours: s.unpaused(oursUnpaused), Reason: reason},
		StopOurs{self, reason},
	}
	if self.Role == cluster.Witness {
		p.Steps = append(p.Steps, GiveBackCopy{})
	}
	p.Steps = append(p.Steps, StartTheirs{self}, Verify{Back: true, Nodes: []cluster.NodeID{s.Self}, Primary: s.Primary, Timeline: tli})
	if len(left) > 0 {
		return p, nil
	}
	p.Steps = append(p.Steps, Verify{Back: true, Nodes: s.primaryLast(), Primary: s.Primary, Timeline: tli})
	details := "all nodes are given back to repmgr 5"
	if !resume {
		details += "; failover is paused, as it was before"
	}
	p.Steps = append(p.Steps, GiveBackMetadata{})
	if resume {
		p.Steps = append(p.Steps, Resume{Back: true, Nodes: s.primaryLast()})
	}
	p.Steps = append(p.Steps, base{Announce{Event{Name: "cluster_migrate_back", Node: s.Self, Details: details}}})
	return p, nil
}

// back tells whether repmgr 5's daemon is at work on the node, and ours is not.
func (m Migrating) back() bool { return m.Theirs.Running && !m.Ours.Answers }

// NextBack is Next on the way back.
func (s MigrateSurvey) NextBack() (state, hint string) {
	state, _ = s.Next()
	var left []cluster.Node
	for _, n := range s.Nodes {
		switch {
		case s.Seen[n.ID].back():
		case n.ID == s.Primary:
			left = append([]cluster.Node{n}, left...)
		default:
			left = append(left, n)
		}
	}
	switch {
	case len(left) > 0:
		hint = fmt.Sprintf("next: \"repmgr migrate --back\" on %s", called(left[0]))
	case slices.ContainsFunc(s.Nodes, func(n cluster.Node) bool { return s.Seen[n.ID].Theirs.Paused }):
		hint = "with repmgr 5: \"repmgr service unpause\" ends the pause, unless it is wanted"
	}
	return state, hint
}

// GivenBack tells whether there is nothing left to do for the way back.
func (s MigrateSurvey) GivenBack() bool {
	return !slices.ContainsFunc(s.Nodes, func(n cluster.Node) bool { return !s.Seen[n.ID].back() })
}

// resumesBack tells whether failover goes on in the end.
func (s MigrateSurvey) resumesBack() bool {
	return slices.ContainsFunc(s.Nodes, func(n cluster.Node) bool {
		o := s.Seen[n.ID].Ours
		return o.Answers && (!o.Paused || o.Reason == BackPause)
	})
}

func (s MigrateSurvey) checkBack() error {
	for _, n := range s.Nodes {
		if m := s.Seen[n.ID]; m.Why == "" && !m.Theirs.Loaded {
			return fault.New(fault.BadConfig, "there is no way back to repmgr 5").
				WithDetail("the server of %s has no library of repmgr 5 loaded", called(n)).
				WithHint("set shared_preload_libraries = 'repmgr' there, with repmgr 5's extension installed, and restart that server")
		}
	}
	return s.check()
}

// StopOurs ends the local node's daemon.
type StopOurs struct {
	Node   cluster.Node
	Reason string // it is to be paused if it is started again
}

// Describe says what the step does.
func (s StopOurs) Describe() string { return "stop repmgrd on " + called(s.Node) }

// Check is done where it does not answer.
func (s StopOurs) Check(ctx context.Context, w Migration) (plan.Status, error) {
	seen, err := w.Look(ctx, []cluster.NodeID{s.Node.ID})
	return plan.Status{Done: !seen[s.Node.ID].Ours.Answers}, err
}

// Do ends it, when its server would come up as what it is without it.
func (s StopOurs) Do(ctx context.Context, w Migration) error {
	if err := w.AwaitDisarmed(ctx); err != nil {
		return err
	}
	if err := w.StopOurs(ctx); err != nil {
		return err
	}
	return w.PauseAhead(ctx, s.Reason)
}

// Undo starts it again.
func (s StopOurs) Undo(ctx context.Context, w Migration) error {
	seen, err := w.Look(ctx, []cluster.NodeID{s.Node.ID})
	if err != nil || seen[s.Node.ID].Ours.Answers {
		return err
	}
	return w.StartOurs(ctx)
}

// GiveBackCopy takes from a witness's database what repmgr 5's daemon could not live with.
type GiveBackCopy struct{}

// Describe says what the step does.
func (GiveBackCopy) Describe() string {
	return "remove this program's tables from the witness's database"
}

// Check is always ready.
func (GiveBackCopy) Check(context.Context, Migration) (plan.Status, error) { return ready, nil }

// Do removes them.
func (GiveBackCopy) Do(ctx context.Context, w Migration) error {
	return w.DropMetadata(ctx, OfWitness)
}

// Undo puts them back.
func (GiveBackCopy) Undo(ctx context.Context, w Migration) error { return TakeOverCopy{}.Do(ctx, w) }

// StartTheirs starts repmgr 5's daemon of the local node.
type StartTheirs struct{ Node cluster.Node }

// Describe says what the step does.
func (s StartTheirs) Describe() string { return "start repmgr 5's repmgrd on " + called(s.Node) }

// Check is done where it runs.
func (s StartTheirs) Check(ctx context.Context, w Migration) (plan.Status, error) {
	seen, err := w.Look(ctx, []cluster.NodeID{s.Node.ID})
	return plan.Status{Done: seen[s.Node.ID].Theirs.Running}, err
}

// Do starts it.
func (s StartTheirs) Do(ctx context.Context, w Migration) error { return w.StartTheirs(ctx) }

// Undo ends it.
func (s StartTheirs) Undo(ctx context.Context, w Migration) error {
	seen, err := w.Look(ctx, []cluster.NodeID{s.Node.ID})
	if err != nil || !seen[s.Node.ID].Theirs.Running {
		return err
	}
	return w.StopTheirs(ctx)
}

// GiveBackMetadata leaves the metadata as repmgr 5 has made it.
type GiveBackMetadata struct{}

// Describe says what the step does.
func (GiveBackMetadata) Describe() string {
	return "remove this program's tables from the primary's database; repmgr 5's stay as they are"
}

// Check is always ready.
func (GiveBackMetadata) Check(context.Context, Migration) (plan.Status, error) { return ready, nil }

// Do removes them.
func (GiveBackMetadata) Do(ctx context.Context, w Migration) error {
	return w.DropMetadata(ctx, Cluster)
}

// Undo has nothing to take back: it is one statement, and nothing behind it is undone.
func (GiveBackMetadata) Undo(context.Context, Migration) error { return nil }
