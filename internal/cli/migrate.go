package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/ops"
	"repmgr/internal/plan"
	"repmgr/internal/raftstore"
	"repmgr/internal/registry"
	"repmgr/internal/server"
)

func migrateVerb() verb {
	return verb{
		name:  "migrate",
		short: "take over a running cluster of repmgr 5, node by node",
		long: `Run it on every node, as the user that PostgreSQL and repmgr 5's repmgrd run as: on the standbys and the witness first, in any order, on the primary last. It acts on this node's daemon only, and says which node is next; no server is restarted, and nobody is promoted. docs/migrate.md has it step by step.

First all nodes are looked at, and nothing is changed if one does not answer, a standby receives no WAL, or this node is not ready. Then failover is paused on every node, so that repmgr 5's daemons and these never act against each other; while it is, nobody is promoted if the primary dies. This program's own tables are added beside those of repmgr 5, which stay as they are. Then repmgr 5's repmgrd of this node gets SIGTERM, repmgrd is started, paused, as "repmgr daemon start" does it, and it is verified that it answers, and that the primary is who it was, on its timeline. On the last node all of them are verified, and failover is made what it was before.

What fails is undone, and it is said how the cluster stands and what to do next; a run that was cut off is repeated. repmgrd_service_start_command, if it is set, must start this program's repmgrd. Where a service manager starts repmgr 5's repmgrd with the host, disable that before.

With --back this program's repmgrd is stopped instead, and repmgr 5's is started as it was started before, on the primary first and then on all others; on the last node this program's tables are removed, and failover is made what it was. synchronous_mode has to be off before.

Ends with 1 if nothing was begun, with 26 if the pause could not be set or ended, and with 6, 7 or 27 if another step failed.`,
		example: `repmgr -f /etc/repmgr.conf migrate --dry-run
repmgr -f /etc/repmgr.conf migrate
repmgr -f /etc/repmgr.conf migrate --wait=60    # for daemons that take long to end or to start
repmgr -f /etc/repmgr.conf migrate --back`,
		options: []string{"back", "dry-run", "wait", "superuser"},
		changes: true,
		run:     migrate,
	}
}

// migrating is the world of a migration, seen from this node.
type migrating struct {
	*registry.World
	s     *Session
	nodes []cluster.Node
	fleet fleet
}

var _ ops.Migration = (*migrating)(nil)

func migrate(ctx context.Context, s *Session) error {
	w := s.world()
	defer w.Close()
	m := &migrating{World: w, s: s}
	survey, err := m.survey(ctx)
	if err != nil {
		return err
	}
	p, err := s.planMigration(survey)
	if err != nil || len(p.Steps) == 0 {
		return err
	}
	if s.Opt.DryRun {
		m.standing(survey)
		err := p.Explain(ctx, m, s.tell)
		if err == nil {
			s.Talk.Info("all checks passed; nothing was changed, since --dry-run was given")
		}
		return ops.Coded(err, fault.RepmgrdService)
	}
	err = p.Run(ctx, m, m.tell)
	if seen, lookErr := m.Look(context.WithoutCancel(ctx), ids(survey.Nodes)); lookErr == nil {
		survey.Seen = seen
		m.standing(survey)
	}
	return ops.Coded(err, fault.RepmgrdService)
}

// planMigration is the plan for the way in, or back; without steps where all is done.
func (s *Session) planMigration(survey ops.MigrateSurvey) (ops.MigratePlan, error) {
	switch {
	case s.Opt.Back && survey.GivenBack():
		s.Talk.Notice("repmgr 5's repmgrd runs everywhere, this program's nowhere: there is nothing to give back")
		return ops.MigratePlan{}, nil
	case s.Opt.Back:
		return ops.MigrateBack(survey)
	case survey.Migrated():
		s.Talk.Notice("repmgr 5's repmgrd runs nowhere, this program's everywhere: there is nothing left to migrate")
		return ops.MigratePlan{}, nil
	}
	p, err := ops.Migrate(survey)
	if err == nil {
		s.warnOfCommands()
	}
	return p, err
}

