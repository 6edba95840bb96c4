package failover

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// syncModel is a primary, node 1, with three standbys, as far as synchronous
// replication goes. Every walsender, and the checkpointer, goes by a copy of the
// setting of its own, which it takes up late (safety notes, A17 and B7).
type syncModel struct {
	t       *testing.T
	rng     *rand.Rand
	v       *View
	now     time.Time
	names   string // as a new connection sees it
	waits   string // as the checkpointer knows it
	senders map[cluster.NodeID]string
	flush   map[cluster.NodeID]cluster.LSN
	pos     cluster.LSN
	pending []cluster.LSN
	acked   cluster.LSN     // by standbys
	late    []record.Change // proposals that come, or come again, late
	drops   int
}

func newSyncModel(t *testing.T, seed uint64) *syncModel {
	m := &syncModel{t: t, rng: rand.New(rand.NewPCG(seed, 1)), now: t0, pos: 100,
		senders: map[cluster.NodeID]string{}, flush: map[cluster.NodeID]cluster.LSN{2: 100, 3: 100, 4: 100}}
	m.v = holderView()
	m.v.Group.Record.SetMember(record.Member{Node: 4, RaftID: 4, Voter: true, Priority: 100, Automatic: true}, t0, 9)
	m.v.Nodes = append(m.v.Nodes, cluster.Node{ID: 4, Role: cluster.Standby, Upstream: 1, Active: true, Priority: 100})
	named(m.v, record.SyncOn)
	m.v.Tenure.Deadline = t0.Add(1000 * time.Hour)
	return m
}

func (m *syncModel) node() cluster.NodeID { return cluster.NodeID(2 + m.rng.IntN(3)) }

// setIn is a setting as a set of nodes.
func setIn(names string) (k int, members []cluster.NodeID) {
	for id := cluster.NodeID(1); id <= 4; id++ {
		for i := 0; i+4 < len(names); i++ {
			if names[i:i+5] == `"n`+string(rune('0'+id))+`@1` {
				members = append(members, id)
			}
		}
	}
	if len(members) > 0 {
		k = int(names[4] - '0')
	}
	return k, members
}

// release is what a walsender does with its standby's reply.
func (m *syncModel) release(id cluster.NodeID) {
	k, own := setIn(m.senders[id])
	if !slices.Contains(own, id) {
		return
	}
	var at []cluster.LSN
	for other, copied := range m.senders {
		if _, members := setIn(copied); slices.Contains(members, other) { // its sync_priority
			at = append(at, m.flush[other])
		}
	}
	if len(at) < k {
		return
	}
	slices.Sort(at)
	upTo := at[len(at)-k]
	m.pending = slices.DeleteFunc(m.pending, func(lsn cluster.LSN) bool {
		if lsn <= upTo && m.names != "" {
			m.acked = max(m.acked, lsn)
		}
		return lsn <= upTo
	})
}

// step is one thing that happens.
func (m *syncModel) step() {
	id := m.node()
	_, connected := m.senders[id]
	switch m.rng.IntN(14) {
	case 0, 1, 2:
		if m.pos += 10; m.waits != "" {
			m.pending = append(m.pending, m.pos)
		}
	case 3, 4, 5:
		if connected && m.flush[id] < m.pos {
			m.flush[id] += cluster.LSN(m.rng.IntN(int(m.pos-m.flush[id]))) + 1
		}
	case 6, 7:
		if connected {
			m.release(id)
		}
	case 8:
		if connected {
			m.senders[id] = m.names
		}
	case 9:
		if m.waits = m.names; m.waits == "" {
			m.pending = nil
		}
	case 10:
		if connected && m.rng.IntN(3) == 0 {
			delete(m.senders, id)
		} else if !connected {
			m.senders[id] = m.names
		}
	case 11:
		m.look()
	case 12:
		m.brain()
	default:
		m.disturb(id)
	}
}

func (m *syncModel) disturb(id cluster.NodeID) {
	switch m.rng.IntN(12) {
	case 0:
		m.v.Policy.SyncMode = []record.SyncMode{record.SyncOn, record.SyncOn, record.SyncStrict, record.SyncOff}[m.rng.IntN(4)]
	case 1:
		m.v.Policy.SyncCount = 1 + m.rng.IntN(2)
	case 2:
		member, _ := m.v.Group.Record.Member(id)
		m.apply(record.Describe{Node: id, Name: member.Name, Priority: 100 * m.rng.IntN(3), Automatic: true})
	default:
		if len(m.late) > 0 {
			m.apply(m.late[m.rng.IntN(len(m.late))])
		}
	}
}

