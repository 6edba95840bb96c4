package daemon

import (
	"context"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
	"repmgr/internal/ops"
	"repmgr/internal/record"
)

// The loop's own rhythm: how often it looks at the view when nothing happens,
// and while something is decided.
const (
	turnEvery     = 250 * time.Millisecond
	turnEveryFast = 15 * time.Millisecond
	recentBound   = 50 // decisions kept for the status
)

// message is what the loop takes in: an event for the view or a request.
type message interface{}

type (
	// observed brings an event for the brain.
	observed struct{ event failover.Event }
	// received is another daemon's report that waits for this one's. It goes
	// through the loop so that an answer never overtakes a decision.
	received struct {
		report failover.Report
		reply  chan failover.Report
	}
	// pausing is an operator's order.
	pausing struct {
		order api.Pause
		reply chan error
	}
	// following is an operator's order too.
	following struct {
		upstream cluster.NodeID
		reply    chan error
	}
	// viewing asks for all that is known.
	viewing struct{ reply chan api.ClusterView }
	// drilling asks for the view, to be asked what would be.
	drilling struct{ reply chan drillView }
	// reloaded brings a new configuration.
	reloaded struct{ cfg *conf.Config }
	// looked says that everybody visible was asked once more before a promotion.
	looked struct{ lost cluster.NodeID }
	// finished brings the end of an order.
	finished struct {
		action failover.Action
		err    error
	}
)

// loopState is what only the loop's goroutine touches.
type loopState struct {
	view        *failover.View
	decision    failover.Decision
	recent      []api.Decision
	sequence    uint64
	pauseReason string
	pausedUntil time.Time // by the wall clock, since it is kept over restarts; zero: by an order

	looking  bool           // the last look before a promotion is under way
	lookedAt time.Time      // when it ended
	lookedOf cluster.NodeID // and whose loss it was about
	fencing  bool
	breakOff context.CancelFunc // ends the order that was given last; nil: none was

	presiding failover.Decision             // as the group's leader, the last one
	presided  map[failover.Action]time.Time // when each order of it was given last
	resumedAt time.Time                     // when the own pause was lifted last
	known     bool                          // the quorum rule was in force, and the state directory knows

	probing  map[cluster.NodeID]bool
	probedAt map[cluster.NodeID]time.Time // when the last look began

	gates    []*starting   // who ask to start the server
	stepDown *api.StepDown // the last one; nil: there was none
	seen     seen
	children childWatch
	sync     syncWatch
	short    shortLease
	summoned uint64 // number of the last switchover that was asked for, for which a session was seen to
	streamed bool   // the own server was a standby that received, at the last turn
	unready  string // why clients are not sent here; empty: they may be, or this is no primary
}

// shared is what other goroutines read.
type shared struct {
	mu     sync.Mutex
	report failover.Report
	local  failover.Local
	turned time.Time
	sureTo time.Time // until when the own server may take writes; zero: without a limit, or it takes none
}

type snapshot struct {
	report failover.Report
	local  failover.Local
	turned time.Time
	sureTo time.Time
}

func (s *shared) load() snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return snapshot{s.report, s.local, s.turned, s.sureTo}
}

func newLoopState(d *Daemon) loopState {
	view := failover.New(d.cfg.NodeID, policyOf(d.cfg))
	view.Life = d.incarnation
	return loopState{
		view:    view,
		probing: map[cluster.NodeID]bool{}, probedAt: map[cluster.NodeID]time.Time{}, presided: map[failover.Action]time.Time{},
	}
}

// policyOf is the part of the configuration that decisions depend on.
func policyOf(cfg *conf.Config) failover.Policy {
	return failover.Policy{
		Automatic: cfg.Failover == "automatic", MonitorInterval: cfg.MonitorInterval,
		ReconnectAttempts: cfg.ReconnectAttempts, ReconnectInterval: cfg.ReconnectInterval,
		Consensus: cfg.PrimaryVisibilityConsensus, Validate: cfg.FailoverValidationCommand != "",
		ElectionRerun: cfg.ElectionRerunInterval,
		Quorum:        cfg.PromotionRule == "auto" && cfg.Failover == "automatic", LeaseTTL: cfg.LeaseTTL,
		RestartGrace: cfg.PrimaryRestartGrace, RecoveryGrace: cfg.PrimaryRecoveryGrace, HangBound: cfg.PrimaryHangTimeout, WriteBound: cfg.PrimaryWriteTimeout,
		BidWindow: cfg.BidWindow, MaximumLag: int64(cfg.MaximumLagOnFailover), Rejoin: cfg.AutoRejoin, AlwaysPromote: cfg.AlwaysPromote,
		SyncMode: record.SyncMode(cfg.SynchronousMode), SyncCount: cfg.SynchronousNodeCount, SyncTimeout: cfg.SynchronousStandbyTimeout,
		FailoverDelay: cfg.FailoverDelay, PromoteDelay: cfg.PromoteDelay,
		StopReceivers: cfg.StandbyDisconnectOnFailover, SiblingsStreaming: cfg.SiblingNodesDisconnectTimeout,
	}
}