func ids(nodes []cluster.Node) []cluster.NodeID {
	var all []cluster.NodeID
	for _, n := range nodes {
		all = append(all, n.ID)
	}
	return all
}

// standing says how far the cluster is.
func (m *migrating) standing(survey ops.MigrateSurvey) {
	state, hint := survey.Next()
	if m.s.Opt.Back {
		state, hint = survey.NextBack()
	}
	m.s.Talk.Say(Entry{Level: Notice, Text: state, Hint: hint})
}

// tell is the session's, but for what was undone, which is told in any case.
func (m *migrating) tell(e plan.Event) {
	if e.What == plan.Undone && e.Err == nil {
		m.s.note(e)
		m.s.Talk.Notice("undone: step %d of %d: %s", e.Step, e.Of, e.Text)
		return
	}
	m.s.tell(e)
}

// survey looks at all nodes, and at whether this one is ready.
func (m *migrating) survey(ctx context.Context) (ops.MigrateSurvey, error) {
	survey, err := m.SurveyMigrate(ctx)
	if err != nil {
		return survey, err
	}
	m.nodes = survey.Nodes
	primary, _ := cluster.Find(m.nodes, survey.Primary)
	c, err := registry.Connect(ctx, primary)
	if err != nil {
		return survey, err
	}
	defer registry.Close(c)
	if m.fleet, err = m.s.daemons(ctx, c); err != nil {
		return survey, err
	}
	if survey.Seen, err = m.Look(ctx, ids(m.nodes)); err != nil {
		return survey, err
	}
	if here := survey.Seen[survey.Self]; survey.Unready == nil && here.Why == "" {
		survey.Unready = m.unready(here)
		if m.s.Opt.Back {
			survey.Unready = m.unreadyBack(here)
		}
	}
	return survey, nil
}

// unready says what of this node would let a later step fail.
func (m *migrating) unready(here ops.Migrating) error {
	if here.Theirs.Running {
		daemon, err := holdTheirs(here.Theirs.PID)
		if err != nil {
			return err
		}
		daemon.Close()
	}
	if here.Ours.Answers {
		return nil
	}
	if _, err := m.s.daemonLine(); err != nil {
		return err
	}
	address := net.JoinHostPort(m.s.Conf.DaemonListenAddress, fmt.Sprint(m.s.Conf.DaemonPort))
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fault.Wrap(err, fault.BadConfig, "repmgrd could not listen on %s", address).WithHint("set daemon_port, or daemon_listen_address, in %s", m.s.ConfPath)
	}
	listener.Close()
	dir := m.s.Conf.StateDir()
	for dir != "/" && dir != "." && dir != "" && errors.Is(unix.Access(dir, unix.F_OK), unix.ENOENT) {
		dir = filepath.Dir(dir)
	}
	if err := unix.Access(dir, unix.W_OK); err != nil {
		return fault.Wrap(err, fault.BadConfig, "the state directory %s cannot be made", m.s.Conf.StateDir()).
			WithHint("let this user write to %s, or set state_directory in %s", dir, m.s.ConfPath)
	}
	return nil
}

// unreadyBack says what of this node would let a later step of the way back fail.
func (m *migrating) unreadyBack(here ops.Migrating) error {
	if m.s.Conf.SynchronousMode != "off" {
		return fault.New(fault.BadConfig, "synchronous_standby_names is written by this program's daemons").
			WithDetail("synchronous_mode is %s in %s.", m.s.Conf.SynchronousMode, m.s.ConfPath).
			WithHint("set synchronous_mode to 'off' on every node, and send SIGHUP to repmgrd")
	}
	if here.Theirs.Running {
		return nil
	}
	_, err := theirCommandOf(m.s.Conf.StateDir())
	return err
}

