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
