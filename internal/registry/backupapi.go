package registry

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"repmgr/internal/backupapi"
	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/ops"
	"repmgr/internal/pg"
)

// apiDirectory begins the name of the directory, inside the unfinished copy, that a
// restore is ordered into. The rest of the name is drawn by lot, and the copy itself
// is one below: pg-backup-api cannot call a restore off, so one that was given up may
// go on, and must not find the way into the next clone, nor into another server's
// data where pg_backupapi_remote_ssh_command leads to the wrong host.
const apiDirectory = "pg-backup-api-"

// newBackupAPI checks the four parameters.
func newBackupAPI(cfg *conf.Config) (*backupapi.Client, error) {
	var missing []string
	for _, p := range []struct{ name, value string }{{"pg_backupapi_node_name", cfg.PgBackupapiNodeName},
		{"pg_backupapi_backup_id", cfg.PgBackupapiBackupID}, {"pg_backupapi_remote_ssh_command", cfg.PgBackupapiRemoteSSHCommand}} {
		if p.value == "" {
			missing = append(missing, p.name)
		}
	}
	if len(missing) > 0 {
		return nil, fault.New(fault.BadConfig, "pg_backupapi_host is set, and not %s", strings.Join(missing, " and ")).
			WithHint("set all four in repmgr.conf, or take pg_backupapi_host out to copy the server itself")
	}
	return backupapi.New(cfg.PgBackupapiHost)
}

// surveyBackupAPI asks pg-backup-api for the backup, in place of surveyBackup.
func (w *World) surveyBackupAPI(ctx context.Context, v *CloneSurvey, r CloneRequest) error {
	c, err := newBackupAPI(w.cfg)
	if err != nil {
		return err
	}
	if err := c.Status(ctx); err != nil {
		return err
	}
	b := &ops.APIBackup{URL: c.URL(), Server: w.cfg.PgBackupapiNodeName, ID: w.cfg.PgBackupapiBackupID, SSHCommand: w.cfg.PgBackupapiRemoteSSHCommand}
	if err := c.Knows(ctx, b.Server); err != nil {
		return err
	}
	w.api, v.Options.API = c, b
	if err := w.diagnosis(ctx, v); err != nil {
		return err
	}
	v.Options.ToolMajor = w.serverMajor(ctx)
	v.Options.Backup = ops.Backup{Path: r.DataDirectory, Command: fmt.Sprintf("a restore of backup %s, ordered at %s; Barman's host comes here by \"%s\"",
		b.ID, c.Operations(b.Server), b.SSHCommand)}
	for _, m := range w.cfg.TablespaceMapping {
		v.Options.Backup.Tablespaces = append(v.Options.Backup.Tablespaces, [2]string{m.Old, m.New})
	}
	for i, t := range v.Source.Tablespaces {
		if v.Source.Tablespaces[i].Target = t.Location; t.Target != t.Location {
			if v.Source.Tablespaces[i].State, err = w.DirectoryIs(ctx, t.Location); err != nil {
				return err
			}
		}
		w.fills = append(w.fills, t.Location)
	}
	return nil
}

// serverMajor is the major version of the server's program here; zero if it is not found.
func (w *World) serverMajor(ctx context.Context) int {
	program, err := pg.FindTool(w.cfg.PgBindir, "", "postgres")
	if err != nil {
		return 0
	}
	return toolMajor(ctx, program)
}

// diagnosis finds the backup in Barman's diagnosis. Where that is not to be had the
// clone goes on: the service may forbid it, or a server of Barman's not answer.
func (w *World) diagnosis(ctx context.Context, v *CloneSurvey) error {
	b := v.Options.API
	all, err := w.api.Backups(ctx, b.Server)
	if err != nil {
		if ctx.Err() == nil {
			w.warn(err)
			err = nil
		}
		return err
	}
	b.ID = resolve(b.ID, all)
	found, known := all[b.ID]
	if !known {
		return fault.New(fault.PgBackupAPIService, "pg-backup-api at %s has no backup %s of %q", b.URL, b.ID, b.Server).
			WithDetail("it has %s", newestBackups(all)).
			WithHint("correct pg_backupapi_backup_id in repmgr.conf: \"barman list-backups %s\" on Barman's host shows the ids", b.Server)
	}
	b.Known, b.Done, b.Status, b.Version, b.SystemID = true, found.Complete(), found.Status, found.Version, found.SystemID
	b.Diverged = w.divergedBackup(ctx, v.Source.SystemID, b.SystemID, cluster.Timeline(found.Timeline), found.EndLSN)
	if found.Size > 0 {
		v.Source.Size = found.Size
	}
	v.Source.Tablespaces = nil
	for _, location := range found.Locations() {
		one := ops.Tablespace{Location: location, Target: location}
		if one.State, err = w.DirectoryIs(ctx, location); err != nil {
			return err
		}
		v.Source.Tablespaces = append(v.Source.Tablespaces, one)
	}
	return nil
}

