package registry

import (
	"encoding/binary"
	"testing"
)

func TestSystemIDOfABackup(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the example is of a little-endian machine")
	}
	for _, c := range []struct {
		text, id string
		found    bool
	}{
		{" 74 45 a6 5f 6c 6c 08 6b\nSTART WAL LOCATION: 0/5000028\n", "7712533574588974452", true},
		{"Welcome to backup\n 01 00 00 00 00 00 00 00\n", "1", true},
		{"START WAL LOCATION: 0/5000028\n", "", false},
		{" 01 00 00\n", "", false},
		{"", "", false},
	} {
		if id, found := systemID(c.text); id != c.id || found != c.found {
			t.Errorf("%q: got %q, %v; want %q, %v", c.text, id, found, c.id, c.found)
		}
	}
}
