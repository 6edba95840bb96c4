package host

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"repmgr/internal/fault"
)

func TestWriteFileDurable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	check(t, WriteFileDurable(path, []byte("one"), 0o600))
	check(t, os.Chmod(path, 0o640))
	if c := credential(); c != nil {
		check(t, os.Chown(path, int(c.Uid), int(c.Gid)))
	}
	check(t, WriteFileDurable(path, []byte("two"), 0o600))
	text, err := os.ReadFile(path)
	check(t, err)
	info, err := os.Stat(path)
	check(t, err)
	if string(text) != "two" || info.Mode().Perm() != 0o640 {
		t.Errorf("%q, mode %v", text, info.Mode())
	}
	if c := credential(); c != nil && info.Sys().(*syscall.Stat_t).Uid != c.Uid {
		t.Error("the owner was not kept")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("%v are left behind", entries)
	}
	check(t, os.Mkdir(filepath.Join(dir, "busy"), 0o700))
	for _, bad := range []string{filepath.Join(dir, "absent", "state"), filepath.Join(path, "state"), filepath.Join(dir, "busy")} {
		if err := WriteFileDurable(bad, nil, 0o600); fault.CodeOf(err) != fault.SysFailure {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("%v are left behind after errors", entries)
	}
}

func TestPrepareDirectory(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	mode := func(path string) os.FileMode {
		info, err := os.Stat(path)
		check(t, err)
		return info.Mode().Perm()
	}
	fresh := filepath.Join(base, "a", "b")
	check(t, PrepareDirectory(fresh, false))
	if mode(fresh) != 0o700 {
		t.Errorf("a new directory has mode %v", mode(fresh))
	}
	check(t, os.Chmod(fresh, 0o750))
	check(t, PrepareDirectory(fresh, false))
	if mode(fresh) != 0o750 {
		t.Errorf("0750 became %v", mode(fresh))
	}
	check(t, os.Chmod(fresh, 0o755))
	check(t, PrepareDirectory(fresh, false))
	if mode(fresh) != 0o700 {
		t.Errorf("0755 became %v", mode(fresh))
	}
	outside := filepath.Join(base, "outside")
	check(t, os.WriteFile(outside, nil, 0o600))
	check(t, os.Symlink(outside, filepath.Join(fresh, "link")))
	check(t, os.Mkdir(filepath.Join(fresh, "sub"), 0o700))
	if err := PrepareDirectory(fresh, false); fault.CodeOf(err) != fault.BadConfig {
		t.Errorf("a directory with files: %v", err)
	}
	check(t, PrepareDirectory(fresh, true))
	if d, err := DirectoryState(fresh); err != nil || d.Content != Empty {
		t.Errorf("force left %+v (%v)", d, err)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Error("what a link pointed to was deleted")
	}
	for _, bad := range []string{outside, filepath.Join(outside, "x")} {
		if err := PrepareDirectory(bad, true); fault.CodeOf(err) != fault.BadConfig {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// A running server is never deleted, whatever force says, also if its lock file
// has gone or it has nothing but orphans.
func TestPrepareDirectoryOfARunningServer(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d, err := DirectoryState(s.dir)
	check(t, err)
	if d.Content != DataDirectory || !d.InUse() || d.PID != s.postmaster(t) || len(d.Running) < 4 {
		t.Errorf("%+v", d)
	}
	refuse := func(when string) {
		if err := PrepareDirectory(s.dir, true); fault.CodeOf(err) != fault.BadConfig {
			t.Errorf("%s: %v", when, err)
		}
	}
	refuse("running")
	pidFile := filepath.Join(s.dir, "postmaster.pid")
	check(t, os.Rename(pidFile, s.dir+".pid"))
	refuse("without its lock file")
	check(t, os.Rename(s.dir+".pid", pidFile))
	s.session(t, loop)
	until(t, "a busy session", func() bool { return busy(t, s) == 1 })
	check(t, syscall.Kill(s.postmaster(t), syscall.SIGKILL))
	until(t, "one orphan", func() bool { return len(processes(t, s.dir)) == 1 })
	refuse("with an orphan")
	check(t, KillAll(t.Context(), s.dir))
	check(t, PrepareDirectory(s.dir, true))
}

// A lock file of the dead, or of another process by now, does not count.
func TestAStaleLockFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, text := range []string{"4194304\n", "1\n", "-1\n", "x\n", ""} {
		check(t, os.WriteFile(filepath.Join(dir, "postmaster.pid"), []byte(text), 0o600))
		if d, err := DirectoryState(dir); err != nil || d.InUse() || d.Content != Other {
			t.Errorf("%q: %+v (%v)", text, d, err)
		}
	}
}
