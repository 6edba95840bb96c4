package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/quorum"
	"repmgr/internal/record"
)

// Defect is a mistake that the simulator has to notice. It is planted in the
// models, or between them and the brain, the record and the group, which run as
// they are: what is told to them is bent, or what they say.
type Defect string

// The planted defects, in the order of the safety notes' section D.
const (
	HoldWhole         Defect = "the holder counts the lease's whole time to live"
	CountedFromAnswer Defect = "the lease counts from the answer to a renewal, not from its proposal"
	RetryResets       Defect = "a renewal that is tried again counts from then on"
	ReleasedRevived   Defect = "a late renewal revives a lease that was released"
	ExpireBlind       Defect = "an expiry is accepted whatever was renewed since"
	LeadsEarly        Defect = "a leader presides before it has applied an entry of its own raft term"
	TimerKept         Defect = "the lease's timer is in the record, by the wall clock of its holder"
	GrantIsLease      Defect = "a grant is a lease, counted from when it is heard of"
	ClaimTwice        Defect = "a claim is accepted again when the lease is vacant"
	PromoteUnguarded  Defect = "the guard is told of the deadline when the promotion is over"
	WallClock         Defect = "the guard goes by the wall clock"
	PostmasterOnly    Defect = "the guard ends the postmaster alone"
	ChildrenFirst     Defect = "the guard ends the backends first, and the postmaster starts anew"
	ReleaseUnswept    Defect = "the server is said to have crashed before its orphans are gone"
	ScanOnce          Defect = "what is left of a server is looked for once"
	GuardFireOnce     Defect = "the guard kills once and does not look again"
	SealLeaky         Defect = "a seal does not wait until the WAL receiver is gone"
	SealForgotten     Defect = "a restart of the daemon forgets the seal, and the server receives again"
	BidUnsealed       Defect = "the position is taken before the WAL receiver is gone"
	BidReplayed       Defect = "a bid is the position up to which WAL was replayed"
	BidReceived       Defect = "a bid is the position received, which a restart takes back to a segment's start"
	TermIgnored       Defect = "bids are compared by their position alone"
	OldVacancy        Defect = "a bid of an older vacancy is accepted"
	BidOverwritten    Defect = "a second bid replaces the first"
	DivergedCounts    Defect = "a diverged bid counts as one of the synchronous set"
	OneBidLess        Defect = "one bid too few of the synchronous set suffices"
	SetUnannounced    Defect = "the synchronous set is written before the record has it"
	NoBarrier         Defect = "a set is dropped though its successor may lack what it acknowledged"
	DroppedAtOnce     Defect = "a set is dropped without any proof"
	SendersUnproven   Defect = "a set is dropped while walsenders may still go by it"
	NewestOnly        Defect = "the newest synchronous set alone is checked when the bidding is closed"
	FirstSetEmpty     Defect = "a promoted server waits for nobody at first"
	UnboundCounts     Defect = "a standby counts under its name of any term, and if diverged as one that has bid"
	NamesUnbound      Defect = "a standby counts under its name of any term"
	TimelineChosen    Defect = "PostgreSQL chooses the timeline"
	RejoinBlind       Defect = "a former primary rejoins without its history being compared"
	RewindSkipped     Defect = "a rewind is skipped where the timelines are equal"
	TornStarted       Defect = "a server may be started in the middle of a rewind"
	UnsealOnWord      Defect = "a sealed server receives again when its primary is heard of"
	PromotionLeft     Defect = "a server whose promotion is under way is given up alive"
	VoteForgotten     Defect = "term and vote are not on disk before the message"
	SentUnsaved       Defect = "messages of the group are sent before what they tell is saved"
	SameRaftID        Defect = "a node whose state directory was lost keeps its raft id"
	UnpausedHeld      Defect = "the end of a pause makes the lease a timed one, whatever its holder knows"
	NeverArmed        Defect = "the primary's data directory is not armed"
	CancelCounted     Defect = "a cancelled wait counts as an acknowledged commit"
	OwnDiskRenews     Defect = "a renewal counts only when the holder's own disk has it"
	SilentGrowth      Defect = "nothing is written after the synchronous set has grown"
	NoBackoff         Defect = "a rejoin that failed is tried again at once"
	LastHolderIgnored Defect = "the last holder's bid does not suffice without the synchronous set"
	LimitUnarmed      Defect = "after a pause a server that is down is taken for armed"
	LevelIgnored      Defect = "a leader proposes what a member has not announced to know"
	OvertakenAwaited  Defect = "a server is waited for to attach to a primary that is one no more"
	NobodyLeaves      Defect = "who was away while the primary changed stays recorded behind the former one"
	PrimaryByRecord   Defect = "/primary goes by the record, whatever the lease and the server"
	PromotionUntold   Defect = "a daemon does not tell that it promotes its server"
	EndUnarmed        Defect = "a server that ended at the end of its recovery is not armed"
	PromotionGivenUp  Defect = "a promotion that takes longer than promote_check_timeout is forgotten"
	IntentForgotten   Defect = "a daemon that went silent when it was about to promote its server is not waited for"
	PromotionForgot   Defect = "a restart of the daemon forgets that it promotes its server"
	SilenceIsPeace    Defect = "a daemon that is not heard is taken for one that has nothing to say"
	AheadIgnored      Defect = "a standby that has followed a primary since is not waited for"
	TakenUnarmed      Defect = "a guard that has ended the server is taken over before the server is armed"
)

