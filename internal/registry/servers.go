package registry

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/ops"
	"repmgr/internal/pg"
)

// Bounds of what this package waits for where the configuration has none.
const (
	commandTimeout = 10 * time.Minute // for a service command or pg_ctl
	catchUpTimeout = 5 * time.Second  // for a standby upstream that is a moment behind
	longestPause   = 250 * time.Millisecond
	nudgeEvery     = 50 * time.Millisecond // a promotion that has not happened yet
)

// Slot looks for a replication slot.
func (w *World) Slot(ctx context.Context, on cluster.NodeID, name string) (ops.SlotState, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	c, err := w.to(ctx, on)
	if err != nil {
		return ops.SlotState{}, err
	}
	slots, err := c.Slots(ctx)
	for _, s := range slots {
		if s.Name == name {
			return ops.SlotState{Exists: true, Active: s.Active, Physical: s.Physical}, nil
		}
	}
	return ops.SlotState{}, err
}

// slotSession is a session that may make and drop slots: as the ordinary user,
// as the superuser, or as the replication user. Where none of them gets a
// session with the database, repl is a replication connection. Close both.
func (w *World) slotSession(ctx context.Context, on cluster.NodeID) (c *pg.Conn, repl *pg.ReplConn, err error) {
	info, user, err := w.wayTo(on)
	if err != nil {
		return nil, nil, err
	}
	if c, err = pg.Connect(ctx, info); err != nil {
		return nil, nil, err
	}
	p, err := c.Privileges(ctx)
	if err != nil || p.Superuser || p.Replication {
		return c, nil, err
	}
	Close(c)
	if w.opt.Superuser != "" {
		c, err = w.asSuperuser(ctx, info.String())
		return c, nil, err
	}
	if user == "" || user == p.Role {
		return nil, nil, fault.New(fault.DBQuery, "user %q may not create replication slots", p.Role).
			WithHint("as a superuser: ALTER ROLE %s REPLICATION; or name a replication_user, or a superuser with --superuser", p.Role)
	}
	repl, err = pg.ConnectReplication(ctx, info, user)
	return nil, repl, err
}

// wayTo is how a node is reached, and its replication user.
func (w *World) wayTo(id cluster.NodeID) (pg.Conninfo, string, error) {
	n, found := cluster.Find(w.nodes, id)
	if !found && id == ops.Source {
		return w.source, w.backup.User, nil
	}
	info, err := pg.ParseConninfo(n.Conninfo)
	return info, n.ReplUser, err
}

// withSlots runs one of both functions, by the session that was possible.
func (w *World) withSlots(ctx context.Context, on cluster.NodeID, sql func(context.Context, *pg.Conn) error, protocol func(context.Context, *pg.ReplConn) error) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	c, repl, err := w.slotSession(ctx, on)
	if err != nil {
		return err
	}
	if repl != nil {
		defer closeRepl(repl)
		return protocol(ctx, repl)
	}
	defer Close(c)
	return sql(ctx, c)
}

func closeRepl(r *pg.ReplConn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = r.Close(ctx)
}

// CreateSlot makes a physical slot that keeps WAL from now on.
func (w *World) CreateSlot(ctx context.Context, on cluster.NodeID, name string) error {
	return w.withSlots(ctx, on,
		func(ctx context.Context, c *pg.Conn) error { return c.CreateSlot(ctx, name) },
		func(ctx context.Context, r *pg.ReplConn) error {
			err := r.CreateSlot(ctx, name)
			if pg.Code(err) == "42710" { // it is there already
				return nil
			}
			return err
		})
}

// DropSlot removes a slot. A standby that has just left it may still be shown as
// its user for a moment.
func (w *World) DropSlot(ctx context.Context, on cluster.NodeID, name string) error {
	if on == w.opt.Lost && on != ops.Source {
		return nil
	}
	err := w.withSlots(ctx, on,
		func(ctx context.Context, c *pg.Conn) (err error) {
			poll(ctx, catchUpTimeout, longestPause, func(ctx context.Context) bool {
				err = dropSlot(ctx, c, name)
				return pg.Code(err) != "55006" // object_in_use
			})
			return err
		},
		func(ctx context.Context, r *pg.ReplConn) error { return r.DropSlot(ctx, name) })
	if err != nil {
		w.warn(fmt.Errorf("replication slot %q on node %d is left: %w", name, on, err))
	}
	return err
}

