package record

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"repmgr/internal/cluster"
)

// Change is one thing that may happen to the record. Changes are comparable
// values. Apply says which are accepted; a refused one leaves the record as it is.
type Change interface {
	// apply returns why it is refused, or "".
	apply(r *Record, at time.Time) string
}

type (
	// Begin starts the quorum rule: its proposer is the primary, is armed, and
	// holds the lease from now on. Term is that of the record for which it was decided.
	Begin struct {
		Term        uint64         `json:"term"`
		Node        cluster.NodeID `json:"node_id"`
		Incarnation string         `json:"incarnation"`
		Line        Line           `json:"line"`
		LSN         cluster.LSN    `json:"lsn"`
		TTL         time.Duration  `json:"ttl_ns"`
		MaximumLag  int64          `json:"maximum_lag"`
		Life        uint64         `json:"life"` // of the daemon that proposes it
	}
	// End goes back to the visibility rule; the holder asks for it.
	End struct {
		Term uint64         `json:"term"`
		Node cluster.NodeID `json:"node_id"`
		Why  string         `json:"why"`
	}
	// Renew keeps the lease. Of two that name the same sequence the second is refused.
	Renew struct {
		Term        uint64         `json:"term"`
		Node        cluster.NodeID `json:"node_id"`
		Incarnation string         `json:"incarnation"`
		Seq         uint64         `json:"seq"`
		LSN         cluster.LSN    `json:"lsn"`
		TTL         time.Duration  `json:"ttl_ns"`
		MaximumLag  int64          `json:"maximum_lag"`
		Life        uint64         `json:"life"`      // of the daemon that proposes it
		Unlimited   uint64         `json:"unlimited"` // number of the unlimited lease that it ends; zero: none that its proposer knew of
		Timed       bool           `json:"timed"`     // the holder knows of no pause, and counts the time from when it first proposed this
	}
	// Release gives the lease back: no process of the holder's server is left. Seq
	// is the last renewal that its daemon proposed: with a later one it has taken
	// the lease up again, and a release that comes after that is refused. For a
	// switchover To is who shall be the next primary, and End where the WAL of the
	// server, which was stopped in order, ends.
	Release struct {
		Term        uint64         `json:"term"`
		Node        cluster.NodeID `json:"node_id"`
		Incarnation string         `json:"incarnation"`
		Seq         uint64         `json:"seq"`
		Why         string         `json:"why"`
		To          cluster.NodeID `json:"to,omitempty"`
		End         cluster.LSN    `json:"end,omitempty"`
	}
	// Expire ends a lease that was not renewed; the leader asks for it.
	Expire struct {
		Term uint64 `json:"term"`
		Seq  uint64 `json:"seq"`
	}
	// Close ends the bidding of a vacancy and grants the lease to the best bid.
	Close struct {
		Vacancy uint64 `json:"vacancy"`
	}
	// Claim takes a granted lease.
	Claim struct {
		Term        uint64         `json:"term"`
		Node        cluster.NodeID `json:"node_id"`
		Incarnation string         `json:"incarnation"`
		TTL         time.Duration  `json:"ttl_ns"`
		Life        uint64         `json:"life"` // of the daemon that proposes it
	}
	// Regrant gives the holder a new term and timeline, since its server was
	// restarted and is in recovery.
	Regrant struct {
		Term        uint64         `json:"term"`
		Node        cluster.NodeID `json:"node_id"`
		Incarnation string         `json:"incarnation"`
		TTL         time.Duration  `json:"ttl_ns"`
		Why         string         `json:"why"`
		Life        uint64         `json:"life"` // of the daemon that proposes it
	}
	// Promoted says that the holder's server takes writes, and where its timeline began.
	Promoted struct {
		Term     uint64           `json:"term"`
		Node     cluster.NodeID   `json:"node_id"`
		Timeline cluster.Timeline `json:"timeline"`
		Parent   cluster.Timeline `json:"parent"`
		Fork     cluster.LSN      `json:"fork"`
	}
	// Void takes a grant back that was not claimed in time.
	Void struct {
		Term uint64 `json:"term"`
		Why  string `json:"why"`
	}
	// Fenced ends a lease without a time limit whose holder is gone: an operator says
	// so. Seq is the last renewal, after which that operator had not heard of it.
	Fenced struct {
		Term uint64         `json:"term"`
		Node cluster.NodeID `json:"node_id"`
		Seq  uint64         `json:"seq"`
		By   string         `json:"by"`
	}
	// Withdraw takes a node's bid back, since its server is sealed no more. It opens a
	// vacancy of its own: all are sealed and bid anew, so that the bid, should it come a
	// second time, finds none (safety notes, B11 and B23).
	Withdraw struct {
		Vacancy uint64         `json:"vacancy"`
		Node    cluster.NodeID `json:"node_id"`
		Why     string         `json:"why"`
	}
	// SetPause begins or ends a pause of the whole cluster.
	SetPause struct {
		On     bool   `json:"on"`
		By     string `json:"by"`
		Reason string `json:"reason"`
		Auto   bool   `json:"auto"`
	}
	// Describe brings a member's own settings up to date.
	Describe struct {
		Node      cluster.NodeID `json:"node_id"`
		Name      string         `json:"node_name"`
		Witness   bool           `json:"witness"`
		Priority  int            `json:"priority"`
		Automatic bool           `json:"automatic"`
		Location  string         `json:"location"`
		Level     int            `json:"level,omitempty"` // that its program knows; zero: 1, or not told yet
		Barred    string         `json:"barred,omitempty"`
	}
	// SyncAdd says that a set may be in force from now on, beside those that may be already.
	// Seq is that of the record for which it was decided.
	SyncAdd struct {
		Term uint64         `json:"term"`
		Node cluster.NodeID `json:"node_id"`
		Seq  uint64         `json:"seq"`
		Mode SyncMode       `json:"mode"`
		Set  Set            `json:"set"`
	}
	// SyncDrop says that no set but the newest is in force any more, on any
	// connection, and that k of its members have all that was acknowledged before;
	// where it is empty, that nothing beyond LSN was acknowledged by another.
	SyncDrop struct {
		Term uint64         `json:"term"`
		Node cluster.NodeID `json:"node_id"`
		Seq  uint64         `json:"seq"`
		LSN  cluster.LSN    `json:"lsn"`
	}
)