// send hands a message to the loop. It waits while the loop is behind, which is
// bounded: the loop never blocks.
func (d *Daemon) send(m message) { d.in <- m }

// runLoop observes, decides and hands out orders until ctx ends. It never waits
// for anything outside.
func (d *Daemon) runLoop(ctx context.Context, fail context.CancelCauseFunc) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	busyAt := bootTime()
	defer process.use(d, false)
	for {
		select {
		case <-ctx.Done():
			go d.drain()
			return
		case m := <-d.in:
			d.take(ctx, m)
		case <-d.wake:
		case <-timer.C:
		}
		for more := true; more; {
			select {
			case m := <-d.in:
				d.take(ctx, m)
			default:
				more = false
			}
		}
		now := bootTime()
		d.endPause(time.Now(), now)
		fast := d.turn(ctx, now)
		d.checkDegraded(now, fail)
		if fast {
			busyAt = now
			timer.Reset(turnEveryFast)
		} else {
			timer.Reset(d.until(min(turnEvery, heartbeatTicks*d.cfg.LeaseTTL/ticksPerLease)))
		}
		process.use(d, now.Sub(busyAt) < restAfter)
	}
}

// drain lets late senders go while the daemon stops.
func (d *Daemon) drain() {
	end := time.After(10 * time.Second)
	for {
		select {
		case <-d.in:
		case <-end:
			return
		}
	}
}

// take folds one message in.
func (d *Daemon) take(ctx context.Context, m message) {
	now := bootTime()
	switch m := m.(type) {
	case observed:
		d.observe(m.event, now)
	case received:
		d.loop.view.Observe(failover.PeerReported{Report: m.report}, now)
		m.reply <- d.publish(now)
	case pausing:
		d.pauseNode(m, now)
	case following:
		m.reply <- d.followOrdered(ctx, m.upstream, now)
	case stepping:
		m.reply <- d.stepOrdered(ctx, m, now)
	case viewing:
		m.reply <- d.clusterView(now)
	case drilling:
		m.reply <- drillView{d.loop.view.Snapshot(), now}
	case reloaded:
		d.takeConfig(m.cfg, now)
	case resigning:
		d.resign(m, now)
	case *starting:
		d.loop.gates = append(d.loop.gates, m)
	case looked:
		d.loop.looking, d.loop.lookedAt, d.loop.lookedOf = false, now, m.lost
	case childrenSeen:
		d.takeChildren(m, now)
	case syncLooked:
		d.takeSync(m, now)
	case finished:
		d.finish(m, now)
	}
}

func (d *Daemon) observe(e failover.Event, now time.Time) {
	if p, ok := e.(failover.Probed); ok {
		d.loop.probing[p.Node] = false
	}
	d.loop.view.Observe(e, now)
}

func (d *Daemon) takeConfig(cfg *conf.Config, now time.Time) {
	for _, c := range conf.Changed(d.cfg, cfg) {
		d.notice("configuration: " + c.String())
	}
	d.cfg = cfg
	d.loop.view.Observe(failover.PolicySet{Policy: policyOf(cfg)}, now)
	d.eyes.setConfig(cfg)
	d.notifier.setConfig(cfg)
}

// finish notes how an order ended.
func (d *Daemon) finish(m finished, now time.Time) {
	done := failover.Done{Action: m.action}
	if m.err != nil {
		done.Err = m.err.Error()
		d.complain(slog.LevelError, fault.Wrap(m.err, faultOf(m.err).Code, "%s did not succeed", failover.Describe(m.action)).
			WithDetail("%s", faultOf(m.err).Detail).WithHint("%s", faultOf(m.err).Hint))
	} else {
		d.notice(failover.Describe(m.action) + " is done")
	}
	stale := true
	switch a := m.action.(type) {
	case failover.Seal, failover.Reach, failover.GiveUp, failover.Arm, failover.HandOver: // they change no record, and what comes next is urgent
		stale = false
	case failover.Fence, failover.Demote:
		d.loop.fencing = false
	case failover.LetStart:
		d.gateOpened(m.err)
	case failover.StepDown:
		d.stepped(a, m.err)
	}
	d.loop.view.Observe(done, now)
	if stale {
		d.eyes.stale.Store(true)
	}
	d.eyes.kick()
}

