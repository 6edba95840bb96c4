package verbs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"repmgr/internal/lab"
)

// cloneOf is the arguments of a clone of upstream.
func cloneOf(upstream *lab.Node, more ...string) []string {
	return append([]string{"-h", upstream.Host, "-p", fmt.Sprint(upstream.Port), "-U", "repmgr", "-d", "repmgr", "standby", "clone", "-c"}, more...)
}

// exists tells whether something of that name is in the node's folder.
func exists(n *lab.Node, name string) bool {
	_, err := os.Lstat(filepath.Join(n.Dir, name))
	return err == nil
}

func TestACloneThatMustNotBe(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 2, Witness: true, Slots: true})
	one, two, other := l.Node(1), l.Node(2), l.Node(3)
	must(t, two.WriteConf(nil))
	must(t, one.InitPrimary(ctx))
	must(t, one.WriteConf(nil))
	refused(t, ctx, two, 1, []string{"no repmgr metadata", "primary register"}, cloneOf(one)...)
	must(t, one.Repmgr(ctx, "primary", "register").Err())
	must(t, l.BringUpWitness(ctx))
	refused(t, ctx, two, 1, []string{"does not belong", "witness"}, cloneOf(other)...)
	refused(t, ctx, two, 1, []string{"not registered"}, cloneOf(one, "--upstream-node-id=8")...)
	refused(t, ctx, two, 1, []string{"names a tablespace"}, withConf(t, two, map[string]string{"tablespace_mapping": "/a=/b"}, cloneOf(one))...)
	refused(t, ctx, two, 1, []string{"server runs"}, withConf(t, two, map[string]string{"data_directory": one.DataDir}, cloneOf(one, "-F"))...)
	must(t, two.WriteConf(nil))

	must(t, two.Run(ctx, "mkdir", two.DataDir).Err())
	must(t, two.Run(ctx, "touch", two.DataDir+"/precious").Err())
	refused(t, ctx, two, 1, []string{"is not empty", "--force"}, cloneOf(one)...)
	if !exists(two, "data/precious") {
		t.Error("what was in the directory is gone")
	}
	must(t, two.Run(ctx, "rm", two.DataDir+"/precious").Err())
	for setting, says := range map[string]string{"max_replication_slots": "replication slots", "max_wal_senders": "WAL senders"} {
		must(t, os.WriteFile(filepath.Join(one.DataDir, "postgresql.auto.conf"), []byte(setting+" = 1\n"), 0o600))
		must(t, one.Stop(ctx, "fast"))
		must(t, one.Start(ctx))
		refused(t, ctx, two, 1, []string{"too few free " + says}, cloneOf(one)...)
	}
	must(t, os.Truncate(filepath.Join(one.DataDir, "postgresql.auto.conf"), 0))
	must(t, one.Stop(ctx, "fast"))
	must(t, one.Start(ctx))

	must(t, two.Repmgr(ctx, cloneOf(one, "--dry-run")...).Err())
	if !exists(two, "data") || exists(two, "data/PG_VERSION") {
		t.Error("a dry run changed the data directory")
	}
	becomes(t, ctx, "slots", one, slots, "")
}

// withConf writes a node's configuration before its command is run.
func withConf(t *testing.T, n *lab.Node, conf map[string]string, args []string) []string {
	t.Helper()
	must(t, n.WriteConf(conf))
	return args
}

func TestACloneOfAnotherMajorVersion(t *testing.T) {
	t.Parallel()
	other := 17
	if lab.Major() == other {
		other = 15
	}
	programs, err := lab.Find(other)
	if err != nil {
		t.Skipf("SKIPPED, NOT TESTED HERE: %v", err)
	}
	l, ctx := open(t, lab.Options{Nodes: 2})
	must(t, l.BringUpPrimary(ctx))
	must(t, l.Node(2).WriteConf(map[string]string{"pg_bindir": programs}))
	refused(t, ctx, l.Node(2), 1, []string{"another major version"}, cloneOf(l.Node(1))...)
}

// slowly makes a copy take long enough to be broken off.
var slowly = map[string]string{"pg_basebackup_options": "--max-rate=2M"}

