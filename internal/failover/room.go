package failover

import (
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// What a disk's room means, in bytes.
const (
	// FullBelow is when a disk counts as full: a segment of WAL of the usual size
	// cannot be made any more.
	FullBelow = 16 << 20
	// roomEnough is what a standby must have to be better off: not the same trouble a minute later.
	roomEnough = 256 << 20
	// fullWithin is how far behind such a standby may be, before it gets the rest.
	fullWithin = 16 << 20
)

// fullDeclines is for how long who has no room offers nothing in a vacancy: if
// nobody else was chosen by then, its data is what the cluster has.
const fullDeclines = 10 * time.Second

// roomy reports whether a member's standby could take over, and has room.
func (f facts) roomy(m record.Member) bool {
	p := f.Peers[m.Node]
	r := p.Report
	return m.Node != f.Self && m.Eligible() && f.fresh(m.Node) && !p.Silent && r.Server == ServerRunning && r.Role == cluster.Standby &&
		!r.Full && r.Room >= roomEnough
}

// betterOff returns a standby that has room and nearly everything, and may be chosen
// if this node gives its lease back; zero: none.
func (f facts) betterOff() cluster.NodeID {
	for _, m := range f.Group.Record.Members {
		r := f.Peers[m.Node].Report
		if f.roomy(m) && r.Receiving && r.Position.LSN+fullWithin >= f.local.Position.LSN && f.canChoose() {
			return m.Node
		}
	}
	return 0
}

// canChoose reports whether somebody could be chosen without this node's bid: a
// majority is heard of, and everybody whose bid a synchronous set may ask for.
func (f facts) canChoose() bool {
	rec, heard := f.Group.Record, 0
	for _, m := range rec.Members {
		if m.Voter && f.heard(m.Node) {
			heard++
		}
		for _, set := range rec.Sync.Sets {
			if set.Has(m.Node) && (!f.heard(m.Node) || f.Peers[m.Node].Report.Server != ServerRunning) {
				return false
			}
		}
	}
	return 2*heard > rec.Voters()
}

// handsOverFull reports whether the primary's disk is full for too long, and who is better off.
func (f facts) handsOverFull() (cluster.NodeID, bool) {
	bound := f.Policy.WriteBound
	if !f.holds() || !f.writable() || f.FullSince.IsZero() || bound == 0 || f.now.Sub(f.FullSince) < bound || f.lease().State != record.Held {
		return 0, false
	}
	n := f.betterOff()
	return n, n != 0
}

// declinesFull reports whether this node has no room, and another that bids has.
func (f facts) declinesFull() bool {
	if f.lease().State != record.Vacant || !f.local.Full || !f.inRecovery() || f.now.Sub(f.Group.LeaseAt) >= fullDeclines || f.hasBid() {
		return false
	}
	for _, m := range f.Group.Record.Members {
		if f.roomy(m) {
			return true
		}
	}
	return false
}