// dropSlot drops a slot if it is there; asking first keeps the server's log clean.
func dropSlot(ctx context.Context, c *pg.Conn, name string) error {
	slots, err := c.Slots(ctx)
	if err != nil {
		return err
	}
	for _, s := range slots {
		if s.Name == name {
			return c.DropSlot(ctx, name)
		}
	}
	return nil
}

// InRecovery tells whether the local server is a standby.
func (w *World) InRecovery(ctx context.Context) (bool, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	c, err := w.local.open(ctx)
	if err != nil {
		return false, err
	}
	s, err := c.Server(ctx)
	return s.InRecovery, err
}

// Promotes tells whether the local server has read an order to promote it, and goes on with that.
func (w *World) Promotes(ctx context.Context) (bool, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	c, err := w.local.open(ctx)
	if err != nil {
		return false, err
	}
	return c.Promotes(ctx)
}

// Promote makes the local server a primary and waits until it is one.
func (w *World) Promote(ctx context.Context, p ops.Promotion) error {
	if err := w.orderPromotion(ctx, p); err != nil {
		return err
	}
	return w.AwaitPromotion(ctx, p)
}

// AwaitPromotion waits until the local server, which was told to promote, is a primary.
func (w *World) AwaitPromotion(ctx context.Context, p ops.Promotion) error {
	var last error
	nudged := time.Now()
	promoted := poll(ctx, p.Timeout, min(p.Interval, longestPause), func(ctx context.Context) bool {
		recovering, err := w.InRecovery(ctx)
		last = err
		if recovering && time.Since(nudged) >= nudgeEvery {
			nudged = time.Now()
			if err := host.NudgePromotion(w.cfg.DataDirectory); err != nil {
				w.opt.Warn(fmt.Errorf("nudge the promotion: %w", err)) // it goes on by itself, later
			}
		}
		return err == nil && !recovering
	})
	switch {
	case promoted:
		return nil
	case last != nil:
		return fault.Wrap(last, fault.DBConn, "the connection was lost while the server was promoted").
			WithHint("look into the server's log, and ask \"repmgr node status\" what it is now")
	default:
		return fault.New(fault.PromotionFail, "the server is still a standby").
			WithDetail("waited %s", p.Timeout).
			WithHint("the order stays in force: look into the server's log; promote_check_timeout may be raised")
	}
}

func (w *World) orderPromotion(ctx context.Context, p ops.Promotion) error {
	if p.Command != "" {
		return runCommand(ctx, p.Command, fault.PromotionFail, "promote the server")
	}
	c, err := w.local.open(ctx)
	if err != nil {
		return err
	}
	return c.Promote(ctx)
}

// runCommand runs a line of the shell that must succeed.
func runCommand(ctx context.Context, line string, code fault.Code, what string) error {
	r, err := host.Run(ctx, host.Cmd{Shell: line, Timeout: commandTimeout, OutputTo: ""})
	if err != nil {
		return fault.Wrap(err, code, "could not %s", what)
	}
	if !r.OK() {
		return fault.New(code, "could not %s", what).
			WithDetail("%s: it %s; %s", line, r, firstLine(r.Stderr, r.Stdout)).
			WithHint("run the command by hand to see more, and look into the server's log")
	}
	return nil
}

// firstLine is the first line of the first text that has one.
func firstLine(texts ...string) string {
	for _, t := range texts {
		for i, r := range t {
			if r == '\n' {
				return t[:i]
			}
		}
		if t != "" {
			return t
		}
	}
	return "it said nothing"
}

// ctl is pg_ctl for the local server.
func ctl(cfg *conf.Config) pg.Ctl {
	dir := cfg.DataDirectory
	if cfg.ConfigDirectory != "" {
		dir = cfg.ConfigDirectory
	}
	return pg.Ctl{Bindir: toolDir(cfg), Dir: dir, Options: cfg.PgCtlOptions}
}

// toolDir is pg_bindir, or where the programs of the data directory's version are.
func toolDir(cfg *conf.Config) string {
	if cfg.PgBindir != "" {
		return cfg.PgBindir
	}
	if path, err := pg.FindTool("", cfg.DataDirectory, "pg_ctl"); err == nil {
		return filepath.Dir(path)
	}
	return ""
}