func TestACloneThatIsBrokenOffLeavesNothing(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 2, Slots: true})
	one, two := l.Node(1), l.Node(2)
	must(t, l.BringUpPrimary(ctx))
	for _, c := range []struct {
		name, signal string
		empty        bool
	}{{"by SIGTERM", "TERM", false}, {"by SIGTERM in a directory that was there", "TERM", true},
		{"by SIGINT", "INT", false}, {"by ^C", "^C", true}, {"by SIGKILL", "KILL", false}} {
		must(t, two.WriteConf(slowly))
		if c.empty {
			must(t, two.Run(ctx, "mkdir", "-m", "700", two.DataDir).Err())
		}
		kill := "kill -" + c.signal + " $p"
		if c.signal == "^C" { // a terminal sends it to all that run in the foreground
			kill = "kill -INT -$p"
		}
		script := `set -m; "$@" >&2 & p=$!; until [ -e data/repmgr-clone.partial/backup_label ]; do kill -0 $p || exit 99; sleep 0.02; done; ` + kill + `; wait $p`
		r := two.Run(ctx, "bash", append([]string{"-c", script, "bash", l.Dir + "/bin/repmgr", "-f", two.ConfFile()}, cloneOf(one)...)...)
		if want := map[string]int{"TERM": 14, "INT": 14, "^C": 14, "KILL": 137}[c.signal]; r.Code != want {
			t.Errorf("%s: status %d, want %d\n%s", c.name, r.Code, want, r.Stderr)
		}
		must(t, lab.Wait(ctx, time.Minute, "the slot to be gone", func() error {
			if left := sql(t, ctx, one, slots); left != "" {
				return errors.New(left)
			}
			return nil
		}))
		if c.signal != "KILL" {
			if exists(two, "data") != c.empty || exists(two, "data/repmgr-clone.partial") {
				t.Errorf("%s: the directory was not put back", c.name)
			}
			must(t, two.Run(ctx, "rm", "-rf", two.DataDir).Err())
		}
	}
	if r := two.Run(ctx, l.Bindir+"/postgres", "-D", two.DataDir); r.Code == 0 || !strings.Contains(r.Stderr, "not a valid data directory") && !strings.Contains(r.Stderr, "postgresql.conf") {
		t.Errorf("a server starts in half a copy: %d %s", r.Code, r.Stderr)
	}
	refused(t, ctx, two, 1, []string{"broken off", "--force"}, cloneOf(one)...)
	must(t, two.WriteConf(nil))
	must(t, two.Repmgr(ctx, cloneOf(one, "-F")...).Err())
	becomes(t, ctx, "slots", one, slots, "repmgr_slot_2 f f")
	must(t, two.Start(ctx))
	must(t, two.Repmgr(ctx, "standby", "register").Err())
	if exists(two, "data/repmgr-clone.partial") {
		t.Error("the place of the copy is left")
	}
}

func TestACloneThatFillsTheDisk(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED, NOT TESTED HERE: only root makes a small file system")
	}
	l, ctx := open(t, lab.Options{Nodes: 2, Slots: true})
	one, two := l.Node(1), l.Node(2)
	must(t, l.BringUpPrimary(ctx))
	must(t, two.WriteConf(nil))
	small := filepath.Join(two.Dir, "small")
	must(t, two.Run(ctx, "mkdir", small).Err())
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=20m,mode=777"); err != nil {
		t.Skipf("SKIPPED, NOT TESTED HERE: %v", err)
	}
	t.Cleanup(func() { must(t, syscall.Unmount(small, syscall.MNT_DETACH)) })
	must(t, two.WriteConf(map[string]string{"data_directory": small + "/data"}))
	refused(t, ctx, two, 14, []string{"too little room"}, cloneOf(one)...)
	if exists(two, "small/data") {
		t.Error("the directory was made")
	}
	refused(t, ctx, two, 14, []string{"No space left on device", "Make room"}, cloneOf(one, "-F")...)
	if exists(two, "small/data") {
		t.Error("the directory is left")
	}
	becomes(t, ctx, "slots", one, slots, "")
	equal(t, "event", sql(t, ctx, one, events+" OFFSET 2"), "2 standby_clone f")
}

