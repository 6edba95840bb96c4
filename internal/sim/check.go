package sim

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/quorum"
	"repmgr/internal/record"
)

// checker knows what nobody in the cluster knows: the record as it was committed
// first anywhere, and what was acknowledged. It checks the promises of the design.
type checker struct {
	rec       *record.Record
	before    record.Record // as it was before the last entry
	index     uint64
	log       map[uint64]decoded
	grants    map[cluster.Timeline]cluster.NodeID // to whom each number was granted
	used      map[cluster.Timeline]cluster.NodeID // and who was promoted to it
	grantedAt time.Duration
	renewedAt time.Duration // when the lease began to count anew last: by a renewal, a claim, a regrant
	waits     unwoken
	stamped   time.Duration                // the same by the wall clock of its holder
	promises  map[cluster.Timeline]promise // the last commit of each timeline that standbys acknowledged
	ackAt     time.Duration                // of any
	second    time.Duration                // in which so many entries were accepted
	entries   int
}

// endpoints checks that no two nodes are sent the clients that write: by /primary, while every
// clock keeps its bounds.
func (w *World) endpoints() {
	first := cluster.NodeID(0)
	for _, n := range w.nodes {
		if w.wild || !n.daemon.isPrimary() {
			continue
		}
		if first != 0 {
			w.fail("E1: clients that write are sent to node %d and to node %d", first, n.id)
		}
		first = n.id
	}
}

// isPrimary is what the daemon's /primary answers. One that stands still does not.
func (d *daemon) isPrimary() bool {
	l := d.view.Local
	switch {
	case !d.up || !d.ready || d.frozen > d.n.w.now || d.n.witness:
		return false
	case d.n.w.Defect == PrimaryByRecord:
		return d.rec != nil && d.rec.Holds(d.n.id, l.Incarnation)
	}
	return l.State == failover.ServerRunning && l.Role == cluster.Primary && failover.Unready(d.view, d.n.clock()) == ""
}

// promise is a commit that was acknowledged because standbys have it: every later
// primary must have it in that place.
type promise struct {
	at int
	entry
}

func newChecker(rec *record.Record) checker {
	return checker{rec: rec, log: map[uint64]decoded{}, grants: map[cluster.Timeline]cluster.NodeID{}, used: map[cluster.Timeline]cluster.NodeID{}, promises: map[cluster.Timeline]promise{}}
}

func (c *checker) begin(w *World, text []byte) {
	*c = newChecker(w.recordOf(text))
	c.index, c.grants[1], c.used[1] = 1, 1, 1
}

// committed sees every entry that a node applies. The first to apply one is the
// first moment at which anybody may act on it.
func (w *World) committed(n *node, e quorum.Committed) decoded {
	c := &w.check
	if old, known := c.log[e.Index]; known {
		data := e.Data
		if e.Change != nil {
			data = decode(e).data
		}
		if !bytes.Equal(old.data, data) {
			w.fail("S3: node %d applies another entry at index %d than a node before it: %s, not %s", n.id, e.Index, data, old.data)
		}
		return old
	}
	if e.Index < c.index {
		w.fail("S3: node %d applies index %d, which was nothing to others", n.id, e.Index)
	}
	entry := decode(e)
	c.log[e.Index], c.index = entry, e.Index
	c.before = *c.rec // no change writes into a list
	before := &c.before
	why := entry.applyTo(c.rec, e, w.Defect)
	if entry.Kind != "renew" && e.Change == nil {
		w.log(name("record"), "%s of node %d: %s; term %d, lease %s of node %d, vacancy %d", entry.Kind, entry.Node, orYes(why), c.rec.Term, c.rec.Lease.State, c.rec.Lease.Holder, c.rec.Lease.Vacancy)
	}
	w.counts.Changes++
	w.entered(entry.Kind, why)
	if why == "" && e.Change == nil {
		w.accepted(before, entry.Kind, entry.change)
	}
	return entry
}

