package conf

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// crossCheck finds what is wrong although each value by itself is right.
// Nothing is said of parameters whose own value was refused already.
func (l *loader) crossCheck(file string) {
	for _, p := range Params {
		if where, set := l.places[p.Name]; p.Required && !where.bad && (!set || p.isEmpty(l.config)) && !l.needless(p.Name) {
			l.problem(Problem{File: l.fileOf(p.Name, file), Line: where.line, Param: p.Name, Msg: "is required and not set (" + p.Brief + ")" + l.aside(p.Name)})
		}
		if text := p.Text(l.config); p.Kind == Path && text != "" && !path.IsAbs(text) {
			l.warn(file, p.Name, "is not an absolute path; it depends on the directory in which the program is started")
		}
	}
	for _, r := range rules {
		l.apply(r, file)
	}
	l.suspect(file)
}

// needless reports whether a required parameter is left out on purpose: a witness
// without PostgreSQL has neither of the two that speak of a server, and says where
// its own files are instead.
func (l *loader) needless(name string) bool {
	return ofServer(name) && l.config.WithoutServer() && !l.places["conninfo"].bad && !l.places["data_directory"].bad && l.config.StateDirectory != ""
}

// ofServer tells the required parameters that a witness without PostgreSQL leaves out.
func ofServer(name string) bool { return name == "conninfo" || name == "data_directory" }

// aside is what a file may have been meant to be that has some of what a witness
// without PostgreSQL has.
func (l *loader) aside(name string) string {
	if !ofServer(name) || l.config.StateDirectory == "" {
		return ""
	}
	return "; only a witness without PostgreSQL goes without, and then without both conninfo and data_directory"
}

// suspect warns of what is allowed but hardly meant.
func (l *loader) suspect(file string) {
	c := l.config
	if c.Conninfo != "" && !hasKeyword(c.Conninfo, "host", "hostaddr", "service") {
		l.warn(file, "conninfo", "names no host, so that other nodes cannot reach this one by it")
	}
	if strings.ContainsFunc(c.NodeName, func(r rune) bool { return r < ' ' || r > '~' }) {
		l.warn(file, "node_name", "has characters that PostgreSQL replaces in application_name, so that the node is not recognised when it streams")
	}
	if strings.Contains(c.ServicePromoteCommand, "standby promote") {
		l.warn(file, "service_promote_command", "calls \"standby promote\", which would call it again; that belongs to promote_command")
	}
	for _, event := range c.EventNotifications {
		if !slices.Contains(Events, event) {
			l.warn(file, "event_notifications", fmt.Sprintf("there is no event %q%s", shorten(event), didYouMean(nearestFold(event, Events))))
		}
	}
	l.idle(file)
	for i := range Params {
		if p := &Params[i]; p.Kind == Command && len(p.Placeholders) > 0 {
			for _, unknown := range p.unknownPlaceholders(c) {
				l.warn(file, p.Name, fmt.Sprintf("has %s, which stands for nothing here (known are %s; write %%%% for a percent sign)", unknown, p.placeholders()))
			}
		}
	}
}

// idle warns of parameters that are set, to something else than their default,
// although no program acts on them. Errors are told without that.
func (l *loader) idle(file string) {
	if len(l.problems) > 0 {
		return
	}
	unset := defaults()
	for i := range Params {
		p := &Params[i]
		if where, set := l.places[p.Name]; p.Unread != "" && set && !where.bad && !p.sameIn(l.config, unset) {
			l.warn(file, p.Name, p.Unread)
		}
	}
}

// rule is what must hold between two parameters.
type rule struct {
	param, other string
	must         string
	holds        func(*Config) bool
}

var rules = []rule{
	{"archive_ready_warning", "archive_ready_critical", "must be less than archive_ready_critical",
		func(c *Config) bool { return c.ArchiveReadyWarning < c.ArchiveReadyCritical }},
	{"replication_lag_warning", "replication_lag_critical", "must be less than replication_lag_critical",
		func(c *Config) bool { return c.ReplicationLagWarning < c.ReplicationLagCritical }},
	{"standby_reconnect_timeout", "node_rejoin_timeout", "must not be less than node_rejoin_timeout",
		func(c *Config) bool { return c.StandbyReconnectTimeout >= c.NodeRejoinTimeout }},
	{"barman_host", "barman_server", "needs barman_server to be set too",
		func(c *Config) bool { return c.BarmanHost == "" || c.BarmanServer != "" }},
	{"barman_server", "barman_host", "needs barman_host to be set too",
		func(c *Config) bool { return c.BarmanServer == "" || c.BarmanHost != "" }},
}

// apply reports that a rule is broken, at whichever of its two parameters is
// set in a file, unless one of them was refused already.
func (l *loader) apply(r rule, file string) {
	if r.holds(l.config) || l.places[r.param].bad || l.places[r.other].bad {
		return
	}
	param, _ := Lookup(r.param)
	other, _ := Lookup(r.other)
	at := r.param
	if _, set := l.places[at]; !set {
		at = r.other
	}
	msg := r.must
	if text := other.Text(l.config); text != "" {
		msg += ", which is " + text
	}
	if at != r.param {
		msg = r.param + " is " + param.Text(l.config) + " and " + msg
		l.problem(Problem{File: l.fileOf(at, file), Line: l.places[at].line, Param: at, Msg: msg})
		return
	}
	l.problem(Problem{File: l.fileOf(at, file), Line: l.places[at].line, Param: at, Found: param.Text(l.config), Msg: msg})
}

func (l *loader) warn(file, param, msg string) {
	l.warnings = append(l.warnings, Warning{File: l.fileOf(param, file), Line: l.places[param].line, Param: param, Msg: msg})
}

// fileOf is the file in which param was set, or file if it was not.
func (l *loader) fileOf(param, file string) string {
	if where, set := l.places[param]; set {
		return where.file
	}
	return file
}

// unknownPlaceholders are those in c's value that p does not have, each once.
func (p *Param) unknownPlaceholders(c *Config) []string {
	var unknown []string
	text := p.texts(c)[0]
	for i := strings.IndexByte(text, '%'); i >= 0 && i+1 < len(text); {
		found := text[i : i+2]
		if isLetter(found[1]) && found[1] < 0x80 && !strings.Contains(p.placeholders(), found) && !slices.Contains(unknown, found) {
			unknown = append(unknown, found)
		}
		next := strings.IndexByte(text[i+2:], '%')
		if next < 0 {
			break
		}
		i += 2 + next
	}
	return unknown
}

// placeholders lists p's placeholders for a sentence.
func (p *Param) placeholders() string {
	var list []string
	for _, ph := range p.Placeholders {
		list = append(list, "%"+string(ph.Letter))
	}
	return strings.Join(list, ", ")
}

// isEmpty says whether c holds nothing for p.
func (p *Param) isEmpty(c *Config) bool {
	text := p.Text(c)
	return text == "" || p.Kind == Integer && text == "0"
}
