package sim

import (
	"fmt"
	"slices"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/record"
)

// entry is a record of the write-ahead log. Each is unique, so that two logs
// with the same last entry are the same.
type entry struct {
	timeline cluster.Timeline
	id       int
	writes   int8 // the register that it writes, counted from one; zero: none
}

// server is the model of PostgreSQL. Its log position is the number of entries.
type server struct {
	process  // the postmaster, and all it has started
	n        *node
	ready    bool // takes connections
	standby  bool // in recovery
	signal   bool // standby.signal was there when it was started (A25)
	hung     time.Duration
	orphans  process        // backends that outlived the postmaster (A8)
	receiver process        // the WAL receiver
	source   cluster.NodeID // whom it is connected to, whatever the setting says now
	streamed bool           // a WAL receiver was started since it was started itself
	served   bool           // and has got something
	// receivedAt is when a WAL receiver was started last.
	receivedAt time.Duration
	linked     int                        // the life of its WAL receiver that had a walsender last
	slow       bool                       // the startup process waits: it neither ends the receiver nor starts one (A2)
	promote    cluster.Timeline           // that was ordered; zero: none
	obeys      bool                       // the startup process has read that order: nothing takes it back
	senders    map[cluster.NodeID]*sender // as a primary: its walsenders
	waits      string                     // synchronous_standby_names as the checkpointer knows it: whether commits wait
	pending    []waiting                  // commits that wait for standbys
	unread     socket                     // of the WAL receiver
	stalled    time.Duration              // until then its disk takes nothing

	// On disk.
	wal         []entry
	flushed     int // of wal: what a power failure leaves
	timeline    cluster.Timeline
	switches    []record.Switch
	clean       bool           // shut down in order
	armed       bool           // standby.signal is there
	upstream    cluster.NodeID // primary_conninfo; zero: empty
	held        bool           // primary_conninfo was taken away after the loss of its primary, and was this
	withheld    cluster.NodeID
	gated       bool // the power went before it was armed: the start gate arms it
	torn        bool // a rewind was broken off: it cannot be started
	incarnation string
	names       string // synchronous_standby_names; a new session sees it at once
	namedAt     int    // where the log ended when that was set, and every process was signalled
	managed     bool   // by repmgrd
	called      string // application_name in primary_conninfo

	pulls    func()
	lined    lined // for which lineText was made
	lineText record.Line
}

func (s *server) String() string { return s.n.String() + ".pg" }

// found is the state that the quorum rule begins with.
func (s *server) found(primary bool) {
	s.timeline, s.incarnation, s.armed, s.wal = 1, fmt.Sprintf("d%d", s.n.id), true, []entry{{1, -1, 0}, {1, -2, 0}, {1, -3, 0}}
	s.flushed, s.called, s.pulls = len(s.wal), s.n.String(), s.pull
	if s.n.witness {
		return
	}
	s.start()
	s.ready, s.standby = true, !primary
	if !primary {
		s.upstream = s.n.w.row(s.n.id).Upstream
	}
	s.run()
}

func (s *server) lsn() cluster.LSN { return cluster.LSN(len(s.wal)) }

// line is the history of its WAL. It changes with the timeline alone.
func (s *server) line() record.Line {
	if n := len(s.switches); s.lined != (lined{s.timeline, n}) || s.lineText == "" {
		s.lined, s.lineText = lined{s.timeline, n}, record.LineOf(s.switches, s.timeline)
	}
	return s.lineText
}

type lined struct {
	timeline cluster.Timeline
	switches int
}

// writes reports whether a commit could be acknowledged here now.
func (s *server) writes() bool {
	w := s.n.w
	return s.up && s.ready && !s.standby && s.frozen <= w.now || s.orphans.up && s.orphans.frozen <= w.now
}

// mayWrite reports whether a commit could be acknowledged here later, without anything that
// is yet to be ordered: when it goes on, has started, or is promoted.
func (s *server) mayWrite() bool {
	return s.up && (s.ready && !s.standby || !s.ready && !s.signal || s.promote != 0) || s.orphans.up
}

