package cli

import (
	"context"
	"errors"
	"strings"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/pg"
	"repmgr/internal/registry"
	"repmgr/internal/server"
)

// nodeServiceVerbs are the actions on this machine's server itself.
func nodeServiceVerbs() []verb {
	return []verb{{
		name:  "node service",
		short: "start, stop, restart, reload or promote the local server",
		long: `Runs the service_..._command of the configuration, or pg_ctl.

Under the quorum rule a restart of the primary goes through the start gate: while its lease is held, it comes up as the primary again, on the same timeline and with its unlogged tables. A checkpoint is made first, where the role may, since a stop that takes longer than primary_recovery_grace is a failover. service_restart_command is used as it is: the gate is then the service's own (see packaging/).

With --action=start --take-back a primary that a broken off "standby switchover" by ssh has left stopped is started again as the primary that it was. It is refused unless every other active node answers and none takes writes.`,
		example: "repmgr -f /etc/repmgr.conf node service --list-actions\nrepmgr -f /etc/repmgr.conf node service --action=restart --checkpoint",
		options: []string{"action", "list-actions", "checkpoint", "dry-run", "superuser", "hand-over", "take-back", "after"},
		changes: true,
		check: func(s *Session) []error {
			if s.Opt.Action == "" && !s.Opt.ListActions {
				return []error{errors.New("node service needs --action, or --list-actions")}
			}
			if s.Opt.Given("hand-over") && s.Opt.Action != "stop" || s.Opt.Given("take-back") && s.Opt.Action != "start" {
				return []error{errors.New("--hand-over is for --action=stop, and --take-back for --action=start")}
			}
			return nil
		},
		run: nodeService,
	}, {
		name:  "node startable",
		short: "let the local server start as what it may be",
		long: `For the service manager, before it starts PostgreSQL: ExecStartPre of the unit, see packaging/. Under the quorum rule the local daemon is asked. If this node surely holds the lease, and the server was stopped in order, it starts as the primary; if not, or if no daemon answers, it comes up read-only, and its daemon promotes it when it may. Under the visibility rule nothing is done.

It ends with 0 in each of these cases and never keeps a server from starting, unless the data directory cannot be made to start read-only.`,
		example: "repmgr -f /etc/repmgr.conf node startable",
		options: []string{"dry-run"},
		changes: true,
		run:     func(ctx context.Context, s *Session) error { return s.startable(ctx) },
	}}
}

// gateTimeout bounds the question to the daemon, which may have to wait until it
// has seen the server's end.
const gateTimeout = 8 * time.Second

// startable passes the local server through the start gate.
func (s *Session) startable(ctx context.Context) error {
	if s.Conf.WithoutServer() {
		return fault.New(fault.BadConfig, "this node is a witness without PostgreSQL")
	}
	if s.Opt.DryRun {
		s.Talk.Info("would ask the local daemon how the server may start")
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, gateTimeout)
	defer cancel()
	c := api.DialUnix(s.Conf.StateDir())
	defer c.Close()
	answer, err := c.Startable(ctx)
	if err != nil {
		return s.startReadOnly(err)
	}
	switch answer.As {
	case failover.GatePrimary:
		s.Talk.Notice("the server may start as the primary: %s", answer.Why)
	case failover.GateReadOnly:
		s.Talk.Notice("the server comes up read-only: %s", answer.Why)
	default:
		s.Talk.Info("the server starts as it is: %s", answer.Why)
	}
	return nil
}

// startReadOnly is the gate where no daemon answers: it goes by the rule that the
// daemon has remembered, and by the quorum rule where that cannot be read.
func (s *Session) startReadOnly(why error) error {
	quorum, err := registry.RememberedQuorum(s.Conf.StateDir())
	if err == nil && !quorum {
		s.Talk.Info("the server starts as it is: the visibility rule was in force")
		return nil
	}
	if err := (server.Own{Config: s.Conf}).StartReadOnly(); err != nil {
		return err
	}
	s.Talk.Notice("the server comes up read-only: %v", why)
	return nil
}

