package ops

import (
	"context"
	"fmt"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/plan"
	"repmgr/internal/record"
)

// SwitchoverSurvey is what was learnt of all nodes, at once, before a switchover.
type SwitchoverSurvey struct {
	Nodes  []cluster.Node
	Record *record.Record // the cluster's, as a daemon has it; nil: the visibility rule is in force
	From   cluster.NodeID // who is the primary
	To     cluster.NodeID // who shall be
	Seen   map[cluster.NodeID]Sighted

	SiblingsFollow bool // under the visibility rule: the others are told to follow

	LagWarning, LagCritical         time.Duration // replication_lag_warning and _critical
	ArchiveWarning, ArchiveCritical int           // archive_ready_warning and _critical, files
	LagBytes                        int64         // that a standby may lack at most
}

// Sighted is one node's server and daemon, as they were seen.
type Sighted struct {
	Server       Server
	Received     cluster.LSN // by a standby
	Receiving    bool
	ReplayPaused bool
	LagSeconds   float64 // of replay; negative: not known
	InBackup     bool    // an exclusive one is under way (PostgreSQL 14 and before)
	Archive      int     // WAL files that wait to be archived; negative: not known
	Daemon       string  // why it does not answer; empty: it does
	NoDaemon     bool    // since none runs there, as far as can be told from elsewhere
}

// Finding is a check that was not passed.
type Finding struct {
	Text, Detail, Hint string
	Code               fault.Code
	Force              bool // --force goes on all the same
	Warning            bool // it does not stop the switchover
}

// stops reports whether the finding stops the switchover.
func (f Finding) stops(force bool) bool { return !f.Warning && !(f.Force && force) }

// CheckSwitchover returns what was found, in the order in which an operator would look.
func CheckSwitchover(s SwitchoverSurvey) []Finding {
	from := s.From
	if why := s.whyNever(); why != "" {
		f := Finding{Text: fmt.Sprintf("%s cannot become the primary", s.called(s.To)), Detail: why, Code: fault.SwitchoverFail}
		if s.Record != nil && s.Record.Pause.On {
			f.Hint = "\"repmgr service unpause\" ends the pause; --repmgrd-force-unpause does so first"
		}
		return []Finding{f}
	}
	out := s.checkTarget()
	if s.Record != nil {
		if why := s.Record.Unknown(record.RequestSwitchover{}); why != "" {
			out = append(out, Finding{Text: "not every daemon knows what a switchover is", Detail: why, Code: fault.SwitchoverFail})
		}
	}
	out = append(out, s.checkPrimary(from)...)
	for _, n := range s.Nodes {
		seen := s.Seen[n.ID]
		switch {
		case !n.Active && n.ID != s.To && n.ID != from:
		case seen.Daemon != "" && (n.ID == s.To || n.ID == from):
			out = append(out, Finding{Text: fmt.Sprintf("the daemon of %s does not answer", called(n)), Detail: seen.Daemon, Hint: "start it: it carries the switchover out", Code: fault.SwitchoverFail})
		case seen.Daemon != "":
			out = append(out, Finding{Text: fmt.Sprintf("the daemon of %s does not answer", called(n)), Detail: seen.Daemon, Hint: "it would not follow the new primary by itself; --force goes on without it", Code: fault.SwitchoverFail, Force: true})
		case n.Role == cluster.Standby && !seen.Server.Reachable && n.ID != s.To:
			out = append(out, Finding{Text: fmt.Sprintf("the server of %s cannot be reached", called(n)), Detail: seen.Server.Why, Code: fault.SwitchoverFail, Force: true})
		}
	}
	return out
}

// whyNever says why that node is none that could be asked for, or "".
func (s SwitchoverSurvey) whyNever() string {
	n, known := cluster.Find(s.Nodes, s.To)
	switch {
	case s.Record != nil:
		return s.Record.Switchable(s.To)
	case !known:
		return fmt.Sprintf("node %d is not registered", s.To)
	case s.To == s.From:
		return fmt.Sprintf("node %d is the primary already", s.To)
	case n.Role == cluster.Witness:
		return fmt.Sprintf("node %d may not be promoted: a witness", s.To)
	}
	return ""
}

func (s SwitchoverSurvey) called(id cluster.NodeID) string {
	n, found := cluster.Find(s.Nodes, id)
	if !found {
		return fmt.Sprintf("node %d", id)
	}
	return called(n)
}