func orYes(why string) string {
	if why == "" {
		return "accepted"
	}
	return "refused: " + why
}

// accepted checks a change of the record.
func (w *World) accepted(before *record.Record, kind string, change record.Change) {
	c := &w.check
	w.lawful(before, change)
	if kind != "renew" && kind != "describe" {
		w.moment(kind)
	}
	w.churns(kind)
	if c.renewedAt == w.now {
		c.stamped = w.nodes[c.rec.Lease.Holder-1].shows()
	}
	if c.rec.Term < before.Term || c.rec.TopTimeline < before.TopTimeline {
		w.fail("S3: term %d after %d, timeline %d after %d", c.rec.Term, before.Term, c.rec.TopTimeline, before.TopTimeline)
	}
	switch kind {
	case "close", "succeed":
		w.counts.Grants++
		if c.rec.Lease.Holder != before.Lease.Holder {
			w.counts.Failovers++
		}
		w.granted(before)
	case "regrant":
		w.counts.Regrants++
		w.granted(before)
	case "expire":
		w.counts.Expiries++
		w.tameFails("the lease of node %d expired", before.Lease.Holder)
	case "release":
		w.tameFails("node %d released its lease", before.Lease.Holder)
		w.counts.Releases++
		if s := &w.nodes[before.Lease.Holder-1].server; s.writes() {
			w.fail("B20: node %d released its lease, and its server still takes writes", before.Lease.Holder)
		}
	case "void":
		w.counts.Voids++
	case "renew":
		if before.Lease.State == record.Vacant {
			w.counts.Reinstated++
		}
	}
}

// churns checks that nobody changes the record over and over again. A failover takes a bid of every
// node, and another can follow at once.
func (w *World) churns(kind string) {
	if kind == "pause" {
		return // operators who got no answer ask again, and all of that may be accepted at once
	}
	if second := w.now.Truncate(time.Second); second != w.check.second {
		w.check.second, w.check.entries = second, 0
	}
	if w.check.entries++; w.check.entries > max(50, 10*len(w.nodes)) {
		w.fail("the record was changed %d times within a second, at last by %s", w.check.entries, kind)
	}
}

// lawful checks that an entry was one that the protocol allows then (safety notes,
// section C), whatever a record makes of it.
func (w *World) lawful(before *record.Record, change record.Change) {
	c, l := &w.check, before.Lease
	switch e := change.(type) {
	case record.Renew:
		if l.State == record.Granted || l.State == record.Vacant && !l.Expired {
			w.fail("B3: a renewal of node %d revives a lease that is %s: %s", e.Node, l.State, l.Why)
		}
		if c.rec.Lease.Seq != l.Seq { // one that is tried again counts from its first try
			c.renewedAt = w.now
		}
	case record.Claim:
		if l.State != record.Granted {
			w.fail("B2: node %d claims a lease that is %s", e.Node, l.State)
		}
		c.renewedAt = w.now
	case record.Regrant, record.Succeed:
		c.renewedAt = w.now
	case record.Expire:
		if ago := w.now - c.renewedAt; !w.wild && ago < l.TTL*10/11 {
			w.fail("B4: the lease of node %d ends %s after it was renewed, and its time to live is %s", l.Holder, ago, l.TTL)
		}
	case record.Bid:
		if old, again := before.BidOf(e.Node); e.Vacancy != l.Vacancy || again && old.Declined == "" {
			w.fail("B11: in vacancy %d counts what node %d bid in vacancy %d, after it had bid %s", l.Vacancy, e.Node, e.Vacancy, old.LSN)
		}
	}
}

