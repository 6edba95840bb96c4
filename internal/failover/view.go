package failover

import (
	"slices"
	"time"

	"repmgr/internal/cluster"
)

// Policy is the part of the configuration that decisions depend on.
type Policy struct {
	Automatic         bool          // failover=automatic
	MonitorInterval   time.Duration // between two looks at the upstream
	ReconnectAttempts int           // further looks before an upstream that failed one is lost
	ReconnectInterval time.Duration // between those
	Consensus         bool          // primary_visibility_consensus: nobody may still see the primary
	Validate          bool          // failover_validation_command is set
	ElectionRerun     time.Duration // before a refused or failed promotion is tried again
}

// freshness is how long a report counts as news: long enough that one lost
// heartbeat does not make a peer vanish.
func (p Policy) freshness() time.Duration { return max(2*time.Second, 2*p.MonitorInterval) }

// suspicion is how long an upstream is retried at least before it is lost: the
// first attempt follows the failure at once, the others at the interval.
func (p Policy) suspicion() time.Duration {
	return time.Duration(max(0, p.ReconnectAttempts-1)) * p.ReconnectInterval
}

// Local is what this daemon knows of its own server.
type Local struct {
	At        time.Time // when it was looked at
	State     ServerState
	Role      cluster.Role // Primary or Standby as seen; RoleUnknown while not running
	SystemID  string
	Position  Position
	Replayed  cluster.LSN
	Receiving bool // a WAL receiver runs
}

// Peer is the latest report of another daemon, when it came, and since when the
// reports have told the same state of its server.
type Peer struct {
	Report Report
	At     time.Time
	Since  time.Time
	Silent bool // it was asked after that report, and did not answer
}

// Probe is what this daemon's own looks at another server came to. It is a
// second pair of eyes beside the reports: a server may live without its daemon.
type Probe struct {
	At        time.Time // end of the last look
	OK        bool      // the last look succeeded
	LastOK    time.Time // zero: never
	FirstFail time.Time // first failure since LastOK; zero while OK
	Failures  int       // since LastOK
	LostAt    time.Time // when it had failed often and long enough to be lost; zero: not yet
	Role      cluster.Role
	SystemID  string // empty where it was not asked for
	Position  Position
}

// Loss is what this node keeps about the loss of its primary while it lasts.
type Loss struct {
	Bid      Bid
	BidAt    time.Time
	TriedAt  time.Time // end of the last refused or failed attempt; zero: none
	Approved bool      // failover_validation_command agreed
}

// View is everything that one node knows when it decides. Only Observe changes it.
type View struct {
	Self   cluster.NodeID
	Policy Policy
	Nodes  []cluster.Node // as last read from the registry
	Local  Local
	Peers  map[cluster.NodeID]Peer
	Probes map[cluster.NodeID]Probe
	Paused bool
	Loss   *Loss
	Doing  Action // the order that the hands are carrying out; nil: none
	Setback
}

// Setback is an order that did not succeed, and how often in a row.
type Setback struct {
	Of    Action // nil: the last order succeeded
	At    time.Time
	Times int
}

// pause is how long the same order is not given again: longer each time, so that
// what cannot succeed does not keep the servers busy.
func (s Setback) pause() time.Duration {
	if _, urgent := s.Of.(Fence); urgent {
		return time.Second
	}
	return min(time.Second<<min(s.Times-1, 5), 30*time.Second)
}

// New returns the view of a node that has seen nothing yet.
func New(self cluster.NodeID, p Policy) *View {
	return &View{Self: self, Policy: p, Peers: map[cluster.NodeID]Peer{}, Probes: map[cluster.NodeID]Probe{}}
}

// Event is something that happened.
type Event interface{ event() }

type (
	// LocalSeen brings a look at the own server.
	LocalSeen struct{ Local Local }
	// PeerReported brings another daemon's report.
	PeerReported struct{ Report Report }
	// PeerSilent says that another daemon was asked and did not answer.
	PeerSilent struct{ Node cluster.NodeID }
	// Probed brings the end of a look at another server.
	Probed struct {
		Node     cluster.NodeID
		OK       bool
		Role     cluster.Role
		SystemID string
		Position Position
	}
	// NodesRead brings a reading of the registry.
	NodesRead struct{ Nodes []cluster.Node }
	// PauseSet brings an operator's pause or its end.
	PauseSet struct{ Paused bool }
	// PolicySet brings a reloaded configuration.
	PolicySet struct{ Policy Policy }
	// Ordered says that the hands took an action up.
	Ordered struct{ Action Action }
	// Done says how an action ended; Err is empty when it succeeded.
	Done struct {
		Action Action
		Err    string
	}
)