// Level is the number of the changes' forms that this program knows. A change of
// form has the next one: a new kind, or a new field of an old kind.
const Level = 4

// levels are those of what came after the first.
var levels = map[string]int{"fenced": 2, "withdraw": 2, "switchover": 3, "call-off": 3, "succeed": 4}

// levelOf is the level that whoever reads a change has to know.
func levelOf(c Change) int {
	if d, ok := c.(Describe); ok && (d.Level > 0 || d.Barred != "") {
		return 2
	}
	if r, ok := c.(Release); ok && (r.To != 0 || r.End != 0) {
		return 3
	}
	return max(1, levels[KindOf(c)])
}

// Unknown returns why a change may not be proposed yet, or "": whoever applies what
// it does not know is out of order from then on, so all members have to know it,
// by the record. What a member announces by Describe is known of those that were
// heard of when it was decided (safety notes, B38).
func (r *Record) Unknown(c Change) string {
	if _, announces := c.(Describe); announces {
		return ""
	}
	for _, m := range r.Members {
		if level := levelOf(c); max(1, m.Level) < level {
			return fmt.Sprintf("node %d has not announced yet that its repmgrd knows %q (level %d, it has level %d): it has to be updated first, or its daemon started", m.Node, KindOf(c), level, max(1, m.Level))
		}
	}
	return ""
}

// Entry is a change on its way through the log. Version is the level of its form.
type Entry struct {
	Version int             `json:"v"`
	Kind    string          `json:"kind"`
	Request uint64          `json:"request"` // of the proposer, so that it hears what came of it
	Node    cluster.NodeID  `json:"from"`
	At      time.Time       `json:"at"` // the proposer's wall clock, for people only
	Body    json.RawMessage `json:"body"`
}

