package cli

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/ops"
	"repmgr/internal/pg"
	"repmgr/internal/plan"
	"repmgr/internal/record"
	"repmgr/internal/registry"
)

// Bounds of a switchover by ssh where no parameter bounds it.
const (
	checkpointWithin = time.Minute
	orderedWithin    = 3 * time.Second // for an order to be begun on the primary's host, at least
	orderedLogins    = 10              // and as long as so many logins there took
	elsewhereWithin  = 2 * time.Second // to find out that nobody else takes writes: clients wait
	settled          = 2 * time.Second // of writes, after which a stop that was not begun in time never was
	backWithin       = time.Minute     // for a primary that was started again to take writes
	againEvery       = time.Second     // between two logins that fail
	receivedEvery    = 20 * time.Millisecond
)

// bySSH is the world of a switchover that no daemon carries out.
type bySSH struct {
	*switching
	survey  ops.SSHSurvey
	local   *pg.Conn        // to the own server, which is to be the primary
	world   *registry.World // of the own server
	at      *Standing       // of the primary's host, before
	id      ops.HandOverID  // of this switchover, on that host
	number  int             // of the last order that was given there
	end     cluster.LSN     // where the primary's WAL ends, once it has stopped
	sent    time.Time       // when the order to stop it was given
	refused bool            // by its host
	ordered bool            // the own server was told to promote
	took    bool            // and takes writes
	doubt   bool            // who is the primary is not known for sure
	back    error           // why the primary was not started again
	down    string          // why the own server, which was stopped, does not run again
	left    []string        // what is left to do, once there is a primary
}

// switchoverBySSH is a switchover without the daemons of both nodes.
func (s *Session) switchoverBySSH(ctx context.Context, w *switching, survey ops.SwitchoverSurvey) error {
	b := &bySSH{switching: w, survey: ops.SSHSurvey{SwitchoverSurvey: survey, Self: s.Conf.NodeID, ForceRewind: s.Opt.Given("force-rewind")}}
	defer func() { registry.Close(b.local) }()
	s.Talk.Notice("the daemons of %s and %s do not both answer: the switchover is done by ssh", named(w.from), named(w.to))
	if err := b.look(ctx); err != nil {
		return err
	}
	s.overSSHOptions()
	found := ops.CheckSwitchoverBySSH(b.survey, cluster.Version)
	for _, f := range found {
		s.Talk.Say(Entry{Level: Warning, Text: f.Text, Detail: f.Detail, Hint: f.Hint})
	}
	p, err := ops.SwitchoverBySSH(b.survey, found, s.Opt.Force)
	if err != nil {
		return err
	}
	if s.Opt.DryRun {
		if err := p.Explain(ctx, b, s.tell); err != nil {
			return ops.Coded(err, fault.SwitchoverFail)
		}
		s.Talk.Info("the primary would be stopped by: %s", b.at.StopCommand)
		s.Talk.Info("all checks passed; nothing was changed, since --dry-run was given")
		return nil
	}
	return b.carry(ctx, p)
}

// overSSHOptions says of options of repmgr 5 what they mean here.
func (s *Session) overSSHOptions() {
	for _, o := range [][2]string{{"always-promote", "nobody is promoted who does not have everything"},
		{"repmgrd-no-pause", "no daemon that runs may promote its server meanwhile; it is as it was after that"}} {
		if s.Opt.Given(o[0]) {
			s.Talk.Info("--%s makes no difference: %s", o[0], o[1])
		}
	}
}