// turn is one look at the view: decide, order, look around, tell. It reports
// whether the next turn should come soon.
func (d *Daemon) turn(ctx context.Context, now time.Time) bool {
	if d.loop.breakOff != nil && failover.Overtaken(d.loop.view, now) && d.mayBreakOff() {
		d.loop.breakOff() // nothing else is ordered before it has ended
	}
	for range 4 { // placing a bid changes what is decided next; there is no longer chain than this
		dec := failover.Decide(d.loop.view, now)
		d.noteDecision(dec, now)
		changed := false
		for _, a := range dec.Actions {
			changed = d.order(ctx, a, now) || changed
		}
		if !changed {
			break
		}
	}
	d.governTurn(ctx, now)
	d.lookAround(ctx, now)
	d.watchChildren(ctx, now)
	d.transitions(now)
	d.peers.notePrimary(d.loop.view, now)
	d.publish(now)
	d.summonReady() // who answers goes by what was published
	d.shared.mu.Lock()
	d.shared.turned, d.shared.local = now, d.loop.view.Local
	d.shared.sureTo, _ = failover.Deadline(d.loop.view)
	d.shared.mu.Unlock()
	if d.loop.decision.Rule == "wait-position" {
		d.eyes.kick()
	}
	v := d.loop.view
	return d.governsSoon(now) || v.Loss != nil || v.Doing != nil || failover.Degraded(v, now) || d.loop.decision.Rule == "upstream-suspect"
}

// mayBreakOff reports whether an order to follow may be left in the middle: not where that restarts
// the server, or an operator's command does it, and nobody would start what it has stopped.
func (d *Daemon) mayBreakOff() bool {
	cfg, r := d.eyes.cfg.Load(), d.loop.view.Group.Record
	return r != nil && r.Rule == record.Quorum || cfg.FollowCommand == "" && !cfg.StandbyFollowRestart && cfg.ServiceReloadCommand == ""
}

// noteDecision logs a rule that applies anew, and keeps it for the status.
func (d *Daemon) noteDecision(dec failover.Decision, now time.Time) {
	if dec.Rule == d.loop.decision.Rule && slices.Equal(dec.Actions, d.loop.decision.Actions) {
		d.loop.decision = dec
		return
	}
	d.loop.decision = dec
	kept := api.Decision{At: now, Rule: dec.Rule, Why: dec.Why}
	for _, a := range dec.Actions {
		kept.Actions = append(kept.Actions, failover.Describe(a))
	}
	d.loop.recent = append(d.loop.recent, kept)
	if extra := len(d.loop.recent) - recentBound; extra > 0 {
		d.loop.recent = slices.Delete(d.loop.recent, 0, extra)
	}
	level := slog.LevelInfo
	if len(dec.Actions) > 0 {
		level = levelNotice
	}
	d.log.Log(context.Background(), level, dec.Rule+": "+dec.Why)
}

