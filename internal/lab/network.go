package lab

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNamespaces says that this machine or user cannot make network namespaces.
var ErrNamespaces = errors.New("network namespaces cannot be made here: they need root (CAP_SYS_ADMIN and CAP_NET_ADMIN) and iproute2")

// namespaceFolder is where ip(8) keeps the namespaces it names.
const namespaceFolder = "/run/netns"

// Addresses of a lab's network. They exist only inside its namespaces, so that
// all labs use the same.
const (
	hubAddress  = "10.77.0.254"
	nodeAddress = "10.77.0.%d"
	// nowhere is a hardware address that no interface has: what is sent to it is lost without a word.
	nowhere = "02:00:00:00:00:01"
)

// network is a lab's own: a bridge in a namespace, the hub, where the client
// lives too, and a cable from it to each node's namespace.
type network struct {
	prefix string
	ctx    context.Context // bounds every command; ends with the lab
}

// newNetwork makes the hub.
func newNetwork(ctx context.Context, labName string) (*network, error) {
	if os.Geteuid() != 0 {
		return nil, ErrNamespaces
	}
	n := &network{prefix: namespacePrefix(labName), ctx: ctx}
	hub := n.hub()
	if err := ip(ctx, "netns", "add", hub); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNamespaces, err)
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", "br0", "type", "bridge", "forward_delay", "0", "stp_state", "0"},
		{"addr", "add", hubAddress + "/24", "dev", "br0"},
		{"link", "set", "br0", "up"},
	} {
		if err := ip(ctx, append([]string{"-n", hub}, args...)...); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNamespaces, err)
		}
	}
	return n, nil
}

func (n *network) hub() string { return n.prefix + "hub" }

func (n *network) node(id int) string { return fmt.Sprintf("%sn%d", n.prefix, id) }

func cable(id int) string { return fmt.Sprintf("port%d", id) }

// plug makes a node's namespace and connects it to the hub.
func (n *network) plug(id int) error {
	hub, node := n.hub(), n.node(id)
	for _, args := range [][]string{
		{"netns", "add", node},
		{"-n", hub, "link", "add", cable(id), "type", "veth", "peer", "name", "eth0", "netns", node},
		{"-n", hub, "link", "set", cable(id), "master", "br0", "up"},
		{"-n", node, "link", "set", "lo", "up"},
		{"-n", node, "addr", "add", fmt.Sprintf(nodeAddress, id) + "/24", "dev", "eth0"},
		{"-n", node, "link", "set", "eth0", "up"},
	} {
		if err := ip(n.ctx, args...); err != nil {
			return fmt.Errorf("make the network of node %d: %w", id, err)
		}
	}
	return nil
}

// setCable pulls or plugs in a node's cable at the hub's end. The node's own
// interface stays up without a carrier, as with a real cable.
func (n *network) setCable(id int, in bool) error {
	state := "down"
	if in {
		state = "up"
	}
	return ip(n.ctx, "-n", n.hub(), "link", "set", cable(id), state)
}

// lose makes what one node sends to another disappear.
func (n *network) lose(from, to int) error {
	return ip(n.ctx, "-n", n.node(from), "neigh", "replace", fmt.Sprintf(nodeAddress, to), "lladdr", nowhere, "dev", "eth0", "nud", "permanent")
}

// find undoes lose. A link that was not lost is left as it is.
func (n *network) find(from, to int) error {
	err := ip(n.ctx, "-n", n.node(from), "neigh", "del", fmt.Sprintf(nodeAddress, to), "lladdr", nowhere, "dev", "eth0", "nud", "permanent")
	if err != nil && strings.Contains(err.Error(), "No such file") {
		return nil
	}
	return err
}

// disturb loses a share of what goes through a node's cable, and lets no more
// than rate bits a second through. The kernel's netem would delay packets
// directly, but few small kernels have it; a filter that draws a random number,
// and a token bucket, are in every kernel.
func (n *network) disturb(id int, loss float64, rate int) error {
	for _, end := range [][2]string{{n.hub(), cable(id)}, {n.node(id), "eth0"}} {
		namespace, device := end[0], end[1]
		for _, discipline := range []string{"root", "clsact"} {
			// There may be none to delete.
			_ = run(n.ctx, "tc", "-n", namespace, "qdisc", "del", "dev", device, discipline)
		}
		if rate > 0 {
			err := run(n.ctx, "tc", "-n", namespace, "qdisc", "add", "dev", device, "root", "tbf",
				"rate", fmt.Sprintf("%dbit", rate), "burst", "4000", "latency", "500ms")
			if err != nil {
				return err
			}
		}
		if loss <= 0 {
			continue
		}
		if err := run(n.ctx, "tc", "-n", namespace, "qdisc", "add", "dev", device, "clsact"); err != nil {
			return err
		}
		if err := run(n.ctx, "tc", "-n", namespace, "filter", "add", "dev", device, "egress", "bpf", "bytecode", lossy(loss), "da"); err != nil {
			return err
		}
	}
	return nil
}

// lossy is a classic BPF program that drops a share of the packets (0 to 1): load
// a random number (linux/filter.h, SKF_AD_RANDOM); if it is greater than the
// share's, return TC_ACT_UNSPEC, else TC_ACT_SHOT.
func lossy(share float64) string {
	return fmt.Sprintf("4,32 0 0 4294963256,37 1 0 %d,6 0 0 2,6 0 0 4294967295", uint32(min(share, 1)*math.MaxUint32))
}

// removeNamespaces deletes the namespaces of a lab, open or abandoned; the
// bridge and the cables in them go with them.
func removeNamespaces(ctx context.Context, labName string) error {
	names, _ := filepath.Glob(filepath.Join(namespaceFolder, namespacePrefix(labName)+"*"))
	var errs []error
	for _, name := range names {
		errs = append(errs, ip(ctx, "netns", "del", filepath.Base(name)))
	}
	return errors.Join(errs...)
}

// ipTimeout bounds one call of ip(8) or tc(8).
const ipTimeout = 10 * time.Second

func ip(ctx context.Context, args ...string) error { return run(ctx, "ip", args...) }

// run runs one of iproute2's programs.
func run(ctx context.Context, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, ipTimeout)
	defer cancel()
	program, err := exec.LookPath(name)
	if err != nil {
		program = "/sbin/" + name // where an ordinary user's PATH does not look
	}
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// inNamespace calls f in a named network namespace; an empty name is ours. What
// f starts or opens stays there.
func inNamespace(name string, f func() error) error {
	if name == "" {
		return f()
	}
	result := make(chan error, 1)
	go func() {
		// Not unlocked: the thread has left our namespace and ends with this goroutine.
		runtime.LockOSThread()
		result <- enter(name, f)
	}()
	return <-result
}

func enter(name string, f func() error) error {
	file, err := os.Open(filepath.Join(namespaceFolder, name))
	if err != nil {
		return fmt.Errorf("open namespace: %w", err)
	}
	defer file.Close()
	if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter namespace %s: %w", name, err)
	}
	return f()
}

// dialer connects from inside a namespace. The address must be a number: a name
// would be looked up on another thread, outside.
func dialer(namespace string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = inNamespace(namespace, func() error {
			var d net.Dialer
			conn, err = d.DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
}
