package server

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/host"
)

// Xact is a committed transaction.
type Xact struct {
	XID uint32
	At  time.Time // of the commit, by the clock of the server that made it
	LSN cluster.LSN
}

// Discarded is what a piece of WAL holds that will be thrown away.
type Discarded struct {
	Commits int   // transactions that had written something
	Bytes   int64 // of WAL
	Xacts   []Xact
	Listed  bool // Xacts has all of them
}

// listedXacts bounds the list of transactions.
const listedXacts = 1000

// commitDesc is how pg_waldump words a commit, in TZ=UTC; one that had been
// prepared names its transaction there.
var commitDesc = regexp.MustCompile(`^COMMIT(?:_PREPARED (\d+):)? (\d{4,}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?) UTC`)

// CountDiscarded counts the commits between two positions on the way to a
// timeline: from a fork to the own end. What was prepared and not committed is
// not counted.
func (o Own) CountDiscarded(ctx context.Context, timeline cluster.Timeline, from, to cluster.LSN) (Discarded, error) {
	s, err := o.segments()
	if err != nil {
		return Discarded{}, err
	}
	h, err := o.History(timeline)
	if err != nil {
		return Discarded{}, err
	}
	d := Discarded{Listed: true}
	if to <= from {
		return d, nil
	}
	own := probes{}
	end, err := o.follow(ctx, s, h, span{from: from, to: to}, func(r record) {
		m := commitDesc.FindStringSubmatch(r.Desc)
		if r.Manager != "Transaction" || m == nil {
			own.see(r)
			return
		}
		if own[r.XID] {
			return
		}
		d.Commits++
		if len(d.Xacts) == listedXacts {
			d.Listed = false
			return
		}
		x := Xact{XID: r.XID, LSN: r.LSN}
		if n, err := strconv.ParseUint(m[1], 10, 32); err == nil {
			x.XID = uint32(n)
		}
		x.At, _ = time.Parse("2006-01-02 15:04:05", m[2])
		d.Xacts = append(d.Xacts, x)
	})
	if err != nil {
		return Discarded{}, err
	}
	if end.LSN < to {
		return d, fault.New(fault.SysFailure, "not all of the WAL from %s to %s is there to be counted", from, to).
			WithDetail("It could be read up to %s on timeline %d.", end.LSN, end.Timeline)
	}
	d.Bytes = int64(to - from)
	return d, nil
}

// probes are the transactions that hold nothing but a daemon's own empty message,
// by which it finds out whether the disk takes writes: nobody misses them.
type probes map[uint32]bool

func (p probes) see(r record) {
	if r.XID == 0 || r.Manager == "Transaction" {
		return
	}
	// The majors before 14 do not tell the prefix.
	message := r.Manager == "LogicalMessage" && (strings.Contains(r.Desc, `prefix "repmgr"`) || !strings.Contains(r.Desc, "prefix"))
	if before, seen := p[r.XID]; message && (!seen || before) {
		p[r.XID] = true
	} else {
		p[r.XID] = false
	}
}

// Kept is a copy of WAL.
type Kept struct {
	Path      string
	Bytes     int64
	Truncated bool // the limit did not allow for all
}

// KeepDiverged copies the segments that hold the WAL from a fork to its end, on
// the way to a timeline, and the history files, into a directory that it makes.
// The oldest segments are kept first, at most limit bytes of them. All is on disk
// when it returns. pg_waldump reads it there.
func (o Own) KeepDiverged(ctx context.Context, into string, fork cluster.LSN, timeline cluster.Timeline, limit int64) (Kept, error) {
	k := Kept{Path: into}
	s, err := o.segments()
	if err != nil {
		return k, err
	}
	h, err := o.History(timeline)
	if err != nil {
		return k, err
	}
	end, err := o.follow(ctx, s, h, span{from: fork, to: toTheEnd, skim: true}, nil)
	if err != nil {
		return k, err
	}
	if err := os.MkdirAll(into, 0o700); err != nil {
		return k, keepFault(err, into)
	}
	var names []string
	for at := fork - fork%s.size; at < end.LSN; at += s.size {
		for _, p := range h.pieces() {
			if p.end > fork && s.holds(p.timeline, at) {
				names = append(names, s.name(p.timeline, at))
			}
		}
	}
	for _, name := range names {
		if k.Bytes+int64(s.size) > limit {
			k.Truncated = true
			break
		}
		n, err := copyFile(ctx, o.walPath(name), filepath.Join(into, name))
		if err != nil {
			return k, keepFault(err, into)
		}
		k.Bytes += n
	}
	for _, p := range h.pieces() {
		name := historyFile(p.timeline)
		if _, err := copyFile(ctx, o.walPath(name), filepath.Join(into, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return k, keepFault(err, into)
		}
	}
	if err := errors.Join(host.SyncDir(into), host.SyncDir(filepath.Dir(into))); err != nil {
		return k, keepFault(err, into)
	}
	return k, nil
}

func keepFault(err error, into string) error {
	return fault.Wrap(err, fault.SysFailure, "the WAL beyond the fork could not be kept in %s", into).
		WithHint("Check the space left there, and that the directory may be written by the user of the daemon.")
}

// copyFile copies a file and syncs the copy.
func copyFile(ctx context.Context, from, to string) (n int64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	in, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return 0, err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, info.Mode().Perm())
	if err != nil {
		return 0, err
	}
	n, err = io.Copy(out, in)
	if err == nil {
		err = out.Sync()
	}
	return n, errors.Join(err, out.Close())
}
