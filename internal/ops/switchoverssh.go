package ops

import (
	"context"
	"fmt"
	"slices"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/plan"
)

// SSHSurvey is what was learnt, by ssh too, before a switchover that no daemon carries out.
type SSHSurvey struct {
	SwitchoverSurvey
	Self        cluster.NodeID            // on whose host the command runs
	Hosts       map[cluster.NodeID]ByHost // this one, the primary's, those of siblings that are to follow, and those whose daemons do not answer
	Governing   string                    // who says that the quorum rule is in force, or may; empty: nobody
	Theirs      []cluster.Node            // where a daemon of repmgr 5 runs, and is not paused
	ForceRewind bool
	FullPages   bool // full_page_writes is on
}

// ByHost is what repmgr, run on a node's host, says of the node.
type ByHost struct {
	Why          string // it could not be run there, or cannot do its work; nothing else is known then
	Program      string // its version
	Node         cluster.NodeID
	SystemID     string // by the control file
	State        string // as by `node status --is-shutdown-cleanly`
	Quorum       string // why the quorum rule may be in force; empty: it is not
	DaemonRuns   bool
	CannotRewind string // why pg_rewind could not work on it; empty: it could
}

// CheckSwitchoverBySSH returns everything that was found, in the order in which an operator would
// look. That the quorum rule may be in force comes first, and alone: nothing else counts then.
func CheckSwitchoverBySSH(s SSHSurvey, program string) []Finding {
	if out := s.checkRule(); len(out) > 0 {
		return out
	}
	if why := s.whyNever(); why != "" {
		return []Finding{{Text: fmt.Sprintf("%s cannot become the primary", s.called(s.To)), Detail: why, Code: fault.SwitchoverFail}}
	}
	var out []Finding
	if s.Self != s.To {
		out = append(out, Finding{Text: fmt.Sprintf("without daemons the command has to be run on %s, the node that is to become the primary", s.called(s.To)),
			Detail: fmt.Sprintf("The daemons of %s and %s have to answer otherwise.", s.called(s.From), s.called(s.To)), Code: fault.SwitchoverFail})
	}
	out = append(out, s.checkTarget()...)
	out = append(out, s.checkPrimary(s.From)...)
	if to, from := s.Seen[s.To].Server, s.Seen[s.From].Server; to.Timeline != 0 && from.Timeline != 0 && to.Timeline != from.Timeline {
		out = append(out, Finding{Text: fmt.Sprintf("%s is on another timeline than the primary", s.called(s.To)), Detail: fmt.Sprintf("timelines %d and %d", to.Timeline, from.Timeline), Code: fault.SwitchoverFail})
	}
	for _, n := range s.Nodes {
		out = append(out, s.checkHost(n, program)...)
		out = append(out, s.checkSilent(n)...)
	}
	for _, n := range s.Theirs {
		out = append(out, Finding{Text: fmt.Sprintf("a repmgrd of repmgr 5 runs on %s, and may promote its server meanwhile", called(n)), Hint: "pause it by repmgr 5's own \"repmgr service pause\"", Code: fault.SwitchoverFail})
	}
	return append(out, s.checkRewind()...)
}

// checkRule finds what says, or may say, that the quorum rule is in force.
func (s SSHSurvey) checkRule() []Finding {
	refused := func(detail string) []Finding {
		return []Finding{{Text: "the quorum rule is in force, or may be: there is no switchover by ssh", Detail: detail,
			Hint: "start repmgrd on all nodes: the daemons carry the switchover out", Code: fault.SwitchoverFail}}
	}
	if s.Record != nil {
		return refused("A daemon has the record.")
	}
	if s.Governing != "" {
		return refused(s.Governing)
	}
	for _, n := range s.Nodes {
		if h, asked := s.Hosts[n.ID]; asked && h.Why == "" && h.Quorum != "" {
			return refused(fmt.Sprintf("On the host of %s: %s.", called(n), h.Quorum))
		}
	}
	return nil
}