// granted checks a grant: of a number never granted before, and from bids that
// are final.
func (w *World) granted(before *record.Record) {
	c := &w.check
	l := c.rec.Lease
	if who, again := c.grants[l.Timeline]; again {
		w.fail("S3: timeline %d was granted to node %d before", l.Timeline, who)
	}
	c.grants[l.Timeline], c.grantedAt = l.Holder, w.now
	if before.Lease.State != record.Vacant {
		return
	}
	w.keeps(&w.nodes[l.Holder-1].server, "granted the lease")
	for _, b := range before.Bids {
		s := &w.nodes[b.Node-1].server
		if b.Declined != "" || s.incarnation != b.Incarnation || (w.Defect == DivergedCounts || w.Defect == UnboundCounts) {
			continue
		}
		if s.lsn() != b.LSN || s.timeline != b.Timeline {
			w.fail("S2: node %d bid timeline %d, %s in vacancy %d, and is at timeline %d, %s when the bidding is closed", b.Node, b.Timeline, b.LSN, b.Vacancy, s.timeline, s.lsn())
		}
	}
}

// acknowledged is called when a server has told a client that its commit is safe.
func (w *World) acknowledged(s *server) {
	w.counts.Commits++
	w.check.ackAt = w.now
	if w.Visibility {
		w.alone(s)
		return
	}
	l := w.check.rec.Lease
	if w.wild {
		return // then the lease keeps nobody from writing
	}
	if l.State == record.Granted || l.Taken() && (l.Holder != s.n.id || s.timeline != l.Timeline) {
		w.fail("S1: node %d acknowledged a commit on timeline %d, %s after timeline %d was granted to node %d in term %d",
			s.n.id, s.timeline, w.now-w.check.grantedAt, l.Timeline, l.Holder, w.check.rec.Term)
	}
	w.oneWriter(s)
}

// unwaited checks a commit for which no standby is waited for: not while the record
// says that each is (safety notes, B17).
func (w *World) unwaited(s *server) {
	if r := w.check.rec; r.Sync.Waits() && r.Lease.Taken() && r.Lease.Holder == s.n.id && r.Lease.Timeline == s.timeline {
		w.fail("S2: node %d acknowledges a commit on timeline %d without waiting, and by the record commits wait for %q", s.n.id, s.timeline, r.Sync.Sets)
	}
}

// tameFails is called when something ends a primary that nothing is wrong with, if
// that is so in this run (L2), and the group has had a leader: daemons that were all
// started at once have to elect one first, which may take as long as a lease.
func (w *World) tameFails(format string, args ...any) {
	if w.tame && w.healed == 0 && w.check.index > 1 {
		w.fail("L2: "+format+", and nothing was wrong but disks, clocks and standbys", args...)
	}
}

// promised is called when a commit is acknowledged because standbys have it.
func (w *World) promised(s *server, c waiting) {
	w.counts.Promised++
	if c.of != nil {
		c.of.back = w.now
	}
	if old := w.check.promises[c.timeline]; c.at > old.at {
		w.check.promises[c.timeline] = promise{c.at, s.wal[c.at-1]}
	}
	w.acknowledged(s)
	if l := w.check.rec.Lease; l.State == record.Granted || l.Taken() {
		w.keeps(&w.nodes[l.Holder-1].server, "the one that was granted the lease last")
	}
}

// unwoken is since when the oldest commit waits for what its standbys have.
type unwoken struct {
	timeline cluster.Timeline
	at       int
	since    time.Duration
}

// woken checks, when nothing is wrong any more, that a commit does not wait for the
// next status reply of a standby that was not waited for before (safety notes, A17).
func (w *World) woken() {
	l, u := w.check.rec.Lease, &w.check.waits
	s := &w.nodes[l.Holder-1].server
	if !l.Taken() || !s.writes() || len(s.pending) == 0 {
		*u = unwoken{}
		return
	}
	k, members := parse(s.waits)
	oldest, have := s.pending[0], 0
	for _, n := range w.nodes {
		o := &n.server
		if o.receiver.up && o.source == l.Holder && o.flushed >= oldest.at && o.timeline == s.timeline && slices.Contains(members, o.called) {
			have++
		}
	}
	if have < k || u.at != oldest.at || u.timeline != oldest.timeline {
		*u = unwoken{oldest.timeline, oldest.at, w.now}
	}
	if waits := w.now - u.since; waits > 8*time.Second {
		w.fail("A17: a commit of node %d at %s waits for %s, and %d standbys of %q have it", l.Holder, cluster.LSN(oldest.at), waits, have, s.waits)
	}
}

