package lab

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// Ports are taken from below the range that the kernel gives to outgoing connections.
const (
	firstPort = 20000
	lastPort  = 29999
)

// reservePort finds a port that nobody listens on and that no other lab has
// reserved. The reservation is a name in the kernel, an abstract Unix socket:
// it vanishes with this process and leaves no file.
func reservePort() (port int, reservation net.Listener, err error) {
	count := lastPort - firstPort + 1
	offset := rand.IntN(count)
	for i := range count {
		port := firstPort + (offset+i)%count
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
	return 0, nil, fmt.Errorf("find a free port: all of %d to %d are taken", firstPort, lastPort)
}
