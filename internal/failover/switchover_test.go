package failover

import (
	"strings"
	"testing"
	"time"

	"repmgr/internal/record"
)

// A switchover from the request to the release, and what is ordered on the way.
func TestHandOverOfTheLease(t *testing.T) {
	v := holderView()
	streaming(v)
	change(t, v, ask2)
	d := Decide(v, t0)
	order, ok := d.Actions[0].(HandOver)
	if !ok || order != (HandOver{1, 2}) {
		t.Fatalf("%+v", d)
	}
	v.Observe(Ordered{order}, t0)
	if d = Decide(v, t0); d.Rule != "busy" {
		t.Errorf("%+v", d)
	}
	if _, due := Renewal(v, t0.Add(time.Second)); !due {
		t.Error("the lease is not renewed while the server is stopped: there would be no way back")
	}
	if as, _ := Startable(v); as != GateWait {
		t.Errorf("the gate says %q while the server is stopped for another", as)
	}
	v.Observe(HandedOver{Number: 9, End: 500}, t0) // of another request
	v.Observe(StoppedInOrder{9}, t0)
	if v.Local.State != ServerRunning || v.Handover.End != 0 {
		t.Errorf("%+v, the server is %s", v.Handover, v.Local.State)
	}
	v.Observe(StoppedInOrder{1}, t0)
	before := holderView().Local
	before.At = t0.Add(-time.Millisecond)
	v.Observe(LocalSeen{before}, t0)
	v.Observe(HandedOver{Number: 1, End: 100}, t0)
	v.Observe(Done{order, ""}, t0)
	v.Local.Armed, v.Local.Sealed = true, true
	d = Decide(v, t0)
	give, ok := d.Actions[0].(GiveUp)
	if !ok || give.To != 2 || give.End != 100 || give.Term != 1 {
		t.Fatalf("%+v", d)
	}
	v.Observe(Ordered{give}, t0)
	if _, due := Renewal(v, t0.Add(time.Second)); due || MayWrite(v, t0) {
		t.Error("the lease is renewed, or counted on, while it is given back")
	}
}

// A hand-over that was broken off is taken back: the server is started as the primary
// that it was, under the lease that was renewed all the time, and the request is ended.
func TestHandOverTakenBack(t *testing.T) {
	v := holderView()
	streaming(v)
	change(t, v, ask2)
	v.Observe(Ordered{HandOver{1, 2}}, t0)
	v.Observe(StoppedInOrder{1}, t0.Add(-10*time.Second)) // longer ago than primary_restart_grace
	v.Local.Armed, v.Local.Sealed = true, true
	v.Observe(Done{HandOver{1, 2}, "node 2 has gone"}, t0)
	d := Decide(v, t0)
	if d.Rule != "take-up" || d.Why != "node 2 has gone" {
		t.Fatalf("%+v", d)
	}
	v.Observe(Ordered{d.Actions[0]}, t0)
	if _, limited := Deadline(v); !limited || StandDown(v) {
		t.Error("the guard holds no deadline while the server is started as a primary")
	}
	if as, why := Startable(v); as != GateAsItIs {
		t.Errorf("the unit's gate answers the daemon's own start with %q: %s", as, why)
	}
	v.Observe(Done{d.Actions[0], ""}, t0)
	if d = Decide(v, t0); d.Rule != "holder-grace" {
		t.Errorf("%+v", d)
	}
	v.Local = holderView().Local
	d = Decide(v, t0)
	off, ok := d.Actions[0].(Propose)
	if !ok || off.Change != (record.CallOff{Number: 1, Why: "node 2 has gone"}) {
		t.Fatalf("%+v", d)
	}
	change(t, v, off.Change)
	if d = Decide(v, t0); d.Rule != "primary-holds" {
		t.Errorf("%+v", d)
	}
}

// A life of the daemon that finds a request does not know how far the one before came.
func TestARequestFromBeforeARestart(t *testing.T) {
	v := holderView()
	streaming(v)
	change(t, v, ask2)
	found := v.Group
	v.Group = Group{}
	v.Observe(GroupSeen{found}, t0)
	v.Tenure = holderView().Tenure
	if d := Decide(v, t0); d.Rule != "call-off" || !strings.Contains(d.Why, "restarted") {
		t.Errorf("%+v", d)
	}
	down(ServerStopped)(v)
	if d := Decide(v, t0); d.Rule != "take-up" {
		t.Errorf("its server is down: %+v", d)
	}
}

// The lease that is taken up by one entry counts from when that was first proposed,
// whichever comes first: the answer, or the record.
func TestTheLeaseOfASuccessor(t *testing.T) {
	for _, first := range []string{"answer", "record"} {
		v := quorumView()
		change(t, v, ask2)
		change(t, v, handed(2))
		succeeding(100)(v)
		d := Decide(v, t0)
		up, ok := d.Actions[0].(Propose)
		if !ok || d.Rule != "succeed" {
			t.Fatalf("%+v", d)
		}
		v.Observe(Asked(up), t0)
		later := t0.Add(400 * time.Millisecond)
		v.Observe(Asked(up), later) // again
		if first == "answer" {
			v.Observe(Answered{Change: up.Change}, later)
			if v.Tenure.Term != 2 {
				t.Errorf("the answer came first: %+v", v.Tenure)
			}
		}
		change(t, v, up.Change)
		v.Observe(GroupSeen{v.Group}, later)
		if want := t0.Add(Hold(v.Policy.LeaseTTL)); !v.Tenure.Deadline.Equal(want) || !MayWrite(v, t0.Add(time.Second)) {
			t.Errorf("%s first: the lease counts to %v, want %v", first, v.Tenure.Deadline, want)
		}
		if d := Decide(v, later); d.Rule != "promote-granted" {
			t.Errorf("%s first: %+v", first, d)
		}
	}
}

// A first try for a short time is accepted, its answer is lost, and a reload makes the
// second try one for a long time: the lease is as long as the group thinks.
func TestTheLeaseIsTheOneThatWasAccepted(t *testing.T) {
	v, later := quorumView(), t0.Add(successionWindow/2)
	change(t, v, ask2)
	change(t, v, handed(2))
	succeeding(100)(v)
	first := Decide(v, t0).Actions[0].(Propose)
	v.Observe(Asked(first), t0)
	v.Policy.LeaseTTL *= 6
	v.Observe(Asked(Decide(v, later).Actions[0].(Propose)), later)
	change(t, v, first.Change)
	v.Observe(GroupSeen{v.Group}, later)
	if want := t0.Add(Hold(first.Change.(record.Succeed).TTL)); !v.Tenure.Deadline.Equal(want) {
		t.Errorf("the lease counts to %v, want %v", v.Tenure.Deadline.Sub(t0), want.Sub(t0))
	}
}

func TestLag(t *testing.T) {
	if Lag(100, 100) != 0 || Lag(100, 120) != 0 || Lag(120, 100) != 20 {
		t.Error("the lag is what is missing")
	}
}
