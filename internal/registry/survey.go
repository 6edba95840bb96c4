package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/ops"
	"repmgr/internal/pg"
)

// look says what can be seen of a server that was connected to. self is the
// application_name that is looked for among those who stream from it.
func look(ctx context.Context, c *pg.Conn, self string) (ops.Server, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	s, err := c.Server(ctx)
	if err != nil {
		return ops.Server{}, err
	}
	p, err := c.Progress(ctx)
	if err != nil {
		return ops.Server{}, err
	}
	seen := ops.Server{Reachable: true, Version: s.Version, SystemID: s.SystemID,
		InRecovery: p.InRecovery, Timeline: p.Timeline, Position: p.Position()}
	slots, err := c.Slots(ctx)
	if err != nil {
		return seen, err
	}
	used, limit, err := c.WalSenders(ctx)
	if err != nil {
		return seen, err
	}
	settings, err := c.Settings(ctx, "max_replication_slots")
	if err != nil {
		return seen, err
	}
	most, _ := strconv.Atoi(settings["max_replication_slots"])
	seen.SlotsFree, seen.Senders = max(0, most-len(slots)), max(0, limit-used)
	a, _, err := c.Attached(ctx, self)
	seen.Holds = a == pg.Attached
	return seen, err
}

// lookAt connects to a registered node and looks. A node that cannot be reached
// is a fact and no error.
func lookAt(ctx context.Context, n cluster.Node, self string) ops.Server {
	if n.WithoutServer() {
		return ops.Server{Why: "it is a witness without PostgreSQL"}
	}
	c, err := Connect(ctx, n)
	if err != nil {
		return ops.Server{Why: err.Error()}
	}
	defer Close(c)
	s, err := look(ctx, c, self)
	if err != nil {
		return ops.Server{Why: err.Error()}
	}
	return s
}

// lookAtAll looks at the nodes at the same time; the local node and the lost one
// are left out.
func (w *World) lookAtAll(ctx context.Context, nodes []cluster.Node) map[cluster.NodeID]ops.Server {
	var ask []cluster.Node
	for _, n := range nodes {
		if n.ID != w.cfg.NodeID && (n.ID != w.opt.Lost || n.ID == 0) {
			ask = append(ask, n)
		}
	}
	seen := map[cluster.NodeID]ops.Server{}
	for _, a := range AskAll(ctx, ask, func(ctx context.Context, n cluster.Node) (ops.Server, error) {
		return lookAt(ctx, n, w.cfg.NodeName), nil
	}) {
		seen[a.Node.ID] = a.Value
	}
	return seen
}

// openLocal connects to the local server and looks at it.
func (w *World) openLocal(ctx context.Context) (*pg.Conn, ops.Server, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	c, err := w.local.open(ctx)
	if err != nil {
		return nil, ops.Server{Why: err.Error()}, localFault(err)
	}
	s, err := look(ctx, c, w.cfg.NodeName)
	return c, s, err
}

// localFault says that the local server cannot be reached.
func localFault(err error) error {
	f := fault.Wrap(err, fault.DBConn, "this node's server cannot be reached")
	var cause *fault.Error
	if errors.As(err, &cause) {
		f.Detail, f.Hint = cause.Detail, cause.Hint
	}
	if f.Hint == "" {
		f.Hint = "start it, or check conninfo in repmgr.conf"
	}
	return f
}

// records reads the registered nodes; where there is no metadata there are none.
func (w *World) records(ctx context.Context, c *pg.Conn) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	found, _, err := Installed(ctx, c)
	if err != nil || !found {
		return err
	}
	w.nodes, err = Nodes(ctx, c)
	return err
}

// survey is what every verb needs to know.
func (w *World) survey(local ops.Server) ops.Survey {
	return ops.Survey{Self: w.Self(), Endpoint: w.endpoint(), Local: local, Nodes: w.nodes,
		Servers: map[cluster.NodeID]ops.Server{}}
}

