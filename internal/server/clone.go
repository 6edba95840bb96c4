package server

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/pg"
)

// BeginClone keeps the server's configuration, before its directory is emptied for a
// clone, and marks the directory: what is there from now on must be cloned. What an
// earlier rewind or clone that was broken off had kept stays. The server's tablespaces
// are emptied, since a clone needs empty ones, and a clone by hand never deletes any; one
// with anything else in it is refused before anything is changed.
func (o Own) BeginClone() error {
	r := RewindRequest{StateDir: o.Config.StateDir()}
	broken, err := RewindInterrupted(r.StateDir)
	if err != nil {
		return err
	}
	spaces, err := o.tablespaces(r.StateDir)
	if err != nil {
		return err
	}
	if !broken {
		if err := o.saveConfig(r); err != nil {
			return err
		}
	}
	// Their places are kept: when the data directory is empty, nothing else names them.
	text := "a clone was begun\n"
	for _, path := range spaces {
		text += tablespaceLine + path + "\n"
	}
	if err := host.WriteFileDurable(filepath.Join(r.StateDir, markerName), []byte(text), 0o600); err != nil {
		return err
	}
	for _, path := range spaces {
		if err := os.RemoveAll(path); err != nil {
			return fault.Wrap(err, fault.RejoinFail, "the tablespace in %s could not be emptied", path)
		}
	}
	return nil
}

// EndClone gives the clone the configuration back that the server had. What it
// follows is as the clone was made.
func (o Own) EndClone() error {
	r := RewindRequest{StateDir: o.Config.StateDir()}
	recovery, err := pg.ReadRecovery(o.dir())
	if err != nil {
		return err
	}
	if err := o.restoreConfig(r); err != nil {
		return err
	}
	if err := pg.WriteRecovery(o.dir(), recovery); err != nil {
		return err
	}
	return r.end()
}

// tablespaceLine is how the marker's lines begin that name a tablespace's directory.
const tablespaceLine = "tablespace "

// versionDirectory is what a server makes in a tablespace, for its major version and
// catalog version: nothing else in there is its own (PostgreSQL manual, "Tablespaces").
var versionDirectory = regexp.MustCompile(`^PG_[0-9.]+_[0-9]+$`)

// tablespaces lists what this server has outside its data directory, as its own links
// and an earlier clone's marker say: in each tablespace the directory of its version.
func (o Own) tablespaces(stateDir string) ([]string, error) {
	var places []string
	links, err := os.ReadDir(filepath.Join(o.dir(), "pg_tblspc"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Wrap(err, fault.RejoinFail, "tablespaces of the server")
	}
	for _, link := range links {
		if place, err := os.Readlink(filepath.Join(o.dir(), "pg_tblspc", link.Name())); err == nil { // else it lies in the data directory
			places = append(places, place)
		}
	}
	marker, err := readAll(filepath.Join(stateDir, markerName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Wrap(err, fault.RejoinFail, "marker of a clone")
	}
	for _, line := range strings.Split(string(marker), "\n") {
		if path, ok := strings.CutPrefix(line, tablespaceLine); ok {
			places = append(places, filepath.Dir(path))
		}
	}
	slices.Sort(places)
	var out []string
	for _, place := range slices.Compact(places) {
		own, err := versionsIn(place)
		if err != nil {
			return nil, err
		}
		out = append(out, own...)
	}
	return out, nil
}

// versionsIn lists the servers' directories in a tablespace, which has to hold nothing else.
func versionsIn(place string) (out []string, err error) {
	entries, err := os.ReadDir(place)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Wrap(err, fault.RejoinFail, "the tablespace in %s", place)
	}
	for _, e := range entries {
		if !versionDirectory.MatchString(e.Name()) {
			return nil, fault.New(fault.RejoinFail, "the server is not cloned anew by itself: the tablespace in %s holds more than PostgreSQL's own", place).
				WithDetail("%s is in there.", e.Name()).
				WithHint("Move that elsewhere, or clone by hand: repmgr standby clone --force, with tablespace_mapping if need be.")
		}
		out = append(out, filepath.Join(place, e.Name()))
	}
	if len(out) > 1 {
		return nil, fault.New(fault.RejoinFail, "the server is not cloned anew by itself: the tablespace in %s is that of several servers", place).
			WithDetail("%s are in there.", strings.Join(out, " and ")).
			WithHint("Clone by hand: repmgr standby clone --force, with tablespace_mapping.")
	}
	return out, nil
}
