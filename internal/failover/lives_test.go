package failover

import (
	"testing"
	"time"
)

// A story is who spoke when, and whether it was listened to.
type spoken struct {
	at   time.Duration
	life uint64
	born time.Duration // when it started
	want Voice
}

func TestLives(t *testing.T) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	for what, c := range map[string]struct {
		connected map[uint64]bool
		story     []spoken
	}{
		"a daemon that was restarted is listened to at once": {nil, []spoken{
			{0, 1, 0, VoiceHeard}, {ms(900), 1, 0, VoiceHeard}, {ms(1000), 2, ms(1000), VoiceHeard}, {ms(2000), 2, ms(1000), VoiceHeard}, {ms(9000), 2, ms(1000), VoiceHeard}}},
		"what the former life had on its way changes nothing": {nil, []spoken{
			{0, 1, 0, VoiceHeard}, {ms(1000), 2, ms(1000), VoiceHeard}, {ms(1300), 1, 0, VoiceWaits}, {ms(1400), 2, ms(1000), VoiceHeard}, {ms(3000), 2, ms(1000), VoiceHeard}}},
		"while the former one's connection lives it has to end first": {map[uint64]bool{1: true}, []spoken{
			{0, 1, 0, VoiceHeard}, {ms(500), 2, ms(500), VoiceWaits}, {ms(1900), 2, ms(500), VoiceWaits}, {ms(2100), 2, ms(500), VoiceHeard}, {ms(9000), 2, ms(500), VoiceHeard}}},
		"of two at one time the younger is refused": {map[uint64]bool{1: true, 2: true}, []spoken{
			{0, 1, 0, VoiceHeard}, {ms(4500), 1, 0, VoiceHeard}, {ms(5000), 2, ms(4900), VoiceWaits}, {ms(5500), 1, 0, VoiceHeard}, {ms(6100), 2, ms(4900), VoiceWaits}, {ms(6500), 1, 0, VoiceHeard}, {ms(6600), 2, ms(4900), VoiceRefused}, {ms(9000), 1, 0, VoiceHeard}, {ms(9100), 2, ms(4900), VoiceRefused}}},
		"also where it was listened to for a moment": {nil, []spoken{
			{0, 1, 0, VoiceHeard}, {ms(5000), 2, ms(4900), VoiceHeard}, {ms(5500), 1, 0, VoiceWaits}, {ms(6200), 2, ms(4900), VoiceHeard}, {ms(6300), 1, 0, VoiceHeard}, {ms(6400), 2, ms(4900), VoiceRefused}, {ms(7400), 1, 0, VoiceHeard}}},
		"also by who heard of it first": {nil, []spoken{
			{ms(5000), 2, ms(4900), VoiceHeard}, {ms(5100), 1, 0, VoiceHeard}, {ms(6200), 2, ms(4900), VoiceWaits}, {ms(6300), 1, 0, VoiceHeard}, {ms(6400), 2, ms(4900), VoiceRefused}}},
		"and is listened to when the elder has ended": {nil, []spoken{
			{0, 1, 0, VoiceHeard}, {ms(500), 2, ms(400), VoiceHeard}, {ms(1600), 1, 0, VoiceWaits}, {ms(1700), 2, ms(400), VoiceRefused}, {ms(11700), 2, ms(400), VoiceHeard}, {ms(13000), 2, ms(400), VoiceHeard}}},
	} {
		l, start := &Lives{}, time.Unix(1000, 0)
		for i, s := range c.story {
			now := start.Add(s.at)
			if got := l.Hear(7, s.life, s.at-s.born, func(id uint64) bool { return c.connected[id] }, now); got != s.want {
				t.Errorf("%s: step %d, life %d at %v: %v, want %v", what, i, s.life, s.at, got, s.want)
			}
			if (s.want == VoiceHeard) != l.Speaks(7, s.life) {
				t.Errorf("%s: step %d: life %d speaks for the node: %v", what, i, s.life, l.Speaks(7, s.life))
			}
		}
		if l.Speaks(8, 1) {
			t.Error("nobody was heard of node 8")
		}
	}
}
