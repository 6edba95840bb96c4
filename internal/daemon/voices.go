package daemon

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
	"repmgr/internal/quorum"
)

// marksKey is the note that holds what the members have shown.
const marksKey = "marks"

// voices says who is listened to: one daemon for each node, and no member of the
// group that has forgotten what it once had (safety notes, B8). Safe for concurrent use.
type voices struct {
	d *Daemon

	mu      sync.Mutex
	lives   failover.Lives
	marks   quorum.Marks
	group   string // of marks
	streams map[voice]int
	deaf    map[deafness]refusal // lately
}

// voice is one life of a node's daemon.
type voice struct {
	node cluster.NodeID
	life uint64
}

// deafness is to whom, and why.
type deafness struct {
	node cluster.NodeID
	why  string
}

type refusal struct {
	at     time.Time // when it was last met
	toldAt time.Time
	known  bool // there is an event of it
}

// How often an operator is told of a refusal, and how long it is shown after it was met last.
const (
	refusalAgain = time.Minute
	refusalShown = 15 * time.Second
)

func newVoices(d *Daemon) *voices {
	return &voices{d: d, marks: quorum.Marks{}, streams: map[voice]int{}, deaf: map[deafness]refusal{}}
}

// keptMarks is what stands in the store.
type keptMarks struct {
	Group string       `json:"group"`
	Marks quorum.Marks `json:"marks"`
}

// adopt takes up what an earlier life of this daemon has kept.
func (v *voices) adopt() error {
	text, found, err := v.d.quorum.store.Get(marksKey)
	if err != nil || !found {
		return err
	}
	var kept keptMarks
	if err := json.Unmarshal(text, &kept); err != nil {
		return fault.Wrap(err, fault.BadConfig, "what the members of the group have shown cannot be read")
	}
	if kept.Marks != nil {
		v.group, v.marks = kept.Group, kept.Marks
	}
	return nil
}

// hear judges a report that was said after since: the error says why it is not to be taken
// in. doubted is one that is, while another daemon seems to run beside its own.
func (v *voices) hear(r failover.Report, since time.Time) (doubted bool, err error) {
	now := bootTime()
	v.mu.Lock()
	defer v.mu.Unlock()
	connected := func(life uint64) bool { return v.streams[voice{r.Node, life}] > 0 }
	voice := v.lives.Hear(r.Node, failover.Word{Life: r.Incarnation, Age: r.Age, Since: since}, connected, now)
	switch voice {
	case failover.VoiceWaits:
		return false, fmt.Errorf("another repmgrd speaks for node %d, or did until a moment ago", r.Node)
	case failover.VoiceRefused:
		err := fault.Wrap(api.ErrTwice, fault.BadConfig, "two repmgrd run as node %d: the younger is refused", r.Node).
			WithDetail("It has process id %d, was started %s ago, and the raft id %x.", r.PID, r.Age.Round(time.Second), r.RaftID).
			WithHint("Every node needs a node_id and a state_directory of its own: stop one of the two, and set up the other as a node of its own (repmgr standby register), or leave it stopped.")
		v.refuse(r.Node, err, now)
		return false, err
	}
	v.measure(r, now)
	return voice == failover.VoiceDoubted, nil
}

// measure holds a member to what it has shown before. Its report is taken in all the
// same: it is its part in the group that is refused.
func (v *voices) measure(r failover.Report, now time.Time) {
	rec, group := v.d.quorum.known()
	if r.Group != group || group == "" || rec.NodeOf(r.RaftID) != r.Node {
		return
	}
	if group != v.group {
		v.group, v.marks = group, quorum.Marks{}
	}
	members := make([]uint64, len(rec.Members))
	for i, m := range rec.Members {
		members[i] = m.RaftID
	}
	before := v.marks[r.RaftID]
	changed := v.marks.Keep(members)
	if err := v.marks.Tell(r.RaftID, r.Incarnation, quorum.Standing(r.Standing)); err != nil {
		v.refuse(r.Node, err, now)
	}
	if changed || v.marks[r.RaftID] != before {
		text, err := json.Marshal(keptMarks{v.group, v.marks})
		if err != nil {
			panic(err) // numbers only
		}
		v.d.quorum.store.Later(marksKey, text)
	}
}

// refuse tells operators of a refusal: at once, and again while it lasts.
func (v *voices) refuse(node cluster.NodeID, err error, now time.Time) {
	key := deafness{node, err.Error()}
	r := v.deaf[key]
	r.at = now
	if r.toldAt.IsZero() || now.Sub(r.toldAt) >= refusalAgain {
		r.toldAt = now
		v.d.complain(slog.LevelError, err)
	}
	own := v.d.shared.load().report
	if !r.known && (own.Role == cluster.Primary || v.d.peers.primaryIs(node)) { // one event of one thing
		r.known = true
		about, _ := cluster.Find(v.d.peers.nodes(), node)
		v.d.announce(event{name: "repmgrd_node_refused", failed: true, about: about, details: fmt.Sprintf("%s. %s", err, faultOf(err).Hint)})
	}
	v.deaf[key] = r
}

// refused are those who are not listened to now, by node id.
func (v *voices) refused() (out []api.RefusedNode) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := bootTime()
	for key, r := range v.deaf {
		switch past := now.Sub(r.at); {
		case past < refusalShown:
			out = append(out, api.RefusedNode{Node: key.node, Why: key.why})
		case past > refusalAgain:
			delete(v.deaf, key)
		}
	}
	slices.SortFunc(out, func(a, b api.RefusedNode) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), strings.Compare(a.Why, b.Why))
	})
	return out
}

// admits reports whether frames of a life are taken in that speaks for a raft id.
// Before its first report nobody knows whether it is the one that speaks for its
// node. A version that does not tell its life is taken at its word.
func (v *voices) admits(node cluster.NodeID, life, raftID uint64) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return (life == 0 || v.lives.Speaks(node, life)) && v.marks.Refused(raftID) == nil
}

// enter and leave count the streams of each life: one that has ended holds none.
func (v *voices) enter(node cluster.NodeID, life uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.streams[voice{node, life}]++
}

func (v *voices) leave(node cluster.NodeID, life uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.streams[voice{node, life}]--; v.streams[voice{node, life}] == 0 {
		delete(v.streams, voice{node, life})
	}
}
