// Package ops holds repmgr's verbs. Each verb turns a survey of the cluster,
// made beforehand, into a plan: a list of steps over a World. Building a plan
// touches nothing, and neither does explaining it, which is a dry run.
package ops

import (
	"context"
	"errors"
	"fmt"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/plan"
)

// Plan is a list of steps over a World.
type Plan = plan.Plan[World]

// PlanEvent is one line of a plan's progress.
type PlanEvent = plan.Event

// Database says in which database metadata is kept.
type Database string

// The databases that a verb may write metadata to.
const (
	Cluster   Database = "the primary's database" // the one that replication carries to every standby
	OfWitness Database = "the witness's database" // a witness's copy
)

// Endpoint is where a node's daemon listens.
type Endpoint struct {
	Host string
	Port int
}

// Recovery is what a standby's settings say about following. A password is never
// in PrimaryConninfo: the world adds it where the settings are written.
type Recovery struct {
	PrimaryConninfo       string
	PrimarySlotName       string
	RestoreCommand        string
	ArchiveCleanupCommand string
	RecoveryMinApplyDelay string
}

// Event is something that is recorded and notified of.
type Event struct {
	Name    string
	Node    cluster.NodeID
	Details string
	Failed  bool
	About   cluster.Node // the node that the placeholders %p, %c and %a speak of
}

// SlotState is what is seen of a replication slot.
type SlotState struct {
	Exists, Active, Physical bool
}

// World is what the steps may see and do. Package registry implements it over
// real servers; wherever it waits, it waits no longer than it is told.
type World interface {
	Metadata
	Servers
	Directory
}

// Metadata is the records in the primary's database, and a witness's copy.
type Metadata interface {
	// HasMetadata tells whether the schema is there and nothing is to be added.
	HasMetadata(ctx context.Context, in Database) (bool, error)
	// CreateMetadata adds what is missing of it.
	CreateMetadata(ctx context.Context, in Database) error
	// Record returns a node's record; found is false where there is none.
	Record(ctx context.Context, id cluster.NodeID) (n cluster.Node, found bool, err error)
	SaveRecord(ctx context.Context, n cluster.Node) error
	DeleteRecord(ctx context.Context, id cluster.NodeID) error
	// RecordPromotion makes id the only active primary of the records, at once.
	RecordPromotion(ctx context.Context, id cluster.NodeID) error
	Endpoint(ctx context.Context, id cluster.NodeID) (e Endpoint, found bool, err error)
	SaveEndpoint(ctx context.Context, id cluster.NodeID, e Endpoint) error
	HasAuthority(ctx context.Context) (bool, error)
	CreateAuthority(ctx context.Context) error
	// CopyRecords makes the witness's copy like the primary's records.
	CopyRecords(ctx context.Context) error
	// WaitSync waits until the local server's own copy of the record is like n;
	// a negative timeout is none.
	WaitSync(ctx context.Context, n cluster.Node, timeout time.Duration) error
	Announce(ctx context.Context, e Event) error
}

// Servers is the local server and what others keep for it. The node Source is
// the server that is cloned, registered or not.
type Servers interface {
	Slot(ctx context.Context, on cluster.NodeID, name string) (SlotState, error)
	CreateSlot(ctx context.Context, on cluster.NodeID, name string) error
	DropSlot(ctx context.Context, on cluster.NodeID, name string) error

	// InRecovery tells whether the local server is a standby.
	InRecovery(ctx context.Context) (bool, error)
	// Promote gives the order and waits until the local server takes writes.
	Promote(ctx context.Context, p Promotion) error

	Recovery(ctx context.Context) (Recovery, error)
	WriteRecovery(ctx context.Context, r Recovery) error
	// RestoreRecovery puts back the settings that WriteRecovery replaced.
	RestoreRecovery(ctx context.Context) error
	// Activate lets the local server take its new settings: by a reload, by a
	// restart where that is asked for, by a start where it does not run.
	Activate(ctx context.Context, restart bool) error
	Attached(ctx context.Context, to cluster.NodeID) (bool, error)
	WaitAttached(ctx context.Context, to cluster.NodeID, timeout time.Duration) error
}

// Directory is the data directory that is made by a clone.
type Directory interface {
	// DirectoryIs tells what stands at the data directory's path.
	DirectoryIs(ctx context.Context, path string) (DirectoryState, error)
	// PrepareDirectory makes the directory, or empties it. No server starts in
	// it until FinishDirectory.
	PrepareDirectory(ctx context.Context, path string) error
	// DiscardDirectory empties the directory, and removes it unless it is kept.
	// One that is not there is no error.
	DiscardDirectory(ctx context.Context, path string, keep bool) error
	// HoldWAL makes a server keep its WAL from now on, for no longer than this
	// program lives. KeepWAL makes a lasting slot of it.
	HoldWAL(ctx context.Context, on cluster.NodeID, slot string) error
	ReleaseWAL(ctx context.Context, on cluster.NodeID, slot string) error
	KeepWAL(ctx context.Context, on cluster.NodeID, slot string) error
	BaseBackup(ctx context.Context, b Backup) error
	// CopyBackup copies a backup that Barman keeps.
	CopyBackup(ctx context.Context, c CopyBackup) error
	// RestoreBackup has Barman restore a backup, and looks at what has come.
	RestoreBackup(ctx context.Context, r RestoreBackup) error
	VerifyBackup(ctx context.Context, path string) error
	// CopyFiles brings configuration files over from the source.
	CopyFiles(ctx context.Context, c CopyConfigFiles) error
	// DiscardFiles removes those that CopyFiles has made outside the directory.
	DiscardFiles(ctx context.Context, c CopyConfigFiles) error
	// ConfigureClone makes the copy a standby that follows as r says.
	ConfigureClone(ctx context.Context, path string, r Recovery) error
	FinishDirectory(ctx context.Context, path string) error
}

