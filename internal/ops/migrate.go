package ops

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/plan"
)

// Theirs is repmgr 5's daemon of one node, by the shared memory that the extension
// keeps in the node's server.
type Theirs struct {
	Loaded  bool // the extension is there, and its library loaded
	PID     int  // zero: none is known
	Running bool // the server's host has a process of that number
	Paused  bool // it may not fail over; kept while it does not run
}

// Ours is the daemon of one node as it answered.
type Ours struct {
	Answers bool
	Paused  bool
	Reason  string // of the pause
}

// Migrating is what is seen of one node while a cluster is taken over.
type Migrating struct {
	Why        string // its server could not be asked; empty: it could
	InRecovery bool
	Timeline   cluster.Timeline
	Streaming  bool // a standby: it receives WAL
	Theirs     Theirs
	Ours       Ours
}

// MigrateSurvey is what was learnt before `repmgr migrate` is planned.
type MigrateSurvey struct {
	Self     cluster.NodeID
	Primary  cluster.NodeID // who takes writes
	Nodes    []cluster.Node // as registered
	Seen     map[cluster.NodeID]Migrating
	Endpoint Endpoint // of the local node's daemon
	Unready  error    // what of this node forbids it; nil: nothing
}

// Migration is the world of `repmgr migrate`. Orders without a node are for the local one.
type Migration interface {
	World
	// Look looks at nodes, all at the same time.
	Look(ctx context.Context, nodes []cluster.NodeID) (map[cluster.NodeID]Migrating, error)
	PauseTheirs(ctx context.Context, id cluster.NodeID, paused bool) error
	PauseOurs(ctx context.Context, id cluster.NodeID, paused bool, reason string) error
	// PauseAhead lets the local daemon, which does not run, start paused.
	PauseAhead(ctx context.Context, reason string) error
	StopTheirs(ctx context.Context) error
	StartTheirs(ctx context.Context) error
	StopOurs(ctx context.Context) error
	StartOurs(ctx context.Context) error
	// AwaitDisarmed waits until the local server, if it is the primary, would come up as one
	// without this program's daemon.
	AwaitDisarmed(ctx context.Context) error
	// DropMetadata removes what CreateMetadata has added to repmgr 5's tables.
	DropMetadata(ctx context.Context, in Database) error
	// Await looks at nodes until all of them satisfy, for as long as a daemon may
	// take to start; the error says who does not.
	Await(ctx context.Context, nodes []cluster.NodeID, satisfies func(cluster.NodeID, Migrating) error) error
}

// MigratePlan is a plan over a Migration.
type MigratePlan = plan.Plan[Migration]

// Why failover is paused while a cluster is taken over. Who goes on with it on the
// next node learns from the reason whether it was paused before.
const (
	MigratePause = "repmgr migrate"
	MigrateKept  = "repmgr migrate: failover was paused before"
)

// Migrate plans `repmgr migrate` for the local node. Standbys and witnesses come
// first, in any order, the primary last; on the last node failover is made what it
// was before. A node that is done already gets a plan with nothing left to do.
func Migrate(s MigrateSurvey) (MigratePlan, error) {
	p := MigratePlan{Name: "migrate"}
	if err := s.check(); err != nil {
		return p, err
	}
	left := s.left()
	if s.Self == s.Primary && len(left) > 0 && !s.Seen[s.Self].migrated() {
		return p, fault.New(fault.BadConfig, "the primary is migrated last").
			WithDetail("repmgr 5's daemon, or none, runs on %s", calledAll(left)).
			WithHint("run \"repmgr migrate\" on %s first", called(left[0]))
	}
	resume := s.resumes()
	reason := MigratePause
	if !resume {
		reason = MigrateKept
	}
	self, _ := cluster.Find(s.Nodes, s.Self)
	p.Steps = []plan.Step[Migration]{
		base{CreateMetadata{Cluster}}, base{CreateAuthority{}}, base{SaveEndpoint{s.Self, s.Endpoint}},
		PauseFailover{Theirs: s.unpaused(theirsUnpaused), Ours: s.unpaused(oursUnpaused), Reason: reason},
		StopTheirs{self},
	}
	if self.Role == cluster.Witness {
		p.Steps = append(p.Steps, TakeOverCopy{})
	}
	p.Steps = append(p.Steps, StartOurs{self, reason}, Verify{Nodes: []cluster.NodeID{s.Self}, Primary: s.Primary, Timeline: s.Seen[s.Primary].Timeline})
	if len(left) > 0 {
		return p, nil
	}
	all := s.primaryLast()
	p.Steps = append(p.Steps, Verify{Nodes: all, Primary: s.Primary, Timeline: s.Seen[s.Primary].Timeline})
	details := "all nodes are taken over from repmgr 5"
	if resume {
		p.Steps = append(p.Steps, Resume{Nodes: all})
	} else {
		details += "; failover is paused, as it was before"
	}
	p.Steps = append(p.Steps, base{Announce{Event{Name: "cluster_migrate", Node: s.Self, Details: details}}})
	return p, nil
}

