package host

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestBootTimeIsTheKernels(t *testing.T) {
	t.Parallel()
	before := BootTime()
	text, err := os.ReadFile("/proc/uptime") // in hundredths of a second, cut off
	check(t, err)
	after := BootTime()
	seconds, err := strconv.ParseFloat(strings.Fields(string(text))[0], 64)
	check(t, err)
	if up := time.Duration(seconds * float64(time.Second)); up < before-20*time.Millisecond || up > after+20*time.Millisecond {
		t.Errorf("the machine is up for %s, by this clock for %s to %s", up, before, after)
	}
}

func TestNowFollowsTheBootTime(t *testing.T) {
	t.Parallel()
	b1, now, b2 := BootTime(), Now(), BootTime()
	if s := SinceBoot(now); s < b1 || s > b2 {
		t.Errorf("%s is not within %s and %s", s, b1, b2)
	}
	if strings.Contains(now.String(), "m=") {
		t.Errorf("%s has a monotonic reading", now)
	}
	later := now.Add(time.Second)
	if SinceBoot(later)-SinceBoot(now) != time.Second || later.Add(-time.Second) != now {
		t.Errorf("%s and %s are not a second apart", now, later)
	}
}
