package record

import (
	"slices"
	"strings"
	"testing"
	"time"

	"repmgr/internal/cluster"
)

var ask3 = RequestSwitchover{Term: 1, Number: 1, To: 3, By: "node 2"}

// handedOver is a group of four whose node 1 was stopped at 1100 in favour of node 3.
func handedOver(t *testing.T) *Record {
	r := group(t, 4)
	r.Sync.add(SyncOn, SetOf(1, 2, 3, 4))
	taken(t, r, ask3)
	taken(t, r, Release{Term: 1, Node: 1, Incarnation: "a", Why: "switchover", To: 3, End: 1100})
	return r
}

// Whom a switchover is for wins with everything that the former primary had, though
// another comes first by priority, and though a synchronous set would ask for more bids.
func TestASwitchoverGoesToWhomItIsFor(t *testing.T) {
	r := handedOver(t)
	for i := range r.Members {
		if r.Members[i].Node == 2 {
			r.Members[i].Priority = 200
		}
	}
	if r.Switchover.Open() || r.Lease.Successor != 3 || r.Lease.End != 1100 || r.Lease.LSN != 1100 {
		t.Fatalf("%+v, %+v", r.Switchover, r.Lease)
	}
	taken(t, r, bid(1, 2, 1100))
	alone := r.Clone()
	taken(t, r, bid(1, 3, 1100))
	if v := r.Verdict(); v.Winner != 3 || !strings.Contains(v.Why, "was handed over to node 3") {
		t.Fatalf("%+v", v)
	}
	taken(t, r, Close{1})
	if r.Lease.Holder != 3 || r.Lease.Successor != 3 || r.Lease.End != 0 {
		t.Fatalf("%+v", r.Lease)
	}
	taken(t, r, Void{Term: 2, Why: "not claimed"})
	if r.Lease.Successor != 0 {
		t.Errorf("after a void grant: %+v", r.Lease)
	}
	// Where that one does not bid, another that has everything will do.
	taken(t, alone, Close{1})
	if alone.Lease.Holder != 2 || alone.Lease.Successor != 0 {
		t.Errorf("%+v", alone.Lease)
	}
}

// Who lacks the last of it is one candidate among others, and proves nothing.
func TestASuccessorThatLacksSomething(t *testing.T) {
	r := handedOver(t)
	taken(t, r, bid(1, 3, 1099))
	refused(t, r, Close{1}, "needed members of the synchronous set")
	taken(t, r, bid(1, 2, 1100))
	taken(t, r, Close{1})
	if r.Lease.Holder != 2 {
		t.Errorf("%+v", r.Lease)
	}
}

// Where one that may not be promoted has the last of it, and too few of the set have bid, nobody
// without that is granted the lease: standbys may have acknowledged what it lacks.
func TestWhoHasTheLastOfItMayNotWin(t *testing.T) {
	r := group(t, 4)
	r.Members[3].Priority = 0
	r.Sync = Sync{Mode: SyncOn, Sets: []Set{SetOf(1, 2, 3)}}
	taken(t, r, ask3)
	taken(t, r, Release{Term: 1, Node: 1, Incarnation: "a", To: 3, End: 1100})
	taken(t, r, bid(1, 4, 1100))
	taken(t, r, bid(1, 2, 1050))
	refused(t, r, Close{1}, "node 4 may not be promoted and has more than node 2")
	taken(t, r, bid(1, 3, 1100))
	taken(t, r, Close{1})
	if r.Lease.Holder != 3 {
		t.Errorf("%+v", r.Lease)
	}
}

// Whom the lease was handed over to takes it up by one entry, which does what the bid, the
// close and the claim would do.
func TestASuccessorTakesTheLeaseUp(t *testing.T) {
	up := Succeed{Term: 1, Vacancy: 1, Node: 3, Incarnation: "c", Timeline: 1, LSN: 1100, Line: "1", TTL: time.Second, Life: 7}
	r := handedOver(t)
	three := r.Clone()
	taken(t, three, bid(1, 3, 1100))
	taken(t, three, Close{1})
	taken(t, three, Claim{Term: 2, Node: 3, Incarnation: "c", TTL: time.Second, Life: 7})
	taken(t, r, up)
	one, err := r.Encode()
	two, err2 := three.Encode()
	if err != nil || err2 != nil || string(one) != string(two) {
		t.Errorf("it came to\n%s\nand not to\n%s", one, two)
	}
	refused(t, r, up, "term 1 is over")
	for name, tt := range map[string]struct {
		before []Change
		set    func(*Record, *Succeed)
		says   string
	}{
		"nobody was asked for":    {nil, func(r *Record, _ *Succeed) { r.Lease.Successor = 0 }, "was not handed over"},
		"another was":             {nil, func(_ *Record, c *Succeed) { c.Node, c.Incarnation = 2, "b" }, "was not handed over"},
		"it lacks something":      {nil, func(_ *Record, c *Succeed) { c.LSN = 1099 }, "does not have everything"},
		"and nobody else is here": {nil, func(r *Record, c *Succeed) { r.Sync, c.LSN = Sync{}, 1099 }, "does not have everything"},
		"another history":         {nil, func(_ *Record, c *Succeed) { c.Timeline, c.Line = 9, "1@0/3FC 9" }, "does not have everything"},
		"another vacancy":         {nil, func(_ *Record, c *Succeed) { c.Vacancy = 2 }, "vacancy 2 is not open"},
		"it has bid already":      {[]Change{bid(1, 3, 1100)}, func(*Record, *Succeed) {}, "has bid already"},
		"paused":                  {[]Change{SetPause{On: true, Reason: "works"}}, func(*Record, *Succeed) {}, "paused: works"},
		"it may not be promoted":  {nil, func(r *Record, _ *Succeed) { r.Members[2].Priority = 0 }, "no eligible standby"},
		"another rule":            {nil, func(r *Record, _ *Succeed) { r.Rule = Visibility }, "is over"},
	} {
		r, c := handedOver(t), up
		r.Members = slices.Clone(r.Members)
		for _, b := range tt.before {
			taken(t, r, b)
		}
		tt.set(r, &c)
		was, err := r.Encode()
		if why := r.Apply(c, at, 0); err != nil || !strings.Contains(why, tt.says) {
			t.Errorf("%s: %q, want %q (%v)", name, why, tt.says, err)
		}
		if is, err := r.Encode(); err != nil || string(is) != string(was) {
			t.Errorf("%s: it was refused, and changed the record:\n%s\n%s", name, was, is)
		}
	}
}

func TestWhenASwitchoverIsRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		before []Change
		set    func(*Record)
		ask    RequestSwitchover
		says   string
	}{
		"paused":                  {[]Change{SetPause{On: true, Reason: "works"}}, nil, ask3, "paused: works"},
		"no longer, but no limit": {[]Change{SetPause{On: true}, SetPause{}}, nil, ask3, "lease is indefinite"},
		"nobody is the primary":   {[]Change{Expire{Term: 1}}, nil, ask3, "lease is vacant"},
		"just restarted":          {[]Change{Regrant{Term: 1, Node: 1, Incarnation: "a"}}, nil, RequestSwitchover{Term: 2, Number: 1, To: 3}, "not recorded yet"},
		"another rule":            {[]Change{End{Term: 1, Node: 1}}, nil, ask3, "not in force"},
		"the primary":             {nil, nil, RequestSwitchover{Term: 1, Number: 1, To: 1}, "already"},
		"a stranger":              {nil, nil, RequestSwitchover{Term: 1, Number: 1, To: 9}, "no member"},
		"a witness":               {nil, func(r *Record) { r.Members[2].Witness = true }, ask3, "a witness"},
		"priority 0":              {nil, func(r *Record) { r.Members[2].Priority = 0 }, ask3, "priority 0"},
		"failover=manual":         {nil, func(r *Record) { r.Members[2].Automatic = false }, ask3, "failover=manual"},
		"one is under way":        {[]Change{ask3}, nil, RequestSwitchover{Term: 1, Number: 2, To: 2}, "to node 3 is under way"},
		"another term":            {nil, nil, RequestSwitchover{Term: 0, Number: 1, To: 3}, "term 0 is over"},
		"a late one":              {[]Change{ask3, CallOff{Number: 1, Why: "x"}}, nil, ask3, "request 1 came after request 1"},
	} {
		t.Run(name, func(t *testing.T) {
			r := group(t, 3)
			for _, c := range tt.before {
				taken(t, r, c)
			}
			if tt.set != nil {
				tt.set(r)
			}
			refused(t, r, tt.ask, tt.says)
		})
	}
}

// A request ends with the lease that it is about, and when it is called off; while it
// is open nobody pauses the cluster.
func TestWhenASwitchoverEnds(t *testing.T) {
	for name, end := range map[string]Change{
		"called off":      CallOff{Number: 1, Why: "it lags"},
		"expired":         Expire{Term: 1},
		"crashed":         Release{Term: 1, Node: 1, Incarnation: "a"},
		"restarted":       Regrant{Term: 1, Node: 1, Incarnation: "a"},
		"ended":           End{Term: 1, Node: 1},
		"to another node": Release{Term: 1, Node: 1, Incarnation: "a", To: 2, End: 1100},
		"without an end":  Release{Term: 1, Node: 1, Incarnation: "a", To: 3},
	} {
		r := group(t, 3)
		taken(t, r, ask3)
		refused(t, r, SetPause{On: true}, "switchover to node 3 is under way")
		refused(t, r, CallOff{Number: 2}, "not open")
		taken(t, r, Renew{Term: 1, Node: 1, Incarnation: "a", Seq: 1, TTL: time.Second})
		if r.Lease.Seq = 0; !r.Switchover.Open() {
			t.Errorf("%s: a renewal ended it", name)
		}
		taken(t, r, end)
		if r.Switchover.Open() || r.Lease.Successor != 0 || r.Lease.End != 0 {
			t.Errorf("%s: %+v, %+v", name, r.Switchover, r.Lease)
		}
	}
	r := group(t, 3) // called off before the release came: it names nobody
	taken(t, r, ask3)
	taken(t, r, CallOff{Number: 1})
	taken(t, r, Release{Term: 1, Node: 1, Incarnation: "a", To: 3, End: 1100})
	if r.Lease.Successor != cluster.NodeID(0) {
		t.Errorf("%+v", r.Lease)
	}
}

// What an older program would not understand has a level of its own: the requests, and
// a release that names somebody.
func TestLevelsOfASwitchover(t *testing.T) {
	for c, level := range map[Change]int{ask3: 3, CallOff{Number: 1}: 3, Release{Term: 1}: 1, Release{Term: 1, To: 3, End: 9}: 3} {
		if got := levelOf(c); got != level {
			t.Errorf("%s %+v: level %d, want %d", KindOf(c), c, got, level)
		}
	}
}
