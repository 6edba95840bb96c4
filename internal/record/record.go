// Package record is the cluster record: what the voters agree on, and the one
// state machine by which it changes. Every member applies the same changes in
// the same order; nothing in here reads a clock, so that all come to the same
// record. See DESIGN.md and safety notes, section C.
package record

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"repmgr/internal/cluster"
)

// Rule says by which rule a standby is promoted.
type Rule string

// The rules (design, section 3).
const (
	Visibility Rule = "visibility" // whoever is visible decides; nothing fences a primary that is cut off
	Quorum     Rule = "quorum"     // a majority of the voters decides, and the primary holds a lease
)

// LeaseState is where the right to take writes is.
type LeaseState string

// The states of the lease.
const (
	Vacant     LeaseState = "vacant"     // nobody has it; standbys seal themselves and bid
	Granted    LeaseState = "granted"    // a winner may claim it
	Held       LeaseState = "held"       // until it is released or expires
	Indefinite LeaseState = "indefinite" // held without a time limit: the cluster is paused
)

// Lease is the right to take writes.
type Lease struct {
	State       LeaseState       `json:"state"`
	Holder      cluster.NodeID   `json:"holder"`      // the last one, while vacant; zero: never held
	Incarnation string           `json:"incarnation"` // of the holder's data directory
	Seq         uint64           `json:"seq"`         // of the last renewal in this term
	Life        uint64           `json:"life"`        // of the holder's daemon that took or renewed it last
	TTL         time.Duration    `json:"ttl_ns"`      // as the holder asked for it
	LSN         cluster.LSN      `json:"lsn"`         // the holder's position at the last renewal
	Vacancy     uint64           `json:"vacancy"`     // number of the last vacancy
	Expired     bool             `json:"expired"`     // this vacancy came by expiry, so that the holder may come back
	Why         string           `json:"why"`         // what opened the vacancy
	Timeline    cluster.Timeline `json:"timeline"`    // that the holder was granted
	Promoted    bool             `json:"promoted"`    // and has: others may follow it
	Unlimited   uint64           `json:"unlimited"`   // how often the limit was taken off the lease
	Former      Former           `json:"former"`      // while granted: who held it before

	// Of a switchover. Successor is whom the last holder handed the lease over to, and
	// the holder from the grant on, where it was that one. End is where the WAL of the
	// last holder ends, which was stopped in order; zero: that is not known.
	Successor cluster.NodeID `json:"successor,omitempty"`
	End       cluster.LSN    `json:"end,omitempty"`
}

// Former is what a lease says of its last holder.
type Former struct {
	Holder      cluster.NodeID   `json:"holder"`
	Incarnation string           `json:"incarnation"`
	LSN         cluster.LSN      `json:"lsn"`
	Timeline    cluster.Timeline `json:"timeline"`
	Promoted    bool             `json:"promoted"`
}

func (l Lease) last() Former { return Former{l.Holder, l.Incarnation, l.LSN, l.Timeline, l.Promoted} }

// Timed reports whether the lease is one that expires.
func (l Lease) Timed() bool { return l.State == Held }

// Taken reports whether somebody holds it, for a time or without a limit.
func (l Lease) Taken() bool { return l.State == Held || l.State == Indefinite }

// Member is a daemon that takes part in the group.
type Member struct {
	Node      cluster.NodeID `json:"node_id"`
	Name      string         `json:"node_name"`
	RaftID    uint64         `json:"raft_id"` // of its state directory
	Voter     bool           `json:"voter"`
	Witness   bool           `json:"witness"` // holds no data that could be promoted
	Priority  int            `json:"priority"`
	Automatic bool           `json:"automatic"` // failover=automatic
	Location  string         `json:"location"`
	Level     int            `json:"level,omitempty"`  // of changes that its program knows; zero: 1
	Barred    string         `json:"barred,omitempty"` // what of its server forbids a promotion; empty: nothing
}

// Eligible reports whether the member may be promoted by itself.
func (m Member) Eligible() bool {
	return !m.Witness && m.Automatic && m.Priority > 0 && m.Barred == ""
}

// Term is one grant's place in the history of the write-ahead log.
type Term struct {
	Term     uint64           `json:"term"`
	Node     cluster.NodeID   `json:"node_id"`
	Timeline cluster.Timeline `json:"timeline"`
	Parent   cluster.Timeline `json:"parent"` // zero: the quorum rule began with it
	Fork     cluster.LSN      `json:"fork"`   // where it left its parent
}

// Bid is what a sealed standby offers in a vacancy.
type Bid struct {
	Vacancy     uint64           `json:"vacancy"`
	Node        cluster.NodeID   `json:"node_id"`
	Incarnation string           `json:"incarnation"`
	Timeline    cluster.Timeline `json:"timeline"` // of the end of its WAL
	LSN         cluster.LSN      `json:"lsn"`      // the end of its WAL
	Line        Line             `json:"line"`     // the switches that led to its timeline
	Declined    string           `json:"declined"` // why it has nothing to offer; empty: it has
}

// Pause is the operators' word that nothing shall be promoted.
type Pause struct {
	On     bool   `json:"on"`
	By     string `json:"by"`
	Reason string `json:"reason"`
	Auto   bool   `json:"auto"` // set by a daemon that stopped, and lifted when it starts again
}

