package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
	"repmgr/internal/ops"
	"repmgr/internal/pg"
	"repmgr/internal/record"
	"repmgr/internal/registry"
)

// Bounds and pauses of a switchover, beside those of the configuration.
const (
	requestTimeout = 5 * time.Second       // for a majority to agree
	recordEvery    = 20 * time.Millisecond // between two looks at the next primary's health
	recordEach     = 10                    // of these looks goes to the record, which takes a host more to tell
	healthWithin   = 500 * time.Millisecond
	followEvery    = 50 * time.Millisecond // between two looks at who follows
	unpausedWithin = 10 * time.Second      // for the holder to take a lease with a limit again
	stuckAfter     = 30 * time.Second      // beyond what the parameters bound
)

func switchoverVerb() verb {
	return verb{
		name:  "standby switchover",
		short: "make a standby the primary, and the primary a standby",
		long: `Exchanges the roles of the primary and of this node's standby, or of the one that --node-id or --node-name names; it may be run on any node. The daemons carry it out, without ssh. Where the daemon of either does not answer, and the quorum rule is surely not in force, it is done by ssh, as told below.

Every node is looked at first, all at once. Under the quorum rule the request then becomes a fact that a majority has. The primary's daemon makes a checkpoint, stops the server in order, waits until the standby has the last byte of its WAL, and hands its lease over; the standby is promoted, the former primary follows it as it is, and so do the others. Nothing is lost, with synchronous replication or without.

Each step is bounded (shutdown_check_timeout, wal_receive_check_timeout), and until the lease is handed over each is undone: if the standby vanishes or does not get everything, the primary is started again as the primary that it was.

Without the quorum rule, as with two nodes, failover is paused meanwhile, and the primary's daemon asks the standby's to promote its server when that has everything. It is undone until that daemon has begun; where nobody knows whether it has, the former primary stays stopped, so that two never take writes. Other standbys are told to follow with --siblings-follow.

By ssh it is run on the standby itself. repmgr on the primary's host stops the server in order and tells where its WAL ends; when the standby has everything, and that host says once more that its server is stopped for this switchover, the standby is promoted, and "node rejoin" there, "standby follow" on the others with --siblings-follow, are run by ssh. If the primary does not stop, or the standby does not get everything, the primary is started again. Daemons that run are paused meanwhile; one that may run and cannot be paused is a reason to refuse. If this command is killed the primary's host starts its server again by itself, or "repmgr node service --action=start --take-back" there does.

With --force the checks that only say that it may take longer, or leave something undone, do not stop it. A standby that may not be promoted (a witness, priority 0, failover=manual), that is not attached to the primary or lacks more than 16 MiB of its WAL is always refused.

Ends with 18 if the primary is the one that it was, or another than was asked for, and with 22 if the new one takes writes and a former primary or sibling does not follow it yet.`,
		example: `repmgr -f /etc/repmgr.conf standby switchover --dry-run
repmgr -f /etc/repmgr.conf standby switchover
repmgr -f /etc/repmgr.conf standby switchover --node-name=node3 --at 03:30    # waits here until then`,
		options: []string{"dry-run", "force", "node-id", "node-name", "superuser", "at", "siblings-follow", "force-rewind", "always-promote", "repmgrd-no-pause", "repmgrd-force-unpause"},
		changes: true,
		check: func(s *Session) []error {
			var wrong []error
			if s.Opt.NoPause && s.Opt.ForceUnpause {
				wrong = append(wrong, errors.New("--repmgrd-no-pause and --repmgrd-force-unpause exclude each other"))
			}
			if s.Opt.At != "" {
				if _, err := parseAt(s.Opt.At, s.Now()); err != nil {
					wrong = append(wrong, err)
				}
			}
			return wrong
		},
		run: standbySwitchover,
	}
}

