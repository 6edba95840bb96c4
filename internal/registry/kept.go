package registry

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"repmgr/internal/cluster"
	"repmgr/internal/pg"
)

// Kept is what a daemon reads of the metadata again and again.
type Kept struct {
	Nodes            []cluster.Node              // ordered by node id
	Endpoints        map[cluster.NodeID]Endpoint // of repmgr 5's nodes there are none
	Founding         Founding                    // zero: no group was founded
	Certificate, Key []byte                      // of the certificate authority, in PEM; empty: there is none
}

// ReadKept reads all of it in two round trips: each is a process that is woken, and
// this one with it. Tables that are not there, as where repmgr 5 made it, are empty ones.
func ReadKept(ctx context.Context, c *pg.Conn) (Kept, error) {
	const what = "read the repmgr metadata"
	var endpoints, founding, authority bool
	err := c.QueryRow(ctx, `SELECT pg_catalog.to_regclass('repmgr.endpoints') IS NOT NULL,
		pg_catalog.to_regclass('repmgr.quorum') IS NOT NULL, pg_catalog.to_regclass('repmgr.authority') IS NOT NULL`).Scan(&endpoints, &founding, &authority)
	if err != nil {
		return Kept{}, explain(err, what)
	}
	k := Kept{Endpoints: map[cluster.NodeID]Endpoint{}}
	b := &pgx.Batch{}
	b.Queue(nodesSQL).Query(func(rows pgx.Rows) (err error) { k.Nodes, err = pgx.CollectRows(rows, scanNode); return err })
	if endpoints {
		b.Queue(endpointsSQL).Query(func(rows pgx.Rows) error { return eachEndpoint(rows, k.Endpoints) })
	}
	if founding {
		b.Queue(foundingSQL).QueryRow(func(row pgx.Row) error { return orNone(row.Scan(&k.Founding.Group, &k.Founding.Rule)) })
	}
	if authority {
		b.Queue(authoritySQL).QueryRow(func(row pgx.Row) error { return orNone(row.Scan(&k.Certificate, &k.Key)) })
	}
	return k, explain(c.SendBatch(ctx, b).Close(), what)
}

// orNone takes a table without a row for none.
func orNone(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return err
}
