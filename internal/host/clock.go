package host

import (
	"time"

	"golang.org/x/sys/unix"
)

// BootTime is CLOCK_BOOTTIME (man 2 clock_gettime): how long ago this machine
// was started. It counts while the machine is suspended, nobody sets it, and all
// processes read the same.
func BootTime() time.Duration {
	var ts unix.Timespec
	// It fails only for a clock that the kernel does not have; this one is as old as Linux 2.6.39.
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("CLOCK_BOOTTIME: " + err.Error())
	}
	return time.Duration(ts.Nano())
}

// The one reading of the wall clock, and the boot-time clock's at that moment.
var (
	startBoot = BootTime()
	startWall = time.Now().Round(0) // without Go's monotonic reading
)

// Now is the wall clock as it was when this process started, plus what the
// boot-time clock has counted since. A wall clock that is set later does not
// move it, and since it has no monotonic reading, == and Sub follow
// CLOCK_BOOTTIME.
func Now() time.Time { return startWall.Add(BootTime() - startBoot) }

// SinceBoot is the reading of BootTime at a time that came from Now.
func SinceBoot(t time.Time) time.Duration { return startBoot + t.Sub(startWall) }
