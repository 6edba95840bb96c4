package raftstore

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"repmgr/internal/fault"
	"repmgr/internal/quorum"
)

var us = Identity{Group: "6f9a1a52-6c49-4c3b-9f0e-8a5b3a3f0a11", RaftID: 0xa, Node: 1, SystemID: "7301", Format: Format}

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatalf("%v: %s", err, detail(err))
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func detail(err error) string {
	var f *fault.Error
	if errors.As(err, &f) {
		return f.Detail
	}
	return ""
}

func entry(index, term uint64, data string) *raftpb.Entry {
	return &raftpb.Entry{Index: new(index), Term: new(term), Data: []byte(data)}
}

func hard(term, vote, commit uint64) *raftpb.HardState {
	return &raftpb.HardState{Term: new(term), Vote: new(vote), Commit: new(commit)}
}

func snapshot(index, term uint64, data string) *raftpb.Snapshot {
	return &raftpb.Snapshot{Data: []byte(data), Metadata: &raftpb.SnapshotMetadata{
		Index: new(index), Term: new(term), ConfState: &raftpb.ConfState{Voters: []uint64{0xa}},
	}}
}

func same(a, b quorum.Stored) bool {
	return proto.Equal(a.HardState, b.HardState) && proto.Equal(a.Snapshot, b.Snapshot) &&
		slices.EqualFunc(a.Entries, b.Entries, func(x, y *raftpb.Entry) bool { return proto.Equal(x, y) })
}

