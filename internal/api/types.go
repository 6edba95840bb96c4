package api

import (
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
	"repmgr/internal/record"
	"repmgr/internal/registry"
)

// The paths of the versioned interface. The health endpoints have none: their
// names are Patroni's, so that configurations of load balancers work unchanged.
const (
	PathExchange = "/v1/exchange"
	PathStream   = "/v1/stream"
	PathStatus   = "/v1/status"
	PathHealth   = "/v1/health"
	PathPause    = "/v1/pause"
	PathFenced   = "/v1/fenced"
	PathWake     = "/v1/wake"
	PathMembers  = "/v1/members"
	PathSight    = "/v1/sight"
	PathSights   = "/v1/sights"
	PathStart    = "/v1/startable"
	PathDrill    = "/v1/drill"
	PathFault    = "/v1/fault"
	PathFollow   = "/v1/follow"
	PathSwitch   = "/v1/switchover"
	PathRejoin   = "/v1/rejoin"
	PathStepDown = "/v1/stepdown"
	PathStepUp   = "/v1/stepup"
	PathReach    = "/v1/reach"
)

// ViewVersion is the version of ClusterView's form; it only grows.
const ViewVersion = 1

// ClusterView is what one daemon knows of its cluster.
type ClusterView struct {
	Version   int                         `json:"view_version"`
	ClusterID string                      `json:"cluster_id,omitempty"` // of the certificate authority
	Own       failover.Report             `json:"own"`
	Peers     []Peer                      `json:"peers"`
	Nodes     []cluster.Node              `json:"nodes"`             // as registered; the server sends them without conninfo
	Daemons   map[cluster.NodeID]Endpoint `json:"daemons,omitempty"` // where they listen, the own one included
	Decision  Decision                    `json:"decision"`
	Recent    []Decision                  `json:"recent"` // the last decisions that did or changed something, oldest first

	Promotion *Promotion `json:"promotion,omitempty"`

	// StepDown is the last switchover under the visibility rule in which this node's server was
	// the former primary; nil: there was none in this life of the daemon.
	StepDown *StepDown `json:"step_down,omitempty"`

	// Unready is why this node's server, which takes writes, shall be sent no clients
	// yet; empty: it may be sent some.
	Unready string `json:"unready,omitempty"`

	// Turned is how long ago the daemon's loop last went round; zero is just now.
	Turned time.Duration `json:"turned_ago_ns"`
}

// Promotion is by which rule a standby would be promoted, and all that this
// daemon knows of what stands behind the rule.
type Promotion struct {
	Rule record.Rule `json:"rule"`
	Why  string      `json:"why"`            // the rule is that one
	Hint string      `json:"hint,omitempty"` // what would be safer

	// Of a member of the daemons' group.
	Record    *record.Record     `json:"record,omitempty"` // as applied here; nil: this node is no member
	Leader    cluster.NodeID     `json:"leader_node_id"`   // of the group; zero: none is known
	Voters    []Voter            `json:"voters,omitempty"`
	Unchanged time.Duration      `json:"lease_unchanged_ns"` // since this daemon saw the lease change or be renewed
	Left      *time.Duration     `json:"lease_left_ns,omitempty"`
	Guard     Guard              `json:"guard"`
	Failover  *failover.Prospect `json:"failover,omitempty"` // under the quorum rule
	Broken    string             `json:"broken,omitempty"`   // why this node's member is out of order
	Refused   []RefusedNode      `json:"refused,omitempty"`  // who is not listened to here
	Barred    []Barred           `json:"barred,omitempty"`   // who may not be promoted, by either rule
	Full      []FullDisk         `json:"disk_full,omitempty"`
	TooShort  string             `json:"lease_too_short,omitempty"` // for what, as measured, the lease is too short; empty: for nothing
}

// FullDisk is a node whose server has no room left.
type FullDisk struct {
	Node cluster.NodeID `json:"node_id"`
	Room int64          `json:"bytes_left"`
}

// Barred is a node that may not be promoted, since settings of its server forbid it.
type Barred struct {
	Node cluster.NodeID `json:"node_id"`
	Name string         `json:"node_name"`
	Why  string         `json:"why"`
}

// RefusedNode is a node of which a daemon is not listened to, and why.
type RefusedNode struct {
	Node cluster.NodeID `json:"node_id"`
	Why  string         `json:"why"`
}

// Voter is a member that votes.
type Voter struct {
	Node cluster.NodeID `json:"node_id"`
	Name string         `json:"node_name"`
	Seen bool           `json:"seen"` // it was heard of lately
}

// Guard is the process that ends this node's server where its daemon cannot.
type Guard struct {
	Alive bool           `json:"alive"`
	Left  *time.Duration `json:"deadline_left_ns,omitempty"` // nil: it holds no deadline
}

// Endpoint is where a daemon listens.
type Endpoint = registry.Endpoint

// StartAnswer says how the server, which is about to be started, comes up, and why.
type StartAnswer struct {
	As  failover.Gate `json:"as"`
	Why string        `json:"why"`
}

// SwitchoverAnswer names a switchover that was asked for, as the cluster record knows it.
type SwitchoverAnswer struct {
	Number uint64         `json:"number"`       // of the request
	Term   uint64         `json:"term"`         // in which it was asked for
	From   cluster.NodeID `json:"from_node_id"` // the primary then
}

