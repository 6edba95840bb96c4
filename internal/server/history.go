package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/pg"
)

// Switch is the birth of a timeline: at LSN, Child left Parent.
type Switch struct {
	Parent cluster.Timeline
	LSN    cluster.LSN
	Child  cluster.Timeline
}

// History is a timeline and how it came about, the oldest switch first.
type History struct {
	Timeline cluster.Timeline
	Switches []Switch
	// End is the end of the timeline's WAL where it is known: nobody else's WAL
	// of the same timeline may reach further. Zero: not known.
	End cluster.LSN
}

// NewHistory is the history of a timeline from the forks of its history file, be
// it read from a directory or asked for by TIMELINE_HISTORY.
func NewHistory(timeline cluster.Timeline, forks []pg.Fork) History {
	h := History{Timeline: timeline}
	for i, f := range forks {
		child := timeline
		if i+1 < len(forks) {
			child = forks[i+1].Timeline
		}
		h.Switches = append(h.Switches, Switch{f.Timeline, f.LSN, child})
	}
	return h
}

// first is the timeline that the history begins with.
func (h History) first() cluster.Timeline {
	if len(h.Switches) > 0 {
		return h.Switches[0].Parent
	}
	return h.Timeline
}

// piece is a timeline's part in a history: up to where its child left it.
type piece struct {
	timeline cluster.Timeline
	end      cluster.LSN
}

func (h History) pieces() []piece {
	var out []piece
	for _, s := range h.Switches {
		out = append(out, piece{s.Parent, s.LSN})
	}
	return append(out, piece{h.Timeline, toTheEnd})
}

// contains tells whether a timeline is the history's or an ancestor of it.
func (h History) contains(timeline cluster.Timeline) bool {
	return slices.ContainsFunc(h.pieces(), func(p piece) bool { return p.timeline == timeline })
}

var historyName = regexp.MustCompile(`^([0-9A-F]{8})\.history$`)

func historyFile(timeline cluster.Timeline) string {
	return fmt.Sprintf("%08X.history", uint32(timeline))
}

// History reads the history of a timeline from pg_wal. One without a file, or
// with an empty one that only keeps the number, is known from itself alone.
func (o Own) History(timeline cluster.Timeline) (History, error) {
	text, err := readAll(o.walPath(historyFile(timeline)))
	if err != nil {
		return History{}, fault.Wrap(err, fault.SysFailure, "history of timeline %d", timeline)
	}
	forks, err := pg.ParseHistory(string(text))
	if err != nil {
		return History{}, fault.Wrap(err, fault.SysFailure, "history of timeline %d", timeline)
	}
	return NewHistory(timeline, forks), nil
}

// Histories reads every history file of pg_wal that says something, by number.
func (o Own) Histories() ([]History, error) {
	var out []History
	err := o.eachHistory(func(timeline cluster.Timeline, size int64) error {
		if size == 0 {
			return nil
		}
		h, err := o.History(timeline)
		if err == nil && len(h.Switches) > 0 {
			out = append(out, h)
		}
		return err
	})
	return out, err
}

// eachHistory calls read for the history files of pg_wal, by number.
func (o Own) eachHistory(read func(timeline cluster.Timeline, size int64) error) error {
	entries, err := os.ReadDir(o.walPath("")) // sorted by name
	if err != nil {
		return fault.Wrap(err, fault.SysFailure, "timeline histories of %s", o.dir())
	}
	for _, e := range entries {
		m := historyName.FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		n, err := strconv.ParseUint(m[1], 16, 32)
		if err != nil {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fault.Wrap(err, fault.SysFailure, "timeline histories of %s", o.dir())
		}
		if err := read(cluster.Timeline(n), info.Size()); err != nil {
			return err
		}
	}
	return nil
}

// Position is the end of the WAL of a server that does not run.
func (o Own) Position(ctx context.Context) (Position, error) {
	if err := o.mustBeDown(fault.SysFailure, "tell the end of its WAL"); err != nil {
		return Position{}, err
	}
	c, err := o.control(ctx)
	if err != nil {
		return Position{}, err
	}
	// The last checkpoint's record is in pg_wal, since crash recovery needs it.
	at, err := o.end(ctx, c.Timeline, c.Checkpoint)
	if err == nil && at.LSN < c.MinRecovery {
		err = fault.New(fault.SysFailure, "the end of the server's WAL is not to be found in pg_wal").
			WithDetail("It ends at %s on timeline %d, and %s had been replayed.", at.LSN, at.Timeline, c.MinRecovery)
	}
	return at, err
}

// end is the end of the WAL on disk, of a server that has reached a place, the
// boundary of two records, on timeline base or a descendant of it. What lies
// before tells the timeline if nothing comes after; a segment may have been closed
// early, so that its last page is none.
func (o Own) end(ctx context.Context, base cluster.Timeline, reached cluster.LSN) (Position, error) {
	s, err := o.segments()
	if err != nil {
		return Position{}, err
	}
	before := reached - 1
	for _, from := range []cluster.LSN{reached, before - before%walPage, before - before%s.size} {
		passed := false
		p, err := o.newest(ctx, s, base, from, func(r record) {
			passed = passed || r.LSN == begins(reached, s.size) || r.End == reached
		}, func() bool { ok := passed; passed = false; return ok })
		if err != nil || p.Timeline != 0 {
			return p, err
		}
	}
	return Position{base, reached}, nil // what was replayed came from the archive, or has been removed
}