// look asks, all at the same time, repmgr on the hosts, and the servers for a daemon of repmgr 5.
func (b *bySSH) look(ctx context.Context) error {
	s, to := b.s, &b.survey
	var err error
	if b.local, err = s.Connect(ctx); err != nil {
		return err
	}
	founding, err := registry.ReadFounding(ctx, b.local.Conn)
	if err != nil {
		return err
	}
	if founding.Group != "" && founding.Rule != "visibility" {
		to.Governing = "The database says so."
	}
	asked := b.askedBySSH()
	hosts, standings := make([]ops.ByHost, len(asked)), make([]*Standing, len(asked))
	var all sync.WaitGroup
	for i, n := range asked {
		all.Go(func() { hosts[i], standings[i] = s.lookBySSH(ctx, n) })
	}
	b.lookAtDaemons(ctx)
	all.Wait()
	own := s.standing(ctx)
	to.Hosts = map[cluster.NodeID]ops.ByHost{s.Conf.NodeID: byHost(own, "UP")}
	for i, n := range asked {
		to.Hosts[n.ID] = hosts[i]
	}
	if b.at = standings[0]; b.at != nil {
		b.id = ops.HandOverID{Serial: b.at.HandOvers + 1, Nonce: rand.Text()}
	}
	to.FullPages = b.fullPages(ctx)
	return nil
}

// askedBySSH are the primary, the siblings that are to follow, and all whose daemons do not answer.
func (b *bySSH) askedBySSH() []cluster.Node {
	asked := append([]cluster.Node{b.from}, ops.SiblingsBySSH(b.survey.SwitchoverSurvey)...)
	for _, n := range b.nodes {
		if _, there := cluster.Find(asked, n.ID); !there && n.ID != b.s.Conf.NodeID && b.survey.Seen[n.ID].Daemon != "" {
			asked = append(asked, n)
		}
	}
	return asked
}

// order is the next order to the primary's host. It is begun there within that time, or never.
func (b *bySSH) order(within time.Duration) string {
	b.number++
	there := time.Duration(b.at.Clock)*time.Millisecond + time.Since(b.at.heard) // by its clock, at least
	return ops.HandOverOrder{HandOverID: b.id, Number: b.number, Before: there + within}.String()
}

// orderBound is how long an order may take to be begun.
func (b *bySSH) orderBound() time.Duration { return max(orderedWithin, orderedLogins*b.at.took) }

// lookAtDaemons finds daemons that say that the quorum rule is in force, and daemons of repmgr 5
// that are not paused.
func (b *bySSH) lookAtDaemons(ctx context.Context) {
	type said struct{ quorum, theirs bool }
	for _, a := range registry.AskAll(ctx, b.nodes, func(ctx context.Context, n cluster.Node) (v said, err error) {
		d := b.fleet.report(ctx, n.ID)
		v.quorum = d.Err == nil && (d.Promotion != nil && d.Promotion.Rule == record.Quorum || d.Report.PromotionRule == record.Quorum)
		if !n.WithoutServer() {
			theirs := registry.LookMigrating(ctx, n).Theirs
			v.theirs = theirs.Running && !theirs.Paused
		}
		return v, nil
	}) {
		if a.Value.quorum {
			b.survey.Governing = fmt.Sprintf("The daemon of %s says so.", named(a.Node))
		}
		if a.Value.theirs {
			b.survey.Theirs = append(b.survey.Theirs, a.Node)
		}
	}
}

// fullPages tells whether the primary writes whole pages after a checkpoint, as pg_rewind needs.
func (b *bySSH) fullPages(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c, err := registry.Connect(ctx, b.from)
	if err != nil {
		return false
	}
	defer registry.Close(c)
	set, err := c.Settings(ctx, "full_page_writes")
	return err == nil && set["full_page_writes"] == "on"
}

// lookBySSH asks repmgr on a node's host.
func (s *Session) lookBySSH(ctx context.Context, n cluster.Node) (ops.ByHost, *Standing) {
	began := time.Now()
	state, err := s.remoteState(ctx, n, "node status --is-shutdown-cleanly --format json", remoteTimeout)
	if err != nil {
		return ops.ByHost{Why: inOneLine(err)}, nil
	}
	state.Standing.heard, state.Standing.took = time.Now(), time.Since(began)
	return byHost(state.Standing, state.State), state.Standing
}

// inOneLine is an error in one line, with its detail.
func inOneLine(err error) string {
	var f *fault.Error
	if errors.As(err, &f) && f.Detail != "" {
		return fmt.Sprintf("%v: %s", err, f.Detail)
	}
	return err.Error()
}

