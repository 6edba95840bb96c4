package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"repmgr/internal/cluster"
)

// What the WAL looks like is told by PostgreSQL's access/xlog_internal.h (pages)
// and access/xlogrecord.h (records), what is valid by
// access/transam/xlogreader.c. Numbers are in the machine's byte order.
const (
	shortHeader  = 24 // of a page: magic, flags, timeline, address, what is left of a record
	longHeader   = 40 // of a segment's first page: and the system, the sizes of segment and page
	recordHeader = 24 // length, transaction, the record before, kind, manager, checksum
	checksumAt   = 20

	continues = 0x0001 // the page begins within a record
	isLong    = 0x0002
	known     = 0x0007 // flags; the one beside them is that of a record that was given up (XLP_FIRST_IS_OVERWRITE_CONTRECORD)

	lastManager   = 21 // RM_LOGICALMSG_ID is the last of 13 to 18
	switchManager = 0
	switchKind    = 0x40
	kindMask      = 0xf0

	scanAhead = 128 << 10 // is read at a time
)

// magics are XLOG_PAGE_MAGIC of 13, 14, 15, 16, 17 and 18.
var magics = map[uint16]bool{0xD106: true, 0xD10D: true, 0xD110: true, 0xD113: true, 0xD116: true, 0xD118: true}

var (
	// errNoRecord is the end of what is valid.
	errNoRecord = errors.New("no valid record")
	// errUnusual is WAL that is PostgreSQL's own reader's to judge.
	errUnusual = errors.New("unusual WAL")

	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	order      = binary.NativeEndian
)

// scanner reads records as xlogreader.c does, without looking into them.
type scanner struct {
	wal     io.ReaderAt // by position in the WAL; reads end with their segment
	segment cluster.LSN
	limit   cluster.LSN // no record ends later

	chunk []byte // what was read last, and where that begins
	at    cluster.LSN
	magic uint16
	seen  cluster.LSN // the last page that was checked
	line  uint32      // and its timeline
}

// scan calls each for the records of a span, and returns the end of the last.
// Whatever is not plain is errUnusual: then pg_waldump is to be asked, and each may
// have been called for the first records already.
func (o Own) scan(ctx context.Context, s segments, w span, each func(record)) (end cluster.LSN, found bool, err error) {
	if !s.holds(w.timeline, w.from) || w.from >= w.to {
		return 0, false, nil
	}
	files := &walFiles{ctx: ctx, own: o, segments: s, timeline: w.timeline}
	defer files.close()
	r := &scanner{wal: files, segment: s.size, limit: min(w.to, s.last(w.timeline, w.from, w.to)+s.size)}
	err = r.each(w.from, func(rec record) {
		end, found = rec.End, true
		if each != nil {
			each(rec)
		}
	})
	return end, found, err
}

// each calls do for all records that begin at a position or later. As
// XLogFindNextRecord does, it begins with the first record of that page.
func (r *scanner) each(from cluster.LSN, do func(record)) error {
	at, err := r.first(from)
	before := cluster.LSN(0)
	for err == nil {
		var rec record
		if rec, err = r.next(at, before); err == nil {
			at, before = rec.End, rec.LSN
			if rec.LSN >= from {
				do(rec)
			}
		}
	}
	if errors.Is(err, errNoRecord) {
		return nil
	}
	return err
}

// first is where a record begins on the page of a position, or on the first page
// after it on which one does.
func (r *scanner) first(from cluster.LSN) (cluster.LSN, error) {
	page := from - from%walPage
	if start := from - from%r.segment; start != page {
		if _, err := r.page(start); err != nil {
			return 0, err
		}
	}
	for ; ; page += walPage {
		p, err := r.page(page)
		if err != nil {
			return 0, err
		}
		header := r.headerSize(page)
		rest := cluster.LSN(0)
		if order.Uint16(p[2:])&continues != 0 {
			rest = aligned(cluster.LSN(order.Uint32(p[16:])))
		}
		if rest < walPage-header {
			return page + header + rest, nil
		}
	}
}

// next is the record at a position; before is that of the record before, zero if
// it is not known.
func (r *scanner) next(at, before cluster.LSN) (record, error) {
	page := at - at%walPage
	p, err := r.page(page)
	if err != nil {
		return record{}, err
	}
	at = begins(at, r.segment)
	offset := at - page
	header := r.headerSize(page)
	if offset < header || offset == header && order.Uint16(p[2:])&continues != 0 {
		return record{}, errNoRecord
	}
	var head [recordHeader]byte
	var sum uint32
	length := cluster.LSN(order.Uint32(p[offset:])) // positions are aligned: it is on this page
	if length < recordHeader {
		return record{}, errNoRecord
	}
	for got := cluster.LSN(0); ; {
		n := min(length-got, walPage-offset)
		if page+offset+n > r.limit {
			return record{}, errNoRecord
		}
		data := p[offset : offset+n]
		if got < recordHeader {
			k := copy(head[got:], data)
			data = data[k:]
			if got+cluster.LSN(k) == recordHeader && !follows(head, at, before) {
				return record{}, errNoRecord
			}
		}
		sum = crc32.Update(sum, castagnoli, data)
		if got += n; got == length {
			return r.finish(head, sum, at, page+offset+n)
		}
		page += walPage
		if p, err = r.page(page); err != nil {
			return record{}, err
		}
		left := cluster.LSN(order.Uint32(p[16:]))
		if order.Uint16(p[2:])&continues == 0 || left != length-got {
			return record{}, errNoRecord
		}
		offset = r.headerSize(page)
	}
}

