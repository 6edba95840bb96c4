package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
	"repmgr/internal/pg"
	"repmgr/internal/registry"
)

// exchangeTimeout bounds one exchange of reports.
const exchangeTimeout = time.Second

// peers talk to the other daemons: one goroutine for each sends this node's
// report at every heartbeat and whenever it says something new.
type peers struct {
	d *Daemon

	mu       sync.Mutex
	memory   remembered
	identity *api.Identity
	cluster  string
	primary  cluster.NodeID // who takes the cluster's writes by its daemon's word; zero: nobody
	links    map[cluster.NodeID]*link
	changed  chan struct{} // the links must be made anew

	saving sync.Mutex // held while memory is written to disk; never with mu
}

// link is the way to one peer.
type link struct {
	target api.Target
	name   string
	client *api.Client
	kicks  chan struct{}
	frames chan []byte // of the group, on their way
	cancel context.CancelFunc

	mu    sync.Mutex
	err   string    // of the last exchange
	heard time.Time // when the peer last began an exchange itself
}

func newPeers(d *Daemon) *peers {
	return &peers{d: d, links: map[cluster.NodeID]*link{}, changed: make(chan struct{}, 1)}
}

// adopt takes in what was remembered from an earlier life.
func (p *peers) adopt(r remembered) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.memory = r
	if err := p.takeAuthority(); err != nil {
		p.d.complain(slog.LevelWarn, err)
	}
}

// update changes what is remembered, keeps it on disk, and makes the links anew.
func (p *peers) update(change func(*remembered)) error {
	err := p.remember(change)
	select {
	case p.changed <- struct{}{}:
	default:
	}
	return err
}

// remember is update for what the links do not depend on.
func (p *peers) remember(change func(*remembered)) error {
	if err := p.note(change); err != nil {
		return err
	}
	return p.keep()
}

// note changes what is remembered, in memory alone: a stalled disk delays nobody.
func (p *peers) note(change func(*remembered)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.memory.Certificate
	change(&p.memory)
	if p.memory.Certificate != before {
		return p.takeAuthority()
	}
	return nil
}

// keep writes to disk what is remembered now.
func (p *peers) keep() error {
	p.saving.Lock()
	defer p.saving.Unlock()
	p.mu.Lock()
	r := p.memory
	p.mu.Unlock()
	return p.d.state.save(r)
}

// noteSoon changes what is remembered, and keeps it on disk in a moment: the channel is closed when
// that was tried.
func (d *Daemon) noteSoon(change func(*remembered)) (tried <-chan struct{}) {
	_ = d.peers.note(change) // fails for an authority only
	done := make(chan struct{})
	d.goes(func() {
		defer close(done)
		if err := d.peers.keep(); err != nil {
			d.complain(slog.LevelWarn, err)
		}
	})
	return done
}

// takeAuthority makes this node's own certificate. The lock is held.
func (p *peers) takeAuthority() error {
	if p.memory.Certificate == "" {
		return nil
	}
	authority, err := api.ParseAuthority([]byte(p.memory.Certificate), []byte(p.memory.Key))
	if err != nil {
		return fault.Wrap(err, fault.BadConfig, "the cluster's certificate authority cannot be read")
	}
	watch := api.Watch{Known: p.memory.PeerKeys, Learned: p.learnKey, Warn: func(text, hint string) { p.d.log.Warn(text, "hint", hint) }}
	if p.identity, err = authority.WatchedIdentity(p.d.cfg.NodeName, p.d.cfg.NodeID, watch); err != nil {
		return err
	}
	p.cluster = authority.ClusterID()
	return nil
}

// learnKey keeps a peer's key over a restart, without making the connection wait for the disk.
func (p *peers) learnKey(node cluster.NodeID, key string) {
	p.d.goes(func() {
		err := p.remember(func(r *remembered) {
			keys := api.Keys{node: key}
			for other, known := range r.PeerKeys { // whoever was handed the former ones goes on reading them
				if other != node {
					keys[other] = known
				}
			}
			r.PeerKeys = keys
		})
		if err != nil {
			p.d.complain(slog.LevelWarn, err)
		}
	})
}

func (p *peers) underway() underway {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.memory.Underway
}

func (p *peers) fencedBy() cluster.NodeID {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.memory.FencedBy
}

func (p *peers) ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.memory.Ended
}

// disowned is the group that an operator gave up for lost here; empty: none.
func (p *peers) disowned() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.memory.Disowned
}

func (p *peers) rejoins() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.memory.Rejoins
}

func (p *peers) clusterID() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cluster
}

// serverTLS is the configuration of the listening side; without an authority
// nobody can be let in yet.
func (p *peers) serverTLS() *tls.Config {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.identity == nil {
		return nil
	}
	return p.identity.ServerTLS()
}

// run keeps the links in step with the records until ctx ends.
func (p *peers) run(ctx context.Context) {
	for {
		p.relink(ctx)
		select {
		case <-ctx.Done():
			return
		case <-p.changed:
		}
	}
}

// relink starts a goroutine for each peer that is new or has moved, and ends
// those of peers that are gone.
func (p *peers) relink(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.identity == nil {
		return
	}
	wanted := map[cluster.NodeID]api.Target{}
	names := map[cluster.NodeID]string{}
	for _, n := range p.memory.Nodes {
		if n.ID != p.d.cfg.NodeID {
			wanted[n.ID], names[n.ID] = targetOf(n, p.memory.Endpoints), n.Name
		}
	}
	for id, l := range p.links {
		if wanted[id] != l.target {
			l.cancel()
			delete(p.links, id)
		}
	}
	for id, t := range wanted {
		if p.links[id] != nil {
			continue
		}
		linkCtx, cancel := context.WithCancel(ctx)
		l := &link{target: t, name: names[id], client: api.Dial(t, p.identity.ClientTLS()), kicks: make(chan struct{}, 1), frames: make(chan []byte, framesBound), cancel: cancel}
		p.links[id] = l
		p.d.goes(func() { p.keepTold(linkCtx, l) })
		p.d.goes(func() { p.keepStream(linkCtx, l) })
	}
}

