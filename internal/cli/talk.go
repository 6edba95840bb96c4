package cli

import (
	"errors"
	"fmt"
	"io"
	"log/syslog"
	"strings"
	"sync"
	"time"

	"repmgr/internal/fault"
)

// Level is the weight of a line of talk; smaller is graver, as in syslog.
type Level int

// The levels, by repmgr's names.
const (
	Emerg Level = iota
	Alert
	Crit
	Error
	Warning
	Notice
	Info
	Debug
)

var levelNames = [...]string{"EMERG", "ALERT", "CRIT", "ERROR", "WARNING", "NOTICE", "INFO", "DEBUG"}

// String is the word before a line.
func (l Level) String() string { return levelNames[l] }

// parseLevel reads a level's name in any case.
func parseLevel(s string) (Level, bool) {
	for i, n := range levelNames {
		if strings.EqualFold(n, s) {
			return Level(i), true
		}
	}
	return Info, false
}

// Talk is what the program says beside its result. Each entry is written whole,
// so that several goroutines may talk.
type Talk struct {
	mu      sync.Mutex
	w       io.Writer
	limit   Level            // entries above it are dropped
	terse   bool             // drop details and hints
	verbose bool             // let Verbose through
	stamp   func() time.Time // set: the daemon's line format
	syslog  *syslog.Writer   // set: entries go there and not to w
}

// Entry is one thing said, with what was found and what to do.
type Entry struct {
	Level  Level
	Text   string
	Detail string
	Hint   string
}

// Say writes an entry if its level passes; Detail and Hint share its fate.
func (t *Talk) Say(e Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.Level > t.limit {
		return
	}
	if t.syslog != nil {
		t.toSyslog(e)
		return
	}
	t.line(e.Level.String(), e.Text)
	if e.Detail != "" && !t.terse {
		t.line("DETAIL", e.Detail)
	}
	if e.Hint != "" && !t.terse {
		t.line("HINT", e.Hint)
	}
}

func (t *Talk) line(word, text string) {
	if t.stamp != nil {
		fmt.Fprintf(t.w, "[%s] [%s] %s\n", t.stamp().Format("2006-01-02 15:04:05"), word, text)
		return
	}
	fmt.Fprintf(t.w, "%s: %s\n", word, text)
}

// toSyslog sends an entry under its own priority; detail and hint go with it,
// since there is no other place where they could be read.
func (t *Talk) toSyslog(e Entry) {
	text := e.Text
	if e.Detail != "" && !t.terse {
		text += "; " + e.Detail
	}
	send := map[Level]func(string) error{
		Emerg: t.syslog.Emerg, Alert: t.syslog.Alert, Crit: t.syslog.Crit, Error: t.syslog.Err,
		Warning: t.syslog.Warning, Notice: t.syslog.Notice, Info: t.syslog.Info, Debug: t.syslog.Debug,
	}[e.Level]
	// There is nowhere to tell that the log itself is broken.
	_ = send(text)
}

// Debug says what only a developer wants to know.
func (t *Talk) Debug(format string, args ...any) { t.say(Debug, format, args) }

// Info says what goes on.
func (t *Talk) Info(format string, args ...any) { t.say(Info, format, args) }

// Notice says what was done.
func (t *Talk) Notice(format string, args ...any) { t.say(Notice, format, args) }

// Warning says what may be wrong.
func (t *Talk) Warning(format string, args ...any) { t.say(Warning, format, args) }

// Error says what went wrong; a verb that gives up returns its error instead.
func (t *Talk) Error(format string, args ...any) { t.say(Error, format, args) }

// Verbose is Info for those who asked for more with --verbose.
func (t *Talk) Verbose(format string, args ...any) {
	if t.verbose {
		t.say(Info, format, args)
	}
}

func (t *Talk) say(l Level, format string, args []any) {
	t.Say(Entry{Level: l, Text: fmt.Sprintf(format, args...)})
}

// Fault says why a verb gave up, with what was found and what to do.
func (t *Talk) Fault(err error) {
	e := Entry{Level: Error, Text: err.Error()}
	var f *fault.Error
	if errors.As(err, &f) {
		e.Detail, e.Hint = f.Detail, f.Hint
	}
	t.Say(e)
}
