package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// Servers are PostgreSQL servers as the simulator models them, and nobody who watches over
// them: a script that is played on these and on real servers compares the model with the
// truth (internal/lab/truth). Nothing goes wrong with them but what the script does. Node 1
// is the primary, the others are standbys that stream from it.
//
// Every method lets time go by until what it does is done. One that waits for what does
// not come in a minute of virtual time says so by its answer.
type Servers struct {
	w    *World
	rows map[string]*row
}

// row is a commit of a client.
type row struct {
	on     *server
	of     *process // that it was connected to, and which life of that
	life   int
	begun  bool
	entry  int
	answer Answer // empty: none yet
}

const (
	patience = time.Minute      // for what should come
	aMoment  = 2 * time.Second  // for what should not
	stopped  = 10 * time.Minute // for what stands still: longer than a script takes
)

// NewServers starts so many servers. What the model leaves to chance depends on the seed.
func NewServers(seed uint64, count int) *Servers {
	w := &World{Options: Options{Seed: seed, Nodes: count}, cover: newCoverage(), moments: map[string]int{}, scripted: true, wild: true, healed: 1, retries: 5 * time.Second}
	w.rng = w.stream("world")
	w.net.build(w, count)
	w.check = newChecker(&record.Record{})
	for id := cluster.NodeID(1); int(id) <= count; id++ {
		n := w.machine(id)
		n.daemon.n, n.guard.n, n.server.n = n, n, n
		w.nodes = append(w.nodes, n)
		w.registry = append(w.registry, cluster.Node{ID: id, Name: n.String(), Upstream: min(1, id-1)})
	}
	w.startServers()
	return &Servers{w: w, rows: map[string]*row{}}
}

// startServers starts node 1's as a primary and the others, which have a standby.signal, as standbys.
func (w *World) startServers() {
	for _, n := range w.nodes {
		n.server.found(n.id == 1)
		n.server.armed = n.id != 1
	}
}

func (x *Servers) server(n int) *server { return &x.w.nodes[n-1].server }

// until lets events happen until cond holds, for so long at most, and says whether it does.
func (x *Servers) until(limit time.Duration, cond func() bool) bool {
	end := x.w.now + limit
	x.w.after(nil, limit, func() {})
	for !cond() && x.w.now < end {
		x.w.step()
	}
	return cond()
}

// State is what a new session finds: that the server takes writes, is in recovery, is down,
// or does not answer.
func (x *Servers) State(n int) string {
	s := x.server(n)
	switch {
	case !s.up:
		return "down"
	case !s.answers() || s.hung > x.w.now:
		return "no answer"
	case s.standby:
		return "in recovery"
	}
	return "takes writes"
}

// Start starts a server as it is, and returns its State, or "refused".
func (x *Servers) Start(n int) string {
	s := x.server(n)
	if s.boot(); !s.up {
		return "refused"
	}
	x.until(patience, func() bool { return s.ready })
	return x.State(n)
}

// Stop stops a server in order, which ends every session.
func (x *Servers) Stop(n int) { x.server(n).stop() }

// Kill ends every process of a server at once, as an immediate stop does.
func (x *Servers) Kill(n int) { x.server(n).sweep() }

// KillPostmaster ends the first process of a server alone; busy: one of its backends does
// not sleep, and so does not see that.
func (x *Servers) KillPostmaster(n int, busy bool) { x.server(n).kill(busy) }

// KillBackend ends one backend, and returns the server's State when it has started anew.
func (x *Servers) KillBackend(n int) string {
	s := x.server(n)
	s.restart()
	x.until(patience, func() bool { return s.ready })
	return x.State(n)
}

// Freeze stops all of a server.
func (x *Servers) Freeze(n int) { x.w.freeze(&x.server(n).process, stopped) }

// Thaw lets it go on.
func (x *Servers) Thaw(n int) {
	s := x.server(n)
	x.until(stopped, func() bool { return s.frozen <= x.w.now })
}

// Hang stops the postmaster alone, or lets it go on.
func (x *Servers) Hang(n int, on bool) {
	s := x.server(n)
	if s.hung = 0; on {
		s.hung = x.w.now + stopped
	}
}

// Arm writes standby.signal and an empty primary_conninfo, whatever the server does.
func (x *Servers) Arm(n int) {
	s := x.server(n)
	s.armed, s.upstream = true, 0
}

// Point sets primary_conninfo to a node's, or to nothing, which is 0, and has it read.
func (x *Servers) Point(n, upstream int) { x.server(n).point(cluster.NodeID(upstream)) }

// EndReceiver sends SIGTERM to the WAL receiver, if there is one.
func (x *Servers) EndReceiver(n int) { x.server(n).endReceiver() }

// HoldReplay lets the startup process of a standby wait, or go on.
func (x *Servers) HoldReplay(n int, on bool) { x.server(n).hold(on) }

// Receiver says whether a WAL receiver is "there" or "gone", at once or, if it is to go,
// when it has.
func (x *Servers) Receiver(n int, goes bool) string {
	s, limit := x.server(n), aMoment
	if goes {
		limit = patience
	}
	if x.until(limit, func() bool { return goes && !s.receiver.up }); s.receiver.up {
		return "there"
	}
	return "gone"
}

// Received is pg_last_wal_receive_lsn() as it compares to what is on disk: "all", "the
// start of a segment", or "none".
func (x *Servers) Received(n int) string {
	s := x.server(n)
	x.until(aMoment, func() bool { return s.streamed })
	at, known := s.received()
	switch {
	case !known:
		return "none"
	case at == len(s.wal):
		return "all"
	}
	return "the start of a segment"
}

