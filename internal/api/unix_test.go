package api

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
)

// The environment that turns this test program into a daemon which listens on
// that state directory, says so, and waits to be killed.
const asDaemon = "API_TEST_LISTEN_IN"

func TestMain(m *testing.M) {
	if dir := os.Getenv(asDaemon); dir != "" {
		if _, err := ListenUnix(dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("listening")
		time.Sleep(patience)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// stateDir is a directory as the daemon makes it; long names make its path longer
// than a socket's address.
func stateDir(t testing.TB, names ...string) string {
	t.Helper()
	dir := filepath.Join(append([]string{t.TempDir()}, names...)...)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// serveUnix starts a daemon's server on the socket of dir.
func serveUnix(t testing.TB, dir string) *node {
	t.Helper()
	l, err := ListenUnix(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{memory: &memory{own: sampleReport(3)}, journal: &journal{}}
	n.start(t, func(s *Server) error { return s.ServeUnix(l) })
	return n
}

func TestCommandLineActsOnTheSocket(t *testing.T) {
	t.Parallel()
	for name, dir := range map[string]string{
		"short": stateDir(t),
		"long":  stateDir(t, strings.Repeat("x", 100), strings.Repeat("y", 100)),
	} {
		n := serveUnix(t, dir)
		c := DialUnix(dir)
		t.Cleanup(c.Close)
		if v, err := c.Status(within(t)); err != nil || v.Own.Node != 3 || v.Version != ViewVersion {
			t.Errorf("%s: status %+v, %v", name, v, err)
		}
		if err := c.Pause(within(t), Pause{true, "maintenance", 60}); err != nil || n.paused[0] != (Pause{true, "maintenance", 60}) {
			t.Errorf("%s: pause: %v, %v", name, n.paused, err)
		}
		if err := c.Wake(within(t)); err != nil || n.woken != 1 {
			t.Errorf("%s: wake: %d times, %v", name, n.woken, err)
		}
		if d, err := c.Drill(within(t), true); err != nil || len(d.Outcomes) != 2 {
			t.Errorf("%s: drill with pairs: %+v, %v", name, d, err)
		}
		if o, err := c.Reach(within(t), Relay{All: true}); err != nil || len(o) != 3 || o[0].Reaches[1].Error != "no route to host" {
			t.Errorf("%s: reach with others: %+v, %v", name, o, err)
		}
		if o, err := c.Reach(within(t), Relay{Of: []cluster.NodeID{4, 6}}); err != nil || len(o) != 2 || o[1].Node != 6 {
			t.Errorf("%s: reach with some others: %+v, %v", name, o, err)
		}
		if a, err := c.Switchover(within(t), 2, "node 3"); err != nil || a != (SwitchoverAnswer{4, 2, 3}) || !slices.Equal(n.asked, []string{"node 2 by node 3"}) {
			t.Errorf("%s: switchover: %+v, %v, asked: %v", name, a, err, n.asked)
		}
		if err := c.Rejoin(within(t)); err != nil || n.rejoined != 1 {
			t.Errorf("%s: rejoin: %d times, %v", name, n.rejoined, err)
		}
		if _, err := c.Switchover(within(t), 0, "node 3"); err == nil || len(n.asked) != 1 {
			t.Errorf("%s: a switchover to nobody: %v, asked: %v", name, err, n.asked)
		}
		if c.StepDown(within(t), 0) == nil || c.StepUp(within(t), 1, 0) == nil || c.StepUp(within(t), 0, 1) == nil || len(n.asked) != 1 {
			t.Errorf("%s: steps for nobody, or to nowhere, asked: %v", name, n.asked)
		}
		err := errors.Join(c.StepDown(within(t), 2), c.StepUp(within(t), 1, 0x2000148))
		if want := []string{"step down for node 2", "step up for node 1 at 0/2000148"}; err != nil || !slices.Equal(n.asked[1:], want) {
			t.Errorf("%s: steps: %v, asked: %v", name, err, n.asked)
		}
		if err := c.Fault(within(t), 2, FaultCrash); err == nil || !strings.Contains(err.Error(), "meant for node 2, this is node 3") {
			t.Errorf("%s: a fault of another node: %v", name, err)
		}
		if err := c.Fault(within(t), 3, "flood"); err == nil || len(n.faults) != 0 {
			t.Errorf("%s: a fault that there is not: %v, %v", name, n.faults, err)
		}
		if err := c.Fault(within(t), 3, FaultCrash); err != nil || len(n.faults) != 1 || n.faults[0] != FaultCrash {
			t.Errorf("%s: fault: %v, %v", name, n.faults, err)
		}
		if _, err := c.Exchange(within(t), sampleReport(3)); !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "needs the certificate") {
			t.Errorf("%s: a report without a certificate: %v", name, err)
		}
		if i, err := os.Stat(filepath.Join(dir, socketName)); err != nil || i.Mode().Perm() != 0o600 {
			t.Errorf("%s: the socket is %v, %v", name, i, err)
		}
	}
}

func TestNoDaemonOnTheSocket(t *testing.T) {
	t.Parallel()
	dir := stateDir(t)
	if err := DialUnix(dir).Wake(within(t)); !errors.Is(err, ErrNotRunning) {
		t.Errorf("no socket: %v", err)
	}
	if err := DialUnix(filepath.Join(dir, strings.Repeat("x", 200))).Wake(within(t)); !errors.Is(err, ErrNotRunning) {
		t.Errorf("no directory, and a long name: %v", err)
	}
	l, err := ListenUnix(dir)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if left, _ := filepath.Glob(filepath.Join(dir, "*.sock*")); len(left) != 0 {
		t.Errorf("a closed socket leaves %v", left)
	}
}

func TestOneDaemonPerStateDirectory(t *testing.T) {
	t.Parallel()
	dir := stateDir(t)
	n := serveUnix(t, dir)
	_, err := ListenUnix(dir)
	var f *fault.Error
	if !errors.As(err, &f) || f.Code != fault.BadPidfile || f.Hint == "" ||
		!strings.Contains(f.Detail, fmt.Sprintf("process %d", os.Getpid())) {
		t.Fatalf("a second daemon: %#v", err)
	}
	if err := DialUnix(dir).Wake(within(t)); err != nil || n.woken != 1 {
		t.Errorf("the first one is gone: %v", err)
	}
}

// TestKilledDaemonsSocketIsReplaced: a daemon in a process of its own keeps others
// off until it is killed, and not any longer.
func TestKilledDaemonsSocketIsReplaced(t *testing.T) {
	t.Parallel()
	dir := stateDir(t)
	daemon := exec.Command(os.Args[0])
	daemon.Env = append(os.Environ(), asDaemon+"="+dir)
	out, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	defer daemon.Wait()
	defer daemon.Process.Kill()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "listening\n" {
		t.Fatalf("the daemon said %q, %v", line, err)
	}
	if _, err := ListenUnix(dir); err == nil || fault.CodeOf(err) != fault.BadPidfile {
		t.Errorf("while it lives: %v", err)
	}
	daemon.Process.Kill()
	daemon.Wait()
	if err := DialUnix(dir).Wake(within(t)); !errors.Is(err, ErrNotRunning) {
		t.Errorf("what it left answers with: %v", err)
	}
	n := serveUnix(t, dir)
	if err := DialUnix(dir).Wake(within(t)); err != nil || n.woken != 1 {
		t.Errorf("the next daemon: %v", err)
	}
}

// TestOtherUsersAreRefused connects as another user, which a thread of root's
// process can become, to a socket whose mode somebody has opened.
func TestOtherUsersAreRefused(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	dir := stateDir(t)
	n := serveUnix(t, dir)
	path := filepath.Join(dir, socketName)
	for p := dir; p != os.TempDir() && p != "/"; p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const nobody = 65534
	if c, err := dialAs(nobody, path); !errors.Is(err, os.ErrPermission) {
		t.Errorf("the socket's mode lets another user in: %v, %v", c, err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	c, err := dialAs(nobody, path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: repmgrd\r\n\r\n", PathWake)
	if got := ends(t, c); got != "" {
		t.Errorf("another user was answered with %q", got)
	}
	n.await(t, "it is user "+strconv.Itoa(nobody))
	if n.woken != 0 {
		t.Error("another user woke the daemon")
	}
	if err := DialUnix(dir).Wake(within(t)); err != nil {
		t.Errorf("its own user: %v", err)
	}
}

// dialAs connects from a thread whose effective user is uid. The thread ends with
// its goroutine, which stays locked to it.
func dialAs(uid int, path string) (c net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if _, _, errno := syscall.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			err = errno
			return
		}
		c, err = net.Dial("unix", path)
	}()
	<-done
	return c, err
}

func TestWhoMayUseTheSocket(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		uid, own int
		want     bool
	}{{1000, 1000, true}, {0, 1000, true}, {1001, 1000, false}, {1000, 0, false}, {0, 0, true}} {
		if got := mayUse(c.uid, c.own); got != c.want {
			t.Errorf("user %d at the socket of user %d: %v", c.uid, c.own, got)
		}
	}
}

func TestPlainFilesAreNoSocket(t *testing.T) {
	t.Parallel()
	dir := stateDir(t)
	// A file where the socket belongs is replaced, since the lock says that nobody
	// lives here; a directory is not.
	if err := os.WriteFile(filepath.Join(dir, socketName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := ListenUnix(dir)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := os.MkdirAll(filepath.Join(dir, socketName, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenUnix(dir); err == nil || !strings.Contains(err.Error(), "listen on "+dir) {
		t.Errorf("a directory in its place: %v", err)
	}
	if _, err := ListenUnix(filepath.Join(dir, "nowhere")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no state directory: %v", err)
	}
}

// What a server shows is for nodes, and the records as they are for this machine.
func TestWhoMayAskForSights(t *testing.T) {
	t.Parallel()
	a := authority(t)
	three := serve(t, a, 3)
	three.seen = cluster.Sight{Own: &cluster.Node{ID: 3, Name: "three"}, Reach: cluster.Up, Recovery: cluster.InRecovery, Timeline: 2,
		Received: 0x3000148, Replayed: 0x3000000, ReplayPaused: true, Senders: map[string][]string{"four": {"streaming"}}}
	node, reader := client(t, three.target, identity(t, a, 1).ClientTLS()), client(t, three.target, identity(t, a, 0).ClientTLS())
	got, err := node.Sight(within(t))
	if err != nil || !reflect.DeepEqual(got.Server, three.seen) || got.Report.Node != 3 {
		t.Errorf("got %+v, %v; want %+v", got, err, three.seen)
	}
	if _, err := reader.Sight(within(t)); !errors.Is(err, ErrDenied) {
		t.Errorf("a reader: %v", err)
	}
	if _, err := node.Sights(within(t)); !errors.Is(err, ErrDenied) {
		t.Errorf("another machine: %v", err)
	}
}