// Source is the node id of the server that is cloned.
const Source cluster.NodeID = 0

// MinVersion is the oldest server_version_num that is supported.
const MinVersion = 130000

// Server is what was seen of one server.
type Server struct {
	Reachable  bool
	Why        string // it is not
	Version    int    // as server_version_num
	SystemID   string
	InRecovery bool
	Timeline   cluster.Timeline
	Position   cluster.LSN
	SlotsFree  int // of max_replication_slots
	Senders    int // free, of max_wal_senders

	// Holds tells whether a standby of this node's name is attached to it.
	Holds bool
}

// Role is what the server is seen to be.
func (s Server) Role() cluster.Role {
	switch {
	case !s.Reachable:
		return cluster.RoleUnknown
	case s.InRecovery:
		return cluster.Standby
	default:
		return cluster.Primary
	}
}

// Survey is what was learnt before planning. What a verb does not need is zero.
type Survey struct {
	Self     cluster.Node // the local node's record as the configuration wants it
	Endpoint Endpoint     // of the local node's daemon
	Local    Server
	Nodes    []cluster.Node            // as registered
	Servers  map[cluster.NodeID]Server // the other nodes that were asked
	Primary  cluster.NodeID            // who is the primary, as seen; zero: nobody was
}

// node returns a registered node; one that is not registered has no name.
func (s Survey) node(id cluster.NodeID) cluster.Node {
	n, _ := cluster.Find(s.Nodes, id)
	return n
}

// ErrBrokenOff is the cause of a context that ends since what it is for has lost its purpose.
var ErrBrokenOff = errors.New("it was broken off")

// called names a node as messages do.
func called(n cluster.Node) string { return fmt.Sprintf("node %q (ID: %d)", n.Name, n.ID) }

// Carry runs the plan. What fails without an exit status of its own gets code.
// If the plan ends with the announcement of an event and fails before, that
// event is announced as failed: not if it was broken off, since something else is urgent then.
func Carry(ctx context.Context, p Plan, w World, code fault.Code, on func(plan.Event)) error {
	err := p.Run(ctx, w, on)
	if err == nil {
		return nil
	}
	err = Coded(err, code)
	if len(p.Steps) == 0 || errors.Is(context.Cause(ctx), ErrBrokenOff) {
		return err
	}
	if a, ok := p.Steps[len(p.Steps)-1].(Announce); ok {
		a.Event.Failed, a.Event.Details = true, err.Error()
		// The operation's own error is what counts; the world warns of this one.
		_ = w.Announce(context.WithoutCancel(ctx), a.Event)
	}
	return err
}

// Coded is err with an exit status: code, if it has none of its own.
func Coded(err error, code fault.Code) error {
	var f *fault.Error
	if err == nil || errors.As(err, &f) {
		return err
	}
	var blocked *plan.BlockedError
	if errors.As(err, &blocked) {
		return fault.New(code, "%s", blocked.Error()).WithHint("%s", blocked.Hint)
	}
	return fault.Wrap(err, code, "the operation did not succeed")
}

// checkVersion refuses servers older than those that are supported.
func checkVersion(s Server) error {
	if s.Version >= MinVersion {
		return nil
	}
	return fault.New(fault.BadConfig, "the server is too old").
		WithDetail("it is PostgreSQL %s; the oldest that is supported is %s", major(s.Version), major(MinVersion)).
		WithHint("upgrade the server")
}

// major writes the major version of a server_version_num.
func major(version int) string {
	if version < 100000 {
		return fmt.Sprintf("%d.%d", version/10000, version/100%100)
	}
	return fmt.Sprint(version / 10000)
}

// checkName refuses a name that another active node has.
func checkName(s Survey) error {
	for _, n := range s.Nodes {
		if n.Name == s.Self.Name && n.ID != s.Self.ID && n.Active {
			return fault.New(fault.BadConfig, "another node has the name %q", n.Name).
				WithDetail("%s is registered; this node has the ID %d", called(n), s.Self.ID).
				WithHint("give this node another node_name, or unregister the other")
		}
	}
	return nil
}

// checkRecord refuses to overwrite a record unless force is given.
func checkRecord(s Survey, force bool) error {
	n, found := cluster.Find(s.Nodes, s.Self.ID)
	if !found || force {
		return nil
	}
	return fault.New(fault.BadConfig, "node %d is registered already", n.ID).
		WithDetail("its record says: name %q, type %s, conninfo and all else as \"repmgr cluster show\" shows them", n.Name, n.Role).
		WithHint("overwrite the record with -F/--force, or give this node another node_id")
}
