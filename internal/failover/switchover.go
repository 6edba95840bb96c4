package failover

import (
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// Orders of a switchover.
type (
	// HandOver stops the own server in order, and waits until the next primary has
	// all of its WAL. Number is that of the request.
	HandOver struct {
		Number uint64
		To     cluster.NodeID
	}
	// TakeUp starts the own server as the primary that it was, after a hand-over
	// that was broken off.
	TakeUp struct{ Number uint64 }
	// StoppedInOrder says that the own server was stopped for that request, and that no
	// process of it is left.
	StoppedInOrder struct{ Number uint64 }
	// HandedOver says that the next primary has all of the own server's WAL, which
	// was stopped in order and ends there.
	HandedOver struct {
		Number uint64
		End    cluster.LSN
	}
	// Reach finds out where the WAL of the own standby ends, which the lease was handed
	// over to. Its WAL receiver is left alone: nobody is left whose commits it could acknowledge.
	Reach struct{ Vacancy uint64 }
	// ReachedAt brings what Reach has found.
	ReachedAt struct{ Sealed Sealed }
)

func (HandOver) action() {}
func (TakeUp) action()   {}
func (Reach) action()    {}

func (StoppedInOrder) event() {}
func (HandedOver) event()     {}
func (ReachedAt) event()      {}

// Handover is how far this node, as the holder, is with a request.
type Handover struct {
	Number uint64      // of the request that was taken up last; zero: none was
	End    cluster.LSN // of the own server's WAL, which the next primary has; zero: not yet
	Failed string      // why it was broken off
}

// observeHandover notes what the hands tell of a hand-over that is under way. A look that
// began before the server was stopped shows what was.
func (v *View) observeHandover(number uint64, end cluster.LSN, now time.Time) {
	switch {
	case number != v.Handover.Number:
	case end != 0:
		v.Handover.End = end
	default:
		v.Local.State, v.Local.Role, v.Local.Since, v.DoneAt = ServerStopped, cluster.RoleUnknown, now, now
	}
}

// SwitchoverLag is how many bytes of WAL a standby may lack when the primary's
// server is stopped in its favour: it gets them while clients wait.
const SwitchoverLag = 16 << 20

// Lag is how many bytes a standby lacks of what a primary has written.
func Lag(written, received cluster.LSN) uint64 {
	if received >= written {
		return 0
	}
	return uint64(written - received)
}

// adoptRequest leaves a request alone that was open before this life of the daemon
// knew the record: how far its hand-over came is not known.
func (v *View) adoptRequest(first bool) {
	if s := v.Group.Record.Switchover; first && s.Open() {
		v.Handover = Handover{Number: s.Number, Failed: "the daemon of the primary was restarted"}
	}
}

// request is the open request, and whether there is one.
func (f facts) request() (record.Switchover, bool) {
	s := f.Group.Record.Switchover
	return s, s.Open()
}

// underway reports whether this node has taken the open request up.
func (f facts) underway() bool {
	s, open := f.request()
	return open && f.Handover.Number == s.Number
}

// whyNotTo says why the lease is not handed over to that node now; empty: it may be.
func (f facts) whyNotTo(to cluster.NodeID) string {
	m, known := f.Group.Record.Member(to)
	p := f.Peers[to]
	r := p.Report
	switch {
	case !known || !m.Eligible():
		return f.say("node %d may not be promoted", to)
	case !f.fresh(to) || p.Silent:
		return f.say("the daemon of node %d was not heard of lately", to)
	case r.Server != ServerRunning || r.Role != cluster.Standby:
		return f.say("the server of node %d is %s", to, stateAs(r.Server, r.Role))
	case !r.Receiving || r.Upstream != f.Self:
		return f.say("node %d does not stream from this node", to)
	case f.lease().State != record.Held:
		return f.say("the lease is %s", f.lease().State)
	case !f.Guard.Alive:
		return "there is no guard"
	}
	return ""
}

// whyCallOff says why an open request is given up; empty: it is not.
func (f facts) whyCallOff() string {
	s, open := f.request()
	switch {
	case !open:
		return ""
	case f.underway() && f.Handover.Failed != "":
		return f.Handover.Failed
	case f.underway():
		return "the hand-over was broken off"
	}
	return f.whyNotTo(s.To)
}

// downForSwitchover are the holder's rules while its server is stopped for another.
var downForSwitchover = []rule{
	{"hand-over-lease", "The holder's server was stopped for a switchover, and the next primary has all of its WAL: the lease is given back in its favour.",
		func(f facts) (string, bool) {
			s, _ := f.request()
			return f.say("node %d has everything up to %s", s.To, f.Handover.End),
				f.underway() && f.Handover.End != 0 && !f.writable() && !f.inRecovery() && (f.sure() || f.Tenure.Given)
		},
		func(f facts) []Action {
			s, _ := f.request()
			return []Action{GiveUp{Term: f.Group.Record.Term, Seq: max(f.Tenure.Seq, f.lease().Seq), Why: f.say("switchover to node %d, asked for by %s", s.To, s.By), To: s.To, End: f.Handover.End}}
		}},
	{"take-up", "A switchover was broken off after the holder's server had been stopped: it is started again as the primary that it was.",
		func(f facts) (string, bool) {
			_, tried := f.Setback.Of.(TakeUp)
			return f.whyCallOff(), f.underway() && f.Handover.End == 0 && f.local.State == ServerStopped && f.lease().Promoted && !f.regrants() && f.sure() && !f.Tenure.Inherited && f.Guard.Alive && !tried
		},
		func(f facts) []Action { return []Action{TakeUp{f.Handover.Number}} }},
}

// switchoverRules are the holder's rules while its server takes writes.
var switchoverRules = []rule{
	{"call-off", "A switchover was asked for and is not possible, or was broken off: the request is ended.",
		func(f facts) (string, bool) {
			why := f.whyCallOff()
			return why, why != "" && f.writable()
		},
		func(f facts) []Action {
			s, _ := f.request()
			return f.propose(record.CallOff{Number: s.Number, Why: f.whyCallOff()})
		}},
	{"hand-over", "A switchover was asked for: this server is stopped, and the lease handed over.",
		func(f facts) (string, bool) {
			s, open := f.request()
			return f.say("node %d is to be the primary, asked for by %s", s.To, s.By), open && f.writable() && f.sure()
		},
		func(f facts) []Action {
			s, _ := f.request()
			return []Action{HandOver{s.Number, s.To}}
		}},
}

// successorWindow is how long the bid of the next primary is waited for while its
// daemon is heard of: the others' would do, and are not what was asked for.
const successorWindow = 10 * time.Second

// untilBids is how long the bids of those whose servers run are waited for. After a
// hand-over a start would be in the way of the promotion, and nobody needs it.
func (f facts) untilBids() time.Duration {
	if to := f.lease().Successor; to != 0 && f.mayBid(to) {
		return max(f.Policy.BidWindow, successorWindow)
	}
	return f.Policy.BidWindow
}

// mayBid reports whether a node is heard of, and its server may have something to bid.
func (f facts) mayBid(id cluster.NodeID) bool {
	if id == f.Self {
		return !f.local.State.down()
	}
	p := f.Peers[id]
	return f.fresh(id) && !p.Silent && !p.Report.Server.down()
}

// awaitsSuccessor reports whether the bid of whom the lease was handed over to is
// waited for, and whether it is there and settles the bidding.
func (f facts) awaitsSuccessor() (waits, settled bool) {
	to := f.lease().Successor
	if to == 0 {
		return false, false
	}
	if b, bid := f.Group.Record.BidOf(to); bid {
		return false, b.LSN >= f.lease().End && f.Group.Record.Verdict().Winner == to
	}
	return f.mayBid(to), false
}

// successionWindow is how long whom the lease was handed over to may take to take it up
// by one entry. After that all bid, that one too.
const successionWindow = time.Second

// succession reports whether the lease waits for whom it was handed over to, and all know the
// entry by which that one takes it up.
func (f facts) succession() bool {
	l := f.lease()
	return l.State == record.Vacant && l.Successor != 0 && !f.Group.Record.Pause.On && f.now.Sub(f.Group.LeaseAt) < successionWindow && f.Group.Record.Unknown(record.Succeed{}) == ""
}

// succeeds reports whether the lease waits for this node, which is able to take it up.
func (f facts) succeeds() bool {
	return f.succession() && f.lease().Successor == f.Self && f.inRecovery() && f.Guard.Alive && f.local.Barred == "" && f.Policy.Automatic && !f.hasBid()
}

// reached reports whether it is known where the own WAL ends since the lease was handed over.
func (f facts) reached() bool {
	return f.Reached.Group == f.Group.Record.Group && f.Reached.Vacancy == f.lease().Vacancy && f.Reached.Incarnation == f.local.Incarnation
}

// successor is the entry by which this node takes the lease up.
func (f facts) successor() record.Succeed {
	at := f.Reached
	return record.Succeed{Term: f.Group.Record.Term, Vacancy: at.Vacancy, Node: f.Self, Incarnation: at.Incarnation, Timeline: at.Timeline, LSN: at.LSN, Line: at.Line,
		TTL: f.Policy.LeaseTTL, Life: f.Life}
}

// successionRules are for the moment in which the lease was handed over.
var successionRules = []rule{
	{"reach", "The lease was handed over to this node in a switchover: it finds out where its WAL ends.",
		func(f facts) (string, bool) {
			order := Reach{f.lease().Vacancy}
			return f.say("vacancy %d, from %s on it has everything", f.lease().Vacancy, f.lease().End), f.succeeds() && !f.reached() && f.Setback.Of != Action(order)
		},
		func(f facts) []Action { return []Action{Reach{f.lease().Vacancy}} }},
	{"succeed", "The lease was handed over to this node, which has everything: it takes it up.",
		func(f facts) (string, bool) {
			return f.say("vacancy %d: timeline %d, %s", f.lease().Vacancy, f.Reached.Timeline, f.Reached.LSN),
				f.succeeds() && f.reached() && f.Reached.LSN >= f.lease().End && f.Asked[f.successor()].Refused == ""
		},
		func(f facts) []Action { return f.propose(f.successor()) }},
	{"await-succession", "The lease was handed over to another node, which takes it up in a moment: this one is not sealed for that.",
		func(f facts) (string, bool) {
			to := f.lease().Successor
			waits := f.Group.Record.Sync.Waits() // the first commit would wait until this one is measured
			return f.say("it was handed over to node %d", to), f.succession() && to != f.Self && f.inRecovery() && f.mayBid(to) && !waits
		}, nil},
}
