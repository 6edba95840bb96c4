package ops

import (
	"context"
	"fmt"
	"strings"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/plan"
)

// Promotion says how a standby is made a primary.
type Promotion struct {
	Command  string        // shell line; empty: pg_promote is called
	Timeout  time.Duration // for the server to take writes
	Interval time.Duration // at most, between two looks
}

// PromoteOptions are the options of `standby promote`.
type PromoteOptions struct {
	Promotion Promotion
	Force     bool
}

// StandbyPromote plans `standby promote`. If the local server was promoted
// before but its record does not say so, what is missing is made up for.
func StandbyPromote(s Survey, o PromoteOptions) (Plan, error) {
	p := Plan{Name: "standby promote"}
	self, err := ownRecord(s, fault.DBQuery)
	if err != nil {
		return p, err
	}
	recorded := self.Role == cluster.Primary && self.Active
	switch {
	case !s.Local.Reachable:
		return p, fault.New(fault.DBConn, "this server cannot be reached").WithDetail("%s", s.Local.Why).
			WithHint("only a standby that runs can be promoted")
	case !s.Local.InRecovery && recorded:
		return p, fault.New(fault.PromotionFail, "this server is a primary already").
			WithDetail("%s takes writes, and its record says so", called(self)).
			WithHint("there is nothing to promote")
	}
	if err := checkVersion(s.Local); err != nil {
		return p, err
	}
	for _, n := range s.Nodes {
		if n.ID != self.ID && n.Role != cluster.Witness && s.Servers[n.ID].Role() == cluster.Primary {
			return p, fault.New(fault.PromotionFail, "the cluster has a primary").
				WithDetail("%s takes writes", called(n)).
				WithHint("stop it first, or exchange both roles with \"repmgr standby switchover\"")
		}
	}
	if s.Local.InRecovery {
		p.Steps = append(p.Steps, Promote{self, o.Promotion})
	}
	p.Steps = append(p.Steps, RecordPromotion{self}, Announce{Event{Name: "standby_promote", Node: self.ID,
		Details: fmt.Sprintf("server %s was promoted to primary", called(self))}})
	return p, nil
}

// Siblings are the active nodes that have the local node's upstream: after its
// promotion they must be told to follow it.
func Siblings(s Survey) []cluster.Node {
	self := s.node(s.Self.ID)
	var out []cluster.Node
	for _, n := range s.Nodes {
		if n.ID != self.ID && n.Active && n.Upstream != 0 && n.Upstream == self.Upstream {
			out = append(out, n)
		}
	}
	return out
}

// SiblingsLeft says which nodes do not follow a promoted server by themselves;
// empty if there are none.
func SiblingsLeft(s Survey) string {
	var names []string
	for _, n := range Siblings(s) {
		names = append(names, fmt.Sprintf("%s (%s)", called(n), n.Role))
	}
	return strings.Join(names, ", ")
}

// ownRecord returns the local node's record, which must be there.
func ownRecord(s Survey, code fault.Code) (cluster.Node, error) {
	n, found := cluster.Find(s.Nodes, s.Self.ID)
	if found {
		return n, nil
	}
	return n, fault.New(code, "this node is not registered").
		WithDetail("no record has the ID %d; registered are %s", s.Self.ID, idsOf(s.Nodes)).
		WithHint("register it with \"repmgr standby register\", or check node_id")
}

// Promote makes the local server a primary. It is the point of no return: an
// order that was given stays in force, whatever becomes of who gave it.
type Promote struct {
	Node cluster.Node
	By   Promotion
}

// Describe says what the step does.
func (s Promote) Describe() string {
	how := "pg_promote()"
	if s.By.Command != "" {
		how = s.By.Command
	}
	return fmt.Sprintf("promote %s by %s and wait up to %s until it takes writes", called(s.Node), how, s.By.Timeout)
}

// Check asks whether it is a primary already.
func (s Promote) Check(ctx context.Context, w World) (plan.Status, error) {
	recovering, err := w.InRecovery(ctx)
	return plan.Status{Done: err == nil && !recovering}, err
}

// Do promotes it.
func (s Promote) Do(ctx context.Context, w World) error { return w.Promote(ctx, s.By) }

// Undo cannot be.
func (s Promote) Undo(context.Context, World) error { return plan.ErrFinal }

// RecordPromotion makes the node the one active primary of the records.
type RecordPromotion struct{ Node cluster.Node }

// Describe says what the step does.
func (s RecordPromotion) Describe() string {
	return fmt.Sprintf("record %s as the primary, and other primaries as inactive", called(s.Node))
}

// Check asks whether the records say so.
func (s RecordPromotion) Check(ctx context.Context, w World) (plan.Status, error) {
	n, found, err := w.Record(ctx, s.Node.ID)
	return plan.Status{Done: found && n.Role == cluster.Primary && n.Active && n.Upstream == 0}, err
}

// Do records it.
func (s RecordPromotion) Do(ctx context.Context, w World) error {
	return w.RecordPromotion(ctx, s.Node.ID)
}

// Undo cannot be: the promotion has happened.
func (s RecordPromotion) Undo(context.Context, World) error { return plan.ErrFinal }
