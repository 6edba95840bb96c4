package cli

import (
	"context"
	"errors"
	"time"

	"repmgr/internal/fault"
	"repmgr/internal/server"
)

// Bounds of the two changes: as long as repmgr 5 tries.
const (
	holdWithin    = time.Minute
	releaseWithin = 30 * time.Second
)

// controlVerb is what repmgr 5 has for tests and emergencies, and does not show.
func controlVerb() verb {
	return verb{
		name:  "node control",
		short: "stop or start the WAL receiver of the local standby",
		long: `With --disable-wal-receiver the WAL receiver of the local standby is ended, and the server starts no other: wal_retrieve_retry_interval is raised by a day. A reload of the configuration, or a restart, lets it try once more. With --enable-wal-receiver that is undone, and the command waits until a WAL receiver runs.

Under the quorum rule it is refused, since the daemons stop the receiver themselves for a bid, by the same file. To undo what was done before that rule began, stop this node's repmgrd first.`,
		example: "repmgr -f /etc/repmgr.conf node control --disable-wal-receiver\nrepmgr -f /etc/repmgr.conf node control --enable-wal-receiver",
		options: []string{"disable-wal-receiver", "enable-wal-receiver", "dry-run"},
		changes: true,
		hidden:  true,
		check: func(s *Session) []error {
			if s.Opt.DisableReceiver == s.Opt.EnableReceiver {
				return []error{errors.New("node control needs one of --disable-wal-receiver and --enable-wal-receiver")}
			}
			return nil
		},
		run: nodeControl,
	}
}

func nodeControl(ctx context.Context, s *Session) error {
	if s.Conf.WithoutServer() {
		return fault.New(fault.BadConfig, "this node is a witness without PostgreSQL").WithHint("run it on a standby")
	}
	if err := s.receiverIsDaemons(ctx); err != nil {
		return err
	}
	own := server.Own{Config: s.Conf}
	if s.Opt.DisableReceiver {
		if s.Opt.DryRun {
			s.Talk.Info("would end the WAL receiver, and raise wal_retrieve_retry_interval by a day")
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, holdWithin)
		defer cancel()
		if err := own.HoldReceiver(ctx); err != nil {
			return err
		}
		s.Talk.Say(Entry{Level: Notice, Text: "the WAL receiver is stopped, and no other is started",
			Hint: "\"repmgr node control --enable-wal-receiver\" undoes it; so does a reload or a restart of the server, until streaming fails again"})
		return nil
	}
	if s.Opt.DryRun {
		s.Talk.Info("would lower wal_retrieve_retry_interval by a day, if it is that long, and wait for a WAL receiver")
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, releaseWithin)
	defer cancel()
	if err := own.ReleaseReceiver(ctx); err != nil {
		return err
	}
	s.Talk.Notice("a WAL receiver runs")
	return nil
}

// receiverIsDaemons refuses under the quorum rule. To seal itself, a standby writes an empty
// primary_conninfo into postgresql.auto.conf; whoever rewrites that file at the same time
// could put the old one back, and the seal would not outlive a restart. And a standby that is
// kept from WAL can neither win nor acknowledge. Where no daemon runs, nobody seals.
func (s *Session) receiverIsDaemons(ctx context.Context) error {
	governed, err := s.governed(ctx)
	if err != nil || !governed {
		return err
	}
	if _, runs := s.localDaemon(ctx); s.Opt.EnableReceiver && !runs {
		return nil
	}
	f := fault.New(fault.BadConfig, "the cluster is under the quorum rule: the WAL receiver is repmgrd's").
		WithDetail("To bid for the lease, a standby's daemon stops the receiver itself, by the file that this would change; a standby kept from WAL could neither be promoted nor acknowledge commits.")
	if s.Opt.EnableReceiver {
		return f.WithHint("stop this node's repmgrd (\"repmgr daemon stop\"), run this again, and start it (\"repmgr daemon start\")")
	}
	return f.WithHint("to keep the node from being promoted, set priority=0 and register it again with --force, or stop its server")
}
