package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"repmgr/internal/host"
)

// everywhere is where labs are looked for: where they live by default, and in memory.
var everywhere = []string{"/tmp", "/dev/shm"}

// base is the folder that new labs live in: TMPDIR if it is one of those, and not
// any other, since a Unix socket's path may not be longer than 107 bytes (unix(7)) and
// the servers' user has to reach it.
func base() string {
	if dir := filepath.Clean(os.TempDir()); slices.Contains(everywhere, dir) {
		return dir
	}
	return everywhere[0]
}

// foldersOf finds the folders whose names begin so.
func foldersOf(prefix string) (found []string) {
	for _, dir := range everywhere {
		dirs, _ := filepath.Glob(filepath.Join(dir, prefix+"*"))
		found = append(found, dirs...)
	}
	return found
}

// The beginnings of our folders' names; the reaper touches no others.
const (
	labPrefix   = "repmgr-lab-"
	buildPrefix = "repmgr-build-"
)

// ownerFile names the process that a folder belongs to, or says that the folder is kept.
const (
	ownerFile = "owner"
	kept      = "kept"
)

// makeOwned makes a folder that the reaper clears away once this process is gone.
func makeOwned(prefix string) (string, error) {
	dir, err := os.MkdirTemp(base(), prefix)
	if err != nil {
		return "", fmt.Errorf("make a folder: %w", err)
	}
	born, err := startTime(os.Getpid())
	if err != nil {
		return "", err
	}
	owner := fmt.Sprintf("%d %s\n", os.Getpid(), born)
	if err := os.WriteFile(filepath.Join(dir, ownerFile), []byte(owner), 0o644); err != nil {
		return "", fmt.Errorf("name the owner of %s: %w", dir, err)
	}
	return dir, nil
}

// abandoned says whether dir is ours and its owner is gone.
func abandoned(dir string, who account) bool {
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() {
		return false
	}
	// Anybody can make a folder of that name there; only our own are trusted.
	uid := int(info.Sys().(*syscall.Stat_t).Uid)
	if uid != os.Geteuid() && uid != who.uid {
		return false
	}
	b, err := os.ReadFile(filepath.Join(dir, ownerFile))
	if err != nil || string(b) == kept {
		return false
	}
	var pid int
	var born string
	if _, err := fmt.Sscan(string(b), &pid, &born); err != nil {
		return false
	}
	now, err := startTime(pid)
	return err != nil || now != born
}

// Reap clears away what labs left behind whose process was killed.
func Reap(ctx context.Context) error {
	who, err := unprivileged()
	if err != nil {
		return err
	}
	var errs []error
	for _, prefix := range []string{labPrefix, buildPrefix} {
		for _, dir := range foldersOf(prefix) {
			if abandoned(dir, who) {
				errs = append(errs, clearAway(ctx, dir))
			}
		}
	}
	return errors.Join(errs...)
}

// Kept are the folders of labs that were kept when their process ended.
func Kept() []string {
	var found []string
	for _, dir := range foldersOf(labPrefix) {
		if b, err := os.ReadFile(filepath.Join(dir, ownerFile)); err == nil && string(b) == kept {
			found = append(found, dir)
		}
	}
	return found
}

// Teardown ends and removes a lab that was kept.
func Teardown(ctx context.Context, dir string) error {
	if !slices.Contains(Kept(), dir) {
		return fmt.Errorf("tear down %s: no lab was kept there", dir)
	}
	return clearAway(ctx, dir)
}

// clearAway ends the processes, the memory, the network and the files of a folder of ours.
func clearAway(ctx context.Context, dir string) error {
	return errors.Join(killAll(ctx, dir), host.FreeMemory(dir), removeNamespaces(ctx, filepath.Base(dir)), os.RemoveAll(dir))
}

var exit struct {
	sync.Mutex
	calls []func()
}

// atExit asks for a call by CloseAll.
func atExit(call func()) {
	exit.Lock()
	defer exit.Unlock()
	exit.calls = append(exit.calls, call)
}

// CloseAll closes every lab of this process that is still open and removes what
// was built. A program or a test's main function calls it last.
func CloseAll() {
	exit.Lock()
	calls := exit.calls
	exit.calls = nil
	exit.Unlock()
	for _, call := range slices.Backward(calls) {
		call()
	}
}

// CloseOnInterrupt makes this process tidy up when it is interrupted or asked to
// end, and then end by that signal. For tests; a program that has more to say
// handles signals itself.
func CloseOnInterrupt() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		got := (<-signals).(syscall.Signal)
		CloseAll()
		signal.Reset(got)
		syscall.Kill(os.Getpid(), got)
	}()
}

// namespacePrefix begins the names of all network namespaces of a lab.
func namespacePrefix(labName string) string { return strings.TrimPrefix(labName, "repmgr-") + "-" }
