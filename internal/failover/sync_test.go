package failover

import (
	"testing"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// named gives the members and the records their names, and the holder a mode.
func named(v *View, mode record.SyncMode) {
	for i, m := range v.Group.Record.Members {
		v.Group.Record.Members[i].Name = "n" + string(rune('0'+m.Node))
		v.Nodes[i].Name = v.Group.Record.Members[i].Name
	}
	v.Policy.SyncMode, v.Policy.SyncCount, v.Policy.SyncTimeout = mode, 1, 5*time.Second
}

// streams is a standby's walsender that is as far as the primary.
func streams(name string) Sender {
	return Sender{Name: name, State: "streaming", Sent: 100, Flush: 100}
}

// look is two looks at the walsenders, the second just now.
func look(v *View, names string, senders ...Sender) {
	for _, at := range []time.Duration{-500 * time.Millisecond, 0} {
		v.Observe(SyncSeen{Names: names, LSN: 100, Senders: senders}, t0.Add(at))
	}
}

const both = `ANY 1 ("n2@1", "n3@1")`

var (
	n2, n3  = streams("n2@1"), streams("n3@1")
	addBoth = record.SyncAdd{Term: 1, Node: 1, Mode: record.SyncOn, Set: record.SetOf(1, 2, 3)}
	settled = []record.Change{addBoth, record.SyncDrop{Term: 1, Node: 1, Seq: 1}}
)

// onView is the holder with synchronous_mode=on.
func onView(set func(*View)) func(*View) {
	return func(v *View) {
		named(v, record.SyncOn)
		set(v)
	}
}

var syncCases = []ruleCase{
	{"sync-busy", holderView, nil, func(v *View) { v.Sync.Doing = RestoreSync{} }},
	{"sync-after-setback", holderView, nil, func(v *View) { v.Sync.FailedAt = t0 }},
	{"sync-restore", quorumView, nil, func(v *View) { v.Local.SyncManaged = true }},
	{"sync-restore", holderView, nil, func(v *View) { v.Local.SyncManaged, v.Group.Record = true, record.New("g", "", record.Member{}) }},
	{"sync-restore", holderView, nil, func(v *View) { v.Local.SyncManaged = true }},
	{"sync-off", holderView, nil, func(v *View) { v.Local.SyncManaged, v.Life = true, 7 }},                                     // this life has not renewed the lease: the record may be behind
	{"sync-not-here", quorumView, nil, func(v *View) { v.Local.SyncManaged, v.Local.Role, v.Life = true, cluster.Primary, 7 }}, // the same
	{"sync-not-here", quorumView, settled, func(v *View) { v.Local.SyncManaged = true }},
	{"sync-not-here", holderView, settled, onView(func(v *View) { v.Local.Role = cluster.Standby })},
	{"sync-off", holderView, nil, nil},
	{"sync-unseen", holderView, settled, onView(func(*View) {})},
	{"sync-unseen", holderView, settled, onView(func(v *View) { look(v, both, n2, n3); v.Sync.At = t0.Add(-time.Minute) })},
	{"sync-announce", holderView, nil, onView(func(v *View) { look(v, "", n2, n3) })},
	{"sync-announce", holderView, settled, onView(func(v *View) { look(v, both, n2, n3); v.Policy.SyncMode = record.SyncOff })},
	{"sync-write", holderView, settled, onView(func(v *View) { look(v, "mine", n2, n3) })},
	{"sync-prove", holderView, settled[:1], onView(func(v *View) { look(v, both, n2, n3) })},
	{"sync-drop", holderView, settled[:1], onView(func(v *View) {
		look(v, both, n2, n3)
		v.Observe(SyncDone{Action: ProveSync{Term: 1, Seq: 1}, LSN: 100}, t0)
	})},
	{"sync-prove", holderView, settled[:1], onView(func(v *View) { // of another change: it proves nothing
		look(v, both, n2, n3)
		v.Observe(SyncDone{Action: ProveSync{Term: 1, Seq: 0}, LSN: 100}, t0)
	})},
	{"sync-settled", holderView, settled, onView(func(v *View) { look(v, both, n2, n3) })},
}

// The set that is wanted, from what is seen.
func TestSyncTarget(t *testing.T) {
	gone := func(nodes ...cluster.NodeID) func(*View) {
		return func(v *View) {
			for _, n := range nodes {
				v.Sync.Good[n] = t0.Add(-6 * time.Second)
			}
		}
	}
	strict := func(count int, then func(*View)) func(*View) {
		return func(v *View) {
			v.Policy.SyncMode, v.Policy.SyncCount = record.SyncStrict, count
			then(v)
		}
	}
	nothing := func(*View) {}
	for name, c := range map[string]struct {
		changes []record.Change
		senders []Sender
		set     func(*View)
		want    record.Set
	}{
		"both":                         {nil, []Sender{n2, n3}, nothing, "ANY 1 (2 3)"},
		"one streams":                  {nil, []Sender{n2}, nothing, "ANY 1 (2)"},
		"under another name":           {nil, []Sender{n2, streams("n3")}, nothing, "ANY 1 (2)"},
		"under an older term's name":   {nil, []Sender{n2, streams("n3@0")}, nothing, "ANY 1 (2)"},
		"one catches up":               {nil, []Sender{n2, {Name: "n3@1", State: "catchup", Flush: 100}}, nothing, "ANY 1 (2)"},
		"one stays behind":             {nil, []Sender{n2, {Name: "n3@1", State: "streaming", Flush: 99}}, nothing, "ANY 1 (2)"},
		"nobody":                       {nil, nil, nothing, ""},
		"ineligible":                   {nil, []Sender{n2, n3}, func(v *View) { v.Group.Record.Members[2].Priority = 0 }, "ANY 1 (2)"},
		"manual":                       {nil, []Sender{n2, n3}, func(v *View) { v.Group.Record.Members[2].Automatic = false }, "ANY 1 (2)"},
		"names that differ by case":    {nil, []Sender{n2, n3}, func(v *View) { v.Group.Record.Members[2].Name = "N2" }, ""},
		"a member has its time":        {settled, []Sender{n2}, nothing, "ANY 1 (2 3)"},
		"a member is gone":             {settled, []Sender{n2}, gone(3), "ANY 1 (2)"},
		"all members are gone":         {settled, nil, gone(2, 3), ""},
		"a silent daemon cannot bid":   {nil, []Sender{n2, n3}, func(v *View) { v.Peers[3] = Peer{At: t0.Add(-time.Minute)} }, "ANY 1 (2)"},
		"all daemons are silent":       {nil, []Sender{n2, n3}, func(v *View) { v.Peers = nil }, "ANY 1 (2 3)"},
		"two of two":                   {nil, []Sender{n2, n3}, func(v *View) { v.Policy.SyncCount = 2 }, "ANY 2 (2 3)"},
		"one is enough while it must":  {nil, []Sender{n2}, func(v *View) { v.Policy.SyncCount = 2 }, "ANY 1 (2)"},
		"off":                          {settled, []Sender{n2, n3}, func(v *View) { v.Policy.SyncMode = record.SyncOff }, ""},
		"strict, nobody":               {nil, nil, strict(1, nothing), "ANY 1 (2)"},
		"strict, one is gone":          {settled, []Sender{n2}, strict(1, gone(3)), "ANY 1 (2)"},
		"strict, all are gone":         {settled, nil, strict(1, gone(2, 3)), "ANY 1 (2 3)"},
		"strict, two of two, one gone": {settled, []Sender{n2}, strict(2, gone(3)), "ANY 2 (2 3)"},
		"strict, too few":              {nil, []Sender{n2, n3}, strict(3, nothing), "ANY 3 (1 2 3)"}, // node 1 streams from nobody
		"strict, nobody may":           {nil, nil, strict(1, func(v *View) { v.Group.Record.Members[1].Priority, v.Group.Record.Members[2].Priority = 0, 0 }), "ANY 1 (1)"},
	} {
		t.Run(name, func(t *testing.T) {
			v := holderView()
			named(v, record.SyncOn)
			change(t, v, c.changes...)
			look(v, "", c.senders...)
			c.set(v)
			if got := newFacts(v, t0).syncTarget(); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// The first set of a new primary, before anybody streams from it.
func TestFirstSet(t *testing.T) {
	for name, c := range map[string]struct {
		sets []record.Set
		mode record.SyncMode
		set  func(*View)
		want record.Set
	}{
		"the others of the newest":      {[]record.Set{"ANY 1 (2 3)"}, record.SyncOn, nil, "ANY 1 (3)"},
		"the winner was the only one":   {[]record.Set{"ANY 1 (2)"}, record.SyncOn, nil, "ANY 1 (1 3)"},
		"nobody is heard of":            {[]record.Set{"ANY 1 (2)"}, record.SyncOn, func(v *View) { v.Peers = nil }, ""},
		"strict is never empty":         {[]record.Set{"ANY 1 (2)"}, record.SyncStrict, func(v *View) { v.Peers = nil }, "ANY 1 (1)"},
		"strict looks behind the empty": {[]record.Set{"ANY 1 (2 3)", ""}, record.SyncStrict, func(v *View) { v.Peers = nil }, "ANY 1 (3)"},
		"strict, nobody may":            {nil, record.SyncStrict, func(v *View) { v.Group.Record.Members[0].Priority, v.Group.Record.Members[2].Priority = 0, 0 }, "ANY 1 (2)"},
		"off":                           {[]record.Set{"ANY 1 (2 3)"}, record.SyncOff, nil, ""},
		"ineligible":                    {[]record.Set{"ANY 1 (1 3)"}, record.SyncOn, func(v *View) { v.Group.Record.Members[2].Priority = 0 }, "ANY 1 (1)"},
	} {
		t.Run(name, func(t *testing.T) {
			v := quorumView()
			named(v, c.mode)
			change(t, v, claimed...)
			v.Group.Record.Sync.Sets = c.sets
			if c.set != nil {
				c.set(v)
			}
			if got := newFacts(v, t0).firstSet(); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// A standby gets the name of a term after its history was measured in it, and
// loses it when it is of no use.
func TestStandbyGetsTheTermsName(t *testing.T) {
	for name, c := range map[string]struct {
		mode record.SyncMode
		is   string
		set  func(*View)
		rule string
		want Follow
	}{
		"first it is measured":  {record.SyncOn, "n2", func(*View) {}, "measure", Follow{}},
		"then it is renamed":    {record.SyncOn, "n2", sealed, "follow-holder", Follow{1, true, "n2@1"}},
		"an older term's":       {record.SyncOn, "n2@0", func(*View) {}, "measure", Follow{}},
		"it has it":             {record.SyncOn, "n2@1", func(*View) {}, "standby-follows", Follow{}},
		"off, it keeps its own": {record.SyncOff, "mine", func(*View) {}, "standby-follows", Follow{}},
		"off, it gives it back": {record.SyncOff, "n2@1", sealed, "follow-holder", Follow{1, true, "n2"}},
		"who may not win":       {record.SyncOn, "n2@1", func(v *View) { sealed(v); v.Group.Record.Members[1].Priority = 0 }, "follow-holder", Follow{1, true, "n2"}},
	} {
		t.Run(name, func(t *testing.T) {
			v := quorumView()
			named(v, record.SyncOff)
			v.Group.Record.Sync.Mode, v.Local.StandbyName, v.Local.Receiving = c.mode, c.is, false
			c.set(v)
			d := Decide(v, t0)
			if d.Rule != c.rule || c.want.Upstream != 0 && d.Actions[0] != c.want {
				t.Errorf("%s %+v, want %s %+v", d.Rule, d.Actions, c.rule, c.want)
			}
		})
	}
}

// The record knows a set before it is written, and before a server is promoted.
func TestNothingIsWrittenThatTheRecordDoesNotKnow(t *testing.T) {
	v := holderView()
	named(v, record.SyncOn)
	look(v, "", n2, n3)
	var known []string
	for range 20 {
		d := Synchronize(v, t0)
		for _, a := range d.Actions {
			switch a := a.(type) {
			case Propose:
				change(t, v, a.Change)
				known = append(known, newFacts(v, t0).syncNames(v.Group.Record.Sync.Newest()))
			case WriteSync:
				if len(known) == 0 || known[len(known)-1] != a.Names {
					t.Fatalf("%q is written, the record knows %q", a.Names, known)
				}
				v.Observe(SyncDone{Action: a}, t0)
			case ProveSync:
				v.Observe(SyncDone{Action: a, LSN: 100}, t0)
			}
		}
	}
	if got := v.Group.Record.Sync.Sets; len(got) != 1 || got[0] != record.SetOf(1, 2, 3) {
		t.Errorf("%q", got)
	}
	v = quorumView()
	named(v, record.SyncOn)
	change(t, v, claimed...)
	v.Group.Record.Sync = record.Sync{Mode: record.SyncOn, Sets: []record.Set{record.SetOf(1, 2, 3)}}
	sealed(v)
	sure(v)
	d := Decide(v, t0)
	if d.Rule != "first-set" {
		t.Fatal(d.Rule, d.Why)
	}
	change(t, v, d.Actions[0].(Propose).Change)
	d = Decide(v, t0)
	if a, ok := d.Actions[0].(PromoteTo); !ok || a.Sync.Names != `ANY 1 ("n3@2")` {
		t.Errorf("%s %+v", d.Rule, d.Actions)
	}
}

func TestManagedNames(t *testing.T) {
	for names, want := range map[string]bool{both: true, `ANY 1 ("a""b@7")`: true, "": false, `ANY 1 (n2, n3)`: false, `ANY 1 ("n2")`: false, "*": false,
		`ANY 1 ("n2@1", mine)`: false} {
		if ManagedNames(names) != want {
			t.Errorf("%q: %v", names, !want)
		}
	}
}

// On a server that stands still no look comes to its end. A member that the last one showed is
// taken out when its time is over, and is not taken in again by that look.
func TestOldLookTakesNobodyIn(t *testing.T) {
	v := holderView()
	onView(func(*View) {})(v)
	change(t, v, settled...)
	look(v, both, n2, n3)
	v.Tenure.Deadline = t0.Add(time.Hour)
	late := t0.Add(v.Policy.SyncTimeout + time.Millisecond)
	for _, changes := range [][]record.Change{nil, {record.SyncAdd{Term: 1, Node: 1, Seq: 2, Mode: record.SyncOn}}} {
		change(t, v, changes...)
		if got := newFacts(v, late).syncTarget(); got != "" {
			t.Errorf("after %v: %q is wanted, by a look of %s ago", changes, got, late.Sub(t0))
		}
	}
}
