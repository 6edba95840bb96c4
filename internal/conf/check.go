package conf

import (
	"path"
	"strings"
)

// crossCheck finds what is wrong although each value by itself is right.
// Nothing is said of parameters whose own value was refused already.
func (l *loader) crossCheck(file string) {
	for _, p := range Params {
		if where, set := l.places[p.Name]; p.Required && !where.bad && (!set || p.isEmpty(l.config)) {
			l.problem(Problem{File: l.fileOf(p.Name, file), Line: where.line, Param: p.Name, Msg: "is required and not set", Expected: p.Expected()})
		}
		if text := p.Text(l.config); p.Kind == Path && text != "" && !path.IsAbs(text) {
			l.warn(file, p.Name, "is not an absolute path; it depends on the directory in which the program is started")
		}
	}
	c := l.config
	l.refuse(c.ArchiveReadyWarning >= c.ArchiveReadyCritical, file, "archive_ready_warning", "must be less than archive_ready_critical", "archive_ready_critical")
	l.refuse(c.ReplicationLagWarning >= c.ReplicationLagCritical, file, "replication_lag_warning", "must be less than replication_lag_critical", "replication_lag_critical")
	l.refuse(c.StandbyReconnectTimeout < c.NodeRejoinTimeout, file, "standby_reconnect_timeout", "must not be less than node_rejoin_timeout", "node_rejoin_timeout")
	l.refuse(c.BarmanHost != "" && c.BarmanServer == "", file, "barman_host", "needs barman_server to be set too", "barman_server")
	l.refuse(c.BarmanServer != "" && c.BarmanHost == "", file, "barman_server", "needs barman_host to be set too", "barman_host")
	if c.Conninfo != "" && !hasKeyword(c.Conninfo, "host", "hostaddr", "service") {
		l.warn(file, "conninfo", "names no host, so that other nodes cannot reach this one by it")
	}
	if strings.ContainsFunc(c.NodeName, func(r rune) bool { return r < ' ' || r > '~' }) {
		l.warn(file, "node_name", "has characters that PostgreSQL replaces in application_name, so that the node is not recognised when it streams")
	}
}

// refuse reports that param does not go with other, unless one of them was
// refused already.
func (l *loader) refuse(wrong bool, file, param, msg, other string) {
	if !wrong || l.places[param].bad || l.places[other].bad {
		return
	}
	p, _ := Lookup(param)
	o, _ := Lookup(other)
	if text := o.Text(l.config); text != "" {
		msg += ", which is " + text
	}
	l.problem(Problem{File: l.fileOf(param, file), Line: l.places[param].line, Param: param, Found: p.Text(l.config), Msg: msg})
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

// isEmpty says whether c holds nothing for p.
func (p *Param) isEmpty(c *Config) bool {
	text := p.Text(c)
	return text == "" || p.Kind == Integer && text == "0"
}
