package house

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"repmgr/internal/lab"
)

// TestReadme runs the commands of the README's quick start in their order, each
// on its node. Only what differs between three hosts and three ports of one
// machine is put in the place of what is written: the configuration file's path,
// the data directory's, and the primary's host.
func TestReadme(t *testing.T) {
	t.Parallel()
	lines := quickStart(t)
	l, err := lab.New(lab.Options{Nodes: 3, Unsynced: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.Logs())
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute) // a clone waits for a spread checkpoint
	defer cancel()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	primary := l.Node(1)
	check(primary.InitPrimary(ctx))
	for _, n := range l.Nodes {
		check(n.WriteConf(nil))
	}
	var last lab.Result
	for _, line := range lines {
		n := l.Node(line.node)
		command := strings.NewReplacer("/etc/repmgr.conf", n.ConfFile(), "/var/lib/postgresql/15/main", n.DataDir,
			"-h node1", fmt.Sprintf("-h %s -p %d", primary.Host, primary.Port)).Replace(line.command)
		if strings.HasPrefix(command, "pg_ctl ") {
			check(n.Start(ctx))
			continue
		}
		words := strings.Fields(command)
		last = n.Program(ctx, words[0], words[1:]...)
		check(last.Err())
	}
	if got := strings.Count(last.Stdout, "| running |"); got != 3 {
		t.Errorf("the last command shows %d running daemons, want 3:\n%s", got, last.Stdout)
	}
	check(primary.Kill9(ctx))
	check(lab.Wait(ctx, time.Minute, "the failover that the README promises", func() error {
		if n, err := l.Primary(ctx); err != nil || n == primary {
			return errors.Join(err, errors.New("no new primary"))
		}
		return nil
	}))
}

type readmeLine struct {
	node    int
	command string
}

// quickStart reads the block of commands under the README's marker.
func quickStart(t *testing.T) []readmeLine {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "<!-- quick start:")
	_, rest, fenced := strings.Cut(rest, "```console\n")
	block, _, closed := strings.Cut(rest, "```")
	if !found || !fenced || !closed {
		t.Fatal("the README has no quick start block")
	}
	var out []readmeLine
	prompt := regexp.MustCompile(`^node(\d)\$ (.+)$`)
	for _, line := range strings.Split(strings.TrimSpace(block), "\n") {
		m := prompt.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("not a command on a node: %q", line)
		}
		out = append(out, readmeLine{int(m[1][0] - '0'), m[2]})
	}
	if len(out) < 10 {
		t.Fatalf("only %d commands", len(out))
	}
	return out
}