// targetOf is where a node's daemon listens: as it registered, else at the
// server's host and the default port.
func targetOf(n cluster.Node, endpoints map[cluster.NodeID]registry.Endpoint) api.Target {
	if e, ok := endpoints[n.ID]; ok {
		return api.Target{ID: n.ID, Host: e.Host, Port: e.Port}
	}
	t := api.Target{ID: n.ID, Port: 7433}
	if ci, err := pg.ParseConninfo(n.Conninfo); err == nil {
		if t.Host = ci.Get("host"); ci.Get("hostaddr") != "" {
			t.Host = ci.Get("hostaddr")
		}
	}
	return t
}

// keepTold exchanges reports with one peer until ctx ends: when there is news,
// and at every heartbeat, unless the peer has begun an exchange since the last
// one, which has told both sides everything.
func (p *peers) keepTold(ctx context.Context, l *link) {
	defer l.client.Close()
	p.exchange(ctx, l, exchangeTimeout)
	for {
		every := max(250*time.Millisecond, min(time.Second, p.d.eyes.cfg.Load().MonitorInterval/2))
		heartbeat := time.NewTimer(p.d.until(every))
		told := false
		select {
		case <-ctx.Done():
			heartbeat.Stop()
			return
		case <-l.kicks:
		case <-heartbeat.C:
			told = l.heardWithin(every)
		}
		heartbeat.Stop()
		if !told {
			p.exchange(ctx, l, exchangeTimeout)
		}
	}
}

func (l *link) heardWithin(d time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Since(l.heard) < d
}

// failing reports whether the last exchange with the peer did not succeed.
func (l *link) failing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err != ""
}

// newClient is a way of its own to a peer's daemon, for a question that must not be asked
// twice: over a connection that was kept, one that failed would be. nil: there is none.
func (p *peers) newClient(id cluster.NodeID) *api.Client {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.links[id]; l != nil && p.identity != nil {
		return api.Dial(l.target, p.identity.ClientTLS())
	}
	return nil
}

// heard notes that a peer has begun an exchange.
func (p *peers) heard(id cluster.NodeID) {
	p.mu.Lock()
	l := p.links[id]
	p.mu.Unlock()
	if l != nil {
		l.mu.Lock()
		l.heard, l.err = time.Now(), ""
		l.mu.Unlock()
	}
}

// exchange sends this node's report to one peer and takes in the answer.
func (p *peers) exchange(ctx context.Context, l *link, limit time.Duration) {
	report := p.d.shared.load().report
	if report.Node == 0 {
		return // nothing to tell yet
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began := bootTime()
	answer, err := l.client.Exchange(ctx, report)
	took := bootTime().Sub(began)
	if err == nil {
		_, err = p.d.voices.hear(answer, began) // what is asked for next is as new
	}
	l.mu.Lock()
	was := l.err
	if l.err = ""; err != nil {
		l.err = err.Error()
	}
	l.mu.Unlock()
	if err != nil {
		if was != err.Error() {
			p.d.sayUnanswered(err)
		}
		if errors.Is(err, api.ErrTwice) && answer.Node == 0 {
			p.d.send(observed{failover.RefusedBy{Node: l.target.ID}})
		}
		if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
			p.d.send(observed{failover.PeerSilent{Node: l.target.ID}})
		}
		return
	}
	p.d.send(observed{failover.PeerReported{Report: answer, Trip: took}})
}

// sayUnanswered tells that a peer did not answer, or that it refused to: then
// somebody has to do something.
func (d *Daemon) sayUnanswered(err error) {
	var refused *fault.Error
	if errors.As(err, &refused) && refused.Hint != "" {
		d.complain(slog.LevelError, refused)
		return
	}
	d.log.Debug("a daemon does not answer", "detail", err.Error())
}

// askAll exchanges reports with every peer that answered the last time, all at
// the same time, and waits for the answers within lookBound. The others are not
// counted as visible, and waiting for them would be waiting for the dead.
func (p *peers) askAll(ctx context.Context) {
	var all sync.WaitGroup
	for _, l := range p.list() {
		if l.failing() {
			continue
		}
		all.Add(1)
		go func() {
			defer all.Done()
			p.exchange(ctx, l, lookBound)
		}()
	}
	all.Wait()
}

// kick has the news told to every peer now.
func (p *peers) kick() {
	for _, l := range p.list() {
		select {
		case l.kicks <- struct{}{}:
		default:
		}
	}
}

func (p *peers) list() []*link {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*link
	for _, l := range p.links {
		out = append(out, l)
	}
	return out
}

// known lists the peers for the status, by node id.
func (p *peers) known() []api.Peer {
	var out []api.Peer
	for _, l := range p.list() {
		l.mu.Lock()
		out = append(out, api.Peer{Node: l.target.ID, Name: l.name, Host: l.target.Host, Port: l.target.Port, Error: l.err})
		l.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b api.Peer) int { return int(a.Node - b.Node) })
	return out
}

// nodes are the records as last read.
func (p *peers) nodes() []cluster.Node {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.memory.Nodes
}