// checkTarget are the checks of who shall be the primary.
func (s SwitchoverSurvey) checkTarget() (out []Finding) {
	to, from := s.Seen[s.To], s.Seen[s.From]
	name := s.called(s.To)
	fail := func(force bool, text, detail, hint string) {
		out = append(out, Finding{Text: text, Detail: detail, Hint: hint, Code: fault.SwitchoverFail, Force: force})
	}
	switch {
	case !to.Server.Reachable:
		return []Finding{{Text: fmt.Sprintf("the server of %s cannot be reached", name), Detail: to.Server.Why, Code: fault.DBConn}}
	case !to.Server.InRecovery:
		return []Finding{{Text: fmt.Sprintf("%s is no standby", name), Code: fault.SwitchoverFail}}
	case from.Server.Reachable && to.Server.SystemID != from.Server.SystemID:
		return []Finding{{Text: fmt.Sprintf("%s and the primary are not of one cluster", name), Detail: fmt.Sprintf("system identifiers %s and %s", to.Server.SystemID, from.Server.SystemID), Code: fault.SwitchoverFail}}
	}
	if !to.Receiving || from.Server.Reachable && !from.Server.Holds {
		fail(false, fmt.Sprintf("%s does not stream from the primary", name), "", "\"repmgr standby follow\" there attaches it to the primary")
	}
	if lag := int64(from.Server.Position) - int64(to.Received); from.Server.Reachable && lag > s.LagBytes {
		fail(false, fmt.Sprintf("%s lags too far behind", name), fmt.Sprintf("it lacks %d bytes of WAL; %d are allowed", lag, s.LagBytes), "wait until it has caught up")
	}
	switch lag := to.LagSeconds; {
	case lag < 0:
		fail(true, fmt.Sprintf("how far replay of %s lags behind is not known", name), "", "")
	case lag >= s.LagCritical.Seconds():
		fail(true, fmt.Sprintf("replay of %s lags behind", name), fmt.Sprintf("%.0f seconds; replication_lag_critical is %s", lag, s.LagCritical), "it has to replay everything before it takes writes")
	case lag >= s.LagWarning.Seconds():
		out = append(out, Finding{Text: fmt.Sprintf("replay of %s lags %.0f seconds behind", name, lag), Detail: fmt.Sprintf("replication_lag_warning is %s", s.LagWarning), Warning: true})
	}
	if to.ReplayPaused {
		fail(true, fmt.Sprintf("replay of %s is paused", name), "It goes on with the promotion, and has to replay everything first.", "pg_wal_replay_resume() there")
	}
	others, slots := 0, 0
	for _, n := range s.Nodes {
		if n.ID != s.To && n.Active && n.Role != cluster.Witness {
			others++
			if n.SlotName != "" {
				slots++
			}
		}
	}
	if to.Server.Senders < others {
		fail(true, fmt.Sprintf("%s has too few walsenders", name), fmt.Sprintf("%d are free, %d would follow it", to.Server.Senders, others), "raise max_wal_senders there")
	}
	if to.Server.SlotsFree < slots {
		fail(true, fmt.Sprintf("%s has too few replication slots", name), fmt.Sprintf("%d are free, %d would be used", to.Server.SlotsFree, slots), "raise max_replication_slots there")
	}
	return out
}

// checkPrimary are the checks of who is the primary.
func (s SwitchoverSurvey) checkPrimary(id cluster.NodeID) []Finding {
	seen, name := s.Seen[id], s.called(id)
	switch {
	case !seen.Server.Reachable:
		return []Finding{{Text: fmt.Sprintf("the server of the primary, %s, cannot be reached", name), Detail: seen.Server.Why, Code: fault.DBConn}}
	case seen.Server.InRecovery:
		return []Finding{{Text: fmt.Sprintf("the server of %s, which holds the lease, takes no writes", name), Code: fault.SwitchoverFail}}
	}
	var out []Finding
	if seen.InBackup {
		out = append(out, Finding{Text: "an exclusive backup of the primary is under way", Hint: "pg_stop_backup() ends it", Code: fault.SwitchoverFail})
	}
	waits := fmt.Sprintf("%d WAL files of the primary wait to be archived", seen.Archive)
	switch {
	case seen.Archive > s.ArchiveCritical:
		out = append(out, Finding{Text: waits, Detail: fmt.Sprintf("archive_ready_critical is %d; the server ends only when they are archived, and what is not by then never is", s.ArchiveCritical), Code: fault.SwitchoverFail, Force: true})
	case seen.Archive > s.ArchiveWarning:
		out = append(out, Finding{Text: waits, Detail: fmt.Sprintf("archive_ready_warning is %d", s.ArchiveWarning), Warning: true})
	}
	return out
}

// SwitchoverWorld is what the steps of a switchover see and do.
type SwitchoverWorld interface {
	// Request asks the daemons for another primary; asked again it does nothing.
	Request(ctx context.Context, to cluster.NodeID) error
	// AwaitPrimary waits until that node takes writes by the daemons' word, or the request has failed.
	AwaitPrimary(ctx context.Context, to cluster.NodeID) error
	// Follow has a node's daemon point its server at another node.
	Follow(ctx context.Context, n cluster.Node, upstream cluster.NodeID) error
	// AwaitFollows waits until a node streams from another.
	AwaitFollows(ctx context.Context, n cluster.Node, upstream cluster.NodeID) error
}

