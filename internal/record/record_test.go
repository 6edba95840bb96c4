package record

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"repmgr/internal/cluster"
)

var at = time.Unix(1_700_000_000, 0)

// group is a record of a cluster of that many nodes under the quorum rule, node
// 1 the primary on timeline 1 with a lease in term 1.
func group(t *testing.T, nodes int) *Record {
	t.Helper()
	r := New("g", "s", Member{Node: 1, RaftID: 101, Priority: 100, Automatic: true})
	for n := 2; n <= nodes; n++ {
		r.SetMember(Member{Node: cluster.NodeID(n), RaftID: uint64(100 + n), Voter: true, Priority: 100, Automatic: true}, at, 0)
	}
	taken(t, r, Begin{Node: 1, Incarnation: "a", Line: "1", LSN: 1000, TTL: 5 * time.Second, MaximumLag: -1})
	r.Lease.State = Held // as after the first timed renewal
	return r
}

func taken(t *testing.T, r *Record, c Change) {
	t.Helper()
	if why := r.Apply(c, at, 0); why != "" {
		t.Fatalf("%s %+v is refused: %s", KindOf(c), c, why)
	}
}

func refused(t *testing.T, r *Record, c Change, says string) {
	t.Helper()
	before := r.Clone()
	why := r.Apply(c, at, 0)
	if why == "" || !strings.Contains(why, says) {
		t.Fatalf("%s %+v: %q, want a refusal that says %q", KindOf(c), c, why, says)
	}
	if !reflect.DeepEqual(before, r) {
		t.Fatalf("a refused %s changed the record:\n%+v\n%+v", KindOf(c), before, r)
	}
}

func bid(vacancy uint64, node cluster.NodeID, lsn cluster.LSN) Bid {
	return Bid{Vacancy: vacancy, Node: node, Incarnation: string(rune('a' + int(node) - 1)), Timeline: 1, LSN: lsn, Line: "1"}
}

// TestRenewalTriedAgain: a holder whose record is behind, as on a disk that stalls,
// learns from the answer alone that its renewal was accepted. Where that was lost, the
// next try is answered as the first was, and nothing changes.
func TestRenewalTriedAgain(t *testing.T) {
	r := group(t, 3)
	renewal := Renew{Term: 1, Node: 1, Incarnation: "a", Seq: 3, LSN: 1100, TTL: time.Second, MaximumLag: -1, Life: 7}
	taken(t, r, renewal)
	before := r.Clone()
	renewal.LSN = 1200
	taken(t, r, renewal)
	if !reflect.DeepEqual(before, r) {
		t.Errorf("the second try has changed the record:\n%+v\n%+v", before, r)
	}
	taken(t, r, Expire{1, 3})
	refused(t, r, renewal, "came after") // what has expired since takes a new one
	taken(t, r, Renew{Term: 1, Node: 1, Incarnation: "a", Seq: 4, TTL: time.Second, Life: 7})
	taken(t, r, Release{Term: 1, Node: 1, Incarnation: "a", Seq: 4})
	refused(t, r, Renew{Term: 1, Node: 1, Incarnation: "a", Seq: 4, TTL: time.Second, Life: 7}, "vacant")
}