// run starts what a running server does: its clients write, its receiver streams.
func (s *server) run() {
	w := s.n.w
	if !s.standby {
		w.after(&s.process, w.between(time.Millisecond, 40*time.Millisecond), func() { s.client(&s.process) })
		return
	}
	s.receive()
}

// client commits on and on. What it commits here is acknowledged a little later,
// or when standbys have it.
func (s *server) client(p *process) {
	w := s.n.w
	if w.scripted || p == &s.process && (!s.ready || s.standby) {
		return
	}
	s.cancel()
	if len(s.pending) < clients && s.stalled <= w.now {
		s.write(p, nil)
	}
	w.after(p, w.pace(w.between(10*time.Millisecond, 80*time.Millisecond)), func() { s.client(p) })
}

// write commits. Its client hears a little later that it is done, or when standbys have
// it; told, which may be nil, is called then. That of a server that ends hears nothing.
func (s *server) write(p *process, told func(Answer)) {
	w, c := s.n.w, waiting{at: len(s.wal) + 1, timeline: s.timeline, told: told}
	s.commit()
	switch {
	case s.waits == "":
		w.unwaited(s)
		w.after(p, w.between(0, 3*time.Millisecond), func() { w.acknowledged(s); c.over(Acknowledged) })
	case p == &s.process:
		c.of = s.access(w.ids)
		s.pending = append(s.pending, c) // an orphan waits for nothing: the walsenders ended with the postmaster
	}
}

// lively is for how long clients and receivers are as busy as they can be after
// something has struck or changed hands; then they take four times as long, for what
// they do when nothing happens shows nothing.
const lively = time.Second

func (w *World) pace(d time.Duration) time.Duration {
	if w.now-w.stirred > lively {
		return 4 * d
	}
	return d
}

// cancel ends a wait now and then, more often where all clients wait. Its client is
// told of a commit with a warning, and nothing is promised (A13).
func (s *server) cancel() {
	often := 0.5
	if len(s.pending) == clients {
		often = 10
		if s.n.w.patient {
			return
		}
	}
	if w := s.n.w; len(s.pending) > 0 && w.chance(often) {
		c := s.pending[0]
		s.giveUp(0)
		if w.Defect == CancelCounted {
			w.promised(s, c)
		}
	}
}

// giveUp ends the wait of one commit.
func (s *server) giveUp(i int) {
	c := s.pending[i]
	s.pending = slices.Delete(s.pending, i, i+1)
	c.over(Warned)
}

// commit writes an entry, and returns the position after it.
func (s *server) commit() int {
	s.n.w.ids++
	s.wal = append(s.wal, entry{s.timeline, s.n.w.ids, 0})
	s.flushed = len(s.wal)
	s.feeds()
	return s.flushed
}

// stuck reports whether nothing of the server goes on, or nothing that writes.
func (s *server) stuck() bool { return s.frozen > s.n.w.now || s.stalled > s.n.w.now }

// socket is what a WAL receiver was sent and has not read, with all before it. It is there
// when the receiver goes on, whatever has become of who sent it.
type socket struct {
	life     int // of the receiver
	wal      []entry
	switches []record.Switch
}

// unreads reports whether something waits in the receiver's socket.
func (s *server) unreads() bool {
	return s.unread.life == s.receiver.life && len(s.unread.wal) > len(s.wal)
}

// feeds is what the walsenders do when something was written, and their standbys do not
// read: they send it all the same. To others it is sent when they reply.
func (s *server) feeds() {
	w := s.n.w
	if w.now >= w.stuck {
		return
	}
	for id, x := range s.senders {
		to := &w.nodes[id-1].server
		if to.stuck() && x.frozen <= w.now && to.receiver.up && to.receiver.life == x.life && w.net.open(ofServers, s.n.id, id) {
			x.obey(s.names, w.Defect)
			x.sent, to.unread = len(s.wal), socket{x.life, s.wal, s.switches}
		}
	}
}

// receive streams from the upstream while there is one. It is the startup process that
// starts a WAL receiver.
func (s *server) receive() {
	if s.upstream == 0 || s.slow || !s.up || !s.ready || !s.standby || s.receiver.up {
		return
	}
	s.receiver.start()
	s.streamed, s.receivedAt, s.n.failedRejoin = true, s.n.w.now, 0
	s.source = s.upstream
	s.pull()
}