func TestClonesOfEveryKind(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 3, Slots: true})
	one, two, three := l.Node(1), l.Node(2), l.Node(3)
	must(t, l.BringUpPrimary(ctx))
	must(t, one.Run(ctx, "mkdir", one.Dir+"/fast").Err())
	_, err := one.Rows(ctx, "CREATE TABLESPACE fast LOCATION '"+one.Dir+"/fast'")
	must(t, err)
	_, err = one.Rows(ctx, "CREATE TABLE there (n int) TABLESPACE fast")
	must(t, err)

	// What a killed clone has put into a tablespace goes with its directory.
	mapping := one.Dir + "/fast=" + two.Dir + "/fast"
	must(t, two.WriteConf(map[string]string{"tablespace_mapping": mapping, "pg_basebackup_options": "--max-rate=2M"}))
	kill := `"$@" >&2 & p=$!; until ls fast/PG_* >/dev/null 2>&1; do kill -0 $p || exit 99; sleep 0.02; done; kill -KILL $p; wait $p`
	r := two.Run(ctx, "sh", append([]string{"-c", kill, "sh", l.Dir + "/bin/repmgr", "-f", two.ConfFile()}, cloneOf(one)...)...)
	if r.Code != 137 {
		t.Errorf("status %d: %s", r.Code, r.Stderr)
	}
	must(t, two.WriteConf(map[string]string{"tablespace_mapping": mapping}))
	must(t, two.Repmgr(ctx, cloneOf(one, "-F", "--dry-run")...).Err())
	must(t, two.Repmgr(ctx, cloneOf(one, "-F")...).Err())
	must(t, two.Run(ctx, "rm", "-rf", two.DataDir, two.Dir+"/fast").Err())

	// The tablespace cannot be at the same place on the same machine.
	must(t, two.WriteConf(nil))
	refused(t, ctx, two, 1, []string{"for a tablespace, is not empty", "tablespace_mapping"}, cloneOf(one)...)
	must(t, two.WriteConf(map[string]string{"tablespace_mapping": one.Dir + "/fast=" + two.Dir + "/fast",
		"restore_command": "cp '/nowhere/%f' \"%p\"", "recovery_min_apply_delay": "500ms"}))
	must(t, two.Repmgr(ctx, cloneOf(one, "--verify-backup")...).Err())
	must(t, two.Start(ctx))
	must(t, two.Repmgr(ctx, "standby", "register").Err())
	equal(t, "restore_command", sql(t, ctx, two, "SHOW restore_command"), "cp '/nowhere/%f' \"%p\"")
	equal(t, "recovery_min_apply_delay", sql(t, ctx, two, "SHOW recovery_min_apply_delay"), "500ms")
	equal(t, "tablespace", sql(t, ctx, two, "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'fast'"), two.Dir+"/fast")

	// From a standby, following the primary: the slot is the primary's.
	must(t, three.WriteConf(map[string]string{"tablespace_mapping": two.Dir + "/fast=" + three.Dir + "/fast"}))
	must(t, three.Repmgr(ctx, cloneOf(two)...).Err())
	becomes(t, ctx, "slots of the source", two, slots, "")
	becomes(t, ctx, "slots of the primary", one, slots, "repmgr_slot_2 f t\nrepmgr_slot_3 f f")
	// What the source's own settings said is not kept.
	must(t, three.Start(ctx))
	equal(t, "restore_command", sql(t, ctx, three, "SHOW restore_command"), "")
	must(t, three.Repmgr(ctx, "standby", "register").Err())
	// The settings alone, now of a cascaded standby.
	must(t, three.Stop(ctx, "fast"))
	must(t, three.Repmgr(ctx, cloneOf(one, "--replication-conf-only", "--upstream-node-id=2")...).Err())
	must(t, three.Start(ctx))
	attached(t, ctx, two, three)
}

func attached(t *testing.T, ctx context.Context, upstream, standby *lab.Node) {
	t.Helper()
	must(t, lab.Wait(ctx, time.Minute, standby.Name+" to stream", func() error {
		ok, err := upstream.Attached(ctx, standby)
		if err == nil && !ok {
			err = errors.New("it is not attached")
		}
		return err
	}))
}

