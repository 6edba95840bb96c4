package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/ops"
	"repmgr/internal/pg"
)

// partial is the directory inside the data directory that a copy is taken into.
// Its contents move up only when the copy is complete and follows its upstream,
// PG_VERSION last of all: a server does not start in a directory without it. So
// whatever ends a clone, even SIGKILL or a power cut, what it leaves looks like
// what it is. It is inside, and not beside, since the data directory may be a
// mount point.
const partial = "repmgr-clone.partial"

const versionFile = "PG_VERSION"

// hold is a temporary replication slot; it ends with its connection.
type hold struct {
	conn *pg.Conn
	name string
	// lasting is set where only the replication protocol may make slots: then
	// the lasting slot itself was made at once.
	lasting bool
}

// DirectoryIs looks at a directory. Free is that of the nearest directory above
// that exists.
func (w *World) DirectoryIs(_ context.Context, path string) (ops.DirectoryState, error) {
	d, err := host.DirectoryState(path)
	if err != nil {
		return ops.DirectoryState{}, err
	}
	s := ops.DirectoryState{Exists: d.Content != host.Missing, Empty: d.Content == host.Empty,
		Is: string(d.Content), Running: d.PID, Free: free(path)}
	if s.Running == 0 && len(d.Running) > 0 {
		s.Running = d.Running[0].PID
	}
	_, errPartial := os.Stat(filepath.Join(path, partial))
	_, errVersion := os.Stat(filepath.Join(path, versionFile))
	s.Partial = errPartial == nil && errors.Is(errVersion, fs.ErrNotExist)
	return s, nil
}

// outside lists, beside the unfinished copy, the directories that a clone fills
// outside its data directory: tablespaces and the WAL. They were empty before.
const outside = "repmgr-clone.outside"

// leftovers are the directories outside the data directory that a broken clone
// has filled.
func leftovers(path string) []string {
	if _, err := os.Stat(filepath.Join(path, versionFile)); err == nil {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(path, outside))
	if err != nil {
		return nil
	}
	var out []string
	for _, dir := range strings.Split(string(text), "\n") {
		if filepath.IsAbs(dir) {
			out = append(out, dir)
		}
	}
	return out
}

// free is how many bytes an ordinary user may still write there; negative if
// that cannot be told.
func free(path string) int64 {
	for {
		var st syscall.Statfs_t
		err := syscall.Statfs(path, &st)
		if err == nil {
			return int64(st.Bavail) * st.Bsize
		}
		up := filepath.Dir(path)
		if !errors.Is(err, fs.ErrNotExist) || up == path {
			return -1
		}
		path = up
	}
}

