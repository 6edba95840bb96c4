package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
	"repmgr/internal/pg"
	"repmgr/internal/record"
	"repmgr/internal/registry"
)

// Times of synchronous replication.
const (
	syncEvery  = 500 * time.Millisecond // between two looks at the standbys
	syncBound  = 5 * time.Second        // for one order
	firstBound = 30 * time.Second       // for the first set: the checkpointer may be busy
)

// syncWatch is the loop's part of synchronous replication.
type syncWatch struct {
	looking  bool
	at       time.Time // when the last look began
	decision failover.Decision
}

// syncLooked brings the end of a look at the own server's walsenders.
type syncLooked struct {
	seen failover.SyncSeen
	err  error
}

// operatorsSync is what postgresql.auto.conf said of synchronous_standby_names
// before it was managed.
type operatorsSync struct {
	Kept  bool   `json:"kept"`
	Set   bool   `json:"set"`
	Value string `json:"value"`
}

// syncTurn looks at the standbys, if a look is due, and carries out what is to be
// done for synchronous replication: one order at a time.
func (d *Daemon) syncTurn(ctx context.Context, now time.Time) {
	w, v := &d.loop.sync, d.loop.view
	every := syncEvery
	if d.loop.unready != "" { // clients wait for what the next look shows
		every /= 5
	}
	if failover.Synchronizing(v) && !w.looking && now.Sub(w.at) >= every {
		w.looking, w.at = true, now
		d.goes(func() {
			seen, err := d.lookAtSync(ctx)
			d.send(syncLooked{seen, err})
		})
	} else if !failover.Synchronizing(v) && !w.looking {
		if conn := d.senders.take(); conn != nil {
			d.goes(func() { registry.Close(conn) })
		}
	}
	dec := failover.Synchronize(v, now)
	if dec.Rule != w.decision.Rule || !slices.Equal(dec.Actions, w.decision.Actions) {
		d.log.Debug("synchronous replication: " + dec.Rule + ": " + dec.Why)
	}
	w.decision = dec
	for _, a := range dec.Actions {
		if p, ok := a.(failover.Propose); ok {
			d.ask(ctx, p, now)
			continue
		}
		v.Observe(failover.SyncOrdered{Action: a}, now)
		d.goes(func() {
			at, err := d.synchronize(ctx, a)
			done := failover.SyncDone{Action: a, LSN: at}
			if err != nil {
				done.Err = err.Error()
				d.log.Info(failover.Describe(a)+": "+err.Error(), "detail", faultOf(err).Detail)
			} else {
				d.notice(failover.Describe(a) + " is done")
			}
			d.send(observed{done})
		})
	}
}

func (d *Daemon) takeSync(m syncLooked, now time.Time) {
	d.loop.sync.looking = false
	if m.err != nil {
		d.log.Debug("the synchronous standbys could not be listed: " + m.err.Error())
		return
	}
	d.loop.view.Observe(m.seen, now)
}

func (d *Daemon) lookAtSync(ctx context.Context) (failover.SyncSeen, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	conn, err := d.senders.take(), error(nil)
	if conn == nil {
		conn, err = d.own(ctx, d.eyes.cfg.Load())
	}
	if err != nil {
		return failover.SyncSeen{}, err
	}
	s, err := conn.Synchronous(ctx)
	if err != nil { // as after a restart of the server; the next look begins anew
		registry.Close(conn)
		return failover.SyncSeen{}, err
	}
	registry.Close(d.senders.put(conn))
	seen := failover.SyncSeen{Names: s.Names, LSN: s.Flushed}
	for _, w := range s.Senders {
		seen.Senders = append(seen.Senders, failover.Sender(w))
	}
	return seen, nil
}

// synchronize carries out one order. Each is tried again by the brain.
func (d *Daemon) synchronize(ctx context.Context, a failover.Action) (cluster.LSN, error) {
	ctx, cancel := context.WithTimeout(ctx, syncBound)
	defer cancel()
	switch a := a.(type) {
	case failover.WriteSync:
		return 0, d.writeSync(ctx, a)
	case failover.ProveSync:
		return d.proveSync(ctx, a)
	case failover.RestoreSync:
		return 0, d.restoreSync(ctx)
	}
	return 0, fmt.Errorf("nobody knows how to carry out %s", failover.Describe(a))
}

