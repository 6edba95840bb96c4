package daemon

import (
	"strings"
	"testing"
	"time"

	"repmgr/internal/failover"
	"repmgr/internal/quorum"
	"repmgr/internal/record"
)

// withMember is a daemon of a group in which node 2 takes part, as a learner.
func withMember(t *testing.T) *Daemon {
	t.Helper()
	q := aGroup(t, func(*Daemon) {})
	if err := q.found(t.Context(), "g", "s", record.Member{Node: 1, Name: "one"}); err != nil {
		t.Fatal(err)
	}
	answered(t, q, record.SetPause{On: true})
	learner := failover.ChangeMember{Member: record.Member{Node: 2, Name: "two", RaftID: 22}}
	if err := q.change(t.Context(), learner); err != nil {
		t.Fatal(err)
	}
	answered(t, q, record.SetPause{On: false})
	return q.d
}

// said is a word of node 2.
func said(life, term, last, safe uint64) failover.Report {
	return failover.Report{Node: 2, Incarnation: life, Group: "g", RaftID: 22, Standing: failover.Standing{Term: term, Last: last, Safe: safe}}
}

// What a member has shown is remembered over this daemon's restart, and one that
// shows less afterwards has no voice in the group, though its reports are read.
func TestForgetfulMember(t *testing.T) {
	d := withMember(t)
	hear := func(v *voices, r failover.Report, admitted bool) {
		t.Helper()
		if _, err := v.hear(r, bootTime()); err != nil {
			t.Fatal(err)
		}
		if v.admits(2, r.Incarnation, 22) != admitted {
			t.Errorf("after %+v: admitted %v, want %v", r.Standing, !admitted, admitted)
		}
	}
	v := d.voices
	if v.admits(2, 5, 22) {
		t.Error("it was not heard of yet, and may be anybody")
	}
	hear(v, said(5, 3, 100, 90), true)
	hear(v, said(5, 3, 95, 92), true) // an end that was not committed may be taken back
	hear(v, said(5, 0, 0, 0), true)   // nothing was told
	hear(v, said(5, 2, 80, 80), true) // it came late
	if err := d.quorum.store.Put("seal", nil); err != nil {
		t.Fatal(err) // whatever is written takes along what waits
	}

	v = newVoices(d) // as after a restart
	if err := v.adopt(); err != nil {
		t.Fatal(err)
	}
	hear(v, said(6, 3, 92, 80), true) // it was restarted, and its commit index was not synced
	hear(v, said(7, 3, 91, 91), false)
	if list := v.refused(); len(list) != 1 || list[0].Node != 2 || !strings.Contains(list[0].Why, "has forgotten") {
		t.Errorf("%+v", list)
	}
	hear(v, said(8, 9, 500, 500), false) // it was brought up to date meanwhile, and its votes are forgotten all the same
}

// What a daemon had said when it was killed comes long after its next life was heard, over the
// connections that it had made. It had less then, as that life shows, and that is no wonder:
// its member has forgotten nothing, and no two daemons run.
func TestWordsOfADeadDaemon(t *testing.T) {
	v := withMember(t).voices
	made := bootTime()
	hear := func(r failover.Report, age time.Duration, since time.Time, want bool) {
		t.Helper()
		r.Age = age
		if _, err := v.hear(r, since); (err == nil) != want {
			t.Fatalf("%+v: %v", r.Standing, err)
		}
		if !v.admits(2, 6, 22) || v.admits(2, 5, 22) {
			t.Fatalf("after %+v of life %d the life that runs is not the one that is listened to: %+v", r.Standing, r.Incarnation, v.refused())
		}
	}
	v.enter(2, 5)
	if _, err := v.hear(said(5, 3, 80, 79), made); err != nil {
		t.Fatal(err)
	}
	v.leave(2, 5)
	v.enter(2, 6)
	began := bootTime()
	hear(said(6, 4, 88, 88), 0, began, true)
	for i := uint64(0); bootTime().Sub(began) < 2500*time.Millisecond; i++ {
		hear(said(6, 4, 89+i, 88+i), bootTime().Sub(began), bootTime(), true)
		hear(said(5, 3, 80, 80), 30*time.Second, made, false)
		time.Sleep(50 * time.Millisecond)
	}
	if list := v.refused(); len(list) != 0 {
		t.Errorf("%+v", list)
	}
}

// TestTwoDaemonsOfOneNode says that the younger is refused, and its frames are lost.
func TestTwoDaemonsOfOneNode(t *testing.T) {
	q := aGroup(t, func(*Daemon) {})
	v, began := q.d.voices, time.Now()
	say := func(life uint64, age time.Duration) error {
		_, err := v.hear(failover.Report{Node: 2, Incarnation: life, Age: age + time.Since(began)}, bootTime())
		return err
	}
	v.enter(2, 1)
	if err := say(1, time.Hour); err != nil {
		t.Fatal(err)
	}
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end) && (err == nil || !strings.Contains(err.Error(), "two repmgrd run as node 2")); {
		err = say(2, time.Second)
		if err == nil || v.admits(2, 2, 22) {
			t.Fatal("it is listened to beside the other")
		}
		if err := say(1, time.Hour); err != nil || !v.admits(2, 1, 22) {
			t.Fatalf("the elder is not listened to: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if list := v.refused(); len(list) != 1 || list[0].Why != err.Error() {
		t.Errorf("%+v, after %v", list, err)
	}
	if !v.admits(2, 0, quorum.MaxData) {
		t.Error("a version that does not tell its life is refused")
	}
}
