package daemon

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"repmgr/internal/conf"
	"repmgr/internal/pg"
	"repmgr/internal/server"
)

// After a power cut the number in a left-over PID file is soon another program's:
// the daemon starts all the same. It does not beside another daemon.
func TestPidFileOfAnotherProgram(t *testing.T) {
	other := exec.Command("sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	path := filepath.Join(t.TempDir(), "pid")
	for pid, free := range map[int]bool{other.Process.Pid: true, 1 << 22: true, -1: true, 0: true} {
		d := &Daemon{cfg: &conf.Config{}, opt: Options{PidFile: path}}
		if err := os.WriteFile(path, []byte(strconv.Itoa(pid)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := d.takePidFile(); (err == nil) != free {
			t.Errorf("process %d: %v", pid, err)
		}
	}
	if !isDaemon(os.Getpid()) {
		t.Error("a process of this very program is no daemon")
	}
}

// A daemon that does not see its server's processes gets no lease.
func TestServerOutOfSight(t *testing.T) {
	own := server.Own{Config: &conf.Config{DataDirectory: t.TempDir()}}
	// As from another PID namespace: the file names a number that is here nobody's, or somebody else's.
	for _, pid := range []int{1 << 22, 1, os.Getpid()} {
		if err := os.WriteFile(filepath.Join(own.Config.DataDirectory, "postmaster.pid"), []byte(strconv.Itoa(pid)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := pg.ReadPostmaster(own.Config.DataDirectory); err != nil {
			t.Fatal(err)
		}
		if err := mustSee(own); err == nil {
			t.Errorf("process %d is taken for the postmaster", pid)
		}
	}
}
