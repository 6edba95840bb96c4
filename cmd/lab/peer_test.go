package main

import (
	"strings"
	"testing"
)

func TestPeersAreChosenByNumberNameAndProgram(t *testing.T) {
	for names, want := range map[string]string{
		"":                        "ours repmgr5-default repmgr5-fastest patroni-default patroni-fastest",
		"1":                       "ours",
		"5,ours":                  "ours patroni-fastest",
		"repmgr5":                 "repmgr5-default repmgr5-fastest",
		"patroni,repmgr5-fastest": "repmgr5-fastest patroni-default patroni-fastest",
	} {
		all, err := chosen(strings.FieldsFunc(names, func(r rune) bool { return r == ',' }))
		var got []string
		for _, w := range all {
			got = append(got, w.short())
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("chosen %q: got %s (%v), want %s", names, got, err, want)
		}
	}
	if _, err := chosen([]string{"ours", "stolon"}); err == nil || !strings.Contains(err.Error(), `"stolon": who there is, by number, name or program: 1 ours, 2 repmgr5-default`) {
		t.Errorf("a stranger: got %v", err)
	}
}
