package cli

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"repmgr/internal/cluster"
	"repmgr/internal/ops"
)

// Options is what the operator asked for on the command line, one field for each
// option of the table below. Given tells an option left out from one given with
// its default.
type Options struct {
	// Of every verb.
	ConfigFile string
	PgBindir   string
	LogLevel   string
	LogToFile  bool
	Quiet      bool
	Terse      bool
	Verbose    bool
	Format     string // text, csv or json; empty: text
	CSV        bool
	Version    bool
	VersionNum bool
	DumpConfig bool
	RemoteUser string

	// Where to connect, when not by the configuration.
	Host   string
	Port   int
	User   string
	DBName string // a name, or a whole conninfo

	// Of single verbs.
	DryRun                  bool
	Back                    bool
	Force                   bool
	Superuser               string
	PgData                  string
	NodeID                  cluster.NodeID
	NodeName                string
	Compact                 bool
	Direct                  bool
	Detail                  bool
	IsShutdownCleanly       bool
	Wait                    int // seconds; Unlimited: as long as the configuration says
	NoWait                  bool
	CopyExternalConfigFiles string // samepath or pgdata
	FastCheckpoint          bool
	NoUpstreamConnection    bool
	ReplicationUser         string
	UpstreamConninfo        string
	UpstreamNodeID          cluster.NodeID
	WithoutBarman           bool
	ReplicationConfOnly     bool
	VerifyBackup            bool
	RecoveryMinApplyDelay   string
	WaitStart               time.Duration
	WaitSync                time.Duration // Unlimited: until it is done
	SiblingsFollow          bool
	All                     bool
	Event                   string
	Limit                   int
	KeepHistory             int // days
	Last                    bool
	Term                    uint64 // 0: the last
	ThisNode                bool
	OthersAreLost           bool
	DaemonHost              string
	Action                  string // of node service
	ListActions             bool
	Checkpoint              bool
	HandOver, TakeBack      ops.HandOverOrder // of a switchover by ssh
	After                   time.Duration     // in which no other order has come
	Pairs                   bool
	ForReal                 string // node of cluster drill; a name or a number
	At                      string // when a switchover begins
	ForceRewind             string // pg_rewind's path; empty: it is looked for
	AlwaysPromote           bool
	NoPause                 bool
	ForceUnpause            bool
	Nagios                  bool
	OptFormat               bool // repmgr 5's own, over ssh
	RemoteNodeID            cluster.NodeID
	DisableReceiver         bool
	EnableReceiver          bool
	ConfigFiles             string // patterns, with commas between
	Yes                     string // its name again

	given map[string]bool
}

// Unlimited is the value of an option whose number was left out.
const Unlimited = -1

// Given tells whether the option of that long name stood on the command line.
func (o *Options) Given(name string) bool { return o.given[name] }

// defaultOptions are the options of an empty command line.
func defaultOptions() *Options {
	return &Options{Limit: 20, WaitStart: 30 * time.Second, Wait: Unlimited, WaitSync: Unlimited, given: map[string]bool{}}
}

type group uint8

const (
	verbOptions group = iota
	connectionOptions
	commonOptions
)

// option is one option of the command line.
type option struct {
	name     string
	short    string
	arg      string // name of the value in the help; empty: takes none
	optional bool   // --name=value or --name; the short form takes none
	hidden   bool
	group    group
	help     string
	set      func(o *Options, value string) error // value is "" where none was given
	aliasOf  string                               // another spelling of that option
}

