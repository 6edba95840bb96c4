package cluster

import (
	"strings"
	"testing"
)

// TestStatusColumn goes through every row of the table of states.
func TestStatusColumn(t *testing.T) {
	const unreachable, inactive = "is unreachable", "record is inactive"
	tests := []struct {
		role     Role
		reach    Reach
		active   bool
		recovery Recovery
		want     string
		issue    string // part of the issue; empty: none
		bad      bool
	}{
		{Primary, Up, true, NotInRecovery, "* running", "", false},
		{Primary, Up, true, InRecovery, "! running as standby", "registered as a primary but runs as a standby", true},
		{Primary, Up, true, RecoveryUnknown, "! unknown", "cannot be told", true},
		{Primary, Up, false, NotInRecovery, "! running", inactive, true},
		{Primary, Up, false, InRecovery, "! running as standby", "inactive primary", true},
		{Primary, Up, false, RecoveryUnknown, "! running as standby", "inactive primary", true},
		{Primary, Rejected, true, RecoveryUnknown, "? running", "", true},
		{Primary, Rejected, false, RecoveryUnknown, "! running", "", true},
		{Primary, Down, true, RecoveryUnknown, "? unreachable", unreachable, true},
		{Primary, Down, false, RecoveryUnknown, "- failed", "", true},
		{Standby, Up, true, InRecovery, "  running", "", false},
		{Standby, Up, true, NotInRecovery, "! running as primary", "registered as a standby but runs as a primary", true},
		{Standby, Up, true, RecoveryUnknown, "! unknown", "cannot be told", true},
		{Standby, Up, false, InRecovery, "! running", inactive, true},
		{Standby, Up, false, NotInRecovery, "! running as primary", inactive, true},
		{Standby, Up, false, RecoveryUnknown, "! running as primary", inactive, true},
		{Standby, Rejected, true, RecoveryUnknown, "? running", "", true},
		{Standby, Rejected, false, RecoveryUnknown, "! running", "", true},
		{Standby, Down, true, RecoveryUnknown, "? unreachable", unreachable, true},
		{Standby, Down, false, RecoveryUnknown, "- failed", "", true},
		{Witness, Up, true, NotInRecovery, "* running", "", false},
		{Witness, Up, false, NotInRecovery, "! running", "", true},
		{Witness, Rejected, true, RecoveryUnknown, "? rejected", "", true},
		{Witness, Rejected, false, RecoveryUnknown, "! failed", "", true},
		{Witness, Down, true, RecoveryUnknown, "? unreachable", unreachable, true},
		{Witness, Down, false, RecoveryUnknown, "- failed", "", true},
		{RoleUnknown, Up, true, InRecovery, "? unknown node type", "", true},
	}
	for _, tt := range tests {
		up := Sight{Node: Node{ID: 1, Name: "up", Role: Primary, Active: true}, Own: &Node{Role: Primary}, Reach: Up,
			Recovery: NotInRecovery, Senders: map[string][]string{"n": {"streaming"}}}
		n := Node{ID: 2, Name: "n", Role: tt.role, Active: tt.active, Upstream: 1}
		s := Sight{Node: n, Reach: tt.reach, Recovery: tt.recovery}
		if tt.reach == Up {
			s.Own = &n
		}
		if tt.role == Primary {
			s.Node.Upstream = 0
		}
		a := Assess([]Sight{up, s})[1]
		if a.Status != tt.want || a.Bad != tt.bad {
			t.Errorf("%v %v active=%v %v: got %q bad=%v, want %q bad=%v", tt.role, tt.reach, tt.active, tt.recovery, a.Status, a.Bad, tt.want, tt.bad)
		}
		rest := a.Issues
		if tt.reach != Up {
			if len(rest) == 0 || rest[0] != `cannot connect to node "n" (ID: 2)` {
				t.Errorf("%v %v: the first issue must be the connection, got %q", tt.role, tt.reach, rest)
				continue
			}
			rest = rest[1:]
		}
		if tt.issue == "" && len(rest) > 0 || tt.issue != "" && (len(rest) != 1 || !strings.Contains(rest[0], tt.issue)) {
			t.Errorf("%v %v active=%v %v: issues %q, want one with %q", tt.role, tt.reach, tt.active, tt.recovery, rest, tt.issue)
		}
	}
}