// Muted is the defect that nothing is done of what a rule of the brain orders.
func Muted(rule string) Defect { return Defect("nothing is done of what " + rule + " orders") }

// orders are those of a decision that are given.
func (p Defect) orders(d failover.Decision) []failover.Action {
	if p != "" && len(d.Actions) > 0 && p == Muted(d.Rule) {
		return nil
	}
	return d.Actions
}

// see lets the brain observe an event.
func (d *daemon) see(e failover.Event) {
	now, before := d.n.clock(), d.view.Tenure
	d.view.Observe(e, now)
	d.n.disk.tries = d.view.Rejoins.Tries
	if d.n.w.Defect != "" {
		d.misjudge(e, before, now)
	}
}

// misjudge bends what the brain has made of an event.
func (d *daemon) misjudge(e failover.Event, before failover.Tenure, now time.Time) {
	t := &d.view.Tenure
	extend := func(to time.Time) {
		if to.After(t.Deadline) {
			t.Deadline = to
		}
	}
	switch d.n.w.Defect {
	case HoldWhole:
		if t.Answered && !t.Given && !t.AskedAt.IsZero() {
			extend(t.AskedAt.Add(standard.LeaseTTL))
		}
	case CountedFromAnswer:
		a, ok := e.(failover.Answered)
		if r, renewal := a.Change.(record.Renew); ok && renewal && a.Err == "" && a.Refused == "" && r.Term == t.Term && r.Seq == t.Seq && !t.Given {
			extend(now.Add(failover.Hold(r.TTL)))
		}
	case RetryResets:
		if a, ok := e.(failover.Asked); ok && !before.Answered {
			if r, renewal := a.Change.(record.Renew); renewal && r.Term == t.Term && r.Seq == before.Seq {
				t.AskedAt = now
			}
		}
	case GrantIsLease:
		if r := d.view.Group.Record; r != nil && r.Holds(d.n.id, d.view.Local.Incarnation) && t.Term == r.Term && t.Deadline.IsZero() && !t.Given && !r.Lease.Promoted {
			extend(now.Add(failover.Hold(standard.LeaseTTL)))
		}
	case TimerKept:
		d.view.LeadSince, d.view.Group.LeaseAt = time.Time{}, now.Add(d.n.w.check.stamped-d.n.shows())
	case LimitUnarmed:
		if r := d.view.Group.Record; r != nil && r.Lease.State == record.Indefinite && !r.Pause.On && d.view.Local.State != failover.ServerRunning {
			d.view.Local.Armed, d.view.Shut = true, false
		}
	case NoBackoff:
		d.view.Rejoins = failover.Rejoins{}
	case PromotionForgot:
		d.view.Earlier = 0
	case PromotionUntold, IntentForgotten, SilenceIsPeace, AheadIgnored:
		d.mishear(now)
	}
}

