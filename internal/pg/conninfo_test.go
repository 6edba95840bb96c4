package pg

import (
	"reflect"
	"strings"
	"testing"

	"repmgr/internal/fault"
)

func TestParseConninfo(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                        "",
		" ":                                       "",
		"host=node1 dbname=repmgr user=repmgr":    "host=node1 dbname=repmgr user=repmgr",
		"  host = node1\tport\n=\n5433 ":          "host=node1 port=5433",
		`password='a b\'c\\d' user=x`:             `password='a b\'c\\d' user=x`,
		`password=a\ b\'c user=x`:                 `password='a b\'c' user=x`,
		`password=a'b`:                            `password='a\'b'`,
		`user=x password=end\`:                    "user=x password=end",
		`password= user=x`:                        "password=user=x",
		`options='' user=x`:                       "options='' user=x",
		"host=a host=b port=1":                    "host=b port=1",
		"requiressl=1":                            "sslmode=require",
		"requiressl=0":                            "sslmode=prefer",
		"postgresql://":                           "",
		"postgres://node1":                        "host=node1",
		"postgresql://node1:5433/repmgr":          "host=node1 port=5433 dbname=repmgr",
		"postgresql://user@node1/":                "user=user host=node1",
		"postgresql://us%20er:p%3A%40%2Fss@node1": `user='us er' password=p:@/ss host=node1`,
		"postgresql://:secret@node1":              "password=secret host=node1",
		"postgresql://user:@node1":                "user=user host=node1",
		"postgresql://[2001:db8::1]:5433/db":      "host=2001:db8::1 port=5433 dbname=db",
		"postgresql://a:1,b:2/db?target_session_attrs=any":              "host=a,b port=1,2 dbname=db target_session_attrs=any",
		"postgresql://a,b/db":                                           "host=a,b dbname=db",
		"postgresql://%2Fvar%2Frun/db":                                  "host=/var/run dbname=db",
		"postgresql:///db?host=/var/run&port=5433":                      "dbname=db host=/var/run port=5433",
		"postgresql://node1/db?ssl=true&application_name=a%20b":         "host=node1 dbname=db sslmode=require application_name='a b'",
		"postgresql:///mydb?host=localhost&port=5433&user=x&password=y": "dbname=mydb host=localhost port=5433 user=x password=y",
	} {
		c, err := ParseConninfo(text)
		if err != nil || c.String() != want {
			t.Errorf("%q became %q (%v), want %q", text, c.String(), err, want)
		}
	}
}

func TestParseConninfoErrors(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"geheim", "host=a geheim", "password='geheim", `password='geheim\`, "hots=geheim", "=geheim", "host=a =geheim",
		"password=x\x00geheim", "postgresql://a?geheim", "postgresql://a?geheim=x", "postgresql://a?host=x=geheim",
		"postgresql://%zz", "postgresql://u:geheim%0@a", "postgresql://u:%00@a", "postgresql://[::1", "postgresql://[]:5",
		"postgresql://[::1]geheim", "postgresql://a/db%", "postgresql://a?%zz=1",
	} {
		c, err := ParseConninfo(text)
		if err == nil {
			t.Errorf("%q became %q", text, c.String())
			continue
		}
		leaks := strings.Contains(err.Error(), "geheim") && !strings.HasPrefix(text, "postgresql://a?geheim=")
		if fault.CodeOf(err) != fault.BadConfig || leaks {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestConninfoIsAValue(t *testing.T) {
	t.Parallel()
	c, err := ParseConninfo("host=node1 password='ge heim' sslpassword=x user=repmgr")
	check(t, err)
	before := c.String()
	changed := c.With("host", "node2").With("port", "5433").Without("user", "absent")
	if got, want := changed.String(), "host=node2 password='ge heim' sslpassword=x port=5433"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if c.String() != before {
		t.Errorf("the original became %q", c.String())
	}
	a, b := c.With("port", "1"), c.With("port", "2")
	if a.Get("port") != "1" || b.Get("port") != "2" || c.Has("port") || c.Get("port") != "" || !a.Has("port") {
		t.Error("two copies share their memory")
	}
	if got, want := c.Redacted(), "host=node1 password=*** sslpassword=*** user=repmgr"; got != want {
		t.Errorf("redacted: %q, want %q", got, want)
	}
	public := c.WithoutSecrets()
	if got, want := public.String(), "host=node1 user=repmgr"; got != want {
		t.Errorf("without secrets: %q, want %q", got, want)
	}
	if got, want := public.With("password", "own").WithSecretsOf(c).String(), "host=node1 user=repmgr password=own sslpassword=x"; got != want {
		t.Errorf("with another's secrets: %q, want %q", got, want)
	}
	if got, want := c.Keys(), []string{"host", "password", "sslpassword", "user"}; !reflect.DeepEqual(got, want) {
		t.Errorf("keys: %v", got)
	}
}

// libpq is the judge of what a connection string means: psql must log in with
// what we write.
func TestLibpqReadsWhatWeWrite(t *testing.T) {
	t.Parallel()
	c := primary(t).tcp("monitor", scramPassword).With("application_name", `it's "a\b"`)
	out := mustRun(t, testBin+"/psql", "-X", "-A", "-t", "-c", "SHOW application_name", "-d", c.String())
	if want := `it's "a\b"` + "\n"; out != want {
		t.Errorf("application_name is %q, want %q", out, want)
	}
}

func FuzzConninfo(f *testing.F) {
	for _, s := range []string{
		"", "host=node1 dbname=repmgr", `password='a b\'c\\d' user=x`, "postgresql://u:p@a:1,b:2/db?ssl=true", "postgresql://[::1]:5/%41",
		`options='-c a=b\ c' host=/tmp`, "host = a\vport\f=\r5",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseConninfo(s)
		if err != nil {
			return
		}
		again, err := ParseConninfo(c.String())
		if err != nil || !reflect.DeepEqual(again, c) && len(c.params)+len(again.params) > 0 {
			t.Fatalf("%q became %q and then %q (%v)", s, c.String(), again.String(), err)
		}
		for _, p := range c.params {
			if p.key == "password" && len(p.value) > 8 && !strings.Contains(c.Without("password").String(), quoteValue(p.value)) &&
				strings.Contains(c.Redacted(), quoteValue(p.value)) {
				t.Fatalf("%q shows its password as %q", s, c.Redacted())
			}
		}
	})
}
