package host

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Who was killed and has no program any more is no process of the server, and is counted
// until it has come to its end.
//
// A killed process gives its memory back first (exit_mm), then its files (exit_files), then
// its working directory (exit_fs). With much memory the first takes a while, and nobody can
// say how long; here it is the second that takes as long as the test wants: the process has a
// file open whose file system is this test, and every last close waits for that one's answer.
func TestEnding(t *testing.T) {
	t.Parallel()
	dir, bin := t.TempDir(), t.TempDir()
	program := filepath.Join(bin, "postgres")
	text, err := os.ReadFile("/bin/sleep")
	check(t, err)
	check(t, os.WriteFile(program, text, 0o755))
	file := serveFile(t, filepath.Join(bin, "file"))

	cmd := exec.Command("/bin/sh", "-c", `exec 3<"$1"; exec "$2" 600`, "sh", file.path, program)
	cmd.Dir = dir
	check(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	until(t, "the process to run", func() bool { return len(processes(t, dir)) == 1 })
	count := func(in string, want int) {
		t.Helper()
		if n, err := Ending(in); err != nil || n != want {
			t.Errorf("%d processes end in %s (%v), want %d", n, in, err, want)
		}
	}
	count(dir, 0) // nobody was killed

	file.hold.Store(true)
	check(t, cmd.Process.Kill())
	var closing uint64
	select {
	case closing = <-file.closes:
	case <-time.After(time.Minute):
		t.Fatal("it does not close its file")
	}
	if list := processes(t, dir); len(list) != 0 {
		t.Errorf("%v has no program, and is listed", list)
	}
	if !Alive(cmd.Process.Pid) {
		t.Error("it has ended already")
	}
	count(dir, 1)
	count(bin, 0) // another directory

	file.hold.Store(false)
	check(t, file.answer(closing, 0, nil))
	until(t, "a zombie", func() bool { _, state, _ := readStat(cmd.Process.Pid); return state == 'Z' })
	count(dir, 0)
	_ = cmd.Wait() // it was killed
}

// heldFile is a file system of one file (fuse, linux/fuse.h), the closing of which
// can be held up.
type heldFile struct {
	path   string
	device *os.File
	hold   atomic.Bool
	closes chan uint64 // the numbers of the closings that were held up
}

// What the kernel asks of a file system of one file.
const (
	fuseForget      = 2
	fuseGetattr     = 3
	fuseOpen        = 14
	fuseRelease     = 18
	fuseFlush       = 25 // somebody closes the file, and waits
	fuseInit        = 26
	fuseInterrupt   = 36
	fuseDestroy     = 38
	fuseBatchForget = 42
)

// serveFile puts such a file at path; it is there until the end of the test.
func serveFile(t *testing.T, path string) *heldFile {
	t.Helper()
	// Not by package os: a poll before the mount hears nothing of what comes after it.
	fd, err := syscall.Open("/dev/fuse", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("SKIPPED, NOT TESTED HERE: /dev/fuse: %v", err)
	}
	device := os.NewFile(uintptr(fd), "/dev/fuse")
	t.Cleanup(func() { device.Close() })
	check(t, os.WriteFile(path, nil, 0o600))
	options := fmt.Sprintf("fd=%d,rootmode=%o,user_id=0,group_id=0", fd, syscall.S_IFREG)
	if err := syscall.Mount("test", path, "fuse", syscall.MS_NOSUID|syscall.MS_NODEV, options); err != nil {
		t.Skipf("SKIPPED, NOT TESTED HERE: a file system cannot be mounted: %v", err)
	}
	t.Cleanup(func() { check(t, syscall.Unmount(path, syscall.MNT_DETACH)) })
	f := &heldFile{path: path, device: device, closes: make(chan uint64, 1)}
	go f.serve()
	return f
}

// serve answers the kernel until the file system is gone.
func (f *heldFile) serve() {
	question := make([]byte, 1<<16)
	for {
		n, err := f.device.Read(question)
		if err != nil || n < 40 {
			return
		}
		code, number := binary.NativeEndian.Uint32(question[4:]), binary.NativeEndian.Uint64(question[8:])
		switch code {
		case fuseForget, fuseBatchForget, fuseInterrupt: // want no answer
		case fuseInit: // version 7.31, nothing more
			answer := make([]byte, 64)
			binary.NativeEndian.PutUint32(answer, 7)
			binary.NativeEndian.PutUint32(answer[4:], 31)
			binary.NativeEndian.PutUint32(answer[20:], 4096) // max_write
			err = f.answer(number, 0, answer)
		case fuseGetattr:
			answer := make([]byte, 104)
			binary.NativeEndian.PutUint64(answer[16:], 1)                     // inode
			binary.NativeEndian.PutUint32(answer[76:], syscall.S_IFREG|0o600) // mode
			binary.NativeEndian.PutUint32(answer[80:], 1)                     // links
			err = f.answer(number, 0, answer)
		case fuseOpen:
			err = f.answer(number, 0, make([]byte, 16))
		case fuseFlush:
			if f.hold.Load() {
				f.closes <- number
				continue
			}
			err = f.answer(number, 0, nil)
		case fuseRelease, fuseDestroy:
			err = f.answer(number, 0, nil)
		default:
			err = f.answer(number, syscall.ENOSYS, nil)
		}
		if err != nil {
			return
		}
	}
}

// answer answers one of the kernel's questions.
func (f *heldFile) answer(number uint64, errno syscall.Errno, body []byte) error {
	out := make([]byte, 16, 16+len(body))
	binary.NativeEndian.PutUint32(out, uint32(16+len(body)))
	binary.NativeEndian.PutUint32(out[4:], uint32(-int32(errno)))
	binary.NativeEndian.PutUint64(out[8:], number)
	_, err := f.device.Write(append(out, body...))
	return err
}