// PrepareDirectory makes the directory, or deletes all that is in it, and makes
// the place for the copy.
func (w *World) PrepareDirectory(_ context.Context, path string) error {
	if err := endRestores(path); err != nil {
		return err
	}
	for _, dir := range leftovers(path) {
		if err := host.EmptyDirectory(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := host.PrepareDirectory(path, true); err != nil {
		return err
	}
	list := strings.Join(w.fills, "\n")
	if err := host.WriteFileDurable(filepath.Join(path, outside), []byte(list), 0o600); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(path, partial), 0o700); err != nil {
		return fault.Wrap(err, fault.BadConfig, "directory %s cannot be written to", path)
	}
	return nil
}

// DiscardDirectory empties the directory and removes it unless it is kept.
func (w *World) DiscardDirectory(_ context.Context, path string, keep bool) error {
	err := host.EmptyDirectory(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || keep {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, syscall.EBUSY) {
		return fault.Wrap(err, fault.BadConfig, "directory %s was emptied but is left", path)
	}
	return nil
}

// HoldWAL makes a temporary slot on the server, in a session that lives as long
// as this World.
func (w *World) HoldWAL(ctx context.Context, on cluster.NodeID, slot string) error {
	c, repl, err := w.slotSession(ctx, on)
	if err != nil {
		return err
	}
	h := &hold{conn: c, name: "repmgr_clone_" + strings.TrimPrefix(slot, "repmgr_slot_")}
	if repl != nil {
		defer closeRepl(repl)
		h.lasting = true
		if err := repl.CreateSlot(ctx, slot); err != nil {
			return err
		}
		w.holds[on] = h
		return nil
	}
	// The session is idle for as long as the copy takes.
	_, err = c.Exec(ctx, "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name = 'idle_session_timeout'")
	if err == nil {
		_, err = c.Exec(ctx, "SELECT pg_catalog.pg_create_physical_replication_slot($1, true, true)", h.name)
	}
	if err != nil {
		Close(c)
		return fault.Wrap(err, fault.DBQuery, "a temporary replication slot could not be created").
			WithHint("another clone of the same node may be under way; else raise max_replication_slots")
	}
	w.holds[on] = h
	return nil
}

// ReleaseWAL drops the temporary slot.
func (w *World) ReleaseWAL(ctx context.Context, on cluster.NodeID, slot string) error {
	h := w.holds[on]
	if h == nil {
		return nil
	}
	delete(w.holds, on)
	if h.lasting {
		return w.DropSlot(ctx, on, slot)
	}
	Close(h.conn)
	return nil
}

// KeepWAL copies the temporary slot to the lasting one, which so keeps the WAL
// from the beginning of the copy on, and drops the temporary one. A slot of that
// name that nobody uses is left from an earlier standby and is replaced.
func (w *World) KeepWAL(ctx context.Context, on cluster.NodeID, slot string) error {
	h := w.holds[on]
	if h == nil {
		return fault.New(fault.Internal, "the WAL of node %d is not held", on)
	}
	if h.lasting {
		return nil
	}
	// In another session: an error in the one that has the temporary slot would
	// drop it.
	c, _, err := w.slotSession(ctx, on)
	if err != nil {
		return err
	}
	defer Close(c)
	if err := dropSlot(ctx, c, slot); err != nil {
		return err
	}
	if _, err := c.Exec(ctx, "SELECT pg_catalog.pg_copy_physical_replication_slot($1, $2, false)", h.name, slot); err != nil {
		return fault.Wrap(err, fault.DBQuery, "replication slot %q could not be created", slot).
			WithHint("raise max_replication_slots, or drop slots that nobody uses")
	}
	delete(w.holds, on)
	Close(h.conn)
	return nil
}

// BaseBackup runs pg_basebackup.
func (w *World) BaseBackup(ctx context.Context, b ops.Backup) error {
	spec := w.backup
	if b.NoSlot && !spec.Options.NoSlot {
		spec.Options.Words = append(append([]string{}, spec.Options.Words...), "--no-slot")
	}
	err := pg.BaseBackup(ctx, spec, w.opt.Progress)
	if err != nil && ctx.Err() != nil {
		err = fault.Wrap(ctx.Err(), fault.BadBasebackup, "the clone was broken off").
			WithHint("what it had made is removed; clone again")
	}
	if err != nil && spec.Options.WALDir != "" {
		w.warn(host.EmptyDirectory(spec.Options.WALDir))
	}
	return err
}

// VerifyBackup runs pg_verifybackup on the copy.
func (w *World) VerifyBackup(ctx context.Context, path string) error {
	program, err := pg.FindTool(w.cfg.PgBindir, "", "pg_verifybackup")
	if err != nil {
		return err
	}
	line := pg.QuoteAll([]string{program, filepath.Join(path, partial)})
	return runCommand(ctx, line, fault.BadBasebackup, "verify the copy")
}

// ConfigureClone writes the recovery settings into the copy, finished or not.
func (w *World) ConfigureClone(_ context.Context, path string, r ops.Recovery) error {
	if _, err := os.Stat(filepath.Join(path, partial)); err == nil {
		path = filepath.Join(path, partial)
	}
	to, err := w.withPassword(r)
	if err != nil {
		return err
	}
	if err := pg.WriteRecovery(path, to); err != nil {
		return err
	}
	return pg.WriteStandbySignal(path)
}

// FinishDirectory moves the copy up, PG_VERSION last.
func (w *World) FinishDirectory(_ context.Context, path string) error {
	from := filepath.Join(path, partial)
	err := finish(from, path)
	if err != nil {
		return fault.Wrap(err, fault.BadBasebackup, "the copy in %s could not be completed", path)
	}
	return nil
}

func finish(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == versionFile {
			continue
		}
		if err := os.Rename(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	if err := errors.Join(os.Chmod(to, info.Mode().Perm()), os.Remove(filepath.Join(to, outside))); err != nil {
		return err
	}
	if err := errors.Join(host.SyncDir(from), host.SyncDir(to)); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(from, versionFile), filepath.Join(to, versionFile)); err != nil {
		return err
	}
	if err := os.Remove(from); err != nil {
		return err
	}
	return host.SyncDir(to)
}

// readTimeout bounds the reading of one configuration file.
const readTimeout = 30 * time.Second

// CopyFiles reads the source's configuration files over SQL and writes them here.
func (w *World) CopyFiles(ctx context.Context, c ops.CopyConfigFiles) error {
	source, err := w.fileReader(ctx)
	if err != nil {
		return err
	}
	for _, f := range c.Files {
		ctx, cancel := context.WithTimeout(ctx, readTimeout)
		var data []byte
		err := source.QueryRow(ctx, "SELECT pg_catalog.pg_read_binary_file($1)", f.Path).Scan(&data)
		cancel()
		if err != nil {
			return fault.Wrap(err, fault.BadConfig, "%s could not be read from the source", f.Path)
		}
		if c.To == ops.SamePath {
			err = w.copySame(f.Path, data, c.Force)
		} else {
			err = copyInto(filepath.Join(c.DataDir, partial), f, data, c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fileReader is the session that may read files of the source.
func (w *World) fileReader(ctx context.Context) (*pg.Conn, error) {
	if w.super != nil {
		return w.super, nil
	}
	return w.to(ctx, ops.Source)
}

// copySame writes a file to the path that it has on the source. One that is here
// and differs is only overwritten by force.
func (w *World) copySame(path string, data []byte, force bool) error {
	old, err := os.ReadFile(path)
	switch {
	case err == nil && bytes.Equal(old, data):
		return nil
	case err == nil && !force:
		return fault.New(fault.BadConfig, "%s is here already, and differs from the source's", path).
			WithHint("compare both; -F/--force overwrites it, --copy-external-config-files=pgdata copies into the data directory instead")
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fault.Wrap(err, fault.BadConfig, "%s cannot be looked at", path)
	case err != nil:
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fault.Wrap(err, fault.BadConfig, "the directory of %s cannot be made", path)
		}
		w.made = append(w.made, path)
	}
	return host.WriteFileDurable(path, data, 0o640)
}

// copyInto writes a file into the data directory, under the name that a server
// without other settings looks for.
func copyInto(dir string, f ops.ExternalFile, data []byte, c ops.CopyConfigFiles) error {
	name := inside(f, c.Files)
	path := filepath.Join(dir, name)
	if f.Setting == "config_file" {
		data = adapted(data, c)
		for _, sub := range includeDirs(data) {
			if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
				return fault.Wrap(err, fault.BadConfig, "directory %s of the configuration", sub)
			}
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fault.Wrap(err, fault.BadConfig, "directory of %s", path)
	}
	return host.WriteFileDurable(path, data, 0o600)
}

// inside is the name of a copied file below the data directory: what includes
// it by a relative path must find it.
func inside(f ops.ExternalFile, all []ops.ExternalFile) string {
	names := map[string]string{"config_file": "postgresql.conf", "hba_file": "pg_hba.conf", "ident_file": "pg_ident.conf"}
	if name, ok := names[f.Setting]; ok {
		return name
	}
	for _, other := range all {
		if other.Setting != "config_file" {
			continue
		}
		if rel, err := filepath.Rel(filepath.Dir(other.Path), f.Path); err == nil && filepath.IsLocal(rel) {
			return rel
		}
	}
	return filepath.Base(f.Path)
}

// adapted is the source's postgresql.conf with the paths of the copy after its
// own: the last setting counts.
func adapted(data []byte, c ops.CopyConfigFiles) []byte {
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
	var b bytes.Buffer
	b.Write(data)
	fmt.Fprintf(&b, "\n# Added by repmgr: on the source this file lives outside the data directory.\ndata_directory = %s\n", quote(c.DataDir))
	for _, f := range c.Files {
		if f.Setting == "hba_file" || f.Setting == "ident_file" {
			fmt.Fprintf(&b, "%s = %s\n", f.Setting, quote(filepath.Join(c.DataDir, inside(f, c.Files))))
		}
	}
	return b.Bytes()
}

var includeDir = regexp.MustCompile(`(?mi)^\s*include_dir\s*=?\s*'([^']+)'`)

// includeDirs are the relative directories that a configuration file includes,
// which must exist even if they are empty.
func includeDirs(data []byte) []string {
	var out []string
	for _, m := range includeDir.FindAllSubmatch(data, -1) {
		if dir := string(m[1]); filepath.IsLocal(dir) {
			out = append(out, dir)
		}
	}
	return out
}

// DiscardFiles removes what CopyFiles made outside the data directory.
func (w *World) DiscardFiles(context.Context, ops.CopyConfigFiles) error {
	var errs []error
	for _, path := range w.made {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	w.made = nil
	return errors.Join(errs...)
}
