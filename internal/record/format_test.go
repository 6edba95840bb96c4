package record

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the fixtures of this level")

// What stands on disks and in snapshots. testdata has, for each level that a program has
// written, the record and every change of that program, once with all fields set and once
// with none. A fixture is written once, by the program of its level, and stays as it is.
const (
	recordFixture  = "testdata/record-%d.json"
	changesFixture = "testdata/changes-%d.jsonl"
)

// filled sets everything that v holds to something that can be told from nothing.
func filled(v reflect.Value, n *int64) {
	*n++
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(at.UTC()))
			return
		}
		for i := range v.NumField() {
			filled(v.Field(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		filled(v.Index(0), n)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString(fmt.Sprintf("%s %d", v.Type(), *n))
	case reflect.Int, reflect.Int64:
		v.SetInt(*n)
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n))
	default:
		panic(fmt.Sprintf("%s: fill it too", v.Type()))
	}
}

func filledRecord() *Record {
	r, n := &Record{}, int64(0)
	filled(reflect.ValueOf(r).Elem(), &n)
	r.Format = Format
	return r
}

// changeOf is a change of that kind, with all fields set or none.
func changeOf(t *testing.T, kind string, full bool) Change {
	t.Helper()
	c, err := kinds[kind]([]byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	if v, n := reflect.New(reflect.TypeOf(c)).Elem(), int64(0); full {
		filled(v, &n)
		c = v.Interface().(Change)
	}
	return c
}

// written are the changes as this program writes them, a line for each.
func written(t *testing.T) []byte {
	t.Helper()
	var out []byte
	for _, kind := range Kinds() {
		for _, full := range []bool{true, false} {
			text, err := EncodeEntry(changeOf(t, kind, full), 3, 7, at)
			if err != nil {
				t.Fatal(err)
			}
			out = append(append(out, text...), '\n')
		}
	}
	return out
}

// fixtures are the files of every level that there are, by level.
func fixtures(t *testing.T, pattern string) map[int][]byte {
	t.Helper()
	found := map[int][]byte{}
	for level := 1; level <= Level; level++ {
		text, err := os.ReadFile(fmt.Sprintf(pattern, level))
		if err == nil {
			found[level] = text
		}
	}
	if found[Level] == nil || len(found) < 2 {
		t.Fatalf("%s: only those of %d levels are there, and this program has level %d: run the tests with -update once, and never again for a level that was released", pattern, len(found), Level)
	}
	return found
}

func writeFixture(t *testing.T, pattern string, text []byte) {
	t.Helper()
	if !*update {
		return
	}
	path := fmt.Sprintf(pattern, Level)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

// keysOf are the names of all fields in a JSON text, with the way to them.
func keysOf(t *testing.T, text []byte) []string {
	t.Helper()
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		t.Fatal(err)
	}
	var keys []string
	var walk func(at string, v any)
	walk = func(at string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, inner := range v {
				keys = append(keys, at+"."+k)
				walk(at+"."+k, inner)
			}
		case []any:
			for _, inner := range v {
				walk(at, inner)
			}
		}
	}
	walk("", value)
	slices.Sort(keys)
	return slices.Compact(keys)
}

// The changes of every level are read as they were meant, and this program writes its own
// as its fixture has them. What is new in a level has that level's number or a higher one,
// so that an older program refuses it instead of passing it over.
func TestChangesOfEveryLevel(t *testing.T) {
	now := written(t)
	writeFixture(t, changesFixture, now)
	all := fixtures(t, changesFixture)
	if !bytes.Equal(all[Level], now) {
		t.Errorf("the changes are written in another form than that of level %d: a new field or kind is a new level, and a fixture of its own. Now:\n%s", Level, now)
	}
	known := map[string]int{} // field of a kind, as it stands in an entry: the level of the first fixture that has it
	for level := 1; level <= Level; level++ {
		seen := map[string]int{}
		for line := range strings.Lines(string(all[level])) {
			e, c, err := DecodeEntry([]byte(line))
			if err != nil {
				t.Fatalf("level %d: %v\n%s", level, err, line)
			}
			again, err := json.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			if string(again) != string(e.Body) {
				t.Errorf("level %d: %s became %s", level, e.Body, again)
			}
			for _, key := range append(keysOf(t, e.Body), "") {
				if old := known[e.Kind+key]; old == 0 && len(known) > 0 && e.Version < level {
					t.Errorf("%s%s came with level %d, and is written with level %d", e.Kind, key, level, e.Version)
				}
				seen[e.Kind+key] = level
			}
			if e.Version > level {
				t.Errorf("level %d writes an entry of level %d: %s", level, e.Version, line)
			}
		}
		for key := range seen {
			known[key] = level
		}
	}
	for _, kind := range Kinds() {
		if c := changeOf(t, kind, true); KindOf(c) != kind {
			t.Errorf("%T is read from %q and written as %q", c, kind, KindOf(c))
		}
	}
}

