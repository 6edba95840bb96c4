package host

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// Who has the path in its command line is ended, where programs are named only one of those;
// nobody else is.
func TestEndNaming(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "copy")
	start := func(name string) *exec.Cmd {
		cmd := exec.Command("/bin/sh", "-c", "read line", "sh", name)
		in, err := cmd.StdinPipe()
		check(t, err)
		check(t, cmd.Start())
		t.Cleanup(func() { _ = in.Close(); _ = cmd.Process.Kill() })
		until(t, "the process to run", func() bool { return titleOf(cmd.Process.Pid) == "/bin/sh -c read line sh "+name })
		return cmd
	}
	works, other := start(path+"/data"), start(dir+"/other")
	check(t, EndNaming(path, "rsync", "tar"))
	if !Alive(works.Process.Pid) {
		t.Fatal("it is neither rsync nor tar, and was ended")
	}
	check(t, EndNaming(path))
	if Alive(works.Process.Pid) || !Alive(other.Process.Pid) {
		t.Errorf("it lives: %v; the other lives: %v", Alive(works.Process.Pid), Alive(other.Process.Pid))
	}
	check(t, EndNaming(path))
}

// A path is named by a command line that has it or one below it, and not by one that has another
// which begins alike.
func TestNames(t *testing.T) {
	for title, want := range map[string]bool{
		"rsync --server . /data/fast": true, "rsync /data/fast/1 x": true, "sh -c 'tar x /data/fast'": true,
		"rsync --server . /data/fast2": false, "rsync /data/fast2 /data/fast": true, "rsync /data/slow": false,
	} {
		if got := names(title, "/data/fast"); got != want {
			t.Errorf("%s: got %v", title, got)
		}
	}
}
