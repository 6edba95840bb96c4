// Package raftstore keeps a member's part of the Raft group on disk: one
// bbolt file in the state directory, each save one transaction and one fsync.
// It is the durable side of package quorum, which hands out what to save.
package raftstore

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"repmgr/internal/fault"
	"repmgr/internal/quorum"
)

// FileName is the store's file in the state directory.
const FileName = "quorum.db"

// lockWait is how long Open waits for another process to let go of the file.
const lockWait = 500 * time.Millisecond

var (
	bucketState = []byte("state") // identity, hard state and snapshot, by the keys below
	bucketLog   = []byte("log")   // entries, by their index as 8 bytes, big endian
	bucketNotes = []byte("notes") // the node's own

	buckets = [][]byte{bucketState, bucketLog, bucketNotes}

	keyIdentity  = []byte("identity")
	keyHardState = []byte("hardstate")
	keySnapshot  = []byte("snapshot")
)

// Store is an open state directory. Safe for concurrent use.
type Store struct {
	path string
	db   *bbolt.DB
	mu   sync.Mutex
	late *raftpb.HardState // a commit index that waits for the next transaction
	at   uint64            // index of the stored snapshot
	log  bool              // a group is stored

	waiting sync.Mutex        // never held while the disk is waited for
	wait    map[string][]byte // notes that wait for the next transaction
}

// Open opens the store in dir, or makes an empty one. Only one process can
// have it open. A damaged file is refused.
func Open(dir string) (*Store, error) {
	s := &Store{path: filepath.Join(dir, FileName)}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.Wrap(err, fault.SysFailure, "cannot make the state directory %s", dir)
	}
	err := s.safely(s.open)
	if err == nil {
		err = syncDir(dir)
	}
	if err == nil {
		_, _, _, err = s.Load()
	}
	if err != nil {
		if s.db != nil {
			_ = s.safely(s.db.Close)
		}
		return nil, err
	}
	return s, nil
}

func (s *Store) open() error {
	var file *os.File
	defer func() {
		if s.db == nil && file != nil {
			// Where bbolt panicked, its mapping would keep the lock for this process' life.
			_ = syscall.Flock(int(file.Fd()), syscall.LOCK_UN)
			_ = file.Close()
		}
	}()
	db, err := bbolt.Open(s.path, 0o600, &bbolt.Options{
		Timeout: lockWait,
		OpenFile: func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
			file, err = os.OpenFile(name, flag, mode)
			return file, err
		},
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return fault.New(fault.BadConfig, "another process has %s open", s.path).
			WithDetail("Its lock was not given up within %v.", lockWait).
			WithHint("one repmgrd runs for each node; see which process holds the file with: fuser %s", s.path)
	}
	if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrExist) {
		return fault.Wrap(err, fault.SysFailure, "cannot open %s", s.path)
	}
	if err != nil {
		return err
	}
	s.db = db
	made := false
	err = db.View(func(tx *bbolt.Tx) error {
		b, err := os.ReadFile(s.path)
		if err == nil {
			err = whole(b, db.Info().PageSize, tx.ID())
		}
		made = err == nil && tx.Bucket(bucketNotes) != nil
		return err
	})
	if made || err != nil {
		return err
	}
	return db.Update(func(tx *bbolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
}

// Close writes what waits, and lets go of the file.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.safely(func() error {
		var err error
		if s.late != nil || s.log {
			err = s.update(func(*bbolt.Tx) error { return nil })
		}
		return errors.Join(err, s.db.Close())
	})
}

// Create stores the first state of a member. It is refused where a group is
// stored already: Reset comes first, and leaves no old raft id behind.
func (s *Store) Create(id Identity, first quorum.Stored) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id.Format == 0 {
		id.Format = Format
	}
	return s.safely(func() error {
		if err := id.sound(); err != nil {
			return err
		}
		if s.log {
			return fault.New(fault.BadConfig, "%s holds a group already", s.path).
				WithHint("a member is never made over another: reset the store first")
		}
		err := s.update(func(tx *bbolt.Tx) error {
			if err := put(tx, bucketState, keyIdentity, id.encode()); err != nil {
				return err
			}
			d := quorum.Durable{HardState: first.HardState, Entries: first.Entries, Snapshot: first.Snapshot}
			return write(tx, d)
		})
		if err == nil {
			s.log, s.at = true, first.Snapshot.GetMetadata().GetIndex()
		}
		return err
	})
}