// Migrated tells whether no node is left to do, and failover is not paused on account of it.
func (s MigrateSurvey) Migrated() bool {
	return s.check() == nil && len(s.left()) == 0 && s.Seen[s.Self].migrated() &&
		!slices.ContainsFunc(s.Nodes, func(n cluster.Node) bool { return s.Seen[n.ID].Ours.Reason == MigratePause })
}

// Next says how far the migration has come, and what is to be done next.
func (s MigrateSurvey) Next() (state, hint string) {
	var theirs, ours, none []cluster.Node
	paused := 0
	for _, n := range s.Nodes {
		m := s.Seen[n.ID]
		switch {
		case m.Theirs.Running:
			theirs = append(theirs, n)
		case m.Ours.Answers:
			ours = append(ours, n)
		default:
			none = append(none, n)
		}
		if m.Theirs.Running && m.Theirs.Paused || !m.Theirs.Running && m.Ours.Paused {
			paused++
		}
	}
	state = fmt.Sprintf("repmgr 5's daemon runs on %s, this program's on %s", calledAll(theirs), calledAll(ours))
	if len(none) > 0 {
		state += ", none on " + calledAll(none)
	}
	state += fmt.Sprintf("; failover is paused on %d of %d nodes", paused, len(s.Nodes))
	left := s.left()
	if !s.Seen[s.Self].migrated() && (s.Self != s.Primary || len(left) == 0) {
		left = append([]cluster.Node{s.node(s.Self)}, left...)
	}
	switch {
	case len(left) > 0:
		hint = fmt.Sprintf("next: \"repmgr migrate\" on %s", called(left[0]))
	case !s.Migrated():
		hint = "next: \"repmgr migrate\" on any node, which ends the pause"
	}
	return state, hint
}

func (s MigrateSurvey) node(id cluster.NodeID) cluster.Node {
	n, _ := cluster.Find(s.Nodes, id)
	return n
}

// migrated tells whether this program's daemon is at work on the node, and theirs is not.
func (m Migrating) migrated() bool { return m.Ours.Answers && !m.Theirs.Running }

// left are the other nodes that are not migrated yet, the primary last.
func (s MigrateSurvey) left() []cluster.Node {
	var left []cluster.Node
	for _, id := range s.primaryLast() {
		if id != s.Self && !s.Seen[id].migrated() {
			left = append(left, s.node(id))
		}
	}
	return left
}

// primaryLast are all nodes in the order of the migration.
func (s MigrateSurvey) primaryLast() []cluster.NodeID {
	var ids []cluster.NodeID
	for _, n := range s.Nodes {
		if n.ID != s.Primary {
			ids = append(ids, n.ID)
		}
	}
	return append(ids, s.Primary)
}

func theirsUnpaused(m Migrating) bool { return m.Theirs.Loaded && !m.Theirs.Paused }
func oursUnpaused(m Migrating) bool   { return m.Ours.Answers && !m.Ours.Paused }

