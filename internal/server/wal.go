package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
)

// walPage is XLOG_BLCKSZ of every packaged server.
const walPage = 8192

// segments is what pg_wal holds: the names of its segments, and their size.
type segments struct {
	size cluster.LSN
	have map[string]bool
}

var segmentName = regexp.MustCompile(`^[0-9A-F]{24}$`)

// segments lists pg_wal. A segment's file has its full size from the beginning.
func (o Own) segments() (segments, error) {
	entries, err := os.ReadDir(o.walPath(""))
	if err != nil {
		return segments{}, fault.Wrap(err, fault.SysFailure, "write-ahead log of %s", o.dir())
	}
	s := segments{have: map[string]bool{}}
	for _, e := range entries {
		if !segmentName.MatchString(e.Name()) {
			continue
		}
		s.have[e.Name()] = true
		if s.size == 0 {
			if info, err := e.Info(); err == nil { // else it was removed just now
				s.size = cluster.LSN(info.Size())
			}
		}
	}
	if s.size < walPage || s.size&(s.size-1) != 0 {
		return segments{}, fault.New(fault.SysFailure, "write-ahead log of %s", o.dir()).
			WithDetail("It holds %d segments, of %d bytes.", len(s.have), s.size)
	}
	return s, nil
}

// name is that of the segment that holds a position.
func (s segments) name(timeline cluster.Timeline, at cluster.LSN) string {
	number, perFile := at/s.size, (1<<32)/s.size
	return fmt.Sprintf("%08X%08X%08X", uint32(timeline), uint32(number/perFile), uint32(number%perFile))
}

func (s segments) holds(timeline cluster.Timeline, at cluster.LSN) bool {
	return s.have[s.name(timeline, at)]
}

// last is the start of the last segment in a row, from that of a position on,
// that begins before to.
func (s segments) last(timeline cluster.Timeline, from, to cluster.LSN) cluster.LSN {
	at := from - from%s.size
	for at+s.size < to && s.holds(timeline, at+s.size) {
		at += s.size
	}
	return at
}

// record is one record of the write-ahead log.
type record struct {
	Manager  string // resource manager: XLOG, Transaction, Heap ...
	LSN, End cluster.LSN
	XID      uint32
	Desc     string // as pg_waldump words it
}

// toTheEnd is a limit that is none.
const toTheEnd = ^cluster.LSN(0)

// span is a piece of one timeline: records that begin at From or later and end at
// To at the latest.
type span struct {
	timeline cluster.Timeline
	from, to cluster.LSN
	skim     bool // only where records begin and end is asked for
}

// EndOfWAL is the end of the last valid record in pg_wal from a position on, on
// that timeline alone; from itself if there is none. The server may run or not.
// What is valid is what PostgreSQL's own reader takes: that is where a promotion
// would end (A6). The position may be any, also within a record.
func (o Own) EndOfWAL(ctx context.Context, timeline cluster.Timeline, from cluster.LSN) (cluster.LSN, error) {
	s, err := o.segments()
	if err != nil {
		return 0, err
	}
	end, _, err := o.walk(ctx, s, span{timeline, from, toTheEnd, true}, nil)
	return max(end, from), err
}

// skimmed is how many records are printed before the rest is read without that,
// which is much faster.
const skimmed = 1000

var lastRecord = regexp.MustCompile(`error in WAL record at ([0-9A-F]+/[0-9A-F]+)`)

// walk reads a span and calls each, which may be nil, for its records. The end
// is that of the last of them. Without any, found is false. Where only positions
// are asked for, no process is started, unless the WAL is unusual; of long spans
// some records are left out then, and the first may be seen twice.
func (o Own) walk(ctx context.Context, s segments, w span, each func(record)) (end cluster.LSN, found bool, err error) {
	if !w.skim {
		end, found, _, err = o.read(ctx, s, w, each)
		return end, found, err
	}
	if end, found, err = o.scan(ctx, s, w, each); err == nil {
		return end, found, nil
	}
	return o.skim(ctx, s, w, each)
}

// skim is walk by pg_waldump, of whose records each sees the first and the last.
func (o Own) skim(ctx context.Context, s segments, w span, each func(record)) (end cluster.LSN, found bool, err error) {
	count, at := 0, w.from
	end, found, _, err = o.read(ctx, s, w, func(r record) {
		count, at = count+1, r.LSN
		if each != nil {
			each(r)
		}
	}, "-n", strconv.Itoa(skimmed))
	if err != nil || count < skimmed {
		return end, found, err
	}
	_, _, said, err := o.read(ctx, s, span{w.timeline, at, w.to, false}, nil, "--quiet")
	if err != nil {
		return 0, false, err
	}
	if m := lastRecord.FindStringSubmatch(said); m != nil { // it names the last valid one
		if last, err := cluster.ParseLSN(m[1]); err == nil && last > at {
			end, found, _, err := o.read(ctx, s, span{w.timeline, last, w.to, false}, each)
			if err != nil || found {
				return end, found, err
			}
		}
	}
	end, found, _, err = o.read(ctx, s, span{w.timeline, at, w.to, false}, each)
	return end, found, err
}

