package failover

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"repmgr/internal/cluster"
)

// TestChildren plays looks at children: one word each, "s2+" is standby 2
// attached, "w4-" witness 4 away, "." nothing but time. Looks are 10 s apart.
// Expected are the events, short, and "run".
func TestChildren(t *testing.T) {
	short := map[string]string{"child_node_disconnect": "gone", "child_node_reconnect": "back", "child_node_new_connect": "new"}
	cmd := func(p ChildPolicy) ChildPolicy { p.Command, p.Timeout = true, 30*time.Second; return p }
	for name, c := range map[string]struct {
		policy ChildPolicy
		looks  []string
		want   []string // what each look brings
	}{
		"the first look finds what has long been so": {ChildPolicy{}, []string{"s2+ s3-", "s2+ s3-"}, []string{"", ""}},
		"gone and back":                      {ChildPolicy{}, []string{"s2+", "s2-", "s2-", "s2+"}, []string{"", "gone2", "", "back2"}},
		"never seen attached, then attached": {ChildPolicy{}, []string{"s2-", "s2+"}, []string{"", "new2"}},
		"a new record is told, and its connection": {ChildPolicy{}, []string{"s2+", "s2+ s3-", "s2+ s3+"},
			[]string{"", "new3", "new3"}},
		"a new record that is attached is told once": {ChildPolicy{}, []string{"s2+", "s2+ s3+", "s2+ s3+"}, []string{"", "new3", ""}},
		"a record that is gone is forgotten":         {ChildPolicy{}, []string{"s2+ s3+", "s3+", "s2- s3+"}, []string{"", "", "new2"}},
		"no command without one": {ChildPolicy{Timeout: 30 * time.Second},
			[]string{"s2+", "s2-", "s2-", "s2-", "s2-"}, []string{"", "gone2", "", "", ""}},
		"none is attached for long enough, once": {cmd(ChildPolicy{}),
			[]string{"s2+", "s2-", "s2-", "s2-", "s2-", "s2-"}, []string{"", "gone2", "", "", "run", ""}},
		"armed again after enough were attached": {cmd(ChildPolicy{}),
			[]string{"s2+", "s2-", "s2-", "s2-", "s2-", "s2+", "s2-", "s2-", "s2-", "s2-"},
			[]string{"", "gone2", "", "", "run", "back2", "gone2", "", "", "run"}},
		"one is enough by default": {cmd(ChildPolicy{}),
			[]string{"s2+ s3+", "s2- s3+", "s2- s3+", "s2- s3+", "s2- s3+"}, []string{"", "gone2", "", "", ""}},
		"fewer than connected_min_count": {cmd(ChildPolicy{ConnectedMin: 2, DisconnectMin: 2}),
			[]string{"s2+ s3+", "s2- s3+", "s2- s3+", "s2- s3+", "s2- s3+"}, []string{"", "gone2", "", "", "run"}},
		"disconnect_min_count are away": {cmd(ChildPolicy{DisconnectMin: 1}),
			[]string{"s2+ s3+", "s2- s3+", "s2- s3+", "s2- s3+", "s2- s3+"}, []string{"", "gone2", "", "", "run"}},
		"more than there are cannot be away": {cmd(ChildPolicy{DisconnectMin: 3}),
			[]string{"s2+ s3+", "s2- s3-", "s2- s3-", "s2- s3-", "s2- s3-"}, []string{"", "gone2 gone3", "", "", ""}},
		"every one must have been away long enough": {cmd(ChildPolicy{ConnectedMin: 2}),
			[]string{"s2+ s3+", "s2- s3+", "s2- s3+", "s2- s3-", "s2- s3-", "s2- s3-", "s2- s3-"}, []string{"", "gone2", "", "gone3", "", "", "run"}},
		"who was never attached is not away": {cmd(ChildPolicy{}), []string{"s2-", "s2-", "s2-", "s2-", "s2-"}, []string{"", "", "", "", ""}},
		"a witness does not count": {cmd(ChildPolicy{}),
			[]string{"s2+ w4+", "s2- w4+", "s2- w4+", "s2- w4+", "s2- w4+"}, []string{"", "gone2", "", "", "run"}},
		"a witness counts where it is asked for": {cmd(ChildPolicy{IncludeWitness: true}),
			[]string{"s2+ w4+", "s2- w4+", "s2- w4+", "s2- w4+", "s2- w4+"}, []string{"", "gone2", "", "", ""}},
		"a pause holds the command back": {cmd(ChildPolicy{Paused: true}),
			[]string{"s2+", "s2-", "s2-", "s2-", "s2-"}, []string{"", "gone2", "", "", ""}},
		"no children": {cmd(ChildPolicy{}), []string{"", "", ""}, []string{"", "", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			var kids Children
			for i, look := range c.looks {
				events, run, why := kids.Look(parseChildren(look), c.policy, t0.Add(time.Duration(i)*10*time.Second))
				var got []string
				for _, e := range events {
					got = append(got, fmt.Sprintf("%s%d", short[e.Name], e.About.ID))
				}
				if run {
					got = append(got, "run")
				}
				if strings.Join(got, " ") != c.want[i] {
					t.Errorf("look %d (%s) brought %v, want %q", i, look, got, c.want[i])
				}
				if run != (why != "") {
					t.Errorf("run is %v because of %q", run, why)
				}
			}
		})
	}
}

