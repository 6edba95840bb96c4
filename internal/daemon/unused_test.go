package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"repmgr/internal/conf"
)

// needless are parameters of repmgr 5 that change nothing here by their nature;
// their documentation says why.
var needless = map[string]bool{"primary_notification_timeout": true, "reconnect_loop_sync": true}

// Every parameter that repmgrd alone is said to read is read: nothing is ignored in
// silence. One that has become needless says so in its documentation.
func TestNothingIsIgnoredInSilence(t *testing.T) {
	var source strings.Builder
	for _, dir := range []string{".", "../registry"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if text, err := os.ReadFile(file); err == nil && !strings.HasSuffix(file, "_test.go") {
				source.Write(text)
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	read := source.String()
	for _, p := range conf.Params {
		field := ""
		for _, word := range strings.Split(p.Name, "_") {
			field += strings.ToUpper(word[:1]) + word[1:]
		}
		field = strings.NewReplacer("Id", "ID", "Ssh", "SSH", "Ttl", "TTL", "Wal", "WAL").Replace(strings.TrimSuffix(field, "Secs"))
		switch {
		case p.Reader != conf.ByDaemon, len(p.Choices) == 1: // what the command reads too may be read by it alone
		case needless[p.Name]:
			if !strings.Contains(p.About, "Needless here: ") {
				t.Errorf("%s changes nothing, and its documentation does not say so", p.Name)
			}
		case !strings.Contains(read, "."+field):
			t.Errorf("nobody reads %s (cfg.%s)", p.Name, field)
		}
	}
}
