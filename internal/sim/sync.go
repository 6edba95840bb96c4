package sim

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
)

// clients is how many commits may wait at one time.
const clients = 10

// sender is a walsender of a primary. It goes by a copy of
// synchronous_standby_names of its own, which it takes up when it comes round to
// it (safety notes, A17 and B7).
type sender struct {
	life   int    // of the WAL receiver that it serves
	name   string // application_name
	names  string // its copy of the setting
	k      int    // what that says: how many
	member bool   // and whether its standby counts: its sync_priority
	sent   int    // up to where the standby was sent the log
	flush  int    // and up to where it has said that it is on its disk
	heard  time.Duration
	told   time.Duration // when a reply counted last
	frozen time.Duration // until then it does nothing
}

// reply is what a WAL receiver tells its walsender.
type reply struct {
	life  int
	name  string
	flush int
}

// waiting is a commit that is acknowledged when standbys have the log up to at.
type waiting struct {
	at       int
	timeline cluster.Timeline
	of       *access      // nil: of no register
	told     func(Answer) // nil: nobody listens
}

// Answer is what a client is told of its commit.
type Answer string

// What it may be told: that it is done; that it is, with a warning, since nobody waits any
// more for standbys to have it (A13); that a standby takes no writes. It hears nothing if
// its server ends first.
const (
	Acknowledged Answer = "acknowledged"
	Warned       Answer = "acknowledged with a warning"
	Refused      Answer = "refused"
	Unheard      Answer = "connection lost"
)

func (c waiting) over(a Answer) {
	if c.told != nil {
		c.told(a)
	}
}

// answers reports whether the server does anything at all for who is connected; a
// postmaster that hangs only takes no new connections (A11).
func (s *server) answers() bool { return s.up && s.ready && s.frozen <= s.n.w.now }

// hears takes a standby's reply in; false: nobody is there for it. What a new
// connection says first counts before the histories are compared: a standby whose
// history is another says that it has all that it ever had (A14).
func (s *server) hears(from cluster.NodeID, r reply) bool {
	w := s.n.w
	to := &w.nodes[from-1].server
	x, receiver := s.senders[from], &to.receiver
	unknown := x == nil || x.life != r.life
	switch {
	case !s.up, !s.ready, unknown && to.linked == r.life && s.frozen <= w.now: // nobody has that connection any more
		s.closes(from, r.life)
		return false
	case !s.answers() || unknown && (s.hung > w.now || !receiver.up || receiver.life != r.life): // the last: what is left of a connection that was closed
		return false
	case unknown:
		x = &sender{life: r.life, name: r.name}
		x.obey(s.names, w.Defect)
		if s.senders == nil {
			s.senders = map[cluster.NodeID]*sender{}
		}
		s.senders[from], to.linked = x, r.life
	case x.frozen > w.now:
		return false
	}
	if w.chance(0.3) && w.healed == 0 {
		x.frozen = w.now + w.between(10*time.Millisecond, 5*time.Second)
	}
	x.heard = w.now
	// Else the reply comes in the middle of a round. That cannot be once a round before it
	// has sent what was written after the signal: each begins with a look for that.
	if w.chance(70) || x.sent == 0 || x.sent > s.namedAt {
		x.obey(s.names, w.Defect)
	}
	// A receiver replies when it has more, and every wal_receiver_status_interval: who
	// waits for a member that was in no set before waits for that (A17).
	if unknown || r.flush > x.flush || w.now-x.told > 10*time.Second {
		x.told, x.flush = w.now, max(x.flush, r.flush)
		s.release(x)
	}
	return true
}

// parse reads a value of synchronous_standby_names as repmgrd writes it.
func parse(names string) (k int, members []string) {
	head, rest, ok := strings.Cut(strings.TrimPrefix(names, "ANY "), " (")
	if !ok {
		return 0, nil
	}
	k, _ = strconv.Atoi(head)
	for _, word := range strings.Split(strings.TrimSuffix(rest, ")"), ", ") {
		members = append(members, strings.Trim(word, `"`))
	}
	return k, members
}

