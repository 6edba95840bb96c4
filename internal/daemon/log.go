package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"os"
	"strings"
	"sync"
	"time"

	"repmgr/internal/conf"
	"repmgr/internal/fault"
)

// The levels of repmgr between those of slog.
const (
	levelNotice = slog.LevelInfo + 2
	levelCrit   = slog.LevelError + 4
)

// levels are repmgr's log_level values, the least first.
var levels = []struct {
	name  string
	level slog.Level
}{
	{"DEBUG", slog.LevelDebug}, {"INFO", slog.LevelInfo}, {"NOTICE", levelNotice}, {"WARNING", slog.LevelWarn},
	{"ERROR", slog.LevelError}, {"CRIT", levelCrit}, {"ALERT", levelCrit + 4}, {"EMERG", levelCrit + 8},
}

func levelOf(name string) slog.Level {
	for _, l := range levels {
		if strings.EqualFold(l.name, name) {
			return l.level
		}
	}
	return slog.LevelInfo
}

func nameOf(level slog.Level) string {
	name := levels[0].name
	for _, l := range levels {
		if level >= l.level {
			name = l.name
		}
	}
	return name
}

// logSink is where log lines go: standard error, a file that can be opened
// anew after a rotation, or syslog.
type logSink struct {
	begin  string // of each line: whose it is, where several daemons run in one process
	mu     sync.Mutex
	level  slog.LevelVar
	out    io.Writer
	file   *os.File // the open log_file; nil: none
	syslog *syslog.Writer
}

func newSink(opt Options) *logSink {
	s := &logSink{out: os.Stderr}
	if opt.Among {
		s.begin = opt.ConfigFile + ": "
	}
	return s
}

// configure takes level, facility and file from the configuration, and opens
// the file anew. On an error the sink stays as it was.
func (s *logSink) configure(cfg *conf.Config, levelOverride string) error {
	var file *os.File
	var sys *syslog.Writer
	var err error
	if facility, ok := facilities[strings.ToUpper(cfg.LogFacility)]; ok {
		if sys, err = syslog.New(facility|syslog.LOG_INFO, "repmgrd"); err != nil {
			return fault.Wrap(err, fault.BadConfig, "syslog cannot be reached").WithHint("Set log_facility='STDERR', or start a syslog daemon.")
		}
	} else if cfg.LogFile != "" {
		if file, err = os.OpenFile(cfg.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640); err != nil {
			return fault.Wrap(err, fault.BadConfig, "log_file cannot be written").WithHint("Let the daemon's user write to %q, or set log_file to another path.", cfg.LogFile)
		}
	}
	_ = s.close() // nobody is left to be told
	s.mu.Lock()
	defer s.mu.Unlock()
	s.file, s.syslog, s.out = file, sys, os.Stderr
	if file != nil {
		s.out = file
	}
	level := cfg.LogLevel
	if levelOverride != "" {
		level = levelOverride
	}
	s.level.Set(levelOf(level))
	return nil
}

// close lets the log file or syslog go; what is logged after that goes to standard error.
func (s *logSink) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if s.file != nil {
		err = s.file.Close()
	}
	if s.syslog != nil {
		err = s.syslog.Close()
	}
	s.file, s.syslog, s.out = nil, nil, os.Stderr
	return err
}

var facilities = map[string]syslog.Priority{
	"USER": syslog.LOG_USER, "LOCAL0": syslog.LOG_LOCAL0, "LOCAL1": syslog.LOG_LOCAL1, "LOCAL2": syslog.LOG_LOCAL2, "LOCAL3": syslog.LOG_LOCAL3,
	"LOCAL4": syslog.LOG_LOCAL4, "LOCAL5": syslog.LOG_LOCAL5, "LOCAL6": syslog.LOG_LOCAL6, "LOCAL7": syslog.LOG_LOCAL7,
}

// logHandler writes repmgr's lines: "[2026-01-31 12:00:00] [NOTICE] text", with
// the attributes "detail" and "hint" on lines of their own.
type logHandler struct {
	sink  *logSink
	attrs []slog.Attr
}

// Enabled is part of slog.Handler.
func (h logHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.sink.level.Level() }

// WithAttrs is part of slog.Handler.
func (h logHandler) WithAttrs(as []slog.Attr) slog.Handler {
	return logHandler{h.sink, append(h.attrs[:len(h.attrs):len(h.attrs)], as...)}
}

// WithGroup is part of slog.Handler; lines for people have no groups.
func (h logHandler) WithGroup(string) slog.Handler { return h }

// Handle writes one record.
func (h logHandler) Handle(_ context.Context, r slog.Record) error {
	text, extra := h.sink.begin+r.Message, []string(nil)
	add := func(a slog.Attr) bool {
		switch v := a.Value.Resolve().String(); {
		case v == "":
		case a.Key == "detail" || a.Key == "hint":
			extra = append(extra, strings.ToUpper(a.Key), v)
		default:
			text += fmt.Sprintf(" %s=%q", a.Key, v)
		}
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	h.sink.mu.Lock()
	defer h.sink.mu.Unlock()
	if h.sink.syslog != nil {
		return h.toSyslog(r.Level, text, extra)
	}
	stamp := r.Time.Local().Format(time.DateTime)
	lines := fmt.Sprintf("[%s] [%s] %s\n", stamp, nameOf(r.Level), text)
	for i := 0; i < len(extra); i += 2 {
		lines += fmt.Sprintf("[%s] [%s] %s%s\n", stamp, extra[i], h.sink.begin, extra[i+1])
	}
	_, err := io.WriteString(h.sink.out, lines)
	return err
}

func (h logHandler) toSyslog(level slog.Level, text string, extra []string) error {
	for i := 0; i < len(extra); i += 2 {
		text += "; " + strings.ToLower(extra[i]) + ": " + extra[i+1]
	}
	w := h.sink.syslog
	switch {
	case level >= levelCrit:
		return w.Crit(text)
	case level >= slog.LevelError:
		return w.Err(text)
	case level >= slog.LevelWarn:
		return w.Warning(text)
	case level >= levelNotice:
		return w.Notice(text)
	case level >= slog.LevelInfo:
		return w.Info(text)
	default:
		return w.Debug(text)
	}
}

// notice logs at repmgr's level between INFO and WARNING.
func (d *Daemon) notice(text string, args ...any) {
	d.log.Log(context.Background(), levelNotice, text, args...)
}

// complain logs an error with its detail and hint.
func (d *Daemon) complain(level slog.Level, err error) {
	f, text := faultOf(err), err.Error()
	d.log.Log(context.Background(), level, text, "detail", f.Detail, "hint", f.Hint)
}
