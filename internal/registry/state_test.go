package registry

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"repmgr/internal/fault"
)

// Whoever meets a state file of a newer version leaves it as it is, and says so; one of
// the oldest is read, and what this program does not write into it stays.
func TestStateFileOfOtherVersions(t *testing.T) {
	first, err := os.ReadFile("../daemon/testdata/cluster-1.json")
	if err != nil {
		t.Fatal(err)
	}
	write := func(text []byte) string {
		t.Helper()
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, StateFile), text, 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	dir := write(first)
	quorum, err := RememberedQuorum(dir)
	if nodes := Remembered(dir); err != nil || !quorum || len(nodes) != 2 || nodes[1].Name != "node2" {
		t.Errorf("format 1: %v %v %+v", err, quorum, nodes)
	}
	if err := DisownGroup(dir, "another"); err != nil {
		t.Error(err)
	}
	text, _ := os.ReadFile(filepath.Join(dir, StateFile))
	for _, kept := range []string{`"fenced_by": 2`, `"value": "ANY 1 (node2)"`, `"disowned": "another"`, `"format": ` + strconv.Itoa(StateFormat)} {
		if !strings.Contains(string(text), kept) {
			t.Errorf("%s is not in what was written:\n%s", kept, text)
		}
	}

	newer := bytes.Replace(first, []byte(`"format": 1`), []byte(`"format": `+strconv.Itoa(StateFormat+1)), 1)
	newer = bytes.Replace(newer, []byte(`"quorum": true`), []byte(`"quorum": {"since": 3}`), 1) // it may mean anything
	dir = write(newer)
	_, asked := RememberedQuorum(dir)
	for what, err := range map[string]error{
		"the rule":         asked,
		"a disowned group": DisownGroup(dir, "another"),
		"a pause ahead":    PauseAhead(dir, "works"),
		"a witness":        writeClusterFile(dir, clusterFile{Format: StateFormat, Certificate: "of the authority"}),
	} {
		var f *fault.Error
		if !errors.As(err, &f) || f.Code != fault.BadConfig || !strings.Contains(f.Msg, "newer version") ||
			!strings.Contains(f.Detail, "Format "+strconv.Itoa(StateFormat+1)) || f.Hint == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if nodes := Remembered(dir); nodes != nil {
		t.Errorf("members are taken from a newer file: %+v", nodes)
	}
	if text, err := os.ReadFile(filepath.Join(dir, StateFile)); err != nil || !bytes.Equal(text, newer) {
		t.Errorf("it was touched: %s %v", text, err)
	}
	for _, damaged := range []string{"", "{", "[]", `{"quorum": true}`, `{"format": "1"}`} {
		if _, err := RememberedQuorum(write([]byte(damaged))); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%q: %v", damaged, err)
		}
	}
}
