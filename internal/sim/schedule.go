package sim

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"time"

	"repmgr/internal/cluster"
)

// kind is one thing that can go wrong, at a node.
type kind struct {
	name string
	do   func(*World, *node)
}

// Fault is one that struck. Its ID names it within its seed, whatever else
// strikes: "7" is the seventh of the schedule, "close2.1" the first of those that
// the second accepted close brought with it.
type Fault struct {
	ID   string
	At   time.Duration
	Node cluster.NodeID
	Kind string
}

func (f Fault) String() string {
	return fmt.Sprintf("%9.3f n%d %s (fault %s)", f.At.Seconds(), f.Node, f.Kind, f.ID)
}

// stream is a source of chance that depends on the seed and its name alone. What
// draws from streams of its own does not change because something else is left out.
func (w *World) stream(name string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return rand.New(rand.NewPCG(w.Seed, h.Sum64()))
}

// by does something that draws from another stream.
func (w *World) by(s *rand.Rand, do func()) {
	here := w.rng
	w.rng = s
	do()
	w.rng = here
}

// streams gives every process of a node a stream of its own.
func (n *node) streams() {
	for name, p := range map[string]*process{"daemon": &n.daemon.process, "guard": &n.guard.process, "server": &n.server.process,
		"orphans": &n.server.orphans, "receiver": &n.server.receiver} {
		p.rng = n.w.stream(n.String() + " " + name)
	}
}

// harmless are the faults that cost nobody the lease (L2).
var harmless = []string{"the disk stalls", "the wall clock jumps", "the startup process is slow", "a priority is changed"}

// mixes are kinds of faults that belong together: each aims at what the others leave open.
var mixes = [][]string{
	{"the startup process is slow", "a node is cut off", "a node is cut off one way", "the daemon is stopped"},
	{"the daemon is stopped", "a node is cut off", "all of the server is stopped", "the guard dies"},
	{"a node hears late, and is cut off then", "a node is cut off, one way after the other", "the daemon is stopped"},
	{"the daemon dies", "the postmaster dies", "the server is started by hand", "a node hears late, and is cut off then"},
	{"the disk stalls", "the daemon dies", "the postmaster dies", "a node is cut off", "all of the server is stopped"},
	{"the synchronous set shrinks, and the primary goes", "the postmaster dies", "the disk stalls"},
	{"the synchronous set shrinks, and the primary goes", "a standby is pointed at the primary by hand", "the power goes", "a node is cut off"},
}

// choose has some runs know only a few kinds of faults: what one hides, others show.
func (w *World) choose() {
	if w.Visibility {
		return // it has been chosen
	}
	w.by(w.stream("kinds"), func() {
		switch {
		case w.chance(4):
			w.tame = !w.wild
			w.only(harmless)
		case w.chance(8):
			w.rng.Shuffle(len(w.faults), func(i, j int) { w.faults[i], w.faults[j] = w.faults[j], w.faults[i] })
			w.faults = w.faults[:4]
		case w.chance(35):
			w.only(mixes[w.rng.IntN(len(mixes))])
		}
	})
}

// plan puts the faults of the schedule where they belong.
func (w *World) plan() {
	w.by(w.stream("schedule"), func() {
		at := w.between(0, 3*time.Second)
		for i := 1; at < w.Chaos; i++ {
			w.after(nil, at, func() { w.hit(fmt.Sprint(i)) })
			at += w.between(10*time.Millisecond, 10*time.Second)
		}
	})
}

// moment is called when something has changed hands: what fails now, fails
// between two steps.
func (w *World) moment(what string) {
	w.stirred = w.now
	if w.healed != 0 {
		return
	}
	w.struckAt(what)
	w.moments[what]++
	name := fmt.Sprintf("%s%d", what, w.moments[what])
	w.by(w.stream(name), func() {
		for i := 1; w.chance(30); i++ {
			w.after(nil, time.Duration(w.rng.Int64N(int64(200*time.Millisecond))), func() { w.hit(fmt.Sprintf("%s.%d", name, i)) })
		}
	})
}

// hit lets something go wrong at a node; more often where it matters. All about it
// is drawn from a stream of its own.
func (w *World) hit(id string) {
	if w.healed != 0 || w.Only != nil && !slices.Contains(w.Only, id) {
		return
	}
	w.by(w.stream("fault "+id), func() {
		n := w.nodes[w.rng.IntN(len(w.nodes))]
		if w.chance(50) {
			n = w.focus()
		}
		k := w.faults[w.rng.IntN(len(w.faults))]
		w.counts.Faults++
		w.stirred = w.now
		w.reach(w.cover.Faults, k.name)
		f := Fault{ID: id, At: w.now, Node: n.id, Kind: k.name}
		w.struck = append(w.struck, f)
		w.log(n, "FAULT %s: %s", id, k.name)
		k.do(w, n)
	})
}
