package registry

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"repmgr/internal/cluster"
)

// Endpoint is where a node's daemon listens.
type Endpoint struct {
	Host string `json:"host"`
	Port int    `json:"port"`
}

// Endpoints returns where each node's daemon listens; a node that was
// registered by repmgr 5 has no entry.
func Endpoints(ctx context.Context, q Querier) (map[cluster.NodeID]Endpoint, error) {
	const what = "read the daemons' addresses"
	all := map[cluster.NodeID]Endpoint{}
	if found, err := exists(ctx, q, "repmgr.endpoints"); err != nil || !found {
		return all, explain(err, what)
	}
	rows, err := q.Query(ctx, endpointsSQL)
	if err != nil {
		return nil, explain(err, what)
	}
	err = eachEndpoint(rows, all)
	return all, explain(err, what)
}

const endpointsSQL = "SELECT node_id, host, port FROM repmgr.endpoints"

func eachEndpoint(rows pgx.Rows, all map[cluster.NodeID]Endpoint) error {
	var id cluster.NodeID
	var e Endpoint
	_, err := pgx.ForEachRow(rows, []any{&id, &e.Host, &e.Port}, func() error {
		all[id] = e
		return nil
	})
	return err
}

// SaveEndpoint records where the daemon of a registered node listens.
func SaveEndpoint(ctx context.Context, q Querier, id cluster.NodeID, e Endpoint) error {
	_, err := q.Exec(ctx, `
		INSERT INTO repmgr.endpoints AS old (node_id, host, port) VALUES ($1, $2, $3)
		ON CONFLICT (node_id) DO UPDATE SET host = excluded.host, port = excluded.port
		WHERE (old.host, old.port) IS DISTINCT FROM (excluded.host, excluded.port)`, int(id), e.Host, e.Port)
	return explain(err, fmt.Sprintf("save the daemon's address of node %d", id))
}

// Authority returns the cluster's certificate authority in PEM; found is false
// where none was made yet.
func Authority(ctx context.Context, q Querier) (certificate, key []byte, found bool, err error) {
	const what = "read the certificate authority"
	if found, err = exists(ctx, q, "repmgr.authority"); err != nil || !found {
		return nil, nil, false, explain(err, what)
	}
	err = q.QueryRow(ctx, authoritySQL).Scan(&certificate, &key)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil, false, nil
	}
	return certificate, key, err == nil, explain(err, what)
}

const authoritySQL = "SELECT certificate, private_key FROM repmgr.authority"

// SaveAuthority stores the certificate authority, unless there is one already:
// a second one would cut off the daemons that hold certificates of the first.
func SaveAuthority(ctx context.Context, q Querier, certificate, key []byte) error {
	_, err := q.Exec(ctx, `INSERT INTO repmgr.authority (certificate, private_key)
		VALUES ($1, $2) ON CONFLICT DO NOTHING`, string(certificate), string(key))
	return explain(err, "save the certificate authority")
}

// replaceAuthority is for a witness, whose authority is the primary's.
func replaceAuthority(ctx context.Context, q Querier, certificate, key []byte) error {
	_, err := q.Exec(ctx, `
		INSERT INTO repmgr.authority AS old (certificate, private_key) VALUES ($1, $2)
		ON CONFLICT ((TRUE)) DO UPDATE SET certificate = excluded.certificate, private_key = excluded.private_key
		WHERE (old.*) IS DISTINCT FROM (excluded.*)`, string(certificate), string(key))
	return err
}

// Term returns the voting term; zero where none was recorded yet.
func Term(ctx context.Context, q Querier) (int, error) {
	var term int
	err := q.QueryRow(ctx, "SELECT COALESCE(max(term), 0) FROM repmgr.voting_term").Scan(&term)
	return term, explain(err, "read the voting term")
}

// StartTerm records the first voting term; a term that was recorded before stays.
func StartTerm(ctx context.Context, q Querier) error {
	_, err := q.Exec(ctx, "INSERT INTO repmgr.voting_term (term) VALUES (1) ON CONFLICT DO NOTHING")
	return explain(err, "record the voting term")
}

// RaiseTerm adds one to the voting term, as after each automatic failover, and
// returns the new one.
func RaiseTerm(ctx context.Context, q Querier) (int, error) {
	if err := StartTerm(ctx, q); err != nil {
		return 0, err
	}
	var term int
	err := q.QueryRow(ctx, "UPDATE repmgr.voting_term SET term = term + 1 RETURNING term").Scan(&term)
	return term, explain(err, "raise the voting term")
}