// outside moves a server's configuration out of its data directory, as Debian's
// packages have it.
func outside(t *testing.T, ctx context.Context, l *lab.Lab, n *lab.Node) (etc string) {
	t.Helper()
	etc = filepath.Join(n.Dir, "etc")
	must(t, n.Stop(ctx, "fast"))
	must(t, n.Run(ctx, "mkdir", etc, etc+"/conf.d").Err())
	for _, name := range []string{"postgresql.conf", "pg_hba.conf", "pg_ident.conf"} {
		must(t, n.Run(ctx, "mv", n.DataDir+"/"+name, etc).Err())
	}
	more := fmt.Sprintf("\ndata_directory = '%s'\nhba_file = '%s/pg_hba.conf'\nident_file = '%[2]s/pg_ident.conf'\ninclude_dir = 'conf.d'\n", n.DataDir, etc)
	f, err := os.OpenFile(etc+"/postgresql.conf", os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteString(more)
	must(t, errors.Join(err, f.Close()))
	must(t, n.Run(ctx, l.Bindir+"/pg_ctl", "-D", etc, "-s", "-w", "-l", n.ServerLog(), "start").Err())
	return etc
}

func TestConfigurationFilesOutsideTheDataDirectory(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 2})
	one, two := l.Node(1), l.Node(2)
	must(t, l.BringUpPrimary(ctx))
	etc := outside(t, ctx, l, one)
	must(t, two.WriteConf(nil))

	// They may not be read: the clone says so and goes on.
	r := two.Repmgr(ctx, cloneOf(one)...)
	must(t, r.Err())
	for _, text := range []string{"live outside", etc + "/pg_hba.conf", "by hand"} {
		if !strings.Contains(r.Stderr, text) {
			t.Errorf("it does not say %q:\n%s", text, r.Stderr)
		}
	}
	refused(t, ctx, two, 1, []string{"may not be read", "pg_read_server_files"}, cloneOf(one, "-F", "--copy-external-config-files=pgdata")...)

	// They may: the standby starts with them.
	_, err := one.Rows(ctx, "GRANT pg_read_server_files TO repmgr; GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text) TO repmgr")
	must(t, err)
	must(t, two.Repmgr(ctx, cloneOf(one, "-F", "--copy-external-config-files=pgdata")...).Err())
	// The lab's own settings of the node come by a path relative to the file.
	must(t, two.Start(ctx))
	equal(t, "hba_file", sql(t, ctx, two, "SHOW hba_file"), two.DataDir+"/pg_hba.conf")
	attached(t, ctx, one, two)

	// On the same paths they are those of the source itself here: nothing is to do.
	before, err := os.ReadFile(etc + "/postgresql.conf")
	must(t, err)
	must(t, two.Stop(ctx, "fast"))
	must(t, two.Repmgr(ctx, cloneOf(one, "-F", "--copy-external-config-files")...).Err())
	after, err := os.ReadFile(etc + "/postgresql.conf")
	must(t, err)
	equal(t, "the source's file", string(after), string(before))
}

func TestACloneShowsItsProgress(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 2})
	must(t, l.BringUpPrimary(ctx))
	two := l.Node(2)
	must(t, two.WriteConf(map[string]string{"pg_basebackup_options": "--max-rate=8M"}))
	lines := two.Repmgr(ctx, cloneOf(l.Node(1))...)
	must(t, lines.Err())
	for _, text := range []string{" %), ", "/s, ", "s left\n", "(100 %)"} {
		if !strings.Contains(lines.Stderr, text) {
			t.Errorf("the lines lack %q:\n%s", text, lines.Stderr)
		}
	}
	if strings.Contains(lines.Stderr, "\x1b") {
		t.Errorf("there are escape sequences without a terminal:\n%q", lines.Stderr)
	}
	command := strings.Join(append([]string{"stty cols 120 rows 40;", l.Dir + "/bin/repmgr", "-f", two.ConfFile()}, cloneOf(l.Node(1), "-F")...), " ")
	bar := two.Run(ctx, "script", "-qec", command, "/dev/null")
	must(t, bar.Err())
	for _, text := range []string{" MiB / ", "=>--", "/s, ", "s left", "step 4 of "} {
		if !strings.Contains(bar.Stdout, text) {
			t.Errorf("the bar lacks %q:\n%q", text, bar.Stdout)
		}
	}
}
