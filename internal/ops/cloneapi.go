package ops

import (
	"context"
	"fmt"

	"repmgr/internal/fault"
	"repmgr/internal/plan"
)

// APIBackup is a backup that pg-backup-api has Barman restore.
type APIBackup struct {
	URL        string // of the service
	Server     string // Barman's name of the cluster
	ID         string
	SSHCommand string // by which Barman's host reaches this one

	// What Barman's diagnosis tells of the backup, if it was to be had. What was
	// restored is looked at all the same.
	Known    bool
	Done     bool // Barman says that it is complete
	Status   string
	Version  int // PostgreSQL's, as server_version_num has it
	SystemID string
	Diverged string // why its history is not the primary's; empty: it is, or that is not known
}

// String names the backup.
func (b APIBackup) String() string {
	return fmt.Sprintf("backup %s of %q at %s", b.ID, b.Server, b.URL)
}

// Of checks what a backup, or what was restored of it, is of.
func (b APIBackup) Of(source string, systemID string, version int) error {
	from := origin{b.String(), b.SystemID, b.Version, b.Diverged}
	return from.check(fault.PgBackupAPIService, source, systemID, version, "pg_backupapi_node_name or pg_backupapi_backup_id",
		"take a new backup, and correct pg_backupapi_backup_id in repmgr.conf")
}

// checkAPI says why a standby cannot be made of the backup.
func checkAPI(_ Survey, src CloneSource, _ DirectoryState, o CloneOptions) error {
	b := o.API
	switch {
	case b == nil:
		return nil
	case o.VerifyBackup:
		return notVerifiable("take pg_backupapi_host out of repmgr.conf to copy the server itself")
	case !b.Known:
		return nil
	case !b.Done:
		return fault.New(fault.PgBackupAPIService, "%s is not complete", b).
			WithDetail("Barman says that it is %s", b.Status).
			WithHint("name another with pg_backupapi_backup_id in repmgr.conf, or take another")
	}
	return b.Of(src.Name, src.SystemID, src.Version)
}

// apiNotes is what the operator should know of a restore.
func apiNotes(o CloneOptions) []fault.Error {
	var notes []fault.Error
	if !o.API.Known {
		notes = append(notes, *fault.New(0, "Barman's diagnosis was not to be had").
			WithDetail("whether there is %s, and of which cluster it is, is seen only when it has been restored", o.API))
	}
	if len(o.Backup.Tablespaces) > 0 {
		notes = append(notes, *fault.New(0, "tablespace_mapping has no effect").
			WithDetail("pg-backup-api restores tablespaces to where they are on the server that was backed up"))
	}
	if o.RestoreCommand == "" && o.Slot == "" {
		notes = append(notes, *fault.New(0, "neither restore_command nor use_replication_slots is set").
			WithDetail("the standby gets what Barman has of WAL, and asks its upstream for the rest, which may have removed it").
			WithHint("set one of the two in repmgr.conf"))
	}
	return notes
}

// RestoreBackup has a backup of Barman's restored into the data directory. What it leaves
// when it fails goes with the directory.
type RestoreBackup struct {
	Path   string
	Backup APIBackup

	// What it must be of.
	Source   string // in words
	SystemID string
	Version  int // as server_version_num has it
}

// Describe says what the step does.
func (s RestoreBackup) Describe() string {
	return "have " + s.Backup.String() + " restored by pg-backup-api"
}

// Check is always ready.
func (s RestoreBackup) Check(context.Context, World) (plan.Status, error) { return ready, nil }

// Do has it restored.
func (s RestoreBackup) Do(ctx context.Context, w World) error { return w.RestoreBackup(ctx, s) }

// Undo has nothing to do.
func (s RestoreBackup) Undo(context.Context, World) error { return nil }
