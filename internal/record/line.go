package record

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"repmgr/internal/cluster"
)

// Line is a history of the write-ahead log: the timelines that were left, oldest
// first, each with the position where that was, and the timeline that it ended
// in, as in "1@0/3000060 2@0/5000148 3". Text, so that two can be compared.
// PostgreSQL keeps the same in its history files (manual, "Timelines").
type Line string

// Switch is one change of timeline.
type Switch struct {
	Parent cluster.Timeline
	LSN    cluster.LSN
	Child  cluster.Timeline
}

// LineOf writes the line that ends in that timeline. The switches may hold
// others: only those that lead to it count.
func LineOf(switches []Switch, end cluster.Timeline) Line {
	var text []byte
	for _, s := range leading(switches, end) {
		text = fmt.Appendf(text, "%d@%s ", s.Parent, s.LSN)
	}
	return Line(strconv.AppendUint(text, uint64(end), 10))
}

// leading are the switches that lead to a timeline, oldest first.
func leading(switches []Switch, end cluster.Timeline) []Switch {
	out := make([]Switch, 0, len(switches))
	for range len(switches) {
		at := -1
		for i, s := range switches {
			if s.Child == end {
				at = i
			}
		}
		if at < 0 || switches[at].Parent >= end {
			break
		}
		out = append(out, switches[at])
		end = switches[at].Parent
	}
	slices.Reverse(out)
	return out
}

// Parse reads a line. Timelines grow along it.
func (l Line) Parse() (switches []Switch, end cluster.Timeline, err error) {
	if n := strings.Count(string(l), "@"); n > 0 {
		switches = make([]Switch, 0, n)
	}
	for f, rest := word(string(l)); f != ""; f, rest = word(rest) {
		number, at, cut := strings.Cut(f, "@")
		tli, err := strconv.ParseUint(number, 10, 32)
		if err != nil || tli == 0 || number[0] == '0' {
			return nil, 0, fmt.Errorf("%q is no timeline", number)
		}
		if n := len(switches); n > 0 {
			if switches[n-1].Child = cluster.Timeline(tli); switches[n-1].Parent >= switches[n-1].Child {
				return nil, 0, fmt.Errorf("timeline %d follows %d", tli, switches[n-1].Parent)
			}
		}
		if next, _ := word(rest); cut != (next != "") {
			return nil, 0, fmt.Errorf("%q ends too early or goes on too long", l)
		}
		if cut {
			lsn, err := cluster.ParseLSN(at)
			if err != nil {
				return nil, 0, err
			}
			switches = append(switches, Switch{Parent: cluster.Timeline(tli), LSN: lsn})
		}
		end = cluster.Timeline(tli)
	}
	if end == 0 {
		return nil, 0, fmt.Errorf("an empty line has no timeline")
	}
	return switches, end, nil
}

// word is the first word of a text, and what comes after it.
func word(text string) (first, rest string) {
	text = strings.TrimLeftFunc(text, unicode.IsSpace)
	if end := strings.IndexFunc(text, unicode.IsSpace); end >= 0 {
		return text[:end], text[end:]
	}
	return text, ""
}

// Line is the history that the record knows: up to the last promotion that was
// recorded. Empty before the quorum rule began.
func (r *Record) Line() Line {
	switches, end, err := r.history()
	if err != nil {
		return ""
	}
	return LineOf(switches, end)
}

// history is that line, with what leads elsewhere.
func (r *Record) history() (switches []Switch, end cluster.Timeline, err error) {
	switches, end, err = r.Base.Parse()
	if err != nil {
		return nil, 0, err
	}
	for _, t := range r.Terms {
		if t.Parent != 0 {
			switches = append(switches, Switch{t.Parent, t.Fork, t.Timeline})
		}
		end = t.Timeline
	}
	return switches, end, nil
}

// Standing is how a server's history and position stand to the record's.
type Standing struct {
	Diverged bool             // it has what the cluster's history does not have
	Fork     cluster.LSN      // up to where both are the same; zero while not diverged, or not known
	From     cluster.Timeline // and the timeline on which that is
	WALTerm  uint64           // of the end of its WAL; zero: older than the quorum rule
}

// Judge compares a server's history and the end of its WAL with the record.
// The last holder alone may have a promotion that was never recorded: to the
// timeline that it was granted.
func (r *Record) Judge(line Line, lsn cluster.LSN, lastHolder bool) Standing {
	own, end, err := line.Parse()
	known, knownEnd, knownErr := r.history()
	if err != nil || knownErr != nil {
		return Standing{Diverged: true}
	}
	known = leading(known, knownEnd)
	for _, s := range own {
		at, left := leaves(known, s.Parent)
		unrecorded := lastHolder && s.Child == end && end == r.Lease.Timeline && !r.Lease.Promoted
		switch {
		// The winner may have been behind where the last promotion was: it left an
		// older timeline then, and the cluster's history with it.
		case unrecorded && (s.Parent == knownEnd || left && s.LSN <= at.LSN):
			return Standing{WALTerm: r.Term}
		case left && at.LSN == s.LSN && at.Child == s.Child:
		case left:
			return Standing{Diverged: true, Fork: min(at.LSN, s.LSN), From: s.Parent}
		default: // by a promotion that nobody granted
			return Standing{Diverged: true, Fork: s.LSN, From: s.Parent}
		}
	}
	if at, left := leaves(known, end); left && lsn > at.LSN {
		return Standing{Diverged: true, Fork: at.LSN, From: end}
	} else if !left && end != knownEnd {
		return Standing{Diverged: true}
	}
	return Standing{WALTerm: r.termOf(end)}
}

// leaves returns where a line leaves a timeline, and for which.
func leaves(line []Switch, tli cluster.Timeline) (Switch, bool) {
	for _, s := range line {
		if s.Parent == tli {
			return s, true
		}
	}
	return Switch{}, false
}

func (r *Record) termOf(tli cluster.Timeline) uint64 {
	for _, t := range r.Terms {
		if t.Timeline == tli {
			return t.Term
		}
	}
	return 0
}
