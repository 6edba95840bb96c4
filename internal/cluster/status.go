package cluster

import (
	"fmt"
	"slices"
)

// Reach tells whether a server could be connected to.
type Reach uint8

// The reaches. A server that rejects answers, but lets this user not in.
const (
	Down Reach = iota
	Rejected
	Up
)

var reachNames = [...]string{"down", "rejected", "up"}

// String is the reach in a word.
func (r Reach) String() string { return reachNames[r] }

// MarshalText writes the reach's word, for JSON.
func (r Reach) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads a reach's word.
func (r *Reach) UnmarshalText(b []byte) error { return parseWord(r, reachNames[:], string(b)) }

// parseWord finds the value whose word that is.
func parseWord[T ~uint8](to *T, words []string, word string) error {
	at := slices.Index(words, word)
	if at < 0 {
		return fmt.Errorf("%q is none of %q", word, words)
	}
	*to = T(at)
	return nil
}

// Recovery tells whether a server is in recovery, which is what makes it a
// standby. The zero value is for one that could not be asked.
type Recovery uint8

// The answers to "are you in recovery?".
const (
	RecoveryUnknown Recovery = iota
	InRecovery
	NotInRecovery
)

var recoveryWords = [...]string{"unknown", "standby", "primary"}

// MarshalText writes the answer in a word, for JSON.
func (r Recovery) MarshalText() ([]byte, error) { return []byte(recoveryWords[r]), nil }

// UnmarshalText reads the answer's word.
func (r *Recovery) UnmarshalText(b []byte) error { return parseWord(r, recoveryWords[:], string(b)) }

// Sight is what was seen of one node when all were asked at the same time.
type Sight struct {
	Node     Node     `json:"-"`      // the record, as the database that was asked first has it
	Own      *Node    `json:"record"` // the node's own copy of its record; nil if it could not be read
	ByDaemon bool     `json:"-"`      // its daemon has asked it, over a session that was open
	Reach    Reach    `json:"reach"`
	Failure  string   `json:"failure,omitempty"` // why there is no connection or no answer, without secrets; part of the issue if set
	Recovery Recovery `json:"runs_as"`
	Timeline Timeline `json:"timeline"`

	Received     LSN  `json:"received"`
	Replayed     LSN  `json:"replayed"`
	ReplayPaused bool `json:"replay_paused"`

	// Senders holds, for each application name, the state of every walsender
	// that serves it; an empty state is one that this user may not see. It is
	// nil if the walsenders could not be read.
	Senders map[string][]string `json:"walsenders"`
}

// Assessment is how a node stands, in the words of the tables.
type Assessment struct {
	Status   string
	Upstream string
	Issues   []string // sentences without a full stop, each naming the node
	Bad      bool     // something is wrong with it, be it in Issues or not
}

// Assess judges every node by what was seen of all of them. Its table is that of
// repmgr 5: * runs and is writable or a witness, blank is a standby that runs,
// ! contradicts the records, ? cannot be told, - is known to be out.
func Assess(all []Sight) []Assessment {
	out := make([]Assessment, len(all))
	for i, s := range all {
		var a Assessment
		if s.Reach != Up {
			a.issue("cannot connect to %s%s", s.who(), s.because())
		}
		a.status(s)
		if s.Node.Role == Standby && s.Reach == Up && s.ReplayPaused && s.Received > s.Replayed {
			a.issue("%s has paused replay with WAL left to replay (received %s, replayed %s): it cannot be promoted by hand before replay is resumed",
				s.who(), s.Received, s.Replayed)
		}
		a.upstream(s, all)
		a.Bad = a.Bad || len(a.Issues) > 0
		out[i] = a
	}
	return out
}

func (s Sight) who() string { return who(s.Node) }

func (s Sight) because() string {
	if s.Failure == "" {
		return ""
	}
	return ": " + s.Failure
}

func who(n Node) string { return fmt.Sprintf("node %q (ID: %d)", n.Name, n.ID) }

func (a *Assessment) issue(format string, args ...any) {
	a.Issues = append(a.Issues, fmt.Sprintf(format, args...))
}

// status fills the Status column.
func (a *Assessment) status(s Sight) {
	switch s.Node.Role {
	case Primary:
		a.primary(s)
	case Standby:
		a.standby(s)
	case Witness:
		a.witness(s)
	default:
		a.Status, a.Bad = "? unknown node type", true
	}
}

func (a *Assessment) primary(s Sight) {
	active := s.Node.Active
	switch {
	case s.Reach == Down && active:
		a.Status = "? unreachable"
		a.issue("%s is registered as an active primary but is unreachable", s.who())
	case s.Reach == Down:
		a.Status, a.Bad = "- failed", true
	case s.Reach == Rejected && active:
		a.Status = "? running"
	case s.Reach == Rejected:
		a.Status, a.Bad = "! running", true
	case active && s.Recovery == NotInRecovery:
		a.Status = "* running"
	case active && s.Recovery == InRecovery:
		a.Status = "! running as standby"
		a.issue("%s is registered as a primary but runs as a standby", s.who())
	case active:
		a.Status = "! unknown"
		a.issue("it cannot be told whether %s is a primary or a standby%s", s.who(), s.because())
	case s.Recovery == NotInRecovery:
		a.Status = "! running"
		a.issue("%s runs, but its record is inactive", s.who())
	default:
		a.Status = "! running as standby"
		a.issue("%s is registered as an inactive primary but runs as a standby", s.who())
	}
}