// table is every option that there is.
var table = []option{
	{name: "config-file", short: "f", arg: "FILE", group: commonOptions, help: "configuration file; else ./repmgr.conf, /etc/repmgr.conf and etc beside the program's directory are tried", set: text(func(o *Options) *string { return &o.ConfigFile })},
	{name: "pg_bindir", short: "b", arg: "DIR", group: commonOptions, help: "directory of PostgreSQL's programs, before pg_bindir of the configuration", set: text(func(o *Options) *string { return &o.PgBindir })},
	{name: "remote-user", short: "R", arg: "NAME", group: commonOptions, help: "user name for ssh", set: text(func(o *Options) *string { return &o.RemoteUser })},
	{name: "format", arg: "FORMAT", group: commonOptions, help: "text, csv or json: how a result is printed", set: word(func(o *Options) *string { return &o.Format }, "text", "csv", "json")},
	{name: "csv", group: commonOptions, help: "the same as --format csv", set: on(func(o *Options) *bool { return &o.CSV })},
	{name: "log-level", short: "L", arg: "LEVEL", group: commonOptions, help: "DEBUG, INFO, NOTICE, WARNING, ERROR, ALERT, CRIT or EMERG; before log_level of the configuration", set: level},
	{name: "log-to-file", group: commonOptions, help: "write the log where the configuration puts the daemon's, in its format", set: on(func(o *Options) *bool { return &o.LogToFile })},
	{name: "quiet", short: "q", group: commonOptions, help: "print errors only", set: on(func(o *Options) *bool { return &o.Quiet })},
	{name: "terse", short: "t", group: commonOptions, help: "leave out details, hints and warnings about the state of the cluster", set: on(func(o *Options) *bool { return &o.Terse })},
	{name: "verbose", short: "v", group: commonOptions, help: "say more, such as why a connection failed", set: on(func(o *Options) *bool { return &o.Verbose })},
	{name: "version", short: "V", group: commonOptions, help: "print the version", set: on(func(o *Options) *bool { return &o.Version })},
	{name: "version-number", group: commonOptions, help: "print the version as one number", set: on(func(o *Options) *bool { return &o.VersionNum })},
	{name: "dump-config", group: commonOptions, hidden: true, help: "print every parameter as it was understood", set: on(func(o *Options) *bool { return &o.DumpConfig })},

	{name: "dbname", short: "d", arg: "DBNAME", group: connectionOptions, help: "database, or a whole connection string, whose parts come before the other options", set: text(func(o *Options) *string { return &o.DBName })},
	{name: "host", short: "h", arg: "HOST", group: connectionOptions, help: "host of the server, or directory of its socket", set: text(func(o *Options) *string { return &o.Host })},
	{name: "port", short: "p", arg: "PORT", group: connectionOptions, help: "port of the server", set: number(1, 65535, func(o *Options) *int { return &o.Port })},
	{name: "username", short: "U", arg: "NAME", group: connectionOptions, help: "user to connect as", set: text(func(o *Options) *string { return &o.User })},

	{name: "dry-run", help: "check everything, say what would be done, change nothing", set: on(func(o *Options) *bool { return &o.DryRun })},
	{name: "force", short: "F", help: "go on where the command would stop for safety; the description says where", set: on(func(o *Options) *bool { return &o.Force })},
	{name: "superuser", short: "S", arg: "NAME", help: "superuser for what the ordinary user may not do", set: text(func(o *Options) *string { return &o.Superuser })},
	{name: "pgdata", short: "D", arg: "DIR", help: "data directory, where the configuration has none", set: text(func(o *Options) *string { return &o.PgData })},
	{name: "node-id", arg: "ID", help: "the node, by its number", set: node(func(o *Options) *cluster.NodeID { return &o.NodeID })},
	{name: "node-name", arg: "NAME", help: "the node, by its name", set: name(func(o *Options) *string { return &o.NodeName })},
	{name: "upstream-node-id", arg: "ID", help: "the node to replicate from; else the primary", set: node(func(o *Options) *cluster.NodeID { return &o.UpstreamNodeID })},
	{name: "upstream-conninfo", arg: "CONNINFO", help: "connection string of the upstream for the standby's settings", set: text(func(o *Options) *string { return &o.UpstreamConninfo })},
	{name: "replication-user", arg: "NAME", help: "user for replication connections", set: text(func(o *Options) *string { return &o.ReplicationUser })},
	{name: "fast-checkpoint", short: "c", help: "let the copy begin with an immediate checkpoint", set: on(func(o *Options) *bool { return &o.FastCheckpoint })},
	{name: "copy-external-config-files", arg: "WHERE", optional: true, help: "copy configuration files from outside the data directory: to the same path (samepath) or into the data directory (pgdata)", set: externalFiles},
	{name: "no-upstream-connection", help: "with Barman: connect to no server of the cluster", set: on(func(o *Options) *bool { return &o.NoUpstreamConnection })},
	{name: "without-barman", help: "copy the server itself, though barman_host is set", set: on(func(o *Options) *bool { return &o.WithoutBarman })},
	{name: "replication-conf-only", help: "write the replication settings of a copy that is there already", set: on(func(o *Options) *bool { return &o.ReplicationConfOnly })},
	{name: "recovery-conf-only", hidden: true, aliasOf: "replication-conf-only"},
	{name: "verify-backup", help: "check the copy with pg_verifybackup", set: on(func(o *Options) *bool { return &o.VerifyBackup })},
	{name: "recovery-min-apply-delay", arg: "TIME", help: "let the standby lag that far behind, before recovery_min_apply_delay of the configuration", set: text(func(o *Options) *string { return &o.RecoveryMinApplyDelay })},
	{name: "wait-start", arg: "SECONDS", help: "how long to wait for the standby to start (30)", set: seconds(func(o *Options) *time.Duration { return &o.WaitStart })},
	{name: "wait-sync", arg: "SECONDS", optional: true, help: "wait until the standby has its own record; without a number, for as long as it takes", set: seconds(func(o *Options) *time.Duration { return &o.WaitSync })},
	{name: "wait", short: "w", arg: "SECONDS", optional: true, help: "wait for it to happen; without a number, as long as the configuration says. The short form takes no number", set: number(0, 1<<31-1, func(o *Options) *int { return &o.Wait })},
	{name: "siblings-follow", help: "let the former siblings follow this node", set: on(func(o *Options) *bool { return &o.SiblingsFollow })},
	{name: "at", arg: "TIME", help: "begin then: 03:30, 2026-01-31 03:30 or +10m", set: text(func(o *Options) *string { return &o.At })},
	{name: "force-rewind", arg: "PATH", optional: true, help: "let pg_rewind discard what the primary does not have; with its path where it is not in pg_bindir", set: func(o *Options, v string) error { o.ForceRewind = v; return nil }},
	{name: "always-promote", help: "of repmgr 5; nothing is promoted that lacks anything", set: on(func(o *Options) *bool { return &o.AlwaysPromote })},
	{name: "repmgrd-no-pause", help: "of repmgr 5; repmgrd is not paused in any case", set: on(func(o *Options) *bool { return &o.NoPause })},
	{name: "repmgrd-force-unpause", help: "end a pause of the cluster first", set: on(func(o *Options) *bool { return &o.ForceUnpause })},
	{name: "no-wait", short: "W", help: "do not wait until it has happened", set: on(func(o *Options) *bool { return &o.NoWait })},
	{name: "config-files", arg: "LIST", help: "further files of the data directory that a rewind leaves as they are; patterns, with commas between", set: text(func(o *Options) *string { return &o.ConfigFiles })},
	{name: "config-archive-dir", arg: "DIR", hidden: true, help: "of repmgr 5; the state directory is used", set: chosen},
	{name: "nagios", help: "print one check as the line that Nagios reads", set: on(func(o *Options) *bool { return &o.Nagios })},
	{name: "optformat", hidden: true, help: "print one check as repmgr 5 tells itself over ssh", set: on(func(o *Options) *bool { return &o.OptFormat })},
	{name: "role", help: "check that the server is what its record says", set: chosen},
	{name: "replication-lag", help: "check the lag of replay", set: chosen},
	{name: "archive-ready", help: "check how many WAL files wait to be archived", set: chosen},
	{name: "upstream", help: "check that the node is attached to its upstream", set: chosen},
	{name: "downstream", help: "check that those are attached who should follow the node", set: chosen},
	{name: "slots", help: "check for replication slots that nobody uses", set: chosen},
	{name: "missing-slots", help: "check for replication slots that are missing", set: chosen},
	{name: "data-directory-config", help: "check that data_directory is the server's", set: chosen},
	{name: "repmgrd", help: "check that repmgrd runs, and is not paused", set: chosen},
	{name: "db-connection", help: "check that the server can be connected to", set: chosen},
	{name: "replication-config-owner", hidden: true, help: "check who owns postgresql.auto.conf", set: chosen},
	{name: "replication-connection", hidden: true, help: "check a replication connection to --remote-node-id", set: chosen},
	{name: "remote-node-id", arg: "ID", hidden: true, help: "node to connect to", set: node(func(o *Options) *cluster.NodeID { return &o.RemoteNodeID })},
	{name: "disable-wal-receiver", hidden: true, help: "end the WAL receiver, and let none be started", set: on(func(o *Options) *bool { return &o.DisableReceiver })},
	{name: "enable-wal-receiver", hidden: true, help: "let the WAL receiver be started again", set: on(func(o *Options) *bool { return &o.EnableReceiver })},
	{name: "has-passfile", hidden: true, help: "tell whether passfile is understood", set: chosen},
	{name: "compact", help: "narrower columns, and fewer", set: on(func(o *Options) *bool { return &o.Compact })},
	{name: "direct", help: "open a session with every server, and ask no daemon to do it", set: on(func(o *Options) *bool { return &o.Direct })},
	{name: "detail", help: "show location and priority too", set: on(func(o *Options) *bool { return &o.Detail })},
	{name: "is-shutdown-cleanly", help: "print only whether the server was shut down in order, for scripts", set: on(func(o *Options) *bool { return &o.IsShutdownCleanly })},
	{name: "all", help: "show all events, not the newest 20", set: on(func(o *Options) *bool { return &o.All })},
	{name: "event", arg: "NAME", help: "show events of this name only", set: text(func(o *Options) *string { return &o.Event })},
	{name: "limit", arg: "N", help: "how many events to show (20)", set: number(1, 1<<31-1, func(o *Options) *int { return &o.Limit })},
	{name: "daemon-host", arg: "HOST", help: "host by which the other daemons reach this node's", set: text(func(o *Options) *string { return &o.DaemonHost })},
	{name: "action", arg: "ACTION", help: "start, stop, restart, reload or promote", set: word(func(o *Options) *string { return &o.Action }, "start", "stop", "restart", "reload", "promote")},
	{name: "list-actions", help: "print the commands that would be run, and run none", set: on(func(o *Options) *bool { return &o.ListActions })},
	{name: "checkpoint", help: "make a checkpoint before a stop or a restart", set: on(func(o *Options) *bool { return &o.Checkpoint })},
	{name: "hand-over", arg: "ORDER", hidden: true, help: "for a switchover by ssh: after the stop the server comes up read-only", set: handOverOrder(func(o *Options) *ops.HandOverOrder { return &o.HandOver })},
	{name: "take-back", arg: "ORDER", optional: true, help: "start the primary that a switchover by ssh has stopped; an order is what such a switchover gives", set: handOverOrder(func(o *Options) *ops.HandOverOrder { return &o.TakeBack })},
	{name: "after", arg: "SECONDS", hidden: true, help: "take it back only if no other order comes meanwhile", set: seconds(func(o *Options) *time.Duration { return &o.After })},
	{name: "keep-history", short: "k", arg: "DAYS", help: "keep the history of so many days (0)", set: number(0, 1<<31-1, func(o *Options) *int { return &o.KeepHistory })},
	{name: "last", help: "show the last decision, which is the default", set: on(func(o *Options) *bool { return &o.Last })},
	{name: "term", arg: "N", help: "show the decision of that term", set: func(o *Options, v string) error {
		var n int
		err := number(1, 1<<31-1, func(*Options) *int { return &n })(o, v)
		o.Term = uint64(n)
		return err
	}},
	{name: "pairs", help: "ask about the loss of every two nodes too", set: on(func(o *Options) *bool { return &o.Pairs })},
	{name: "for-real", arg: "NODE", help: "kill the server of that node, by name or number, and report what follows", set: text(func(o *Options) *string { return &o.ForReal })},
	{name: "yes", arg: "NODE", help: "confirm what asks for it where there is no terminal: the node's name again", set: text(func(o *Options) *string { return &o.Yes })},
	{name: "back", help: "give the node back to repmgr 5", set: on(func(o *Options) *bool { return &o.Back })},
	{name: "this-node", help: "forget this node's own part in the group; the others take it in again", set: on(func(o *Options) *bool { return &o.ThisNode })},
	{name: "yes-the-other-voters-are-lost", help: "with --force: give the group up, since its majority is lost for ever", set: on(func(o *Options) *bool { return &o.OthersAreLost })},

	{name: "check-upstream-config", hidden: true, help: "no longer does anything", set: obsolete},
	{name: "remote-config-file", short: "C", arg: "FILE", hidden: true, help: "no longer does anything", set: obsolete},
}