func byHost(at *Standing, state string) ops.ByHost {
	return ops.ByHost{Why: at.Unable, Program: at.Program, Node: at.Node, SystemID: at.SystemID, State: state, Quorum: at.Quorum, DaemonRuns: at.DaemonRuns, CannotRewind: at.CannotRewind}
}

// remoteState runs repmgr on a node's host and reads the state of the server there.
func (s *Session) remoteState(ctx context.Context, n cluster.Node, command string, bound time.Duration) (ShutdownState, error) {
	var state ShutdownState
	r, err := s.remote(ctx, n, command, bound)
	if err != nil {
		return state, err
	}
	if err := json.Unmarshal([]byte(r.Stdout), &state); err != nil || state.Standing == nil {
		return state, fault.New(fault.SwitchoverFail, "repmgr on the host of %s is not this program, or not of this version", named(n)).
			WithDetail("%q", firstLine(r.Stdout+r.Stderr))
	}
	return state, nil
}

// remote runs repmgr on a node's host, and ends the session when this command ends. An error with
// the code BadSSH says that the command may not have been run; every other one is that of the command.
func (s *Session) remote(ctx context.Context, n cluster.Node, command string, bound time.Duration) (host.Result, error) {
	there, err := s.sshTo(n)
	if err != nil {
		return host.Result{}, err
	}
	c := there.Command(s.remoteRepmgr(n) + " " + command)
	c.Timeout, c.EndsWithUs = bound, true
	c.Env = []string{"PGPASSWORD="} // SendEnv of ssh_config could pass it on
	r, err := host.Run(ctx, c)
	switch {
	case err != nil:
		return r, fault.Wrap(err, fault.BadSSH, "%s", there.Host)
	case r.ExitCode == host.SSHFailed:
		return r, fault.New(fault.BadSSH, "there is no session with %s", there.Host).WithDetail("%s", complaint(r.Stderr))
	case !r.OK():
		return r, fault.New(fault.SwitchoverFail, "repmgr on %s %s", there.Host, r).WithDetail("%s", complaint(r.Stderr))
	}
	return r, nil
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}

// complaint is what a command has said about its failure: the lines from ERROR on, in one.
func complaint(stderr string) string {
	if _, after, found := strings.Cut(stderr, "ERROR: "); found {
		stderr = after
	}
	return strings.Join(strings.Fields(stderr), " ")
}

// carry does it: the daemons that run are paused meanwhile.
func (b *bySSH) carry(ctx context.Context, p plan.Plan[ops.SSHWorld]) error {
	s := b.s
	b.world = s.world()
	defer b.world.Close()
	began := s.Now()
	paused, err := b.pauseAll(ctx, pausedFor)
	ended := b.keepPaused(context.WithoutCancel(ctx), paused)
	defer func() {
		ended()
		if b.doubt {
			s.Talk.Say(Entry{Level: Warning, Text: "failover stays paused where a daemon runs", Hint: "when \"repmgr cluster show\" shows one primary: \"repmgr service unpause\""})
			return
		}
		b.unpause(context.WithoutCancel(ctx), paused)
	}()
	if err == nil {
		err = b.allPaused(ctx)
	}
	if err != nil {
		return err
	}
	err = p.Run(ctx, b, s.tell)
	took := s.Now().Sub(began).Round(10 * time.Millisecond)
	if err = b.verdict(err); err == nil {
		s.Talk.Notice("%s is the primary now, and %s follows it; it took %s", named(b.to), named(b.from), took)
	}
	b.announce(context.WithoutCancel(ctx), err, took)
	s.wakeDaemon(ctx)
	return err
}

// keepPaused pauses those anew, long before their pause ends by itself, until ended is called. One
// whose pause an operator has ended stays as it is.
func (b *bySSH) keepPaused(ctx context.Context, nodes []cluster.Node) (ended func()) {
	ctx, cancel := context.WithCancel(ctx)
	var over sync.WaitGroup
	over.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pausedFor / 5):
			}
			registry.AskAll(ctx, nodes, func(ctx context.Context, n cluster.Node) (struct{}, error) {
				d := b.fleet.report(ctx, n.ID)
				if d.Err != nil || !d.Report.Paused {
					return struct{}{}, d.Err
				}
				return struct{}{}, b.fleet.ask(ctx, n.ID, func(ctx context.Context, c *api.Client) error { return c.Pause(ctx, b.pauseOrder(pausedFor)) })
			})
		}
	})
	return func() { cancel(); over.Wait() }
}

