package sim

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strings"
	"time"
)

// Line is one of a timeline: who says what, and how every node is at that moment.
type Line struct {
	At    time.Duration
	Who   string
	Text  string
	Nodes string // two letters a node, see Legend
}

// prime is FNV-1a's of 64 bits.
const prime = 1099511628211

// Fingerprint is one number for all that happened in a run: its events, what was said in
// it and by whom, how every node was then, what was counted, reached, and broken. A
// change that makes the simulator faster leaves it as it is.
func (r Result) Fingerprint() (uint64, error) {
	h := fnv.New64a()
	err := json.NewEncoder(h).Encode(r) // maps in the order of their keys
	return h.Sum64(), err
}

// Legend says what the letters of a timeline mean.
const Legend = "each node: W takes writes, s standby, ~ starts, - no server, z stopped or hangs, w witness, o no power; then x no daemon, z it is stopped, g no guard"

// Timeline is what happened, one line an event, with a column for every node, in
// which the one that speaks is marked. What somebody says over and over is left
// out. A long one keeps so many lines before its end, and of what was before the
// faults and what was decided.
func Timeline(r Result, keep int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%9s ", "s")
	for n := range r.Nodes {
		fmt.Fprintf(&b, " n%-3d", n+1)
	}
	b.WriteString("  " + Legend + "\n")
	fresh, left := news(r.Timeline), 0
	for _, yes := range fresh {
		if yes {
			left++
		}
	}
	cut := 0
	for i, l := range r.Timeline {
		if fresh[i] {
			left--
		}
		main := i == 0 || l.Who == "record" || strings.HasPrefix(l.Text, "FAULT")
		if !fresh[i] || left >= keep && !main {
			cut++
			continue
		}
		if cut > 0 {
			fmt.Fprintf(&b, "%9s  ... %d lines\n", "", cut)
			cut = 0
		}
		b.WriteString(l.String() + "\n")
	}
	return b.String()
}

// news tells which lines the same node has not said often before.
func news(lines []Line) []bool {
	type said struct{ who, text string }
	times := map[said]int{}
	out := make([]bool, len(lines))
	for i, l := range lines {
		times[said{l.Who, l.Text}]++
		out[i] = times[said{l.Who, l.Text}] <= 3
	}
	return out
}

func (l Line) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%9.3f ", l.At.Seconds())
	for n := 0; 2*n+1 < len(l.Nodes); n++ {
		format := "  %s "
		if name, _, _ := strings.Cut(l.Who, "."); name == fmt.Sprintf("n%d", n+1) {
			format = " [%s]"
		}
		fmt.Fprintf(&b, format, l.Nodes[2*n:2*n+2])
	}
	fmt.Fprintf(&b, "  %-9s %s", l.Who, l.Text)
	return b.String()
}

// letters show how every node is.
func (w *World) letters() string {
	out := make([]byte, 0, 2*len(w.nodes))
	for _, n := range w.nodes {
		s, d := &n.server, &n.daemon
		server, daemon := byte('s'), byte(' ')
		switch {
		case n.off:
			server = 'o'
		case n.witness:
			server = 'w'
		case s.writes():
			server = 'W'
		case !s.up:
			server = '-'
		case s.frozen > w.now, s.hung > w.now:
			server = 'z'
		case !s.ready:
			server = '~'
		}
		switch {
		case n.off:
		case !d.up:
			daemon = 'x'
		case d.frozen > w.now:
			daemon = 'z'
		case !n.guard.up:
			daemon = 'g'
		}
		out = append(out, server, daemon)
	}
	return string(out)
}
