package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Patroni makes and serves a cluster of Patroni with an etcd member on each node,
// as Debian packages them. There is no /dev/watchdog in a lab: Patroni runs without.
type Patroni struct {
	name    string
	program string
	control string // patronictl
	etcd    string
}

// The services of a node, by the names that Node's methods know them by.
const (
	EtcdService    = "etcd"
	PatroniService = "patroni"
)

// The ports of a node, each in a network of its own.
const (
	etcdPort     = 2379
	etcdPeerPort = 2380
	patroniPort  = 8008
)

// FindPatroni looks for the programs; an error says that they are not installed.
func FindPatroni(ctx context.Context) (*Patroni, error) {
	p := &Patroni{}
	for _, program := range []struct {
		name string
		path *string
	}{{"patroni", &p.program}, {"patronictl", &p.control}, {"etcd", &p.etcd}} {
		path, err := exec.LookPath(program.name)
		if err != nil {
			return nil, fmt.Errorf("find Patroni (install it with scripts/install-postgres --patroni): %w", err)
		}
		*program.path = path
	}
	var names []string
	for _, path := range []string{p.program, p.etcd} {
		out, err := exec.CommandContext(ctx, path, "--version").Output()
		if err != nil {
			return nil, fmt.Errorf("ask %s for its version: %w", path, err)
		}
		line, _, _ := strings.Cut(string(out), "\n")
		names = append(names, strings.Replace(line, " Version: ", " ", 1))
	}
	p.name = strings.Join(names, " with ")
	return p, nil
}

// Name is what the programs call themselves, for example "patroni 3.0.2 with etcd 3.4.23".
func (p *Patroni) Name() string { return p.name }

// Programs are the services of a node, in the order of their start; the last is
// the one that decides.
func (p *Patroni) Programs() []string { return []string{EtcdService, PatroniService} }

// Patience is how long a cluster may take to become whole by itself: a lease of
// 30 s, and a loop of 10 s, come before each change.
func (p *Patroni) Patience() time.Duration { return 5 * time.Minute }

// Up makes a whole cluster with the roles and databases of a lab. Of the options,
// Nodes and Settings count. The cluster has Patroni's default settings (ttl 30,
// loop_wait 10, retry_timeout 10) but for those in dynamic, by Patroni's names.
func (p *Patroni) Up(ctx context.Context, options Options, dynamic map[string]any) (*Lab, error) {
	options.Namespaces, options.Software = true, &Software{Name: "patroni"}
	l, err := New(options)
	if err != nil {
		return nil, err
	}
	if err := p.bringUp(ctx, l, dynamic); err != nil {
		return nil, errors.Join(fmt.Errorf("%w\n%s", err, l.Logs()), l.Close())
	}
	return l, nil
}

func (p *Patroni) bringUp(ctx context.Context, l *Lab, dynamic map[string]any) error {
	for _, n := range l.Nodes {
		if err := n.WriteFile("patroni.json", p.configuration(n, dynamic)); err != nil {
			return err
		}
		if err := n.WriteFile("pgpass", ""); err != nil {
			return err
		}
		if err := p.Start(ctx, n, EtcdService); err != nil {
			return err
		}
	}
	first := l.Nodes[0]
	if err := p.Start(ctx, first, PatroniService); err != nil {
		return err
	}
	// The lab's own database is not there yet.
	becomes := func(what, condition string) error {
		return Wait(ctx, p.Patience(), what, func() error {
			return first.program(ctx, "psql", "-h", first.Dir, "-U", "postgres", "-qAtc", "SELECT 1/("+condition+")::int").Err()
		})
	}
	if err := becomes("Patroni to make a primary", "NOT pg_is_in_recovery()"); err != nil {
		return err
	}
	for _, n := range l.Nodes[1:] {
		if err := p.Start(ctx, n, PatroniService); err != nil {
			return err
		}
	}
	// With synchronous_mode_strict the primary's own commits wait for the first of them.
	if err := becomes("the standbys to stream", fmt.Sprintf("(SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming') = %d", len(l.Nodes)-1)); err != nil {
		return err
	}
	if err := becomes("a commit to return", "current_setting('synchronous_standby_names') <> '*'"); err != nil {
		return err
	}
	if err := first.CreateRoles(ctx); err != nil {
		return err
	}
	return Wait(ctx, p.Patience(), "a whole cluster", func() error { return p.Whole(ctx, l) })
}

