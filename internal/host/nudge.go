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
	_, err := signalStartup(dataDir, unix.SIGUSR2)
	return err
}

// ReloadStartup has the startup process of a server read the configuration, as its
// postmaster does when it gets to it (SIGHUP), and reports whether there is one. When this
// returns the signal is delivered (man 2 kill): the process asks for no WAL receiver any
// more without having read what the files said before.
func ReloadStartup(dataDir string) (bool, error) { return signalStartup(dataDir, unix.SIGHUP) }

func signalStartup(dataDir string, signal unix.Signal) (found bool, err error) {
	p, found, err := StartupProcess(dataDir)
	if err != nil || !found {
		return false, err
	}
	return true, signalExactly(p, signal)
}

// StartupProcess is the process of a server that replays WAL: it is there as long as the server is
// in recovery. False: there is none.
func StartupProcess(dataDir string) (Process, bool, error) {
	all, err := Processes(dataDir)
	if err != nil {
		return Process{}, false, err
	}
	for _, p := range all {
		if startupTitle.MatchString(p.Title) {
			return p, true, nil
		}
	}
	return Process{}, false, nil
}