func TestAFailoverFromReleaseToPromotion(t *testing.T) {
	r := group(t, 3)
	taken(t, r, Renew{Term: 1, Node: 1, Incarnation: "a", Seq: 1, LSN: 1100, TTL: time.Second, MaximumLag: -1})
	refused(t, r, Renew{Term: 1, Node: 1, Incarnation: "a", Seq: 1, TTL: 2 * time.Second}, "came after")      // the others would not wait for that
	refused(t, r, Renew{Term: 1, Node: 1, Incarnation: "a", Seq: 1, TTL: time.Second, Life: 2}, "came after") // it knows nothing of the first try
	refused(t, r, Release{Term: 1, Node: 2, Incarnation: "b"}, "node 1 holds")
	refused(t, r, bid(0, 2, 1100), "not open")
	refused(t, r, Close{0}, "not open")
	taken(t, r, Release{Term: 1, Node: 1, Incarnation: "a", Seq: 1, Why: "the server crashed"})
	refused(t, r, Renew{Term: 1, Node: 1, Incarnation: "a", Seq: 2}, "vacant") // B3
	refused(t, r, Close{1}, "no eligible standby")
	taken(t, r, bid(1, 2, 1050))
	refused(t, r, bid(1, 2, 1200), "has bid already")
	taken(t, r, bid(1, 3, 1100))
	taken(t, r, Close{1})
	refused(t, r, Close{1}, "not open")
	refused(t, r, bid(1, 1, 9000), "not open") // late, and higher: B24
	if r.Lease.State != Granted || r.Lease.Holder != 3 || r.Term != 2 || r.Lease.Timeline != 2 {
		t.Fatalf("%+v in term %d", r.Lease, r.Term)
	}
	refused(t, r, Claim{Term: 2, Node: 2, Incarnation: "b"}, "not granted")
	refused(t, r, Renew{Term: 2, Node: 3, Incarnation: "c", Seq: 1}, "granted")
	taken(t, r, Claim{Term: 2, Node: 3, Incarnation: "c", TTL: time.Second})
	refused(t, r, Claim{Term: 2, Node: 3, Incarnation: "c"}, "not granted")
	refused(t, r, Void{Term: 2}, "no such grant")
	refused(t, r, Promoted{Term: 2, Node: 3, Timeline: 3, Parent: 1, Fork: 1100}, "timeline 2 was granted")
	taken(t, r, Promoted{Term: 2, Node: 3, Timeline: 2, Parent: 1, Fork: 1100})
	refused(t, r, Promoted{Term: 2, Node: 3, Timeline: 2, Parent: 1, Fork: 1100}, "already")
	if line := r.Line(); line != "1@0/44C 2" {
		t.Errorf("line %q", line)
	}
	taken(t, r, Regrant{Term: 2, Node: 3, Incarnation: "c", Why: "restarted"})
	refused(t, r, Renew{Term: 2, Node: 3, Incarnation: "c", Seq: 9}, "term 2 is over")
	taken(t, r, Promoted{Term: 3, Node: 3, Timeline: 3, Parent: 2, Fork: 2000})
	if line := r.Line(); line != "1@0/44C 2@0/7D0 3" {
		t.Errorf("line %q", line)
	}
}

func TestExpiryAndReturn(t *testing.T) {
	r := group(t, 3)
	taken(t, r, Renew{Term: 1, Node: 1, Incarnation: "a", Seq: 4})
	refused(t, r, Expire{Term: 1, Seq: 3}, "moved on")
	taken(t, r, Expire{Term: 1, Seq: 4})
	taken(t, r, bid(1, 2, 1000))
	refused(t, r, Renew{Term: 1, Node: 1, Incarnation: "another", Seq: 5}, "holds")
	taken(t, r, Renew{Term: 1, Node: 1, Incarnation: "a", Seq: 5}) // nothing was granted yet
	if r.Lease.State != Held || len(r.Bids) != 0 {
		t.Fatalf("%+v, bids %v", r.Lease, r.Bids)
	}
	taken(t, r, Expire{Term: 1, Seq: 5})
	refused(t, r, bid(1, 3, 1000), "not open") // B11
	taken(t, r, bid(2, 3, 1000))
	taken(t, r, Close{2})
	refused(t, r, Renew{Term: 1, Node: 1, Incarnation: "a", Seq: 6}, "over")
	taken(t, r, Void{Term: 2, Why: "not claimed"})
	if r.Lease.State != Vacant || r.Lease.Vacancy != 3 {
		t.Fatalf("%+v", r.Lease)
	}
	refused(t, r, Renew{Term: 2, Node: 3, Incarnation: "c", Seq: 6}, "node 1 holds")
	if r.Lease.Holder != 1 || r.Lease.Incarnation != "a" { // who did not claim never held it
		t.Fatalf("%+v", r.Lease)
	}
}

