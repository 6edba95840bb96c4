package conf

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"repmgr/internal/fault"
)

var update = flag.Bool("update", false, "rewrite the expected output in testdata, docs and the sample")

// inMemory serves files from a map of absolute paths.
func inMemory(files map[string]string) Files {
	m := fstest.MapFS{}
	for name, text := range files {
		m[strings.TrimPrefix(name, "/")] = &fstest.MapFile{Data: []byte(text)}
	}
	return Files{
		ReadFile: func(name string) ([]byte, error) { return m.ReadFile(strings.TrimPrefix(name, "/")) },
		ReadDir: func(name string) ([]fs.DirEntry, error) {
			entries, err := m.ReadDir(strings.TrimPrefix(name, "/"))
			slices.Reverse(entries) // nothing promises an order
			return entries, err
		},
	}
}

const minimal = "node_id = 1\nnode_name = node1\nconninfo = 'host=node1 dbname=repmgr'\ndata_directory = '/data'\n"

// loadText loads a file of the minimal settings and text, without includes.
func loadText(t *testing.T, text string) *Config {
	t.Helper()
	c, _, err := Load(inMemory(map[string]string{"/etc/repmgr.conf": minimal + text}), "/etc/repmgr.conf")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// describe is all that Load says: the error, the warnings, and of a good
// configuration what differs from the minimal one.
func describe(t *testing.T, files map[string]string) string {
	t.Helper()
	var b strings.Builder
	c, warnings, err := Load(inMemory(files), "/etc/repmgr.conf")
	if err != nil {
		fmt.Fprintf(&b, "ERROR %s\n", err)
		if got, want := fault.CodeOf(err), fault.BadConfig; got != want {
			t.Errorf("the error asks for exit status %d, want %d", got, want)
		}
	}
	for _, w := range warnings {
		fmt.Fprintf(&b, "WARNING %s\n", w)
	}
	if err == nil {
		for _, change := range Changed(loadText(t, ""), c) {
			fmt.Fprintf(&b, "%s|%s\n", change.Param, change.New)
		}
	}
	return b.String()
}

// TestStories loads each configuration of testdata. The files of a story begin
// with lines such as "-- /etc/repmgr.conf --"; the last, "want", is what is
// expected of Load, and the text before the first says what the story shows.
func TestStories(t *testing.T) {
	stories, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(stories) == 0 {
		t.Fatal("no stories:", err)
	}
	for _, story := range stories {
		t.Run(strings.TrimSuffix(filepath.Base(story), ".txtar"), func(t *testing.T) {
			text, err := os.ReadFile(story)
			if err != nil {
				t.Fatal(err)
			}
			given, want, _ := strings.Cut(string(text), "-- want --\n")
			got := describe(t, splitStory(given))
			if *update {
				if !strings.HasSuffix(given, "\n") {
					t.Fatal("the last file lacks its line end")
				}
				if err := os.WriteFile(story, []byte(given+"-- want --\n"+got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// splitStory returns the files of a story by name; a line MINIMAL in them
// stands for what every node must set.
func splitStory(story string) map[string]string {
	files, name := map[string]string{}, ""
	for line := range strings.SplitAfterSeq(story, "\n") {
		if rest, ok := strings.CutPrefix(line, "-- "); ok {
			name = strings.TrimSuffix(rest, " --\n")
			files[name] = ""
		} else if name != "" {
			files[name] += strings.Replace(line, "MINIMAL\n", minimal, 1)
		}
	}
	return files
}

func TestFileThatCannotBeRead(t *testing.T) {
	_, _, err := Load(inMemory(nil), "/etc/repmgr.conf")
	var f *fault.Error
	if !errors.As(err, &f) || f.Code != fault.BadConfig || !strings.Contains(f.Msg, "/etc/repmgr.conf") || f.Hint == "" {
		t.Errorf("got %#v", err)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("the cause is lost")
	}
}

// TestErrorReadsAsAFault: what the command prints has one problem on a line.
func TestErrorReadsAsAFault(t *testing.T) {
	_, _, err := Load(inMemory(map[string]string{"/c": "node_id = x\npriority = -1"}), "/c")
	var f *fault.Error
	if !errors.As(err, &f) {
		t.Fatalf("no fault in %v", err)
	}
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("no list in %v", err)
	}
	if got, want := strings.Count(f.Detail, "\n")+1, len(e.Problems); got != want || want != 5 {
		t.Errorf("the detail has %d lines for %d problems, want 5:\n%s", got, want, f.Detail)
	}
}

// TestManySyntaxErrors: a file that is no configuration is given up.
func TestManySyntaxErrors(t *testing.T) {
	_, problems := scan("f", strings.Repeat("%\n", 5000))
	if got, want := len(problems), maxSyntaxErrors+2; got != want {
		t.Errorf("%d problems, want %d", got, want)
	}
}

// TestManyFiles: files that include each other's neighbours do not grow without end.
func TestManyFiles(t *testing.T) {
	files := map[string]string{"/etc/repmgr.conf": minimal + "include_dir 'd'\n"}
	for i := range 9 {
		files[fmt.Sprintf("/etc/d/%d.conf", i)] = "include_dir '.'\n"
	}
	reads := 0
	f := inMemory(files)
	read := f.ReadFile
	f.ReadFile = func(name string) ([]byte, error) { reads++; return read(name) }
	if _, _, err := Load(f, "/etc/repmgr.conf"); err == nil {
		t.Error("no error")
	}
	if reads > maxFiles {
		t.Errorf("%d files were read, the bound is %d", reads, maxFiles)
	}
}