// obey takes up another value of the setting.
func (x *sender) obey(names string, planted Defect) {
	if names == x.names {
		return
	}
	k, members := parse(names)
	x.names, x.k, x.member = names, k, slices.Contains(members, x.name) || planted.unbound(members, x.name)
}

// release acknowledges what enough standbys have, by the count in the walsender's
// own copy, among all that count by theirs (SyncRepGetCandidateStandbys).
func (s *server) release(x *sender) {
	if !x.member || len(s.pending) == 0 {
		return
	}
	k := x.k
	var flushed []int
	for _, o := range s.senders {
		if o.member {
			flushed = append(flushed, o.flush)
		}
	}
	if len(flushed) < k {
		return
	}
	slices.Sort(flushed)
	upTo := flushed[len(flushed)-k]
	s.pending = slices.DeleteFunc(s.pending, func(c waiting) bool {
		if c.at > upTo {
			return false
		}
		s.n.w.promised(s, c)
		c.over(Acknowledged)
		return true
	})
}

// setNames writes synchronous_standby_names. New sessions have it at once, the
// checkpointer, by whose word commits wait or not, a little later.
func (s *server) setNames(names string, managed bool) {
	w := s.n.w
	s.names, s.managed, s.namedAt = names, managed, len(s.wal)
	if !s.up {
		return
	}
	late := w.between(time.Millisecond, 30*time.Millisecond)
	if w.chance(3) {
		late = w.between(100*time.Millisecond, 3*time.Second)
	}
	w.after(&s.process, late, func() {
		if s.waits = s.names; s.waits == "" {
			for _, c := range s.pending { // who waited is let go, and nothing is promised
				c.over(Acknowledged)
			}
			s.pending = nil
		}
	})
}

// named sets the application_name for the next connection.
func (s *server) named(name string) {
	if s.called = name; name == "" {
		s.called = s.n.String()
	}
}

// hangUp lets the upstream know that the receiver has gone, where it can be heard.
func (s *server) hangUp() {
	w, from, life := s.n.w, s.source, s.receiver.life-1
	if from == 0 {
		return
	}
	w.net.send(message{t: ofServers, from: s.n.id, to: from, do: func() {
		if x := w.nodes[from-1].server.senders[s.n.id]; x != nil && x.life == life {
			delete(w.nodes[from-1].server.senders, s.n.id)
		}
	}})
}

// synchronize is the daemon's part of synchronous replication: it looks at the
// walsenders, and carries out one order at a time beside all else.
func (d *daemon) synchronize() {
	w, now := d.n.w, d.n.clock()
	if failover.Synchronizing(d.view) && w.now >= d.syncDue {
		d.syncDue = w.now + 500*time.Millisecond
		w.after(&d.process, w.between(2*time.Millisecond, 100*time.Millisecond), d.lookAtSync)
	}
	decision := failover.Synchronize(d.view, now)
	w.decided(syncTable, d, decision.Rule)
	d.calm = d.calm && nothingFollows[decision.Rule]
	for _, a := range w.Defect.orders(decision) {
		if p, ok := a.(failover.Propose); ok {
			d.propose(p.Change)
			continue
		}
		w.log(d, "ORDER %s", failover.Describe(a))
		d.see(failover.SyncOrdered{Action: a})
		o := syncOrder{d: d, s: &d.n.server, a: a, began: w.now}
		o.then(20*time.Millisecond, o.begin)
	}
}

func (d *daemon) lookAtSync() {
	s := &d.n.server
	if !s.answers() || s.hung > d.n.w.now {
		return
	}
	seen := failover.SyncSeen{Names: s.names, LSN: s.lsn()}
	for _, n := range d.n.w.nodes {
		x := s.senders[n.id]
		if x == nil {
			continue
		}
		if d.n.w.now-x.heard > 60*time.Second { // wal_sender_timeout
			delete(s.senders, n.id)
			continue
		}
		seen.Senders = append(seen.Senders, failover.Sender{PID: x.life, Name: x.name, State: "streaming", Priority: x.priority(),
			Sent: cluster.LSN(x.sent), Flush: cluster.LSN(x.flush)})
	}
	d.observe(seen)
}

