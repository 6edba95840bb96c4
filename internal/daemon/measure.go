package daemon

import (
	"context"
	"fmt"
	"time"

	"repmgr/internal/failover"
	"repmgr/internal/host"
	"repmgr/internal/record"
)

// measureEvery is how often it is measured what a lease depends on and nothing else
// shows: a disk that has nothing to keep, and how fast the server's processes are found.
const measureEvery = 10 * time.Second

// tryDisk writes something small while another rule is in force: there are no
// renewals then, and whether the disk is quick enough for them is to be known before.
func (q *group) tryDisk() {
	if q.rec != nil && q.rec.Rule == record.Quorum {
		return
	}
	began := bootTime()
	if err := q.store.Put(trialKey, nil); err != nil {
		return // what is wrong with the disk is told when something is to be kept
	}
	q.disk = failover.Smoothed(q.disk, bootTime().Sub(began))
	q.publish()
}

// watchSweeps measures how long the guard takes to find whom it has to end.
func (d *Daemon) watchSweeps(ctx context.Context) {
	if d.cfg.DataDirectory == "" {
		return
	}
	for sweep := time.Duration(0); ; {
		took, err := host.TimeToSweep(d.eyes.cfg.Load().DataDirectory)
		if err == nil {
			sweep = failover.Smoothed(sweep, took)
			d.send(observed{failover.SweepTimed{Took: sweep}})
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(measureEvery):
		}
	}
}

// Bounds of what is told of a lease that has become too short.
const (
	shortFor   = 15 * time.Second // it has to be so for that long: a host may be busy for a moment
	shortAgain = time.Hour
)

// shortLease is what was told of a lease that is too short for what is measured.
type shortLease struct {
	since  time.Time // since when it is; zero: it is not
	toldAt time.Time
	told   bool
}

// watchLease tells when the lease that is in force has become too short for what is
// measured. It is no reason to end anything: whoever is the primary stays it, but may
// lose the lease for nothing.
func (d *Daemon) watchLease(now time.Time) {
	v, s := d.loop.view, &d.loop.short
	r := v.Group.Record
	why := ""
	if r != nil && r.Rule == record.Quorum && r.Holds(v.Self, v.Local.Incarnation) {
		why = failover.TooShort(v, now)
	}
	switch {
	case why == "":
		if s.told {
			d.notice("lease_ttl suffices again for the links, disks and hosts as measured")
		}
		*s = shortLease{}
	case s.since.IsZero():
		s.since = now
	case now.Sub(s.since) >= shortFor && (!s.told || now.Sub(s.toldAt) >= shortAgain):
		s.told, s.toldAt = true, now
		d.log.Warn(fmt.Sprintf("lease_ttl (%s) is too short: %s", r.Lease.TTL, why),
			"hint", "The lease may be lost though nothing is broken: see docs/quorum.md, \"Is lease_ttl long enough?\".")
	}
}