// StandbySwitchover plans a switchover: the daemons carry it out. It is an error if
// a finding stops it.
func StandbySwitchover(s SwitchoverSurvey, force bool) (plan.Plan[SwitchoverWorld], error) {
	p := plan.Plan[SwitchoverWorld]{Name: "standby switchover"}
	if err := stopping(CheckSwitchover(s), force); err != nil {
		return p, err
	}
	p.Steps = []plan.Step[SwitchoverWorld]{askForPrimary(s.From, s.To), awaitPrimary(s.To)}
	siblings := s.siblings()
	if s.Record == nil {
		for _, n := range siblings {
			p.Steps = append(p.Steps, tellSibling(n, s.To))
		}
	}
	if n, found := cluster.Find(s.Nodes, s.From); found {
		p.Steps = append(p.Steps, awaitFollower(n, s.To))
	}
	for _, n := range siblings {
		p.Steps = append(p.Steps, awaitFollower(n, s.To))
	}
	return p, nil
}

// stopping is the first finding that stops a switchover, as an error.
func stopping(found []Finding, force bool) error {
	var first *Finding
	failed := 0
	for i, f := range found {
		if f.stops(force) {
			failed++
			if first == nil {
				first = &found[i]
			}
		}
	}
	if first == nil {
		return nil
	}
	e := fault.New(first.Code, "%s", first.Text).WithDetail("%s", first.Detail).WithHint("%s", first.Hint)
	if failed > 1 {
		e = e.WithDetail("%s (and %d more, above)", first.Detail, failed-1)
	}
	return e
}

// siblings are the standbys of the former primary that are to follow the new one, and whose
// daemons are there to have them do so.
func (s SwitchoverSurvey) siblings() (out []cluster.Node) {
	if s.Record == nil && !s.SiblingsFollow {
		return nil
	}
	for _, n := range s.Nodes {
		if n.ID != s.From && n.ID != s.To && n.Role == cluster.Standby && n.Active && n.Upstream == s.From && s.Seen[n.ID].Daemon == "" {
			out = append(out, n)
		}
	}
	return out
}

// switchoverStep is a step of a switchover. The survey has found nothing to say against
// it, and the daemons undo what they cannot finish.
type switchoverStep struct {
	what string
	do   func(context.Context, SwitchoverWorld) error
}

// Describe says what the step does.
func (s switchoverStep) Describe() string { return s.what }

// Check finds nothing to say against it.
func (s switchoverStep) Check(context.Context, SwitchoverWorld) (plan.Status, error) {
	return plan.Status{}, nil
}

// Do does it.
func (s switchoverStep) Do(ctx context.Context, w SwitchoverWorld) error { return s.do(ctx, w) }

// Undo leaves it.
func (s switchoverStep) Undo(context.Context, SwitchoverWorld) error { return plan.ErrFinal }

// askForPrimary has the switchover begin.
func askForPrimary(from, to cluster.NodeID) switchoverStep {
	return switchoverStep{fmt.Sprintf("ask the daemons to make node %d the primary in place of node %d", to, from),
		func(ctx context.Context, w SwitchoverWorld) error { return w.Request(ctx, to) }}
}

// awaitPrimary waits for the promotion.
func awaitPrimary(to cluster.NodeID) switchoverStep {
	return switchoverStep{fmt.Sprintf("wait until the primary has stopped and node %d takes writes", to),
		func(ctx context.Context, w SwitchoverWorld) error { return w.AwaitPrimary(ctx, to) }}
}

// tellSibling has a standby of the former primary follow the new one.
func tellSibling(n cluster.Node, upstream cluster.NodeID) switchoverStep {
	return switchoverStep{fmt.Sprintf("tell the daemon of %s to follow node %d", called(n), upstream),
		func(ctx context.Context, w SwitchoverWorld) error { return w.Follow(ctx, n, upstream) }}
}

// awaitFollower waits until a node streams from the new primary.
func awaitFollower(n cluster.Node, upstream cluster.NodeID) switchoverStep {
	return switchoverStep{fmt.Sprintf("wait until %s streams from node %d", called(n), upstream),
		func(ctx context.Context, w SwitchoverWorld) error { return w.AwaitFollows(ctx, n, upstream) }}
}

// Asked is a switchover that was asked for.
type Asked struct {
	Number   uint64 // of the request
	Term     uint64 // in which that was
	From, To cluster.NodeID
}

// Came says what has come of a switchover by a record: done, or an error, or neither
// as long as it is under way.
func (a Asked) Came(r *record.Record) (done bool, err error) {
	l := r.Lease
	switch {
	case r.Term < a.Term, r.Switchover.Number < a.Number: // this record is behind
		return false, nil
	case r.Term == a.Term && r.Switchover.Number == a.Number && !r.Switchover.Open() && l.Taken():
		why := "it was called off"
		for _, d := range r.Decisions {
			if d.What == record.WhatCalledOff && d.Term == a.Term {
				why = d.Why
			}
		}
		return false, fault.New(fault.SwitchoverFail, "the switchover was called off: %s", why).
			WithDetail("Node %d is the primary, as before.", a.From).WithHint("\"repmgr cluster explain\" and the log of repmgrd there tell more")
	case r.Term > a.Term && l.Taken() && l.Promoted && l.Holder == a.To:
		return true, nil
	case r.Term > a.Term && l.Taken() && l.Promoted:
		return false, fault.New(fault.SwitchoverFail, "node %d became the primary, and not node %d", l.Holder, a.To).
			WithDetail("%s", l.Why).WithHint("\"repmgr cluster explain\" tells why")
	}
	return false, nil
}
