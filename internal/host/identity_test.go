package host

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func TestMachineID(t *testing.T) {
	for _, c := range []struct {
		what, path, text, want string
	}{
		{"systemd's", "etc/machine-id", "3d1219c7c4c5404aaa1f6d2a48adfda4\n", "3d1219c7c4c5404aaa1f6d2a48adfda4"},
		{"that of D-Bus", "var/lib/dbus/machine-id", "abc\n", "abc"},
		{"an image's that is not started yet", "etc/machine-id", "uninitialized\n", ""},
		{"an empty one", "etc/machine-id", "\n", ""},
		{"none", "etc/hosts", "", ""},
	} {
		root := t.TempDir()
		put(t, filepath.Join(root, c.path), c.text)
		if got := machineID(root); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
		for _, mark := range []string{".dockerenv", "run/.containerenv", "run/systemd/container"} {
			put(t, filepath.Join(root, mark), "")
			if got := machineID(root); got != "" {
				t.Errorf("%s, in a container by %s: %q", c.what, mark, got)
			}
			if err := os.Remove(filepath.Join(root, mark)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.WriteFile(path, []byte(text), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A copy is another file, however faithfully it was made; one that is written to and
// renamed is the same.
func TestBirth(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	put(t, path("a"), "one")
	born, err := Birth(path("a"))
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond) // longer than the tick of a file system's clock
	if out, err := exec.Command("cp", "-a", path("a"), path("copy")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	put(t, path("a"), "two")
	if err := os.Rename(path("a"), path("b")); err != nil {
		t.Fatal(err)
	}
	if same, err := Birth(path("b")); err != nil || same != born {
		t.Errorf("after a write and a rename: %q, %v; it was %q", same, err, born)
	}
	if other, err := Birth(path("copy")); err != nil || other == born {
		t.Errorf("of the copy: %q, %v: the same as the original's", other, err)
	}
	if _, err := Birth(path("none")); err == nil {
		t.Error("of a file that is not there: no error")
	}
}
