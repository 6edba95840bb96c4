package failover

import "repmgr/internal/record"

// LetStart lets the own server, which was stopped in order, start as the primary
// that it was: once, and while this node surely holds the lease.
type LetStart struct{}

func (LetStart) action() {}

// Gate is how the own server, which is about to be started, shall come up.
type Gate string

// The answers of the start gate.
const (
	GateAsItIs   Gate = "as it is"  // nothing is done: the quorum rule is not in force, or its daemon has seen to it
	GateReadOnly Gate = "read-only" // its daemon promotes it, if it may
	GatePrimary  Gate = "primary"   // on its timeline, with its unlogged tables
	GateWait     Gate = ""          // it cannot be told yet
)

// Startable is the start gate's answer for the own server at v.Local.At, and why.
func Startable(v *View) (Gate, string) {
	f := newFacts(v, v.Local.At)
	switch {
	case !f.quorumKnown():
		return GateAsItIs, "the visibility rule is in force"
	case f.starts():
		return GateReadOnly, "its daemon starts it"
	case f.takesUp():
		return GateAsItIs, "its daemon starts it as the primary that it was"
	case f.Doing != nil:
		return GateWait, "the daemon is busy: " + Describe(f.Doing)
	case !f.holds():
		return GateReadOnly, f.whyUnsure()
	case !f.sure():
		return GateReadOnly, f.whyUnsure()
	case !f.lease().Promoted:
		return GateReadOnly, "its promotion is not recorded yet"
	case f.regrants():
		return GateReadOnly, "a new timeline was asked for"
	case f.lease().State == record.Held && !f.Guard.Alive:
		return GateReadOnly, "there is no guard"
	case f.local.State == ServerCrashed, f.local.State == ServerFenced, f.local.Ended:
		return GateReadOnly, "the server was not stopped in order"
	case f.local.State != ServerStopped:
		return GateWait, "the server is " + string(f.local.State)
	}
	if why, gone := f.goneFor(); gone && !f.Group.Record.Pause.On {
		return GateReadOnly, why
	}
	return GatePrimary, "this node holds the lease, and the server was stopped in order"
}

// starts reports whether the daemon itself is starting the server, by a service
// command that passes the gate: to wait for that order's end would be to wait for itself.
func (f facts) starts() bool {
	switch f.Doing.(type) {
	case StartServer, Rejoin:
		return true
	}
	return false
}

// takesUp reports whether the daemon itself is starting the server as a primary.
func (f facts) takesUp() bool {
	_, ok := f.Doing.(TakeUp)
	return ok
}