// obsolete options of earlier releases are accepted; main warns about them.
func obsolete(*Options, string) error { return nil }

// chosen is of options that are asked for by Given.
func chosen(*Options, string) error { return nil }

func text(at func(*Options) *string) func(*Options, string) error {
	return func(o *Options, v string) error {
		if v == "" {
			return fmt.Errorf("needs a value, found an empty one")
		}
		*at(o) = v
		return nil
	}
}

func on(at func(*Options) *bool) func(*Options, string) error {
	return func(o *Options, _ string) error {
		*at(o) = true
		return nil
	}
}

// name is a node's name: it is used as application_name, which PostgreSQL cuts
// after 63 bytes.
func name(at func(*Options) *string) func(*Options, string) error {
	return func(o *Options, v string) error {
		if v == "" || len(v) > 63 {
			return fmt.Errorf("takes a name of 1 to 63 bytes, found %d bytes", len(v))
		}
		*at(o) = v
		return nil
	}
}

func word(at func(*Options) *string, words ...string) func(*Options, string) error {
	return func(o *Options, v string) error {
		if !slices.Contains(words, strings.ToLower(v)) {
			return fmt.Errorf("takes %s, found %q", either(words), v)
		}
		*at(o) = strings.ToLower(v)
		return nil
	}
}

