package quorum

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

var update = flag.Bool("update", false, "write the frames of today's version")

const group = "6f9a1a52-6c49-4c3b-9f0e-8a5b3a3f0a11"

func frames() []Frame {
	m := func(t raftpb.MessageType) *raftpb.Message {
		return &raftpb.Message{Type: t.Enum(), From: new(uint64(0xa)), To: new(uint64(0xb)), Term: new(uint64(3))}
	}
	app := m(raftpb.MsgApp)
	app.Entries = []*raftpb.Entry{{Index: new(uint64(1)), Term: new(uint64(3)), Data: []byte("entry")}}
	snap := m(raftpb.MsgSnap)
	snap.Snapshot = Found(0xa, []byte("state")).Snapshot
	return []Frame{
		{Message: m(raftpb.MsgHeartbeat)},
		{Message: app},
		{Message: snap},
		{Proposal: &Proposal{Request: 7, Data: []byte("renew")}},
		{Answer: &Answer{Request: 7, Index: 1 << 40}},
		{Answer: &Answer{Request: 7, Refused: "not the leader", Leader: 0xc}},
	}
}

func equal(a, b Frame) bool {
	same := proto.Equal(a.Message, b.Message)
	a.Message, b.Message = nil, nil
	return same && reflect.DeepEqual(a, b)
}

func TestFrame(t *testing.T) {
	for _, f := range frames() {
		f.Group, f.From, f.To = group, 0xa, 0xb
		b, err := f.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeFrame(b)
		if err != nil || !equal(got, f) {
			t.Errorf("%+v became %+v (%v)", f, got, err)
		}
		for n := range b {
			if _, err := DecodeFrame(b[:n]); !errors.Is(err, ErrFrame) {
				t.Errorf("%d of %d bytes: %v", n, len(b), err)
			}
		}
		if _, err := DecodeFrame(append(b, 0)); !errors.Is(err, ErrFrame) {
			t.Errorf("a byte too many: %v", err)
		}
		b[0]++
		if _, err := DecodeFrame(b); !errors.Is(err, ErrVersion) {
			t.Errorf("another version: %v", err)
		}
	}
}

// TestFrameFits: whatever the group itself sends fits a frame.
func TestFrameFits(t *testing.T) {
	large := &raftpb.Message{Type: raftpb.MsgApp.Enum(), From: new(uint64(1)), To: new(uint64(2))}
	large.Entries = []*raftpb.Entry{{Index: new(^uint64(0)), Term: new(^uint64(0)), Data: make([]byte, MaxData)}}
	snap := &raftpb.Message{Type: raftpb.MsgSnap.Enum(), From: new(uint64(1)), To: new(uint64(2))}
	snap.Snapshot = Found(1, make([]byte, MaxState)).Snapshot
	for _, f := range []Frame{
		{From: 1, To: 2, Message: large}, {From: 1, To: 2, Message: snap}, {From: 1, To: 2, Proposal: &Proposal{Data: make([]byte, MaxData)}},
	} {
		f.Group = group
		b, err := f.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeFrame(b); err != nil {
			t.Error(err)
		}
	}
	large.Entries[0].Data = make([]byte, MaxFrame)
	for what, f := range map[string]Frame{
		"too large":       {From: 1, To: 2, Message: large},
		"another sender":  {From: 2, To: 2, Message: snap},
		"empty":           {From: 1, To: 2},
		"two at once":     {From: 1, To: 2, Message: snap, Answer: &Answer{}},
		"too long a name": {Group: strings.Repeat("g", maxGroup+1), Answer: &Answer{}},
	} {
		if _, err := f.Encode(); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := DecodeFrame(append([]byte{frameVersion, kindProposal}, make([]byte, MaxFrame)...)); !errors.Is(err, ErrFrame) {
		t.Error("a frame over the limit was decoded")
	}
}

// FuzzFrame feeds bytes to the decoder: an error or a frame that comes back
// the same, and never a panic, neither there nor in the group that gets it.
func FuzzFrame(f *testing.F) {
	for _, s := range frames() {
		s.Group, s.From, s.To = group, 0xa, 0xb
		b, err := s.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{frameVersion, kindProposal, 0, 1, 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		was := bytes.Clone(b)
		got, err := DecodeFrame(b)
		if !bytes.Equal(was, b) {
			t.Error("the decoder wrote into its input")
		}
		if err != nil {
			if !errors.Is(err, ErrFrame) && !errors.Is(err, ErrVersion) {
				t.Error(err)
			}
			return
		}
		again, err := got.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := DecodeFrame(again); err != nil || !equal(got, back) {
			t.Errorf("%+v became %+v (%v)", got, back, err)
		}
		if got.Message != nil {
			stepped(t, got)
		}
	})
}

// stepped gives a message to one that waits to be added and to a founder:
// whatever it is, the boundary holds, and what is handed out can be encoded.
func stepped(t *testing.T, f Frame) {
	for _, s := range []Stored{{}, Found(0xb, nil)} {
		g, err := New(Options{ID: 0xb, Stored: s, ElectionTicks: 10, HeartbeatTicks: 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Step(f.Message); err != nil && !errors.Is(err, ErrMessage) && !errors.Is(err, ErrBroken) {
			t.Error(err)
		}
		for range 3 {
			if b, ok := g.Next(); ok {
				s.Save(b.Durable)
				g.Done(b)
			}
		}
		if _, err := New(Options{ID: 0xb, Stored: s, ElectionTicks: 10, HeartbeatTicks: 1}); err != nil && g.Err() == nil {
			t.Errorf("what was saved after %v is not sound: %v", f.Message, err)
		}
	}
}

// TestStrangersCostNoMemory says that who is no member is not remembered.
func TestStrangersCostNoMemory(t *testing.T) {
	g, err := New(Options{ID: 1, Stored: Found(1, nil), ElectionTicks: 10, HeartbeatTicks: 1})
	if err != nil {
		t.Fatal(err)
	}
	for id := uint64(2); id < 1000; id++ {
		_ = g.Step(&raftpb.Message{Type: raftpb.MsgHeartbeatResp.Enum(), From: new(id), To: new(uint64(1)), Term: new(uint64(1))})
	}
	if n := len(g.heard) + len(g.held) + len(g.forgetful) + len(g.sending); n != 0 {
		t.Errorf("%d strangers are remembered", n)
	}
}

// Frames of version 1 are read by this version and by every later one, and those for
// members that know no other are written like that.
func TestFramesOfVersion1(t *testing.T) {
	const fixture = "testdata/frames-1.txt"
	var now strings.Builder
	for _, f := range frames() {
		f.Group, f.From, f.To = group, 0xa, 0xb
		b, err := f.Encode()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&now, "%x\n", b)
	}
	if *update {
		if err := os.WriteFile(fixture, []byte(now.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(fixture)
	if err != nil {
		t.Fatal(err)
	}
	want := frames()
	for i, line := range strings.Fields(string(kept)) {
		b, err := hex.DecodeString(line)
		if err != nil {
			t.Fatal(err)
		}
		want[i].Group, want[i].From, want[i].To = group, 0xa, 0xb
		if f, err := DecodeFrame(b); err != nil || !equal(f, want[i]) {
			t.Errorf("%s\nis read as %+v, %v\nand was %+v", line, f, err, want[i])
		}
	}
	if now.String() != string(kept) {
		t.Errorf("they are written in another form:\n%s", &now)
	}
}
