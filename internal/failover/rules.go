package failover

import (
	"slices"
	"time"

	"repmgr/internal/cluster"
)

// rule is one row of the table. when says whether the rule applies, and why.
type rule struct {
	id   string
	doc  string // when it applies, in one sentence, for the documentation
	when func(facts) (string, bool)
	then func(facts) []Action // nil: nothing to do
}

// table is what rules are tried in: part by part, in order.
type table []part

// part are rules that are for one state of this node alone, and are not even tried in
// another.
type part struct {
	applies func(facts) bool // nil: in every state
	rules   []rule
}

func (t table) all() (out []rule) {
	for _, p := range t {
		out = append(out, p.rules...)
	}
	return out
}

// rules are tried in order; the first that applies wins. Their identities stand
// in logs and events: rename none.
var rules = table{{nil, slices.Concat(ownRules, groupRules, primaryRules, followRules, electionRules)}}

// ownRules are about this node itself.
var ownRules = []rule{
	{"not-registered", "This node has no record in repmgr.nodes.",
		func(f facts) (string, bool) {
			return f.say("node %d is not registered", f.Self), !f.known
		}, nil},
	{"primary-superseded", "This server takes writes, and another of the same cluster does so on a newer timeline: this one is stopped.",
		func(f facts) (string, bool) {
			why := f.say("node %d is primary on timeline %d, this node on timeline %d", f.newest(), f.newestAt().Timeline, f.local.Position.Timeline)
			return why, f.writable() && !f.Paused && f.newest() != 0 && f.newestAt().Timeline > f.local.Position.Timeline
		},
		func(f facts) []Action { return []Action{Fence{By: f.newest()}} }},
	{"primary-doubted", "This server takes writes, and so does another on the same timeline number: nobody can say which is right, so each stops.",
		func(f facts) (string, bool) {
			why := f.say("node %d is a primary on timeline %d too, by another promotion", f.newest(), f.newestAt().Timeline)
			return why, f.writable() && !f.Paused && f.newest() != 0 && f.newestAt().Timeline == f.local.Position.Timeline
		},
		func(f facts) []Action { return []Action{Fence{By: f.newest()}} }},
	{"busy", "An order is being carried out.",
		func(f facts) (string, bool) { return f.busyWith(f.Doing) }, nil},
	refusedTwice,
	{"bid-over", "The loss that this node has bid for is over: its primary is back, another one is followed, or the server has received a newer timeline since.",
		func(f facts) (string, bool) {
			if f.Loss == nil || !f.leads() && f.upstream == f.Loss.Bid.Lost && f.lost(f.upstream) && f.local.Position.Timeline <= f.Loss.Bid.Position.Timeline {
				return "", false
			}
			return f.say("the loss of node %d is over", f.Loss.Bid.Lost), true
		},
		func(facts) []Action { return []Action{WithdrawBid{}} }},
	witnessVotes,
	{"server-not-running", "The own server does not answer: there is nothing to promote or to point anywhere.",
		func(f facts) (string, bool) {
			return f.say("the own server is %s", f.local.State), f.local.State != ServerRunning
		}, nil},
	{"resume-receiver", "The loss for which this node's WAL receiver was stopped is over.",
		func(f facts) (string, bool) {
			return "the WAL receiver may run again", f.local.Held && (f.leads() || f.upstream != 0 && !f.lost(f.upstream))
		},
		func(facts) []Action { return []Action{ResumeReceiver{}} }},
}

// busyWith says what the hands are carrying out, if they are.
func (f facts) busyWith(a Action) (string, bool) {
	if a == nil {
		return "", false
	}
	if f.brief {
		return "", true
	}
	return f.say("carrying out %s", Describe(a)), true
}

// refusedTwice is for a daemon whose node id another one has, too: what it hears of
// the cluster is not what that node would hear.
var refusedTwice = rule{"refused", "Another daemon, an older one, runs with this node's id, and the others listen to that one: this one decides nothing.",
	func(f facts) (string, bool) {
		return f.say("node %d refuses this daemon", f.RefusedBy), f.RefusedBy != 0 && f.now.Sub(f.RefusedAt) < refusedFor
	}, nil}

// refusedFor is how long a refusal counts: peers that are lost repeat none.
const refusedFor = time.Minute

// witnessVotes is all that a witness without PostgreSQL does.
var witnessVotes = rule{"witness-votes", "This node is a witness without PostgreSQL: it votes, and has nothing to promote or to point anywhere.",
	func(f facts) (string, bool) { return "this node has no server", f.local.State == ServerNone }, nil}

// primaryRules are for a server that takes writes.
var primaryRules = []rule{
	{"primary-disputed", "This server takes writes, another does so too, and the cluster is paused: nothing is done about it.",
		func(f facts) (string, bool) {
			return f.say("node %d is a primary too, and failover is paused", f.newest()),
				f.leads() && f.newest() != 0 && f.Paused
		}, nil},
	{"primary-unrecorded", "This server was promoted by hand, no other primary is seen, and the registry does not know yet.",
		func(f facts) (string, bool) {
			return f.say("node %d is registered as %s and takes writes", f.Self, f.self.Role),
				f.local.Role == cluster.Primary && f.self.Role == cluster.Standby && !f.Paused && !f.seesPrimary()
		},
		func(facts) []Action { return []Action{RecordRole{}} }},
	{"primary-steady", "This server takes writes and no other does.",
		func(f facts) (string, bool) {
			return "no newer primary is seen", f.leads()
		}, nil},
}

