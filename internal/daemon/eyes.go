package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/pg"
	"repmgr/internal/record"
	"repmgr/internal/registry"
)

// Bounds of the eyes' looks.
const (
	lookTimeout   = 2 * time.Second        // at the own server
	lookPatience  = 8 * time.Second        // at one whose sessions take that long to open
	registryEvery = 2 * time.Second        // between two readings of the records
	downEvery     = 200 * time.Millisecond // at a server that is down: one that comes back may have to be stopped
)

// eyes turn servers into facts. watchLocal's goroutine owns all fields but cfg
// and kicks; probes have goroutines of their own and share nothing.
type eyes struct {
	d       *Daemon
	cfg     atomic.Pointer[conf.Config]
	kicks   chan struct{}
	refused *fault.Error // why the first look found that the configuration is wrong
	stale   atomic.Bool  // the records were changed: read them at the next look

	conn      *pg.Conn
	session   uint64         // how often it was opened
	patience  time.Duration  // how long the next look may take; zero: lookTimeout
	last      failover.Local // the last look that found the server running
	startedAt time.Time      // of the postmaster that was connected to last
	state     failover.ServerState
	readAt    time.Time
	nodes     []cluster.Node
	endpoints map[cluster.NodeID]registry.Endpoint
	authority string

	crowdedAt time.Time // when it was last told that there is no connection left
	barred    string    // what of the server's settings forbids a promotion
	barredAt  time.Time // when that was asked
	slotsAt   time.Time // when a former primary's logical slots were looked for
	readers   readersWatch

	process *host.Handle // the postmaster, if it was found
	downPID int          // what postmaster.pid named when the server was found down
}

func newEyes(d *Daemon) *eyes {
	e := &eyes{d: d, kicks: make(chan struct{}, 1)}
	e.cfg.Store(d.cfg)
	return e
}

func (e *eyes) setConfig(cfg *conf.Config) { e.cfg.Store(cfg); e.kick() }

// kick asks for a look now.
func (e *eyes) kick() {
	select {
	case e.kicks <- struct{}{}:
	default:
	}
}

// first looks at the own server before anything is decided. A server that does
// not answer is waited for, if the cluster is remembered; one that answers must
// hold a record of this node.
func (e *eyes) first(ctx context.Context) error {
	known, err := e.d.state.load()
	if err != nil {
		return err
	}
	e.d.peers.adopt(known)
	now := bootTime()
	e.d.loop.view.Observe(failover.PauseSet{Paused: known.Paused}, now)
	e.d.loop.pauseReason, e.d.loop.pausedUntil = known.PauseReason, known.PausedUntil
	e.nodes, e.endpoints = known.Nodes, known.Endpoints
	e.d.loop.view.Observe(failover.NodesRead{Nodes: known.Nodes}, now)
	if e.d.cfg.WithoutServer() {
		return e.firstWithout(known)
	}
	local := e.look(ctx)
	e.d.loop.view.Observe(failover.LocalSeen{Local: local}, now)
	switch {
	case e.refused != nil:
		return e.refused
	case local.State == failover.ServerRunning:
		e.d.loop.view.Observe(failover.NodesRead{Nodes: e.nodes}, now)
		return e.registered(ctx)
	case len(known.Nodes) == 0:
		return fault.New(fault.DBConn, "the own server does not answer, and nothing is known yet of its cluster").
			WithDetail("conninfo is %q, the server is %s.", redact(e.d.cfg.Conninfo), local.State).
			WithHint("Start PostgreSQL, and register this node before repmgrd is started for the first time.")
	}
	e.d.notice(fmt.Sprintf("the own server is %s; repmgrd waits for it", local.State))
	return nil
}

// registered checks that the records hold this node.
func (e *eyes) registered(ctx context.Context) error {
	cfg := e.d.cfg
	nodes, current, err := registry.Installed(ctx, e.conn)
	if err != nil {
		return err
	}
	if !nodes || !current && len(e.nodes) == 0 {
		return fault.New(fault.BadConfig, "the database holds no repmgr schema").WithHint("Register the primary with `repmgr primary register` first.")
	}
	self, ok := cluster.Find(e.nodes, cfg.NodeID)
	if !ok {
		return fault.New(fault.BadConfig, "node %d (%q) is not registered", cfg.NodeID, cfg.NodeName).
			WithHint("Register it with `repmgr primary register`, `repmgr standby register` or `repmgr witness register`.")
	}
	return e.d.refuseInactive(ctx, self)
}

func redact(conninfo string) string {
	ci, err := pg.ParseConninfo(conninfo)
	if err != nil {
		return "(not readable)"
	}
	return ci.Redacted()
}

