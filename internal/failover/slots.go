package failover

import (
	"slices"
	"time"

	"repmgr/internal/cluster"
)

// SlotWatch remembers which standbys a primary's readers of logical slots may wait for: those
// that stream from it by a slot of their own. What PostgreSQL 17 has for that is
// synchronized_standby_slots (manual, "Logical Replication Failover"): with it no reader is told
// what a listed standby does not have. But a listed slot that nobody uses stops all readers.
type SlotWatch struct {
	good map[cluster.NodeID]time.Time // when a standby was last seen to stream; nil: the server was no primary
}

// Look takes in what one look at the own server showed, and returns the nodes whose slots are to
// be listed: those that may be promoted and stream, or did so less than patience ago. Who was
// listed when the server became the primary has as long to come. It is nobody on a standby,
// where the setting means nothing.
func (w *SlotWatch) Look(self cluster.NodeID, nodes []cluster.Node, primary bool, listed, stream []cluster.NodeID, now time.Time, patience time.Duration) []cluster.NodeID {
	if !primary {
		w.good = nil
		return nil
	}
	if w.good == nil {
		w.good = map[cluster.NodeID]time.Time{}
		for _, id := range listed {
			w.good[id] = now
		}
	}
	for _, id := range stream {
		w.good[id] = now
	}
	var out []cluster.NodeID
	for _, n := range nodes {
		at, known := w.good[n.ID]
		if n.ID != self && n.Active && n.Role == cluster.Standby && n.Priority > 0 && known && now.Sub(at) <= patience {
			out = append(out, n.ID)
		}
	}
	slices.Sort(out)
	return out
}
