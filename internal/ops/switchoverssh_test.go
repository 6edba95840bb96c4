package ops

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/plan"
	"repmgr/internal/record"
)

// overSSH is switchable without daemons and without the quorum rule, seen from node 2; node 3 follows.
func overSSH() SSHSurvey {
	s := SSHSurvey{SwitchoverSurvey: switchable(), Self: 2, Hosts: map[cluster.NodeID]ByHost{}, FullPages: true}
	s.Record, s.SiblingsFollow = nil, true
	for id := cluster.NodeID(1); id <= 4; id++ {
		sight(id, func(seen *Sighted) { seen.Daemon, seen.NoDaemon = "not running", true })(&s.SwitchoverSurvey)
		s.Hosts[id] = ByHost{Program: "1", Node: id, SystemID: "s", State: "UP"}
	}
	return s
}

// byHost is a survey in which repmgr on a node's host says that.
func byHost(id cluster.NodeID, f func(*ByHost)) func(*SSHSurvey) {
	return func(s *SSHSurvey) {
		h := s.Hosts[id]
		f(&h)
		s.Hosts[id] = h
	}
}

func seenBySSH(id cluster.NodeID, f func(*Sighted)) func(*SSHSurvey) {
	return func(s *SSHSurvey) { sight(id, f)(&s.SwitchoverSurvey) }
}

// Every finding but the first stops it, with --force too.
var sshCases = map[string]struct {
	set  func(*SSHSurvey)
	says string // empty: nothing is found
	code fault.Code
}{
	"all is well":                       {func(*SSHSurvey) {}, "", 0},
	"a daemon has a record":             {func(s *SSHSurvey) { s.Record = &record.Record{} }, "quorum rule", fault.SwitchoverFail},
	"the database says quorum":          {func(s *SSHSurvey) { s.Governing = "The database says so." }, "quorum rule", fault.SwitchoverFail},
	"the primary's host does":           {byHost(1, func(h *ByHost) { h.Quorum = "remembered" }), "quorum rule", fault.SwitchoverFail},
	"this host does":                    {byHost(2, func(h *ByHost) { h.Quorum = "remembered" }), "quorum rule", fault.SwitchoverFail},
	"from another node":                 {func(s *SSHSurvey) { s.Self = 3 }, "has to be run on node \"n2\"", fault.SwitchoverFail},
	"the primary":                       {func(s *SSHSurvey) { s.To = 1 }, "cannot become the primary", fault.SwitchoverFail},
	"no ssh to the primary":             {byHost(1, func(h *ByHost) { h.Why = "refused" }), "cannot be run on the host of node \"n1\"", fault.BadSSH},
	"no ssh to a sibling":               {byHost(3, func(h *ByHost) { h.Why = "refused" }), "cannot be run on the host of node \"n3\"", fault.BadSSH},
	"another version":                   {byHost(1, func(h *ByHost) { h.Program = "2" }), "of another version", fault.SwitchoverFail},
	"another node's configuration":      {byHost(1, func(h *ByHost) { h.Node = 7 }), "that of node 7", fault.SwitchoverFail},
	"another data directory":            {byHost(1, func(h *ByHost) { h.SystemID = "x" }), "not that of its server", fault.SwitchoverFail},
	"a server that is down there":       {byHost(1, func(h *ByHost) { h.State = "SHUTDOWN" }), "said to be shut down", fault.SwitchoverFail},
	"a server that its host cannot ask": {byHost(1, func(h *ByHost) { h.State = "UNCLEAN_SHUTDOWN" }), "", 0},
	"another timeline": {func(s *SSHSurvey) {
		seenBySSH(1, func(v *Sighted) { v.Server.Timeline = 2 })(s)
		seenBySSH(2, func(v *Sighted) { v.Server.Timeline = 1 })(s)
	}, "another timeline", fault.SwitchoverFail},
	"it does not stream":       {seenBySSH(2, func(v *Sighted) { v.Receiving = false }), "does not stream", fault.SwitchoverFail},
	"a daemon that is silent":  {byHost(1, func(h *ByHost) { h.DaemonRuns = true }), "runs, and does not answer", fault.SwitchoverFail},
	"a daemon that is paused":  {seenBySSH(3, func(v *Sighted) { v.Daemon, v.NoDaemon = "", false }), "", 0},
	"a daemon of repmgr 5":     {func(s *SSHSurvey) { s.Theirs = s.Nodes[2:3] }, "a repmgrd of repmgr 5 runs", fault.SwitchoverFail},
	"rewound in vain":          {func(s *SSHSurvey) { s.ForceRewind = true; byHost(1, func(h *ByHost) { h.CannotRewind = "no" })(s) }, "could not be rewound", fault.SwitchoverFail},
	"rewound with half pages":  {func(s *SSHSurvey) { s.ForceRewind, s.FullPages = true, false }, "full_page_writes", fault.SwitchoverFail},
	"a witness nobody has met": {func(s *SSHSurvey) { delete(s.Hosts, 4); seenBySSH(4, func(v *Sighted) { v.NoDaemon = false })(s) }, "whether a daemon runs", fault.SwitchoverFail},
	"a witness without one":    {func(s *SSHSurvey) { delete(s.Hosts, 4) }, "", 0},
	"a standby nobody has met": {func(s *SSHSurvey) {
		s.SiblingsFollow = false
		byHost(3, func(h *ByHost) { h.Why = "refused" })(s)
		seenBySSH(3, func(v *Sighted) { v.NoDaemon = false })(s)
	}, "whether a daemon runs on node \"n3\"", fault.SwitchoverFail},
	"an inactive one": {func(s *SSHSurvey) {
		s.Nodes[2].Active = false
		delete(s.Hosts, 3)
		seenBySSH(3, func(v *Sighted) { v.NoDaemon = false })(s)
	}, "whether a daemon runs on node \"n3\"", fault.SwitchoverFail},
	"no ssh to who need not follow": {func(s *SSHSurvey) {
		s.SiblingsFollow = false
		byHost(3, func(h *ByHost) { h.Why = "refused" })(s)
	}, "", 0},
}

