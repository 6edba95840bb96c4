package pg

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"repmgr/internal/fault"
)

func spec(t *testing.T, source Conninfo) BackupSpec {
	return BackupSpec{Bindir: testBin, Source: source, DataDir: filepath.Join(tempDir(t), "data"), FastCheckpoint: true, Credential: credential()}
}

func TestBaseBackup(t *testing.T) {
	t.Parallel()
	p := primary(t)
	s := spec(t, p.tcp("streamer", scramPassword).With("application_name", "cloner").With("keepalives_idle", "5"))
	var last, total int64
	calls := 0
	check(t, BaseBackup(within(t, time.Minute), s, func(d, all int64) {
		if d < last {
			t.Errorf("progress went from %d back to %d", last, d)
		}
		last, total, calls = d, all, calls+1
	}))
	if calls == 0 || total < 1<<20 || last != total {
		t.Errorf("%d calls, the last one with %d of %d", calls, last, total)
	}
	if major, err := MajorVersion(s.DataDir); err != nil || major != testMajor(t) {
		t.Errorf("major version %d (%v)", major, err)
	}
	if label, err := os.ReadFile(filepath.Join(s.DataDir, "backup_label")); err != nil || !strings.Contains(string(label), "LABEL: repmgr base backup") {
		t.Errorf("label %q (%v)", label, err)
	}
	args, err := s.Command()
	check(t, err)
	if line := QuoteAll(args); strings.Contains(line, `a b`) || strings.Contains(line, "password") || !strings.Contains(line, "-X stream") || !strings.Contains(line, "-w") {
		t.Errorf("command: %s", line)
	}
	// The directory is full now.
	if err := BaseBackup(within(t, time.Minute), s, nil); !isFault(err, fault.BadBasebackup, "--force") {
		t.Errorf("into a full directory: %v", err)
	}
}

func TestBaseBackupWithTablespacesAndSlot(t *testing.T) {
	t.Parallel()
	p := primary(t).clone(t, "")
	check(t, RemoveStandbySignal(p.dir))
	p.start(t)
	old := tempDir(t) + "/old=a b"
	mustRun(t, "mkdir", old)
	p.exec(t, "CREATE TABLESPACE fast LOCATION "+literal(old), "SELECT pg_create_physical_replication_slot('clone', true)")
	s := spec(t, p.tcp("streamer", scramPassword))
	s.Tablespaces, s.Slot = [][2]string{{old, tempDir(t) + "/new=c d"}}, "clone"
	options, err := ParseBackupOptions("--waldir=" + Quote(s.DataDir+"-w al") + " -r 100M")
	check(t, err)
	s.Options = options
	check(t, BaseBackup(within(t, time.Minute), s, nil))
	if found, _ := filepath.Glob(s.Tablespaces[0][1] + "/PG_*"); len(found) != 1 {
		t.Errorf("the tablespace holds %v", found)
	}
	if link, err := os.Readlink(s.DataDir + "/pg_wal"); err != nil || link != s.DataDir+"-w al" {
		t.Errorf("pg_wal is %q (%v)", link, err)
	}
	s.DataDir, s.Slot, s.Options = s.DataDir+"2", "absent", BackupOptions{}
	s.Tablespaces[0][1] += "2"
	if err := BaseBackup(within(t, time.Minute), s, nil); fault.CodeOf(err) != fault.BadBasebackup || !strings.Contains(err.(*fault.Error).Detail, `"absent" does not exist`) {
		t.Errorf("an absent slot: %v", err)
	}
}

func TestBaseBackupErrors(t *testing.T) {
	t.Parallel()
	p := primary(t)
	for name, one := range map[string]struct {
		change func(*BackupSpec)
		hint   string
	}{
		"wrong password":     {func(s *BackupSpec) { s.Source = s.Source.With("password", "geheim") }, "password"},
		"another user's":     {func(s *BackupSpec) { s.Source, s.User = p.tcp("monitor", scramPassword), "streamer" }, ".pgpass"},
		"no right":           {func(s *BackupSpec) { s.Source = p.tcp("postgres", ""); s.User = "plain" }, ""},
		"refused":            {func(s *BackupSpec) { s.Source = s.Source.With("port", "1") }, ""},
		"unknown option":     {func(s *BackupSpec) { s.Options.Words = []string{"--geheim-option"} }, ""},
		"no program":         {func(s *BackupSpec) { s.Bindir = "/nonexistent" }, "pg_bindir"},
		"directory not ours": {func(s *BackupSpec) { s.DataDir = "/proc/nothing" }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := spec(t, p.tcp("streamer", scramPassword))
			one.change(&s)
			err := BaseBackup(within(t, time.Minute), s, nil)
			var f *fault.Error
			if !errors.As(err, &f) || !strings.Contains(f.Hint, one.hint) || f.Code != fault.BadBasebackup && name != "no program" {
				t.Fatalf("%#v", err)
			}
			if text := f.Error() + f.Detail + f.Hint; strings.Contains(text, "geheim") && name != "unknown option" {
				t.Errorf("the password is in %s", text)
			}
			if f.Detail == "" && name != "no program" {
				t.Error("what pg_basebackup said is missing")
			}
		})
	}
}

