package failover

import (
	"slices"
	"strings"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// facts are what rules go by. They go by value into every rule, and so are small.
type facts struct {
	*digest
	brief bool // rules are only tried: their reasons are not read
}

// digest is a View digested once, so that rules read like sentences.
type digest struct {
	*View
	now      time.Time
	self     *cluster.Node
	known    bool // self is registered
	local    *Local
	upstream cluster.NodeID // whom this node follows: by its record, else the recorded primary
	primary  cluster.NodeID // the active primary by record

	sought bool           // newest was looked for
	found  cluster.NodeID // and is this, at that position
	at     Position
}

// unregistered is the record of a node that has none.
var unregistered cluster.Node

func newFacts(v *View, now time.Time) facts {
	f := facts{digest: &digest{View: v, now: now, self: &unregistered, local: &v.Local}}
	for i := range v.Nodes {
		if v.Nodes[i].ID == v.Self {
			f.self, f.known = &v.Nodes[i], true
			break
		}
	}
	for i := range v.Nodes {
		if n := &v.Nodes[i]; n.Role == cluster.Primary && n.Active && n.ID != v.Self {
			f.primary = n.ID
		}
	}
	f.upstream = f.self.Upstream
	if f.upstream == 0 || f.upstream == v.Self {
		f.upstream = f.primary
	}
	if f.leads() {
		f.upstream = 0
	}
	return f
}

// newest is the newest running primary among the others; zero: none is seen.
func (f facts) newest() cluster.NodeID {
	if f.sought {
		return f.found
	}
	f.sought = true
	for i := range f.Nodes {
		n := &f.Nodes[i]
		if n.ID == f.Self || n.Role == cluster.Witness {
			continue
		}
		if at, ok := f.runsAsPrimary(n.ID); ok && (f.found == 0 || at.Timeline > f.at.Timeline) {
			f.found, f.at = n.ID, at
		}
	}
	return f.found
}

// newestAt is the position of that one.
func (f facts) newestAt() Position {
	f.newest()
	return f.at
}

// siblings are those who follow the same upstream, by record or by their own word, without self.
func (f facts) siblings() (out []cluster.Node) {
	for _, n := range f.Nodes {
		if n.ID != f.Self && n.ID != f.upstream && f.upstream != 0 && f.follows(n) {
			out = append(out, n)
		}
	}
	return out
}

// leads reports whether this node's server takes the cluster's writes, as far as
// it is known. A witness is writable too, and holds none of them.
func (f facts) leads() bool {
	return f.local.Role == cluster.Primary && f.self.Role != cluster.Witness
}

// fresh reports whether a node's daemon has spoken lately.
func (f facts) fresh(id cluster.NodeID) bool {
	at := f.Peers[id].At
	return !at.IsZero() && f.now.Sub(at) < f.Policy.freshness()
}

// follows reports whether a node counts among those who follow this node's
// upstream: by its active record, or by its daemon's word. Records arrive late
// and not everywhere at once: two nodes that each left the other out would both
// be promoted.
func (f facts) follows(n cluster.Node) bool {
	if n.Active && n.Upstream == f.upstream {
		return true
	}
	r := f.Peers[n.ID].Report
	return f.fresh(n.ID) && (r.Bid != nil && r.Bid.Lost == f.upstream || r.Upstream == f.upstream && r.Server == ServerRunning)
}

// seen reports whether this daemon's own last look at a server succeeded, lately.
func (f facts) seen(id cluster.NodeID) bool {
	p := f.Probes[id]
	return p.OK && f.now.Sub(p.At) < silentEvery+f.Policy.freshness()
}

// visible reports whether a node can be asked now, after the loss: its daemon
// answers, or its server did. A report that is merely young may be the last word
// of a node that went together with the primary.
func (f facts) visible(id cluster.NodeID) bool {
	return f.fresh(id) && !f.Peers[id].Silent || f.seen(id) && f.Probes[id].At.After(f.lostSince())
}

// runsAsPrimary reports whether a node takes writes, as its daemon says, or,
// where the daemon is silent, as its server answered, and its position.
func (f facts) runsAsPrimary(id cluster.NodeID) (Position, bool) {
	if f.fresh(id) && !f.outdated(id) {
		r := f.Peers[id].Report
		return r.Position, r.Server == ServerRunning && r.Role == cluster.Primary && f.sameCluster(r.SystemID)
	}
	p := f.Probes[id]
	return p.Position, f.seen(id) && p.Role == cluster.Primary && f.sameCluster(p.SystemID)
}

// outdated reports whether a daemon has gone silent, and a look at its server since has told what that is.
func (f facts) outdated(id cluster.NodeID) bool {
	p, look := f.Peers[id], f.Probes[id]
	return p.Silent && look.OK && look.Role != cluster.RoleUnknown && look.At.After(p.At)
}

// sameCluster compares system identifiers; one that is not known does not count
// as different. A witness has a server of its own, with an identifier of its own.
func (f facts) sameCluster(id string) bool {
	return id == "" || f.local.SystemID == "" || id == f.local.SystemID || f.self.Role == cluster.Witness
}

// vouched reports whether, under the quorum rule, a node's daemon answers and says that its
// server runs.
func (f facts) vouched(id cluster.NodeID) bool {
	rec := f.Group.Record
	return rec != nil && rec.Rule == record.Quorum && f.alive(id) && !f.Peers[id].Silent
}

// dead reports whether a node's own daemon says that nothing of its server is
// left, and this node has not reached that server since. A daemon that is paused leaves its
// server to the operators, who may start it at any moment.
func (f facts) dead(id cluster.NodeID) bool {
	p := f.Peers[id]
	return f.fresh(id) && !p.Report.Paused && (p.Report.Server == ServerCrashed || p.Report.Server == ServerFenced) &&
		!(f.Probes[id].OK && f.Probes[id].LastOK.After(p.Since))
}

// exhausted reports whether this node has tried often and long enough to reach a server.
func (f facts) exhausted(id cluster.NodeID) bool { return !f.Probes[id].LostAt.IsZero() }

// alive reports whether a node's daemon vouches for its server.
func (f facts) alive(id cluster.NodeID) bool {
	return f.fresh(id) && f.Peers[id].Report.Server == ServerRunning
}

// lost reports whether a server is gone, as far as this node can tell.
func (f facts) lost(id cluster.NodeID) bool {
	return f.dead(id) || f.exhausted(id) && !f.alive(id)
}

// rivals reports whether there is another standby that might be promoted.
func (f facts) rivals() bool {
	return slices.ContainsFunc(f.Nodes, func(n cluster.Node) bool {
		return n.ID != f.Self && n.ID != f.upstream && n.Role == cluster.Standby && n.Active && n.Priority > 0
	})
}

// sees returns the node that reached the node id itself last, within two
// monitor intervals, and when; the zero time: none has.
func (f facts) sees(id cluster.NodeID) (by cluster.Node, last time.Time) {
	for _, n := range f.Nodes {
		if n.ID == f.Self || n.ID == id || !f.fresh(n.ID) {
			continue
		}
		p := f.Peers[n.ID]
		for _, s := range p.Report.Saw {
			if s.Node == id && s.Ago >= 0 && s.Ago+f.now.Sub(p.At) < 2*f.Policy.MonitorInterval {
				if at := p.At.Add(-s.Ago); at.After(last) {
					by, last = n, at
				}
			}
		}
	}
	return by, last
}

// electorate counts the nodes that follow the lost primary, this one included,
// and those of them that are visible.
func (f facts) electorate() (visible, shared int) {
	visible, shared = 1, 1
	for _, n := range f.siblings() {
		shared++
		if f.visible(n.ID) {
			visible++
		}
	}
	return visible, shared
}

// location reports whether a visible node, this one included, is in the lost
// primary's location. So is the primary's own daemon, where that says that its server is gone.
func (f facts) location() (string, bool) {
	lost, ok := cluster.Find(f.Nodes, f.upstream)
	if !ok || lost.Location == f.self.Location || f.dead(f.upstream) {
		return lost.Location, true
	}
	for _, n := range f.siblings() {
		if n.Location == lost.Location && f.visible(n.ID) {
			return lost.Location, true
		}
	}
	return lost.Location, false
}

// candidate reports whether a sibling may be promoted at all.
func (f facts) candidate(n cluster.Node) bool {
	r := f.Peers[n.ID].Report
	return f.fresh(n.ID) && n.Role == cluster.Standby && r.Automatic && !r.Paused && r.Priority > 0 && r.Barred == "" &&
		r.Server == ServerRunning && r.Role == cluster.Standby
}

// bid returns a sibling's bid for the present loss.
func (f facts) bid(n cluster.Node) (Bid, bool) {
	b := f.Peers[n.ID].Report.Bid
	if b == nil || b.Lost != f.upstream {
		return Bid{}, false
	}
	return *b, true
}

// better returns the best sibling whose bid outranks this node's.
func (f facts) better() (cluster.Node, Bid, bool) {
	best, bestBid, found := *f.self, f.Loss.Bid, false
	for _, n := range f.siblings() {
		b, ok := f.bid(n)
		if !ok || b.Failed || !f.candidate(n) {
			continue
		}
		n.Priority = f.Peers[n.ID].Report.Priority // its own word is newer than the registry's
		if !found && f.Loss.Bid.Failed || outranks(n, b, best, bestBid) {
			best, bestBid, found = n, b, true
		}
	}
	return best, bestBid, found
}

// outranks compares two bids: the higher timeline, then the higher LSN, then the
// higher priority, then the lower node id.
func outranks(a cluster.Node, ab Bid, b cluster.Node, bb Bid) bool {
	switch {
	case ab.Position.Timeline != bb.Position.Timeline:
		return ab.Position.Timeline > bb.Position.Timeline
	case ab.Position.LSN != bb.Position.LSN:
		return ab.Position.LSN > bb.Position.LSN
	case a.Priority != b.Priority:
		return a.Priority > b.Priority
	default:
		return a.ID < b.ID
	}
}

// streaming returns a sibling whose WAL receiver runs, by its daemon's word.
func (f facts) streaming() (cluster.Node, bool) {
	for _, n := range f.siblings() {
		if r := f.Peers[n.ID].Report; f.fresh(n.ID) && !f.Peers[n.ID].Silent && r.Server == ServerRunning && r.Receiving {
			return n, true
		}
	}
	return cluster.Node{}, false
}

// awaited returns a sibling that may be promoted and has not bid yet.
func (f facts) awaited() (cluster.Node, bool) {
	for _, n := range f.siblings() {
		if _, ok := f.bid(n); f.candidate(n) && !ok {
			return n, true
		}
	}
	return cluster.Node{}, false
}

// unseen returns a node of whom nothing is known since the bid, and since its daemon's last word,
// where something could be: its daemon is silent, and no look at its server has ended since that
// found it gone, or told what it is. It may take writes. One that answers and lets nobody in is waited
// for as long as a promotion may take.
func (f facts) unseen() (cluster.Node, bool) {
	for _, n := range f.Nodes {
		if n.ID == f.Self || n.ID == f.upstream || n.Role == cluster.Witness || n.WithoutServer() || f.fresh(n.ID) && !f.Peers[n.ID].Silent {
			continue
		}
		look := f.Probes[n.ID]
		if !look.At.After(f.Loss.BidAt) || !look.At.After(f.Peers[n.ID].At) ||
			look.OK && look.Role == cluster.RoleUnknown && f.now.Sub(f.Loss.BidAt) < promotionMayTake {
			return n, true
		}
	}
	return cluster.Node{}, false
}

// promoting returns a node that is being promoted, in place of whichever primary, by its daemon's last
// word: also where that says that its server is gone, until it says as well that the promotion is over, for
// one that ended at the end of its recovery comes up as a primary if nobody sees to it. Where the daemon has
// gone silent since, the server goes on by itself, and may have been told to after a word that it would
// be, until looks at it have failed as often and as long as at a primary that is lost.
func (f facts) promoting() (cluster.Node, bool) {
	for _, n := range f.Nodes {
		p := f.Peers[n.ID]
		heard := f.fresh(n.ID) && !p.Silent
		lost := f.exhausted(n.ID) && f.Probes[n.ID].At.Sub(p.At) > f.Policy.suspicion() // since that word, not long ago
		goesOn := !lost && f.now.Sub(p.At) < promotionMayTake
		told := strings.HasPrefix(p.Report.Deciding, promotionWords) || !heard && p.Report.Rule == rulePromote
		if n.ID != f.Self && told && (f.fresh(n.ID) || goesOn) {
			return n, true
		}
	}
	return cluster.Node{}, false
}

// ahead returns a standby that has heard of a primary which this node has not followed, by its
// timeline, or by its bid after the loss of that one, and has more of the log; and what it has. Whose
// daemon is silent is known by the last look at its server. Who has bid before it got a newer timeline
// bids again (bid-over).
func (f facts) ahead() (cluster.Node, Position, bool) {
	for _, n := range f.Nodes {
		r, look := f.Peers[n.ID].Report, f.Probes[n.ID]
		own := f.Loss.Bid.Position
		switch {
		case n.ID == f.Self || n.Role == cluster.Witness:
			continue
		case !f.fresh(n.ID) || f.outdated(n.ID):
			if f.seen(n.ID) && look.Role == cluster.Standby && f.sameCluster(look.SystemID) && look.Position.Timeline > own.Timeline {
				return n, look.Position, true
			}
			continue
		case r.Server != ServerRunning || r.Role != cluster.Standby || !f.sameCluster(r.SystemID):
			continue
		case r.Position.Timeline > own.Timeline:
			return n, r.Position, true
		}
		if n.Priority = r.Priority; r.Bid != nil && r.Bid.Lost != f.upstream && !r.Bid.Failed && outranks(n, *r.Bid, *f.self, f.Loss.Bid) {
			return n, r.Bid.Position, true
		}
	}
	return cluster.Node{}, Position{}, false
}

// bidWindow is how long the others' bids are awaited: as long as they may need
// to find the primary lost themselves, and a margin for the message.
func (f facts) bidWindow() time.Duration {
	if f.dead(f.upstream) {
		return time.Second
	}
	return f.Policy.suspicion() + 2*f.Policy.MonitorInterval + time.Second
}
