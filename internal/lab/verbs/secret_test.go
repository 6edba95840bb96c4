package verbs

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"repmgr/internal/lab"
)

func TestEveryVerbWithPasswordsAndWithCertificates(t *testing.T) {
	t.Parallel()
	for name, auth := range map[string]lab.Auth{"SCRAM": lab.SCRAM, "TLS": lab.TLS} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, ctx := open(t, lab.Options{Nodes: 3, Witness: true, Auth: auth, Slots: true})
			must(t, l.BringUpPrimary(ctx))
			must(t, l.BringUpStandbys(ctx))
			must(t, l.BringUpWitness(ctx))
			killCaughtUp(t, ctx, l.Node(1), "2")
			must(t, l.Node(2).Repmgr(ctx, "standby", "promote").Err())
			must(t, l.Node(3).Repmgr(ctx, "standby", "follow").Err())
			becomes(t, ctx, "the records on the standby", l.Node(3), records+" OFFSET 2", "3 standby 2 t repmgr_slot_3\n4 witness 1 t ")
		})
	}
}

// A password that stands in a conninfo is used, and shown nowhere but in the
// settings of the standby, where PostgreSQL needs it.
func TestAPasswordInTheConninfoIsNotShown(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 2, Auth: lab.SCRAM})
	one, two := l.Node(1), l.Node(2)
	must(t, one.InitPrimary(ctx))
	_, err := one.Rows(ctx, "SET password_encryption = 'scram-sha-256'; ALTER ROLE repmgr PASSWORD 'open sesame'' \\'")
	must(t, err)
	with := func(n *lab.Node) map[string]string {
		return map[string]string{"conninfo": n.Conninfo() + ` password='open sesame\' \\'`}
	}
	must(t, one.WriteConf(map[string]string{"conninfo": strings.ReplaceAll(with(one)["conninfo"], `\`, `\\`)}))
	must(t, two.WriteConf(map[string]string{"conninfo": strings.ReplaceAll(with(two)["conninfo"], `\`, `\\`)}))
	said := ""
	run := func(n *lab.Node, args ...string) {
		t.Helper()
		r := n.Repmgr(ctx, append(args, "-L", "DEBUG", "-v")...)
		must(t, r.Err())
		said += r.Stdout + r.Stderr
	}
	run(one, "primary", "register")
	run(two, "-d", with(one)["conninfo"], "standby", "clone", "-c", "--dry-run")
	run(two, "-d", with(one)["conninfo"], "standby", "clone", "-c")
	must(t, two.Start(ctx))
	attached(t, ctx, one, two)
	run(two, "standby", "register", "--wait-sync")
	run(two, "standby", "follow")
	run(two, "cluster", "show")
	if strings.Contains(said, "sesame") {
		t.Errorf("the password is shown:\n%s", said)
	}
	auto, err := os.ReadFile(two.DataDir + "/postgresql.auto.conf")
	must(t, err)
	if !strings.Contains(string(auto), `password=''open sesame`) {
		t.Errorf("primary_conninfo lacks the password:\n%s", auto)
	}
}

// seen is what the process list shows of a secret while it is watched.
type seen struct {
	commands, environments map[string]bool // command lines that hold it, or whose environment does
	clones                 int             // how often a pg_basebackup was looked at
}

// watchProcesses looks through the process list until stop is called.
func watchProcesses(secret string) (stop func() seen) {
	s := seen{commands: map[string]bool{}, environments: map[string]bool{}}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-end:
				return
			case <-time.After(2 * time.Millisecond):
				s.look(secret)
			}
		}
	}()
	return func() seen {
		close(end)
		<-ended
		return s
	}
}

func (s *seen) look(secret string) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		line, err := os.ReadFile(path)
		if err != nil || len(line) == 0 {
			continue
		}
		words := string(bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
		environment, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "environ"))
		program, _, _ := bytes.Cut(line, []byte{0})
		if filepath.Base(string(program)) == "pg_basebackup" {
			s.clones++
			environment = nil // the one way to hand it a password without a file
		}
		if bytes.Contains(line, []byte(secret)) {
			s.commands[words] = true
		}
		if bytes.Contains(environment, []byte(secret)) {
			s.environments[words] = true
		}
	}
}

// A password is in nobody's sight while a clone runs, whether it comes from the
// environment or from the configuration.
func TestAPasswordIsNotInTheProcessList(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 2, Auth: lab.SCRAM})
	one, two := l.Node(1), l.Node(2)
	must(t, l.BringUpPrimary(ctx))
	secret := "pw" + filepath.Base(l.Dir) // no other test's
	_, err := one.Rows(ctx, "SET password_encryption = 'scram-sha-256'; ALTER ROLE repmgr PASSWORD '"+secret+"'")
	must(t, err)
	file := filepath.Join(two.Dir, "service.conf")
	must(t, os.WriteFile(file, []byte("[secret]\npassword="+secret+"\n"), 0o644))
	said := ""
	for _, c := range []struct {
		name, environment string
		args              []string
		inherited         bool // the hooks have it as repmgr was given it
	}{
		{"by PGPASSWORD", "PGPASSWORD=" + secret, cloneOf(one, "-L", "DEBUG", "-v"), true},
		{"by a service", "PGSERVICEFILE=" + file, append([]string{"-d", one.Conninfo() + " service=secret"}, "standby", "clone", "-c", "-L", "DEBUG", "-v"), false},
	} {
		logFile := filepath.Join(two.Dir, "repmgr.log")
		must(t, two.WriteConf(map[string]string{"pg_basebackup_options": "--max-rate=16M", "conninfo": two.Conninfo() + " password=" + secret,
			"log_file": logFile, "event_notification_command": "sleep 0.3"}))
		stop := watchProcesses(secret)
		r := two.Run(ctx, "env", append([]string{c.environment, "PGPASSFILE=/nowhere", l.Dir + "/bin/repmgr", "-f", two.ConfFile(), "--log-to-file"}, c.args...)...)
		found := stop()
		must(t, r.Err())
		log, err := os.ReadFile(logFile)
		must(t, err)
		said += r.Stdout + r.Stderr + string(log)
		for words := range found.commands {
			// env is this test's own: it lives until it becomes repmgr.
			if !strings.HasPrefix(words, "env ") {
				t.Errorf("%s: the process list shows it: %s", c.name, words)
			}
		}
		for words := range found.environments {
			if !c.inherited {
				t.Errorf("%s: it is in the environment of %s", c.name, words)
			}
		}
		if found.clones == 0 {
			t.Errorf("%s: no pg_basebackup was seen", c.name)
		}
		must(t, two.Run(ctx, "rm", "-rf", two.DataDir).Err())
	}
	server, err := os.ReadFile(one.ServerLog())
	must(t, err)
	if strings.Contains(said+string(server), secret) {
		t.Errorf("the password is in the output or in a log:\n%s\n%s", said, server)
	}
}