// order takes an action up and reports whether the view changed by that alone.
func (d *Daemon) order(ctx context.Context, a failover.Action, now time.Time) bool {
	l := &d.loop
	switch a := a.(type) {
	case failover.PlaceBid, failover.WithdrawBid:
		l.view.Observe(failover.Ordered{Action: a}, now)
		return true
	case failover.Propose:
		d.ask(ctx, a, now)
		return false
	case failover.Fence, failover.Demote:
		if l.fencing {
			return false
		}
		l.fencing = true
		if l.breakOff != nil {
			l.breakOff() // a promotion must not go on when the server has been started again
		}
	case failover.Promote:
		if !d.lookedLately(ctx, a.Lost, now) {
			return false
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	l.breakOff = func() { cancel(ops.ErrBrokenOff) }
	l.view.Observe(failover.Ordered{Action: a}, now)
	d.guide() // a guard knows its deadline before its server is promoted
	d.publish(now)
	end := l.breakOff
	d.goes(func() {
		defer end()
		err := d.carryOut(ctx, a)
		d.send(finished{a, err})
	})
	return false
}

// lookBound is how long the last look before a promotion may take, and lookAge how long it counts.
const (
	lookBound = 500 * time.Millisecond
	lookAge   = 100 * time.Millisecond
)

// lookedLately reports whether everybody visible was asked just now, and asks
// them otherwise: a promotion is decided again after that, by the same rules.
func (d *Daemon) lookedLately(ctx context.Context, lost cluster.NodeID, now time.Time) bool {
	l := &d.loop
	if l.lookedOf == lost && now.Sub(l.lookedAt) < lookAge {
		l.lookedAt = time.Time{}
		return true
	}
	if !l.looking {
		l.looking = true
		d.publish(now) // whoever is asked hears what for
		d.goes(func() {
			d.peers.askAll(ctx)
			d.send(looked{lost})
		})
	}
	return false
}

// lookAround starts the looks at other servers that are due.
func (d *Daemon) lookAround(ctx context.Context, now time.Time) {
	for _, l := range failover.Looks(d.loop.view, now) {
		if d.loop.probing[l.Node] || now.Sub(d.loop.probedAt[l.Node]) < l.Every {
			continue
		}
		node, ok := cluster.Find(d.loop.view.Nodes, l.Node)
		if !ok {
			continue
		}
		d.loop.probing[l.Node], d.loop.probedAt[l.Node] = true, now
		p, known := d.loop.view.Peers[l.Node]
		silent := !known || p.Silent || now.Sub(p.At) > 2*time.Second
		d.goes(func() { d.send(observed{d.eyes.probe(ctx, node, silent)}) })
	}
}

// publish makes the report of what is known now, and tells the peers at once
// if it says something new.
func (d *Daemon) publish(now time.Time) failover.Report {
	r := d.report(now)
	d.shared.mu.Lock()
	news := !sameNews(d.shared.report, r)
	if news {
		d.loop.sequence++
	}
	r.Sequence = d.loop.sequence
	d.shared.report = r
	d.shared.mu.Unlock()
	if news {
		d.peers.kick()
	}
	return r
}

// sameNews compares two reports without what moves all the time.
func sameNews(a, b failover.Report) bool {
	for _, r := range []*failover.Report{&a, &b} {
		r.Sequence, r.Saw, r.Position.LSN, r.Replayed, r.Why, r.Age, r.Standing, r.Room, r.Disk, r.Sweep = 0, nil, 0, 0, "", 0, failover.Standing{}, 0, 0, 0
	}
	return reflect.DeepEqual(a, b)
}

// report is this node in the words that daemons tell each other.
func (d *Daemon) report(now time.Time) failover.Report {
	r := failover.Tell(d.loop.view, now)
	r.Name, r.Incarnation, r.Version, r.PID = d.cfg.NodeName, d.incarnation, version(), pid
	r.Age, r.Standing = now.Sub(d.began), d.quorum.standingNow()
	r.Rule, r.Why = d.loop.decision.Rule, d.loop.decision.Why
	if r.PromotionRule != record.Quorum {
		r.PauseReason = d.loop.pauseReason
	}
	return r
}

// clusterView is all that this daemon knows, for the status.
func (d *Daemon) clusterView(now time.Time) api.ClusterView {
	v := d.loop.view
	out := api.ClusterView{
		Version: api.ViewVersion, ClusterID: d.peers.clusterID(), Own: d.publish(now), Nodes: v.Nodes, Daemons: d.peers.daemons(),
		Decision: api.Decision{At: now, Rule: d.loop.decision.Rule, Why: d.loop.decision.Why},
		Recent:   slices.Clone(d.loop.recent), Turned: now.Sub(d.shared.load().turned),
		Promotion: d.promotion(now), Unready: failover.Unready(v, now), StepDown: d.loop.stepDown,
	}
	for _, p := range d.peers.known() {
		if known, ok := v.Peers[p.Node]; ok {
			r := known.Report
			p.Report, p.Age = &r, now.Sub(known.At)
		}
		out.Peers = append(out.Peers, p)
	}
	return out
}

// checkDegraded ends the daemon after degraded_monitoring_timeout, if that is set.
func (d *Daemon) checkDegraded(now time.Time, fail context.CancelCauseFunc) {
	limit := d.cfg.DegradedMonitoringTimeout
	if since := d.loop.seen.lostAt; limit >= 0 && !since.IsZero() && now.Sub(since) > limit {
		fail(fault.New(fault.MonitoringTimeout, "the upstream has been lost for longer than degraded_monitoring_timeout").WithDetail("The limit is %s.", limit))
	}
}