// allPaused makes sure that every daemon is paused now, but those that do not run for sure.
func (b *bySSH) allPaused(ctx context.Context) error {
	for _, a := range registry.AskAll(ctx, b.nodes, func(ctx context.Context, n cluster.Node) (struct{}, error) {
		d := b.fleet.report(ctx, n.ID)
		switch {
		case d.Err == nil && !d.Report.Paused:
			d.Err = errors.New("it is not paused")
		case d.Err != nil && b.survey.Seen[n.ID].Daemon != "":
			d.Err = nil // as the checks have found it: it does not run
		}
		return struct{}{}, d.Err
	}) {
		if a.Err != nil {
			return fault.Wrap(a.Err, fault.SwitchoverFail, "the daemon of %s could not be paused", named(a.Node)).WithHint("nothing was changed: try again")
		}
	}
	return nil
}

// verdict says how it ended: who is the primary, and what is left to do.
func (b *bySSH) verdict(err error) error {
	switch {
	case err == nil && len(b.left) == 0:
		return nil
	case err == nil:
		return fault.New(fault.SwitchoverIncomplete, "%s is the primary, and something is left to do", named(b.to)).
			WithDetail("%s", strings.Join(b.left, "; ")).WithHint("the commands stand in the warnings above")
	}
	var why *fault.Error
	if !errors.As(err, &why) {
		why = fault.Wrap(err, fault.SwitchoverFail, "the switchover failed")
	}
	if b.took {
		return fault.New(fault.SwitchoverIncomplete, "%s is the primary, and %s is stopped: %v", named(b.to), named(b.from), why).
			WithDetail("%s", why.Detail).WithHint("\"repmgr node rejoin\" on the host of %s brings it back", named(b.from))
	}
	e := fault.New(fault.SwitchoverFail, "the switchover was called off: %v", why)
	said := sentence(why.Detail) + sentence(b.down)
	switch {
	case b.doubt && b.ordered:
		return e.WithDetail("%sWhether %s is promoted is not known, so that %s stays stopped: two would take writes.", said, named(b.to), named(b.from)).
			WithHint("if %s takes writes, \"repmgr node rejoin\" brings the former primary back; if it never will, stop it, remove standby.signal on the former primary's host, and start that", named(b.to))
	case b.back != nil:
		return e.WithDetail("%s%s is not known to run again: %s", said, named(b.from), inOneLine(b.back)).
			WithHint("if no other node takes writes (\"repmgr cluster show\"), run on its host: %s", b.takeBackByHand())
	case b.down != "":
		return e.WithDetail("%s%s runs, and is the primary as before.", said, named(b.from)).WithHint("start the server of %s: it is a standby", named(b.to))
	case b.begun:
		return e.WithDetail("%s%s runs, and is the primary as before.", said, named(b.from)).WithHint("%s", why.Hint)
	case b.refused:
		return e.WithDetail("%sThis command has stopped nothing.", said).WithHint("\"repmgr cluster show\" tells who is the primary")
	}
	return e.WithDetail("%sNothing was stopped: %s is the primary as before.", said, named(b.from)).WithHint("%s", why.Hint)
}

// sentence is a detail before another sentence.
func sentence(detail string) string {
	if detail = strings.TrimSpace(detail); detail == "" {
		return ""
	}
	return strings.TrimSuffix(detail, ".") + ". "
}

// takeBackByHand is what starts the former primary as a primary, on its host.
func (b *bySSH) takeBackByHand() string {
	return b.s.remoteRepmgr(b.from) + " node service --action=start --take-back"
}

// nobodyListens tells of an answer that nobody listens where the daemon would.
func nobodyListens(err error) bool { return errors.Is(err, api.ErrNotRunning) }
