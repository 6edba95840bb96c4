package ops

import (
	"strings"
	"testing"
	"time"
)

func TestHandOverOrderOnACommandLine(t *testing.T) {
	for _, o := range []HandOverOrder{
		{HandOverID{7, "9f3c81d04be2a716"}, 2, 123456 * time.Millisecond},
		{HandOverID{1, "a"}, 1, time.Millisecond},
	} {
		if got, err := ParseHandOverOrder(o.String()); err != nil || got != o {
			t.Errorf("%s: %+v, %v", o, got, err)
		}
	}
	for _, bad := range []string{"", "7", "7-a", "7.1", "7-.1@5", "0-a.1@5", "7-a.0@5", "7-a.x@5", "7-a.1", "7-a.1@", "7-a@5", "7-a.1@-5", "x-a.1@5"} {
		if o, err := ParseHandOverOrder(bad); err == nil {
			t.Errorf("%q is taken for %+v", bad, o)
		}
	}
}

func TestHandOverOrders(t *testing.T) {
	a, b, next := HandOverID{3, "a"}, HandOverID{3, "b"}, HandOverID{4, "c"}
	stopped := HandOver{HandOverID: a, Number: 1, Begun: true}
	for name, tt := range map[string]struct {
		was  HandOver
		o    HandOverOrder
		says string // empty: it is taken up
	}{
		"the first there is":         {HandOver{}, HandOverOrder{HandOverID{1, "a"}, 1, time.Minute}, ""},
		"the next switchover":        {stopped, HandOverOrder{next, 1, time.Minute}, ""},
		"its next order":             {stopped, HandOverOrder{a, 2, time.Minute}, ""},
		"an operator's":              {stopped, stopped.ByHand(), ""},
		"an operator's too early":    {HandOver{HandOverID: a, Number: 2, Begun: true, Confirmed: time.Minute - PromotedWithin/2}, HandOverOrder{a, 3, 0}, "about to promote"},
		"its own in that time":       {HandOver{HandOverID: a, Number: 2, Begun: true, Confirmed: time.Minute - PromotedWithin/2}, HandOverOrder{a, 3, time.Minute}, ""},
		"an operator's in time":      {HandOver{HandOverID: a, Number: 2, Begun: true, Confirmed: time.Minute - PromotedWithin}, HandOverOrder{a, 3, 0}, ""},
		"an operator's after a boot": {HandOver{HandOverID: a, Number: 2, Begun: true, Confirmed: time.Hour}, HandOverOrder{a, 3, 0}, ""},
		"too late":                   {stopped, HandOverOrder{a, 2, time.Second}, "59s too late"},
		"the same twice":             {stopped, HandOverOrder{a, 1, time.Hour}, "came after its order 1"},
		"a stop after its take-back": {HandOver{HandOverID: a, Number: 2}, HandOverOrder{a, 1, time.Hour}, "came after its order 2"},
		"begun at the same time":     {stopped, HandOverOrder{b, 2, time.Hour}, "another switchover"},
		"long over":                  {HandOver{HandOverID: next}, HandOverOrder{a, 9, 0}, "another switchover"},
		"that skips one":             {HandOver{}, HandOverOrder{a, 1, 0}, "another switchover"},
	} {
		now, err := tt.was.Take(tt.o, time.Minute)
		switch {
		case tt.says == "" && (err != nil || now.HandOverID != tt.o.HandOverID || now.Number != tt.o.Number):
			t.Errorf("%s: %+v, %v", name, now, err)
		case tt.says == "" && now.Begun != (tt.was.Begun && tt.was.HandOverID == tt.o.HandOverID):
			t.Errorf("%s: another's stop is taken for its own: %+v", name, now)
		case tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says) || now != tt.was):
			t.Errorf("%s: %+v, %v, want %q", name, now, err, tt.says)
		}
	}
}
