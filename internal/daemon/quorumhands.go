package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
	"repmgr/internal/pg"
	"repmgr/internal/record"
	"repmgr/internal/registry"
	"repmgr/internal/server"
)

// Bounds of the quorum rule's orders.
const (
	sealBound    = 10 * time.Second
	reachBound   = 2 * time.Second // then it is sealed, as in any vacancy
	killBound    = 30 * time.Second
	releaseTries = 5
)

// govern carries out the orders of the quorum rule; ok says whether this is one.
func (d *Daemon) govern(ctx context.Context, cfg *conf.Config, a failover.Action) (err error, ok bool) {
	switch a := a.(type) {
	case failover.FoundGroup:
		return d.foundGroup(ctx, cfg), true
	case failover.BeginQuorum:
		return d.beginQuorum(ctx, cfg, a), true
	case failover.EndQuorum:
		return d.endQuorum(ctx, cfg, a), true
	case failover.Seal:
		return d.seal(ctx, a), true
	case failover.Reach:
		return d.reach(ctx, a), true
	case failover.PromoteTo:
		return d.promoteTo(ctx, cfg, a), true
	case failover.Arm:
		return d.ownServer().Arm(), true
	case failover.LetStart:
		return d.letStart(ctx), true
	case failover.HandOver:
		return d.stopFor(ctx, cfg, a), true
	case failover.TakeUp:
		return d.takeUp(ctx), true
	case failover.Disarm:
		return d.ownServer().Disarm(), true
	case failover.Demote:
		return d.demote(ctx, cfg, a), true
	case failover.GiveUp:
		return d.giveUp(ctx, cfg, a), true
	case failover.StartServer:
		if err := errors.Join(d.guardian.letStart(ctx), d.ownServer().Arm()); err != nil {
			return err, true // one that was ended by half may not be armed
		}
		return d.ownServer().Start(ctx), true
	case failover.Rejoin:
		return d.rejoin(ctx, cfg, a), true
	case failover.ChangeMember:
		return d.quorum.change(ctx, a), true
	case failover.HandLead:
		return d.quorum.handLead(ctx, a.To), true
	}
	return nil, false
}

// foundGroup founds the group with this node alone; that is recorded in the
// database first, so that nobody founds a second one, and before that here, so that
// a daemon that dies in between goes on with what it began.
func (d *Daemon) foundGroup(ctx context.Context, cfg *conf.Config) error {
	if _, group := d.quorum.known(); group != "" {
		return nil // the view will know in a moment
	}
	return d.inOwn(ctx, cfg, func(ctx context.Context, c *pg.Conn) error {
		server, err := c.Server(ctx)
		if err != nil {
			return err
		}
		group, err := d.quorum.foundingName()
		if err != nil {
			return err
		}
		if err := registry.RecordFounding(ctx, c, group, cfg.NodeID); err != nil {
			return err
		}
		self, _ := cluster.Find(d.peers.nodes(), cfg.NodeID)
		founder := record.Member{Node: cfg.NodeID, Name: cfg.NodeName, Priority: self.Priority, Automatic: cfg.Failover == "automatic", Location: self.Location, Level: record.Level}
		if err := d.quorum.found(ctx, group, server.SystemID, founder); err != nil {
			return err
		}
		d.announce(event{name: "repmgrd_quorum_found", details: fmt.Sprintf("node %q (ID: %d) founded the group %s", cfg.NodeName, cfg.NodeID, group)})
		return nil
	})
}