func handOverOrder(at func(*Options) *ops.HandOverOrder) func(*Options, string) error {
	return func(o *Options, v string) (err error) {
		if v != "" {
			*at(o), err = ops.ParseHandOverOrder(v)
		}
		return err
	}
}

func number(least, most int, at func(*Options) *int) func(*Options, string) error {
	return func(o *Options, v string) error {
		if v == "" {
			return nil
		}
		n, err := strconv.Atoi(v)
		if err != nil || n < least || n > most {
			return fmt.Errorf("takes a whole number from %d to %d, found %q", least, most, v)
		}
		*at(o) = n
		return nil
	}
}

func node(at func(*Options) *cluster.NodeID) func(*Options, string) error {
	return func(o *Options, v string) error {
		var n int
		if err := number(1, 1<<31-1, func(*Options) *int { return &n })(o, v); err != nil {
			return err
		}
		*at(o) = cluster.NodeID(n)
		return nil
	}
}

func seconds(at func(*Options) *time.Duration) func(*Options, string) error {
	return func(o *Options, v string) error {
		if v == "" {
			return nil
		}
		var n int
		if err := number(0, 1<<31-1, func(*Options) *int { return &n })(o, v); err != nil {
			return err
		}
		*at(o) = time.Duration(n) * time.Second
		return nil
	}
}

