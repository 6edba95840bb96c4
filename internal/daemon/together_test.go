package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"repmgr/internal/lab"
)

// twoClusters makes two clusters of two data nodes and a witness, and one process
// that is the witness of both.
func twoClusters(t *testing.T) (a, b *lab.Lab, ctx context.Context) {
	t.Helper()
	t.Parallel()
	o := lab.Options{Nodes: 2, Witness: true, Plain: true, Quorum: true}
	b, _ = open(t, o)
	a, ctx = open(t, o)
	for _, l := range []*lab.Lab{a, b} {
		for _, step := range []func(context.Context) error{l.BringUpPrimary, l.BringUpStandbys, l.BringUpWitness} {
			must(t, step(ctx))
		}
		must(t, l.Node(1).StartDaemon(ctx))
		must(t, l.Node(2).StartDaemon(ctx))
	}
	must(t, a.Node(3).StartDaemon(ctx, "-f", b.Node(3).ConfFile()))
	waitVoting(t, ctx, a, a.Node(1))
	waitVoting(t, ctx, b, b.Node(1))
	return a, b, ctx
}

// One process is the witness of two clusters: both fail over by its vote, one after
// the other, its log says which is meant, and what breaks one is that one's.
func TestWitnessOfTwoClusters(t *testing.T) {
	a, b, ctx := twoClusters(t)
	witness := a.Node(3)
	for _, l := range []*lab.Lab{a, b} {
		must(t, l.Node(1).Kill9(ctx))
		waitPrimary(t, ctx, l, l.Node(2))
		waitVoting(t, ctx, l, l.Node(2))
		waitFollows(t, ctx, l.Node(1), l.Node(2))
		waitLog(t, ctx, witness, "[NOTICE] "+l.Node(3).ConfFile()+": this node joins the group")
	}

	// The second cluster's state is damaged. The first has its vote as before.
	must(t, witness.KillDaemon(ctx))
	file := filepath.Join(b.Node(3).Dir, "state", "quorum.db")
	must(t, os.WriteFile(file, []byte(strings.Repeat("damaged ", 10000)), 0o600))
	must(t, witness.StartDaemon(ctx, "-f", b.Node(3).ConfFile()))
	waitLog(t, ctx, witness, "[ERROR] "+b.Node(3).ConfFile()+": repmgrd does not run for this cluster now")
	waitVoting(t, ctx, a, a.Node(2))
	must(t, a.Node(2).Kill9(ctx))
	waitPrimary(t, ctx, a, a.Node(1))
	waitVoting(t, ctx, a, a.Node(1))

	// Repaired, it comes back by itself, in the same process.
	pid := witness.DaemonPID()
	must(t, says(t, b.Node(3), "cluster reset-quorum --this-node")())
	waitVoting(t, ctx, b, b.Node(2))
	must(t, b.Node(2).Kill9(ctx))
	waitPrimary(t, ctx, b, b.Node(1))
	if witness.DaemonPID() != pid {
		t.Error("the process was another one")
	}
	status, err := witness.StopDaemon(ctx)
	must(t, err)
	if status != 0 {
		t.Errorf("ended with status %d", status)
	}
	for _, l := range []*lab.Lab{a, b} {
		if _, err := os.Stat(filepath.Join(l.Node(3).Dir, "state", "repmgrd.pid")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("PID file: %v", err)
		}
	}
}

// What one process cannot serve is refused before anything is started.
func TestWitnessesThatAreRefused(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 1, Witness: true, Plain: true})
	data, witness := l.Node(1), l.Node(2)
	must(t, data.WriteConf(nil))
	must(t, witness.WriteConf(nil))
	file := func(name, state string, port int) string {
		path := filepath.Join(witness.Dir, name)
		text := fmt.Sprintf("node_id = 3\nnode_name = 'w'\nstate_directory = '%s'\ndaemon_port = %d\n", filepath.Join(witness.Dir, state), port)
		must(t, os.WriteFile(path, []byte(text), 0o644))
		return path
	}
	first := file("first.conf", "first", 20001)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-f", first, "-f", data.ConfFile()}, data.ConfFile() + " names a PostgreSQL server"},
		{[]string{"-f", first, "-f", file("port.conf", "port", 20001)}, "have the same daemon_port"},
		{[]string{"-f", first, "-f", file("state.conf", "first/", 20002)}, "have the same state_directory"},
		{[]string{"-f", first, "-f", first}, "have the same state_directory"},
		{[]string{"-f", first, "-f", file("pid.conf", "pid", 20003), "-p", "/tmp/x.pid"}, "--pid-file names one file"},
		{[]string{"-f", first, "-f", filepath.Join(witness.Dir, "none.conf")}, "none.conf cannot be read"},
		{[]string{"-f", first, "-f", file("unknown.conf", "unknown", 20004)}, "nothing is known yet of this witness's cluster"}, // of both: none runs
	} {
		for _, mode := range []string{"--daemonize=false", "--daemonize=true"} {
			r := witness.Program(ctx, "repmgrd", append(c.args, mode)...)
			if r.Code != 1 || !strings.Contains(r.Stderr, c.want) {
				t.Errorf("%s %v: exit status %d, want 1 with %q:\n%s", mode, c.args, r.Code, c.want, r.Stderr)
			}
		}
	}
}
