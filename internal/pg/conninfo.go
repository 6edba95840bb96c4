package pg

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"repmgr/internal/fault"
)

// Conninfo is a connection string taken apart: libpq's parameters in the order
// in which they were written. It is a value; With and Without return a copy.
type Conninfo struct {
	params []param
}

type param struct{ key, value string }

// keywords are the parameters that libpq 13 to 18 accepts (PostgreSQL manual,
// "Parameter Key Words"). True marks those that it keeps to itself and never
// sends to the server, so that they must not reach the startup packet.
var keywords = map[string]bool{
	"host": true, "hostaddr": true, "port": true, "dbname": true, "user": true, "password": true,
	"passfile": true, "connect_timeout": true, "target_session_attrs": true, "load_balance_hosts": true,
	"client_encoding": false, "options": false, "application_name": false, "fallback_application_name": true,
	"replication": false, "service": true, "servicefile": true, "require_auth": true, "channel_binding": true,
	"keepalives": true, "keepalives_idle": true, "keepalives_interval": true, "keepalives_count": true,
	"tcp_user_timeout": true, "min_protocol_version": true, "max_protocol_version": true,
	"sslmode": true, "requiressl": true, "sslnegotiation": true, "sslcompression": true, "sslcert": true,
	"sslkey": true, "sslkeylogfile": true, "sslpassword": true, "sslcertmode": true, "sslrootcert": true,
	"sslcrl": true, "sslcrldir": true, "sslsni": true, "ssl_min_protocol_version": true,
	"ssl_max_protocol_version": true, "requirepeer": true, "gssencmode": true, "krbsrvname": true,
	"gsslib": true, "gssdelegation": true, "scram_client_key": true, "scram_server_key": true,
	"oauth_issuer": true, "oauth_client_id": true, "oauth_client_secret": true, "oauth_scope": true,
	"authtype": true, "tty": true,
}

// secrets are the parameters whose values are never shown.
var secrets = map[string]bool{
	"password": true, "sslpassword": true, "oauth_client_secret": true,
	"scram_client_key": true, "scram_server_key": true,
}

// ParseConninfo takes a connection string apart: keyword/value pairs or a URI,
// by libpq's rules. Its errors never quote a value, since that may be a password.
func ParseConninfo(s string) (Conninfo, error) {
	var c Conninfo
	var err error
	switch {
	case strings.ContainsRune(s, 0):
		err = errors.New("a NUL byte cannot be part of a connection string")
	case strings.HasPrefix(s, "postgres://"), strings.HasPrefix(s, "postgresql://"):
		_, rest, _ := strings.Cut(s, "://")
		c, err = parseURI(rest)
	default:
		c, err = parsePairs(s)
	}
	if err != nil {
		return Conninfo{}, fault.Wrap(err, fault.BadConfig, "connection string").
			WithHint(`Write keyword=value pairs, such as "host=node1 dbname=repmgr user=repmgr", and put values with blanks in single quotes.`)
	}
	return c, nil
}

// Get returns a parameter's value, empty if it is not set.
func (c Conninfo) Get(key string) string {
	for _, p := range c.params {
		if p.key == key {
			return p.value
		}
	}
	return ""
}

// Has tells whether a parameter is set, be it to an empty value.
func (c Conninfo) Has(key string) bool {
	for _, p := range c.params {
		if p.key == key {
			return true
		}
	}
	return false
}

// Keys returns the names of the parameters that are set, in their order.
func (c Conninfo) Keys() []string {
	keys := make([]string, len(c.params))
	for i, p := range c.params {
		keys[i] = p.key
	}
	return keys
}

// With returns a copy in which a parameter has that value; a new one goes last.
func (c Conninfo) With(key, value string) Conninfo {
	params := make([]param, len(c.params), len(c.params)+1)
	copy(params, c.params)
	for i := range params {
		if params[i].key == key {
			params[i].value = value
			return Conninfo{params}
		}
	}
	return Conninfo{append(params, param{key, value})}
}

// Without returns a copy that lacks the parameters named.
func (c Conninfo) Without(keys ...string) Conninfo {
	out := Conninfo{params: make([]param, 0, len(c.params))}
	for _, p := range c.params {
		drop := false
		for _, k := range keys {
			drop = drop || k == p.key
		}
		if !drop {
			out.params = append(out.params, p)
		}
	}
	return out
}

// WithoutSecrets is a copy that may stand in a command line: without passwords and keys.
func (c Conninfo) WithoutSecrets() Conninfo {
	return c.Without(slices.Collect(maps.Keys(secrets))...)
}

// WithSecretsOf is a copy with those passwords and keys of another that it has none of itself.
func (c Conninfo) WithSecretsOf(other Conninfo) Conninfo {
	for _, p := range other.params {
		if secrets[p.key] && !c.Has(p.key) {
			c = c.With(p.key, p.value)
		}
	}
	return c
}

// String writes keyword=value pairs, quoted where libpq asks for it. It holds
// the password, if there is one: see Redacted for anything that is shown.
func (c Conninfo) String() string {
	return c.write(func(p param) string { return p.value })
}

// Redacted is String with every secret value replaced by stars.
func (c Conninfo) Redacted() string {
	return c.write(func(p param) string {
		if secrets[p.key] && p.value != "" {
			return "***"
		}
		return p.value
	})
}

func (c Conninfo) write(value func(param) string) string {
	var b strings.Builder
	for i, p := range c.params {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(p.key)
		b.WriteByte('=')
		b.WriteString(quoteValue(value(p)))
	}
	return b.String()
}

