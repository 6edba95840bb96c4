package verbs

import (
	"context"
	"errors"
	"os/exec"
	"testing"

	"repmgr/internal/lab"
)

// sshHosts is lab.StartSSH, and skips a test where that cannot be.
func sshHosts(t *testing.T, ctx context.Context, port int, nodes ...*lab.Node) (options string) {
	t.Helper()
	options, err := lab.StartSSH(ctx, port, nodes...)
	if errors.Is(err, lab.ErrNoSSH) {
		t.Skipf("SKIPPED, NOT TESTED HERE: %v", err)
	}
	must(t, err)
	return options
}

// needs skips a test where a program is not installed.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("SKIPPED, NOT TESTED HERE: %v (install it with scripts/install-postgres --barman)", err)
		}
	}
}
