package pg

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"
)

// connectTimeout bounds an attempt at one address where connect_timeout says
// nothing, or says that it may take for ever: no wait of ours is unbounded.
const connectTimeout = 2 * time.Second

// target is one address to try, with everything that it needs.
type target struct {
	config  *pgx.ConnConfig
	timeout time.Duration // of the whole attempt, authentication included
}

// targets lists the addresses that a connection string stands for, in the order
// in which they are to be tried. pgx reads the environment, the service file and
// the password file as libpq does; each host is given to it alone, because it
// would use the first host's password for all of them.
func targets(ctx context.Context, c Conninfo) ([]target, error) {
	hostaddr := first(c.Get("hostaddr"), os.Getenv("PGHOSTADDR"))
	if hostaddr != "" && first(c.Get("host"), c.Get("service"), os.Getenv("PGHOST"), os.Getenv("PGSERVICE")) == "" {
		c = c.With("host", hostaddr) // without a name the address is the host too
	}
	whole, err := pgx.ParseConfig(c.Without("password").String())
	if err != nil {
		return nil, withoutSecrets(c, err)
	}
	places := []place{{whole.Host, whole.Port}}
	for _, f := range whole.Fallbacks {
		if p := (place{f.Host, f.Port}); p != places[len(places)-1] {
			places = append(places, p)
		}
	}
	addresses := splitList(first(hostaddr, whole.RuntimeParams["hostaddr"]))
	if len(addresses) > 0 {
		if err := matchAddresses(places, addresses); err != nil {
			return nil, err
		}
	}
	var all []target
	var failed []error
	for i, p := range places {
		hostaddr := ""
		if i < len(addresses) {
			hostaddr = addresses[i]
		}
		some, err := placeTargets(ctx, c, p, hostaddr)
		all = append(all, some...)
		if err != nil {
			failed = append(failed, err)
		}
	}
	if len(all) == 0 {
		return nil, errors.Join(failed...)
	}
	if first(c.Get("load_balance_hosts"), whole.RuntimeParams["load_balance_hosts"], os.Getenv("PGLOADBALANCEHOSTS")) == "random" {
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	}
	return all, nil
}

type place struct {
	host string
	port uint16
}

// matchAddresses pairs hosts with the numeric addresses of hostaddr. A socket's
// directory gives way to the address.
func matchAddresses(places []place, addresses []string) error {
	if len(places) != len(addresses) {
		return fmt.Errorf("there are %d values of host and %d of hostaddr", len(places), len(addresses))
	}
	for i, a := range addresses {
		if net.ParseIP(a) == nil {
			return fmt.Errorf("hostaddr %q is not a numeric address", a)
		}
		if strings.HasPrefix(places[i].host, "/") {
			places[i].host = a
		}
	}
	return nil
}

// placeTargets resolves one host.
func placeTargets(ctx context.Context, c Conninfo, p place, hostaddr string) ([]target, error) {
	one := c.Without("password", "hostaddr").With("host", p.host).With("port", strconv.Itoa(int(p.port)))
	config, err := pgx.ParseConfig(one.String())
	if err != nil {
		return nil, withoutSecrets(c, err)
	}
	if config.Database == "" { // libpq's default, which also finds the line of the password file
		if config, err = pgx.ParseConfig(one.With("dbname", config.User).String()); err != nil {
			return nil, withoutSecrets(c, err)
		}
	}
	if c.Get("password") != "" {
		config.Password = c.Get("password")
	}
	timeout := config.ConnectTimeout
	if timeout <= 0 {
		timeout = connectTimeout
	}
	own := takeOwn(config)
	if err := applyTLS(config, own); err != nil {
		return nil, err
	}
	if own["gssencmode"] == "require" {
		return nil, errors.New("gssencmode=require: encryption by GSSAPI is not supported, use TLS")
	}
	config.DialFunc = checkPeer(own["requirepeer"], dialer(c, own, timeout).DialContext)
	if p := config.RuntimeParams; p["application_name"] == "" {
		p["application_name"] = first(own["fallback_application_name"], "repmgr")
	}
	addresses := []string{hostaddr}
	switch {
	case strings.HasPrefix(p.host, "/"), net.ParseIP(p.host) != nil && hostaddr == "":
		addresses = []string{p.host}
	case hostaddr == "":
		lookup, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		if addresses, err = net.DefaultResolver.LookupHost(lookup, p.host); err != nil {
			return nil, err
		}
	}
	out := make([]target, len(addresses))
	for i, a := range addresses {
		one := config.Copy()
		one.LookupFunc = func(context.Context, string) ([]string, error) { return []string{a}, nil }
		out[i] = target{one, timeout}
	}
	return out, nil
}