// Recovery reads the local settings for following. A password that would be
// written again is not shown.
func (w *World) Recovery(context.Context) (ops.Recovery, error) {
	r, err := pg.ReadRecovery(w.cfg.DataDirectory)
	if err != nil {
		return ops.Recovery{}, err
	}
	info, err := pg.ParseConninfo(r.PrimaryConninfo)
	if err != nil {
		return ops.Recovery(r), nil // what cannot be read is written anew
	}
	if info.Get("password") == w.passwordFor() {
		r.PrimaryConninfo = info.Without("password").String()
	}
	return ops.Recovery(r), nil
}

// WriteRecovery writes the local settings for following, with the password
// where one belongs there.
func (w *World) WriteRecovery(_ context.Context, r ops.Recovery) error {
	was, err := pg.ReadRecovery(w.cfg.DataDirectory)
	if err != nil {
		return err
	}
	to, err := w.withPassword(r)
	if err != nil {
		return err
	}
	if err := pg.WriteRecovery(w.cfg.DataDirectory, to); err != nil {
		return err
	}
	w.replaced = &was
	return pg.WriteStandbySignal(w.cfg.DataDirectory)
}

// RestoreRecovery puts back what WriteRecovery replaced.
func (w *World) RestoreRecovery(context.Context) error {
	if w.replaced == nil {
		return nil
	}
	return pg.WriteRecovery(w.cfg.DataDirectory, *w.replaced)
}

// withPassword adds the password of primary_conninfo.
func (w *World) withPassword(r ops.Recovery) (pg.Recovery, error) {
	password := w.passwordFor()
	if password == "" {
		return pg.Recovery(r), nil
	}
	info, err := pg.ParseConninfo(r.PrimaryConninfo)
	if err != nil {
		return pg.Recovery{}, err
	}
	r.PrimaryConninfo = info.With("password", password).String()
	return pg.Recovery(r), nil
}

// passwordFor is the password that belongs into primary_conninfo: that of the
// upstream's conninfo if it is the same user's, else that of the environment
// where use_primary_conninfo_password asks for it.
func (w *World) passwordFor() string {
	if w.upstream != nil {
		info, err := pg.ParseConninfo(w.upstream.Conninfo)
		if err == nil && info.Get("password") != "" && (w.upstream.ReplUser == "" || w.upstream.ReplUser == info.Get("user")) {
			return info.Get("password")
		}
	}
	if w.cfg.UsePrimaryConninfoPassword {
		return w.opt.Password
	}
	return ""
}

// PrimaryConninfo is how node reaches its upstream for replication, without a
// password: what the upstream's own conninfo says, less what is only meant for
// sessions, with the upstream's replication user and the application_name given.
// Streaming ignores the database; from PostgreSQL 17 on the worker that keeps logical
// slots in step logs in there (manual, "Replication Slot Synchronization").
func PrimaryConninfo(upstream cluster.Node, name, passfile string) (string, error) {
	info, err := pg.ParseConninfo(upstream.Conninfo)
	if err != nil {
		return "", fmt.Errorf("conninfo of node %q: %w", upstream.Name, err)
	}
	info = info.Without("replication", "password", "passfile", "servicefile", "options",
		"application_name", "fallback_application_name", "target_session_attrs", "load_balance_hosts", "client_encoding")
	if upstream.ReplUser != "" {
		info = info.With("user", upstream.ReplUser)
	}
	info = info.With("application_name", name)
	if passfile != "" {
		info = info.With("passfile", passfile)
	}
	return info.String(), nil
}

// recoveryFor is the settings that make the local server follow upstream.
func (w *World) recoveryFor(upstream cluster.Node) (ops.Recovery, error) {
	name := w.opt.StandbyName
	if name == "" {
		name = w.cfg.NodeName
	}
	text, err := PrimaryConninfo(upstream, name, w.cfg.Passfile)
	if err != nil {
		return ops.Recovery{}, err
	}
	r := ops.Recovery{PrimaryConninfo: text, RestoreCommand: w.cfg.RestoreCommand,
		ArchiveCleanupCommand: w.cfg.ArchiveCleanupCommand}
	if w.cfg.UseReplicationSlots {
		r.PrimarySlotName = SlotName(w.cfg.NodeID)
	}
	if w.cfg.RecoveryMinApplyDelay != conf.Unset {
		r.RecoveryMinApplyDelay = fmt.Sprintf("%dms", w.cfg.RecoveryMinApplyDelay.Milliseconds())
	}
	w.upstream = &upstream
	return r, nil
}

