package conf

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// keywords are libpq's, up to PostgreSQL 18 (manual, "Parameter Key Words").
var keywords = []string{
	"application_name", "channel_binding", "client_encoding", "connect_timeout", "dbname", "fallback_application_name",
	"gssdelegation", "gssencmode", "gsslib", "host", "hostaddr", "keepalives", "keepalives_count", "keepalives_idle",
	"keepalives_interval", "krbsrvname", "load_balance_hosts", "max_protocol_version", "min_protocol_version",
	"oauth_client_id", "oauth_client_secret", "oauth_issuer", "oauth_scope", "options", "passfile", "password", "port",
	"replication", "require_auth", "requirepeer", "requiressl", "scram_client_key", "scram_server_key", "service",
	"servicefile", "ssl_max_protocol_version", "ssl_min_protocol_version", "sslcert", "sslcertmode", "sslcompression",
	"sslcrl", "sslcrldir", "sslkey", "sslkeylogfile", "sslmode", "sslnegotiation", "sslpassword", "sslrootcert", "sslsni",
	"target_session_attrs", "tcp_user_timeout", "user",
}

// secrets are the keywords whose value nobody may read.
var secrets = []string{"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"}

// pair is a keyword of a connection string and where its value stands in it.
type pair struct {
	key        string
	value      string // with quotes and escapes undone, but not decoded from a URI
	start, end int    // of the value as written, quotes included
}

// checkConninfo tells what is wrong with a connection string. No value is
// repeated, since what is misspelt may be a password.
func checkConninfo(s string) error {
	pairs, err := splitConninfo(s)
	if err != nil {
		return err
	}
	for _, p := range pairs {
		if !slices.Contains(keywords, p.key) && !(isURI(s) && p.key == "ssl") {
			return &misspelt{fmt.Sprintf("has the unknown keyword %q", shorten(p.key)), nearestFold(p.key, keywords)}
		}
	}
	return nil
}

// redactConninfo is s with asterisks for every secret. What is not certainly
// read as libpq reads it is hidden altogether.
func redactConninfo(s string) string {
	if s == "" {
		return ""
	}
	pairs, err := splitConninfo(s)
	if err != nil || checkConninfo(s) != nil || isURI(s) && ambiguous(s) {
		return hidden
	}
	slices.SortFunc(pairs, func(a, b pair) int { return b.start - a.start })
	for _, p := range pairs {
		if slices.Contains(secrets, p.key) {
			s = s[:p.start] + hidden + s[p.end:]
		}
	}
	return s
}

// ambiguous says whether a URI has an @ where programs do not agree on what is
// the password before it.
func ambiguous(uri string) bool {
	_, rest, _ := strings.Cut(uri, "://")
	if i := strings.IndexAny(rest, "/?"); i >= 0 && strings.Contains(rest[i:], "@") {
		return true
	}
	return strings.Count(rest, "@") > 1
}

// Passwords in a command are found by the words that come before them, since
// what the command makes of its arguments is not known.
var (
	passwordWord = regexp.MustCompile(`(?i)((?:password|passwd|pwd|secret|token)\s*[=:]\s*)('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s'"]+)`)
	passwordURI  = regexp.MustCompile(`(://[^:/@\s]*:)\S*@`)
)

// redactCommand is a command, or options of one, with asterisks for what looks
// like a password.
func redactCommand(s string) string {
	s = passwordURI.ReplaceAllString(s, "${1}"+hidden+"@")
	return passwordWord.ReplaceAllString(s, "${1}"+hidden)
}

// hidden stands for what nobody may read.
const hidden = "****"

// hasKeyword says whether one of keys has a value in s.
func hasKeyword(s string, keys ...string) bool {
	pairs, _ := splitConninfo(s)
	return slices.ContainsFunc(pairs, func(p pair) bool { return p.value != "" && slices.Contains(keys, p.key) })
}

func isURI(s string) bool {
	return strings.HasPrefix(s, "postgresql://") || strings.HasPrefix(s, "postgres://")
}

func splitConninfo(s string) ([]pair, error) {
	if isURI(s) {
		return splitURI(s)
	}
	return splitKeywords(s)
}

// splitKeywords reads libpq's keyword/value form: blanks may stand around the
// =, a value may be in single quotes, and a backslash keeps the next character.
func splitKeywords(s string) ([]pair, error) {
	var pairs []pair
	for i := skipBlank(s, 0); i < len(s); i = skipBlank(s, i) {
		start := i
		for i < len(s) && s[i] != '=' && !isBlank(s[i]) {
			i++
		}
		key := s[start:i]
		i = skipBlank(s, i)
		if i == len(s) || s[i] != '=' {
			// The word is not shown: it may be the second half of a password with a blank in it.
			return nil, errors.New("has a word without = after it")
		}
		if key == "" {
			return nil, errors.New("has a = without a keyword before it")
		}
		start = skipBlank(s, i+1)
		value, end, err := scanConninfoValue(s, start)
		if err != nil {
			return nil, fmt.Errorf("lacks the quote that ends the value of %q", key)
		}
		pairs = append(pairs, pair{key, value, start, end})
		i = end
	}
	return pairs, nil
}

// scanConninfoValue reads the value that begins at start and says where it ends.
func scanConninfoValue(s string, start int) (value string, end int, err error) {
	var b strings.Builder
	i := start
	quoted := i < len(s) && s[i] == '\''
	if quoted {
		i++
	}
	for ; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
		case s[i] == '\\': // at the very end it stands for nothing
			continue
		case quoted && s[i] == '\'':
			return b.String(), i + 1, nil
		case !quoted && isBlank(s[i]):
			return b.String(), i, nil
		}
		b.WriteByte(s[i])
	}
	if quoted {
		return "", i, errors.New("no closing quote")
	}
	return b.String(), i, nil
}

// splitURI reads libpq's URI form, scheme://user:password@hosts/dbname?key=value&...
// There may be several hosts, which is why net/url would not do.
func splitURI(s string) ([]pair, error) {
	i := strings.Index(s, "://") + len("://")
	var pairs []pair
	add := func(key string, start, end int) {
		if end > start {
			pairs = append(pairs, pair{key, s[start:end], start, end})
		}
	}
	query := len(s)
	if n := strings.IndexByte(s[i:], '?'); n >= 0 {
		query = i + n
	}
	hosts := i
	authority := s[i:query]
	if n := strings.IndexByte(authority, '/'); n >= 0 {
		add("dbname", i+n+1, query)
		authority = authority[:n]
	}
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		hosts = i + at + 1
		user := i + at
		if colon := strings.IndexByte(authority[:at], ':'); colon >= 0 {
			user = i + colon
			add("password", user+1, i+at)
		}
		add("user", i, user)
	}
	add("host", hosts, i+len(authority))
	for start := query + 1; start < len(s); {
		end := start + len(s[start:])
		if n := strings.IndexByte(s[start:], '&'); n >= 0 {
			end = start + n
		}
		key, _, ok := strings.Cut(s[start:end], "=")
		if !ok || key == "" {
			return nil, errors.New("has a part without = after its question mark")
		}
		pairs = append(pairs, pair{key, s[start+len(key)+1 : end], start + len(key) + 1, end})
		start = end + 1
	}
	return pairs, nil
}

func skipBlank(s string, i int) int {
	for i < len(s) && isBlank(s[i]) {
		i++
	}
	return i
}

func isBlank(c byte) bool {
	return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v'
}
