package server

import (
	"context"

	"golang.org/x/sys/unix"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/pg"
)

// ShutDown orders a fast stop of a primary, and returns as soon as its last record is
// written: no session is left that could write, and walsenders go on until the
// standbys have it. End is the end of its WAL. The postmaster, which the caller
// closes, may live a little longer. It is a signal, as fences are: pg_ctl would
// look only every 100 ms, and clients wait.
func (o Own) ShutDown(ctx context.Context) (postmaster *host.Handle, end Position, err error) {
	h, err := o.Postmaster()
	if err != nil {
		return nil, Position{}, err
	}
	defer func() {
		if err != nil {
			_ = h.Close()
		}
	}()
	if err := h.Signal(unix.SIGINT); err != nil {
		return nil, Position{}, fault.Wrap(err, fault.SwitchoverFail, "the server could not be stopped")
	}
	written, err := eachWhile(ctx, func() (bool, error) {
		exited := h.Exited() // before the file is read: it is written before the end
		_, _, inOrder, err := pg.ReadShutdown(ctx, o.Config.PgBindir, o.dir())
		if err == nil && exited && !inOrder {
			err = fault.New(fault.SwitchoverFail, "the server did not shut down in order").WithHint("look into its log")
		}
		return inOrder, err
	})
	if err == nil && !written {
		err = fault.Wrap(ctx.Err(), fault.SwitchoverFail, "the server has not shut down in time").
			WithHint("shutdown_check_timeout bounds this; a checkpoint before it makes it short")
	}
	if err != nil {
		return nil, Position{}, err
	}
	end, err = o.LastRecord(ctx)
	return h, end, err
}

// LastRecord is the end of the WAL of a server that was shut down in order, be its
// postmaster gone or not: that of its shutdown checkpoint.
func (o Own) LastRecord(ctx context.Context) (Position, error) {
	checkpoint, timeline, found, err := pg.ReadShutdown(ctx, o.Config.PgBindir, o.dir())
	if err != nil {
		return Position{}, err
	}
	if !found {
		return Position{}, fault.New(fault.SwitchoverFail, "the server was not shut down in order, as its control file says")
	}
	end, err := o.EndOfWAL(ctx, timeline, checkpoint)
	if err == nil && end <= checkpoint {
		err = fault.New(fault.SwitchoverFail, "the shutdown checkpoint at %s is not to be found in pg_wal", checkpoint)
	}
	return Position{timeline, end}, err
}

// Ended reports whether a primary's server can write nothing any more: its WAL ends there
// with the record of its shutdown, and whatever starts its directory comes up
// read-only. Its postmaster may live: it sends standbys the rest, and archives.
func (o Own) Ended(ctx context.Context, end cluster.LSN) (bool, error) {
	armed, err := o.Armed() // first: who starts it from here on does not write
	if err != nil || !armed {
		return false, err
	}
	at, err := o.LastRecord(ctx)
	return err == nil && at.LSN == end, err
}