// A backup that is stopped leaves no process behind.
func TestBaseBackupIsStopped(t *testing.T) {
	t.Parallel()
	p := primary(t)
	s := spec(t, p.tcp("streamer", scramPassword).With("application_name", "stopped"))
	s.Options.Words = []string{"-r", "32k"} // bytes a second: it would take minutes
	ctx, cancel := context.WithCancel(within(t, time.Minute))
	c := connect(t, p.socket())
	senders := func() (n int) {
		check(t, c.QueryRow(context.Background(), "SELECT count(*) FROM pg_catalog.pg_stat_replication WHERE application_name = 'stopped'").Scan(&n))
		return n
	}
	result := make(chan error, 1)
	go func() { result <- BaseBackup(ctx, s, nil) }()
	until(t, "a running backup", func() bool { return senders() == 2 })
	cancel()
	start := time.Now()
	if err := <-result; !errors.Is(err, context.Canceled) || fault.CodeOf(err) != fault.BadBasebackup {
		t.Errorf("error %v", err)
	}
	if took := time.Since(start); took > backupGrace {
		t.Errorf("it took %s", took)
	}
	until(t, "no sender left", func() bool { return senders() == 0 })
}

func TestParseBackupOptions(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]BackupOptions{
		"":                              {},
		"-S a -X fetch":                 {Slot: "a", WALMethod: "fetch"},
		"-Sa -Xn --waldir=/w":           {Slot: "a", WALMethod: "none", WALDir: "/w"},
		`--slot "a b" --wal-method s`:   {Slot: "a b", WALMethod: "stream"},
		"--waldir '/a b' --no-slot -v":  {WALDir: "/a b", NoSlot: true},
		"--checkpoint=fast --slot=last": {Slot: "last"},
	} {
		got, err := ParseBackupOptions(text)
		got.Words = nil
		if err != nil || got.Slot != want.Slot || got.NoSlot != want.NoSlot || got.WALMethod != want.WALMethod || got.WALDir != want.WALDir {
			t.Errorf("%q: %+v (%v)", text, got, err)
		}
		if streams := want.WALMethod == "" || want.WALMethod == "stream"; got.Streams() != streams {
			t.Errorf("%q streams: %v", text, got.Streams())
		}
	}
	for _, bad := range []string{"-S a --no-slot", "--waldir w", "-X all", "-S 'a"} {
		if _, err := ParseBackupOptions(bad); !isFault(err, fault.BadConfig, "pg_basebackup_options") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, o := range []BackupOptions{{Slot: "own"}, {NoSlot: true}, {WALMethod: "fetch"}} {
		args, err := BackupSpec{Bindir: testBin, Slot: "ours", Options: o}.Command()
		check(t, err)
		if strings.Contains(strings.Join(args, " "), "-S ours") {
			t.Errorf("%+v: %v", o, args)
		}
	}
}

func TestParseProgress(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]int64{
		"   22850/45700 kB (50%), 0/1 tablespace (...data/base/1/1255)": 22850 << 10,
		"0/45700 kB (0%), 0/2 tablespaces":                              0,
		"pg_basebackup: error: 1/2 kB (broken)":                         -1,
		"x/1 kB tablespace":                                             -1,
		"waiting for checkpoint":                                        -1,
	} {
		done, total, ok := parseProgress(line)
		if ok != (want >= 0) || ok && (done != want || total != 45700<<10) {
			t.Errorf("%q: %d of %d, %v", line, done, total, ok)
		}
	}
	long := strings.Repeat("x", 20<<10) + "\rend\n" + strings.Repeat("y", 100<<10)
	if got := readProgress(strings.NewReader(long), nil); len(got) > backupTail || !strings.HasSuffix(got, "end") {
		t.Errorf("%d bytes are kept", len(got))
	}
}
