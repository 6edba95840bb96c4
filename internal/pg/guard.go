package pg

import (
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// deathWatch ends a process group when this process dies, however it dies. A
// signal at the parent's death, which Linux can be asked for, reaches the direct
// child only: pg_basebackup's own child would go on to stream WAL into the copy,
// and to hold a replication slot, for ever.
type deathWatch struct {
	cmd  *exec.Cmd
	hold *os.File // the end of a pipe that closes when this process dies
}

// watchDeath starts the watch over a process group.
func watchDeath(group int) (*deathWatch, error) {
	read, hold, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer read.Close()
	cmd := exec.Command("/bin/sh", "-c", `read -r _ <&3; kill -s KILL -- "-$1"`, "sh", strconv.Itoa(group))
	cmd.ExtraFiles = []*os.File{read}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		hold.Close()
		return nil, err
	}
	return &deathWatch{cmd, hold}, nil
}

// end ends the watch and leaves the group alone.
func (w *deathWatch) end() {
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Wait()
	w.hold.Close()
}
