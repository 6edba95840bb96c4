package pg

import (
	"context"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"repmgr/internal/lab/ports"
)

func TestPingOfAServerThatAccepts(t *testing.T) {
	p := primary(t)
	before := strings.Count(p.log(t), "FATAL")
	for name, c := range map[string]Conninfo{
		"asks for a password": p.tcp("monitor", ""), "trusts": p.tcp("postgres", ""), "socket": p.socket(),
		"only over TLS": p.tcp("tlsonly", ""), "for certificates": p.tcp("certified", "").With("sslcert", shared.ca.file("certified.crt")).With("sslkey", shared.ca.file("certified.key")),
	} {
		if got := Ping(within(t, time.Minute), c); got != Accepting {
			t.Errorf("%s: %s", name, got)
		}
	}
	if after := strings.Count(p.log(t), "FATAL"); after != before {
		t.Errorf("the pings left %d failures in the server's log:\n%s", after-before, p.log(t))
	}
	for name, c := range map[string]Conninfo{
		"no such role": p.tcp("nobody", ""), "no such database": p.tcp("postgres", "").With("dbname", "absent"),
		"not without TLS": p.tcp("tlsonly", "").With("sslmode", "disable"),
	} {
		if got := Ping(within(t, time.Minute), c); got != Accepting {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// A standby with hot_standby=off refuses every session with SQLSTATE 57P03.
func TestPingOfAServerThatRejects(t *testing.T) {
	t.Parallel()
	s := primary(t).clone(t, "hot_standby = off\n")
	s.start(t)
	if got := Ping(within(t, time.Minute), s.socket()); got != Rejecting {
		t.Errorf("a server that is not ready: %s", got)
	}
	if _, err := Connect(within(t, time.Minute), s.socket()); Code(err) != "57P03" {
		t.Errorf("a session: %v", err)
	}
}

func TestPingOfNobody(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer silent.Close()
	mute := Conninfo{}.With("host", "127.0.0.1").With("user", "x").With("port", strconv.Itoa(silent.Addr().(*net.TCPAddr).Port))
	for name, c := range map[string]Conninfo{
		"refused": mute.With("port", strconv.Itoa(ports.For(t))), "no socket": mute.With("host", "/nonexistent"),
		"no such host": mute.With("host", "node1.invalid"), "unreadable": mute.With("sslmode", "maybe"),
		"mute": mute.With("connect_timeout", "1"), "mute without TLS": mute.With("connect_timeout", "1").With("sslmode", "disable"),
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			if got := Ping(context.Background(), c); got != NoAnswer {
				t.Errorf("%s", got)
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
	start := time.Now()
	if got := Ping(within(t, 100*time.Millisecond), mute.With("connect_timeout", "60")); got != NoAnswer || time.Since(start) > 30*time.Second {
		t.Errorf("the context's end was not obeyed: %s after %s", got, time.Since(start))
	}
}