func TestCreateLoadReset(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if _, _, found, err := s.Load(); found || err != nil {
		t.Fatalf("a new store: found %v, %v", found, err)
	}
	first := quorum.Found(us.RaftID, []byte("founded"))
	if err := s.Create(us, first); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(us, first); fault.CodeOf(err) != fault.BadConfig {
		t.Errorf("a second birth: %v", err)
	}
	for _, k := range []string{"seal", "rewind"} {
		if err := s.Put(k, []byte(k+" 7")); err != nil {
			t.Fatal(err)
		}
	}
	_ = s.Close()
	s = open(t, dir)
	id, st, found, err := s.Load()
	if err != nil || !found || id != us || !same(st, first) {
		t.Fatalf("loaded %+v %+v %v %v", id, st, found, err)
	}
	if info, err := os.Stat(filepath.Join(dir, FileName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := s.Reset("rewind"); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	s = open(t, dir)
	if id, st, found, err := s.Load(); found || err != nil || id.RaftID != 0 || !st.Empty() {
		t.Errorf("after a reset: %+v %+v %v %v", id, st, found, err)
	}
	if _, found, _ := s.Get("seal"); found {
		t.Error("the seal outlived the reset")
	}
	if v, _, _ := s.Get("rewind"); string(v) != "rewind 7" {
		t.Errorf("the note that was to be kept is %q", v)
	}
	if err := s.Delete("rewind"); err != nil {
		t.Fatal(err)
	}
	if _, found, _ := s.Get("rewind"); found {
		t.Error("the deleted note is there")
	}
	if err := s.Save(quorum.Durable{Entries: []*raftpb.Entry{entry(2, 1, "x")}, MustSync: true}); err == nil {
		t.Error("an entry was saved without a group")
	}
}

// TestSave compares the store with the rule, quorum.Stored, over any sequence
// of saves, compactions and restarts.
func TestSave(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	t.Cleanup(func() { _ = s.Close() })
	rapid.Check(t, func(rt *rapid.T) {
		s.db.NoSync = true // nobody pulls the plug here
		model := quorum.Found(us.RaftID, []byte("founded"))
		err := errors.Join(s.Reset(), s.Create(us, model))
		if err != nil {
			rt.Fatal(err)
		}
		term := uint64(1)
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			last, _ := model.Last()
			base := model.Snapshot.GetMetadata().GetIndex()
			switch rapid.IntRange(0, 4).Draw(rt, "step") {
			case 0, 1: // entries, some of which replace others
				first := rapid.Uint64Range(base+1, last+1).Draw(rt, "first")
				term++
				d := quorum.Durable{HardState: hard(term, 0xa, first-1), MustSync: true}
				for i := range rapid.Uint64Range(1, 5).Draw(rt, "entries") {
					d.Entries = append(d.Entries, entry(first+i, term, fmt.Sprint(first+i, term)))
				}
				model.Save(d)
				err = s.Save(d)
			case 2: // a commit index alone
				d := quorum.Durable{HardState: hard(term, 0xa, rapid.Uint64Range(base, last).Draw(rt, "commit"))}
				model.Save(d)
				err = s.Save(d)
			case 3: // a snapshot of somebody else's
				d := quorum.Durable{Snapshot: snapshot(last+10, term, "there"), HardState: hard(term, 0, last+10), MustSync: true}
				model.Save(d)
				err = s.Save(d)
			case 4: // one of our own
				snap := snapshot(rapid.Uint64Range(base, last).Draw(rt, "at"), term, "here")
				model.Compacted(snap)
				err = s.Compacted(snap)
			}
			if err == nil && rapid.Bool().Draw(rt, "restart") {
				if err = s.Close(); err == nil {
					s, err = Open(dir)
				}
				s.db.NoSync = true
			}
			if err != nil {
				rt.Fatal(err)
			}
			if _, got, _, err := s.Load(); err != nil || !same(got, model) {
				rt.Fatalf("loaded %v, expected %v (%v)", got, model, err)
			}
		}
	})
}

func TestRefused(t *testing.T) {
	code := func(what string, err error, words ...string) {
		t.Helper()
		var f *fault.Error
		if !errors.As(err, &f) || f.Code != fault.BadConfig || f.Hint == "" {
			t.Errorf("%s: %v", what, err)
			return
		}
		for _, w := range words {
			if !strings.Contains(f.Msg+f.Detail, w) {
				t.Errorf("%s: %q is not in %q, %q", what, w, f.Msg, f.Detail)
			}
		}
	}
	dir := t.TempDir()
	s := open(t, dir)
	_, err := Open(dir)
	code("a second process", err, "another process")
	code("another node", us.Belongs(2, "7301"), "Found: node 1", "Expected: 2")
	code("another system", us.Belongs(1, "7302"), "7301", "7302")
	for _, ok := range []error{us.Belongs(1, "7301"), us.Belongs(1, "")} {
		if ok != nil {
			t.Error(ok)
		}
	}
	if err := s.Create(us, quorum.Stored{}); err != nil {
		t.Fatal(err)
	}
	if _, st, found, err := s.Load(); !found || !st.Empty() || err != nil {
		t.Errorf("a node that waits: %v %v %v", st, found, err)
	}
	newer := us
	newer.Format = Format + 1
	if err := s.db.Update(func(tx *bbolt.Tx) error { return put(tx, bucketState, keyIdentity, newer.encode()) }); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	_, err = Open(dir)
	code("a newer format", err, fmt.Sprintf("format %d", Format+1))
}

// saves is what the child does: entries one by one, told when they are durable.
const saves = "REPMGR_TEST_SAVES_IN"

func TestMain(m *testing.M) {
	dir := os.Getenv(saves)
	if dir == "" {
		os.Exit(m.Run())
	}
	s, err := Open(dir)
	if err == nil {
		_, st, _, _ := s.Load()
		last, _ := st.Last()
		for i := last + 1; err == nil; i++ {
			err = s.Save(quorum.Durable{Entries: []*raftpb.Entry{entry(i, 1, strings.Repeat("x", int(i)*37%5000))}, MustSync: true})
			if err == nil && i%40 == 0 {
				err = s.Compacted(snapshot(i-10, 1, strings.Repeat("s", 9000)))
			}
			fmt.Println(i)
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// TestKilled kills a process in the middle of saving, again and again: what it
// said was saved is there, and nothing is there that does not hold together.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := s.Create(us, quorum.Found(us.RaftID, nil)); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	for round := range 8 {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), saves+"="+dir)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		told := uint64(0)
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			told, _ = strconv.ParseUint(lines.Text(), 10, 64)
			if n == 30+17*round {
				_ = child.Process.Kill()
			}
		}
		_ = child.Wait()
		s := open(t, dir)
		id, st, found, err := s.Load()
		last, _ := st.Last()
		if err != nil || !found || id != us || last < told || told == 0 {
			t.Fatalf("saved was %d, found %d, %v", told, last, err)
		}
		if _, err := quorum.New(quorum.Options{ID: us.RaftID, Stored: atTerm(st), ElectionTicks: 10, HeartbeatTicks: 1}); err != nil {
			t.Fatalf("%v: %s", err, detail(err))
		}
		_ = s.Close()
	}
}

func atTerm(st quorum.Stored) quorum.Stored {
	st.Save(quorum.Durable{HardState: hard(1, 0, st.HardState.GetCommit())})
	return st
}

// damage opens a damaged copy, which works or is refused clearly; whatever is
// loaded is one of the states that were saved.
func damage(t *testing.T, dir string, content []byte, known func(quorum.Stored) bool) (opened bool) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, FileName), content, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir)
	if err != nil {
		var f *fault.Error
		if !errors.As(err, &f) || f.Code != fault.BadConfig || f.Hint == "" {
			t.Fatalf("%v", err)
		}
		t.Logf("%s: %s", f.Msg, f.Detail)
		if strings.Contains(f.Msg, "another process") {
			t.Fatal("the lock was kept")
		}
		return false
	}
	defer s.Close()
	s.db.NoSync = true
	_, st, found, err := s.Load()
	if err == nil && found && !known(st) {
		t.Fatalf("a damaged file gave %v", st)
	}
	if err := s.Put("note", nil); err != nil && fault.CodeOf(err) != fault.BadConfig {
		t.Fatal(err)
	}
	return err == nil && found
}

