package host

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// loop keeps a backend busy: it does not sleep, so that it does not notice the
// death of its postmaster.
const loop = `DO $$ BEGIN LOOP PERFORM sqrt(2); END LOOP; END $$`

func TestProcessesFindsThoseOfItsDirectoryAlone(t *testing.T) {
	t.Parallel()
	s, other := newServer(t), newServer(t)
	// Anybody may stand in the directory, even under the name of postgres.
	bystander := exec.Command("/bin/sleep", "60")
	bystander.Dir = s.dir
	check(t, bystander.Start())
	t.Cleanup(func() { bystander.Process.Kill(); bystander.Wait() })
	link := filepath.Join(t.TempDir(), "link")
	check(t, os.Symlink(s.dir, link))
	list := processes(t, link)
	if len(list) < 4 {
		t.Fatalf("%d processes were found: %v", len(list), list)
	}
	postmaster := s.postmaster(t)
	for _, p := range list {
		if p.PID == bystander.Process.Pid || p.PID == other.postmaster(t) || p.PID != postmaster && p.Parent != postmaster {
			t.Errorf("%v does not belong there", p)
		}
		if p.PID != postmaster && !strings.HasPrefix(p.Title, "postgres: ") || p.Started == 0 {
			t.Errorf("%v lacks its title or its start", p)
		}
	}
	if _, err := Processes(filepath.Join(s.dir, "absent")); err == nil {
		t.Error("a missing directory was searched")
	}
}