// bids checks that whoever runs a standby is sealed a while after it has heard of a vacancy,
// where nothing of its own stands still: the others may have to wait for what it has (L1).
func (w *World) bids() {
	for _, n := range w.nodes {
		d, s := &n.daemon, &n.server
		waits := !w.wild && !n.witness && d.up && d.ready && d.frozen <= w.now && n.disk.stalled <= w.now && s.up && s.ready && s.standby && !s.stuck() && s.hung <= w.now &&
			d.rec != nil && d.rec.Lease.State == record.Vacant && !d.rec.Pause.On && !n.unregistered
		v := unsealed{d.life, 0, w.now}
		if waits {
			_, bids := d.rec.BidOf(n.id) // what was offered is taken back first
			v.vacancy, waits = d.rec.Lease.Vacancy, !bids
		}
		if old := n.unsealed; waits && old.life == v.life && old.vacancy == v.vacancy && (s.upstream != 0 || s.receiver.up) {
			v.since = old.since
		}
		if n.unsealed = v; waits && w.now-v.since > sealedWithin {
			w.fail("L1: node %d knows of vacancy %d for %s, and its standby receives WAL: %s", n.id, v.vacancy, w.now-v.since, d.rule)
		}
	}
}

// sealedWithin is more than what a daemon may be busy with takes.
const sealedWithin = 6 * time.Second

// unsealed is since when a life of a daemon knows of a vacancy and its standby is not sealed.
type unsealed struct {
	life    uint64
	vacancy uint64
	since   time.Duration
}

// reads checks that a holder's server that was ended since the lease was not sure any more is
// there again, read-only, a while later: to read takes no majority (L3).
func (w *World) reads() {
	for _, n := range w.nodes {
		s := &n.server
		ended := n.holds() && !s.up && !s.torn && !s.orphans.up && n.disk.ended && !n.daemon.rec.Pause.On
		if d := n.unread.lasts(n, ended); d > readWithin {
			w.fail("L3: the server of node %d was ended %s ago, its daemon knows of no other holder, and nobody can read: %s", n.id, d, n.daemon.rule)
		}
	}
}

// rests checks that the primary's data directory is not armed for long while the cluster is
// paused and its promotion is recorded: the server that an operator restarts then would come up read-only, and would need
// a new timeline (L4).
func (w *World) rests() {
	for _, n := range w.nodes {
		s := &n.server
		costly := n.holds() && s.writes() && s.answers() && s.hung <= w.now && s.armed && n.daemon.rec.Pause.On && n.daemon.rec.Lease.State == record.Indefinite && n.daemon.rec.Lease.Promoted
		if d := n.costly.lasts(n, costly); d > restsWithin {
			w.fail("L4: the cluster is paused, and the primary's directory on node %d is armed for %s: %s", n.id, d, n.daemon.rule)
		}
	}
}

// readWithin is more than the lease that may still be asked for and the tries of a start
// take, and restsWithin than what a daemon may be busy with.
const (
	readWithin  = 15 * time.Second
	restsWithin = 6 * time.Second
)

// holds reports whether a daemon that works takes its node for the lease's holder, and has not given it back.
func (n *node) holds() bool {
	d, now := &n.daemon, n.w.now
	return !n.w.wild && !n.witness && !n.off && !n.unregistered && d.up && d.ready && d.frozen <= now && n.guard.up && n.disk.stalled <= now && n.server.stalled <= now &&
		d.rec != nil && d.rec.Holds(n.id, n.server.incarnation) && !d.view.Tenure.Given
}

