package ops

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/plan"
	"repmgr/internal/record"
)

// switchable is a healthy cluster of three, whose node 1 is the primary, and a witness;
// node 2 shall be the primary.
func switchable() SwitchoverSurvey {
	s := SwitchoverSurvey{From: 1, To: 2, Seen: map[cluster.NodeID]Sighted{}, LagWarning: 5 * time.Minute, LagCritical: 10 * time.Minute,
		ArchiveWarning: 16, ArchiveCritical: 128, LagBytes: 16 << 20}
	var members []record.Member
	for id := cluster.NodeID(1); id <= 4; id++ {
		n := cluster.Node{ID: id, Name: "n" + string(rune('0'+id)), Role: cluster.Standby, Upstream: 1, Active: true}
		seen := Sighted{Received: 1000, Receiving: true, Archive: -1,
			Server: Server{Reachable: true, SystemID: "s", InRecovery: true, Position: 1000, Senders: 10, SlotsFree: 10}}
		switch id {
		case 1:
			n.Role, n.Upstream = cluster.Primary, 0
			seen.Server.InRecovery, seen.Server.Holds, seen.Receiving, seen.Archive = false, true, false, 0
		case 4:
			n.Role, seen = cluster.Witness, Sighted{Server: Server{Why: "it has none"}}
		}
		s.Nodes, s.Seen[id] = append(s.Nodes, n), seen
		members = append(members, record.Member{Node: id, Voter: true, Witness: id == 4, Automatic: true, Priority: 100, Level: record.Level})
	}
	s.Record = record.New("g", "s", members[0])
	s.Record.Members, s.Record.Rule, s.Record.Term = members, record.Quorum, 1
	s.Record.Lease = record.Lease{State: record.Held, Holder: 1, Promoted: true}
	return s
}

// sight is a survey in which a node looks like that.
func sight(id cluster.NodeID, f func(*Sighted)) func(*SwitchoverSurvey) {
	return func(s *SwitchoverSurvey) {
		seen := s.Seen[id]
		f(&seen)
		s.Seen[id] = seen
	}
}

type switchoverCase struct {
	set    func(*SwitchoverSurvey)
	says   string // empty: nothing is found
	code   fault.Code
	forced bool // --force goes on
	warns  bool // it goes on in any case
}