// checkHost is what repmgr on a node's host has said.
func (s SSHSurvey) checkHost(n cluster.Node, program string) []Finding {
	h, asked := s.Hosts[n.ID]
	if !asked {
		return nil
	}
	fail := func(text, detail, hint string) []Finding {
		return []Finding{{Text: text, Detail: detail, Hint: hint, Code: fault.SwitchoverFail}}
	}
	server := s.Seen[n.ID].Server
	switch {
	case h.Why != "" && n.ID == s.Self:
		return fail("repmgr cannot do its work on this host", h.Why, "")
	case h.Why != "" && n.ID != s.From && !slices.ContainsFunc(SiblingsBySSH(s.SwitchoverSurvey), func(sibling cluster.Node) bool { return sibling.ID == n.ID }):
		return nil // nothing has to be done there
	case h.Why != "":
		f := fail(fmt.Sprintf("repmgr cannot be run on the host of %s by ssh", called(n)), h.Why, "ssh_options, repmgr_bindir and --remote-user say how; the login must need no password")
		if n.ID != s.From {
			f[0].Hint += "; without --siblings-follow it is not needed there"
		}
		f[0].Code = fault.BadSSH
		return f
	case h.Program != program:
		return fail(fmt.Sprintf("repmgr on the host of %s is of another version", called(n)), fmt.Sprintf("%s there, %s here", h.Program, program), "install the same version on every node")
	case h.Node != n.ID:
		return fail(fmt.Sprintf("the configuration on the host of %s is that of node %d", called(n), h.Node), "", "the conninfo and the path of the configuration file stand in \"repmgr cluster show\" and repmgr.nodes")
	case n.Role == cluster.Witness:
	case server.Reachable && h.SystemID != server.SystemID:
		return fail(fmt.Sprintf("data_directory on the host of %s is not that of its server", called(n)), fmt.Sprintf("system identifiers %s and %s", h.SystemID, server.SystemID), "correct data_directory there")
	case server.Reachable && h.State == "SHUTDOWN":
		return fail(fmt.Sprintf("the server of %s takes connections, and on its host it is said to be shut down", called(n)), "", "conninfo and data_directory there have to be of one server")
	}
	return nil
}

// checkSilent finds a daemon that runs, or may, and cannot be paused.
func (s SSHSurvey) checkSilent(n cluster.Node) []Finding {
	seen := s.Seen[n.ID]
	h, asked := s.Hosts[n.ID]
	known := asked && h.Why == ""
	switch {
	case seen.Daemon == "":
		return nil // it is paused
	case known && !h.DaemonRuns, !known && seen.NoDaemon:
		return nil
	case known:
		return []Finding{{Text: fmt.Sprintf("the daemon of %s runs, and does not answer", called(n)), Detail: seen.Daemon,
			Hint: "it cannot be paused, and may promote its server meanwhile: let it answer, or stop it", Code: fault.SwitchoverFail}}
	}
	return []Finding{{Text: fmt.Sprintf("whether a daemon runs on %s is not known", called(n)), Detail: seen.Daemon,
		Hint: "it could promote its server meanwhile: let repmgr be run there by ssh; a node that is gone for good can be unregistered", Code: fault.SwitchoverFail}}
}

// checkRewind tells whether --force-rewind could be kept.
func (s SSHSurvey) checkRewind() (out []Finding) {
	if !s.ForceRewind {
		return nil
	}
	if h := s.Hosts[s.From]; h.Why == "" && h.CannotRewind != "" {
		out = append(out, Finding{Text: fmt.Sprintf("%s could not be rewound", s.called(s.From)), Detail: h.CannotRewind, Hint: "leave --force-rewind out: after a switchover nothing has to be rewound", Code: fault.SwitchoverFail})
	}
	if s.Seen[s.From].Server.Reachable && !s.FullPages {
		out = append(out, Finding{Text: "--force-rewind needs full_page_writes to be on", Code: fault.SwitchoverFail})
	}
	return out
}