// read runs pg_waldump over a span, and returns its messages too.
func (o Own) read(ctx context.Context, s segments, w span, each func(record), more ...string) (end cluster.LSN, found bool, said string, err error) {
	if !s.holds(w.timeline, w.from) || w.from >= w.to {
		return 0, false, "", nil
	}
	program, err := o.tool("pg_waldump")
	if err != nil {
		return 0, false, "", err
	}
	last := s.last(w.timeline, w.from, w.to)
	args := append([]string{"-p", o.walPath(""), "-s", w.from.String()}, more...)
	if w.to > last && w.to <= last+s.size {
		args = append(args, "-e", w.to.String())
	}
	// Named segments: from the first of them it learns their size, which it else
	// takes from any file that it comes across, a preallocated one too.
	args = append(args, s.name(w.timeline, w.from), s.name(w.timeline, last))
	said, err = dump(ctx, program, args, func(line string) error {
		r, err := parseRecord(line, s.size)
		if err != nil {
			return err
		}
		end, found = r.End, true
		if each != nil {
			each(r)
		}
		return nil
	})
	return end, found, said, err
}

// walEnds are the words in which pg_waldump says that there is no valid record
// from some place on: the regular end of what is on disk.
var walEnds = []string{"error in WAL record at", "could not find a valid record after", "could not find file"}

// dump runs pg_waldump, hands on its lines and returns its messages.
func dump(ctx context.Context, program string, args []string, line func(string) error) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "LANGUAGE=C", "TZ=UTC")
	cmd.WaitDelay = time.Second
	var messages bytes.Buffer
	cmd.Stderr = &messages
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return "", fault.Wrap(err, fault.LocalCommand, "start of pg_waldump")
	}
	lines := bufio.NewReader(out)
	var bad error
	for bad == nil {
		text, err := lines.ReadString('\n')
		if strings.HasPrefix(text, "rmgr: ") && strings.HasSuffix(text, "\n") { // else a remark on where it begins
			bad = line(text)
		}
		if err != nil {
			break
		}
	}
	if bad != nil {
		_ = cmd.Process.Kill()
	}
	_, _ = io.Copy(io.Discard, lines)
	err = cmd.Wait()
	switch {
	case bad != nil:
		return "", bad
	case ctx.Err() != nil:
		return "", fault.Wrap(ctx.Err(), fault.LocalCommand, "pg_waldump was stopped")
	case err != nil && !regularEnd(messages.String()):
		return "", fault.Wrap(err, fault.LocalCommand, "pg_waldump %s", strings.Join(args, " ")).
			WithDetail("It said: %s", strings.TrimSpace(messages.String()))
	}
	return messages.String(), nil
}

func regularEnd(messages string) bool {
	for _, end := range walEnds {
		if strings.Contains(messages, end) {
			return true
		}
	}
	return false
}

// recordLine is a line of pg_waldump, of all majors: 18 pads the second half of
// a position with zeros.
var recordLine = regexp.MustCompile(`^rmgr: (\S+) +len \(rec/tot\): *\d+/ *(\d+), tx: *(\d+), lsn: ([0-9A-F]+/[0-9A-F]+), prev [0-9A-F/]+, desc: (.*)`)

func parseRecord(line string, segment cluster.LSN) (record, error) {
	m := recordLine.FindStringSubmatch(line)
	if m == nil {
		return record{}, fault.New(fault.LocalCommand, "a line of pg_waldump cannot be read").WithDetail("It is %q.", line)
	}
	length, errL := strconv.ParseUint(m[2], 10, 32)
	xid, errX := strconv.ParseUint(m[3], 10, 32)
	at, errA := cluster.ParseLSN(m[4])
	if err := errors.Join(errL, errX, errA); err != nil {
		return record{}, fault.Wrap(err, fault.LocalCommand, "a line of pg_waldump cannot be read").WithDetail("It is %q.", line)
	}
	r := record{Manager: m[1], LSN: at, XID: uint32(xid), Desc: strings.TrimSpace(m[5])}
	r.End = endOfRecord(at, cluster.LSN(length), segment)
	if r.Manager == "XLOG" && r.Desc == "SWITCH" {
		r.End = segmentEnd(r.End, segment)
	}
	return r, nil
}

// begins is where the record after a position begins: after the page's header.
func begins(at, segment cluster.LSN) cluster.LSN {
	switch {
	case at%segment == 0:
		return at + longHeader
	case at%walPage == 0:
		return at + shortHeader
	}
	return at
}

// endOfRecord is where the next record may begin, as xlogreader.c counts: a
// record goes on over pages, each with a header, and fills up to 8 bytes.
func endOfRecord(at, length, segment cluster.LSN) cluster.LSN {
	for length > 0 {
		at = begins(at, segment)
		n := min(length, walPage-at%walPage)
		at, length = at+n, length-n
	}
	return aligned(at)
}

// aligned is MAXALIGN: what comes next begins at a multiple of 8 bytes.
func aligned(at cluster.LSN) cluster.LSN { return (at + 7) &^ 7 }

// segmentEnd is where a segment switch ends that ends there by its length: it takes the
// rest of the segment.
func segmentEnd(end, segment cluster.LSN) cluster.LSN { return (end + segment - 1) / segment * segment }

// readAll reads a file; one that does not exist is empty and no error.
func readAll(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return text, err
}