// kinds are the changes by the name that stands in the log: rename none.
var kinds = map[string]func([]byte) (Change, error){
	"begin": decode[Begin], "end": decode[End], "renew": decode[Renew], "release": decode[Release], "expire": decode[Expire],
	"bid": decode[Bid], "close": decode[Close], "claim": decode[Claim], "regrant": decode[Regrant], "promoted": decode[Promoted],
	"void": decode[Void], "withdraw": decode[Withdraw], "pause": decode[SetPause], "describe": decode[Describe], "sync-add": decode[SyncAdd], "sync-drop": decode[SyncDrop],
	"fenced":     decode[Fenced],
	"switchover": decode[RequestSwitchover], "call-off": decode[CallOff],
	"succeed": decode[Succeed],
}

// Kinds are the names of all changes, sorted.
func Kinds() []string { return slices.Sorted(maps.Keys(kinds)) }

func decode[C Change](text []byte) (Change, error) {
	var c C
	err := strictly(text, &c)
	return c, err
}

// strictly decodes what has no field that is not known here: one that is not
// understood may change what the rest means.
func strictly(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

// older is why a newer form is met at all, and what to do.
const older = "this node's repmgr is older than that of the nodes that wrote it, and has to be updated"

// KindOf is a change's name in the log.
func KindOf(c Change) string {
	switch c.(type) {
	case Begin:
		return "begin"
	case End:
		return "end"
	case Renew:
		return "renew"
	case Release:
		return "release"
	case Expire:
		return "expire"
	case Bid:
		return "bid"
	case Close:
		return "close"
	case Claim:
		return "claim"
	case Regrant:
		return "regrant"
	case Promoted:
		return "promoted"
	case Void:
		return "void"
	case Withdraw:
		return "withdraw"
	case SetPause:
		return "pause"
	case Describe:
		return "describe"
	case SyncAdd:
		return "sync-add"
	case SyncDrop:
		return "sync-drop"
	case Fenced:
		return "fenced"
	case RequestSwitchover:
		return "switchover"
	case CallOff:
		return "call-off"
	case Succeed:
		return "succeed"
	default:
		return "unknown"
	}
}

// EncodeEntry is a change as it stands in the log.
func EncodeEntry(c Change, from cluster.NodeID, request uint64, at time.Time) ([]byte, error) {
	return json.Marshal(struct {
		Entry
		Body Change `json:"body"` // instead of the entry's
	}{Entry{Version: levelOf(c), Kind: KindOf(c), Request: request, Node: from, At: at.UTC()}, c})
}

// DecodeEntry reads an entry and its change. One of a newer version, or of a
// kind that is not known, is an error: whoever meets it must stop applying and
// voting, for it cannot know what the record says from then on (safety notes, B38).
func DecodeEntry(text []byte) (Entry, Change, error) { return decodeEntry(text, Level) }

// decodeEntry reads as a program of that level does.
func decodeEntry(text []byte, level int) (Entry, Change, error) {
	var e Entry
	if err := json.Unmarshal(text, &e); err != nil {
		return e, nil, fmt.Errorf("an entry of the log cannot be read: %w", err)
	}
	if e.Version < 1 || e.Version > level {
		return e, nil, fmt.Errorf("an entry of the log, of kind %q, has version %d, this program knows %d: %s", e.Kind, e.Version, level, older)
	}
	read, ok := kinds[e.Kind]
	if !ok {
		return e, nil, fmt.Errorf("an entry of the log is of kind %q, which this program does not know: %s", e.Kind, older)
	}
	c, err := read(e.Body)
	if err != nil {
		return e, nil, fmt.Errorf("an entry of kind %q cannot be read (%w): %s", e.Kind, err, older)
	}
	return e, c, nil
}

// Apply takes a change in. It returns why the change was refused, or "".
func (r *Record) Apply(c Change, at time.Time, index uint64) string {
	r.Index = max(r.Index, index)
	return c.apply(r, at)
}
