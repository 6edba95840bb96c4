package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"repmgr/internal/host"
)

// Node is one host of the lab: a PostgreSQL server, its repmgr.conf and its daemon.
type Node struct {
	ID         int
	Name       string
	Witness    bool
	Plain      bool   // a witness without PostgreSQL
	Host       string // a numeric address
	Port       int    // PostgreSQL's
	DaemonPort int
	Dir        string // everything of this node; the server's socket too
	DataDir    string

	lab       *Lab
	namespace string // empty: ours

	mu       sync.Mutex
	services map[string]*service // those that run, by name
	kept     *pgx.Conn           // a session of the superuser that nobody uses now; may be nil
}

// serverTimeout bounds the start and the stop of a server, in seconds.
const serverTimeout = "60"

// Privileges are the statements, for a superuser and in the database repmgr,
// that give the role repmgr all it needs beyond LOGIN, REPLICATION and owning
// that database: to see settings and replication, to promote, and to be the source
// of pg_rewind (PostgreSQL manual, pg_rewind, "Notes").
var Privileges = []string{
	"GRANT pg_monitor TO " + repmgrRole,
	"GRANT EXECUTE ON FUNCTION pg_catalog.pg_promote(boolean, integer) TO " + repmgrRole,
	"GRANT EXECUTE ON FUNCTION pg_catalog.pg_wal_replay_resume() TO " + repmgrRole,
	"GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_dir(text, boolean, boolean), pg_catalog.pg_stat_file(text, boolean), " +
		"pg_catalog.pg_read_binary_file(text), pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) TO " + repmgrRole,
}

// InitPrimary makes the node's data directory, starts the server and creates the
// roles and databases: repmgr for the programs, app for the client.
func (n *Node) InitPrimary(ctx context.Context) error {
	l := n.lab
	copied := n.ID == 1 && l.served()
	if copied {
		from, err := l.server()
		if err == nil {
			err = n.copyFrom(ctx, from.DataDir)
		}
		if err != nil {
			return err
		}
	} else if err := n.initdb(ctx); err != nil {
		return err
	}
	if err := n.configure(ctx); err != nil {
		return err
	}
	if err := n.Start(ctx); err != nil || copied {
		return err
	}
	return n.CreateRoles(ctx)
}

// configure writes the server's configuration for this lab.
func (n *Node) configure(context.Context) error {
	err := appendFile(filepath.Join(n.DataDir, "postgresql.conf"), assignments(n.lab.serverSettings()))
	if err == nil {
		err = n.lab.account.write(filepath.Join(n.DataDir, "pg_hba.conf"), n.lab.hba())
	}
	if err != nil {
		return fmt.Errorf("configure the server: %w", err)
	}
	return nil
}

// initdb makes the data directory. Node 1 of an unsynced lab gets a copy of one that
// was made once in this process. All others have a system identifier of their own.
func (n *Node) initdb(ctx context.Context) error {
	if n.lab.options.Unchecked {
		return n.program(ctx, "initdb", slices.DeleteFunc(initdbArgs(n.DataDir), func(arg string) bool { return arg == "--data-checksums" })...).Err()
	}
	if !n.lab.options.Unsynced || n.ID != 1 {
		return n.program(ctx, "initdb", initdbArgs(n.DataDir)...).Err()
	}
	from, err := n.lab.template()
	if err != nil {
		return err
	}
	return n.copyFrom(ctx, from)
}

func initdbArgs(dir string) []string {
	return []string{"-D", dir, "-U", "postgres", "--auth=trust", "--locale=C", "--encoding=UTF8", "--data-checksums", "--no-sync"}
}

// CreateRoles creates the roles and databases that a lab has: repmgr for the
// programs, app for the client.
func (n *Node) CreateRoles(ctx context.Context) error {
	attributes := map[string]string{repmgrRole: "LOGIN REPLICATION", appRole: "LOGIN"}
	if n.lab.software.Superuser {
		attributes[repmgrRole] += " SUPERUSER"
	}
	for _, role := range []string{repmgrRole, appRole} {
		create := fmt.Sprintf("CREATE ROLE %s %s", role, attributes[role])
		if password, ok := n.lab.secrets.passwords[role]; ok {
			create += " PASSWORD '" + strings.ReplaceAll(password, "'", "''") + "'"
		}
		// One session: the encryption has to hold for the statement after it.
		if err := n.exec(ctx, "postgres", "SET password_encryption = 'scram-sha-256'; "+create); err != nil {
			return fmt.Errorf("create role %s: %w", role, err)
		}
		if err := n.exec(ctx, "postgres", fmt.Sprintf("CREATE DATABASE %s OWNER %s", role, role)); err != nil {
			return fmt.Errorf("create database %s: %w", role, err)
		}
	}
	return n.exec(ctx, repmgrRole, strings.Join(Privileges, "; "))
}

