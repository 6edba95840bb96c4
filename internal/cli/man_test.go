package cli

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"repmgr/internal/daemon"
	"repmgr/internal/fault"
)

// manDir holds the manual pages, one for each program and one for each verb.
const manDir = "../../packaging/man"

// exitStatuses is the list of exit statuses of repmgr(1).
var exitStatuses = []struct {
	code fault.Code
	what string
}{
	{fault.Success, "all went well"},
	{fault.BadConfig, "the command line, the configuration or the state of the cluster does not allow it"},
	{fault.BadRsync, "files could not be copied"},
	{fault.BadPidfile, "the PID file is another daemon's"},
	{fault.NoRestart, "the server could not be started, restarted or reloaded"},
	{fault.LocalCommand, "a command of the server's service failed"},
	{fault.DBConn, "no connection to a server"},
	{fault.DBQuery, "a server did not do what it was asked to"},
	{fault.PromotionFail, "the standby was not promoted"},
	{fault.MonitoringTimeout, "repmgrd gave up watching"},
	{fault.BadSSH, "a node could not be asked"},
	{fault.SysFailure, "the operating system refused something"},
	{fault.BadBasebackup, "the copy failed"},
	{fault.Internal, "a daemon answered with an error, or the program is wrong"},
	{fault.SwitchoverFail, "the switchover did not begin, or was undone"},
	{fault.Barman, "Barman failed"},
	{fault.RegistrationSync, "the record did not arrive in time"},
	{fault.SwitchoverIncomplete, "the switchover was done, and something is left to do"},
	{fault.FollowFail, "the standby does not follow"},
	{fault.RejoinFail, "the node did not rejoin"},
	{fault.NodeStatus, "something is wrong with a node"},
	{fault.RepmgrdPause, "repmgrd could not be paused or unpaused everywhere"},
	{fault.RepmgrdService, "repmgrd could not be started, stopped or asked"},
	{fault.PgBackupAPIService, "pg-backup-api failed"},
}

// roff makes text safe for troff (man 7 groff_char): backslashes, and hyphens that
// must stay what they are when a line is pasted.
func roff(text string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
}

// roffLine makes a whole line safe: one that begins with a dot or an apostrophe would be
// a request.
func roffLine(text string) string {
	if text = roff(text); strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		return `\&` + text
	}
	return text
}

// manOptions lists options under a heading.
func manOptions(b *strings.Builder, heading string, want func(option) bool) {
	for _, o := range append(slices.Clone(table), helpOption) {
		if o.hidden || o.aliasOf != "" || !want(o) {
			continue
		}
		if heading != "" {
			fmt.Fprintf(b, ".SH %s\n", heading)
			heading = ""
		}
		b.WriteString(".TP\n")
		if o.short != "" {
			fmt.Fprintf(b, `\fB%s\fR, `, roff("-"+o.short))
		}
		fmt.Fprintf(b, `\fB%s\fR`, roff("--"+o.name))
		switch {
		case o.optional:
			fmt.Fprintf(b, `[=\fI%s\fR]`, roff(o.arg))
		case o.arg != "":
			fmt.Fprintf(b, `=\fI%s\fR`, roff(o.arg))
		}
		fmt.Fprintf(b, "\n%s\n", roffLine(o.help))
	}
}

func manHead(b *strings.Builder, section int, name, short, synopsis string) {
	b.WriteString(".\\\" Made by \"make docs\" from the command table; do not edit.\n")
	fmt.Fprintf(b, ".TH %s %d \"\" repmgr \"repmgr manual\"\n", strings.ToUpper(roff(name)), section)
	fmt.Fprintf(b, ".SH NAME\n%s \\- %s\n.SH SYNOPSIS\n%s\n", roff(name), roff(short), synopsis)
}

func manPage(v verb) string {
	var b strings.Builder
	synopsis := fmt.Sprintf(`\fBrepmgr %s\fR [\fIoptions\fR]`, roff(v.name))
	if v.argument != "" {
		synopsis += fmt.Sprintf(` [\fI%s\fR]`, roff(v.argument))
	}
	manHead(&b, 1, manName(v), v.short, synopsis)
	b.WriteString(".SH DESCRIPTION\n")
	for i, paragraph := range strings.Split(v.long, "\n\n") {
		if i > 0 {
			b.WriteString(".PP\n")
		}
		fmt.Fprintln(&b, roffLine(strings.Join(strings.Fields(paragraph), " ")))
	}
	manOptions(&b, "OPTIONS", func(o option) bool { return o.group == verbOptions && v.lists(o) })
	manOptions(&b, "CONNECTION OPTIONS", func(o option) bool { return o.group == connectionOptions && v.lists(o) })
	b.WriteString(".PP\nThe options of all commands stand in\n.BR repmgr (1).\n.SH EXAMPLES\n.nf\n")
	for example := range strings.Lines(strings.TrimSpace(v.example)) {
		fmt.Fprintln(&b, roffLine(strings.TrimRight(example, "\n")))
	}
	b.WriteString(".fi\n.SH EXIT STATUS\n0 if all went well;\n.BR repmgr (1)\nlists the others.\n.SH SEE ALSO\n.BR repmgr (1)")
	object, _, _ := strings.Cut(v.name, " ")
	for _, other := range shown() {
		if strings.HasPrefix(other.name, object+" ") && other.name != v.name {
			fmt.Fprintf(&b, ",\n.BR %s (1)", roff(manName(other)))
		}
	}
	return b.String() + "\n"
}

