package registry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"repmgr/internal/backupapi"
	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/fault"
	"repmgr/internal/ops"
	"repmgr/internal/pg"
)

// WorldOptions is what a World needs beside the configuration. Every field may
// be left out.
type WorldOptions struct {
	ConfigFile string // absolute path of repmgr.conf, as it is registered
	Superuser  string // for what the ordinary user may not do
	Password   string // of PGPASSWORD, for use_primary_conninfo_password

	// StandbyName is the application_name under which the local server streams;
	// empty: the node's name.
	StandbyName string

	// Lost is a node that is known to be dead: nobody connects to it.
	Lost cluster.NodeID

	// EndOfWAL reads where the last whole record of the local server ends, on a timeline
	// and from the end of a record on. Without it, WAL that was received counts to the
	// last byte, though it may end within a record.
	EndOfWAL func(context.Context, cluster.Timeline, cluster.LSN) (cluster.LSN, error)

	// NewAuthority makes a certificate authority, in PEM.
	NewAuthority func() (certificate, key []byte, err error)

	Warn     func(error)             // is told what does not make the operation fail
	Progress func(done, total int64) // is told how many bytes a base backup has copied

	// Restoring is told how long a restore by pg-backup-api takes, and how many bytes have come.
	Restoring func(operation string, elapsed time.Duration, bytes int64)
}

// World is the world of package ops over real servers, seen from one node. It
// belongs to one goroutine; Close ends its connections.
type World struct {
	cfg *conf.Config
	opt WorldOptions

	nodes   []cluster.Node // as registered
	primary keptConn       // to the primary's database
	local   keptConn       // to this node's own server
	others  map[cluster.NodeID]*keptConn
	super   *pg.Conn // as superuser to the clone's source

	source   pg.Conninfo // of a clone
	backup   pg.BackupSpec
	barman   *barman           // of a clone from Barman
	api      *backupapi.Client // of a clone by way of pg-backup-api
	holds    map[cluster.NodeID]*hold
	fills    []string      // directories outside its data directory that a clone fills
	made     []string      // files that a clone made outside its directory
	replaced *pg.Recovery  // settings that WriteRecovery replaced
	upstream *cluster.Node // whose password goes into primary_conninfo
	follows  cluster.Timeline
}

var _ ops.World = (*World)(nil)

// NewWorld returns a World that has not connected to anything yet.
func NewWorld(cfg *conf.Config, opt WorldOptions) *World {
	if opt.Warn == nil {
		opt.Warn = func(error) {}
	}
	w := &World{cfg: cfg, opt: opt, others: map[cluster.NodeID]*keptConn{}, holds: map[cluster.NodeID]*hold{}}
	w.local.info = cfg.Conninfo
	return w
}

// Close ends every connection, and with them what they hold.
func (w *World) Close() {
	w.primary.drop()
	w.local.drop()
	for _, c := range w.others {
		c.drop()
	}
	for _, h := range w.holds {
		Close(h.conn)
	}
	Close(w.super)
}

// keptConn is a connection that is opened when it is needed, and opened again
// when it was lost.
type keptConn struct {
	info string
	conn *pg.Conn
}

func (k *keptConn) open(ctx context.Context) (*pg.Conn, error) {
	if k.conn != nil && k.conn.Conn != nil && !k.conn.IsClosed() {
		return k.conn, nil
	}
	if k.info == "" {
		return nil, fault.New(fault.DBConn, "there is no server to connect to")
	}
	info, err := pg.ParseConninfo(k.info)
	if err != nil {
		return nil, err
	}
	k.conn, err = pg.Connect(ctx, info)
	return k.conn, err
}

func (k *keptConn) drop() {
	Close(k.conn)
	k.conn = nil
}

// answerTimeout bounds what one server may take for one question or one change.
// connect_timeout alone does not help with a server that hangs later.
const answerTimeout = 30 * time.Second

func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, answerTimeout)
}

// keep takes over an open connection to n.
func (k *keptConn) keep(n cluster.Node, c *pg.Conn) {
	k.drop()
	k.info, k.conn = n.Conninfo, c
}

// to returns a connection to a registered node, or to the clone's source.
func (w *World) to(ctx context.Context, id cluster.NodeID) (*pg.Conn, error) {
	k, known := w.others[id]
	if !known {
		n, found := cluster.Find(w.nodes, id)
		k = &keptConn{info: n.Conninfo}
		if id == ops.Source && !found {
			k.info = w.source.String()
		}
		w.others[id] = k
	}
	return k.open(ctx)
}

// database returns a connection to where the metadata is kept.
func (w *World) database(ctx context.Context, in ops.Database) (*pg.Conn, error) {
	if in == ops.OfWitness {
		return w.local.open(ctx)
	}
	return w.primary.open(ctx)
}

