package daemon

import (
	"context"
	"time"

	"repmgr/internal/conf"
	"repmgr/internal/fault"
	"repmgr/internal/pg"
	"repmgr/internal/registry"
)

// receiverBound is how long the stop of the WAL receiver may delay a failover.
const receiverBound = 5 * time.Second

// withheld is the primary_conninfo that was taken from the own server so that it
// streams from nobody. It is kept on disk before it is taken away.
type withheld struct {
	Held     bool   `json:"held"`
	Conninfo string `json:"primary_conninfo"`
}

func (p *peers) withheld() withheld {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.memory.Withheld
}

// stopReceiver ends the own server's WAL receiver, and lets none run: an empty
// primary_conninfo does both at a reload, since PostgreSQL 13. A disk that
// stalls delays the failover no longer than receiverBound; what is done late is
// undone like the rest, when the loss is over.
func (d *Daemon) stopReceiver(ctx context.Context, cfg *conf.Config) error {
	ctx, cancel := context.WithTimeout(ctx, receiverBound)
	defer cancel()
	done := make(chan error, 1)
	d.goes(func() { done <- d.withhold(ctx, cfg) })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fault.Wrap(ctx.Err(), fault.SysFailure, "the WAL receiver could not be stopped within %s", receiverBound)
	}
}

func (d *Daemon) withhold(ctx context.Context, cfg *conf.Config) error {
	was, err := d.primaryConninfo(ctx, cfg)
	if err != nil {
		return err
	}
	if was != "" || !d.peers.withheld().Held {
		if err := d.peers.remember(func(r *remembered) { r.Withheld = withheld{true, was} }); err != nil {
			return err
		}
	}
	if err := pg.WriteEmptySetting(cfg.DataDirectory, "primary_conninfo"); err != nil {
		return err
	}
	return d.ownServer().Reload()
}

// primaryConninfo is the own server's primary_conninfo, wherever it is set.
func (d *Daemon) primaryConninfo(ctx context.Context, cfg *conf.Config) (string, error) {
	file, err := pg.ReadRecovery(cfg.DataDirectory)
	if err != nil || file.PrimaryConninfo != "" {
		return file.PrimaryConninfo, err
	}
	conn, err := d.own(ctx, cfg)
	if err != nil {
		return "", err
	}
	defer registry.Close(conn)
	set, err := conn.Settings(ctx, "primary_conninfo")
	was, seen := set["primary_conninfo"]
	if err == nil && !seen {
		err = fault.New(fault.BadConfig, "primary_conninfo may not be read, and so is not changed").WithHint("Grant the role pg_read_all_settings.")
	}
	return was, err
}

// resumeReceiver gives the own server its primary_conninfo back, unless somebody
// has set another one since.
func (d *Daemon) resumeReceiver(cfg *conf.Config) error {
	w := d.peers.withheld()
	now, err := pg.ReadRecovery(cfg.DataDirectory)
	if err != nil {
		return err
	}
	if w.Held && w.Conninfo != "" && now.PrimaryConninfo == "" {
		if err := pg.WriteSetting(cfg.DataDirectory, "primary_conninfo", w.Conninfo); err != nil {
			return err
		}
		if err := d.ownServer().Reload(); err != nil {
			return err
		}
	}
	return d.forgetReceiver()
}

// forgetReceiver notes that a WAL receiver may run: the server has its
// primary_conninfo back, or another one.
func (d *Daemon) forgetReceiver() error {
	if !d.peers.withheld().Held {
		return nil
	}
	return d.peers.remember(func(r *remembered) { r.Withheld = withheld{} })
}
