package raftstore

import (
	"strings"
	"testing"

	"repmgr/internal/fault"
)

func TestSettle(t *testing.T) {
	here := Home{Machine: "m1", File: "born 1"}
	for _, c := range []struct {
		what  string
		there Home
		taken bool
	}{
		{"the same", here, true},
		{"a copy", Home{Machine: "m1", File: "born 2"}, false},
		{"the same disk in another machine, or a clone of the whole", Home{Machine: "m2", File: "born 1"}, false},
		{"a machine that has lost its name", Home{File: "born 1"}, true},
		{"a copy in a container", Home{File: "born 2"}, false},
	} {
		dir := t.TempDir()
		s := open(t, dir)
		if err := s.Settle(here); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, dir)
		err := s.Settle(c.there)
		if (err == nil) != c.taken {
			t.Errorf("%s: %v", c.what, err)
		}
		if err == nil {
			continue
		}
		if fault.CodeOf(err) != fault.BadConfig || !strings.Contains(detail(err), c.there.File) {
			t.Errorf("%s: %v (%s)", c.what, err, detail(err))
		}
		if err := s.Reset(); err != nil {
			t.Fatal(err)
		}
		if err := s.Settle(c.there); err != nil {
			t.Errorf("%s, after a reset: %v", c.what, err)
		}
	}
}
