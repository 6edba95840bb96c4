package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/pg"
	"repmgr/internal/record"
	"repmgr/internal/registry"
	"repmgr/internal/server"
)

// Rejoin has the own server, which an operator stopped, made a standby by the rules
// by which one is that this daemon ended. Tries are counted anew.
func (b backend) Rejoin(context.Context) error {
	seen := b.d.shared.load()
	if seen.report.PromotionRule != record.Quorum {
		return fault.New(fault.RejoinFail, "the quorum rule is not in force: the daemon brings no server back").
			WithHint("stop repmgrd on this node, and run the command again")
	}
	switch seen.local.State {
	case failover.ServerStopped, failover.ServerCrashed, failover.ServerFenced:
	default:
		return fault.New(fault.RejoinFail, "the local server is %s, and only one that is down comes back as a standby", seen.local.State).
			WithHint("stop it first: repmgr node service --action=stop")
	}
	b.d.endsServer()()
	b.d.send(observed{failover.RejoinsKept{}})
	b.d.eyes.kick()
	return nil
}

// rejoin makes the own server a standby of the primary again: as it is, if its
// history did not diverge; else rewound; else cloned anew, if that is allowed or
// the rewind was broken off.
func (d *Daemon) rejoin(ctx context.Context, cfg *conf.Config, a failover.Rejoin) error {
	up, ok := cluster.Find(d.peers.nodes(), a.Upstream)
	if !ok {
		return fault.New(fault.RejoinFail, "node %d is not registered", a.Upstream)
	}
	rec, _ := d.quorum.known()
	if rec.Term != a.Term {
		return fault.New(fault.RejoinFail, "node %d was the primary in term %d, it is term %d", a.Upstream, a.Term, rec.Term)
	}
	history, err := historyOf(rec.Line())
	if err != nil {
		return err
	}
	own := d.ownServer()
	// On disk before the stop: a daemon that did not know would leave a server alone that was
	// stopped in order, be it here or within a rewind.
	defer d.endsServer()()
	if err := d.peers.remember(func(r *remembered) { r.Ended, r.Rejoins = true, r.Rejoins+1 }); err != nil {
		return err
	}
	if running, err := host.Processes(cfg.DataDirectory); err == nil && len(running) > 0 {
		if err := own.Stop(ctx, pg.Fast); err != nil {
			return err
		}
	}
	// Recorded before a rewind, the record is among what the server has when it
	// answers first: an older one would make it look as if it followed nobody.
	unrecorded := d.recordReturn(ctx, cfg, up)
	if unrecorded != nil {
		d.complain(slog.LevelWarn, unrecorded) // it is tried again at the end
	}
	// What was offered is no longer what the server has: judged by an old seal, a
	// server that was rewound would be taken for a diverged one for ever.
	if err := d.forgetSeal(); err != nil {
		return err
	}
	err = d.bringBack(ctx, own, up, history, a.Name)
	if err != nil && ctx.Err() == nil && mayClone(cfg) {
		d.log.Warn("the server cannot be rewound, it is cloned anew: " + err.Error())
		err = d.cloneAnew(ctx, up)
	}
	if err == nil {
		err = d.guardian.letStart(ctx)
	}
	if err == nil {
		err = own.Start(ctx)
	}
	if err == nil {
		d.noteEnded(false) // it runs: who stops it from now on has not been this daemon
	}
	if err == nil && unrecorded != nil {
		err = d.recordReturn(ctx, cfg, up)
	}
	e := event{name: "repmgrd_rejoin", about: up, details: fmt.Sprintf("node %q (ID: %d) is a standby of node %q (ID: %d) again", cfg.NodeName, cfg.NodeID, up.Name, up.ID)}
	if err != nil {
		e.failed, e.details = true, fmt.Sprintf("node %q (ID: %d) could not be made a standby of node %q (ID: %d): %s", cfg.NodeName, cfg.NodeID, up.Name, up.ID, err)
	}
	d.announce(e)
	return err
}

// mayClone tells whether a server that cannot be rewound is cloned anew. What a rewind that
// was broken off has left is of no use but for that: its source was lost in the middle of it,
// and nobody but an operator would make the node a standby again.
func mayClone(cfg *conf.Config) bool {
	torn, err := server.RewindInterrupted(cfg.StateDir())
	return cfg.AutoRejoin == "clone" || err == nil && torn
}

