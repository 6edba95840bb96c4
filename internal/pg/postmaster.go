package pg

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"repmgr/internal/fault"
)

// Postmaster is what postmaster.pid says. The file outlives a crash, and its
// process number may be another process's by now: see host.OpenProcess and
// host.Processes for who lives.
type Postmaster struct {
	PID           int
	DataDir       string
	StartedAt     time.Time
	Port          int
	SocketDir     string // empty: no Unix socket
	ListenAddress string // the first of them; empty: TCP is off
	ShmKey        int64  // of the System V segment, whose users prove who is attached
	ShmID         int
	Status        string // starting, stopping, ready or standby; empty before 10 lines were written
}

// ReadPostmaster reads postmaster.pid. One that does not exist is an error that
// is fs.ErrNotExist. The file is written line by line while a server starts, so
// fields may be zero.
func ReadPostmaster(dataDir string) (Postmaster, error) {
	path := filepath.Join(dataDir, "postmaster.pid")
	text, err := os.ReadFile(path)
	if err != nil {
		return Postmaster{}, fault.Wrap(err, fault.BadConfig, "lock file of the server")
	}
	lines := strings.Split(string(text), "\n")
	line := func(n int) string {
		if n > len(lines) {
			return ""
		}
		return strings.TrimSpace(lines[n-1])
	}
	pid, err := strconv.Atoi(line(1))
	if err != nil || pid == 0 {
		return Postmaster{}, fault.New(fault.BadConfig, "lock file %s", path).
			WithDetail("Its first line is %q; a process number is expected.", line(1))
	}
	p := Postmaster{PID: max(pid, -pid), DataDir: line(2), SocketDir: line(5), ListenAddress: line(6), Status: line(8)}
	if seconds, err := strconv.ParseInt(line(3), 10, 64); err == nil {
		p.StartedAt = time.Unix(seconds, 0)
	}
	p.Port, _ = strconv.Atoi(line(4))
	if key, id, ok := strings.Cut(line(7), " "); ok {
		p.ShmKey, _ = strconv.ParseInt(strings.TrimSpace(key), 10, 64)
		p.ShmID, _ = strconv.Atoi(strings.TrimSpace(id))
	}
	return p, nil
}

// Ctl builds the command lines of pg_ctl for one server, for /bin/sh here or on
// another machine. Where repmgr.conf has a service_..._command, that is run instead.
type Ctl struct {
	Bindir  string // empty: pg_ctl is looked for in PATH
	Dir     string // data directory, or the directory of the configuration files
	Options string // pg_ctl_options, which go into the line as they are
}

// StopMode is how a server is stopped (PostgreSQL manual, pg_ctl).
type StopMode string

// The modes. Immediate is as a crash: recovery follows, nothing acknowledged is lost.
const (
	Smart     StopMode = "smart"
	Fast      StopMode = "fast"
	Immediate StopMode = "immediate"
)

// Start waits until the server takes connections, for at most that time. The
// server keeps the outputs of this command: send them to a file or /dev/null
// (host.Cmd.OutputTo), or name a log file here.
func (c Ctl) Start(logFile string, wait time.Duration) string {
	args := c.wait(wait)
	if logFile != "" {
		args = append(args, "-l", Quote(logFile))
	}
	return c.line("start", args...)
}

// Stop stops the server; with a wait of zero it only gives the order.
func (c Ctl) Stop(mode StopMode, wait time.Duration) string {
	return c.line("stop", append(c.wait(wait), "-m", string(mode))...)
}

// Restart stops and starts the server.
func (c Ctl) Restart(mode StopMode, wait time.Duration) string {
	return c.line("restart", append(c.wait(wait), "-m", string(mode))...)
}

// Reload makes the server read its configuration files again.
func (c Ctl) Reload() string { return c.line("reload") }

// Promote makes a standby a primary; with a wait of zero it only gives the order.
func (c Ctl) Promote(wait time.Duration) string { return c.line("promote", c.wait(wait)...) }

// Status exits with 0 if the server runs, 3 if it does not, 4 if there is no
// data directory.
func (c Ctl) Status() string { return c.line("status") }

// wait asks pg_ctl to wait for that time, in whole seconds and at least one.
func (c Ctl) wait(d time.Duration) []string {
	if d <= 0 {
		return []string{"-W"}
	}
	return []string{"-w", "-t", strconv.Itoa(int((d + time.Second - 1) / time.Second))}
}

func (c Ctl) line(action string, args ...string) string {
	program := "pg_ctl"
	if c.Bindir != "" {
		program = Quote(filepath.Join(c.Bindir, program))
	}
	parts := []string{program}
	if c.Options != "" {
		parts = append(parts, c.Options)
	}
	parts = append(parts, "-D", Quote(c.Dir))
	return strings.Join(append(append(parts, args...), action), " ")
}

// Quote makes a word safe for /bin/sh.
func Quote(s string) string {
	plain := s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-+=./:,@%", r))
	}) < 0
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// QuoteAll quotes each word and puts blanks between them.
func QuoteAll(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = Quote(w)
	}
	return strings.Join(out, " ")
}

// SplitWords takes a line apart as /bin/sh would: blanks separate words, single
// and double quotes and backslashes keep them together. Variables, wildcards and
// operators mean nothing here.
func SplitWords(s string) ([]string, error) {
	var words []string
	var b strings.Builder
	in, quote := false, byte(0)
	for i := 0; i < len(s); i++ {
		ch := s[i]
		switch {
		case ch == '\\' && quote != '\'':
			if i+1 == len(s) {
				return nil, fmt.Errorf("nothing follows the backslash at the end")
			}
			i++
			if quote == '"' && !strings.ContainsRune("\\\"$`", rune(s[i])) {
				b.WriteByte('\\')
			}
			b.WriteByte(s[i])
			in = true
		case quote != 0 && ch == quote:
			quote = 0
		case quote != 0:
			b.WriteByte(ch)
		case ch == '\'' || ch == '"':
			quote, in = ch, true
		case isBlank(ch):
			if in {
				words = append(words, b.String())
				b.Reset()
				in = false
			}
		default:
			b.WriteByte(ch)
			in = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("the closing %c is missing", quote)
	}
	if in {
		words = append(words, b.String())
	}
	return words, nil
}