var switchoverCases = map[string]switchoverCase{
	"all is well":           {func(*SwitchoverSurvey) {}, "", 0, true, true},
	"the primary":           {func(s *SwitchoverSurvey) { s.To = 1 }, "n1", fault.SwitchoverFail, false, false},
	"a witness":             {func(s *SwitchoverSurvey) { s.To = 4 }, "n4", fault.SwitchoverFail, false, false},
	"a stranger":            {func(s *SwitchoverSurvey) { s.To = 9 }, "node 9", fault.SwitchoverFail, false, false},
	"paused":                {func(s *SwitchoverSurvey) { s.Record.Pause.On = true }, "n2", fault.SwitchoverFail, false, false},
	"the target is down":    {sight(2, func(s *Sighted) { s.Server = Server{Why: "refused"} }), "cannot be reached", fault.DBConn, false, false},
	"the target writes":     {sight(2, func(s *Sighted) { s.Server.InRecovery = false }), "is no standby", fault.SwitchoverFail, false, false},
	"of another cluster":    {sight(2, func(s *Sighted) { s.Server.SystemID = "x" }), "not of one cluster", fault.SwitchoverFail, false, false},
	"it does not stream":    {sight(2, func(s *Sighted) { s.Receiving = false }), "does not stream", fault.SwitchoverFail, false, false},
	"from somebody else":    {sight(1, func(s *Sighted) { s.Server.Holds = false }), "does not stream", fault.SwitchoverFail, false, false},
	"it lags by bytes":      {sight(1, func(s *Sighted) { s.Server.Position = 1001 + 16<<20 }), "lags too far behind", fault.SwitchoverFail, false, false},
	"it lags by as many":    {sight(1, func(s *Sighted) { s.Server.Position = 1000 + 16<<20 }), "", 0, true, true},
	"its replay lags":       {sight(2, func(s *Sighted) { s.LagSeconds = 600 }), "replay of", fault.SwitchoverFail, true, false},
	"its replay lags a bit": {sight(2, func(s *Sighted) { s.LagSeconds = 599 }), "lags 599 seconds behind", 0, true, true},
	"unknown":               {sight(2, func(s *Sighted) { s.LagSeconds = -1 }), "is not known", fault.SwitchoverFail, true, false},
	"replay is paused":      {sight(2, func(s *Sighted) { s.ReplayPaused = true }), "is paused", fault.SwitchoverFail, true, false},
	"one walsender too few": {sight(2, func(s *Sighted) { s.Server.Senders = 1 }), "too few walsenders", fault.SwitchoverFail, true, false},
	"just enough":           {sight(2, func(s *Sighted) { s.Server.Senders = 2 }), "", 0, true, true},
	"one slot too few": {func(s *SwitchoverSurvey) {
		s.Nodes[2].SlotName = "x"
		sight(2, func(s *Sighted) { s.Server.SlotsFree = 0 })(s)
	}, "too few replication slots", fault.SwitchoverFail, true, false},
	"the primary is down":      {sight(1, func(s *Sighted) { s.Server = Server{Why: "refused"} }), "the server of the primary", fault.DBConn, false, false},
	"the primary is read-only": {sight(1, func(s *Sighted) { s.Server.InRecovery = true }), "takes no writes", fault.SwitchoverFail, false, false},
	"an exclusive backup":      {sight(1, func(s *Sighted) { s.InBackup = true }), "exclusive backup", fault.SwitchoverFail, false, false},
	"the archive waits":        {sight(1, func(s *Sighted) { s.Archive = 129 }), "wait to be archived", fault.SwitchoverFail, true, false},
	"the archive waits a bit":  {sight(1, func(s *Sighted) { s.Archive = 128 }), "wait to be archived", 0, true, true},
	"no daemon of the target":  {sight(2, func(s *Sighted) { s.Daemon = "not running" }), "does not answer", fault.SwitchoverFail, false, false},
	"no daemon of the primary": {sight(1, func(s *Sighted) { s.Daemon = "not running" }), "does not answer", fault.SwitchoverFail, false, false},
	"no daemon of a sibling":   {sight(3, func(s *Sighted) { s.Daemon = "not running" }), "does not answer", fault.SwitchoverFail, true, false},
	"an inactive sibling": {func(s *SwitchoverSurvey) {
		s.Nodes[2].Active = false
		sight(3, func(s *Sighted) { s.Daemon = "gone" })(s)
	}, "", 0, true, true},
	"the server of a sibling":   {sight(3, func(s *Sighted) { s.Server = Server{Why: "refused"} }), "cannot be reached", fault.SwitchoverFail, true, false},
	"another version":           {func(s *SwitchoverSurvey) { s.Record.Members[3].Level = 2 }, "not every daemon knows", fault.SwitchoverFail, false, false},
	"one is under way":          {func(s *SwitchoverSurvey) { s.Record.Switchover = record.Switchover{Number: 1, To: 3} }, "n2", fault.SwitchoverFail, false, false},
	"the primary was restarted": {func(s *SwitchoverSurvey) { s.Record.Lease.Promoted = false }, "n2", fault.SwitchoverFail, false, false},
}

func TestCheckSwitchover(t *testing.T) {
	for name, tt := range switchoverCases {
		t.Run(name, func(t *testing.T) {
			s := switchable()
			tt.set(&s)
			found := CheckSwitchover(s)
			if tt.says == "" {
				if len(found) > 0 {
					t.Fatalf("%+v", found)
				}
			} else if len(found) == 0 || !strings.Contains(found[0].Text, tt.says) {
				t.Fatalf("%+v, want %q", found, tt.says)
			}
			_, err := StandbySwitchover(s, false)
			if (err == nil) != tt.warns || err != nil && fault.CodeOf(err) != tt.code {
				t.Errorf("without --force: %v, status %d", err, fault.CodeOf(err))
			}
			if _, err := StandbySwitchover(s, true); (err == nil) != tt.forced {
				t.Errorf("with --force: %v", err)
			}
		})
	}
}

func TestSwitchoverPlan(t *testing.T) {
	s := switchable()
	s.Nodes = append(s.Nodes, cluster.Node{ID: 5, Name: "n5", Role: cluster.Standby, Upstream: 3, Active: true}) // cascaded: it stays
	s.Seen[5] = s.Seen[3]
	p, err := StandbySwitchover(s, false)
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, step := range p.Steps {
		said = append(said, step.Describe())
	}
	want := []string{
		"ask the daemons to make node 2 the primary in place of node 1",
		"wait until the primary has stopped and node 2 takes writes",
		`wait until node "n1" (ID: 1) streams from node 2`,
		`wait until node "n3" (ID: 3) streams from node 2`,
	}
	if !slices.Equal(said, want) {
		t.Errorf("%q", said)
	}
	broken := errors.New("broken")
	for failing := range 3 {
		w := &switched{fails: failing, err: broken}
		if err := p.Run(t.Context(), w, func(plan.Event) {}); !errors.Is(err, broken) || w.did != failing {
			t.Errorf("step %d fails: %v, %d steps were done", failing, err, w.did)
		}
	}
}