// TestDamaged cuts the file, turns bits in it, exchanges its pages, and copies
// it while it is written to.
func TestDamaged(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := s.Create(us, quorum.Found(us.RaftID, nil)); err != nil {
		t.Fatal(err)
	}
	s.db.NoSync = true
	path := filepath.Join(dir, FileName)
	states := []quorum.Stored{}
	known := func(st quorum.Stored) bool {
		return slices.ContainsFunc(states, func(k quorum.Stored) bool { return same(k, st) })
	}
	var torn [][]byte
	keep := func() {
		_, st, _, err := s.Load()
		if err != nil {
			t.Fatal(err)
		}
		states = append(states, st)
	}
	keep()
	for i := uint64(2); i < 120; i++ {
		half := read1(t, path, true)
		if err := s.Save(quorum.Durable{HardState: hard(1, 0, i-1), Entries: []*raftpb.Entry{entry(i, 1, strings.Repeat("x", int(i)*37%3000))}, MustSync: true}); err != nil {
			t.Fatal(err)
		}
		keep()
		torn = append(torn, append(half, read1(t, path, false)[len(half):]...))
	}
	_ = s.Close()
	good := read1(t, path, false)
	other := filepath.Join(t.TempDir(), "copy")
	if !damage(t, other, good, known) {
		t.Fatal("the untouched copy does not open")
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		bad := slices.Clone(good)
		switch rng.IntN(4) {
		case 0:
			bad = bad[:rng.IntN(len(bad))]
		case 1:
			bad[rng.IntN(len(bad))] ^= 1 << rng.IntN(8)
		case 2:
			a, b := 4096*rng.IntN(len(bad)/4096), 4096*rng.IntN(len(bad)/4096)
			copy(bad[a:a+4096], good[b:b+4096])
		case 3:
			a := rng.IntN(len(bad) - 512)
			for i := a; i < a+512; i++ {
				bad[i] = byte(rng.Uint32())
			}
		}
		damage(t, other, bad, known)
	}
	for _, b := range torn {
		damage(t, other, b, known)
	}
	damage(t, other, []byte("this is not a store"), known)
}

// read1 reads the file, or its first half.
func read1(t *testing.T, path string, half bool) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	if half {
		b = b[:len(b)/2]
	}
	return b
}
