package lab

import (
	"fmt"
	"os"
	"strconv"
	"time"
)

// clockTick is the unit of times in /proc; the kernel shows 100 a second to
// programs whatever it uses itself.
const clockTick = 10 * time.Millisecond

// Usage is what a process and all its descendants have used.
type Usage struct {
	CPU      time.Duration // since they were started
	Resident int64         // bytes, now
}

// UsageOf adds up a process and its descendants.
func UsageOf(pid int) (Usage, error) {
	all, err := pids()
	if err != nil {
		return Usage{}, err
	}
	fields := map[int][]string{}
	children := map[int][]int{}
	for _, p := range all {
		f, err := statFields(p)
		if err != nil {
			continue // it ended while we looked
		}
		fields[p] = f
		parent, _ := strconv.Atoi(f[1])
		children[parent] = append(children[parent], p)
	}
	if fields[pid] == nil {
		return Usage{}, fmt.Errorf("measure process %d: %w", pid, os.ErrProcessDone)
	}
	var sum Usage
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		p := queue[0]
		queue = append(queue, children[p]...)
		if f := fields[p]; f != nil {
			sum.CPU += ticks(f[11]) + ticks(f[12])
			pages, _ := strconv.ParseInt(f[21], 10, 64)
			sum.Resident += pages * int64(os.Getpagesize())
		}
	}
	return sum, nil
}

func ticks(field string) time.Duration {
	n, _ := strconv.ParseInt(field, 10, 64)
	return time.Duration(n) * clockTick
}
