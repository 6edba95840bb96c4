package main

import (
	"bytes"
	"testing"
	"time"
)

func TestTheTableShowsWhatIsKnown(t *testing.T) {
	var out bytes.Buffer
	ours := &column{title: "ours", crash: []time.Duration{time.Second, 3 * time.Second, 500 * time.Millisecond, 600 * time.Millisecond}, crashLost: []int{0, 2, 0}}
	printTable(&page{out: &out}, []*column{ours, {title: "other", host: []time.Duration{time.Minute}}})
	for _, want := range []string{
		"crash of the primary: gap, median       | 0.80 s |       - |   <= 1.00 s\n",
		"crash of the primary: gap, worst        | 3.00 s |       - |   <= 2.00 s\n",
		"crash of the primary: rows lost, median |      0 |       - |            \n",
		"host gone: gap, median                  |      - | 60.00 s |   <= 6.00 s\n",
		"ours 4 and 0; other 0 and 1.",
	} {
		if !bytes.Contains(out.Bytes(), []byte(want)) {
			t.Errorf("got\n%s\nwant in it\n%s", out.String(), want)
		}
	}
	if !missed(ours) {
		t.Error("a worst gap of 3 s: got no target missed, want one")
	}
	if missed(&column{crash: []time.Duration{time.Second}}) {
		t.Error("a gap of 1 s, exactly the target: got missed")
	}
}
