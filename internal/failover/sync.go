package failover

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// Orders of synchronous replication. Term and Seq are those of the record for
// which they were decided: an order that comes late is not carried out.
type (
	// WriteSync puts the newest set in force on the own server.
	WriteSync struct {
		Term, Seq uint64
		Names     string // value of synchronous_standby_names; empty: nothing is waited for
	}
	// ProveSync makes sure that no other set is in force any more, on any
	// connection, and that Count of those named have all that was acknowledged before.
	ProveSync struct {
		Term, Seq uint64
		Names     string // empty: what operators configured is in force, and only the position matters
		Count     int
	}
	// RestoreSync puts back what operators had configured.
	RestoreSync struct{}
)

func (WriteSync) action()   {}
func (ProveSync) action()   {}
func (RestoreSync) action() {}

// Sender is one walsender of the own server, as pg_stat_replication shows it.
type Sender struct {
	PID      int
	Name     string // application_name
	State    string
	Priority int // sync_priority, which the walsender itself writes (safety notes, A17)
	Sent     cluster.LSN
	Flush    cluster.LSN
}

type (
	// SyncSeen brings a look at the own server's synchronous replication.
	SyncSeen struct {
		Names   string      // synchronous_standby_names, as a new connection sees it
		LSN     cluster.LSN // up to where the own WAL is flushed
		Senders []Sender
	}
	// SyncOrdered says that an order was taken up, SyncDone how it ended; LSN is
	// what ProveSync found: nothing beyond was acknowledged by another set.
	SyncOrdered struct{ Action Action }
	SyncDone    struct {
		Action Action
		Err    string
		LSN    cluster.LSN
	}
)

func (SyncSeen) event()    {}
func (SyncOrdered) event() {}
func (SyncDone) event()    {}

// SyncView is what is known of the own server's synchronous replication.
type SyncView struct {
	SyncSeen
	At       time.Time                    // of the last look; zero: none
	Term     uint64                       // in which that was
	Good     map[cluster.NodeID]time.Time // when a standby was last seen to keep up, in that term
	Doing    Action                       // the order under way
	FailedAt time.Time                    // when the last one failed; zero: it did not
	Proven   ProveSync                    // the last one that succeeded
	Floor    cluster.LSN                  // and what it found
}

// How synchronous replication is watched.
const (
	// joinWithin is how far behind a standby may be that is waited for from now on.
	joinWithin = 16 << 20
	// syncAgain is how soon an order that failed is given again.
	syncAgain = 500 * time.Millisecond
)

// freshSync is how long a look counts.
const freshSync = 3 * time.Second

func (v *View) observeSync(e SyncSeen, now time.Time) {
	r := v.Group.Record
	if r == nil {
		return
	}
	s, old := &v.Sync, v.Sync
	same := old.Term == r.Term && !old.At.IsZero()
	s.SyncSeen, s.At, s.Term, s.Good = e, now, r.Term, map[cluster.NodeID]time.Time{}
	for _, m := range r.Members {
		at := old.Good[m.Node]
		if !same {
			at = time.Time{}
		}
		if at.IsZero() && r.Sync.Newest().Has(m.Node) {
			at = now // it was a member before this was looked at, and gets its time
		}
		if was, _ := senderOf(old.Senders, m, r.Term); same && keepsUp(e.Senders, m, r.Term, was.Flush, old.LSN) {
			at = now
		}
		if !at.IsZero() {
			s.Good[m.Node] = at
		}
	}
	v.observeReady()
}

// keepsUp reports whether a standby streams and has since the last look come
// further, or to where the primary was then.
func keepsUp(senders []Sender, m record.Member, term uint64, flush, lsn cluster.LSN) bool {
	s, ok := senderOf(senders, m, term)
	return ok && s.State == "streaming" && s.Flush != 0 && (s.Flush > flush || s.Flush >= lsn)
}

// senderOf returns the walsender that serves a member under the name that it has
// in that term; of two connections, the one that is further.
func senderOf(senders []Sender, m record.Member, term uint64) (Sender, bool) {
	name, _ := cluster.StandbyName(m.Name, term)
	var best Sender
	found := false
	for _, s := range senders {
		if s.Name == name && (!found || s.Flush > best.Flush) {
			best, found = s, true
		}
	}
	return best, found
}

func (v *View) observeSyncDone(e SyncDone, now time.Time) {
	v.Sync.Doing, v.Sync.FailedAt = nil, time.Time{}
	if e.Err != "" {
		v.Sync.FailedAt = now
		return
	}
	switch a := e.Action.(type) {
	case ProveSync:
		v.Sync.Proven, v.Sync.Floor = a, e.LSN
	case WriteSync:
		v.Sync.Names = a.Names
	case RestoreSync:
		v.Local.SyncManaged = false
	}
}

