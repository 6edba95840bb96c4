package api

import (
	"bytes"
	"encoding"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"

	"repmgr/internal/failover"
)

var update = flag.Bool("update", false, "write the report of today's form")

// filled sets all that v holds to something that can be told from nothing.
func filled(v reflect.Value) {
	if _, word := v.Interface().(encoding.TextMarshaler); word && v.CanInt() {
		v.SetInt(1) // the first word after that for nothing
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			filled(v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		filled(v.Index(0))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		filled(v.Elem())
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString(v.Type().String())
	default:
		v.Set(reflect.ValueOf(7).Convert(v.Type()))
	}
}

// Daemons of two versions understand each other's reports: what an older one tells is read
// as it was meant, what a newer one tells beside that is passed over, and nothing is left
// out that an older one needs. The file in testdata stays as it is.
func TestReportsOfOtherVersions(t *testing.T) {
	const fixture = "testdata/report-1.json"
	var full failover.Report
	filled(reflect.ValueOf(&full).Elem())
	now, err := json.MarshalIndent(full, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(fixture, append(now, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	older, err := os.ReadFile(fixture)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeReport(older)
	if err != nil {
		t.Fatal(err)
	}
	again, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	mine := map[string]bool{}
	for line := range strings.Lines(string(again)) {
		mine[strings.TrimRight(line, ",\n")] = true
	}
	for line := range strings.Lines(string(older)) {
		if line = strings.TrimRight(line, ",\n"); !mine[line] {
			t.Errorf("%q of an older report is lost", line)
		}
	}
	newer := bytes.ReplaceAll(older, []byte("{\n"), []byte("{\n\"quarantine\": {\"since\": 3},\n"))
	if with, err := decodeReport(newer); err != nil || !reflect.DeepEqual(with, got) {
		t.Errorf("of a newer report: %+v, %v", with, err)
	}
}