// Promote promotes a standby to the timeline that is so many numbers after its own, and
// says on which one it is then, and whether that begins where its WAL ended.
func (x *Servers) Promote(n, by int) string {
	s := x.server(n)
	from, end := s.timeline, s.lsn()
	to := from + cluster.Timeline(by)
	x.w.check.grants[to] = s.n.id
	s.order(to)
	x.until(patience, func() bool { return !s.standby })
	last := record.Switch{}
	if len(s.switches) > 0 {
		last = s.switches[len(s.switches)-1]
	}
	if s.timeline != to || last != (record.Switch{Parent: from, LSN: end, Child: to}) {
		return fmt.Sprintf("timeline +%d, not where its WAL ended", s.timeline-from)
	}
	return fmt.Sprintf("timeline +%d, where its WAL ended", s.timeline-from)
}

// Rewind makes a server that is down a standby of another that was rewound to its history.
func (x *Servers) Rewind(n, to int) {
	s := x.server(n)
	s.copyOf(x.server(to))
	s.upstream = cluster.NodeID(to)
}

// Names sets synchronous_standby_names to any one of these nodes, or to nothing, and waits
// until commits go by it.
func (x *Servers) Names(n int, nodes ...int) {
	s, names := x.server(n), ""
	if len(nodes) > 0 {
		var members []string
		for _, id := range nodes {
			members = append(members, fmt.Sprintf("%q", x.server(id).called))
		}
		names = "ANY 1 (" + strings.Join(members, ", ") + ")"
	}
	s.setNames(names, false)
	x.until(patience, func() bool { return s.waits == names })
}

// StopSender stops the walsender of a primary that serves a standby.
func (x *Servers) StopSender(n, standby int) {
	s := x.server(n)
	x.until(patience, func() bool { return s.senders[cluster.NodeID(standby)] != nil })
	if sender := s.senders[cluster.NodeID(standby)]; sender != nil {
		sender.frozen = x.w.now + stopped
	}
}

// Fill writes so much that a log gets longer than another by it.
func (x *Servers) Fill(n int) {
	for range 5 {
		x.server(n).commit()
	}
}

// Timeline is the number of the one that a server writes or receives.
func (x *Servers) Timeline(n int) int { return int(x.server(n).timeline) }

// Gone waits until no process of a server is left, and returns its State.
func (x *Servers) Gone(n int) string {
	s := x.server(n)
	if x.until(patience, func() bool { return !s.up && !s.orphans.up }); s.orphans.up {
		return "orphans"
	}
	return x.State(n)
}

// Write has a client commit a row, in a session that was there before, and waits until its
// commit is over or waits for standbys. What it was told is Answer's.
func (x *Servers) Write(n int, name string) {
	s := x.server(n)
	r := &row{on: s, of: &s.process, life: s.process.life}
	x.rows[name] = r
	if !s.up {
		r.answer = Unheard
		return
	}
	x.w.after(r.of, 0, func() { x.commit(r) })
	x.until(aMoment, func() bool { return x.over(r) || x.waits(r) })
}

// WriteOrphan has the backend that outlived the postmaster commit a row.
func (x *Servers) WriteOrphan(n int, name string) {
	s := x.server(n)
	r := &row{on: s, of: &s.orphans, life: s.orphans.life}
	x.rows[name] = r
	if s.orphans.up {
		x.commit(r)
	}
	x.until(patience, func() bool { return x.over(r) })
}

func (x *Servers) commit(r *row) {
	if r.on.standby {
		r.answer = Refused
		return
	}
	r.on.write(r.of, func(a Answer) { r.answer = a })
	r.begun, r.entry = true, x.w.ids
}

// over says whether the client knows all that it ever will.
func (x *Servers) over(r *row) bool {
	if r.answer == "" && (!r.of.up || r.of.life != r.life) {
		r.answer = Unheard
	}
	return r.answer != ""
}

func (x *Servers) waits(r *row) bool { return x.pending(r) >= 0 }

// pending is the place of a row's commit among those that wait, or less than zero.
func (x *Servers) pending(r *row) int {
	return slices.IndexFunc(r.on.pending, func(c waiting) bool { return r.on.wal[c.at-1].id == r.entry })
}

// Answer is what the client of a row was told, "it waits", or "no answer"; ends: it is
// waited for.
func (x *Servers) Answer(name string, ends bool) string {
	r := x.rows[name]
	if ends {
		x.until(patience, func() bool { return x.over(r) })
	}
	switch {
	case x.over(r):
		return string(r.answer)
	case x.waits(r):
		return "it waits"
	}
	return "no answer"
}

// Cancel has the client of a row that waits give up.
func (x *Servers) Cancel(name string) {
	r := x.rows[name]
	if i := x.pending(r); i >= 0 {
		r.on.giveUp(i)
	}
}

// Rows are the rows that a session sees: not those whose commit waits, whose locks are
// held until then. Those that are the last to be replayed may come a moment later.
func (x *Servers) Rows(n int) string {
	var names []string
	s := x.server(n)
	for name, r := range x.rows {
		if x.has(s, r) && !(r.on == s && x.waits(r)) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func (x *Servers) has(s *server, r *row) bool {
	return r.begun && slices.ContainsFunc(s.wal, func(e entry) bool { return e.id == r.entry })
}

// Gets says whether a row reaches the disk of a node: "yes"; "diverged" if its history is
// not its upstream's; else "no".
func (x *Servers) Gets(n int, name string) string {
	s, r := x.server(n), x.rows[name]
	diverged := func() bool {
		if s.upstream == 0 {
			return false
		}
		up := &x.w.nodes[s.upstream-1].server
		_, err := up.serve(s)
		return up.answers() && err != nil
	}
	x.until(patience, func() bool { return x.has(s, r) || diverged() })
	switch {
	case x.has(s, r):
		return "yes"
	case diverged():
		return "diverged"
	}
	return "no"
}