// warnOfCommands tells of commands that were written for repmgr 5.
func (s *Session) warnOfCommands() {
	own, err := os.Stat(s.Executable)
	if err != nil {
		return
	}
	for _, c := range []struct{ name, line string }{{"promote_command", s.Conf.PromoteCommand}, {"follow_command", s.Conf.FollowCommand}} {
		program, _, _ := strings.Cut(strings.TrimSpace(c.line), " ")
		if program == "" {
			continue
		}
		path, err := exec.LookPath(strings.Trim(program, `"'`))
		if err == nil {
			if other, err := os.Stat(path); err == nil && os.SameFile(own, other) {
				continue
			}
		}
		s.Talk.Say(Entry{Level: Warning, Text: fmt.Sprintf("%s runs %s, and this program is %s", c.name, program, s.Executable),
			Hint: "let it run this program; once there is no way back to be kept, remove it: what it does is built in"})
	}
}

// Look looks at nodes, by their servers and by their daemons at the same time.
func (m *migrating) Look(ctx context.Context, ids []cluster.NodeID) (map[cluster.NodeID]ops.Migrating, error) {
	var nodes []cluster.Node
	for _, id := range ids {
		n, found := cluster.Find(m.nodes, id)
		if !found {
			return nil, fault.New(fault.BadConfig, "node %d is not registered", id).WithHint("node_id in %s has to be the number that repmgr 5 has registered", m.s.ConfPath)
		}
		nodes = append(nodes, n)
	}
	seen := map[cluster.NodeID]ops.Migrating{}
	for _, a := range registry.AskAll(ctx, nodes, func(ctx context.Context, n cluster.Node) (ops.Migrating, error) {
		said := make(chan ops.Ours, 1)
		go func() { said <- m.ours(ctx, n.ID) }()
		look := registry.LookMigrating(ctx, n)
		look.Ours = <-said
		if n.WithoutServer() && look.Ours.Answers {
			look.Why = ""
		}
		return look, nil
	}) {
		seen[a.Node.ID] = a.Value
	}
	return seen, nil
}

// ours asks this program's daemon of a node, which has as long to answer as its server.
func (m *migrating) ours(ctx context.Context, id cluster.NodeID) (o ops.Ours) {
	_ = m.fleet.askWithin(ctx, id, registry.AskTimeout, func(ctx context.Context, c *api.Client) error {
		view, err := c.Status(ctx)
		if err == nil {
			o = ops.Ours{Answers: true, Paused: view.Own.Paused, Reason: view.Own.PauseReason}
		}
		return err
	}) // one that does not answer does not run, as far as anybody can tell
	return o
}

// Await looks at nodes until they are as they should be, for as long as a daemon may take.
func (m *migrating) Await(ctx context.Context, ids []cluster.NodeID, satisfies func(cluster.NodeID, ops.Migrating) error) error {
	patience := m.s.daemonPatience()
	for until := time.Now().Add(patience); ; time.Sleep(daemonPoll) {
		seen, err := m.Look(ctx, ids)
		if err != nil {
			return err
		}
		var missing []string
		for _, id := range ids {
			if err := satisfies(id, seen[id]); err != nil {
				n, _ := cluster.Find(m.nodes, id)
				missing = append(missing, fmt.Sprintf("%s: %v", named(n), err))
			}
		}
		switch {
		case len(missing) == 0:
			return nil
		case ctx.Err() != nil || time.Now().After(until):
			return fault.New(fault.RepmgrdService, "it is not so after %s", patience).WithDetail("%s", strings.Join(missing, "; ")).
				WithHint("the log of repmgrd says why (log_file in repmgr.conf); --wait=SECONDS waits longer")
		}
	}
}

