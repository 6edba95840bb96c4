package failover

import (
	"testing"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// A holder that has asked for a timed lease after a pause counts its time at
// once: it may be cut off before it hears that it was given one.
func TestEndOfAPauseIsCountedFromTheProposal(t *testing.T) {
	v := viewOf(1, func(v *View) { v.Local.Role, v.Local.Armed = cluster.Primary, true })
	change(t, v, paused)
	v.Tenure = Tenure{Term: 1}
	if r, due := Renewal(v, t0); !due || r.Timed {
		t.Fatalf("during the pause: %+v, %v", r, due)
	}
	if !MayWrite(v, t0.Add(time.Hour)) || !StandDown(v) {
		t.Fatal("the pause sets a limit")
	}
	v.Observe(Asked{Change: record.Renew{Term: 1, Node: 1, Incarnation: "i1", Seq: 1, TTL: 5 * time.Second}}, t0)
	change(t, v, record.SetPause{})
	r, due := Renewal(v, t0.Add(time.Second))
	if !due || !r.Timed || r.Seq != 2 {
		t.Fatalf("after the pause: %+v, %v", r, due)
	}
	v.Observe(Asked{Change: r}, t0.Add(time.Second))
	end := t0.Add(time.Second + Hold(5*time.Second))
	if at, limited := Deadline(v); !limited || !at.Equal(end) || StandDown(v) {
		t.Errorf("the guard is told %v, %v", at, limited)
	}
	if !MayWrite(v, end.Add(-time.Millisecond)) || MayWrite(v, end) {
		t.Error("the time that was asked for is not counted")
	}
}

// An earlier life of the daemon asked for a timed lease, was given it and did not hear
// of that. The next one finds the old record, and a guard with the deadline: that it asks
// again, in vain, gives the server no more time.
func TestAskingAgainMovesNoInheritedDeadline(t *testing.T) {
	for name, runs := range map[string]bool{"the server runs": true, "the server is seen to run later": false} {
		v := viewOf(1, func(v *View) { v.Local.Role, v.Local.Armed = cluster.Primary, true })
		change(t, v, paused, record.SetPause{})
		v.Tenure, v.Life = Tenure{}, 2
		v.Group.Record.Lease.Life = 1
		end := t0.Add(time.Second)
		running := v.Local
		if !runs {
			v.Local.State = ServerStarting
		}
		v.Observe(GuardSeen{Alive: true, Deadline: end}, t0)
		v.Tenure.Term = v.Group.Record.Term
		r, due := Renewal(v, t0)
		if !due || !r.Timed {
			t.Fatalf("%s: asks for %+v, %v", name, r, due)
		}
		v.Observe(Asked{Change: r}, t0)
		v.Local = running
		v.Observe(GuardSeen{Alive: true, Deadline: end}, t0)
		if at, limited := Deadline(v); !limited || !at.Equal(end) || MayWrite(v, end) {
			t.Errorf("%s: the server may live until %s, %v, want %s", name, at.Sub(t0), limited, end.Sub(t0))
		}
		v.Observe(Answered{Change: r}, t0)
		if at, _ := Deadline(v); !at.Equal(t0.Add(Hold(r.TTL))) {
			t.Errorf("%s: answered, it may live until %s", name, at.Sub(t0))
		}
	}
}

// A shorter time to live must not begin while a deadline of the longer one is
// counted here: the others would not wait for it.
func TestShorterTimeToLiveWaitsForTheLongerDeadline(t *testing.T) {
	v := viewOf(1, func(v *View) { v.Local.Role = cluster.Primary })
	v.Policy.LeaseTTL = 2 * time.Second
	v.Tenure = Tenure{Term: 1, Deadline: t0.Add(Hold(5 * time.Second))}
	if r, due := Renewal(v, t0); due {
		t.Errorf("%s is asked for while the deadline is %s away", r.TTL, v.Tenure.Deadline.Sub(t0))
	}
	if r, due := Renewal(v, t0.Add(Hold(5*time.Second)-Hold(2*time.Second))); !due || r.TTL != 2*time.Second {
		t.Errorf("not asked for in time: %+v, %v", r, due)
	}
}

// A life of the daemon that finds its server starting does not know whether it was armed before
// that began: it may write, and a lease without a limit is given none.
func TestStartingIsNotTakenForArmed(t *testing.T) {
	for _, c := range []struct {
		was, is  ServerState
		harmless bool
	}{{"", ServerStarting, false}, {"", ServerUnreachable, false}, {ServerUnreachable, ServerStarting, false}, {"", ServerCrashed, true}, {ServerCrashed, ServerStarting, true}} {
		v := viewOf(1, func(v *View) { v.Local = Local{} })
		for i, state := range []ServerState{c.was, c.is} {
			if at := t0.Add(time.Duration(i) * time.Second); state != "" {
				v.Observe(LocalSeen{Local: Local{At: at, State: state, Incarnation: "i1", Armed: true, Sealed: true}}, at)
			}
		}
		v.Group.Record.Lease.State, v.Tenure = record.Indefinite, Tenure{Term: v.Group.Record.Term}
		if _, due := Renewal(v, t0.Add(time.Minute)); due != c.harmless || Harmless(v) != c.harmless {
			t.Errorf("%q, then %s: a limit is asked for: %v, harmless: %v", c.was, c.is, due, Harmless(v))
		}
	}
}

// A daemon whose state is lost finds the guard of its earlier life, which held the lease and
// may have ordered a promotion that happens yet: the guard keeps its deadline, and ends the
// server. So does the daemon, since the guard may go. Where there was none, or when the server
// was ended, nothing limits a standby.
func TestForgottenLeaseKeepsItsDeadline(t *testing.T) {
	for _, known := range []bool{false, true} {
		v := viewOf(1, func(v *View) { v.Local.Role, v.Local.Armed, v.Local.At = cluster.Standby, true, t0 })
		v.Group, v.Tenure, v.Peers = Group{Known: known}, Tenure{}, nil
		v.Observe(GuardSeen{Alive: true}, t0)
		if !StandDown(v) || !Harmless(v) {
			t.Errorf("known: %v: there was none", known)
		}
		end := t0.Add(time.Second)
		v.Observe(GuardSeen{Alive: true, Deadline: end}, t0)
		if StandDown(v) || Harmless(v) {
			t.Errorf("known: %v: the deadline is taken away", known)
		}
		v.Observe(GuardSeen{}, t0)
		if StandDown(v) || Harmless(v) {
			t.Errorf("known: %v: it is forgotten with the guard", known)
		}
		for at, want := range map[time.Time]bool{end.Add(-v.margin() - 1): false, end.Add(-v.margin()): true, end.Add(time.Hour): true} {
			if d := Decide(v, at); (d.Rule == "lease-forgotten") != want {
				t.Errorf("known: %v, at %s: %s", known, at.Sub(t0), d.Rule)
			}
		}
		v.Observe(LocalSeen{Local: Local{At: end, State: ServerFenced, Armed: true}}, end)
		if d := Decide(v, end); d.Rule == "lease-forgotten" || !Harmless(v) {
			t.Errorf("known: %v, when it was ended: %s", known, d.Rule)
		}
	}
}

// A life of the daemon that finds its server in recovery does not believe an old record of a
// lease without an end. That it asks for a timed one gives it nothing: only the answer does.
func TestAskingGivesNothingThatWasNotBelieved(t *testing.T) {
	for role, believed := range map[cluster.Role]bool{cluster.Standby: false, cluster.Primary: true} {
		v := viewOf(1, func(v *View) { v.Local.Role, v.Local.Armed = role, true })
		change(t, v, paused, record.SetPause{})
		v.Tenure, v.Life = Tenure{Term: v.Group.Record.Term}, 2
		v.Group.Record.Lease.Life = 1
		if MayWrite(v, t0) != believed {
			t.Fatalf("%s: before it asks: %v", role, !believed)
		}
		r, due := Renewal(v, t0)
		if !due || !r.Timed {
			t.Fatalf("%s: asks for %+v, %v", role, r, due)
		}
		v.Observe(Asked{Change: r}, t0)
		if MayWrite(v, t0.Add(time.Millisecond)) != believed {
			t.Errorf("%s: after it has asked: %v", role, !believed)
		}
		v.Observe(Answered{Change: r}, t0.Add(time.Millisecond))
		if !MayWrite(v, t0.Add(time.Second)) {
			t.Errorf("%s: after the answer it may not", role)
		}
	}
}

// The guard knows of a limit before others can count it; a limit that has passed it would
// refuse, for ever, and the lease is asked for all the same.
func TestGuardFirst(t *testing.T) {
	v := holderView()
	v.Group.Record.Lease.State, v.Group.Record.Lease.Promoted, v.Local.Role = record.Indefinite, false, cluster.Standby
	v.Tenure = Tenure{Term: 1, Timed: true, Deadline: t0.Add(time.Second)}
	for _, c := range []struct {
		change record.Change
		at     time.Duration
		want   bool
	}{
		{record.Renew{Timed: true}, 0, true},
		{record.Renew{Timed: true}, time.Second, false},
		{record.Renew{}, 0, false},
		{record.Promoted{}, 0, false},
	} {
		if got := GuardFirst(v, c.change, t0.Add(c.at)); got != c.want {
			t.Errorf("%+v after %s: %v", c.change, c.at, got)
		}
	}
}

// A server may be starting when it is armed, and have read the directory as it was, be it that it
// seemed to be down or that one of its processes crashed just then: the guard keeps its deadline
// until a look has found it down, or running.
func TestArmedMaybeTooLateKeepsItsDeadline(t *testing.T) {
	for _, c := range []struct {
		before, state ServerState
		harmless      bool
	}{{ServerStopped, ServerStarting, false}, {ServerStopped, ServerStopped, true}, {ServerStopped, ServerRunning, true},
		{ServerRunning, ServerStarting, false}, {ServerRunning, ServerStopped, true}} {
		state, harmless := c.state, c.harmless
		v := holderView()
		if c.before != ServerRunning {
			down(c.before)(v)
		}
		v.Local.Armed = false
		v.Observe(Ordered{Arm{}}, t0)
		v.Observe(Done{Action: Arm{}}, t0)
		if _, limited := Deadline(v); !limited || StandDown(v) {
			t.Errorf("%s: the deadline is taken away before anybody has looked", state)
		}
		l := v.Local
		l.At, l.State, l.Role = t0.Add(time.Second), state, cluster.Standby
		v.Observe(LocalSeen{l}, t0.Add(time.Second))
		if StandDown(v) != harmless {
			t.Errorf("%s after %s: the guard stands down: %v", state, c.before, !harmless)
		}
	}
}
