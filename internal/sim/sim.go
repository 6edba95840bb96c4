// Package sim is a whole cluster in one goroutine, in virtual time, from one
// seed. The brain (internal/failover), the record and the Raft group run as they
// are; network, disks, clocks, processes and PostgreSQL are models, as cruel as
// the safety notes ask for. See DESIGN.md.
//
// The same seed gives the same run, where crypto/rand is repeatable as well
// (testing/cryptotest): raft draws its election time-outs from it.
package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/record"
)

// Options say how long things go wrong, and what is reported.
type Options struct {
	Seed  uint64
	Nodes int           // zero: 3 to 9, or 2 to 9 under the visibility rule, by the seed
	Chaos time.Duration // in which faults begin; zero: 5 to 44 s, by the seed
	Only  []string      // the faults that strike, by ID; nil: all that the seed has
	Bound time.Duration // for the cluster to be whole again after that; zero: 90 s
	Trace bool          // keep the timeline
	// Visibility has the cluster be under the visibility rule for good, without a group.
	Visibility bool
	Defect     Defect // planted into the hands, to see that it is noticed
}

// Counts are what a run went through.
type Counts struct {
	Virtual                                                                  time.Duration
	Events, Faults, Grants, Promotions, Regrants, Rewinds, Commits, Promised int
	Expiries, Releases, Reinstated, Voids, Sealed, GuardKills, Changes       int
	Failovers, Partitions, Operations                                        int
}

// Add sums up.
func (c *Counts) Add(o Counts) {
	c.Virtual += o.Virtual
	for i, p := range c.all() {
		*p += *o.all()[i]
	}
}

func (c *Counts) all() []*int {
	return []*int{&c.Events, &c.Faults, &c.Grants, &c.Promotions, &c.Regrants, &c.Rewinds, &c.Commits, &c.Promised,
		&c.Expiries, &c.Releases, &c.Reinstated, &c.Voids, &c.Sealed, &c.GuardKills, &c.Changes, &c.Failovers, &c.Partitions, &c.Operations}
}

// Result is what came of a run.
type Result struct {
	Seed      uint64
	Violation string // empty: none
	Counts    Counts
	Nodes     int
	Chaos     time.Duration
	Faults    []Fault // that struck, in order
	Timeline  []Line  // if it was asked for
	Coverage  Coverage
	Order     uint64 // a hash of when each event happened, in the order of them
}

// World is the cluster and all around it.
type World struct {
	Options
	rng       *rand.Rand // of whatever happens now
	policy    failover.Policy
	tame      bool          // nothing goes wrong that a failover would be good for
	wild      bool          // clocks run as they like: only what standbys acknowledge is safe
	respawns  bool          // whatever ends a postmaster, somebody starts it again, as systemd does
	patient   bool          // no client gives up while all of them wait
	scripted  bool          // clients write when they are told to
	places    int           // locations
	cascades  bool          // some standbys are wanted behind others
	gentle    bool          // nothing but crashes goes wrong
	writings  []writing     // of repmgr.nodes, where there is no group
	twoSince  time.Duration // more than one server takes writes
	writtenAt time.Duration // one did last, as an administrator saw it
	switched  bool          // synchronous_mode is another for a while
	examined  bool          // the whole cluster has lost its primary once more
	retries   time.Duration // wal_retrieve_retry_interval
	now       time.Duration
	queue     queue
	nodes     []*node
	net       network
	registry  []cluster.Node // repmgr.nodes
	check     checker
	counts    Counts
	cover     Coverage
	texts     map[string]*record.Record // by what says them
	history   history
	lines     []Line
	faults    []kind
	struck    []Fault
	moments   map[string]int      // how often something changed hands
	aimed     map[string][]func() // what shall happen the next time
	stirred   time.Duration       // when that was last, or a fault struck
	promotes  time.Duration       // promote_check_timeout, under the visibility rule
	stuck     time.Duration       // from then on no server is stopped any more, and no server's disk stalls
	healed    time.Duration       // when everything was healed; zero: not yet
	ids       int                 // of commits and data directories
	order     uint64              // see Result
}

// process is something that runs, is stopped for a while, or is gone.
type process struct {
	up     bool
	life   int           // grows with every end
	frozen time.Duration // until then nothing of it happens
	rng    *rand.Rand    // what it draws from; nil: what its events were made with
}

func (p *process) start() { p.up = true }
func (p *process) end()   { p.up, p.life, p.frozen = false, p.life+1, 0 }

// event happens at a time, to a process: not if that one has ended since, and
// later if it is stopped.
type event struct {
	of   *process
	life int
	rng  *rand.Rand
	do   func()
	sent *message // instead of do: it arrives
}

// after lets something happen to a process in a while; nil is the world.
func (w *World) after(p *process, d time.Duration, do func()) {
	e := event{of: p, rng: w.rng, do: do}
	if p != nil {
		e.life = p.life
		if p.rng != nil {
			e.rng = p.rng
		}
	}
	w.queue.push(w.now+max(0, d), e)
}

