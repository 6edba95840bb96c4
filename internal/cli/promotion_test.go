package cli

import (
	"strings"
	"testing"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/record"
)

var night = time.Date(2026, 3, 4, 3, 5, 6, 0, time.Local)

// governed is the record of a group of three whose primary was cut off, and
// replaced: by the first that was chosen not, by the second it was.
func governed(t *testing.T) *record.Record {
	t.Helper()
	member := func(id cluster.NodeID, name string) record.Member {
		return record.Member{Node: id, Name: name, RaftID: uint64(id), Voter: true, Priority: 100, Automatic: true}
	}
	r := record.New("g", "", member(1, "node1"))
	r.SetMember(member(2, "node2"), night, 2)
	r.SetMember(member(3, "node3"), night, 3)
	at := func(ms int, c record.Change) {
		t.Helper()
		if why := r.Apply(c, night.Add(time.Duration(ms)*time.Millisecond), 4); why != "" {
			t.Fatalf("%s: %s", record.KindOf(c), why)
		}
	}
	const ttl = 5 * time.Second
	at(0, record.Begin{Node: 1, Incarnation: "i1", Line: "1", LSN: 0x3000000, TTL: ttl, MaximumLag: -1})
	at(500, record.Renew{Term: 1, Node: 1, Incarnation: "i1", Seq: 1, LSN: 0x3000000, TTL: ttl, MaximumLag: -1, Timed: true, Unlimited: 1})
	at(60_000, record.Expire{Term: 1, Seq: 1})
	at(60_250, record.Bid{Vacancy: 1, Node: 2, Incarnation: "i2", Timeline: 1, LSN: 0x3000100, Line: "1"})
	at(60_251, record.Bid{Vacancy: 1, Node: 3, Declined: "its server is starting"})
	at(60_260, record.Close{Vacancy: 1})
	at(65_300, record.Void{Term: 2, Why: "node 2 did not claim it"})
	at(65_320, record.Bid{Vacancy: 2, Node: 2, Incarnation: "i2", Timeline: 1, LSN: 0x3000100, Line: "1"})
	at(65_330, record.Bid{Vacancy: 2, Node: 3, Incarnation: "i3", Timeline: 1, LSN: 0x3000200, Line: "1"})
	at(65_340, record.Close{Vacancy: 2})
	at(65_350, record.Claim{Term: 3, Node: 3, Incarnation: "i3", TTL: ttl})
	at(65_400, record.Promoted{Term: 3, Node: 3, Timeline: 3, Parent: 1, Fork: 0x3000200})
	return r
}

// told is what a daemon says of that record.
func told(r *record.Record) *api.Promotion {
	left := 3210 * time.Millisecond
	return &api.Promotion{Rule: r.Rule, Why: "3 voters", Record: r, Leader: 2, Unchanged: 400 * time.Millisecond, Left: &left,
		Voters:   []api.Voter{{Node: 1, Name: "node1"}, {Node: 2, Name: "node2", Seen: true}, {Node: 3, Name: "node3", Seen: true}},
		Failover: &failover.Prospect{WouldSucceed: true, Why: "node 2 would be promoted", Node: 2}}
}