// follows compares what a record says of the one before it.
func follows(head [recordHeader]byte, at, before cluster.LSN) bool {
	says := cluster.LSN(order.Uint64(head[8:]))
	if before == 0 {
		return says < at
	}
	return says == before
}

// finish checks a record's sum, over its data and then its header, and tells where it ends.
func (r *scanner) finish(head [recordHeader]byte, sum uint32, at, end cluster.LSN) (record, error) {
	if crc32.Update(sum, castagnoli, head[:checksumAt]) != order.Uint32(head[checksumAt:]) {
		return record{}, errNoRecord
	}
	kind, manager := head[16], head[17]
	if manager > lastManager {
		return record{}, fmt.Errorf("%w: resource manager %d at %s", errUnusual, manager, at)
	}
	rec := record{LSN: at, End: aligned(end), XID: order.Uint32(head[4:])}
	if manager == switchManager && kind&kindMask == switchKind {
		rec.End = segmentEnd(rec.End, r.segment)
	}
	return rec, nil
}

// page is a page whose header is right (XLogReaderValidatePageHeader). One of
// zeros, or with the address that it had before its file was recycled, is none.
func (r *scanner) page(at cluster.LSN) ([]byte, error) {
	if at+shortHeader >= r.limit {
		return nil, errNoRecord
	}
	p, err := r.load(at)
	if err != nil {
		return nil, err
	}
	magic, flags, line := order.Uint16(p), order.Uint16(p[2:]), order.Uint32(p[4:])
	long := at%r.segment == 0
	switch {
	case [shortHeader]byte(p) == [shortHeader]byte{}:
		return nil, errNoRecord
	case !magics[magic] || r.magic != 0 && magic != r.magic:
		return nil, fmt.Errorf("%w: magic number %04X at %s", errUnusual, magic, at)
	case cluster.LSN(order.Uint64(p[8:])) != at:
		return nil, errNoRecord
	case flags&^known != 0 || (flags&isLong != 0) != long:
		return nil, fmt.Errorf("%w: page flags %04X at %s", errUnusual, flags, at)
	case long && (order.Uint32(p[32:]) != uint32(r.segment) || order.Uint32(p[36:]) != walPage):
		return nil, fmt.Errorf("%w: segments of %d bytes, pages of %d", errUnusual, order.Uint32(p[32:]), order.Uint32(p[36:]))
	case at > r.seen && line < r.line:
		return nil, errNoRecord // a child's timeline is never followed by its parent's
	}
	r.magic, r.seen, r.line = magic, at, line
	return p, nil
}

func (r *scanner) load(at cluster.LSN) ([]byte, error) {
	if start := at - at%min(scanAhead, r.segment); r.chunk == nil || start != r.at {
		if r.chunk == nil {
			r.chunk = make([]byte, min(scanAhead, r.segment))
		}
		if _, err := r.wal.ReadAt(r.chunk, int64(start)); err != nil {
			r.at = toTheEnd
			return nil, fmt.Errorf("%w: %w", errUnusual, err)
		}
		r.at = start
	}
	return r.chunk[at-r.at:][:walPage], nil
}

func (r *scanner) headerSize(page cluster.LSN) cluster.LSN { return begins(page, r.segment) - page }

// walFiles are the segments of one timeline as one.
type walFiles struct {
	ctx      context.Context
	own      Own
	segments segments
	timeline cluster.Timeline
	file     *os.File
	name     string
}

// ReadAt implements io.ReaderAt, within one segment.
func (f *walFiles) ReadAt(p []byte, at int64) (int, error) {
	if err := f.ctx.Err(); err != nil {
		return 0, err
	}
	if name := f.segments.name(f.timeline, cluster.LSN(at)); name != f.name {
		f.close()
		file, err := os.Open(f.own.walPath(name))
		if err != nil {
			return 0, err
		}
		f.file, f.name = file, name
	}
	return f.file.ReadAt(p, at%int64(f.segments.size))
}

func (f *walFiles) close() {
	if f.file != nil {
		_ = f.file.Close()
	}
	f.file, f.name = nil, ""
}
