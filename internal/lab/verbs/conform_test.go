package verbs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"repmgr/internal/lab"
)

// sight is one thing that was seen of a command: its exit status, the events that it
// recorded, or what it printed.
type sight struct{ command, what, value string }

func (s sight) key() string { return s.command + ": " + s.what }

// conforming is one program that goes through the script, on a cluster of its own.
type conforming struct {
	t       *testing.T
	ctx     context.Context
	l       *lab.Lab
	primary int    // whose server has the records that count
	events  int    // that were recorded before the next command
	path    string // PATH of the commands
	seen    []sight
}

// sshStandIn runs the command here: every node of the lab is on this machine.
const sshStandIn = `#!/bin/sh
while [ $# -gt 0 ]; do
  case $1 in
    -o) shift 2 ;;
    -*) shift ;;
    *) break ;;
  esac
done
shift
exec /bin/sh -c "$*"
`

// TestConformance runs one script of commands by repmgr 5 and by this program, on
// equal clusters, and compares what can be seen of each. docs/conformance.md is the
// list of the differences that are meant; it must list each, and none that is gone.
func TestConformance(t *testing.T) {
	t.Parallel()
	five, err := lab.Repmgr5(0)
	if err != nil {
		t.Skipf("SKIPPED, NOT TESTED HERE: %v", err)
	}
	began := time.Now()
	both := map[string]*conforming{}
	for name, software := range map[string]*lab.Software{"repmgr 5": five, "here": nil} {
		l, ctx := open(t, lab.Options{Nodes: 3, Witness: true, Slots: true, Software: software, Conf: map[string]string{
			"log_level": "WARNING", "monitor_interval_secs": "1",
			"repmgrd_service_start_command": "true", "repmgrd_service_stop_command": "true",
		}})
		both[name] = &conforming{t: t, ctx: ctx, l: l, primary: 1}
	}
	t.Run("script", func(t *testing.T) {
		for name, c := range both {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c.t = t
				c.standIn()
				c.script()
			})
		}
	})
	t.Logf("%d sights in %s", len(both["here"].seen), time.Since(began).Round(100*time.Millisecond))
	if !t.Failed() {
		judge(t, both["repmgr 5"].seen, both["here"].seen)
	}
}

// standIn gives the commands an ssh.
func (c *conforming) standIn() {
	n := c.l.Node(1)
	must(c.t, n.WriteFile("ssh", sshStandIn))
	must(c.t, os.Chmod(filepath.Join(n.Dir, "ssh"), 0o755))
	c.path = n.Dir + ":" + c.l.Bindir + ":/usr/bin:/bin"
}

// on runs a command on a node and notes its exit status, the events that it records,
// and of its output what is named: "table", "header" (of a table), "lines" or "csv". In the line @1 is for
// the options that name the server of node 1.
func (c *conforming) on(node int, line string, output ...string) {
	c.t.Helper()
	n := c.l.Node(node)
	var args []string
	for _, word := range strings.Fields(line) {
		var id int
		if _, err := fmt.Sscanf(word, "@%d", &id); err != nil {
			args = append(args, word)
			continue
		}
		to := c.l.Node(id)
		args = append(args, "-h", to.Host, "-p", fmt.Sprint(to.Port), "-U", "repmgr", "-d", "repmgr")
	}
	began := time.Now()
	r := n.RepmgrWith(c.ctx, []string{"PATH=" + c.path}, args...)
	took := time.Since(began).Round(time.Millisecond)
	command := fmt.Sprintf("%d: %s", node, line)
	for i := 2; slices.ContainsFunc(c.seen, func(s sight) bool { return s.command == command }); i++ {
		command = fmt.Sprintf("%d: %s (%d)", node, line, i)
	}
	c.note(command, "exit", fmt.Sprint(r.Code))
	c.note(command, "events", c.newEvents())
	for _, what := range output {
		switch what {
		case "table", "header":
			header, rows := tableOf(c.plain(r.Stdout))
			c.note(command, "header", header)
			if what == "table" {
				c.note(command, "rows", rows)
			}
		default:
			c.note(command, what, strings.Join(trimmed(c.plain(r.Stdout)), " / "))
		}
	}
	c.t.Logf("%s\nstatus %d after %s\n%s%s", command, r.Code, took, r.Stdout, r.Stderr)
}

func (c *conforming) note(command, what, value string) {
	c.seen = append(c.seen, sight{command, what, value})
}

// newEvents are those that were recorded since it was called last, but for what daemons
// notice by themselves, in their own time.
func (c *conforming) newEvents() string {
	rows, err := c.l.Node(c.primary).Rows(c.ctx, events)
	if err != nil {
		return "" // there are no records yet
	}
	var lines []string
	for _, row := range rows[min(c.events, len(rows)):] {
		if event := strings.Join(row, " "); !strings.Contains(event, " child_node_") {
			lines = append(lines, event)
		}
	}
	c.events = len(rows)
	return strings.Join(lines, ", ")
}

