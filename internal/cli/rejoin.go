package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/ops"
	"repmgr/internal/pg"
	"repmgr/internal/record"
	"repmgr/internal/registry"
	"repmgr/internal/server"
)

func rejoinVerb() verb {
	return verb{
		name:  "node rejoin",
		short: "make a stopped server, such as a former primary, a standby again",
		long: `Makes the local server, which must not run, a standby of the cluster's primary, which is found from the node that -d or -h names. Both histories are compared first. A server that did not diverge follows as it is; one that did is refused, unless --force-rewind lets pg_rewind discard what the primary does not have: that WAL is kept in the state directory, and the discarded commits are counted and told. A crashed server, and one with standby.signal, is dealt with too.

The server keeps its own configuration files through a rewind; --config-files names others in the data directory that it shall keep (patterns, with commas between).

Under the quorum rule the local repmgrd does this by itself. Where it does not, since an operator stopped the server, auto_rejoin=off apart, this command hands it the work, and waits.

Waits up to node_rejoin_timeout until the node streams, unless --no-wait. Ends with 24 if it does not become a standby.`,
		example: `repmgr -f /etc/repmgr.conf node rejoin -d 'host=node2 dbname=repmgr user=repmgr' --dry-run
repmgr -f /etc/repmgr.conf node rejoin -d 'host=node2 dbname=repmgr user=repmgr' --force-rewind`,
		options: []string{"connection", "dry-run", "force-rewind", "config-files", "config-archive-dir", "no-wait"},
		changes: true,
		check: func(s *Session) []error {
			if !s.Opt.Given("dbname") && !s.Opt.Given("host") {
				return []error{errors.New("node rejoin needs a node of the cluster: name it with -d or -h")}
			}
			return nil
		},
		run: nodeRejoin,
	}
}

// rejoining is one run of "node rejoin".
type rejoining struct {
	s       *Session
	own     server.Own
	primary cluster.Node
	conn    *pg.Conn // to the primary
	history server.History
}

func nodeRejoin(ctx context.Context, s *Session) error {
	if s.Conf.WithoutServer() {
		return fault.New(fault.BadConfig, "this node is a witness without PostgreSQL")
	}
	if running, err := host.Processes(s.Conf.DataDirectory); errors.Is(err, fs.ErrNotExist) {
		return fault.Wrap(err, fault.BadConfig, "there is no data directory at %s", s.Conf.DataDirectory).
			WithHint("correct data_directory in repmgr.conf; a node that has none is made by \"repmgr standby clone\"")
	} else if err != nil {
		return err
	} else if len(running) > 0 {
		return fault.New(fault.RejoinFail, "the local server runs").
			WithDetail("%d processes work in %s.", len(running), s.Conf.DataDirectory).
			WithHint("stop it first; a standby that runs is attached by \"repmgr standby follow\"")
	}
	r := &rejoining{s: s, own: server.Own{Config: s.Conf, Log: func(text string) { s.Talk.Info("%s", text) }}}
	if s.Opt.Given("config-archive-dir") {
		s.Talk.Info("--config-archive-dir makes no difference: what is kept meanwhile is in %s", s.Conf.StateDir())
	}
	if err := r.findPrimary(ctx); err != nil {
		return err
	}
	defer func() { registry.Close(r.conn) }()
	if view, err := s.localView(ctx, daemonTimeout); err == nil && view.Promotion != nil && view.Promotion.Rule == record.Quorum {
		return r.byDaemon(ctx, view)
	} else if errors.Is(err, api.ErrNotRunning) {
		if quorum, err := registry.RememberedQuorum(s.Conf.StateDir()); err == nil && quorum {
			return fault.New(fault.RejoinFail, "the cluster is under the quorum rule, and the local repmgrd does not run").
				WithHint("start repmgrd: it makes the server a standby")
		}
	}
	err := r.byHand(ctx)
	if err == nil || s.Opt.DryRun {
		return err
	}
	err = ops.Coded(err, fault.RejoinFail)
	r.announce(ctx, err)
	return err
}

