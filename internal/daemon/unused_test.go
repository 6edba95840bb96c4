package daemon

import (
	"slices"
	"testing"

	"repmgr/internal/conf"
)

// A parameter that is set and not acted on is told; one that does not exist
// cannot be in the list.
func TestNothingIsIgnoredInSilence(t *testing.T) {
	cfg := conf.Default()
	if got := setInVain(cfg); len(got) > 0 {
		t.Errorf("the defaults are told: %v", got)
	}
	cfg.ChildNodesDisconnectCommand, cfg.AlwaysPromote, cfg.Priority = "/bin/true", true, 7
	if got, want := setInVain(cfg), []string{"always_promote", "child_nodes_disconnect_command"}; !slices.Equal(slices.Sorted(slices.Values(got)), want) {
		t.Errorf("told are %v, want %v", got, want)
	}
	for _, name := range notActedOn {
		if _, ok := conf.Lookup(name); !ok {
			t.Errorf("there is no parameter %q", name)
		}
	}
}
