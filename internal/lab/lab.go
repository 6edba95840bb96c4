package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"repmgr/internal/lab/ports"
)

// Auth is how the programs prove who they are to PostgreSQL.
type Auth int

// The ways that a lab knows.
const (
	Trust Auth = iota // no proof
	SCRAM             // passwords, in a password file
	TLS               // certificates of the lab's own authority, both sides verified
)

// Options say what kind of lab it is. The zero value is three nodes on loopback
// ports, with our own programs, on the default PostgreSQL.
type Options struct {
	Nodes      int  // data nodes; zero: 3
	Witness    bool // one node more, a witness, the last
	Plain      bool // the witness has no PostgreSQL
	Major      int  // of PostgreSQL; zero: Major()
	Namespaces bool // each node in a network of its own; ErrNamespaces where that cannot be
	Auth       Auth
	Slots      bool                          // use_replication_slots
	Patient    int                           // connect_timeout of every conninfo, in seconds; zero: 2
	Settings   map[string]string             // added to postgresql.conf on every node
	Conf       map[string]string             // added to repmgr.conf on every node
	NodeConf   map[int]map[string]string     // the same for one node
	Upstream   map[int]int                   // of a cascaded standby: its upstream; others follow node 1
	Unchecked  bool                          // without data checksums
	Unsynced   bool                          // saves what a server's safety and the lab's questions cost: for tests that no power failure is part of
	Copied     bool                          // BringUp may copy a cluster that it made before: for tests, with Unsynced, that are not about how one is made
	Quorum     bool                          // promotion_rule=auto: the quorum rule, once there are three voters; else visibility
	Software   *Software                     // nil: ours, built from this repository
	Echo       func(n *Node, command string) // called before each command under test; may be nil
}

// Software is one of the programs that speak repmgr's language.
type Software struct {
	Name      string
	Bindir    string            // where repmgr and repmgrd are
	Superuser bool              // the role repmgr has to be a superuser
	Settings  map[string]string // what postgresql.conf must have for it
	Commands  bool              // promote_command and follow_command have to be configured
	Ours      bool              // understands our own parameters
}

// Lab is a set of nodes. Its methods and those of its nodes can be called at the same time.
type Lab struct {
	Dir    string // everything is in here
	Nodes  []*Node
	Bindir string // PostgreSQL's programs
	Major  int    // PostgreSQL's major version

	options  Options
	software Software
	account  account
	network  *network // nil: loopback
	secrets  secrets
	ctx      context.Context // ends when the lab is closed
	cancel   context.CancelFunc

	install   sync.Mutex // guards installed
	installed string     // the folder of our programs; empty: they are not there yet

	mu           sync.Mutex
	reservations []net.Listener
	kept         bool
	closed       bool
}

var reaped sync.Once

// New makes the folder, the network and the nodes of a lab, but starts nothing.
// Close has to be called in the end.
func New(options Options) (*Lab, error) {
	reaped.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		// What cannot be cleared away is in nobody's way: this lab has names of its own.
		_ = Reap(ctx)
	})
	if options.Nodes == 0 {
		options.Nodes = 3
	}
	l := &Lab{options: options}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	if err := l.prepare(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	atExit(func() { l.Close() })
	return l, nil
}

func (l *Lab) prepare() (err error) {
	if l.account, err = unprivileged(); err != nil {
		return err
	}
	if l.Bindir, err = Find(l.options.Major); err != nil {
		return err
	}
	if l.Dir, err = makeOwned(labPrefix); err != nil {
		return err
	}
	if err := l.account.own(l.Dir); err != nil {
		return err
	}
	if err := l.account.mkdir(l.home()); err != nil {
		return err
	}
	if err := l.reachable(); err != nil {
		return err
	}
	if err := l.chooseSoftware(); err != nil {
		return err
	}
	if l.options.Namespaces {
		if l.network, err = newNetwork(l.ctx, filepath.Base(l.Dir)); err != nil {
			return err
		}
	}
	if err := l.addNodes(); err != nil {
		return err
	}
	return l.makeSecrets()
}