// unpaused are the nodes with such a daemon, in the order of the migration.
func (s MigrateSurvey) unpaused(is func(Migrating) bool) []cluster.NodeID {
	return slices.DeleteFunc(s.primaryLast(), func(id cluster.NodeID) bool { return !is(s.Seen[id]) })
}

// begun tells whether a daemon of this program runs anywhere.
func (s MigrateSurvey) begun() bool {
	return slices.ContainsFunc(s.Nodes, func(n cluster.Node) bool { return s.Seen[n.ID].Ours.Answers })
}

// resumes tells whether failover goes on in the end: it was not paused before.
func (s MigrateSurvey) resumes() bool {
	for _, n := range s.Nodes {
		m := s.Seen[n.ID]
		if m.Ours.Answers && (!m.Ours.Paused || m.Ours.Reason == MigratePause) ||
			!s.begun() && m.Theirs.Running && !m.Theirs.Paused {
			return true
		}
	}
	return false
}

// check says all that forbids the migration as one error; the hint is the first one's.
func (s MigrateSurvey) check() error {
	var details []string
	hint := ""
	wrong := func(what, todo string) {
		details = append(details, what)
		if hint == "" {
			hint = todo
		}
	}
	for _, n := range s.Nodes {
		s.checkNode(n, wrong)
	}
	if _, found := cluster.Find(s.Nodes, s.Self); !found {
		wrong(fmt.Sprintf("node %d is not registered", s.Self), "node_id in repmgr.conf has to be the number that repmgr 5 has registered")
	}
	running, paused := 0, 0
	for _, n := range s.Nodes {
		if t := s.Seen[n.ID].Theirs; t.Running {
			running++
			if t.Paused {
				paused++
			}
		}
	}
	if !s.begun() && paused > 0 && paused < running {
		wrong(fmt.Sprintf("failover is paused on %d of the %d nodes on which repmgr 5's daemon runs, so that nobody knows what it shall be afterwards", paused, running),
			"with repmgr 5: \"repmgr service pause\", or \"repmgr service unpause\"")
	}
	if len(details) == 0 {
		return s.Unready
	}
	return fault.New(fault.BadConfig, "the cluster cannot be migrated as it is").WithDetail("%s", strings.Join(details, "; ")).WithHint("%s", hint)
}

func (s MigrateSurvey) checkNode(n cluster.Node, wrong func(what, todo string)) {
	m := s.Seen[n.ID]
	switch {
	case m.Why != "":
		wrong(fmt.Sprintf("%s cannot be reached: %s", called(n), m.Why), "start its server, or unregister the node")
	case !m.Theirs.Loaded && !m.Ours.Answers:
		wrong(fmt.Sprintf("the server of %s has no library of repmgr 5 loaded, and no daemon of this program answers there", called(n)),
			"check that conninfo names repmgr 5's database and that shared_preload_libraries has \"repmgr\"; a new cluster needs no migration")
	case n.ID == s.Primary && (n.Role != cluster.Primary || !n.Active):
		wrong(fmt.Sprintf("%s takes writes and is registered as %s", called(n), n.Role), "let the records be true first, with repmgr 5: \"repmgr primary register --force\"")
	case n.ID == s.Primary:
	case n.Role == cluster.Primary:
		wrong(fmt.Sprintf("%s is registered as primary too", called(n)), "\"repmgr node rejoin\" or \"repmgr primary unregister\" with repmgr 5 first")
	case n.Role == cluster.Standby && !m.InRecovery:
		wrong(fmt.Sprintf("%s is registered as standby and takes writes", called(n)), "stop it, and let it rejoin first")
	case n.Role == cluster.Standby && !m.Streaming:
		wrong(fmt.Sprintf("%s receives no WAL", called(n)), "its server's log says why; a standby that lags behind is waited for")
	}
}

// calledAll lists nodes as messages do.
func calledAll(nodes []cluster.Node) string {
	if len(nodes) == 0 {
		return "no node"
	}
	var all []string
	for _, n := range nodes {
		all = append(all, called(n))
	}
	return strings.Join(all, ", ")
}
