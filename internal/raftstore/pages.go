package raftstore

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// The layout of a bbolt file, from go.etcd.io/bbolt/internal/common: a page
// begins with id (8 bytes), flags (2), count (2) and overflow (4); then come
// count elements of 16 bytes, which say where keys and values lie.
const (
	pageHead  = 16
	flagInner = 0x01
	flagLeaf  = 0x02
	flagFree  = 0x10
	leafIsSub = 0x01 // a leaf element that is a bucket
)

var le = binary.NativeEndian // bbolt writes the machine's order

// pages walks a file page by page. bbolt has a check of its own, but what it
// reads it trusts: a file that is torn ends the process there.
type pages struct {
	file []byte
	size uint64 // of a page
	end  uint64 // the first page that is not in use yet
	seen map[uint64]bool
}

// whole tells what is wrong with file, as of the transaction txid.
func whole(file []byte, size, txid int) error {
	p := pages{file: file, size: uint64(size), seen: map[uint64]bool{0: true, 1: true}}
	for _, at := range []int{0, size} {
		if len(file) < at+size {
			return fmt.Errorf("the file is cut off: it has %d bytes", len(file))
		}
		meta := file[at+pageHead:] // magic, version, page size, flags: 16 bytes; root, sequence, free list, end, txid: 8 each
		if le.Uint64(meta[48:]) != uint64(txid) {
			continue
		}
		if p.end = le.Uint64(meta[40:]); p.end > uint64(len(file))/p.size {
			return fmt.Errorf("the file is cut off: it has %d bytes, and %d pages in use", len(file), p.end)
		}
		if err := p.visit(le.Uint64(meta[16:])); err != nil {
			return err
		}
		return p.free(le.Uint64(meta[32:]))
	}
	return fmt.Errorf("neither of its first two pages is that of transaction %d", txid)
}

// page returns a page that nothing else has claimed.
func (p pages) page(id uint64) ([]byte, error) {
	if id >= p.end {
		return nil, fmt.Errorf("page %d of %d", id, p.end)
	}
	b := p.file[id*p.size:]
	n := 1 + uint64(le.Uint32(b[12:]))
	if le.Uint64(b) != id || n > p.end-id {
		return nil, fmt.Errorf("page %d says that it is page %d, with %d more", id, le.Uint64(b), n-1)
	}
	for i := id; i < id+n; i++ {
		if p.seen[i] {
			return nil, fmt.Errorf("page %d is used twice", i)
		}
		p.seen[i] = true
	}
	return b[:n*p.size], nil
}

func (p pages) visit(id uint64) error {
	b, err := p.page(id)
	if err == nil {
		err = p.walk(b)
	}
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// walk follows what a page points to.
func (p pages) walk(b []byte) error {
	if len(b) < pageHead {
		return fmt.Errorf("a page of %d bytes", len(b))
	}
	flags, count := le.Uint16(b[8:]), int(le.Uint16(b[10:]))
	if len(b) < pageHead*(1+count) || (flags == flagInner && count == 0) || (flags != flagInner && flags != flagLeaf) {
		return fmt.Errorf("%d elements of kind %d", count, flags)
	}
	var last []byte
	for i := range count {
		e := b[pageHead*(1+i):]
		pos, key, value := uint64(le.Uint32(e)), uint64(le.Uint32(e[4:])), uint64(0)
		if flags == flagLeaf {
			pos, key, value = uint64(le.Uint32(e[4:])), uint64(le.Uint32(e[8:])), uint64(le.Uint32(e[12:]))
		}
		if pos+key+value > uint64(len(e)) {
			return fmt.Errorf("element %d goes over its end", i)
		}
		if k := e[pos : pos+key]; i > 0 && bytes.Compare(last, k) >= 0 {
			return fmt.Errorf("element %d is out of order", i)
		} else {
			last = k
		}
		var err error
		if flags == flagInner {
			err = p.visit(le.Uint64(e[8:]))
		} else if le.Uint32(e)&leafIsSub != 0 {
			err = p.bucket(e[pos+key : pos+key+value])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bucket follows a bucket: its root page, or a page within the value.
func (p pages) bucket(b []byte) error {
	if len(b) < 16 {
		return fmt.Errorf("a bucket of %d bytes", len(b))
	}
	if root := le.Uint64(b); root != 0 {
		return p.visit(root)
	}
	return p.walk(b[16:])
}

// free checks that no page is both free and in use.
func (p pages) free(id uint64) error {
	b, err := p.page(id)
	if err != nil {
		return fmt.Errorf("free list: %w", err)
	}
	count, ids := uint64(le.Uint16(b[10:])), b[pageHead:]
	if count == 0xffff { // more do not fit: the first one is the number
		count, ids = le.Uint64(ids), ids[8:]
	}
	if le.Uint16(b[8:]) != flagFree || count > uint64(len(ids))/8 {
		return fmt.Errorf("free list: %d elements of kind %d", count, le.Uint16(b[8:]))
	}
	for i := range count {
		free := le.Uint64(ids[8*i:])
		if free >= p.end || p.seen[free] {
			return fmt.Errorf("page %d is free and in use", free)
		}
		p.seen[free] = true
	}
	return nil
}