// findPrimary goes from the node that was named to the primary of its records.
func (r *rejoining) findPrimary(ctx context.Context) error {
	info, err := r.named()
	if err != nil {
		return err
	}
	c, err := pg.Connect(ctx, info)
	if err != nil {
		return err
	}
	defer registry.Close(c)
	nodes, err := registered(ctx, c)
	if err != nil {
		return err
	}
	if _, found := cluster.Find(nodes, r.s.Conf.NodeID); !found {
		return fault.New(fault.BadConfig, "node %d is not registered there", r.s.Conf.NodeID).WithHint("is %s a node of this cluster?", info.Redacted())
	}
	others := make([]cluster.Node, 0, len(nodes))
	for _, n := range nodes {
		if n.ID != r.s.Conf.NodeID {
			others = append(others, n)
		}
	}
	if r.primary, r.conn, err = registry.FindPrimary(ctx, others); err != nil {
		return err
	}
	seen, err := r.conn.Server(ctx)
	if err != nil {
		return err
	}
	control, err := pg.ReadControl(ctx, r.s.Conf.PgBindir, r.s.Conf.DataDirectory)
	switch {
	case err != nil:
		return err
	case control.SystemID != seen.SystemID:
		return fault.New(fault.RejoinFail, "the local server and the primary are not of one cluster").
			WithDetail("system identifiers %s and %s", control.SystemID, seen.SystemID)
	}
	return nil
}

// named is how to reach the node that was named. What must not stand in a command line, as of
// a switchover by ssh, comes from the own conninfo, if that is of the same user.
func (r *rejoining) named() (pg.Conninfo, error) {
	info, err := r.s.given()
	if err != nil {
		return pg.Conninfo{}, err
	}
	own, err := r.s.Conninfo()
	if err != nil || own.Get("user") != info.Get("user") || r.s.Getenv("PGPASSWORD") != "" {
		return *info, nil
	}
	return info.WithSecretsOf(own), nil
}

// byDaemon hands the work to the local daemon, which does it by its own rules.
func (r *rejoining) byDaemon(ctx context.Context, view api.ClusterView) error {
	s := r.s
	if s.Conf.AutoRejoin == "off" {
		return fault.New(fault.RejoinFail, "the cluster is under the quorum rule, and auto_rejoin is off on this node").
			WithHint("set auto_rejoin and reload repmgrd; or \"repmgr standby clone --force\"")
	}
	if s.Opt.Given("config-files") {
		s.Talk.Info("--config-files makes no difference: the daemon keeps the server's configuration files")
	}
	text := fmt.Sprintf("the local repmgrd makes the server a standby of %s", named(r.primary))
	if s.Opt.DryRun {
		s.Talk.Info("would have it done: %s; it says now: %s", text, view.Decision.Why)
		return nil
	}
	c := api.DialUnix(s.Conf.StateDir())
	defer c.Close()
	if err := c.Rejoin(ctx); err != nil {
		return ops.Coded(err, fault.RejoinFail)
	}
	s.Talk.Notice("%s", text)
	return r.await(ctx)
}

// byHand brings the server back without a daemon's help.
func (r *rejoining) byHand(ctx context.Context) error {
	s := r.s
	if err := r.readHistory(ctx); err != nil {
		return err
	}
	relation, err := r.own.Compare(ctx, r.history)
	if err != nil {
		return err
	}
	where := fmt.Sprintf("it ends at %s on timeline %d", relation.Own.LSN, relation.Own.Timeline)
	rewind := s.Opt.Given("force-rewind")
	switch {
	case relation.Follows:
		s.Talk.Info("the server's history did not diverge from that of %s: it follows as it is (%s)", named(r.primary), where)
	case !rewind:
		return fault.New(fault.RejoinFail, "this server has what %s does not have", named(r.primary)).
			WithDetail("%d bytes of WAL lie beyond %s of timeline %d; %s.", relation.Beyond, relation.Fork.LSN, relation.Fork.Timeline, where).
			WithHint("--force-rewind lets pg_rewind discard that; or \"repmgr standby clone --force\"")
	}
	if s.Opt.DryRun {
		if !relation.Follows {
			control, err := pg.ReadControl(ctx, s.Conf.PgBindir, s.Conf.DataDirectory)
			if err == nil {
				err = server.CanRewind(control)
			}
			if err != nil {
				return ops.Coded(err, fault.RejoinFail)
			}
			s.Talk.Info("pg_rewind would discard %d bytes of WAL beyond %s of timeline %d", relation.Beyond, relation.Fork.LSN, relation.Fork.Timeline)
		}
		s.Talk.Info("the server would be started as a standby of %s; nothing was changed, since --dry-run was given", named(r.primary))
		return nil
	}
	if err := r.bringBack(ctx, relation); err != nil {
		return err
	}
	if err := r.own.Start(ctx); err != nil {
		return err
	}
	w := s.world()
	defer w.Close()
	if err := registry.Follow(ctx, w, registry.FollowRequest{Target: r.primary.ID, Silent: true}, s.tell); err != nil {
		return err
	}
	s.wakeDaemon(ctx)
	if err := r.await(ctx); err != nil {
		return err
	}
	r.announce(ctx, nil)
	return nil
}

