// Package cluster holds the nouns of a replication cluster: nodes, roles, log
// positions and timelines, with their text forms. It imports nothing of ours,
// does no I/O and reads no clock.
package cluster

import (
	"fmt"
	"strconv"
	"strings"
)

// NodeID is the number a node was registered under. Zero means no node.
type NodeID int

// Role is the part that a node plays in replication.
type Role uint8

// The roles of repmgr.nodes.type. RoleUnknown is a role that was not seen.
const (
	RoleUnknown Role = iota
	Primary
	Standby
	Witness
)

var roleNames = [...]string{"unknown", "primary", "standby", "witness"}

// String is the role as repmgr.nodes.type spells it.
func (r Role) String() string {
	if int(r) < len(roleNames) {
		return roleNames[r]
	}
	return roleNames[RoleUnknown]
}

// ParseRole is the inverse of String; an unknown word is RoleUnknown.
func ParseRole(s string) Role {
	for i, name := range roleNames {
		if name == s {
			return Role(i)
		}
	}
	return RoleUnknown
}

// MarshalText writes the role's word, for JSON.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads a role's word; an unknown word is RoleUnknown, so that a
// newer peer's role does not make its whole message unreadable.
func (r *Role) UnmarshalText(b []byte) error {
	*r = ParseRole(string(b))
	return nil
}

// LSN is a position in the write-ahead log, in bytes from its beginning
// (PostgreSQL manual, "pg_lsn Type"). Zero is no position.
type LSN uint64

// String writes l as PostgreSQL does, for example 0/16B3748.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// ParseLSN reads PostgreSQL's text form of a position.
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	if !ok {
		return 0, fmt.Errorf("%q is no LSN: expected two hexadecimal numbers with a / between them", s)
	}
	h, errHi := strconv.ParseUint(hi, 16, 32)
	l, errLo := strconv.ParseUint(lo, 16, 32)
	if errHi != nil || errLo != nil {
		return 0, fmt.Errorf("%q is no LSN: expected two hexadecimal numbers with a / between them", s)
	}
	return LSN(h<<32 | l), nil
}

// MarshalText writes PostgreSQL's text form, for JSON.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads PostgreSQL's text form.
func (l *LSN) UnmarshalText(b []byte) (err error) {
	*l, err = ParseLSN(string(b))
	return err
}

// Timeline is the number of a history of the write-ahead log; each promotion
// starts a new one (PostgreSQL manual, "Timelines"). Zero is unknown.
type Timeline uint32

// Node is a record of repmgr.nodes: what was declared about a node, not what it
// is seen to be.
type Node struct {
	ID         NodeID `json:"node_id"`
	Upstream   NodeID `json:"upstream_node_id"` // zero: none
	Active     bool   `json:"active"`
	Name       string `json:"node_name"` // also the application_name of its replication connection
	Role       Role   `json:"type"`
	Location   string `json:"location"`
	Priority   int    `json:"priority"` // zero: never promoted
	Conninfo   string `json:"conninfo"`
	ReplUser   string `json:"repluser"`
	SlotName   string `json:"slot_name"` // empty: no slot
	ConfigFile string `json:"config_file"`
}

// nameLimit is how many bytes of an application_name PostgreSQL keeps (NAMEDATALEN-1).
const nameLimit = 63

// StandbyName is the application_name under which a node's standby counts for
// synchronous replication in a term: one that has not compared its history with
// that term's bears another (safety notes, B16). False for a name that PostgreSQL
// would change (manual, application_name).
func StandbyName(node string, term uint64) (string, bool) {
	name := node + "@" + strconv.FormatUint(term, 10)
	for _, b := range []byte(name) {
		if b < ' ' || b > '~' {
			return name, false
		}
	}
	return name, node != "" && len(name) <= nameLimit
}

// NodeOfStandby is the node's name in an application_name, with a term or without.
func NodeOfStandby(applicationName string) string {
	at := strings.LastIndexByte(applicationName, '@')
	if at <= 0 || at == len(applicationName)-1 || strings.Trim(applicationName[at+1:], "0123456789") != "" {
		return applicationName
	}
	return applicationName[:at]
}

// daemonMark ends the conninfo in the record of a witness without PostgreSQL.
const daemonMark = " application_name=repmgrd"

// DaemonConninfo is what stands as conninfo in the record of a witness without
// PostgreSQL, where the column may not be empty: the address of its daemon.
// Programs that take it for a server's are turned away at once, and meet no other
// server that happens to run there.
func DaemonConninfo(host string, port int) string {
	return fmt.Sprintf("host=%s port=%d%s", host, port, daemonMark)
}

// WithoutServer reports whether n is a witness without PostgreSQL, by its record:
// nobody connects to it, and its daemon alone can be asked.
func (n Node) WithoutServer() bool {
	return n.Role == Witness && strings.HasSuffix(n.Conninfo, daemonMark)
}

// Find returns the node of that number.
func Find(nodes []Node, id NodeID) (Node, bool) {
	for _, n := range nodes {
		if n.ID == id {
			return n, true
		}
	}
	return Node{}, false
}