func (LocalSeen) event()    {}
func (PeerReported) event() {}
func (PeerSilent) event()   {}
func (Probed) event()       {}
func (NodesRead) event()    {}
func (PauseSet) event()     {}
func (PolicySet) event()    {}
func (Ordered) event()      {}
func (Done) event()         {}

// Observe folds one event into the view.
func (v *View) Observe(e Event, now time.Time) {
	switch e := e.(type) {
	case LocalSeen:
		v.Local = e.Local
	case PeerReported:
		v.observeReport(e.Report, now)
	case PeerSilent:
		if p, ok := v.Peers[e.Node]; ok {
			p.Silent = true
			v.Peers[e.Node] = p
		}
	case Probed:
		v.observeProbe(e, now)
	case NodesRead:
		v.Nodes = e.Nodes
	case PauseSet:
		v.Paused = e.Paused
	case PolicySet:
		v.Policy = e.Policy
	case Ordered:
		v.observeOrder(e.Action, now)
	case Done:
		v.observeDone(e, now)
	}
}

// observeReport keeps the newest report of each peer: one that was overtaken on
// its way says what is no longer true.
func (v *View) observeReport(r Report, now time.Time) {
	old, known := v.Peers[r.Node]
	if r.Node == v.Self || known && old.Report.Incarnation == r.Incarnation && r.Sequence < old.Report.Sequence {
		return
	}
	since := old.Since
	if !known || old.Report.Server != r.Server {
		since = now
	}
	v.Peers[r.Node] = Peer{Report: r, At: now, Since: since}
}

func (v *View) observeProbe(e Probed, now time.Time) {
	p := v.Probes[e.Node]
	p.At, p.OK = now, e.OK
	if e.OK {
		p.LastOK, p.FirstFail, p.LostAt, p.Failures = now, time.Time{}, time.Time{}, 0
		p.Role, p.SystemID, p.Position = e.Role, e.SystemID, e.Position
	} else {
		p.Failures++
		if p.Failures == 1 {
			p.FirstFail = now
		}
		long := now.Sub(p.FirstFail) >= v.Policy.suspicion()-v.Policy.ReconnectInterval/4 // the eyes' ticks are not exact
		if p.LostAt.IsZero() && long && p.Failures > v.Policy.ReconnectAttempts {
			p.LostAt = now
		}
	}
	v.Probes[e.Node] = p
}

// observeOrder notes what the hands took up. Bids are the view's own affair:
// they are placed and withdrawn here.
func (v *View) observeOrder(a Action, now time.Time) {
	switch a := a.(type) {
	case PlaceBid:
		v.Loss = &Loss{Bid: a.Bid, BidAt: now}
	case WithdrawBid:
		v.Loss = nil
	default:
		v.Doing = a
	}
}

func (v *View) observeDone(e Done, now time.Time) {
	if v.Doing == e.Action {
		v.Doing = nil
	}
	switch {
	case e.Err == "":
		v.Setback = Setback{}
	case v.Setback.Of == e.Action:
		v.Setback = Setback{Of: e.Action, At: now, Times: v.Setback.Times + 1}
	default:
		v.Setback = Setback{Of: e.Action, At: now, Times: 1}
	}
	if e.Err == "" {
		v.observeRecord(e.Action)
	}
	if v.Loss == nil {
		return
	}
	switch e.Action.(type) {
	case Validate:
		v.Loss.Approved = e.Err == ""
		if e.Err != "" {
			v.Loss.TriedAt = now
		}
	case Promote:
		v.Loss.Bid.Failed, v.Loss.Approved = e.Err != "", false
		if e.Err != "" {
			v.Loss.TriedAt = now
		}
	}
}

// observeRecord notes what an order has written into this node's record, so that
// nothing is decided from the record as it was before.
func (v *View) observeRecord(a Action) {
	nodes := slices.Clone(v.Nodes)
	for i := range nodes {
		if nodes[i].ID != v.Self {
			continue
		}
		switch a := a.(type) {
		case Promote, RecordRole:
			nodes[i].Role, nodes[i].Upstream, nodes[i].Active = cluster.Primary, 0, true
		case Follow:
			nodes[i].Upstream = a.Upstream
		}
	}
	v.Nodes = nodes
}
