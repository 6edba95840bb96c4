package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// markerVariable is in the environment of every process that a lab starts, with
// the lab's folder as its value: this is how the processes that *they* start are
// known to be ours.
const markerVariable = "REPMGR_LAB"

// pids are the numbers of all processes that this machine shows us.
func pids() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var found []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			found = append(found, pid)
		}
	}
	return found, nil
}

// isPostgres says whether pid runs the server program. The link of a program
// that was replaced while it ran ends in " (deleted)".
func isPostgres(pid int) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && strings.TrimSuffix(filepath.Base(exe), " (deleted)") == "postgres"
}

// standsIn says whether pid's working directory is dir, by device and inode.
func standsIn(pid int, dir os.FileInfo) bool {
	cwd, err := os.Stat(fmt.Sprintf("/proc/%d/cwd", pid))
	return err == nil && os.SameFile(cwd, dir)
}

// postgresOf are the server processes of a data directory, the postmaster first.
func postgresOf(dataDir string) ([]int, error) {
	dir, err := os.Stat(dataDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", dataDir, err)
	}
	all, err := pids()
	if err != nil {
		return nil, err
	}
	main, _ := postmaster(dataDir)
	var found []int
	for _, pid := range all {
		switch {
		case !isPostgres(pid) || !standsIn(pid, dir):
		case pid == main:
			found = append([]int{pid}, found...)
		default:
			found = append(found, pid)
		}
	}
	return found, nil
}

// postmaster is the number in postmaster.pid, whether it runs or not.
func postmaster(dataDir string) (int, error) {
	b, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(b), "\n")
	return strconv.Atoi(first)
}

// killPostgres sends SIGKILL to every server process of a data directory until
// none is left: a child may be born between a look and the blow. The postmaster's
// zombie is waited for too, since a new server takes it for alive; one that a
// daemon starts meanwhile is spared.
func killPostgres(ctx context.Context, dataDir string) error {
	killed, err := postgresOf(dataDir)
	if err != nil {
		return err
	}
	if main, err := postmaster(dataDir); err == nil && isZombie(main) { // somebody was quicker
		killed = append(killed, main)
	}
	err = Wait(ctx, killTimeout, "the end of every postgres process of "+dataDir, func() error {
		left, err := signalPostgres(dataDir, syscall.SIGKILL)
		if err == nil && left > 0 {
			err = fmt.Errorf("%d processes are left", left)
		}
		return err
	})
	if err != nil {
		return err
	}
	return Wait(ctx, killTimeout, "the former processes of "+dataDir+" to be reaped", func() error {
		for _, pid := range killed {
			if !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
				return fmt.Errorf("process %d is a zombie", pid)
			}
		}
		return nil
	})
}

// isZombie says whether a process has ended, and nobody has taken note of it yet.
func isZombie(pid int) bool {
	fields, err := statFields(pid)
	return err == nil && fields[0] == "Z"
}

// killTimeout bounds the wait for killed processes to disappear.
const killTimeout = 10 * time.Second

// signalPostgres signals the server processes of a data directory and says how many there were.
func signalPostgres(dataDir string, signal syscall.Signal) (int, error) {
	found, err := postgresOf(dataDir)
	if err != nil {
		return 0, err
	}
	for _, pid := range found {
		if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return len(found), fmt.Errorf("send %s to process %d: %w", signal, pid, err)
		}
	}
	return len(found), nil
}

// belongs says whether pid was started, directly or not, by the lab in dir. A
// server overwrites its environment, and is known by where it stands.
func belongs(pid int, dir string) bool {
	if pid == os.Getpid() {
		return false
	}
	if hasEnvironment(pid, markerVariable+"="+dir) {
		return true
	}
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	return err == nil && isPostgres(pid) && strings.HasPrefix(cwd, dir+"/")
}

// hasEnvironment says whether pid was started with NAME=value in its environment.
func hasEnvironment(pid int, assignment string) bool {
	env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	for _, entry := range bytes.Split(env, []byte{0}) {
		if string(entry) == assignment {
			return true
		}
	}
	return false
}

// killAll ends every process of the lab in dir, and of no other.
func killAll(ctx context.Context, dir string) error {
	return Wait(ctx, killTimeout, "the end of every process of "+dir, func() error {
		all, err := pids()
		if err != nil {
			return err
		}
		left := 0
		for _, pid := range all {
			if belongs(pid, dir) {
				left++
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		if left > 0 {
			return fmt.Errorf("%d processes are left", left)
		}
		return nil
	})
}

// startTime is when pid was started, in the kernel's ticks since boot; with the
// number it names a process for ever.
func startTime(pid int) (string, error) {
	fields, err := statFields(pid)
	if err != nil {
		return "", err
	}
	return fields[19], nil
}

// statFields are the fields of /proc/pid/stat after the program's name, so that
// [0] is the state and [19] the start time (proc(5) counts from 3).
func statFields(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 22 {
		return nil, fmt.Errorf("read /proc/%d/stat: %d fields after the name, expected at least 22", pid, len(fields))
	}
	return fields, nil
}