// followRules are for a standby or a witness: whom to follow while somebody can be followed.
var followRules = []rule{
	{"paused", "Another primary could be followed or the upstream is lost, and the cluster is paused.",
		func(f facts) (string, bool) {
			return "failover is paused", f.Paused && (f.otherPrimary() != 0 || f.upstream != 0 && f.lost(f.upstream))
		}, nil},
	{"follow-is-manual", "There is a new primary and failover=manual: an operator points this node to it.",
		func(f facts) (string, bool) {
			why := f.say("node %d is the new primary and failover is manual on this node", f.otherPrimary())
			return why, f.otherPrimary() != 0 && !f.Policy.Automatic && f.self.Role != cluster.Witness
		}, nil},
	{"follow-new-primary", "The upstream is lost, or is no longer the newest primary, and another node is.",
		func(f facts) (string, bool) {
			n := f.otherPrimary()
			return f.say("node %d is the primary on timeline %d", n, f.newestAt().Timeline), n != 0
		},
		func(f facts) []Action { return []Action{Follow{Upstream: f.otherPrimary()}} }},
	{"no-upstream", "Nobody is known whom this node could follow.",
		func(f facts) (string, bool) { return "no active primary is registered", f.upstream == 0 }, nil},
	{"upstream-visible", "The upstream answers, or was not looked at yet.",
		func(f facts) (string, bool) {
			p := f.Probes[f.upstream]
			return f.say("node %d answers", f.upstream), !f.lost(f.upstream) && p.Failures == 0
		}, nil},
	{"upstream-suspect", "The upstream failed to answer, and may only be slow: it is tried again.",
		func(f facts) (string, bool) {
			p := f.Probes[f.upstream]
			return f.say("node %d failed to answer %d times in %s, lost after %d more attempts in %s", f.upstream, p.Failures,
				f.now.Sub(p.FirstFail).Round(100*time.Millisecond), f.Policy.ReconnectAttempts, f.Policy.suspicion()), !f.exhausted(f.upstream) && !f.dead(f.upstream)
		}, nil},
	{"wait-primary-alive", "This node cannot reach its upstream, but the upstream's own daemon says that the server runs.",
		func(f facts) (string, bool) {
			return f.say("node %d does not answer here, but its daemon says that it runs", f.upstream), !f.lost(f.upstream)
		}, nil},
	{"witness-waits", "The primary is lost: a witness is asked by the others and waits for the new one.",
		func(f facts) (string, bool) {
			return f.say("node %d is lost, a new primary is awaited", f.upstream), f.self.Role == cluster.Witness
		}, nil},
	{"upstream-lost-is-manual", "The upstream is lost and failover=manual.",
		func(f facts) (string, bool) {
			return f.say("node %d is lost and failover is manual on this node", f.upstream), !f.Policy.Automatic
		}, nil},
	{"follow-primary", "The upstream standby is lost and the primary is visible: it is followed instead.",
		func(f facts) (string, bool) {
			return f.say("standby node %d is lost, the primary is node %d", f.upstream, f.newest()), f.cascaded() && f.newest() != 0
		},
		func(f facts) []Action { return []Action{Follow{Upstream: f.newest()}} }},
	{"wait-primary", "The upstream standby is lost, and no primary is visible.",
		func(f facts) (string, bool) {
			return f.say("standby node %d is lost and no primary is visible", f.upstream), f.cascaded()
		}, nil},
}

// writable reports whether this node's server takes the cluster's writes now.
func (f facts) writable() bool { return f.local.State == ServerRunning && f.leads() }

// seesPrimary reports whether the recorded primary, or another one, is in sight.
func (f facts) seesPrimary() bool {
	return f.newest() != 0 || f.primary != 0 && f.seen(f.primary) && f.Probes[f.primary].Role == cluster.Primary
}

// cascaded reports whether the upstream is registered as a standby. A witness is wanted behind
// the primary alone.
func (f facts) cascaded() bool {
	up, ok := cluster.Find(f.Nodes, f.upstream)
	return ok && up.Role == cluster.Standby && f.self.Role != cluster.Witness
}

// otherPrimary returns a primary that should be followed in place of the
// upstream: the upstream is lost, is no primary any more though it was recorded
// as one, or takes writes on an older timeline.
func (f facts) otherPrimary() cluster.NodeID {
	if f.newest() == 0 || f.newest() == f.upstream || f.leads() {
		return 0
	}
	at, writes := f.runsAsPrimary(f.upstream)
	switch {
	case f.upstream == 0, writes && at.Timeline < f.newestAt().Timeline:
		return f.newest()
	case !f.cascaded() && (f.lost(f.upstream) || f.fresh(f.upstream) && !writes):
		return f.newest()
	case !f.cascaded() && f.newestAt().Timeline > f.local.Position.Timeline && !f.seen(f.upstream):
		return f.newest()
	}
	return 0
}
