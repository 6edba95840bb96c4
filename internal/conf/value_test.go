package conf

import (
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

func TestDurations(t *testing.T) {
	const wrong = time.Duration(-99)
	for _, c := range []struct {
		text, unit string
		want       time.Duration
	}{
		{"1", second, time.Second}, {"1", milli, time.Millisecond}, {"0", second, 0}, {"+5", second, 5 * time.Second}, {"007", second, 7 * time.Second},
		{"1min", second, time.Minute}, {"500ms", second, 500 * time.Millisecond}, {"2h", second, 2 * time.Hour}, {"3d", milli, 72 * time.Hour}, {"4s", milli, 4 * time.Second},
		{"5 min", second, 5 * time.Minute}, {"0.5", second, 500 * time.Millisecond}, {"1.50s", second, 1500 * time.Millisecond},
		{".25h", second, 15 * time.Minute}, {"5.", second, 5 * time.Second}, {"0.001", second, time.Millisecond}, {"0.5d", second, 12 * time.Hour},
		{"2147483647", second, 2147483647 * time.Second},
		{"", second, wrong}, {".", second, wrong}, {"-", second, wrong}, {"-1", second, wrong}, {"s", second, wrong}, {"10x", second, wrong},
		{"10us", second, wrong}, {"1m", second, wrong}, {"1S", second, wrong}, {"1 0", second, wrong}, {"1min30s", second, wrong}, {"1.2.3", second, wrong},
		{"0x10", second, wrong}, {"1e3", second, wrong}, {"--1", second, wrong}, {"+-1", second, wrong}, {"0.0001", second, wrong}, {"0.5", milli, wrong},
		{"9999999999d", second, wrong}, {"99999999999999999999", second, wrong}, {"0.00000000000000000001d", second, wrong},
	} {
		got, err := parseDuration(c.text, c.unit)
		if err != nil {
			got = wrong
		}
		if got != c.want {
			t.Errorf("%q in %s is %v (%v), want %v", c.text, c.unit, got, err, c.want)
		}
	}
}

func TestBooleans(t *testing.T) {
	for text, want := range map[string]bool{"true": true, "ON": true, "Yes": true, "1": true, "false": false, "off": false, "NO": false, "0": false} {
		c := loadText(t, "monitoring_history = "+text)
		if got := c.MonitoringHistory; got != want {
			t.Errorf("%s is %v, want %v", text, got, want)
		}
	}
	p, _ := Lookup("monitoring_history")
	for _, text := range []string{"", "t", "2", "tru"} {
		if err := p.set(new(Config), text); err == nil {
			t.Errorf("%q is taken for a boolean", text)
		}
	}
}

func TestDefaults(t *testing.T) {
	c := Default()
	for _, d := range []struct{ got, want any }{
		{c.MonitorInterval, time.Second}, {c.ReconnectAttempts, 3}, {c.ReconnectInterval, time.Second}, {c.PrimaryVisibilityConsensus, true},
		{c.Failover, "manual"}, {c.Location, "default"}, {c.Priority, 100}, {c.DaemonPort, 7433}, {c.LogLevel, "INFO"}, {c.LogFacility, "STDERR"},
		{c.DegradedMonitoringTimeout, Unset}, {c.RecoveryMinApplyDelay, Unset}, {c.RepmgrdStandbyStartupTimeout, time.Minute},
		{c.ChildNodesConnectedMinCount, -1}, {c.SSHOptions, "-q -o ConnectTimeout=10"}, {c.StateDir(), ""},
	} {
		if d.got != d.want {
			t.Errorf("got %v, want %v", d.got, d.want)
		}
	}
}

func TestDerivedValues(t *testing.T) {
	c := loadText(t, "standby_reconnect_timeout = 2min")
	if got, want := c.RepmgrdStandbyStartupTimeout, 2*time.Minute; got != want {
		t.Errorf("repmgrd_standby_startup_timeout is %v, want %v", got, want)
	}
	if got, want := c.StateDir(), "/data.repmgr"; got != want {
		t.Errorf("the state directory is %s, want %s", got, want)
	}
	if got, want := loadText(t, "state_directory = '/s'").StateDir(), "/s"; got != want {
		t.Errorf("the state directory is %s, want %s", got, want)
	}
}

func TestChanged(t *testing.T) {
	before := loadText(t, "monitor_interval_secs = 1\nevent_notifications = standby_follow")
	after := loadText(t, "monitor_interval_secs = 1000ms\nevent_notifications = standby_promote\nnode_id = 2\ndaemon_port = 7434\n"+
		"location = b\nconninfo = 'host=node2 password=hunter2'\nbarman_host = h\nbarman_server = s")
	want := []Change{
		{"node_id", "1", "2", Never}, {"conninfo", "host=node1 dbname=repmgr", "host=node2 password=****", AtReload},
		{"location", "default", "b", AtRegister}, {"daemon_port", "7433", "7434", AtRestart},
		{"event_notifications", "standby_follow", "standby_promote", AtReload},
		{"barman_host", "", "h", NextCommand}, {"barman_server", "", "s", NextCommand},
	}
	if got := Changed(before, after); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, name := range []string{"node_id", "node_name", "data_directory"} {
		if p, _ := Lookup(name); p.Reload != Never {
			t.Errorf("%s may change while repmgrd runs", name)
		}
	}
	secret := loadText(t, "conninfo = 'host=node2 password=hunter3'")
	if got := Changed(loadText(t, "conninfo = 'host=node2 password=hunter2'"), secret); len(got) != 1 {
		t.Errorf("a changed password is %v", got)
	}
}

func TestSearchPath(t *testing.T) {
	for _, c := range []struct {
		named, dir, sysconf string
		want                []string
	}{
		{"", "/home/a", "/usr/etc", []string{"/home/a/repmgr.conf", "/etc/repmgr.conf", "/usr/etc/repmgr.conf"}},
		{"", "/home/a", "", []string{"/home/a/repmgr.conf", "/etc/repmgr.conf"}},
		{"x/../y.conf", "/home/a", "/usr/etc", []string{"/home/a/y.conf"}},
		{"/z//y.conf", "/home/a", "/usr/etc", []string{"/z/y.conf"}},
	} {
		if got := SearchPath(c.named, c.dir, c.sysconf); !slices.Equal(got, c.want) {
			t.Errorf("got %v, want %v", got, c.want)
		}
	}
}

func TestConninfoIsChecked(t *testing.T) {
	for text, want := range map[string]string{
		"host=a":                            "",
		"":                                  "",
		" host = a  port=5432 ":             "",
		`password='it\'s \\ secret' host=a`: "",
		"host=":                             "",
		"postgresql://":                     "",
		"postgres://u:p@h1:1,[::1]:2/db?sslmode=disable&application_name=x": "",
		"host":                         "without =",
		"host=a b":                     "without =",
		"=a":                           "without a keyword",
		"host='a":                      "lacks the quote",
		"hots=a":                       `unknown keyword "hots"`,
		"postgresql://h/db?sslmod=x":   `unknown keyword "sslmod"`,
		"postgresql://h/db?sslmode":    "without =",
		"postgresql://h/db?sslmode=x&": "",
	} {
		err := checkConninfo(text)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}

// TestPasswordsAreHidden: however a password is written, it is not to be seen.
func TestPasswordsAreHidden(t *testing.T) {
	for _, conninfo := range []string{
		"password=hunter2", "password = hunter2", "password='hunter2'", `password=hun\ter2`, `password='x hunter2'`, `password=\'hunter2`,
		"host=a password=hunter2 dbname=b sslpassword=hunter2", "password=x password=hunter2", "oauth_client_secret=hunter2",
		"postgresql://u:hunter2@h/db", "postgresql://:hunter2@h", "postgres://u@h/db?password=hunter2", "postgresql://u:a@hunter2@h/db",
		"postgresql://u:a/hunter2@h/db", "postgresql://u:a?hunter2@h/db", "postgresql://u:hunter2?user=x@h/db", "postgresql://u:hunter2/@h/db?user=x", "postgresql://h?pass%77ord=hunter2",
		"pasword=hunter2", "password='hunter2", "password hunter2", "hunter2",
	} {
		if got := redactConninfo(conninfo); strings.Contains(got, "hunter2") || strings.Contains(got, "ter2") {
			t.Errorf("%s is shown as %s", conninfo, got)
		}
		if err := checkConninfo(conninfo); err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error shows it: %v", conninfo, err)
		}
	}
	for _, command := range []string{
		"PGPASSWORD=hunter2 x", "x 'host=a password=hunter2'", `x --password="a hunter2" y`, "x postgresql://u:hunter2@h/db", "x --api-token=hunter2",
		`x "password='a hunter2'"`, `x password='a\'hunter2'`,
	} {
		if got := redactCommand(command); strings.Contains(got, "hunter2") || !strings.Contains(got, "x") {
			t.Errorf("%s is shown as %s", command, got)
		}
	}
}

func TestNearest(t *testing.T) {
	for word, want := range map[string]string{
		"prioritty": "priority", "priorty": "priority", "piroirty": "priority", "monitor_interval": "monitor_interval_secs", "FOLLOW_COMMAND": "follow_command",
		"shared_buffers": "", "x": "", strings.Repeat("p", 5000): "",
	} {
		if got := nearestFold(word, names()); got != want {
			t.Errorf("the nearest to %.20s is %q, want %q", word, got, want)
		}
	}
}
