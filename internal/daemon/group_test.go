package daemon

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/failover"
	"repmgr/internal/quorum"
	"repmgr/internal/record"

	"go.etcd.io/raft/v3/raftpb"
)

// aGroup is the group of a daemon, node 1, whose goroutine runs. What it tells the loop is lost.
func aGroup(t *testing.T, set func(*Daemon)) *group {
	t.Helper()
	d := &Daemon{cfg: &conf.Config{NodeID: 1, StateDirectory: t.TempDir(), LeaseTTL: time.Second}, log: slog.New(slog.DiscardHandler), in: make(chan message)}
	d.eyes, d.peers, d.voices, d.notifier = newEyes(d), newPeers(d), newVoices(d), newNotifier(d)
	set(d)
	q, err := openGroup(d)
	if err != nil {
		t.Fatal(err)
	}
	d.quorum = q
	ctx, cancel := context.WithCancel(t.Context())
	d.goes(func() {
		for ctx.Err() == nil {
			select {
			case <-d.in:
			case <-ctx.Done():
			}
		}
	})
	d.goes(func() { q.run(ctx) })
	t.Cleanup(func() {
		cancel()
		go d.drain()
		d.group.Wait()
		_ = q.store.Close()
	})
	return q
}

// answered proposes until the group has a leader that answers.
func answered(t *testing.T, q *group, c record.Change) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		_, err := q.propose(t.Context(), c)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestWhatTheLeaderDoesNotUnderstand says that one peer's nonsense, or a newer
// program's entry, does not put the whole group out of order.
func TestWhatTheLeaderDoesNotUnderstand(t *testing.T) {
	q := aGroup(t, func(*Daemon) {})
	if err := q.found(t.Context(), "g", "s", record.Member{Node: 1, Name: "one"}); err != nil {
		t.Fatal(err)
	}
	answered(t, q, record.SetPause{On: true})
	for i, text := range []string{`{"v":1,"kind":"dance","body":{}}`, `{"v":99,"kind":"close","body":{"vacancy":1}}`, "nonsense"} {
		q.receive(2, quorum.Frame{Group: "g", From: 22, To: q.identity.RaftID, Proposal: &quorum.Proposal{Request: uint64(i), Data: []byte(text)}}, len(text))
	}
	answered(t, q, record.SetPause{})
	if rec, _ := q.known(); rec.Pause.On {
		t.Error("the record stands still")
	}
}

