package sim

import (
	"testing"
	"time"
)

// TestHistory: the judge of the clients' histories knows a bad one when it sees it.
func TestHistory(t *testing.T) {
	at := func(s int) time.Duration { return time.Duration(s) * time.Second }
	write := func(value, call, back int) *access {
		return &access{write: true, value: value, call: at(call), back: at(back)}
	}
	read := func(value, call, back int) *access { return &access{value: value, call: at(call), back: at(back)} }
	for name, c := range map[string]struct {
		history []*access
		good    bool
	}{
		"one after the other":                     {[]*access{write(7, 1, 2), read(7, 3, 4)}, true},
		"an acknowledged write is gone":           {[]*access{write(7, 1, 2), write(8, 3, 4), read(7, 5, 6)}, false},
		"nothing was ever written":                {[]*access{write(7, 1, 2), read(0, 3, 4)}, false},
		"a read beside a write":                   {[]*access{write(7, 1, 2), write(8, 3, 6), read(7, 4, 5)}, true},
		"what is unknown is read, and stays":      {[]*access{write(7, 1, 2), write(8, 3, 0), read(8, 9, 10), read(8, 11, 12)}, true},
		"what is unknown is read, and gone again": {[]*access{write(7, 1, 2), write(8, 3, 0), read(8, 9, 10), read(7, 11, 12)}, false},
		"what is unknown is read by nobody":       {[]*access{write(7, 1, 2), write(8, 3, 0), read(7, 9, 10)}, true},
	} {
		h := &history{all: c.history}
		if violation, n := h.judge(); (violation == "") != c.good || n == 0 {
			t.Errorf("%s: %q, %d operations", name, violation, n)
		}
	}
}
