package registry

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"repmgr/internal/backupapi"
	"repmgr/internal/conf"
	"repmgr/internal/fault"
	"repmgr/internal/ops"
)

func TestBackupsThatBarmanHasAWordFor(t *testing.T) {
	all := map[string]backupapi.Backup{"20260101T000000": {Status: "DONE"}, "20260102T000000": {Status: "WAITING_FOR_WALS"},
		"20260103T000000": {Status: "FAILED"}, "20251231T000000": {Status: "FAILED"}}
	for id, want := range map[string]string{"latest": "20260102T000000", "last": "20260102T000000", "first": "20260101T000000",
		"oldest": "20260101T000000", "20260103T000000": "20260103T000000", "nosuch": "nosuch"} {
		if got := resolve(id, all); got != want {
			t.Errorf("%s: got %s, want %s", id, got, want)
		}
	}
	if got := resolve("latest", nil); got != "latest" {
		t.Errorf("got %s of no backups", got)
	}
}

func TestParametersOfPgBackupAPIAreSetTogether(t *testing.T) {
	cfg := &conf.Config{PgBackupapiHost: "backup", PgBackupapiNodeName: "main"}
	_, err := newBackupAPI(cfg)
	if fault.CodeOf(err) != fault.BadConfig || !strings.Contains(err.Error(), "not pg_backupapi_backup_id and pg_backupapi_remote_ssh_command") {
		t.Errorf("got %v", err)
	}
	cfg.PgBackupapiBackupID, cfg.PgBackupapiRemoteSSHCommand = "latest", "ssh node2"
	if _, err := newBackupAPI(cfg); err != nil {
		t.Error(err)
	}
}

// A restore may have ended well on another host, and what came may lack what it needs.
func TestARestoreThatDidNotArrive(t *testing.T) {
	w, dir := NewWorld(&conf.Config{}, WorldOptions{}), t.TempDir()
	arrived := func(wants ...string) {
		t.Helper()
		err := w.arrived(context.Background(), ops.RestoreBackup{Backup: ops.APIBackup{ID: "1", Server: "main"}, Version: 150000}, "1", dir)
		if fault.CodeOf(err) != fault.PgBackupAPIService || !strings.Contains(err.Error(), wants[0]) {
			t.Errorf("got %v, want %q", err, wants[0])
		}
	}
	arrived("nothing has come to this host")
	version := filepath.Join(dir, versionFile)
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(version, "14\n")
	arrived("has no backup_label")
	write(filepath.Join(dir, "backup_label"), "START WAL LOCATION: 0/2000028\n")
	arrived("another major version")
	if os.Geteuid() == 0 {
		if err := os.Chown(version, 65534, -1); err != nil {
			t.Fatal(err)
		}
		arrived("belongs to another user")
	}
}

// What "barman recover" changes is as Barman 3.4 writes it.
func TestWhatBarmanHasChangedIsPutBack(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	mangled := "port = 5432\n#BARMAN#archive_command = 'cp %p /archive/%f'\t# ours\narchive_command = false\n#BARMAN#recovery_target_time = ''\narchive_mode = on\n"
	for name, text := range map[string]string{"postgresql.conf": mangled, "postgresql.conf.origin": "x", "conf.d/a.conf": mangled, "conf.d/a.conf.origin": "x",
		"other.conf": mangled, "recovery.signal": "", ".barman-recover.info": "", "postmaster.opts": "", "tablespace_map": "", "pg_replslot/a/state": "",
		"pg_notify/0000": "", "pg_wal/000000010000000000000002": "", "pg_tblspc/16384": "", "base/1/1": ""} {
		if err := os.MkdirAll(filepath.Dir(path(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := tidy(dir); err != nil {
		t.Fatal(err)
	}
	whole := "port = 5432\narchive_command = 'cp %p /archive/%f'\t# ours\n#BARMAN#recovery_target_time = ''\narchive_mode = on\n"
	for name, want := range map[string]string{"postgresql.conf": whole, "conf.d/a.conf": whole, "other.conf": mangled} {
		if got, err := os.ReadFile(path(name)); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"recovery.signal", ".barman-recover.info", "postmaster.opts", "tablespace_map", "pg_replslot/a", "pg_notify/0000"} {
		if _, err := os.Lstat(path(name)); err == nil {
			t.Errorf("%s is left", name)
		}
	}
	for _, name := range []string{"pg_wal/000000010000000000000002", "pg_tblspc/16384", "base/1/1", "pg_notify"} {
		if _, err := os.Lstat(path(name)); err != nil {
			t.Error(err)
		}
	}
}
