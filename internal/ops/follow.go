package ops

import (
	"context"
	"fmt"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/plan"
)

// FollowOptions are the options of `standby follow`, and what was found out
// about its target.
type FollowOptions struct {
	Target   cluster.NodeID // zero: the primary
	Primary  bool           // the target is followed because it is the primary
	Recovery Recovery       // the settings that make the local server follow it
	Restart  bool           // restart the server instead of reloading its settings
	Timeout  time.Duration  // for the standby to attach

	// Diverged is why the target cannot be followed, from a comparison of both
	// histories; empty if it can.
	Diverged string

	// Silent leaves the event out: who follows has one of its own.
	Silent bool

	// OldSlot is the slot that this node leaves behind on its former upstream;
	// empty if there is none to remove.
	OldSlot string
}

// StandbyFollow plans `standby follow`. All that can be known is checked before
// anything is changed: a server that is pointed at another history replays what
// lies beyond the fork, acknowledges commits that it does not have, and can then
// only be rewound.
func StandbyFollow(s Survey, o FollowOptions) (Plan, error) {
	p := Plan{Name: "standby follow"}
	// Records say nothing of a server that is of another cluster.
	if primary := s.Servers[s.Primary]; s.Local.InRecovery && primary.SystemID != "" && primary.SystemID != s.Local.SystemID {
		e := otherCluster(s.Local.SystemID, primary.SystemID, s.node(s.Primary))
		e.Code = fault.FollowFail
		return p, e
	}
	self, err := ownRecord(s, fault.BadConfig)
	if err != nil {
		return p, err
	}
	if o.Target == 0 {
		o.Target = s.Primary
	}
	if err := checkTarget(s, self, &o); err != nil {
		return p, err
	}
	target := s.node(o.Target)
	slot := o.Recovery.PrimarySlotName
	if slot != "" {
		p.Steps = append(p.Steps, CreateSlot{On: target, Slot: slot})
	}
	p.Steps = append(p.Steps, WriteRecovery{o.Recovery}, Activate{o.Restart, target})
	// The record is changed before the wait: it says whom the settings name.
	was := self
	self.Role, self.Upstream, self.Active = cluster.Standby, o.Target, true
	if slot != "" {
		self.SlotName = slot
	}
	p.Steps = append(p.Steps, RecordFollow{SaveRecord{Node: self, Was: &was}}, WaitAttached{self, target, o.Timeout})
	if old := was.Upstream; o.OldSlot != "" && old != 0 && old != o.Target {
		p.Steps = append(p.Steps, DropOldSlot{On: s.node(old), Slot: o.OldSlot})
	}
	if !o.Silent {
		p.Steps = append(p.Steps, Announce{Event{Name: "standby_follow", Node: self.ID, About: target,
			Details: fmt.Sprintf("standby attached to upstream node %q (ID: %d)", target.Name, target.ID)}})
	}
	return p, nil
}