// serviceCommands are the commands of the actions, in the order of their list.
func (s *Session) serviceCommands() ([][2]string, error) {
	c := s.Conf
	program, err := pg.FindTool(c.PgBindir, c.DataDirectory, "pg_ctl")
	if err != nil {
		return nil, err
	}
	ctl := pg.Ctl{Bindir: strings.TrimSuffix(program, "/pg_ctl"), Dir: c.DataDirectory, Options: c.PgCtlOptions}
	if c.ConfigDirectory != "" {
		ctl.Dir = c.ConfigDirectory
	}
	const wait = time.Minute // as pg_ctl itself
	commands := [][2]string{
		{"start", c.ServiceStartCommand}, {"stop", c.ServiceStopCommand}, {"restart", c.ServiceRestartCommand},
		{"reload", c.ServiceReloadCommand}, {"promote", c.ServicePromoteCommand}}
	for i, line := range []string{ctl.Start("", wait), ctl.Stop(pg.Fast, wait), ctl.Restart(pg.Fast, wait), ctl.Reload(), ctl.Promote(wait)} {
		if commands[i][1] == "" {
			commands[i][1] = line
		}
	}
	return commands, nil
}

func nodeService(ctx context.Context, s *Session) error {
	if s.Conf.WithoutServer() {
		return fault.New(fault.BadConfig, "this node is a witness without PostgreSQL")
	}
	if !s.Opt.DryRun && !s.Opt.ListActions {
		if s.Opt.Given("hand-over") {
			return s.handOver(ctx)
		}
		if s.Opt.Given("take-back") {
			return s.handBack(ctx)
		}
	}
	commands, err := s.serviceCommands()
	if err != nil {
		return err
	}
	action := s.Opt.Action
	line := map[string]string{}
	all := ServiceCommands{Version: 1, one: action != ""}
	for _, c := range commands {
		line[c[0]] = c[1]
		if action == "" || action == c[0] {
			all.Commands = append(all.Commands, ServiceCommand{c[0], c[1]})
		}
	}
	if s.Opt.ListActions {
		return s.Result(all)
	}
	lines, gated := []string{line[action]}, false
	if governed, err := s.governed(ctx); err != nil {
		return err
	} else if governed && action == "restart" && s.Conf.ServiceRestartCommand == "" {
		lines, gated = []string{line["stop"], line["start"]}, true
	}
	if s.Opt.DryRun {
		s.Talk.Info("would execute server command \"%s\"", strings.Join(lines, "; "))
		return nil
	}
	if (s.Opt.Checkpoint && (action == "stop" || action == "restart")) || gated {
		if err := s.checkpoint(ctx); err != nil {
			return err
		}
	}
	for i, one := range lines {
		if gated && i == 1 {
			if err := s.startable(ctx); err != nil {
				return err
			}
		}
		if err := s.serverCommand(ctx, one); err != nil {
			return err
		}
	}
	s.wakeDaemon(ctx)
	return nil
}

// governed tells whether the quorum rule is in force, as the local daemon says, or
// has said before it was stopped.
func (s *Session) governed(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, daemonTimeout)
	defer cancel()
	c := api.DialUnix(s.Conf.StateDir())
	defer c.Close()
	if v, err := c.Status(ctx); err == nil && v.Own.PromotionRule != "" {
		return v.Own.PromotionRule == "quorum", nil
	}
	return registry.RememberedQuorum(s.Conf.StateDir())
}

// serverCommand runs a command of the server's service to its end.
func (s *Session) serverCommand(ctx context.Context, line string) error {
	s.Talk.Info("executing server command \"%s\"", line)
	r, err := host.Run(ctx, host.Cmd{Shell: line, OutputTo: "/dev/null"})
	if err != nil {
		return fault.Wrap(err, fault.LocalCommand, "the server command could not be run")
	}
	if !r.OK() {
		return fault.New(fault.LocalCommand, "the server command %s", r).WithDetail("%s", line)
	}
	return nil
}

// checkpoint makes one, so that the stop is short. A role that may not make one is
// no reason to fail.
func (s *Session) checkpoint(ctx context.Context) error {
	info, err := s.Conninfo()
	if err != nil {
		return err
	}
	if s.Opt.Superuser != "" {
		info = info.Without("password").With("user", s.Opt.Superuser)
	}
	c, err := pg.Connect(ctx, info)
	if err != nil {
		return err
	}
	defer registry.Close(c)
	if _, err := c.Exec(ctx, "CHECKPOINT"); err != nil {
		s.warn(fault.Wrap(err, fault.DBQuery, "no checkpoint was made before the server is stopped").
			WithHint("let a superuser GRANT pg_checkpoint to the role (PostgreSQL 15 and newer), or name one with --superuser"))
	}
	return nil
}
