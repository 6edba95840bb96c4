package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
)

// ConnectTimeout is connect_timeout in every conninfo of a lab.
const ConnectTimeout = 2 * time.Second

// Wide is a cluster of many nodes on one machine. Node 1 is whole and the primary;
// commands are run there. Those after it are fakes, which answer as daemons and servers
// do and have no data. The last are silent: what is sent to them is lost without a word.
type Wide struct {
	*Lab
	fakes  []*fake
	silent []cluster.Node
}

// WideCommands are those that ask every node.
var WideCommands = []string{"cluster show", "cluster matrix", "cluster crosscheck", "service status"}

// NewWide makes a wide cluster, and waits until the daemon of node 1 has heard of all
// fakes and knows that the silent do not answer. ErrNamespaces where that cannot be.
func NewWide(ctx context.Context, fakes, silent int) (*Wide, error) {
	l, err := New(Options{Nodes: 1, Namespaces: true, Unsynced: true})
	if err != nil {
		return nil, err
	}
	w := &Wide{Lab: l}
	if err := w.up(ctx, fakes, silent); err != nil {
		return nil, errors.Join(fmt.Errorf("%w\n%s", err, l.Logs()), w.Close())
	}
	return w, nil
}

// Close ends the fakes and the lab.
func (w *Wide) Close() error {
	var errs []error
	for _, f := range w.fakes {
		errs = append(errs, f.close())
	}
	return errors.Join(append(errs, w.Lab.Close())...)
}

func (w *Wide) up(ctx context.Context, fakes, silent int) error {
	if err := w.BringUp(ctx); err != nil {
		return err
	}
	authority, err := w.authority(ctx)
	if err != nil {
		return err
	}
	for id := 2; id < 2+fakes; id++ {
		f, err := w.startFake(id, authority)
		if err != nil {
			return err
		}
		w.fakes = append(w.fakes, f)
		if err := w.register(ctx, f.node, f.daemon); err != nil {
			return err
		}
	}
	for id := 2 + fakes; id < 2+fakes+silent; id++ {
		host := fmt.Sprintf(nodeAddress, id)
		n := w.record(id, host, 5432)
		if err := errors.Join(w.network.lose(1, id), w.register(ctx, n, api.Target{Host: host, Port: 7433})); err != nil {
			return err
		}
		w.silent = append(w.silent, n)
	}
	return Wait(ctx, watchTimeout, "the daemon to have looked at all nodes", func() error { return w.known(ctx) })
}

// record is a standby's. Node 1 serves node 2 alone, which serves all others: what a
// fake serves is its own word.
func (w *Wide) record(id int, host string, port int) cluster.Node {
	return cluster.Node{ID: cluster.NodeID(id), Upstream: cluster.NodeID(min(2, id-1)), Active: true, Name: fmt.Sprintf("node%d", id), Role: cluster.Standby,
		Location: "default", Priority: 100, Conninfo: w.conninfo(host, fmt.Sprint(port), repmgrRole), ReplUser: repmgrRole, ConfigFile: "/etc/repmgr.conf"}
}

func (w *Wide) register(ctx context.Context, n cluster.Node, daemon api.Target) error {
	_, err := w.Node(1).Rows(ctx, `INSERT INTO repmgr.nodes (node_id, upstream_node_id, node_name, type, location, priority, conninfo, repluser, config_file)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`, int(n.ID), int(n.Upstream), n.Name, n.Role.String(), n.Location, n.Priority, n.Conninfo, n.ReplUser, n.ConfigFile)
	if err == nil {
		_, err = w.Node(1).Rows(ctx, "INSERT INTO repmgr.endpoints (node_id, host, port) VALUES ($1, $2, $3)", int(n.ID), daemon.Host, daemon.Port)
	}
	return err
}