// step lets the next event happen.
func (w *World) step() {
	at, e := w.queue.pop()
	w.now = max(w.now, at)
	if e.of != nil {
		if !e.of.up || e.of.life != e.life {
			w.queue.done()
			return
		}
		if e.of.frozen > w.now {
			w.queue.again(e.of.frozen)
			return
		}
	}
	w.counts.Events++
	w.order = (w.order ^ uint64(w.now)) * prime
	w.rng = e.rng
	do, sent := e.do, e.sent
	w.queue.done()
	if sent != nil {
		w.net.deliver(sent)
		w.net.arrived(sent)
		return
	}
	do()
}

// between draws a duration; short ones are as likely as long ones.
func (w *World) between(a, b time.Duration) time.Duration {
	if b <= a {
		return a
	}
	if w.rng.IntN(4) > 0 {
		b = a + (b-a)/8
	}
	return a + time.Duration(w.rng.Int64N(int64(b-a)+1))
}

func (w *World) chance(percent float64) bool { return w.rng.Float64()*100 < percent }

func (w *World) log(who fmt.Stringer, format string, args ...any) {
	if w.Trace {
		w.lines = append(w.lines, Line{w.now, who.String(), fmt.Sprintf(format, args...), w.letters()})
	}
}

type name string

func (n name) String() string { return string(n) }

// violation ends the run.
type violation string

func (w *World) fail(format string, args ...any) {
	panic(violation(fmt.Sprintf("at %.3f s: ", w.now.Seconds()) + fmt.Sprintf(format, args...)))
}

// Run lets one cluster live.
func Run(o Options) (r Result) {
	w := &World{Options: o, cover: newCoverage(), faults: slices.Clone(faults), moments: map[string]int{}, aimed: map[string][]func(){}, texts: map[string]*record.Record{}}
	w.rng = w.stream("world")
	if chaos := time.Duration(5+w.rng.IntN(40)) * time.Second; w.Chaos == 0 {
		w.Chaos = chaos
	}
	if nodes := w.size(); w.Nodes == 0 {
		w.Nodes = nodes
	}
	if w.Bound == 0 {
		w.Bound = 90 * time.Second
	}
	defer func() {
		if x := recover(); x != nil {
			v, ok := x.(violation)
			if !ok {
				panic(x)
			}
			r.Violation = string(v)
			w.log(name("check"), "VIOLATION %s", v)
		}
		w.counts.Virtual = w.now
		r.Seed, r.Counts, r.Timeline, r.Coverage, r.Order = o.Seed, w.counts, w.lines, w.cover, w.order
		r.Nodes, r.Chaos, r.Faults = w.Nodes, w.Chaos, w.struck
	}()
	w.build()
	w.choose()
	w.plan()
	for next := w.now; w.now < w.Chaos; {
		w.step()
		if w.now >= next {
			next = w.now + watched
			w.watch()
		}
	}
	w.heal()
	for next := w.now; ; {
		w.step()
		if w.now < next {
			continue
		}
		next = w.now + watched
		w.watch()
		why := w.unwhole()
		switch {
		case why == "" && !w.examined && w.exam():
			w.examined, w.healed = true, w.now
			continue
		case why == "":
			r.Violation = w.linear()
			return r
		}
		if w.now > w.healed+w.Bound {
			w.fail("not whole %s after everything was healed: %s%s", w.Bound, why, w.allRules())
		}
	}
}

// watch looks at what has not happened.
func (w *World) watch() {
	if w.Visibility {
		w.sees()
		return
	}
	if w.healed != 0 {
		w.woken()
	}
	w.bids()
	w.endpoints()
	w.reads()
	w.rests()
}

// watched is how often it is looked at what has not happened.
const watched = 250 * time.Millisecond

// size is how many nodes there are: most often few.
func (w *World) size() int {
	if w.chance(8) {
		return 6 + w.rng.IntN(4)
	}
	if w.Visibility {
		return 2 + w.rng.IntN(4)
	}
	return 3 + w.rng.IntN(3)
}

// drawPolicy draws the configuration of all nodes. The strict mode is for a cluster
// that has enough standbys when all are there.
func (w *World) drawPolicy() {
	eligible := 0
	for _, n := range w.nodes {
		if !n.witness && n.priority > 0 {
			eligible++
		}
	}
	w.policy = standard
	w.policy.SyncCount, w.policy.SyncTimeout = 1+w.rng.IntN(2), w.between(time.Second, 10*time.Second)
	switch w.rng.IntN(5) {
	case 0, 1:
		w.policy.SyncMode = record.SyncOn
	case 2:
		if eligible > w.policy.SyncCount && !w.Visibility {
			w.policy.SyncMode, w.wild = record.SyncStrict, w.chance(30)
		}
	}
	for _, n := range w.nodes {
		if w.wild {
			n.rate = 0.3 + 2.7*w.rng.Float64()
		}
	}
}

// standard is what they are configured to beside that.
var standard = failover.Policy{
	Automatic: true, MonitorInterval: time.Second, ReconnectAttempts: 3, ReconnectInterval: time.Second, Consensus: true,
	Quorum: true, LeaseTTL: 5 * time.Second, RestartGrace: 3 * time.Second, RecoveryGrace: 5 * time.Second, HangBound: 5 * time.Second,
	BidWindow: 300 * time.Millisecond, MaximumLag: -1, Rejoin: "rewind",
}