// asks notes the answer of a query.
func (c *conforming) asks(node int, what, query string) {
	c.t.Helper()
	rows := sql(c.t, c.ctx, c.l.Node(node), query)
	_, last, _ := strings.Cut(c.seen[len(c.seen)-1].command, ": ")
	c.note(fmt.Sprintf("%d: after %s", node, strings.TrimPrefix(last, "after ")), what, strings.ReplaceAll(rows, "\n", " / "))
}

var volatile = []struct {
	what *regexp.Regexp
	by   string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?([+-]\d\d)?`), "TIME"},
	{regexp.MustCompile(`\b[0-9A-F]+/[0-9A-F]{1,8}\b`), "LSN"},
	{regexp.MustCompile(`\b\d{18,20}\b`), "SYSTEM"},
	{regexp.MustCompile(`\b\d+ (bytes|kB|MB)\b`), "SIZE"},
	{regexp.MustCompile(`\b\d+ second(s|\(s\) ago)`), "N second$1"},
	{regexp.MustCompile(`\blag=\d+`), "lag=N"},
	{regexp.MustCompile(`(?m)^(\d+,\w+,\w+,\d,1,PID,\d,\d+),\d+,`), "$1,N,"},
}

// plain takes out of a text what is another one in every cluster and at every time.
func (c *conforming) plain(text string) string {
	for _, n := range c.l.Nodes {
		text = strings.ReplaceAll(text, fmt.Sprint(n.Port), fmt.Sprintf("PORT%d", n.ID))
		if pid := n.DaemonPID(); pid != 0 {
			text = regexp.MustCompile(fmt.Sprintf(`\b%d\b`, pid)).ReplaceAllString(text, "PID")
		}
	}
	text = strings.ReplaceAll(text, c.l.Dir, "DIR")
	for _, v := range volatile {
		text = v.what.ReplaceAllString(text, v.by)
	}
	return text
}

// trimmed are the lines of a text that have something in them.
func trimmed(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out
}

// tableOf are the cells of a table's heading and of its rows.
func tableOf(text string) (header, rows string) {
	var lines []string
	for _, line := range trimmed(text) {
		if cells := strings.Split(line, "|"); len(cells) > 1 {
			for i, cell := range cells {
				cells[i] = strings.TrimSpace(cell)
			}
			lines = append(lines, strings.Join(cells, " · "))
		}
	}
	if len(lines) == 0 {
		return "", ""
	}
	return lines[0], strings.Join(lines[1:], " / ")
}

// difference is a row of the table in docs/conformance.md.
type difference struct{ command, what, five, here, why string }

// judge compares what was seen of both with the table of the differences that are meant.
func judge(t *testing.T, five, here []sight) {
	t.Helper()
	listed, err := differences("../../../docs/conformance.md")
	must(t, err)
	theirs := map[string]sight{}
	for _, s := range five {
		theirs[s.key()] = s
	}
	for _, s := range here {
		other, both := theirs[s.key()]
		if !both {
			t.Errorf("%s: only seen of one program", s.key())
		}
		meant, known := listed[s.key()]
		delete(listed, s.key())
		switch {
		case s.value == other.value && known:
			t.Errorf("%s: docs/conformance.md lists a difference that is gone: both are %q", s.key(), s.value)
		case s.value == other.value:
		case !known:
			t.Errorf("a difference that docs/conformance.md does not list:\n| %s | %s | %s | %s | |", s.command, s.what, cell(other.value), cell(s.value))
		case meant.five != cell(other.value) || meant.here != cell(s.value):
			t.Errorf("another difference than docs/conformance.md lists:\n| %s | %s | %s | %s | %s |", s.command, s.what, cell(other.value), cell(s.value), meant.why)
		case meant.why == "":
			t.Errorf("%s: docs/conformance.md does not say why", s.key())
		}
	}
	for key := range listed {
		t.Errorf("%s: docs/conformance.md lists it, and the script has no such command", key)
	}
	if len(five) != len(here) {
		t.Errorf("%d sights of repmgr 5, %d of this program", len(five), len(here))
	}
}

// cell is a value as the table shows it.
func cell(value string) string {
	if value == "" {
		return "(nothing)"
	}
	return "`" + value + "`"
}

// differences reads the table.
func differences(path string) (map[string]difference, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	listed := map[string]difference{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 5 || strings.HasPrefix(cells[0], "-") {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		d := difference{cells[0], cells[1], cells[2], cells[3], cells[4]}
		key := sight{command: d.command, what: d.what}.key()
		if _, twice := listed[key]; twice {
			return nil, fmt.Errorf("%s: listed twice in %s", key, path)
		}
		if d.command != "Command" {
			listed[key] = d
		}
	}
	return listed, nil
}