func (x *sender) priority() int {
	if x.member {
		return 1
	}
	return 0
}

// syncOrder is one order of synchronous replication while it is carried out.
type syncOrder struct {
	d     *daemon
	s     *server
	a     failover.Action
	began time.Duration
	x     int // what ProveSync has written
}

func (o syncOrder) then(within time.Duration, do func()) {
	o.d.n.w.after(&o.d.process, o.d.n.w.between(within/20, within), do)
}

func (o syncOrder) done(problem string, at int) {
	if problem != "" {
		o.d.n.w.log(o.d, "%s: %s", failover.Describe(o.a), problem)
	}
	o.d.observe(failover.SyncDone{Action: o.a, Err: problem, LSN: cluster.LSN(at)})
}

// late reports whether the order has taken longer than it may.
func (o syncOrder) late() bool { return o.d.n.w.now-o.began > 5*time.Second }

func (o syncOrder) begin() {
	switch a := o.a.(type) {
	case failover.WriteSync:
		if rec := o.d.rec; rec.Term != a.Term || rec.Sync.Seq != a.Seq {
			o.done("the synchronous set has changed since", 0)
			return
		}
		o.s.setNames(a.Names, true)
		o.inForce(a.Names, func() { o.done("", 0) })
	case failover.RestoreSync:
		o.s.setNames("", false)
		o.done("", 0)
	case failover.ProveSync:
		o.inForce(a.Names, func() {
			o.x = o.writes()
			if p := o.d.n.w.Defect; p == SendersUnproven || p == DroppedAtOnce {
				o.barrier(a, o.writes())
				return
			}
			o.senders(a)
		})
	}
}

// inForce waits until new sessions and the checkpointer have that value.
func (o syncOrder) inForce(names string, do func()) {
	switch {
	case o.s.names == names && o.s.waits == names && o.s.writes():
		do()
	case o.late():
		o.done("the value is not in force", 0)
	default:
		o.then(20*time.Millisecond, func() { o.inForce(names, do) })
	}
}

// senders waits until every walsender goes by the new value; one that does not
// come to it is ended, unless it is stopped.
func (o syncOrder) senders(a failover.ProveSync) {
	_, members := parse(a.Names)
	late := 0
	for id, x := range o.s.senders {
		if x.sent >= o.x && (!x.member || slices.Contains(members, x.name)) {
			continue
		}
		if late++; o.d.n.w.now-o.began > time.Second && x.frozen <= o.d.n.w.now {
			delete(o.s.senders, id)
		}
	}
	switch {
	case !o.s.writes() || o.late():
		o.done("walsenders may still go by the former value", 0)
	case late > 0:
		o.then(20*time.Millisecond, func() { o.senders(a) })
	default:
		o.barrier(a, o.writes())
	}
}

// writes writes something, so that every member of a set that has grown says soon
// what it has (safety notes, A17), and returns the position after it.
func (o syncOrder) writes() int {
	if o.d.n.w.Defect == SilentGrowth {
		return len(o.s.wal)
	}
	return o.s.commit()
}

// barrier waits until count members have all that was acknowledged until now.
func (o syncOrder) barrier(a failover.ProveSync, at int) {
	_, members := parse(a.Names)
	have := 0
	for _, x := range o.s.senders {
		if slices.Contains(members, x.name) && x.flush >= at {
			have++
		}
	}
	switch {
	case (have >= a.Count || o.d.n.w.Defect == NoBarrier || o.d.n.w.Defect == DroppedAtOnce) && o.s.writes():
		o.done("", at)
	case !o.s.writes() || o.late():
		o.done("too few standbys have what was acknowledged before", 0)
	default:
		o.then(20*time.Millisecond, func() { o.barrier(a, at) })
	}
}
