package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/ops"
	"repmgr/internal/pg"
	"repmgr/internal/registry"
)

// singleChecks are the options that choose one check, in the order in which the
// first that was given counts.
var singleChecks = []string{"has-passfile", "replication-connection", "db-connection", "archive-ready", "upstream", "downstream", "replication-lag", "role",
	"slots", "missing-slots", "data-directory-config", "repmgrd", "replication-config-owner"}

func nodeCheckVerb() verb {
	return verb{
		name:  "node check",
		short: "check the local node, for people and for monitoring",
		long: `Without an option that chooses one, all checks of the local node are made and printed one below the other (text, csv or json); it ends with 25 if any is not OK.

With --role, --replication-lag, --archive-ready, --upstream, --downstream, --slots, --missing-slots, --data-directory-config or --repmgrd that one is made: it ends with 0 (OK), 1 (WARNING), 2 (CRITICAL) or 3 (UNKNOWN), and with --nagios prints the line that Nagios and its relatives read. Thresholds are archive_ready_warning, archive_ready_critical, replication_lag_warning and replication_lag_critical. A server that does not answer ends it with 6.`,
		example: `repmgr -f /etc/repmgr.conf node check
repmgr -f /etc/repmgr.conf node check --replication-lag --nagios
repmgr -f /etc/repmgr.conf node check --format json`,
		options: append([]string{"nagios", "optformat", "superuser", "remote-node-id"}, singleChecks...),
		config:  configOptional,
		check:   checkNodeCheck,
		run:     nodeCheck,
	}
}

func checkNodeCheck(s *Session) (wrong []error) {
	one := s.singleCheck()
	switch {
	case one != "" && s.Opt.CSV, one != "" && s.Opt.Format == "csv":
		wrong = append(wrong, fmt.Errorf("--csv is for all checks together, and not for --%s", one))
	case one == "" && s.Opt.Nagios:
		wrong = append(wrong, errors.New("--nagios needs an option that chooses one check"))
	}
	if (one == "db-connection" || one == "replication-config-owner" || one == "has-passfile" || one == "replication-connection") && s.Opt.Nagios {
		wrong = append(wrong, fmt.Errorf("--nagios is not for --%s", one))
	}
	if one == "replication-connection" && s.Opt.RemoteNodeID == 0 {
		wrong = append(wrong, errors.New("--replication-connection needs --remote-node-id"))
	}
	return wrong
}

// singleCheck is the check that was chosen; empty: all.
func (s *Session) singleCheck() string {
	for _, name := range singleChecks {
		if s.Opt.Given(name) {
			return name
		}
	}
	return ""
}

// NodeChecks is the answer of "node check".
type NodeChecks struct {
	Version int             `json:"version"` // of this form, which only grows
	ID      cluster.NodeID  `json:"node_id"`
	Name    string          `json:"node_name"`
	Status  ops.CheckStatus `json:"status"` // the worst
	Checks  []ops.NodeCheck `json:"checks"`

	one, nagios, optformat bool
}

// Text prints the checks one below the other; one alone as scripts of repmgr 5 want it.
func (n NodeChecks) Text(w io.Writer) {
	if n.one {
		c := n.Checks[0]
		switch {
		case n.nagios:
			fmt.Fprintln(w, c.Nagios())
		case n.optformat:
			fmt.Fprint(w, optformat(c))
		default:
			fmt.Fprintf(w, "%s (%s)\n", c.Status, c.Text)
		}
		return
	}
	fmt.Fprintf(w, "Node %q:\n", n.Name)
	for _, c := range n.Checks {
		fmt.Fprintf(w, "\t%s: %s (%s)\n", c.Label, c.Status, c.Text)
	}
}