// SurveyPrimaryRegister looks at the local server and at every other that is
// registered as an active primary.
func (w *World) SurveyPrimaryRegister(ctx context.Context) (ops.Survey, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	c, local, err := w.openLocal(ctx)
	if err != nil {
		return ops.Survey{}, err
	}
	if err := w.records(ctx, c); err != nil {
		return ops.Survey{}, err
	}
	w.primary.info = w.cfg.Conninfo
	s := w.survey(local)
	s.Self.Role, s.Primary = cluster.Primary, w.cfg.NodeID
	var others []cluster.Node
	for _, n := range w.nodes {
		if n.Role == cluster.Primary && n.Active {
			others = append(others, n)
		}
	}
	s.Servers = w.lookAtAll(ctx, others)
	return s, nil
}

// SurveyUnregister looks at the records, the primary and the node that is to be
// removed. given is how to reach the primary where the local server is down;
// nil: it must be up.
func (w *World) SurveyUnregister(ctx context.Context, target cluster.NodeID, given *pg.Conninfo) (ops.Survey, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	c, local, err := w.openLocal(ctx)
	if err != nil && given == nil {
		return ops.Survey{}, err
	}
	if err != nil {
		if c, err = w.namedPrimary(ctx, *given); err != nil {
			return ops.Survey{}, err
		}
	}
	if err := w.records(ctx, c); err != nil {
		return ops.Survey{}, err
	}
	s := w.survey(local)
	n, conn, err := FindPrimary(ctx, w.except(w.opt.Lost))
	if err != nil {
		return s, err
	}
	w.primary.keep(n, conn)
	s.Primary = n.ID
	if w.nodes, err = Nodes(ctx, conn); err != nil {
		return s, err
	}
	s.Nodes = w.nodes
	if t, found := cluster.Find(w.nodes, target); found {
		s.Servers[t.ID] = lookAt(ctx, t, w.cfg.NodeName)
	}
	if p, found := cluster.Find(w.nodes, n.ID); found && s.Servers[p.ID] == (ops.Server{}) {
		s.Servers[p.ID], err = look(ctx, conn, w.cfg.NodeName)
	}
	return s, err
}

// TargetEndpoint is the endpoint of a node that is to be removed, so that it can
// be put back; nil if it has none.
func (w *World) TargetEndpoint(ctx context.Context, id cluster.NodeID) *ops.Endpoint {
	e, found, err := w.Endpoint(ctx, id)
	if err != nil || !found {
		return nil
	}
	return &e
}

// except is the registered nodes without one.
func (w *World) except(id cluster.NodeID) []cluster.Node {
	var out []cluster.Node
	for _, n := range w.nodes {
		if id == 0 || n.ID != id {
			out = append(out, n)
		}
	}
	return out
}

// candidates are the nodes that are asked whether they are the primary: not the lost one, and
// target in any case. The records are this node's own copy, and may not say what has become of
// its target since.
func (w *World) candidates(target cluster.NodeID) []cluster.Node {
	out := w.except(w.opt.Lost)
	for i := range out {
		out[i].Active = out[i].Active || out[i].ID == target
	}
	return out
}

// namedPrimary connects to the server that the operator named.
func (w *World) namedPrimary(ctx context.Context, info pg.Conninfo) (*pg.Conn, error) {
	w.primary.drop()
	w.primary.info = info.String()
	return w.primary.open(ctx)
}

// RegisterRequest is what `standby register` was asked for.
type RegisterRequest struct {
	WaitStart time.Duration // for the local server to start
	Force     bool          // go on though it is down
	Upstream  cluster.NodeID
	Given     *pg.Conninfo // the primary, where the local server is down
}

