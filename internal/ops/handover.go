package ops

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
)

// HandOverID names one switchover by ssh on the host of the primary that is handed over. Serial
// is one more than that of the last one which that host knew when it was asked, and Nonce tells
// two apart that asked at the same time.
type HandOverID struct {
	Serial uint64 `json:"serial"`
	Nonce  string `json:"nonce"`
}

// HandOverOrder is an order of a switchover by ssh to that host.
type HandOverOrder struct {
	HandOverID
	Number int           // grows with each order of a switchover; the stop is the first
	Before time.Duration // of the host's CLOCK_BOOTTIME: later it is not begun; zero: an operator gives it, now
}

// String is the order as a command line carries it: SERIAL-NONCE.NUMBER@BEFORE, the last in milliseconds.
func (o HandOverOrder) String() string {
	return fmt.Sprintf("%d-%s.%d@%d", o.Serial, o.Nonce, o.Number, o.Before.Milliseconds())
}

// ParseHandOverOrder reads what String has made. An order without a number, or without an end
// of its time, is none.
func ParseHandOverOrder(text string) (o HandOverOrder, err error) {
	bad := fmt.Errorf("takes an order as SERIAL-NONCE.NUMBER@MILLISECONDS, found %q", text)
	rest, before, _ := strings.Cut(text, "@")
	id, number, numbered := strings.Cut(rest, ".")
	serial, nonce, named := strings.Cut(id, "-")
	if !numbered || !named || nonce == "" {
		return o, bad
	}
	o.Nonce = nonce
	if o.Serial, err = strconv.ParseUint(serial, 10, 64); err != nil || o.Serial == 0 {
		return o, bad
	}
	if o.Number, err = strconv.Atoi(number); err != nil || o.Number < 1 {
		return o, bad
	}
	ms, err := strconv.ParseInt(before, 10, 64)
	if err != nil || ms < 1 {
		return o, bad
	}
	o.Before = time.Duration(ms) * time.Millisecond
	return o, nil
}

// HandOver is what the host remembers of the last switchover by ssh that it has heard of.
type HandOver struct {
	HandOverID
	Number    int           `json:"number"`       // of the last order that was taken up
	Begun     bool          `json:"begun"`        // the server was stopped for it, or is being, and that was not taken back
	End       cluster.LSN   `json:"end"`          // where the server's WAL ends; zero: it is not known to have stopped
	Confirmed time.Duration `json:"confirmed_ns"` // when it was told that it may promote, by CLOCK_BOOTTIME; zero: it was not
}

// PromotedWithin is how long after its question whether it may promote a switchover orders that,
// at most. An operator takes nothing back in that time.
const PromotedWithin = 30 * time.Second

// Take is what is remembered once an order is taken up, at a time of the host's CLOCK_BOOTTIME.
// An error says why it is not: it comes late, or another switchover has begun since.
func (h HandOver) Take(o HandOverOrder, now time.Duration) (HandOver, error) {
	late := func(format string, args ...any) (HandOver, error) {
		return h, fault.New(fault.SwitchoverFail, format, args...).WithDetail("It is order %s.", o)
	}
	switch {
	case o.Before != 0 && now > o.Before:
		return late("an order of a switchover came %s too late", (now - o.Before).Round(time.Millisecond))
	case o.HandOverID == h.HandOverID && o.Number <= h.Number:
		return late("an order of a switchover came after its order %d, and counts no more", h.Number)
	case o.HandOverID != h.HandOverID && o.Serial != h.Serial+1:
		return late("an order of a switchover came after another switchover has begun here (number %d)", h.Serial)
	case o.Before == 0 && h.Confirmed != 0 && now >= h.Confirmed && now < h.Confirmed+PromotedWithin:
		return late("the switchover may be about to promote the other server: try again in %s", PromotedWithin)
	case o.HandOverID != h.HandOverID:
		h = HandOver{HandOverID: o.HandOverID}
	}
	h.Number = o.Number
	return h, nil
}

// ByHand is the order by which an operator takes a stop back.
func (h HandOver) ByHand() HandOverOrder {
	return HandOverOrder{HandOverID: h.HandOverID, Number: h.Number + 1}
}
