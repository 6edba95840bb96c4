package daemon

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/host"
	"repmgr/internal/record"
	"repmgr/internal/server"
)

// ownServer is what the hands of the quorum rule work on.
func (d *Daemon) ownServer() server.Own {
	return server.Own{Config: d.eyes.cfg.Load(), Log: func(text string) { d.log.Info(text) }}
}

// withDirectory adds what the data directory says, be the server up or down.
func (d *Daemon) withDirectory(local failover.Local) failover.Local {
	own := d.ownServer()
	if own.Config.DataDirectory == "" {
		return local
	}
	local.Room, local.Full = d.roomOf(own.Config.DataDirectory)
	local.Incarnation = incarnationOf(own.Config.DataDirectory)
	local.Torn, _ = server.RewindInterrupted(own.Config.StateDir()) // unreadable: a start finds out
	local.Armed, _ = own.Armed()                                    // unreadable: not armed
	local.Sealed, _ = own.Detached()                                // unreadable: not sealed
	local.StandbyName, local.SyncManaged = d.replicationSettings(own.Config.DataDirectory)
	if local.Ended = d.peers.ended(); local.Ended && local.State == failover.ServerRunning {
		d.runsAgain(local.At)
		local.Ended = false
	}
	if local.State == failover.ServerRunning { // a standby's too: it may have left the cluster's history while it was away
		local.Line = d.lineOf(own, local.Position.Timeline)
	}
	return local
}

// roomOf is how much may still be written where the server writes, and whether that
// is next to nothing, or a write was refused for want of it.
func (d *Daemon) roomOf(dataDir string) (room int64, full bool) {
	places := []string{dataDir, filepath.Join(dataDir, "pg_wal")}
	if spaces, err := filepath.Glob(filepath.Join(dataDir, "pg_tblspc", "*")); err == nil {
		places = append(places, spaces...)
	}
	refused := d.diskFull.Load()
	room, err := host.Room(places...)
	if err != nil {
		return 0, refused // what is wrong with it is told by who needs it
	}
	return room, refused || room < failover.FullBelow
}

// lineOf is the history of a timeline, as the own directory knows it; empty if it
// cannot be read.
func (d *Daemon) lineOf(own server.Own, tli cluster.Timeline) record.Line {
	h, err := own.History(tli)
	if err != nil || tli == 0 {
		return ""
	}
	var switches []record.Switch
	for _, s := range h.Switches {
		switches = append(switches, record.Switch{Parent: s.Parent, LSN: s.LSN, Child: s.Child})
	}
	return record.LineOf(switches, tli)
}

// historyOf is a line in the words of the own server's functions.
func historyOf(line record.Line) (server.History, error) {
	switches, end, err := line.Parse()
	if err != nil {
		return server.History{}, err
	}
	h := server.History{Timeline: end}
	for _, s := range switches {
		h.Switches = append(h.Switches, server.Switch{Parent: s.Parent, LSN: s.LSN, Child: s.Child})
	}
	return h, nil
}

// incarnationOf tells one making of a data directory from the next: a clone and a
// rewind write PG_VERSION anew, a server that runs never does. The device's number is no
// part of it: it may be another after a boot or a mount, and the last holder of the
// lease would not be known again, whose bid alone suffices after a power cut. The time of
// the file's making, where the file system keeps one, is: a backup that was put back has another.
func incarnationOf(dataDir string) string {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, filepath.Join(dataDir, "PG_VERSION"), 0, unix.STATX_INO|unix.STATX_MTIME|unix.STATX_BTIME, &st); err != nil {
		return ""
	}
	return incarnationFrom(st)
}

func incarnationFrom(st unix.Statx_t) string {
	made := unix.StatxTimestamp{}
	if st.Mask&unix.STATX_BTIME != 0 {
		made = st.Btime
	}
	return fmt.Sprintf("%x-%x.%x-%x.%x", st.Ino, made.Sec, made.Nsec, st.Mtime.Sec, st.Mtime.Nsec)
}