// beginQuorum starts the quorum rule: from the entry on, this node holds the lease.
func (d *Daemon) beginQuorum(ctx context.Context, cfg *conf.Config, a failover.BeginQuorum) error {
	d.guardian.want(true, 0, true)
	if err := d.guardian.await(ctx); err != nil {
		return err
	}
	own := d.ownServer()
	if err := mustSee(own); err != nil {
		return err
	}
	if err := own.Arm(); err != nil {
		return err
	}
	local := d.shared.load().local
	begin := record.Begin{Term: a.Term, Node: cfg.NodeID, Incarnation: local.Incarnation, Life: d.incarnation, Line: local.Line, LSN: local.Position.LSN, TTL: cfg.LeaseTTL, MaximumLag: int64(cfg.MaximumLagOnFailover)}
	d.send(observed{failover.Asked{Change: begin}})
	refused, err := d.quorum.propose(ctx, begin)
	if err == nil && refused == "" {
		d.announce(event{name: "repmgrd_quorum_begin", details: "standbys are promoted by the quorum rule from now on"})
		return d.recordRule(ctx, cfg, record.Quorum) // if it fails: recordRuleAgain
	}
	if refused != "" {
		err = fault.New(fault.BadConfig, "the quorum rule could not begin: %s", refused)
		return errors.Join(err, own.Disarm())
	}
	return err // it may have begun: the record will say
}

// mustSee refuses the lease to a daemon that could not end its server: one of
// another user, or in another container, does not see its processes, and would take
// it for dead (safety notes, B26).
func mustSee(own server.Own) error {
	h, err := own.Postmaster()
	if err != nil {
		return fault.Wrap(err, fault.BadConfig, "this daemon does not see the processes of its server, and could not end them").
			WithHint("Run repmgrd as the server's operating system user, and in the same PID namespace (in the same container, or with a shared one).")
	}
	return h.Close()
}

// endQuorum ends the quorum rule. The server is disarmed after that, by the rule
// that is in force then.
func (d *Daemon) endQuorum(ctx context.Context, cfg *conf.Config, a failover.EndQuorum) error {
	refused, err := d.quorum.propose(ctx, record.End{Term: a.Term, Node: cfg.NodeID, Why: a.Why})
	if err != nil {
		return err // it may have ended: the record will say
	}
	if refused != "" {
		return fault.New(fault.BadConfig, "the quorum rule could not be ended: %s", refused)
	}
	d.announce(event{name: "repmgrd_quorum_end", details: "standbys are promoted by the visibility rule from now on: " + a.Why})
	d.notifier.add(errand{name: "the rule in force", do: func(ctx context.Context, _ *pg.Conn) error { return d.recordRule(ctx, cfg, record.Visibility) }})
	return nil
}

// recordRuleAgain has the rule written that is in force, where the database says
// another: who writes it first may have died or failed before.
func (d *Daemon) recordRuleAgain(f registry.Founding) {
	rec, group := d.quorum.known()
	report := d.shared.load().report
	if group == "" || f.Group != group || f.Rule == string(rec.Rule) || report.Server != failover.ServerRunning || report.Role != cluster.Primary {
		return
	}
	d.notifier.add(errand{name: "the rule in force", do: func(ctx context.Context, _ *pg.Conn) error { return d.recordRule(ctx, d.eyes.cfg.Load(), rec.Rule) }})
}

// recordSuccession writes to the own database that this node is the primary now.
func (d *Daemon) recordSuccession(ctx context.Context, cfg *conf.Config) error {
	return d.inOwn(ctx, cfg, func(ctx context.Context, c *pg.Conn) error {
		return registry.RecordSuccession(ctx, c, cfg.NodeID)
	})
}

// recordSuccessionAgain has the promotion of the own server written, where the records name
// another primary: the life of this daemon that was to write it may have ended before.
func (d *Daemon) recordSuccessionAgain(nodes []cluster.Node) {
	cfg := d.eyes.cfg.Load()
	rec, _ := d.quorum.known()
	report := d.shared.load().report
	self, found := cluster.Find(nodes, cfg.NodeID)
	if !found || self.Role == cluster.Primary && self.Active || report.Server != failover.ServerRunning || report.Role != cluster.Primary ||
		rec.Rule != record.Quorum || !rec.Lease.Promoted || !rec.Holds(cfg.NodeID, incarnationOf(cfg.DataDirectory)) {
		return
	}
	d.notifier.add(errand{name: "the promotion's record", do: func(ctx context.Context, _ *pg.Conn) error {
		return d.recordSuccession(ctx, cfg)
	}})
}

