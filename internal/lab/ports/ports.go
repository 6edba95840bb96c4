// Package ports finds ports for the servers that tests, the demo and the
// benchmark start.
package ports

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// Ports are taken from below the range that the kernel gives to outgoing
// connections (net.ipv4.ip_local_port_range) and to listeners that ask for any
// port: what was free there a moment ago may be a stranger's when a server binds it.
const (
	first = 20000
	last  = 29999
)

// Reserve finds a port that nobody listens on and that no other process has
// reserved. The reservation is a name in the kernel, an abstract Unix socket
// (unix(7)): it vanishes when it is closed or with this process, and leaves no file.
// Its error says that every port is taken.
func Reserve() (port int, reservation net.Listener, err error) {
	count := last - first + 1
	offset := rand.IntN(count)
	for i := range count {
		port := first + (offset+i)%count
		reservation, err := net.Listen("unix", fmt.Sprintf("@repmgr-lab-port-%d", port))
		if err != nil {
			continue
		}
		if listener, err := net.Listen("tcp", fmt.Sprintf(":%d", port)); err == nil {
			listener.Close()
			return port, reservation, nil
		}
		reservation.Close()
	}
	return 0, nil, fmt.Errorf("find a free port: all of %d to %d are taken", first, last)
}

// For reserves a port until a test has ended; t is a *testing.T or its like.
func For(t interface {
	Helper()
	Fatal(...any)
	Cleanup(func())
}) int {
	t.Helper()
	port, reservation, err := Reserve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reservation.Close() })
	return port
}
