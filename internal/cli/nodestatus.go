package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/pg"
	"repmgr/internal/registry"
)

// nodeTimeout bounds all questions of "node status": the size of a large server
// takes a while to add up.
const nodeTimeout = 30 * time.Second

// nodeVerbs are the actions on the node of this machine.
func nodeVerbs() []verb {
	return []verb{nodeCheckVerb(), rejoinVerb(), {
		name:  "node status",
		short: "show the local node in detail",
		long: `Shows the server of the local node: version, size, archiving, replication connections
and slots, and how far it is behind. Ends with 25 if anything is wrong.

With --is-shutdown-cleanly it prints one line for scripts and needs no connection:
--state=UP, SHUTTING_DOWN, SHUTDOWN (with --last-checkpoint-lsn), UNCLEAN_SHUTDOWN or
UNKNOWN.`,
		example: `repmgr -f /etc/repmgr.conf node status
repmgr -f /etc/repmgr.conf node status --format json`,
		options: []string{"is-shutdown-cleanly", "hand-over"},
		run: func(ctx context.Context, s *Session) error {
			if s.Opt.Given("hand-over") {
				return s.handedOverStill(ctx)
			}
			if s.Opt.IsShutdownCleanly {
				return shutdownState(ctx, s)
			}
			return nodeStatus(ctx, s)
		},
	}}
}

// NodeStatus is the answer of "node status".
type NodeStatus struct {
	Version        int            `json:"version"` // of this form, which only grows
	ID             cluster.NodeID `json:"node_id"`
	Name           string         `json:"node_name"`
	PostgreSQL     string         `json:"postgresql_version"`
	Size           *int64         `json:"data_size"` // bytes; null: not known
	Conninfo       string         `json:"conninfo"`  // without secrets
	SystemID       string         `json:"system_identifier"`
	Role           cluster.Role   `json:"type"` // by the record
	InRecovery     bool           `json:"in_recovery"`
	Archiving      string         `json:"wal_archiving"`
	ArchiveCommand string         `json:"archive_command"` // empty: none
	Pending        *int           `json:"wals_pending_archiving"`
	UsedSenders    int            `json:"occupied_wal_senders"`
	MaxSenders     int            `json:"max_wal_senders"`
	MaxSlots       int            `json:"max_replication_slots"`
	PhysicalSlots  int            `json:"physical_replication_slots"`
	ActiveSlots    int            `json:"active_replication_slots"`
	InactiveSlots  []string       `json:"inactive_replication_slots"`
	MissingSlots   []string       `json:"missing_replication_slots"`
	UpstreamID     cluster.NodeID `json:"upstream_node_id"` // 0: none
	UpstreamName   string         `json:"upstream_node_name"`
	Lag            *int           `json:"replication_lag"` // seconds; null: not known, or a primary
	Received       cluster.LSN    `json:"last_received_lsn"`
	Replayed       cluster.LSN    `json:"last_replayed_lsn"`
	Issues         []string       `json:"issues"`

	verbose bool
}

// fact is one line of the answer.
type fact struct {
	key, value string
	csvOnly    bool
}

func (n NodeStatus) facts() []fact {
	facts := []fact{
		{key: "PostgreSQL version", value: n.PostgreSQL},
		{key: "Total data size", value: orUnknown(n.Size, prettySize)},
		{key: "Conninfo", value: n.Conninfo},
	}
	if n.verbose {
		facts = append(facts, fact{key: "System identifier", value: n.SystemID})
	}
	command := n.ArchiveCommand
	if command == "" {
		command = "(none)"
	}
	facts = append(facts,
		fact{key: "Role", value: n.Role.String()},
		fact{key: "WAL archiving", value: n.Archiving},
		fact{key: "Archive command", value: command},
		fact{key: "WALs pending archiving", value: orUnknown(n.Pending, strconv.Itoa), csvOnly: n.Archiving == "off"},
		fact{key: "Replication connections", value: fmt.Sprintf("%d (of maximal %d)", n.UsedSenders, n.MaxSenders)},
		fact{key: "Replication slots", value: n.slots()},
	)
	if n.UpstreamID == 0 {
		return append(facts,
			fact{key: "Upstream node", value: "(none)", csvOnly: true},
			fact{key: "Replication lag", value: "n/a"},
			fact{key: "Last received LSN", value: "(none)", csvOnly: true},
			fact{key: "Last replayed LSN", value: "(none)", csvOnly: true})
	}
	return append(facts,
		fact{key: "Upstream node", value: fmt.Sprintf("%s (ID: %d)", n.UpstreamName, n.UpstreamID)},
		fact{key: "Replication lag", value: orUnknown(n.Lag, func(s int) string { return fmt.Sprintf("%d seconds", s) })},
		fact{key: "Last received LSN", value: n.Received.String()},
		fact{key: "Last replayed LSN", value: n.Replayed.String()})
}

func orUnknown[T any](v *T, show func(T) string) string {
	if v == nil {
		return "unknown"
	}
	return show(*v)
}

