package server

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"repmgr/internal/pg"
)

// A server with a tablespace is cloned anew: what it has there is removed with the rest, and
// nothing else is; also where an earlier clone was broken off.
func TestCloneWithTablespaces(t *testing.T) {
	t.Parallel()
	primary := newInstance(t, "")
	primary.start(t)
	theirs, ours := tempDir(t), tempDir(t)
	primary.exec(t, "CREATE TABLESPACE space LOCATION '"+theirs+"'", "CREATE TABLE t (i int) TABLESPACE space", "INSERT INTO t VALUES (1)")
	s := place(t)
	backup := func() {
		t.Helper()
		check(t, pg.BaseBackup(within(t), pg.BackupSpec{Bindir: testBin, Source: primary.socket(), DataDir: s.dir, FastCheckpoint: true,
			Tablespaces: [][2]string{{theirs, ours}}}, nil))
	}
	backup()
	s.configure(t, "")
	check(t, pg.WriteRecovery(s.dir, s.following(primary)))
	check(t, pg.WriteStandbySignal(s.dir))
	s.start(t)
	primary.awaitStreaming(t, s)
	s.stop(t, pg.Fast)

	held := func() (names []string) {
		t.Helper()
		entries, err := os.ReadDir(ours)
		check(t, err)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	stranger := filepath.Join(ours, "notes.txt")
	check(t, os.WriteFile(stranger, nil, 0o600))
	err := s.BeginClone()
	if err == nil || !strings.Contains(explain(err), "notes.txt is in there") {
		t.Errorf("a tablespace with somebody's notes in it: %s", explain(err))
	}
	if broken, err := RewindInterrupted(s.Config.StateDir()); broken || err != nil || len(held()) != 2 {
		t.Errorf("it was refused, and something was changed: %v, %v, %v", broken, err, held())
	}
	check(t, os.Remove(stranger))
	version := held()[0]

	check(t, s.BeginClone())
	if left := held(); len(left) > 0 {
		t.Fatalf("left in the tablespace: %v", left)
	}
	// It is broken off: the data directory is empty, and no link tells of the tablespace.
	entries, err := os.ReadDir(s.dir)
	check(t, err)
	for _, e := range entries {
		check(t, os.RemoveAll(filepath.Join(s.dir, e.Name())))
	}
	check(t, os.MkdirAll(filepath.Join(ours, version, "5"), 0o700))
	check(t, s.BeginClone())
	if left := held(); len(left) > 0 {
		t.Fatalf("left in the tablespace by a clone that was broken off: %v", left)
	}
	backup()
	check(t, pg.WriteRecovery(s.dir, s.following(primary)))
	check(t, pg.WriteStandbySignal(s.dir))
	check(t, s.EndClone())
	s.start(t)
	primary.awaitStreaming(t, s)
	if got := s.rows(t); got != "1" {
		t.Errorf("the clone has %s rows", got)
	}
}