// parseAt is the time that --at names: a time of day, today's or tomorrow's, or a date
// and a time, by the local clock; or a time from now, as in "+10m".
func parseAt(text string, now time.Time) (time.Time, error) {
	if after, isSpan := strings.CutPrefix(text, "+"); isSpan {
		if d, err := time.ParseDuration(after); err == nil && d >= 0 {
			return now.Add(d), nil
		}
	}
	for _, layout := range []string{"15:04", "15:04:05"} {
		if t, err := time.Parse(layout, text); err == nil {
			at := time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), t.Second(), 0, now.Location())
			if at.Before(now) {
				at = at.AddDate(0, 0, 1)
			}
			return at, nil
		}
	}
	for _, layout := range []string{"2006-01-02 15:04", "2006-01-02 15:04:05", time.RFC3339} {
		if at, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			if at.Before(now) {
				return at, fmt.Errorf("option --at: %s is over", text)
			}
			return at, nil
		}
	}
	return now, fmt.Errorf("option --at takes a time as 03:30, 2026-01-31 03:30 or +10m, found %q", text)
}

func standbySwitchover(ctx context.Context, s *Session) error {
	if s.Opt.At != "" && !s.Opt.DryRun {
		at, err := parseAt(s.Opt.At, s.Now())
		if err != nil {
			return fault.Wrap(err, fault.BadConfig, "nothing was done")
		}
		if err := s.waitUntil(ctx, at); err != nil {
			return err
		}
	}
	w, survey, err := s.surveySwitchover(ctx)
	if err != nil {
		return err
	}
	defer w.close()
	if w.visible && (survey.Seen[w.from.ID].Daemon != "" || survey.Seen[w.to.ID].Daemon != "") {
		return s.switchoverBySSH(ctx, w, survey)
	}
	s.switchoverOptions(w.visible)
	for _, f := range ops.CheckSwitchover(survey) {
		e := Entry{Level: Warning, Text: f.Text, Detail: f.Detail, Hint: f.Hint}
		s.Talk.Say(e)
	}
	p, err := ops.StandbySwitchover(survey, s.Opt.Force)
	if err != nil {
		return err
	}
	if s.Opt.DryRun {
		if err := p.Explain(ctx, w, s.tell); err != nil {
			return ops.Coded(err, fault.SwitchoverFail)
		}
		s.Talk.Info("all checks passed; nothing was changed, since --dry-run was given")
		return nil
	}
	if s.Opt.Superuser != "" {
		s.checkpointOf(ctx, w.from)
	}
	began := s.Now()
	if w.visible {
		restore, err := w.pause(ctx)
		defer restore()
		if err != nil {
			return err
		}
	}
	err = p.Run(ctx, w, s.tell)
	took := s.Now().Sub(began).Round(10 * time.Millisecond)
	if err == nil {
		s.Talk.Notice("%s is the primary now, and %s follows it; it took %s", named(w.to), named(w.from), took)
	} else {
		err = ops.Coded(err, fault.SwitchoverFail)
	}
	w.announce(context.WithoutCancel(ctx), err, took)
	return err
}

// switchoverOptions says of options of repmgr 5 that they mean nothing here, and why.
func (s *Session) switchoverOptions(visible bool) {
	none := map[string]string{
		"siblings-follow":  "the siblings' daemons let them follow in any case",
		"force-rewind":     "the former primary was stopped in order, and follows as it is",
		"always-promote":   "nobody is promoted who does not have everything",
		"repmgrd-no-pause": "the daemons carry the switchover out, and are not paused",
	}
	if visible {
		delete(none, "siblings-follow")
		none["repmgrd-no-pause"] = "no daemon may promote its server meanwhile; it is as it was after that"
	}
	for _, name := range slices.Sorted(maps.Keys(none)) {
		if s.Opt.Given(name) {
			s.Talk.Info("--%s makes no difference: %s", name, none[name])
		}
	}
}

// waitUntil waits until a time has come.
func (s *Session) waitUntil(ctx context.Context, at time.Time) error {
	s.Talk.Notice("waiting until %s", at.Format("2006-01-02 15:04:05 MST"))
	for s.Now().Before(at) { // by the wall clock: it may be set meanwhile
		select {
		case <-ctx.Done():
			return fault.Wrap(ctx.Err(), fault.SwitchoverFail, "nothing was done")
		case <-time.After(min(time.Second, at.Sub(s.Now()))):
		}
	}
	return nil
}

