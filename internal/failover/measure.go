package failover

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// SweepTimed brings how long it takes on this host to find the processes of the own server.
type SweepTimed struct{ Took time.Duration }

func (SweepTimed) event() {}

// Smoothed takes a faster measurement at once and a slower one little by little: what
// is asked for is the way, the disk or the host, and not how busy it was for a moment.
// Zero is no measurement.
func Smoothed(old, took time.Duration) time.Duration {
	switch {
	case took == 0:
		return old
	case old == 0, took < old:
		return took
	}
	return old + (took-old)/8
}

// What has to fit into a lease's time to live (safety notes, section C). An election of
// the group's leader must be over within the lease, and its time-out, a fifth of the
// lease, must be several round trips. An entry is on two disks before it counts: with two
// elections (0.4) and the time since the last renewal (an eighth, and a turn of the
// loop: 0.2) before the holder's end (0.7), it has a tenth.
// And what is left for the end of a server after its deadline is 0.13 of the lease.
const (
	electionTrips     = 5
	electionsPerLease = 5
	savesPerLease     = 10
	endingPercent     = 13
)

// The end of a server is two sweeps, since one may be forked between the first and the
// death of the postmaster, and the killing itself: its last acknowledgement was seen up
// to 13 ms after its beginning, with any size of memory (internal/guard/DESIGN.md).
const (
	endingSweeps = 2
	endingKill   = 20 * time.Millisecond
)

// TooShort says for what, as measured, lease_ttl is too short: the links to a majority,
// the disks of the group's state, or the hosts of the servers; empty: for nothing. While
// the quorum rule is in force the lease that is held is judged.
func TooShort(v *View, now time.Time) string { return newFacts(v, now).whyTooShort() }

func (f facts) whyTooShort() string {
	rec := f.Group.Record
	if rec == nil {
		return ""
	}
	ttl := f.Policy.LeaseTTL
	if rec.Rule == record.Quorum && rec.Lease.TTL > 0 {
		ttl = rec.Lease.TTL
	}
	trip, disk := f.majorityRound()
	needed := neededFor(trip, disk)
	if ttl < needed {
		why := fmt.Sprintf("the way to a majority and back takes %s", trip.Round(time.Millisecond))
		if disk > 0 {
			why += fmt.Sprintf(", and to write an entry of the group to disk there and here %s", disk.Round(time.Millisecond))
		}
		return fmt.Sprintf("%s: set lease_ttl to %s or more", why, needed)
	}
	for _, m := range rec.Members {
		sweep := f.Peers[m.Node].Report.Sweep
		if m.Node == f.Self {
			sweep = f.Sweep
		}
		ending := endingSweeps*sweep + endingKill
		if needed := (ending * 100 / endingPercent).Round(100 * time.Millisecond); sweep > 0 && ttl < needed {
			return fmt.Sprintf("to find and end the processes of node %d's server takes %s there: set lease_ttl to %s or more, or run fewer processes on that host",
				m.Node, ending.Round(time.Millisecond), needed)
		}
	}
	return ""
}

// neededFor is the least time to live for that round trip, and for an entry to be on two disks.
func neededFor(trip, disk time.Duration) time.Duration {
	return (trip*electionTrips*electionsPerLease + disk*savesPerLease).Round(100 * time.Millisecond)
}

// majorityRound is the round trip to the slowest voter of the fastest majority,
// and how long an entry takes to be on disk there and here.
func (f facts) majorityRound() (trip, disk time.Duration) {
	type round struct {
		node       cluster.NodeID
		trip, disk time.Duration
	}
	rounds := []round{}
	for _, m := range f.Group.Record.Members {
		if p := f.Peers[m.Node]; m.Voter && m.Node != f.Self {
			rounds = append(rounds, round{m.Node, p.Trip, p.Report.Disk})
		}
	}
	slices.SortFunc(rounds, func(a, b round) int {
		return cmp.Or(cmp.Compare(neededFor(a.trip, a.disk), neededFor(b.trip, b.disk)), cmp.Compare(a.node, b.node))
	})
	others := (len(rounds) + 1) / 2 // with this node, more than half
	if others == 0 {
		return 0, 0
	}
	r := rounds[others-1]
	return r.trip, r.disk + f.Group.Disk
}