// state is since when something is so in a life of a daemon.
type state struct {
	life  uint64
	since time.Duration
}

// lasts notes whether it is so now, and returns for how long.
func (t *state) lasts(n *node, now bool) time.Duration {
	if !now || t.life != n.daemon.life {
		*t = state{n.daemon.life, n.w.now}
	}
	return n.w.now - t.since
}

// keeps checks that a server that is or becomes the primary has every commit
// that was promised.
func (w *World) keeps(s *server, when string) {
	lost := promise{}
	for _, p := range w.check.promises { // the oldest of those that are missing: a map has no order
		if (len(s.wal) < p.at || s.wal[p.at-1] != p.entry) && (lost.at == 0 || p.timeline < lost.timeline) {
			lost = p
		}
	}
	if lost.at > 0 {
		w.fail("S2: node %d is %s without a commit of timeline %d at %s that standbys acknowledged; it is at timeline %d, %s", s.n.id, when, lost.timeline, cluster.LSN(lost.at), s.timeline, s.lsn())
	}
}

func (w *World) oneWriter(s *server) {
	if w.wild {
		return
	}
	for _, n := range w.nodes {
		if o := &n.server; o != s && o.writes() {
			w.fail("two servers take writes: node %d on timeline %d and node %d on timeline %d", s.n.id, s.timeline, n.id, o.timeline)
		}
	}
}

// promoted is called at the moment at which a server begins a timeline.
func (w *World) promoted(s *server, to cluster.Timeline) {
	c := &w.check
	if w.Visibility {
		w.seenPromoted(s)
		return
	}
	w.counts.Promotions++
	w.moment("promotion")
	if who, again := c.used[to]; again {
		w.fail("S3: node %d is promoted to timeline %d, as node %d was", s.n.id, to, who)
	}
	if c.used[to] = s.n.id; c.grants[to] != s.n.id {
		w.fail("S3: node %d is promoted to timeline %d, which was granted to node %d", s.n.id, to, c.grants[to])
	}
	if l := c.rec.Lease; !w.wild || l.Holder == s.n.id && l.Timeline == to { // else it acknowledges nothing for which standbys are waited
		w.keeps(s, "promoted")
	}
	w.oneWriter(s)
}

// unwhole says why the cluster is not whole: a primary that holds the lease and
// takes writes, and every other node following it. Empty: it is.
func (w *World) unwhole() string {
	r := w.check.rec
	if w.Visibility {
		return w.unsettled()
	}
	if w.wild {
		return "" // how long anything takes is anybody's guess
	}
	if w.hopeless() {
		return ""
	}
	if !r.Lease.Taken() || !r.Lease.Promoted {
		return fmt.Sprintf("the lease is %s of node %d in term %d (%s)", r.Lease.State, r.Lease.Holder, r.Term, r.Verdict().Why)
	}
	p := &w.nodes[r.Lease.Holder-1].server
	if !p.writes() || p.timeline != r.Lease.Timeline || !p.armed {
		return fmt.Sprintf("node %d holds the lease: writes %v, timeline %d, armed %v", p.n.id, p.writes(), p.timeline, p.armed)
	}
	if w.now > w.check.ackAt+2*time.Second {
		return fmt.Sprintf("node %d acknowledges nothing: it waits by %q, the record has %q", p.n.id, p.waits, r.Sync.Sets)
	}
	if newest := r.Sync.Newest(); len(r.Sync.Sets) > 1 && (newest != "" || r.Sync.Mode == record.SyncOff) {
		return fmt.Sprintf("what a former synchronous set acknowledged still counts: the record has %q", r.Sync.Sets)
	}
	if w.leadsAlone(p.n) {
		return fmt.Sprintf("node %d leads the group and is the primary, and another could lead", p.n.id)
	}
	for _, n := range w.nodes {
		s := &n.server
		if m, _ := r.Member(n.id); !n.dead && (m.Priority != n.priority || m.Level != record.Level && w.all() || m.Location != n.location()) {
			return fmt.Sprintf("node %d has priority %d and is in %s, and the record has %+v", n.id, n.priority, n.location(), m)
		}
		if m, member := r.Member(n.id); !n.dead && (!member || m.RaftID != n.raftID || !m.Voter && r.Voters() < min(len(w.nodes), failover.MaximumVoters)) {
			return fmt.Sprintf("node %d is not in the group as it should be: %+v", n.id, m)
		}
		if s == p || n.witness || n.dead {
			continue
		}
		if why := w.astray(s, p); why != "" {
			return why
		}
	}
	return ""
}

