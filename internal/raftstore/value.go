package raftstore

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"syscall"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
)

// Format is the number of the layout that this program writes; it reads this
// one and lower ones.
const Format = 1

// Identity says whose the directory is.
type Identity struct {
	Group    string         `json:"group"`   // uuid of the group
	RaftID   uint64         `json:"raft_id"` // random for each directory, never the node id
	Node     cluster.NodeID `json:"node_id"`
	SystemID string         `json:"system_identifier,omitempty"` // PostgreSQL's; empty for a witness without one
	Format   int            `json:"format"`
}

// Belongs refuses a directory of another node or of another database system.
// An empty system identifier on either side is not compared.
func (id Identity) Belongs(node cluster.NodeID, systemID string) error {
	foreign := func(what string, found, expected any) error {
		return fault.New(fault.BadConfig, "the state directory belongs to another %s", what).
			WithDetail("Found: %s %v. Expected: %v.", what, found, expected).
			WithHint("set state_directory to this node's own; a directory that was copied from elsewhere must be emptied, and the node joins anew")
	}
	if id.Node != node {
		return foreign("node", id.Node, node)
	}
	if id.SystemID != "" && systemID != "" && id.SystemID != systemID {
		return foreign("database system", id.SystemID, systemID)
	}
	return nil
}

func (id Identity) sound() error {
	if id.Group == "" || id.RaftID == 0 || id.Format < 1 || id.Format > Format {
		return fault.New(fault.Internal, "an identity without a group, without a raft id or of an unknown format: %+v", id)
	}
	return nil
}

func (id Identity) encode() []byte {
	b, err := json.Marshal(id)
	if err != nil {
		panic(err) // strings and numbers only
	}
	return b
}

// decodeIdentity looks at the format first: a newer one may mean anything.
func decodeIdentity(b []byte) (id Identity, err error) {
	var f struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return id, fmt.Errorf("the identity is damaged: %w", err)
	}
	if f.Format > Format {
		return id, fault.New(fault.BadConfig, "the state directory is of a newer program").
			WithDetail("Found: format %d. This program knows formats up to %d.", f.Format, Format).
			WithHint("Run the version of repmgr that wrote it, or a later one: nothing was changed. To stay with this version see \"Going back\" in docs/upgrade.md.")
	}
	if err := json.Unmarshal(b, &id); err != nil {
		return id, fmt.Errorf("the identity is damaged: %w", err)
	}
	if id.sound() != nil {
		return id, fmt.Errorf("the identity is damaged: %+v", id)
	}
	return id, nil
}

func decodeEntry(key, value []byte) (*raftpb.Entry, error) {
	if len(key) != 8 {
		return nil, fmt.Errorf("entry %x: not an index", key)
	}
	index := binary.BigEndian.Uint64(key)
	raw, err := unseal(value)
	if err != nil {
		return nil, fmt.Errorf("entry %d: %w", index, err)
	}
	e := &raftpb.Entry{}
	if err := proto.Unmarshal(raw, e); err != nil {
		return nil, fmt.Errorf("entry %d: %w", index, err)
	}
	if e.GetIndex() != index {
		return nil, fmt.Errorf("entry %d is stored as %d", e.GetIndex(), index)
	}
	return e, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal puts a checksum before a value: bbolt has none for what is in its
// pages, and a vote with one bit turned is another vote.
func seal(value []byte) []byte {
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, len(value)+4), crc32.Checksum(value, castagnoli)), value...)
}

func unseal(b []byte) ([]byte, error) {
	if len(b) < 4 {
		return nil, fmt.Errorf("a value of %d bytes", len(b))
	}
	if found, expected := crc32.Checksum(b[4:], castagnoli), binary.BigEndian.Uint32(b); found != expected {
		return nil, fmt.Errorf("its checksum is %08x, expected was %08x", found, expected)
	}
	return b[4:], nil
}

func put(tx *bbolt.Tx, bucket, key, value []byte) error {
	return tx.Bucket(bucket).Put(key, seal(value))
}

// get returns a copy of a value, nil if there is none.
func get(tx *bbolt.Tx, bucket, key []byte) ([]byte, error) {
	b := tx.Bucket(bucket).Get(key)
	if b == nil {
		return nil, nil
	}
	v, err := unseal(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return append([]byte{}, v...), nil
}

func putProto(tx *bbolt.Tx, key []byte, m proto.Message) error {
	raw, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	return put(tx, bucketState, key, raw)
}

func getProto(tx *bbolt.Tx, key []byte, m proto.Message) (found bool, err error) {
	raw, err := get(tx, bucketState, key)
	if err != nil || raw == nil {
		return false, err
	}
	if err := proto.Unmarshal(raw, m); err != nil {
		return false, fmt.Errorf("%s: %w", key, err)
	}
	return true, nil
}

// damaged is a file that is not what was written.
func (s *Store) damaged(what any) error {
	return fault.New(fault.BadConfig, "%s is damaged", s.path).
		WithDetail("%v", what).
		WithHint("a damaged store must not vote: remove this node from the group, delete the file and let the node join anew")
}

// failed tells a disk that cannot be written from a file that is damaged.
func (s *Store) failed(err error) error {
	var sys syscall.Errno
	var path *fs.PathError
	switch {
	case errors.Is(err, bolterrors.ErrDatabaseNotOpen):
		return fault.Wrap(err, fault.Internal, "%s is closed", s.path)
	case errors.As(err, &sys), errors.As(err, &path), errors.Is(err, os.ErrInvalid):
		return fault.Wrap(err, fault.SysFailure, "cannot use %s", s.path)
	}
	return s.damaged(err)
}