// TestUpstreamColumn goes through every row of the table of upstreams.
func TestUpstreamColumn(t *testing.T) {
	const id1, id2, gone = 1, 2, 9
	own := func(role Role, upstream NodeID) *Node { return &Node{ID: 3, Name: "n", Role: role, Upstream: upstream} }
	senders := func(states ...string) map[string][]string { return map[string][]string{"n": states} }
	tests := []struct {
		name    string
		role    Role
		record  NodeID // upstream by the record
		own     *Node
		reach   Reach // of the upstream
		senders map[string][]string
		want    string
		issues  []string // a part of each
	}{
		{"own record unavailable", Standby, id1, nil, Up, senders(), "? one", nil},
		{"a primary whose record is unavailable", Primary, 0, nil, Up, senders(), "? ", nil},
		{"own copy says primary", Standby, id1, own(Primary, 0), Up, senders(), "", nil},
		{"witness without upstream", Witness, id1, own(Witness, 0), Up, senders(), "!", []string{"no upstream"}},
		{"witness of another", Witness, id1, own(Witness, id2), Up, senders(), "! two", []string{`node "two" (ID: 2); expected node "one" (ID: 1)`}},
		{"witness of a node without record", Witness, gone, own(Witness, gone), Up, senders(), "? ", []string{"no record"}},
		{"witness of an unreachable node", Witness, id1, own(Witness, id1), Down, nil, "? one", []string{"cannot connect to the upstream"}},
		{"witness", Witness, id1, own(Witness, id1), Up, senders(), "one", nil},
		{"standby", Standby, id1, own(Standby, id1), Up, senders("streaming"), "one", nil},
		{"standby with an unreadable state", Standby, id1, own(Standby, id1), Up, senders(""), "one", nil},
		{"upstream unreachable", Standby, id1, own(Standby, id1), Down, nil, "? one", []string{"cannot connect to the upstream", "cannot be told"}},
		{"upstream without record", Standby, gone, own(Standby, gone), Up, nil, "? ", []string{"cannot connect to the upstream", "cannot be told"}},
		{"walsenders unreadable", Standby, id1, own(Standby, id1), Up, nil, "? one", []string{"cannot be told"}},
		{"two of one name", Standby, id1, own(Standby, id1), Up, senders("streaming", "streaming"), "? one", []string{"2 connections"}},
		{"not streaming", Standby, id1, own(Standby, id1), Up, senders("catchup"), "? one", []string{`in state "catchup"`}},
		{"not attached", Standby, id1, own(Standby, id1), Up, senders(), "! one", []string{"is not attached"}},
		{"reports none", Standby, id1, own(Standby, 0), Up, senders(), "!", []string{"no upstream"}},
		{"reports another", Standby, id1, own(Standby, id2), Up, senders(), "! two", []string{"different upstream"}},
	}
	for _, tt := range tests {
		recovery := InRecovery
		if tt.role == Primary {
			recovery = NotInRecovery
		}
		all := []Sight{
			{Node: Node{ID: id1, Name: "one", Role: Primary, Active: true}, Own: &Node{Role: Primary}, Reach: tt.reach, Recovery: NotInRecovery, Senders: tt.senders},
			{Node: Node{ID: id2, Name: "two", Role: Standby, Active: true}, Reach: Up, Recovery: InRecovery},
			{Node: Node{ID: 3, Name: "n", Role: tt.role, Active: true, Upstream: tt.record}, Own: tt.own, Reach: Up, Recovery: recovery},
		}
		got := Assess(all)[2]
		if got.Upstream != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got.Upstream, tt.want)
		}
		if len(got.Issues) != len(tt.issues) {
			t.Errorf("%s: issues %q, want %q", tt.name, got.Issues, tt.issues)
			continue
		}
		for i, want := range tt.issues {
			if !strings.Contains(got.Issues[i], want) {
				t.Errorf("%s: issue %q lacks %q", tt.name, got.Issues[i], want)
			}
		}
	}
}

// TestPausedReplay must warn only where WAL waits to be replayed.
func TestPausedReplay(t *testing.T) {
	n := Node{ID: 2, Name: "n", Role: Standby, Active: true, Upstream: 1}
	up := Sight{Node: Node{ID: 1, Name: "up", Role: Primary, Active: true}, Own: &Node{Role: Primary}, Reach: Up,
		Recovery: NotInRecovery, Senders: map[string][]string{"n": {"streaming"}}}
	for _, tt := range []struct {
		paused             bool
		received, replayed LSN
		bad                bool
	}{{true, 200, 100, true}, {true, 100, 100, false}, {false, 200, 100, false}} {
		s := Sight{Node: n, Own: &n, Reach: Up, Recovery: InRecovery, Received: tt.received, Replayed: tt.replayed, ReplayPaused: tt.paused}
		if a := Assess([]Sight{up, s})[1]; a.Bad != tt.bad || (len(a.Issues) == 1) != tt.bad {
			t.Errorf("paused=%v %d of %d: bad=%v issues %q", tt.paused, tt.replayed, tt.received, a.Bad, a.Issues)
		}
	}
}