// PauseOurs tells this program's daemon of a node to pause failover, or to end the pause.
// Under the quorum rule the word of any member is enough.
func (m *migrating) PauseOurs(ctx context.Context, id cluster.NodeID, paused bool, reason string) error {
	if member, governed := m.fleet.governedBy(ctx, m.nodes); governed != nil {
		id = member
	}
	order := api.Pause{Paused: paused, Reason: reason}
	err := m.fleet.askWithin(ctx, id, registry.AskTimeout, func(ctx context.Context, c *api.Client) error { return c.Pause(ctx, order) })
	if err != nil {
		return fault.Wrap(err, fault.RepmgrdPause, "repmgrd of node %d did not take the word that failover is paused or not", id).
			WithHint("\"repmgr service status\" shows which daemons run")
	}
	return nil
}

// holdTheirs takes hold of the process of repmgr 5's daemon.
func holdTheirs(pid int) (*host.Handle, error) {
	if !host.Runs(pid, daemonProgram) {
		return nil, fault.New(fault.RepmgrdService, "repmgr 5's repmgrd of this node is not a process that this user can end").
			WithDetail("The server says that its process number is %d; here that is no %s of this user's.", pid, daemonProgram).
			WithHint("run this command on the node's own host, as the user that repmgrd runs as")
	}
	daemon, err := host.OpenProcess(pid)
	if err != nil {
		return nil, fault.Wrap(err, fault.RepmgrdService, "repmgr 5's repmgrd cannot be stopped")
	}
	return daemon, nil
}

// StopTheirs ends repmgr 5's daemon of this node by SIGTERM, and remembers how it ran.
func (m *migrating) StopTheirs(ctx context.Context) error {
	self := []cluster.NodeID{m.s.Conf.NodeID}
	seen, err := m.Look(ctx, self)
	if err != nil {
		return err
	}
	pid := seen[self[0]].Theirs.PID
	daemon, err := holdTheirs(pid)
	if err != nil {
		return err
	}
	defer daemon.Close()
	if err := noteTheirs(m.s.Conf.StateDir(), pid); err != nil {
		return err
	}
	if err := daemon.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fault.Wrap(err, fault.RepmgrdService, "repmgr 5's repmgrd cannot be stopped").WithDetail("%s", process(pid))
	}
	patience := m.s.daemonPatience()
	select {
	case <-daemon.Done():
	case <-time.After(patience):
		return fault.New(fault.RepmgrdService, "repmgr 5's repmgrd still runs %s after it was told to stop", patience).WithDetail("%s", process(pid)).
			WithHint("its log says what it waits for; if it ends later, run this command again, or start it again; --wait=SECONDS waits longer")
	case <-ctx.Done():
		return ctx.Err()
	}
	return m.Await(ctx, self, func(_ cluster.NodeID, seen ops.Migrating) error {
		if seen.Theirs.Running {
			return fmt.Errorf("repmgr 5's repmgrd runs again, as process %d", seen.Theirs.PID)
		}
		return nil
	})
}

// StartTheirs starts repmgr 5's daemon of this node as it was started before.
func (m *migrating) StartTheirs(ctx context.Context) error {
	if err := startTheirs(m.s.Conf.StateDir()); err != nil {
		return err
	}
	return m.Await(ctx, []cluster.NodeID{m.s.Conf.NodeID}, func(_ cluster.NodeID, seen ops.Migrating) error {
		if !seen.Theirs.Running {
			return errors.New("repmgr 5's repmgrd does not run")
		}
		return nil
	})
}

// StartOurs starts this node's daemon.
func (m *migrating) StartOurs(ctx context.Context) error { return daemonStart(ctx, m.s) }