// switching is the world of a switchover: the daemons and the servers.
type switching struct {
	s        *Session
	nodes    []cluster.Node
	fleet    fleet
	by       cluster.NodeID // whose daemon is asked
	from, to cluster.Node
	visible  bool // the visibility rule is in force
	begun    bool
	asked    ops.Asked // under the quorum rule
	primary  *pg.Conn  // to the new one, once it is
}

func (w *switching) close() { registry.Close(w.primary) }

// surveySwitchover looks at every server and daemon at the same time.
func (s *Session) surveySwitchover(ctx context.Context) (*switching, ops.SwitchoverSurvey, error) {
	none := ops.SwitchoverSurvey{}
	c, nodes, f, err := s.everybody(ctx)
	if err != nil {
		return nil, none, err
	}
	registry.Close(c)
	to, err := s.switchTo(nodes)
	if err != nil {
		return nil, none, err
	}
	w := &switching{s: s, nodes: nodes, fleet: f, to: to}
	rec, err := w.findPrimary(ctx)
	if err != nil {
		return nil, none, err
	}
	cfg := s.Conf
	survey := ops.SwitchoverSurvey{Nodes: nodes, Record: rec, From: w.from.ID, To: to.ID, Seen: map[cluster.NodeID]ops.Sighted{}, SiblingsFollow: s.Opt.SiblingsFollow,
		LagWarning: cfg.ReplicationLagWarning, LagCritical: cfg.ReplicationLagCritical,
		ArchiveWarning: cfg.ArchiveReadyWarning, ArchiveCritical: cfg.ArchiveReadyCritical, LagBytes: failover.SwitchoverLag}
	answers := registry.AskAll(ctx, nodes, func(ctx context.Context, n cluster.Node) (ops.Sighted, error) {
		daemon := make(chan DaemonAnswer, 1)
		go func() { daemon <- f.report(ctx, n.ID) }()
		seen := sighted(ctx, n, to.Name)
		d := <-daemon
		if d.Err != nil {
			seen.Daemon, seen.NoDaemon = d.Err.Error(), nobodyListens(d.Err)
		}
		return seen, nil
	})
	for _, a := range answers {
		survey.Seen[a.Node.ID] = a.Value
	}
	return w, survey, nil
}

// findPrimary finds out which rule is in force, and who is the primary by it. The record
// is nil under the visibility rule.
func (w *switching) findPrimary(ctx context.Context) (*record.Record, error) {
	by, p := w.fleet.governedBy(ctx, w.nodes)
	if p == nil {
		w.visible = true
		n, conn, err := registry.FindPrimary(ctx, w.nodes)
		registry.Close(conn)
		w.from, w.by = n, n.ID
		return nil, err
	}
	if p.Record.Pause.On && w.s.Opt.ForceUnpause && !w.s.Opt.DryRun {
		var err error
		if p, err = w.s.unpauseFor(ctx, w.fleet, by, p); err != nil {
			return nil, err
		}
	}
	w.by = by
	w.from, _ = cluster.Find(w.nodes, p.Record.Lease.Holder)
	return p.Record, nil
}

// switchTo is who shall be the primary: the node that was named, else this one.
func (s *Session) switchTo(nodes []cluster.Node) (cluster.Node, error) {
	for _, n := range nodes {
		switch {
		case s.Opt.NodeID != 0 && n.ID == s.Opt.NodeID, s.Opt.NodeID == 0 && s.Opt.NodeName != "" && n.Name == s.Opt.NodeName,
			s.Opt.NodeID == 0 && s.Opt.NodeName == "" && n.ID == s.Conf.NodeID:
			return n, nil
		}
	}
	what := fmt.Sprintf("node %d", s.Conf.NodeID)
	if s.Opt.NodeID != 0 {
		what = fmt.Sprintf("node %d", s.Opt.NodeID)
	} else if s.Opt.NodeName != "" {
		what = fmt.Sprintf("node %q", s.Opt.NodeName)
	}
	return cluster.Node{}, fault.New(fault.BadConfig, "%s is not registered", what).WithHint("\"repmgr cluster show\" lists the nodes")
}