// PointAt makes the local server, which does not run, one that follows upstream when it
// is started. It may only be called for one whose history is upstream's.
func (w *World) PointAt(ctx context.Context, upstream cluster.Node) error {
	r, err := w.recoveryFor(upstream)
	if err != nil {
		return err
	}
	if r.PrimarySlotName != "" {
		w.nodes = []cluster.Node{upstream}
		if err := w.CreateSlot(ctx, upstream.ID, r.PrimarySlotName); err != nil {
			return err
		}
	}
	return w.WriteRecovery(ctx, r)
}

// Activate lets the local server take its settings.
func (w *World) Activate(ctx context.Context, restart bool) error {
	d, err := host.DirectoryState(w.cfg.DataDirectory)
	if err != nil {
		return err
	}
	pgctl := ctl(w.cfg)
	switch {
	case !d.InUse():
		return w.service(ctx, w.cfg.ServiceStartCommand, pgctl.Start("", time.Minute), "start the server")
	case restart:
		w.local.drop()
		return w.service(ctx, w.cfg.ServiceRestartCommand, pgctl.Restart(pg.Fast, time.Minute), "restart the server")
	}
	err = w.service(ctx, w.cfg.ServiceReloadCommand, pgctl.Reload(), "reload the server's settings")
	if err == nil {
		return nil
	}
	w.warn(fmt.Errorf("%w; the server is restarted instead", err))
	w.local.drop()
	return w.service(ctx, w.cfg.ServiceRestartCommand, pgctl.Restart(pg.Fast, time.Minute), "restart the server")
}

// service runs the configured command, or pg_ctl's. What it starts keeps its
// outputs open, so that they are not waited for.
func (w *World) service(ctx context.Context, configured, line, what string) error {
	if configured != "" {
		line = configured
	}
	r, err := host.Run(ctx, host.Cmd{Shell: line, Timeout: commandTimeout, OutputTo: "/dev/null"})
	if err != nil {
		return fault.Wrap(err, fault.NoRestart, "could not %s", what)
	}
	if !r.OK() {
		return fault.New(fault.NoRestart, "could not %s", what).
			WithDetail("%s: it %s", line, r).
			WithHint("run the command by hand to see more, and look into the server's log")
	}
	return nil
}

// Attached tells whether the local server streams from a node.
func (w *World) Attached(ctx context.Context, to cluster.NodeID) (bool, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	c, err := w.to(ctx, to)
	if err != nil {
		return false, err
	}
	a, _, err := c.Attached(ctx, w.cfg.NodeName)
	return a == pg.Attached, err
}

// WaitAttached waits until the upstream streams to the local server, and the
// local server receives the upstream's timeline.
func (w *World) WaitAttached(ctx context.Context, to cluster.NodeID, timeout time.Duration) error {
	var seen string
	attached := poll(ctx, timeout, longestPause, func(ctx context.Context) bool {
		var ok bool
		ok, seen = w.streamsFrom(ctx, to)
		return ok
	})
	if attached {
		return nil
	}
	if ctx.Err() != nil {
		return fault.Wrap(ctx.Err(), fault.FollowFail, "the wait for the standby was broken off")
	}
	return fault.New(fault.FollowFail, "the standby has not attached to node %d", to).
		WithDetail("waited %s (standby_follow_timeout); %s", timeout, seen).
		WithHint("its settings name that node, and it goes on trying: look into this server's log; check pg_hba.conf of that node, and the password file")
}

// streamsFrom looks at both ends of the connection.
func (w *World) streamsFrom(ctx context.Context, to cluster.NodeID) (ok bool, seen string) {
	up, err := w.to(ctx, to)
	if err != nil {
		return false, "the upstream cannot be reached: " + err.Error()
	}
	a, state, err := up.Attached(ctx, w.cfg.NodeName)
	if err != nil {
		return false, err.Error()
	}
	if a != pg.Attached {
		return false, fmt.Sprintf("the upstream shows no streaming connection of %q (%s %s)", w.cfg.NodeName, a, state)
	}
	c, err := w.local.open(ctx)
	if err != nil {
		return false, "this server cannot be reached: " + err.Error()
	}
	p, err := c.Progress(ctx)
	switch {
	case err != nil:
		return false, err.Error()
	case !p.Receiving:
		return false, "this server has no WAL receiver"
	case p.ReceiverStatus != "" && w.follows != 0 && p.Timeline != w.follows:
		return false, fmt.Sprintf("this server receives timeline %d, the upstream is on %d", p.Timeline, w.follows)
	}
	return true, ""
}