// bringBack makes the stopped server's WAL a part of the primary's history. What is
// discarded is kept and counted first. One that is a part of it already is pointed
// there, under that application_name; another once it runs, like any other.
func (d *Daemon) bringBack(ctx context.Context, own server.Own, up cluster.Node, history server.History, name string) error {
	cfg := own.Config
	if broken, err := server.RewindInterrupted(cfg.StateDir()); err != nil || broken {
		return errors.Join(err, fault.New(fault.RejoinFail, "an earlier rewind was broken off: the server has to be cloned"))
	}
	relation, err := own.Compare(ctx, history)
	if err != nil {
		return err
	}
	conninfo, err := registry.PrimaryConninfo(up, cfg.NodeName, cfg.Passfile)
	if err != nil {
		return err
	}
	source, err := pg.ParseConninfo(up.Conninfo)
	if err != nil {
		return err
	}
	recovery, err := pg.ReadRecovery(cfg.DataDirectory)
	if err != nil {
		return err
	}
	recovery.PrimaryConninfo, recovery.PrimarySlotName = conninfo, ""
	if relation.Follows {
		d.notice("the server's history did not diverge: it follows as it is", "detail", fmt.Sprintf("it ends at %s on timeline %d", relation.Own.LSN, relation.Own.Timeline))
		w := d.world(cfg, 0, name)
		defer w.Close()
		if err := w.PointAt(ctx, up); err != nil {
			d.complain(slog.LevelWarn, err)
			return own.Arm()
		}
		return nil
	}
	d.notice(fmt.Sprintf("the server's history diverged: %d bytes lie beyond %s of timeline %d", relation.Beyond, relation.Fork.LSN, relation.Fork.Timeline))
	// The name is the same for each try, so that one copy is made.
	into := filepath.Join(cfg.StateDir(), fmt.Sprintf("diverged-%d-%016X-%016X", relation.Own.Timeline, uint64(relation.Fork.LSN), uint64(relation.Own.LSN)))
	limit := int64(cfg.RejoinKeepWAL) << 20
	kept, err := own.KeepDiverged(ctx, into, relation.Fork.LSN, relation.Own.Timeline, limit)
	if err != nil {
		return err
	}
	all, _ := filepath.Glob(filepath.Join(cfg.StateDir(), "diverged-*")) // the pattern is right
	removed, err := server.KeepNewest(all, into, limit)
	if err != nil {
		d.complain(slog.LevelWarn, err)
	}
	for _, path := range removed {
		d.notice("the oldest WAL that was kept is removed, to stay within rejoin_keep_wal", "detail", path)
	}
	gone, err := own.Rewind(ctx, server.RewindRequest{Source: source, History: history, StateDir: cfg.StateDir(), Recovery: recovery})
	if err != nil {
		return err
	}
	d.tellDiscarded(cfg, up, gone, kept)
	return nil
}

// tellDiscarded writes what was thrown away to the log and the events: nothing
// is lost silently.
func (d *Daemon) tellDiscarded(cfg *conf.Config, up cluster.Node, gone server.Discarded, kept server.Kept) {
	text := fmt.Sprintf("%d commits in %d bytes of WAL that only node %q (ID: %d) had were discarded; the WAL is kept in %s", gone.Commits, gone.Bytes, cfg.NodeName, cfg.NodeID, kept.Path)
	if kept.Truncated {
		text += " up to rejoin_keep_wal"
	}
	d.log.Warn(text)
	for i, x := range gone.Xacts {
		if i == 20 {
			d.log.Warn(fmt.Sprintf("... and %d more", len(gone.Xacts)-i))
			break
		}
		d.log.Warn(fmt.Sprintf("discarded: transaction %d, committed at %s, %s", x.XID, x.At.Format(time.RFC3339Nano), x.LSN))
	}
	if n := len(gone.Xacts); n > 0 {
		text += fmt.Sprintf("; transactions %d (%s, %s) to %d (%s, %s)", gone.Xacts[0].XID, gone.Xacts[0].LSN, gone.Xacts[0].At.Format(time.RFC3339),
			gone.Xacts[n-1].XID, gone.Xacts[n-1].LSN, gone.Xacts[n-1].At.Format(time.RFC3339))
	}
	d.announce(event{name: "repmgrd_commits_discarded", about: up, failed: gone.Commits > 0, details: text})
}

// cloneAnew runs what an operator would run. The server keeps its configuration.
func (d *Daemon) cloneAnew(ctx context.Context, up cluster.Node) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	own := d.ownServer()
	if err := own.BeginClone(); err != nil {
		return err
	}
	line := pg.QuoteAll([]string{filepath.Join(filepath.Dir(exe), "repmgr"), "-f", d.opt.ConfigFile, "-d", up.Conninfo, "standby", "clone", "--force"})
	if err := d.command(ctx, "standby clone", line, up.ID); err != nil {
		return err
	}
	return own.EndClone()
}

// recordReturn makes the records say that this node is a standby of the lease's holder: the own
// record may be that of the primary yet.
func (d *Daemon) recordReturn(ctx context.Context, cfg *conf.Config, up cluster.Node) error {
	return inThat(ctx, up, func(ctx context.Context, c *pg.Conn) error {
		if err := d.recordPrimary(ctx, c, up); err != nil {
			return err
		}
		return recordAsStandby(ctx, c, cfg, up)
	})
}

// recordAsStandby makes the own record say what this node is now.
func recordAsStandby(ctx context.Context, c *pg.Conn, cfg *conf.Config, up cluster.Node) error {
	self, err := registry.Node(ctx, c, cfg.NodeID)
	if err != nil {
		return err
	}
	if self.Role == cluster.Witness {
		return nil
	}
	self.Role, self.Upstream, self.Active = cluster.Standby, up.ID, true
	return registry.SaveNode(ctx, c, self)
}
