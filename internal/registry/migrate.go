package registry

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"repmgr/internal/fault"
	"repmgr/internal/pg"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrationLock is the key of the advisory lock that lets one session migrate
// at a time; the number itself means nothing.
const migrationLock = 0x7265706d6772

// Migrate brings the repmgr schema of c's database up to date, in one
// transaction: all of it or nothing. Tables of repmgr 5's extension are adopted
// as they are and only our own are added. It needs no more than CREATE on the
// database, and not even that where the schema exists and c's user owns it.
// created tells whether the metadata did not exist before.
func Migrate(ctx context.Context, c *pg.Conn) (created bool, err error) {
	err = pgx.BeginFunc(ctx, c.Conn, func(tx pgx.Tx) error {
		created, err = migrate(ctx, tx)
		return err
	})
	var known *fault.Error
	if err == nil || errors.As(err, &known) {
		return created, err
	}
	f := fault.Wrap(err, fault.BadConfig, "could not create the repmgr metadata")
	if stateOf(err) == noPrivilege {
		user, database := c.Config().User, c.Config().Database
		f.WithDetail("user %q may not create the schema repmgr, or tables in it, in database %q", user, database).
			WithHint("as a superuser: GRANT CREATE ON DATABASE %s TO %s; where the schema exists: GRANT ALL ON SCHEMA repmgr TO %[2]s and GRANT ALL ON ALL TABLES IN SCHEMA repmgr TO %[2]s; or name a superuser with --superuser",
				pgx.Identifier{database}.Sanitize(), pgx.Identifier{user}.Sanitize())
	}
	return false, f
}

func migrate(ctx context.Context, tx pgx.Tx) (created bool, err error) {
	if _, err := tx.Exec(ctx, "SELECT pg_catalog.pg_advisory_xact_lock($1)", int64(migrationLock)); err != nil {
		return false, err
	}
	version, err := schemaVersion(ctx, tx)
	if err == nil {
		err = refuseNewer(version)
	}
	if err != nil {
		return false, err
	}
	if version == 0 {
		found, err := exists(ctx, tx, "repmgr.nodes")
		if err != nil {
			return false, err
		}
		created = !found
		if err := prepareSchema(ctx, tx); err != nil {
			return false, err
		}
	}
	files, err := migrationFiles()
	if err != nil {
		return false, err
	}
	for _, file := range files {
		number := file.number
		if number <= version || number == 1 && !created {
			continue
		}
		text, err := migrations.ReadFile(file.name)
		if err != nil {
			return false, err
		}
		if _, err := tx.Exec(ctx, string(text)); err != nil {
			return false, fmt.Errorf("migration %d: %w", number, err)
		}
		version = number
	}
	_, err = tx.Exec(ctx, "UPDATE repmgr.schema_version SET version = $1 WHERE version < $1", version)
	return created, err
}

// prepareSchema makes the schema, if it is missing, and the table of our version.
func prepareSchema(ctx context.Context, tx pgx.Tx) error {
	var found bool
	err := tx.QueryRow(ctx, "SELECT pg_catalog.to_regnamespace('repmgr') IS NOT NULL").Scan(&found)
	if err != nil {
		return err
	}
	if !found {
		if _, err := tx.Exec(ctx, "CREATE SCHEMA repmgr"); err != nil {
			return err
		}
	}
	_, err = tx.Exec(ctx, `
		CREATE TABLE repmgr.schema_version (version integer NOT NULL);
		REVOKE ALL ON repmgr.schema_version FROM PUBLIC;
		INSERT INTO repmgr.schema_version VALUES (0)`)
	return err
}

// schemaVersion is the number of the last migration that was made; zero where
// none was, which includes a database of repmgr 5.
func schemaVersion(ctx context.Context, q Querier) (int, error) {
	found, err := exists(ctx, q, "repmgr.schema_version")
	if err != nil || !found {
		return 0, err
	}
	var version int
	err = q.QueryRow(ctx, "SELECT version FROM repmgr.schema_version").Scan(&version)
	return version, err
}

// breaking is what the number of a migration is rounded up to whose tables older programs
// cannot use: 1000, 2000 and so on. All others only add what older ones pass over, so that
// two versions of this program use one schema while a cluster is updated.
const breaking = 1000

// refuseNewer is why this program cannot use a schema of that number; nil if it can.
func refuseNewer(version int) error {
	known, err := latestMigration()
	if err != nil || version/breaking <= known/breaking {
		return err
	}
	return fault.New(fault.BadConfig, "the repmgr metadata was written by a newer version of repmgr").
		WithDetail("Schema version %d was found, this version knows %d, and can use those below %d.", version, known, (known/breaking+1)*breaking).
		WithHint("Update repmgr and repmgrd on this node. Nothing was changed.")
}

// migration is a file that brings the schema up to its number.
type migration struct {
	number int
	name   string
}

// migrationFiles are all migrations, in order.
func migrationFiles() ([]migration, error) {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	files := make([]migration, len(names))
	for i, name := range names {
		head, _, _ := strings.Cut(strings.TrimPrefix(name, "migrations/"), "_")
		number, err := strconv.Atoi(head)
		if err != nil {
			return nil, fmt.Errorf("%s: its name does not begin with a number: %w", name, err)
		}
		files[i] = migration{number, name}
	}
	return files, nil
}

// latestMigration is the number of the schema that this program makes.
func latestMigration() (int, error) {
	files, err := migrationFiles()
	if err != nil {
		return 0, err
	}
	return files[len(files)-1].number, nil
}

// Installed tells whether c's database holds the metadata (nodes) and whether all of it is
// there that this program makes (current). One that only a newer program can use is an error.
func Installed(ctx context.Context, q Querier) (nodes, current bool, err error) {
	const what = "look for the repmgr metadata"
	nodes, err = exists(ctx, q, "repmgr.nodes")
	if err != nil || !nodes {
		return nodes, false, explain(err, what)
	}
	version, err := schemaVersion(ctx, q)
	if stateOf(err) == noPrivilege { // who only asks for what is there, as a clone's user
		current, err = exists(ctx, q, "repmgr.authority")
		return nodes, current, explain(err, what)
	}
	if err != nil {
		return nodes, false, explain(err, what)
	}
	known, err := latestMigration()
	if err == nil {
		err = refuseNewer(version)
	}
	return nodes, err == nil && version >= known, err
}

// HandOver lets owner, who is no superuser, keep the metadata: super, a
// superuser's connection, makes the schema for it, or grants it what repmgr 5's
// extension left to the superuser. It is what "--superuser" is for.
func HandOver(ctx context.Context, super *pg.Conn, owner string) error {
	var found bool
	err := super.QueryRow(ctx, "SELECT pg_catalog.to_regnamespace('repmgr') IS NOT NULL").Scan(&found)
	if err != nil {
		return explain(err, "look for the schema repmgr")
	}
	role := pgx.Identifier{owner}.Sanitize()
	sql := "CREATE SCHEMA repmgr AUTHORIZATION " + role
	if found {
		sql = "GRANT ALL ON SCHEMA repmgr TO " + role + "; GRANT ALL ON ALL TABLES IN SCHEMA repmgr TO " + role
	}
	_, err = super.Exec(ctx, sql)
	return explain(err, "prepare the schema repmgr for user "+role)
}