// The record of every level is read as it was meant.
func TestRecordOfEveryLevel(t *testing.T) {
	now, err := json.MarshalIndent(filledRecord(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	now = append(now, '\n')
	writeFixture(t, recordFixture, now)
	all := fixtures(t, recordFixture)
	if !bytes.Equal(all[Level], now) {
		t.Errorf("the record is written in another form than that of level %d: a new field is a new level, and a fixture of its own. Now:\n%s", Level, now)
	}
	for level, text := range all {
		r, err := Decode(text)
		if err != nil {
			t.Fatalf("level %d: %v", level, err)
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range keysOf(t, text) {
			if !slices.Contains(keysOf(t, again), key) {
				t.Errorf("level %d: %s is gone", level, key)
			}
		}
		if level == Level && !reflect.DeepEqual(r, filledRecord()) {
			t.Errorf("read was %+v", r)
		}
	}
	for _, key := range keysOf(t, mustEncode(t, &Record{Format: Format, Members: []Member{{}}, Terms: []Term{{}}, Bids: []Bid{{}}, Decisions: []Decision{{}}})) {
		if oldest := all[3]; !slices.Contains(keysOf(t, oldest), key) {
			t.Errorf("%s stands in a record where it is not set: an older program refuses the whole of it", key)
		}
	}
}

func mustEncode(t *testing.T, r *Record) []byte {
	t.Helper()
	text, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// What a newer program wrote is refused, wherever it stands, and says what to do.
func TestNewerForms(t *testing.T) {
	r := group(t, 3)
	text := mustEncode(t, r)
	swap := func(old, new string) []byte {
		t.Helper()
		if !bytes.Contains(text, []byte(old)) {
			t.Fatalf("%s is not in %s", old, text)
		}
		return bytes.Replace(text, []byte(old), []byte(new), 1)
	}
	member, err := json.Marshal(r.Members[0])
	if err != nil {
		t.Fatal(err)
	}
	if m, err := DecodeMember(member); err != nil || m != r.Members[0] {
		t.Errorf("%+v %v", m, err)
	}
	for what, text := range map[string][]byte{
		"a newer format":         swap(`{"format":1`, `{"format":2`),
		"another field":          swap(`{"format":1`, `{"format":1,"quarantine":true`),
		"a field of the lease":   swap(`"lease":{`, `"lease":{"quarantine":true,`),
		"a field of a member":    swap(`"members":[{`, `"members":[{"quarantine":true,`),
		"a newer form of a part": swap(`"term":1`, `"term":{"major":1}`),
	} {
		if got, err := Decode(text); err == nil || got != nil || !strings.Contains(err.Error(), "has to be updated") {
			t.Errorf("%s: %+v %v", what, got, err)
		}
	}
	if _, err := DecodeMember(bytes.Replace(member, []byte("{"), []byte(`{"quarantine":true,`), 1)); err == nil || !strings.Contains(err.Error(), "has to be updated") {
		t.Errorf("a field of a change of members: %v", err)
	}
	for what, text := range map[string]string{
		"a newer level": fmt.Sprintf(`{"v":%d,"kind":"renew","body":{}}`, Level+1),
		"another kind":  `{"v":1,"kind":"quarantine","body":{}}`,
		"another field": `{"v":1,"kind":"renew","body":{"quarantine":true}}`,
	} {
		if _, c, err := DecodeEntry([]byte(text)); err == nil || c != nil || !strings.Contains(err.Error(), "has to be updated") {
			t.Errorf("%s: %+v %v", what, c, err)
		}
	}
}
