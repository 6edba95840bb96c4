package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"repmgr/internal/pg"
)

// What many tests begin with is made once in a process, and copied: most of a
// test's time on a processor was this.

// making bounds the making of one of them.
const making = 3 * time.Minute

// made keeps what was made, by a key.
type made[T any] struct {
	mu    sync.Mutex
	calls map[string]func() (T, error)
}

// once is what maker makes, or the first with that key has made.
func (m *made[T]) once(key string, maker func(context.Context) (T, error)) (T, error) {
	m.mu.Lock()
	call := m.calls[key]
	if call == nil {
		call = sync.OnceValues(func() (T, error) {
			ctx, cancel := context.WithTimeout(context.Background(), making)
			defer cancel()
			return maker(ctx)
		})
		if m.calls == nil {
			m.calls = map[string]func() (T, error){}
		}
		m.calls[key] = call
	}
	m.mu.Unlock()
	return call()
}

var (
	versions    made[int]    // of PostgreSQL, by the folder of its programs
	directories made[string] // as initdb leaves them, by the folder of its programs
	servers     made[*Node]  // with roles and databases, stopped; by the same
	clusters    made[*Lab]   // registered, stopped; by the same and how many nodes
)

// template is a data directory of this lab's PostgreSQL that no server ever ran on.
// Its segments of WAL are small, since each is written several times in a test.
func (l *Lab) template() (string, error) {
	return directories.once(l.Bindir, func(ctx context.Context) (string, error) {
		parent, err := makeOwned(buildPrefix)
		if err != nil {
			return "", err
		}
		atExit(func() { os.RemoveAll(parent) })
		if err := l.account.own(parent); err != nil {
			return "", err
		}
		dir := filepath.Join(parent, "data")
		cmd := l.command(ctx, filepath.Join(l.Bindir, "initdb"), append(initdbArgs(dir), "--wal-segsize=1")...)
		cmd.Dir = parent // l's own may be gone
		return dir, l.finish(ctx, "", cmd).Err()
	})
}

// served says whether node 1 begins as a copy of a server that has the roles and
// databases already.
func (l *Lab) served() bool {
	o := l.options
	return o.Unsynced && !o.Unchecked && o.Auth == Trust && !l.software.Superuser && len(l.software.Settings) == 0
}

// server is such a server, stopped.
func (l *Lab) server() (*Node, error) {
	return servers.once(l.Bindir, func(ctx context.Context) (*Node, error) {
		t, err := New(Options{Nodes: 1, Major: l.options.Major, Unsynced: true})
		if err != nil {
			return nil, err
		}
		n := t.Node(1)
		from, err := t.template()
		if err == nil {
			err = n.copyFrom(ctx, from)
		}
		for _, step := range []func(context.Context) error{n.configure, n.Start, n.CreateRoles} {
			if err == nil {
				err = step(ctx)
			}
		}
		if err == nil {
			err = n.Stop(ctx, "fast")
		}
		return n, err
	})
}

// copyFrom makes the node's data directory a copy of a stopped server's.
func (n *Node) copyFrom(ctx context.Context, dir string) error {
	return n.Run(ctx, "cp", "-a", "--reflink=auto", dir, n.DataDir).Err()
}

// copies says whether the cluster begins as a copy of one that was made by the
// commands: it differs from that one in nothing that a copy cannot be given.
func (l *Lab) copies() bool {
	o := l.options
	if !o.Copied || !l.served() || !l.software.Ours || o.Slots || o.Upstream != nil || o.Nodes < 2 {
		return false
	}
	for name := range o.Settings {
		if strings.HasPrefix(name, "max_") { // a standby compares it with its primary's
			return false
		}
	}
	return true
}

// cluster is such a cluster, stopped.
func (l *Lab) cluster() (*Lab, error) {
	return clusters.once(fmt.Sprintf("%s %d", l.Bindir, l.options.Nodes), func(ctx context.Context) (*Lab, error) {
		t, err := New(Options{Nodes: l.options.Nodes, Major: l.options.Major, Unsynced: true})
		if err != nil {
			return nil, err
		}
		err = t.BringUpPrimary(ctx)
		if err == nil {
			err = t.BringUpStandbys(ctx)
		}
		for _, n := range t.Nodes { // the primary first, so that the others have all of its WAL
			if err == nil {
				err = n.Stop(ctx, "fast")
			}
		}
		return t, err
	})
}

// copyCluster makes the data nodes those of a cluster that was made by the commands
// once in this process, under this lab's addresses.
func (l *Lab) copyCluster(ctx context.Context) error {
	from, err := l.cluster()
	if err != nil {
		return fmt.Errorf("make the cluster that others are copied from: %w", err)
	}
	data := l.Nodes[:l.options.Nodes]
	primary := data[0]
	if err := each(data, func(n *Node) error { return n.copyMember(ctx, from.Nodes[n.ID-1].DataDir, primary) }); err != nil {
		return err
	}
	if err := primary.Start(ctx); err != nil { // before the others, which try only every few seconds to reach it
		return err
	}
	if err := each(data[1:], func(n *Node) error { return n.Start(ctx) }); err != nil {
		return err
	}
	for _, n := range data {
		conf := n.additions(nil)
		record := "UPDATE repmgr.nodes SET conninfo = $1, config_file = $2, priority = $3, location = $4 WHERE node_id = $5"
		_, err := primary.Rows(ctx, record, n.Conninfo(), n.ConfFile(), cmp.Or(conf["priority"], "100"), cmp.Or(conf["location"], "default"), n.ID)
		if err == nil {
			_, err = primary.Rows(ctx, "UPDATE repmgr.endpoints SET host = $1, port = $2 WHERE node_id = $3", n.Host, n.DaemonPort, n.ID)
		}
		if err != nil {
			return fmt.Errorf("give the copy of the cluster its addresses: %w", err)
		}
	}
	end, err := primary.SQL(ctx, "SELECT pg_current_wal_lsn()")
	if err != nil {
		return err
	}
	return Wait(ctx, attachTimeout, "the standbys to have their addresses", func() error {
		got, err := primary.SQL(ctx, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND replay_lsn >= $1::pg_lsn", end)
		if err == nil && got != strconv.Itoa(len(data)-1) {
			err = fmt.Errorf("%s of %d", got, len(data)-1)
		}
		return err
	})
}

// each calls f for several nodes at the same time.
func each(nodes []*Node, f func(*Node) error) error {
	errs := make([]error, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() { errs[i] = f(n) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// copyMember makes the node's directory a copy of a stopped server's, under this lab's addresses.
func (n *Node) copyMember(ctx context.Context, dir string, primary *Node) error {
	if err := n.copyFrom(ctx, dir); err != nil {
		return err
	}
	if n != primary {
		recovery, err := pg.ReadRecovery(n.DataDir)
		if err != nil {
			return err
		}
		conninfo, err := pg.ParseConninfo(recovery.PrimaryConninfo)
		if err != nil {
			return err
		}
		recovery.PrimaryConninfo = conninfo.With("host", primary.Host).With("port", strconv.Itoa(primary.Port)).String()
		if err := pg.WriteRecovery(n.DataDir, recovery); err != nil {
			return err
		}
	}
	return errors.Join(n.configure(ctx), n.WriteConf(nil))
}

// additions are repmgr.conf's beyond what every node needs: the lab's, the node's
// and extra ones; the later wins.
func (n *Node) additions(extra map[string]string) map[string]string {
	all := map[string]string{}
	for _, more := range []map[string]string{n.lab.options.Conf, n.lab.options.NodeConf[n.ID], extra} {
		maps.Copy(all, more)
	}
	return all
}
