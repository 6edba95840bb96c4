package ops

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/plan"
)

// takeOver is a cluster of repmgr 5 in memory: a primary, two standbys and a witness.
type takeOver struct {
	*fake
	self  cluster.NodeID
	nodes []cluster.Node
	seen  map[cluster.NodeID]Migrating
	ahead string // why the local daemon is to start paused
}

func newTakeOver(self cluster.NodeID) *takeOver {
	w := &takeOver{fake: newFake(), self: self, seen: map[cluster.NodeID]Migrating{}}
	for id := cluster.NodeID(1); id <= 4; id++ {
		n := cluster.Node{ID: id, Name: fmt.Sprintf("n%d", id), Role: cluster.Standby, Upstream: 1, Active: true}
		m := Migrating{InRecovery: true, Streaming: true, Timeline: 3, Theirs: Theirs{Loaded: true, Running: true, PID: int(id)}}
		switch id {
		case 1:
			n.Role, n.Upstream, m.InRecovery, m.Streaming = cluster.Primary, 0, false, false
		case 4:
			n.Role, m.InRecovery, m.Streaming, m.Timeline = cluster.Witness, false, false, 1
		}
		w.nodes, w.seen[id] = append(w.nodes, n), m
	}
	return w
}

func (w *takeOver) survey() MigrateSurvey {
	return MigrateSurvey{Self: w.self, Primary: 1, Nodes: w.nodes, Seen: maps.Clone(w.seen), Endpoint: Endpoint{Host: "h", Port: 1}}
}

// set changes how a node is seen.
func (w *takeOver) set(id cluster.NodeID, f func(*Migrating)) {
	m := w.seen[id]
	f(&m)
	w.seen[id] = m
}

func (w *takeOver) Look(_ context.Context, ids []cluster.NodeID) (map[cluster.NodeID]Migrating, error) {
	return maps.Clone(w.seen), nil
}
func (w *takeOver) PauseTheirs(_ context.Context, id cluster.NodeID, paused bool) error {
	return w.change(func() { w.set(id, func(m *Migrating) { m.Theirs.Paused = paused }) })
}
func (w *takeOver) PauseOurs(_ context.Context, id cluster.NodeID, paused bool, reason string) error {
	return w.change(func() { w.set(id, func(m *Migrating) { m.Ours.Paused, m.Ours.Reason = paused, reason }) })
}
func (w *takeOver) PauseAhead(_ context.Context, reason string) error {
	return w.change(func() { w.ahead = reason })
}
func (w *takeOver) StopTheirs(context.Context) error {
	return w.change(func() { w.set(w.self, func(m *Migrating) { m.Theirs.Running = false }) })
}
func (w *takeOver) StartTheirs(context.Context) error {
	return w.change(func() { w.set(w.self, func(m *Migrating) { m.Theirs.Running = true }) })
}
func (w *takeOver) StartOurs(context.Context) error {
	return w.change(func() {
		w.set(w.self, func(m *Migrating) { m.Ours = Ours{Answers: true, Paused: w.ahead != "", Reason: w.ahead} })
	})
}
func (w *takeOver) StopOurs(context.Context) error {
	return w.change(func() { w.set(w.self, func(m *Migrating) { m.Ours = Ours{} }) })
}
func (w *takeOver) AwaitDisarmed(context.Context) error { return nil }
func (w *takeOver) DropMetadata(_ context.Context, in Database) error {
	return w.change(func() { delete(w.Metadata, in) })
}
func (w *takeOver) Await(_ context.Context, ids []cluster.NodeID, satisfies func(cluster.NodeID, Migrating) error) error {
	var all []error
	for _, id := range ids {
		all = append(all, satisfies(id, w.seen[id]))
	}
	return errors.Join(all...)
}

// migrateOn runs the plan of one node.
func (w *takeOver) migrateOn(t *testing.T, self cluster.NodeID) error {
	t.Helper()
	w.self = self
	p, err := Migrate(w.survey())
	if err != nil {
		t.Fatalf("node %d: %v", self, err)
	}
	return p.Run(t.Context(), w, func(plan.Event) {})
}

// Node by node, and until the last one nobody may fail over; then it is as it was.
func TestMigrateWholeCluster(t *testing.T) {
	for _, paused := range []bool{false, true} {
		w := newTakeOver(2)
		for id := range w.seen {
			w.set(id, func(m *Migrating) { m.Theirs.Paused = paused })
		}
		for _, id := range []cluster.NodeID{4, 2, 3, 1} {
			if err := w.migrateOn(t, id); err != nil {
				t.Fatalf("node %d: %v", id, err)
			}
			for other, m := range w.seen {
				if m.Theirs.Running && !m.Theirs.Paused || m.Theirs.Running && m.Ours.Answers || id != 1 && m.Ours.Answers && !m.Ours.Paused {
					t.Fatalf("after node %d: node %d may fail over in a mixed cluster: %+v", id, other, m)
				}
			}
			if got := w.survey().Migrated(); got != (id == 1) {
				t.Fatalf("after node %d: migrated is %v", id, got)
			}
		}
		for id, m := range w.seen {
			if m.Ours.Paused != paused || !m.Theirs.Paused {
				t.Errorf("paused before: %v; node %d: %+v", paused, id, m)
			}
		}
		if !w.Metadata[OfWitness] || len(w.events) != 1 || w.events[0].Name != "cluster_migrate" {
			t.Errorf("witness: %v, events: %v", w.Metadata[OfWitness], w.events)
		}
	}
}