// authority is the cluster's, as primary register has made it.
func (w *Wide) authority(ctx context.Context) (api.Authority, error) {
	rows, err := w.Node(1).Rows(ctx, "SELECT certificate, private_key FROM repmgr.authority")
	if err != nil {
		return api.Authority{}, err
	}
	if len(rows) != 1 {
		return api.Authority{}, fmt.Errorf("read the authority: %d rows", len(rows))
	}
	return api.ParseAuthority([]byte(rows[0][0]), []byte(rows[0][1]))
}

// known answers nil when the daemon of node 1 has heard of every fake and has tried every silent node.
func (w *Wide) known(ctx context.Context) error {
	daemon := api.DialUnix(w.Node(1).StateDir())
	defer daemon.Close()
	if err := daemon.Wake(ctx); err != nil { // it reads the records again
		return err
	}
	view, err := daemon.Status(ctx)
	if err != nil {
		return err
	}
	if got, want := len(view.Peers), len(w.fakes)+len(w.silent); got != want {
		return fmt.Errorf("the daemon knows %d others, and there are %d", got, want)
	}
	for _, p := range view.Peers {
		if silent := w.isSilent(p.Node); silent != (p.Error != "") || !silent && p.Report == nil {
			return fmt.Errorf("of node %d the daemon says %q, with a report: %v", p.Node, p.Error, p.Report != nil)
		}
	}
	return nil
}

func (w *Wide) isSilent(id cluster.NodeID) bool {
	_, silent := cluster.Find(w.silent, id)
	return silent
}

// Sessions is how many sessions of PostgreSQL the fakes were asked for so far.
func (w *Wide) Sessions() (count int64) {
	for _, f := range w.fakes {
		count += f.sessions.Load()
	}
	return count
}

// Ask runs one of WideCommands on node 1. An error says that its answer is not the truth.
func (w *Wide) Ask(ctx context.Context, command string) error {
	r := w.Node(1).Repmgr(ctx, append(strings.Fields(command), "--csv")...)
	status, want := w.answer(command)
	got := strings.Split(strings.TrimSuffix(r.Stdout, "\n"), "\n")
	if command == "service status" { // the rest is process numbers and seconds
		for i, line := range got {
			if cells := strings.Split(line, ","); len(cells) == 10 {
				got[i] = strings.Join([]string{cells[0], cells[3], cells[4]}, ",")
			}
		}
	}
	if r.Code == status && slices.Equal(got, want) {
		return nil
	}
	for i, line := range want {
		if i >= len(got) || got[i] != line {
			return fmt.Errorf("%s: status %d, want %d; the first line that differs from %q in\n%s%s", r.Command, r.Code, status, line, r.Stdout, r.Stderr)
		}
	}
	return fmt.Errorf("%s: status %d, want %d, with\n%s%s", r.Command, r.Code, status, r.Stdout, r.Stderr)
}

// answer is the exit status of a command, and what it has to print with --csv; of
// "service status" the node, whether its server runs, and whether its daemon does.
func (w *Wide) answer(command string) (status int, lines []string) {
	all := 1 + len(w.fakes) + len(w.silent)
	for id := 1; id <= all; id++ {
		silent := w.isSilent(cluster.NodeID(id))
		switch {
		case command == "cluster show" && silent:
			lines = append(lines, fmt.Sprintf("%d,-1,-1", id))
		case command == "cluster show":
			lines = append(lines, fmt.Sprintf("%d,0,%d", id, min(id-1, 1))) // all but node 1 are in recovery
		case command == "service status" && silent:
			lines = append(lines, fmt.Sprintf("%d,0,-1", id))
		case command == "service status":
			lines = append(lines, fmt.Sprintf("%d,1,1", id))
		default:
			for to := 1; to <= all; to++ {
				cell := 0
				switch {
				case silent:
					cell = -2
				case w.isSilent(cluster.NodeID(to)):
					cell = -1
				}
				lines = append(lines, fmt.Sprintf("%d,%d,%d", id, to, cell))
			}
		}
	}
	if command == "service status" {
		return 0, lines
	}
	return 25, lines // something is wrong with a node
}