func (a *Assessment) standby(s Sight) {
	active := s.Node.Active
	switch {
	case s.Reach == Down && active:
		a.Status = "? unreachable"
		a.issue("%s is registered as an active standby but is unreachable", s.who())
	case s.Reach == Down:
		a.Status, a.Bad = "- failed", true
	case s.Reach == Rejected && active:
		a.Status = "? running"
	case s.Reach == Rejected:
		a.Status, a.Bad = "! running", true
	case active && s.Recovery == InRecovery:
		a.Status = "  running"
	case active && s.Recovery == NotInRecovery:
		a.Status = "! running as primary"
		a.issue("%s is registered as a standby but runs as a primary", s.who())
	case active:
		a.Status = "! unknown"
		a.issue("it cannot be told whether %s is a primary or a standby%s", s.who(), s.because())
	case s.Recovery == InRecovery:
		a.Status = "! running"
		a.issue("%s runs, but its record is inactive", s.who())
	default:
		a.Status = "! running as primary"
		a.issue("%s runs as a primary, and its record is inactive", s.who())
	}
}

func (a *Assessment) witness(s Sight) {
	active := s.Node.Active
	switch {
	case s.Reach == Down && active:
		a.Status = "? unreachable"
		a.issue("%s is registered as an active witness but is unreachable", s.who())
	case s.Reach == Down:
		a.Status, a.Bad = "- failed", true
	case s.Reach == Rejected && active:
		a.Status = "? rejected"
	case s.Reach == Rejected:
		a.Status, a.Bad = "! failed", true
	case active:
		a.Status = "* running"
	default:
		a.Status, a.Bad = "! running", true
	}
}

// upstream fills the Upstream column: it compares the record with the node's own
// copy of it, and asks the upstream whether the node is attached.
func (a *Assessment) upstream(s Sight, all []Sight) {
	expected := nameOf(all, s.Node.Upstream)
	switch {
	case s.Own == nil:
		a.Upstream = "? " + expected
	case s.Own.Role == Primary:
		a.Upstream = ""
	case s.Own.Upstream == 0:
		a.Upstream = "!"
		a.issue("%s reports that it has no upstream%s", s.who(), expecting(all, s.Node.Upstream))
	case s.Own.Upstream != s.Node.Upstream:
		a.Upstream = "! " + nameOf(all, s.Own.Upstream)
		a.issue("%s reports a different upstream: node %q (ID: %d)%s",
			s.who(), nameOf(all, s.Own.Upstream), s.Own.Upstream, expecting(all, s.Node.Upstream))
	case s.Own.Role == Witness:
		a.watched(s, all)
	default:
		a.attached(s, all)
	}
}

// watched is the Upstream column of a witness, which only needs to reach it.
func (a *Assessment) watched(s Sight, all []Sight) {
	up, found := sight(all, s.Own.Upstream)
	switch {
	case !found:
		a.Upstream = "? "
		a.issue("the upstream of %s, node %d, has no record", s.who(), s.Own.Upstream)
	case up.Reach != Up:
		a.Upstream = "? " + up.Node.Name
		a.issue("cannot connect to the upstream of %s: %s", s.who(), up.who())
	default:
		a.Upstream = up.Node.Name
	}
}

// attached is the Upstream column of a standby, which must be served by a
// walsender there.
func (a *Assessment) attached(s Sight, all []Sight) {
	up, found := sight(all, s.Own.Upstream)
	states := up.Senders[s.Node.Name]
	switch {
	case !found || up.Reach != Up:
		a.Upstream = "? " + up.Node.Name
		a.issue("cannot connect to the upstream of %s: %s", s.who(), up.who())
		a.issue("it cannot be told whether %s is attached to its upstream, %s", s.who(), up.who())
	case up.Senders == nil:
		a.Upstream = "? " + up.Node.Name
		a.issue("it cannot be told whether %s is attached to its upstream, %s", s.who(), up.who())
	case len(states) > 1:
		a.Upstream = "? " + up.Node.Name
		a.issue("it cannot be told whether %s is attached to its upstream, %s: it serves %d connections of that name",
			s.who(), up.who(), len(states))
	case len(states) == 0:
		a.Upstream = "! " + up.Node.Name
		a.issue("%s is not attached to its upstream, %s", s.who(), up.who())
	case states[0] != "" && states[0] != "streaming":
		a.Upstream = "? " + up.Node.Name
		a.issue("%s is attached to its upstream, %s, in state %q", s.who(), up.who(), states[0])
	default:
		a.Upstream = up.Node.Name
	}
}

func sight(all []Sight, id NodeID) (Sight, bool) {
	for _, s := range all {
		if s.Node.ID == id {
			return s, true
		}
	}
	return Sight{Node: Node{ID: id}}, false
}

func nameOf(all []Sight, id NodeID) string {
	s, _ := sight(all, id)
	return s.Node.Name
}

// expecting says what the record has, where it has something.
func expecting(all []Sight, id NodeID) string {
	if id == 0 {
		return ""
	}
	return fmt.Sprintf("; expected node %q (ID: %d)", nameOf(all, id), id)
}