// point changes primary_conninfo, and has it read. It is the startup process that ends the
// WAL receiver and starts another, between two records: while it waits, the one of before
// lives on (A2).
func (s *server) point(to cluster.NodeID) {
	s.upstream = to
	if !s.slow {
		s.endReceiver()
		s.receive()
	}
}

// streams reports whether a WAL receiver is connected to whom the setting names.
func (s *server) streams() bool {
	return s.receiver.up && s.source == s.upstream && s.linked == s.receiver.life
}

// hold lets the startup process wait, or go on.
func (s *server) hold(on bool) {
	if s.slow = on; !on && s.receiver.up && s.source != s.upstream {
		s.endReceiver()
	}
	if !on {
		s.receive()
		if s.promote != 0 && !s.obeys {
			s.obey()
		}
	}
}

// closed is what a WAL receiver does whose connection the other end has closed: it reads what
// it was sent, and ends. The startup process starts another, a while after it started that one.
func (s *server) closed(life int) {
	w := s.n.w
	switch {
	case !s.receiver.up || s.receiver.life != life:
	case s.stuck() || s.unreads():
		w.after(&s.receiver, 20*time.Millisecond, func() { s.closed(life) })
	default:
		s.endReceiver()
		w.after(&s.process, max(20*time.Millisecond, s.receivedAt+w.retries-w.now), s.receive)
	}
}

// closes closes the connection of a standby's WAL receiver.
func (s *server) closes(to cluster.NodeID, life int) {
	w := s.n.w
	w.net.send(message{t: ofServers, from: s.n.id, to: to, do: func() { w.nodes[to-1].server.closed(life) }})
}

// received is pg_last_wal_receive_lsn(): none until a WAL receiver was started, and from
// then on where that began, which is the start of a segment, until it has been served (A5).
func (s *server) received() (at int, known bool) {
	at = len(s.wal)
	if !s.served {
		at -= at % segment
	}
	return at, s.streamed
}

// segment is how many entries a segment of WAL has.
const segment = 16

func (s *server) endReceiver() {
	if s.receiver.up {
		s.receiver.end()
		s.flushed = len(s.wal) // on its way out it flushes what it has written (A3)
		s.hangUp()
	}
}

// pull tells the upstream what is on disk here, and asks for more. The answer counts
// only for the receiver that asked.
func (s *server) pull() {
	w, up, life := s.n.w, s.source, s.receiver.life
	if s.up && !s.stuck() {
		if s.unreads() { // a little at a time
			s.take(s.unread.wal[len(s.wal):min(len(s.unread.wal), len(s.wal)+1+w.rng.IntN(5))], s.unread.switches)
		}
		if s.flushed < len(s.wal) && w.chance(70) {
			s.flushed = len(s.wal)
		}
		w.net.send(message{t: ofServers, from: s.n.id, to: up, reply: reply{life, s.called, s.flushed}})
	}
	w.after(&s.receiver, w.pace(w.between(10*time.Millisecond, 60*time.Millisecond)), s.pulls)
}

// sends is what the walsender for a standby does when that one has replied.
func (s *server) sends(to *server, r reply) {
	if !s.hears(to.n.id, r) {
		return
	}
	more, err := s.serve(to)
	if err != nil {
		delete(s.senders, to.n.id)
		s.closes(to.n.id, r.life)
		return
	}
	at := len(to.wal)
	to.served = true
	if x := s.senders[to.n.id]; x != nil {
		x.sent = max(x.sent, at+len(more))
	}
	if len(more) == 0 {
		return
	}
	sent := socket{r.life, s.wal[:at+len(more)], s.switches} // a promotion makes a new list of them
	s.n.w.net.send(message{t: ofServers, from: s.n.id, to: to.n.id, do: func() {
		switch {
		case !to.receiver.up || to.receiver.life != r.life || !to.up:
		case to.unreads() && len(to.unread.wal) >= len(sent.wal):
		case to.stuck() || to.unreads():
			to.unread = sent
		case at == len(to.wal):
			to.take(more, sent.switches)
		}
	}})
}