// StepDown is how far a switchover under the visibility rule is.
type StepDown struct {
	To     cluster.NodeID `json:"to_node_id"`
	Over   bool           `json:"over"`
	Failed *failure       `json:"failed,omitempty"` // why it did not succeed, where it is over
}

// Fail notes why it did not succeed.
func (s *StepDown) Fail(err error) {
	f := failureOf(err)
	s.Over, s.Failed = true, &f
}

// Err is why it did not succeed; nil: it did, or is not over.
func (s StepDown) Err() error {
	if s.Failed == nil {
		return nil
	}
	return &fault.Error{Code: fault.Code(s.Failed.Code), Msg: s.Failed.Msg, Detail: s.Failed.Detail, Hint: s.Failed.Hint}
}

// Drill is what each single fault would lead to, as one daemon sees it now.
type Drill struct {
	Rule     record.Rule        `json:"rule"` // by which the outcomes were decided
	Outcomes []failover.Outcome `json:"outcomes"`
}

// Fault is what a daemon is asked to do to its own server in a drill for real.
type Fault string

// The faults, and the end of one.
const (
	FaultCrash Fault = "crash" // end every process of the server at once
	FaultOver  Fault = "over"  // start it again: a standby's, that nobody else starts
)

// Members is what a witness without PostgreSQL reads in place of a database.
type Members struct {
	Nodes   []cluster.Node              `json:"nodes"` // as registered, without passwords
	Daemons map[cluster.NodeID]Endpoint `json:"daemons"`
}

// Sight is what a daemon's own server showed when the daemon asked it just now, over a
// session that was open, and what the daemon said of itself.
type Sight struct {
	Server cluster.Sight   `json:"server"` // its record is without a password
	Report failover.Report `json:"report"`
}

// Sights is what all servers showed whose daemons could ask them just now. Whoever is
// missing has to be asked in another way.
type Sights struct {
	Nodes     []cluster.Node           `json:"nodes"` // as registered now, by the own server; whole
	Seen      map[cluster.NodeID]Sight `json:"seen"`  // the own server's always
	Promotion *Promotion               `json:"promotion,omitempty"`
}

// Peer is another daemon, as far as it was heard of.
type Peer struct {
	Node   cluster.NodeID   `json:"node_id"`
	Name   string           `json:"node_name"`
	Host   string           `json:"host"`
	Port   int              `json:"port"`
	Report *failover.Report `json:"report,omitempty"` // its latest; nil: never heard of it
	Age    time.Duration    `json:"age_ns"`           // since that report came
	Error  string           `json:"error,omitempty"`  // of the last attempt to reach it, if it failed
}

// Decision is a rule that applied, and what was done about it.
type Decision struct {
	At      time.Time `json:"at"` // by the daemon's own clock
	Rule    string    `json:"rule"`
	Why     string    `json:"why"`
	Actions []string  `json:"actions,omitempty"`
}

// Health is the body of the health endpoints: a node in a few words.
type Health struct {
	OK       bool                 `json:"ok"`
	Why      string               `json:"why,omitempty"` // if not ok
	Node     cluster.NodeID       `json:"node_id"`
	Name     string               `json:"node_name"`
	Version  string               `json:"version"`
	Role     cluster.Role         `json:"role"`
	Server   failover.ServerState `json:"server"`
	Timeline cluster.Timeline     `json:"timeline"`
	LSN      cluster.LSN          `json:"lsn"`
	Replayed cluster.LSN          `json:"replayed"`
	Lag      *uint64              `json:"lag_bytes,omitempty"` // behind the primary's last known position, if asked for and known
	Paused   bool                 `json:"paused"`
}

// faultRequest is the body of PathFault. It names the node, so that none is hit
// because of an address that is another's by now.
type faultRequest struct {
	Node cluster.NodeID `json:"node_id"`
	What Fault          `json:"what"`
}

// fencedRequest is the body of PathFenced.
type fencedRequest struct {
	Node cluster.NodeID `json:"node_id"`
}

// switchRequest is the body of PathSwitch.
type switchRequest struct {
	To cluster.NodeID `json:"to_node_id"`
	By string         `json:"by"`
}

// stepDownRequest is the body of PathStepDown.
type stepDownRequest struct {
	To cluster.NodeID `json:"to_node_id"`
}

// stepUpRequest is the body of PathStepUp.
type stepUpRequest struct {
	From cluster.NodeID `json:"from_node_id"`
	End  cluster.LSN    `json:"end"`
}

// Pause is an order to stop or to resume automatic failover: the body of PathPause.
type Pause struct {
	Paused bool   `json:"paused"`
	Reason string `json:"reason,omitempty"`
	// Seconds is when a pause ends by itself, counted from when the daemon takes it up;
	// zero: only by an order. An older release does not know it, and goes on being paused.
	Seconds int `json:"seconds,omitempty"`
}

// followRequest is the body of PathFollow.
type followRequest struct {
	Upstream cluster.NodeID `json:"upstream_node_id"`
}

// failure is the body of every answer that is an error: a fault.Error's parts.
type failure struct {
	Code   int    `json:"code"`
	Msg    string `json:"error"`
	Detail string `json:"detail,omitempty"`
	Hint   string `json:"hint,omitempty"`
}