// Synchronize returns what is to be done for synchronous replication, beside
// what Decide says: by the node that holds the lease, and by any node whose
// server has settings left that are of no use any more.
func Synchronize(v *View, now time.Time) Decision {
	return newFacts(v, now).first(syncRules)
}

// Synchronizing reports whether synchronous replication is managed, or about to
// be: then the own server is looked at for it.
func Synchronizing(v *View) bool {
	if r := v.Group.Record; r == nil || !r.Holds(v.Self, v.Local.Incarnation) {
		return false
	}
	f := newFacts(v, v.Local.At)
	return f.presides() && (f.syncMode() != record.SyncOff || f.syncPending())
}

var syncRules = table{{nil, []rule{
	{"sync-busy", "An order of synchronous replication is being carried out.",
		func(f facts) (string, bool) { return f.busyWith(f.Sync.Doing) }, nil},
	{"sync-after-setback", "An order of synchronous replication failed a moment ago.",
		func(f facts) (string, bool) {
			return "it is tried again soon", !f.Sync.FailedAt.IsZero() && f.now.Sub(f.Sync.FailedAt) < syncAgain
		}, nil},
	{"sync-restore", "This server's synchronous_standby_names was set by repmgrd, which manages it no more.",
		func(f facts) (string, bool) {
			return "what was configured before is put back", f.local.SyncManaged && f.syncIsOver()
		},
		func(facts) []Action { return []Action{RestoreSync{}} }},
	{"sync-not-here", "This node does not hold the lease with a server that takes writes: another manages synchronous replication, or nobody.",
		func(f facts) (string, bool) { return "this node is not the primary of the quorum rule", !f.presides() }, nil},
	{"sync-off", "synchronous_mode=off.",
		func(f facts) (string, bool) {
			return "nothing is managed", f.syncMode() == record.SyncOff && !f.syncPending()
		}, nil},
	{"sync-unseen", "The own server was not looked at lately: nothing follows from what was seen before.",
		func(f facts) (string, bool) {
			return "the state of the standbys is not known", f.Sync.At.IsZero() || f.Sync.Term != f.Group.Record.Term || f.now.Sub(f.Sync.At) > freshSync
		}, nil},
	{"sync-announce", "Another set is better than the newest: the record is told before it is put in force.",
		func(f facts) (string, bool) {
			r := f.Group.Record.Sync
			to := f.syncTarget()
			if r.Mode == f.syncMode() && r.Newest() == to && len(r.Sets) > 0 {
				return "", false
			}
			return f.say("mode %s, %q after %q", f.syncMode(), to, r.Newest()), true
		},
		func(f facts) []Action { return f.propose(f.syncAdd(f.syncTarget())) }},
	{"sync-write", "The newest set is not in force on this server.",
		func(f facts) (string, bool) {
			want := f.syncNames(f.Group.Record.Sync.Newest())
			if f.syncMode() == record.SyncOff || f.Sync.Names == want {
				return "", false
			}
			return f.say("synchronous_standby_names is %q, not %q", f.Sync.Names, want), true
		},
		func(f facts) []Action {
			return []Action{WriteSync{f.Group.Record.Term, f.Group.Record.Sync.Seq, f.syncNames(f.Group.Record.Sync.Newest())}}
		}},
	{"sync-drop", "It is sure that only the newest set is in force, and that what was acknowledged before is on enough of its members.",
		func(f facts) (string, bool) {
			r := f.Group.Record
			if !f.settles() || f.Sync.Proven.Term != r.Term || f.Sync.Proven.Seq != r.Sync.Seq {
				return "", false
			}
			return f.say("%q", r.Sync.Newest()), true
		},
		func(f facts) []Action {
			r := f.Group.Record
			return f.propose(record.SyncDrop{Term: r.Term, Node: f.Self, Seq: r.Sync.Seq, LSN: f.Sync.Floor})
		}},
	{"sync-prove", "Another set than the newest may still be in force on a connection, or its members may lack what the former ones acknowledged.",
		func(f facts) (string, bool) {
			if !f.settles() {
				return "", false
			}
			return f.say("%q", f.Group.Record.Sync.Sets), true
		},
		func(f facts) []Action {
			r := f.Group.Record
			count, _ := r.Sync.Newest().Parse()
			return []Action{ProveSync{r.Term, r.Sync.Seq, f.syncNames(r.Sync.Newest()), count}}
		}},
	{"sync-settled", "The set in force is the one wanted.",
		func(f facts) (string, bool) { return f.say("%q", f.Group.Record.Sync.Newest()), true }, nil},
}}}

