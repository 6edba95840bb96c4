package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
	"repmgr/internal/plan"
	"repmgr/internal/registry"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares got with a file of testdata; -update writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; run with -update and read the difference\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}

// zoo is a cluster in which nearly everything that can be wrong is.
func zoo() []cluster.Sight {
	node := func(id, upstream cluster.NodeID, role cluster.Role, active bool) cluster.Node {
		return cluster.Node{ID: id, Upstream: upstream, Active: active, Name: fmt.Sprintf("node%d", id), Role: role,
			Location: "default", Priority: 100, Conninfo: fmt.Sprintf("host=node%d dbname=repmgr user=repmgr", id)}
	}
	sight := func(n cluster.Node) cluster.Sight {
		s := cluster.Sight{Node: n, Own: &n, Reach: cluster.Up, Recovery: cluster.InRecovery, Timeline: 3, Senders: map[string][]string{}}
		if n.Role != cluster.Standby {
			s.Recovery = cluster.NotInRecovery
		}
		return s
	}
	all := []cluster.Sight{
		sight(node(1, 0, cluster.Primary, true)),
		sight(node(2, 1, cluster.Standby, true)),
		sight(node(3, 2, cluster.Standby, true)),
		sight(node(4, 1, cluster.Witness, true)),
		sight(node(5, 1, cluster.Standby, true)),
		sight(node(6, 0, cluster.Primary, false)),
		sight(node(7, 1, cluster.Standby, true)),
		sight(node(10, 1, cluster.Standby, true)),
		sight(node(11, 1, cluster.Standby, true)),
	}
	all[0].Senders = map[string][]string{"node2": {"streaming"}, "node10": {"catchup"}}
	all[1].Senders = map[string][]string{"node3": {"streaming"}}
	all[1].Node.Conninfo = "host=node2 user=repmgr password='top secret' dbname=repmgr"
	all[2].Node.Location, all[2].Node.Priority = "Zürich-Süd", 0
	all[2].ReplayPaused, all[2].Received, all[2].Replayed = true, 0x3000060, 0x3000000
	all[4].Reach, all[4].Own, all[4].Recovery, all[4].Timeline, all[4].Failure = cluster.Down, nil, cluster.RecoveryUnknown, 0, "dial tcp: connection refused"
	all[5].Reach, all[5].Own, all[5].Recovery, all[5].Timeline, all[5].Failure = cluster.Down, nil, cluster.RecoveryUnknown, 0, "dial tcp: connection refused"
	all[6].Recovery = cluster.NotInRecovery
	all[7].Timeline = 0
	all[8].Reach, all[8].Own, all[8].Recovery, all[8].Timeline, all[8].Failure = cluster.Rejected, nil, cluster.RecoveryUnknown, 0, "password authentication failed"
	all[1].ByDaemon, all[2].ByDaemon = true, true
	return all
}

// daemons are what the daemons of the zoo answered.
func daemons() []DaemonAnswer {
	report := func(id cluster.NodeID, upstream cluster.NodeID, ago time.Duration, paused bool) DaemonAnswer {
		r := failover.Report{Node: id, PID: 27290 + int(id), Paused: paused, Upstream: upstream}
		if upstream != 0 {
			r.Saw = []failover.Seen{{Node: upstream, Ago: ago}}
		}
		return DaemonAnswer{Report: &r}
	}
	stopped := DaemonAnswer{Err: &api.Error{Asked: "node 3", Address: "node3:7433", Kind: api.ErrNotRunning}}
	silent := DaemonAnswer{Err: &api.Error{Asked: "node 5", Address: "node5:7433", Kind: api.ErrNoAnswer}}
	return []DaemonAnswer{
		report(1, 0, 0, false), report(2, 1, 1900*time.Millisecond, false), stopped, report(4, 1, time.Second, false),
		silent, {Err: errNoEndpoint}, report(7, 1, -1, true), report(10, 1, 61*time.Second, true), silent,
	}
}