// HasMetadata tells whether schema and voting term are there.
func (w *World) HasMetadata(ctx context.Context, in ops.Database) (bool, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	c, err := w.database(ctx, in)
	if err != nil {
		return false, err
	}
	nodes, current, err := Installed(ctx, c)
	if err != nil || !nodes || !current {
		return false, err
	}
	term, err := Term(ctx, c)
	return term > 0, err
}

// CreateMetadata migrates the database and starts the voting term. The event
// cluster_created goes into the database that was created.
func (w *World) CreateMetadata(ctx context.Context, in ops.Database) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	c, err := w.database(ctx, in)
	if err != nil {
		return err
	}
	if w.opt.Superuser != "" {
		if err := w.handOver(ctx, c); err != nil {
			return err
		}
	}
	created, err := Migrate(ctx, c)
	if err != nil {
		return err
	}
	if err := StartTerm(ctx, c); err != nil || !created {
		return err
	}
	w.warn(Announce(ctx, c, w.cfg, Event{Node: w.cfg.NodeID, Name: "cluster_created", Successful: true,
		Details: "the repmgr metadata was created"}))
	return nil
}

// handOver lets the superuser prepare what c's user may not.
func (w *World) handOver(ctx context.Context, c *pg.Conn) error {
	super, err := w.asSuperuser(ctx, w.cfg.Conninfo)
	if err != nil {
		return err
	}
	defer Close(super)
	return HandOver(ctx, super, c.Config().User)
}

// asSuperuser connects as --superuser and makes sure that it is one.
func (w *World) asSuperuser(ctx context.Context, conninfo string) (*pg.Conn, error) {
	info, err := pg.ParseConninfo(conninfo)
	if err != nil {
		return nil, err
	}
	c, err := pg.Connect(ctx, info.Without("password").With("user", w.opt.Superuser))
	if err != nil {
		return nil, err
	}
	p, err := c.Privileges(ctx)
	if err == nil && !p.Superuser {
		err = fault.New(fault.BadConfig, "%q is no superuser", w.opt.Superuser).
			WithHint("name one with --superuser")
	}
	if err != nil {
		Close(c)
		return nil, err
	}
	return c, nil
}

func (w *World) warn(err error) {
	if err != nil {
		w.opt.Warn(err)
	}
}

// Record reads a record from the primary's database. Where there is no metadata
// yet there is no record.
func (w *World) Record(ctx context.Context, id cluster.NodeID) (cluster.Node, bool, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	c, err := w.primary.open(ctx)
	if err != nil {
		return cluster.Node{}, false, err
	}
	n, err := Node(ctx, c, id)
	switch {
	case err == nil:
		return n, true, nil
	case errors.Is(err, ErrNoRecord), stateOf(err) == undefinedTable, stateOf(err) == undefinedSchema:
		return cluster.Node{}, false, nil
	default:
		return cluster.Node{}, false, err
	}
}

// onPrimary runs change on the connection to the primary.
func (w *World) onPrimary(ctx context.Context, change func(*pg.Conn) error) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	c, err := w.primary.open(ctx)
	if err != nil {
		return err
	}
	return change(c)
}

// SaveRecord writes a record to the primary's database.
func (w *World) SaveRecord(ctx context.Context, n cluster.Node) error {
	return w.onPrimary(ctx, func(c *pg.Conn) error { return SaveNode(ctx, c, n) })
}

// DeleteRecord removes a record from the primary's database.
func (w *World) DeleteRecord(ctx context.Context, id cluster.NodeID) error {
	return w.onPrimary(ctx, func(c *pg.Conn) error { return DeleteNode(ctx, c, id) })
}

// RecordPromotion makes id the only active primary of the records.
func (w *World) RecordPromotion(ctx context.Context, id cluster.NodeID) error {
	return w.onPrimary(ctx, func(c *pg.Conn) error { return RecordPromotion(ctx, c, id) })
}

// Endpoint reads where a node's daemon listens.
func (w *World) Endpoint(ctx context.Context, id cluster.NodeID) (ops.Endpoint, bool, error) {
	var e Endpoint
	var found bool
	err := w.onPrimary(ctx, func(c *pg.Conn) error {
		all, err := Endpoints(ctx, c)
		e, found = all[id]
		return err
	})
	return ops.Endpoint(e), found, err
}

// SaveEndpoint records where a node's daemon listens.
func (w *World) SaveEndpoint(ctx context.Context, id cluster.NodeID, e ops.Endpoint) error {
	return w.onPrimary(ctx, func(c *pg.Conn) error { return SaveEndpoint(ctx, c, id, Endpoint(e)) })
}

