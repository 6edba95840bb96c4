package registry

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/host"
	"repmgr/internal/pg"
)

// notifyTimeout bounds a run of event_notification_command.
const notifyTimeout = 60 * time.Second

// Event is something that happened to a node, as repmgr.events keeps it and
// event_notification_command is told it.
type Event struct {
	Node       cluster.NodeID `json:"node_id"`
	NodeName   string         `json:"node_name"` // only filled by Events; empty for a node that is not registered any more
	Name       string         `json:"event"`
	Successful bool           `json:"successful"`
	At         time.Time      `json:"timestamp"`
	Details    string         `json:"details"`

	// About is the node that %p, %c and %a speak of; what is empty in it
	// expands to nothing.
	About cluster.Node `json:"-"`
}

// lateEvent is the age from which an event is recorded under its own time: it
// happened while there was no primary to record it.
const lateEvent = 2 * time.Second

// RecordEvent inserts the event if c is a connection to a server that is not in
// recovery, and sets the event's time to the server's. It is no error that c is
// nil or a standby's: then the event only has the local time, and is not kept.
func RecordEvent(ctx context.Context, c *pg.Conn, e *Event) error {
	if e.At.IsZero() {
		e.At = time.Now()
	}
	if c == nil || c.Conn == nil {
		return nil
	}
	var happened *time.Time // nil: now, by the server's clock
	if time.Since(e.At) > lateEvent {
		happened = &e.At
	}
	err := c.QueryRow(ctx, `INSERT INTO repmgr.events (node_id, event, successful, details, event_timestamp)
		VALUES ($1, $2, $3, NULLIF($4, ''), COALESCE($5::timestamptz, CURRENT_TIMESTAMP)) RETURNING event_timestamp`,
		int(e.Node), e.Name, e.Successful, e.Details, happened).Scan(&e.At)
	if stateOf(err) == readOnly {
		return nil
	}
	return explain(err, "record the event "+e.Name)
}

// EventFilter selects rows of repmgr.events.
type EventFilter struct {
	Node     cluster.NodeID // zero: of any node
	NodeName string         // empty: of any name
	Name     string         // the event's; empty: any
	Limit    int            // zero or less: no limit
}

// Events returns the events that f selects, newest first.
func Events(ctx context.Context, q Querier, f EventFilter) ([]Event, error) {
	const what = "read the events"
	rows, err := q.Query(ctx, `
		SELECT e.node_id, COALESCE(n.node_name, ''), e.event, e.successful, e.event_timestamp, COALESCE(e.details, '')
		  FROM repmgr.events AS e LEFT JOIN repmgr.nodes AS n ON n.node_id = e.node_id
		 WHERE ($1 = 0 OR e.node_id = $1) AND ($2 = '' OR n.node_name = $2) AND ($3 = '' OR e.event = $3)
		 ORDER BY e.event_timestamp DESC, e.ctid DESC
		 LIMIT NULLIF($4, 0)`, int(f.Node), f.NodeName, f.Name, max(f.Limit, 0))
	if err != nil {
		return nil, explain(err, what)
	}
	events, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Event, error) {
		var e Event
		return e, row.Scan(&e.Node, &e.NodeName, &e.Name, &e.Successful, &e.At, &e.Details)
	})
	return events, explain(err, what)
}

// Notify runs event_notification_command, if it is set and event_notifications
// does not leave the event out. Its error is a warning for the operator: a
// notification that fails changes nothing about what happened.
func Notify(ctx context.Context, cfg *conf.Config, e Event) error {
	filter := cfg.EventNotifications
	if cfg.EventNotificationCommand == "" || len(filter) > 0 && !slices.Contains(filter, e.Name) {
		return nil
	}
	command := Expand(cfg.EventNotificationCommand, eventValues(e))
	result, err := host.Run(ctx, host.Cmd{Shell: command, Timeout: notifyTimeout})
	if err != nil {
		return fmt.Errorf("event_notification_command for %s: %w", e.Name, err)
	}
	if result.ExitCode != 0 {
		return fmt.Errorf("event_notification_command for %s ended with status %d", e.Name, result.ExitCode)
	}
	return nil
}

// Announce records the event by c, which may be nil, and notifies of it. The
// errors of both are joined into one warning.
func Announce(ctx context.Context, c *pg.Conn, cfg *conf.Config, e Event) error {
	errRecord := RecordEvent(ctx, c, &e)
	errNotify := Notify(ctx, cfg, e)
	if errRecord != nil && errNotify != nil {
		return fmt.Errorf("%w; %w", errRecord, errNotify)
	}
	if errRecord != nil {
		return errRecord
	}
	return errNotify
}

// eventValues is what the placeholders of event_notification_command stand for.
func eventValues(e Event) map[byte]string {
	success := "0"
	if e.Successful {
		success = "1"
	}
	values := map[byte]string{
		'n': strconv.Itoa(int(e.Node)),
		'e': e.Name,
		's': success,
		't': e.At.Format("2006-01-02 15:04:05.999999-07"),
		'd': e.Details,
		'p': "",
		'c': e.About.Conninfo,
		'a': e.About.Name,
	}
	if e.About.ID != 0 {
		values['p'] = strconv.Itoa(int(e.About.ID))
	}
	return values
}

// Expand puts values in the place of %x in a shell command; %% is one %, and a
// letter that values does not have is left as it is. What is put in cannot end
// the quotes that it stands in, nor run anything: between single or double
// quotes it arrives as it is; outside of quotes it is split at blanks, as it
// was with repmgr 5, and nothing else in it is special to the shell.
func Expand(command string, values map[byte]string) string {
	var out strings.Builder
	quote := byte(0)
	for i := 0; i < len(command); i++ {
		c := command[i]
		switch {
		case c == '%' && i+1 < len(command) && command[i+1] == '%':
			out.WriteByte('%')
			i++
			continue
		case c == '%' && i+1 < len(command):
			if v, ok := values[command[i+1]]; ok {
				out.WriteString(shellSafe(v, quote))
				i++
				continue
			}
		case c == '\\' && quote != '\'' && i+1 < len(command):
			out.WriteByte(c)
			i++
			c = command[i]
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
		case c == quote:
			quote = 0
		}
		out.WriteByte(c)
	}
	return out.String()
}

// shellSafe escapes what the shell would not take literally within that quote.
func shellSafe(v string, quote byte) string {
	switch quote {
	case '\'':
		return strings.ReplaceAll(v, `'`, `'\''`)
	case '"':
		return escapeEach(v, "\\\"$`")
	default:
		// A newline would end the command, and cannot be escaped.
		return escapeEach(strings.ReplaceAll(v, "\n", " "), "\\\"'$`|&;<>()*?[]#~=!{}")
	}
}

// escapeEach puts a backslash before every character of v that is in special.
func escapeEach(v, special string) string {
	var out strings.Builder
	for _, r := range v {
		if strings.ContainsRune(special, r) {
			out.WriteByte('\\')
		}
		out.WriteRune(r)
	}
	return out.String()
}
