package verbs

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"repmgr/internal/lab"
)

// sshd is where Debian and Red Hat have it; it wants to be started by its whole path.
const sshd = "/usr/sbin/sshd"

// sshHosts lets the user of the lab log in on nodes, by a real sshd on each, all at one port.
// It returns the options of ssh that reach them.
func sshHosts(t *testing.T, ctx context.Context, port int, nodes ...*lab.Node) (options string) {
	t.Helper()
	needs(t, "ssh", "ssh-keygen", "setpriv", sshd)
	keys := nodes[0]
	for _, key := range []string{"host_key", "user_key"} {
		must(t, keys.Run(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).Err())
	}
	key, err := os.ReadFile(filepath.Join(keys.Dir, "host_key.pub"))
	must(t, err)
	must(t, keys.WriteFile("known_hosts", "* "+string(key)))
	must(t, keys.WriteFile("ssh_config", fmt.Sprintf("Host *\nPort %d\nIdentityFile %s/user_key\nIdentitiesOnly yes\nUserKnownHostsFile %[2]s/known_hosts\nSendEnv PGPASSWORD\n", port, keys.Dir)))
	options = "-q -F " + keys.Dir + "/ssh_config"
	for _, n := range nodes {
		must(t, n.WriteFile("sshd_config", fmt.Sprintf("ListenAddress %s\nPort %d\nHostKey %s/host_key\nAuthorizedKeysFile %[3]s/user_key.pub\n"+
			"StrictModes no\nAcceptEnv PGPASSWORD\nUsePAM no\nPasswordAuthentication no\nPidFile none\n", n.Host, port, keys.Dir)))
		// sshd writes over its environment, by which a lab knows its processes: it ends with a shell.
		must(t, n.StartService(ctx, "sshd", nil, "sh", "-c", `setpriv --pdeathsig KILL "$@" & wait`, "sh", sshd, "-D", "-e", "-f", n.Dir+"/sshd_config"))
		if err := lab.Wait(ctx, time.Minute, "a session of ssh", func() error {
			return n.Run(ctx, "ssh", append(strings.Fields(options), "-o", "BatchMode=yes", n.Host, "true")...).Err()
		}); err != nil {
			log, _ := os.ReadFile(n.ServiceLog("sshd"))
			if strings.Contains(string(log), "shell") && strings.Contains(string(log), "not allowed") {
				t.Skipf("SKIPPED, NOT TESTED HERE: the user of the lab may not log in: %s", log)
			}
			t.Fatalf("%v\n%s", err, log)
		}
	}
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