// astray says why a standby does not follow the primary as it should; empty: it does.
func (w *World) astray(s, p *server) string {
	switch {
	case s.upstream != p.n.id && !w.cascades:
		return fmt.Sprintf("node %d follows node %d, and nobody wanted it behind another than node %d", s.n.id, s.upstream, p.n.id)
	case !s.up || !s.ready || !s.receiver.up || s.timeline != p.timeline || len(p.wal)-len(s.wal) > 50:
		return fmt.Sprintf("node %d does not follow node %d: up %v, receives from %d, timeline %d of %d, %s of %s", s.n.id, p.n.id, s.up, s.upstream, s.timeline, p.timeline, s.lsn(), p.lsn())
	}
	return ""
}

// leadsAlone reports whether a holder leads the group, and another voter that is there could:
// what ends the primary's host would end both, and cost an election more.
func (w *World) leadsAlone(holder *node) bool {
	another := slices.ContainsFunc(w.check.rec.Members, func(m record.Member) bool {
		return m.Voter && m.Node != holder.id && !w.nodes[m.Node-1].dead
	})
	return another && holder.daemon.up && holder.daemon.view.Group.Leads
}

// all reports whether every node is there: while one is silent, no new level of programs is
// announced, since that one may have become older.
func (w *World) all() bool {
	return !slices.ContainsFunc(w.nodes, func(n *node) bool { return n.dead })
}

// exam lets a cluster that is whole again lose its primary once more, in a quarter of the runs:
// what the record has kept of the bad days, or a daemon has, may be in the way then.
func (w *World) exam() (takes bool) {
	w.by(w.stream("exam"), func() {
		l := w.check.rec.Lease
		if takes = !w.wild && l.Taken() && w.chance(25); !takes {
			return
		}
		n := w.nodes[l.Holder-1]
		w.log(n, "EXAM: whole again, and the primary goes once more")
		if w.chance(50) {
			n.server.kill(w.chance(50))
			return
		}
		n.powerOff()
		w.after(nil, w.between(2*time.Second, 20*time.Second), n.powerOn)
	})
	return takes
}

// hopeless reports whether every node that may be promoted has offered a history
// that is not the cluster's, or lacks what was acknowledged, or is one whose rewind was
// broken off, or one that may not has what none of them has: an operator has to choose, by a priority.
func (w *World) hopeless() bool {
	r := w.check.rec
	if r.Lease.State != record.Vacant {
		return false
	}
	if strings.Contains(r.Verdict().Why, "may not be promoted and has more than") {
		return true
	}
	useless := map[cluster.NodeID]bool{}
	for _, b := range r.Verdict().Bids {
		useless[b.Node] = strings.HasPrefix(b.Verdict, "diverged") || strings.HasPrefix(b.Verdict, "lacks what was acknowledged")
	}
	for _, n := range w.nodes {
		m, _ := r.Member(n.id)
		torn := n.server.torn && m.Barred != "" // and the record says so
		if !n.witness && !n.dead && n.priority > 0 && !useless[n.id] && !torn {
			return false
		}
	}
	return true
}

func (w *World) allRules() (text string) {
	for _, n := range w.nodes {
		text += fmt.Sprintf("; n%d: %s", n.id, n.daemon.rule)
	}
	return text
}