// program runs one of PostgreSQL's programs on this node to its end.
func (n *Node) program(ctx context.Context, name string, args ...string) Result {
	return n.Run(ctx, filepath.Join(n.lab.Bindir, name), args...)
}

// Run runs any program on this node, as the lab's user, to its end.
func (n *Node) Run(ctx context.Context, program string, args ...string) Result {
	return n.lab.finish(ctx, n.namespace, n.command(ctx, program, args...))
}

// nodeVariable tells processes of one node from another's, beside markerVariable.
const nodeVariable = "REPMGR_LAB_NODE"

func (n *Node) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := n.lab.command(ctx, program, args...)
	cmd.Dir = n.Dir
	cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d", nodeVariable, n.ID))
	return cmd
}

// Lab is the lab that the node is one of.
func (n *Node) Lab() *Lab { return n.lab }

// WriteFile writes a file into the node's folder.
func (n *Node) WriteFile(name, content string) error {
	return n.lab.account.write(filepath.Join(n.Dir, name), content)
}

// ServerLog is the file that the server writes its log to.
func (n *Node) ServerLog() string { return filepath.Join(n.Dir, "postgresql.log") }

// Start starts the server and waits until it accepts connections.
func (n *Node) Start(ctx context.Context) error {
	if err := n.writeServerConf(); err != nil {
		return err
	}
	n.echo("pg_ctl -D " + n.DataDir + " start")
	result := n.program(ctx, "pg_ctl", "-D", n.DataDir, "-s", "-w", "-t", serverTimeout, "-l", n.ServerLog(), "start")
	if err := result.Err(); err != nil {
		return fmt.Errorf("start the server of %s: %w\n%s", n.Name, err, tail(n.ServerLog()))
	}
	return nil
}

// Stop stops the server: smart, fast or immediate.
func (n *Node) Stop(ctx context.Context, mode string) error {
	result := n.program(ctx, "pg_ctl", "-D", n.DataDir, "-s", "-w", "-t", serverTimeout, "-m", mode, "stop")
	if err := result.Err(); err != nil {
		return fmt.Errorf("stop the server of %s: %w", n.Name, err)
	}
	return nil
}

// Reload makes the server read its configuration again.
func (n *Node) Reload(ctx context.Context) error {
	return n.program(ctx, "pg_ctl", "-D", n.DataDir, "-s", "reload").Err()
}

// Kill9 ends every process of the server with SIGKILL.
func (n *Node) Kill9(ctx context.Context) error { return killPostgres(ctx, n.DataDir) }

// Processes are the server's processes, the postmaster first.
func (n *Node) Processes() ([]int, error) { return postgresOf(n.DataDir) }

// SignalPostmaster signals the server's first process alone.
func (n *Node) SignalPostmaster(signal syscall.Signal) error {
	found, err := n.Processes()
	if err != nil {
		return err
	}
	main, err := postmaster(n.DataDir)
	if err != nil || len(found) == 0 || found[0] != main {
		return fmt.Errorf("send %s to the postmaster of %s: none runs", signal, n.Name)
	}
	return syscall.Kill(main, signal)
}

// Running says whether the server has a process.
func (n *Node) Running() bool {
	found, err := n.Processes()
	return err == nil && len(found) > 0
}

// Restart stops the server (smart, fast or immediate) and starts it, by hand.
func (n *Node) Restart(ctx context.Context, mode string) error {
	result := n.program(ctx, "pg_ctl", "-D", n.DataDir, "-s", "-w", "-t", serverTimeout, "-m", mode, "-l", n.ServerLog(), "restart")
	if err := result.Err(); err != nil {
		return fmt.Errorf("restart the server of %s: %w", n.Name, err)
	}
	return nil
}

// Pause stops every process of the server with SIGSTOP: a host that hangs.
func (n *Node) Pause(ctx context.Context) error {
	return Wait(ctx, killTimeout, "every server process to stand still", func() error {
		if _, err := signalPostgres(n.DataDir, syscall.SIGSTOP); err != nil {
			return err
		}
		found, err := n.Processes()
		if err != nil {
			return err
		}
		for _, pid := range found {
			if fields, err := statFields(pid); err == nil && fields[0] != "T" {
				return fmt.Errorf("process %d is in state %s", pid, fields[0])
			}
		}
		return nil
	})
}

// Resume undoes Pause.
func (n *Node) Resume() error {
	_, err := signalPostgres(n.DataDir, syscall.SIGCONT)
	return err
}

// CloneFrom makes this node a standby of another by pg_basebackup alone,
// without the software under test; it is not started.
func (n *Node) CloneFrom(ctx context.Context, upstream *Node) error {
	if err := errors.Join(host.FreeMemory(n.DataDir), os.RemoveAll(n.DataDir)); err != nil {
		return err
	}
	return n.program(ctx, "pg_basebackup", "-D", n.DataDir, "-R", "-X", "stream", "-c", "fast", "--no-sync",
		"-d", upstream.Conninfo()+" application_name="+n.Name).Err()
}

