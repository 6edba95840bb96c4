package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/pg"
)

const syncNames = "synchronous_standby_names"

// senderPatience is how long a walsender may take to come to a new setting
// before it is ended.
const senderPatience = time.Second

// SetSync makes synchronous_standby_names that value, in postgresql.auto.conf, by
// its owner, and returns when every session begins with it and commits wait for
// it. A walsender that was there before may still go by the old one: see ProveSync.
func (o Own) SetSync(ctx context.Context, names string) error {
	if err := o.set(syncNames, names); err != nil {
		return syncFault(err)
	}
	c, err := o.connectSynced(ctx, func(value string) bool { return value == names })
	if err != nil {
		return err
	}
	defer hangUp(c)
	if names == "" {
		return nil
	}
	return o.awaitCheckpointer(ctx, c)
}

// RestoreSync gives synchronous_standby_names back what postgresql.auto.conf said
// of it before; set is false for nothing. A server that is down reads it when it starts.
func (o Own) RestoreSync(ctx context.Context, value string, set bool, managed func(string) bool) error {
	var err error
	if set && value == "" {
		err = pg.WriteEmptySetting(o.dir(), syncNames)
	} else {
		err = pg.WriteSetting(o.dir(), syncNames, value)
	}
	if err != nil {
		return syncFault(err)
	}
	if err := o.Reload(); err != nil {
		if errors.Is(err, os.ErrProcessDone) {
			return nil
		}
		return syncFault(err)
	}
	c, err := o.connectSynced(ctx, func(value string) bool { return !managed(value) })
	if err == nil {
		hangUp(c)
	}
	return err
}

// connectSynced opens sessions until one begins with a value that will do: the
// postmaster has signalled all its children by then.
func (o Own) connectSynced(ctx context.Context, will func(string) bool) (*pg.Conn, error) {
	var last string
	var c *pg.Conn
	ok, err := eachWhile(ctx, func() (bool, error) {
		conn, err := o.connect(ctx)
		if err != nil {
			return false, err
		}
		if err = o.ask(ctx, conn, "pg_catalog.current_setting('"+syncNames+"')", &last); err == nil && will(last) {
			c = conn
			return true, nil
		}
		hangUp(conn)
		return false, err
	})
	switch {
	case err != nil:
		return nil, syncFault(err)
	case !ok:
		return nil, syncFault(fmt.Errorf("it is %q: %w", last, ctx.Err())).WithHint("Something later in the configuration, or in the command line, may set it too.")
	}
	return c, nil
}

// awaitCheckpointer waits until the checkpointer has read the setting. Backends
// wait for standbys only once it has said so in shared memory
// (SyncRepUpdateSyncStandbysDefined): until then a commit is acknowledged at once.
// It has when the signal is delivered, and it has come to sleep since, in its main
// loop or between two writes of a checkpoint: before both it reads the settings.
func (o Own) awaitCheckpointer(ctx context.Context, c *pg.Conn) error {
	var seen string
	var asleep time.Time // since when, without a word of what it waits for
	ok, err := eachWhile(ctx, func() (bool, error) {
		pid, _, err := c.Checkpointer(ctx)
		if err != nil {
			return false, err
		}
		pending, _, err := signalState(pid)
		if err != nil {
			return false, err
		}
		_, sleeping, err := signalState(pid) // after the signal was seen delivered
		if err != nil || pending || !sleeping {
			seen, asleep = fmt.Sprintf("signal pending: %v, sleeping: %v", pending, sleeping), time.Time{}
			return false, err
		}
		again, waits, err := c.Checkpointer(ctx)
		seen = fmt.Sprintf("it waits for %q", waits)
		switch {
		case err != nil || again != pid:
			return false, err
		case waits == "CheckpointerMain", waits == "CheckpointWriteDelay":
			return true, nil
		case waits != "" || c.Version() >= 140000:
			asleep = time.Time{}
		case asleep.IsZero():
			asleep = time.Now()
		default: // 13 does not name the delay between two writes, which lasts 100 ms
			return time.Since(asleep) >= 200*time.Millisecond, nil
		}
		return false, nil
	})
	if err != nil || !ok {
		return syncFault(errors.Join(ctx.Err(), err)).WithDetail("The checkpointer has not read the new value yet: %s.", seen)
	}
	return nil
}

