package server

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/pg"
)

// A server's WAL, cut and damaged at many places, ends for scan where it ends for
// pg_waldump.
func TestCoreScanAsWaldump(t *testing.T) {
	t.Parallel()
	i, end := mixed(t)
	s, err := i.segments()
	check(t, err)
	whole := map[string][]byte{}
	for name := range s.have {
		text, err := os.ReadFile(i.walPath(name))
		check(t, err)
		whole[name] = text
	}
	names := slices.Sorted(maps.Keys(whole))
	seed := rand.Uint64()
	t.Logf("seed %d; segments %v, end %s", seed, names, end)
	chance := rand.New(rand.NewPCG(seed, 1))
	copied := Own{Config: &conf.Config{DataDirectory: tempDir(t), PgBindir: testBin}}
	check(t, os.Mkdir(copied.walPath(""), 0o700))
	first := end - end%s.size
	for s.holds(1, first-s.size) {
		first -= s.size
	}
	unusual := 0
	for round := range 40 {
		files := maps.Clone(whole)
		what := damage(chance, files, names, round)
		for _, name := range names {
			path := copied.walPath(name)
			if text, ok := files[name]; ok {
				check(t, os.WriteFile(path, text, 0o600))
			} else {
				check(t, errors.Join(os.WriteFile(path, nil, 0o600), os.Remove(path)))
			}
		}
		s, err := copied.segments()
		check(t, err)
		from := first
		if round > 0 { // also after a segment switch, where nothing comes
			from += cluster.LSN(chance.Uint64N(uint64(end - first)))
		}
		w := span{1, from, toTheEnd, true}
		if round%4 == 1 {
			w.to = from + cluster.LSN(chance.Uint64N(uint64(s.size)*2))&^7
		}
		count := 0
		got, found, err := copied.scan(within(t), s, w, func(record) { count++ })
		if errors.Is(err, errUnusual) {
			unusual++
			continue
		}
		check(t, err)
		want, wantFound, err := copied.skim(within(t), s, w, nil)
		if err != nil { // it gives up where a file begins with zeros
			if found || !strings.Contains(explain(err), "segment size") {
				t.Errorf("round %d, %s, %+v: scan ends at %s (%v), pg_waldump says %s", round, what, w, got, found, explain(err))
			}
			continue
		}
		if got != want || found != wantFound {
			t.Errorf("round %d, %s, %+v: scan ends at %s (%v) after %d records, pg_waldump at %s (%v)", round, what, w, got, found, count, want, wantFound)
		}
		if round == 0 && (got != end || count == 0) {
			t.Errorf("the end is %s, found was %s after %d records", end, got, count)
		}
	}
	if unusual > 20 {
		t.Errorf("%d of 40 were unusual", unusual)
	}
}

// mixed is a stopped server with records of many kinds and lengths, and the end of its WAL.
func mixed(t *testing.T) (*instance, cluster.LSN) {
	i := newInstance(t, "wal_level = logical\nfull_page_writes = on")
	i.start(t)
	i.exec(t, "CREATE TABLE t (i int, s text)", "CREATE INDEX ON t (i)")
	for n := range 4 { // records within a page, over pages and over segments, and segments closed early
		i.exec(t, "INSERT INTO t SELECT g, repeat('x', g % 2000) FROM generate_series(1, 400) g",
			fmt.Sprintf("SELECT pg_logical_emit_message(false, 'test', repeat('y', %d))", 30000+n*300000),
			"CHECKPOINT", "UPDATE t SET i = i + 1")
		if n%2 == 1 {
			i.exec(t, "SELECT pg_switch_wal()")
		}
	}
	i.exec(t, "INSERT INTO t VALUES (0)")
	end := i.flushed(t)
	i.stop(t, pg.Immediate)
	return i, end
}

