package ops

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"repmgr/internal/cluster"
)

var errBoom = errors.New("boom")

// state is everything that a plan may change.
type state struct {
	Metadata  map[Database]bool
	Records   map[cluster.NodeID]cluster.Node
	Endpoints map[cluster.NodeID]Endpoint
	Authority bool
	Witness   map[cluster.NodeID]cluster.Node
	Slots     map[string]bool // "node slot"
	Held      map[string]bool // the same, temporary
	Recovery  Recovery
	Active    Recovery // what the server has taken
	Standby   bool
	Dir       string // missing, empty, partial, copied, whole, old
}

// fake is a world in memory whose nth change fails.
type fake struct {
	state
	events  []Event
	changes int
	failAt  int
	after   bool // the failing change takes effect all the same
}

func newFake() *fake {
	f := &fake{failAt: -1}
	f.state = state{Metadata: map[Database]bool{}, Records: map[cluster.NodeID]cluster.Node{},
		Endpoints: map[cluster.NodeID]Endpoint{}, Witness: map[cluster.NodeID]cluster.Node{},
		Slots: map[string]bool{}, Held: map[string]bool{}, Standby: true, Dir: "missing"}
	return f
}

// copied is the state as it is now.
func (f *fake) copied() state {
	s := f.state
	s.Metadata, s.Records, s.Endpoints = maps.Clone(s.Metadata), maps.Clone(s.Records), maps.Clone(s.Endpoints)
	s.Witness, s.Slots, s.Held = maps.Clone(s.Witness), maps.Clone(s.Slots), maps.Clone(s.Held)
	return s
}

func (f *fake) change(apply func()) error {
	f.changes++
	if f.changes != f.failAt {
		apply()
		return nil
	}
	if f.after {
		apply()
	}
	return fmt.Errorf("change %d: %w", f.changes, errBoom)
}

func (f *fake) HasMetadata(_ context.Context, in Database) (bool, error) { return f.Metadata[in], nil }
func (f *fake) CreateMetadata(_ context.Context, in Database) error {
	return f.change(func() { f.Metadata[in] = true })
}
func (f *fake) Record(_ context.Context, id cluster.NodeID) (cluster.Node, bool, error) {
	n, found := f.Records[id]
	return n, found, nil
}
func (f *fake) SaveRecord(_ context.Context, n cluster.Node) error {
	return f.change(func() { f.Records[n.ID] = n })
}
func (f *fake) DeleteRecord(_ context.Context, id cluster.NodeID) error {
	return f.change(func() { delete(f.Records, id); delete(f.Endpoints, id) })
}
func (f *fake) RecordPromotion(_ context.Context, id cluster.NodeID) error {
	return f.change(func() {
		for other, n := range f.Records {
			if n.Role == cluster.Primary {
				n.Active = false
			}
			if other == id {
				n.Role, n.Active, n.Upstream = cluster.Primary, true, 0
			}
			f.Records[other] = n
		}
	})
}
func (f *fake) Endpoint(_ context.Context, id cluster.NodeID) (Endpoint, bool, error) {
	e, found := f.Endpoints[id]
	return e, found, nil
}
func (f *fake) SaveEndpoint(_ context.Context, id cluster.NodeID, e Endpoint) error {
	return f.change(func() { f.Endpoints[id] = e })
}
func (f *fake) HasAuthority(context.Context) (bool, error) { return f.Authority, nil }
func (f *fake) CreateAuthority(context.Context) error {
	return f.change(func() { f.Authority = true })
}
func (f *fake) CopyRecords(context.Context) error {
	return f.change(func() { f.Witness = maps.Clone(f.Records) })
}
func (f *fake) WaitSync(context.Context, cluster.Node, time.Duration) error {
	return f.change(func() {})
}
func (f *fake) Announce(_ context.Context, e Event) error {
	f.events = append(f.events, e)
	return nil
}

func slotKey(on cluster.NodeID, name string) string { return fmt.Sprint(on, " ", name) }

func (f *fake) Slot(_ context.Context, on cluster.NodeID, name string) (SlotState, error) {
	return SlotState{Exists: f.Slots[slotKey(on, name)], Physical: true}, nil
}
func (f *fake) CreateSlot(_ context.Context, on cluster.NodeID, name string) error {
	return f.change(func() { f.Slots[slotKey(on, name)] = true })
}
func (f *fake) DropSlot(_ context.Context, on cluster.NodeID, name string) error {
	return f.change(func() { delete(f.Slots, slotKey(on, name)) })
}
func (f *fake) InRecovery(context.Context) (bool, error) { return f.Standby, nil }
func (f *fake) Promote(context.Context, Promotion) error {
	return f.change(func() { f.Standby = false })
}
func (f *fake) Recovery(context.Context) (Recovery, error) { return f.state.Recovery, nil }
func (f *fake) WriteRecovery(_ context.Context, r Recovery) error {
	return f.change(func() { f.state.Recovery = r })
}
func (f *fake) RestoreRecovery(context.Context) error {
	f.state.Recovery = f.Active
	return nil
}
func (f *fake) Activate(context.Context, bool) error {
	return f.change(func() { f.Active = f.state.Recovery })
}
func (f *fake) Attached(context.Context, cluster.NodeID) (bool, error) { return true, nil }
func (f *fake) WaitAttached(context.Context, cluster.NodeID, time.Duration) error {
	return f.change(func() {})
}

func (f *fake) DirectoryIs(_ context.Context, path string) (DirectoryState, error) {
	if path != "/data" {
		return DirectoryState{}, nil
	}
	return DirectoryState{Exists: f.Dir != "missing", Empty: f.Dir == "empty", Free: -1}, nil
}
func (f *fake) PrepareDirectory(context.Context, string) error {
	return f.change(func() { f.Dir = "partial" })
}
func (f *fake) DiscardDirectory(_ context.Context, path string, keep bool) error {
	if path != "/data" {
		return nil
	}
	f.Dir = "missing"
	if keep {
		f.Dir = "empty"
	}
	return nil
}
func (f *fake) HoldWAL(_ context.Context, on cluster.NodeID, slot string) error {
	return f.change(func() { f.Held[slotKey(on, slot)] = true })
}
func (f *fake) ReleaseWAL(_ context.Context, on cluster.NodeID, slot string) error {
	delete(f.Held, slotKey(on, slot))
	return nil
}
func (f *fake) KeepWAL(_ context.Context, on cluster.NodeID, slot string) error {
	return f.change(func() { delete(f.Held, slotKey(on, slot)); f.Slots[slotKey(on, slot)] = true })
}
func (f *fake) BaseBackup(context.Context, Backup) error {
	return f.change(func() { f.Dir = "copied" })
}
func (f *fake) CopyBackup(context.Context, CopyBackup) error {
	return f.change(func() { f.Dir = "copied" })
}
func (f *fake) RestoreBackup(context.Context, RestoreBackup) error {
	return f.change(func() { f.Dir = "copied" })
}
func (f *fake) VerifyBackup(context.Context, string) error { return f.change(func() {}) }
func (f *fake) CopyFiles(context.Context, CopyConfigFiles) error {
	return f.change(func() {})
}
func (f *fake) DiscardFiles(context.Context, CopyConfigFiles) error { return nil }
func (f *fake) ConfigureClone(_ context.Context, _ string, r Recovery) error {
	return f.change(func() { f.state.Recovery, f.Active = r, r })
}
func (f *fake) FinishDirectory(context.Context, string) error {
	return f.change(func() { f.Dir = "whole" })
}