func TestPauseMakesTheLeaseIndefinite(t *testing.T) {
	r := group(t, 3)
	taken(t, r, SetPause{On: true, By: "op", Reason: "maintenance"})
	refused(t, r, Expire{Term: 1, Seq: 0}, "moved on")
	taken(t, r, SetPause{On: false, By: "op"})
	refused(t, r, Expire{Term: 1, Seq: 0}, "moved on")             // B10: not before the holder has taken a timed one
	taken(t, r, Renew{Term: 1, Node: 1, Incarnation: "a", Seq: 1}) // sent during the pause, by one who counts no time
	refused(t, r, Expire{1, 1}, "moved on")
	taken(t, r, SetPause{On: true, By: "op", Reason: "again"})
	taken(t, r, SetPause{On: false, By: "op"})
	number := r.Lease.Unlimited
	taken(t, r, Renew{Term: 1, Node: 1, Incarnation: "a", Seq: 2, Timed: true, Unlimited: number - 1}) // meant for the pause before
	refused(t, r, Expire{1, 2}, "moved on")
	taken(t, r, Renew{Term: 1, Node: 1, Incarnation: "a", Seq: 3, Timed: true, Unlimited: number})
	taken(t, r, Expire{Term: 1, Seq: 3})
	taken(t, r, SetPause{On: true, By: "op", Reason: "maintenance"})
	taken(t, r, bid(1, 2, 1000))
	refused(t, r, Close{1}, "paused")
	refused(t, r, SetPause{On: false, By: "node 1", Auto: true}, "not that daemon's own")
}

// The quorum rule neither begins nor ends by a word from before it ended or began.
func TestLateWordsAboutTheRule(t *testing.T) {
	r := group(t, 3)
	begin, end := Begin{Term: 1, Node: 1, Incarnation: "a", Line: "1", TTL: 5 * time.Second}, End{Term: 1, Node: 1}
	taken(t, r, end)
	refused(t, r, Begin{Node: 2, Incarnation: "b", Line: "1"}, "decided in term 0")
	taken(t, r, begin)
	refused(t, r, end, "only who holds")
}

// A holder that asked for a timed lease between two pauses, and has seen the second
// begin and not end, counts no time: what it asked for must not be granted any more.
func TestARenewalFromBetweenTwoPausesEndsNeither(t *testing.T) {
	r := group(t, 3)
	taken(t, r, SetPause{On: true, By: "op", Reason: "maintenance"})
	taken(t, r, SetPause{By: "op"})
	between := Renew{Term: 1, Node: 1, Incarnation: "a", Seq: 1, Timed: true, Unlimited: r.Lease.Unlimited}
	taken(t, r, SetPause{On: true, By: "op", Reason: "again"})
	taken(t, r, SetPause{By: "op"})
	taken(t, r, between) // late
	if r.Lease.State != Indefinite {
		t.Fatalf("the lease is %s, and its holder does not know", r.Lease.State)
	}
	taken(t, r, Renew{Term: 1, Node: 1, Incarnation: "a", Seq: 2, Timed: true, Unlimited: r.Lease.Unlimited})
	if r.Lease.State != Held {
		t.Errorf("the lease is %s", r.Lease.State)
	}
}

