package host

import (
	"path/filepath"
	"syscall"
	"testing"
)

func TestRoom(t *testing.T) {
	dir := t.TempDir()
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	want := int64(fs.Bavail) * int64(fs.Bsize)
	room, err := Room(dir)
	if err != nil || room < want-want/10 || room > want+want/10 { // others write there too
		t.Errorf("%d, %v; want about %d", room, err, want)
	}
	least, err := Room(dir, "/proc") // which takes nothing
	if err != nil || least != 0 {
		t.Errorf("of two places: %d, %v; want 0, that of the fuller one", least, err)
	}
	if _, err := Room(dir, filepath.Join(dir, "none")); err == nil {
		t.Error("of a place that is not there: no error")
	}
}