// newestBackups names the newest backups.
func newestBackups(all map[string]backupapi.Backup) string {
	ids := slices.Sorted(maps.Keys(all))
	if len(ids) == 0 {
		return "none"
	}
	return strings.Join(ids[max(0, len(ids)-5):], ", ")
}

// resolve is the id of a backup that Barman has a word for. The ids are times: the
// newest is the last in their order.
func resolve(id string, all map[string]backupapi.Backup) string {
	var complete []string
	for one, b := range all {
		if b.Complete() {
			complete = append(complete, one)
		}
	}
	slices.Sort(complete)
	switch {
	case len(complete) == 0:
	case id == "latest" || id == "last":
		return complete[len(complete)-1]
	case id == "oldest" || id == "first":
		return complete[0]
	}
	return id
}

// RestoreBackup has the backup restored, and makes sure of what has come.
func (w *World) RestoreBackup(ctx context.Context, r ops.RestoreBackup) error {
	to, err := filepath.Abs(filepath.Join(r.Path, partial)) // Barman's host has no idea of our working directory
	if err != nil {
		return fault.Wrap(err, fault.BadConfig, "data directory %s", r.Path)
	}
	box := filepath.Join(to, apiDirectory+rand.Text())
	operation, err := w.restoreBackup(ctx, r, to, box)
	if err == nil {
		return nil
	}
	w.warn(w.endRestore(r.Backup.Server, operation, box)) // it would go on writing where all is removed now
	if ctx.Err() != nil {
		err = fault.Wrap(ctx.Err(), fault.BadBasebackup, "the clone was broken off").
			WithHint("what it had made is removed; clone again")
		if operation != "" {
			w.warn(fault.New(fault.PgBackupAPIService, "operation %s of pg-backup-api cannot be called off", operation).
				WithDetail("what it still has running on this host was ended, so that it fails; it is \"barman recover\" on Barman's host").
				WithHint("if it runs on there, end it there"))
		}
	}
	return err
}

func (w *World) restoreBackup(ctx context.Context, r ops.RestoreBackup, to, box string) (operation string, err error) {
	if err := os.Mkdir(box, 0o700); err != nil {
		return "", fault.Wrap(err, fault.BadConfig, "directory %s cannot be written to", to)
	}
	b, copied := r.Backup, filepath.Join(box, "data")
	operation, err = w.api.Begin(ctx, backupapi.Restore{Server: b.Server, BackupID: b.ID, SSHCommand: b.SSHCommand, Directory: copied})
	if err != nil {
		return "", err
	}
	if err := w.api.Wait(ctx, b.Server, operation, w.tellRestore(operation, copied)); err != nil {
		return operation, err
	}
	if err := w.arrived(ctx, r, operation, copied); err != nil {
		return operation, err
	}
	if err := tidy(copied); err != nil {
		return operation, fault.Wrap(err, fault.BadBasebackup, "what was restored could not be made a standby's")
	}
	if err := moveUp(copied, to); err != nil {
		return operation, fault.Wrap(err, fault.BadBasebackup, "what was restored could not be put in place")
	}
	if err := errors.Join(os.Remove(copied), os.Remove(box)); err != nil {
		return operation, fault.Wrap(err, fault.BadBasebackup, "what was restored could not be put in place")
	}
	if err := makeDirectories(to, ""); err != nil {
		return operation, err
	}
	for _, dir := range append([]string{to}, w.fills...) {
		// The backup may lack a tablespace that the source has.
		if err := flush(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return operation, fault.Wrap(err, fault.BadBasebackup, "%s could not be written to disk", dir)
		}
	}
	return operation, nil
}

// endRestoreTimeout bounds how long endRestore waits for the service to say that a restore
// has ended, and endRestorePause lies between two questions.
const (
	endRestoreTimeout = 10 * time.Second
	endRestorePause   = 200 * time.Millisecond
)

// endRestore ends what a restore has running on this host, so that it fails. Barman copies
// by one rsync after the other: while the service says that the restore goes on, the next
// one may begin. Once its directory is gone one that comes anew finds no place to write to.
func (w *World) endRestore(server, operation, box string) error {
	err := errors.Join(endCopies(box, w.fills), os.RemoveAll(box))
	if operation != "" {
		ctx, cancel := context.WithTimeout(context.Background(), endRestoreTimeout) // the clone itself may have been broken off
		defer cancel()
		often := *w.api
		often.Interval = endRestorePause
		_ = often.Wait(ctx, server, operation, func(time.Duration) { err = errors.Join(err, endCopies(box, w.fills)) }) // how it ends is no matter
	}
	return errors.Join(err, endCopies(box, w.fills))
}

// endCopies ends what writes to the place of a restore and, of what copies, to its tablespaces.
func endCopies(box string, tablespaces []string) error {
	err := host.EndNaming(box)
	for _, dir := range tablespaces {
		err = errors.Join(err, host.EndNaming(dir, "rsync", "tar"))
	}
	return err
}

