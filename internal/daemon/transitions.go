package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/pg"
	"repmgr/internal/registry"
)

var pid = os.Getpid()

// seen is what the last turn looked like, to tell what has changed since.
type seen struct {
	started   bool
	server    failover.ServerState
	role      cluster.Role
	upstream  cluster.NodeID
	lost      bool
	lostAt    time.Time
	manual    bool
	barred    string
	statusAt  time.Time
	historyAt time.Time
	copiedAt  time.Time
	downAt    time.Time
	full      bool
}

// transitions records what has changed since the last turn: events, the own
// record's active flag, the periodic writing of history and of the status line.
func (d *Daemon) transitions(now time.Time) {
	v, s := d.loop.view, &d.loop.seen
	self, known := cluster.Find(v.Nodes, v.Self)
	if !known || v.Local.At.IsZero() {
		return
	}
	running := v.Local.State == failover.ServerRunning
	if !s.started && (running || v.Local.State == failover.ServerNone) {
		s.started, s.server, s.role = true, v.Local.State, v.Local.Role
		d.announce(event{name: "repmgrd_start", details: d.startDetails(self)})
		d.activate(self)
	}
	if s.started {
		d.serverTransition(self, now)
		d.roleTransition(self)
		d.upstreamTransition(self, now)
	}
	d.diskTransition(self)
	if manual := d.loop.decision.Rule == "follow-is-manual"; manual != s.manual {
		s.manual = manual
		if manual {
			d.announce(event{name: "standby_disconnect_manual", details: d.loop.decision.Why})
		}
	}
	d.eligibility(self)
	if every := d.cfg.LogStatusInterval; every > 0 && now.Sub(s.statusAt) >= every {
		if !s.statusAt.IsZero() {
			d.log.Info(d.statusLine(self))
		}
		s.statusAt = now
	}
	if running {
		d.periodic(self, now)
	}
}

// diskTransition tells of a disk that is full, and of its end.
func (d *Daemon) diskTransition(self cluster.Node) {
	l, s := d.loop.view.Local, &d.loop.seen
	if l.Full == s.full {
		return
	}
	s.full = l.Full
	about := fmt.Sprintf("of node %q (ID: %d), where %d MB are left", self.Name, self.ID, l.Room>>20)
	if !l.Full {
		d.notice("the disk " + about + ", is no longer full")
		d.announce(event{name: "repmgrd_disk_full", details: "the disk " + about + ", is no longer full"})
		return
	}
	d.log.Error("the disk is full "+about, "hint", "Free space where the data directory, pg_wal and the tablespaces are. See primary_write_timeout for when a standby with room takes over.")
	d.announce(event{name: "repmgrd_disk_full", failed: true, details: "the disk is full " + about})
}

// eligibility tells when something of the own server begins to forbid a promotion, or
// does so no more.
func (d *Daemon) eligibility(self cluster.Node) {
	why, s := d.loop.view.Barred(), &d.loop.seen
	if why == s.barred {
		return
	}
	s.barred = why
	if why == "" {
		d.announce(event{name: "repmgrd_ineligible", details: fmt.Sprintf("node %q (ID: %d) may be promoted again: nothing of its server forbids it", self.Name, self.ID)})
		return
	}
	hint := "Remove the setting, and restart the server."
	if d.loop.view.Local.Torn {
		hint = "It is cloned when there is a primary, unless auto_rejoin=off; or clone it: repmgr standby clone --force."
	}
	d.log.Warn("this node cannot be promoted: "+why, "hint", hint)
	d.announce(event{name: "repmgrd_ineligible", failed: true, details: fmt.Sprintf("node %q (ID: %d) cannot be promoted: %s", self.Name, self.ID, why)})
}

func (d *Daemon) startDetails(self cluster.Node) string {
	if self.Role == cluster.Primary {
		return fmt.Sprintf("monitoring cluster primary %q (ID: %d)", self.Name, self.ID)
	}
	up, _ := cluster.Find(d.loop.view.Nodes, self.Upstream)
	return fmt.Sprintf("monitoring connection to upstream node %q (ID: %d)", up.Name, up.ID)
}

func (d *Daemon) statusLine(self cluster.Node) string {
	state := d.shared.load().report.State
	if d.loop.view.Local.Role == cluster.Primary && self.Role != cluster.Witness {
		return fmt.Sprintf("monitoring primary node %q (ID: %d) in %s state", self.Name, self.ID, state)
	}
	up, _ := cluster.Find(d.loop.view.Nodes, self.Upstream)
	return fmt.Sprintf("node %q (ID: %d) monitoring upstream node %q (ID: %d) in %s state", self.Name, self.ID, up.Name, up.ID, state)
}

// serverTransition tells of the own server's going and coming.
func (d *Daemon) serverTransition(self cluster.Node, now time.Time) {
	v, s := d.loop.view, &d.loop.seen
	was := s.server
	s.server = v.Local.State
	running, ran := v.Local.State == failover.ServerRunning, was == failover.ServerRunning
	switch {
	case ran && !running:
		s.downAt = now
		if s.role == cluster.Primary && self.Role != cluster.Witness {
			d.announce(event{name: "repmgrd_local_disconnect", unkept: true, details: fmt.Sprintf("the local node is %s", v.Local.State)})
			return
		}
		d.announce(event{name: "standby_failure", failed: true, details: fmt.Sprintf("connection to local node %q (ID: %d) lost: it is %s", self.Name, self.ID, v.Local.State)})
		d.setActive(self, false)
	case !ran && running:
		if s.role == cluster.Primary && self.Role != cluster.Witness && v.Local.Role == cluster.Primary {
			d.announce(event{name: "repmgrd_local_reconnect", details: fmt.Sprintf("reconnected to primary node after %s", now.Sub(s.downAt).Round(time.Second))})
		} else if s.role != cluster.Primary || self.Role == cluster.Witness {
			d.announce(event{name: "standby_recovery", details: fmt.Sprintf("connection to local node %q (ID: %d) restored", self.Name, self.ID)})
			d.setActive(self, true)
		}
	}
}