// Cut pulls the node's cable: nobody reaches it, and it reaches nobody.
func (n *Node) Cut() error {
	if n.lab.network == nil {
		return errors.New("cut a node off: the lab has no namespaces")
	}
	return n.lab.network.setCable(n.ID, false)
}

// PowerOff is a power failure: the cable goes first, so that no last word of
// the dying processes gets out, then every process of the node is killed.
func (n *Node) PowerOff(ctx context.Context) error {
	if n.lab.network != nil {
		if err := n.Cut(); err != nil {
			return err
		}
	}
	// The daemon first, so that it starts no server again.
	return errors.Join(n.killRest(ctx), n.Kill9(ctx))
}

// killRest ends what else runs on this node: the daemon and what it started.
func (n *Node) killRest(ctx context.Context) error {
	return Wait(ctx, killTimeout, "the end of every process of "+n.Name, func() error {
		rest, err := n.rest()
		if err != nil {
			return err
		}
		for _, pid := range rest {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		if len(rest) > 0 {
			return fmt.Errorf("%d processes are left", len(rest))
		}
		return nil
	})
}

// rest are the processes of the node that are not the server's: the daemon and
// what it started.
func (n *Node) rest() ([]int, error) {
	all, err := pids()
	if err != nil {
		return nil, err
	}
	mark := fmt.Sprintf("%s=%d", nodeVariable, n.ID)
	return slices.DeleteFunc(all, func(pid int) bool {
		return !hasEnvironment(pid, markerVariable+"="+n.lab.Dir) || !hasEnvironment(pid, mark)
	}), nil
}

// Guards are the processes of the node that hold a lease's deadline for repmgrd.
func (n *Node) Guards() ([]int, error) {
	rest, err := n.rest()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(rest, func(pid int) bool {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return err != nil || !strings.Contains(string(line), "repmgrd\x00--guard\x00")
	}), nil
}

// Freeze stops every process of the node with SIGSTOP, the server's and all
// others: a host that stands still while its clock goes on.
func (n *Node) Freeze() error { return n.signalAll(syscall.SIGSTOP) }

// Thaw undoes Freeze.
func (n *Node) Thaw() error { return n.signalAll(syscall.SIGCONT) }

func (n *Node) signalAll(signal syscall.Signal) error {
	rest, err := n.rest()
	if err != nil {
		return err
	}
	for _, pid := range rest {
		if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("send %s to process %d: %w", signal, pid, err)
		}
	}
	_, err = signalPostgres(n.DataDir, signal)
	return err
}

// Heal plugs in the node's cable.
func (n *Node) Heal() error {
	if n.lab.network == nil {
		return nil
	}
	return n.lab.network.setCable(n.ID, true)
}

// CutLink makes everything that two nodes send to each other disappear; both
// still reach all others.
func (l *Lab) CutLink(a, b *Node) error {
	if l.network == nil {
		return errors.New("cut a link: the lab has no namespaces")
	}
	return errors.Join(l.network.lose(a.ID, b.ID), l.network.lose(b.ID, a.ID))
}

// CutOneWay makes everything that one node sends to another disappear. What comes
// the other way arrives and is never answered, so that no connection between them lives.
func (l *Lab) CutOneWay(from, to *Node) error {
	if l.network == nil {
		return errors.New("cut one way of a link: the lab has no namespaces")
	}
	return l.network.lose(from.ID, to.ID)
}

// HealOneWay undoes CutOneWay.
func (l *Lab) HealOneWay(from, to *Node) error {
	if l.network == nil {
		return nil
	}
	return l.network.find(from.ID, to.ID)
}

// Disturb makes the node's cable a bad one, both ways: a share of the packets (0
// to 1) is lost, and no more than rate bits a second get through (zero: any), so
// that packets wait, up to half a second, and are lost beyond that. A cable that
// is disturbed already is so anew; two zeros end it.
func (n *Node) Disturb(loss float64, rate int) error {
	if n.lab.network == nil {
		return errors.New("disturb a cable: the lab has no namespaces")
	}
	return n.lab.network.disturb(n.ID, loss, rate)
}

// Heal plugs in every cable and mends every link.
func (l *Lab) Heal() error {
	var errs []error
	for _, a := range l.Nodes {
		errs = append(errs, a.Heal())
		if l.network != nil {
			errs = append(errs, a.Disturb(0, 0))
		}
		for _, b := range l.Nodes {
			if l.network != nil && a != b {
				errs = append(errs, l.network.find(a.ID, b.ID))
			}
		}
	}
	return errors.Join(errs...)
}

// tailSize is how much of a log an error shows, in bytes.
const tailSize = 3000

// tail is the end of a log, or why it cannot be read.
func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-tailSize):])
}

// settle is how long a daemon has to end when it is asked to.
const settle = 15 * time.Second