// build makes a cluster under the quorum rule, whose primary is node 1.
func (w *World) build() {
	count := w.Nodes
	witness := cluster.NodeID(0)
	if w.chance(30) && count > 2 {
		witness = cluster.NodeID(count)
	}
	w.net.build(w, count)
	w.cascades = w.chance(25)
	begin := record.Begin{Node: 1, Incarnation: "d1", Line: "1", LSN: 3, TTL: standard.LeaseTTL, MaximumLag: -1}
	for id := cluster.NodeID(1); int(id) <= count; id++ {
		n := w.machine(id)
		role := cluster.Standby
		switch id {
		case 1:
			role = cluster.Primary
		case witness:
			role, n.witness = cluster.Witness, true
		}
		n.daemon.n, n.guard.n, n.server.n = n, n, n
		w.nodes = append(w.nodes, n)
		row := cluster.Node{ID: id, Name: n.String(), Role: role, Active: true, Priority: n.priority, Upstream: 1}
		switch {
		case id == 1:
			row.Upstream = 0
		case id > 3 && !n.witness && w.cascades:
			row.Upstream = 2 + cluster.NodeID(w.rng.IntN(int(id)-2))
		}
		w.registry = append(w.registry, row)
	}
	w.drawPolicy()
	w.settle()
	w.by(w.stream("habits"), func() {
		w.respawns, w.patient = w.chance(20), w.chance(50)
		w.retries = []time.Duration{100 * time.Millisecond, time.Second, 5 * time.Second}[w.rng.IntN(3)]
	})
	if w.Visibility {
		w.seeing()
		w.log(name("world"), "%d nodes, witness %d, clocks %v, chaos until %s, nothing but crashes: %v", count, witness, w.rates(), w.Chaos, w.gentle)
		return
	}
	w.found(begin)
	for _, n := range w.nodes {
		n.server.found(n.id == 1)
		n.guard.start()
		n.guard.extend(n.clock().Add(failover.Hold(standard.LeaseTTL))) // as who begins the rule does
		n.daemon.boot()
	}
	w.log(name("world"), "%d nodes, witness %d, clocks %v, chaos until %s, synchronous_mode=%s, count %d, wild clocks: %v", count, witness, w.rates(), w.Chaos, w.policy.SyncMode, w.policy.SyncCount, w.wild)
}

// machine makes a node, by a stream of its own: it is the same whoever else there is.
func (w *World) machine(id cluster.NodeID) *node {
	n := &node{w: w, id: id, name: fmt.Sprintf("n%d", id), raftID: uint64(id) * 0x11, priority: 100}
	w.by(w.stream(n.String()), func() {
		n.rate, n.base = 0.9+0.2*w.rng.Float64(), time.Duration(w.rng.Int64N(int64(time.Hour)))
		if w.chance(40) {
			n.rate = []float64{0.9, 1.1}[w.rng.IntN(2)]
		}
		if w.chance(20) && id > 1 {
			n.priority = 0
		}
	})
	n.usual = n.priority
	n.streams()
	return n
}

func (w *World) rates() (out []string) {
	for _, n := range w.nodes {
		out = append(out, fmt.Sprintf("%.3f", n.rate))
	}
	return out
}

// node is a machine.
type node struct {
	w        *World
	id       cluster.NodeID
	name     string
	raftID   uint64
	witness  bool
	priority int
	usual    int     // its priority, when no fault has changed it
	rate     float64 // of its clock
	base     time.Duration
	// failedRejoin is when the last return of its server failed; zero: it has come back since, or was promoted.
	failedRejoin time.Duration
	unsealed     unsealed
	unread       state         // its server is down though it could be read
	idle         state         // it waits to attach to a server that is gone
	costly       state         // its directory is armed in a pause
	place        int           // its location
	level        int           // of the record's changes that its program knows
	wall         time.Duration // how far its wall clock has jumped: nothing shall go by that
	off          bool          // no power
	manual       bool          // failover=manual
	dead         bool          // and it will never have any again
	// unregistered: its row was deleted.
	unregistered bool
	daemon       daemon
	guard        guard
	server       server
	disk         disk
}

func (n *node) String() string { return n.name }

// epoch is when the clocks that count through a suspension began.
var epoch = time.Unix(1_000_000, 0)

// clock is what the node's clock shows.
func (n *node) clock() time.Time {
	return epoch.Add(n.base + time.Duration(float64(n.w.now)*n.rate))
}

// shows is what the wall clock shows: an operator may set it.
func (n *node) shows() time.Duration { return n.w.now + n.wall }

// until is how long it takes until the node's clock shows t.
func (n *node) until(t time.Time) time.Duration {
	return time.Duration(float64(t.Sub(n.clock()))/n.rate) + 1
}

// lasts is how long a duration by the node's clock takes.
func (n *node) lasts(d time.Duration) time.Duration { return time.Duration(float64(d) / n.rate) }