func (n NodeStatus) slots() string {
	if n.MaxSlots == 0 {
		return "disabled"
	}
	text := fmt.Sprintf("%d physical (of maximal %d; %d missing)", n.PhysicalSlots, n.MaxSlots, len(n.MissingSlots))
	if len(n.InactiveSlots) > 0 {
		text += fmt.Sprintf("; %d inactive", len(n.InactiveSlots))
	}
	return text
}

// prettySize writes a size as PostgreSQL's pg_size_pretty does: whole numbers,
// the next unit from 10240 on.
func prettySize(bytes int64) string {
	units := []string{"bytes", "kB", "MB", "GB", "TB", "PB"}
	n, i := float64(bytes), 0
	for n >= 10240 && i < len(units)-1 {
		n /= 1024
		i++
	}
	return fmt.Sprintf("%.0f %s", n, units[i])
}

// Text prints the facts one below the other.
func (n NodeStatus) Text(w io.Writer) {
	fmt.Fprintf(w, "Node %q:\n", n.Name)
	for _, f := range n.facts() {
		if f.csvOnly {
			continue
		}
		if f.key == "WALs pending archiving" && n.Pending != nil {
			f.value += " pending files"
		}
		fmt.Fprintf(w, "\t%s: %s\n", f.key, f.value)
	}
	if len(n.Issues) == 0 {
		fmt.Fprintln(w)
	}
}

// CSV prints the facts as pairs, and then numbers for programs.
func (n NodeStatus) CSV(w io.Writer) {
	quote := func(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
	csvLine(w, quote("Node name"), quote(n.Name))
	csvLine(w, quote("Node ID"), quote(fmt.Sprint(n.ID)))
	for _, f := range n.facts() {
		csvLine(w, quote(f.key), quote(f.value))
	}
	named := func(key string, names []string) {
		values := []any{quote(key), len(names)}
		for _, name := range names {
			values = append(values, quote(name))
		}
		csvLine(w, values...)
	}
	csvLine(w, quote("max_wal_senders"), n.MaxSenders)
	csvLine(w, quote("occupied_wal_senders"), n.UsedSenders)
	csvLine(w, quote("max_replication_slots"), n.MaxSlots)
	csvLine(w, quote("active_replication_slots"), n.ActiveSlots)
	named("inactive_replication_slots", n.InactiveSlots)
	named("missing_replication_slots", n.MissingSlots)
}

func nodeStatus(ctx context.Context, s *Session) error {
	c, err := s.Connect(ctx)
	if err != nil {
		return err
	}
	defer registry.Close(c)
	ctx, cancel := context.WithTimeout(ctx, nodeTimeout)
	defer cancel()
	nodes, err := registered(ctx, c)
	if err != nil {
		return err
	}
	own, found := cluster.Find(nodes, s.Conf.NodeID)
	if !found {
		return fault.New(fault.BadConfig, "node %d is not registered", s.Conf.NodeID).
			WithDetail("node_id of %s is %d, and repmgr.nodes has no such record", s.ConfPath, s.Conf.NodeID).
			WithHint("\"repmgr primary register\" or \"repmgr standby register\" makes the record")
	}
	n := NodeStatus{
		Version: 1, ID: own.ID, Name: own.Name, Role: own.Role, Conninfo: redact(own.Conninfo), verbose: s.Opt.Verbose,
		Issues: []string{}, InactiveSlots: []string{}, MissingSlots: []string{},
	}
	for _, gather := range []func(context.Context, *pg.Conn, []cluster.Node) error{
		n.server, n.replication, func(ctx context.Context, c *pg.Conn, _ []cluster.Node) error {
			return n.archiving(ctx, c, s.Conf.DataDirectory)
		},
		func(ctx context.Context, c *pg.Conn, nodes []cluster.Node) error {
			return n.upstream(ctx, c, own, nodes)
		},
	} {
		if err := gather(ctx, c, nodes); err != nil {
			return err
		}
	}
	if err := s.Result(n); err != nil {
		return err
	}
	s.issues(n.Issues, false)
	if len(n.Issues) > 0 {
		return said(fault.NodeStatus)
	}
	return nil
}

func (n *NodeStatus) issue(format string, args ...any) {
	n.Issues = append(n.Issues, fmt.Sprintf(format, args...))
}

// server asks who the server is, and whether that is what its record says.
func (n *NodeStatus) server(ctx context.Context, c *pg.Conn, _ []cluster.Node) error {
	server, err := c.Server(ctx)
	if err != nil {
		return err
	}
	n.PostgreSQL, _, _ = strings.Cut(server.VersionText, " ")
	n.SystemID, n.InRecovery = server.SystemID, server.InRecovery
	if size, err := c.DatabaseSize(ctx); err == nil {
		n.Size = &size
	}
	switch {
	case n.InRecovery && n.Role != cluster.Standby:
		n.issue("node is registered as a %s but runs as a standby", n.Role)
	case !n.InRecovery && n.Role == cluster.Standby:
		n.issue("node is registered as a standby but runs as a primary")
	}
	return nil
}

// archiving asks what becomes of the WAL; pending files are those that a .ready
// file announces (PostgreSQL manual, "Continuous Archiving").
func (n *NodeStatus) archiving(ctx context.Context, c *pg.Conn, dataDir string) error {
	set, err := c.Settings(ctx, "archive_mode", "archive_command", "archive_library", "max_replication_slots")
	if err != nil {
		return err
	}
	n.MaxSlots, _ = strconv.Atoi(set["max_replication_slots"])
	n.ArchiveCommand = set["archive_command"]
	if library := set["archive_library"]; library != "" {
		n.ArchiveCommand = "archive_library " + library
	}
	switch mode := set["archive_mode"]; {
	case mode == "off":
		n.Archiving, n.ArchiveCommand = "off", strings.TrimPrefix(n.ArchiveCommand, "(disabled)")
	case mode == "on" && n.InRecovery:
		n.Archiving = `disabled (on a standby archive_mode must be "always")`
	default:
		n.Archiving = "enabled"
	}
	ready, err := pendingFiles(filepath.Join(dataDir, "pg_wal", "archive_status"))
	if err != nil {
		n.issue("the files that wait for archiving cannot be counted: %v", err)
		return nil
	}
	n.Pending = &ready
	return nil
}

func pendingFiles(dir string) (int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".ready") {
			n++
		}
	}
	return n, nil
}

