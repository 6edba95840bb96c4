package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/pg"
	"repmgr/internal/registry"
)

// remoteTimeout bounds a command on another host, the login and the connections that
// it tries included.
const remoteTimeout = 30 * time.Second

// outlooks is what each node has told that it and others reach.
type outlooks = []registry.Answer[[]api.Outlook]

// bySSH asks by ssh what the daemons have not told: of nodes whose server is reached from
// here, since a host that drops packets shall not be waited for a second time. With
// others it also asks those for nodes that are not reached from here. It returns all
// answers.
func (s *Session) bySSH(ctx context.Context, answers outlooks, f fleet, here cluster.NodeID, others bool) outlooks {
	m := newMatrix(answers)
	var silent []cluster.Node
	for i, row := range m.Nodes {
		if n := answers[i].Node; row.err != nil && !errors.Is(row.err, api.ErrFailed) && !n.WithoutServer() {
			silent = append(silent, n)
		}
	}
	reached := m.reached(here)
	if len(silent) > 0 && len(reached) == 0 {
		for _, seen := range api.LookRound(ctx, silent, f.alive) {
			if seen.Reached {
				reached = append(reached, seen.Node)
			}
		}
	}
	silent = slices.DeleteFunc(silent, func(n cluster.Node) bool { return !slices.Contains(reached, n.ID) })
	answers = merge(answers, askBySSH(ctx, silent, s.reachesBySSH))
	m = newMatrix(answers)
	missing := m.missing()
	if !others || len(missing) == 0 {
		return answers
	}
	witnesses := slices.DeleteFunc(silent, func(n cluster.Node) bool {
		return !slices.ContainsFunc(m.reached(n.ID), func(id cluster.NodeID) bool { return slices.Contains(missing, id) })
	})
	return merge(answers, askBySSH(ctx, witnesses, s.matrixBySSH))
}

// askBySSH asks all at the same time. A login may take longer than a daemon's answer, for
// which AskAll is made.
func askBySSH(ctx context.Context, nodes []cluster.Node, ask func(context.Context, cluster.Node) ([]api.Outlook, error)) outlooks {
	answers := make(outlooks, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() {
			told, err := ask(ctx, n)
			answers[i] = registry.Answer[[]api.Outlook]{Node: n, Value: told, Err: err}
		})
	}
	all.Wait()
	return answers
}

// reached are the nodes that one reaches.
func (m Matrix) reached(from cluster.NodeID) (ids []cluster.NodeID) {
	for _, row := range m.Nodes {
		for _, c := range row.Cells {
			if row.ID == from && c.State == CellReached {
				ids = append(ids, c.ID)
			}
		}
	}
	return ids
}

// merge adds what was told later. Where that failed, both reasons are kept.
func merge(answers, later outlooks) outlooks {
	answers = slices.Clone(answers)
	for _, l := range later {
		i := slices.IndexFunc(answers, func(a registry.Answer[[]api.Outlook]) bool { return a.Node.ID == l.Node.ID })
		switch a := &answers[i]; {
		case l.Err == nil:
			a.Value, a.Err = append(slices.Clone(a.Value), l.Value...), nil
		case a.Err != nil:
			a.Err = fmt.Errorf("%w; and by ssh: %w", a.Err, l.Err)
		}
	}
	return answers
}

// reachesBySSH runs `cluster show` on a node's host, as repmgr 5 does it, and so reads what
// the node reaches. With --verbose the command looks for itself, whatever its daemon knows.
func (s *Session) reachesBySSH(ctx context.Context, n cluster.Node) ([]api.Outlook, error) {
	lines, err := s.remoteCSV(ctx, n, "cluster show --csv --verbose --terse", 2)
	if err != nil {
		return nil, err
	}
	own := api.Outlook{Node: n.ID}
	for _, l := range lines {
		own.Reaches = append(own.Reaches, sightingOf(l[0], CellState(l[1])))
	}
	return []api.Outlook{own}, nil
}