func (m *syncModel) apply(c record.Change) {
	rec := m.v.Group.Record.Clone()
	if why := rec.Apply(c, t0, 0); why == "" {
		if _, ok := c.(record.SyncDrop); ok {
			m.drops++
		}
	}
	m.v.Group.Record = rec
}

func (m *syncModel) look() {
	seen := SyncSeen{Names: m.names, LSN: m.pos}
	for id := range m.senders {
		seen.Senders = append(seen.Senders, Sender{Name: "n" + string(rune('0'+id)) + "@1", State: "streaming", Sent: m.pos, Flush: m.flush[id]})
	}
	m.now = m.now.Add(time.Duration(m.rng.IntN(2000)) * time.Millisecond)
	m.v.Observe(seen, m.now)
	for id := range m.v.Peers {
		p := m.v.Peers[id]
		p.At = m.now
		m.v.Peers[id] = p
	}
}

// brain carries out what is decided, as the hands would.
func (m *syncModel) brain() {
	for _, a := range Synchronize(m.v, m.now).Actions {
		rec := m.v.Group.Record
		switch a := a.(type) {
		case Propose:
			m.v.Observe(Asked(a), m.now)
			if m.late = append(m.late, a.Change); m.rng.IntN(3) > 0 {
				m.apply(a.Change)
			}
		case WriteSync:
			done := SyncDone{Action: a, Err: "late"}
			if rec.Term == a.Term && rec.Sync.Seq == a.Seq {
				m.names, m.v.Local.SyncManaged, done.Err = a.Names, true, ""
			}
			m.v.Observe(done, m.now)
		case RestoreSync:
			m.names = ""
			m.v.Observe(SyncDone{Action: a}, m.now)
		case ProveSync:
			done := SyncDone{Action: a, LSN: m.pos}
			if !m.proven(a) {
				done.Err = "not yet"
			}
			m.v.Observe(done, m.now)
		}
	}
}

// proven is what the server's look at every walsender comes to.
func (m *syncModel) proven(a ProveSync) bool {
	if m.names != a.Names {
		return false
	}
	if m.rng.IntN(2) == 0 { // it waits for that
		m.waits = m.names
		for id := range m.senders {
			if m.flush[id] = m.pos; m.rng.IntN(4) > 0 {
				m.senders[id] = m.names
			}
		}
	}
	there := 0
	_, members := setIn(a.Names)
	for id, copied := range m.senders {
		if copied != a.Names {
			return false
		}
		if slices.Contains(members, id) && m.flush[id] >= m.pos {
			there++
		}
	}
	return m.waits == a.Names && there >= a.Count
}

// check lets the primary die now, and every choice of standbys bid.
func (m *syncModel) check(seed uint64, step int) {
	for choice := 1; choice < 8; choice++ {
		rec := m.v.Group.Record.Clone()
		rec.Apply(record.Expire{Term: 1}, t0, 0)
		for id := cluster.NodeID(2); id <= 4; id++ {
			if choice&(1<<(id-2)) != 0 {
				rec.Apply(record.Bid{Vacancy: 1, Node: id, Incarnation: "x", Timeline: 1, LSN: m.flush[id], Line: "1"}, t0, 0)
			}
		}
		if w := rec.Verdict().Winner; w != 0 && m.flush[w] < m.acked {
			m.t.Fatalf("seed %d, step %d: node %d wins with %s, and %s was acknowledged: sets %q, floor %+v, in force %q, senders %v, flushed %v",
				seed, step, w, m.flush[w], m.acked, rec.Sync.Sets, rec.Sync.Floor, m.names, m.senders, m.flush)
		}
	}
}

// Whatever happens in whatever order, whoever may be promoted has every commit
// that standbys acknowledged.
func TestNoScheduleLosesAnAcknowledgedCommit(t *testing.T) {
	drops, acked := 0, 0
	for seed := range uint64(100) {
		m := newSyncModel(t, seed)
		for step := range 600 {
			m.step()
			m.check(seed, step)
		}
		if drops += m.drops; m.acked > 0 {
			acked++
		}
	}
	t.Logf("%d sets were settled, in %d schedules standbys acknowledged commits", drops, acked)
	if drops < 100 || acked < 80 {
		t.Errorf("%d sets were settled, and in %d schedules standbys acknowledged commits: too few to prove anything", drops, acked)
	}
}