// shown are the verbs that have a page.
func shown() []verb {
	return slices.DeleteFunc(verbs(), func(v verb) bool { return v.hidden })
}

func manName(v verb) string { return "repmgr-" + strings.ReplaceAll(v.name, " ", "-") }

// manOverview is repmgr(1).
func manOverview() string {
	var b strings.Builder
	manHead(&b, 1, "repmgr", "set up, show and change a PostgreSQL replication cluster", `\fBrepmgr\fR \fIOBJECT\fR \fIACTION\fR [\fIoptions\fR]`)
	b.WriteString(".SH DESCRIPTION\nEach command has a page of its own, named repmgr\\-\\fIOBJECT\\fR\\-\\fIACTION\\fR(1). Options may stand anywhere on the line.\n.SH COMMANDS\n")
	for _, v := range shown() {
		fmt.Fprintf(&b, ".TP\n.BR %s (1)\n%s\n", roff(manName(v)), roffLine(v.short))
	}
	manOptions(&b, "OPTIONS OF ALL COMMANDS", func(o option) bool { return o.group == commonOptions })
	b.WriteString(".SH EXIT STATUS\n")
	for _, e := range exitStatuses {
		fmt.Fprintf(&b, ".TP\n%d\n%s\n", e.code, roffLine(e.what))
	}
	b.WriteString("A single check of\n.BR repmgr\\-node\\-check (1)\nends with 0, 1, 2 or 3, as Nagios wants it.\n")
	b.WriteString(manFiles + ".SH SEE ALSO\n.BR repmgrd (8)\n")
	return b.String()
}

const manFiles = ".SH FILES\n.TP\n/etc/repmgr.conf\nthe configuration; repmgr.conf.sample describes every parameter\n"

// manDaemon is repmgrd(8).
func manDaemon() string {
	var b strings.Builder
	page := daemon.Help()
	manHead(&b, 8, "repmgrd", page.About, `\fBrepmgrd\fR [\fIoptions\fR]`)
	fmt.Fprintf(&b, ".SH DESCRIPTION\n.B repmgrd\n%s. One runs beside each server, as the user that PostgreSQL runs as.\n.SH OPTIONS\n", roff(page.About))
	page.Options.VisitAll(func(f *pflag.Flag) {
		value, help := pflag.UnquoteUsage(f)
		b.WriteString(".TP\n")
		if f.Shorthand != "" {
			fmt.Fprintf(&b, `\fB%s\fR, `, roff("-"+f.Shorthand))
		}
		fmt.Fprintf(&b, `\fB%s\fR`, roff("--"+f.Name))
		if value != "" {
			fmt.Fprintf(&b, `=\fI%s\fR`, roff(value))
		}
		fmt.Fprintf(&b, "\n%s\n", roffLine(help))
	})
	fmt.Fprintf(&b, ".SH SIGNALS\n%s\n.SH EXAMPLES\n", roffLine(page.Signals))
	for _, e := range page.Examples {
		fmt.Fprintf(&b, "%s\n.PP\n.nf\n%s\n.fi\n.PP\n", roffLine(e[0]), roffLine(e[1]))
	}
	b.WriteString(".SH EXIT STATUS\n0 if it watches in the background, or was ended by a signal;\n.BR repmgr (1)\nlists the others.\n")
	b.WriteString(manFiles + ".SH SEE ALSO\n.BR repmgr (1),\n.BR repmgr\\-daemon\\-start (1)\n")
	return b.String()
}

// TestManPages keeps the manual pages true; -update writes them.
func TestManPages(t *testing.T) {
	pages := map[string]string{"repmgr.1": manOverview(), "repmgrd.8": manDaemon()}
	for _, v := range shown() {
		pages[manName(v)+".1"] = manPage(v)
	}
	for name, page := range pages {
		path := filepath.Join(manDir, name)
		if *update {
			if err := cmp.Or(os.MkdirAll(manDir, 0o755), os.WriteFile(path, []byte(page), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		if was, err := os.ReadFile(path); err != nil || string(was) != page {
			t.Errorf("%s is not what the command table says (%v): run \"make docs\"", path, err)
		}
	}
	there, err := filepath.Glob(filepath.Join(manDir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range there {
		if _, known := pages[filepath.Base(path)]; known {
			continue
		}
		if !*update {
			t.Errorf("%s is the page of no command: run \"make docs\"", path)
		} else if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}