// mishear bends what the others have said, under the visibility rule.
func (d *daemon) mishear(now time.Time) {
	own := d.view.Local.Position.Timeline
	for _, n := range d.view.Nodes {
		p := d.view.Peers[n.ID]
		switch d.n.w.Defect {
		case PromotionUntold:
			p.Report.Deciding = ""
		case IntentForgotten:
			p.Report.Rule = ""
		case SilenceIsPeace:
			if p.Silent, p.At = false, now; p.Report.Node == 0 {
				p.Report = failover.Report{Node: n.ID, Server: failover.ServerRunning, Role: cluster.Standby}
			}
		case AheadIgnored:
			if p.Report.Role == cluster.Standby && p.Report.Position.Timeline > own {
				p.Report.Position.Timeline, p.Report.Bid = own, nil
			}
		}
		if p.Report.Node != 0 && n.ID != d.n.id {
			d.view.Peers[n.ID] = p
		}
	}
}

// sighted reports whether it is one of the visibility rule.
func (p Defect) sighted() bool {
	for _, r := range failover.Rules()[visibilityTable].Rules {
		if p == Muted(r[0]) && !slices.ContainsFunc(failover.Rules()[quorumTable].Rules, func(q [2]string) bool { return q[0] == r[0] }) {
			return true
		}
	}
	return p == PromotionUntold || p == PromotionGivenUp || p == EndUnarmed || p == IntentForgotten || p == PromotionForgot || p == SilenceIsPeace || p == AheadIgnored
}

// preside is what the leader's brain says of the record as a mistaken one sees it.
func (d *daemon) preside(now time.Time) failover.Decision {
	r := d.view.Group.Record
	if r != nil {
		d.view.Group.Record = d.n.w.Defect.bend(r)
	}
	decision := d.ofLevel(failover.Preside(d.view, now))
	d.view.Group.Record = r
	return decision
}

// leads is who is taken for a leader that may preside.
func (p Defect) leads(s quorum.Status) bool {
	return s.OwnTerm || p == LeadsEarly && s.Role == quorum.Leader
}

// bend is the record as a mistaken judge of the bids sees it.
func (p Defect) bend(r *record.Record) *record.Record {
	if p == "" {
		return r
	}
	b := *r
	switch p {
	case TermIgnored:
		b.Terms = slices.Clone(r.Terms)
		for i := range b.Terms {
			b.Terms[i].Term = 1
		}
	case OneBidLess:
		b.Sync.Sets = nil
		for _, set := range r.Sync.Sets {
			if k, members := set.Parse(); k < len(members) {
				b.Sync.Sets = append(b.Sync.Sets, record.SetOf(k+1, members...))
			}
		}
	case NewestOnly:
		b.Sync.Sets = r.Sync.Sets[max(0, len(r.Sync.Sets)-1):]
	case LastHolderIgnored:
		b.Lease.Incarnation = ""
	default:
		return r
	}
	return &b
}

