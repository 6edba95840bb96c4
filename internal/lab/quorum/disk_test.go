package quorum

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"repmgr/internal/lab"
)

// smallWAL puts the WAL of a node's server, which does not run, on a file system of
// 160 MB of its own, and returns its path.
func smallWAL(t *testing.T, n *lab.Node) string {
	t.Helper()
	small := filepath.Join(n.Lab().Dir, "small")
	must(t, os.Mkdir(small, 0o755))
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=160m,mode=777"); err != nil {
		t.Skipf("SKIPPED, NOT TESTED HERE: a small file system cannot be mounted: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(small, 2) }) // MNT_DETACH: the server may still be there
	wal := filepath.Join(n.DataDir, "pg_wal")
	for _, args := range [][]string{{"cp", "-a", wal, filepath.Join(small, "wal")}, {"rm", "-r", wal}, {"ln", "-s", filepath.Join(small, "wal"), wal}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	return small
}

// fill leaves so many bytes of a file system, and returns what took the rest.
func fill(t *testing.T, dir string, left uint64) string {
	t.Helper()
	var fs syscall.Statfs_t
	must(t, syscall.Statfs(dir, &fs))
	ballast := filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	must(t, err)
	defer f.Close()
	must(t, syscall.Fallocate(int(f.Fd()), 0, 0, int64(fs.Bavail*uint64(fs.Bsize)-left)))
	return ballast
}

// A full disk of the primary is told, and a standby with room takes over, without a
// commit lost.
func TestQuorumFullDisk(t *testing.T) {
	l, ctx := bringUpQuorum(t, lab.Options{Nodes: 3, Conf: map[string]string{"primary_write_timeout": "5s"}})
	old := l.Node(1)
	must(t, says(t, old, "service pause")())
	must(t, old.Stop(ctx, "fast"))
	small := smallWAL(t, old)
	must(t, old.Start(ctx))
	must(t, says(t, old, "service unpause")())
	waitGoverned(t, ctx, l, old)

	ballast := fill(t, small, 8<<20)
	waitLog(t, ctx, old, "the disk is full of node")
	primary := newPrimary(t, ctx, l, old)
	must(t, logged(old.DaemonLog(), "disk-full: 8 MB are left here"))
	waitEvent(t, ctx, primary, "repmgrd_disk_full", old, false)
	waitFor(t, ctx, "the status to say so", func() error {
		if r := primary.Repmgr(ctx, "cluster", "show"); !strings.Contains(r.Stdout, "Disk full:     node1 (ID: 1): 8 MB left") {
			return errors.New(r.Stdout)
		}
		return nil
	})
	must(t, os.Remove(ballast)) // a standby needs room for WAL too
	comesBack(t, ctx, l, primary)
	waitEvent(t, ctx, primary, "repmgrd_disk_full", old, true)
	if n, err := primary.SQL(ctx, "SELECT count(*) FROM repmgr.events WHERE event = 'repmgrd_commits_discarded'"); err != nil || n != "0" {
		t.Errorf("commits were discarded %s times, %v", n, err)
	}
}