// watchLocal looks at the own server at the monitor interval, when it is asked
// to, and at once when the postmaster dies.
func (e *eyes) watchLocal(ctx context.Context) {
	if e.d.cfg.WithoutServer() {
		e.watchMembers(ctx)
		return
	}
	defer func() {
		e.disconnect()
		e.forgetProcess()
	}()
	for {
		var died <-chan struct{}
		if e.process != nil {
			died = e.process.Done()
		}
		every := min(e.cfg.Load().MonitorInterval, 5*time.Second)
		if e.state != failover.ServerRunning {
			every = min(every, downEvery)
		}
		wait := time.NewTimer(e.d.until(every))
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-died:
			e.d.log.Warn("the postmaster is gone", "detail", fmt.Sprintf("process %d", e.process.PID))
			e.forgetProcess()
			e.disconnect() // an orphan may answer for a while yet
		case <-e.kicks:
		case <-wait.C:
		}
		wait.Stop()
		e.d.send(observed{failover.LocalSeen{Local: e.look(ctx)}})
	}
}

// look asks the own server, or finds out why it does not answer.
func (e *eyes) look(ctx context.Context) failover.Local {
	limit, cancel := context.WithTimeout(ctx, max(e.patience, lookTimeout))
	defer cancel()
	began, kept := bootTime(), e.conn != nil
	local, err := e.ask(limit)
	if err != nil && kept && limit.Err() == nil {
		e.disconnect() // the connection may have been ended, and the server live
		local, err = e.ask(limit)
	}
	if err == nil {
		e.last, e.state, e.patience = local, failover.ServerRunning, 0
		return e.d.withDirectory(local)
	}
	if limit.Err() != nil { // each look begins a session anew, and none would ever come to its end
		e.patience = min(2*max(e.patience, lookTimeout), lookPatience)
	}
	if f := faultOf(err); f.Code == fault.BadConfig {
		e.refused = f
	}
	if ctx.Err() != nil {
		return e.d.withDirectory(failover.Local{At: began, State: e.state, SystemID: e.last.SystemID, Position: e.last.Position, Barred: e.barred})
	}
	e.disconnect()
	if e.crowded(err) {
		local := e.last
		local.At, e.state = began, failover.ServerRunning
		return e.d.withDirectory(local)
	}
	state := e.whyDown(ctx)
	if state != e.state {
		e.d.complain(slog.LevelWarn, fault.Wrap(err, fault.DBConn, "the own server does not answer").WithDetail("It is %s.", state))
	}
	e.state = state
	return e.d.withDirectory(failover.Local{At: began, State: state, SystemID: e.last.SystemID, Position: e.last.Position, Replayed: e.last.Replayed, Barred: e.barred})
}

// crowded reports whether the server has only run out of connections: it lives,
// and is what it was when it was asked last.
func (e *eyes) crowded(err error) bool {
	var server *pgconn.PgError
	if !errors.As(err, &server) || server.Code != tooManyConnections || e.last.At.IsZero() || e.process == nil || e.process.Exited() {
		return false
	}
	if now := time.Now(); now.Sub(e.crowdedAt) > time.Minute {
		e.crowdedAt = now
		e.d.log.Warn("the own server has no connection left for repmgrd: "+server.Message, "hint", "Raise max_connections, or give the role of repmgrd a share of reserved_connections (PostgreSQL 16).")
	}
	return true
}

// tooManyConnections is the SQLSTATE (PostgreSQL manual, "Error Codes").
const tooManyConnections = "53300"

// ask is one look at a server that answers.
func (e *eyes) ask(ctx context.Context) (failover.Local, error) {
	if e.conn == nil {
		if err := e.connect(ctx); err != nil {
			return failover.Local{}, err
		}
	}
	began := bootTime()
	p, err := e.conn.Progress(ctx)
	if err != nil {
		return failover.Local{}, err
	}
	if time.Since(e.barredAt) >= barredEvery {
		if err := e.askBarred(ctx); err != nil {
			return failover.Local{}, err
		}
	}
	if p.InRecovery && time.Since(e.slotsAt) >= barredEvery {
		e.slotsAt = time.Now()
		e.dropFormerSlots(ctx)
	}
	if e.cfg.Load().ManageSynchronizedStandbySlots {
		e.keepReadersBehind(ctx, !p.InRecovery)
	}
	local := failover.Local{At: began, State: failover.ServerRunning, Role: cluster.Primary, SystemID: e.last.SystemID,
		Position: failover.Position{Timeline: p.Timeline, LSN: p.Position()}, Replayed: p.Replayed, Receiving: p.Receiving,
		Held: e.d.peers.withheld().Held, Session: e.session, Barred: e.barred}
	if p.InRecovery {
		local.Role = cluster.Standby
		// The timeline received goes with the WAL receiver, and pg_control lags behind it.
		local.Position.Timeline = max(p.Timeline, e.last.Position.Timeline)
	}
	if e.stale.Swap(false) || time.Since(e.readAt) >= registryEvery {
		if err := e.readRegistry(ctx); err != nil {
			return failover.Local{}, err
		}
	}
	return local, nil
}

