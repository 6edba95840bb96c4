package chaos

import (
	"fmt"
	"slices"
	"time"
)

// Outcome is what a client knows of its operation.
type Outcome uint8

// The outcomes.
const (
	Unknown      Outcome = iota // the connection broke, or a warning came with the acknowledgement
	Acknowledged                // it was committed, without a word of doubt
	Refused                     // the server said that it was not done
)

// RowID names a row for ever: no client tries the same one twice.
type RowID struct {
	Writer int
	Seq    int64
}

// Insert is one row that a client tried to write. Times count from the beginning
// of the cluster's life.
type Insert struct {
	RowID
	Node     int  // that it was sent to
	Timeline int  // that the server was on; zero: unknown
	Synced   bool // the server had a synchronous set
	Outcome  Outcome
	Sent     time.Duration
	Answered time.Duration // or given up
}

// String tells where and when, for a message.
func (i Insert) String() string {
	return fmt.Sprintf("row %d of writer %d (node%d, timeline %d, sent at %.3f s, answered at %.3f s)",
		i.Seq, i.Writer, i.Node, i.Timeline, i.Sent.Seconds(), i.Answered.Seconds())
}

// Lost are the rows that were acknowledged and are not there.
func Lost(inserts []Insert, present map[RowID]bool) []Insert {
	return slices.DeleteFunc(slices.Clone(inserts), func(i Insert) bool {
		return i.Outcome != Acknowledged || present[i.RowID]
	})
}

// Ghosts are the rows that were refused and are there.
func Ghosts(inserts []Insert, present map[RowID]bool) []Insert {
	return slices.DeleteFunc(slices.Clone(inserts), func(i Insert) bool {
		return i.Outcome != Refused || !present[i.RowID]
	})
}

// emptiedMargin is how close to an acknowledgement without a synchronous set
// another one counts as made without: a set is emptied for all sessions, but each
// session sees that a little later, and waiters are let go (safety notes, A17).
const emptiedMargin = 2 * time.Second

// Promised are those of the lost rows that synchronous replication had promised:
// while its set is empty it promises nothing.
func Promised(lost, inserts []Insert) []Insert {
	var empty []Insert
	for _, i := range inserts {
		if i.Outcome == Acknowledged && !i.Synced {
			empty = append(empty, i)
		}
	}
	return slices.DeleteFunc(slices.Clone(lost), func(l Insert) bool {
		return !l.Synced || slices.ContainsFunc(empty, func(e Insert) bool {
			return e.Node == l.Node && e.Timeline == l.Timeline && (e.Answered-l.Answered).Abs() <= emptiedMargin
		})
	})
}

// Span is a time in which a server on a timeline surely took writes. From and To
// are never wider than what was seen.
type Span struct {
	Node     int
	Timeline int
	From, To time.Duration
}

// Epochs are the times in which each server on each timeline acknowledged. An
// acknowledgement was given somewhere between the sending and the answer, so an
// epoch reaches surely from its first answer to its last sending.
func Epochs(inserts []Insert) []Span {
	var epochs []Span
	for _, i := range inserts {
		if i.Outcome != Acknowledged {
			continue
		}
		at := slices.IndexFunc(epochs, func(s Span) bool { return s.Node == i.Node && s.Timeline == i.Timeline })
		if at < 0 {
			epochs = append(epochs, Span{i.Node, i.Timeline, i.Answered, i.Sent})
			continue
		}
		e := &epochs[at]
		e.From, e.To = min(e.From, i.Answered), max(e.To, i.Sent)
	}
	slices.SortFunc(epochs, func(a, b Span) int { return int(a.From - b.From) })
	return epochs
}

// Overlap is a time in which two servers took writes.
type Overlap struct {
	A, B     Span
	From, To time.Duration
}

// String tells who and when.
func (o Overlap) String() string {
	return fmt.Sprintf("node%d (timeline %d) and node%d (timeline %d) for %.3f s, from %.3f s",
		o.A.Node, o.A.Timeline, o.B.Node, o.B.Timeline, (o.To - o.From).Seconds(), o.From.Seconds())
}

// Overlaps are the times in which spans of different nodes overlap, each pair once, oldest first.
func Overlaps(spans []Span) []Overlap {
	var found []Overlap
	sorted := slices.Clone(spans)
	slices.SortStableFunc(sorted, func(a, b Span) int { return int(a.From - b.From) })
	for i, a := range sorted {
		for _, b := range sorted[i+1:] {
			if b.From >= a.To {
				break
			}
			if from, to := b.From, min(a.To, b.To); a.Node != b.Node && from < to {
				found = append(found, Overlap{a, b, from, to})
			}
		}
	}
	return found
}

// TwoWriters adds up the times in which at least two nodes took writes; no
// moment counts twice.
func TwoWriters(overlaps []Overlap) time.Duration {
	sorted := slices.Clone(overlaps)
	slices.SortFunc(sorted, func(a, b Overlap) int { return int(a.From - b.From) })
	var total, until time.Duration
	for _, o := range sorted {
		if o.To > until {
			total += o.To - max(o.From, until)
			until = o.To
		}
	}
	return total
}

// Gap is a time without an acknowledgement by any of some writers.
type Gap struct {
	Lasted time.Duration
	Moved  bool // after it another node acknowledged than before
}

// LongestGaps are, for each of some moments, the longest gap that began between it and
// the next one; the last one ends with the time to. What goes on at a moment began before it,
// but for the first.
func LongestGaps(inserts []Insert, moments []time.Duration, to time.Duration) []Gap {
	acknowledged := slices.DeleteFunc(slices.Clone(inserts), func(i Insert) bool {
		return i.Outcome != Acknowledged || i.Answered <= moments[0] || i.Answered >= to
	})
	slices.SortFunc(acknowledged, func(a, b Insert) int { return int(a.Answered - b.Answered) })
	gaps := make([]Gap, len(moments))
	at, previous, node := 0, moments[0], 0
	for _, i := range append(acknowledged, Insert{Answered: to}) {
		for at+1 < len(moments) && moments[at+1] <= previous {
			at++
		}
		gap := Gap{Lasted: i.Answered - previous, Moved: node != 0 && i.Node != 0 && i.Node != node}
		if gap.Lasted > gaps[at].Lasted {
			gaps[at] = gap
		}
		previous, node = i.Answered, i.Node
	}
	return gaps
}
