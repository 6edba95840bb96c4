package cli

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/record"
)

// drilled is a daemon's answer with every kind of outcome in it.
func drilled() (api.Drill, []cluster.Node) {
	lag := func(n uint64) *uint64 { return &n }
	nodes := []cluster.Node{{ID: 1, Name: "node1"}, {ID: 2, Name: "node2"}, {ID: 3, Name: "node3"}}
	ids := func(ids ...cluster.NodeID) []cluster.NodeID { return ids }
	const best = "node 2 has the most WAL of 2 bids: term 1, 0/3000060, priority 100"
	return api.Drill{Rule: record.Quorum, Outcomes: []failover.Outcome{
		{Fault: failover.Crash, Lost: ids(1), Heals: true, Promoted: true, Node: 2, Lag: lag(4711), Rule: "close", Why: best},
		{Fault: failover.Gone, Lost: ids(1), Heals: true, Promoted: true, Node: 2, After: 5 * time.Second, Lag: lag(0), Rule: "close", Why: best},
		{Fault: failover.Crash, Lost: ids(2), Heals: true, Node: 1, Rule: "primary-holds", Why: "node 1 goes on as the primary"},
		{Fault: failover.Crash, Lost: ids(3), Heals: true, Promoted: true, Node: 2, Lag: lag(8), Kept: true, Sets: []record.Set{"ANY 1 (2 3)"}, Rule: "close", Why: best},
		{Fault: failover.Gone, Lost: ids(2, 3), Location: "oslo", After: 3500 * time.Millisecond, Rule: "lease-ran-out",
			Why: "1 of 3 voters would be left, and 2 have to agree: node 1 would stop taking writes, since its lease could not be renewed"},
		{Fault: failover.Gone, Lost: ids(1, 2), Why: "1 of 3 voters would be left, and 2 have to agree"},
	}}, nodes
}

// TestDrill prints every kind of outcome in every way.
func TestDrill(t *testing.T) {
	d := newDrill(drilled())
	golden(t, "drill.txt", render(t, "text", false, d, nil))
	golden(t, "drill.csv", render(t, "csv", false, d, nil))
	golden(t, "drill.json", render(t, "json", false, d, nil))
}

// TestDrillReport plays what the watches of a drill for real see: the primary's
// server dies, another takes writes, and the former is back as a standby.
func TestDrillReport(t *testing.T) {
	said, nodes := drilled()
	at := func(ms int) time.Time { return night.Add(time.Duration(ms) * time.Millisecond) }
	var talk bytes.Buffer
	s := &Session{Opt: defaultOptions(), Talk: &Talk{w: &talk, limit: Notice}, System: System{Now: func() time.Time { return at(0) }}}
	d := &drill{s: s, nodes: nodes, killed: nodes[0], state: map[cluster.NodeID]string{},
		report: DrillReport{Version: 1, Rule: said.Rule, Node: 1, Name: "node1", Was: 1, Predicted: newDrill(said, nodes).Rows[0], Discarded: []string{}, Issues: []string{}}}
	for _, n := range nodes {
		state := stateStandby
		if n.ID == 1 {
			state = stateWrites
		}
		d.take(sighting{at(-10 - int(n.ID)), n, state})
	}
	d.begun = at(0)
	d.say(at(0), nodes[0], "every process of the server is killed")
	d.take(sighting{at(-5), nodes[0], stateWrites}) // it was on its way
	for _, one := range []sighting{
		{at(15), nodes[0], stateGone}, {at(20), nodes[1], stateStandby}, {at(300), nodes[1], stateSilent}, {at(345), nodes[1], stateWrites},
		{at(400), nodes[1], stateWrites}, {at(2500), nodes[0], stateStandby}, {at(2600), nodes[0], stateStandby},
	} {
		d.take(one)
	}
	if d.report.Gap == nil || *d.report.Gap != 0.35 || d.report.Back == nil || *d.report.Back != 2.5 {
		t.Errorf("the gap is %v, back after %v", d.report.Gap, d.report.Back)
	}
	d.report.Is, d.report.IsName, d.report.Whole, d.report.AsSaid = 2, "node2", true, true
	golden(t, "drill-report.txt", render(t, "text", false, d.report, nil)+"---\n"+talk.String()+"---\n"+render(t, "csv", false, d.report, nil))
	d.report.Whole, d.report.AsSaid, d.report.Is = false, false, 0
	d.report.Issues, d.report.Discarded = []string{`node "node1" (ID: 1) is unreachable`}, []string{"2 commits in 120 bytes of WAL"}
	golden(t, "drill-report-bad.txt", render(t, "text", false, d.report, nil))
}

// TestDrillIsConfirmed types names, right and wrong.
func TestDrillIsConfirmed(t *testing.T) {
	n := cluster.Node{ID: 1, Name: "node1"}
	session := func(typed string, yes ...string) *Session {
		s := &Session{Opt: defaultOptions(), System: System{Stdin: strings.NewReader(typed), Stderr: new(bytes.Buffer)}}
		for _, y := range yes {
			s.Opt.Yes, s.Opt.given["yes"] = y, true
		}
		return s
	}
	pipe, other, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	defer other.Close()
	piped := session("")
	piped.Stdin = pipe
	for name, c := range map[string]struct {
		err  error
		want string // empty: it is confirmed
	}{
		"typed":              {session("node1\n").typed(n, "It is done."), ""},
		"typed without end":  {session("node1").typed(n, "It is done."), ""},
		"another name":       {session("node2\n").typed(n, "It is done."), `"node2" was typed`},
		"nothing":            {session("").typed(n, "It is done."), `"" was typed`},
		"yes":                {session("").confirm(n, "It is done."), "no terminal"},
		"yes, of a pipe":     {piped.confirm(n, "It is done."), "no terminal"},
		"yes, by option":     {session("", "node1").confirm(n, "It is done."), ""},
		"another, by option": {session("", "node2").confirm(n, "It is done."), "--yes=node2 is not the name"},
	} {
		if got := fmt.Sprint(c.err); (c.err == nil) != (c.want == "") || !strings.Contains(got, c.want) && c.want != "" {
			t.Errorf("%s: %v, want %q", name, c.err, c.want)
		}
	}
}

// TestDrilledNode finds a node by name and by number.
func TestDrilledNode(t *testing.T) {
	nodes := []cluster.Node{{ID: 1, Name: "node1"}, {ID: 22, Name: "2"}, {ID: 3, Name: "w", Role: cluster.Witness, Conninfo: cluster.DaemonConninfo("n3", 7433)}}
	for text, want := range map[string]string{"node1": "1", "1": "1", "22": "22", "2": "22", "node": `no node "node"`, "w": "no server", "3": "no server"} {
		s := &Session{Opt: defaultOptions()}
		s.Opt.ForReal = text
		n, err := s.drilled(nodes)
		if got := fmt.Sprint(n.ID, err); err == nil && fmt.Sprint(n.ID) != want || err != nil && !strings.Contains(got, want) {
			t.Errorf("%s: node %d, %v; want %s", text, n.ID, err, want)
		}
	}
}
