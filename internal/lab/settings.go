package lab

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// serverSettings are postgresql.conf's for every node: what repmgr asks for, the
// safety of a real server, and a small footprint. A clone copies them.
func (l *Lab) serverSettings() map[string]string {
	settings := map[string]string{
		"wal_level": "replica", "wal_log_hints": "on", "hot_standby": "on",
		"max_wal_senders": "10", "max_replication_slots": "10", "wal_keep_size": "256MB",
		"max_connections": "60", "shared_buffers": "16MB", "jit": "off",
		"fsync": "on", "logging_collector": "off", "log_line_prefix": "%m [%p] ",
		// Each node's own settings, in a file beside its data directory.
		"include_if_exists": "../server.conf",
	}
	if l.options.Unsynced {
		// A checkpoint that nobody hurries is spread over minutes, and a base backup without
		// -c and a rewind from a new primary wait for one.
		settings["fsync"], settings["checkpoint_completion_target"] = "off", "0"
		settings["autovacuum"] = "off" // a process each quarter of a minute and server, for tables of three rows
	}
	if l.options.Auth == TLS {
		settings["ssl"] = "on"
		settings["ssl_ca_file"], settings["ssl_cert_file"], settings["ssl_key_file"] = l.certificate("root"), l.certificate("server"), l.key("server")
	}
	maps.Copy(settings, l.software.Settings)
	maps.Copy(settings, l.options.Settings)
	return settings
}

// hba lets the superuser in through the socket, and each role into its own database.
func (l *Lab) hba() string {
	kind, method := "host", "trust"
	switch l.options.Auth {
	case SCRAM:
		method = "scram-sha-256"
	case TLS:
		kind, method = "hostssl", "cert"
	}
	var b strings.Builder
	b.WriteString("local all postgres trust\n")
	for _, line := range [][2]string{{repmgrRole, repmgrRole}, {"replication", repmgrRole}, {appRole, appRole}} {
		fmt.Fprintf(&b, "%s %s %s all %s\n", kind, line[0], line[1], method)
		if l.options.Auth != TLS { // a certificate is nothing a socket asks for
			fmt.Fprintf(&b, "local %s %s %s\n", line[0], line[1], method)
		}
	}
	return b.String()
}

// assignments writes settings as configuration files have them, in a stable order.
func assignments(settings map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&b, "%s = '%s'\n", name, strings.ReplaceAll(settings[name], "'", "''"))
	}
	return b.String()
}

// writeServerConf writes the settings that a node has for itself alone.
func (n *Node) writeServerConf() error {
	listen := "127.0.0.1"
	if n.lab.network != nil {
		listen = "*"
	}
	settings := map[string]string{"port": fmt.Sprint(n.Port), "listen_addresses": listen, "unix_socket_directories": n.Dir}
	return n.lab.account.write(filepath.Join(n.Dir, "server.conf"), assignments(settings))
}

// Conninfo is how a role reaches this node's database over the network, without
// a password: repmgr.conf's conninfo for the role repmgr.
func (n *Node) Conninfo() string { return n.conninfoFor(repmgrRole) }

func (n *Node) conninfoFor(role string) string {
	return n.lab.conninfo(n.Host, fmt.Sprint(n.Port), role)
}

// conninfo is how a role reaches its database on one of several hosts.
func (l *Lab) conninfo(hosts, ports, role string) string {
	s := fmt.Sprintf("host=%s port=%s user=%s dbname=%[3]s connect_timeout=%d", hosts, ports, role, cmp.Or(l.options.Patient, int(ConnectTimeout.Seconds())))
	if l.options.Auth == TLS {
		s += fmt.Sprintf(" sslmode=verify-full sslrootcert=%s sslcert=%s sslkey=%s",
			l.certificate("root"), l.certificate(role), l.key(role))
	}
	return s
}

// ConfFile is the path of this node's repmgr.conf.
func (n *Node) ConfFile() string { return filepath.Join(n.Dir, "repmgr.conf") }

// StateDir is where this node's daemon, if it is ours, keeps its state, unless an
// addition to repmgr.conf says otherwise.
func (n *Node) StateDir() string {
	if n.Plain {
		return filepath.Join(n.Dir, "state")
	}
	return n.DataDir + ".repmgr"
}

// WriteConf writes repmgr.conf: what the node needs, then the lab's additions,
// then extra; the later wins.
func (n *Node) WriteConf(extra map[string]string) error {
	bindir, err := n.lab.programs()
	if err != nil {
		return err
	}
	settings := map[string]string{
		"node_id": fmt.Sprint(n.ID), "node_name": n.Name, "conninfo": n.Conninfo(), "data_directory": n.DataDir,
		"pg_bindir": n.lab.Bindir, "failover": "automatic", "pg_ctl_options": "-s -l " + n.ServerLog(),
		"repmgrd_pid_file": filepath.Join(n.Dir, "repmgrd.pid"),
	}
	if n.Plain {
		settings = map[string]string{"node_id": fmt.Sprint(n.ID), "node_name": n.Name, "state_directory": n.StateDir()}
	}
	if n.lab.options.Slots {
		settings["use_replication_slots"] = "true"
	}
	if n.lab.software.Ours {
		settings["daemon_port"] = fmt.Sprint(n.DaemonPort)
		if !n.lab.options.Quorum {
			settings["promotion_rule"] = "visibility"
		}
	}
	if n.lab.software.Commands {
		repmgr := filepath.Join(bindir, "repmgr")
		settings["promote_command"] = fmt.Sprintf("%s standby promote -f %s --log-to-file", repmgr, n.ConfFile())
		settings["follow_command"] = fmt.Sprintf("%s standby follow -f %s --log-to-file --upstream-node-id=%%n", repmgr, n.ConfFile())
	}
	maps.Copy(settings, n.additions(extra))
	return n.lab.account.write(n.ConfFile(), assignments(settings))
}

// programs is the folder of the software under test.
func (l *Lab) programs() (string, error) {
	if l.options.Software != nil && l.options.Software.Bindir != "" {
		return l.options.Software.Bindir, nil
	}
	return l.OurPrograms()
}

// OurPrograms is the folder of repmgr and repmgrd of this repository. They are built when
// first asked for, and put into the lab, so that a lab that is kept has its own.
func (l *Lab) OurPrograms() (string, error) {
	l.install.Lock()
	defer l.install.Unlock()
	if l.installed != "" {
		return l.installed, nil
	}
	built, err := Build(l.ctx)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(l.Dir, "bin")
	if err := l.account.mkdir(dir); err != nil {
		return "", err
	}
	for _, program := range []string{"repmgr", "repmgrd"} {
		if err := copyProgram(filepath.Join(built, program), filepath.Join(dir, program)); err != nil {
			return "", fmt.Errorf("put %s into the lab: %w", program, err)
		}
	}
	l.installed = dir
	return dir, nil
}

// copyProgram links where it can, since a program is large and many labs have it.
func copyProgram(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}

// appendFile adds text to a file, which keeps its owner.
func appendFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(text); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