// checkTarget says why the target cannot be followed.
func checkTarget(s Survey, self cluster.Node, o *FollowOptions) error {
	target, found := cluster.Find(s.Nodes, o.Target)
	server := s.Servers[o.Target]
	switch {
	case s.Local.Reachable && !s.Local.InRecovery:
		return fault.New(fault.BadConfig, "this server is no standby").
			WithDetail("%s takes writes", called(self)).
			WithHint("a former primary comes back as a standby by \"repmgr node rejoin\" or \"repmgr standby clone\"")
	case o.Target == 0:
		return fault.New(fault.FollowFail, "no primary was found to follow").
			WithHint("start or promote one, wait for it with --wait, or name another node with --upstream-node-id")
	case o.Target == self.ID:
		return fault.New(fault.FollowFail, "a node cannot follow itself").
			WithDetail("node %d is this node", self.ID).WithHint("name another node with --upstream-node-id")
	case !found:
		return fault.New(fault.FollowFail, "node %d is not registered", o.Target).
			WithDetail("registered are %s", idsOf(s.Nodes)).WithHint("name another node with --upstream-node-id")
	case target.Role == cluster.Witness:
		return fault.New(fault.FollowFail, "%s is a witness and has no data to follow", called(target)).
			WithHint("name another node with --upstream-node-id")
	case !server.Reachable:
		return fault.New(fault.FollowFail, "%s cannot be reached", called(target)).
			WithDetail("%s", server.Why).WithHint("start it, or name another node with --upstream-node-id")
	case o.Primary && o.Target != s.Primary:
		return fault.New(fault.FollowFail, "%s is not the primary, or not any more", called(target)).
			WithDetail("Behind one that is followed as the primary nobody is to stay when it is a standby.").
			WithHint("nothing was changed; the daemon decides again whom to follow")
	case server.InRecovery && s.Primary == 0:
		return fault.New(fault.FollowFail, "no primary was found").
			WithDetail("%s is a standby; the change is recorded on the primary, so that one must run", called(target)).
			WithHint("start or promote the primary first")
	case o.Diverged != "":
		return fault.New(fault.FollowFail, "this server cannot follow %s", called(target)).
			WithDetail("%s", o.Diverged).
			WithHint("nothing was changed; bring this server back by \"repmgr node rejoin --force-rewind\" or \"repmgr standby clone --force\"")
	case o.Recovery.PrimarySlotName != "" && server.SlotsFree < 1 && !server.Holds:
		return noSlots(target, 1, server.SlotsFree, fault.FollowFail)
	case server.Senders < 1 && !server.Holds:
		return noSenders(target, 1, server.Senders, fault.FollowFail)
	}
	return nil
}

func noSlots(n cluster.Node, need, free int, code fault.Code) error {
	return fault.New(code, "%s has too few free replication slots", called(n)).
		WithDetail("%d needed, %d free", need, free).
		WithHint("drop slots that nobody uses (pg_replication_slots), or raise max_replication_slots and restart that server")
}

func noSenders(n cluster.Node, need, free int, code fault.Code) error {
	return fault.New(code, "%s has too few free WAL senders", called(n)).
		WithDetail("%d needed, %d free", need, free).
		WithHint("end replication connections that nobody needs (pg_stat_replication), or raise max_wal_senders and restart that server")
}

// WitnessFollow plans what following means for a witness: its record names the
// new primary, and its copy of the records is made anew.
func WitnessFollow(s Survey) (Plan, error) {
	p := Plan{Name: "witness follow"}
	self, err := ownRecord(s, fault.BadConfig)
	if err != nil {
		return p, err
	}
	if s.Primary == 0 {
		return p, fault.New(fault.FollowFail, "no primary was found to follow").WithHint("start or promote one")
	}
	was := self
	self.Upstream = s.Primary
	p.Steps = []plan.Step[World]{SaveRecord{Node: self, Was: &was}, CopyRecords{}}
	return p, nil
}

// CreateSlot makes a physical replication slot. One of that name that nobody
// uses is taken as it is.
type CreateSlot struct {
	On   cluster.Node
	Slot string
}

// Describe says what the step does.
func (s CreateSlot) Describe() string {
	return fmt.Sprintf("create replication slot %q on %s", s.Slot, called(s.On))
}

// Check asks whether the slot is there.
func (s CreateSlot) Check(ctx context.Context, w World) (plan.Status, error) {
	slot, err := w.Slot(ctx, s.On.ID, s.Slot)
	if err != nil {
		return ready, err
	}
	if slot.Exists && !slot.Physical {
		return plan.Status{Reason: fmt.Sprintf("%s has a logical replication slot of that name", called(s.On)),
			Hint: "drop it, or give this node another node_id"}, nil
	}
	return plan.Status{Done: slot.Exists}, nil
}

// Do creates it.
func (s CreateSlot) Do(ctx context.Context, w World) error {
	return w.CreateSlot(ctx, s.On.ID, s.Slot)
}

