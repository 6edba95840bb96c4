package server

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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
// when it returns, and nothing is left where it fails. A directory that is there
// already was made by an earlier try, and is complete. pg_waldump reads it there.
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
	var names []string
	for at := fork - fork%s.size; at < end.LSN; at += s.size {
		for _, p := range h.pieces() {
			if p.end <= fork || !s.holds(p.timeline, at) {
				continue
			}
			if k.Truncated = k.Truncated || k.Bytes+int64(s.size) > limit; !k.Truncated {
				names = append(names, s.name(p.timeline, at))
				k.Bytes += int64(s.size)
			}
		}
	}
	if _, err := os.Stat(into); err == nil {
		return k, nil
	}
	making := into + ".partial"
	if err := o.keep(ctx, making, names, h); err != nil {
		return k, keepFault(errors.Join(err, os.RemoveAll(making)), into)
	}
	if err := errors.Join(os.Rename(making, into), host.SyncDir(filepath.Dir(into))); err != nil {
		return k, keepFault(err, into)
	}
	return k, nil
}

// keep copies those segments and the history files of a timeline.
func (o Own) keep(ctx context.Context, into string, names []string, h History) error {
	if err := errors.Join(os.RemoveAll(into), os.MkdirAll(into, 0o700)); err != nil {
		return err
	}
	for _, name := range names {
		if _, err := copyFile(ctx, o.walPath(name), filepath.Join(into, name)); err != nil {
			return err
		}
	}
	for _, p := range h.pieces() {
		name := historyFile(p.timeline)
		if _, err := copyFile(ctx, o.walPath(name), filepath.Join(into, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return host.SyncDir(into)
}

// KeepNewest removes the oldest of what was kept, until all of it has at most limit
// bytes; last stays whatever it has. It returns what it removed.
func KeepNewest(all []string, last string, limit int64) (removed []string, err error) {
	type kept struct {
		path  string
		at    time.Time
		bytes int64
	}
	var list []kept
	total := int64(0)
	for _, path := range all {
		k := kept{path: path}
		err := filepath.WalkDir(path, func(_ string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := e.Info()
			if err == nil && e.IsDir() {
				k.at = info.ModTime()
			} else if err == nil {
				k.bytes += info.Size()
			}
			return err
		})
		if err != nil {
			return nil, keepFault(err, path)
		}
		list, total = append(list, k), total+k.bytes
	}
	slices.SortFunc(list, func(a, b kept) int { return a.at.Compare(b.at) })
	for _, k := range list {
		if total <= limit || k.path == last {
			continue
		}
		if err := os.RemoveAll(k.path); err != nil {
			return removed, keepFault(err, k.path)
		}
		removed, total = append(removed, k.path), total-k.bytes
	}
	return removed, nil
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
