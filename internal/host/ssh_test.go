package host

import (
	"fmt"
	"slices"
	"testing"
)

func TestSSHSaysWhyItFails(t *testing.T) {
	s := SSH{Host: "barman@backup", Options: []string{"-q", "-p", "22"}}
	c := s.Command("true")
	if slices.Contains(c.Args, "-q") || !slices.Contains(c.Args, "BatchMode=yes") {
		t.Errorf("got %q", c.Args)
	}
	if end := c.Args[len(c.Args)-3:]; !slices.Equal(end, []string{"--", "barman@backup", "true"}) {
		t.Errorf("it ends in %q", end)
	}
}

func TestWordsForRsync(t *testing.T) {
	if got, want := rsyncWords([]string{"ssh", "-i", `a "b' c`, ""}), `ssh -i "a ""b' c" ""`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestProgressOfRsync(t *testing.T) {
	var seen []int64
	p := &rsyncProgress{report: func(done int64) { seen = append(seen, done) }}
	for _, piece := range []string{"receiving file list ...\n\r      32", "768   0%    0.00kB/s\r  1000000  45%    1.20MB/s    0:00:10 (xfr#5, to-chk=10/200)\r", "\n17 files\n"} {
		fmt.Fprint(p, piece)
	}
	if !slices.Equal(seen, []int64{32768, 1000000}) {
		t.Errorf("got %v", seen)
	}
}
