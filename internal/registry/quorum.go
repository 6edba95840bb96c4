package registry

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/pg"
)

// Founding is what the database knows of the daemons' group.
type Founding struct {
	Group string // uuid; empty: no group was founded
	Rule  string // in force when it was last written: "quorum" or "visibility"
}

// ReadFounding returns what is recorded of the group.
func ReadFounding(ctx context.Context, q Querier) (Founding, error) {
	const what = "read the founding of the group"
	if found, err := exists(ctx, q, "repmgr.quorum"); err != nil || !found {
		return Founding{}, explain(err, what)
	}
	var f Founding
	err := q.QueryRow(ctx, foundingSQL).Scan(&f.Group, &f.Rule)
	if errors.Is(err, pgx.ErrNoRows) {
		return Founding{}, nil
	}
	return f, explain(err, what)
}

const foundingSQL = "SELECT founding, rule FROM repmgr.quorum"

// RecordFounding records a new group, again if that was done already. One that was founded before is a fault: a
// second one would be a second majority (safety notes, B9).
func RecordFounding(ctx context.Context, c *pg.Conn, group string, by cluster.NodeID) error {
	if _, err := Migrate(ctx, c); err != nil {
		return err
	}
	tag, err := c.Conn.Exec(ctx, "INSERT INTO repmgr.quorum (founding, node_id) VALUES ($1, $2) ON CONFLICT DO NOTHING", group, int(by))
	if err != nil {
		return explain(err, "record the founding of the group")
	}
	if tag.RowsAffected() == 0 {
		if f, err := ReadFounding(ctx, c.Conn); err == nil && f.Group == group {
			return nil // by this node, which did not come any further
		}
		return fault.New(fault.BadConfig, "a group was founded before, and this node has no part of it").
			WithHint("If its other members run, they take this node in. If all their state directories are lost: repmgr cluster reset-quorum")
	}
	return nil
}

// RecordRule records which rule is in force.
func RecordRule(ctx context.Context, q Querier, group, rule string) error {
	_, err := q.Exec(ctx, "UPDATE repmgr.quorum SET rule = $2 WHERE founding = $1 AND rule <> $2", group, rule)
	return explain(err, "record which rule is in force")
}

// ForgetFounding lets a new group be founded. The old one must be lost for ever.
func ForgetFounding(ctx context.Context, q Querier) error {
	_, err := q.Exec(ctx, "DELETE FROM repmgr.quorum")
	return explain(err, "forget the founding of the group")
}
