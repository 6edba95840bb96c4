// Package api is how daemons talk to each other, and how the command line and
// load balancers talk to a daemon: JSON over HTTP, on one TCP port with mutual
// TLS and on a Unix socket. It owns the cluster's certificate authority, the
// forms of the messages, the server and the client. It decides nothing.
package api

import (
	"context"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
)

// Spoken is a peer's report and how it came. The server has checked that its node is the
// certificate's.
type Spoken struct {
	Report failover.Report
	Since  time.Time // host.Now when its connection was taken: it was said after that, though it may come much later
	HangUp func()    // the peer's next one comes over a new connection
}

// Backend is the daemon behind a Server. Its methods are called from several
// goroutines at once, and are expected to answer from memory, but for Sight and Sights.
type Backend interface {
	// Report is the daemon's latest report.
	Report() failover.Report
	// Receive takes in a peer's report and returns the daemon's own. ErrTwice: another
	// daemon, which is older, speaks for that node.
	Receive(ctx context.Context, s Spoken) (failover.Report, error)
	// Stream is called for each stream that a life of a node's daemon opens (zero: of
	// a version that does not tell), on a goroutine of its own,
	// and takes its frames until receive fails; when it returns, the stream is
	// closed. receive is for that goroutine alone, a frame is the backend's, and one
	// that does not keep up makes the sender wait. It fails too when the server is
	// shut down, which waits for Stream to return.
	Stream(from cluster.NodeID, life uint64, receive func() ([]byte, error))
	// View is all that the daemon knows; the caller may keep it.
	View() ClusterView
	// Sight asks the own server now. An error says that it, or the session that is kept
	// for that, did not answer: what is known from earlier is no answer.
	Sight(ctx context.Context) (Sight, error)
	// Sights has every daemon that can be reached ask its server now.
	Sights(ctx context.Context) (Sights, error)
	// Pause stops or resumes automatic failover on this node.
	Pause(ctx context.Context, order Pause) error
	// Fenced ends that node's lease, which has no time limit: an operator says that its
	// server cannot write any more.
	Fenced(ctx context.Context, node cluster.NodeID) error
	// Switchover asks the group for another primary.
	Switchover(ctx context.Context, to cluster.NodeID, by string) (SwitchoverAnswer, error)
	// StepDown begins to stop this node's server in favour of another's, which is
	// promoted then, and to make it that one's standby.
	StepDown(ctx context.Context, to cluster.NodeID) error
	// StepUp begins to promote this node's server in place of another's, which was
	// stopped, and whose WAL ends there. An error with the code SwitchoverFail says that it has
	// not begun, and will not.
	StepUp(ctx context.Context, from cluster.NodeID, end cluster.LSN) error
	// Startable sees to it that the node's server, which is about to be started,
	// comes up as it may, and says how.
	Startable(ctx context.Context) (StartAnswer, error)
	// Rejoin has the node's own server, which was stopped by hand, made a standby.
	Rejoin(ctx context.Context) error
	// Drill says what each single fault would lead to, with pairs that of every two
	// nodes too. It may take a second.
	Drill(ctx context.Context, pairs bool) (Drill, error)
	// Reach says what this node reaches, with a relay also what others reach whose
	// daemons it can ask. It takes as long as a connection may.
	Reach(ctx context.Context, relay Relay) ([]Outlook, error)
	// Fault makes the node's own server fail, or ends that.
	Fault(ctx context.Context, what Fault) error
	// Follow begins to point this node's server at upstream, as an operator's
	// order, and returns without waiting for the end of it.
	Follow(ctx context.Context, upstream cluster.NodeID) error
	// Wake asks the daemon to look again at once.
	Wake()
}
