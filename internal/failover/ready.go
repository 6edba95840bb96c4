package failover

import (
	"fmt"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// Opening is the last time that the own server began to take writes. Where commits
// wait for standbys, it shows from then on what it had at its end and nobody was told
// of (safety notes, A16 and B18).
type Opening struct {
	At    time.Time   // of the first look at it as a primary; zero: there was none
	LSN   cluster.LSN // the end of its WAL then
	Ready bool        // enough standbys have that since
}

// observeOpening notes when the own server began to take writes. A session that had
// to be opened anew may be the trace of a crash from which the server came back as a
// primary; one that is armed comes back read-only.
func (v *View) observeOpening(was, l Local, now time.Time) {
	switch {
	case l.State == ServerUnreachable || l.State == ServerUnknown:
		// nobody can tell
	case l.State != ServerRunning || l.Role != cluster.Primary:
		v.Opening = Opening{}
	case v.Opening.At.IsZero(), l.Session != was.Session && !l.Armed:
		v.Opening = Opening{At: now, LSN: l.Position.LSN}
	}
}

// Unready says why the own server, which takes writes, shall be sent no clients yet:
// under the quorum rule its lease is not sure, or enough standbys of the synchronous
// set do not have yet what it had when it became the primary. With synchronous_mode=on
// they are waited for as long as a commit would. Empty: it may be sent some, or it
// takes no writes.
func Unready(v *View, now time.Time) string {
	f, r := newFacts(v, now), v.Group.Record
	if r == nil || r.Rule != record.Quorum || !f.writable() {
		return ""
	}
	if !MayWrite(v, now) {
		return f.whyUnsure()
	}
	k, members := r.Sync.Newest().Parse()
	o := v.Opening
	bounded := r.Sync.Mode == record.SyncOn && !o.At.IsZero() && now.Sub(o.At) >= v.Policy.SyncTimeout
	if o.Ready || k == 0 || bounded {
		return ""
	}
	return fmt.Sprintf("%d of %d synchronous standbys have what this server had when it became the primary (%s): the set is %d of %d, and %d are needed",
		v.have(o.LSN), len(members), o.LSN, k, len(members), k)
}

// observeReady notes whether enough standbys have what the server had when it opened.
func (v *View) observeReady() {
	k, _ := v.Group.Record.Sync.Newest().Parse()
	if o := &v.Opening; !o.At.IsZero() && k > 0 && v.have(o.LSN) >= k {
		o.Ready = true
	}
}

// have counts the members of the newest synchronous set that have flushed up to a
// position, under the names that they have in this term.
func (v *View) have(lsn cluster.LSN) int {
	r, count := v.Group.Record, 0
	_, members := r.Sync.Newest().Parse()
	for _, id := range members {
		m, _ := r.Member(id)
		if s, ok := senderOf(v.Sync.Senders, m, r.Term); ok && s.Flush >= lsn {
			count++
		}
	}
	return count
}