// takeOwn removes what libpq keeps to itself from the parameters that pgx would
// send to the server, which would refuse them.
func takeOwn(config *pgx.ConnConfig) map[string]string {
	own := map[string]string{}
	for key, value := range config.RuntimeParams {
		if keywords[key] {
			own[key] = value
			delete(config.RuntimeParams, key)
		}
	}
	return own
}

// dialer sets keepalives and a limit on unacknowledged data, so that a session
// with a host that has gone ends within about two connect timeouts. What the
// connection string says about them wins.
func dialer(c Conninfo, own map[string]string, timeout time.Duration) *net.Dialer {
	seconds := func(key string, otherwise time.Duration) time.Duration {
		if n, err := strconv.Atoi(first(c.Get(key), own[key])); err == nil && n > 0 {
			return time.Duration(n) * time.Second
		}
		return otherwise
	}
	count, err := strconv.Atoi(first(c.Get("keepalives_count"), own["keepalives_count"]))
	if err != nil || count <= 0 {
		count = max(1, int(timeout/time.Second))
	}
	user := timeout
	if n, err := strconv.Atoi(first(c.Get("tcp_user_timeout"), own["tcp_user_timeout"])); err == nil && n > 0 {
		user = time.Duration(n) * time.Millisecond
	}
	return &net.Dialer{
		KeepAlive: -1,
		KeepAliveConfig: net.KeepAliveConfig{
			Enable:   first(c.Get("keepalives"), own["keepalives"]) != "0",
			Idle:     seconds("keepalives_idle", timeout),
			Interval: seconds("keepalives_interval", time.Second),
			Count:    count,
		},
		Control: func(network, _ string, raw syscall.RawConn) error {
			if !strings.HasPrefix(network, "tcp") {
				return nil
			}
			return raw.Control(func(fd uintptr) {
				// Only a refinement: without it the kernel's own limit holds.
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(user/time.Millisecond))
			})
		},
	}
}

// checkPeer honours requirepeer: the process behind a Unix socket must run as
// that user, so that nobody else's server is given the password.
func checkPeer(name string, dial pgconn.DialFunc) pgconn.DialFunc {
	if name == "" {
		return dial
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil || network != "unix" {
			return conn, err
		}
		if err := peerIs(conn, name); err != nil {
			_ = conn.Close()
			return nil, err
		}
		return conn, nil
	}
}

func peerIs(conn net.Conn, name string) error {
	want, err := user.Lookup(name)
	if err != nil {
		return fmt.Errorf("requirepeer: %w", err)
	}
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return fmt.Errorf("requirepeer: %w", err)
	}
	var peer *unix.Ucred
	var optionErr error
	err = raw.Control(func(fd uintptr) {
		peer, optionErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, optionErr); err != nil {
		return fmt.Errorf("requirepeer: %w", err)
	}
	if strconv.Itoa(int(peer.Uid)) != want.Uid {
		return fmt.Errorf("requirepeer: the server runs as user %d, not as %s", peer.Uid, name)
	}
	return nil
}

// withoutSecrets keeps a parser's message from showing a password.
func withoutSecrets(c Conninfo, err error) error {
	text := err.Error()
	for _, p := range c.params {
		if secrets[p.key] && p.value != "" {
			text = strings.ReplaceAll(text, p.value, "***")
		}
	}
	return redacted{text: oneLine.Replace(text), cause: err}
}

// oneLine puts the driver's list of attempts on one line, for logs.
var oneLine = strings.NewReplacer(":\n\t", ": ", "\n\t", "; ", "\n", "; ")

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

func splitList(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}