// render prints a result in one of the formats, and what is said below it.
func render(t *testing.T, format string, terse bool, r Result, issues []string) string {
	t.Helper()
	var both bytes.Buffer
	s := &Session{System: System{Stdout: &both}, Opt: defaultOptions(), Talk: &Talk{w: &both, limit: Info}}
	s.Opt.Format, s.Opt.Terse = format, terse
	if err := s.Result(r); err != nil {
		t.Fatal(err)
	}
	s.issues(issues, true)
	return both.String()
}

func issuesOf(rows []ShowRow) (out []string) {
	for _, r := range rows {
		out = append(out, r.Issues...)
	}
	return out
}

// TestClusterShow prints the zoo in every way.
func TestClusterShow(t *testing.T) {
	s := &Session{Opt: defaultOptions()}
	show, compact := newShow(s.quieter(zoo()), false), newShow(s.quieter(zoo()), true)
	golden(t, "show.txt", render(t, "text", false, show, issuesOf(show.Nodes)))
	golden(t, "show-compact.txt", render(t, "text", true, compact, issuesOf(show.Nodes)))
	golden(t, "show.csv", render(t, "csv", false, show, issuesOf(show.Nodes)))
	s.Opt.Format = "json" // which holds the reasons too
	golden(t, "show.json", render(t, "json", false, newShow(s.quieter(zoo()), false), nil))
}

// TestOneNode is the table of the manual, to the letter.
func TestOneNode(t *testing.T) {
	show := newShow(zoo()[:1], false)
	want := ` ID | Name  | Role    | Status    | Upstream | Location | Priority | Timeline | Connection string
----+-------+---------+-----------+----------+----------+----------+----------+--------------------------------------
 1  | node1 | primary | * running |          | default  | 100      | 3        | host=node1 dbname=repmgr user=repmgr
`
	if got := render(t, "text", false, show, nil); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// TestServiceStatus prints the daemons of the zoo in every way.
func TestServiceStatus(t *testing.T) {
	quiet := &Session{Opt: defaultOptions()}
	service := newService(newShow(quiet.quieter(zoo()), false), daemons())
	var issues []string
	for _, n := range service.Nodes {
		issues = append(issues, n.Issues...)
	}
	golden(t, "service.txt", render(t, "text", false, service, issues))
	golden(t, "service.csv", render(t, "csv", false, service, issues))
	for i := range service.Nodes {
		service.Nodes[i].Report = nil // its form is another package's
	}
	golden(t, "service.json", render(t, "json", false, service, issues))
	service.detail = true
	golden(t, "service-detail.txt", render(t, "text", true, service, issues))
	service.compact = true
	golden(t, "service-compact.txt", render(t, "text", true, service, issues))
}

// TestWitnessRow is the witness of the manual, to the letter.
func TestWitnessRow(t *testing.T) {
	sights := []cluster.Sight{zoo()[0], zoo()[3]}
	service := newService(newShow(sights, false), []DaemonAnswer{daemons()[0], daemons()[3]})
	service.Nodes = service.Nodes[1:]
	pid := 27298
	service.Nodes[0].PID = &pid
	want := ` ID | Name  | Role    | Status    | Upstream | repmgrd | PID   | Paused? | Upstream last seen
----+-------+---------+-----------+----------+---------+-------+---------+--------------------
 4  | node4 | witness | * running | node1    | running | 27298 | no      | 1 second(s) ago
`
	if got := render(t, "text", false, service, nil); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// TestEvents prints events, among them one of a node that is no more.
func TestEvents(t *testing.T) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.Local)
	events := Events{Version: 1, Events: []registry.Event{
		{Node: 2, NodeName: "node2", Name: "standby_promote", Successful: true, At: at, Details: "server \"node2\" (ID: 2) was\npromoted"},
		{Node: 9, Name: "standby_clone", At: at},
	}}
	golden(t, "event.txt", render(t, "text", false, events, nil))
	golden(t, "event.csv", render(t, "csv", false, events, nil))
	events.compact = true
	golden(t, "event-compact.txt", render(t, "text", false, events, nil))
	if got, want := render(t, "text", false, Events{}, nil), "no matching events found\n"; got != want {
		t.Errorf("no events: got %q, want %q", got, want)
	}
}

