package verbs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"repmgr/internal/lab"
)

// barmanHost makes of the lab's first node a host that Barman and sshd run on, for
// the user of the lab. Every program is the real one. It returns the options
// of ssh that reach it.
func barmanHost(t *testing.T, ctx context.Context, n *lab.Node) (sshOptions string) {
	t.Helper()
	needs(t, "barman", "barman-wal-restore", "rsync")
	sshOptions = sshHosts(t, ctx, n.DaemonPort, n) // no daemon is started here
	dir := n.Dir
	must(t, n.Run(ctx, "mkdir", "-p", "barman/main/incoming", "bin").Err())
	for name, text := range map[string]string{
		"bin/ssh":   fmt.Sprintf("#!/bin/sh\nexec /usr/bin/ssh -F %s/ssh_config \"$@\"\n", dir),
		"bin/rsync": "#!/bin/sh\nexec /usr/bin/rsync --bwlimit=1M \"$@\"\n",
		"barman.conf": fmt.Sprintf("[barman]\nbarman_user = %s\nbarman_home = %s/barman\nbarman_lock_directory = %[2]s/barman\n"+
			"log_file = %[2]s/barman.log\npath_prefix = %[3]s\n"+
			"[main]\ndescription = the cluster\nbackup_method = postgres\narchiver = on\nconninfo = host=%[2]s port=%[4]d user=postgres dbname=postgres\n"+
			"streaming_conninfo = host=%[2]s port=%[4]d user=repmgr\n", userOf(t, ctx, n), dir, n.Lab().Bindir, n.Port),
	} {
		must(t, n.WriteFile(name, text))
	}
	must(t, n.Run(ctx, "chmod", "755", "bin/ssh", "bin/rsync").Err())
	return sshOptions
}

func userOf(t *testing.T, ctx context.Context, n *lab.Node) string {
	t.Helper()
	r := n.Run(ctx, "id", "-un")
	must(t, r.Err())
	return strings.TrimSpace(r.Stdout)
}

// runBarman runs a command of Barman's on its host.
func runBarman(t *testing.T, ctx context.Context, n *lab.Node, args ...string) {
	t.Helper()
	must(t, n.Run(ctx, "barman", append([]string{"--config", n.Dir + "/barman.conf"}, args...)...).Err())
}

func TestACloneFromBarman(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 2, Slots: true, Settings: map[string]string{"wal_keep_size": "0", "archive_mode": "on",
		"archive_command": "cp %p ../barman/%f && mv ../barman/%f ../barman/main/incoming/%f"}})
	one, two := l.Node(1), l.Node(2)
	conf := map[string]string{"ssh_options": barmanHost(t, ctx, one), "barman_host": "127.0.0.1", "barman_server": "main",
		"barman_config": one.Dir + "/barman.conf", "tablespace_mapping": one.Dir + "/fast=" + two.Dir + "/fast"}
	with := func(name, value string) map[string]string {
		changed := map[string]string{name: value}
		for n, v := range conf {
			if n != name {
				changed[n] = v
			}
		}
		return changed
	}
	must(t, l.BringUpPrimary(ctx))
	// Nothing is changed by what cannot be.
	refused(t, ctx, two, 19, []string{"does not know the server", "nosuch", "list-servers"}, withConf(t, two, with("barman_server", "nosuch"), cloneOf(one))...)
	refused(t, ctx, two, 19, []string{"has no backup", "barman backup main"}, withConf(t, two, conf, cloneOf(one))...)
	refused(t, ctx, two, 19, []string{"cannot be asked by ssh", "onnection refused"}, withConf(t, two, with("ssh_options", "-q -p 1"), cloneOf(one))...)
	must(t, one.Run(ctx, "mkdir", one.Dir+"/fast").Err())
	for _, query := range []string{"CREATE TABLESPACE fast LOCATION '" + one.Dir + "/fast'", "CREATE TABLE there TABLESPACE fast AS SELECT 'before' AS n"} {
		_, err := one.Rows(ctx, query)
		must(t, err)
	}
	runBarman(t, ctx, one, "switch-wal", "--force", "--archive", "--archive-timeout", "300", "main")
	runBarman(t, ctx, one, "backup", "--immediate-checkpoint", "main")

	must(t, two.WriteConf(conf))
	brokenBarman(t, ctx, l, one, two)

	// The primary has lost the WAL that the backup needs: Barman alone has it.
	_, err := one.Rows(ctx, "INSERT INTO there VALUES ('after')")
	must(t, err)
	runBarman(t, ctx, one, "switch-wal", "--force", "--archive", "--archive-timeout", "300", "main")
	must(t, lab.Wait(ctx, 5*time.Minute, "the primary to lose the backup's WAL", func() error {
		_, err := one.Rows(ctx, "CHECKPOINT")
		if left := sql(t, ctx, one, "SELECT count(*) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$' AND name < pg_walfile_name(pg_current_wal_lsn())"); err == nil && left != "0" {
			err = fmt.Errorf("%s segments are left", left)
		}
		return err
	}))
	refused(t, ctx, two, 1, []string{"cannot be had", "barman-wal-restore 127.0.0.1 main"}, withConf(t, two, conf, cloneOf(one, "-F"))...)
	restore := fmt.Sprintf("PATH=%s/bin:/usr/bin:/bin barman-wal-restore -U %s --config %[1]s/barman.conf 127.0.0.1 main %%f %%p", one.Dir, userOf(t, ctx, one))
	must(t, two.WriteConf(with("restore_command", restore)))
	r := two.Repmgr(ctx, cloneOf(one, "-F")...)
	must(t, r.Err())
	for _, text := range []string{`backup 20`, `of "main" in Barman on 127.0.0.1`, "(100 %)"} {
		if !strings.Contains(r.Stderr, text) {
			t.Errorf("it does not say %q:\n%s", text, r.Stderr)
		}
	}
	equal(t, "event", sql(t, ctx, one, "SELECT details ~ 'backup method: barman; --force: Y' FROM repmgr.events WHERE event = 'standby_clone' AND successful"), "t")
	becomes(t, ctx, "slots", one, slots, "repmgr_slot_2 f f")
	must(t, two.Start(ctx))
	// Each segment comes by a login of its own at first.
	must(t, lab.Wait(ctx, 5*time.Minute, "the standby to have restored all WAL and to stream", func() error {
		ok, err := one.Attached(ctx, two)
		if err == nil && !ok {
			err = errors.New("it is not attached")
		}
		return err
	}))
	must(t, two.Repmgr(ctx, "standby", "register").Err())
	becomes(t, ctx, "the rows", two, "SELECT string_agg(n, ' ' ORDER BY n) FROM there", "after before")
	equal(t, "tablespace", sql(t, ctx, two, "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'fast'"), two.Dir+"/fast")
	equal(t, "restore_command", sql(t, ctx, two, "SHOW restore_command"), restore)
	withoutAConnection(t, ctx, one, two)
}