// newest walks along each known history from a place on, the newest first, and
// returns the end of the first whose walk was right and which ends on its own
// timeline. That names the timeline that a standby is on, which PostgreSQL does
// not (A7): a history file may have come without WAL, or be that of a timeline
// which left ours before the place that we have reached. None is no position.
func (o Own) newest(ctx context.Context, s segments, base cluster.Timeline, from cluster.LSN, each func(record), right func() bool) (Position, error) {
	all, err := o.Histories()
	if err != nil {
		return Position{}, err
	}
	own, err := o.History(base)
	if err != nil {
		return Position{}, err
	}
	slices.Reverse(all)
	all = slices.DeleteFunc(all, func(h History) bool { return h.Timeline <= base || !h.contains(base) })
	for _, h := range append(all, own) {
		p, err := o.follow(ctx, s, h, span{from: from, to: toTheEnd, skim: true}, each)
		if err != nil {
			return Position{}, err
		}
		if ok := right(); ok && (p.Timeline == h.Timeline || h.Timeline == base) {
			return p, nil
		}
	}
	return Position{}, nil
}

// follow walks along a history, from piece to piece, whatever timeline the span
// names. Where the files of several timelines hold a position, the newest is read
// first, as PostgreSQL does.
func (o Own) follow(ctx context.Context, s segments, h History, w span, each func(record)) (Position, error) {
	pieces := h.pieces()
	at := Position{LSN: w.from}
	for moved := true; moved && at.LSN < w.to; {
		moved = false
		for i := len(pieces) - 1; i >= 0 && at.LSN < pieces[i].end; i-- {
			if at.Timeline == pieces[i].timeline { // read to its end already
				break
			}
			end, found, err := o.walk(ctx, s, span{pieces[i].timeline, at.LSN, min(w.to, pieces[i].end), w.skim}, each)
			if err != nil {
				return Position{}, err
			}
			if found {
				at, moved = Position{pieces[i].timeline, max(end, at.LSN)}, true
				break
			}
		}
	}
	return at, nil
}

// Relation is how the own WAL relates to another server's history.
type Relation struct {
	Follows bool     // the own WAL is a prefix of the other's: it can be streamed to
	Own     Position // the own end
	// Fork is where the two part: the own timeline there, and the place.
	Fork   Position
	Beyond int64 // bytes of own WAL that lie beyond the fork
}

// Compare tells whether a sealed or stopped server can follow the server of that
// history. It is to be asked before the server is pointed anywhere: one that
// follows replays what lies beyond the fork (A21). A shutdown checkpoint that the
// other has not got lies beyond it too (A23).
func (o Own) Compare(ctx context.Context, target History) (Relation, error) {
	own, err := o.whereItStands(ctx)
	if err != nil {
		return Relation{}, err
	}
	h, err := o.History(own.Timeline)
	if err != nil {
		return Relation{}, err
	}
	return compare(own, h, target)
}

// whereItStands is the end of the WAL, of a server that is down or sealed.
func (o Own) whereItStands(ctx context.Context) (Position, error) {
	all, err := host.Processes(o.dir())
	if err != nil {
		return Position{}, err
	}
	if len(all) == 0 {
		return o.Position(ctx)
	}
	sealed, err := o.Sealed(ctx)
	if err != nil {
		return Position{}, err
	}
	if !sealed {
		return Position{}, fault.New(fault.FollowFail, "the histories cannot be compared: the server runs and is not sealed").
			WithHint("Its WAL may grow meanwhile: seal or stop it first.")
	}
	return o.Seal(ctx)
}

func compare(own Position, history, target History) (Relation, error) {
	r := Relation{Own: own}
	if history.first() != target.first() {
		return r, fault.New(fault.FollowFail, "the histories have nothing in common").
			WithDetail("This server's begins with timeline %d, the other's with timeline %d.", history.first(), target.first())
	}
	mine, theirs := history.pieces(), target.pieces()
	if target.End != 0 {
		theirs[len(theirs)-1].end = target.End
	}
	for i := range min(len(mine), len(theirs)) {
		if mine[i].timeline != theirs[i].timeline { // both children left at the same place
			break
		}
		r.Fork = Position{mine[i].timeline, min(mine[i].end, theirs[i].end)}
		if mine[i].end != theirs[i].end {
			break
		}
	}
	r.Follows = own.LSN <= r.Fork.LSN
	if !r.Follows {
		r.Beyond = int64(own.LSN - r.Fork.LSN)
	} else {
		r.Fork.LSN = min(r.Fork.LSN, own.LSN)
	}
	return r, nil
}
