package cluster

import (
	"strings"
	"testing"
)

func TestStandbyNames(t *testing.T) {
	for _, c := range []struct {
		node string
		term uint64
		want string
		ok   bool
	}{
		{"node1", 7, "node1@7", true},
		{"a@b", 7, "a@b@7", true},
		{"", 7, "@7", false},
		{"nœud", 7, "nœud@7", false}, // PostgreSQL replaces what is not ASCII
		{strings.Repeat("x", 61), 7, strings.Repeat("x", 61) + "@7", true},
		{strings.Repeat("x", 61), 70, strings.Repeat("x", 61) + "@70", false}, // and cuts what is too long
	} {
		got, ok := StandbyName(c.node, c.term)
		if got != c.want || ok != c.ok {
			t.Errorf("%q in term %d: %q, %v", c.node, c.term, got, ok)
		}
		if ok && NodeOfStandby(got) != c.node {
			t.Errorf("%q is of node %q", got, NodeOfStandby(got))
		}
	}
	for name, want := range map[string]string{"node1": "node1", "@7": "@7", "node1@": "node1@", "a@b": "a@b", "node1@7x": "node1@7x"} {
		if got := NodeOfStandby(name); got != want {
			t.Errorf("%q is of node %q, want %q", name, got, want)
		}
	}
}