// SSHWorld is what the steps of a switchover by ssh see and do.
type SSHWorld interface {
	Checkpoint(ctx context.Context) error
	// StopPrimary stops the primary in order, proves that by its control file, and learns where
	// its WAL ends. From then on whatever starts it brings it up read-only.
	StopPrimary(ctx context.Context) error
	// StartPrimary starts it again as the primary that it was, whatever has become of it.
	StartPrimary(ctx context.Context) error
	// AwaitWAL waits until the local standby has all of that WAL.
	AwaitWAL(ctx context.Context) error
	// PromoteLocal makes the local server the primary, and records it.
	PromoteLocal(ctx context.Context) error
	// CancelPromotion makes sure that the local server is a standby and stays one. It is
	// plan.ErrFinal where it is promoted, or where that is not known.
	CancelPromotion(ctx context.Context) error
	// Rejoin makes the former primary a standby of the local server, and Attach a sibling.
	// What fails is kept and told at the end: there is a primary.
	Rejoin(ctx context.Context, n cluster.Node) error
	Attach(ctx context.Context, n cluster.Node) error
}

// SwitchoverBySSH plans it. It is an error if a finding stops it.
func SwitchoverBySSH(s SSHSurvey, found []Finding, force bool) (plan.Plan[SSHWorld], error) {
	p := plan.Plan[SSHWorld]{Name: "standby switchover"}
	if err := stopping(found, force); err != nil {
		return p, err
	}
	from, _ := cluster.Find(s.Nodes, s.From)
	to := s.called(s.To)
	final := func(context.Context, SSHWorld) error { return plan.ErrFinal }
	none := func(context.Context, SSHWorld) error { return nil }
	p.Steps = []plan.Step[SSHWorld]{
		sshStep{"make a checkpoint on " + called(from), func(ctx context.Context, w SSHWorld) error { return w.Checkpoint(ctx) }, none},
		sshStep{fmt.Sprintf("stop %s in order by ssh, and see by its control file that it was", called(from)),
			func(ctx context.Context, w SSHWorld) error { return w.StopPrimary(ctx) }, func(ctx context.Context, w SSHWorld) error { return w.StartPrimary(ctx) }},
		sshStep{fmt.Sprintf("wait until %s has all of its WAL", to), func(ctx context.Context, w SSHWorld) error { return w.AwaitWAL(ctx) }, none},
		sshStep{"promote " + to, func(ctx context.Context, w SSHWorld) error { return w.PromoteLocal(ctx) }, func(ctx context.Context, w SSHWorld) error { return w.CancelPromotion(ctx) }},
		sshStep{fmt.Sprintf("let %s follow it, by \"node rejoin\" over ssh", called(from)), func(ctx context.Context, w SSHWorld) error { return w.Rejoin(ctx, from) }, final},
	}
	for _, n := range SiblingsBySSH(s.SwitchoverSurvey) {
		p.Steps = append(p.Steps, sshStep{fmt.Sprintf("let %s follow it, by \"standby follow\" over ssh", called(n)),
			func(ctx context.Context, w SSHWorld) error { return w.Attach(ctx, n) }, final})
	}
	return p, nil
}

// SiblingsBySSH are the standbys of the former primary, and witnesses, that are told to follow the new one.
func SiblingsBySSH(s SwitchoverSurvey) (out []cluster.Node) {
	for _, n := range s.Nodes {
		if s.SiblingsFollow && n.ID != s.From && n.ID != s.To && n.Active && n.Upstream == s.From && !n.WithoutServer() {
			out = append(out, n)
		}
	}
	return out
}

// sshStep is a step of a switchover by ssh. The survey has found nothing to say against it.
type sshStep struct {
	what     string
	do, undo func(context.Context, SSHWorld) error
}

// Describe says what the step does.
func (s sshStep) Describe() string { return s.what }

// Check finds nothing to say against it.
func (s sshStep) Check(context.Context, SSHWorld) (plan.Status, error) { return plan.Status{}, nil }

// Do does it.
func (s sshStep) Do(ctx context.Context, w SSHWorld) error { return s.do(ctx, w) }

// Undo takes it back.
func (s sshStep) Undo(ctx context.Context, w SSHWorld) error { return s.undo(ctx, w) }
