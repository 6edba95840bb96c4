package server

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"repmgr/internal/conf"
	"repmgr/internal/pg"
)

// asDebian moves a stopped server's configuration out of its data directory. It is
// started by a command that knows where, as pg_ctlcluster does.
func (i *instance) asDebian(t testing.TB) {
	t.Helper()
	etc := filepath.Join(filepath.Dir(i.dir), "etc")
	check(t, os.Mkdir(etc, 0o700))
	for _, name := range []string{"postgresql.conf", "pg_hba.conf", "pg_ident.conf"} {
		check(t, os.Rename(filepath.Join(i.dir, name), filepath.Join(etc, name)))
	}
	f, err := os.OpenFile(filepath.Join(etc, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	check(t, err)
	_, err = f.WriteString("data_directory = '" + i.dir + "'\nhba_file = '" + etc + "/pg_hba.conf'\nident_file = '" + etc + "/pg_ident.conf'\n")
	check(t, err)
	check(t, f.Close())
	i.Config.ServiceStartCommand = pg.Ctl{Bindir: testBin, Dir: i.dir, Options: "-o '-c config_file=" + etc + "/postgresql.conf'"}.Start(i.dir+".log", time.Minute)
}

// elsewhere moves a stopped server's data directory and its WAL, and leaves links.
func (i *instance) elsewhere(t testing.TB) {
	t.Helper()
	parent := filepath.Dir(i.dir)
	for _, move := range [][2]string{{filepath.Join(i.dir, "pg_wal"), filepath.Join(parent, "wal")}, {i.dir, filepath.Join(parent, "volume")}} {
		check(t, os.Rename(move[0], move[1]))
		check(t, os.Symlink(move[1], move[0]))
	}
}

// A server is brought back whatever the layout: configuration outside the data
// directory, WAL and data behind links, tablespaces.
func TestRewindOfOtherLayouts(t *testing.T) {
	t.Parallel()
	old := newInstance(t, "")
	old.elsewhere(t)
	old.asDebian(t)
	old.start(t)
	places := [2]string{tempDir(t), tempDir(t)}
	old.exec(t, "CREATE TABLE t (i int)", "CREATE TABLESPACE s LOCATION '"+places[0]+"'", "CREATE TABLE u (i int) TABLESPACE s")
	primary := place(t)
	check(t, pg.BaseBackup(within(t), pg.BackupSpec{Bindir: testBin, Source: old.socket(), DataDir: primary.dir, FastCheckpoint: true,
		Tablespaces: [][2]string{{places[0], places[1]}}}, nil))
	for _, name := range []string{"postgresql.conf", "pg_hba.conf", "pg_ident.conf"} {
		text, err := os.ReadFile(filepath.Join(template.dir, name))
		check(t, err)
		check(t, os.WriteFile(filepath.Join(primary.dir, name), text, 0o600))
	}
	primary.configure(t, "")
	check(t, writeFollow(primary, old))
	check(t, pg.WriteStandbySignal(primary.dir))
	primary.start(t)
	old.awaitStreaming(t, primary)
	primary.seal(t)
	old.exec(t, "INSERT INTO u SELECT generate_series(1, 1000)")
	check(t, old.Demote(within(t)))
	primary.promote(t, 2)
	primary.exec(t, "INSERT INTO u VALUES (7)")
	_, err := old.Rewind(within(t), RewindRequest{Source: primary.socket(), History: primary.history(t, 2), StateDir: tempDir(t), Recovery: old.following(primary)})
	check(t, err)
	for _, name := range []string{"", "pg_wal"} {
		if info, err := os.Lstat(filepath.Join(old.dir, name)); err != nil || info.Mode()&os.ModeSymlink == 0 {
			t.Errorf("%q is no link any more: %v, %v", name, info, err)
		}
	}
	old.start(t)
	primary.awaitStreaming(t, old)
	until(t, "the tablespace has the primary's rows", func() bool { return old.value(t, "SELECT count(*) FROM u") == "1" })
}

// A server that is cloned anew keeps its configuration, also where a clone was
// broken off before; what it follows is the clone's.
func TestCloneKeepsTheConfiguration(t *testing.T) {
	o := Own{Config: &conf.Config{DataDirectory: t.TempDir(), StateDirectory: t.TempDir()}}
	write := func(name, text string) {
		t.Helper()
		check(t, os.MkdirAll(filepath.Dir(filepath.Join(o.dir(), name)), 0o700))
		check(t, os.WriteFile(filepath.Join(o.dir(), name), []byte(text), 0o600))
	}
	write("postgresql.conf", "port = 1\n")
	write("conf.d/own.conf", "work_mem = 1\n")
	write("postgresql.auto.conf", "primary_conninfo = ''\nwork_mem = '2MB'\n")
	check(t, o.BeginClone())
	for range 2 { // the first is broken off
		write("postgresql.conf", "port = 2\n")
		check(t, os.RemoveAll(filepath.Join(o.dir(), "conf.d")))
		write("postgresql.auto.conf", "primary_conninfo = 'host=new'\nprimary_slot_name = 'slot'\n")
		check(t, o.BeginClone())
	}
	if err := o.StartReadOnly(); err == nil {
		t.Error("a clone that is not complete may start")
	}
	check(t, o.EndClone())
	for name, want := range map[string]string{"postgresql.conf": "port = 1\n", "conf.d/own.conf": "work_mem = 1\n",
		"postgresql.auto.conf": "primary_conninfo = 'host=new'\nwork_mem = '2MB'\nprimary_slot_name = 'slot'\n"} {
		if text, err := os.ReadFile(filepath.Join(o.dir(), name)); err != nil || string(text) != want {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
	if left, err := os.ReadDir(o.Config.StateDir()); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// What the server said when it was started last names its configuration file.
func TestConfigFileOfTheLastStart(t *testing.T) {
	o := Own{Config: &conf.Config{DataDirectory: t.TempDir()}}
	if got := o.configFile(); got != "" {
		t.Errorf("without postmaster.opts: %q", got)
	}
	for line, want := range map[string]string{
		`/usr/bin/postgres "-D" "/data" "-c" "config_file=/etc/a b/postgresql.conf"`: "/etc/a b/postgresql.conf",
		`/usr/bin/postgres "--config-file=/etc/x.conf" "-D" "/data"`:                 "/etc/x.conf",
		`/usr/bin/postgres "--config_file=/etc/x.conf"`:                              "/etc/x.conf",
		`/usr/bin/postgres "-D" "/data"`:                                             "",
	} {
		check(t, os.WriteFile(filepath.Join(o.dir(), "postmaster.opts"), []byte(line+"\n"), 0o600))
		if got := o.configFile(); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
	check(t, os.WriteFile(filepath.Join(o.dir(), "postgresql.conf"), nil, 0o600))
	if got := o.configFile(); got != "" {
		t.Errorf("with a postgresql.conf of its own: %q", got)
	}
}

// What was kept is bounded as a whole: the oldest goes first, the last one never.
func TestKeepNewest(t *testing.T) {
	for limit, want := range map[int64][]string{400: nil, 399: {"a"}, 250: {"a", "b"}, 0: {"a", "b", "d"}} {
		dir := t.TempDir()
		var all []string
		for n, name := range []string{"a", "b", "c", "d"} {
			path := filepath.Join(dir, name)
			check(t, os.Mkdir(path, 0o700))
			check(t, os.WriteFile(filepath.Join(path, "segment"), make([]byte, 100), 0o600))
			at := time.Now().Add(time.Duration(n-10) * time.Hour)
			check(t, os.Chtimes(path, at, at))
			all = append([]string{path}, all...)
		}
		removed, err := KeepNewest(all, filepath.Join(dir, "c"), limit)
		check(t, err)
		var got []string
		for _, path := range removed {
			got = append(got, filepath.Base(path))
			if _, err := os.Stat(path); err == nil {
				t.Errorf("limit %d: %s is there", limit, path)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("limit %d: removed %v, want %v", limit, got, want)
		}
	}
}

// The log that a server keeps which a daemon has started may be rotated by copying it and
// cutting it off (packaging/repmgrd.logrotate): what is written then is at its beginning.
func TestServerLogMayBeCutOff(t *testing.T) {
	t.Parallel()
	i := newInstance(t, "")
	own := *i.Config
	own.PgCtlOptions = "" // no -l: it has no log of its own
	check(t, Own{Config: &own}.Start(within(t)))
	log := filepath.Join(i.Config.StateDir(), "server.log")
	says := func(text string) (content string) {
		t.Helper()
		_, err := i.conn(t).Exec(within(t), "DO $$ BEGIN RAISE LOG '"+text+"'; END $$")
		check(t, err)
		until(t, text, func() bool {
			bytes, err := os.ReadFile(log)
			content = string(bytes)
			return err == nil && strings.Contains(content, text)
		})
		return content
	}
	before := says("one line")
	check(t, os.Truncate(log, 0))
	if after := says("another line"); strings.Contains(after, "one line") || strings.Contains(after, "\x00") || len(after) > len(before) {
		t.Errorf("after it was cut off it holds %q", after)
	}
}