// serve is what a walsender does: it compares timelines as PostgreSQL does, which
// sees no difference between two promotions to the same number (A15).
func (s *server) serve(to *server) ([]entry, error) {
	switch {
	case !s.answers():
		return nil, fmt.Errorf("no answer")
	case len(to.wal) > len(s.wal):
		return nil, fmt.Errorf("ahead of the upstream")
	}
	if to.timeline != s.timeline {
		if at, ok := s.left(to.timeline); !ok || at < to.lsn() {
			return nil, fmt.Errorf("the histories differ")
		}
	}
	if s.wal[len(to.wal)-1] != to.wal[len(to.wal)-1] {
		if s.n.w.Visibility {
			return nil, fmt.Errorf("the histories differ, on the same timeline")
		}
		s.n.w.fail("silent corruption: node %d streams from node %d, which has another history of timeline %d", to.n.id, s.n.id, to.timeline)
	}
	return s.wal[len(to.wal):min(len(s.wal), len(to.wal)+200)], nil
}

// left is where this server's history left a timeline.
func (s *server) left(timeline cluster.Timeline) (cluster.LSN, bool) {
	switches, _, _ := s.line().Parse()
	for _, x := range switches {
		if x.Parent == timeline {
			return x.LSN, true
		}
	}
	return 0, false
}

func (s *server) take(more []entry, switches []record.Switch) {
	s.wal = append(s.wal, more...)
	if len(more) > 0 {
		s.timeline, s.switches = more[len(more)-1].timeline, switches
	}
	if s.n.w.chance(70) {
		s.flushed = len(s.wal)
	}
}

// boot starts the server; it is ready after a while, and read-only if it is armed.
// While an orphan is attached to the shared memory, none starts (A9).
func (s *server) boot() {
	w := s.n.w
	if s.torn && w.Defect == TornStarted && !s.up {
		w.fail("L3: the server of node %d is started in the middle of a rewind", s.n.id)
	}
	if s.up || s.torn || s.n.off || s.n.witness || s.orphans.up {
		return
	}
	s.start()
	s.ready, s.streamed, s.signal, s.served, s.promote, s.obeys, s.hung, s.slow, s.waits = false, false, s.armed, false, 0, false, 0, false, s.names
	w.after(&s.process, w.between(50*time.Millisecond, 4*time.Second), s.recovered)
}

func (s *server) recovered() {
	w := s.n.w
	s.ready, s.standby, s.clean, s.n.disk.ended = true, s.signal, false, false
	w.log(s, "up, in recovery: %v, timeline %d, %s", s.standby, s.timeline, s.lsn())
	s.run()
	s.n.daemon.kick()
}

// kill ends the postmaster. A busy backend may go on for seconds (A8).
func (s *server) kill(orphans bool) {
	w := s.n.w
	if !s.up {
		return
	}
	w.log(s, "the postmaster is gone, timeline %d, %s, orphans: %v", s.timeline, s.lsn(), orphans && s.ready && !s.standby)
	if orphans && s.ready && !s.standby && !s.orphans.up {
		s.orphans.start()
		w.after(&s.orphans, 0, func() { s.client(&s.orphans) })
		w.after(&s.orphans, w.between(0, 6*time.Second), s.orphans.end)
	}
	s.endReceiver()
	for _, n := range w.nodes { // in the order of their ids
		if x := s.senders[n.id]; x != nil {
			s.closes(n.id, x.life)
		}
	}
	s.end()
	again := w.respawns && (!w.gentle || s.standby) // where nothing but crashes goes wrong no primary is: two would take writes, by no mistake of a daemon's
	s.ready, s.clean, s.promote, s.obeys, s.senders, s.pending = false, false, 0, false, nil, nil
	s.n.daemon.kick()
	if again {
		w.after(nil, w.between(100*time.Millisecond, 3*time.Second), s.respawn)
	}
}

// respawn starts a server that has ended by itself.
func (s *server) respawn() {
	if !s.up && !s.clean && !s.n.off {
		s.n.startByHand()
	}
}

// forks reports whether one of the orphans has forked while they were looked for,
// and lives on in its child: who looks once does not find that (safety notes, B20).
func (s *server) forks() bool { return s.n.w.chance(20) }

