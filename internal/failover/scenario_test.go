package failover

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

var update = flag.Bool("update", false, "rewrite the expected halves of testdata")

// TestScenarios reads testdata/*.txt: blocks of a title, the lines of a view,
// "----" and the decision. Every rule must be reached by a scenario that shows
// why it exists. The words of a view are those of parseView.
func TestScenarios(t *testing.T) {
	hit := map[string]int{}
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios: ", err)
	}
	for _, file := range files {
		in, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		for _, block := range strings.Split(strings.TrimSpace(string(in)), "\n\n") {
			given, _, _ := strings.Cut(block, "\n----")
			d := Decide(parseView(t, given), t0)
			hit[d.Rule]++
			fmt.Fprintf(&out, "%s\n----\n%s: %s\n", given, d.Rule, d.Why)
			for _, a := range d.Actions {
				fmt.Fprintf(&out, "  %T%+v\n", a, a)
			}
			out.WriteString("\n")
		}
		got := bytes.TrimRight(out.Bytes(), "\n")
		if *update {
			if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		} else if !bytes.Equal(got, bytes.TrimRight(in, "\n")) {
			t.Errorf("%s differs; run go test -update and read the diff:\n%s", file, got)
		}
	}
	for _, r := range rules.all() {
		if hit[r.id] == 0 {
			t.Errorf("no scenario shows why rule %q exists", r.id)
		}
	}
}

var t0 = time.Unix(1_000_000, 0)

// parseView builds a view from lines. "policy" takes manual, no-consensus,
// validate, paused, always-promote, stop-receivers, failover-delay, promote-delay (10 s each). "n2 standby" declares a node; its words are: self, upstream=,
// prio=, loc=, inactive (the record); says=AGE, server=, role=, tl=, lsn=,
// saw=NODE:AGO, bid=LOST:LSN[:failed], manual, paused, promoting, receiving (the report),
// silent (it did not answer since); refused (it listens to another daemon as this node's);
// ok=AGE, fail=COUNT:SINCE[:lost] (the probe); and of self: down=STATE,
// held, placed=AGE, tried=AGE, approved, doing, ordered=LOST:AGE, armed, line=TIMELINE, barred=PARAMETER. "raft" says
// that a node has a state directory, voters=COUNT what its record holds, governs=TERM that it is under the quorum rule, trip=TIME how long the way there and back takes, disk=TIME a write to its disk, sweep=TIME a search for its server's processes; "group
// n1 n2 n3" is this node's record, with these voters, under the visibility rule.
func parseView(t *testing.T, s string) *View {
	t.Helper()
	v := New(0, Policy{Automatic: true, MonitorInterval: time.Second, ReconnectAttempts: 3, ReconnectInterval: time.Second,
		Consensus: true, ElectionRerun: 15 * time.Second})
	for _, line := range strings.Split(s, "\n")[1:] {
		words := strings.Fields(line)
		switch words[0] {
		case "policy":
			parsePolicy(t, v, words[1:])
		case "group":
			parseGroup(t, v, words[1:])
		default:
			parseNode(t, v, words)
		}
	}
	return v
}

func parsePolicy(t *testing.T, v *View, words []string) {
	t.Helper()
	for _, w := range words {
		switch w {
		case "manual":
			v.Policy.Automatic = false
		case "no-consensus":
			v.Policy.Consensus = false
		case "validate":
			v.Policy.Validate = true
		case "always-promote":
			v.Policy.AlwaysPromote = true
		case "stop-receivers":
			v.Policy.StopReceivers, v.Policy.SiblingsStreaming = true, 30*time.Second
		case "failover-delay":
			v.Policy.FailoverDelay = 10 * time.Second
		case "promote-delay":
			v.Policy.PromoteDelay = 10 * time.Second
		case "paused":
			v.Paused = true
		case "quorum":
			v.Policy.Quorum, v.Policy.LeaseTTL = true, 5*time.Second
		default:
			t.Fatalf("unknown policy %q", w)
		}
	}
}

func parseGroup(t *testing.T, v *View, words []string) {
	t.Helper()
	for _, w := range words {
		id, err := strconv.Atoi(w[1:])
		if err != nil {
			t.Fatalf("group: %v", err)
		}
		m := record.Member{Node: cluster.NodeID(id), RaftID: uint64(id), Priority: 100, Automatic: true}
		if v.Group.Record == nil {
			v.Group.Record = record.New("g", "", m)
		}
		m.Voter = true
		v.Group.Record.SetMember(m, t0, 1)
	}
}

// nodeLine is a node line while it is read.
type nodeLine struct {
	node            cluster.Node
	self            bool
	says            bool
	trip            time.Duration
	silent, refused bool
	age             time.Duration
	report          Report
	probe           Probe
	local           Local
	loss            *Loss
	doing           Action
	earlier         cluster.NodeID
}

