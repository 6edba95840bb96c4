package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/pg"
)

// startBound is how long a start, a stop or a service command may take where the
// context has no earlier end.
const startBound = time.Minute

func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, has := ctx.Deadline(); has { // a long recovery is the caller's to wait for
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, startBound)
}

// ctl is pg_ctl for the own server.
func (o Own) ctl() (pg.Ctl, error) {
	program, err := o.tool("pg_ctl")
	if err != nil {
		return pg.Ctl{}, err
	}
	dir := o.dir()
	if o.Config.ConfigDirectory != "" {
		dir = o.Config.ConfigDirectory
	}
	return pg.Ctl{Bindir: filepath.Dir(program), Dir: dir, Options: o.Config.PgCtlOptions}, nil
}

// configFile is the server's configuration file, where that is not in the data
// directory, as on Debian: the server was told so when it was started last, and
// keeps its command line in postmaster.opts. Empty: it is there, or not known.
func (o Own) configFile() string {
	if _, err := os.Stat(filepath.Join(o.dir(), "postgresql.conf")); err == nil {
		return ""
	}
	if o.Config.ConfigDirectory != "" {
		return filepath.Join(o.Config.ConfigDirectory, "postgresql.conf")
	}
	text, _ := readAll(filepath.Join(o.dir(), "postmaster.opts"))
	words, err := pg.SplitWords(strings.TrimSpace(string(text)))
	if err != nil {
		return ""
	}
	for _, word := range words {
		name, value, _ := strings.Cut(strings.TrimPrefix(word, "--"), "=")
		if strings.ReplaceAll(name, "-", "_") == "config_file" {
			return value
		}
	}
	return ""
}

// Start starts the server by service_start_command or pg_ctl, and returns when it
// takes connections. One that runs already is only waited for; one whose rewind was
// broken off is refused (A24). History files that
// only keep numbers and are newer than every history are removed first: they are
// left by a promotion that did not happen, and no server starts with them.
func (o Own) Start(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	all, err := host.Processes(o.dir())
	if err != nil {
		return err
	}
	if len(all) > 0 {
		h, err := o.Postmaster()
		if err != nil {
			return fault.Wrap(err, fault.NoRestart, "could not start the server: processes of a former postmaster are left").
				WithDetail("%d work in %s, %d (%s) among them.", len(all), o.dir(), all[0].PID, all[0].Title).
				WithHint("They may still write: end them first.")
		}
		_ = h.Close()
		return o.awaitConnections(ctx)
	}
	for _, prepare := range []func() error{o.mustBeWhole, o.DropPlaceholders, func() error { return o.awaitEnding(ctx) }, o.clearZombie} {
		if err := prepare(); err != nil {
			return err
		}
	}
	ctl, err := o.ctl()
	if err != nil {
		return err
	}
	start := func() error {
		return o.service(ctx, o.Config.ServiceStartCommand, ctl.Start("", remaining(ctx)), "start the server")
	}
	if err = start(); err != nil && o.clearEmptyLocks(ctx) {
		err = start()
	}
	if err != nil {
		return o.whyNotStarted(err)
	}
	return o.awaitConnections(ctx)
}

// awaitEnding waits until killed processes of the server have given their memory back:
// they are attached to it until then, and no server starts beside them ("pre-existing
// shared memory block"). The postmaster's number and port are its own for a moment longer,
// while the kernel closes its sockets. Where ctx ends first, the start says so.
func (o Own) awaitEnding(ctx context.Context) error {
	former, _ := pg.ReadPostmaster(o.dir()) // zero if there is none
	_, err := eachWhile(ctx, func() (bool, error) {
		ending, err := host.Ending(o.dir())
		return ending == 0 && !host.Exits(former.PID), err
	})
	return err
}

// clearEmptyLocks removes lock files without content, which a postmaster leaves
// that was killed in the moment of making them, and no server starts beside. It
// reports whether there were any. The server's own settings say where its sockets are.
func (o Own) clearEmptyLocks(ctx context.Context) bool {
	ask := func(name string) string {
		program, err := o.tool("postgres")
		if err != nil {
			return ""
		}
		dir := o.dir()
		if o.Config.ConfigDirectory != "" {
			dir = o.Config.ConfigDirectory
		}
		r, err := host.Run(ctx, host.Cmd{Shell: pg.QuoteAll([]string{program, "-D", dir, "-C", name}), Timeout: 10 * time.Second})
		if err != nil || !r.OK() {
			return ""
		}
		return strings.TrimSpace(r.Stdout)
	}
	port, cleared := ask("port"), false
	files := []string{o.lockFile()}
	for _, dir := range strings.Split(ask("unix_socket_directories"), ",") {
		if dir = strings.TrimSpace(dir); dir != "" && port != "" {
			files = append(files, filepath.Join(dir, ".s.PGSQL."+port+".lock"))
		}
	}
	for _, file := range files {
		if info, err := os.Stat(file); err == nil && info.Size() == 0 && time.Since(info.ModTime()) > emptyLockAge {
			cleared = os.Remove(file) == nil || cleared
			o.log("removed " + file + ": it was empty, the remnant of a start that was cut short")
		}
	}
	return cleared
}