// object is a part of Patroni's configuration; JSON is YAML too.
type object = map[string]any

func (p *Patroni) configuration(n *Node, dynamic map[string]any) string {
	l := n.lab
	var stores []string
	for _, other := range l.Nodes {
		stores = append(stores, fmt.Sprintf("%s:%d", other.Host, etcdPort))
	}
	parameters := map[string]string{"wal_keep_size": "256MB"}
	maps.Copy(parameters, l.options.Settings)
	dcs := object{
		"ttl": 30, "loop_wait": 10, "retry_timeout": 10, "maximum_lag_on_failover": 1048576,
		"postgresql": object{"use_pg_rewind": true, "use_slots": true, "parameters": parameters},
	}
	maps.Copy(dcs, dynamic)
	address, rest := fmt.Sprintf("%s:%d", n.Host, n.Port), fmt.Sprintf("%s:%d", n.Host, patroniPort)
	b, _ := json.MarshalIndent(object{ // of strings, numbers and truths alone: it cannot fail
		"scope": "lab", "name": n.Name,
		"restapi": object{"listen": rest, "connect_address": rest},
		"etcd3":   object{"hosts": stores},
		"bootstrap": object{
			"dcs":    dcs,
			"initdb": []any{object{"encoding": "UTF8"}, object{"locale": "C"}, "data-checksums"},
			"pg_hba": []string{"local all all trust", "host all all all trust", "host replication all all trust"},
		},
		"postgresql": object{
			"listen": address, "connect_address": address, "data_dir": n.DataDir, "bin_dir": l.Bindir, "pgpass": filepath.Join(n.Dir, "pgpass"),
			"authentication": object{
				"superuser": object{"username": "postgres"}, "replication": object{"username": "replicator"},
			},
			"parameters": object{"unix_socket_directories": n.Dir, "shared_buffers": "16MB", "jit": "off"},
		},
	}, "", " ")
	return string(b)
}

// Start starts one of a node's services, as a service manager would.
func (p *Patroni) Start(ctx context.Context, n *Node, service string) error {
	if service == PatroniService {
		return n.StartService(ctx, PatroniService, nil, p.program, filepath.Join(n.Dir, "patroni.json"))
	}
	var members []string
	for _, other := range n.lab.Nodes {
		members = append(members, fmt.Sprintf("%s=http://%s:%d", other.Name, other.Host, etcdPeerPort))
	}
	peers, clients := fmt.Sprintf("http://%s:%d", n.Host, etcdPeerPort), fmt.Sprintf("http://%s:%d", n.Host, etcdPort)
	return n.StartService(ctx, EtcdService, nil, p.etcd, "--name", n.Name, "--data-dir", filepath.Join(n.Dir, "etcd"),
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--listen-client-urls", clients, "--advertise-client-urls", clients,
		"--initial-cluster", strings.Join(members, ","), "--initial-cluster-state", "new")
}

// Whole asks the servers: what Patroni thinks of them shows in what they do.
func (p *Patroni) Whole(ctx context.Context, l *Lab) error {
	for _, n := range l.Nodes {
		for _, program := range p.Programs() {
			if n.ServicePID(program) == 0 {
				return fmt.Errorf("%s of %s does not run", program, n.Name)
			}
		}
	}
	_, err := l.Streaming(ctx)
	return err
}

// Control runs patronictl on a node: a command, the cluster's name, then args.
func (p *Patroni) Control(ctx context.Context, n *Node, command string, args ...string) Result {
	args = append([]string{"-c", filepath.Join(n.Dir, "patroni.json"), command, "lab"}, args...)
	return n.Run(ctx, p.control, args...)
}

// Reinit is what the manual says for members that do not come back: each that
// does not stream from the primary is made anew. That goes on after the return.
func (p *Patroni) Reinit(ctx context.Context, primary *Node) error {
	var errs []error
	for _, n := range primary.lab.Nodes {
		if attached, err := primary.Attached(ctx, n); n == primary || err == nil && attached {
			continue
		}
		errs = append(errs, p.Control(ctx, primary, "reinit", n.Name, "--force").Err())
	}
	return errors.Join(errs...)
}
