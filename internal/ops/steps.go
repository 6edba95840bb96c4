package ops

import (
	"context"
	"fmt"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/plan"
)

var ready = plan.Status{}

// CreateMetadata adds what is missing of the repmgr schema. It is not undone:
// empty tables do no harm, and a second run finds them.
type CreateMetadata struct{ In Database }

// Describe says what the step does.
func (s CreateMetadata) Describe() string { return "create the repmgr metadata in " + string(s.In) }

// Check asks whether everything is there.
func (s CreateMetadata) Check(ctx context.Context, w World) (plan.Status, error) {
	has, err := w.HasMetadata(ctx, s.In)
	return plan.Status{Done: has}, err
}

// Do creates it.
func (s CreateMetadata) Do(ctx context.Context, w World) error { return w.CreateMetadata(ctx, s.In) }

// Undo leaves it.
func (s CreateMetadata) Undo(context.Context, World) error { return plan.ErrFinal }

// SaveRecord writes a record. Was is the one that it replaces.
type SaveRecord struct {
	Node cluster.Node
	Was  *cluster.Node
}

// Describe says what the step does.
func (s SaveRecord) Describe() string {
	verb := "insert"
	if s.Was != nil {
		verb = "update"
	}
	state := ""
	if !s.Node.Active {
		state = "inactive "
	}
	return fmt.Sprintf("%s the record of %s as %s%s", verb, called(s.Node), state, s.Node.Role)
}

// Check asks whether the record is so already.
func (s SaveRecord) Check(ctx context.Context, w World) (plan.Status, error) {
	n, found, err := w.Record(ctx, s.Node.ID)
	return plan.Status{Done: found && n == s.Node}, err
}

// Do writes it.
func (s SaveRecord) Do(ctx context.Context, w World) error { return w.SaveRecord(ctx, s.Node) }

// Undo puts back what was.
func (s SaveRecord) Undo(ctx context.Context, w World) error {
	if s.Was == nil {
		return w.DeleteRecord(ctx, s.Node.ID)
	}
	return w.SaveRecord(ctx, *s.Was)
}

// DeleteRecord removes a record, and its endpoint with it.
type DeleteRecord struct {
	Node     cluster.Node
	Endpoint *Endpoint // to be put back by Undo
}

// Describe says what the step does.
func (s DeleteRecord) Describe() string { return "delete the record of " + called(s.Node) }

// Check asks whether it is gone already.
func (s DeleteRecord) Check(ctx context.Context, w World) (plan.Status, error) {
	_, found, err := w.Record(ctx, s.Node.ID)
	return plan.Status{Done: !found}, err
}

// Do removes it.
func (s DeleteRecord) Do(ctx context.Context, w World) error { return w.DeleteRecord(ctx, s.Node.ID) }

// Undo puts it back.
func (s DeleteRecord) Undo(ctx context.Context, w World) error {
	if err := w.SaveRecord(ctx, s.Node); err != nil || s.Endpoint == nil {
		return err
	}
	return w.SaveEndpoint(ctx, s.Node.ID, *s.Endpoint)
}

// SaveEndpoint records where a node's daemon listens. It needs no undo of its
// own: where it follows the first record of its node, it goes with that.
type SaveEndpoint struct {
	Node     cluster.NodeID
	Endpoint Endpoint
}

// Describe says what the step does.
func (s SaveEndpoint) Describe() string {
	return fmt.Sprintf("record that the daemon of node %d listens on %s port %d", s.Node, s.Endpoint.Host, s.Endpoint.Port)
}

// Check asks whether that is recorded.
func (s SaveEndpoint) Check(ctx context.Context, w World) (plan.Status, error) {
	e, found, err := w.Endpoint(ctx, s.Node)
	return plan.Status{Done: found && e == s.Endpoint}, err
}

// Do records it.
func (s SaveEndpoint) Do(ctx context.Context, w World) error {
	return w.SaveEndpoint(ctx, s.Node, s.Endpoint)
}

// Undo leaves it.
func (s SaveEndpoint) Undo(context.Context, World) error { return nil }

// CreateAuthority makes the certificate authority by which daemons know each
// other. It is never replaced.
type CreateAuthority struct{}

// Describe says what the step does.
func (CreateAuthority) Describe() string { return "create the cluster's certificate authority" }

// Check asks whether there is one.
func (CreateAuthority) Check(ctx context.Context, w World) (plan.Status, error) {
	has, err := w.HasAuthority(ctx)
	return plan.Status{Done: has}, err
}

// Do creates it.
func (CreateAuthority) Do(ctx context.Context, w World) error { return w.CreateAuthority(ctx) }

// Undo leaves it.
func (CreateAuthority) Undo(context.Context, World) error { return nil }

// CopyRecords makes the witness's records like the primary's.
type CopyRecords struct{}

// Describe says what the step does.
func (CopyRecords) Describe() string {
	return "copy the records, addresses and certificate authority to the witness"
}

// Check is always ready: copying again does no harm.
func (CopyRecords) Check(context.Context, World) (plan.Status, error) { return ready, nil }

// Do copies them.
func (CopyRecords) Do(ctx context.Context, w World) error { return w.CopyRecords(ctx) }

// Undo leaves them: a witness's copy is brought up to date by its daemon.
func (CopyRecords) Undo(context.Context, World) error { return nil }

// WaitSync waits until replication has brought a record to the local server.
type WaitSync struct {
	Node    cluster.Node
	Timeout time.Duration // negative: none
}

// Describe says what the step does.
func (s WaitSync) Describe() string {
	if s.Timeout < 0 {
		return "wait until the record has reached this server"
	}
	return fmt.Sprintf("wait up to %s until the record has reached this server", s.Timeout)
}

// Check is always ready.
func (s WaitSync) Check(context.Context, World) (plan.Status, error) { return ready, nil }

// Do waits.
func (s WaitSync) Do(ctx context.Context, w World) error { return w.WaitSync(ctx, s.Node, s.Timeout) }

// Undo ends the undoing: the record itself is right, only its arrival is late.
func (s WaitSync) Undo(context.Context, World) error { return plan.ErrFinal }

// Announce records an event and runs the notification for it.
type Announce struct{ Event Event }

// Describe says what the step does.
func (s Announce) Describe() string { return "record the event " + s.Event.Name }

// Check is always ready.
func (s Announce) Check(context.Context, World) (plan.Status, error) { return ready, nil }

// Do announces it. That an announcement fails is a warning, which the world
// gives: the work that it speaks of has been done.
func (s Announce) Do(ctx context.Context, w World) error {
	_ = w.Announce(ctx, s.Event)
	return nil
}

// Undo ends the undoing: what was announced has happened.
func (s Announce) Undo(context.Context, World) error { return plan.ErrFinal }