// SurveyStandbyRegister looks at the local server, its upstream and the primary.
func (w *World) SurveyStandbyRegister(ctx context.Context, r RegisterRequest) (ops.Survey, error) {
	c, local, err := w.openLocal(ctx)
	if err != nil && !r.Force {
		// A server that was just started takes connections a little later.
		poll(ctx, r.WaitStart, time.Second, func(ctx context.Context) bool {
			c, local, err = w.openLocal(ctx)
			return err == nil
		})
	}
	if err != nil && !r.Force {
		f := fault.Wrap(err, fault.BadConfig, "this standby cannot be registered").
			WithDetail("waited %s for it to start (--wait-start)", r.WaitStart).
			WithHint("start it, or register it while it is down with -F/--force and the connection options of the primary")
		return ops.Survey{}, f
	}
	if err != nil && r.Given == nil {
		return ops.Survey{}, fault.Wrap(err, fault.BadConfig, "this standby is down, and no primary was named").
			WithHint("name the primary with -h, -p, -U and -d")
	}
	if err != nil {
		if c, err = w.namedPrimary(ctx, *r.Given); err != nil {
			return ops.Survey{}, fault.Wrap(err, fault.BadConfig, "the primary that was named cannot be reached")
		}
	}
	if err := w.records(ctx, c); err != nil {
		return ops.Survey{}, err
	}
	s := w.survey(local)
	s.Self.Role = cluster.Standby
	if local.Reachable && !local.InRecovery {
		return s, nil // the plan says that it is no standby
	}
	err = w.surveyUpstream(ctx, &s, r.Upstream)
	_, known := cluster.Find(s.Nodes, s.Self.ID)
	if err == nil && local.Reachable && !r.Force && (r.Upstream != 0 || !known) {
		w.awaitAttached(ctx, &s, cmp.Or(r.Upstream, s.Primary))
	}
	return s, err
}

// attachWithin is how long a standby may take to connect to its upstream: one that was just
// started takes sessions a moment before that.
const attachWithin = 2 * time.Second

// awaitAttached looks at the upstream until the local server is attached to it, or time is up.
func (w *World) awaitAttached(ctx context.Context, s *ops.Survey, upstream cluster.NodeID) {
	up, found := cluster.Find(s.Nodes, upstream)
	if !found || s.Servers[up.ID].Holds || !s.Servers[up.ID].Reachable {
		return
	}
	poll(ctx, attachWithin, 500*time.Millisecond, func(ctx context.Context) bool {
		if seen := lookAt(ctx, up, w.cfg.NodeName); seen.Reachable {
			s.Servers[up.ID] = seen
		}
		return s.Servers[up.ID].Holds
	})
}

// surveyUpstream finds the primary and looks at it and at the upstream.
func (w *World) surveyUpstream(ctx context.Context, s *ops.Survey, upstream cluster.NodeID) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	n, conn, err := FindPrimary(ctx, w.except(s.Self.ID))
	if err != nil {
		return err
	}
	w.primary.keep(n, conn)
	s.Primary = n.ID
	if w.nodes, err = Nodes(ctx, conn); err != nil {
		return err
	}
	s.Nodes = w.nodes
	if s.Servers[n.ID], err = look(ctx, conn, w.cfg.NodeName); err != nil {
		return err
	}
	if up, found := cluster.Find(w.nodes, upstream); found && upstream != n.ID && upstream != s.Self.ID {
		s.Servers[up.ID] = lookAt(ctx, up, w.cfg.NodeName)
	}
	return nil
}

// SurveyWitnessRegister looks at the witness's server and at the primary that
// was named, and tells whether the witness's database holds records.
func (w *World) SurveyWitnessRegister(ctx context.Context, given pg.Conninfo) (s ops.Survey, holdsRecords bool, err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	own, local, err := w.openLocal(ctx)
	if err != nil {
		return s, false, fault.Wrap(err, fault.BadConfig, "the witness cannot be registered")
	}
	if err := w.records(ctx, own); err != nil {
		return s, false, err
	}
	holdsRecords = len(w.nodes) > 0
	info, err := pg.ParseConninfo(w.cfg.Conninfo)
	if err != nil {
		return s, holdsRecords, err
	}
	for _, key := range []string{"user", "dbname"} {
		if given.Get(key) == "" && info.Get(key) != "" {
			given = given.With(key, info.Get(key))
		}
	}
	c, err := w.namedPrimary(ctx, given)
	if err != nil {
		return s, holdsRecords, fault.Wrap(err, fault.BadConfig, "the primary that was named cannot be reached")
	}
	w.nodes = nil
	if err := w.records(ctx, c); err != nil {
		return s, holdsRecords, err
	}
	s = w.survey(local)
	named, err := look(ctx, c, w.cfg.NodeName)
	if err != nil || named.InRecovery {
		return s, holdsRecords, err
	}
	for _, n := range w.nodes {
		if n.Role != cluster.Primary || !n.Active {
			continue
		}
		w.primary.drop()
		w.primary.info = n.Conninfo
		if c, err = w.primary.open(ctx); err != nil {
			return s, holdsRecords, fault.Wrap(err, fault.BadConfig, "the primary cannot be reached by its registered conninfo")
		}
		s.Primary = n.ID
		s.Servers[n.ID], err = look(ctx, c, w.cfg.NodeName)
		return s, holdsRecords, err
	}
	return s, holdsRecords, fault.New(fault.BadConfig, "no active primary is registered").
		WithHint("run \"repmgr primary register\" on the primary's host")
}