func TestCheckSwitchoverBySSH(t *testing.T) {
	for name, tt := range sshCases {
		t.Run(name, func(t *testing.T) {
			s := overSSH()
			tt.set(&s)
			found := CheckSwitchoverBySSH(s, "1")
			_, err := SwitchoverBySSH(s, found, true)
			if tt.says == "" {
				if err != nil || len(found) > 0 {
					t.Fatalf("%+v, %v", found, err)
				}
				return
			}
			if !slices.ContainsFunc(found, func(f Finding) bool { return strings.Contains(f.Text, tt.says) }) {
				t.Fatalf("%+v, want %q", found, tt.says)
			}
			if err == nil || fault.CodeOf(err) != tt.code {
				t.Errorf("with --force: %v, status %d, want %d", err, fault.CodeOf(err), tt.code)
			}
		})
	}
}

// sshRun keeps what was done, and fails at one of the steps.
type sshRun struct {
	done     []string
	fails    string
	promoted bool // though the order's answer says that it failed
}

func (r *sshRun) do(what string) error {
	r.done = append(r.done, what)
	if what == r.fails {
		return errors.New("injected")
	}
	return nil
}
func (r *sshRun) Checkpoint(context.Context) error   { return r.do("checkpoint") }
func (r *sshRun) StopPrimary(context.Context) error  { return r.do("stop") }
func (r *sshRun) StartPrimary(context.Context) error { return r.do("start") }
func (r *sshRun) AwaitWAL(context.Context) error     { return r.do("wait") }
func (r *sshRun) PromoteLocal(context.Context) error { return r.do("promote") }
func (r *sshRun) CancelPromotion(context.Context) error {
	if err := r.do("cancel"); err != nil || r.promoted {
		return plan.ErrFinal
	}
	return nil
}
func (r *sshRun) Rejoin(_ context.Context, n cluster.Node) error { return r.do("rejoin " + n.Name) }
func (r *sshRun) Attach(_ context.Context, n cluster.Node) error { return r.do("attach " + n.Name) }

// The primary is started again whatever fails after its stop, but not where the standby was
// promoted, or may have been.
func TestSwitchoverBySSHIsUndone(t *testing.T) {
	for _, tt := range []struct {
		fails    string
		promoted bool
		want     string
	}{
		{"", false, "checkpoint, stop, wait, promote, rejoin n1, attach n3, attach n4"},
		{"checkpoint", false, "checkpoint"},
		{"stop", false, "checkpoint, stop, start"},
		{"wait", false, "checkpoint, stop, wait, start"},
		{"promote", false, "checkpoint, stop, wait, promote, cancel, start"},
		{"promote", true, "checkpoint, stop, wait, promote, cancel"},
		{"rejoin n1", false, "checkpoint, stop, wait, promote, rejoin n1"},
	} {
		s := overSSH()
		p, err := SwitchoverBySSH(s, CheckSwitchoverBySSH(s, "1"), false)
		if err != nil {
			t.Fatal(err)
		}
		r := &sshRun{fails: tt.fails, promoted: tt.promoted}
		err = p.Run(context.Background(), r, func(plan.Event) {})
		if got := strings.Join(r.done, ", "); got != tt.want || (err == nil) != (tt.fails == "") {
			t.Errorf("%q fails: %s, %v, want %s", tt.fails, got, err, tt.want)
		}
	}
}
