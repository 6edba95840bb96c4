package chaos

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"repmgr/internal/lab"
)

// Setup is what kind of cluster is made.
type Setup struct {
	Nodes int
	Sync  string // off, on or strict: what an acknowledgement promises
}

// System is a program that keeps a cluster alive. The faults, the clients and the
// checks are the same for every system; this is all that differs.
type System interface {
	// Name is the system's, with its version.
	Name() string
	// Up makes a whole cluster in namespaces, with the roles and databases of a lab.
	Up(ctx context.Context, setup Setup) (*lab.Lab, error)
	// Programs are the services of a node, in the order of their start; the last
	// is the one that decides.
	Programs() []string
	// StartProgram starts one, as a service manager would.
	StartProgram(ctx context.Context, n *lab.Node, program string) error
	// StartsServer says that the system starts PostgreSQL after a boot, so that the host does not.
	StartsServer() bool
	// Companion is what the system needs beside its daemon: it signals that on a
	// node, by which its name is known; an empty name: there is nothing of that kind now.
	Companion(n *lab.Node, signal syscall.Signal) (name string, err error)
	// Whole answers nil when there is one primary, all others stream from it, and the system is at rest.
	Whole(ctx context.Context, l *lab.Lab) error
	// Patience is how long a cluster may take to become whole by itself.
	Patience() time.Duration
	// Pause and Unpause switch failover off and on, from a node.
	Pause(ctx context.Context, n *lab.Node) error
	Unpause(ctx context.Context, n *lab.Node) error
	// Mend is the human for a cluster that did not become whole by itself; errIncurable if nobody may have to.
	Mend(ctx context.Context, l *lab.Lab, primary *lab.Node) error
}

// errIncurable says that a cluster is not mended by hand.
var errIncurable = errors.New("it has to become whole by itself")

// Systems are the names that Find knows.
var Systems = []string{"repmgr", "repmgr5", "patroni"}

// Find is the system of that name; an error says why it is not here.
func Find(ctx context.Context, name string) (System, error) {
	switch name {
	case "repmgr":
		return &family{name: "repmgr"}, nil
	case "repmgr5":
		software, err := lab.Repmgr5(0)
		if err != nil {
			return nil, err
		}
		return &family{name: software.Version(ctx), software: software}, nil
	case "patroni":
		return findPatroni(ctx)
	}
	return nil, fmt.Errorf("drive %q: what there is: %s", name, strings.Join(Systems, ", "))
}

// family is repmgr and its relatives: one command line, different programs.
type family struct {
	name     string
	software *lab.Software // nil: ours
}

func (f *family) Name() string { return f.name }

// Patience: repmgr 5 takes a primary for lost after a minute by its own times (6 times 10 s), and
// promotes a standby then; it brings nobody back, and is not waited for longer.
func (f *family) Patience() time.Duration {
	if f.software == nil {
		return 4 * time.Minute
	}
	return 2 * time.Minute
}

// serverSettings are for many clients that go away while they wait.
var serverSettings = map[string]string{"max_connections": "400"}

func (f *family) Up(ctx context.Context, setup Setup) (*lab.Lab, error) {
	options := lab.Options{Nodes: setup.Nodes, Software: f.software, Namespaces: true, Settings: serverSettings}
	if f.software == nil {
		options.Quorum = true
		options.Conf = map[string]string{"synchronous_mode": setup.Sync}
	}
	l, err := lab.New(options)
	if err != nil {
		return nil, err
	}
	err = l.BringUp(ctx)
	if err == nil {
		err = l.DaemonsWatch(ctx)
	}
	if err == nil && f.software != nil && setup.Sync != "off" {
		err = synchronous(ctx, l)
	}
	if err == nil {
		err = lab.Wait(ctx, 4*time.Minute, "a whole cluster", func() error { return f.Whole(ctx, l) })
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w\n%s", err, l.Logs()), l.Close())
	}
	return l, nil
}

// synchronous is how synchronous replication is had without a system that
// manages it: one of all nodes, on each server.
func synchronous(ctx context.Context, l *lab.Lab) error {
	var names []string
	for _, n := range l.Nodes {
		names = append(names, n.Name)
	}
	for _, n := range l.Nodes {
		_, err := n.SQL(ctx, "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 ("+strings.Join(names, ", ")+")'")
		if err := errors.Join(err, n.Reload(ctx)); err != nil {
			return err
		}
	}
	return nil
}

const repmgrd = "repmgrd"

func (f *family) Programs() []string { return []string{repmgrd} }

func (f *family) StartProgram(ctx context.Context, n *lab.Node, _ string) error {
	return n.StartDaemon(ctx)
}

func (f *family) StartsServer() bool { return false }

// Companion is our guard.
func (f *family) Companion(n *lab.Node, signal syscall.Signal) (string, error) {
	if f.software != nil {
		return "", nil
	}
	guards, err := n.Guards()
	if err != nil || len(guards) == 0 {
		return "", err
	}
	for _, pid := range guards {
		if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return "", err
		}
	}
	return "guard", nil
}

func (f *family) Whole(ctx context.Context, l *lab.Lab) error { return l.Whole(ctx) }

func (f *family) Pause(ctx context.Context, n *lab.Node) error {
	return n.Repmgr(ctx, "service", "pause").Err()
}

func (f *family) Unpause(ctx context.Context, n *lab.Node) error {
	return n.Repmgr(ctx, "service", "unpause").Err()
}

// mendBound bounds the wait for what a human did to show.
const mendBound = 2 * time.Minute

func (f *family) Mend(ctx context.Context, l *lab.Lab, primary *lab.Node) error {
	if f.software == nil {
		return errIncurable
	}
	if !primary.Running() {
		if err := primary.Start(ctx); err != nil {
			return err
		}
	}
	if standby, err := primary.InRecovery(ctx); err != nil || standby {
		return errors.Join(fmt.Errorf("%s is to be the primary, and is none", primary.Name), err)
	}
	for _, n := range l.Nodes {
		if n == primary {
			continue
		}
		if attached, err := primary.Attached(ctx, n); err == nil && attached {
			continue
		}
		if err := n.Reclone(ctx, primary); err != nil {
			return err
		}
	}
	// A daemon that gave up does not look again by itself.
	for _, n := range l.Nodes {
		if err := errors.Join(n.KillDaemon(ctx), n.StartDaemon(ctx)); err != nil {
			return err
		}
	}
	return lab.Wait(ctx, mendBound, "a whole cluster", func() error { return f.Whole(ctx, l) })
}