// emptyLockAge is how old a lock file without content must be: another server may
// be about to fill it.
const emptyLockAge = time.Second

// Stop stops the server in that mode, and returns when all its processes have
// gone. service_stop_command is used for a fast stop, which is what it means.
func (o Own) Stop(ctx context.Context, mode pg.StopMode) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	all, err := host.Processes(o.dir())
	if err != nil || len(all) == 0 {
		return err
	}
	ctl, err := o.ctl()
	if err != nil {
		return err
	}
	configured := ""
	if mode == pg.Fast {
		configured = o.Config.ServiceStopCommand
	}
	if err := o.service(ctx, configured, ctl.Stop(mode, remaining(ctx)), "stop the server"); err != nil {
		return err
	}
	return o.awaitGone(ctx)
}

// awaitGone waits until no process is left of a server that was stopped: the
// postmaster removes its file a moment before it ends.
func (o Own) awaitGone(ctx context.Context) error {
	gone, err := eachWhile(ctx, func() (bool, error) {
		all, err := host.Processes(o.dir())
		return len(all) == 0, err
	})
	if err == nil && !gone {
		err = fault.Wrap(ctx.Err(), fault.NoRestart, "processes of the server are left after its stop")
	}
	return err
}

// remaining is what is left of a context's time.
func remaining(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return startBound
	}
	return max(time.Second, time.Until(deadline))
}

// service runs the configured command, or pg_ctl's. What it starts keeps its
// outputs open, so that they are not waited for.
func (o Own) service(ctx context.Context, configured, line, what string) error {
	if configured != "" {
		line = configured
	}
	output, before := o.output()
	log := logIn(o.Config.PgCtlOptions)
	logged := sizeOf(log)
	r, err := host.Run(ctx, host.Cmd{Shell: line, OutputTo: output})
	if err != nil {
		return fault.Wrap(err, fault.NoRestart, "could not %s", what)
	}
	if !r.OK() {
		return fault.New(fault.NoRestart, "could not %s", what).
			WithDetail("%s: it %s. %s", line, r, strings.TrimSpace(saidSince(output, before)+" "+saidSince(log, logged))).
			WithHint("look into the server's log, and into %s", output)
	}
	return nil
}

// logIn is the file that pg_ctl's options have a server write to, until that has a log of its own; empty if none.
func logIn(options string) string {
	words, err := pg.SplitWords(options)
	if err != nil {
		return ""
	}
	for i, word := range words {
		switch name, value, given := strings.Cut(word, "="); {
		case given && name == "--log":
			return value
		case (word == "-l" || word == "--log") && i+1 < len(words):
			return words[i+1]
		case strings.HasPrefix(word, "-l") && len(word) > 2:
			return word[2:]
		}
	}
	return ""
}

// sizeOf is a file's length in bytes; zero if there is none.
func sizeOf(file string) int64 {
	info, err := os.Stat(file)
	if err != nil {
		return 0
	}
	return info.Size()
}

// output is the file that takes what the commands that start and stop the server
// say, and what the server itself says if it has no log of its own: it keeps the
// outputs of what started it. before is where its end is now.
func (o Own) output() (file string, before int64) {
	file = filepath.Join(o.Config.StateDir(), "server.log")
	if os.MkdirAll(filepath.Dir(file), 0o700) != nil {
		return os.DevNull, 0
	}
	return file, sizeOf(file)
}

// saidSince is the end of what was written to a file behind a place, in one line.
func saidSince(file string, before int64) string {
	const most = 1000 // bytes: a server without a log of its own fills that file
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil {
		before = max(before, info.Size()-most)
	}
	text, _ := io.ReadAll(io.NewSectionReader(f, before, most))
	return strings.Join(strings.Fields(string(text)), " ")
}