// A step that fails leaves the daemons and the pause as they were, at each change and
// whether it took effect or not.
func TestMigrateUndoes(t *testing.T) {
	for _, order := range [][]cluster.NodeID{{2}, {4}, {2, 4, 3, 1}} {
		for at := 1; ; at++ {
			w, last := newTakeOver(order[0]), order[len(order)-1]
			for _, id := range order[:len(order)-1] {
				if err := w.migrateOn(t, id); err != nil {
					t.Fatal(err)
				}
			}
			before, witness := maps.Clone(w.seen), w.Metadata[OfWitness]
			w.changes, w.failAt, w.after = 0, at, at%2 == 0
			err := w.migrateOn(t, last)
			if err == nil {
				break // there are fewer changes
			}
			if !errors.Is(err, errBoom) {
				t.Fatalf("order %v, change %d: %v", order, at, err)
			}
			resuming := strings.Contains(err.Error(), "end the pause")
			if !reflect.DeepEqual(w.seen, before) && !resuming || w.Metadata[OfWitness] != witness {
				t.Errorf("order %v, change %d fails (%v): witness's tables %v, then\n%+v\nbefore\n%+v", order, at, err, w.Metadata[OfWitness], w.seen, before)
			}
			if resuming { // all daemons are ours: another run ends the pause
				w.failAt = -1
				if err := w.migrateOn(t, 3); err != nil || !w.survey().Migrated() {
					t.Errorf("change %d failed, and another run does not mend it: %v", at, err)
				}
			}
		}
	}
}

// What forbids a migration is found before anything is changed, and it says what to do.
func TestMigrateRefuses(t *testing.T) {
	cases := map[string]struct {
		self cluster.NodeID
		set  func(*takeOver)
		says string
	}{
		"primary before others": {1, func(*takeOver) {}, "the primary is migrated last"},
		"unreachable": {2, func(w *takeOver) { w.set(4, func(m *Migrating) { *m = Migrating{Why: "timeout"} }) },
			`node "n4" (ID: 4) cannot be reached: timeout`},
		"no library":        {2, func(w *takeOver) { w.set(3, func(m *Migrating) { m.Theirs = Theirs{} }) }, "no library of repmgr 5"},
		"not registered":    {9, func(*takeOver) {}, "node 9 is not registered"},
		"not streaming":     {2, func(w *takeOver) { w.set(3, func(m *Migrating) { m.Streaming = false }) }, "receives no WAL"},
		"second primary":    {2, func(w *takeOver) { w.set(3, func(m *Migrating) { m.InRecovery = false }) }, "takes writes"},
		"former primary":    {2, func(w *takeOver) { w.nodes[2].Role = cluster.Primary }, "registered as primary too"},
		"records are false": {2, func(w *takeOver) { w.nodes[0].Active = false }, "takes writes and is registered as"},
		"partly paused":     {2, func(w *takeOver) { w.set(3, func(m *Migrating) { m.Theirs.Paused = true }) }, "paused on 1 of the 4 nodes"},
	}
	for name, c := range cases {
		w := newTakeOver(c.self)
		c.set(w)
		p, err := Migrate(w.survey())
		var f *fault.Error
		if !errors.As(err, &f) || f.Code != fault.BadConfig || f.Hint == "" || !strings.Contains(f.Msg+f.Detail, c.says) || len(p.Steps) != 0 {
			t.Errorf("%s: %v, %+v", name, err, f)
		}
	}
	s := newTakeOver(2).survey()
	s.Unready = errBoom
	if _, err := Migrate(s); !errors.Is(err, errBoom) {
		t.Errorf("a node that is not ready: %v", err)
	}
}

// Who asks is told which node is next.
func TestMigrateNext(t *testing.T) {
	w := newTakeOver(2)
	for _, c := range []struct {
		on   cluster.NodeID
		hint string
	}{{0, `on node "n2"`}, {2, `on node "n3"`}, {3, `on node "n4"`}, {4, `on node "n1"`}, {1, ""}} {
		if c.on != 0 {
			if err := w.migrateOn(t, c.on); err != nil {
				t.Fatal(err)
			}
		}
		state, hint := w.survey().Next()
		if !strings.Contains(hint, c.hint) || (hint == "") != (c.hint == "") || !strings.Contains(state, "repmgr 5's daemon runs on") {
			t.Errorf("after %d: %q, hint %q", c.on, state, hint)
		}
	}
}

