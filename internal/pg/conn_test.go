package pg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"repmgr/internal/fault"
	"repmgr/internal/lab/ports"
)

func show(t *testing.T, c *Conn, name string) string {
	t.Helper()
	var value string
	if err := c.QueryRow(context.Background(), "SELECT pg_catalog.current_setting($1)", name).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestConnectGivesTheSessionItsSettings(t *testing.T) {
	t.Parallel()
	c := connect(t, primary(t).tcp("monitor", scramPassword).With("options", "-c statement_timeout=12345 -c default_transaction_read_only=on"))
	for name, want := range map[string]string{
		"search_path": "", "synchronous_commit": "local", "application_name": "repmgr", "client_encoding": "UTF8",
		"statement_timeout": "12345ms", "default_transaction_read_only": "off", "idle_in_transaction_session_timeout": "10s",
	} {
		if got := show(t, c, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	named := connect(t, primary(t).tcp("monitor", scramPassword).With("application_name", "mine"))
	if got := show(t, named, "application_name"); got != "mine" {
		t.Errorf("application_name is %q, want the one given", got)
	}
	named = connect(t, primary(t).tcp("monitor", scramPassword).With("fallback_application_name", "fallback"))
	if got := show(t, named, "application_name"); got != "fallback" {
		t.Errorf("application_name is %q, want the fallback given", got)
	}
}

// Every parameter that libpq knows must be accepted, whether pgx knows it or not.
func TestConnectAcceptsEveryParameterOfLibpq(t *testing.T) {
	t.Parallel()
	values := map[string]string{
		"keepalives": "1", "keepalives_idle": "5", "keepalives_interval": "2", "keepalives_count": "3",
		"tcp_user_timeout": "4000", "gssencmode": "prefer", "channel_binding": "prefer", "sslcompression": "0",
		"sslsni": "1", "replication": "database", "load_balance_hosts": "random", "sslnegotiation": "postgres",
		"krbsrvname": "postgres", "gsslib": "gssapi", "gssdelegation": "0", "client_encoding": "auto",
		"ssl_min_protocol_version": "TLSv1.2", "ssl_max_protocol_version": "TLSv1.3", "min_protocol_version": "3.0",
		"max_protocol_version": "3.0", "require_auth": "scram-sha-256", "sslcertmode": "allow", "hostaddr": "127.0.0.1",
		"sslkeylogfile": "/nonexistent", "oauth_scope": "x", "target_session_attrs": "read-write", "options": "-c jit=off",
		"fallback_application_name": "x", "requiressl": "1", "passfile": "/nonexistent",
	}
	for key, value := range values {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			text := primary(t).tcp("monitor", scramPassword).String() + " " + key + "=" + quoteValue(value)
			c, err := ParseConninfo(text)
			check(t, err)
			connect(t, c)
			if r := Ping(within(t, time.Minute), c); r != Accepting {
				t.Errorf("ping: %s", r)
			}
		})
	}
}

func TestPasswordSources(t *testing.T) {
	p := primary(t)
	escaped := strings.NewReplacer(`\`, `\\`, ":", `\:`).Replace(scramPassword)
	passfile := filepath.Join(t.TempDir(), "pass")
	check(t, os.WriteFile(passfile, []byte(fmt.Sprintf("127.0.0.1:%d:postgres:monitor:%s\n", p.port, escaped)), 0o600))
	t.Run("connection string", func(t *testing.T) { connect(t, p.tcp("monitor", scramPassword)) })
	t.Run("URI", func(t *testing.T) {
		c, err := ParseConninfo(fmt.Sprintf("postgresql://monitor:%s@127.0.0.1:%d/postgres", percent(scramPassword), p.port))
		check(t, err)
		connect(t, c)
	})
	t.Run("PGPASSWORD", func(t *testing.T) {
		t.Setenv("PGPASSWORD", scramPassword)
		connect(t, p.tcp("monitor", ""))
	})
	t.Run("passfile", func(t *testing.T) { connect(t, p.tcp("monitor", "").With("passfile", passfile)) })
	t.Run("PGPASSFILE", func(t *testing.T) {
		t.Setenv("PGPASSFILE", passfile)
		connect(t, p.tcp("monitor", ""))
	})
	t.Run("home", func(t *testing.T) {
		home := t.TempDir()
		t.Setenv("HOME", home)
		check(t, os.Rename(passfile, filepath.Join(home, ".pgpass")))
		connect(t, p.tcp("monitor", ""))
	})
}

// The environment names everything, as with libpq; the database and the user
// have their defaults.
func TestEnvironment(t *testing.T) {
	p := primary(t)
	t.Setenv("PGHOST", baseDir)
	t.Setenv("PGPORT", strconv.Itoa(p.port))
	t.Setenv("PGUSER", "postgres")
	c := connect(t, Conninfo{})
	var database string
	check(t, c.QueryRow(context.Background(), "SELECT current_database()").Scan(&database))
	if database != "postgres" {
		t.Errorf("the database is %q, want the user's", database)
	}
	passfile := filepath.Join(t.TempDir(), "pass")
	check(t, os.WriteFile(passfile, []byte("*:*:postgres:postgres:by name\n"), 0o600))
	list, err := targets(context.Background(), Conninfo{}.With("passfile", passfile))
	check(t, err)
	if list[0].config.Password != "by name" {
		t.Error("the password file has no line for the default database")
	}
	os.Unsetenv("PGUSER")
	list, err = targets(context.Background(), Conninfo{})
	check(t, err)
	if me := os.Getenv("USER"); me != "" && list[0].config.User != me {
		t.Errorf("the user is %q, want the operating system's %q", list[0].config.User, me)
	}
}

func TestService(t *testing.T) {
	p := primary(t)
	file := filepath.Join(t.TempDir(), "services")
	check(t, os.WriteFile(file, []byte(fmt.Sprintf(
		"[mine]\nhost=127.0.0.1\nport=%d\nuser=monitor\ndbname=postgres\npassword=%s\nkeepalives_idle=7\ngssencmode=disable\n", p.port, scramPassword)), 0o600))
	t.Setenv("PGSERVICEFILE", file)
	connect(t, Conninfo{}.With("service", "mine"))
}

// Two hosts need two passwords, each from its own line of the password file.
func TestEachHostHasItsOwnPassword(t *testing.T) {
	t.Parallel()
	p := primary(t)
	dead := ports.For(t)
	passfile := filepath.Join(t.TempDir(), "pass")
	escaped := strings.ReplaceAll(scramPassword, `\`, `\\`)
	check(t, os.WriteFile(passfile, []byte(fmt.Sprintf("127.0.0.1:%d:*:monitor:wrong\n127.0.0.1:%d:*:monitor:%s\n", dead, p.port, escaped)), 0o600))
	c := p.tcp("monitor", "").With("host", "127.0.0.1,127.0.0.1").With("port", fmt.Sprintf("%d,%d", dead, p.port)).With("passfile", passfile)
	connect(t, c)
	if r := Ping(within(t, time.Minute), c); r != Accepting {
		t.Errorf("ping of two hosts, of which one lives: %s", r)
	}
}

func TestTargetSessionAttributes(t *testing.T) {
	t.Parallel()
	p, s := primary(t), standby(t)
	both := p.tcp("monitor", scramPassword).With("host", "127.0.0.1,127.0.0.1").With("port", fmt.Sprintf("%d,%d", p.port, s.port))
	for attrs, inRecovery := range map[string]bool{
		"any": false, "primary": false, "read-write": false, "standby": true, "read-only": true, "prefer-standby": true,
	} {
		c := connect(t, both.With("target_session_attrs", attrs))
		got, err := c.Progress(within(t, time.Minute))
		check(t, err)
		if got.InRecovery != inRecovery {
			t.Errorf("%s: in recovery %v, want %v", attrs, got.InRecovery, inRecovery)
		}
	}
	connect(t, p.tcp("monitor", scramPassword).With("target_session_attrs", "prefer-standby"))
	if _, err := Connect(within(t, time.Minute), p.tcp("monitor", scramPassword).With("target_session_attrs", "standby")); err == nil {
		t.Error("a primary was taken for a standby")
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	p := primary(t)
	ca := shared.ca
	strict := p.tcp("tlsonly", tlsPassword).With("sslmode", "verify-full").With("sslrootcert", ca.file("ca.crt"))
	c := connect(t, strict)
	var tls bool
	check(t, c.QueryRow(context.Background(), "SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()").Scan(&tls))
	if !tls {
		t.Error("the session is not encrypted")
	}
	old := connect(t, strict.With("ssl_max_protocol_version", "TLSv1.2"))
	var version string
	check(t, old.QueryRow(context.Background(), "SELECT version FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()").Scan(&version))
	if version != "TLSv1.2" {
		t.Errorf("the session speaks %s", version)
	}
	connect(t, strict.With("host", "node1.example").With("hostaddr", "127.0.0.1"))
	connect(t, p.tcp("certified", "").With("sslmode", "require").With("sslcert", ca.file("certified.crt")).With("sslkey", ca.file("certified.key")))
	connect(t, strict.With("sslcrl", emptyList(t, ca)))
	other := newAuthority(t, tempDir(t))
	for name, bad := range map[string]Conninfo{
		"another authority":  strict.With("sslrootcert", other.file("ca.crt")),
		"another name":       strict.With("host", "node2.example").With("hostaddr", "127.0.0.1"),
		"a revoked one":      strict.With("sslcrl", ca.file("revoked.crl")),
		"a missing list":     strict.With("sslcrl", "/nonexistent"),
		"an unknown version": strict.With("ssl_min_protocol_version", "SSLv3"),
		"no TLS":             strict.With("sslmode", "disable"),
		"encryption by GSS":  strict.With("gssencmode", "require"),
	} {
		if conn, err := Connect(within(t, time.Minute), bad); err == nil {
			conn.Close(context.Background())
			t.Errorf("%s: the connection was made", name)
		} else if fault.CodeOf(err) != fault.DBConn || strings.Contains(err.Error(), tlsPassword) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if r := Ping(within(t, time.Minute), strict); r != Accepting {
		t.Errorf("ping over TLS: %s", r)
	}
}

// A Unix socket's peer must be who requirepeer names.
func TestRequirePeer(t *testing.T) {
	t.Parallel()
	p := primary(t)
	connect(t, p.socket().With("requirepeer", serverUser()))
	if _, err := Connect(within(t, time.Minute), p.socket().With("requirepeer", "nobody")); err == nil {
		t.Error("another user's server was accepted")
	}
}

func TestConnectionErrors(t *testing.T) {
	t.Parallel()
	p := primary(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never answers
	check(t, err)
	t.Cleanup(func() { silent.Close() }) // after the parallel parts
	mute := strconv.Itoa(silent.Addr().(*net.TCPAddr).Port)
	for name, one := range map[string]struct {
		c     Conninfo
		hint  string
		state string
	}{
		"refused":        {p.tcp("monitor", "geheim").With("port", strconv.Itoa(ports.For(t))), "Nobody listens", ""},
		"no socket":      {p.tcp("monitor", "geheim").With("host", "/nonexistent"), "Nobody listens", ""},
		"wrong password": {p.tcp("monitor", "geheim"), ".pgpass", "28P01"},
		"no password":    {p.tcp("monitor", ""), ".pgpass", "28P01"},
		"no database":    {p.tcp("postgres", "").With("dbname", "absent"), "Create the database", "3D000"},
		"not by TLS":     {p.tcp("tlsonly", "geheim").With("sslmode", "disable"), "pg_hba.conf", "28000"},
		"mute":           {p.tcp("monitor", "geheim").With("port", mute).With("connect_timeout", "1"), "connect_timeout", ""},
		"no such host":   {p.tcp("monitor", "geheim").With("host", "node1.invalid"), "host name", ""},
		"bad hostaddr":   {p.tcp("monitor", "geheim").With("hostaddr", "node1"), "", ""},
		"bad port":       {p.tcp("monitor", "geheim").With("port", "geheim"), "", ""},
		"bad sslmode":    {p.tcp("monitor", "geheim").With("sslmode", "maybe"), "", ""},
		"no service":     {p.tcp("monitor", "geheim").With("service", "absent"), "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			_, err := Connect(context.Background(), one.c)
			var f *fault.Error
			if !errors.As(err, &f) || f.Code != fault.DBConn {
				t.Fatalf("error %v, want a fault of code DBConn", err)
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("it took %s", took)
			}
			if !strings.Contains(f.Hint, one.hint) || Code(err) != one.state {
				t.Errorf("hint %q, state %q; want %q and %q; %v", f.Hint, Code(err), one.hint, one.state, err)
			}
			if strings.Contains(f.Error()+f.Detail+f.Hint, "geheim") && name != "bad port" {
				t.Errorf("the password is in %v", f)
			}
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Connect(ctx, p.tcp("monitor", scramPassword)); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled connection: %v", err)
	}
}

// A half-dead peer must not hold a session for longer than the connect timeout
// and a little.
func TestSocketOptions(t *testing.T) {
	t.Parallel()
	p := primary(t)
	ctx := within(t, time.Minute)
	list, err := targets(ctx, p.tcp("monitor", scramPassword).With("keepalives_count", "7"))
	check(t, err)
	conn, err := list[0].config.DialFunc(ctx, "tcp", pgAddress("127.0.0.1", uint16(p.port)))
	check(t, err)
	defer conn.Close()
	raw, err := conn.(syscall.Conn).SyscallConn()
	check(t, err)
	for name, one := range map[string]struct{ level, option, want int }{
		"TCP_USER_TIMEOUT": {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 2000},
		"SO_KEEPALIVE":     {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		"TCP_KEEPIDLE":     {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 2},
		"TCP_KEEPINTVL":    {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 1},
		"TCP_KEEPCNT":      {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 7},
	} {
		var got int
		check(t, raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), one.level, one.option) }))
		if err != nil || got != one.want {
			t.Errorf("%s is %d (%v), want %d", name, got, err, one.want)
		}
	}
}

// hostaddr says where, host whose certificate and whose password.
func TestHostAddresses(t *testing.T) {
	t.Parallel()
	p := primary(t)
	dead := ports.For(t)
	c := p.tcp("monitor", scramPassword)
	for name, good := range map[string]Conninfo{
		"alone":       c.Without("host").With("hostaddr", "127.0.0.1"),
		"two":         c.Without("host").With("hostaddr", "127.0.0.1,127.0.0.1").With("port", fmt.Sprintf("%d,%d", dead, p.port)),
		"named":       c.With("host", "node1.example").With("hostaddr", "127.0.0.1"),
		"two named":   c.With("host", "node1.example,node2.example").With("hostaddr", "127.0.0.1,127.0.0.1").With("port", fmt.Sprintf("%d,%d", dead, p.port)),
		"to a socket": c.With("host", "/nonexistent").With("hostaddr", "127.0.0.1"),
		"localhost":   c.With("host", "localhost"),
		"one is lost": c.With("host", "node1.invalid,127.0.0.1"),
	} {
		t.Run(name, func(t *testing.T) { connect(t, good) })
	}
	for name, bad := range map[string]Conninfo{
		"not numeric":  c.With("hostaddr", "localhost"),
		"not as many":  c.With("hostaddr", "127.0.0.1,127.0.0.1"),
		"unknown peer": p.socket().With("requirepeer", "no-such-user"),
	} {
		if _, err := Connect(within(t, time.Minute), bad); fault.CodeOf(err) != fault.DBConn {
			t.Errorf("%s: %v", name, err)
		}
	}
}