// presides reports whether this node manages synchronous replication.
func (f facts) presides() bool {
	return f.Group.Record != nil && f.holds() && f.writable() && f.lease().Promoted
}

// syncMode is the mode that this node's configuration asks for.
func (f facts) syncMode() record.SyncMode {
	if f.Policy.SyncMode == "" {
		return record.SyncOff
	}
	return f.Policy.SyncMode
}

// syncPending reports whether the record has something that the mode off has not
// ended yet.
func (f facts) syncPending() bool {
	r := f.Group.Record.Sync
	return len(r.Sets) > 1 || r.Newest() != "" || r.Mode != record.SyncOff && r.Mode != ""
}

// syncIsOver reports whether nobody manages synchronous replication any more, as
// far as the own server's setting is concerned.
func (f facts) syncIsOver() bool {
	r := f.Group.Record
	switch {
	case r == nil:
		return !f.quorumKnown()
	case r.Rule != record.Quorum:
		return true
	case f.holds() && f.syncMode() != record.SyncOff:
		return false // it is about to be managed
	case f.writable() && f.lease().Life != f.Life:
		return false // this record may be behind what commits wait for: nothing in it is of this life of the daemon
	}
	return r.Sync.Newest() == "" && (r.Sync.Mode == record.SyncOff || r.Sync.Mode == "")
}

// settles reports whether a former set may still count, and can be made not to.
func (f facts) settles() bool {
	r := f.Group.Record.Sync
	return len(r.Sets) > 1 && (r.Newest() != "" || r.Mode == record.SyncOff)
}

func (f facts) syncAdd(set record.Set) record.SyncAdd {
	r := f.Group.Record
	return record.SyncAdd{Term: r.Term, Node: f.Self, Seq: r.Sync.Seq, Mode: f.syncMode(), Set: set}
}

// candidates are the others that may be in the set: who is registered and may be
// promoted (safety notes, B39), under a name that is its own for PostgreSQL too, which
// compares without regard to case.
func (f facts) candidates() []record.Member {
	var out []record.Member
	rec := f.Group.Record
	for _, m := range rec.Members {
		_, ok := cluster.StandbyName(m.Name, rec.Term)
		taken := slices.ContainsFunc(rec.Members, func(o record.Member) bool { return o.Node != m.Node && strings.EqualFold(o.Name, m.Name) })
		if _, registered := cluster.Find(f.Nodes, m.Node); registered && m.Node != f.Self && m.Eligible() && ok && !taken {
			out = append(out, m)
		}
	}
	return out
}

// syncTarget is the set that should be in force.
func (f facts) syncTarget() record.Set {
	if f.syncMode() == record.SyncOff {
		return ""
	}
	newest, count := f.Group.Record.Sync.Newest(), max(1, f.Policy.SyncCount)
	var live, heard, kept []cluster.NodeID
	for _, m := range f.candidates() {
		if newest.Has(m.Node) {
			kept = append(kept, m.Node)
		}
		if !f.maySync(m) {
			continue
		}
		live = append(live, m.Node)
		if f.now.Sub(f.Peers[m.Node].At) <= max(f.Policy.SyncTimeout, f.Policy.freshness()) {
			heard = append(heard, m.Node) // its daemon could bid
		}
	}
	switch {
	case len(heard) >= count:
		return record.SetOf(count, heard...)
	case len(live) >= count:
		return record.SetOf(count, live...)
	case f.syncMode() == record.SyncOn:
		return record.SetOf(len(live), live...)
	}
	return f.strictSet(union(live, kept))
}

// maySync reports whether a standby keeps up: a member has its time to come back, another
// must be there now. Where no look comes to its end any more, as on a server that stands still,
// the last one says nothing when that time is over, of a member or of another: else who was
// just taken out would be taken in again by it, and so on.
func (f facts) maySync(m record.Member) bool {
	good := f.Sync.Good[m.Node]
	if good.IsZero() || f.now.Sub(good) > f.Policy.SyncTimeout {
		return false
	}
	if f.Group.Record.Sync.Newest().Has(m.Node) {
		return true
	}
	s, ok := senderOf(f.Sync.Senders, m, f.Group.Record.Term)
	return ok && good.Equal(f.Sync.At) && s.Flush+joinWithin >= f.Sync.LSN
}