func parseNode(t *testing.T, v *View, words []string) {
	t.Helper()
	id, err := strconv.Atoi(words[0][1:])
	if err != nil {
		t.Fatalf("%v: %v", words, err)
	}
	role := cluster.ParseRole(words[1])
	l := nodeLine{node: cluster.Node{ID: cluster.NodeID(id), Role: role, Active: true, Location: "default", Priority: 100}}
	l.report = Report{Node: l.node.ID, Automatic: true, Priority: 100, Type: role, Server: ServerRunning, Role: role, Position: Position{1, 100}}
	l.local = Local{At: t0, State: ServerRunning, Role: role}
	for _, w := range words[2:] {
		l.word(t, w)
	}
	v.Nodes = append(v.Nodes, l.node)
	if l.self {
		l.local.Role, l.local.Position = l.report.Role, l.report.Position
		v.Self, v.Local, v.Loss, v.Doing, v.Earlier = l.node.ID, l.local, l.loss, l.doing, l.earlier
		v.Group.RaftID, v.Group.Disk, v.Sweep = l.report.RaftID, l.report.Disk, l.report.Sweep
		return
	}
	if l.says {
		if l.refused {
			v.RefusedBy, v.RefusedAt = l.node.ID, t0
		}
		v.Peers[l.node.ID] = Peer{Report: l.report, At: t0.Add(-l.age), Since: t0.Add(-l.age), Silent: l.silent, Trip: l.trip}
	}
	v.Probes[l.node.ID] = l.probe
}

func (l *nodeLine) word(t *testing.T, w string) {
	t.Helper()
	key, val, _ := strings.Cut(w, "=")
	parts := strings.Split(val, ":")
	num, _ := strconv.Atoi(parts[0])
	age, _ := time.ParseDuration(parts[len(parts)-1])
	switch key {
	case "self":
		l.self = true
	case "upstream":
		l.node.Upstream = cluster.NodeID(num)
	case "prio":
		l.node.Priority, l.report.Priority = num, num
	case "loc":
		l.node.Location = val
	case "inactive":
		l.node.Active = false
	case "says":
		l.says, l.age = true, age
	case "server":
		l.report.Server = ServerState(val)
	case "role":
		l.report.Role = cluster.ParseRole(val)
	case "tl":
		l.report.Position.Timeline = cluster.Timeline(num)
	case "lsn":
		l.report.Position.LSN = cluster.LSN(num)
	case "saw":
		l.report.Saw = append(l.report.Saw, Seen{Node: cluster.NodeID(num), Ago: age})
	case "manual":
		l.report.Automatic = false
	case "silent":
		l.silent = true
	case "refused":
		l.refused = true
	case "paused":
		l.report.Paused = true
	case "stepping":
		l.report.Deciding = Describe(StepUp{From: 1})
	case "willing":
		l.report.Rule = rulePromote
	case "promoting":
		l.report.Deciding = Describe(Promote{Lost: 1})
	case "bid":
		lsn, _ := strconv.Atoi(parts[1])
		b := Bid{Lost: cluster.NodeID(num), Position: Position{1, cluster.LSN(lsn)}, Failed: len(parts) > 2}
		l.report.Bid, l.loss = &b, &Loss{Bid: b, BidAt: t0}
	default:
		l.wordOfProbeOrSelf(t, key, parts, age)
	}
}

func (l *nodeLine) wordOfProbeOrSelf(t *testing.T, key string, parts []string, age time.Duration) {
	t.Helper()
	num, _ := strconv.Atoi(parts[0])
	switch key {
	case "ok":
		l.probe = Probe{At: t0.Add(-age), OK: true, LastOK: t0.Add(-age), Role: l.report.Role, Position: l.report.Position}
	case "fail":
		since, err := time.ParseDuration(parts[1])
		if err != nil {
			t.Fatal(err)
		}
		l.probe = Probe{At: t0, Failures: num, FirstFail: t0.Add(-since)}
		if len(parts) > 2 {
			l.probe.LostAt = t0.Add(-10 * time.Millisecond)
		}
	case "down":
		l.local.State, l.report.Role = ServerState(parts[0]), cluster.RoleUnknown
	case "receiving":
		l.local.Receiving, l.report.Receiving = true, true
	case "held":
		l.local.Held = true
	case "placed":
		l.loss.BidAt = t0.Add(-age)
	case "tried":
		l.loss.TriedAt = t0.Add(-age)
	case "approved":
		l.loss.Approved = true
	case "ordered": // by an earlier life of its daemon
		l.earlier = cluster.NodeID(num)
	case "doing":
		l.doing = Promote{Lost: 1}
	case "barred":
		l.report.Barred, l.local.Barred = parts[0]+" is set", parts[0]+" is set"
	case "armed":
		l.local.Armed = true
	case "line":
		l.local.Line = record.Line(parts[0])
	case "raft":
		l.report.RaftID = uint64(l.node.ID)
	case "governs":
		l.report.Group, l.report.PromotionRule, l.report.Term = "g", record.Quorum, uint64(num)
	case "trip":
		l.trip = age
	case "disk":
		l.report.Disk = age
	case "sweep":
		l.report.Sweep = age
	case "voters":
		l.report.Voters = num
	default:
		t.Fatalf("unknown word %q", key)
	}
}

// TestRulesPage keeps docs/rules.md what the table says.
func TestRulesPage(t *testing.T) {
	var out bytes.Buffer
	out.WriteString("# Rules\n\nThe first rule of a table that applies decides, for each node on its own. Generated from the tables in `internal/failover`; `make docs` rewrites it.\n")
	for _, table := range Rules() {
		fmt.Fprintf(&out, "\n## %s\n\n| rule | applies when |\n|---|---|\n", table.Name)
		for _, r := range table.Rules {
			fmt.Fprintf(&out, "| `%s` | %s |\n", r[0], r[1])
		}
	}
	const page = "../../docs/rules.md"
	if *update {
		if err := os.WriteFile(page, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(page); err != nil || !bytes.Equal(got, out.Bytes()) {
		t.Errorf("%s is stale (%v): run make docs", page, err)
	}
}
