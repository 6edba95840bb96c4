package raftstore

import (
	"bytes"
	"encoding/binary"
	"testing"

	"google.golang.org/protobuf/proto"
)

// FuzzStored feeds stored values to what reads them: an error or a sound
// value, and never a panic.
func FuzzStored(f *testing.F) {
	raw, err := proto.Marshal(entry(7, 2, "data"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(binary.BigEndian.AppendUint64(nil, 7), raw, true)
	f.Add([]byte("identity"), us.encode(), true)
	f.Add([]byte("identity"), []byte(`{"format":99}`), true)
	f.Add([]byte{}, []byte{1, 2, 3}, false)
	f.Fuzz(func(t *testing.T, key, value []byte, sealed bool) {
		if sealed {
			value = seal(value)
		}
		if e, err := decodeEntry(key, value); err == nil && e.GetIndex() != binary.BigEndian.Uint64(key) {
			t.Errorf("entry %v under %x", e, key)
		}
		v, err := unseal(value)
		if err != nil {
			return
		}
		if !bytes.Equal(seal(v), value) {
			t.Errorf("%x does not seal to %x", v, value)
		}
		if id, err := decodeIdentity(v); err == nil {
			if again, err := decodeIdentity(id.encode()); err != nil || again != id {
				t.Errorf("%+v became %+v (%v)", id, again, err)
			}
		}
	})
}

// FuzzFile feeds whole files to the walk over their pages.
func FuzzFile(f *testing.F) {
	f.Add(make([]byte, 4*512), 512, 0)
	f.Fuzz(func(_ *testing.T, file []byte, size, txid int) {
		if size >= 128 && size <= 1<<16 {
			_ = whole(file, size, txid)
		}
	})
}
