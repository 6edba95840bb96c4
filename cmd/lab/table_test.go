package main

import (
	"bytes"
	"errors"
	"testing"
	"time"
)

func TestTheTableShowsWhatIsKnown(t *testing.T) {
	var out bytes.Buffer
	ours := &column{who: who{title: "ours"}, show: []time.Duration{20 * time.Millisecond}, outcomes: map[string][]outcome{"crash": {
		{gap: time.Second, primaries: 1, back: 2 * time.Second},
		{gap: 3 * time.Second, missing: 2, primaries: 1, back: 4 * time.Second},
		{gap: 500 * time.Millisecond, primaries: 2, broken: errors.New("no")},
	}}}
	other := &column{who: who{title: "other"}, outcomes: map[string][]outcome{"partition": {
		{gap: time.Minute, primaries: 1, inside: &insideOutcome{acknowledged: 7, missing: 5, last: 3 * time.Second}},
	}}}
	printTable(&page{out: &out}, []*column{ours, other})
	for _, want := range []string{
		"SIGKILL of every postgres process |  ours |    3 |      1.00 s |  3.00 s | <= 0.5 s |                    0 |    2 |               1 to 2 |          2 of 3 |        3.00 s | 4.00 s\n",
		"partition: primary alone          | other |    1 |     60.00 s | 60.00 s | <= 6.0 s |",
		"other: last acknowledged write after the cut at 3.00 s (median), 3.00 s (worst); 7 acknowledged in all runs, 5 of them missing",
		"cluster show (Patroni: patronictl list): median             | 0.020 s |     - |  <= 0.060 s\n",
	} {
		if !bytes.Contains(out.Bytes(), []byte(want)) {
			t.Errorf("got\n%s\nwant in it\n%s", out.String(), want)
		}
	}
	if bytes.Contains(out.Bytes(), []byte("host gone")) {
		t.Errorf("got a line for a fault that was not made:\n%s", out.String())
	}
}

func TestMissedTargets(t *testing.T) {
	for what, o := range map[string]outcome{
		"slow":          {gap: time.Second, primaries: 1},
		"two primaries": {primaries: 2},
		"not whole":     {primaries: 1, broken: errors.New("no")},
	} {
		if !missed(&column{outcomes: map[string][]outcome{"crash": {o}}}) {
			t.Errorf("%s: got no target missed, want one", what)
		}
	}
	lossy := []outcome{{primaries: 1, missing: 1}}
	if !missed(&column{outcomes: map[string][]outcome{"crash-sync": lossy}}) || missed(&column{outcomes: map[string][]outcome{"crash": lossy}}) {
		t.Error("a lost row: want a missed target in synchronous mode, and none else")
	}
	if missed(&column{outcomes: map[string][]outcome{"crash": {{gap: 500 * time.Millisecond, primaries: 1}}}}) {
		t.Error("a gap of 0.5 s, exactly the target: got missed")
	}
}