// connect opens the kept connection, and the watch on the postmaster with it.
func (e *eyes) connect(ctx context.Context) error {
	ci, err := pg.ParseConninfo(e.cfg.Load().Conninfo)
	if err != nil {
		return err
	}
	if e.conn, err = pg.Connect(ctx, ci.With("application_name", "repmgrd")); err != nil {
		e.conn = nil
		return err
	}
	server, err := e.conn.Server(ctx)
	if err != nil {
		return err
	}
	if err := ownDirectory(ctx, server, e.cfg.Load()); err != nil {
		return err
	}
	e.session++
	e.last.SystemID, e.readAt, e.slotsAt = server.SystemID, time.Time{}, time.Time{}
	if !server.StartedAt.Equal(e.startedAt) { // one that was started anew may have another history
		e.startedAt, e.last.Position.Timeline = server.StartedAt, 0
	}
	e.watchProcess()
	return e.askBarred(ctx)
}

// barredEvery is how often it is asked what forbids a promotion. It takes effect when
// the server is started, and is asked then at once.
const barredEvery = 30 * time.Second

// askBarred asks whether settings of the server forbid that it is promoted: a recovery
// target would take effect when it comes up read-only the next time (safety notes, B27).
func (e *eyes) askBarred(ctx context.Context) error {
	names, err := e.conn.RecoveryTargets(ctx)
	if err != nil {
		return err
	}
	e.barredAt, e.barred = time.Now(), ""
	if len(names) > 0 {
		e.barred = strings.Join(names, ", ") + map[bool]string{true: " is set", false: " are set"}[len(names) == 1]
	}
	return nil
}

// dropFormerSlots drops the logical slots for failover that this standby has from when it
// was the primary: they are the primary's now, which goes on with them, and keep this
// server from taking over what becomes of them there. Each costs nothing but that, so a
// refusal is told and tried again.
func (e *eyes) dropFormerSlots(ctx context.Context) {
	names, err := e.conn.FormerSlots(ctx)
	for _, name := range names {
		if err = e.conn.DropSlot(ctx, name); err != nil {
			break
		}
		e.d.notice(fmt.Sprintf("the logical slot %q, from when this server was the primary, is dropped: it is the primary's now", name))
	}
	if err != nil {
		e.d.complain(slog.LevelWarn, err)
	}
}

// ownDirectory refuses a data_directory that is not the server's: processes that
// work there are ended after a crash, and when this node is fenced. The paths are
// compared where the role may see the server's, else the system identifiers.
func ownDirectory(ctx context.Context, server pg.Server, cfg *conf.Config) error {
	wrong := fault.New(fault.BadConfig, "data_directory is not the server's").WithHint("Correct data_directory or conninfo in repmgr.conf.")
	a, errA := os.Stat(server.DataDirectory)
	b, errB := os.Stat(cfg.DataDirectory)
	if server.DataDirectory != "" && errA == nil && errB == nil {
		if os.SameFile(a, b) {
			return nil
		}
		return wrong.WithDetail("repmgr.conf says %q, the server at conninfo works in %q.", cfg.DataDirectory, server.DataDirectory)
	}
	control, err := pg.ReadControl(ctx, cfg.PgBindir, cfg.DataDirectory)
	if err != nil || control.SystemID != server.SystemID {
		return wrong.WithDetail("%s belongs to system %q, the server at conninfo to %q.", cfg.DataDirectory, control.SystemID, server.SystemID)
	}
	return nil
}

func (e *eyes) disconnect() {
	registry.Close(e.conn)
	e.conn = nil
}

// watchProcess takes a handle on the postmaster, so that its death is seen at once.
func (e *eyes) watchProcess() {
	e.forgetProcess()
	dir := e.cfg.Load().DataDirectory
	process, err := host.OpenProcess(host.Postmaster(dir))
	if err != nil {
		return // without a handle the death is seen by the next look
	}
	if host.Postmaster(dir) != process.PID { // asked while it is held: its number cannot change hands
		process.Close()
		return
	}
	e.process = process
}

func (e *eyes) forgetProcess() {
	if e.process != nil {
		e.process.Close()
	}
	e.process = nil
}

