package failover

import (
	"slices"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
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
	AlwaysPromote     bool          // always_promote: also where the own record names no upstream
	FailoverDelay     time.Duration // failover_delay: from the loss to the bid
	PromoteDelay      time.Duration // promote_delay: from the bid to the promotion
	StopReceivers     bool          // standby_disconnect_on_failover
	SiblingsStreaming time.Duration // sibling_nodes_disconnect_timeout: for the others' WAL receivers to end

	// Of the quorum rule.
	Quorum        bool          // it is wanted where there are three voters
	LeaseTTL      time.Duration // time to live of the primary's lease
	RestartGrace  time.Duration // before a primary that was stopped in order gives its lease back
	RecoveryGrace time.Duration // before one that is starting does
	HangBound     time.Duration // before one that does not answer does
	WriteBound    time.Duration // before one whose commits do not return does; zero: never
	BidWindow     time.Duration // for bids of standbys that are slow
	MaximumLag    int64         // maximum_lag_on_failover, bytes; negative: no bound
	Rejoin        string        // auto_rejoin: "rewind", "clone" or "off"

	// Of synchronous replication under the quorum rule.
	SyncMode    record.SyncMode // synchronous_mode
	SyncCount   int             // synchronous_node_count
	SyncTimeout time.Duration   // synchronous_standby_timeout
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
	Held      bool // its WAL receiver was stopped by StopReceiver, and none may run

	Since       time.Time   // since when it is in State, as Observe saw it
	Line        record.Line // the history of its WAL; empty while not known
	Incarnation string      // of the data directory
	Armed       bool        // whatever starts it, it comes up read-only: standby.signal is there
	Sealed      bool        // primary_conninfo is the empty string, so that it receives nothing
	Ended       bool        // this daemon ended it, and it has not run since
	StandbyName string      // application_name in primary_conninfo; empty: none, or not known
	SyncManaged bool        // synchronous_standby_names is not what operators configured
	Full        bool        // its disk is: a write was refused for that, or there is next to no room
	Room        int64       // bytes that may still be written; zero: not known, unless Full
	Session     uint64      // number of the session with it: another one had to be opened anew
	Barred      string      // what of its settings forbids a promotion; empty: nothing (safety notes, B27)
	Torn        bool        // a rewind of it was broken off: it may not be started (safety notes, A24)
}

// Barred says what of the own server forbids that it is promoted: its settings, or
// that a rewind was broken off, while none is under way. Empty: nothing.
func (v *View) Barred() string {
	if _, rewinding := v.Doing.(Rejoin); v.Local.Torn && !rewinding {
		return tornText
	}
	return v.Local.Barred
}

const tornText = "a rewind of its server was broken off, and it has to be cloned"

// Peer is the latest report of another daemon, when it came, and since when the
// reports have told the same state of its server.
type Peer struct {
	Report Report
	At     time.Time
	Since  time.Time
	Silent bool          // it was asked after that report, and did not answer
	Trip   time.Duration // there and back, as the better exchanges of late took; zero: not known
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
	Rejoins   Rejoins
	Earlier   cluster.NodeID // after whose loss an earlier life of this daemon has ordered a promotion of its server that may happen yet; zero: there is none
	RefusedBy cluster.NodeID // who listens to another daemon as this node's; zero: nobody did
	RefusedAt time.Time

	// Of the quorum rule.
	Life         uint64 // of this daemon: drawn at random when it starts
	Group        Group
	Disowned     string    // a group whose members' word counts no more here
	LeadSince    time.Time // since when this node leads the group
	Tenure       Tenure
	Seal         Sealed
	Reached      Sealed // where the own WAL ends since the lease was handed over, by Reach
	Asked        map[record.Change]Asking
	AnsweredAt   time.Time     // when the own server answered last, was known to be down, or was started
	DoneAt       time.Time     // when an order that touches the own server ended last
	FullSince    time.Time     // since when the own server's disk is full; zero: it is not
	Writing      time.Time     // since when the commit of this daemon's own is under way; zero: none is
	Sweep        time.Duration // that finding the own server's processes takes; zero: not measured
	Guard        GuardSeen
	Opened       bool      // the own server may be started as a primary, and was not seen to run since
	Shut         bool      // its directory was armed, or may have been, when the server may have been starting, and so may have found it as it was: nobody has looked since
	ReadOnly     bool      // the own server was ended with its directory armed, and nothing since has made it a primary
	GuardSince   time.Time // since when there is no guard, or was none
	Owed         time.Time // until when an earlier life of this daemon, whose record is lost, may have held the lease: its guard's deadline
	Sync         SyncView
	Repromotions Repromotions
	Opening      Opening  // of the own server, as a primary
	Handover     Handover // of a switchover
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
	switch s.Of.(type) {
	case Fence:
		return time.Second
	case Demote, GiveUp, Seal, PromoteTo, StartServer, Arm:
		return 200 * time.Millisecond
	}
	return min(time.Second<<min(s.Times-1, 5), 30*time.Second)
}