// A dry run changes nothing.
func TestMigrateDryRun(t *testing.T) {
	w := newTakeOver(4)
	before := maps.Clone(w.seen)
	p, err := Migrate(w.survey())
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	if err := p.Explain(t.Context(), w, func(e plan.Event) { told = append(told, e.Text) }); err != nil {
		t.Fatal(err)
	}
	if w.changes != 0 || !reflect.DeepEqual(w.seen, before) {
		t.Errorf("%d changes", w.changes)
	}
	if !slices.ContainsFunc(told, func(s string) bool { return strings.HasPrefix(s, `stop repmgr 5's repmgrd on node "n4"`) }) {
		t.Errorf("told: %q", told)
	}
}

// There and back: at no time may a daemon of either kind fail over while both are there,
// and in the end all is as it was.
func TestMigrateBack(t *testing.T) {
	for _, paused := range []bool{false, true} {
		w := newTakeOver(2)
		for id := range w.seen {
			w.set(id, func(m *Migrating) { m.Theirs.Paused = paused })
		}
		before := maps.Clone(w.seen)
		for _, id := range []cluster.NodeID{2, 3, 4, 1} {
			if err := w.migrateOn(t, id); err != nil {
				t.Fatal(err)
			}
		}
		w.self = 2
		if p, err := MigrateBack(w.survey()); err == nil || !strings.Contains(err.Error(), "the primary comes first") {
			t.Errorf("node 2 before the primary: %v, %v", p, err)
		}
		for i, id := range []cluster.NodeID{1, 4, 3, 2} {
			if err := w.backOn(t, id); err != nil {
				t.Fatalf("back on node %d: %v", id, err)
			}
			for other, m := range w.seen {
				if i < 3 && (!m.Theirs.Paused || m.Ours.Answers && !m.Ours.Paused) || m.Theirs.Running && m.Ours.Answers {
					t.Fatalf("back on node %d: node %d may fail over in a mixed cluster: %+v", id, other, m)
				}
			}
			if got := w.survey().GivenBack(); got != (i == 3) {
				t.Fatalf("back on node %d: given back is %v", id, got)
			}
		}
		if !reflect.DeepEqual(w.seen, before) || w.Metadata[Cluster] || w.Metadata[OfWitness] {
			t.Errorf("paused before: %v\n%+v\nbefore\n%+v\nmetadata %v", paused, w.seen, before, w.Metadata)
		}
	}
}

// backOn runs the plan of the way back of one node.
func (w *takeOver) backOn(t *testing.T, self cluster.NodeID) error {
	t.Helper()
	w.self = self
	p, err := MigrateBack(w.survey())
	if err != nil {
		t.Fatalf("node %d: %v", self, err)
	}
	return p.Run(t.Context(), w, func(plan.Event) {})
}

// A step of the way back that fails leaves the daemons and the pause as they were, until
// the tables are removed.
func TestMigrateBackUndoes(t *testing.T) {
	for _, order := range [][]cluster.NodeID{{1}, {1, 4}, {1, 4, 3, 2}} {
		for at := 1; ; at++ {
			w := newTakeOver(2)
			for _, id := range []cluster.NodeID{2, 3, 4, 1} {
				if err := w.migrateOn(t, id); err != nil {
					t.Fatal(err)
				}
			}
			last := order[len(order)-1]
			for _, id := range order[:len(order)-1] {
				if err := w.backOn(t, id); err != nil {
					t.Fatal(err)
				}
			}
			before, witness := maps.Clone(w.seen), w.Metadata[OfWitness]
			w.changes, w.failAt, w.after = 0, at, at%2 == 0
			err := w.backOn(t, last)
			if err == nil {
				break // there are fewer changes
			}
			if !errors.Is(err, errBoom) {
				t.Fatalf("order %v, change %d: %v", order, at, err)
			}
			if strings.Contains(err.Error(), "end repmgr 5's pause") {
				continue // all daemons are theirs, and "service unpause" is told
			}
			if !sameDaemons(w.seen, before) || w.Metadata[OfWitness] != witness {
				t.Errorf("order %v, change %d fails (%v): witness's tables %v, then\n%+v\nbefore\n%+v", order, at, err, w.Metadata[OfWitness], w.seen, before)
			}
		}
	}
}

// sameDaemons compares what runs and what is paused, and not the words of a pause.
func sameDaemons(a, b map[cluster.NodeID]Migrating) bool {
	plain := func(seen map[cluster.NodeID]Migrating) map[cluster.NodeID]Migrating {
		seen = maps.Clone(seen)
		for id, m := range seen {
			m.Ours.Reason = ""
			seen[id] = m
		}
		return seen
	}
	return reflect.DeepEqual(plain(a), plain(b))
}
