package raftstore

import (
	"encoding/json"
	"errors"

	"repmgr/internal/fault"
)

// Home is where a store is at home: which file of which machine it is.
type Home struct {
	Machine string `json:"machine,omitempty"` // empty: not known, and not compared
	File    string `json:"file"`              // tells the file from its copies
}

// homeKey is the note that holds the Home. Reset forgets it together with the raft id.
const homeKey = "home"

// Path is the store's file.
func (s *Store) Path() string { return s.path }

// Settle says where the store is found. The first time that is kept; from then on
// a store that is found elsewhere is refused: it is a copy, and its vote is cast
// by another one (safety notes, B8).
func (s *Store) Settle(here Home) error {
	text, found, err := s.Get(homeKey)
	if err != nil {
		return err
	}
	if !found {
		if text, err = json.Marshal(here); err != nil {
			return err
		}
		return s.Put(homeKey, text)
	}
	var home Home
	if err := json.Unmarshal(text, &home); err != nil {
		return s.damaged(errors.New("where it is at home cannot be read"))
	}
	if home.File == here.File && (home.Machine == "" || here.Machine == "" || home.Machine == here.Machine) {
		return nil
	}
	return fault.New(fault.BadConfig, "the state directory was copied here, or brought back from a backup").
		WithDetail("%s was made as the file %q of machine %q; this is the file %q of machine %q.", s.path, home.File, home.Machine, here.File, here.Machine).
		WithHint("Another repmgrd may vote in its name, so this one does not run. Whether it was copied or moved: run repmgr cluster reset-quorum --this-node, and this node joins the group anew.")
}