// reachable proves that the unprivileged user can run the server programs, and
// learns their version: a checkout in a closed folder is a common surprise.
func (l *Lab) reachable() (err error) {
	l.Major, err = versions.once(l.Bindir, func(ctx context.Context) (int, error) {
		result := l.run(ctx, "", filepath.Join(l.Bindir, "postgres"), "--version")
		if err := result.Err(); err != nil {
			return 0, fmt.Errorf("run PostgreSQL's programs in %s as user %s: %w", l.Bindir, l.account.name, err)
		}
		return parseMajor(result.Stdout)
	})
	return err
}

func (l *Lab) chooseSoftware() error {
	if l.options.Software != nil {
		l.software = *l.options.Software
		return nil
	}
	l.software = Software{Name: "repmgr", Ours: true} // built when first needed
	return nil
}

func (l *Lab) addNodes() error {
	total := l.options.Nodes
	if l.options.Witness {
		total++
	}
	for id := 1; id <= total; id++ {
		n := &Node{ID: id, Name: fmt.Sprintf("node%d", id), lab: l, Witness: id > l.options.Nodes}
		n.Plain = n.Witness && l.options.Plain
		n.Dir = filepath.Join(l.Dir, fmt.Sprintf("n%d", id))
		n.DataDir = filepath.Join(n.Dir, "data")
		if err := l.account.mkdir(n.Dir); err != nil {
			return err
		}
		if err := l.address(n); err != nil {
			return err
		}
		l.Nodes = append(l.Nodes, n)
	}
	return nil
}

// address gives a node its host and ports.
func (l *Lab) address(n *Node) (err error) {
	if l.network != nil {
		n.Host, n.Port, n.DaemonPort = fmt.Sprintf(nodeAddress, n.ID), 5432, 7433
		n.namespace = l.network.node(n.ID)
		return l.network.plug(n.ID)
	}
	n.Host = "127.0.0.1"
	for _, port := range []*int{&n.Port, &n.DaemonPort} {
		var reservation net.Listener
		if *port, reservation, err = ports.Reserve(); err != nil {
			return err
		}
		l.reservations = append(l.reservations, reservation)
	}
	return nil
}

// Node is the node of that number; it panics if there is none, which is a
// mistake in the calling test.
func (l *Lab) Node(id int) *Node {
	for _, n := range l.Nodes {
		if n.ID == id {
			return n
		}
	}
	panic(fmt.Sprintf("lab has no node %d", id))
}

// Account is the name of the user that everything in the lab runs as.
func (l *Lab) Account() string { return l.account.name }

// Keep makes the lab outlive Close and this process; Teardown ends it.
func (l *Lab) Keep() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	path := filepath.Join(l.Dir, ownerFile)
	if err := os.WriteFile(path, []byte(kept), 0o644); err != nil {
		return fmt.Errorf("keep the lab: %w", err)
	}
	l.kept = true
	return nil
}

// closeTimeout bounds Close.
const closeTimeout = 60 * time.Second

// Close ends every process of the lab and removes its network and files, unless
// it was kept. It can be called more than once.
func (l *Lab) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	for _, reservation := range l.reservations {
		reservation.Close()
	}
	l.cancel()
	for _, n := range l.Nodes {
		n.closeSession()
	}
	if l.kept || l.Dir == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return clearAway(ctx, l.Dir)
}

func (l *Lab) home() string { return filepath.Join(l.Dir, "home") }

// environment is what every process of the lab sees: nothing of ours but PATH.
func (l *Lab) environment() []string {
	env := map[string]string{
		markerVariable: l.Dir, "HOME": l.home(), "USER": l.account.name, "LOGNAME": l.account.name,
		"PATH": l.Bindir + ":/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC",
	}
	maps.Copy(env, l.secrets.environment)
	var list []string
	for name, value := range env {
		list = append(list, name+"="+value)
	}
	return list
}

// command prepares a program of the lab, to be started by start.
func (l *Lab) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = l.home(), l.environment(), l.account.attributes()
	return cmd
}

// start starts a prepared program, in a node's namespace where it has one.
func (l *Lab) start(namespace string, cmd *exec.Cmd) error {
	return inNamespace(namespace, cmd.Start)
}