// TestNodeStatus prints a primary that has a few sores, and a standby.
func TestNodeStatus(t *testing.T) {
	size, pending, lag := int64(31*1024*1024), 2, 4
	primary := NodeStatus{
		Version: 1, ID: 1, Name: "node1", PostgreSQL: "15.18", Size: &size, Conninfo: "host=node1 password=***", SystemID: "7001",
		Role: cluster.Primary, Archiving: "enabled", ArchiveCommand: `cp "%p" /archive/%f`, Pending: &pending,
		UsedSenders: 1, MaxSenders: 10, MaxSlots: 10, PhysicalSlots: 2, ActiveSlots: 1,
		InactiveSlots: []string{"repmgr_slot_3"}, MissingSlots: []string{"repmgr_slot_4"},
		Issues: []string{"physical replication slot \"repmgr_slot_3\" is not in use, and keeps WAL"},
	}
	golden(t, "node-primary.txt", render(t, "text", false, primary, primary.Issues))
	golden(t, "node-primary.csv", render(t, "csv", false, primary, primary.Issues))
	golden(t, "node-primary.json", render(t, "json", false, primary, primary.Issues))
	standby := NodeStatus{
		Version: 1, ID: 2, Name: "node2", PostgreSQL: "15.18", Conninfo: "host=node2", SystemID: "7001", Role: cluster.Standby,
		Archiving: "off", UpstreamID: 1, UpstreamName: "node1", Lag: &lag, Received: 0x3000060, Replayed: 0x3000000, verbose: true,
	}
	golden(t, "node-standby.txt", render(t, "text", false, standby, nil))
	golden(t, "node-standby.csv", render(t, "csv", false, standby, nil))
}

// TestNoSecrets looks for a password in everything that is printed of the zoo.
func TestNoSecrets(t *testing.T) {
	show := newShow(zoo(), false)
	service := newService(show, daemons())
	for _, format := range []string{"text", "csv", "json"} {
		for _, r := range []Result{show, service} {
			if out := render(t, format, false, r, nil); strings.Contains(out, "top secret") {
				t.Errorf("%T as %s shows a password:\n%s", r, format, out)
			}
		}
	}
}

// TestJSONIsValid keeps the json free of anything beside it.
func TestJSONIsValid(t *testing.T) {
	show := newShow(zoo(), false)
	if out := render(t, "json", false, show, issuesOf(show.Nodes)); !json.Valid([]byte(out)) {
		t.Errorf("not valid json:\n%s", out)
	}
}

// TestOutcome shows how a verb that changes something ended.
func TestOutcome(t *testing.T) {
	s := &Session{Verb: "standby follow", Opt: defaultOptions(), Talk: &Talk{w: io.Discard}}
	for _, e := range []plan.Event{
		{Step: 1, Of: 4, What: plan.Skipped, Text: "do what is done"},
		{Step: 2, Of: 4, What: plan.Doing, Text: "write"},
		{Step: 3, Of: 4, What: plan.Doing, Text: "reload"},
		{Step: 3, Of: 4, What: plan.Failed, Text: "reload", Err: io.EOF},
		{Step: 2, Of: 4, What: plan.Undone, Text: "write"},
	} {
		s.tell(e)
	}
	err := fault.New(fault.FollowFail, "it does not follow").WithDetail("found this").WithHint("do that")
	golden(t, "outcome.json", render(t, "json", false, s.outcome(err), nil))
	if got := s.outcome(said(fault.RepmgrdPause)); got.Status != 26 || got.Error != nil {
		t.Errorf("told already: got %+v", got)
	}
	if out := render(t, "text", false, s.outcome(err), nil) + render(t, "csv", false, s.outcome(err), nil); out != "" {
		t.Errorf("beside what was said stands %q", out)
	}
	commands := ServiceCommands{Version: 1, Commands: []ServiceCommand{{"start", "systemctl start pg"}, {"stop", "systemctl stop pg"}}}
	golden(t, "actions.json", render(t, "json", false, commands, nil))
	golden(t, "actions.txt", render(t, "text", false, commands, nil))
}