func level(o *Options, v string) error {
	if _, ok := parseLevel(v); !ok {
		return fmt.Errorf("takes %s, found %q", either(levelNames[:]), v)
	}
	o.LogLevel = strings.ToUpper(v)
	return nil
}

func externalFiles(o *Options, v string) error {
	switch v {
	case "", "samepath":
		o.CopyExternalConfigFiles = "samepath"
	case "pgdata", "data_directory":
		o.CopyExternalConfigFiles = "pgdata"
	default:
		return fmt.Errorf("takes samepath or pgdata, found %q", v)
	}
	return nil
}

// either joins words as a person would: a, b or c.
func either(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// lookup finds an option by its long name, or by the beginning of one if only
// one begins so, as getopt does.
func lookup(long string) (option, error) {
	var found []option
	for _, o := range table {
		if o.name == long {
			return resolve(o), nil
		}
		if strings.HasPrefix(o.name, long) && !o.hidden {
			found = append(found, o)
		}
	}
	if long == "help" {
		return helpOption, nil
	}
	switch {
	case len(found) == 1 && len(long) > 1:
		return found[0], nil
	case len(found) > 1 && len(long) > 1:
		var names []string
		for _, o := range found {
			names = append(names, "--"+o.name)
		}
		return option{}, fmt.Errorf("--%s may be %s", long, either(names))
	}
	return option{}, fmt.Errorf("option --%s is not known%s", long, meant(long))
}

// helpOption stands apart since cobra itself answers it.
var helpOption = option{name: "help", short: "?", group: commonOptions, help: "show this page; with an object and an action, theirs"}

func resolve(o option) option {
	for _, p := range table {
		if p.name == o.aliasOf {
			return p
		}
	}
	return o
}

// shorthand finds an option by its letter.
func shorthand(letter byte) (option, error) {
	if letter == '?' {
		return helpOption, nil
	}
	for _, o := range table {
		if o.short == string(letter) {
			return o, nil
		}
	}
	return option{}, fmt.Errorf("option -%c is not known", letter)
}

// meant names the known option nearest to a mistyped one.
func meant(long string) string {
	best, distance := "", 3
	for _, o := range table {
		if d := edits(long, o.name); d < distance && !o.hidden {
			best, distance = o.name, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean --" + best + "?"
}

// edits is the number of letters to insert, delete or change to make b of a.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// helpOptions prints the options that want selects under a heading.
func helpOptions(w io.Writer, heading string, want func(option) bool) {
	first := true
	for _, o := range append(slices.Clone(table), helpOption) {
		if o.hidden || !want(o) {
			continue
		}
		if first {
			fmt.Fprintf(w, "\n%s:\n", heading)
			first = false
		}
		left := "    "
		if o.short != "" {
			left = "-" + o.short + ", "
		}
		left += "--" + o.name
		switch {
		case o.optional:
			left += "[=" + o.arg + "]"
		case o.arg != "":
			left += "=" + o.arg
		}
		for i, line := range wrap(o.help, helpWidth-29) {
			if i == 0 && len(left) <= 26 {
				fmt.Fprintf(w, "  %-26s %s\n", left, line)
				continue
			}
			if i == 0 {
				fmt.Fprintf(w, "  %s\n", left)
			}
			fmt.Fprintf(w, "  %-26s %s\n", "", line)
		}
	}
}

// wrap breaks text into lines of at most width bytes, at blanks.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, w := range strings.Fields(text) {
		if line != "" && len(line)+1+len(w) > width {
			lines = append(lines, line)
			line = ""
		}
		line = strings.TrimPrefix(line+" "+w, " ")
	}
	return append(lines, line)
}

// arranged is a command line put in order: words are the object, the action and
// what follows them; flags are the options in long form.
type arranged struct {
	words, flags []string
	mistakes     []error
}

// arrange reads options wherever they stand, as getopt does with permutation.
// Letters may be joined (-Fv), values stuck to them (-p5433) or apart.
func arrange(args []string) arranged {
	var a arranged
	for i := 0; i < len(args); i++ {
		arg := args[i]
		next := func() (string, bool) {
			if i+1 >= len(args) {
				return "", false
			}
			i++
			return args[i], true
		}
		switch {
		case arg == "--":
			a.words = append(a.words, args[i+1:]...)
			return a
		case strings.HasPrefix(arg, "--"):
			a.long(arg[2:], next)
		case strings.HasPrefix(arg, "-") && len(arg) > 1:
			a.letters(arg[1:], next)
		default:
			a.words = append(a.words, arg)
		}
	}
	return a
}

func (a *arranged) long(arg string, next func() (string, bool)) {
	name, value, stuck := strings.Cut(arg, "=")
	o, err := lookup(name)
	switch {
	case err != nil:
		a.mistakes = append(a.mistakes, err)
	case o.arg == "" && stuck:
		a.mistakes = append(a.mistakes, fmt.Errorf("option --%s takes no value, found %q", o.name, value))
	case o.arg == "" || o.optional && !stuck:
		a.flags = append(a.flags, "--"+o.name)
	case stuck:
		a.flags = append(a.flags, "--"+o.name+"="+value)
	default:
		a.value(o, "--"+o.name, next)
	}
}

func (a *arranged) letters(letters string, next func() (string, bool)) {
	for i := range len(letters) {
		o, err := shorthand(letters[i])
		switch {
		case err != nil:
			a.mistakes = append(a.mistakes, err)
		case o.arg == "" || o.optional:
			a.flags = append(a.flags, "--"+o.name)
		case i+1 < len(letters):
			a.flags = append(a.flags, "--"+o.name+"="+letters[i+1:])
			return
		default:
			a.value(o, "-"+o.short, next)
		}
	}
}

func (a *arranged) value(o option, spelled string, next func() (string, bool)) {
	v, ok := next()
	if !ok {
		a.mistakes = append(a.mistakes, fmt.Errorf("option %s needs a value: %s", spelled, o.arg))
		return
	}
	a.flags = append(a.flags, "--"+o.name+"="+v)
}

// bare is what pflag hands over for an option without a value.
const bare = "\x00"

// flagValue makes an option a flag of cobra. Mistakes are kept and not returned,
// so that all of them can be told at once.
type flagValue struct {
	o option
	a *app
}

// Set notes the value.
func (f flagValue) Set(v string) error {
	if v == bare {
		v = ""
	}
	f.a.opt.given[f.o.name] = true
	if err := f.o.set(f.a.opt, v); err != nil {
		f.a.mistake(fmt.Errorf("option --%s %w", f.o.name, err))
	}
	return nil
}

// String is empty: the help prints defaults in words.
func (f flagValue) String() string { return "" }

// Type is the name of the value.
func (f flagValue) Type() string { return f.o.arg }

// declare makes options flags of c: everywhere all of them, so that one that is
// out of place can be told apart from one that does not exist.
func (a *app) declare(flags *pflag.FlagSet, want func(option) bool) {
	for _, o := range table {
		if o.aliasOf != "" || !want(o) {
			continue
		}
		f := &pflag.Flag{Name: o.name, Shorthand: o.short, Usage: o.help, Hidden: o.hidden, Value: flagValue{o, a}}
		if o.arg == "" || o.optional {
			f.NoOptDefVal = bare
		}
		flags.AddFlag(f)
	}
}