// Load reads everything; found is false where no group is stored. Of another
// format than this program knows nothing is read.
func (s *Store) Load() (id Identity, st quorum.Stored, found bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err = s.safely(func() error {
		return s.db.View(func(tx *bbolt.Tx) (err error) {
			raw, err := get(tx, bucketState, keyIdentity)
			if err != nil || raw == nil {
				return err
			}
			if id, err = decodeIdentity(raw); err != nil {
				return err
			}
			found = true
			st, err = read(tx)
			return err
		})
	})
	if err != nil {
		return Identity{}, quorum.Stored{}, false, err
	}
	if s.late != nil {
		st.Save(quorum.Durable{HardState: s.late})
	}
	s.log, s.at = found, st.Snapshot.GetMetadata().GetIndex()
	return id, st, found, nil
}

// Save makes d durable: when it returns nil, a power cut loses nothing of it.
// Only a commit index (no MustSync, no entries, no snapshot) is not worth an
// fsync: it is written with what comes next.
func (s *Store) Save(d quorum.Durable) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.log {
		return fault.New(fault.Internal, "nothing can be saved: %s holds no group", s.path)
	}
	if !d.MustSync && len(d.Entries) == 0 && raft.IsEmptySnap(d.Snapshot) {
		if d.HardState != nil {
			s.late = d.HardState
		}
		return nil
	}
	return s.safely(func() error {
		err := s.update(func(tx *bbolt.Tx) error { return write(tx, d) })
		if err == nil && !raft.IsEmptySnap(d.Snapshot) {
			s.at = d.Snapshot.GetMetadata().GetIndex()
		}
		return err
	})
}

// Compacted stores a snapshot that quorum made, and deletes the entries that
// it covers. The tail that quorum keeps for those who lag is not kept here:
// after a restart they get the snapshot.
func (s *Store) Compacted(snap *raftpb.Snapshot) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := snap.GetMetadata().GetIndex()
	if at <= s.at {
		return nil
	}
	if !s.log {
		return fault.New(fault.Internal, "nothing can be saved: %s holds no group", s.path)
	}
	return s.safely(func() error {
		err := s.update(func(tx *bbolt.Tx) error {
			if err := putProto(tx, keySnapshot, snap); err != nil {
				return err
			}
			return settle(tx, at)
		})
		if err == nil {
			s.at = at
		}
		return err
	})
}

// Reset forgets the group, its raft id and all notes but those of keep: what
// says something about the data directory outlives a membership.
func (s *Store) Reset(keep ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.safely(func() error {
		s.late = nil
		s.takeWaiting()
		err := s.update(func(tx *bbolt.Tx) error {
			kept := map[string][]byte{}
			for _, k := range keep {
				v, err := get(tx, bucketNotes, []byte(k))
				if err != nil {
					return err
				}
				if v != nil {
					kept[k] = v
				}
			}
			for _, name := range buckets {
				if err := tx.DeleteBucket(name); err != nil {
					return err
				}
				if _, err := tx.CreateBucket(name); err != nil {
					return err
				}
			}
			for k, v := range kept {
				if err := put(tx, bucketNotes, []byte(k), v); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			s.log, s.at = false, 0
		}
		return err
	})
}

// Put keeps a note of the node's own: a seal, a marker. Durable when it returns nil.
func (s *Store) Put(key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.safely(func() error {
		return s.update(func(tx *bbolt.Tx) error { return put(tx, bucketNotes, []byte(key), value) })
	})
}

// Later keeps a note that is not worth an fsync: it is written with what comes next.
func (s *Store) Later(key string, value []byte) {
	s.waiting.Lock()
	defer s.waiting.Unlock()
	if s.wait == nil {
		s.wait = map[string][]byte{}
	}
	s.wait[key] = value
}

// takeWaiting empties what waits.
func (s *Store) takeWaiting() map[string][]byte {
	s.waiting.Lock()
	defer s.waiting.Unlock()
	w := s.wait
	s.wait = nil
	return w
}

// Get returns a note, false if there is none.
func (s *Store) Get(key string) (value []byte, found bool, err error) {
	err = s.safely(func() error {
		return s.db.View(func(tx *bbolt.Tx) (err error) {
			value, err = get(tx, bucketNotes, []byte(key))
			return err
		})
	})
	return value, value != nil, err
}

// Delete removes a note; that there is none is no error.
func (s *Store) Delete(key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.safely(func() error {
		return s.update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketNotes).Delete([]byte(key)) })
	})
}