func parseChildren(look string) []ChildSeen {
	var out []ChildSeen
	for _, w := range strings.Fields(look) {
		role := map[byte]cluster.Role{'s': cluster.Standby, 'w': cluster.Witness}[w[0]]
		id := cluster.NodeID(w[1] - '0')
		out = append(out, ChildSeen{Node: cluster.Node{ID: id, Name: "n" + w[1:2], Role: role}, Attached: w[2] == '+'})
	}
	return out
}

// TestChildEvents says what is told of a child.
func TestChildEvents(t *testing.T) {
	var kids Children
	var got []string
	for i, look := range []string{"s2+", "s2-", "s2+", "s2+ w3-", "s2+ w3+"} {
		events, _, _ := kids.Look(parseChildren(look), ChildPolicy{}, t0.Add(time.Duration(i)*7*time.Second))
		for _, e := range events {
			got = append(got, e.Name+": "+e.Details)
		}
	}
	want := []string{
		`child_node_disconnect: standby node "n2" (ID: 2) has disconnected`,
		`child_node_reconnect: standby node "n2" (ID: 2) has reconnected after 7 seconds`,
		`child_node_new_connect: witness node "n3" (ID: 3) is new and has not connected yet`,
		`child_node_new_connect: witness node "n3" (ID: 3) has connected`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("told was\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestChildrenOf lists who follows this node, and takes a witness's daemon at its word.
func TestChildrenOf(t *testing.T) {
	v := New(1, Policy{MonitorInterval: time.Second})
	v.Observe(NodesRead{[]cluster.Node{{ID: 1, Role: cluster.Primary}, {ID: 2, Role: cluster.Standby, Upstream: 1}, {ID: 3, Role: cluster.Standby, Upstream: 2},
		{ID: 4, Role: cluster.Witness, Upstream: 1}, {ID: 5, Role: cluster.Witness, Upstream: 1}}}, t0)
	v.Observe(PeerReported{Report: Report{Node: 4, Server: ServerRunning, Upstream: 1}}, t0)
	var got []string
	for _, at := range []time.Duration{0, time.Minute} {
		for _, c := range ChildrenOf(v, t0.Add(at)) {
			got = append(got, fmt.Sprint(c.Node.ID, c.Attached))
		}
	}
	if want := []string{"2 false", "4 true", "5 false", "2 false", "4 false", "5 false"}; !slices.Equal(got, want) {
		t.Errorf("children are %v, want %v", got, want)
	}
}
