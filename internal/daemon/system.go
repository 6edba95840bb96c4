package daemon

import (
	"context"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"repmgr/internal/cluster"
)

func version() string { return cluster.Version }

// beat tells systemd that the daemon is up, and its watchdog that the loop goes
// round: a loop that stands still is not vouched for. Of several daemons in one
// process each vouches for it, and what becomes of the process is not theirs to tell.
func (d *Daemon) beat(ctx context.Context) {
	if !d.opt.Among {
		_, _ = sd.SdNotify(false, sd.SdNotifyReady) // without systemd there is nobody to tell
		defer sd.SdNotify(false, sd.SdNotifyStopping)
	}
	every, err := sd.SdWatchdogEnabled(false)
	if err != nil || every == 0 {
		<-ctx.Done()
		return
	}
	tick := time.NewTicker(every / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if bootTime().Sub(d.shared.load().turned) < every/2 {
				_, _ = sd.SdNotify(false, sd.SdNotifyWatchdog)
			}
		}
	}
}
