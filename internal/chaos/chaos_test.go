package chaos

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"repmgr/internal/lab"
	"repmgr/internal/lab/labtest"
)

// TestMain leaves nothing behind, however the run ends.
func TestMain(m *testing.M) { labtest.Main(m) }

// interrupting is a system whose run is interrupted when its failover is paused.
type interrupting struct {
	System
	interrupt context.CancelFunc
}

func (s interrupting) Pause(ctx context.Context, n *lab.Node) error {
	s.interrupt()
	return s.System.Pause(ctx, n)
}

// An interrupt in the midst of faults (seed 16: the primary's cable is cut, and 6 s later failover is paused): what lasts is healed, what was acknowledged until then is
// looked for, and nothing of it is missing. `make chaos` makes as many as one likes.
func TestAnInterruptedRunTellsWhatItFound(t *testing.T) {
	system, err := Find(t.Context(), "repmgr")
	if err != nil {
		t.Fatal(err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	result, err := Run(ctx, Options{
		System: interrupting{System: system, interrupt: interrupt}, Setup: Setup{Nodes: 3, Sync: "strict"},
		Seed: 16, Logs: filepath.Join(t.TempDir(), "logs"), Kinds: []string{"kill-server", "cut", "power", "pause"}, Say: t.Logf,
	})
	if errors.Is(err, lab.ErrNamespaces) {
		t.Skipf("SKIPPED, NOT TESTED HERE: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if result.Failed() {
		t.Errorf("seed %d: a promise was broken, or the cluster did not come back; see above", result.Seed)
	}
	if !result.Interrupted || result.Faults() < 2 || result.Acknowledged == 0 {
		t.Errorf("got an interrupted run: %v, %d faults, %d acknowledged rows; want one with two faults and some rows", result.Interrupted, result.Faults(), result.Acknowledged)
	}
	if n := len(result.Rounds); n > 0 && result.Rounds[n-1].Unfinished {
		t.Log("The cluster was not whole in time: what was acknowledged in the last round was counted and not judged.")
	}
}