// matrixBySSH runs `cluster matrix` there: what the node and those that it can ask reach.
func (s *Session) matrixBySSH(ctx context.Context, n cluster.Node) (told []api.Outlook, err error) {
	lines, err := s.remoteCSV(ctx, n, "cluster matrix --csv --terse", 3)
	for _, l := range lines {
		if CellState(l[2]) == CellUnknown {
			continue
		}
		if last := len(told) - 1; last < 0 || told[last].Node != cluster.NodeID(l[0]) {
			told = append(told, api.Outlook{Node: cluster.NodeID(l[0])})
		}
		row := &told[len(told)-1]
		row.Reaches = append(row.Reaches, sightingOf(l[1], CellState(l[2])))
	}
	return told, err
}

func sightingOf(id int, state CellState) api.Sighting {
	seen := api.Sighting{Node: cluster.NodeID(id), Reached: state == CellReached}
	if !seen.Reached {
		seen.Error = "a command that was run there by ssh has not reached it"
	}
	return seen
}

// remoteCSV runs repmgr on a node's host and reads the first numbers of each line. The exit
// status says what the command thinks of the cluster, and is not asked.
func (s *Session) remoteCSV(ctx context.Context, n cluster.Node, command string, numbers int) (lines [][]int, err error) {
	there, err := s.sshTo(n)
	if err != nil {
		return nil, err
	}
	c := there.Command(s.remoteRepmgr(n) + " " + command)
	c.Timeout = remoteTimeout
	r, err := host.Run(ctx, c)
	switch {
	case err != nil:
		return nil, fault.Wrap(err, fault.BadSSH, "%s", there.Host)
	case r.ExitCode == host.SSHFailed || strings.TrimSpace(r.Stdout) == "":
		return nil, fault.New(fault.BadSSH, "%s: the command %s: %s", there.Host, r, firstLine(r.Stderr))
	}
	for line := range strings.Lines(r.Stdout) {
		fields := strings.Split(strings.TrimSpace(line), ",")
		var found []int
		for _, field := range fields[:min(numbers, len(fields))] {
			if value, err := strconv.Atoi(field); err == nil {
				found = append(found, value)
			}
		}
		if len(found) == numbers {
			lines = append(lines, found)
		}
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("%w: %s: the answer to \"repmgr %s\" begins with %q", api.ErrFailed, there.Host, command, r.Stdout[:min(len(r.Stdout), 60)])
	}
	return lines, nil
}

// sshTo is the way to a node's host, which its conninfo names.
func (s *Session) sshTo(n cluster.Node) (host.SSH, error) {
	options, err := pg.SplitWords(s.Conf.SSHOptions)
	if err != nil {
		return host.SSH{}, fault.Wrap(err, fault.BadConfig, "ssh_options cannot be used")
	}
	info, err := pg.ParseConninfo(n.Conninfo)
	if err != nil {
		return host.SSH{}, err
	}
	name, _, _ := strings.Cut(info.Get("host"), ",")
	if name == "" {
		name, _, _ = strings.Cut(info.Get("hostaddr"), ",")
	}
	if name == "" || strings.HasPrefix(name, "/") || strings.HasPrefix(name, "@") {
		return host.SSH{}, fault.New(fault.BadSSH, "the conninfo of node %d names no host", n.ID)
	}
	if s.Opt.RemoteUser != "" {
		name = s.Opt.RemoteUser + "@" + name
	}
	return host.SSH{Host: name, Options: options}, nil
}

// remoteRepmgr is the shell's words that run repmgr for a node on its host. A session of ssh
// that is no login has the shortest of PATHs.
func (s *Session) remoteRepmgr(n cluster.Node) string {
	line := "repmgr"
	switch {
	case s.Conf.RepmgrBindir != "":
		line = pg.Quote(filepath.Join(s.Conf.RepmgrBindir, "repmgr"))
	case s.Conf.PgBindir != "":
		line = "PATH=\"$PATH\":" + pg.Quote(s.Conf.PgBindir) + " repmgr"
	}
	if n.ConfigFile != "" {
		line += " -f " + pg.Quote(n.ConfigFile)
	}
	return line
}
