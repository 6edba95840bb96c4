package failover

import (
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// Renewal returns the renewal of this node's lease that is due, if one is. Each
// is tried again, under its number, until it is answered.
func Renewal(v *View, now time.Time) (record.Renew, bool) {
	r := v.Group.Record
	if r == nil || !r.Holds(v.Self, v.Local.Incarnation) || v.Tenure.Term != r.Term {
		return record.Renew{}, false
	}
	switch v.Doing.(type) {
	case GiveUp, Demote: // where the disk is stalled they may never end, and the lease has to
		return record.Renew{}, false
	}
	if r.Lease.State == record.Indefinite && !r.Pause.On && v.stale(now) {
		return record.Renew{}, false // whether the server runs, and is armed, is not known
	}
	if r.Lease.State == record.Indefinite && !r.Pause.On && (!v.Local.Armed || v.Shut) {
		return record.Renew{}, false // a pause is over: the server is armed before the lease is a timed one, also if it is down (safety notes, B27)
	}
	if r.Lease.State == record.Indefinite && !r.Pause.On && v.Group.Leader == 0 {
		return record.Renew{}, false // nobody could answer, and a limit would be counted from now
	}
	if r.Lease.State == record.Indefinite && !r.Pause.On && !v.Guard.Alive {
		return record.Renew{}, false // from when it is asked for a timed lease runs, and nobody would hold its end
	}
	if v.Tenure.Given && (v.Local.State != ServerRunning || v.Local.Role != cluster.Standby) {
		return record.Renew{}, false // only a server that came up read-only takes up again what was given back
	}
	if now.Sub(v.Tenure.TriedAt) < v.renewEvery(now) {
		return record.Renew{}, false
	}
	if left := v.Tenure.Deadline.Sub(now); v.Policy.LeaseTTL < r.Lease.TTL && left > Hold(v.Policy.LeaseTTL) {
		return record.Renew{}, false // a shorter time is asked for when no longer one is counted here any more
	}
	seq, timed := v.Tenure.Seq, !r.Pause.On
	ends := timed && r.Lease.State == record.Indefinite && !v.Tenure.Timed
	if seq <= r.Lease.Seq || v.Tenure.Answered || ends {
		seq = max(r.Lease.Seq, v.Tenure.Seq) + 1
	}
	c := record.Renew{Term: r.Term, Node: v.Self, Incarnation: v.Local.Incarnation, Seq: seq, LSN: v.Local.Position.LSN,
		TTL: v.Policy.LeaseTTL, MaximumLag: v.Policy.MaximumLag, Life: v.Life, Timed: timed}
	if timed && r.Lease.State == record.Indefinite {
		c.Unlimited = r.Lease.Unlimited
	}
	return c, true
}

// stale reports whether the own server was looked at last during a pause that has
// ended: operators may have started it since. A look that hangs is not waited for
// longer than a server that hangs.
func (v *View) stale(now time.Time) bool {
	return v.Local.At.Before(v.Group.Resumed) && now.Sub(v.Group.Resumed) < v.Policy.HangBound
}

// renewEvery is how long after the last try of a renewal the next one is due. One that was
// not answered is tried again after a tenth of the time to live. At rest, when it was, the
// next one is due after an eighth: each is three saves and a dozen frames. The deadline is at
// seven tenths, so a renewal may be lost five times and be in time, as often as with a tenth
// throughout. A new leader is asked at once (askAgain): an election takes two fifths at most,
// and with the eighth before it and the turn of the loop in which that falls due (a
// twentieth) more than a tenth is left for the round, as is asked of the links and disks (TooShort).
// A lease counts from when it was first asked for: after one whose answer took long, as over
// an election, little is left of it, and the next is asked for at once.
func (v *View) renewEvery(now time.Time) time.Duration {
	r := v.Group.Record
	if r.Lease.State == record.Held && !r.Pause.On && v.Tenure.Answered && !v.Tenure.Given && v.Policy.LeaseTTL == r.Lease.TTL {
		if now.Sub(v.Tenure.AskedAt) >= r.Lease.TTL/4 {
			return 0
		}
		return r.Lease.TTL / 8
	}
	return v.shorterTTL() / 10
}

// LeaseEnds reports whether a lease is about to end: that of this node, or the one that
// this node as the leader lets run out. It is looked at closely then.
func LeaseEnds(v *View, now time.Time) bool {
	r := v.Group.Record
	if r == nil || r.Rule != record.Quorum || r.Lease.State != record.Held {
		return false
	}
	end, limited := Deadline(v)
	return limited && end.Sub(now) < r.Lease.TTL/5 || v.Group.Leads && now.Sub(v.Group.LeaseAt) >= r.Lease.TTL*9/10
}

// shorterTTL is the time to live that is configured, or that of the lease that is
// held where that is shorter: until the next renewal, it is what runs.
func (v *View) shorterTTL() time.Duration {
	if r := v.Group.Record; r != nil && r.Lease.TTL > 0 {
		return min(r.Lease.TTL, v.Policy.LeaseTTL)
	}
	return v.Policy.LeaseTTL
}

// margin is how long before the deadline the daemon itself begins to stop the
// server; the guard ends what is left at the deadline.
func (v *View) margin() time.Duration { return v.shorterTTL() / 20 }

// MayWrite reports whether this node's server may take the cluster's writes at
// now under the quorum rule: it holds the lease, and surely so.
func MayWrite(v *View, now time.Time) bool {
	r := v.Group.Record
	if r == nil || !r.Holds(v.Self, v.Local.Incarnation) {
		return false
	}
	return v.unlimited(r) || v.Tenure.Term == r.Term && now.Before(v.Tenure.Deadline)
}

// unlimited reports whether this node's lease has no end. Once this node has asked
// for a timed one, it counts that one's time: the answer may be lost. One that is
// being given back has an end at any time. And a life of this daemon that finds a
// guard with a deadline does not know what the one before had asked for. A record
// that is behind what was answered says nothing.
func (v *View) unlimited(r *record.Record) bool {
	known := v.Tenure.Term < r.Term || v.Tenure.Term == r.Term && !v.Tenure.Timed && !v.Tenure.Given && !v.Tenure.Inherited
	return r.Lease.State == record.Indefinite && known && v.confirmed(r)
}

// confirmed reports whether a lease without an end can be believed. An earlier life
// of this daemon may have asked for a timed one, which ran out since, and this
// node's record may be behind: so what a server that was ended needs is a renewal
// of this life in the record. One that takes writes has a guard that knows of a
// deadline if there is one, and a directory is armed before a timed lease is asked for.
func (v *View) confirmed(r *record.Record) bool {
	switch {
	case r.Lease.Life == v.Life, v.Local.State == ServerUnreachable:
		return true
	case v.Local.State == ServerRunning:
		return v.Local.Role == cluster.Primary
	}
	return !v.Local.Armed
}

// Resign is the order by which this node gives its lease back though nothing is
// wrong with its server; false where it holds none that has a limit.
func Resign(v *View, why string) (GiveUp, bool) {
	f := newFacts(v, v.Local.At)
	if !f.holds() || f.lease().State != record.Held {
		return GiveUp{}, false
	}
	return GiveUp{Term: f.Group.Record.Term, Seq: max(f.Tenure.Seq, f.lease().Seq), Why: why, Fast: true}, true
}

// Deadline returns until when the guard shall let the server live; false where
// this node holds no timed lease, or its server could not write anyway.
func Deadline(v *View) (time.Time, bool) {
	r := v.Group.Record
	if r == nil || r.Rule != record.Quorum || v.unlimited(r) || !r.Holds(v.Self, v.Local.Incarnation) ||
		v.Tenure.Term != r.Term || v.Tenure.Deadline.IsZero() || !v.mightWrite() {
		return time.Time{}, false
	}
	return v.Tenure.Deadline, true
}

// GuardFirst reports whether the guard has to know the deadline before that change is
// proposed, which was just asked for: a lease without a limit is given one, and others count
// it from the entry on. A deadline that has passed is for the daemon itself to see to: no
// guard takes it, and to wait for that would be to ask never again.
func GuardFirst(v *View, c record.Change, now time.Time) bool {
	r, ok := c.(record.Renew)
	if !ok || !r.Timed || v.Group.Record.Lease.State != record.Indefinite {
		return false
	}
	at, limited := Deadline(v)
	return !limited || at.After(now)
}

// StandDown reports whether nothing limits the own server's life, so that the
// guard has no deadline to hold: the server cannot write, the lease has no
// limit, or another rule is in force.
func StandDown(v *View) bool {
	r := v.Group.Record
	switch {
	case !v.mightWrite():
		return true
	case r == nil:
		return !v.Group.Known && !v.forgot()
	case r.Rule != record.Quorum:
		return true
	}
	return v.unlimited(r) && r.Holds(v.Self, v.Local.Incarnation)
}

// forgot reports whether an earlier life of this daemon held a lease, as the guard's deadline
// tells, and what it knew of that is lost: it may have ordered a promotion that happens yet.
func (v *View) forgot() bool {
	return v.Group.Record == nil && v.Owed.After(v.Local.At)
}

// Harmless reports whether the own server surely cannot write, and is not about to.
func Harmless(v *View) bool { return !v.mightWrite() }

// promotes reports whether a promotion was ordered that is under way, or has failed and may
// happen all the same (safety notes, A19).
func (v *View) promotes() bool {
	_, doing := v.Doing.(PromoteTo)
	_, failed := v.Setback.Of.(PromoteTo)
	return doing || failed
}

// mightWrite reports whether the own server takes writes, may be about to, or
// nobody can tell.
func (v *View) mightWrite() bool {
	if v.Opened || v.Shut {
		return true
	}
	switch v.Local.State {
	case ServerRunning:
		r := v.Group.Record
		granted := r != nil && r.Holds(v.Self, v.Local.Incarnation) && !r.Lease.Promoted // an earlier life of this daemon may have ordered it
		return v.Local.Role != cluster.Standby || v.promotes() || granted || v.forgot()
	case ServerCrashed, ServerFenced, ServerStopped, ServerStarting:
		return !v.Local.Armed
	}
	return true
}