// TestFrozenOptions keeps the command line stable: scripts depend on each option.
func TestFrozenOptions(t *testing.T) {
	var lines []string
	for _, o := range append(slices.Clone(table), helpOption) {
		line := "--" + o.name
		switch {
		case o.optional:
			line += "[=" + o.arg + "]"
		case o.arg != "":
			line += "=" + o.arg
		}
		if o.short != "" {
			line += " -" + o.short
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	golden(t, "options.txt", strings.Join(lines, "\n")+"\n")
}

// TestVerbs keeps what every verb must have: a page, an example that can be
// parsed, options that exist, and a dry run where it changes something.
func TestVerbs(t *testing.T) {
	known := map[string]bool{"connection": true}
	for _, o := range table {
		known[o.name] = true
	}
	used := map[string]bool{}
	for _, v := range verbs() {
		for _, o := range table {
			used[o.name] = used[o.name] || v.lists(o) || o.aliasOf != "" || o.hidden
		}
		if v.short == "" || v.long == "" || v.example == "" || v.run == nil {
			t.Errorf("%s: short, long, example and run must be there", v.name)
		}
		if v.changes && !slices.Contains(v.options, "dry-run") {
			t.Errorf("%s changes something and has no --dry-run", v.name)
		}
		for _, name := range v.options {
			if !known[name] {
				t.Errorf("%s: there is no option %s", v.name, name)
			}
		}
		for line := range strings.Lines(v.example) {
			line, _, _ = strings.Cut(line, "#")
			words := strings.Fields(line)
			if len(words) == 0 || words[0] != "repmgr" {
				t.Errorf("%s: the example %q does not begin with repmgr", v.name, line)
				continue
			}
			a := arrange(words[1:])
			if len(a.mistakes) > 0 || !strings.HasPrefix(strings.Join(canonical(a.words), " ")+" ", v.name+" ") {
				t.Errorf("%s: the example %q is another command, or wrong: %v", v.name, line, a.mistakes)
			}
		}
	}
	for _, o := range table {
		if !used[o.name] {
			t.Errorf("option --%s is of no use to any verb", o.name)
		}
	}
}

// TestHelpFits keeps the pages within the width of a terminal.
func TestHelpFits(t *testing.T) {
	for _, v := range verbs() {
		var page bytes.Buffer
		code := Main(t.Context(), append(strings.Fields(v.name), "--help"), System{Stdout: &page, Stderr: &page})
		if code != 0 || !strings.Contains(page.String(), "Examples:") {
			t.Errorf("%s --help: status %d\n%s", v.name, code, page.String())
		}
		for line := range strings.Lines(page.String()) {
			if len(line) > 100 && !strings.HasPrefix(line, "  repmgr ") {
				t.Errorf("%s --help: the line is too long: %s", v.name, line)
			}
		}
	}
}

// TestArrange reads command lines as getopt does.
func TestArrange(t *testing.T) {
	for _, tt := range []struct{ line, words, flags string }{
		{"-h node1 -U repmgr -d repmgr -p 5433 -f /etc/repmgr.conf standby clone --dry-run", "standby clone",
			"--host=node1 --username=repmgr --dbname=repmgr --port=5433 --config-file=/etc/repmgr.conf --dry-run"},
		{"standby follow -f c --log-to-file --upstream-node-id=2", "standby follow", "--config-file=c --log-to-file --upstream-node-id=2"},
		{"-Fvfx standby -p5433 follow", "standby follow", "--force --verbose --config-file=x --port=5433"},
		{"standby follow -w 5", "standby follow 5", "--wait"},
		{"standby follow --wait 5", "standby follow 5", "--wait"},
		{"standby follow --wait=5", "standby follow", "--wait=5"},
		{"standby clone --dry --upstream-n 3", "standby clone", "--dry-run --upstream-node-id=3"},
		{"standby clone --recovery-conf-only", "standby clone", "--replication-conf-only"},
		{"standby clone -- -odd", "standby clone -odd", ""},
	} {
		a := arrange(strings.Fields(tt.line))
		if got := strings.Join(a.words, " "); got != tt.words || len(a.mistakes) > 0 {
			t.Errorf("%s: words %q %v, want %q", tt.line, got, a.mistakes, tt.words)
		}
		if got := strings.Join(a.flags, " "); got != tt.flags {
			t.Errorf("%s: options %q, want %q", tt.line, got, tt.flags)
		}
	}
}

// TestCanonical understands every spelling of earlier releases.
func TestCanonical(t *testing.T) {
	for line, want := range map[string]string{
		"MASTER Register": "primary register", "master status": "node status", "cluster EVENTS": "cluster event",
		"daemon status": "service status", "daemon pause": "service pause", "daemon unpause": "service unpause",
		"standby check": "node check", "primary status": "node status", "standby clone NODE1": "standby clone NODE1",
	} {
		if got := strings.Join(canonical(strings.Fields(line)), " "); got != want {
			t.Errorf("%s: got %q, want %q", line, got, want)
		}
	}
}

// TestRelevance warns of what a verb does not use, and takes back what would
// name another node than the operator thinks.
func TestRelevance(t *testing.T) {
	var talk bytes.Buffer
	a := &app{opt: defaultOptions(), verbs: verbs(), sys: System{Stdout: &talk, Stderr: &talk}, talk: &Talk{w: &talk, limit: Info}}
	if err := a.tree().ParseFlags([]string{"--node-id=3", "--node-name=x", "--force", "--host=h", "--verbose"}); err != nil {
		t.Fatal(err)
	}
	v, _ := a.verb("cluster show")
	a.relevance(v)
	if a.opt.NodeID != 0 || a.opt.NodeName != "" || a.opt.Given("force") || !a.opt.Given("host") {
		t.Errorf("what is left: %+v", a.opt)
	}
	if got := strings.Count(talk.String(), "WARNING: "); got != 3 {
		t.Errorf("%d warnings, want 3:\n%s", got, talk.String())
	}
}

// TestWaitOption tells no option, one without and one with a number apart.
func TestWaitOption(t *testing.T) {
	for line, want := range map[string]int{"": Unlimited, "-w": Unlimited, "--wait": Unlimited, "--wait=5": 5, "--wait=0": 0} {
		a := &app{opt: defaultOptions(), verbs: verbs(), sys: System{Stdout: &bytes.Buffer{}, Stderr: &bytes.Buffer{}}}
		root := a.tree()
		if err := root.ParseFlags(arrange(strings.Fields(line)).flags); err != nil {
			t.Fatal(err)
		}
		if a.opt.Wait != want || a.opt.Given("wait") != (line != "") {
			t.Errorf("%q: wait %d given %v, want %d", line, a.opt.Wait, a.opt.Given("wait"), want)
		}
	}
}

// TestVersionNumber writes a release as one number.
func TestVersionNumber(t *testing.T) {
	for version, want := range map[string]int{"5.5.0": 50500, "6.1.2": 60102, "6.0.0-dev": 60000} {
		if got := versionNumber(version); got != want {
			t.Errorf("%s: got %d, want %d", version, got, want)
		}
	}
}

// TestOptionConninfo prefers what stands in the conninfo of -d.
func TestOptionConninfo(t *testing.T) {
	for _, tt := range []struct {
		host, user, dbname string
		port               int
		want               string
	}{
		{"node1", "repmgr", "repmgr", 5433, "host=node1 user=repmgr dbname=repmgr port=5433"},
		{"node1", "repmgr", "host=node2 port=5", 5433, "host=node2 port=5 user=repmgr"},
		{"node1", "", "hostaddr=127.0.0.1 dbname=x", 0, "hostaddr=127.0.0.1 dbname=x"},
		{"", "u", "postgresql://node3/db", 0, "host=node3 dbname=db user=u"},
	} {
		s := &Session{Opt: &Options{Host: tt.host, User: tt.user, DBName: tt.dbname, Port: tt.port}}
		ci, err := s.OptionConninfo()
		if err != nil || ci.String() != tt.want {
			t.Errorf("%+v: got %q %v", tt, ci.String(), err)
		}
	}
}

// TestTalk keeps details and hints with the line that they belong to.
func TestTalk(t *testing.T) {
	e := Entry{Level: Notice, Text: "text", Detail: "detail", Hint: "hint"}
	at := func() time.Time { return time.Date(2026, 3, 4, 5, 6, 7, 0, time.Local) }
	for _, tt := range []struct {
		talk *Talk
		want string
	}{
		{&Talk{limit: Info}, "NOTICE: text\nDETAIL: detail\nHINT: hint\n"},
		{&Talk{limit: Info, terse: true}, "NOTICE: text\n"},
		{&Talk{limit: Warning}, ""},
		{&Talk{limit: Info, stamp: at}, "[2026-03-04 05:06:07] [NOTICE] text\n[2026-03-04 05:06:07] [DETAIL] detail\n[2026-03-04 05:06:07] [HINT] hint\n"},
	} {
		var b bytes.Buffer
		tt.talk.w = &b
		tt.talk.Say(e)
		if b.String() != tt.want {
			t.Errorf("got %q, want %q", b.String(), tt.want)
		}
	}
}

// TestFault prints the parts of a failure that is wrapped.
func TestFault(t *testing.T) {
	var b bytes.Buffer
	(&Talk{w: &b, limit: Info}).Fault(fmt.Errorf("step: %w", errors.New("cause")))
	if b.String() != "ERROR: step: cause\n" {
		t.Errorf("got %q", b.String())
	}
}

// TestMatrix has a node that only another one can ask, one that nobody can ask, and
// one whose daemon is broken.
func TestMatrix(t *testing.T) {
	t.Parallel()
	sees := func(id cluster.NodeID, reached ...bool) api.Outlook {
		o := api.Outlook{Node: id}
		for i, ok := range reached {
			s := api.Sighting{Node: cluster.NodeID(i + 1), Reached: ok}
			if !ok {
				s.Error = "connection refused"
			}
			o.Reaches = append(o.Reaches, s)
		}
		return o
	}
	answer := func(id cluster.NodeID, err error, told ...api.Outlook) registry.Answer[[]api.Outlook] {
		return registry.Answer[[]api.Outlook]{Node: cluster.Node{ID: id, Name: fmt.Sprintf("node%d", id)}, Value: told, Err: err}
	}
	silent := &api.Error{Asked: "node 3", Address: "10.0.0.3:7433", Kind: api.ErrNoAnswer}
	broken := &api.Error{Asked: "node 4", Address: "10.0.0.4:7433", Kind: api.ErrFailed}
	m := newMatrix([]registry.Answer[[]api.Outlook]{
		answer(1, nil, sees(1, true, true, false, false), sees(2, true, false, false, false)),
		answer(2, nil, sees(2, true, true, false, false), sees(3, false, true, true, false)),
		answer(3, silent),
		answer(4, broken),
	})
	golden(t, "matrix.txt", render(t, "text", false, m, m.problems(true)))
	golden(t, "matrix.csv", render(t, "csv", false, m, nil))
	golden(t, "matrix.json", render(t, "json", false, m, nil))
	for _, c := range []struct {
		what    string
		answers []registry.Answer[[]api.Outlook]
		csv     bool
		want    fault.Code
	}{
		{"all well", []registry.Answer[[]api.Outlook]{answer(1, nil, sees(1, true))}, true, fault.Success},
		{"one is not reached", []registry.Answer[[]api.Outlook]{answer(1, nil, sees(1, true, false)), answer(2, broken)}, false, fault.NodeStatus},
		{"one is not known, as text", []registry.Answer[[]api.Outlook]{answer(1, nil, sees(1, true, true)), answer(2, silent)}, false, fault.BadSSH},
		{"one is not known, as csv", []registry.Answer[[]api.Outlook]{answer(1, nil, sees(1, true, true)), answer(2, silent)}, true, fault.NodeStatus},
		{"one is broken", []registry.Answer[[]api.Outlook]{answer(1, broken), answer(2, silent)}, false, fault.Internal},
	} {
		if got := newMatrix(c.answers).code(c.csv); got != c.want {
			t.Errorf("%s: status %d, want %d", c.what, got, c.want)
		}
	}
}