// readRegistry reads the records, the daemons' addresses and, once, the
// authority, and remembers what changed.
func (e *eyes) readRegistry(ctx context.Context) error {
	kept, err := registry.ReadKept(ctx, e.conn)
	if err != nil {
		return err
	}
	e.readAt = time.Now()
	e.takeRule(kept.Founding)
	nodes, endpoints, found := kept.Nodes, kept.Endpoints, len(kept.Certificate) > 0
	e.d.recordSuccessionAgain(nodes)
	authority := string(kept.Certificate) + string(kept.Key)
	if slices.Equal(nodes, e.nodes) && maps.Equal(endpoints, e.endpoints) && (!found || authority == e.authority) {
		return nil
	}
	e.nodes, e.endpoints, e.authority = nodes, endpoints, authority
	err = e.d.peers.update(func(r *remembered) {
		r.Nodes, r.Endpoints = nodes, endpoints
		if found {
			r.Certificate, r.Key = string(kept.Certificate), string(kept.Key)
		}
	})
	if err != nil {
		e.d.complain(slog.LevelWarn, err)
	}
	select {
	case e.d.in <- observed{failover.NodesRead{Nodes: nodes}}:
	default: // before the loop runs, or while it is behind: the next reading brings it
		e.nodes = nil
	}
	return nil
}

// whyDown finds out what became of a server that does not answer. Only a server
// at whose address nobody answers, whose postmaster is gone and whose data
// directory is surely this one's is said to have stopped or crashed: the others
// act on that at once.
func (e *eyes) whyDown(ctx context.Context) failover.ServerState {
	cfg := e.cfg.Load()
	limit, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	switch e.ping(limit) {
	case pg.Accepting:
		return failover.ServerUnreachable // it takes connections, and not this daemon's
	case pg.Rejecting:
		return failover.ServerStarting
	}
	if host.Postmaster(cfg.DataDirectory) != 0 {
		return failover.ServerUnreachable
	}
	pm, _ := pg.ReadPostmaster(cfg.DataDirectory) // none names no process
	switch e.state {
	case failover.ServerStopped, failover.ServerCrashed, failover.ServerFenced:
		if pm.PID == e.downPID {
			return e.state // nothing was started since that was found out
		}
	}
	e.downPID = pm.PID
	return e.howEnded(limit, cfg)
}

func (e *eyes) ping(ctx context.Context) pg.Reach {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	ci, err := pg.ParseConninfo(e.cfg.Load().Conninfo)
	if err != nil {
		return pg.NoAnswer
	}
	return pg.Ping(ctx, ci)
}

// howEnded tells a crash from a shutdown in order. A postmaster that died in
// disorder may leave backends behind that go on committing (safety notes, A8):
// they are ended before the server is said to have crashed.
func (e *eyes) howEnded(ctx context.Context, cfg *conf.Config) failover.ServerState {
	if err := host.KillOrphans(ctx, cfg.DataDirectory); err != nil {
		e.d.complain(slog.LevelWarn, fault.Wrap(err, fault.SysFailure, "processes of the dead server could not be ended"))
		return failover.ServerUnreachable
	}
	systemID, inOrder, err := pg.ReadEnd(ctx, cfg.PgBindir, cfg.DataDirectory)
	switch {
	case err != nil, e.last.SystemID != "" && systemID != e.last.SystemID:
		return failover.ServerUnknown
	case e.d.peers.fencedBy() != 0:
		return failover.ServerFenced
	case inOrder:
		return failover.ServerStopped
	}
	return failover.ServerCrashed
}

// probe looks at another node's server. A server whose daemon is silent is asked
// for its role too, since nobody else tells it.
func (e *eyes) probe(ctx context.Context, n cluster.Node, silent bool) failover.Probed {
	cfg := e.cfg.Load()
	out := failover.Probed{Node: n.ID}
	ci, err := pg.ParseConninfo(n.Conninfo)
	if err != nil {
		return out
	}
	limit := policyOf(cfg).LookBound()
	if cfg.ConnectionCheckType == "query" {
		limit = max(limit, cfg.AsyncQueryTimeout)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if cfg.ConnectionCheckType == "ping" {
		if out.OK = pg.Ping(ctx, ci) == pg.Accepting; !out.OK || !silent {
			return out
		}
	}
	conn, err := pg.Connect(ctx, ci.With("application_name", "repmgrd"))
	if err != nil {
		return out
	}
	defer registry.Close(conn)
	if cfg.ConnectionCheckType == "query" {
		_, err = conn.Exec(ctx, cfg.ConnectionCheckQuery)
	}
	out.OK = err == nil
	if server, err := conn.Server(ctx); err == nil && silent {
		p, err := conn.Progress(ctx)
		if err != nil {
			return out
		}
		out.Role, out.SystemID, out.Position = cluster.Primary, server.SystemID, failover.Position{Timeline: p.Timeline, LSN: p.Position()}
		if p.InRecovery {
			out.Role = cluster.Standby
		}
	}
	return out
}

// takeRule takes in which rule is in force, as the database knows it: for a daemon
// that has no record of its own.
func (e *eyes) takeRule(founding registry.Founding) {
	e.d.recordRuleAgain(founding)
	select {
	case e.d.in <- observed{failover.RuleRead{Quorum: founding.Rule == string(record.Quorum)}}:
	default: // the next reading brings it
	}
}
