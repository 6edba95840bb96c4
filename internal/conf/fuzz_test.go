package conf

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// FuzzLoad: no text makes Load panic, and what Load made of a text survives
// being written and loaded again.
func FuzzLoad(f *testing.F) {
	stories, _ := filepath.Glob("testdata/*.txtar")
	for _, story := range stories {
		text, err := os.ReadFile(story)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(splitStory(string(text))["/etc/repmgr.conf"])
	}
	f.Add(`location = 'a\nb\r\tc\\d'`)
	f.Add("repmgrd_standby_startup_timeout = 60\nstandby_reconnect_timeout = 90")
	f.Add("conninfo = 'host=a password=''b c'''")
	f.Fuzz(func(t *testing.T, text string) {
		c, _, err := Load(inMemory(map[string]string{"/etc/repmgr.conf": minimal + text}), "/etc/repmgr.conf")
		if err != nil {
			if strings.TrimSpace(err.Error()) == "" {
				t.Error("an error without words")
			}
			return
		}
		var written, dumped, dumpedAgain strings.Builder
		if err := c.Write(&written); err != nil {
			t.Fatal(err)
		}
		again, _, err := Load(inMemory(map[string]string{"/w": written.String()}), "/w")
		if err != nil {
			t.Fatalf("what was written is not valid: %v\n%s", err, written.String())
		}
		if !reflect.DeepEqual(again, c) {
			t.Errorf("written and loaded again it is another:\n%+v\n%+v", again, c)
		}
		if err := c.Dump(&dumped); err != nil {
			t.Fatal(err)
		}
		if err := again.Dump(&dumpedAgain); err != nil || dumped.String() != dumpedAgain.String() {
			t.Errorf("dumped it is another: %v", err)
		}
		if got, want := strings.Count(dumped.String(), "\n"), len(Params); got != want {
			t.Errorf("the dump has %d lines, want %d", got, want)
		}
	})
}