// awaitConnections waits until the server takes connections. One that cannot,
// because hot_standby is off, is started when it is in recovery.
func (o Own) awaitConnections(ctx context.Context) error {
	var last error
	up, err := eachWhile(ctx, func() (bool, error) {
		c, err := o.connect(ctx)
		if err == nil {
			hangUp(c)
			return true, nil
		}
		if last = err; strings.Contains(err.Error(), "Hot standby mode is disabled") {
			return true, nil
		}
		h, gone := o.Postmaster()
		if gone != nil {
			if errors.Is(gone, os.ErrProcessDone) {
				return false, fault.Wrap(err, fault.NoRestart, "the server has ended while it was started").WithHint("Look into its log.")
			}
			return false, gone
		}
		_ = h.Close()
		return false, nil
	})
	if err == nil && !up {
		err = fault.Wrap(errors.Join(ctx.Err(), last), fault.NoRestart, "the server takes no connections").
			WithHint("It may still be in recovery: look into its log.")
	}
	return err
}

// clearZombie removes the lock files of a former postmaster that has ended and is
// not reaped, as happens in a container without an init: PostgreSQL takes it for
// alive (A10). Nobody works in the directory, and nobody may be attached to the
// shared memory, which PostgreSQL would look at by that file.
func (o Own) clearZombie() error {
	file, err := pg.ReadPostmaster(o.dir())
	if err != nil { // there is none, or none that can be read
		return nil
	}
	if state, _ := processState(file.PID); state != 'Z' || o.sharedMemory().attached() > 0 {
		return nil
	}
	socket := filepath.Join(file.SocketDir, fmt.Sprintf(".s.PGSQL.%d.lock", file.Port))
	text, _ := readAll(socket)
	if owner, _, _ := strings.Cut(string(text), "\n"); owner == strconv.Itoa(file.PID) {
		_ = os.Remove(socket) // what stays is told by the start
	}
	if err := os.Remove(o.lockFile()); err != nil {
		return fault.Wrap(err, fault.NoRestart, "lock file of the former postmaster, which is a zombie")
	}
	o.log(fmt.Sprintf("removed %s: process %d, the former postmaster, has ended and is not reaped (run the container with an init)", o.lockFile(), file.PID))
	return nil
}

func (o Own) lockFile() string { return filepath.Join(o.dir(), "postmaster.pid") }

// whyNotStarted adds what a left-over postmaster.pid has to do with it (A10):
// PostgreSQL takes any process of that number, and of its user, for its owner.
func (o Own) whyNotStarted(err error) error {
	file, readErr := pg.ReadPostmaster(o.dir())
	if readErr != nil {
		return err
	}
	state, title := processState(file.PID)
	switch {
	case state == 0 || title == "postgres":
		return err
	case state == 'Z':
		title = "a zombie"
	}
	return fault.Wrap(err, fault.NoRestart, "the number of the former postmaster, %d, is another process's now", file.PID).
		WithDetail("It is %s; %s is left over.", title, o.lockFile()).
		WithHint("Where no postgres runs there, %s and the socket's lock file may be removed.", o.lockFile())
}

// processState is the state of a process as /proc/PID/stat has it, and its
// command; zero if there is none.
func processState(pid int) (state byte, title string) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	open, end := strings.IndexByte(string(text), '('), strings.LastIndexByte(string(text), ')')
	if err != nil || open < 0 || end+2 >= len(text) {
		return 0, ""
	}
	return text[end+2], string(text[open+1 : end])
}

// DropPlaceholders removes empty history files that are newer than every history.
// A standby that is started takes such a number for the latest timeline, which is
// no child of its own, and waits for its WAL for ever, or ends. The server must not run.
func (o Own) DropPlaceholders() error {
	if err := o.mustBeDown(fault.NoRestart, "remove unused timeline numbers"); err != nil {
		return err
	}
	var newest cluster.Timeline
	var empty []cluster.Timeline
	err := o.eachHistory(func(timeline cluster.Timeline, size int64) error {
		if size > 0 {
			newest = timeline
			empty = nil
			return nil
		}
		empty = append(empty, timeline)
		return nil
	})
	if err != nil || len(empty) == 0 {
		return err
	}
	for i := len(empty) - 1; i >= 0; i-- { // the highest first: no gap arises if this is broken off
		if err := os.Remove(o.walPath(historyFile(empty[i]))); err != nil {
			return fault.Wrap(err, fault.NoRestart, "unused timeline number %d", empty[i])
		}
	}
	o.log(fmt.Sprintf("removed the history files of timelines %d to %d: they were kept free for a promotion that did not happen (the newest timeline is %d)",
		empty[0], empty[len(empty)-1], max(1, newest)))
	if err := host.SyncDir(o.walPath("")); err != nil {
		return fault.Wrap(err, fault.NoRestart, "unused timeline numbers")
	}
	return nil
}
