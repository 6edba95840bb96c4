package failover

import (
	"testing"
	"time"
)

// A story is who spoke when, and whether it was listened to.
type spoken struct {
	at    time.Duration
	life  uint64
	born  time.Duration // when it started
	want  Voice
	since time.Duration // how long before it was certainly not said yet; zero: it is fresh
}

func TestLives(t *testing.T) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	for what, c := range map[string]struct {
		connected map[uint64]bool
		story     []spoken
	}{
		"a daemon that was restarted is listened to at once": {nil, []spoken{
			{at: 0, life: 1, want: VoiceHeard}, {at: ms(900), life: 1, want: VoiceHeard},
			{at: ms(1000), life: 2, born: ms(1000), want: VoiceHeard}, {at: ms(2000), life: 2, born: ms(1000), want: VoiceHeard}, {at: ms(9000), life: 2, born: ms(1000), want: VoiceHeard}}},
		"what the former life had on its way changes nothing": {nil, []spoken{
			{at: 0, life: 1, want: VoiceHeard}, {at: ms(1000), life: 2, born: ms(1000), want: VoiceHeard},
			{at: ms(1300), life: 1, want: VoiceWaits, since: ms(1000)},
			{at: ms(1400), life: 2, born: ms(1000), want: VoiceDoubted, since: ms(400)}, {at: ms(3000), life: 2, born: ms(1000), want: VoiceDoubted}}},
		"however late it comes, and however much of it": {map[uint64]bool{1: true}, []spoken{
			{at: 0, life: 1, want: VoiceHeard}, {at: ms(1000), life: 2, born: ms(1000), want: VoiceWaits}, {at: ms(2100), life: 2, born: ms(1000), want: VoiceHeard},
			{at: ms(7000), life: 1, want: VoiceWaits, since: ms(6900)}, {at: ms(7100), life: 2, born: ms(1000), want: VoiceDoubted},
			{at: ms(9000), life: 1, want: VoiceWaits, since: ms(8500)}, {at: ms(9100), life: 2, born: ms(1000), want: VoiceDoubted},
			{at: ms(30000), life: 1, want: VoiceWaits, since: ms(29500)}, {at: ms(41000), life: 2, born: ms(1000), want: VoiceHeard}}},
		"also where nothing of it had been heard before": {nil, []spoken{
			{at: ms(2000), life: 2, born: ms(1000), want: VoiceHeard}, {at: ms(14000), life: 1, want: VoiceWaits, since: ms(13500)},
			{at: ms(14100), life: 2, born: ms(1000), want: VoiceDoubted}}},
		"or where it is what is heard first": {nil, []spoken{
			{at: ms(5000), life: 1, want: VoiceHeard, since: ms(4500)}, {at: ms(5100), life: 2, born: ms(1000), want: VoiceWaits, since: ms(3900)},
			{at: ms(5600), life: 2, born: ms(1000), want: VoiceHeard}}},
		"while the former one's connection lives it has to end first": {map[uint64]bool{1: true}, []spoken{
			{at: 0, life: 1, want: VoiceHeard}, {at: ms(500), life: 2, born: ms(500), want: VoiceWaits}, {at: ms(1900), life: 2, born: ms(500), want: VoiceWaits},
			{at: ms(2100), life: 2, born: ms(500), want: VoiceHeard}, {at: ms(9000), life: 2, born: ms(500), want: VoiceHeard}}},
		"of two at one time the younger is refused": {map[uint64]bool{1: true, 2: true}, []spoken{
			{at: 0, life: 1, want: VoiceHeard}, {at: ms(4500), life: 1, want: VoiceHeard}, {at: ms(5000), life: 2, born: ms(4900), want: VoiceWaits}, {at: ms(5500), life: 1, want: VoiceDoubted},
			{at: ms(6100), life: 2, born: ms(4900), want: VoiceWaits}, {at: ms(6500), life: 1, want: VoiceDoubted}, {at: ms(6600), life: 2, born: ms(4900), want: VoiceRefused},
			{at: ms(9000), life: 1, want: VoiceDoubted}, {at: ms(9100), life: 2, born: ms(4900), want: VoiceRefused}}},
		"also where it was listened to for a moment": {nil, []spoken{
			{at: 0, life: 1, want: VoiceHeard}, {at: ms(5000), life: 2, born: ms(4900), want: VoiceHeard}, {at: ms(5500), life: 1, want: VoiceWaits},
			{at: ms(6200), life: 2, born: ms(4900), want: VoiceDoubted}, {at: ms(6300), life: 1, want: VoiceDoubted}, {at: ms(6400), life: 2, born: ms(4900), want: VoiceRefused},
			{at: ms(7400), life: 1, want: VoiceDoubted}}},
		"also by who heard of it first": {nil, []spoken{
			{at: ms(5000), life: 2, born: ms(4900), want: VoiceHeard}, {at: ms(5100), life: 1, want: VoiceHeard}, {at: ms(6200), life: 2, born: ms(4900), want: VoiceWaits},
			{at: ms(6300), life: 1, want: VoiceDoubted}, {at: ms(6400), life: 2, born: ms(4900), want: VoiceRefused}}},
		"only when both have shown that they still run": {nil, []spoken{
			{at: ms(5000), life: 2, born: ms(4900), want: VoiceHeard}, {at: ms(5100), life: 1, want: VoiceWaits, since: ms(5000)}, {at: ms(6200), life: 2, born: ms(4900), want: VoiceDoubted, since: ms(1200)},
			{at: ms(6300), life: 1, want: VoiceDoubted}, {at: ms(7300), life: 2, born: ms(4900), want: VoiceRefused}}},
		"who is the elder is known from what came soonest": {nil, []spoken{
			{at: ms(6000), life: 1, born: ms(5000), want: VoiceHeard, since: ms(5500)}, {at: ms(6100), life: 1, want: VoiceHeard}, {at: ms(6200), life: 2, born: ms(4900), want: VoiceHeard},
			{at: ms(7300), life: 1, want: VoiceWaits}, {at: ms(7400), life: 2, born: ms(4900), want: VoiceRefused}}},
		"and is listened to when the elder has ended": {nil, []spoken{
			{at: 0, life: 1, want: VoiceHeard}, {at: ms(500), life: 2, born: ms(400), want: VoiceHeard}, {at: ms(1600), life: 1, want: VoiceWaits}, {at: ms(1700), life: 2, born: ms(400), want: VoiceRefused},
			{at: ms(11700), life: 2, born: ms(400), want: VoiceHeard}, {at: ms(13000), life: 2, born: ms(400), want: VoiceHeard}}},
	} {
		l, start := &Lives{}, time.Unix(1000, 0)
		for i, s := range c.story {
			now := start.Add(s.at)
			w := Word{Life: s.life, Age: s.at - s.born, Since: now.Add(-s.since)}
			if got := l.Hear(7, w, func(id uint64) bool { return c.connected[id] }, now); got != s.want {
				t.Errorf("%s: step %d, life %d at %v: %v, want %v", what, i, s.life, s.at, got, s.want)
			}
			if (s.want <= VoiceDoubted) != l.Speaks(7, s.life) {
				t.Errorf("%s: step %d: life %d speaks for the node: %v", what, i, s.life, l.Speaks(7, s.life))
			}
		}
		if l.Speaks(8, 1) {
			t.Error("nobody was heard of node 8")
		}
	}
}