// signalState tells whether SIGHUP waits for a process, and whether it sleeps (man 5 proc).
func signalState(pid int) (pending, sleeping bool, err error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return false, false, err
	}
	for _, line := range strings.Split(string(text), "\n") {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "State":
			sleeping = strings.HasPrefix(value, "S")
		case "SigPnd", "ShdPnd":
			mask, err := strconv.ParseUint(value, 16, 64)
			if err != nil {
				return false, false, err
			}
			pending = pending || mask&1 != 0 // SIGHUP is 1
		}
	}
	return pending, sleeping, nil
}

// ProveSync makes sure that no other synchronous_standby_names than one that will
// do is in force any more, and that count of those in it have flushed all that was
// acknowledged by another (safety notes, B7). has tells who may be in it. It returns
// a position behind everything that was acknowledged by another.
//
// A walsender reads the settings before it looks at what its standby has
// confirmed, in each round of its loop; so one that has sent a record written
// after every process was signalled goes by the new ones. One that was taken out
// says so by its sync_priority. A walsender that comes to neither is ended.
func (o Own) ProveSync(ctx context.Context, will func(value string) bool, count int, has func(name string) bool) (cluster.LSN, error) {
	c, err := o.connectSynced(ctx, will)
	if err != nil {
		return 0, err
	}
	defer hangUp(c)
	if err := o.awaitCheckpointer(ctx, c); err != nil {
		return 0, err
	}
	x, err := c.WriteMessage(ctx) // this also wakes who waits and may go on (safety notes, A17)
	if err != nil {
		return 0, err
	}
	if err := o.awaitSenders(ctx, c, x, has); err != nil {
		return 0, err
	}
	barrier, err := c.WriteMessage(ctx)
	if err != nil {
		return 0, err
	}
	var flushed int
	ok, err := eachWhile(ctx, func() (bool, error) {
		s, err := c.Synchronous(ctx)
		if err != nil {
			return false, err
		}
		there := map[string]bool{}
		for _, w := range s.Senders {
			if has(w.Name) && w.State == "streaming" && w.Flush >= barrier {
				there[w.Name] = true
			}
		}
		flushed = len(there)
		return flushed >= count, nil
	})
	if err != nil || !ok {
		return 0, fault.Wrap(errors.Join(ctx.Err(), err), fault.SysFailure, "%d of %d synchronous standbys have what was acknowledged before", flushed, count).
			WithDetail("That is the WAL up to %s.", barrier)
	}
	return barrier, nil
}

// awaitSenders waits until every walsender goes by the new setting.
func (o Own) awaitSenders(ctx context.Context, c *pg.Conn, x cluster.LSN, has func(string) bool) error {
	began, ended := time.Now(), map[int]bool{}
	var late []pg.Walsender
	ok, err := eachWhile(ctx, func() (bool, error) {
		s, err := c.Synchronous(ctx)
		if err != nil {
			return false, err
		}
		late = lateSenders(s.Senders, x, has)
		if time.Since(began) >= senderPatience {
			err = o.endSenders(late, ended)
		}
		return len(late) == 0, err
	})
	if err != nil || !ok {
		return fault.Wrap(errors.Join(ctx.Err(), err), fault.SysFailure, "%d walsenders may still go by the former synchronous_standby_names", len(late))
	}
	return nil
}

// lateSenders are the walsenders that may still go by an old setting. One that
// only catches up releases nobody before it has read the new one.
func lateSenders(senders []pg.Walsender, x cluster.LSN, has func(string) bool) []pg.Walsender {
	var late []pg.Walsender
	for _, w := range senders {
		streams := w.State == "streaming" || w.State == "stopping"
		if streams && w.Sent < x || w.Priority != 0 && !has(w.Name) {
			late = append(late, w)
		}
	}
	return late
}

// endSenders asks walsenders to end, each once. One that is stopped stays, and
// so does the doubt; SIGKILL would restart the server.
func (o Own) endSenders(late []pg.Walsender, ended map[int]bool) error {
	all, err := host.Processes(o.dir())
	if err != nil {
		return err
	}
	for _, w := range late {
		for _, p := range all {
			if p.PID != w.PID || ended[p.PID] {
				continue
			}
			ended[p.PID] = true
			o.log(fmt.Sprintf("walsender %d of %q does not take the new %s: it is ended", w.PID, w.Name, syncNames))
			if err := o.terminate(p); err != nil {
				return err
			}
		}
	}
	return nil
}

func syncFault(err error) *fault.Error {
	return fault.Wrap(err, fault.SysFailure, "%s could not be changed", syncNames)
}