// apply changes a record as a mistaken state machine does; every node's is mistaken alike.
func (p Defect) apply(r *record.Record, change record.Change, at time.Time, index uint64) string {
	after := func() {}
	switch c := change.(type) {
	case record.Renew:
		r.Lease.Expired = r.Lease.Expired || p == ReleasedRevived && r.Lease.State == record.Vacant
	case record.Expire:
		if p == ExpireBlind {
			c.Seq = r.Lease.Seq
		}
		change = c
	case record.Claim:
		if p == ClaimTwice && r.Lease.State == record.Vacant && r.Lease.Holder == c.Node {
			r.Lease.State = record.Granted
		}
	case record.Bid:
		change = p.bid(r, c)
	case record.SetPause:
		after = func() {
			if p == UnpausedHeld && !c.On && r.Lease.State == record.Indefinite {
				r.Lease.State = record.Held
			}
		}
	case record.Close:
		return p.close(r, c, at, index)
	}
	why := r.Apply(change, at, index)
	after()
	return why
}

func (p Defect) bid(r *record.Record, b record.Bid) record.Bid {
	switch p {
	case OldVacancy:
		b.Vacancy = r.Lease.Vacancy
	case BidOverwritten:
		r.Bids = slices.DeleteFunc(slices.Clone(r.Bids), func(o record.Bid) bool { return o.Node == b.Node })
	case DivergedCounts, UnboundCounts: // as one that has next to nothing
		last := b.Node == r.Lease.Holder && b.Incarnation == r.Lease.Incarnation
		if b.Declined == "" && r.Judge(b.Line, b.LSN, last).Diverged {
			b.Line, b.Timeline, b.LSN = "1", 1, 1
		}
	}
	return b
}

func (p Defect) close(r *record.Record, c record.Close, at time.Time, index uint64) string {
	was, b := *r, p.bend(r)
	r.Sync, r.Terms, r.Lease = b.Sync, b.Terms, b.Lease
	why := r.Apply(c, at, index)
	r.Sync = was.Sync
	if p == TermIgnored && len(r.Terms) >= len(was.Terms) {
		r.Terms = append(slices.Clone(was.Terms), r.Terms[len(was.Terms):]...)
	}
	if why != "" {
		r.Lease = was.Lease
	} else if p == GrantIsLease {
		r.Lease.State, r.Lease.Seq, r.Bids = record.Held, 0, nil
	}
	return why
}

// proposes is told of every proposal before it is made.
func (p Defect) proposes(d *daemon, c record.Change) {
	if add, ok := c.(record.SyncAdd); ok && p == SetUnannounced && d.n.server.writes() {
		d.n.server.setNames(namesOf(d.rec, add.Set), true)
	}
}

// namesOf is the value of synchronous_standby_names for a set.
func namesOf(r *record.Record, set record.Set) string {
	k, members := set.Parse()
	var names []string
	for _, id := range members {
		m, _ := r.Member(id)
		name, _ := cluster.StandbyName(m.Name, r.Term)
		names = append(names, `"`+name+`"`)
	}
	if k == 0 {
		return ""
	}
	return fmt.Sprintf("ANY %d (%s)", k, strings.Join(names, ", "))
}

// position is what a mistaken hand takes for a sealed server's.
func (p Defect) position(s *server, before int) cluster.LSN {
	at := len(s.wal)
	switch {
	case p == BidUnsealed:
		at = before
	case p == BidReplayed && s.slow:
		at = max(1, at-s.n.w.rng.IntN(8))
	case p == BidReceived:
		at, _ = s.received()
		at = max(1, at)
	}
	return cluster.LSN(at)
}

// unseals has a sealed server receive again by hearsay.
func (p Defect) unseals(d *daemon, told failover.Event) {
	if p != UnsealOnWord {
		return
	}
	s, r := &d.n.server, told.(failover.PeerReported).Report
	if s.standby && s.upstream == 0 && r.Role == cluster.Primary && d.view.Doing == nil {
		s.upstream = r.Node
		s.receive()
	}
}

// unbound takes the terms off the names.
func (p Defect) unbound(members []string, name string) bool {
	bare := func(s string) string { before, _, _ := strings.Cut(s, "@"); return before }
	return (p == NamesUnbound || p == UnboundCounts) && slices.ContainsFunc(members, func(m string) bool { return bare(m) == bare(name) })
}
