package cli

import (
	"testing"
	"time"
)

func TestParseAt(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 30, 15, 0, time.FixedZone("here", 3600))
	for text, want := range map[string]string{
		"13:00": "2026-03-01 13:00:00", "03:30": "2026-03-02 03:30:00", "12:30:16": "2026-03-01 12:30:16",
		"2026-03-05 04:00": "2026-03-05 04:00:00", "2026-03-01 12:31:00": "2026-03-01 12:31:00",
		"2026-03-01T11:31:00Z": "2026-03-01 12:31:00", "+90m": "2026-03-01 14:00:15", "+0s": "2026-03-01 12:30:15",
		"2026-03-01 12:00": "", "soon": "", "25:00": "", "+-1h": "", "": "",
	} {
		at, err := parseAt(text, now)
		if got := at.In(now.Location()).Format("2006-01-02 15:04:05"); (err == nil) != (want != "") || err == nil && got != want {
			t.Errorf("%q: %s, %v, want %q", text, got, err, want)
		}
	}
}