// SurveyPromote looks at the local server and at every other node that might be
// a primary, and says how the local server would be promoted.
func (w *World) SurveyPromote(ctx context.Context) (ops.Survey, ops.Promotion, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	c, local, err := w.openLocal(ctx)
	if err != nil {
		return ops.Survey{}, ops.Promotion{}, err
	}
	if err := w.records(ctx, c); err != nil {
		return ops.Survey{}, ops.Promotion{}, err
	}
	s := w.survey(local)
	var others []cluster.Node
	for _, n := range w.nodes {
		if n.Active && n.Role != cluster.Witness {
			others = append(others, n)
		}
	}
	s.Servers = w.lookAtAll(ctx, others)
	p, err := w.Promotion(ctx)
	return s, p, err
}

// Promotion says how the local server is told to promote: by pg_promote where
// the user may call it and service_promote_command is not set.
func (w *World) Promotion(ctx context.Context) (ops.Promotion, error) {
	// Once promoted, the local server is where the records are written.
	w.primary.info = w.cfg.Conninfo
	p := ops.Promotion{Timeout: w.cfg.PromoteCheckTimeout, Interval: w.cfg.PromoteCheckInterval, Command: w.cfg.ServicePromoteCommand}
	c, err := w.local.open(ctx)
	if err != nil || p.Command != "" {
		return p, err
	}
	may, err := c.CanPromote(ctx)
	if err == nil && !may {
		p.Command = ctl(w.cfg).Promote(0)
	}
	return p, err
}

// FollowRequest is what `standby follow` was asked for.
type FollowRequest struct {
	Target   cluster.NodeID // zero: the primary
	Primary  bool           // it is followed as the primary under the quorum rule: it has to be that, and is recorded as such
	Wait     time.Duration  // for the target to appear; zero: one attempt
	KeepSlot bool           // leave the slot on the former upstream
	Silent   bool           // without the event standby_follow
}

// SurveyFollow looks at the local server, its target and the primary, and
// compares histories.
func (w *World) SurveyFollow(ctx context.Context, r FollowRequest) (ops.Survey, ops.FollowOptions, error) {
	o := ops.FollowOptions{Target: r.Target, Primary: r.Primary, Silent: r.Silent, Restart: w.cfg.StandbyFollowRestart, Timeout: w.cfg.StandbyFollowTimeout}
	c, local, err := w.openLocal(ctx)
	if err != nil {
		var f *fault.Error
		if errors.As(err, &f) {
			f.WithHint("a node that does not run comes back by \"repmgr node rejoin\"")
		}
		return ops.Survey{}, o, err
	}
	if err := w.records(ctx, c); err != nil {
		return ops.Survey{}, o, err
	}
	s := w.survey(local)
	self, found := cluster.Find(w.nodes, w.cfg.NodeID)
	if !found || !local.InRecovery || r.Target == w.cfg.NodeID {
		return s, o, nil // the plan says what is wrong
	}
	if err := w.checkDataDirectory(); err != nil {
		return s, o, err
	}
	if err := w.awaitTarget(ctx, &s, r); err != nil {
		return s, o, err
	}
	target := r.Target
	if target == 0 {
		target = s.Primary
	}
	n, found := cluster.Find(w.nodes, target)
	if !found || !s.Servers[target].Reachable {
		return s, o, nil
	}
	if o.Recovery, err = w.recoveryFor(n); err != nil {
		return s, o, err
	}
	if self.Upstream != target && w.cfg.UseReplicationSlots && !r.KeepSlot && self.Upstream != w.opt.Lost {
		o.OldSlot = SlotName(self.ID)
	}
	w.follows = s.Servers[target].Timeline
	if server := s.Servers[target]; server.Senders < 1 && !server.Holds {
		return s, o, nil // no replication connection is to be had; the plan says so
	}
	o.Diverged, err = w.diverged(ctx, n, s)
	return s, o, err
}

