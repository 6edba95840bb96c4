package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Repmgr5 is the C implementation as Debian packages it for a major version of
// PostgreSQL (zero: Major()); an error says that it is not installed.
func Repmgr5(major int) (*Software, error) {
	if major == 0 {
		major = Major()
	}
	dir := fmt.Sprintf("/usr/lib/postgresql/%d/bin", major)
	for _, program := range []string{"repmgr", "repmgrd"} {
		if _, err := os.Stat(filepath.Join(dir, program)); err != nil {
			return nil, fmt.Errorf("find repmgr 5 (install it with scripts/install-postgres --repmgr5): %w", err)
		}
	}
	return &Software{
		Name: "repmgr 5", Bindir: dir, Superuser: true, Commands: true,
		Settings: map[string]string{"shared_preload_libraries": "repmgr"},
	}, nil
}

// Version is what the software calls itself, for example "repmgr 5.3.3".
func (s *Software) Version(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, filepath.Join(s.Bindir, "repmgr"), "--version").Output()
	if err != nil {
		return s.Name
	}
	return strings.TrimSpace(string(out))
}

// OursWithCommands is our own program with promote_command and follow_command
// set, as a configuration file of repmgr 5 has them.
func OursWithCommands() *Software { return &Software{Name: "repmgr", Ours: true, Commands: true} }