// sighted looks at one server; standby is the name that is looked for among its standbys.
func sighted(ctx context.Context, n cluster.Node, standby string) ops.Sighted {
	out := ops.Sighted{Archive: -1}
	if n.WithoutServer() {
		out.Server.Why = "it is a witness without PostgreSQL"
		return out
	}
	c, err := registry.Connect(ctx, n)
	if err != nil {
		out.Server.Why = err.Error()
		return out
	}
	defer registry.Close(c)
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := lookForSwitchover(ctx, c, standby, &out); err != nil {
		out.Server = ops.Server{Why: err.Error()}
	}
	return out
}

func lookForSwitchover(ctx context.Context, c *pg.Conn, standby string, out *ops.Sighted) error {
	server, err := c.Server(ctx)
	if err != nil {
		return err
	}
	p, err := c.Progress(ctx)
	if err != nil {
		return err
	}
	slots, err := c.Slots(ctx)
	if err != nil {
		return err
	}
	used, most, err := c.WalSenders(ctx)
	if err != nil {
		return err
	}
	attached, _, err := c.Attached(ctx, standby)
	if err != nil {
		return err
	}
	var slotsMost int
	if err := c.QueryRow(ctx, "SELECT pg_catalog.current_setting('max_replication_slots')::int").Scan(&slotsMost); err != nil {
		return err
	}
	out.Server = ops.Server{Reachable: true, Version: server.Version, SystemID: server.SystemID, InRecovery: p.InRecovery, Timeline: p.Timeline,
		Position: p.Position(), SlotsFree: max(0, slotsMost-len(slots)), Senders: max(0, most-used), Holds: attached == pg.Attached}
	out.Received, out.Receiving, out.ReplayPaused, out.LagSeconds = max(p.Received, p.Replayed), p.Receiving, p.ReplayPaused, p.LagSeconds
	if p.InRecovery {
		return nil
	}
	if server.Version < 150000 {
		if err := c.QueryRow(ctx, "SELECT pg_catalog.pg_is_in_backup()").Scan(&out.InBackup); err != nil {
			return err
		}
	}
	// A role that may not look, or archive_mode=off, leaves it unknown.
	_ = c.QueryRow(ctx, "SELECT count(*)::int FROM pg_catalog.pg_ls_archive_statusdir() WHERE name LIKE '%.ready'").Scan(&out.Archive)
	return nil
}

// unpauseFor ends a pause, and waits until the primary has a lease with a limit again.
func (s *Session) unpauseFor(ctx context.Context, f fleet, by cluster.NodeID, p *api.Promotion) (*api.Promotion, error) {
	if err := s.pauseCluster(ctx, f, by, p, false, "for a switchover"); err != nil {
		return p, err
	}
	ctx, cancel := context.WithTimeout(ctx, unpausedWithin)
	defer cancel()
	for {
		if a := f.report(ctx, by); a.Promotion != nil && a.Promotion.Record != nil {
			if p = a.Promotion; p.Record.Lease.State == record.Held && !p.Record.Pause.On {
				return p, nil
			}
		}
		select {
		case <-ctx.Done():
			return p, nil // what is wrong is told by the checks
		case <-time.After(followEvery):
		}
	}
}

// checkpointOf makes a checkpoint on the primary as the superuser that was named.
func (s *Session) checkpointOf(ctx context.Context, n cluster.Node) {
	info, err := pg.ParseConninfo(n.Conninfo)
	if err == nil {
		var c *pg.Conn
		if c, err = pg.Connect(ctx, info.Without("password").With("user", s.Opt.Superuser)); err == nil {
			err = c.Checkpoint(ctx)
			registry.Close(c)
		}
	}
	if err != nil {
		s.warn(fault.Wrap(err, fault.DBConn, "no checkpoint was made as %q: the primary may take longer to stop", s.Opt.Superuser))
	}
}

// Request asks the daemons.
func (w *switching) Request(ctx context.Context, to cluster.NodeID) error {
	c, err := w.fleet.client(w.by)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if w.visible {
		return w.stepDown(ctx, c, to)
	}
	by := fmt.Sprintf("\"repmgr standby switchover\" on node %q (ID: %d) at %s", w.s.Conf.NodeName, w.s.Conf.NodeID, w.s.Now().UTC().Format(time.RFC3339Nano))
	a, err := c.Switchover(ctx, to, by)
	var said *fault.Error
	switch {
	case errors.As(err, &said):
		return said
	case err != nil:
		return fault.Wrap(err, fault.SwitchoverFail, "whether the switchover has begun is not known").WithHint("\"repmgr cluster show\" tells who is the primary")
	}
	w.begun = true
	w.asked = ops.Asked{Number: a.Number, Term: a.Term, From: a.From, To: to}
	return nil
}