// recordRule writes to the database which rule is in force. It is told, since this
// node's own record may lag behind the answer that says so.
func (d *Daemon) recordRule(ctx context.Context, cfg *conf.Config, rule record.Rule) error {
	return d.inOwn(ctx, cfg, func(ctx context.Context, c *pg.Conn) error {
		_, group := d.quorum.known()
		return registry.RecordRule(ctx, c, group, string(rule))
	})
}

// forgetSeal makes the position that was offered last count no more. Its vacancy
// is kept, so that nothing is sealed for an older one.
func (d *Daemon) forgetSeal() error {
	s := d.quorum.sealed()
	s.Incarnation, s.LSN = "", 0
	if err := d.quorum.keepSeal(s); err != nil {
		return err
	}
	d.send(observed{failover.SealedAt{Sealed: s}})
	return nil
}

// seal ends the receiving of WAL, and keeps the final position before it is told.
func (d *Daemon) seal(ctx context.Context, a failover.Seal) error {
	ctx, cancel := context.WithTimeout(ctx, sealBound)
	defer cancel()
	own := d.ownServer()
	session, err := own.Detach(ctx, d.ready.take())
	if err != nil {
		return err
	}
	at, err := own.Settle(ctx, session)
	if err != nil {
		registry.Close(session)
		return err
	}
	d.sealed.keep(session)
	s, err := d.ends(own, a.Vacancy, at)
	if err != nil {
		return err
	}
	if err := d.quorum.keepSeal(s); err != nil {
		return err
	}
	d.send(observed{failover.SealedAt{Sealed: s}})
	return nil
}

// ends is where the own server's WAL ends, in a vacancy.
func (d *Daemon) ends(own server.Own, vacancy uint64, at server.Position) (failover.Sealed, error) {
	rec, _ := d.quorum.known()
	s := failover.Sealed{Group: rec.Group, Vacancy: vacancy, Incarnation: incarnationOf(own.Config.DataDirectory), Timeline: at.Timeline, LSN: at.LSN, Line: d.lineOf(own, at.Timeline)}
	if s.Line == "" {
		return s, fault.New(fault.SysFailure, "the history of timeline %d cannot be read", at.Timeline)
	}
	return s, nil
}

// reach finds out where the own server's WAL ends. The session is kept for the promotion.
func (d *Daemon) reach(ctx context.Context, a failover.Reach) error {
	ctx, cancel := context.WithTimeout(ctx, reachBound)
	defer cancel()
	own := d.ownServer()
	session, at, err := own.Reach(ctx, d.ready.take())
	if err != nil {
		return err
	}
	d.sealed.hold(session)
	s, err := d.ends(own, a.Vacancy, at)
	if err == nil {
		d.send(observed{failover.ReachedAt{Sealed: s}})
	}
	return err
}