// damage changes segments at places of chance, and says how. The first round is whole.
func damage(chance *rand.Rand, files map[string][]byte, names []string, round int) string {
	name := names[chance.IntN(len(names))]
	text := slices.Clone(files[name])
	files[name] = text
	at := chance.IntN(len(text))
	page := at / walPage * walPage
	switch round % 8 {
	case 0:
		if round > 0 {
			delete(files, name)
			return "without " + name
		}
		return "whole"
	case 1, 5:
		text[at] ^= byte(1 << chance.IntN(8))
		return fmt.Sprintf("a bit of %s at %d", name, at)
	case 2: // as a crash in the middle of a write would leave it
		clear(text[at:])
		return fmt.Sprintf("%s from %d on", name, at)
	case 3:
		clear(text[page:])
		return fmt.Sprintf("%s from page %d on", name, page)
	case 4: // a page of another segment, as in a file that was recycled
		other := files[names[chance.IntN(len(names))]]
		copy(text[page:page+walPage], other[page:])
		return fmt.Sprintf("page %d of %s is another's", page, name)
	case 6:
		field := []int{0, 2, 4, 8, 16}[chance.IntN(5)]
		text[page+field]++
		return fmt.Sprintf("header of page %d of %s at %d", page, name, field)
	default:
		clear(text[at:min(len(text), at+chance.IntN(200))])
		return fmt.Sprintf("some bytes of %s at %d", name, at)
	}
}

// Whatever a data directory is read for, a process is started only for WAL that
// is not plain: here a page that says that a record was given up.
func TestScanLeavesTheUnusual(t *testing.T) {
	t.Parallel()
	w := newWritten(4 * walPage)
	for range 40 {
		w.add(500)
	}
	if _, err := w.scan(w.begin); err != nil {
		t.Fatal(err)
	}
	at := (w.begin/walPage + 1) * walPage
	for what, change := range map[string]func(page []byte){
		"a record that was given up": func(p []byte) { p[2] |= 8 },
		"another format":             func(p []byte) { p[0]++ },
		"a long header":              func(p []byte) { p[2] |= isLong },
	} {
		c := *w
		c.text = bytes.Clone(w.text)
		change(c.text[at-c.base:])
		if _, err := c.scan(w.begin); !errors.Is(err, errUnusual) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Records of all lengths are found again, over pages and segments, and a segment
// switch that itself lies over two segments takes the rest of the second.
func TestScanFindsAll(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 2))
	for range 50 {
		w := newWritten(2 * walPage)
		for range 60 {
			w.add(recordHeader + chance.IntN(1<<chance.IntN(16)))
		}
		for _, from := range []cluster.LSN{w.begin, w.begin + cluster.LSN(chance.Uint64N(uint64(w.end-w.begin)))} {
			got, err := w.scan(from)
			check(t, err)
			want := slices.DeleteFunc(slices.Clone(w.records), func(r record) bool { return r.LSN < from })
			if !slices.Equal(got, want) {
				t.Fatalf("from %s: %d records, %d were written", from, len(got), len(want))
			}
		}
	}
	w := newWritten(2 * walPage)
	w.add(2*walPage - longHeader - shortHeader - 16) // leaves 16 bytes of its segment
	w.head = [2]byte{switchKind, switchManager}
	w.add(recordHeader)
	got, err := w.scan(w.begin)
	check(t, err)
	if last := got[len(got)-1]; len(got) != 2 || last.LSN != w.base+2*walPage-16 || last.End != w.base+4*walPage {
		t.Errorf("%v", got)
	}
}