// CSV prints the checks as pairs, with the details behind.
func (n NodeChecks) CSV(w io.Writer) {
	quote := func(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
	csvLine(w, quote("Node name"), quote(n.Name))
	csvLine(w, quote("Node ID"), quote(fmt.Sprint(n.ID)))
	for _, c := range n.Checks {
		csvLine(w, quote(c.Label), quote(c.Status.String()), quote(c.Text))
	}
}

// optformat is what repmgr 5 says to itself over ssh.
func optformat(c ops.NodeCheck) string {
	switch c.Name {
	case "replication-lag", "archive-ready":
		word, value := map[string]string{"replication-lag": "lag", "archive-ready": "files"}[c.Name], int64(0)
		if c.Value != nil {
			value = *c.Value
		}
		line := fmt.Sprintf("--status=%s --%s=%d", c.Status, word, value)
		switch c.Status {
		case ops.CheckWarning:
			line += fmt.Sprintf(" --threshold=%d", c.Warn)
		case ops.CheckCritical:
			line += fmt.Sprintf(" --threshold=%d", c.Crit)
		}
		return line + "\n"
	case "data-directory-config":
		return fmt.Sprintf("--configured-data-directory=%s\n", c.Status)
	case "repmgrd", "db-connection", "replication-config-owner":
		return fmt.Sprintf("--%s=%s\n", c.Name, c.Status)
	}
	return ""
}

func nodeCheck(ctx context.Context, s *Session) error {
	ctx, cancel := context.WithTimeout(ctx, nodeTimeout)
	defer cancel()
	one := s.singleCheck()
	switch one {
	case "has-passfile":
		return nil // passfile is understood, as by every libpq since 10
	}
	if s.ConfPath == "" {
		return fault.New(fault.BadConfig, "node check needs a configuration file").WithHint("name it with -f")
	}
	switch one {
	case "replication-connection":
		return s.checkReplicationConnection(ctx)
	case "db-connection", "replication-config-owner":
		return s.printCheck(s.checkApart(ctx, one))
	}
	info, err := s.Conninfo()
	if err == nil && s.Opt.Superuser != "" {
		info = info.Without("password").With("user", s.Opt.Superuser)
	}
	if err != nil {
		if s.Opt.OptFormat {
			fmt.Fprintln(s.Stdout, "--error=CONNINFO_PARSE")
		}
		return err
	}
	c, err := pg.Connect(ctx, info)
	if err != nil {
		if s.Opt.OptFormat {
			fmt.Fprintln(s.Stdout, "--error=DB_CONNECTION")
		}
		return err
	}
	defer registry.Close(c)
	n, err := s.checksOf(ctx, c)
	if err != nil {
		return err
	}
	if one != "" {
		for _, check := range n.Checks {
			if check.Name == one {
				return s.printCheck(check)
			}
		}
	}
	n.Checks = n.Checks[:len(n.Checks)-1] // that of repmgrd is asked for by its own option alone
	for _, check := range n.Checks {
		n.Status = max(n.Status, check.Status)
	}
	if err := s.Result(n); err != nil {
		return err
	}
	if n.Status != ops.CheckOK {
		return said(fault.NodeStatus)
	}
	return nil
}

// printCheck prints one check, whose status is that of the program.
func (s *Session) printCheck(c ops.NodeCheck) error {
	err := s.Result(NodeChecks{Version: 1, ID: s.Conf.NodeID, Name: s.Conf.NodeName, Status: c.Status, Checks: []ops.NodeCheck{c}, one: true, nagios: s.Opt.Nagios, optformat: s.Opt.OptFormat})
	if err == nil && c.Status != ops.CheckOK {
		err = said(fault.Code(c.Status))
	}
	return err
}

// checksOf makes every check, in the order of the overview.
func (s *Session) checksOf(ctx context.Context, c *pg.Conn) (NodeChecks, error) {
	var n NodeChecks
	nodes, err := registered(ctx, c)
	if err != nil {
		return n, err
	}
	own, found := cluster.Find(nodes, s.Conf.NodeID)
	if !found {
		return n, fault.New(fault.BadConfig, "node %d is not registered", s.Conf.NodeID).WithHint("\"repmgr primary register\" or \"repmgr standby register\" makes the record")
	}
	n = NodeChecks{Version: 1, ID: own.ID, Name: own.Name}
	server, err := c.Server(ctx)
	if err != nil {
		return n, err
	}
	p, err := c.Progress(ctx)
	if err != nil {
		return n, err
	}
	files, why := pendingFiles(filepath.Join(s.Conf.DataDirectory, "pg_wal", "archive_status"))
	there := registry.Senders(ctx, c)
	physical, inactive, missing, err := slotsOf(ctx, c, own.ID, nodes)
	if err != nil {
		return n, err
	}
	_, noVersion := os.Stat(filepath.Join(s.Conf.DataDirectory, "PG_VERSION"))
	cfg := s.Conf
	n.Checks = []ops.NodeCheck{
		ops.CheckRole(own.Role, server.InRecovery),
		ops.CheckLag(server.InRecovery, p.LagSeconds, cfg.ReplicationLagWarning, cfg.ReplicationLagCritical),
		ops.CheckArchive(files, why, cfg.ArchiveReadyWarning, cfg.ArchiveReadyCritical),
		checkUpstream(ctx, own, nodes),
		ops.CheckDownstream(own.ID, nodes, func(n cluster.Node) bool { return len(there[n.Name]) > 0 }),
		ops.CheckSlots(physical, inactive),
		ops.CheckMissingSlots(missing),
		ops.CheckDataDirectory(cfg.DataDirectory, server.DataDirectory, sameDirectory(server.DataDirectory, cfg.DataDirectory), server.DataDirectory != "", noVersion == nil),
		s.checkDaemon(ctx),
	}
	return n, nil
}

func slotsOf(ctx context.Context, c *pg.Conn, own cluster.NodeID, nodes []cluster.Node) (physical int, inactive, missing []string, err error) {
	slots, err := c.Slots(ctx)
	if err != nil {
		return 0, nil, nil, err
	}
	there := map[string]bool{}
	for _, slot := range slots {
		if there[slot.Name] = true; slot.Physical {
			physical++
			if !slot.Active {
				inactive = append(inactive, slot.Name)
			}
		}
	}
	for _, n := range nodes {
		if n.Upstream == own && n.Role == cluster.Standby && n.SlotName != "" && !there[n.SlotName] {
			missing = append(missing, n.SlotName)
		}
	}
	return physical, inactive, missing, nil
}

// checkUpstream asks a standby's upstream for the standby.
func checkUpstream(ctx context.Context, own cluster.Node, nodes []cluster.Node) ops.NodeCheck {
	up, found := cluster.Find(nodes, own.Upstream)
	if own.Role != cluster.Standby || !found {
		return ops.CheckUpstream(own, nil, "", "")
	}
	c, err := registry.Connect(ctx, up)
	if err != nil {
		return ops.CheckUpstream(own, &up, "", "it cannot be reached: "+err.Error())
	}
	defer registry.Close(c)
	at, state, err := c.Attached(ctx, own.Name)
	switch {
	case err != nil:
		return ops.CheckUpstream(own, &up, "", err.Error())
	case at == pg.Attached:
		state = "streaming" // a role that may not see it is told nothing else
	case state == "":
		state = string(at)
	}
	return ops.CheckUpstream(own, &up, state, "")
}

func sameDirectory(a, b string) bool {
	one, err := os.Stat(a)
	other, err2 := os.Stat(b)
	if err != nil || err2 != nil {
		return filepath.Clean(a) == filepath.Clean(b)
	}
	return os.SameFile(one, other)
}

// checkDaemon asks this node's repmgrd.
func (s *Session) checkDaemon(ctx context.Context) ops.NodeCheck {
	view, err := s.localView(ctx, daemonTimeout)
	if errors.Is(err, api.ErrNotRunning) {
		return ops.CheckDaemon(false, false, true)
	}
	return ops.CheckDaemon(err == nil, view.Own.Paused, err == nil)
}

// checkApart are the checks that need no record of this node.
func (s *Session) checkApart(ctx context.Context, name string) ops.NodeCheck {
	c := ops.NodeCheck{Name: name, Text: "it is as it should be"}
	if name == "replication-config-owner" {
		dir, err := os.Stat(s.Conf.DataDirectory)
		file, err2 := os.Stat(filepath.Join(s.Conf.DataDirectory, "postgresql.auto.conf"))
		switch {
		case err != nil || err2 != nil:
			c.Status, c.Text = ops.CheckUnknown, errors.Join(err, err2).Error()
		case dir.Sys().(*syscall.Stat_t).Uid != file.Sys().(*syscall.Stat_t).Uid:
			c.Status, c.Text = ops.CheckCritical, "postgresql.auto.conf has another owner than the data directory"
		}
		return c
	}
	info, err := s.Conninfo()
	if err == nil && s.Opt.Superuser != "" {
		info = info.Without("password").With("user", s.Opt.Superuser)
	}
	var conn *pg.Conn
	if err == nil {
		conn, err = pg.Connect(ctx, info)
	}
	if err != nil {
		c.Status, c.Text = ops.CheckCritical, fmt.Sprintf("with %s: %v", info.Redacted(), err)
		return c
	}
	registry.Close(conn)
	c.Text = "connected with " + info.Redacted()
	return c
}

// checkReplicationConnection tells whether a replication connection from here to
// another node can be made. It ends with 0 whatever it finds, as in repmgr 5.
func (s *Session) checkReplicationConnection(ctx context.Context) error {
	c, err := s.Connect(ctx)
	if err != nil {
		fmt.Fprintln(s.Stdout, "--connection=CONNECTION_ERROR")
		return nil
	}
	defer registry.Close(c)
	n, err := registry.Node(ctx, c, s.Opt.RemoteNodeID)
	if err != nil {
		fmt.Fprintln(s.Stdout, "--connection=UNKNOWN")
		return nil
	}
	info, err := pg.ParseConninfo(n.Conninfo)
	if err == nil {
		var r *pg.ReplConn
		if r, err = pg.ConnectReplication(ctx, info, n.ReplUser); err == nil {
			_ = r.Close(ctx) // it was made, which was the question
		}
	}
	fmt.Fprintln(s.Stdout, map[bool]string{true: "--connection=OK", false: "--connection=BAD"}[err == nil])
	return nil
}
