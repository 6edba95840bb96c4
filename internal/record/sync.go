package record

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"repmgr/internal/cluster"
)

// SyncMode says what a commit waits for.
type SyncMode string

// The modes of synchronous_mode.
const (
	SyncOff    SyncMode = "off"    // nothing is managed
	SyncOn     SyncMode = "on"     // for standbys, while there are any that keep up
	SyncStrict SyncMode = "strict" // for standbys, always
)

// Set is a synchronous set as it may be in force: a commit is acknowledged by K
// of its members. Text, as in "ANY 1 (2 3)", so that two can be compared.
// The empty set is "".
type Set string

// SetOf writes a set; the order of the members does not matter.
func SetOf(k int, members ...cluster.NodeID) Set {
	if len(members) == 0 || k <= 0 {
		return ""
	}
	sorted := slices.Compact(slices.Sorted(slices.Values(members)))
	words := make([]string, len(sorted))
	for i, id := range sorted {
		words[i] = strconv.Itoa(int(id))
	}
	return Set(fmt.Sprintf("ANY %d (%s)", k, strings.Join(words, " ")))
}

// Parse returns how many of which nodes acknowledge a commit.
func (s Set) Parse() (k int, members []cluster.NodeID) {
	head, rest, ok := strings.Cut(strings.TrimPrefix(string(s), "ANY "), " (")
	if !ok {
		return 0, nil
	}
	k, _ = strconv.Atoi(head)
	members = make([]cluster.NodeID, 0, strings.Count(rest, " ")+1)
	for word := range strings.FieldsSeq(strings.TrimSuffix(rest, ")")) {
		if id, err := strconv.Atoi(word); err == nil && id > 0 {
			members = append(members, cluster.NodeID(id))
		}
	}
	if k < 1 || k > len(members) {
		return 0, nil
	}
	return k, members
}

// Has reports whether a node is a member.
func (s Set) Has(id cluster.NodeID) bool {
	_, members := s.Parse()
	return slices.Contains(members, id)
}

// Valid reports whether a set is written as SetOf writes it: one that cannot be
// read would demand nothing.
func (s Set) Valid() bool {
	k, members := s.Parse()
	return s == "" || k > 0 && SetOf(k, members...) == s
}

// Sync is what is known of the synchronous set. Between two changes there is one
// set; while one is under way, all that may be in force (safety notes, B7).
type Sync struct {
	Mode  SyncMode `json:"mode"`
	Sets  []Set    `json:"sets"` // newest last; none: nothing was ever waited for
	Seq   uint64   `json:"seq"`  // grows with every change of the sets
	Floor Floor    `json:"floor"`
}

// Floor is a position that a winner must have reached: what was acknowledged
// up to there by a set that was given up for the empty one.
type Floor struct {
	Term uint64      `json:"term"`
	LSN  cluster.LSN `json:"lsn"`
}

// Newest is the set that was added last: the only one that its holder may put in
// force. Empty where there is none.
func (s Sync) Newest() Set {
	if len(s.Sets) == 0 {
		return ""
	}
	return s.Sets[len(s.Sets)-1]
}

// Waits reports whether every commit that may be acknowledged now is on a standby.
func (s Sync) Waits() bool { return len(s.Sets) > 0 && !slices.Contains(s.Sets, "") }

// demanding reports whether any set that may be in force has members.
func (s Sync) demanding() bool {
	return slices.ContainsFunc(s.Sets, func(set Set) bool { return set != "" })
}

// add makes a set the newest one. What was in force before anything was managed
// is the empty set, as far as a promise goes.
func (s *Sync) add(mode SyncMode, set Set) {
	sets := slices.DeleteFunc(slices.Clone(s.Sets), func(o Set) bool { return o == set })
	if len(s.Sets) == 0 && set != "" {
		sets = []Set{""}
	}
	s.Mode, s.Sets, s.Seq = mode, append(sets, set), s.Seq+1
}

// settle forgets all sets but the newest. Where that one is empty, what the
// others acknowledged must be on whoever wins.
func (s *Sync) settle(term uint64, lsn cluster.LSN) {
	switch {
	case s.Newest() != "":
		s.Floor = Floor{} // k members of it have everything
	case s.demanding():
		s.Floor = Floor{term, lsn}
	}
	s.Sets, s.Seq = []Set{s.Newest()}, s.Seq+1
}

// satisfied reports whether the sealed bids suffice for every set that may be in
// force: of each, |S|-k+1 members, so that one of them has any commit that was
// acknowledged. The same is asked of all sets together, with the smallest k: while
// a set replaces another, a walsender that goes by the one counts any standby whose
// own walsender goes by the other (SyncRepGetCandidateStandbys), so that a commit
// may be on k members that are in no set together.
func (s Sync) satisfied(sealed func(cluster.NodeID) bool) (string, bool) {
	least, all := 0, []cluster.NodeID(nil)
	for _, set := range s.Sets {
		k, members := set.Parse()
		if k == 0 {
			continue
		}
		if least == 0 || k < least {
			least = k
		}
		all = append(all, members...)
		if why, ok := enough(set, sealed); !ok {
			return why, false
		}
	}
	return enough(SetOf(least, all...), sealed)
}

// enough reports whether the sealed bids suffice for one set.
func enough(set Set, sealed func(cluster.NodeID) bool) (string, bool) {
	k, members := set.Parse()
	have, need := 0, len(members)-k+1
	for _, id := range members {
		if sealed(id) {
			have++
		}
	}
	if k > 0 && have < need {
		return fmt.Sprintf("%d of %d needed members of the synchronous set %s have bid", have, need, set), false
	}
	return "", true
}

// describe is a set in words.
func (s Set) describe() string {
	if s == "" {
		return "no standby is waited for"
	}
	return "commits wait for " + string(s)
}
