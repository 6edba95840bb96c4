package failover

import (
	"slices"
	"strings"
	"testing"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// quorumView is a standby, node 2, of a healthy group of three under the quorum
// rule: node 1 is the primary, on timeline 1 in term 1.
func quorumView() *View {
	return viewOf(2, func(v *View) {
		v.Local.Role, v.Nodes[1].Upstream = cluster.Standby, 1
	})
}

// holderView is its primary, with a lease that is sure, and armed.
func holderView() *View {
	return viewOf(1, func(v *View) {
		v.Local.Role, v.Local.Armed = cluster.Primary, true
		v.Tenure = Tenure{Term: 1, Seq: 1, Answered: true, Deadline: t0.Add(3 * time.Second)}
	})
}

// sealed stops the server's receiving in vacancy 1.
func sealed(v *View) {
	v.Local.Sealed = true
	v.Seal = Sealed{Group: v.Group.Record.Group, Vacancy: v.Group.Record.Lease.Vacancy, Incarnation: v.Local.Incarnation, Timeline: 1, LSN: 100, Line: "1"}
}

// viewOf is the view of a node of that group.
func viewOf(self cluster.NodeID, set func(*View)) *View {
	v := New(self, Policy{Automatic: true, Quorum: true, MonitorInterval: time.Second, LeaseTTL: 5 * time.Second, RestartGrace: 3 * time.Second,
		RecoveryGrace: 5 * time.Second, HangBound: 5 * time.Second, BidWindow: 300 * time.Millisecond, MaximumLag: -1, Rejoin: "rewind"})
	member := func(id cluster.NodeID) record.Member {
		return record.Member{Node: id, RaftID: uint64(id), Voter: true, Priority: 100, Automatic: true}
	}
	rec := record.New("g", "", member(1))
	for id := cluster.NodeID(1); id <= 3; id++ {
		n := cluster.Node{ID: id, Role: cluster.Standby, Upstream: 1, Active: true, Priority: 100}
		if id == 1 {
			n.Role, n.Upstream = cluster.Primary, 0
		}
		v.Nodes = append(v.Nodes, n)
		rec.SetMember(member(id), t0, uint64(id))
		if id != self {
			v.Peers[id] = Peer{At: t0, Report: Report{Node: id, Server: ServerRunning, Role: n.Role, RaftID: uint64(id), Priority: 100, Automatic: true}}
			v.Group.Progress = append(v.Group.Progress, Progress{RaftID: uint64(id), Active: true, CaughtUp: true})
		}
	}
	rec.Apply(record.Begin{Node: 1, Incarnation: "i1", Line: "1", LSN: 50, TTL: 5 * time.Second, MaximumLag: -1}, t0, 4)
	rec.Lease.State = record.Held // as after the first timed renewal
	v.Group.Record, v.Group.Known, v.Group.RaftID, v.Group.LeaseAt = rec, true, uint64(self), t0.Add(-time.Second)
	v.Group.Leader = 3
	v.Guard, v.GuardSince = GuardSeen{Alive: true}, t0.Add(-time.Hour)
	v.Local = Local{At: t0, State: ServerRunning, Position: Position{1, 100}, Line: "1", Incarnation: map[cluster.NodeID]string{1: "i1", 2: "i2", 3: "i3"}[self], Since: t0.Add(-time.Hour)}
	set(v)
	return v
}

// change applies changes to a view's record.
func change(t *testing.T, v *View, changes ...record.Change) {
	t.Helper()
	for _, c := range changes {
		if why := v.Group.Record.Apply(c, t0, 9); why != "" {
			t.Fatalf("%s: %s", record.KindOf(c), why)
		}
	}
}

var (
	expired   = record.Expire{Term: 1}
	bidOf2    = record.Bid{Vacancy: 1, Node: 2, Incarnation: "i2", Timeline: 1, LSN: 100, Line: "1"}
	granted   = []record.Change{expired, bidOf2, record.Close{Vacancy: 1}}
	claimed   = append(granted[:3:3], record.Claim{Term: 2, Node: 2, Incarnation: "i2", TTL: 5 * time.Second})
	moved     = append(claimed[:4:4], record.Promoted{Term: 2, Node: 2, Timeline: 2, Parent: 1, Fork: 100})
	barred2   = record.Describe{Node: 2, Priority: 100, Automatic: true, Level: record.Level, Barred: "recovery_target_time is set"}
	paused    = record.SetPause{On: true, Reason: "works"}
	unpaused  = record.SetPause{}
	ask2      = record.RequestSwitchover{Term: 1, Number: 1, To: 2, By: "node 2"}
	ask3      = record.RequestSwitchover{Term: 1, Number: 1, To: 3, By: "node 2"}
	declined1 = record.Bid{Vacancy: 1, Node: 1, Declined: "its server is stopped"}
	behind2   = record.Bid{Vacancy: 1, Node: 2, Incarnation: "i2", Timeline: 1, LSN: 99, Line: "1"}
	handed    = func(to cluster.NodeID) record.Change {
		return record.Release{Term: 1, Node: 1, Incarnation: "i1", To: to, End: 100}
	}
)

// streaming says that node 2 streams from the holder.
func streaming(v *View) {
	p := v.Peers[2]
	p.Report.Receiving, p.Report.Upstream = true, v.Self
	v.Peers[2] = p
}

// taken says that the holder has taken that request up, and why it came to nothing.
func taken(number uint64, failed string) func(*View) {
	return func(v *View) { v.Handover = Handover{Number: number, Failed: failed} }
}

// sure is a hold on term 2.
func sure(v *View) { v.Tenure = Tenure{Term: 2, Deadline: t0.Add(3 * time.Second)} }

// down says that the server does not run.
func down(s ServerState) func(*View) {
	return func(v *View) {
		v.Local.State, v.Local.Role, v.Local.Armed, v.Local.Sealed = s, cluster.RoleUnknown, true, true
	}
}

// crashedAsStandby is a standby's server that crashed so long ago, in a vacancy that is open for long.
func crashedAsStandby(v *View, ago time.Duration) {
	down(ServerCrashed)(v)
	v.Local.Sealed, v.Local.Since, v.Group.LeaseAt = false, t0.Add(-ago), t0.Add(-time.Minute)
}

// ended says that the lease ran out, that the server was ended, was looked at as
// told, and does not answer now.
func ended(set func(*Local)) func(*View) {
	return func(v *View) {
		v.Tenure.Deadline = t0
		v.Observe(Done{Action: Demote{"the lease ran out"}}, t0)
		l := v.Local
		if set != nil {
			set(&l)
		}
		l.At, l.State = t0, ServerUnreachable
		v.Observe(LocalSeen{Local: l}, t0)
	}
}

// restarting says that the server answered until six seconds ago, was in state s a
// second ago, and does not answer now.
func restarting(s ServerState) func(*View) {
	return func(v *View) {
		l := v.Local
		look := func(ago time.Duration, s ServerState) {
			l.State, l.At = s, t0.Add(-ago)
			v.Observe(LocalSeen{Local: l}, l.At)
		}
		look(6*time.Second, ServerRunning)
		if s != ServerRunning {
			look(time.Second, s)
		}
		look(0, ServerUnreachable)
	}
}

// crashedStandby says that the server crashed that long ago, while it followed.
func crashedStandby(ago time.Duration) func(*View) {
	return func(v *View) {
		v.Local.State, v.Local.Role, v.Local.Since = ServerCrashed, cluster.RoleUnknown, t0.Add(-ago)
	}
}

// declined is the word of node 2, whose disk is full.
var declined = record.Bid{Vacancy: 1, Node: 2, Declined: "its disk is full"}

// full says that the primary's disk is full for so long, and those of its standbys have room.
func full(ago time.Duration) func(*View) {
	return func(v *View) {
		v.Local.Full, v.FullSince, v.Policy.WriteBound = true, t0.Add(-ago), 20*time.Second
		eachPeer(v, func(r *Report) { r.Room, r.Receiving, r.Position = 1<<30, true, Position{1, 100} })
	}
}

// fullInVacancy says that this node's disk is full, and the lease vacant for so long.
func fullInVacancy(ago time.Duration) func(*View) {
	return func(v *View) {
		sealed(v)
		v.Local.Full, v.Group.LeaseAt = true, t0.Add(-ago)
		eachPeer(v, func(r *Report) { r.Role, r.Room = cluster.Standby, 1<<30 })
	}
}

func eachPeer(v *View, change func(*Report)) {
	for id, p := range v.Peers {
		change(&p.Report)
		v.Peers[id] = p
	}
}

// ruleCase is a view and the rule that it is to be decided by.
type ruleCase struct {
	rule    string
	view    func() *View
	changes []record.Change
	set     func(*View)
}

var quorumCases = []ruleCase{
	{"not-registered", quorumView, nil, func(v *View) { v.Nodes = v.Nodes[:1] }},
	{"lease-ran-out", holderView, nil, func(v *View) { // it is not promoted yet, and the guard may have died
		v.Local.Role, v.Doing, v.Tenure.Deadline = cluster.Standby, PromoteTo{Term: 1, Timeline: 2}, t0
	}},
	{"lease-ran-out", quorumView, nil, func(v *View) { v.Setback = Setback{Of: PromoteTo{Term: 1, Timeline: 2}, At: t0, Times: 1} }},
	{"lease-ran-out", quorumView, claimed, func(v *View) { sealed(v); sure(v); v.Tenure.Deadline = t0 }},
	{"wait-lease", quorumView, claimed, func(v *View) {
		sealed(v)
		v.Local.Armed, v.ReadOnly, v.Tenure = true, true, Tenure{Term: 2, Deadline: t0}
	}},
	{"lease-forgotten", holderView, nil, func(v *View) { v.Group.Record, v.Local.Role, v.Owed = nil, cluster.Standby, t0.Add(time.Millisecond) }},
	{"primary-without-record", holderView, nil, func(v *View) { v.Group.Record = nil }},
	{"give-up", holderView, nil, func(v *View) { down(ServerCrashed)(v); v.Nodes = v.Nodes[1:] }}, // its row was deleted
	{"lease-ran-out", holderView, nil, func(v *View) { v.Tenure.Deadline = t0; v.Nodes = v.Nodes[1:] }},
	{"primary-holds", holderView, nil, func(v *View) { v.Nodes = v.Nodes[1:] }},
	{"record-behind", quorumView, nil, behind(1)},
	{"record-behind", holderView, nil, func(v *View) { behind(1)(v); v.Tenure = Tenure{} }}, // it began it itself, and its disk is slow
	{"lease-ran-out", holderView, nil, func(v *View) { v.Tenure.Deadline = t0 }},
	{"lease-ran-out", holderView, nil, func(v *View) { v.Tenure.Deadline, v.Local.State = t0, ServerUnreachable }},
	{"lease-ran-out", holderView, moved, nil},
	{"holder-grace", holderView, nil, ended(nil)}, // and it is started read-only, but does not answer yet
	{"lease-ran-out", holderView, nil, ended(func(l *Local) { l.Armed = false })},
	{"lease-ran-out", holderView, nil, ended(func(l *Local) { l.Role = cluster.Primary })},
	{"guard-is-gone", holderView, nil, func(v *View) { v.Guard.Alive, v.GuardSince = false, t0.Add(-2*time.Second) }},
	{"guard-is-gone", holderView, nil, func(v *View) { // the promotion hangs
		v.Guard.Alive, v.GuardSince, v.Local.Role, v.Doing = false, t0.Add(-2*time.Second), cluster.Standby, PromoteTo{Term: 1, Timeline: 2}
	}},
	{"guard-is-gone", holderView, nil, func(v *View) {
		v.Guard.Alive, v.GuardSince, v.Local.State = false, t0.Add(-2*time.Second), ServerUnreachable
	}},
	{"busy", holderView, nil, func(v *View) { v.Local.Role, v.Doing = cluster.Standby, PromoteTo{Term: 1, Timeline: 2} }},
	{"busy", quorumView, nil, func(v *View) { v.Doing = Seal{1} }},
	{"refused", quorumView, []record.Change{expired}, func(v *View) { v.RefusedBy, v.RefusedAt = 3, t0.Add(-59*time.Second) }},
	{"seal", quorumView, []record.Change{expired}, func(v *View) { v.RefusedBy, v.RefusedAt = 3, t0.Add(-time.Minute) }},
	{"lease-ran-out", holderView, moved, func(v *View) { v.RefusedBy, v.RefusedAt = 3, t0 }},
	{"wait-membership", quorumView, nil, func(v *View) { v.Group.Record = nil }},
	{"give-up", holderView, nil, func(v *View) { v.Policy.WriteBound, v.Writing = 20*time.Second, t0.Add(-20*time.Second) }},
	{"primary-holds", holderView, nil, func(v *View) { v.Policy.WriteBound, v.Writing = 20*time.Second, t0.Add(-19*time.Second) }},
	{"arm-stopped", holderView, nil, func(v *View) { down(ServerStopped)(v); v.Local.Armed = false }},
	{"arm-stopped", holderView, moved, func(v *View) { down(ServerCrashed)(v); v.Local.Armed = false }},
	{"wait-record", quorumView, nil, func(v *View) { v.Seal = Sealed{Group: v.Group.Record.Group, Vacancy: 5} }},
	{"holder-resumed", holderView, []record.Change{paused, unpaused}, func(v *View) { down(ServerCrashed)(v); v.Group.Resumed = t0.Add(time.Millisecond) }},
	{"give-up", holderView, []record.Change{paused, unpaused}, func(v *View) { down(ServerCrashed)(v); v.Group.Resumed = t0 }},
	{"give-up", holderView, []record.Change{paused, unpaused}, func(v *View) { // the look hangs
		down(ServerCrashed)(v)
		v.Local.At, v.Group.Resumed = t0.Add(-v.Policy.HangBound-time.Second), t0.Add(-v.Policy.HangBound)
	}},
	{"holder-paused", holderView, []record.Change{paused}, down(ServerStopped)},
	{"give-up", holderView, nil, down(ServerCrashed)},
	{"given-back", holderView, nil, func(v *View) { down(ServerCrashed)(v); v.Tenure.ReleasedAt = t0.Add(-200 * time.Millisecond) }},
	{"give-up", holderView, nil, func(v *View) { down(ServerCrashed)(v); v.Tenure.ReleasedAt = t0.Add(-300 * time.Millisecond) }},
	{"disk-full", holderView, nil, full(20 * time.Second)},
	{"primary-holds", holderView, nil, full(19 * time.Second)},
	{"primary-holds", holderView, nil, func(v *View) { full(time.Hour)(v); eachPeer(v, func(r *Report) { r.Room = 100 << 20 }) }},
	{"primary-holds", holderView, nil, func(v *View) { full(time.Hour)(v); eachPeer(v, func(r *Report) { r.Full = true }) }},
	{"primary-holds", holderView, nil, func(v *View) { full(time.Hour)(v); eachPeer(v, func(r *Report) { r.Receiving = false }) }},
	{"primary-holds", holderView, nil, func(v *View) { full(time.Hour)(v); v.Local.Position.LSN += 17 << 20 }},
	{"primary-holds", holderView, nil, func(v *View) { full(time.Hour)(v); v.Policy.WriteBound = 0 }},
	{"primary-holds", holderView, nil, func(v *View) {
		full(time.Hour)(v)
		v.Group.Record.Sync.Sets = []record.Set{record.SetOf(1, 2, 9)}
		v.Peers[2] = Peer{Report: v.Peers[2].Report}
	}},
	{"decline-full", quorumView, []record.Change{expired}, fullInVacancy(0)},
	{"decline-full", quorumView, []record.Change{expired, declined}, fullInVacancy(0)},
	{"place-bid", quorumView, []record.Change{expired, declined}, fullInVacancy(10 * time.Second)}, // nobody else was chosen
	{"place-bid", quorumView, []record.Change{expired}, func(v *View) { fullInVacancy(0)(v); eachPeer(v, func(r *Report) { r.Room = 0 }) }},
	{"start-read-only", holderView, nil, func(v *View) { down(ServerFenced)(v); v.Tenure.Deadline = t0 }},
	{"holder-grace", holderView, nil, func(v *View) { down(ServerStopped)(v); v.Local.Since = t0 }},
	{"holder-grace", holderView, nil, restarting(ServerStopped)},
	{"give-up", holderView, nil, restarting(ServerRunning)}, // it did not stop: it hangs
	{"wait-lease", holderView, nil, func(v *View) { v.Local.Role, v.Tenure.Deadline = cluster.Standby, t0 }},
	{"promotion-failed", quorumView, claimed, func(v *View) {
		sealed(v)
		sure(v)
		v.Setback = Setback{Of: PromoteTo{Term: 2, Timeline: 2}, At: t0, Times: 1}
	}},
	{"first-set", quorumView, claimed, func(v *View) { sealed(v); sure(v); v.Policy.SyncMode = record.SyncOn }},
	{"promote-granted", quorumView, claimed, func(v *View) { sealed(v); sure(v) }},
	{"regrant-waits", holderView, nil, func(v *View) {
		v.Local.Role, v.Tenure.Since = cluster.Standby, t0
		v.Repromotions = Repromotions{At: t0.Add(-9 * time.Second), Pause: 10 * time.Second}
	}},
	{"arm-to-regrant", holderView, nil, func(v *View) { v.Local.Role, v.Local.Armed = cluster.Standby, false }},
	{"arm-to-regrant", holderView, nil, func(v *View) { // wait-lease would wait for a renewal that is never made
		v.Local.Role, v.Local.Armed, v.Tenure.Deadline, v.Group.Record.Lease.State = cluster.Standby, false, time.Time{}, record.Indefinite
	}},
	{"arm-to-regrant", quorumView, claimed, func(v *View) { v.Local.Armed = false }},
	{"promote-granted", quorumView, claimed, func(v *View) { sealed(v); sure(v); v.Local.Armed = false }}, // whom a primary was handed over to
	{"regrant", holderView, nil, func(v *View) { v.Local.Role = cluster.Standby }},
	{"holder-barred", holderView, nil, func(v *View) { v.Local.Role, v.Local.Barred = cluster.Standby, "recovery_target_time is set" }},
	{"holder-barred", quorumView, claimed, func(v *View) { sealed(v); sure(v); v.Local.Barred = "recovery_target_time is set" }},
	{"primary-holds", holderView, nil, func(v *View) { v.Local.Barred = "recovery_target_time is set" }}, // it takes effect at the next start only
	{"wait-claim", quorumView, granted, func(v *View) { sealed(v); v.Local.Barred = "recovery_target_time is set" }},
	{"wrong-timeline", quorumView, claimed, func(v *View) {
		sure(v)
		v.Local.Role, v.Local.Position.Timeline, v.Local.Line = cluster.Primary, 3, "1@0/64 3"
	}},
	{"record-promotion", quorumView, claimed, func(v *View) {
		sure(v)
		v.Local.Role, v.Local.Position.Timeline, v.Local.Line = cluster.Primary, 2, "1@0/64 2"
	}},
	{"arm", holderView, nil, func(v *View) { v.Local.Armed = false }},
	{"arm", holderView, []record.Change{paused, unpaused}, func(v *View) { v.Local.Armed = false }},
	{"disarm-paused", holderView, []record.Change{paused}, nil},
	{"primary-holds", holderView, []record.Change{paused}, func(v *View) { v.Local.Armed = false }},
	{"hand-over", holderView, []record.Change{ask2}, streaming},
	{"arm", holderView, []record.Change{ask2}, func(v *View) { streaming(v); v.Local.Armed = false }},
	{"call-off", holderView, []record.Change{ask2}, nil}, // it does not stream
	{"call-off", holderView, []record.Change{ask2}, func(v *View) { streaming(v); v.Guard.Alive, v.GuardSince = false, t0 }},
	{"call-off", holderView, []record.Change{ask2}, func(v *View) { streaming(v); delete(v.Peers, 2) }},
	{"call-off", holderView, []record.Change{ask2}, func(v *View) { streaming(v); taken(1, "it lags")(v) }},
	{"call-off", holderView, []record.Change{ask2}, func(v *View) { streaming(v); v.Handover.Number = 1 }},
	{"hand-over", holderView, []record.Change{ask2}, func(v *View) { streaming(v); taken(7, "an earlier one")(v) }},
	{"give-up", holderView, []record.Change{ask2}, func(v *View) { streaming(v); down(ServerCrashed)(v) }},
	{"hand-over-lease", holderView, []record.Change{ask2}, func(v *View) { down(ServerStopped)(v); v.Handover = Handover{Number: 1, End: 100} }},
	{"start-read-only", holderView, []record.Change{ask2}, func(v *View) { // not before the majority is back
		down(ServerStopped)(v)
		v.Local.Ended, v.Handover, v.Tenure.Deadline = true, Handover{Number: 1, End: 100}, t0
	}},
	{"take-up", holderView, []record.Change{ask2}, func(v *View) { down(ServerStopped)(v); taken(1, "node 2 has gone")(v) }},
	{"give-up", holderView, []record.Change{ask2}, func(v *View) { // a new timeline was granted it since
		down(ServerStopped)(v)
		taken(1, "node 2 has gone")(v)
		v.Group.Record.Lease.Promoted = false
	}},
	{"give-up", holderView, []record.Change{ask2}, func(v *View) { // one was asked for, and the record may be behind
		down(ServerStopped)(v)
		taken(1, "node 2 has gone")(v)
		v.Observe(Asked{regrant1}, t0)
	}},
	{"give-up", holderView, []record.Change{ask2}, func(v *View) {
		down(ServerStopped)(v)
		taken(1, "node 2 has gone")(v)
		v.Setback = Setback{Of: TakeUp{1}, At: t0, Times: 1}
	}},
	{"holder-grace", holderView, []record.Change{ask2}, func(v *View) { down(ServerStopped)(v); v.Local.Since = t0 }}, // by somebody else
	{"end-quorum", holderView, nil, func(v *View) { v.Nodes = v.Nodes[:2] }},
	{"end-quorum", holderView, nil, func(v *View) { v.Policy.Quorum = false }},
	{"primary-holds", holderView, nil, func(v *View) { // a node that lost its state is taken in again, and falls silent meanwhile
		m, _ := v.Group.Record.Member(3)
		m.Voter = false
		v.Group.Record.SetMember(m, t0, 9)
		p := v.Peers[3]
		p.At = t0.Add(-time.Minute)
		v.Peers[3] = p
	}},
	{"primary-holds", holderView, nil, func(v *View) { // another takes the place of the one that is registered no more
		v.Nodes[2].ID = 4
		v.Peers[4] = Peer{At: t0, Report: Report{Node: 4, RaftID: 4}}
	}},
	{"primary-holds", holderView, nil, nil},
	{"claim", quorumView, granted, sealed},
	{"wait-claim", quorumView, granted, func(v *View) { sealed(v); v.Guard.Alive = false }},
	{"vacancy-paused", quorumView, []record.Change{expired, paused}, nil},
	{"witness-votes", quorumView, []record.Change{expired}, func(v *View) { v.Nodes[1].Role, v.Local = cluster.Witness, Local{At: t0, State: ServerNone} }},
	{"witness-waits-for-grant", quorumView, []record.Change{expired}, func(v *View) { v.Nodes[1].Role = cluster.Witness }},
	{"vacancy-is-manual", quorumView, []record.Change{expired}, func(v *View) { v.Policy.Automatic = false }},
	{"reach", quorumView, []record.Change{ask2, handed(2)}, succeeding(0)},
	{"succeed", quorumView, []record.Change{ask2, handed(2)}, succeeding(100)},
	{"seal", quorumView, []record.Change{ask2, handed(2)}, succeeding(99)},                                              // it lacks something
	{"seal", quorumView, []record.Change{ask2, handed(2)}, func(v *View) { v.Group.LeaseAt = t0 }},                      // others would not understand
	{"seal", quorumView, []record.Change{ask2, handed(2)}, func(v *View) { succeeding(100)(v); v.Guard.Alive = false }}, // nothing would end its server
	{"seal", quorumView, []record.Change{ask2, handed(2)}, func(v *View) { succeeding(100)(v); v.Group.LeaseAt = t0.Add(-successionWindow) }},
	{"seal", quorumView, []record.Change{ask2, handed(2)}, func(v *View) {
		succeeding(0)(v)
		v.Setback = Setback{Of: Reach{1}, At: t0.Add(-time.Second), Times: 1}
	}},
	{"seal", quorumView, []record.Change{ask2, handed(2)}, func(v *View) {
		succeeding(100)(v)
		v.Asked = map[record.Change]Asking{newFacts(v, t0).successor(): {Refused: "no"}}
	}},
	{"vacancy-paused", quorumView, []record.Change{ask2, handed(2), paused}, succeeding(100)},
	{"vacancy-is-manual", quorumView, []record.Change{ask2, handed(2)}, func(v *View) { succeeding(100)(v); v.Policy.Automatic = false }},
	{"await-succession", quorumView, []record.Change{ask3, handed(3)}, succeeding(0)},
	{"seal", quorumView, []record.Change{ask3, handed(3)}, func(v *View) { succeeding(0)(v); delete(v.Peers, 3) }},
	{"seal", quorumView, []record.Change{ask3, handed(3)}, func(v *View) { // the new primary's first commit waits for it
		succeeding(0)(v)
		v.Group.Record.Sync.Sets = []record.Set{record.SetOf(1, 2, 3)}
	}},
	{"seal", quorumView, []record.Change{ask3, handed(3)}, func(v *View) { succeeding(0)(v); v.Group.LeaseAt = t0.Add(-successionWindow) }},
	{"seal", quorumView, []record.Change{expired}, nil},
	{"place-bid", quorumView, []record.Change{expired}, sealed},
	{"withdraw-bid", quorumView, []record.Change{expired, bidOf2}, announced},
	{"withdraw-bid", quorumView, []record.Change{expired, bidOf2}, func(v *View) { announced(v); sealed(v); v.Local.Receiving = true }},
	{"seal", quorumView, []record.Change{expired, bidOf2}, nil}, // others would not understand that it is taken back
	{"seal", quorumView, []record.Change{expired, bidOf2, record.Withdraw{Vacancy: 1, Node: 2}}, nil},
	{"decline", quorumView, []record.Change{expired, bidOf2, record.Withdraw{Vacancy: 1, Node: 2}}, down(ServerStarting)},
	{"seal", quorumView, []record.Change{expired}, func(v *View) { v.Local.Barred = "recovery_target_time is set" }},
	{"wait-barred", quorumView, []record.Change{expired}, func(v *View) { sealed(v); v.Local.Barred = "recovery_target_time is set" }},
	{"place-bid", quorumView, []record.Change{expired, barred2}, func(v *View) { sealed(v); v.Local.Barred = "recovery_target_time is set" }}, // it counts for the others' sake
	{"decline", quorumView, []record.Change{expired}, down(ServerStarting)},
	{"start-to-bid", quorumView, []record.Change{expired, record.Bid{Vacancy: 1, Node: 2, Declined: "crashed"}}, func(v *View) { down(ServerCrashed)(v); v.Group.LeaseAt = t0.Add(-1400 * time.Millisecond) }},
	{"start-to-bid", quorumView, []record.Change{expired, record.Bid{Vacancy: 1, Node: 2, Declined: "crashed"}}, func(v *View) { // as a standby, and whoever else starts servers had the time
		crashedAsStandby(v, v.Policy.RestartGrace)
	}},
	{"wait-grant", quorumView, []record.Change{expired, record.Bid{Vacancy: 1, Node: 2, Declined: "crashed"}}, func(v *View) {
		crashedAsStandby(v, v.Policy.RestartGrace-time.Millisecond)
	}},
	{"wait-grant", quorumView, []record.Change{expired, record.Bid{Vacancy: 1, Node: 2, Declined: "crashed"}}, func(v *View) { down(ServerCrashed)(v); v.Group.LeaseAt = t0.Add(-400 * time.Millisecond) }},
	{"start-to-bid", quorumView, []record.Change{expired, record.Bid{Vacancy: 1, Node: 2, Declined: "crashed"}}, func(v *View) {
		down(ServerCrashed)(v)
		v.Group.LeaseAt, v.Peers = t0.Add(-400*time.Millisecond), nil // nobody else may be promoted
	}},
	{"wait-grant", quorumView, []record.Change{expired, bidOf2}, sealed},
	{"wait-grant", holderView, []record.Change{ask2, handed(2), declined1}, func(v *View) { down(ServerCrashed)(v); v.Group.LeaseAt = t0.Add(-successorWindow) }},
	{"rewind-broken-off", quorumView, []record.Change{expired, record.Bid{Vacancy: 1, Node: 2, Declined: "crashed"}}, func(v *View) {
		down(ServerFenced)(v)
		v.Local.Torn, v.Local.Ended, v.Group.LeaseAt = true, true, t0.Add(-time.Minute)
	}},
	{"start-to-bid", holderView, []record.Change{ask2, handed(2), declined1}, func(v *View) { down(ServerCrashed)(v); v.Group.LeaseAt = t0.Add(-successorWindow - 1) }},
	{"start-to-bid", holderView, []record.Change{ask2, handed(2), declined1}, func(v *View) { // the next primary has gone too
		down(ServerCrashed)(v)
		v.Group.LeaseAt = t0.Add(-1400 * time.Millisecond)
		delete(v.Peers, 2)
	}},
	{"wait-promotion", quorumView, claimed, func(v *View) { v.Self, v.Local.Incarnation = 3, "i3" }},
	{"follow-paused", quorumView, []record.Change{paused}, down(ServerStopped)},
	{"rejoin-is-off", holderView, moved, func(v *View) { down(ServerFenced)(v); v.Policy.Rejoin = "off" }},
	{"rejoin-gave-up", holderView, moved, func(v *View) {
		down(ServerFenced)(v)
		v.Rejoins = Rejoins{rejoinAttempts, t0.Add(-time.Hour)}
	}},
	{"rejoin-by-old-record", holderView, moved, func(v *View) { down(ServerCrashed)(v); eachPeer(v, func(r *Report) { r.Group, r.Term = "g", 3 }) }},
	{"rejoin", holderView, moved, func(v *View) { down(ServerCrashed)(v); eachPeer(v, func(r *Report) { r.Group, r.Term = "g", 2 }) }},
	{"rejoin", holderView, moved, func(v *View) { down(ServerCrashed)(v); eachPeer(v, func(r *Report) { r.Group, r.Term = "other", 3 }) }},
	{"rejoin-waits", holderView, moved, func(v *View) {
		down(ServerFenced)(v)
		v.Rejoins = Rejoins{2, t0.Add(-9 * time.Second)}
	}},
	{"rejoin", holderView, moved, func(v *View) {
		down(ServerFenced)(v)
		v.Rejoins = Rejoins{2, t0.Add(-15 * time.Second)}
	}},
	{"rejoin", holderView, moved, down(ServerFenced)},
	{"rejoin", holderView, moved, func(v *View) { // it has WAL that the new primary does not have
		sealed(v)
		v.Local.Role, v.Seal.LSN, v.Seal.Incarnation = cluster.Standby, 101, "i1"
	}},
	{"rejoin", quorumView, nil, crashedStandby(3 * time.Second)},
	{"rejoin-is-off", quorumView, nil, func(v *View) { crashedStandby(time.Hour)(v); v.Policy.Rejoin = "off" }},
	{"standby-down", quorumView, nil, crashedStandby(3*time.Second - 1)}, // whoever starts servers may be about to
	{"standby-down", quorumView, nil, func(v *View) { crashedStandby(time.Hour)(v); v.Local.State = ServerStopped }},
	{"follow-holder-is-manual", quorumView, nil, func(v *View) { v.Nodes[1].Upstream, v.Policy.Automatic = 3, false; v.Nodes[2].Active = false }},
	{"measure", quorumView, nil, func(v *View) { v.Nodes[1].Upstream = 0 }},
	{"measure", quorumView, moved, func(v *View) { // it was away while node 2 was the primary
		v.Self, v.Nodes[2].Upstream, v.Local.Incarnation, v.Local.Position.LSN = 3, 2, "i3", 101
	}},
	{"standby-follows", quorumView, moved, func(v *View) { // it is on its way to the new timeline
		v.Self, v.Nodes[2].Upstream, v.Local.Incarnation = 3, 2, "i3"
	}},
	{"record-promotion", quorumView, claimed, func(v *View) { // it was restarted before it could say that it was promoted
		sealed(v)
		sure(v)
		v.Local.Position.Timeline, v.Local.Line = 2, "1@0/64 2"
	}},
	{"follow-holder", quorumView, nil, sealed},
	{"standby-follows", quorumView, nil, nil},
}

// leaderView is a standby that has led the group for a minute.
func leaderView() *View {
	v := quorumView()
	v.Group.Leads, v.LeadSince = true, t0.Add(-time.Minute)
	return v
}

// announced has all members know what this program knows.
func announced(v *View) {
	for i := range v.Group.Record.Members {
		v.Group.Record.Members[i].Level = record.Level
	}
	for id, p := range v.Peers {
		p.Report.Level = record.Level
		v.Peers[id] = p
	}
}

// succeeding is a moment after the lease was handed over; the own WAL was found to end there,
// zero: it was not looked at.
func succeeding(lsn cluster.LSN) func(*View) {
	return func(v *View) {
		announced(v)
		v.Group.LeaseAt = t0
		if lsn != 0 {
			v.Reached = Sealed{Group: v.Group.Record.Group, Vacancy: 1, Incarnation: v.Local.Incarnation, Timeline: 1, LSN: lsn, Line: "1"}
		}
	}
}

func forLong(v *View) { v.Group.LeaseAt = t0.Add(-v.Policy.LeaseTTL) }

var leaderCases = []ruleCase{
	{"not-leading", quorumView, nil, nil},
	{"expire", leaderView, nil, forLong},
	{"presides", leaderView, nil, func(v *View) { forLong(v); v.LeadSince = t0 }},
	{"void", leaderView, granted, forLong},
	{"await-bids", leaderView, []record.Change{expired, bidOf2}, func(v *View) { v.Group.LeaseAt = t0.Add(-100 * time.Millisecond) }},
	{"await-successor", leaderView, []record.Change{ask3, handed(3), bidOf2}, func(v *View) { v.Group.LeaseAt = t0.Add(-successorWindow + 1) }},
	{"close", leaderView, []record.Change{ask3, handed(3), bidOf2}, func(v *View) { v.Group.LeaseAt = t0.Add(-successorWindow) }},
	{"close", leaderView, []record.Change{ask2, handed(2), bidOf2}, func(v *View) { v.Group.LeaseAt = t0 }}, // nobody else is waited for
	{"await-bids", leaderView, []record.Change{ask2, handed(2), behind2}, func(v *View) { v.Group.LeaseAt = t0 }},
	{"close", leaderView, []record.Change{ask3, handed(3), bidOf2}, func(v *View) { // it has gone
		p := v.Peers[3]
		p.Silent = true
		v.Peers[3] = p
	}},
	{"close", leaderView, []record.Change{expired, bidOf2}, func(v *View) { // who has no server has no bid
		v.Group.LeaseAt = t0.Add(-100 * time.Millisecond)
		for id, p := range v.Peers {
			p.Report.Server = ServerCrashed
			v.Peers[id] = p
		}
	}},
	{"await-bids", leaderView, []record.Change{expired, bidOf2}, func(v *View) { v.LeadSince = t0 }}, // the leader that heard the others' bids is gone
	{"close", leaderView, []record.Change{expired, bidOf2}, nil},
	{"no-winner", leaderView, []record.Change{expired}, nil},
	{"wait-claimed", leaderView, granted, nil},
	{"change-member", leaderView, nil, func(v *View) {
		v.Nodes = append(v.Nodes, cluster.Node{ID: 4, Role: cluster.Standby, Active: true})
		v.Peers[4] = Peer{At: t0, Report: Report{Node: 4, RaftID: 4}}
	}},
	{"change-member", leaderView, nil, func(v *View) { // the holder came back as a learner, was granted the lease, and votes from now on
		m, _ := v.Group.Record.Member(1)
		m.Voter = false
		v.Group.Record.SetMember(m, t0, 9)
	}},
	{"presides", leaderView, nil, func(v *View) { v.Nodes = v.Nodes[1:] }}, // registered no more, the holder stays all the same
	{"describe-member", leaderView, nil, func(v *View) {
		p := v.Peers[3]
		p.Report.Priority = 50
		v.Peers[3] = p
	}},
	{"describe-member", leaderView, []record.Change{expired}, func(v *View) {
		announced(v)
		p := v.Peers[3]
		p.Report.Barred = "recovery_target_time is set"
		v.Peers[3] = p
	}},
	{"describe-member", leaderView, []record.Change{expired}, func(v *View) { announced(v); v.Local.Barred = "recovery_target_time is set" }},
	{"describe-member", leaderView, []record.Change{expired}, func(v *View) { announced(v); v.Local.Torn = true }},
	{"no-winner", leaderView, []record.Change{expired}, func(v *View) { announced(v); v.Local.Torn, v.Doing = true, Rejoin{Upstream: 1, Term: 2} }}, // it is rewound just now
	{"no-winner", leaderView, []record.Change{expired, barred2, bidOf2}, func(v *View) { announced(v); v.Local.Barred = "recovery_target_time is set" }},
	{"no-winner", leaderView, []record.Change{expired}, func(v *View) { v.Local.Barred = "recovery_target_time is set" }}, // others would not understand that
	// While nobody can be granted the lease, what is missing may be a node that is to
	// be taken in, or one whose settings have changed.
	{"change-member", leaderView, []record.Change{expired}, func(v *View) {
		v.Nodes = append(v.Nodes, cluster.Node{ID: 4, Role: cluster.Standby, Active: true})
		v.Peers[4] = Peer{At: t0, Report: Report{Node: 4, RaftID: 4}}
	}},
	{"describe-member", leaderView, []record.Change{expired}, func(v *View) {
		p := v.Peers[3]
		p.Report.Priority = 50
		v.Peers[3] = p
	}},
	{"hand-over-lead", func() *View {
		v := holderView()
		v.Group.Leads, v.LeadSince = true, t0.Add(-time.Minute)
		return v
	}, nil, nil},
	{"hand-over-lead", leaderView, nil, func(v *View) { v.Nodes = []cluster.Node{v.Nodes[0], v.Nodes[2]} }}, // itself is registered no more
	{"presides", leaderView, nil, func(v *View) { v.Nodes = v.Nodes[:2] }},                                  // three voters: one may not go yet
	{"change-member", leaderView, nil, func(v *View) { fourth(v); v.Nodes = v.Nodes[:3] }},
	{"presides", leaderView, nil, func(v *View) { fourth(v); v.Nodes = v.Nodes[:3]; syncSet("ANY 1 (2 4)", "ANY 1 (2)")(v) }},
	{"change-member", leaderView, nil, func(v *View) { fourth(v); v.Nodes = v.Nodes[:3]; syncSet("ANY 1 (4)", "")(v) }}, // it stays beside the empty set
	{"change-member", leaderView, []record.Change{record.End{Term: 1, Node: 1}}, func(v *View) { v.Nodes = v.Nodes[:2] }},
	{"presides", leaderView, nil, nil},
}

// TestLostAnswer: a holder whose disk stalls applies nothing, and the answer to its
// renewal is lost. The next try is answered, and its lease counts from the first.
func TestLostAnswer(t *testing.T) {
	v := holderView()
	leader := v.Group.Record.Clone() // the others go on; this node's record stays as it is
	v.Tenure.Answered = true
	try := func(at time.Time) record.Renew {
		r, due := Renewal(v, at)
		if !due {
			t.Fatalf("no renewal is due at %s", at.Sub(t0))
		}
		v.Observe(Asked{Change: r}, at)
		return r
	}
	first := try(t0.Add(time.Second))
	if why := leader.Apply(first, t0, 9); why != "" {
		t.Fatal(why)
	}
	v.Local.Position.LSN += 100
	second := try(t0.Add(2 * time.Second))
	v.Observe(Answered{Change: second, Refused: leader.Apply(second, t0, 10)}, t0.Add(2*time.Second))
	if want := t0.Add(time.Second + Hold(first.TTL)); second.Seq != first.Seq || !v.Tenure.Deadline.Equal(want) {
		t.Errorf("renewal %d after %d: the lease is sure until %s, want %s", second.Seq, first.Seq, v.Tenure.Deadline.Sub(t0), want.Sub(t0))
	}
}

// TestRenewalsInTime: at rest a renewal follows the one before after an eighth of the time to
// live, but what is not answered is tried again as soon as ever, and a new leader is asked at once.
func TestRenewalsInTime(t *testing.T) {
	v := holderView()
	ttl := v.Group.Record.Lease.TTL
	try := func(at time.Duration) {
		t.Helper()
		for _, early := range []bool{true, false} {
			now := t0.Add(at)
			if early {
				now = now.Add(-time.Millisecond)
			}
			r, due := Renewal(v, now)
			if due == early {
				t.Fatalf("due %s after the beginning: %v", now.Sub(t0), due)
			}
			if due {
				v.Observe(Asked{Change: r}, now)
			}
		}
	}
	answered := func() {
		t.Helper()
		for c := range v.Asked {
			r, ok := c.(record.Renew)
			if !ok || r.Seq != v.Tenure.Seq {
				continue
			}
			if why := v.Group.Record.Apply(r, t0, 9); why != "" {
				t.Fatal(why)
			}
			v.Observe(Answered{Change: c}, t0)
		}
	}
	v.Tenure.AskedAt, v.Tenure.TriedAt = t0, t0
	try(ttl / 8)
	answered()
	began := ttl / 8
	at, tries := began+ttl/8, 0
	for ; at < began+Hold(ttl); at += ttl / 10 { // none of these is answered
		try(at)
		tries++
	}
	if tries != 6 {
		t.Errorf("a renewal is tried %d times before the lease ends, want 6", tries)
	}
	g := v.Group
	g.Leader = 2
	v.Observe(GroupSeen{Group: g}, t0.Add(at))
	last := at - ttl/10 + time.Millisecond
	if _, due := Renewal(v, t0.Add(last)); !due {
		t.Error("the new leader is not asked at once")
	}
	for range 2 { // the second since the first was answered late
		again, due := Renewal(v, t0.Add(last))
		if !due {
			t.Error("not asked again at once")
		}
		v.Observe(Asked{Change: again}, t0.Add(last))
		answered()
	}
	g.Leader = 3
	v.Observe(GroupSeen{Group: g}, t0.Add(last))
	if _, due := Renewal(v, t0.Add(last+ttl/10)); due {
		t.Error("what was answered is asked again")
	}
	v.Group.Record.Pause.On = true
	if _, due := Renewal(v, t0.Add(last+ttl/10)); !due {
		t.Error("during a pause there is no rest")
	}
}

// TestLeaseEnds says when a lease is looked at closely.
func TestLeaseEnds(t *testing.T) {
	ttl := holderView().Group.Record.Lease.TTL
	holds := func(left time.Duration) *View {
		v := holderView()
		v.Tenure.Term, v.Tenure.Deadline = v.Group.Record.Term, t0.Add(left)
		return v
	}
	leads := func(age time.Duration) *View {
		v := leaderView()
		v.Group.LeaseAt = t0.Add(-age)
		return v
	}
	paused, follows := holds(ttl/10), leads(ttl)
	paused.Group.Record.Lease.State = record.Indefinite
	follows.Group.Leads = false
	for name, tt := range map[string]struct {
		v    *View
		want bool
	}{
		"just renewed": {holds(Hold(ttl)), false}, "renewed late": {holds(ttl / 4), false}, "nearly over": {holds(ttl/5 - 1), true}, "without an end": {paused, false},
		"the leader saw it renewed": {leads(ttl / 2), false}, "it has nearly seen it expire": {leads(ttl * 9 / 10), true}, "a follower expires nothing": {follows, false},
	} {
		if got := LeaseEnds(tt.v, t0); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestRenewalAfterAPause arms the primary before its lease is a timed one again,
// and holds it back for nothing else.
func TestRenewalAfterAPause(t *testing.T) {
	for name, tt := range map[string]struct {
		changes []record.Change
		set     func(*View)
		renews  bool
	}{
		"paused, disarmed":                {[]record.Change{paused}, func(v *View) { v.Local.Armed = false }, true},
		"no longer, disarmed":             {[]record.Change{paused, unpaused}, func(v *View) { v.Local.Armed = false }, false},
		"no longer, armed":                {[]record.Change{paused, unpaused}, func(*View) {}, true},
		"no longer, without a guard":      {[]record.Change{paused, unpaused}, func(v *View) { v.Guard.Alive = false }, false},
		"no longer, it is down, disarmed": {[]record.Change{paused, unpaused}, func(v *View) { down(ServerStopped)(v); v.Local.Armed = false }, false},
		"no longer, it is down, armed":    {[]record.Change{paused, unpaused}, down(ServerStopped), true},
		"no longer, it was armed when down, and may have been started just before": {[]record.Change{paused, unpaused}, func(v *View) {
			down(ServerStopped)(v)
			v.Local.Armed = false
			v.Observe(Ordered{Arm{}}, t0)
			v.Observe(Done{Action: Arm{}}, t0)
		}, false},
		"no longer, not looked at since": {[]record.Change{paused, unpaused}, func(v *View) {
			down(ServerStopped)(v)
			v.Local.Armed, v.Group.Resumed = false, t0.Add(time.Millisecond)
		}, false},
		"never paused, not armed yet": {nil, func(v *View) { v.Local.Armed = false }, true},
	} {
		v := holderView()
		change(t, v, tt.changes...)
		tt.set(v)
		if _, got := Renewal(v, t0.Add(time.Second)); got != tt.renews {
			t.Errorf("%s: renews: %v", name, got)
		}
	}
	v := holderView()
	change(t, v, paused)
	g := v.Group
	g.Record = g.Record.Clone()
	g.Record.Apply(unpaused, t0, 9)
	if v.Observe(GroupSeen{g}, t0.Add(time.Second)); !v.Group.Resumed.Equal(t0.Add(time.Second)) {
		t.Errorf("the end of a pause was seen at %s", v.Group.Resumed)
	}
	v = holderView()
	change(t, v, paused)
	if why := v.Group.Record.Apply(record.End{Term: 1, Node: 1}, t0, 9); why == "" {
		t.Error("the quorum rule ended while the cluster is paused")
	}
}

// What an order has made of the own server counts from its end: one that took long to
// start is not given up because it does not answer the first look.
func TestServerAfterAnOrder(t *testing.T) {
	v := holderView()
	down(ServerCrashed)(v)
	v.AnsweredAt, v.Local.Since = t0.Add(-time.Hour), t0.Add(-time.Hour)
	v.Doing = StartServer{}
	v.Observe(Done{Action: StartServer{}}, t0)
	unreachable := v.Local
	unreachable.At, unreachable.State = t0.Add(time.Second), ServerUnreachable
	v.Tenure.Deadline = t0.Add(time.Hour)
	v.Observe(LocalSeen{unreachable}, t0.Add(3*time.Second))
	for after, rule := range map[time.Duration]string{4 * time.Second: "holder-grace", v.Policy.HangBound: "give-up"} {
		if d := Decide(v, t0.Add(after)); d.Rule != rule {
			t.Errorf("%s after the start: %s (%s), want %s", after, d.Rule, d.Why, rule)
		}
	}

	v = quorumView()
	v.Observe(Done{Action: Demote{}}, t0.Add(time.Minute))
	if v.Local.State != ServerCrashed || !v.Local.Since.Equal(t0.Add(time.Minute)) {
		t.Errorf("after it was ended it is %s since %s", v.Local.State, v.Local.Since.Sub(t0))
	}
}

// TestQuorumRules reaches every rule of the quorum rule and of the leader by a
// view that shows why it exists.
func TestQuorumRules(t *testing.T) {
	for _, tested := range []struct {
		cases  []ruleCase
		rules  table
		decide func(*View, time.Time) Decision
	}{{quorumCases, quorumRules, Decide}, {leaderCases, leaderRules, Preside}, {syncCases, syncRules, Synchronize}} {
		hit := map[string]bool{}
		for _, c := range tested.cases {
			v := c.view()
			change(t, v, c.changes...)
			if c.set != nil {
				c.set(v)
			}
			d := tested.decide(v, t0)
			if hit[d.Rule] = true; d.Rule != c.rule {
				t.Errorf("%s: decided by %s: %s", c.rule, d.Rule, d.Why)
			}
		}
		for _, r := range tested.rules.all() {
			if !hit[r.id] {
				t.Errorf("no view shows why rule %q exists", r.id)
			}
		}
	}
}

// TestEarlierLife says that a lease counts from what this life of the daemon has
// proposed. One whose record catches up after a restart sees an old renewal
// under the number that it has just used itself.
// A lease without an end that a restarted daemon finds in its record may be long
// over: a server that was ended needs a renewal of this life. One that takes writes
// goes on: its guard would know of a deadline, and it would be armed.
func TestPauseOfAnEarlierLife(t *testing.T) {
	for _, c := range []struct {
		name  string
		local func(*Local)
		life  uint64
		may   bool
	}{
		{"a standby again", func(l *Local) { l.Role, l.Armed, l.Sealed = cluster.Standby, true, true }, 1, false},
		{"a standby again, and this life was answered", func(l *Local) { l.Role, l.Armed, l.Sealed = cluster.Standby, true, true }, 2, true},
		{"it takes writes", func(l *Local) {}, 1, true},
		{"stopped and armed", func(l *Local) { l.State, l.Armed, l.Sealed = ServerStopped, true, true }, 1, false},
		{"stopped, to be started as a primary", func(l *Local) { l.State, l.Armed = ServerStopped, false }, 1, true},
	} {
		v := holderView()
		v.Life, v.Tenure = 2, Tenure{Term: 1}
		rec := v.Group.Record.Clone()
		rec.Apply(record.SetPause{On: true, By: "n1", Reason: "maintenance"}, t0, 10)
		rec.Lease.Life = c.life
		v.Group.Record = rec
		c.local(&v.Local)
		if got := MayWrite(v, t0); got != c.may {
			t.Errorf("%s: may write is %v, want %v", c.name, got, c.may)
		}
	}
}

func TestEarlierLife(t *testing.T) {
	for _, life := range []uint64{1, 2} { // of whom the record tells
		v := holderView()
		v.Life, v.Tenure = 2, Tenure{Term: 1}
		r, due := Renewal(v, t0)
		if !due || r.Seq != 1 || r.Life != 2 {
			t.Fatalf("the first renewal: %+v, %v", r, due)
		}
		v.Observe(Asked{r}, t0)
		rec := v.Group.Record.Clone()
		r.Life = life
		rec.Apply(r, t0, 10)
		v.Observe(GroupSeen{Group{Record: rec}}, t0.Add(time.Second))
		if got, want := MayWrite(v, t0.Add(2*time.Second)), life == 2; got != want {
			t.Errorf("a renewal of life %d: may write is %v", life, got)
		}
	}
}

// TestGivenBack says that a lease that is being given back is not written by any
// more: the release may be accepted at any time, and be heard of late. Only a
// renewal that the record took after that shows that it will not be.
func TestGivenBack(t *testing.T) {
	v := holderView()
	v.Tenure.Seq, v.Tenure.AskedAt = 0, t0
	v.Local.State, v.Local.Role = ServerCrashed, cluster.RoleUnknown
	d := Decide(v, t0)
	if d.Rule != "give-up" {
		t.Fatalf("decided %+v", d)
	}
	v.Observe(Ordered{d.Actions[0]}, t0)
	if _, due := Renewal(v, t0.Add(time.Second)); due || MayWrite(v, t0) {
		t.Error("the lease is renewed, or written by, while it is given back")
	}
	v.Observe(Done{Action: d.Actions[0], Err: "not answered"}, t0)
	if again := Decide(v, t0.Add(time.Second)); again.Rule != "give-up" {
		t.Errorf("a release that was not answered is not tried again: %+v", again)
	}
	v.Observe(Done{Action: d.Actions[0]}, t0.Add(time.Second))
	if again := Decide(v, t0.Add(time.Second)); again.Rule != "given-back" {
		t.Errorf("a release that was answered is asked for again: %+v", again)
	}
	v.Local.State, v.Local.Role = ServerRunning, cluster.Standby
	if d := Decide(v, t0.Add(time.Second)); d.Rule != "wait-lease" {
		t.Errorf("the server is back: %+v", d)
	}
	r, due := Renewal(v, t0.Add(time.Second))
	if !due {
		t.Fatal("no renewal is due")
	}
	v.Observe(Asked{r}, t0.Add(time.Second))
	v.Observe(Answered{Change: r}, t0.Add(time.Second))
	if !MayWrite(v, t0.Add(2*time.Second)) {
		t.Error("the lease was taken up again, and does not count")
	}
	rec := v.Group.Record.Clone()
	rec.Apply(r, t0, 10)
	if why := rec.Apply(record.Release{Term: 1, Node: 1, Incarnation: "i1", Seq: d.Actions[0].(GiveUp).Seq}, t0, 11); why == "" {
		t.Error("the release was accepted after the lease had been taken up again")
	}
}

// Tries to rejoin are counted over other orders and over a restart of the daemon,
// each waits longer, and a server that streams ends the counting.
func TestRejoinsAreCounted(t *testing.T) {
	v, now := holderView(), t0
	try := func(err string) {
		v.Observe(Ordered{Rejoin{Upstream: 2, Term: 2}}, now)
		v.Observe(Done{Rejoin{Upstream: 2, Term: 2}, err}, now)
		v.Observe(Ordered{Arm{}}, now)
		v.Observe(Done{Arm{}, ""}, now)
	}
	var last time.Duration
	for n := 1; n <= rejoinAttempts; n++ {
		try([]string{"no space left", ""}[n%2]) // one that succeeds and must be done again counts too
		wait := v.Rejoins.wait(1)
		if v.Rejoins.Tries != n || wait <= last || wait < 5*time.Second || wait > 6*time.Minute {
			t.Errorf("try %d: %+v, wait %s after %s", n, v.Rejoins, wait, last)
		}
		last = wait
	}
	if last == (Rejoins{rejoinAttempts, now}).wait(2) {
		t.Error("two nodes try at the same moment")
	}
	restarted := holderView()
	restarted.Observe(RejoinsKept{v.Rejoins.Tries}, now)
	if restarted.Rejoins.Tries != rejoinAttempts {
		t.Errorf("after a restart: %+v", restarted.Rejoins)
	}
	v.Observe(LocalSeen{Local{At: now.Add(time.Second), State: ServerRunning, Role: cluster.Standby, Sealed: true}}, now)
	if v.Rejoins.Tries != rejoinAttempts {
		t.Error("a standby that streams from nobody ended the counting")
	}
	l := Local{At: now.Add(time.Second), State: ServerRunning, Role: cluster.Standby, Receiving: true}
	v.Group.Record.Lease.Timeline, l.Position.Timeline = 3, 2
	v.Observe(LocalSeen{l}, now)
	if v.Rejoins.Tries != rejoinAttempts {
		t.Error("a standby that streams what the primary has left behind ended the counting")
	}
	l.Position.Timeline = 3
	v.Observe(LocalSeen{l}, now)
	if v.Rejoins.Tries != 0 {
		t.Error("a standby that streams did not end the counting")
	}
}

// Two standbys that are registered behind each other get no WAL from anybody: both follow the
// primary. One behind them stays where it is.
func TestNoCircle(t *testing.T) {
	for _, c := range []struct {
		of2, of3, want cluster.NodeID
	}{{3, 2, 1}, {3, 1, 3}, {3, 4, 3}, {1, 2, 1}} {
		v := quorumView()
		sealed(v)
		v.Nodes[1].Upstream, v.Nodes[2].Upstream = c.of2, c.of3
		if d := Decide(v, t0); !slices.ContainsFunc(d.Actions, func(a Action) bool { f, ok := a.(Follow); return ok && f.Upstream == c.want }) {
			t.Errorf("node 2 behind %d, and 3 behind %d: %s %v, want node %d", c.of2, c.of3, d.Rule, d.Actions, c.want)
		}
	}
	v := quorumView()
	v.Nodes[1].Upstream, v.Nodes[2].Upstream = 3, 2
	if d := Decide(v, t0); d.Rule != "measure" && d.Rule != "follow-holder" {
		t.Errorf("node 2 already streams from node 3, and that from node 2: %s", d.Rule)
	}
}

// Who followed a primary is not a cascaded standby behind it when that is a standby, though the
// records that it has read are older; who was pointed at a standby is.
func TestNobodyIsCascadedByAccident(t *testing.T) {
	for done, want := range map[Action]cluster.NodeID{Follow{Upstream: 3, Holder: true}: 1, Rejoin{Upstream: 3}: 1, Follow{Upstream: 3}: 0} {
		v := quorumView()
		local := v.Local
		v.Observe(Done{Action: done}, t0)
		v.Local = local // as the next look finds it
		if got := newFacts(v, t0).mustFollow(); got != want {
			t.Errorf("%s: node %d is to be followed, not %d", Describe(done), got, want)
		}
	}
}

// A lease whose answer took long, as over an election, has little left: the next is asked for
// at once. One without a limit is given none while nobody leads the group, who could answer.
func TestRenewalAfterALongAnswer(t *testing.T) {
	v := holderView()
	ttl := v.Group.Record.Lease.TTL
	v.Tenure.Answered, v.Tenure.TriedAt, v.Tenure.AskedAt = true, t0, t0.Add(-ttl/4+time.Millisecond)
	if _, due := Renewal(v, t0); due {
		t.Error("due directly after one that was answered soon")
	}
	v.Tenure.AskedAt = t0.Add(-ttl / 4)
	if _, due := Renewal(v, t0); !due {
		t.Error("not due after one that was answered late")
	}
	v.Group.Record.Lease.State, v.Tenure = record.Indefinite, Tenure{Term: 1}
	for leader, want := range map[cluster.NodeID]bool{0: false, 3: true} {
		v.Group.Leader = leader
		if r, due := Renewal(v, t0); due != want || due && !r.Timed {
			t.Errorf("leader %d: %+v, %v", leader, r, due)
		}
	}
}

// TestLongerLease: a lease_ttl that is made much longer does not cost the lease that runs:
// it is renewed at its own pace, and then by the new one.
func TestLongerLease(t *testing.T) {
	v := holderView()
	v.Tenure.TriedAt = t0.Add(-500 * time.Millisecond)
	v.Policy.LeaseTTL = time.Hour
	if d := Decide(v, t0); d.Rule != "primary-holds" {
		t.Errorf("%s: %s", d.Rule, d.Why)
	}
	if c, due := Renewal(v, t0); !due || c.TTL != time.Hour {
		t.Errorf("due: %v, for %s", due, c.TTL)
	}
}

// TestTooShortInForce: while the quorum rule is in force it is the lease that is held that
// is judged, and nothing is decided by that.
func TestTooShortInForce(t *testing.T) {
	v := holderView()
	v.Policy.LeaseTTL = time.Hour // reloaded, and not renewed by yet
	for _, id := range []cluster.NodeID{2, 3} {
		p := v.Peers[id]
		p.Trip, p.Report.Disk = 10*time.Millisecond, 470*time.Millisecond
		v.Peers[id] = p
	}
	if why := TooShort(v, t0); why != "" {
		t.Errorf("4.95 s fit into 5 s: %s", why)
	}
	v.Group.Disk = 10 * time.Millisecond
	if why := TooShort(v, t0); !strings.Contains(why, "here 480ms: set lease_ttl to 5.1s or more") {
		t.Errorf("5.05 s do not: %q", why)
	}
	if d := Decide(v, t0); d.Rule != "primary-holds" {
		t.Errorf("%s: %s", d.Rule, d.Why)
	}
	v.Group.Disk = 0
	v.Observe(SweepTimed{Took: 316 * time.Millisecond}, t0)
	if why := TooShort(v, t0); why != "" {
		t.Errorf("652 ms are 0.13 of 5 s: %s", why)
	}
	v.Observe(SweepTimed{Took: 330 * time.Millisecond}, t0)
	if why := TooShort(v, t0); !strings.Contains(why, "node 1's server takes 680ms there") || Tell(v, t0).Sweep != 330*time.Millisecond {
		t.Errorf("%q", why)
	}
	if why := TooShort(New(1, Policy{}), t0); why != "" {
		t.Errorf("without a record: %q", why)
	}
}

// TestSmoothed takes a better measurement at once, and a worse one by and by.
func TestSmoothed(t *testing.T) {
	took := Smoothed(Smoothed(0, 80), 16)
	for range 30 {
		took = Smoothed(took, 800)
	}
	if got := Smoothed(0, 7); got != 7 || Smoothed(7, 0) != 7 || Smoothed(7, 3) != 3 || Smoothed(16, 800) != 16+98 || took < 700 {
		t.Errorf("%d, %d", got, took)
	}
}

// TestLooks: a look at the primary is rare only while the rule needs none and the primary's
// daemon vouches for its server.
func TestLooks(t *testing.T) {
	peer := func(v *View, set func(*Peer)) {
		p := v.Peers[1]
		set(&p)
		v.Peers[1] = p
	}
	for what, c := range map[string]struct {
		set  func(*View)
		want time.Duration
	}{
		"all is well":                {func(*View) {}, silentEvery},
		"a longer monitor interval":  {func(v *View) { v.Policy.MonitorInterval = time.Minute }, time.Minute},
		"the visibility rule":        {func(v *View) { v.Group.Record.Rule = record.Visibility }, time.Second},
		"no record":                  {func(v *View) { v.Group.Record = nil }, time.Second},
		"a silent daemon":            {func(v *View) { peer(v, func(p *Peer) { p.Silent = true }) }, time.Second},
		"an old report":              {func(v *View) { peer(v, func(p *Peer) { p.At = t0.Add(-time.Minute) }) }, time.Second},
		"a server that is not there": {func(v *View) { peer(v, func(p *Peer) { p.Report.Server = ServerCrashed }) }, time.Second},
		"a look that failed":         {func(v *View) { v.Observe(Probed{Node: 1}, t0) }, 0},
	} {
		v := quorumView()
		c.set(v)
		looks := Looks(v, t0)
		if len(looks) != 1 || looks[0] != (Look{Node: 1, Every: c.want}) {
			t.Errorf("%s: %v, want node 1 every %s", what, looks, c.want)
		}
	}
}

// crashed has a node's daemon say that its server is gone.
func crashed(id cluster.NodeID) func(*View) {
	return func(v *View) {
		v.Peers[id] = Peer{Report: Report{Node: id, Server: ServerCrashed}, At: t0, Since: t0}
	}
}

// TestOvertaken breaks off the waiting for a server to attach when the primary is gone, another
// is it, or the server is down, and under the visibility rule when who is followed is lost; nothing else.
func TestOvertaken(t *testing.T) {
	for name, tt := range map[string]struct {
		changes []record.Change
		doing   Action
		set     func(*View)
		want    bool
	}{
		"the primary is there":          {nil, Follow{Upstream: 1, Holder: true, Name: "node2@1"}, nil, false},
		"nobody holds the lease":        {[]record.Change{expired}, Follow{Upstream: 1, Holder: true, Name: "node2@1"}, nil, true},
		"and it follows a standby":      {[]record.Change{expired}, Follow{Upstream: 3}, nil, true},
		"it follows a standby":          {nil, Follow{Upstream: 3}, nil, false},
		"another is the primary":        {moved, Follow{Upstream: 1, Holder: true, Name: "node2@1"}, nil, true},
		"the server is down":            {nil, Follow{Upstream: 1, Holder: true, Name: "node2@1"}, down(ServerCrashed), true},
		"a rewind is not to be torn":    {[]record.Change{expired}, Rejoin{Upstream: 1, Term: 1}, nil, false},
		"nothing is done":               {[]record.Change{expired}, nil, nil, false},
		"the visibility rule":           {[]record.Change{record.End{Term: 1, Node: 1}}, Follow{Upstream: 1}, down(ServerCrashed), false},
		"the visibility rule, and lost": {[]record.Change{record.End{Term: 1, Node: 1}}, Follow{Upstream: 1}, crashed(1), true},
		"the visibility rule, a rewind": {[]record.Change{record.End{Term: 1, Node: 1}}, Rejoin{Upstream: 1, Term: 1}, crashed(1), false},
	} {
		v := quorumView()
		change(t, v, tt.changes...)
		v.Doing = tt.doing
		if tt.set != nil {
			tt.set(v)
		}
		if got := Overtaken(v, t0); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
