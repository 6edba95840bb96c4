package pg

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"repmgr/internal/fault"
)

func TestReadControl(t *testing.T) {
	t.Parallel()
	s := primary(t).clone(t, "")
	s.start(t)
	read := func(bindir string) Control {
		c, err := ReadControl(t.Context(), bindir, s.dir)
		check(t, err)
		// Without a program, so that it is the file that was read.
		if id, inOrder, err := ReadEnd(t.Context(), "/nonexistent", s.dir); err != nil || id != c.SystemID || inOrder != c.ShutDownCleanly() {
			t.Errorf("the file itself says %s, %v (%v); pg_controldata %+v", id, inOrder, err, c)
		}
		if at, timeline, found, err := ReadShutdown(t.Context(), "/nonexistent", s.dir); err != nil || at != c.Checkpoint || timeline != c.Timeline || found != (c.State == "shut down") {
			t.Errorf("the file itself says %s on timeline %d, %v (%v); pg_controldata %+v", at, timeline, found, err, c)
		}
		return c
	}
	c := read(testBin)
	if c.State != "in archive recovery" || c.Timeline != 1 || c.PreviousTimeline != 1 || c.Checkpoint == 0 || c.Redo == 0 || c.Redo > c.Checkpoint ||
		c.MinRecovery == 0 || c.MinRecoveryTimeline != 1 || c.Checksums != (testMajor(t) >= 18) || c.WALLogHints || c.SegmentSize != 1<<20 || c.ShutDownCleanly() ||
		c.FormatVersion < 1300 || c.MaxConnections != 30 || c.MaxWALSenders != 8 || c.WALLevel != "replica" || c.CheckpointAt == "" || c.BackupEndRequired {
		t.Errorf("%+v", c)
	}
	s.stop(t, "fast")
	if c := read(testBin); c.State != "shut down in recovery" || !c.ShutDownCleanly() {
		t.Errorf("%+v", c)
	}
	if program, err := FindTool("", s.dir, "pg_controldata"); testMajor(t) == 15 && (err != nil || filepath.Base(program) != "pg_controldata") {
		t.Errorf("found %q without a bindir (%v)", program, err)
	}
	german := tempDir(t) // a program that only speaks English if asked to
	write(t, german+"/pg_controldata", "#!/bin/sh\n[ \"$LC_ALL\" = C ] && exec "+testBin+"/pg_controldata \"$@\"\n")
	check(t, os.Chmod(german+"/pg_controldata", 0o755))
	if c := read(german); c.SystemID == "" {
		t.Errorf("%+v", c)
	}
	sums := filepath.Join(tempDir(t), "data")
	mustRun(t, testBin+"/initdb", "-D", sums, "--no-sync", "--data-checksums")
	if c, err := ReadControl(t.Context(), testBin, sums); err != nil || !c.Checksums || c.State != "shut down" || !c.ShutDownCleanly() || c.MinRecovery != 0 {
		t.Errorf("%+v (%v)", c, err)
	}
	path := filepath.Join(sums, "global", "pg_control")
	text, err := os.ReadFile(path)
	check(t, err)
	text[40]++
	check(t, os.WriteFile(path, text, 0o600))
	if _, _, err := ReadEnd(t.Context(), "/nonexistent", sums); !isFault(err, fault.BadConfig, "pg_bindir") {
		t.Errorf("a damaged file was believed: %v", err)
	}
	if major, err := MajorVersion(s.dir); err != nil || major != testMajor(t) {
		t.Errorf("major version %d (%v)", major, err)
	}
}

func TestControlErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := ReadControl(t.Context(), testBin, dir); !isFault(err, fault.BadConfig, "data directory") {
		t.Errorf("no data directory: %v", err)
	}
	if _, err := ReadControl(t.Context(), dir, dir); !isFault(err, fault.BadConfig, "pg_bindir") {
		t.Errorf("no program: %v", err)
	}
	write(t, dir+"/pg_controldata", "#!/bin/sh\necho 'Database cluster state: ok'\n")
	check(t, os.Chmod(dir+"/pg_controldata", 0o755))
	if _, err := ReadControl(t.Context(), dir, dir); !isFault(err, fault.BadConfig, "major version") {
		t.Errorf("an answer without what matters: %v", err)
	}
	if _, err := parseControl("Latest checkpoint location: x"); err == nil {
		t.Error("x is a position")
	}
	for text, ok := range map[string]bool{"15\n": true, "9.6\n": true, "": false, "x": false, "-1": false} {
		write(t, dir+"/PG_VERSION", text)
		if _, err := MajorVersion(dir); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
	check(t, os.Remove(dir+"/PG_VERSION"))
	if _, err := MajorVersion(dir); !isFault(err, fault.BadConfig, "data_directory") {
		t.Errorf("no version: %v", err)
	}
	if _, err := FindTool("", "", "pg_nonexistent"); !isFault(err, fault.BadConfig, "pg_bindir") {
		t.Errorf("a tool that is nowhere: %v", err)
	}
	if got := newest([]string{"/usr/lib/postgresql/13/bin/x", "/usr/lib/postgresql/9.6/bin/x", "/usr/lib/postgresql/15/bin/x"}); !strings.Contains(got, "/15/") {
		t.Errorf("the newest is %s", got)
	}
}

