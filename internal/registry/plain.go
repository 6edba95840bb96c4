package registry

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/ops"
	"repmgr/internal/pg"
)

// SurveyPlainWitness looks at the primary that was named, for a witness without
// PostgreSQL. daemonHost is how the other daemons reach this one; empty: by the
// address that this host has towards the primary.
func (w *World) SurveyPlainWitness(ctx context.Context, given pg.Conninfo, daemonHost string) (ops.Survey, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	c, err := w.namedPrimary(ctx, given)
	if err != nil {
		return ops.Survey{}, fault.Wrap(err, fault.BadConfig, "the primary that was named cannot be reached")
	}
	if err := w.records(ctx, c); err != nil {
		return ops.Survey{}, err
	}
	s := w.survey(ops.Server{})
	s.Endpoint.Host = w.daemonHost(c, daemonHost)
	s.Self.Conninfo = cluster.DaemonConninfo(s.Endpoint.Host, s.Endpoint.Port)
	s.Self.ReplUser, s.Self.SlotName = "", ""
	named, err := look(ctx, c, w.cfg.NodeName)
	if err != nil || named.InRecovery {
		return s, err
	}
	for _, n := range w.nodes {
		if n.Role == cluster.Primary && n.Active {
			s.Primary, s.Servers[n.ID] = n.ID, named
			return s, nil
		}
	}
	return s, fault.New(fault.BadConfig, "no active primary is registered").
		WithHint("run \"repmgr primary register\" on the primary's host")
}

// daemonHost is the host by which the other daemons reach the local one: as it
// was given, else the one address on which it listens, else the address of the
// connection to the primary.
func (w *World) daemonHost(c *pg.Conn, given string) string {
	if given != "" {
		return given
	}
	if a := net.ParseIP(w.cfg.DaemonListenAddress); w.cfg.DaemonListenAddress != "" && (a == nil || !a.IsUnspecified()) {
		return w.cfg.DaemonListenAddress
	}
	local, overTCP := c.PgConn().Conn().LocalAddr().(*net.TCPAddr)
	if !overTCP {
		return w.endpoint().Host
	}
	if local.IP.IsLoopback() {
		w.warn(fault.New(fault.BadConfig, "the other daemons are told to reach this one at %s", local.IP).
			WithDetail("the connection to the primary is within this host").
			WithHint("where nodes are on other hosts, give this host's address with --daemon-host"))
	}
	return local.IP.String()
}

// SurveyPlainUnregister is SurveyUnregister for a witness without PostgreSQL.
func (w *World) SurveyPlainUnregister(ctx context.Context, given pg.Conninfo) (ops.Survey, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	c, err := w.namedPrimary(ctx, given)
	if err != nil {
		return ops.Survey{}, err
	}
	if err := w.records(ctx, c); err != nil {
		return ops.Survey{}, err
	}
	s := w.survey(ops.Server{})
	n, conn, err := FindPrimary(ctx, w.nodes)
	if err != nil {
		return s, err
	}
	w.primary.keep(n, conn)
	s.Primary = n.ID
	s.Nodes, err = Nodes(ctx, conn)
	return s, err
}

// clusterFile is the part of a daemon's cluster.json that a witness without
// PostgreSQL gets when it is registered; the rest is the daemon's own.
type clusterFile struct {
	Format      int                         `json:"format"`
	Nodes       []cluster.Node              `json:"nodes"`
	Endpoints   map[cluster.NodeID]Endpoint `json:"endpoints"`
	Certificate string                      `json:"certificate"`
	Key         string                      `json:"private_key"`
}

// introduce writes the cluster's members, addresses and authority into the state
// directory of a witness that has no database for them. A daemon that runs there
// keeps the file itself, and learns from the others what has changed.
func introduce(ctx context.Context, stateDir string, from *pg.Conn) error {
	file := clusterFile{Format: StateFormat}
	var err error
	if file.Nodes, err = Nodes(ctx, from); err != nil {
		return err
	}
	if file.Endpoints, err = Endpoints(ctx, from); err != nil {
		return err
	}
	certificate, key, found, err := Authority(ctx, from)
	if err != nil {
		return err
	}
	if !found {
		return fault.New(fault.BadConfig, "the cluster has no certificate authority").
			WithHint("run \"repmgr primary register --force\" on the primary's host, which makes it")
	}
	file.Certificate, file.Key = string(certificate), string(key)
	for i := range file.Nodes {
		file.Nodes[i].Conninfo = WithoutSecrets(file.Nodes[i].Conninfo)
	}
	return writeClusterFile(stateDir, file)
}

// WithoutSecrets is a conninfo that may leave the database: without passwords and keys. One
// that has none stays as it is written; of one that cannot be taken apart, with which nobody
// can connect, nothing is left.
func WithoutSecrets(conninfo string) string {
	ci, err := pg.ParseConninfo(conninfo)
	switch {
	case err != nil:
		return ""
	case ci.Redacted() == ci.String():
		return conninfo
	}
	return ci.WithoutSecrets().String()
}

func writeClusterFile(stateDir string, file clusterFile) error {
	old, err := ReadState(stateDir)
	if err != nil {
		return err
	}
	var was clusterFile
	if len(old) > 0 && json.Unmarshal(old, &was) == nil && was.Certificate != "" && was.Certificate != file.Certificate {
		return fault.New(fault.BadConfig, "%s belongs to a member of another cluster", stateDir).
			WithHint("give this witness a state_directory of its own; if that cluster is no more, remove the directory")
	}
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return fault.Wrap(err, fault.BadConfig, "the state directory cannot be made")
	}
	lock, err := os.OpenFile(filepath.Join(stateDir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fault.Wrap(err, fault.BadConfig, "the state directory cannot be used")
	}
	defer lock.Close()
	if errors.Is(unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK) {
		return nil // a daemon runs, and is of this cluster
	}
	rest := map[string]json.RawMessage{} // what a daemon remembers of its own stays
	if len(old) > 0 {
		_ = json.Unmarshal(old, &rest) // an object, since its format was read
	}
	text, err := json.Marshal(file)
	if err == nil {
		err = json.Unmarshal(text, &rest)
	}
	if err == nil {
		text, err = json.MarshalIndent(rest, "", "  ")
	}
	if err != nil {
		return fault.Wrap(err, fault.Internal, "write the members")
	}
	if err := host.WriteFileDurable(filepath.Join(stateDir, StateFile), text, 0o600); err != nil {
		return fault.Wrap(err, fault.BadConfig, "the members cannot be written to the state directory")
	}
	return nil
}
