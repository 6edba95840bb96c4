package conf

import (
	"io/fs"
	"testing"
	"testing/fstest"
)

// inMemory serves files from a map whose keys lack the leading slash.
func inMemory(files map[string]string) Files {
	m := fstest.MapFS{}
	for name, text := range files {
		m[name[1:]] = &fstest.MapFile{Data: []byte(text)}
	}
	return Files{
		ReadFile: func(name string) ([]byte, error) { return m.ReadFile(name[1:]) },
		ReadDir:  func(name string) ([]fs.DirEntry, error) { return m.ReadDir(name[1:]) },
	}
}

const minimal = "node_id = 1\nnode_name = node1\nconninfo = 'host=node1 dbname=repmgr'\ndata_directory = '/data'\n"

func TestMinimal(t *testing.T) {
	c, warnings, err := Load(inMemory(map[string]string{"/etc/repmgr.conf": minimal}), "/etc/repmgr.conf")
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	if got, want := c.StateDir(), "/data.repmgr"; got != want {
		t.Errorf("StateDir is %s, want %s", got, want)
	}
}