func TestReadPostmaster(t *testing.T) {
	t.Parallel()
	p := primary(t)
	got, err := ReadPostmaster(p.dir)
	check(t, err)
	if got.PID <= 1 || got.DataDir != p.dir || got.Port != p.port || got.SocketDir != baseDir || got.ListenAddress != "127.0.0.1" ||
		got.ShmKey == 0 || got.Status != "ready" || time.Since(got.StartedAt) > time.Hour || got.StartedAt.IsZero() {
		t.Errorf("%+v", got)
	}
	dir := t.TempDir()
	if _, err := ReadPostmaster(dir); !os.IsNotExist(unwrap(err)) {
		t.Errorf("no lock file: %v", err)
	}
	for text, pid := range map[string]int{"": 0, "x\n": 0, "0\n": 0, "12": 12, "-12\n/data\n1\n": 12, "12\n/data\nx\nx\n\n\nx\n": 12} {
		write(t, dir+"/postmaster.pid", text)
		got, err := ReadPostmaster(dir)
		if got.PID != pid || (err == nil) != (pid != 0) {
			t.Errorf("%q: %+v (%v)", text, got, err)
		}
	}
}

func unwrap(err error) error {
	if f, ok := err.(*fault.Error); ok {
		return f.Err
	}
	return err
}

func TestCtlLines(t *testing.T) {
	t.Parallel()
	c := Ctl{Bindir: "/opt/my pg/bin", Dir: "/data/it's", Options: "-o '-c x=y'"}
	head := `'/opt/my pg/bin/pg_ctl' -o '-c x=y' -D '/data/it'\''s' `
	for got, want := range map[string]string{
		c.Start("/log", 1500*time.Millisecond): "-w -t 2 -l /log start", c.Start("", 0): "-W start",
		c.Stop(Immediate, time.Minute): "-w -t 60 -m immediate stop", c.Stop(Fast, 0): "-W -m fast stop",
		c.Restart(Fast, time.Second): "-w -t 1 -m fast restart", c.Reload(): "reload", c.Promote(0): "-W promote", c.Status(): "status",
	} {
		if got != head+want {
			t.Errorf("got %s, want %s", got, head+want)
		}
	}
	if got := (Ctl{Dir: "/data"}).Reload(); got != "pg_ctl -D /data reload" {
		t.Error(got)
	}
}

// The lines must work as they are.
func TestCtlRunsAServer(t *testing.T) {
	t.Parallel()
	s := primary(t).clone(t, "")
	c := Ctl{Bindir: testBin, Dir: s.dir}
	sh := func(line string) { t.Helper(); mustRun(t, "/bin/sh", "-c", line+" >/dev/null 2>&1") }
	instances.Lock()
	instances.dirs = append(instances.dirs, s.dir)
	instances.Unlock()
	sh(c.Start(s.dir+".log", 30*time.Second))
	sh(c.Reload())
	sh(c.Status())
	sh(c.Restart(Fast, 30*time.Second))
	sh(c.Promote(30 * time.Second))
	sh(c.Stop(Immediate, 30*time.Second))
	if err := command("/bin/sh", "-c", c.Status()).Run(); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("the status of a stopped server: %v", err)
	}
}

func TestSplitWords(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"": "", "  ": "", "a b": "a|b", ` -S 'a b'  --x="c \"d\" \e" f\ g`: `-S|a b|--x=c "d" \e|f g`, `''`: "", `a''b "" c`: "ab||c", `'a\'`: `a\`,
	} {
		got, err := SplitWords(line)
		if err != nil || strings.Join(got, "|") != want {
			t.Errorf("%q became %q (%v)", line, got, err)
		}
	}
	for _, bad := range []string{"'a", `"a`, `a\`, `"a\"`} {
		if got, err := SplitWords(bad); err == nil {
			t.Errorf("%q became %q", bad, got)
		}
	}
	words := []string{"a", "", "it's", `x"y\z`, "$HOME", "a b", "-D", "ä"}
	got, err := SplitWords(QuoteAll(words))
	if err != nil || strings.Join(got, "|") != strings.Join(words, "|") {
		t.Errorf("%q (%v)", got, err)
	}
	out := mustRun(t, "/bin/sh", "-c", "printf '%s|' "+QuoteAll(words))
	if out != strings.Join(words, "|")+"|" {
		t.Errorf("the shell reads %q", out)
	}
}