func (d *Daemon) setActive(self cluster.Node, active bool) {
	if self.Role == cluster.Primary && d.loop.view.Local.Role != cluster.Standby {
		return // a former primary that came back as a standby is one, before its record is read again
	}
	d.notifier.add(errand{name: "the record's active flag", do: func(ctx context.Context, conn *pg.Conn) error {
		if conn == nil {
			return nil // nobody takes writes now; the flag is set again when the server comes and goes
		}
		return registry.SetActive(ctx, conn, self.ID, active)
	}})
}

// roleTransition tells of a promotion and of a former primary's return as a standby.
func (d *Daemon) roleTransition(self cluster.Node) {
	v, s := d.loop.view, &d.loop.seen
	if v.Local.State != failover.ServerRunning || v.Local.Role == s.role || self.Role == cluster.Witness {
		return
	}
	was := s.role
	s.role = v.Local.Role
	switch {
	case was == cluster.Standby && s.role == cluster.Primary:
		d.announce(event{name: "repmgrd_reload", details: fmt.Sprintf("monitoring cluster primary %q (ID: %d)", self.Name, self.ID)})
	case was == cluster.Primary && s.role == cluster.Standby:
		d.announce(event{name: "repmgrd_standby_reconnect", details: fmt.Sprintf("node %q (ID: %d) is back as a standby", self.Name, self.ID)})
	}
	if s.role == cluster.Standby && d.peers.fencedBy() != 0 {
		if err := d.peers.remember(func(r *remembered) { r.FencedBy = 0 }); err != nil {
			d.complain(slog.LevelWarn, err)
		}
	}
}

// upstreamTransition tells of the upstream's loss and return.
func (d *Daemon) upstreamTransition(self cluster.Node, now time.Time) {
	v, s := d.loop.view, &d.loop.seen
	lost := failover.Degraded(v, now)
	if lost == s.lost {
		return
	}
	s.lost = lost
	if lost {
		s.upstream, s.lostAt = self.Upstream, now
	}
	up, _ := cluster.Find(v.Nodes, s.upstream)
	switch {
	case lost:
		d.announce(event{name: "repmgrd_upstream_disconnect", unkept: up.Role != cluster.Standby, failed: true, about: up,
			details: fmt.Sprintf("unable to connect to upstream node %q (ID: %d)", up.Name, up.ID)})
	case self.Upstream == s.upstream && v.Local.Role != cluster.Primary:
		d.announce(event{name: "repmgrd_upstream_reconnect", about: up,
			details: fmt.Sprintf("reconnected to upstream node %q (ID: %d) after %s", up.Name, up.ID, now.Sub(s.lostAt).Round(time.Second))})
		s.lostAt = time.Time{}
	default:
		s.lostAt = time.Time{}
	}
}

// periodic does what is due every so often: a standby's monitoring history, and
// a witness's copy of the records.
func (d *Daemon) periodic(self cluster.Node, now time.Time) {
	v, s := d.loop.view, &d.loop.seen
	if self.Role == cluster.Witness && now.Sub(s.copiedAt) >= d.cfg.WitnessSyncInterval {
		s.copiedAt = now
		d.notifier.add(errand{name: "the witness's copy of the records", do: d.copyNodes})
	}
	if d.cfg.MonitoringHistory && v.Local.Role == cluster.Standby && now.Sub(s.historyAt) >= d.cfg.MonitorInterval && !s.lost {
		s.historyAt = now
		d.notifier.add(errand{name: "monitoring history", do: d.writeHistory})
	}
}

// copyNodes brings the witness's records up to date.
func (d *Daemon) copyNodes(ctx context.Context, primary *pg.Conn) error {
	if primary == nil {
		return nil
	}
	own, err := d.own(ctx, d.notifier.cfg.Load())
	if err != nil {
		return err
	}
	defer registry.Close(own)
	return registry.CopyNodes(ctx, primary, own)
}

// writeHistory adds a row to repmgr.monitoring_history.
func (d *Daemon) writeHistory(ctx context.Context, primary *pg.Conn) error {
	if primary == nil {
		return nil
	}
	own, err := d.own(ctx, d.notifier.cfg.Load())
	if err != nil {
		return err
	}
	defer registry.Close(own)
	there, err := primary.Progress(ctx)
	if err != nil {
		return err
	}
	here, err := own.Progress(ctx)
	if err != nil {
		return err
	}
	nodes, err := registry.Nodes(ctx, primary)
	if err != nil {
		return err
	}
	sample := registry.Sample{Standby: d.loop.view.Self, Applied: here.LastReplayAt, PrimaryLSN: there.Written, StandbyLSN: here.Received,
		ReplicationLag: max(0, int64(there.Written)-int64(here.Received)), ApplyLag: max(0, int64(here.Received)-int64(here.Replayed))}
	for _, n := range nodes {
		if n.Role == cluster.Primary && n.Active {
			sample.Primary = n.ID
		}
	}
	return registry.AddMonitoring(ctx, primary, sample)
}
