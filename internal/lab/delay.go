package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Delay makes the way between any two nodes, and between a node and the client,
// take that long there and back. The kernel's own means (netem) is not in every
// kernel, so each cable ends in this process, which hands every frame on later.
// It lasts as long as this process.
func (l *Lab) Delay(roundTrip time.Duration) error {
	if l.network == nil {
		return ErrNamespaces
	}
	for _, n := range l.Nodes {
		if err := l.network.slow(n.ID, roundTrip/4); err != nil { // a way there and back passes two cables, each twice
			return fmt.Errorf("delay the network of node %d: %w", n.ID, err)
		}
	}
	return nil
}

// slow puts this process between a node's cable and the bridge.
func (n *network) slow(id int, each time.Duration) error {
	port, tap := cable(id), fmt.Sprintf("slow%d", id)
	if err := inNamespace(n.node(id), func() error { return wholeFrames("eth0") }); err != nil {
		return err
	}
	var wire, bridge *os.File
	err := inNamespace(n.hub(), func() (err error) {
		if err = wholeFrames(port); err != nil {
			return err
		}
		if bridge, err = openTap(tap); err != nil {
			return err
		}
		wire, err = openPort(port)
		return err
	})
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		{"-n", n.hub(), "link", "set", port, "nomaster", "promisc", "on"},
		{"-n", n.hub(), "link", "set", tap, "master", "br0", "up"},
	} {
		if err := ip(n.ctx, args...); err != nil {
			return err
		}
	}
	go relay(wire, bridge, each)
	go relay(bridge, wire, each)
	return nil
}

// relay hands frames on, each a little later, until one end is closed.
func relay(from, to *os.File, after time.Duration) {
	type frame struct {
		due  time.Time
		data []byte
	}
	frames := make(chan frame, 1<<14)
	go func() {
		for f := range frames {
			time.Sleep(time.Until(f.due))
			_, _ = to.Write(f.data) // lost, as frames may be
		}
	}()
	defer func() { close(frames); from.Close() }()
	buffer := make([]byte, 1<<16)
	for {
		count, err := from.Read(buffer)
		if err != nil {
			return
		}
		select {
		case frames <- frame{time.Now().Add(after), append([]byte(nil), buffer[:count]...)}:
		default: // lost: the line is full
		}
	}
}

// openPort reads and writes what passes one end of a cable (man 7 packet).
func openPort(name string) (*os.File, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	const every = 0x0300 // ETH_P_ALL in the order of the network
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, every)
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: every, Ifindex: link.Index}))
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openTap makes a network interface whose other end is the file.
func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}

// wholeFrames has an interface send what can go over a wire: frames of the usual
// size with their checksums, which between two ends in one kernel are left out.
func wholeFrames(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	type value struct{ command, data uint32 } // struct ethtool_value
	type request struct {                     // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	for _, command := range []uint32{unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO, unix.ETHTOOL_SGRO, unix.ETHTOOL_STXCSUM} {
		off := value{command: command}
		r := request{data: unsafe.Pointer(&off)}
		copy(r.name[:], name)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&r))); errno != 0 {
			return fmt.Errorf("offloading of %s (%#x): %w", name, command, errno)
		}
	}
	return nil
}