func FuzzScan(f *testing.F) {
	w := newWritten(2 * walPage)
	for n := range 30 {
		w.add(recordHeader + n*n*3)
	}
	f.Add(uint32(0), uint32(0), []byte{})
	f.Add(uint32(walPage), uint32(walPage+2), []byte{9, 0})
	f.Add(uint32(70), uint32(40), []byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, from, at uint32, with []byte) {
		c := *w
		c.text = bytes.Clone(w.text)
		copy(c.text[int(at)%len(c.text):], with)
		start := c.base + cluster.LSN(from)%cluster.LSN(len(c.text))
		got, err := c.scan(start)
		if err != nil && !errors.Is(err, errUnusual) {
			t.Fatal(err)
		}
		for n, r := range got {
			if r.LSN < start || r.End < r.LSN+recordHeader || n > 0 && r.LSN != begins(got[n-1].End, c.segment) {
				t.Fatalf("%d: %+v", n, got)
			}
		}
	})
}

// written is WAL as PostgreSQL writes it.
type written struct {
	segment, base, begin, end cluster.LSN
	text                      []byte
	before                    cluster.LSN
	head                      [2]byte // kind and manager of the next record
	records                   []record
}

func newWritten(segment cluster.LSN) *written {
	w := &written{segment: segment, base: 8 * segment, head: [2]byte{0, 10}}
	w.end = w.base
	w.begin = begins(w.base, segment)
	return w
}

// grow makes pages up to a position; left is what the new page continues.
func (w *written) grow(to cluster.LSN, left uint32) {
	for w.base+cluster.LSN(len(w.text)) < to {
		at := w.base + cluster.LSN(len(w.text))
		p := make([]byte, walPage)
		order.PutUint16(p, 0xD110)
		order.PutUint32(p[4:], 1)
		order.PutUint64(p[8:], uint64(at))
		flags := uint16(0)
		if left > 0 {
			flags |= continues
			order.PutUint32(p[16:], left)
		}
		if at%w.segment == 0 {
			flags |= isLong
			order.PutUint32(p[32:], uint32(w.segment))
			order.PutUint32(p[36:], walPage)
		}
		order.PutUint16(p[2:], flags)
		w.text = append(w.text, p...)
	}
}

// add writes a record of that length.
func (w *written) add(length int) {
	at := begins(w.end, w.segment)
	text := make([]byte, length)
	order.PutUint32(text, uint32(length))
	order.PutUint64(text[8:], uint64(w.before))
	text[16], text[17] = w.head[0], w.head[1]
	for n := recordHeader; n < length; n++ {
		text[n] = byte(n)
	}
	sum := crc32.Checksum(text[recordHeader:], castagnoli)
	order.PutUint32(text[checksumAt:], crc32.Update(sum, castagnoli, text[:checksumAt]))
	for to := at; len(text) > 0; {
		left := uint32(0)
		if to != at {
			left = uint32(len(text))
		}
		w.grow(to+1, left)
		to = begins(to, w.segment)
		n := copy(w.text[to-w.base:(to/walPage+1)*walPage-w.base], text)
		text, w.end, to = text[n:], to+cluster.LSN(n), to+cluster.LSN(n)
	}
	w.end = aligned(w.end)
	w.records = append(w.records, record{LSN: at, End: w.end})
	w.before = at
}

func (w *written) ReadAt(p []byte, at int64) (int, error) {
	if n := copy(p, w.text[min(len(w.text), int(at)-int(w.base)):]); n < len(p) {
		clear(p[n:])
	}
	return len(p), nil
}

var _ io.ReaderAt = (*written)(nil)

func (w *written) scan(from cluster.LSN) ([]record, error) {
	var out []record
	r := &scanner{wal: w, segment: w.segment, limit: w.base + cluster.LSN(len(w.text)) + 2*w.segment}
	err := r.each(from, func(r record) { out = append(out, r) })
	return out, err
}

// BenchmarkScan is the whole way to the end of a segment.
func BenchmarkScan(b *testing.B) {
	w := newWritten(1 << 20)
	for w.end < w.base+1<<20-walPage {
		w.add(120)
	}
	b.SetBytes(1 << 20)
	for b.Loop() {
		if got, err := w.scan(w.begin); err != nil || len(got) != len(w.records) {
			b.Fatal(err)
		}
	}
}
