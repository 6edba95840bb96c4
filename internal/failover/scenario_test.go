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
	for _, r := range rules {
		if hit[r.id] == 0 {
			t.Errorf("no scenario shows why rule %q exists", r.id)
		}
	}
}

var t0 = time.Unix(1_000_000, 0)

// parseView builds a view from lines. "policy" takes manual, no-consensus,
// validate, paused. "n2 standby" declares a node; its words are: self, upstream=,
// prio=, loc=, inactive (the record); says=AGE, server=, role=, tl=, lsn=,
// saw=NODE:AGO, bid=LOST:LSN[:failed], manual, paused, promoting (the report),
// silent (it did not answer since);
// ok=AGE, fail=COUNT:SINCE[:lost] (the probe); and of self: down=STATE,
// receiving, placed=AGE, tried=AGE, approved, doing.
func parseView(t *testing.T, s string) *View {
	t.Helper()
	v := New(0, Policy{Automatic: true, MonitorInterval: time.Second, ReconnectAttempts: 3, ReconnectInterval: time.Second,
		Consensus: true, ElectionRerun: 15 * time.Second})
	for _, line := range strings.Split(s, "\n")[1:] {
		words := strings.Fields(line)
		if words[0] == "policy" {
			parsePolicy(t, v, words[1:])
		} else {
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
		case "paused":
			v.Paused = true
		default:
			t.Fatalf("unknown policy %q", w)
		}
	}
}

// nodeLine is a node line while it is read.
type nodeLine struct {
	node   cluster.Node
	self   bool
	says   bool
	silent bool
	age    time.Duration
	report Report
	probe  Probe
	local  Local
	loss   *Loss
	doing  Action
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
		v.Self, v.Local, v.Loss, v.Doing = l.node.ID, l.local, l.loss, l.doing
		return
	}
	if l.says {
		v.Peers[l.node.ID] = Peer{Report: l.report, At: t0.Add(-l.age), Since: t0.Add(-l.age), Silent: l.silent}
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
	case "paused":
		l.report.Paused = true
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
		l.local.Receiving = true
	case "placed":
		l.loss.BidAt = t0.Add(-age)
	case "tried":
		l.loss.TriedAt = t0.Add(-age)
	case "approved":
		l.loss.Approved = true
	case "doing":
		l.doing = Promote{Lost: 1}
	default:
		t.Fatalf("unknown word %q", key)
	}
}

// TestRulesPage keeps docs/rules.md what the table says.
func TestRulesPage(t *testing.T) {
	var out bytes.Buffer
	out.WriteString("# Rules\n\nThe first rule that applies decides, for each node on its own. Generated from the table in `internal/failover`; `make docs` rewrites it.\n\n| rule | applies when |\n|---|---|\n")
	for _, r := range Rules() {
		fmt.Fprintf(&out, "| `%s` | %s |\n", r[0], r[1])
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
