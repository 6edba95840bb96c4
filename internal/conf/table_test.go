package conf

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestTableFitsConfig: every field belongs to exactly one parameter, and every
// parameter to a field whose name is its own in camel case.
func TestTableFitsConfig(t *testing.T) {
	owner := map[any]string{}
	c := new(Config)
	for _, p := range Params {
		field := p.at(c)
		if other, taken := owner[field]; taken {
			t.Errorf("%s and %s have one field", other, p.Name)
		}
		owner[field] = p.Name
	}
	fields := reflect.ValueOf(c).Elem()
	if got, want := len(Params), fields.NumField(); got != want {
		t.Errorf("%d parameters, %d fields", got, want)
	}
	for i := range fields.NumField() {
		field := fields.Type().Field(i).Name
		name, ok := owner[fields.Field(i).Addr().Interface()]
		if !ok {
			t.Errorf("field %s has no parameter", field)
			continue
		}
		want := strings.ReplaceAll(strings.TrimSuffix(name, "_secs"), "_", "")
		if !strings.EqualFold(field, want) {
			t.Errorf("the field of %s is named %s", name, field)
		}
	}
}

// TestTableIsSound: what the table says of a parameter is complete and holds together.
func TestTableIsSound(t *testing.T) {
	seen := map[string]bool{}
	for i := range Params {
		p := &Params[i]
		if seen[p.Name] || retired[p.Name] != "" {
			t.Errorf("%s is there twice", p.Name)
		}
		seen[p.Name] = true
		if p.Brief == "" || strings.HasSuffix(p.Brief, ".") || p.Group == "" || p.Reader == 0 {
			t.Errorf("%s lacks something, or ends its brief with a full stop", p.Name)
		}
		if p.About != "" && !strings.HasSuffix(p.About, ".") {
			t.Errorf("%s: the sentences of About end with a full stop", p.Name)
		}
		if p.Unread != "" && !strings.HasPrefix(p.Unread, "has no effect: ") && !strings.HasPrefix(p.Unread, "has no effect yet: ") {
			t.Errorf("%s: Unread reads on after the name: has no effect", p.Name)
		}
		if (p.Repmgr5 == "") != (p.Why == "") || p.Repmgr5 == p.Default && p.Repmgr5 != "" {
			t.Errorf("%s: a default that differs from repmgr 5's says why", p.Name)
		}
		if (p.Reload == NextCommand) != (p.Reader == ByCommand) && p.Reload != AtRegister {
			t.Errorf("%s is read by %s but a change counts %s", p.Name, p.Reader, p.Reload)
		}
		if got, want := p.Kind == Duration || p.Kind == Delay, reflect.TypeOf(p.at(new(Config))) == reflect.TypeFor[*time.Duration](); got != want {
			t.Errorf("%s: the kind does not fit the field", p.Name)
		}
		if p.Required != requiredByRepmgr5[p.Name] || p.Required && p.Example == "" {
			t.Errorf("%s: Required is wrong, or an example is missing", p.Name)
		}
		if p.Example != "" {
			if err := p.set(new(Config), p.Example); err != nil {
				t.Errorf("the example of %s %v", p.Name, err)
			}
		}
	}
}

var requiredByRepmgr5 = map[string]bool{"node_id": true, "node_name": true, "conninfo": true, "data_directory": true}

// TestLimits: the limits of the table are allowed, and one beyond is not.
func TestLimits(t *testing.T) {
	for i := range Params {
		p := &Params[i]
		var below, above string
		switch p.Kind {
		case Integer:
			least, most := p.integerRange()
			below, above = itoa(least-1), itoa(most+1)
		case Duration, Delay:
			least, most := p.durationRange()
			below, above = itoa(least.Milliseconds()-1)+"ms", itoa(most.Milliseconds()+1)+"ms"
		case Boolean, Choice, List, Mappings:
			continue
		default:
			least := strings.Repeat("x", int(mustInt(p.maxLength())))
			above = least + "x"
			if p.Kind == Conninfo {
				least, above = "host="+least[5:], "host="+least
			}
			if err := p.set(new(Config), least); err != nil {
				t.Errorf("%s: the longest value %v", p.Name, err)
			}
		}
		for _, limit := range []string{p.Min, p.Max} {
			if err := p.set(new(Config), limit); p.Min != "" && err != nil {
				t.Errorf("%s: the limit %s %v", p.Name, limit, err)
			}
		}
		for _, beyond := range []string{below, above} {
			if err := p.set(new(Config), beyond); beyond != "" && err == nil {
				t.Errorf("%s: %.20s is beyond the limit and is taken", p.Name, beyond)
			}
		}
	}
}

// TestGeneratedFiles: the files that are made from the table are up to date.
// After a change of the table run "go test ./internal/conf -update".
func TestGeneratedFiles(t *testing.T) {
	for name, write := range map[string]func(io.Writer) error{
		"../../docs/configuration.md": WriteReference,
		"../../repmgr.conf.sample":    WriteSample,
		"testdata/help.golden":        WriteHelp,
		"testdata/dump.golden":        Default().Dump,
	} {
		var got bytes.Buffer
		if err := write(&got); err != nil {
			t.Fatal(err)
		}
		if *update {
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, got.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s is not what the table says; run go test ./internal/conf -update", name)
		}
	}
}

// TestSampleIsAConfiguration: as it stands, and with any line of it that is
// commented out put to use, each of which shows the default or is an example.
func TestSampleIsAConfiguration(t *testing.T) {
	var b strings.Builder
	if err := WriteSample(&b); err != nil {
		t.Fatal(err)
	}
	load := func(text string) (*Config, []Warning) {
		t.Helper()
		c, warnings, err := Load(inMemory(map[string]string{"/s": text}), "/s")
		if err != nil {
			t.Fatal(err)
		}
		return c, warnings
	}
	plain, warnings := load(b.String())
	if len(warnings) > 0 {
		t.Error(warnings)
	}
	for _, line := range strings.Split(b.String(), "\n") {
		if strings.HasPrefix(line, "#") && strings.Contains(line, " = ") && !strings.HasPrefix(line, "# ") {
			c, warnings := load(b.String() + "\n" + line[1:] + "\nbarman_host=a\nbarman_server=a\n")
			name, _, _ := strings.Cut(line[1:], " ")
			p, ok := Lookup(name)
			warnings = slices.DeleteFunc(warnings, func(w Warning) bool {
				q, known := Lookup(w.Param)
				return known && w.Msg == q.Unread
			})
			if !ok || len(warnings) > 0 && !strings.HasPrefix(name, "barman") {
				t.Errorf("%s: %v", line, warnings)
			}
			if ok && p.Example == "" && !strings.HasPrefix(name, "barman") && !p.sameIn(c, plain) {
				t.Errorf("%s is not the default", line)
			}
		}
	}
}
