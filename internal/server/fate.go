package server

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/pg"
)

// Order is a promotion that was ordered, by whom it was given to: that tells later what has become of it.
type Order struct {
	Startup   int    `json:"startup"`         // number of the startup process, which reads the order
	Started   uint64 `json:"startup_started"` // when that process began, in clock ticks after boot
	Commanded bool   `json:"commanded"`       // a command was to give it: nobody knows whether it has
	TakenBack bool   `json:"taken_back"`      // the file that orders it was removed before the server had
}

// Fate is what has become of a promotion that was ordered.
type Fate int

// The fates.
const (
	MayHappen Fate = iota
	Happened       // the server is a primary, or about to be one and nothing else
	IsOff          // that order promotes it no more
)

// Ordering is the order that is about to be given.
func (o Own) Ordering() (Order, error) {
	p, found, err := host.StartupProcess(o.dir())
	if err == nil && !found {
		err = os.ErrProcessDone
	}
	if err != nil {
		return Order{}, fault.Wrap(err, fault.PromotionFail, "the server's startup process")
	}
	return Order{Startup: p.PID, Started: p.Started}, nil
}

// OrderPromotion orders the promotion that PostgreSQL gives the next timeline's number, and does not
// wait for it. After an error nothing is ordered.
func (o Own) OrderPromotion(ctx context.Context) error {
	h, err := o.Postmaster()
	if err != nil {
		return err
	}
	defer h.Close()
	if err := o.orderPromotion(ctx, h); err != nil {
		return errors.Join(err, o.CancelPromotion())
	}
	return nil
}

// TakeBack takes an order back that the server has not read, and reports whether it could. The server
// asks whether the file is there, writes a line to its log, and removes it: who comes in between is late, and
// does not see that before the server goes on.
func (o Own) TakeBack() (bool, error) {
	switch err := os.Remove(o.promoteFile()); {
	case err == nil:
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	default:
		return false, fault.Wrap(err, fault.PromotionFail, "the order to promote could not be taken back")
	}
}

// Fate tells what has become of an order. An error is one of looking: then it may happen. Whether it may happen
// is told by files and processes alone: a server that is crowded, or that does not let the role ask, answers nothing.
//
// At the end of recovery PostgreSQL removes standby.signal, and from then on every start of the server
// makes it a primary, without any order. One that ended there is armed, so that it comes up as a standby.
func (o Own) Fate(ctx context.Context, p Order) (Fate, error) {
	ended, err := o.ended()
	if err != nil {
		return MayHappen, err
	}
	standby, err := pg.HasStandbySignal(o.dir())
	if err != nil {
		return MayHappen, err
	}
	startup, found, err := host.StartupProcess(o.dir())
	switch same := startup.PID == p.Startup && startup.Started == p.Started; {
	case err != nil:
		return MayHappen, err
	case ended && standby:
		return IsOff, o.CancelPromotion()
	case ended:
		return o.endedBetween(ctx)
	case !found && !standby:
		return Happened, nil
	case !found, !standby:
		return MayHappen, nil // it starts again after a crash; it ends its recovery
	case same && p.TakenBack:
		return IsOff, nil
	case same:
		return MayHappen, nil
	}
	// Another startup process is no part of that order, if it has begun as a standby's.
	as, err := o.signalledAt()
	if err != nil || time.Now().Add(-startup.Age()).Before(as) {
		return MayHappen, err
	}
	return IsOff, o.CancelPromotion()
}

// endedBetween is the fate where nothing runs, and standby.signal is gone: the server had become a primary,
// or ended before that, and is armed.
func (o Own) endedBetween(ctx context.Context) (Fate, error) {
	control, err := o.control(ctx)
	if err != nil {
		return MayHappen, err
	}
	if !strings.Contains(control.State, "recovery") {
		return Happened, nil
	}
	return MayHappen, pg.WriteStandbySignal(o.dir()) // the next look tells whether somebody was faster
}

// ended reports whether nothing of the server is left.
func (o Own) ended() (bool, error) {
	h, err := o.Postmaster()
	if err == nil {
		return false, h.Close()
	}
	if !errors.Is(err, os.ErrProcessDone) {
		return false, err
	}
	left, err := host.Processes(o.dir())
	return err == nil && len(left) == 0, err
}

// signalledAt is when standby.signal was written.
func (o Own) signalledAt() (time.Time, error) {
	info, err := os.Stat(filepath.Join(o.dir(), "standby.signal"))
	if err != nil {
		return time.Time{}, fault.Wrap(err, fault.SysFailure, "standby.signal")
	}
	return info.ModTime(), nil
}