// firstSet is the set with which this node's server becomes the primary, before
// anybody streams from it: the others of the newest set, else those heard of
// (safety notes, B17).
func (f facts) firstSet() record.Set {
	sync := f.Group.Record.Sync
	if f.syncMode() == record.SyncOff {
		return ""
	}
	newest, count := sync.Newest(), max(1, f.Policy.SyncCount)
	for i := len(sync.Sets) - 1; i >= 0 && newest == "" && f.syncMode() == record.SyncStrict; i-- {
		newest = sync.Sets[i]
	}
	var kept, heard []cluster.NodeID
	for _, m := range f.candidates() {
		switch {
		case newest.Has(m.Node):
			kept = append(kept, m.Node)
		case f.alive(m.Node):
			heard = append(heard, m.Node)
		}
	}
	if len(kept) < count {
		kept = union(kept, heard)
	}
	if f.syncMode() == record.SyncStrict {
		return f.strictSet(kept)
	}
	return record.SetOf(min(count, len(kept)), kept...)
}

// strictSet fills a set up to the count that is asked for: with members that are
// not there, and in the end with this node itself, which streams from nobody.
// Commits wait then.
func (f facts) strictSet(members []cluster.NodeID) record.Set {
	count := max(1, f.Policy.SyncCount)
	for _, m := range f.candidates() {
		if len(members) < count {
			members = union(members, []cluster.NodeID{m.Node})
		}
	}
	if len(members) < count {
		members = union(members, []cluster.NodeID{f.Self})
	}
	return record.SetOf(min(count, len(members)), members...)
}

func union(a, b []cluster.NodeID) []cluster.NodeID {
	return slices.Compact(slices.Sorted(slices.Values(slices.Concat(a, b))))
}

// firstSetMissing reports whether the record does not have the first set as its
// newest yet.
func (f facts) firstSetMissing() bool {
	sync := f.Group.Record.Sync
	if f.syncMode() == record.SyncOff {
		return sync.Newest() != "" || sync.Mode != record.SyncOff && sync.Mode != ""
	}
	return sync.Mode != f.syncMode() || len(sync.Sets) == 0 || sync.Newest() != f.firstSet()
}

// syncNames is the value of synchronous_standby_names for a set, with the names
// of the present term.
func (f facts) syncNames(set record.Set) string {
	k, members := set.Parse()
	if k == 0 {
		return ""
	}
	var names []string
	for _, id := range members {
		m, _ := f.Group.Record.Member(id)
		name, _ := cluster.StandbyName(m.Name, f.Group.Record.Term)
		names = append(names, `"`+strings.ReplaceAll(name, `"`, `""`)+`"`)
	}
	return fmt.Sprintf("ANY %d (%s)", k, strings.Join(names, ", "))
}

var managedNames = regexp.MustCompile(`^ANY [0-9]+ \("([^"]|"")*@[0-9]+"(, "([^"]|"")*@[0-9]+")*\)$`)

// ManagedNames reports whether a value of synchronous_standby_names is one that
// repmgrd writes: quoted names, each with a term.
func ManagedNames(value string) bool { return managedNames.MatchString(value) }

// misnamed returns the application_name under which the own standby should
// stream from the holder, if it streams under another. It gets the name of a
// term only after its history was compared with that term's, by measure and
// follow-holder (safety notes, B16).
func (f facts) misnamed() (string, bool) {
	want := f.streamName()
	return want, want != "" && want != f.local.StandbyName && f.lease().Promoted
}

// missedAsSync reports whether commits wait for this node, or for fewer standbys than
// they should, so that it must stream from the primary itself: a cascaded standby
// acknowledges nothing. It may have come to be one without anybody's wish, where
// its upstream was the primary and is a standby now.
func (f facts) missedAsSync() bool {
	rec := f.Group.Record
	m, member := rec.Member(f.Self)
	managed := rec.Sync.Mode == record.SyncOn || rec.Sync.Mode == record.SyncStrict
	newest := rec.Sync.Newest()
	k, _ := newest.Parse()
	return member && managed && m.Eligible() && f.Policy.Automatic && (k < max(1, f.Policy.SyncCount) || newest.Has(f.Self) || newest.Has(rec.Lease.Holder))
}

// streamName is the application_name for the own standby; empty: as it is.
func (f facts) streamName() string {
	rec := f.Group.Record
	m, member := rec.Member(f.Self)
	managed := rec.Sync.Mode == record.SyncOn || rec.Sync.Mode == record.SyncStrict
	if name, ok := cluster.StandbyName(m.Name, rec.Term); managed && member && ok && m.Eligible() && f.Policy.Automatic {
		return name
	}
	if cluster.NodeOfStandby(f.local.StandbyName) == f.self.Name && f.Policy.Automatic {
		return f.self.Name // what operators configure again names it so
	}
	return ""
}