// TestPromotionBlock is what stands below the tables.
func TestPromotionBlock(t *testing.T) {
	block := func(p *api.Promotion) string {
		var b strings.Builder
		newPromotion(p).text(&b)
		return b.String()
	}
	var all strings.Builder
	add := func(title string, p *api.Promotion) { all.WriteString("--- " + title + block(p) + "\n") }
	add("of the holder", told(governed(t)))
	other := told(governed(t))
	other.Left, other.Leader = nil, 0
	other.TooShort = "the way to a majority and back takes 300ms: set lease_ttl to 7.5s or more"
	other.Barred = []api.Barred{{Node: 1, Name: "node1", Why: "recovery_target_time is set"}}
	other.Record.Sync = record.Sync{Mode: record.SyncOn, Sets: []record.Set{"ANY 1 (1 2)", "ANY 1 (2)"}}
	other.Failover = &failover.Prospect{Why: "1 of 3 voters would be left, and 2 have to agree; not heard of: node 2"}
	add("of another, cut off", other)
	paused := told(governed(t))
	paused.Left = nil
	paused.Record.Apply(record.SetPause{On: true, Reason: "\"repmgr service pause\" on node \"node2\" (ID: 2)"}, night, 20)
	paused.Record.Sync.Mode = record.SyncOn
	paused.Failover = &failover.Prospect{Why: "the cluster is paused: ..."}
	add("paused", paused)
	paused.Record.Apply(record.SetPause{}, night, 21)
	add("no longer", paused)
	vacant := told(governed(t))
	vacant.Record.Apply(record.Release{Term: 3, Node: 3, Incarnation: "i3", Seq: 9, Why: "it is gone"}, night, 20)
	add("vacant", vacant)
	add("visibility", &api.Promotion{Rule: record.Visibility, Why: "fewer than three voters: 2 registered", Hint: "A third voter removes the risk."})
	add("no member", &api.Promotion{Rule: record.Quorum, Why: "this node is no member of the group yet, and waits", Broken: "its state could not be saved"})
	golden(t, "promotion.txt", all.String())
	if got := block(nil); got != "" {
		t.Errorf("without a daemon there is %q", got)
	}

	show := newShow(zoo()[:1], false)
	show.Promotion = newPromotion(told(governed(t)))
	golden(t, "show-quorum.txt", render(t, "text", false, show, nil))
	golden(t, "show-quorum.json", render(t, "json", false, show, nil))
	if got := render(t, "csv", false, show, nil); got != "1,0,0\n" {
		t.Errorf("csv: %q", got)
	}
}

// TestPromotionOf takes the local daemon's word before another's, and that of a
// member before that of one who knows less.
func TestPromotionOf(t *testing.T) {
	nodes := []cluster.Node{{ID: 1}, {ID: 2}, {ID: 3}}
	said := []DaemonAnswer{{Promotion: &api.Promotion{Rule: record.Quorum, Why: "one"}}, {}, {Promotion: told(governed(t))}}
	for local, want := range map[cluster.NodeID]string{1: "one", 2: "3 voters", 9: "3 voters", 3: "3 voters"} {
		if p := promotionOf(nodes, said, local); p.Why != want {
			t.Errorf("on node %d: %q, want %q", local, p.Why, want)
		}
	}
	if p := promotionOf(nodes, make([]DaemonAnswer, 3), 1); p != nil {
		t.Errorf("of nobody: %+v", p)
	}
}

// TestExplain prints every kind of decision.
func TestExplain(t *testing.T) {
	explain := func(r *record.Record, term uint64, format string) string {
		x, err := newExplanation(r, term)
		if err != nil {
			return err.Error() + "\n"
		}
		return render(t, format, false, x, nil)
	}
	r := governed(t)
	golden(t, "explain.txt", explain(r, 0, "text"))
	golden(t, "explain.csv", explain(r, 0, "csv"))
	all := explain(r, 2, "text") + "---\n" + explain(r, 1, "text") + "---\n" + explain(r, 7, "text")
	open := r.Clone()
	open.Apply(record.Release{Term: 3, Node: 3, Incarnation: "i3", Seq: 9, Why: "the primary's server is crashed for 0s"}, night.Add(time.Hour), 20)
	open.Apply(record.Bid{Vacancy: 3, Node: 2, Incarnation: "i2", Timeline: 1, LSN: 0x3000300, Line: "1"}, night, 21)
	golden(t, "explain-more.txt", all+"---\n"+explain(open, 0, "text"))
	barred := r.Clone()
	barred.Apply(record.Describe{Node: 2, Name: "node2", Priority: 100, Automatic: true, Barred: "recovery_target_time is set"}, night, 20)
	if text := explain(barred, 0, "text"); !strings.Contains(text, "\nNot eligible now: node2 (ID: 2): recovery_target_time is set.\n") {
		t.Errorf("it is not told who is barred:\n%s", text)
	}
	r.Apply(record.Regrant{Term: 3, Node: 3, Incarnation: "i3", TTL: time.Second, Why: "its server was restarted"}, night.Add(time.Hour), 20)
	if x, err := newExplanation(r, 0); err != nil || x.Term != 3 || x.Steps[len(x.Steps)-1].What != "regrant" {
		t.Errorf("the last grant, and the regrant after it: %+v, %v", x, err)
	}
	if x, err := newExplanation(r, 4); err != nil || x.Node != 3 || len(x.Steps) != 1 {
		t.Errorf("the regrant alone: %+v, %v", x, err)
	}
	if _, err := newExplanation(record.New("g", "", record.Member{Node: 1}), 0); err == nil {
		t.Error("nothing was decided, and it is explained")
	}
}
