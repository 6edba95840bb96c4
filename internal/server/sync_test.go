package server

import (
	"context"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"repmgr/internal/pg"
)

// listen streams from a server under a name, and acknowledges what it has on disk.
func (i *instance) listen(t testing.TB, name string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(filepath.Join(testBin, "pg_receivewal"), "-D", tempDir(t), "--synchronous", "-n", "-d", i.socket().With("application_name", name).String())
	check(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	until(t, name+" to stream", func() bool {
		return i.value(t, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name = '"+name+"'") == "1"
	})
	return cmd
}

// stopped stops a process of the server until the function returned is called.
func (i *instance) stopped(t testing.TB, which string) (resume func()) {
	t.Helper()
	c := i.conn(t)
	var pid int
	check(t, c.QueryRow(within(t), which).Scan(&pid))
	check(t, syscall.Kill(pid, syscall.SIGSTOP))
	resume = func() { _ = syscall.Kill(pid, syscall.SIGCONT) }
	t.Cleanup(resume)
	return resume
}

func named(names ...string) func(string) bool {
	return func(name string) bool { return slices.Contains(names, name) }
}

func is(value string) func(string) bool { return func(v string) bool { return v == value } }

// briefly is for what must not succeed.
func briefly(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	t.Cleanup(cancel)
	return ctx
}

const setBC, setB, setC = `ANY 1 ("b@1", "c@1")`, `ANY 1 ("b@1")`, `ANY 1 ("c@1")`

// A set is in force alone only when each walsender goes by it, and its members
// have what the former one acknowledged.
func TestSynchronousSetIsProven(t *testing.T) {
	i := newInstance(t, "")
	i.start(t)
	b, _ := i.listen(t, "b@1"), i.listen(t, "c@1")
	check(t, i.SetSync(within(t), setBC))
	_, err := i.ProveSync(within(t), is(setBC), 1, named("b@1", "c@1"))
	check(t, err)
	if _, err = i.ProveSync(briefly(t), is(setB), 1, named("b@1")); err == nil {
		t.Error("a set that is not in force was proven")
	}
	resume := i.stopped(t, "SELECT pid FROM pg_stat_replication WHERE application_name = 'c@1'")
	check(t, i.SetSync(within(t), setB))
	if _, err = i.ProveSync(briefly(t), is(setB), 1, named("b@1")); err == nil || !strings.Contains(err.Error(), "1 walsenders may still go by") {
		t.Errorf("a stopped walsender goes by the former set: %v", err)
	}
	resume()
	_, err = i.ProveSync(within(t), is(setB), 1, named("b@1"))
	check(t, err)
	check(t, b.Process.Signal(syscall.SIGSTOP))
	t.Cleanup(func() { _ = b.Process.Signal(syscall.SIGCONT) })
	if _, err = i.ProveSync(briefly(t), is(setB), 1, named("b@1")); err == nil || !strings.Contains(err.Error(), "0 of 1 synchronous standbys") {
		t.Errorf("the member is stopped and lacks what was acknowledged: %v", err)
	}
}

// Commits wait for a set only once the checkpointer has read it; until then it is
// not said to be in force.
func TestSynchronousSetAwaitsTheCheckpointer(t *testing.T) {
	i := newInstance(t, "")
	i.start(t)
	i.exec(t, "CREATE TABLE waits (n int)")
	resume := i.stopped(t, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
	if err := i.SetSync(briefly(t), setC); err == nil || !strings.Contains(err.Error(), "could not be changed") {
		t.Errorf("the checkpointer is stopped: %v", err)
	}
	commit := func(ctx context.Context) error {
		c, err := pg.Connect(ctx, i.socket())
		check(t, err)
		defer hangUp(c)
		if _, err := c.Exec(ctx, "SET synchronous_commit = on"); err != nil {
			return err
		}
		_, err = c.Exec(ctx, "INSERT INTO public.waits VALUES (1)")
		return err
	}
	check(t, commit(within(t))) // nobody streams, and it does not wait
	resume()
	check(t, i.SetSync(within(t), setC))
	if err := commit(briefly(t)); err == nil {
		t.Error("a commit did not wait")
	}
	check(t, i.SetSync(within(t), ""))
	check(t, commit(within(t)))
}

// What operators had set is as it was.
func TestSynchronousSettingIsPutBack(t *testing.T) {
	i := newInstance(t, "synchronous_standby_names = 'theirs'\nsynchronous_commit = local\n")
	i.start(t)
	managed := func(value string) bool { return value == setB }
	for _, c := range []struct {
		value string
		set   bool
		want  string
	}{{"", false, "theirs"}, {"", true, ""}, {"ANY 1 (x)", true, "ANY 1 (x)"}} {
		check(t, i.SetSync(within(t), setB))
		check(t, i.RestoreSync(within(t), c.value, c.set, managed))
		if got := i.value(t, "current_setting('synchronous_standby_names')"); got != c.want {
			t.Errorf("%+v: %q is in force", c, got)
		}
		value, set, err := pg.ReadSetting(i.dir, syncNames)
		check(t, err)
		if value != c.value || set != c.set {
			t.Errorf("%+v: the file says %q, %v", c, value, set)
		}
	}
}