// Decision is one thing that was decided, kept to be explained.
type Decision struct {
	Term    uint64         `json:"term"`
	Vacancy uint64         `json:"vacancy"`
	At      time.Time      `json:"at"` // by the wall clock of who proposed it: for people only
	What    string         `json:"what"`
	Node    cluster.NodeID `json:"node_id"` // whom it is about
	Why     string         `json:"why"`
	Bids    []Judged       `json:"bids,omitempty"` // of a grant
}

// Judged is a bid and what was made of it.
type Judged struct {
	Bid
	WALTerm  uint64 `json:"wal_term"`
	Priority int    `json:"priority"`
	Verdict  string `json:"verdict"`
}

// How much is kept.
const (
	keptDecisions = 100
	keptTerms     = 200
)

// Format is the version of the stored form. A new field comes without a new one if it
// stands there only when it is set (omitempty), which a change of a new Level does:
// who does not know it then refuses the whole.
const Format = 1

// Record is what the voters agree on.
type Record struct {
	Format      int              `json:"format"`
	Group       string           `json:"group"` // uuid of this founding
	SystemID    string           `json:"system_identifier"`
	Index       uint64           `json:"index"` // of the last change taken in
	Rule        Rule             `json:"rule"`
	Members     []Member         `json:"members"` // by node id
	Term        uint64           `json:"term"`
	Lease       Lease            `json:"lease"`
	Sync        Sync             `json:"sync"`
	Base        Line             `json:"base"`         // the history with which the quorum rule began
	Terms       []Term           `json:"terms"`        // oldest first
	TopTimeline cluster.Timeline `json:"top_timeline"` // the highest ever granted or bid
	Bids        []Bid            `json:"bids"`         // of the open vacancy, by node id
	MaximumLag  int64            `json:"maximum_lag"`  // bytes behind the last renewal that a winner may be; negative: no bound
	Pause       Pause            `json:"pause"`
	Switchover  Switchover       `json:"switchover"`
	Decisions   []Decision       `json:"decisions"` // oldest first
}

// New is the record of a group that was founded a moment ago by its only member.
func New(group, systemID string, founder Member) *Record {
	founder.Voter = true
	return &Record{Format: Format, Group: group, SystemID: systemID, Rule: Visibility, Members: []Member{founder},
		Lease: Lease{State: Vacant}, MaximumLag: -1}
}

// Clone is a copy that shares nothing that changes: no change writes into a list,
// each makes a new one or appends, and what is appended to is clipped here.
func (r *Record) Clone() *Record {
	c := *r
	c.Members, c.Terms, c.Bids = slices.Clip(r.Members), slices.Clip(r.Terms), slices.Clip(r.Bids)
	c.Decisions, c.Sync.Sets = slices.Clip(r.Decisions), slices.Clip(r.Sync.Sets)
	return &c
}

// Encode is the stored form, for snapshots.
func (r *Record) Encode() ([]byte, error) { return json.Marshal(r) }

// Decode reads the stored form. One of a newer format, or with a field that is not
// known here, is an error that says so: without it this member would come to another
// record than the others.
func Decode(text []byte) (*Record, error) {
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return nil, fmt.Errorf("the cluster record cannot be read: %w", err)
	}
	if head.Format > Format {
		return nil, fmt.Errorf("the cluster record has format %d, this program knows formats up to %d: %s", head.Format, Format, older)
	}
	if head.Format < 1 {
		return nil, fmt.Errorf("the cluster record cannot be read: it has format %d", head.Format)
	}
	r := &Record{}
	if err := strictly(text, r); err != nil {
		return nil, fmt.Errorf("the cluster record cannot be read (%w): %s", err, older)
	}
	return r, nil
}

// DecodeMember reads a member as it stands in a change of the group's members. A field
// that is not known here is an error, as in Decode.
func DecodeMember(text []byte) (m Member, err error) {
	if err = strictly(text, &m); err != nil {
		return m, fmt.Errorf("a change of members cannot be read (%w): %s", err, older)
	}
	return m, nil
}

// Member returns the member of that node.
func (r *Record) Member(id cluster.NodeID) (Member, bool) {
	for _, m := range r.Members {
		if m.Node == id {
			return m, true
		}
	}
	return Member{}, false
}

// NodeOf returns the node whose state directory has that Raft id; zero: nobody's.
func (r *Record) NodeOf(raftID uint64) cluster.NodeID {
	for _, m := range r.Members {
		if m.RaftID == raftID {
			return m.Node
		}
	}
	return 0
}

// Voters counts the members that vote.
func (r *Record) Voters() int {
	n := 0
	for _, m := range r.Members {
		if m.Voter {
			n++
		}
	}
	return n
}

// BidOf returns the bid of a node in the open vacancy.
func (r *Record) BidOf(id cluster.NodeID) (Bid, bool) {
	for _, b := range r.Bids {
		if b.Node == id {
			return b, true
		}
	}
	return Bid{}, false
}

// Holds reports whether that node, with that data directory, holds the lease.
func (r *Record) Holds(id cluster.NodeID, incarnation string) bool {
	return r.Rule == Quorum && r.Lease.Taken() && r.Lease.Holder == id && r.Lease.Incarnation == incarnation
}

func (r *Record) note(d Decision) {
	kept := r.Decisions[max(0, len(r.Decisions)+1-keptDecisions):]
	r.Decisions = slices.Concat(kept, []Decision{d}) // as long as it has to be: others share the old list
}