// update runs one transaction, and with it writes what waits.
func (s *Store) update(do func(tx *bbolt.Tx) error) error {
	wait := s.takeWaiting() // lost if this fails, as with a power cut
	err := s.db.Update(func(tx *bbolt.Tx) error {
		if s.late != nil {
			if err := putProto(tx, keyHardState, s.late); err != nil {
				return err
			}
		}
		for key, value := range wait {
			if err := put(tx, bucketNotes, []byte(key), value); err != nil {
				return err
			}
		}
		return do(tx)
	})
	if err == nil {
		s.late = nil
	}
	return err
}

// write is quorum.Stored.Save on disk.
func write(tx *bbolt.Tx, d quorum.Durable) error {
	if d.HardState != nil {
		if err := putProto(tx, keyHardState, d.HardState); err != nil {
			return err
		}
	}
	if !raft.IsEmptySnap(d.Snapshot) {
		if err := putProto(tx, keySnapshot, d.Snapshot); err != nil {
			return err
		}
		if err := cut(tx, 0, ^uint64(0)); err != nil {
			return err
		}
		if err := settle(tx, d.Snapshot.GetMetadata().GetIndex()); err != nil {
			return err
		}
	}
	if len(d.Entries) == 0 {
		return nil
	}
	if err := cut(tx, d.Entries[0].GetIndex(), ^uint64(0)); err != nil {
		return err
	}
	for _, e := range d.Entries {
		raw, err := proto.Marshal(e)
		if err == nil {
			err = put(tx, bucketLog, binary.BigEndian.AppendUint64(nil, e.GetIndex()), raw)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// settle drops what a snapshot at index covers, and raises the commit index to it.
func settle(tx *bbolt.Tx, index uint64) error {
	if err := cut(tx, 0, index); err != nil {
		return err
	}
	h := &raftpb.HardState{}
	if _, err := getProto(tx, keyHardState, h); err != nil {
		return err
	}
	if h.GetCommit() >= index {
		return nil
	}
	h.Commit = new(index)
	return putProto(tx, keyHardState, h)
}

// cut deletes the entries from index first to last.
func cut(tx *bbolt.Tx, first, last uint64) error {
	c := tx.Bucket(bucketLog).Cursor()
	var gone [][]byte // deleting while a cursor walks skips keys
	for k, _ := c.Seek(binary.BigEndian.AppendUint64(nil, first)); k != nil && binary.BigEndian.Uint64(k) <= last; k, _ = c.Next() {
		gone = append(gone, k)
	}
	for _, k := range gone {
		if err := tx.Bucket(bucketLog).Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// read reads the group's state.
func read(tx *bbolt.Tx) (st quorum.Stored, err error) {
	h, snap := &raftpb.HardState{}, &raftpb.Snapshot{}
	if found, err := getProto(tx, keyHardState, h); err != nil {
		return st, err
	} else if found {
		st.HardState = h
	}
	if found, err := getProto(tx, keySnapshot, snap); err != nil {
		return st, err
	} else if found {
		st.Snapshot = snap
	}
	err = tx.Bucket(bucketLog).ForEach(func(k, v []byte) error {
		e, err := decodeEntry(k, v)
		st.Entries = append(st.Entries, e)
		return err
	})
	return st, err
}

// safely turns what a damaged file does to its reader into an error: bbolt
// panics on pages that make no sense, and a file shorter than it says is a
// memory fault.
func (s *Store) safely(do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = s.damaged(r)
		}
	}()
	err = do()
	var known *fault.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	return s.failed(err)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fault.Wrap(err, fault.SysFailure, "cannot open %s", dir)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fault.Wrap(err, fault.SysFailure, "cannot sync %s", dir)
	}
	return nil
}