// Under the visibility rule there is no record, and siblings follow when they are told to.
func TestSwitchoverByVisibility(t *testing.T) {
	s := switchable()
	s.Record = nil
	p, err := StandbySwitchover(s, false)
	if err != nil || len(p.Steps) != 3 {
		t.Fatalf("%d steps, %v", len(p.Steps), err)
	}
	s.SiblingsFollow = true
	if p, err = StandbySwitchover(s, false); err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, step := range p.Steps[2:] {
		said = append(said, step.Describe())
	}
	want := []string{
		`tell the daemon of node "n3" (ID: 3) to follow node 2`,
		`wait until node "n1" (ID: 1) streams from node 2`,
		`wait until node "n3" (ID: 3) streams from node 2`,
	}
	if !slices.Equal(said, want) {
		t.Errorf("%q", said)
	}
	for name, tt := range switchoverCases {
		s := switchable()
		tt.set(&s)
		if s.Record.Pause.On || s.Record.Switchover.Open() || !s.Record.Lease.Promoted || s.Record.Members[3].Level == 2 {
			continue // of the record
		}
		s.Record = nil
		if found := CheckSwitchover(s); tt.says == "" && len(found) > 0 || tt.says != "" && (len(found) == 0 || !strings.Contains(found[0].Text, tt.says)) {
			t.Errorf("%s: %+v, want %q", name, found, tt.says)
		}
	}
}

// switched is a world whose step of that number fails.
type switched struct {
	fails, did int
	err        error
}

func (w *switched) step() error {
	if w.did == w.fails {
		return w.err
	}
	w.did++
	return nil
}

func (w *switched) Request(context.Context, cluster.NodeID) error              { return w.step() }
func (w *switched) AwaitPrimary(context.Context, cluster.NodeID) error         { return w.step() }
func (w *switched) Follow(context.Context, cluster.Node, cluster.NodeID) error { return w.step() }
func (w *switched) AwaitFollows(context.Context, cluster.Node, cluster.NodeID) error {
	return w.step()
}

func TestWhatHasComeOfASwitchover(t *testing.T) {
	asked := Asked{Number: 2, Term: 1, From: 1, To: 2}
	lease := func(state record.LeaseState, holder cluster.NodeID, promoted bool) record.Lease {
		return record.Lease{State: state, Holder: holder, Promoted: promoted, Why: "w"}
	}
	off := []record.Decision{{Term: 1, What: record.WhatCalledOff, Why: "an earlier one"}, {Term: 1, What: record.WhatCalledOff, Why: "it lags"}}
	for name, tt := range map[string]struct {
		rec  record.Record
		done bool
		says string
	}{
		"asked":              {record.Record{Term: 1, Switchover: record.Switchover{Number: 2, To: 2}, Lease: lease(record.Held, 1, true)}, false, ""},
		"not heard of yet":   {record.Record{Term: 1, Switchover: record.Switchover{Number: 1}, Lease: lease(record.Held, 1, true)}, false, ""},
		"far behind":         {record.Record{Lease: lease(record.Held, 1, true)}, false, ""},
		"handed over":        {record.Record{Term: 1, Switchover: record.Switchover{Number: 2}, Lease: lease(record.Vacant, 1, true)}, false, ""},
		"called off":         {record.Record{Term: 1, Switchover: record.Switchover{Number: 2}, Lease: lease(record.Held, 1, true), Decisions: off}, false, "it lags"},
		"granted":            {record.Record{Term: 2, Switchover: record.Switchover{Number: 2}, Lease: lease(record.Granted, 2, false)}, false, ""},
		"claimed":            {record.Record{Term: 2, Switchover: record.Switchover{Number: 2}, Lease: lease(record.Held, 2, false)}, false, ""},
		"promoted":           {record.Record{Term: 2, Switchover: record.Switchover{Number: 2}, Lease: lease(record.Held, 2, true)}, true, ""},
		"somebody else":      {record.Record{Term: 2, Switchover: record.Switchover{Number: 2}, Lease: lease(record.Held, 3, true)}, false, "node 3 became the primary"},
		"the former primary": {record.Record{Term: 2, Switchover: record.Switchover{Number: 2}, Lease: lease(record.Indefinite, 1, true)}, false, "node 1 became the primary"},
	} {
		done, err := asked.Came(&tt.rec)
		if done != tt.done || (err != nil) != (tt.says != "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: done %v, %v", name, done, err)
		}
	}
}