// endRestores ends the restores that a clone which was killed has left at work here.
func endRestores(path string) error {
	whole, err := filepath.Abs(filepath.Join(path, partial))
	if err != nil {
		return nil // no restore is ordered to such a place
	}
	boxes, err := os.ReadDir(whole)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, box := range boxes {
		if strings.HasPrefix(box.Name(), apiDirectory) {
			err = errors.Join(err, endCopies(filepath.Join(whole, box.Name()), nil))
		}
	}
	return err
}

// tellEvery is how often a restore is told of.
const tellEvery = 10 * time.Second

// tellRestore tells how long the restore takes, and how much has come: the service tells
// neither. To add up a large directory takes time itself, and is done the more rarely.
func (w *World) tellRestore(operation, dir string) func(time.Duration) {
	var told, pause time.Duration
	return func(elapsed time.Duration) {
		if w.opt.Restoring == nil || told > 0 && elapsed-told < max(tellEvery, pause) {
			return
		}
		began := time.Now()
		size := sizeOf(dir)
		told, pause = max(elapsed, 1), 20*time.Since(began)
		w.opt.Restoring(operation, elapsed, size)
	}
}

// sizeOf adds up the files below a directory, as far as they are there to be seen.
func sizeOf(dir string) (sum int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				sum += info.Size()
			}
		}
		return nil
	})
	return sum
}

// arrived makes sure that a data directory of this cluster has come to this host, that it
// is this user's, and that it can be brought to where it is consistent.
func (w *World) arrived(ctx context.Context, r ops.RestoreBackup, operation, dir string) error {
	b := r.Backup
	info, err := os.Stat(filepath.Join(dir, versionFile))
	if err != nil {
		return fault.Wrap(err, fault.PgBackupAPIService, "the restore is done, but nothing has come to this host").
			WithDetail("pg-backup-api says that operation %s is done; on the host that \"%s\" leads to, it has written %s", operation, b.SSHCommand, dir).
			WithHint("correct pg_backupapi_remote_ssh_command in repmgr.conf: run on Barman's host, it must lead to this host; remove that directory there")
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return fault.New(fault.PgBackupAPIService, "what was restored belongs to another user").
			WithDetail("its owner is user %d; this user is %d, and the server will run as that", st.Uid, os.Geteuid()).
			WithHint("let pg_backupapi_remote_ssh_command log in as this user")
	}
	if _, err := os.Stat(filepath.Join(dir, "backup_label")); err != nil {
		return fault.New(fault.PgBackupAPIService, "%s has no backup_label", b).
			WithDetail("without it a server would start from the wrong place, and its data would be corrupt").
			WithHint("take another backup with \"barman backup %s\"", b.Server)
	}
	major, err := pg.MajorVersion(dir)
	if err != nil {
		return err
	}
	b.Version = major * 10000
	if major == r.Version/10000 {
		control, err := pg.ReadControl(ctx, w.cfg.PgBindir, dir)
		if err != nil {
			return err
		}
		b.SystemID = control.SystemID
		if b.Diverged == "" {
			b.Diverged = w.divergedBackup(ctx, r.SystemID, control.SystemID, control.Timeline, control.Checkpoint.String())
		}
	}
	if err := b.Of(r.Source, r.SystemID, r.Version); err != nil {
		return err
	}
	if wal, _ := filepath.Glob(filepath.Join(dir, "pg_wal", "[0-9A-F]*")); len(wal) == 0 && w.cfg.RestoreCommand == "" {
		w.warn(fault.New(0, "Barman has restored no WAL").
			WithDetail("its recovery_options may say get-wal; the standby asks its upstream alone for WAL from the beginning of the backup on").
			WithHint("set restore_command in repmgr.conf, or in postgresql.auto.conf before the standby is started"))
	}
	return nil
}

// tidy takes out of a restored data directory what a new standby's must not have, and
// puts back what "barman recover" has changed in it.
func tidy(dir string) error {
	for _, name := range append([]string{"/.barman-recover.info"}, excluded...) {
		if name == "/pg_wal" || name == "/pg_tblspc" {
			continue // Barman fills them as they have to be
		}
		found, err := filepath.Glob(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		for _, path := range found {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	for _, depth := range []string{"*.origin", "*/*.origin"} {
		found, err := filepath.Glob(filepath.Join(dir, depth))
		if err != nil {
			return err
		}
		for _, path := range found {
			if err := putBack(strings.TrimSuffix(path, ".origin")); err != nil {
				return err
			}
		}
	}
	return nil
}

// disarmed is what "barman recover" makes of archive_command: a server that is to be looked
// at must not archive. A standby that is promoted must, or its WAL fills the disk.
var disarmed = regexp.MustCompile(`(?m)^#BARMAN#(\s*archive_command\b.*)\narchive_command = false$`)

func putBack(path string) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	whole := disarmed.ReplaceAll(text, []byte("$1"))
	if string(whole) == string(text) {
		return nil
	}
	return host.WriteFileDurable(path, whole, 0o600)
}

// moveUp moves all that is in one directory into another of the same file system.
func moveUp(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Rename(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
