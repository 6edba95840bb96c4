package conf

import (
	"fmt"
	"io"
	"path"
)

// Dump writes every parameter as name|value, one a line, for --dump-config.
// Passwords in values are replaced by asterisks.
func (c *Config) Dump(w io.Writer) error {
	for i := range Params {
		p := &Params[i]
		if _, err := fmt.Fprintf(w, "%s|%s\n", p.Name, oneLine(p.Text(c))); err != nil {
			return fmt.Errorf("write the configuration: %w", err)
		}
	}
	return nil
}

// Write writes c as a configuration file that Load reads back: what differs
// from a file in which nothing is set. Passwords are in it as they are.
func (c *Config) Write(w io.Writer) error {
	base := defaults()
	for i := range Params {
		p := &Params[i]
		if p.sameIn(c, base) {
			continue
		}
		for _, text := range p.texts(c) {
			if _, err := fmt.Fprintf(w, "%s = %s\n", p.Name, quote(text)); err != nil {
				return fmt.Errorf("write the configuration: %w", err)
			}
		}
	}
	return nil
}

// SearchPath lists the files to look for, the first that exists being the
// configuration. A named file is the only one. The paths are absolute if
// workingDir is, since the path is registered and used from elsewhere. The last
// is looked for only if sysconfDir, the directory that belongs to the place of
// the program, is known.
func SearchPath(named, workingDir, sysconfDir string) []string {
	if named != "" {
		return []string{absolute(workingDir, named)}
	}
	list := []string{absolute(workingDir, "repmgr.conf"), "/etc/repmgr.conf"}
	if sysconfDir != "" {
		list = append(list, path.Join(sysconfDir, "repmgr.conf"))
	}
	return list
}

func absolute(dir, name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join(dir, name)
}
