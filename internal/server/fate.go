package server

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"time"

	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/pg"
)

// Order is a promotion that was ordered, by the server that it was given to: that tells later what has become of it.
type Order struct {
	PID       int       `json:"pid"` // of the postmaster
	StartedAt time.Time `json:"started_at"`
	Commanded bool      `json:"commanded,omitempty"` // a command was to give it: nobody knows whether it has, or when
	Armed     bool      `json:"armed,omitempty"`     // the server ended at the end of its recovery, and was armed
}

// Fate is what has become of a promotion that was ordered.
type Fate int

// The fates.
const (
	MayHappen Fate = iota // or is not known to be off
	Leaving               // the server is at the end of its recovery, and becomes a primary unless it ends
	Happened              // the server is a primary, or was one
	IsOff                 // that order promotes it no more
)

// Ordering is the order that is about to be given.
func (o Own) Ordering() (Order, error) {
	file, err := pg.ReadPostmaster(o.dir())
	if err != nil {
		return Order{}, fault.Wrap(err, fault.PromotionFail, "the server's postmaster")
	}
	return Order{PID: file.PID, StartedAt: file.StartedAt}, nil
}

// OrderPromotion orders the promotion that PostgreSQL gives the next timeline's number, and does not
// wait for it. After an error nothing is ordered.
func (o Own) OrderPromotion(ctx context.Context) error {
	h, err := o.Postmaster()
	if err != nil {
		return err
	}
	defer h.Close()
	return o.orderPromotion(ctx, h)
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

// Fate tells what has become of an order, by files and processes: a server that is crowded, or that does not let
// the role ask, answers nothing. An error is one of looking: then it may happen.
//
// At the end of recovery PostgreSQL removes standby.signal, and from then on every start of the server
// makes it a primary, without any order, until pg_control says "in production" (StartupXLOG). One that ended in
// between is armed, which the order tells from then on, so that it comes up as a standby.
func (o Own) Fate(ctx context.Context, p *Order) (Fate, error) {
	ended, err := o.ended()
	if err != nil {
		return MayHappen, err
	}
	standby, err := pg.HasStandbySignal(o.dir())
	if err != nil {
		return MayHappen, err
	}
	_, recovers, err := host.StartupProcess(o.dir())
	switch {
	case err != nil:
		return MayHappen, err
	case ended && standby:
		return IsOff, nil // a postmaster that starts removes what orders a promotion
	case ended, !recovers:
		return o.fateByControl(ctx, p, ended)
	case !standby:
		return Leaving, nil
	case p.Commanded, p.Armed:
		return MayHappen, nil // it may have been ordered since; that one may have begun before it was armed
	}
	file, err := pg.ReadPostmaster(o.dir())
	if err == nil && (file.PID != p.PID || !file.StartedAt.Equal(p.StartedAt)) {
		return IsOff, nil
	}
	return MayHappen, err
}

// fateByControl is the fate where nothing recovers: the server has left recovery, or it ends, starts
// again after a crash of a backend, or has ended.
func (o Own) fateByControl(ctx context.Context, p *Order, ended bool) (Fate, error) {
	control, err := o.control(ctx)
	switch {
	case err != nil:
		return MayHappen, err
	case !strings.Contains(control.State, "recovery"): // "in production", or what comes after that
		return Happened, nil
	case !ended:
		return MayHappen, nil
	}
	p.Armed = true
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