// A program that was replaced while it runs is shown as deleted and still counts.
func TestProcessesKnowsADeletedProgram(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := filepath.Join(dir, "postgres")
	text, err := os.ReadFile("/bin/sleep")
	check(t, err)
	check(t, os.WriteFile(program, text, 0o755))
	cmd := exec.Command(program, "60")
	cmd.Dir = dir
	check(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	check(t, os.Remove(program))
	if list := processes(t, dir); len(list) != 1 || list[0].PID != cmd.Process.Pid {
		t.Errorf("found %v", list)
	}
	check(t, cmd.Process.Kill())
	until(t, "a zombie", func() bool { _, state, _ := readStat(cmd.Process.Pid); return state == 'Z' })
	if list := processes(t, dir); len(list) != 0 || Alive(cmd.Process.Pid) {
		t.Errorf("a zombie counts: %v", list)
	}
}

func TestKillAllLeavesNobody(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for range 3 {
		s.session(t, loop)
	}
	before := len(processes(t, s.dir))
	until(t, "busy sessions", func() bool { return busy(t, s) == 3 })
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	start := time.Now()
	check(t, KillAll(ctx, s.dir))
	if list := processes(t, s.dir); len(list) != 0 {
		t.Errorf("%v are left", list)
	}
	t.Logf("%d processes took %s", before, time.Since(start))
	if strings.Contains(readLog(t, s), "terminating any other active server processes") {
		t.Error("the postmaster saw its children die: it was not the first")
	}
	check(t, KillAll(ctx, s.dir)) // nobody is there
}

// A stopped postmaster takes no other signal than this one.
func TestKillAllOfAStoppedServer(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, p := range processes(t, s.dir) {
		check(t, syscall.Kill(p.PID, syscall.SIGSTOP))
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	check(t, KillAll(ctx, s.dir))
	if err := KillAll(ctx, filepath.Join(s.dir, "absent")); err == nil {
		t.Error("a missing directory was taken for an idle one")
	}
}

// A sweep needs neither the lock file nor the directory's name.
func TestSweep(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.session(t, loop)
	until(t, "a busy session", func() bool { return busy(t, s) == 1 })
	dir, err := os.Stat(s.dir)
	check(t, err)
	check(t, os.Remove(filepath.Join(s.dir, "postmaster.pid")))
	moved := s.dir + ".moved"
	check(t, os.Rename(s.dir, moved))
	t.Cleanup(func() { os.Rename(moved, s.dir) })
	before := len(processes(t, moved))
	if took, err := TimeToSweep(moved); err != nil || took <= 0 || len(processes(t, moved)) != before {
		t.Errorf("a search took %s, and left %v (%v)", took, processes(t, moved), err)
	}
	found, err := Sweep(dir)
	check(t, err)
	if len(found) != before {
		t.Errorf("it found %d of %d processes: %v", len(found), before, found)
	}
	until(t, "nobody left", func() bool {
		found, err := Sweep(dir)
		check(t, err)
		return len(found) == 0
	})
	if strings.Contains(readLog(t, s), "terminating any other active server processes") {
		t.Error("the postmaster saw its children die: it was not the first")
	}
}

func TestKillAllEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := KillAll(ctx, t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// A backend that does not sleep outlives its postmaster (safety notes, A8).
func TestKillOrphans(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.session(t, loop)
	until(t, "a busy session", func() bool { return busy(t, s) == 1 })
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	before := len(processes(t, s.dir))
	check(t, KillOrphans(ctx, s.dir))
	if after := len(processes(t, s.dir)); after != before {
		t.Fatalf("%d of %d processes of a healthy server are left", after, before)
	}
	check(t, syscall.Kill(s.postmaster(t), syscall.SIGKILL))
	until(t, "the idle ones gone", func() bool { return len(processes(t, s.dir)) == 1 })
	check(t, KillOrphans(ctx, s.dir))
	if list := processes(t, s.dir); len(list) != 0 {
		t.Errorf("%v are left", list)
	}
	if d, err := DirectoryState(s.dir); err != nil || d.InUse() || d.Content != DataDirectory {
		t.Errorf("the directory is %+v (%v)", d, err)
	}
}

func busy(t *testing.T, s *server) (n int) {
	for _, p := range processes(t, s.dir) {
		if strings.HasSuffix(p.Title, " DO") {
			n++
		}
	}
	return n
}

func readLog(t *testing.T, s *server) string {
	t.Helper()
	text, err := os.ReadFile(s.dir + ".log")
	check(t, err)
	return string(text)
}

func TestHandleSeesTheEnd(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("/bin/sleep", "60")
	check(t, cmd.Start())
	h, err := OpenProcess(cmd.Process.Pid)
	check(t, err)
	if h.Exited() {
		t.Error("a living process has exited")
	}
	check(t, h.Signal(unix.SIGCONT))
	check(t, h.Kill())
	select {
	case <-h.Done(): // not reaped yet: it is a zombie now
	case <-time.After(time.Minute):
		t.Fatal("the end was not seen")
	}
	if !h.Exited() {
		t.Error("an ended process has not exited")
	}
	cmd.Wait()
	check(t, h.Kill())
	if err := h.Signal(unix.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a signal to the dead: %v", err)
	}
	check(t, h.Close())
	check(t, h.Close())
	if err := h.Signal(unix.SIGTERM); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a signal after Close: %v", err)
	}
	if _, err := OpenProcess(cmd.Process.Pid); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a hold on nobody: %v", err)
	}
}

func TestHandleOfAZombie(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	check(t, err)
	parent := exec.Command(exe, "zombie")
	in, err := parent.StdinPipe()
	check(t, err)
	out, err := parent.StdoutPipe()
	check(t, err)
	check(t, parent.Start())
	defer parent.Wait()
	defer in.Close()
	line, err := bufio.NewReader(out).ReadString('\n')
	check(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	check(t, err)
	until(t, "a zombie", func() bool { _, state, _ := readStat(pid); return state == 'Z' })
	h, err := OpenProcess(pid)
	check(t, err)
	defer h.Close()
	select {
	case <-h.Done():
	case <-time.After(time.Minute):
		t.Fatal("a zombie counts as alive")
	}
}

func TestHandleIsLetGo(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("/bin/sleep", "60")
	check(t, cmd.Start())
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	h, err := OpenProcess(cmd.Process.Pid)
	check(t, err)
	check(t, h.Close())
	select {
	case <-h.ended:
	default:
		t.Error("the watch goes on after Close")
	}
	select {
	case <-h.Done():
		t.Error("letting go counts as the end")
	default:
	}
	if h.Exited() || !Alive(cmd.Process.Pid) || Alive(0) {
		t.Error("letting go has ended the process, or zero lives")
	}
}

// The process that the lock file names goes before all others, then those whose
// parents are not among them.
func TestPostmasterFirst(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	found := []Process{{PID: 30, Parent: 20}, {PID: 40, Parent: 1}, {PID: 20, Parent: 40}, {PID: 50, Parent: 7}}
	order := func() (pids []int) {
		for _, p := range postmasterFirst(dir, found) {
			pids = append(pids, p.PID)
		}
		return pids
	}
	if got, want := order(), []int{40, 50, 30, 20}; !slices.Equal(got, want) {
		t.Errorf("without a lock file: %v, want %v", got, want)
	}
	check(t, os.WriteFile(filepath.Join(dir, "postmaster.pid"), []byte("20\n"), 0o600))
	if got, want := order(), []int{20, 40, 50, 30}; !slices.Equal(got, want) {
		t.Errorf("with a lock file: %v, want %v", got, want)
	}
}
