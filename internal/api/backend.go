// Package api is how daemons talk to each other, and how the command line and
// load balancers talk to a daemon: JSON over HTTP, on one TCP port with mutual
// TLS and on a Unix socket. It owns the cluster's certificate authority, the
// forms of the messages, the server and the client. It decides nothing.
package api

import (
	"context"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
)

// Backend is the daemon behind a Server. Its methods are called from several
// goroutines at once, and are expected to answer from memory.
type Backend interface {
	// Report is the daemon's latest report.
	Report() failover.Report
	// Receive takes in a peer's report and returns the daemon's own. The server
	// has checked that from is the certificate's node and the report's.
	Receive(ctx context.Context, from cluster.NodeID, r failover.Report) (failover.Report, error)
	// View is all that the daemon knows; the caller may keep it.
	View() ClusterView
	// Pause stops or resumes automatic failover on this node.
	Pause(ctx context.Context, paused bool, reason string) error
	// Wake asks the daemon to look again at once.
	Wake()
}