// PauseAhead lets this node's daemon start paused. What it may remember of a group that
// the database does not know, since the cluster was given back meanwhile, is forgotten.
func (m *migrating) PauseAhead(ctx context.Context, reason string) error {
	founding, err := m.Founding(ctx)
	if err != nil {
		return err
	}
	dir := m.s.Conf.StateDir()
	if _, err := os.Stat(filepath.Join(dir, raftstore.FileName)); err == nil && founding.Group == "" {
		if err := m.s.forgetGroup(); err != nil {
			return err
		}
		if err := os.Remove(filepath.Join(dir, registry.StateFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fault.Wrap(err, fault.SysFailure, "what repmgrd remembers of a former cluster could not be removed")
		}
	}
	return m.World.PauseAhead(ctx, reason)
}

// AwaitDisarmed waits until standby.signal is gone from the primary's data directory.
func (m *migrating) AwaitDisarmed(ctx context.Context) error {
	self := m.s.Conf.NodeID
	seen, err := m.Look(ctx, []cluster.NodeID{self})
	if err != nil || seen[self].InRecovery {
		return err
	}
	own := server.Own{Config: m.s.Conf, Log: func(text string) { m.s.Talk.Info("%s", text) }}
	return m.Await(ctx, []cluster.NodeID{self}, func(cluster.NodeID, ops.Migrating) error {
		armed, err := own.Armed()
		if err == nil && armed {
			err = errors.New("standby.signal is in the data directory, and its server would not come up as the primary")
		}
		return err
	})
}

// StopOurs ends it, if it runs.
func (m *migrating) StopOurs(ctx context.Context) error {
	if _, runs := m.s.localDaemon(ctx); !runs {
		return nil
	}
	return daemonStop(ctx, m.s)
}

// theirCommand is how repmgr 5's daemon was started on this node.
type theirCommand struct {
	Program string   `json:"program"` // absolute
	Args    []string `json:"args"`
	Dir     string   `json:"dir"`
}

// Files in the state directory that are about repmgr 5's daemon.
const (
	theirCommandFile = "repmgr5.json"
	theirLog         = "repmgr5.log" // what it says after a start by this program, unless it has a log of its own
)

// noteTheirs keeps how a running daemon of repmgr 5 was started.
func noteTheirs(stateDir string, pid int) error {
	proc := fmt.Sprintf("/proc/%d/", pid)
	program, err := os.Readlink(proc + "exe")
	dir, dirErr := os.Readlink(proc + "cwd")
	line, lineErr := os.ReadFile(proc + "cmdline")
	words := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
	text, jsonErr := json.MarshalIndent(theirCommand{strings.TrimSuffix(program, host.Deleted), words[1:], dir}, "", "  ")
	if err := errors.Join(err, dirErr, lineErr, jsonErr, os.MkdirAll(stateDir, 0o700)); err != nil {
		return fault.Wrap(err, fault.SysFailure, "it could not be found out how repmgr 5's repmgrd was started")
	}
	if err := host.WriteFileDurable(filepath.Join(stateDir, theirCommandFile), text, 0o600); err != nil {
		return fault.Wrap(err, fault.SysFailure, "it could not be written down how repmgr 5's repmgrd was started")
	}
	return nil
}

// theirCommandOf is what noteTheirs has kept.
func theirCommandOf(stateDir string) (command theirCommand, err error) {
	text, err := os.ReadFile(filepath.Join(stateDir, theirCommandFile))
	if err == nil {
		err = json.Unmarshal(text, &command)
	}
	if err != nil {
		return command, fault.Wrap(err, fault.RepmgrdService, "it is not known how repmgr 5's repmgrd is started on this node").
			WithHint("start it by hand when this program's is stopped, paused: \"repmgr service pause\" before, and with repmgr 5 \"repmgr service unpause\" in the end")
	}
	return command, nil
}

// startTheirs starts repmgr 5's daemon in a session of its own. It goes into the
// background by itself, or stays a process that nobody waits for.
func startTheirs(stateDir string) error {
	command, err := theirCommandOf(stateDir)
	if err != nil {
		return err
	}
	if err := detached(filepath.Join(stateDir, theirLog), command.Dir, command.Program, command.Args...); err != nil {
		return fault.Wrap(err, fault.RepmgrdService, "repmgr 5's repmgrd could not be started").WithHint("start it by hand: %s", command.Program)
	}
	return nil
}

// detached starts a program in a session of its own, which outlives this one; its outputs are
// appended to a file.
func detached(output, dir, program string, args ...string) error {
	log, err := os.OpenFile(output, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }()
	return nil
}