// promoteTo makes the own server the primary that the record has granted. The
// guard knows the deadline before the order is given.
func (d *Daemon) promoteTo(ctx context.Context, cfg *conf.Config, a failover.PromoteTo) error {
	began := time.Now()
	if err := d.guardian.extendNow(ctx); err != nil {
		return err
	}
	if err := d.firstSync(ctx, a); err != nil {
		return err
	}
	own := d.ownServer()
	old, _ := d.formerPrimary()
	p, err := own.PromoteIn(ctx, d.sealed.take(), a.Timeline)
	if err != nil {
		d.announce(event{name: "repmgrd_promote_error", failed: true, unkept: true, details: err.Error(), about: old})
		return err
	}
	took := time.Since(began).Round(time.Millisecond)
	d.eyes.kick()
	if err := own.Arm(); err != nil {
		return err
	}
	d.notice(fmt.Sprintf("promoted to timeline %d in %s", p.Timeline, took), "detail", fmt.Sprintf("it left timeline %d at %s", p.Parent, p.Fork))
	d.notifier.add(errand{name: "the promotion's record", do: func(ctx context.Context, _ *pg.Conn) error {
		if err := d.recordSuccession(ctx, cfg); err != nil {
			return err
		}
		return d.recordRule(ctx, cfg, record.Quorum)
	}})
	d.announce(event{name: "standby_promote", details: fmt.Sprintf("server %q (ID: %d) was successfully promoted to primary", cfg.NodeName, cfg.NodeID)})
	d.notifier.add(errand{name: "the voting term", do: func(ctx context.Context, conn *pg.Conn) error {
		if conn == nil {
			return errors.New("the new primary does not answer")
		}
		_, err := registry.RaiseTerm(ctx, conn)
		return err
	}})
	if rec, _ := d.quorum.known(); old.ID != 0 && rec.Lease.Successor != cfg.NodeID { // after a switchover nothing has failed
		d.announce(event{name: "repmgrd_failover_promote", about: old,
			details: fmt.Sprintf("node %q (ID: %d) promoted to primary in term %d; old primary %q (ID: %d) marked as failed", cfg.NodeName, cfg.NodeID, a.Term, old.Name, old.ID)})
	}
	return nil
}

// formerPrimary is the primary by the records, unless that is this node.
func (d *Daemon) formerPrimary() (cluster.Node, bool) {
	for _, n := range d.peers.nodes() {
		if n.Role == cluster.Primary && n.Active && n.ID != d.cfg.NodeID {
			return n, true
		}
	}
	return cluster.Node{}, false
}

// demote ends the own server at once; it stays armed.
func (d *Daemon) demote(ctx context.Context, cfg *conf.Config, a failover.Demote) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killBound)
	defer cancel()
	defer d.endsServer()()
	err := d.ownServer().Demote(ctx)
	d.log.Error("the own server was stopped: "+a.Why, "hint", "It comes back read-only, and by itself: see auto_rejoin.")
	d.announce(event{name: "repmgrd_primary_fenced", details: fmt.Sprintf("server %q (ID: %d) was stopped: %s", cfg.NodeName, cfg.NodeID, a.Why)})
	return err
}

// giveUp makes sure that nothing of the own server is left, and gives the lease
// back: in this order (safety notes, B20). In a switchover what is left of it is
// waited for after that: it can write nothing any more, and clients wait.
func (d *Daemon) giveUp(ctx context.Context, cfg *conf.Config, a failover.GiveUp) error {
	own := d.ownServer()
	defer d.endsServer()()
	bound, cancel := context.WithTimeout(ctx, killBound)
	defer cancel()
	began := time.Now()
	to, end := d.handedTo(bound, own, a)
	if to == 0 {
		if a.Fast {
			own.StopFast(bound, fastGrace)
		}
		if err := own.Kill(bound); err != nil {
			return err
		}
		if err := own.CancelPromotion(); err != nil { // it is armed: Kill saw to that
			return err
		}
	}
	err := d.release(ctx, record.Release{Term: a.Term, Node: cfg.NodeID, Incarnation: incarnationOf(cfg.DataDirectory), Seq: a.Seq, Why: a.Why, To: to, End: end}, began)
	if to != 0 {
		err = errors.Join(err, d.seeOut(bound, own))
	}
	return err
}

// release proposes that the lease is given back, until the group has answered.
func (d *Daemon) release(ctx context.Context, c record.Release, began time.Time) (err error) {
	if rec, _ := d.quorum.known(); rec.Unknown(c) != "" { // a member that is older came since
		c.To, c.End = 0, 0
	}
	for range releaseTries {
		var refused string
		if refused, err = d.quorum.propose(ctx, c); err == nil {
			d.notice("the lease is given back", "detail", fmt.Sprintf("%s; after %s %s", c.Why, time.Since(began).Round(time.Millisecond), refused))
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}
