package host

import (
	"context"
	"io"
	"strconv"
	"strings"
	"time"
)

// SSH runs commands on another host, by ssh. It never asks a person: a login
// that needs a password is refused.
type SSH struct {
	Host    string   // may hold a user: barman@host
	Options []string // words of ssh_options
}

// words are ssh and its options. The option -q, which ssh_options has by default,
// would keep from us why ssh failed: what it is for is that ssh says nothing else.
func (s SSH) words() []string {
	words := []string{"ssh", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"}
	for _, w := range s.Options {
		if w != "-q" {
			words = append(words, w)
		}
	}
	return words
}

// Command is the command here that runs a shell's line there. Of a Result, the
// status 255 says that ssh itself failed.
func (s SSH) Command(line string) Cmd {
	return Cmd{Args: append(s.words(), "--", s.Host, line)}
}

// SSHFailed is the status with which ssh ends when there was no session.
const SSHFailed = 255

// rsyncSilence is how long rsync waits for a host that says nothing.
const rsyncSilence = 5 * time.Minute

// Rsync is the command here that copies what is in a directory there into a
// directory here. What a pattern of rsync's excludes is left out. The mode of
// every file stays as it is, its owner is the user that we are.
func (s SSH) Rsync(from, to string, exclude ...string) []string {
	words := []string{"rsync", "--recursive", "--links", "--perms", "--times", "--protect-args", "--no-human-readable",
		"--no-inc-recursive", "--info=progress2", "--outbuf=N",
		"--timeout=" + strconv.Itoa(int(rsyncSilence.Seconds())), "--rsh=" + rsyncWords(s.words())}
	for _, pattern := range exclude {
		words = append(words, "--exclude="+pattern)
	}
	return append(words, "--", s.Host+":"+strings.TrimRight(from, "/")+"/", to)
}

// rsyncWords is a command as rsync takes it apart: at blanks that are not in quotes, in
// which a quote is doubled (manual page of rsync, --rsh).
func rsyncWords(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = w
		if w == "" || strings.ContainsAny(w, " \t'\"") {
			out[i] = `"` + strings.ReplaceAll(w, `"`, `""`) + `"`
		}
	}
	return strings.Join(out, " ")
}

// Copy runs a command that Rsync has made. progress, which may be nil, is told the
// bytes copied so far.
func Copy(ctx context.Context, rsync []string, progress func(done int64)) (Result, error) {
	return Run(ctx, Cmd{Args: rsync, Env: []string{"LC_ALL=C"}, Stdout: &rsyncProgress{report: progress}, EndsWithUs: true})
}

// rsyncProgress reads rsync's --info=progress2: lines that end in \r and begin with
// the bytes copied, as "  1234567  45%  1.20MB/s    0:00:10".
type rsyncProgress struct {
	report func(done int64)
	line   []byte
}

var _ io.Writer = (*rsyncProgress)(nil)

// longestLine bounds what is kept of a line; of a progress line the beginning counts.
const longestLine = 200

// Write never fails.
func (p *rsyncProgress) Write(b []byte) (int, error) {
	for _, c := range b {
		if c != '\r' && c != '\n' {
			if len(p.line) < longestLine {
				p.line = append(p.line, c)
			}
			continue
		}
		fields := strings.Fields(string(p.line))
		p.line = p.line[:0]
		if len(fields) < 2 || !strings.HasSuffix(fields[1], "%") {
			continue
		}
		if done, err := strconv.ParseInt(fields[0], 10, 64); err == nil && p.report != nil {
			p.report(done)
		}
	}
	return len(b), nil
}
