package host

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Of a directory too, as the daemon locks its data directory; and whoever asks is in nobody's way.
func TestLocked(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "lock")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	is := func(path string, want bool) {
		t.Helper()
		if got, err := Locked(path); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", path, got, err, want)
		}
	}
	is(file, false)
	is(filepath.Join(dir, "none"), false)
	for _, path := range []string{file, dir} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			t.Fatal(err)
		}
		is(path, true)
		f.Close()
		is(path, false)
	}
}