// checkDataDirectory makes sure that the local server's settings are those in
// data_directory, since they are what is changed.
func (w *World) checkDataDirectory() error {
	d, err := host.DirectoryState(w.cfg.DataDirectory)
	if err != nil || d.InUse() {
		return err
	}
	return fault.New(fault.BadConfig, "the server of conninfo does not work in data_directory").
		WithDetail("it answers, but no server process is at work in %s", w.cfg.DataDirectory).
		WithHint("correct data_directory or conninfo in repmgr.conf, and run this as the user that PostgreSQL runs as")
}

// awaitTarget finds the primary and looks at the target, again and again for as
// long as the request says.
func (w *World) awaitTarget(ctx context.Context, s *ops.Survey, r FollowRequest) error {
	var err error
	poll(ctx, r.Wait, time.Second, func(ctx context.Context) bool {
		err = w.surveyTarget(ctx, s, r)
		target := r.Target
		if target == 0 {
			target = s.Primary
		}
		return err == nil && s.Servers[target].Reachable || r.Wait == 0
	})
	return err
}

// surveyTarget is one attempt. A primary that is the target is only looked for
// once: it is found among all nodes. One that is known to be the primary is asked alone: another
// that takes writes as well is none, whatever its timeline.
func (w *World) surveyTarget(ctx context.Context, s *ops.Survey, r FollowRequest) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	target, candidates := r.Target, w.candidates(r.Target)
	if r.Primary {
		candidates = slices.DeleteFunc(candidates, func(n cluster.Node) bool { return n.ID != target })
	}
	n, conn, err := FindPrimary(ctx, candidates)
	if err != nil {
		var f *fault.Error
		if errors.As(err, &f) {
			f.Code = fault.FollowFail
		}
		return err
	}
	w.primary.keep(n, conn)
	s.Primary = n.ID
	if nodes, err := Nodes(ctx, conn); err == nil {
		w.nodes, s.Nodes = nodes, nodes
	}
	if s.Servers[n.ID], err = look(ctx, conn, w.cfg.NodeName); err != nil {
		return err
	}
	if t, found := cluster.Find(w.nodes, target); found && target != n.ID {
		s.Servers[t.ID] = lookAt(ctx, t, w.cfg.NodeName)
	}
	return nil
}

// diverged says why the local server cannot follow n, after a comparison of both
// histories; empty if it can. A standby on the same timeline that is a moment
// behind is given the time to catch up.
func (w *World) diverged(ctx context.Context, n cluster.Node, s ops.Survey) (string, error) {
	info, err := pg.ParseConninfo(n.Conninfo)
	if err != nil {
		return "", err
	}
	r, err := pg.ConnectReplication(ctx, info, n.ReplUser)
	if err != nil {
		return "", fault.Wrap(err, fault.FollowFail, "no replication connection to node %q (ID: %d)", n.Name, n.ID).
			WithDetail("the standby would not get one either").
			WithHint("check pg_hba.conf of that node, and the password file")
	}
	defer closeRepl(r)
	local := w.localHistory(ctx, s.Local)
	behind := s.Servers[n.ID].InRecovery && s.Servers[n.ID].Timeline == local.Timeline
	timeout := time.Duration(0)
	if behind {
		timeout = catchUpTimeout
	}
	var ok, whole bool // whole: the local position is the end of a whole record
	var reason string
	for deadline := time.Now().Add(timeout); ; {
		if ok, reason, err = r.CanFollow(ctx, local); err != nil {
			return "", fault.Wrap(err, fault.FollowFail, "the histories could not be compared")
		}
		if ok {
			return "", nil
		}
		if !whole {
			local.Position, whole = min(local.Position, w.endOfRecords(ctx, local)), true
			continue
		}
		if !time.Now().Before(deadline) {
			return reason, nil
		}
		select {
		case <-ctx.Done():
			return reason, ctx.Err()
		case <-time.After(longestPause):
		}
	}
}

