package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// sshd is where Debian and Red Hat have it; it wants to be started by its whole path.
const sshd = "/usr/sbin/sshd"

// ErrNoSSH says that there can be no ssh between nodes: a program is not installed, or the
// user of the lab may not log in.
var ErrNoSSH = errors.New("no ssh between nodes")

// StartSSH lets the user of the lab log in on nodes, by a real sshd on each, all at one
// port. It returns the options of ssh that reach them. Its errors include ErrNoSSH.
func StartSSH(ctx context.Context, port int, nodes ...*Node) (options string, err error) {
	for _, program := range []string{"ssh", "ssh-keygen", "setpriv", sshd} {
		if _, err := exec.LookPath(program); err != nil {
			return "", fmt.Errorf("%w: %w (install it with scripts/install-postgres --barman)", ErrNoSSH, err)
		}
	}
	keys := nodes[0]
	for _, key := range []string{"host_key", "user_key"} {
		if err := keys.Run(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).Err(); err != nil {
			return "", err
		}
	}
	key, err := os.ReadFile(filepath.Join(keys.Dir, "host_key.pub"))
	if err != nil {
		return "", err
	}
	err = errors.Join(keys.WriteFile("known_hosts", "* "+string(key)),
		keys.WriteFile("ssh_config", fmt.Sprintf("Host *\nPort %d\nIdentityFile %s/user_key\nIdentitiesOnly yes\nUserKnownHostsFile %[2]s/known_hosts\nSendEnv PGPASSWORD\n", port, keys.Dir)))
	options = "-q -F " + keys.Dir + "/ssh_config"
	for _, n := range nodes {
		if err == nil {
			err = n.startSSH(ctx, port, keys, options)
		}
	}
	return options, err
}

func (n *Node) startSSH(ctx context.Context, port int, keys *Node, options string) error {
	err := n.WriteFile("sshd_config", fmt.Sprintf("ListenAddress %s\nPort %d\nHostKey %s/host_key\nAuthorizedKeysFile %[3]s/user_key.pub\n"+
		"StrictModes no\nAcceptEnv PGPASSWORD\nUsePAM no\nPasswordAuthentication no\nPidFile none\n", n.Host, port, keys.Dir))
	if err == nil {
		// sshd writes over its environment, by which a lab knows its processes: it ends with a shell.
		err = n.StartService(ctx, "sshd", nil, "sh", "-c", `setpriv --pdeathsig KILL "$@" & wait`, "sh", sshd, "-D", "-e", "-f", n.Dir+"/sshd_config")
	}
	if err != nil {
		return err
	}
	err = Wait(ctx, time.Minute, "a session of ssh", func() error {
		return n.Run(ctx, "ssh", append(strings.Fields(options), "-o", "BatchMode=yes", n.Host, "true")...).Err()
	})
	if err == nil {
		return nil
	}
	log, _ := os.ReadFile(n.ServiceLog("sshd"))
	if strings.Contains(string(log), "shell") && strings.Contains(string(log), "not allowed") {
		return fmt.Errorf("%w: the user of the lab may not log in: %s", ErrNoSSH, log)
	}
	return fmt.Errorf("%w\n%s", err, log)
}
