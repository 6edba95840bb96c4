package lab

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// sqlTimeout bounds one question of the lab's own to a server.
const sqlTimeout = 20 * time.Second

// superuser connects through the socket, which no network failure touches.
func (n *Node) superuser(ctx context.Context, database string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(fmt.Sprintf("host=%s port=%d user=postgres dbname=%s sslmode=disable", n.Dir, n.Port, database))
	if err != nil {
		return nil, err
	}
	// The simple protocol answers with text whatever the type, and takes several statements.
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	config.RuntimeParams["application_name"] = "lab"
	return pgx.ConnectConfig(ctx, config)
}

// exec carries out statements as the superuser.
func (n *Node) exec(ctx context.Context, database, statements string) error {
	ctx, cancel := context.WithTimeout(ctx, sqlTimeout)
	defer cancel()
	conn, err := n.superuser(ctx, database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, statements)
	return err
}

// AppExec carries out statements in the client's database, as the superuser.
func (n *Node) AppExec(ctx context.Context, statements string) error {
	return n.exec(ctx, appRole, statements)
}

// Rows asks the server as its superuser, in the database repmgr, and returns
// every value as text; NULL is empty. The question may be a statement without an answer.
func (n *Node) Rows(ctx context.Context, query string, args ...any) ([][]string, error) {
	ctx, cancel := context.WithTimeout(ctx, sqlTimeout)
	defer cancel()
	conn, err := n.session(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", n.Name, err)
	}
	defer n.keepSession(ctx, conn)
	rows, err := conn.Query(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", n.Name, err)
	}
	defer rows.Close()
	var answer [][]string
	for rows.Next() {
		var row []string
		for _, value := range rows.RawValues() {
			row = append(row, string(value))
		}
		answer = append(answer, row)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("ask %s: %w", n.Name, err)
	}
	return answer, nil
}

// session is a session of the superuser in the database repmgr: the one that was kept,
// if its server still has it, or a new one. To be given to keepSession.
func (n *Node) session(ctx context.Context) (*pgx.Conn, error) {
	n.mu.Lock()
	kept := n.kept
	n.kept = nil
	n.mu.Unlock()
	if kept != nil {
		if err := kept.Ping(ctx); err == nil {
			return kept, nil
		}
		discard(kept)
	}
	return n.superuser(ctx, repmgrRole)
}

// keepSession keeps a session for the next question, in a lab that saves what it can:
// a session is a process of the server, and who waits for something asks often.
func (n *Node) keepSession(ctx context.Context, conn *pgx.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.lab.options.Unsynced || n.kept != nil || conn.IsClosed() || n.lab.ctx.Err() != nil {
		conn.Close(context.WithoutCancel(ctx))
		return
	}
	n.kept = conn
}

// closeSession closes the session that was kept.
func (n *Node) closeSession() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.kept != nil {
		discard(n.kept)
	}
	n.kept = nil
}

// SQL is Rows for a single value: the first of the first row, empty if there is none.
func (n *Node) SQL(ctx context.Context, query string, args ...any) (string, error) {
	rows, err := n.Rows(ctx, query, args...)
	if err != nil || len(rows) == 0 || len(rows[0]) == 0 {
		return "", err
	}
	return rows[0][0], nil
}

// InRecovery says whether the server is a standby.
func (n *Node) InRecovery(ctx context.Context) (bool, error) {
	answer, err := n.SQL(ctx, "SELECT pg_is_in_recovery()")
	return answer == "t", err
}

// Primaries are all data nodes that are up and not in recovery. A server that
// does not answer is none: it may only start.
func (l *Lab) Primaries(ctx context.Context) []*Node {
	var found []*Node
	for _, n := range l.Nodes {
		if n.Witness {
			continue
		}
		if standby, err := n.InRecovery(ctx); err == nil && !standby {
			found = append(found, n)
		}
	}
	return found
}

// Primary is the one data node that is up and not in recovery. Two of them is an error.
func (l *Lab) Primary(ctx context.Context) (*Node, error) {
	var found *Node
	var problems []error
	for _, n := range l.Nodes {
		if n.Witness {
			continue
		}
		standby, err := n.InRecovery(ctx)
		switch {
		case err != nil:
			problems = append(problems, err)
		case standby:
		case found != nil:
			return nil, fmt.Errorf("%s and %s both are primaries", found.Name, n.Name)
		default:
			found = n
		}
	}
	if found == nil {
		return nil, fmt.Errorf("no primary is up: %w", errors.Join(problems...))
	}
	return found, nil
}

// Attached says whether a standby streams from this node, by its name.
func (n *Node) Attached(ctx context.Context, standby *Node) (bool, error) {
	answer, err := n.SQL(ctx, "SELECT count(*) FROM pg_stat_replication WHERE regexp_replace(application_name, '@[0-9]+$', '') = $1 AND state = 'streaming'", standby.Name)
	return err == nil && answer != "0", err
}
