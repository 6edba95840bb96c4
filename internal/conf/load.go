package conf

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"repmgr/internal/fault"
)

// Files is how Load reads: os.ReadFile and os.ReadDir, or a test's own.
type Files struct {
	ReadFile func(name string) ([]byte, error)
	ReadDir  func(name string) ([]fs.DirEntry, error)
}

// The bounds of what one configuration may include.
const (
	maxNesting = 10   // files within files
	maxFiles   = 1000 // in all
)

// Load reads the configuration file at name and what it includes. The error is
// an *Error that has everything that is wrong, or a *fault.Error if the file
// cannot be read at all; both ask for the exit status BadConfig.
func Load(files Files, name string) (*Config, []Warning, error) {
	text, err := files.ReadFile(name)
	if err != nil {
		return nil, nil, fault.Wrap(err, fault.BadConfig, "configuration file %s cannot be read", name).
			WithHint("name another file with -f, or make this one readable to the user who runs the program")
	}
	l := &loader{files: files, config: defaults(), places: map[string]place{}}
	l.take(name, string(text), nil)
	if len(l.problems) == 0 {
		l.config.resolve()
	}
	l.crossCheck(name)
	l.sort(l.problems)
	l.sort(l.warnings)
	if len(l.problems) > 0 {
		return nil, l.warnings, &Error{Path: name, Problems: l.problems}
	}
	return l.config, l.warnings, nil
}

// place is where a parameter was set last.
type place struct {
	file string
	line int
	bad  bool // its value was refused, so that nothing more need be said of it
}

// loader gathers what the files say.
type loader struct {
	files    Files
	config   *Config
	places   map[string]place
	order    []string // files in the order in which they were read
	problems []Problem
	warnings []Warning
}

func (l *loader) problem(p Problem) { l.problems = append(l.problems, p) }

// sort puts problems in the order of the files and their lines.
func (l *loader) sort(problems []Problem) {
	slices.SortStableFunc(problems, func(a, b Problem) int {
		if a.File != b.File {
			return slices.Index(l.order, a.File) - slices.Index(l.order, b.File)
		}
		return a.Line - b.Line
	})
}

// take applies the text of one file; above are the files that include it.
func (l *loader) take(file, text string, above []string) {
	settings, problems := scan(file, text)
	for _, p := range problems {
		l.problem(p)
		l.places[p.Param] = place{file: p.File, line: p.Line, bad: true}
	}
	l.order = append(l.order, file)
	above = append(slices.Clone(above), path.Clean(file))
	for _, s := range settings {
		at := Problem{File: file, Line: s.line, Param: s.name}
		switch strings.ToLower(s.name) {
		case "include":
			l.includeFile(at, s.value, above, false)
		case "include_if_exists":
			l.includeFile(at, s.value, above, true)
		case "include_dir":
			l.includeDir(at, s.value, above)
		default:
			l.assign(at, s.value)
		}
	}
}

// includeFile takes a file whose name is relative to the one that names it.
func (l *loader) includeFile(at Problem, value string, above []string, mayLack bool) {
	file := beside(at.File, value)
	if at.Found = value; value == "" {
		at.Msg = "has no file name"
	} else if slices.Contains(above, file) {
		at.Msg = "includes itself"
	} else if len(above) > maxNesting {
		at.Msg = fmt.Sprintf("is nested more than %d deep", maxNesting)
	} else if len(l.order) >= maxFiles {
		at.Msg = fmt.Sprintf("is more than the %d files that may be included", maxFiles)
	} else if text, err := l.files.ReadFile(file); err == nil {
		l.take(file, string(text), above)
		return
	} else if mayLack && errors.Is(err, fs.ErrNotExist) {
		return
	} else {
		at.Msg = "cannot be read: " + err.Error()
	}
	l.problem(at)
}

// includeDir takes the files of a directory that end in .conf and do not begin
// with a dot, in the order of their names.
func (l *loader) includeDir(at Problem, value string, above []string) {
	if at.Found = value; value == "" {
		at.Msg = "has no directory name"
		l.problem(at)
		return
	}
	dir := beside(at.File, value)
	entries, err := l.files.ReadDir(dir)
	if err != nil {
		at.Msg = "cannot be read: " + err.Error()
		l.problem(at)
		return
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && strings.HasSuffix(e.Name(), ".conf") && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	for _, name := range names {
		l.includeFile(at, path.Join(dir, name), above, false)
	}
}

// beside is the path of name as seen from file.
func beside(file, name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join(path.Dir(file), name)
}

// assign gives a parameter its value.
func (l *loader) assign(at Problem, value string) {
	p, ok := Lookup(at.Param)
	if !ok {
		l.unknown(at)
		return
	}
	before, again := l.places[p.Name]
	here := place{file: at.File, line: at.Line}
	if again && before.file == here.file && p.Kind != List && p.Kind != Mappings {
		at.Msg = fmt.Sprintf("is set a second time; line %d no longer counts", before.line)
		l.warnings = append(l.warnings, at)
	}
	if err := p.set(l.config, value); err != nil {
		here.bad = true
		at.Msg, at.Expected, at.Found = err.Error(), p.Expected(), p.show(value)
		if spelling := (*misspelt)(nil); errors.As(err, &spelling) {
			at.Nearest = spelling.meant
		}
		l.problem(at)
	}
	l.places[p.Name] = here
}

// show is value as an error shows it: not at all where it cannot be read, so
// that nobody knows what is a password in it.
func (p *Param) show(value string) string {
	if text := p.redact(value); text != hidden {
		return shorten(text)
	}
	return ""
}

// retired are names that repmgr knew once, and what became of them.
var retired = map[string]string{
	"cluster":                     "is gone: the schema is always named repmgr",
	"node":                        "is now node_id",
	"upstream_node":               "is gone: use the option --upstream-node-id of standby clone, register and follow",
	"loglevel":                    "is now log_level",
	"logfacility":                 "is now log_facility",
	"logfile":                     "is now log_file",
	"master_reponse_timeout":      "is now async_query_timeout",
	"master_response_timeout":     "is now async_query_timeout",
	"primary_response_timeout":    "is now async_query_timeout",
	"retry_promote_interval_secs": "is now primary_notification_timeout",
}

// unknown warns of a name that is no parameter; its value may be anything, a
// password too, and is not shown.
func (l *loader) unknown(at Problem) {
	if what, ok := retired[at.Param]; ok {
		at.Msg = what + "; the line is ignored"
	} else {
		at.Msg = "is not a parameter; the line is ignored"
		at.Nearest = nearestFold(at.Param, names())
	}
	l.warnings = append(l.warnings, at)
}

// names are those of all parameters and of the include directives.
func names() []string {
	list := []string{"include", "include_dir", "include_if_exists"}
	for _, p := range Params {
		list = append(list, p.Name)
	}
	return list
}
