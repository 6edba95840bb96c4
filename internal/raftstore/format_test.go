package raftstore

import (
	"bytes"
	"compress/gzip"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"go.etcd.io/raft/v3/raftpb"

	"repmgr/internal/fault"
	"repmgr/internal/quorum"
)

var update = flag.Bool("update", false, "write the store of today's format")

// kept is the store that stands in testdata, as it was made.
func kept() (quorum.Stored, map[string]string) {
	return quorum.Stored{
			HardState: hard(3, 0xb, 12), Snapshot: snapshot(10, 2, `{"format":1}`),
			Entries: []*raftpb.Entry{entry(11, 2, "eleven"), entry(12, 3, "twelve"), entry(13, 3, "")},
		}, map[string]string{
			"seal": `{"vacancy":7}`, "raft-id": "\x00\x00\x00\x00\x00\x00\x00\x0a",
			homeKey: `{"machine":"m","file":"f"}`,
		}
}

func write1(t *testing.T, fixture string) {
	t.Helper()
	dir := t.TempDir()
	s := open(t, dir)
	st, notes := kept()
	err := s.Create(us, st)
	for key, value := range notes {
		if err == nil {
			err = s.Put(key, []byte(value))
		}
	}
	if err == nil {
		err = s.Close()
	}
	var packed bytes.Buffer
	text, readErr := os.ReadFile(filepath.Join(dir, FileName))
	z := gzip.NewWriter(&packed)
	_, zipErr := z.Write(text)
	for _, err := range []error{err, readErr, zipErr, z.Close(), os.WriteFile(fixture, packed.Bytes(), 0o644)} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A store of format 1 is read by this version and by every later one. The file in testdata
// is never written again: a later format gets one of its own.
func TestStoreOfFormat1(t *testing.T) {
	const fixture = "testdata/quorum-1.db.gz"
	if *update && Format == 1 {
		write1(t, fixture)
	}
	packed, err := os.Open(fixture)
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	z, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, FileName)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	want, notes := kept()
	id, got, found, err := s.Load()
	if first := us; err != nil || !found || !same(got, want) || id.Group != first.Group || id.RaftID != first.RaftID || id.Node != first.Node || id.SystemID != first.SystemID || id.Format != 1 {
		t.Errorf("%+v %+v %v %v", id, got, found, err)
	}
	for key, value := range notes {
		if v, found, err := s.Get(key); err != nil || !found || string(v) != value {
			t.Errorf("%s is %q, %v %v", key, v, found, err)
		}
	}
	if err := s.Save(quorum.Durable{Entries: []*raftpb.Entry{entry(14, 3, "fourteen")}, MustSync: true}); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// One of a newer format is refused by whoever opens it, and nothing of it is changed.
func TestStoreOfANewerFormat(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := s.Create(us, quorum.Found(us.RaftID, []byte("founded"))); err != nil {
		t.Fatal(err)
	}
	newer := us
	newer.Format = Format + 1
	err := s.db.Update(func(tx *bbolt.Tx) error {
		if _, err := tx.CreateBucket([]byte("parts")); err != nil { // that this version knows nothing of
			return err
		}
		return put(tx, bucketState, keyIdentity, newer.encode())
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.db.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, FileName)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := Open(dir); fault.CodeOf(err) != fault.BadConfig || !strings.Contains(err.Error(), "of a newer program") {
			t.Errorf("%v", err)
		}
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("it was touched (%v)", err)
	}
}