// withoutAConnection makes the standby again while nobody of the cluster is connected to, and
// at last while the primary is down.
func withoutAConnection(t *testing.T, ctx context.Context, one, two *lab.Node) {
	t.Helper()
	alone := func(more ...string) []string {
		return append([]string{"standby", "clone", "-F", "--no-upstream-connection"}, more...)
	}
	says := func(r lab.Result, texts ...string) {
		t.Helper()
		must(t, r.Err())
		for _, text := range texts {
			if !strings.Contains(r.Stderr, text) {
				t.Errorf("%s: it does not say %q:\n%s", r.Command, text, r.Stderr)
			}
		}
	}
	must(t, two.Stop(ctx, "fast"))
	must(t, two.Run(ctx, "rm", "-r", two.Dir+"/fast").Err()) // a tablespace is never deleted
	refused(t, ctx, two, 1, []string{"for a copy of Barman's backup", "barman_host"}, alone("--without-barman")...)
	upstream := fmt.Sprintf("host=%s port=%d user=repmgr dbname=repmgr", one.Host, one.Port)
	// Barman's host asks the server: the records are the primary's.
	says(two.Repmgr(ctx, alone("--dry-run")...), "the upstream was not asked", "backup's timeline, 1", "repmgr_slot_2", fmt.Sprintf("port=%d", one.Port))
	must(t, one.Stop(ctx, "fast"))
	refused(t, ctx, two, 6, []string{"source cannot be reached", "--no-upstream-connection"}, cloneOf(one, "-F")...)
	refused(t, ctx, two, 1, []string{"not known whom", "psql there", "--upstream-conninfo"}, alone()...)
	says(two.Repmgr(ctx, alone("--upstream-conninfo", upstream)...), "its system identifier is", "was not made", "ready to be started")
	written, err := os.ReadFile(filepath.Join(two.DataDir, "postgresql.auto.conf"))
	must(t, err)
	for _, text := range []string{fmt.Sprintf("port=%d", one.Port), "user=repmgr", "application_name=" + two.Name, "primary_slot_name = 'repmgr_slot_2'", "restore_command"} {
		if !strings.Contains(string(written), text) {
			t.Errorf("the settings lack %q:\n%s", text, written)
		}
	}
	if !exists(two, "data/standby.signal") || !exists(two, "data/PG_VERSION") || exists(two, "data/repmgr-clone.partial") {
		t.Error("the copy is not complete")
	}
}

// brokenBarman has clones that change nothing or are broken off: what they leave cannot be taken
// for a whole copy, and holds no WAL.
func brokenBarman(t *testing.T, ctx context.Context, l *lab.Lab, one, two *lab.Node) {
	t.Helper()
	must(t, two.Repmgr(ctx, cloneOf(one, "--dry-run")...).Err())
	if exists(two, "data") || exists(two, "fast") {
		t.Error("a dry run has made a directory")
	}
	for _, signal := range []string{"TERM", "KILL"} {
		script := `"$@" >&2 & p=$!; until [ -e data/repmgr-clone.partial/base ]; do kill -0 $p || exit 99; sleep 0.02; done; kill -` + signal + ` $p; wait $p`
		r := two.Run(ctx, "env", append([]string{"PATH=" + one.Dir + "/bin:/usr/bin:/bin", "bash", "-c", script, "bash", l.Dir + "/bin/repmgr", "-f", two.ConfFile()}, cloneOf(one)...)...)
		if want := map[string]int{"TERM": 14, "KILL": 137}[signal]; r.Code != want {
			t.Errorf("SIG%s: status %d, want %d\n%s", signal, r.Code, want, r.Stderr)
		}
		becomes(t, ctx, "the slot to be gone", one, slots, "")
		if signal == "TERM" && (exists(two, "data") || exists(two, "fast")) {
			t.Error("the directories are left")
		}
		must(t, lab.Wait(ctx, time.Minute, "the end of rsync", func() error { return noProcess("rsync", two.DataDir) }))
	}
	if exists(two, "data/PG_VERSION") {
		t.Error("a server could start in half a copy")
	}
}

// noProcess fails where a process has both words in its command line.
func noProcess(words ...string) error {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		line, _ := os.ReadFile(path)
		found := len(line) > 0
		for _, word := range words {
			found = found && strings.Contains(string(line), word)
		}
		if found {
			return fmt.Errorf("process %s still runs: %q", filepath.Base(filepath.Dir(path)), line)
		}
	}
	return err
}