// localHistory is where the local server's history ends. Only the replication
// protocol tells the timeline that is replayed: what SQL shows of it lags, or is
// kept from ordinary roles. Where the server refuses replication connections
// from here, SQL must do.
func (w *World) localHistory(ctx context.Context, seen ops.Server) pg.Local {
	ctx, cancel := bounded(ctx)
	defer cancel()
	local := pg.Local{SystemID: seen.SystemID, Timeline: seen.Timeline, Position: seen.Position}
	info, err := pg.ParseConninfo(w.cfg.Conninfo)
	if err != nil {
		return local
	}
	r, err := pg.ConnectReplication(ctx, info, w.Self().ReplUser)
	if err != nil {
		return local
	}
	defer closeRepl(r)
	id, err := r.IdentifySystem(ctx)
	if err != nil {
		return local
	}
	local.Timeline, local.Position = max(local.Timeline, id.Timeline), max(local.Position, id.Position)
	if forks, err := r.TimelineHistory(ctx, id.Timeline); err == nil && local.Timeline == id.Timeline {
		local.Forks = forks
	}
	return local
}

// endOfRecords is where the local server's last whole record ends. A primary that
// dies has often sent the beginning of another one, up to the end of a page: what
// was received reaches there, and a sibling that is promoted goes on before it. Of
// that piece nothing is ever replayed. What cannot be read ends where SQL says.
func (w *World) endOfRecords(ctx context.Context, local pg.Local) cluster.LSN {
	ctx, cancel := bounded(ctx)
	defer cancel()
	p, err := w.local.conn.Progress(ctx)
	if err != nil || p.Replayed == 0 || w.opt.EndOfWAL == nil {
		return local.Position
	}
	end, err := w.opt.EndOfWAL(ctx, local.Timeline, p.Replayed)
	if err != nil {
		return local.Position
	}
	return end
}

// Promote promotes the local standby and records it, as `standby promote` does.
func Promote(ctx context.Context, w *World, o ops.PromoteOptions, on func(ops.PlanEvent)) error {
	s, p, err := w.SurveyPromote(ctx)
	if err != nil {
		return err
	}
	o.Promotion = p
	plan, err := ops.StandbyPromote(s, o)
	if err != nil {
		return err
	}
	return ops.Carry(ctx, plan, w, fault.PromotionFail, on)
}

// Follow points the local standby, or witness, at another node, as `standby
// follow` does.
func Follow(ctx context.Context, w *World, r FollowRequest, on func(ops.PlanEvent)) error {
	s, o, err := w.SurveyFollow(ctx, r)
	if err != nil {
		return err
	}
	plan, err := ops.StandbyFollow(s, o)
	if err != nil {
		return err
	}
	if r.Primary {
		if err := w.onPrimary(ctx, func(c *pg.Conn) error { return RecordSuccession(ctx, c, r.Target) }); err != nil {
			return err
		}
	}
	return ops.Carry(ctx, plan, w, fault.FollowFail, on)
}

// FollowWitness lets the local witness name the new primary and copy its records. Its own old
// ones may call target, which is said to be it, inactive; zero: they are right.
func FollowWitness(ctx context.Context, w *World, target cluster.NodeID, on func(ops.PlanEvent)) error {
	_, local, err := w.openLocal(ctx)
	if err != nil {
		return err
	}
	if err := w.records(ctx, w.local.conn); err != nil {
		return err
	}
	s := w.survey(local)
	n, conn, err := FindPrimary(ctx, w.candidates(target))
	if err != nil {
		return fmt.Errorf("find the primary: %w", err)
	}
	w.primary.keep(n, conn)
	s.Primary = n.ID
	if s.Nodes, err = Nodes(ctx, conn); err != nil {
		return err
	}
	plan, err := ops.WitnessFollow(s)
	if err != nil {
		return err
	}
	return ops.Carry(ctx, plan, w, fault.FollowFail, on)
}