func TestWhoWins(t *testing.T) {
	far := bid(1, 2, 500)
	for name, c := range map[string]struct {
		prepare func(r *Record)
		bids    []Bid
		winner  cluster.NodeID
		says    string
	}{
		"the highest LSN":         {nil, []Bid{bid(1, 2, 1100), bid(1, 3, 1101)}, 3, ""},
		"then priority":           {func(r *Record) { r.Members[2].Priority = 200 }, []Bid{bid(1, 2, 1100), bid(1, 3, 1100)}, 3, ""},
		"then the lowest node":    {nil, []Bid{bid(1, 3, 1100), bid(1, 2, 1100)}, 2, ""},
		"not priority 0":          {func(r *Record) { r.Members[2].Priority = 0 }, []Bid{bid(1, 2, 1100), bid(1, 3, 1101)}, 2, ""},
		"not failover=manual":     {func(r *Record) { r.Members[2].Automatic = false }, []Bid{bid(1, 2, 1100), bid(1, 3, 1101)}, 2, ""},
		"not who declined":        {nil, []Bid{{Vacancy: 1, Node: 2, Declined: "down"}, bid(1, 3, 1)}, 3, ""},
		"nobody too far behind":   {func(r *Record) { r.MaximumLag, r.Lease.LSN = 400, 1000 }, []Bid{far}, 0, "no eligible standby"},
		"nobody without bids":     {nil, nil, 0, "no eligible standby"},
		"not who has diverged":    {nil, []Bid{bid(1, 2, 1100), {Vacancy: 1, Node: 3, Timeline: 2, LSN: 9000, Line: "1@0/10 2"}}, 2, ""},
		"half of a set is enough": {func(r *Record) { r.Sync.Sets = []Set{SetOf(1, 2)} }, []Bid{bid(1, 2, 1100)}, 2, ""},
		"one of two is too few": {func(r *Record) { r.Sync.Sets = []Set{SetOf(1, 2, 3)} }, []Bid{bid(1, 2, 1100)}, 0,
			"1 of 2 needed members of the synchronous set ANY 1 (2 3)"},
		"of k=2 one is enough": {func(r *Record) { r.Sync.Sets = []Set{SetOf(2, 2, 3)} }, []Bid{bid(1, 2, 1100)}, 2, ""},
		"every set counts":     {func(r *Record) { r.Sync.Sets = []Set{SetOf(1, 2), SetOf(1, 3)} }, []Bid{bid(1, 2, 1100)}, 0, "ANY 1 (3)"},
		"diverged does not count": {func(r *Record) { r.Sync.Sets = []Set{SetOf(1, 2, 3)} },
			[]Bid{bid(1, 2, 1100), {Vacancy: 1, Node: 3, Timeline: 2, LSN: 9000, Line: "1@0/10 2"}}, 0, "1 of 2"},
		"the last holder has everything": {func(r *Record) { r.Sync.Sets = []Set{SetOf(1, 2, 3)} }, []Bid{bid(1, 1, 1100)}, 1, ""},
		"who may not win must not have more": {func(r *Record) { r.Members[2].Priority = 0; r.Sync.Sets = []Set{SetOf(1, 2, 3)} },
			[]Bid{bid(1, 2, 1100), bid(1, 3, 1101)}, 0, "node 3 may not be promoted and has more"},
	} {
		t.Run(name, func(t *testing.T) {
			r := group(t, 3)
			if c.prepare != nil {
				c.prepare(r)
			}
			taken(t, r, Release{Term: 1, Node: 1, Incarnation: "a"})
			for _, b := range c.bids {
				taken(t, r, b)
			}
			v := r.Verdict()
			if v.Winner != c.winner || !strings.Contains(v.Why, c.says) {
				t.Errorf("node %d, %q; want node %d, %q", v.Winner, v.Why, c.winner, c.says)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	r := group(t, 3)
	r.Base = "1@0/100 3"
	r.Terms = []Term{{Term: 1, Node: 1, Timeline: 3}, {Term: 2, Node: 2, Timeline: 5, Parent: 3, Fork: 0x200}, // nobody had followed
		{Term: 3, Node: 3, Timeline: 6, Parent: 3, Fork: 0x180}}
	r.Term, r.Lease.Timeline, r.Lease.Promoted = 4, 9, false
	if r.Line() != "1@0/100 3@0/180 6" {
		t.Fatal(r.Line())
	}
	for _, c := range []struct {
		line Line
		lsn  cluster.LSN
		last bool
		want Standing
	}{
		{"1@0/100 3@0/180 6", 0x900, false, Standing{WALTerm: 3}},
		{"1@0/100 3", 0x180, false, Standing{WALTerm: 1}},
		{"1@0/100 3", 0x181, false, Standing{Diverged: true, Fork: 0x180, From: 3}},
		{"1", 0x100, false, Standing{}},
		{"1", 0x101, false, Standing{Diverged: true, Fork: 0x100, From: 1}},
		{"1@0/90 2", 0x95, false, Standing{Diverged: true, Fork: 0x90, From: 1}},
		{"1@0/100 3@0/200 5", 0x300, false, Standing{Diverged: true, Fork: 0x180, From: 3}},
		{"1@0/100 3@0/180 6@0/500 9", 0x600, true, Standing{WALTerm: 4}},
		{"1@0/100 3@0/180 6@0/500 9", 0x600, false, Standing{Diverged: true, Fork: 0x500, From: 6}},
		{"1@0/100 3@0/180 6@0/500 8", 0x600, true, Standing{Diverged: true, Fork: 0x500, From: 6}},
		{"7", 0x600, false, Standing{Diverged: true}},
		{"x", 0x600, false, Standing{Diverged: true}},
	} {
		if got := r.Judge(c.line, c.lsn, c.last); got != c.want {
			t.Errorf("%q at %s: %+v, want %+v", c.line, c.lsn, got, c.want)
		}
	}
}

// A holder that was promoted and died before it could say so has a history that
// nobody else knows; when it alone comes back, the record takes it over.
func TestAPromotionThatWasNotRecorded(t *testing.T) {
	r := group(t, 3)
	taken(t, r, Release{Term: 1, Node: 1, Incarnation: "a"})
	taken(t, r, bid(1, 2, 1000))
	taken(t, r, Close{1})
	taken(t, r, Claim{Term: 2, Node: 2, Incarnation: "b", TTL: time.Second})
	taken(t, r, Expire{Term: 2, Seq: 0})
	taken(t, r, Bid{Vacancy: 2, Node: 2, Incarnation: "b", Timeline: 2, LSN: 1500, Line: "1@0/3E8 2"})
	taken(t, r, bid(2, 3, 1000))
	taken(t, r, Close{2})
	if r.Lease.Holder != 2 || r.Line() != "1@0/3E8 2" || r.Lease.Timeline != 3 {
		t.Fatalf("%+v, line %q", r.Lease, r.Line())
	}
}

// TestABidIsTakenBack: nobody is chosen by a bid that was taken back, nor by a second copy
// of it; the next one, from the next vacancy, counts (safety notes, B23).
func TestABidIsTakenBack(t *testing.T) {
	r := group(t, 3)
	refused(t, r, Withdraw{Vacancy: 0, Node: 2}, "not open")
	taken(t, r, Expire{Term: 1, Seq: 0})
	refused(t, r, Withdraw{Vacancy: 1, Node: 2}, "has offered nothing")
	taken(t, r, bid(1, 2, 1500))
	taken(t, r, Bid{Vacancy: 1, Node: 3, Declined: "its server is starting"})
	refused(t, r, Withdraw{Vacancy: 1, Node: 3}, "has offered nothing")
	refused(t, r, Withdraw{Vacancy: 2, Node: 2}, "not open")
	taken(t, r, Withdraw{Vacancy: 1, Node: 2, Why: "it receives WAL again"})
	refused(t, r, bid(1, 2, 1500), "not open")
	refused(t, r, Close{1}, "not open")
	refused(t, r, Close{2}, "no eligible standby")
	refused(t, r, Withdraw{Vacancy: 1, Node: 2}, "not open")
	reinstated := r.Clone()
	taken(t, reinstated, Renew{Term: 1, Node: 1, Incarnation: "a", Seq: 1, TTL: time.Second, MaximumLag: -1}) // as before it was taken back
	taken(t, r, bid(2, 2, 1600))
	taken(t, r, Close{2})
	if r.Lease.Holder != 2 || r.Lease.LSN != 1600 {
		t.Errorf("%+v", r.Lease)
	}
}

func TestOldTermsGoIntoTheBase(t *testing.T) {
	r := group(t, 3)
	for i := range keptTerms + 50 {
		taken(t, r, Regrant{Term: r.Term, Node: 1, Incarnation: "a"})
		taken(t, r, Promoted{Term: r.Term, Node: 1, Timeline: r.Lease.Timeline, Parent: r.Lease.Timeline - 1, Fork: cluster.LSN(2000 + i)})
	}
	switches, end, err := r.Line().Parse()
	if err != nil || len(r.Terms) != keptTerms || len(switches) != keptTerms+50 || end != keptTerms+51 {
		t.Errorf("%v, %d terms, %d switches, timeline %d", err, len(r.Terms), len(switches), end)
	}
}

func TestEveryChangeTravels(t *testing.T) {
	for _, c := range []Change{Begin{Node: 1, Line: "1", LSN: 5}, End{Node: 1}, Renew{Term: 3, Seq: 2, TTL: time.Second}, Release{Why: "x"}, Expire{1, 2},
		bid(1, 2, 3), Close{4}, Claim{Term: 1}, Regrant{Term: 2}, Promoted{Fork: 77}, Void{Term: 1}, SetPause{On: true}, Describe{Node: 2},
		SyncAdd{Set: SetOf(1, 3, 2)}, SyncDrop{LSN: 5}, Fenced{Term: 1, Node: 2, Seq: 3, By: "x"},
		RequestSwitchover{Term: 1, Number: 2, To: 3, By: "op"}, CallOff{Number: 2, Why: "x"}, Release{Why: "x", To: 3, End: 9},
		Withdraw{Vacancy: 3, Node: 2, Why: "x"}, Succeed{Term: 1, Vacancy: 1, Node: 2, Incarnation: "i", Timeline: 1, LSN: 9, Line: "1", TTL: 5, Life: 3}} {
		text, err := EncodeEntry(c, 7, 99, at)
		if err != nil {
			t.Fatal(err)
		}
		e, back, err := DecodeEntry(text)
		if err != nil || back != c || e.Request != 99 || e.Node != 7 || !e.At.Equal(at) {
			t.Errorf("%+v came back as %+v (%v)", c, back, err)
		}
	}
	if len(kinds) != 20 {
		t.Errorf("%d kinds: add the new one here", len(kinds))
	}
}

func TestWhatIsNotUnderstoodIsRefused(t *testing.T) {
	for text, says := range map[string]string{
		`{"v":5,"kind":"close","body":{}}`:                  "version 5",
		`{"v":1,"kind":"dance","body":{}}`:                  `"dance"`,
		`{"v":1,"kind":"close","body":{"vacancy":1,"x":1}}`: "x",
		`nonsense`: "cannot be read",
	} {
		if _, _, err := DecodeEntry([]byte(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := Decode([]byte(`{"format":2}`)); err == nil || !strings.Contains(err.Error(), "format 2") {
		t.Error(err)
	}
	r := group(t, 3)
	text, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := Decode(text)
	if again, _ := back.Encode(); err != nil || string(again) != string(text) {
		t.Errorf("%v\n%s\n%s", err, text, again)
	}
}

func FuzzDecodeEntry(f *testing.F) {
	text, _ := EncodeEntry(bid(1, 2, 3), 2, 1, at)
	f.Add(text)
	f.Add([]byte(`{"v":1,"kind":"sync-add","body":{"set":"ANY 1 (2 3"}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, c, err := DecodeEntry(text); err == nil {
			r := group(t, 3)
			r.Apply(c, at, 1)
			r.Verdict()
		}
		if r, err := Decode(text); err == nil {
			r.Verdict()
			r.Line()
		}
	})
}
