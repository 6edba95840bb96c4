package lab

import (
	"testing"
	"time"
)

// TestRepmgr5FailsOver proves the lab with software that is known to work: a
// cluster brought up by its commands heals after its primary was killed.
func TestRepmgr5FailsOver(t *testing.T) {
	t.Parallel()
	software, err := Repmgr5(0)
	if err != nil {
		t.Skipf("SKIPPED, NOT TESTED HERE: %v", err)
	}
	l, ctx := open(t, Options{Software: software, Unsynced: true, Conf: map[string]string{
		"reconnect_attempts": "1", "reconnect_interval": "1", "monitor_interval_secs": "1",
	}})
	must(t, l.BringUp(ctx))
	c, err := l.NewClient(ctx)
	must(t, err)
	defer c.Close()
	n1 := l.Node(1)
	must(t, l.DaemonsWatch(ctx))
	c.Mark()
	must(t, n1.Kill9(ctx))
	must(t, Wait(ctx, 60*time.Second, "a new primary", func() error { return c.Recovered(n1) }))
	t.Logf("gap: %s", c.Gap().Round(time.Millisecond))
}