// Undo drops it again.
func (s CreateSlot) Undo(ctx context.Context, w World) error {
	return w.DropSlot(ctx, s.On.ID, s.Slot)
}

// DropOldSlot removes the slot that a standby leaves behind. That it cannot be
// removed does not make the follow a failure; the world warns of it.
type DropOldSlot struct {
	On   cluster.Node
	Slot string
}

// Describe says what the step does.
func (s DropOldSlot) Describe() string {
	return fmt.Sprintf("drop replication slot %q on %s, if nobody uses it", s.Slot, called(s.On))
}

// Check is always ready: the old upstream may be down, which is no hindrance.
func (s DropOldSlot) Check(context.Context, World) (plan.Status, error) { return ready, nil }

// Do drops it.
func (s DropOldSlot) Do(ctx context.Context, w World) error {
	_ = w.DropSlot(ctx, s.On.ID, s.Slot)
	return nil
}

// Undo cannot be: the WAL that the slot kept is gone.
func (s DropOldSlot) Undo(context.Context, World) error { return plan.ErrFinal }

// WriteRecovery makes the local server's settings name its upstream.
type WriteRecovery struct{ Recovery Recovery }

// Describe says what the step does.
func (s WriteRecovery) Describe() string {
	text := fmt.Sprintf("set primary_conninfo to %q", s.Recovery.PrimaryConninfo)
	if s.Recovery.PrimarySlotName != "" {
		text += fmt.Sprintf(" and primary_slot_name to %q", s.Recovery.PrimarySlotName)
	}
	return text
}

// Check asks whether the settings are so.
func (s WriteRecovery) Check(ctx context.Context, w World) (plan.Status, error) {
	r, err := w.Recovery(ctx)
	return plan.Status{Done: r == s.Recovery}, err
}

// Do writes them.
func (s WriteRecovery) Do(ctx context.Context, w World) error {
	return w.WriteRecovery(ctx, s.Recovery)
}

// Undo puts back what was, for as long as the server was not told.
func (s WriteRecovery) Undo(ctx context.Context, w World) error { return w.RestoreRecovery(ctx) }

// Activate lets the local server take its settings.
type Activate struct {
	Restart bool
	Target  cluster.Node
}

// Describe says what the step does.
func (s Activate) Describe() string {
	if s.Restart {
		return "restart this server"
	}
	return "reload the settings of this server, or start it if it does not run"
}

// Check is always ready: settings that were written need not have been taken.
func (s Activate) Check(context.Context, World) (plan.Status, error) { return ready, nil }

// Do does it.
func (s Activate) Do(ctx context.Context, w World) error { return w.Activate(ctx, s.Restart) }

// Undo cannot be: the server follows by now.
func (s Activate) Undo(context.Context, World) error { return plan.ErrFinal }

// RecordFollow writes the record of a standby that follows another node. It
// stays when the standby does not attach: its settings name that node.
type RecordFollow struct{ SaveRecord }

// Undo leaves it.
func (s RecordFollow) Undo(context.Context, World) error { return plan.ErrFinal }

// WaitAttached waits until the standby streams from its upstream.
type WaitAttached struct {
	Node, To cluster.Node
	Timeout  time.Duration
}

// Describe says what the step does.
func (s WaitAttached) Describe() string {
	return fmt.Sprintf("wait up to %s until %s is attached to %s", s.Timeout, called(s.Node), called(s.To))
}

// Check is always ready: just after a reload the old connection may still show.
func (s WaitAttached) Check(context.Context, World) (plan.Status, error) { return ready, nil }

// Do waits.
func (s WaitAttached) Do(ctx context.Context, w World) error {
	return w.WaitAttached(ctx, s.To.ID, s.Timeout)
}

// Undo cannot be.
func (s WaitAttached) Undo(context.Context, World) error { return plan.ErrFinal }
