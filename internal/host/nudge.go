package host

import (
	"regexp"

	"golang.org/x/sys/unix"
)

// startupTitle is how the process that replays WAL calls itself.
var startupTitle = regexp.MustCompile(`^postgres: (.*: )?startup\b`)

// NudgePromotion repeats to the startup process of a server what its postmaster
// tells it for a promotion (SIGUSR2). A promotion that arrives while a WAL
// receiver is being started is noted, and then slept over for what is left of
// wal_retrieve_retry_interval, up to five seconds: the signal ends that sleep.
// To be called only while a promotion that was ordered is awaited. A server
// without such a process is left alone.
func NudgePromotion(dataDir string) error {
	all, err := Processes(dataDir)
	if err != nil {
		return err
	}
	for _, p := range all {
		if !startupTitle.MatchString(p.Title) {
			continue
		}
		if err := signalExactly(p, unix.SIGUSR2); err != nil {
			return err
		}
	}
	return nil
}