// HasAuthority tells whether the cluster has a certificate authority.
func (w *World) HasAuthority(ctx context.Context) (found bool, err error) {
	err = w.onPrimary(ctx, func(c *pg.Conn) error {
		_, _, found, err = Authority(ctx, c)
		return err
	})
	return found, err
}

// CreateAuthority makes one by NewAuthority and stores it.
func (w *World) CreateAuthority(ctx context.Context) error {
	if w.opt.NewAuthority == nil {
		return fault.New(fault.Internal, "nothing here makes certificate authorities")
	}
	certificate, key, err := w.opt.NewAuthority()
	if err != nil {
		return fmt.Errorf("make a certificate authority: %w", err)
	}
	return w.onPrimary(ctx, func(c *pg.Conn) error { return SaveAuthority(ctx, c, certificate, key) })
}

// CopyRecords makes the witness's records like the primary's: in its database, or,
// where it has none, in its state directory.
func (w *World) CopyRecords(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	return w.onPrimary(ctx, func(from *pg.Conn) error {
		if w.cfg.WithoutServer() {
			return introduce(ctx, w.cfg.StateDir(), from)
		}
		to, err := w.local.open(ctx)
		if err != nil {
			return err
		}
		return CopyNodes(ctx, from, to)
	})
}

// WaitSync waits until the local server's copy of the record is like n.
func (w *World) WaitSync(ctx context.Context, n cluster.Node, timeout time.Duration) error {
	var seen cluster.Node
	arrived := poll(ctx, timeout, time.Second, func(ctx context.Context) bool {
		c, err := w.local.open(ctx)
		if err != nil {
			return false
		}
		seen, err = Node(ctx, c, n.ID)
		seen.ReplUser, seen.ConfigFile = n.ReplUser, n.ConfigFile
		return err == nil && seen == n
	})
	if arrived {
		return nil
	}
	return fault.New(fault.RegistrationSync, "the record did not reach this server").
		WithDetail("waited %s", timeout).
		WithHint("it is registered on the primary; check that this standby is attached and replays")
}

// Announce records an event on the primary and notifies of it. Its error has
// been told to Warn.
func (w *World) Announce(ctx context.Context, e ops.Event) error {
	c, err := w.primary.open(ctx)
	if err != nil {
		c = nil
	}
	err = Announce(ctx, c, w.cfg, Event{Node: e.Node, Name: e.Name, Successful: !e.Failed, Details: e.Details, About: e.About})
	w.warn(err)
	return err
}

// firstPause is the time before poll looks a second time.
const firstPause = 5 * time.Millisecond

// poll asks until the answer is yes, at first very often and then less, up to
// the longest pause. It gives up after the timeout (zero: it asks once; negative:
// never) or with ctx; a question that is under way then is broken off.
func poll(ctx context.Context, timeout, longest time.Duration, ask func(context.Context) bool) bool {
	if timeout == 0 {
		return ask(ctx)
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	for pause := firstPause; ; pause = min(pause*3/2, max(longest, firstPause)) {
		if ask(ctx) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}

// Self is the local node's record as the configuration wants it. Role and
// upstream are left to the verb.
func (w *World) Self() cluster.Node {
	n := cluster.Node{ID: w.cfg.NodeID, Active: true, Name: w.cfg.NodeName, Location: w.cfg.Location,
		Priority: w.cfg.Priority, Conninfo: w.cfg.Conninfo, ReplUser: w.cfg.ReplicationUser, ConfigFile: w.opt.ConfigFile}
	if w.cfg.UseReplicationSlots {
		n.SlotName = SlotName(n.ID)
	}
	if n.ReplUser != "" {
		return n
	}
	info, err := pg.ParseConninfo(w.cfg.Conninfo)
	if err == nil {
		n.ReplUser = info.Get("user")
	}
	if n.ReplUser == "" && w.local.conn != nil {
		n.ReplUser = w.local.conn.Config().User
	}
	return n
}

// SlotName is the replication slot that a node uses on its upstream.
func SlotName(id cluster.NodeID) string { return fmt.Sprintf("repmgr_slot_%d", id) }

// endpoint is where the local daemon is reached: by the host by which others
// reach the server.
func (w *World) endpoint() ops.Endpoint {
	e := ops.Endpoint{Host: "localhost", Port: w.cfg.DaemonPort}
	info, err := pg.ParseConninfo(w.cfg.Conninfo)
	if err != nil {
		return e
	}
	for _, key := range []string{"host", "hostaddr"} {
		first, _, _ := strings.Cut(info.Get(key), ",")
		if first != "" && !strings.HasPrefix(first, "/") && !strings.HasPrefix(first, "@") {
			e.Host = first
			return e
		}
	}
	if name, err := os.Hostname(); err == nil {
		e.Host = name
	}
	return e
}