// promotionMayTake is for how long another node's promotion is expected that its daemon does not watch
// any more: what a daemon gives a command for that by default, promote_check_timeout and half a minute.
const promotionMayTake = 90 * time.Second

// Rejoins are the tries to make the own server a standby again that led to none
// that streams, and when the last one began or ended.
type Rejoins struct {
	Tries int
	At    time.Time
}

// wait is how long to wait after the last try: each may cost a rewind, and the
// nodes of a cluster shall not all try at the same moment (safety notes, B31).
func (r Rejoins) wait(self cluster.NodeID) time.Duration {
	if r.Tries == 0 {
		return 0
	}
	pause := min(5*time.Second<<min(r.Tries-1, 6), 5*time.Minute)
	return pause + pause*time.Duration((int(self)*7+r.Tries*3)%10)/40
}

// observeRejoined ends the counting when the own server is a primary, or streams the
// present primary's history: it may receive for a while what is of no use.
func (v *View) observeRejoined() {
	l, r := v.Local, v.Group.Record
	there := l.Receiving && (r == nil || r.Rule != record.Quorum || r.Lease.Timeline == l.Position.Timeline)
	if l.State == ServerRunning && (l.Role == cluster.Primary || there) {
		v.Rejoins = Rejoins{}
	}
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
	PeerReported struct {
		Report Report
		Trip   time.Duration // that the exchange took; zero: it was the peer's
	}
	// PeerSilent says that another daemon was asked and did not answer.
	PeerSilent struct{ Node cluster.NodeID }
	// RefusedBy says that a peer listens to another daemon, an older one, as this node's.
	RefusedBy struct{ Node cluster.NodeID }
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
	// RejoinsKept brings how often an earlier life of this daemon has tried in vain.
	RejoinsKept struct{ Tries int }
	// PromotionKept says that an earlier life of this daemon has ordered the promotion of its server
	// after the loss of a node, which may happen yet; of none: that it is over.
	PromotionKept struct{ Lost cluster.NodeID }
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

func (LocalSeen) event()     {}
func (PeerReported) event()  {}
func (PeerSilent) event()    {}
func (RefusedBy) event()     {}
func (Probed) event()        {}
func (NodesRead) event()     {}
func (PauseSet) event()      {}
func (PolicySet) event()     {}
func (RejoinsKept) event()   {}
func (PromotionKept) event() {}
func (Ordered) event()       {}
func (Done) event()          {}

// Observe folds one event into the view.
func (v *View) Observe(e Event, now time.Time) {
	switch e := e.(type) {
	case LocalSeen:
		v.observeLocal(e.Local, now)
	case PeerReported:
		v.observeReport(e.Report, e.Trip, now)
	case PeerSilent:
		if p, ok := v.Peers[e.Node]; ok {
			p.Silent = true
			v.Peers[e.Node] = p
		}
	case RefusedBy:
		v.RefusedBy, v.RefusedAt = e.Node, now
	case Probed:
		v.observeProbe(e, now)
	case NodesRead:
		v.Nodes = e.Nodes
	case PauseSet:
		v.observePause(e.Paused, now)
	case PromotionKept:
		v.Earlier = e.Lost
	case PolicySet:
		v.Policy = e.Policy
	case RejoinsKept:
		v.Rejoins = Rejoins{e.Tries, now}
	case Ordered:
		v.observeOrder(e.Action, now)
	case Done:
		v.observeDone(e, now)
	case GroupSeen:
		v.observeGroup(e.Group, now)
	case Asked:
		v.observeAsked(e.Change, now)
	case Answered:
		v.observeAnswer(e)
	case RuleRead:
		if v.Group.Record == nil {
			v.Group.Known = e.Quorum
		}
		if e.Disowned != "" {
			v.Disowned = e.Disowned
		}
	case Writing:
		v.Writing = e.Since
	case SweepTimed:
		v.Sweep = e.Took
	case SealedAt:
		v.Seal = e.Sealed
	case ReachedAt:
		v.Reached = e.Sealed
	case GuardSeen:
		v.observeGuard(e, now)
	case SyncSeen:
		v.observeSync(e, now)
	case SyncOrdered:
		v.Sync.Doing = e.Action
	case SyncDone:
		v.observeSyncDone(e, now)
	case StoppedInOrder:
		v.observeHandover(e.Number, 0, now)
	case HandedOver:
		v.observeHandover(e.Number, e.End, now)
	}
}

func (v *View) observeLocal(l Local, now time.Time) {
	if l.At.Before(v.DoneAt) {
		return // it began before an order had ended, and shows what was
	}
	l.Since = v.Local.Since
	if l.State != v.Local.State || l.Since.IsZero() {
		l.Since = now
	}
	switch {
	case l.State == ServerRunning || l.State.down():
		v.AnsweredAt, v.Shut = now, false
	case (l.State == ServerStarting || l.State == ServerUnreachable) && v.Local.At.IsZero(): // an earlier life of this daemon may have armed it meanwhile
		v.Shut = true
	}
	switch {
	case !l.Full:
		v.FullSince = time.Time{}
	case v.FullSince.IsZero():
		v.FullSince = now
	}
	v.observeOpening(v.Local, l, now)
	v.Local = l
	v.ReadOnly = v.ReadOnly && l.Armed && l.Role != cluster.Primary
	if l.State.down() || MayWrite(v, now) {
		v.Owed = time.Time{} // what was ordered then ended with its server, or is right
	}
	v.observeRejoined()
	if l.Role == cluster.Primary {
		v.Earlier = 0
	}
	if l.State == ServerRunning {
		v.Opened = false
	}
}

// observePause begins or ends a pause. A server that failed while it lasted has to fail as often
// and as long again: it may have been stopped on purpose, and started just now, since the last look.
// So may the own one, and others are not told that it is down before it was looked at again.
func (v *View) observePause(paused bool, now time.Time) {
	ends := v.Paused && !paused
	for id, p := range v.Probes {
		if ends && p.Failures > 0 {
			p.Failures, p.FirstFail, p.LostAt = 1, now, time.Time{}
			v.Probes[id] = p
		}
	}
	if ends && v.Local.State.down() {
		v.startedSince(now)
	}
	v.Paused = paused
}

// startedSince notes that the own server may have been started since the last look: until the
// next one, which begins after now, nobody is told that it is down.
func (v *View) startedSince(now time.Time) {
	v.DoneAt = now
	v.serverIs(ServerStarting)
}

// observeReport keeps the newest report of each peer: one that was overtaken on
// its way says what is no longer true.
func (v *View) observeReport(r Report, trip time.Duration, now time.Time) {
	old, known := v.Peers[r.Node]
	if r.Node == v.Self || known && old.Report.Incarnation == r.Incarnation && r.Sequence < old.Report.Sequence {
		return
	}
	if r.Node == v.RefusedBy {
		v.RefusedBy = 0 // it speaks to this daemon again
	}
	since := old.Since
	if !known || old.Report.Server != r.Server {
		since = now
	}
	v.Peers[r.Node] = Peer{Report: r, At: now, Since: since, Trip: Smoothed(old.Trip, trip)}
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
	case GiveUp:
		v.gaveUp(a)
		v.Doing = a
	case LetStart, TakeUp:
		v.Doing, v.Opened, v.ReadOnly = a, true, false
	case Disarm, Promote, PromoteTo:
		v.Doing, v.ReadOnly = a, false
	case HandOver:
		v.Doing, v.Handover = a, Handover{Number: a.Number}
	case Rejoin:
		v.Doing, v.Rejoins = a, Rejoins{v.Rejoins.Tries + 1, now}
	default:
		v.Doing = a
	}
}