// AwaitPrimary looks at the next primary's health, and at the record, as that one's daemon has it, or another's.
func (w *switching) AwaitPrimary(ctx context.Context, to cluster.NodeID) error {
	cfg := w.s.Conf
	limit, cancel := context.WithTimeout(ctx, cfg.ShutdownCheckTimeout+cfg.WalReceiveCheckTimeout+cfg.PromoteCheckTimeout+cfg.NodeRejoinTimeout+stuckAfter)
	defer cancel()
	if w.visible {
		return w.awaitStepDown(limit)
	}
	next, err := w.fleet.client(to)
	if err != nil {
		return err
	}
	defer next.Close()
	whom := []cluster.NodeID{to, w.by, w.from.ID}
	for i := 0; ; i++ {
		look, done := context.WithTimeout(limit, healthWithin)
		h, err := next.Health(look)
		done()
		promoted := err == nil && h.Role == cluster.Primary
		if promoted || err != nil || i%recordEach == 0 {
			ask := whom[i%len(whom)] // recordEach is no multiple of that
			if promoted {
				ask = to
			}
			a := w.fleet.report(limit, ask)
			if a.Promotion != nil && a.Promotion.Record != nil {
				if done, err := w.asked.Came(a.Promotion.Record); done || err != nil {
					return err
				}
			}
		}
		select {
		case <-limit.Done():
			return fault.Wrap(limit.Err(), fault.SwitchoverFail, "the switchover has not come to an end").WithHint("\"repmgr cluster show\" and \"repmgr cluster explain\" tell how it stands")
		case <-time.After(recordEvery):
		}
	}
}

// AwaitFollows looks at the new primary's walsenders.
func (w *switching) AwaitFollows(ctx context.Context, n cluster.Node, upstream cluster.NodeID) error {
	bound := w.s.Conf.StandbyReconnectTimeout
	if n.ID == w.from.ID {
		bound = w.s.Conf.NodeRejoinTimeout
	}
	limit, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	var last error
	for {
		if w.primary == nil {
			w.primary, last = registry.Connect(limit, w.to)
		}
		if w.primary != nil {
			var at pg.Attachment
			if at, _, last = w.primary.Attached(limit, n.Name); last == nil && at == pg.Attached {
				return nil
			} else if last != nil {
				registry.Close(w.primary)
				w.primary = nil
			}
		}
		select {
		case <-limit.Done():
			return fault.Wrap(errors.Join(limit.Err(), last), fault.SwitchoverIncomplete, "%s does not stream from node %d yet", named(n), upstream).
				WithDetail("Node %d is the primary; what is missing may come by itself.", upstream).WithHint("look into the log of repmgrd there")
		case <-time.After(followEvery):
		}
	}
}

// announce records how it went, on whoever takes writes.
func (w *switching) announce(ctx context.Context, err error, took time.Duration) {
	if !w.begun {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	e := registry.Event{Node: w.to.ID, Name: "standby_switchover", Successful: err == nil, About: w.from,
		Details: fmt.Sprintf("%s is the primary, and %s its standby; it took %s", named(w.to), named(w.from), took)}
	if err != nil {
		e.Details = fmt.Sprintf("switchover from %s to %s: %v", named(w.from), named(w.to), err)
	}
	c := w.primary
	if c == nil {
		n := w.from
		if fault.CodeOf(err) == fault.SwitchoverIncomplete {
			n = w.to
		}
		var cannot error
		if c, cannot = registry.Connect(ctx, n); cannot != nil {
			w.s.warn(fault.Wrap(cannot, fault.DBConn, "the event standby_switchover could not be recorded"))
			return
		}
		defer registry.Close(c)
	}
	if err := registry.Announce(ctx, c, w.s.Conf, e); err != nil {
		w.s.warn(err)
	}
}
