// Package registry owns the repmgr schema (its migrations and every query on
// it), the way to every registered node, the event record, and the world in
// which the plans of package ops are carried out. It decides nothing: which
// server becomes primary, or whom a standby follows, is said to it.
package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/pg"
)

// ErrNoRecord reports that repmgr.nodes has no row of the node asked for.
var ErrNoRecord = errors.New("no such record")

// Querier runs statements: a *pg.Conn, or a transaction on one.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// SQLSTATEs that an operator can do something about.
const (
	undefinedTable   = "42P01"
	undefinedSchema  = "3F000"
	noPrivilege      = "42501"
	readOnly         = "25006"
	foreignViolation = "23503"
)

// stateOf is the SQLSTATE of err, or empty when the server did not send one.
func stateOf(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// explain turns a failed statement into what an operator reads; what is a
// lower-case phrase that names the step.
func explain(err error, what string) error {
	if err == nil || errors.Is(err, ErrNoRecord) {
		return err
	}
	f := fault.Wrap(err, fault.DBQuery, "could not %s", what)
	switch stateOf(err) {
	case undefinedTable, undefinedSchema:
		f.Code = fault.BadConfig
		f.WithDetail("the database has no repmgr metadata").
			WithHint("check that conninfo names the right database; \"repmgr primary register\" creates the metadata")
	case noPrivilege:
		f.WithHint("connect as the user who registered the primary, or let a superuser grant that user the privilege")
	case readOnly:
		f.WithDetail("the server is in recovery").WithHint("metadata is written on the primary only")
	case foreignViolation:
		f.WithHint("let the nodes that have this node as their upstream follow another first")
	}
	return f
}

// inTx runs change in one transaction on c.
func inTx(ctx context.Context, c *pg.Conn, what string, change func(q Querier) error) error {
	return explain(pgx.BeginFunc(ctx, c.Conn, func(tx pgx.Tx) error { return change(tx) }), what)
}

// exists tells whether there is a relation of that qualified name.
func exists(ctx context.Context, q Querier, relation string) (bool, error) {
	var found bool
	err := q.QueryRow(ctx, "SELECT pg_catalog.to_regclass($1) IS NOT NULL", relation).Scan(&found)
	return found, err
}

const nodeColumns = `node_id, COALESCE(upstream_node_id, 0), active, node_name, type, location,
	priority, conninfo, repluser, COALESCE(slot_name, ''), config_file`

const nodesSQL = "SELECT " + nodeColumns + " FROM repmgr.nodes ORDER BY node_id"

func scanNode(row pgx.CollectableRow) (cluster.Node, error) {
	var n cluster.Node
	var role string
	err := row.Scan(&n.ID, &n.Upstream, &n.Active, &n.Name, &role, &n.Location,
		&n.Priority, &n.Conninfo, &n.ReplUser, &n.SlotName, &n.ConfigFile)
	n.Role = cluster.ParseRole(role)
	return n, err
}

// Nodes returns every record of repmgr.nodes, ordered by node id.
func Nodes(ctx context.Context, q Querier) ([]cluster.Node, error) {
	rows, err := q.Query(ctx, nodesSQL)
	if err != nil {
		return nil, explain(err, "read the registered nodes")
	}
	nodes, err := pgx.CollectRows(rows, scanNode)
	return nodes, explain(err, "read the registered nodes")
}

// Node returns the record of one node, or an error that wraps ErrNoRecord.
func Node(ctx context.Context, q Querier, id cluster.NodeID) (cluster.Node, error) {
	what := fmt.Sprintf("read the record of node %d", id)
	rows, err := q.Query(ctx, "SELECT "+nodeColumns+" FROM repmgr.nodes WHERE node_id = $1", int(id))
	if err != nil {
		return cluster.Node{}, explain(err, what)
	}
	n, err := pgx.CollectExactlyOneRow(rows, scanNode)
	if errors.Is(err, pgx.ErrNoRows) {
		return n, fmt.Errorf("%s: %w", what, ErrNoRecord)
	}
	return n, explain(err, what)
}

const upsertNode = `
	INSERT INTO repmgr.nodes AS old (node_id, upstream_node_id, active, node_name, type, location,
	                                 priority, conninfo, repluser, slot_name, config_file)
	VALUES ($1, NULLIF($2, 0), $3, $4, $5, $6, $7, $8, $9, NULLIF($10, ''), $11)
	ON CONFLICT (node_id) DO UPDATE SET
	    upstream_node_id = excluded.upstream_node_id, active = excluded.active,
	    node_name = excluded.node_name, type = excluded.type, location = excluded.location,
	    priority = excluded.priority, conninfo = excluded.conninfo, repluser = excluded.repluser,
	    slot_name = excluded.slot_name, config_file = excluded.config_file
	WHERE (old.*) IS DISTINCT FROM (excluded.*)`

func saveNode(ctx context.Context, q Querier, n cluster.Node) error {
	_, err := q.Exec(ctx, upsertNode, int(n.ID), int(n.Upstream), n.Active, n.Name, n.Role.String(), n.Location,
		n.Priority, n.Conninfo, n.ReplUser, n.SlotName, n.ConfigFile)
	return err
}

// SaveNode inserts the record, or makes the one of the same node id like it.
func SaveNode(ctx context.Context, q Querier, n cluster.Node) error {
	return explain(saveNode(ctx, q, n), fmt.Sprintf("save the record of node %d", n.ID))
}

// DeleteNode removes a record, and with it the node's endpoint. Removing one
// that is not there is no error; removing the upstream of others is.
func DeleteNode(ctx context.Context, q Querier, id cluster.NodeID) error {
	_, err := q.Exec(ctx, "DELETE FROM repmgr.nodes WHERE node_id = $1", int(id))
	return explain(err, fmt.Sprintf("delete the record of node %d", id))
}

// SetActive records whether a node counts as a member.
func SetActive(ctx context.Context, q Querier, id cluster.NodeID, active bool) error {
	return change(ctx, q, id, "set the active flag of",
		"UPDATE repmgr.nodes SET active = $2 WHERE node_id = $1", int(id), active)
}

// SetSlotName records the replication slot that a node uses on its upstream.
func SetSlotName(ctx context.Context, q Querier, id cluster.NodeID, slot string) error {
	return change(ctx, q, id, "set the slot name of",
		"UPDATE repmgr.nodes SET slot_name = NULLIF($2, '') WHERE node_id = $1", int(id), slot)
}

// change runs an UPDATE that must find the node's row.
func change(ctx context.Context, q Querier, id cluster.NodeID, what, sql string, args ...any) error {
	what = fmt.Sprintf("%s node %d", what, id)
	tag, err := q.Exec(ctx, sql, args...)
	if err == nil && tag.RowsAffected() == 0 {
		return fmt.Errorf("%s: %w", what, ErrNoRecord)
	}
	return explain(err, what)
}

// RecordPromotion makes id the one active primary of the records, in one
// transaction: the records of other primaries become inactive, and witnesses
// without PostgreSQL name it.
func RecordPromotion(ctx context.Context, c *pg.Conn, id cluster.NodeID) error {
	what := fmt.Sprintf("record the promotion of node %d", id)
	return inTx(ctx, c, what, func(q Querier) error { return recordPromotion(ctx, q, id) })
}

// RecordSuccession is RecordPromotion under the quorum rule, where every daemon points its
// standby at the new primary: those that followed the former one are recorded behind nobody until
// then. One that was away would else find its upstream as a standby again, and stay a cascaded one
// behind it, which nobody has wished. Who follows the new primary has this recorded before itself, so
// that nobody is ever behind a primary that was not recorded. Where id is recorded already, as
// when it was promoted anew, wishes stand; who is left behind a former primary, as before the quorum
// rule began, is behind nobody all the same.
func RecordSuccession(ctx context.Context, c *pg.Conn, id cluster.NodeID) error {
	what := fmt.Sprintf("record the promotion of node %d", id)
	return inTx(ctx, c, what, func(q Querier) error {
		nodes, err := Nodes(ctx, q)
		if err != nil {
			return err
		}
		primaries := slices.DeleteFunc(nodes, func(n cluster.Node) bool { return n.Role != cluster.Primary || !n.Active })
		if len(primaries) != 1 || primaries[0].ID != id {
			if err := recordPromotion(ctx, q, id); err != nil {
				return err
			}
		}
		_, err = q.Exec(ctx, `UPDATE repmgr.nodes SET upstream_node_id = NULL
			WHERE type = 'standby' AND upstream_node_id IN (SELECT node_id FROM repmgr.nodes WHERE type = 'primary' AND NOT active)`)
		return explain(err, what)
	})
}

func recordPromotion(ctx context.Context, q Querier, id cluster.NodeID) error {
	_, err := q.Exec(ctx, `UPDATE repmgr.nodes SET active = false
		WHERE type = 'primary' AND active AND node_id <> $1`, int(id))
	if err != nil {
		return err
	}
	if err := repointPlainWitnesses(ctx, q, id); err != nil {
		return err
	}
	return change(ctx, q, id, "record the promotion of", `UPDATE repmgr.nodes
		SET type = 'primary', upstream_node_id = NULL, active = true WHERE node_id = $1`, int(id))
}

// repointPlainWitnesses lets the witnesses without PostgreSQL name the new primary:
// they have no connection by which to do it themselves.
func repointPlainWitnesses(ctx context.Context, q Querier, primary cluster.NodeID) error {
	nodes, err := Nodes(ctx, q)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if n.WithoutServer() && n.Upstream != primary {
			n.Upstream = primary
			if err := saveNode(ctx, q, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// CopyNodes makes the records, endpoints and the authority in the database of
// to like those in the database of from, in one transaction. Readers are not
// locked out, and nothing is written where nothing differs.
func CopyNodes(ctx context.Context, from, to *pg.Conn) error {
	nodes, err := Nodes(ctx, from)
	if err != nil {
		return err
	}
	endpoints, err := Endpoints(ctx, from)
	if err != nil {
		return err
	}
	certificate, key, found, err := Authority(ctx, from)
	if err != nil {
		return err
	}
	return inTx(ctx, to, "copy the records to the witness", func(q Querier) error {
		if err := copyNodes(ctx, q, nodes); err != nil {
			return err
		}
		for id, e := range endpoints {
			if err := SaveEndpoint(ctx, q, id, e); err != nil {
				return err
			}
		}
		if !found {
			return nil
		}
		return replaceAuthority(ctx, q, certificate, key)
	})
}

func copyNodes(ctx context.Context, q Querier, nodes []cluster.Node) error {
	if _, err := q.Exec(ctx, "SET CONSTRAINTS ALL DEFERRED"); err != nil {
		return err
	}
	keep := make([]int, len(nodes))
	for i, n := range nodes {
		keep[i] = int(n.ID)
		if err := saveNode(ctx, q, n); err != nil {
			return err
		}
	}
	_, err := q.Exec(ctx, "DELETE FROM repmgr.nodes WHERE NOT node_id = ANY ($1)", keep)
	return err
}
