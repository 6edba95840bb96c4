package failover

import (
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// Group is what this node knows of the daemons' group.
type Group struct {
	Known    bool           // the cluster is under the quorum rule, as the record or somebody's word says
	Record   *record.Record // as applied here; nil: this node is no member, or not yet. Never changed in place
	RaftID   uint64         // of this node's state directory
	Leader   cluster.NodeID // who leads the group; zero: nobody that this node knows
	Leads    bool           // this node leads, and has applied an entry of its own raft term (safety notes, B4)
	Changing bool           // a change of members is under way
	Progress []Progress     // of the others, as the leader knows it
	Broken   string         // why this node's member is out of order; empty: it is not
	LeaseAt  time.Time      // when the lease as it is now was first seen here
	Resumed  time.Time      // when the end of a pause was first seen here; zero: none was
	Disk     time.Duration  // that keeping an entry on this node's disk takes; zero: not measured
}

// Progress is how far another member is.
type Progress struct {
	RaftID   uint64
	Active   bool // it was heard of lately
	CaughtUp bool // it has nearly everything that is committed
}

// Tenure is this node's own hold on the lease: how it knows until when it may
// let its server take writes. Times are those of the clock that counts through
// a suspension.
type Tenure struct {
	Term      uint64
	Seq       uint64    // of the last renewal proposed in this life; zero: none
	Answered  bool      // that one was accepted
	Inherited bool      // the deadline is that of the guard that an earlier life of this daemon left
	Timed     bool      // it asked for a time limit, where there was none
	AskedAt   time.Time // when it was first proposed
	TriedAt   time.Time // and last
	Deadline  time.Time // until when the lease is sure; zero: it is not
	Since     time.Time // since when, without a gap
	Given     bool      // it was given back, and a release may be accepted at any time
	GivenSeq  uint64    // unless a renewal after this one was
	// ReleasedAt is when that release was answered; zero: it was not.
	ReleasedAt time.Time
}

// Sealed is this node's final position in a vacancy: it receives nothing any more.
type Sealed struct {
	Group       string           `json:"group"` // uuid
	Vacancy     uint64           `json:"vacancy"`
	Incarnation string           `json:"incarnation"`
	Timeline    cluster.Timeline `json:"timeline"`
	LSN         cluster.LSN      `json:"lsn"`
	Line        record.Line      `json:"line"`
}

// Asking is a proposal under way, or what came of it.
type Asking struct {
	First   time.Time
	At      time.Time // of the last try
	Waiting bool      // for an answer
	Refused string    // by the record
	Err     string    // on the way
}

type (
	// GroupSeen brings what is known of the group; LeaseAt and Resumed are filled in by Observe.
	GroupSeen struct{ Group Group }
	// Asked says that a change was proposed for the first time, or again.
	Asked struct{ Change record.Change }
	// Answered says what came of a proposal: accepted if both are empty. Refused
	// is the record's word, Err that of somebody on the way.
	Answered struct {
		Change       record.Change
		Refused, Err string
	}
	// RuleRead brings what the registry or the state directory says of the rule in
	// force; it counts for who has no record of its own.
	RuleRead struct {
		Quorum   bool
		Disowned string // group that an operator gave up for lost on this node; empty: nothing is said of that
	}
	// Writing says since when a small commit of this daemon's own is under way on
	// its server; zero: the last one has returned.
	Writing struct{ Since time.Time }
	// SealedAt brings the position of a server that was sealed.
	SealedAt struct{ Sealed Sealed }
	// GuardSeen says whether a guard is there, and until when it lets the server live.
	GuardSeen struct {
		Alive    bool
		Deadline time.Time
	}
)

func (GroupSeen) event() {}
func (Asked) event()     {}
func (Answered) event()  {}
func (RuleRead) event()  {}
func (Writing) event()   {}
func (SealedAt) event()  {}
func (GuardSeen) event() {}

func (v *View) observeGroup(g Group, now time.Time) {
	old := v.Group
	g.LeaseAt, g.Resumed = old.LeaseAt, old.Resumed
	if old.Record != nil && old.Record.Pause.On && g.Record != nil && !g.Record.Pause.On {
		g.Resumed = now
	}
	if keyOf(old.Record) != keyOf(g.Record) || g.LeaseAt.IsZero() {
		g.LeaseAt = now
	}
	g.Known = g.Known || old.Known
	if g.Record != nil {
		g.Known = g.Record.Rule == record.Quorum
	}
	if g.Leads && !old.Leads {
		v.LeadSince = now
	}
	if g.Leader != 0 && g.Leader != old.Leader {
		v.askAgain()
	}
	v.Group = g
	if g.Record != nil {
		v.adoptRequest(old.Record == nil)
		v.adopt(g.Record)
	}
}

// adopt takes from the record as it was applied here what it says of this node's
// own hold on the lease: that an answer got lost matters no more. What an earlier
// life of this daemon had proposed does not count from when this one did: a
// record that catches up after a restart tells of it late.
func (v *View) adopt(r *record.Record) {
	switch {
	case r.Term < v.Tenure.Term:
		return // the leader's answer was faster than this node's disk
	case r.Term > v.Tenure.Term:
		v.Tenure = Tenure{Term: r.Term}
	}
	if r.Pause.On {
		v.Tenure.Timed = false
	}
	if r.Rule != record.Quorum || !r.Lease.Taken() || r.Lease.Holder != v.Self || r.Lease.Life != v.Life {
		return
	}
	if r.Lease.Seq > 0 {
		if v.Tenure.Seq == r.Lease.Seq {
			v.renewed(r.Lease.TTL)
		}
		return
	}
	if v.Tenure.Given {
		return
	}
	for c, a := range v.Asked {
		if l, asks := leaseAsked(c); asks && l == (leaseAsk{r.Term, r.Lease.Incarnation, r.Lease.TTL}) {
			v.extend(a.First, l.ttl)
		}
	}
}

// leaseAsk is a lease that is asked for: in which term, for which life of a data
// directory, and its time to live.
type leaseAsk struct {
	term        uint64
	incarnation string
	ttl         time.Duration
}

// leaseAsked is the lease that a change asks for; false: it asks for none.
func leaseAsked(c record.Change) (leaseAsk, bool) {
	switch c := c.(type) {
	case record.Claim:
		return leaseAsk{c.Term, c.Incarnation, c.TTL}, true
	case record.Regrant:
		return leaseAsk{c.Term + 1, c.Incarnation, c.TTL}, true
	case record.Succeed:
		return leaseAsk{c.Term + 1, c.Incarnation, c.TTL}, true
	}
	return leaseAsk{}, false
}

// askAgain has everything that waits for an answer proposed again: the leader that
// was asked leads no more, and the bidding may be closed before it is given up for lost.
// So has the last renewal, if that was not answered.
func (v *View) askAgain() {
	if !v.Tenure.Answered {
		v.Tenure.TriedAt = time.Time{}
	}
	for c, a := range v.Asked {
		if a.Waiting {
			a.Waiting, a.Err = false, "another node leads the group"
			v.Asked[c] = a
		}
	}
}

// leaseKey is what makes one state of the lease another than the next.
type leaseKey struct {
	rule               record.Rule
	state              record.LeaseState
	term, seq, vacancy uint64
}

func keyOf(r *record.Record) leaseKey {
	if r == nil {
		return leaseKey{}
	}
	return leaseKey{r.Rule, r.Lease.State, r.Term, r.Lease.Seq, r.Lease.Vacancy}
}

// observeAsked notes a proposal. That a renewal is tried again does not move the
// time from which its lease counts (safety notes, B3).
func (v *View) observeAsked(c record.Change, now time.Time) {
	if v.Asked == nil {
		v.Asked = map[record.Change]Asking{}
	}
	for old, a := range v.Asked {
		switch old.(type) {
		case record.Claim, record.Regrant, record.Succeed: // from the first try on its lease counts, however late it is accepted
			if now.Sub(a.At) > time.Hour {
				delete(v.Asked, old)
			}
		default:
			if now.Sub(a.At) > time.Minute {
				delete(v.Asked, old)
			}
		}
	}
	a, again := v.Asked[c]
	if !again {
		a.First = now
	}
	a.At, a.Waiting = now, true
	v.Asked[c] = a
	if _, ok := c.(record.Regrant); ok && !again {
		v.Repromotions.asked(now)
	}
	if r, ok := c.(record.Renew); ok && r.Term == v.Tenure.Term {
		if r.Seq != v.Tenure.Seq {
			v.Tenure.Seq, v.Tenure.AskedAt, v.Tenure.Answered = r.Seq, now, false
		}
		v.Tenure.TriedAt = now
		if known := v.Group.Record; r.Timed && !v.Tenure.Timed && !v.Tenure.Given && known != nil && known.Lease.State == record.Indefinite {
			believed := v.confirmed(known)
			v.Tenure.Timed = true
			if believed { // else there is nothing that this one could shorten, and only its answer counts
				v.count(r.TTL)
			}
		}
	}
}

// count begins to count a timed lease that is asked for where there was no limit. Where
// the guard has a deadline that no renewal of this life can have set, an earlier one has
// asked before, may have been given it, and this record not know: then it runs by that,
// and only an answer moves it.
func (v *View) count(ttl time.Duration) {
	if end := v.Guard.Deadline; !end.IsZero() && v.Group.Record.Lease.Life != v.Life {
		if v.Tenure.Deadline.IsZero() && v.runsOn() {
			v.Tenure.Deadline, v.Tenure.Inherited = end, true
		}
		return
	}
	v.extend(v.Tenure.AskedAt, ttl)
}

// observeAnswer notes what came of a proposal. Where it gave or kept the lease,
// the lease counts from before it was first proposed.
func (v *View) observeAnswer(e Answered) {
	a, ok := v.Asked[e.Change]
	if !ok {
		return
	}
	a.Waiting, a.Refused, a.Err = false, e.Refused, e.Err
	v.Asked[e.Change] = a
	if e.Refused != "" || e.Err != "" {
		return
	}
	switch c := e.Change.(type) {
	case record.Renew:
		if c.Term == v.Tenure.Term && c.Seq == v.Tenure.Seq {
			v.renewed(c.TTL)
		}
	case record.Claim:
		if c.Term == v.Tenure.Term && !v.Tenure.Given {
			v.extend(a.First, c.TTL)
		}
	case record.Regrant:
		v.newTenure(c.Term+1, a.First, c.TTL)
	case record.Succeed:
		v.newTenure(c.Term+1, a.First, c.TTL)
	}
}

// newTenure notes that this node holds the lease in a new term, of which its record may not tell yet.
func (v *View) newTenure(term uint64, from time.Time, ttl time.Duration) {
	if term > v.Tenure.Term {
		v.Tenure = Tenure{Term: term}
		v.extend(from, ttl)
	}
}

// Hold is how long a holder counts a lease of that time to live: shorter than
// those who wait for its end, so that with clocks that differ by a tenth, and
// the time that killing takes, it still stops first (safety notes, B1).
func Hold(ttl time.Duration) time.Duration { return ttl * 7 / 10 }

// renewed notes that the last renewal was accepted. It takes up again what was
// given back, where it came after that: the release is refused from then on.
func (v *View) renewed(ttl time.Duration) {
	v.Tenure.Answered, v.Tenure.Inherited = true, false
	if v.Tenure.Given && v.Tenure.Seq <= v.Tenure.GivenSeq {
		return
	}
	v.Tenure.Given = false
	v.extend(v.Tenure.AskedAt, ttl)
}

// gaveUp notes that the lease is being given back: nothing may be written from
// now on by what was known of it.
func (v *View) gaveUp(a GiveUp) {
	if a.Term == v.Tenure.Term {
		v.Tenure.Given, v.Tenure.GivenSeq, v.Tenure.Deadline, v.Tenure.Answered = true, a.Seq, time.Time{}, true
	}
}

func (v *View) extend(from time.Time, ttl time.Duration) {
	if from.After(v.Tenure.Deadline) {
		v.Tenure.Since = from
	}
	if end := from.Add(Hold(ttl)); end.After(v.Tenure.Deadline) {
		v.Tenure.Deadline = end
	}
}

// observeGuard notes whether the guard lives. A daemon that was restarted takes
// over the deadline that it finds its guard with, while its server takes writes:
// it was extended by answers that an earlier life of the daemon got.
func (v *View) observeGuard(e GuardSeen, now time.Time) {
	if v.Guard.Alive && !e.Alive || v.GuardSince.IsZero() {
		v.GuardSince = now
	}
	v.Guard = e
	r := v.Group.Record
	if r == nil && e.Deadline.After(v.Owed) {
		v.Owed = e.Deadline
	}
	if e.Alive && v.Tenure.Deadline.IsZero() && !v.Tenure.Given && e.Deadline.After(now) && r != nil && r.Holds(v.Self, v.Local.Incarnation) && v.runsOn() {
		v.Tenure.Term, v.Tenure.Deadline, v.Tenure.Inherited = r.Term, e.Deadline, true
	}
}

// runsOn reports whether the own server has been the primary all along, as far as
// can be seen: only then does an inherited deadline say that it may go on. One that
// is in recovery was ended, and its lease may have been given back by an earlier life.
func (v *View) runsOn() bool {
	return v.Local.State == ServerRunning && v.Local.Role == cluster.Primary || v.Local.State == ServerUnreachable
}