// writeSync puts the newest set in force, unless the record has moved on since
// that was ordered.
func (d *Daemon) writeSync(ctx context.Context, a failover.WriteSync) error {
	d.syncing.Lock()
	defer d.syncing.Unlock()
	if err := d.stillNewest(a.Term, a.Seq); err != nil {
		return err
	}
	cfg := d.eyes.cfg.Load()
	if err := d.keepOperatorsSync(cfg); err != nil {
		return err
	}
	return d.ownServer().SetSync(ctx, a.Names)
}

func (d *Daemon) stillNewest(term, seq uint64) error {
	if rec, _ := d.quorum.known(); rec.Term != term || rec.Sync.Seq != seq {
		return fault.New(fault.SysFailure, "the synchronous set has changed since")
	}
	return nil
}

// firstSync puts the first set in force before the own server is promoted
// (safety notes, B17).
func (d *Daemon) firstSync(ctx context.Context, a failover.PromoteTo) error {
	ctx, cancel := context.WithTimeout(ctx, firstBound)
	defer cancel()
	if a.Mode == record.SyncOff || a.Mode == "" {
		if _, managed := d.replicationSettings(d.eyes.cfg.Load().DataDirectory); managed {
			return d.restoreSync(ctx)
		}
		return nil
	}
	return d.writeSync(ctx, a.Sync)
}

func (d *Daemon) proveSync(ctx context.Context, a failover.ProveSync) (cluster.LSN, error) {
	if a.Names == "" { // what operators configured is in force, whatever it is: no walsender goes by a set of ours
		return d.ownServer().ProveSync(ctx, func(value string) bool { return !failover.ManagedNames(value) }, 0, func(string) bool { return true })
	}
	return d.ownServer().ProveSync(ctx, func(value string) bool { return value == a.Names }, a.Count, func(name string) bool {
		return strings.Contains(a.Names, `"`+strings.ReplaceAll(name, `"`, `""`)+`"`)
	})
}

// keepOperatorsSync keeps what operators configured, before it is replaced.
func (d *Daemon) keepOperatorsSync(cfg *conf.Config) error {
	if d.peers.operatorsSync().Kept {
		return nil
	}
	value, set, err := pg.ReadSetting(cfg.DataDirectory, "synchronous_standby_names")
	if err != nil {
		return err
	}
	was := operatorsSync{Kept: true, Set: set, Value: value}
	if failover.ManagedNames(value) { // copied from another node's directory
		was = operatorsSync{Kept: true}
	}
	return d.peers.remember(func(r *remembered) { r.Operators = was })
}

// restoreSync puts back what operators had configured.
func (d *Daemon) restoreSync(ctx context.Context) error {
	d.syncing.Lock()
	defer d.syncing.Unlock()
	was := d.peers.operatorsSync()
	if err := d.ownServer().RestoreSync(ctx, was.Value, was.Set, failover.ManagedNames); err != nil {
		return err
	}
	return d.peers.remember(func(r *remembered) { r.Operators = operatorsSync{} })
}

func (p *peers) operatorsSync() operatorsSync {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.memory.Operators
}

// replicationSettings reads from postgresql.auto.conf under which name the own
// server streams, and whether synchronous_standby_names is this daemon's. What
// cannot be read is not known.
func (d *Daemon) replicationSettings(dataDir string) (name string, managed bool) {
	if text, set, err := pg.ReadSetting(dataDir, "primary_conninfo"); err == nil && set {
		if info, err := pg.ParseConninfo(text); err == nil {
			name = info.Get("application_name")
		}
	}
	value, _, err := pg.ReadSetting(dataDir, "synchronous_standby_names")
	return name, d.peers.operatorsSync().Kept || err == nil && failover.ManagedNames(value)
}