// quoteValue quotes a value of a keyword/value pair. The blanks are those of
// isspace(3) in the C locale, which libpq ends an unquoted value at.
func quoteValue(s string) string {
	if s != "" && !strings.ContainsAny(s, " \t\n\v\f\r'\\") {
		return s
	}
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// set is With in place, for the parsers: a later value wins, as in libpq.
func (c *Conninfo) set(key, value string) error {
	if _, known := keywords[key]; !known {
		return fmt.Errorf("no parameter is called %q", key)
	}
	if key == "requiressl" { // libpq's word before sslmode
		key = "sslmode"
		if value == "1" {
			value = "require"
		} else {
			value = "prefer"
		}
	}
	*c = c.With(key, value)
	return nil
}

func isBlank(b byte) bool { return b == ' ' || b >= '\t' && b <= '\r' }

// parsePairs reads keyword = value pairs.
func parsePairs(s string) (Conninfo, error) {
	var c Conninfo
	i := 0
	skip := func() {
		for i < len(s) && isBlank(s[i]) {
			i++
		}
	}
	for skip(); i < len(s); skip() {
		start := i
		for i < len(s) && s[i] != '=' && !isBlank(s[i]) {
			i++
		}
		key := s[start:i]
		skip()
		if i == len(s) || s[i] != '=' {
			// What stands here may be the tail of a password with a blank in it.
			return c, fmt.Errorf("word %d has no = after it", len(c.params)+1)
		}
		i++
		skip()
		value, n, err := readValue(s[i:])
		if err != nil {
			return c, fmt.Errorf("value of %s: %w", key, err)
		}
		i += n
		if err := c.set(key, value); err != nil {
			return c, err
		}
	}
	return c, nil
}

// readValue reads one value and tells how many bytes of s it took.
func readValue(s string) (value string, n int, err error) {
	quoted := strings.HasPrefix(s, "'")
	if quoted {
		n = 1
	}
	var b strings.Builder
	for ; n < len(s); n++ {
		switch {
		case s[n] == '\\':
			n++
			if n < len(s) { // a backslash at the very end vanishes, as in libpq
				b.WriteByte(s[n])
			}
		case quoted && s[n] == '\'':
			return b.String(), n + 1, nil
		case !quoted && isBlank(s[n]):
			return b.String(), n, nil
		default:
			b.WriteByte(s[n])
		}
	}
	if quoted {
		return "", n, errors.New("the closing quote is missing")
	}
	return b.String(), min(n, len(s)), nil
}

// parseURI reads what follows postgresql:// : [user[:password]@][hosts][/dbname][?key=value&...].
func parseURI(s string) (Conninfo, error) {
	var c Conninfo
	s, query, hasQuery := strings.Cut(s, "?")
	if at := strings.IndexByte(s, '@'); at >= 0 && !strings.Contains(s[:at], "/") {
		user, password, hasPassword := strings.Cut(s[:at], ":")
		s = s[at+1:]
		if err := c.setEscaped("user", user, user != ""); err != nil {
			return c, err
		}
		if err := c.setEscaped("password", password, hasPassword && password != ""); err != nil {
			return c, err
		}
	}
	hosts, dbname, _ := strings.Cut(s, "/")
	if err := c.setHosts(hosts); err != nil {
		return c, err
	}
	if err := c.setEscaped("dbname", dbname, dbname != ""); err != nil {
		return c, err
	}
	if !hasQuery || query == "" {
		return c, nil
	}
	for _, pair := range strings.Split(query, "&") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || strings.Contains(value, "=") {
			return c, errors.New("a parameter after the ? is not of the form key=value")
		}
		key, err := url.PathUnescape(key)
		if err != nil {
			return c, errors.New("a % in the URI is not followed by two hexadecimal digits")
		}
		if key == "ssl" && value == "true" { // as JDBC writes it
			key, value = "sslmode", "require"
		}
		if err := c.setEscaped(key, value, true); err != nil {
			return c, err
		}
	}
	return c, nil
}

// setEscaped sets a percent-encoded value if there is one.
func (c *Conninfo) setEscaped(key, value string, present bool) error {
	if !present {
		return nil
	}
	plain, err := url.PathUnescape(value)
	if err != nil || strings.ContainsRune(plain, 0) {
		return fmt.Errorf("value of %s: a %% must be followed by two hexadecimal digits other than 00", key)
	}
	return c.set(key, plain)
}

// setHosts reads host[:port][,host[:port]...], where a host may be an IPv6 address in brackets.
func (c *Conninfo) setHosts(s string) error {
	if s == "" {
		return nil
	}
	var hosts, ports []string
	for _, one := range strings.Split(s, ",") {
		host, port, _ := strings.Cut(one, ":")
		if strings.HasPrefix(one, "[") {
			end := strings.IndexByte(one, ']')
			if end < 2 || end+1 < len(one) && one[end+1] != ':' {
				return errors.New("an IPv6 address in the URI is not of the form [address] or [address]:port")
			}
			host, port = one[1:end], strings.TrimPrefix(one[end+1:], ":")
		}
		hosts, ports = append(hosts, host), append(ports, port)
	}
	if host := strings.Join(hosts, ","); strings.Trim(host, ",") != "" {
		if err := c.setEscaped("host", host, true); err != nil {
			return err
		}
	}
	port := strings.Join(ports, ",")
	return c.setEscaped("port", port, strings.Trim(port, ",") != "")
}
