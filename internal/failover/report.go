package failover

import (
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// ServerState is what a daemon knows of its own PostgreSQL server.
type ServerState string

// The states of a server, as its own daemon sees it.
const (
	ServerUnknown     ServerState = "unknown"     // not looked at yet
	ServerRunning     ServerState = "running"     // answers queries
	ServerStarting    ServerState = "starting"    // the postmaster lives and refuses connections: starting, recovering or stopping
	ServerUnreachable ServerState = "unreachable" // the postmaster lives and does not answer
	ServerStopped     ServerState = "stopped"     // shut down in order: no postmaster, and pg_control says so
	ServerCrashed     ServerState = "crashed"     // no postmaster, no process of it left, and no orderly shutdown
	ServerFenced      ServerState = "fenced"      // stopped by its daemon, because another primary is newer
	ServerNone        ServerState = "none"        // there is no server: the node is a witness without PostgreSQL
)

// Position is how far a server's write-ahead log reaches.
type Position struct {
	Timeline cluster.Timeline `json:"timeline"`
	LSN      cluster.LSN      `json:"lsn"` // of a primary: written; of a standby: the greater of received and replayed
}

// Bid is what a standby has to offer after it has found its primary lost. It is
// taken once, after the WAL receiver has ended, and does not change until the
// loss is over, so that all who compare bids compare the same numbers.
type Bid struct {
	Lost     cluster.NodeID `json:"lost"`
	Position Position       `json:"position"`
	Failed   bool           `json:"failed,omitempty"` // it was tried and the promotion failed
}

// Seen says how long ago this daemon last reached a server itself, by a
// connection of its own; negative is never.
type Seen struct {
	Node cluster.NodeID `json:"node"`
	Ago  time.Duration  `json:"ago_ns"`
}

// Report is what one daemon tells the others, at every heartbeat and at every
// change. It holds durations and never times of day: clocks differ.
type Report struct {
	Node        cluster.NodeID `json:"node_id"`
	Name        string         `json:"node_name"`
	Incarnation uint64         `json:"incarnation"` // drawn at random when the daemon starts
	Sequence    uint64         `json:"sequence"`    // grows with each report of an incarnation
	Version     string         `json:"version"`     // of the program
	PID         int            `json:"pid"`
	Age         time.Duration  `json:"age_ns"` // since the daemon started
	SystemID    string         `json:"system_identifier,omitempty"`

	Paused      bool   `json:"paused"`
	PauseReason string `json:"pause_reason,omitempty"`

	// The node as its own configuration declares it.
	Type      cluster.Role `json:"type"`
	Location  string       `json:"location"`
	Priority  int          `json:"priority"`
	Automatic bool         `json:"automatic"`        // failover=automatic
	Barred    string       `json:"barred,omitempty"` // what of its server forbids a promotion; empty: nothing

	// The local server.
	Server    ServerState    `json:"server"`
	Role      cluster.Role   `json:"role"` // as seen: Primary, Standby or RoleUnknown
	Position  Position       `json:"position"`
	Replayed  cluster.LSN    `json:"replayed"`
	Receiving bool           `json:"receiving"` // a WAL receiver runs
	Upstream  cluster.NodeID `json:"upstream"`  // whom it follows by the record; zero: nobody
	Full      bool           `json:"disk_full,omitempty"`
	Room      int64          `json:"disk_room,omitempty"` // bytes; zero: not known, unless it is full

	// The group, as this daemon knows it.
	RaftID        uint64      `json:"raft_id,omitempty"`        // of its state directory; zero: it takes no part
	Group         string      `json:"group,omitempty"`          // uuid of its founding; empty: no member
	PromotionRule record.Rule `json:"promotion_rule,omitempty"` // empty: no member
	Term          uint64      `json:"term,omitempty"`
	Voters        int         `json:"voters,omitempty"` // in its record
	Standing      Standing    `json:"standing,omitzero"`
	Level         int         `json:"level,omitempty"` // of the record's changes that its program knows; zero: the first

	// How long things take there, as measured; zero: not known.
	Disk  time.Duration `json:"disk_ns,omitempty"`  // to keep an entry of the group on disk
	Sweep time.Duration `json:"sweep_ns,omitempty"` // to find the processes of its server

	// What the daemon makes of it.
	Saw      []Seen `json:"saw,omitempty"` // the upstream, and the primary where that is another node
	Bid      *Bid   `json:"bid,omitempty"`
	State    string `json:"state"`              // monitoring state: "normal" or "degraded"
	Rule     string `json:"rule"`               // the rule that applied last
	Why      string `json:"why"`                // and its reason
	Deciding string `json:"deciding,omitempty"` // what its hands are busy with
}

// Standing is what a daemon has on its disk of the group's log: package quorum's.
type Standing struct {
	Term uint64 `json:"term"`
	Last uint64 `json:"last"`
	Safe uint64 `json:"safe"`
}

// Tell is what a node has to say of itself and of what it makes of the others.
// What only its daemon knows (name, process, version, the last decision) is left
// out.
func Tell(v *View, now time.Time) Report {
	self, _ := cluster.Find(v.Nodes, v.Self)
	r := Report{
		Node: v.Self, SystemID: v.Local.SystemID, Paused: v.Paused, RaftID: v.Group.RaftID, Level: record.Level, Disk: v.Group.Disk, Sweep: v.Sweep,
		Type: self.Role, Location: self.Location, Priority: self.Priority, Automatic: v.Policy.Automatic, Barred: v.Barred(),
		Server: v.Local.State, Role: v.Local.Role, Position: v.Local.Position, Replayed: v.Local.Replayed, Receiving: v.Local.Receiving, Full: v.Local.Full, Room: v.Local.Room,
		Upstream: self.Upstream, State: "normal",
	}
	if Degraded(v, now) {
		r.State = "degraded"
	}
	if v.Loss != nil {
		bid := v.Loss.Bid
		r.Bid = &bid
	}
	switch {
	case v.Earlier != 0: // whatever else it does
		r.Deciding = Describe(Promote{Lost: v.Earlier})
	case v.Doing != nil:
		r.Deciding = Describe(v.Doing)
	}
	for id, p := range v.Probes {
		s := Seen{Node: id, Ago: -1}
		if !p.LastOK.IsZero() {
			s.Ago = now.Sub(p.LastOK)
		}
		r.Saw = append(r.Saw, s)
	}
	g := v.Group.Record
	if g == nil {
		return r
	}
	r.Group, r.PromotionRule, r.Term, r.Voters = g.Group, g.Rule, g.Term, g.Voters()
	if g.Rule == record.Quorum { // what the node was told before that rule began does not count
		r.Paused, r.PauseReason = g.Pause.On, g.Pause.Reason
		f := newFacts(v, now)
		for i, s := range r.Saw {
			if f.vouched(s.Node) && s.Ago >= 0 {
				r.Saw[i].Ago = min(s.Ago, now.Sub(v.Peers[s.Node].At))
			}
		}
	}
	return r
}
