package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"repmgr/internal/lab"
)

// patroni drives Patroni with an etcd member on each node, as Debian packages them.
// Its settings are Patroni's defaults (ttl 30, loop_wait 10), apart from what a
// lab needs.
type patroni struct {
	name    string
	program string
	control string // patronictl
	etcd    string
	sync    string
}

// The services of a node.
const (
	etcdService    = "etcd"
	patroniService = "patroni"
)

// findPatroni looks for the programs.
func findPatroni(ctx context.Context) (System, error) {
	p := &patroni{}
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

func (p *patroni) Name() string { return p.name }

func (p *patroni) Programs() []string { return []string{etcdService, patroniService} }

func (p *patroni) StartsServer() bool { return true }

// Patience: a lease of 30 s, and a loop of 10 s, come before each change.
func (p *patroni) Patience() time.Duration { return 5 * time.Minute }

func (p *patroni) Up(ctx context.Context, setup Setup) (*lab.Lab, error) {
	p.sync = setup.Sync
	l, err := lab.New(lab.Options{Nodes: setup.Nodes, Namespaces: true, Software: &lab.Software{Name: "patroni"}})
	if err != nil {
		return nil, err
	}
	if err := p.bringUp(ctx, l); err != nil {
		return nil, errors.Join(fmt.Errorf("%w\n%s", err, tails(l)), l.Close())
	}
	return l, nil
}

// tails are the ends of what the nodes' programs said.
func tails(l *lab.Lab) string {
	var b strings.Builder
	for _, n := range l.Nodes {
		for _, program := range []string{etcdService, patroniService} {
			fmt.Fprintf(&b, "--- %s: %s\n%s\n", n.Name, program, lab.Tail(n.ServiceLog(program)))
		}
	}
	return b.String()
}

func (p *patroni) bringUp(ctx context.Context, l *lab.Lab) error {
	for _, n := range l.Nodes {
		if err := n.WriteFile("patroni.json", p.configuration(l, n)); err != nil {
			return err
		}
		if err := n.WriteFile("pgpass", ""); err != nil {
			return err
		}
		if err := p.StartProgram(ctx, n, etcdService); err != nil {
			return err
		}
	}
	first := l.Nodes[0]
	if err := p.StartProgram(ctx, first, patroniService); err != nil {
		return err
	}
	err := lab.Wait(ctx, mendBound, "Patroni to make a primary", func() error {
		// The lab's own database is not there yet.
		return first.Run(ctx, filepath.Join(l.Bindir, "psql"), "-h", first.Dir, "-U", "postgres", "-qAtc", "SELECT 1/(NOT pg_is_in_recovery())::int").Err()
	})
	if err != nil {
		return err
	}
	if err := first.CreateRoles(ctx); err != nil {
		return err
	}
	for _, n := range l.Nodes[1:] {
		if err := p.StartProgram(ctx, n, patroniService); err != nil {
			return err
		}
	}
	return lab.Wait(ctx, p.Patience(), "a whole cluster", func() error { return p.Whole(ctx, l) })
}

// object is a part of Patroni's configuration; JSON is YAML too.
type object = map[string]any

func (p *patroni) configuration(l *lab.Lab, n *lab.Node) string {
	var stores []string
	for _, other := range l.Nodes {
		stores = append(stores, other.Host+":2379")
	}
	address := fmt.Sprintf("%s:%d", n.Host, n.Port)
	b, _ := json.MarshalIndent(object{ // of strings, numbers and truths alone: it cannot fail
		"scope": "lab", "name": n.Name,
		"restapi": object{"listen": n.Host + ":8008", "connect_address": n.Host + ":8008"},
		"etcd3":   object{"hosts": stores},
		"bootstrap": object{
			"dcs": object{
				"ttl": 30, "loop_wait": 10, "retry_timeout": 10, "maximum_lag_on_failover": 1048576,
				"synchronous_mode": p.sync != "off", "synchronous_mode_strict": p.sync == "strict",
				"postgresql": object{"use_pg_rewind": true, "use_slots": true, "parameters": object{
					"max_connections": 400, "wal_keep_size": "256MB",
				}},
			},
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

func (p *patroni) StartProgram(ctx context.Context, n *lab.Node, program string) error {
	if program == patroniService {
		return n.StartService(ctx, patroniService, nil, p.program, filepath.Join(n.Dir, "patroni.json"))
	}
	var members []string
	for _, other := range n.Lab().Nodes {
		members = append(members, fmt.Sprintf("%s=http://%s:2380", other.Name, other.Host))
	}
	peers, clients := fmt.Sprintf("http://%s:2380", n.Host), fmt.Sprintf("http://%s:2379", n.Host)
	return n.StartService(ctx, etcdService, nil, p.etcd, "--name", n.Name, "--data-dir", filepath.Join(n.Dir, "etcd"),
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--listen-client-urls", clients, "--advertise-client-urls", clients,
		"--initial-cluster", strings.Join(members, ","), "--initial-cluster-state", "new")
}

// Companion is the node's etcd member.
func (p *patroni) Companion(n *lab.Node, signal syscall.Signal) (string, error) {
	if n.ServicePID(etcdService) == 0 {
		return "", nil
	}
	return etcdService, n.SignalService(etcdService, signal)
}

// Whole asks the servers: what Patroni thinks of them shows in what they do.
func (p *patroni) Whole(ctx context.Context, l *lab.Lab) error {
	for _, n := range l.Nodes {
		for _, program := range p.Programs() {
			if n.ServicePID(program) == 0 {
				return fmt.Errorf("%s of %s does not run", program, n.Name)
			}
		}
	}
	_, err := l.Streaming(ctx)
	if err == nil && p.sync != "off" {
		err = synced(ctx, l)
	}
	return err
}

func (p *patroni) ctl(ctx context.Context, n *lab.Node, command string) error {
	return n.Run(ctx, p.control, "-c", filepath.Join(n.Dir, "patroni.json"), command, "lab").Err()
}

func (p *patroni) Pause(ctx context.Context, n *lab.Node) error { return p.ctl(ctx, n, "pause") }

// Unpause: resuming a cluster that is not paused is an error for patronictl, and none for us.
func (p *patroni) Unpause(ctx context.Context, n *lab.Node) error {
	err := p.ctl(ctx, n, "resume")
	if err != nil && strings.Contains(err.Error(), "is not paused") {
		return nil
	}
	return err
}

// Mend is what the manual says for a member that does not come back.
func (p *patroni) Mend(ctx context.Context, l *lab.Lab, primary *lab.Node) error {
	var errs []error
	for _, n := range l.Nodes {
		if attached, err := primary.Attached(ctx, n); n == primary || err == nil && attached {
			continue
		}
		errs = append(errs, primary.Run(ctx, p.control, "-c", filepath.Join(primary.Dir, "patroni.json"), "reinit", "lab", n.Name, "--force").Err())
	}
	return errors.Join(append(errs, lab.Wait(ctx, p.Patience(), "a whole cluster", func() error { return p.Whole(ctx, l) }))...)
}