// sweep ends every process of the server.
func (s *server) sweep() {
	s.kill(false)
	if s.orphans.up {
		s.orphans.end()
	}
}

// restart is what the postmaster does after the death of a backend: standby.signal
// is read again (A25).
func (s *server) restart() {
	if !s.up || !s.ready {
		return
	}
	s.sweep()
	s.boot()
}

// stop is a stop in order. The last record of a primary is its shutdown checkpoint: a
// standby that does not get that can be promoted before it, and then the two have parted (A23).
func (s *server) stop() {
	if !s.up {
		return
	}
	if s.answers() && !s.standby {
		s.commit()
		s.drain()
	}
	s.sweep()
	s.clean = true
}

// drain gives those who stream from the server the rest of its log. Most of them get it: a
// receiver may end before.
func (s *server) drain() {
	w := s.n.w
	for _, n := range w.nodes {
		to := &n.server
		if to == s || !to.receiver.up || to.source != s.n.id || !w.net.open(ofServers, s.n.id, n.id) || !w.chance(80) {
			continue
		}
		if more, err := s.serve(to); err == nil && to.answers() {
			to.take(more, s.switches)
			to.flushed = len(to.wal)
		}
	}
}

// order asks a standby to promote itself; the order outlives who gave it (A19).
func (s *server) order(to cluster.Timeline) {
	w := s.n.w
	if !s.up || !s.ready || !s.standby || s.promote != 0 {
		return
	}
	s.promote = to
	if !w.Visibility || !s.slow { // else the startup process has other things to do
		s.obey()
	}
}

// takeBack withdraws an order that nobody has read yet, and reports whether none is in force.
func (s *server) takeBack() bool {
	if !s.obeys {
		s.promote = 0
	}
	return s.promote == 0
}

// obey carries out the order to promote.
func (s *server) obey() {
	w, to := s.n.w, s.promote
	s.obeys = true
	takes := w.between(40*time.Millisecond, 500*time.Millisecond)
	switch { // it replays all that there is first (A19), which has no bound
	case w.Visibility && w.chance(5):
		takes = min(2*w.promotes, 40*time.Second)
	case w.chance(3):
		takes = w.between(time.Second, 30*time.Second)
	case w.chance(2):
		takes = promotedWithin + w.between(-500*time.Millisecond, 3*time.Second)
	}
	if w.Visibility { // standby.signal goes first: from then on any start makes it a primary
		w.after(&s.process, takes-min(takes/2, w.between(0, 2*time.Second)), func() { s.armed = false })
	}
	w.after(&s.process, takes, func() {
		s.endReceiver()
		w.promoted(s, to)
		s.switches = append(slices.Clone(s.switches), record.Switch{Parent: s.timeline, LSN: s.lsn(), Child: to})
		s.timeline, s.standby, s.promote, s.obeys = to, false, 0, false
		s.armed = false // PostgreSQL removes standby.signal
		s.n.failedRejoin = 0
		s.commit() // the end of recovery
		w.log(s, "takes writes on timeline %d", to)
		s.run()
		s.n.daemon.kick()
	})
}

// local is what a look at the server finds.
func (s *server) local() failover.Local {
	w := s.n.w
	l := failover.Local{At: s.n.clock(), SystemID: "s", Position: failover.Position{Timeline: s.timeline, LSN: s.lsn()}, Replayed: s.lsn(),
		Line: s.line(), Incarnation: s.incarnation, Armed: s.armed && s.upstream == 0, Sealed: s.upstream == 0, Receiving: s.receiver.up, Ended: s.n.disk.ended,
		StandbyName: s.called, SyncManaged: s.managed, Torn: s.torn, Held: s.held}
	switch {
	case !s.up && s.clean:
		l.State = failover.ServerStopped
	case !s.up && s.n.disk.ended:
		l.State = failover.ServerFenced
	case !s.up:
		l.State = failover.ServerCrashed
	case s.frozen > w.now || s.hung > w.now:
		l.State = failover.ServerUnreachable
	case !s.ready:
		l.State = failover.ServerStarting
	case s.standby:
		l.State, l.Role = failover.ServerRunning, cluster.Standby
	default:
		l.State, l.Role = failover.ServerRunning, cluster.Primary
	}
	return l
}