// replication asks who replicates from this node, and whether those do who should.
func (n *NodeStatus) replication(ctx context.Context, c *pg.Conn, nodes []cluster.Node) error {
	var err error
	if n.UsedSenders, n.MaxSenders, err = c.WalSenders(ctx); err != nil {
		return err
	}
	slots, err := c.Slots(ctx)
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, slot := range slots {
		there[slot.Name] = true
		if slot.Active {
			n.ActiveSlots++
		}
		if !slot.Physical {
			continue
		}
		n.PhysicalSlots++
		if !slot.Active {
			n.InactiveSlots = append(n.InactiveSlots, slot.Name)
		}
	}
	attached := registry.Senders(ctx, c)
	for _, d := range nodes {
		if d.Upstream != n.ID || !d.Active || d.Role == cluster.Witness {
			continue
		}
		if len(attached[d.Name]) == 0 && attached != nil {
			n.issue("node %q (ID: %d) is not attached, though this node is its upstream", d.Name, d.ID)
		}
		if d.SlotName != "" && !there[d.SlotName] {
			n.MissingSlots = append(n.MissingSlots, d.SlotName)
			n.issue("replication slot %q of node %q (ID: %d) is missing", d.SlotName, d.Name, d.ID)
		}
	}
	for _, name := range n.InactiveSlots {
		n.issue("physical replication slot %q is not in use, and keeps WAL", name)
	}
	return nil
}

// upstream asks how far a standby has come.
func (n *NodeStatus) upstream(ctx context.Context, c *pg.Conn, own cluster.Node, nodes []cluster.Node) error {
	if own.Role == cluster.Primary && !n.InRecovery {
		return nil
	}
	n.UpstreamID = own.Upstream
	up, _ := cluster.Find(nodes, own.Upstream)
	n.UpstreamName = up.Name
	p, err := c.Progress(ctx)
	if err != nil {
		return err
	}
	n.Received, n.Replayed = p.Received, p.Replayed
	if p.LagSeconds >= 0 {
		seconds := int(p.LagSeconds)
		n.Lag = &seconds
	}
	return nil
}

// shutdownState prints whether the local server was shut down in order. It is
// asked by scripts before they start something else on the data directory.
func shutdownState(ctx context.Context, s *Session) error {
	state, lsn := stateOfServer(ctx, s)
	answer := ShutdownState{Version: 1, State: state}
	if lsn != 0 {
		answer.Checkpoint = lsn.String()
	}
	if s.Format() == "json" {
		answer.Standing = s.standing(ctx)
	}
	return s.Result(answer)
}

func stateOfServer(ctx context.Context, s *Session) (state string, lsn cluster.LSN) {
	if _, err := pg.MajorVersion(s.Conf.DataDirectory); err != nil {
		return "UNKNOWN", 0
	}
	up := false
	if ci, err := s.Conninfo(); err == nil {
		up = pg.Ping(ctx, ci) != pg.NoAnswer
	}
	control, err := pg.ReadControl(ctx, s.Conf.PgBindir, s.Conf.DataDirectory)
	switch {
	case errors.Is(err, context.Canceled):
		return "UNKNOWN", 0
	case up && err == nil && control.State == "shutting down":
		return "SHUTTING_DOWN", 0
	case up:
		return "UP", 0
	case err != nil:
		return "UNKNOWN", 0
	case control.ShutDownCleanly() && control.Checkpoint != 0:
		return "SHUTDOWN", control.Checkpoint
	}
	return "UNCLEAN_SHUTDOWN", 0
}