func (v *View) observeDone(e Done, now time.Time) {
	if v.Doing == e.Action {
		v.Doing = nil
	}
	switch e.Action.(type) {
	case Rejoin:
		v.Rejoins.At = now
	case HandOver:
		v.Handover.Failed = e.Err
	case StepDown: // the server was stopped, and may have been started again where that failed
		v.startedSince(now)
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
		v.observeRecord(e.Action, now)
		v.observeReceiver(e.Action)
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
func (v *View) observeRecord(a Action, now time.Time) {
	nodes := slices.Clone(v.Nodes)
	self := slices.IndexFunc(nodes, func(n cluster.Node) bool { return n.ID == v.Self })
	switch a := a.(type) {
	case Promote, RecordRole, PromoteTo:
		makePrimary(nodes, v.Self)
	case Follow:
		if self >= 0 {
			nodes[self].Upstream = a.Upstream
		}
		if a.Holder {
			makePrimary(nodes, a.Upstream)
		}
	case Rejoin:
		if self >= 0 {
			nodes[self].Role, nodes[self].Upstream, nodes[self].Active = cluster.Standby, a.Upstream, true
		}
		makePrimary(nodes, a.Upstream)
	}
	v.Nodes = nodes
	v.DoneAt = now
	if g, ok := a.(GiveUp); ok && g.Term == v.Tenure.Term {
		v.Tenure.ReleasedAt = now
	}
	v.observeServer(a)
}

// makePrimary makes a node the one active primary of the records, as a promotion, and who follows
// the lease's holder, writes it.
func makePrimary(nodes []cluster.Node, id cluster.NodeID) {
	for i := range nodes {
		switch n := &nodes[i]; {
		case n.ID == id:
			n.Role, n.Upstream, n.Active = cluster.Primary, 0, true
		case n.Role == cluster.Primary:
			n.Active = false
		}
	}
}

// observeServer notes what an order has done to the own server, until the next
// look tells: nothing is ordered twice because of an old look.
func (v *View) observeServer(a Action) {
	switch a := a.(type) {
	case Arm:
		v.Shut = true // it may have been starting by then, whatever was seen before
		v.Local.Armed, v.Opened = true, false
	case Disarm, LetStart:
		v.Local.Armed = false
	case Seal:
		v.Local.Sealed, v.Local.Receiving = true, false
	case Follow:
		v.Seal, v.Local.Sealed = Sealed{}, false
		if a.Name != "" {
			v.Local.StandbyName = a.Name
		}
	case PromoteTo:
		v.Seal, v.Local.Role, v.Local.Line = Sealed{}, cluster.Primary, ""
	case TakeUp:
		v.serverIs(ServerStarting)
		v.Local.Armed = false
	case StartServer, Rejoin:
		v.serverIs(ServerStarting)
	case Demote, GiveUp:
		v.Opened, v.Shut, v.ReadOnly, v.Local.Armed = false, false, true, true
		v.serverIs(ServerCrashed)
	}
}

// serverIs notes what an order has made of the own server just now. One that was
// started has taken a connection.
func (v *View) serverIs(s ServerState) {
	v.Local.State, v.Local.Role, v.Local.Since, v.AnsweredAt = s, cluster.RoleUnknown, v.DoneAt, v.DoneAt
}

// observeReceiver notes whether a WAL receiver may run, before the next look says so.
func (v *View) observeReceiver(a Action) {
	switch a.(type) {
	case StopReceiver:
		v.Local.Held = true
	case ResumeReceiver, Follow:
		v.Local.Held = false
	}
}