// TestInvitations says that a node takes part in the group that invites it, unless
// that is one which an operator gave up for lost here.
func TestInvitations(t *testing.T) {
	for disowned, joins := range map[string]bool{"": true, "other": true, "g": false} {
		q := aGroup(t, func(d *Daemon) { d.peers.memory.Disowned = disowned })
		own := q.identity.RaftID
		beat := &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: new(uint64(22)), To: new(own), Term: new(uint64(1))}
		q.receive(2, quorum.Frame{Group: "g", From: 22, To: own, Message: beat}, 1)
		var member bool
		if err := q.do(t.Context(), func() error {
			for len(q.frames) > 0 {
				q.handle(<-q.frames)
			}
			member = q.member != nil
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if member != joins {
			t.Errorf("disowned %q: a member: %v", disowned, member)
		}
	}
}

// TestNamesOfPeersAreBounded says that a peer which speaks under ever new raft ids
// costs no memory.
func TestNamesOfPeersAreBounded(t *testing.T) {
	q := aGroup(t, func(*Daemon) {})
	if err := q.found(t.Context(), "g", "s", record.Member{Node: 1, Name: "one"}); err != nil {
		t.Fatal(err)
	}
	var known int
	if err := q.do(t.Context(), func() error {
		for id := uint64(1000); id < 2000; id++ {
			q.handle(arrived{cluster.NodeID(2 + id%2), quorum.Frame{Group: "g", From: id, To: q.identity.RaftID, Answer: &quorum.Answer{}}, 0})
		}
		known = len(q.nodes)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if known != 2 {
		t.Errorf("%d raft ids of two nodes are kept", known)
	}
}

// TestPace says that the group ticks by the lease that is in force.
func TestPace(t *testing.T) {
	q := aGroup(t, func(*Daemon) {}) // lease_ttl is 1 s here
	for ttl, want := range map[time.Duration]time.Duration{0: 25 * time.Millisecond, 10 * time.Second: 250 * time.Millisecond, time.Millisecond: 10 * time.Millisecond} {
		var got time.Duration
		if err := q.do(t.Context(), func() error {
			q.rec = &record.Record{Lease: record.Lease{TTL: ttl}}
			got = q.pace()
			q.rec = nil
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("lease of %s: a tick every %s, want %s", ttl, got, want)
		}
	}
}

// TestOnlyRenews says when the others are not told at once what is committed: when it only
// keeps a lease that they know as a timed one.
func TestOnlyRenews(t *testing.T) {
	entry := func(c record.Change) quorum.Committed {
		text, err := record.EncodeEntry(c, 1, 1, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return quorum.Committed{Data: text}
	}
	renew, release := entry(record.Renew{Term: 1, Node: 1, Seq: 2, Timed: true}), entry(record.Release{Term: 1, Node: 1})
	for name, tt := range map[string]struct {
		lease     record.LeaseState
		pause     bool
		committed []quorum.Committed
		want      bool
	}{
		"a renewal":                       {record.Held, false, []quorum.Committed{renew}, true},
		"nothing":                         {record.Held, false, nil, false},
		"a release after it":              {record.Held, false, []quorum.Committed{renew, release}, false},
		"a change of members":             {record.Held, false, []quorum.Committed{{Change: &quorum.Change{}}}, false},
		"what cannot be read":             {record.Held, false, []quorum.Committed{{Data: []byte("?")}}, false},
		"a pause":                         {record.Held, true, []quorum.Committed{renew}, false},
		"it makes the lease a timed one":  {record.Indefinite, false, []quorum.Committed{renew}, false},
		"it takes up an expired lease":    {record.Vacant, false, []quorum.Committed{renew}, false},
		"it comes before the lease began": {record.Granted, false, []quorum.Committed{renew}, false},
	} {
		q := &group{rec: &record.Record{Lease: record.Lease{State: tt.lease}, Pause: record.Pause{On: tt.pause}}}
		if got := q.onlyRenews(tt.committed); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if (&group{}).onlyRenews([]quorum.Committed{renew}) {
		t.Error("there is no record")
	}
}

// TestAnEntryOfANewerVersion says that who meets one applies nothing more, votes no
// more, and says why: it cannot know what the record says from then on.
func TestAnEntryOfANewerVersion(t *testing.T) {
	q := aGroup(t, func(*Daemon) {})
	if err := q.found(t.Context(), "g", "s", record.Member{Node: 1, Name: "one"}); err != nil {
		t.Fatal(err)
	}
	answered(t, q, record.SetPause{On: true})
	var broken string
	if err := q.do(t.Context(), func() error {
		err := q.member.Propose([]byte(`{"v":99,"kind":"dance","body":{}}`)) // as a newer leader would
		if err == nil {
			err = q.member.Propose([]byte(`{"v":1,"kind":"pause","body":{"on":false}}`))
		}
		q.pump()
		broken = q.seen().Broken
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(broken, "takes no part in the group") {
		t.Errorf("broken: %q", broken)
	}
	if why := faultOf(q.member.Err()).Detail; !strings.Contains(why, `"dance"`) || !strings.Contains(why, "version 99") {
		t.Errorf("it says %q", why)
	}
	if rec, _ := q.known(); !rec.Pause.On {
		t.Error("the entry after it was applied")
	}
	if err := q.member.Step(&raftpb.Message{Type: raftpb.MsgVote.Enum(), From: new(uint64(22)), To: new(q.identity.RaftID), Term: new(uint64(9))}); err == nil {
		t.Error("it votes")
	}
}

// TestASnapshotOfANewerVersion says that what a newer leader sends as a whole is not saved
// over what is there, and that the node whose repmgr is older says so.
func TestASnapshotOfANewerVersion(t *testing.T) {
	for newer, says := range map[string]string{`{"format":1}`: "", `{"format":2}`: "has to be updated", `{"format":1,"quarantine":true}`: "has to be updated"} {
		q := aGroup(t, func(*Daemon) {})
		own := q.identity.RaftID
		snap := &raftpb.Snapshot{Data: []byte(newer), Metadata: &raftpb.SnapshotMetadata{
			Index: new(uint64(9)), Term: new(uint64(1)), ConfState: &raftpb.ConfState{Voters: []uint64{22, own}}}}
		m := &raftpb.Message{Type: raftpb.MsgSnap.Enum(), From: new(uint64(22)), To: new(own), Term: new(uint64(1)), Snapshot: snap}
		var why error
		var stored quorum.Stored
		if err := q.do(t.Context(), func() (err error) {
			q.handle(arrived{2, quorum.Frame{Group: "g", From: 22, To: own, Message: m}, 1})
			q.pump()
			why = q.member.Err()
			_, stored, _, err = q.store.Load()
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if saved := stored.Snapshot.GetMetadata().GetIndex() == 9; saved != (says == "") {
			t.Errorf("%s: saved: %v", newer, saved)
		}
		if (why != nil) != (says != "") || why != nil && !strings.Contains(faultOf(why).Detail, says) {
			t.Errorf("%s: %v", newer, why)
		}
	}
}

// TestWhatAMemberDoesNotKnow says that the leader takes no change that a member has not announced.
func TestWhatAMemberDoesNotKnow(t *testing.T) {
	q := aGroup(t, func(*Daemon) {})
	if err := q.found(t.Context(), "g", "s", record.Member{Node: 1, Name: "one", Level: record.Level}); err != nil {
		t.Fatal(err)
	}
	answered(t, q, record.SetPause{On: true})
	if err := q.change(t.Context(), failover.ChangeMember{Member: record.Member{Node: 2, Name: "two", RaftID: 22}}); err != nil {
		t.Fatal(err)
	}
	answered(t, q, record.SetPause{On: true})
	if _, err := q.propose(t.Context(), record.Fenced{Term: 1, Node: 1}); err == nil || !strings.Contains(err.Error(), "node 2 has not announced") {
		t.Errorf("a kind that node 2 does not know: %v", err)
	}
	answered(t, q, record.Describe{Node: 2, Name: "two", Level: record.Level})
	answered(t, q, record.Fenced{Term: 1, Node: 1}) // the record refuses it; that is an answer
}

// TestQueuedFramesAreBounded says that what peers send while the group's goroutine
// stands still, on a stalled disk, costs a bounded share of memory, and that it goes on after that.
func TestQueuedFramesAreBounded(t *testing.T) {
	q := aGroup(t, func(*Daemon) {})
	if err := q.found(t.Context(), "g", "s", record.Member{Node: 1, Name: "one"}); err != nil {
		t.Fatal(err)
	}
	const size = 8 << 20
	if err := q.do(t.Context(), func() error {
		for range 100 {
			q.receive(2, quorum.Frame{Group: "g", From: 22, To: q.identity.RaftID, Answer: &quorum.Answer{}}, size)
		}
		if n := len(q.frames); n != queuedBytes/size {
			t.Errorf("%d frames of 8 MiB wait", n)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	answered(t, q, record.SetPause{On: true})
	if n := q.queued.Load(); n != 0 {
		t.Errorf("%d bytes are counted and handled", n)
	}
}

// TestFoundingIsTheSameAgain says that a daemon which died while it founded the group
// founds that one, and no other.
func TestFoundingIsTheSameAgain(t *testing.T) {
	q := aGroup(t, func(*Daemon) {})
	name, err := q.foundingName()
	if again, second := q.foundingName(); err != nil || second != nil || again != name || name == "" {
		t.Errorf("%q, then %q (%v, %v)", name, again, err, second)
	}
	if err := q.store.Reset(); err != nil {
		t.Fatal(err)
	}
	if other, err := q.foundingName(); err != nil || other == name {
		t.Errorf("after its part was forgotten: %q, %v", other, err)
	}
}

// TestFullStateDisk says that a member whose disk is full takes no part while it is,
// and goes on after that, without a restart and with all that was answered.
func TestFullStateDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("SKIPPED, NOT TESTED HERE: a small file system cannot be mounted: %v", err)
	}
	defer syscall.Unmount(dir, 2) // MNT_DETACH
	q := aGroup(t, func(d *Daemon) { d.cfg.StateDirectory = dir })
	if err := q.found(t.Context(), "g", "s", record.Member{Node: 1, Name: "one"}); err != nil {
		t.Fatal(err)
	}
	answered(t, q, record.SetPause{On: true, Reason: "0"})
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 8<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	last, full := 0, ""
	for i := 1; i < 2000 && full == ""; i++ { // the file has some room in itself
		_, err := q.propose(t.Context(), record.SetPause{On: i%2 == 0, Reason: strings.Repeat("x", 1000)})
		if err == nil {
			last = i
			continue
		}
		if err := q.do(t.Context(), func() error { full = q.seen().Broken; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(full, "is full") {
		t.Fatalf("after %d entries: %q", last, full)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	answered(t, q, record.SetPause{On: true, Reason: "after"})
	if rec, _ := q.known(); rec.Pause.Reason != "after" || !rec.Pause.On {
		t.Errorf("%+v", rec.Pause)
	}
	_, stored, _, err := q.store.Load()
	if index, _ := stored.Last(); err != nil || index < uint64(last)+2 {
		t.Errorf("%d entries were answered, and the store ends at %d (%v)", last, index, err)
	}
}