// readHistory asks the primary for its timeline, and how that came about.
func (r *rejoining) readHistory(ctx context.Context) error {
	info, err := pg.ParseConninfo(r.primary.Conninfo)
	if err != nil {
		return err
	}
	repl, err := pg.ConnectReplication(ctx, info, r.primary.ReplUser)
	if err != nil {
		return err
	}
	defer func() { _ = repl.Close(context.WithoutCancel(ctx)) }()
	id, forks, err := repl.History(ctx)
	if err != nil {
		return err
	}
	r.history = server.NewHistory(id.Timeline, forks)
	r.history.End = id.Position
	return nil
}

// bringBack makes the server's WAL a part of the primary's history, and the server
// one that comes up read-only.
func (r *rejoining) bringBack(ctx context.Context, relation server.Relation) error {
	if relation.Follows {
		return r.own.Arm()
	}
	cfg := r.s.Conf
	if path := r.s.Opt.ForceRewind; path != "" {
		if dir := filepath.Dir(path); dir != filepath.Clean(cfg.PgBindir) && dir != "." {
			changed := *cfg
			changed.PgBindir = dir
			r.own.Config = &changed
		}
	}
	into := filepath.Join(cfg.StateDir(), fmt.Sprintf("diverged-%d-%016X-%016X", relation.Own.Timeline, uint64(relation.Fork.LSN), uint64(relation.Own.LSN)))
	kept, err := r.own.KeepDiverged(ctx, into, relation.Fork.LSN, relation.Own.Timeline, int64(cfg.RejoinKeepWAL)<<20)
	if err != nil {
		return err
	}
	source, err := pg.ParseConninfo(r.primary.Conninfo)
	if err != nil {
		return err
	}
	recovery, err := pg.ReadRecovery(cfg.DataDirectory)
	if err != nil {
		return err
	}
	// It answers nobody before it has replayed up to where the primary was when pg_rewind
	// ended, and that WAL comes from the primary: what was copied may end sooner.
	recovery.PrimarySlotName = ""
	if recovery.PrimaryConninfo, err = registry.PrimaryConninfo(r.primary, cfg.NodeName, cfg.Passfile); err != nil {
		return err
	}
	request := server.RewindRequest{Source: source, History: r.history, StateDir: cfg.StateDir(), Recovery: recovery}
	if s := r.s.Opt.ConfigFiles; s != "" {
		request.Keep = strings.Split(s, ",")
	}
	gone, err := r.own.Rewind(ctx, request)
	if err != nil {
		return err
	}
	r.s.Talk.Warning("%d commits in %d bytes of WAL that only this server had are discarded; that WAL is kept in %s", gone.Commits, gone.Bytes, kept.Path)
	return nil
}

// await waits until the node streams from the primary.
func (r *rejoining) await(ctx context.Context) error {
	s := r.s
	if s.Opt.NoWait {
		s.Talk.Notice("whether it streams is not waited for, since --no-wait was given")
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.Conf.NodeRejoinTimeout)
	defer cancel()
	for {
		at, _, err := r.conn.Attached(ctx, s.Conf.NodeName)
		if err == nil && at == pg.Attached {
			s.Talk.Notice("this node streams from %s", named(r.primary))
			return nil
		}
		select {
		case <-ctx.Done():
			return fault.Wrap(errors.Join(ctx.Err(), err), fault.RejoinFail, "this node does not stream from %s within node_rejoin_timeout", named(r.primary)).
				WithHint("it may still come; look into the logs of the server and of repmgrd")
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// announce records how it went.
func (r *rejoining) announce(ctx context.Context, failed error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
	defer cancel()
	e := registry.Event{Node: r.s.Conf.NodeID, Name: "node_rejoin", Successful: failed == nil, About: r.primary, Details: fmt.Sprintf("node %q (ID: %d) is a standby of %s", r.s.Conf.NodeName, r.s.Conf.NodeID, named(r.primary))}
	if failed != nil {
		e.Details = fmt.Sprintf("node %q (ID: %d) could not be made a standby of %s: %v", r.s.Conf.NodeName, r.s.Conf.NodeID, named(r.primary), failed)
	}
	if err := registry.Announce(ctx, r.conn, r.s.Conf, e); err != nil {
		r.s.warn(err)
	}
}
