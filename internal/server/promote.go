package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/pg"
)

// Promoted is what a promotion made: the timeline, and where it left its parent.
type Promoted struct {
	Timeline cluster.Timeline
	Parent   cluster.Timeline
	Fork     cluster.LSN
}

// nudgeEvery is how often a promotion that has not happened is repeated to the
// startup process, which may sleep over it (see host.NudgePromotion).
const nudgeEvery = 50 * time.Millisecond

// PromoteTo makes a standby the primary of that timeline, a number that nobody
// has used (B15). PostgreSQL takes the first number without a history file, so
// empty files keep the numbers before it (A26). It returns when the server takes
// writes. On an error the promote file has been removed, but a promotion that was
// ordered goes on if the server had noticed it (A19): stop the server then (B22).
// Where another timeline came out, Promoted tells which, beside the error.
func (o Own) PromoteTo(ctx context.Context, timeline cluster.Timeline) (Promoted, error) {
	return o.PromoteIn(ctx, nil, timeline)
}

// PromoteIn is PromoteTo in a session that is there already, which it closes; nil,
// or one that has ended: in a new one.
func (o Own) PromoteIn(ctx context.Context, kept *pg.Conn, timeline cluster.Timeline) (Promoted, error) {
	ctx, cancel := context.WithTimeout(ctx, o.promotionBound())
	defer cancel()
	h, err := o.Postmaster() // no later one is ordered to
	if err != nil {
		return Promoted{}, err
	}
	defer h.Close()
	c, standby, err := o.inRecovery(ctx, kept)
	if err != nil {
		return Promoted{}, err
	}
	defer hangUp(c)
	p, err := c.Progress(ctx)
	if err != nil {
		return Promoted{}, err
	}
	if !standby {
		return Promoted{}, fault.New(fault.PromotionFail, "the server is a primary already, of timeline %d", p.Timeline)
	}
	if err := o.reserve(p.Timeline, timeline); err != nil {
		return Promoted{}, err
	}
	if err := o.orderPromotion(ctx, h); err != nil {
		return Promoted{}, err
	}
	if err := o.awaitWrites(ctx, c); err != nil {
		return Promoted{}, errors.Join(err, o.CancelPromotion())
	}
	return o.verify(ctx, c, timeline)
}

// inRecovery asks in the session that was kept, or in a new one.
func (o Own) inRecovery(ctx context.Context, kept *pg.Conn) (c *pg.Conn, standby bool, err error) {
	const question = "pg_catalog.pg_is_in_recovery()"
	if kept != nil {
		if err := o.ask(ctx, kept, question, &standby); err == nil {
			return kept, standby, nil
		}
		hangUp(kept)
	}
	if c, err = o.connect(ctx); err != nil {
		return nil, false, err
	}
	if err := o.ask(ctx, c, question, &standby); err != nil {
		hangUp(c)
		return nil, false, err
	}
	return c, standby, nil
}

// promotionBound is promote_check_timeout.
func (o Own) promotionBound() time.Duration {
	if t := o.Config.PromoteCheckTimeout; t > 0 {
		return t
	}
	return time.Minute
}

// reserve puts an empty history file in the place of each number between the
// present timeline and the wanted one. They stay for ever: a follower fetches
// each (A26). One that is there is left as it is.
func (o Own) reserve(present, wanted cluster.Timeline) error {
	if wanted <= present {
		return fault.New(fault.PromotionFail, "timeline %d is not after the present one, %d", wanted, present)
	}
	path := o.walPath(historyFile(wanted))
	switch info, err := os.Stat(path); {
	case err == nil && info.Size() > 0:
		return fault.New(fault.PromotionFail, "timeline %d has been used already", wanted).WithDetail("There is %s.", path)
	case err == nil: // kept by a promotion to a later number that did not happen
		if err := os.Remove(path); err != nil {
			return fault.Wrap(err, fault.PromotionFail, "timeline %d", wanted)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return fault.Wrap(err, fault.PromotionFail, "timeline %d", wanted)
	}
	for n := present + 1; n < wanted; n++ {
		f, err := os.OpenFile(o.walPath(historyFile(n)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			err = errors.Join(f.Sync(), f.Close())
		}
		if err != nil {
			return fault.Wrap(err, fault.PromotionFail, "timeline number %d could not be kept free", n)
		}
	}
	if err := host.SyncDir(o.walPath("")); err != nil {
		return fault.Wrap(err, fault.PromotionFail, "timeline numbers could not be kept free")
	}
	return nil
}

func (o Own) promoteFile() string { return filepath.Join(o.dir(), "promote") }

// orderPromotion does what pg_promote does, without the session that it needs and
// its steps of 100 ms (A20). It hits that postmaster or none: the disk may have kept this order
// waiting until it was broken off, and the server was started anew. After an error nothing is ordered.
func (o Own) orderPromotion(ctx context.Context, h *host.Handle) error {
	late := ctx.Err()
	if late == nil && h.Exited() {
		late = os.ErrProcessDone
	}
	if late != nil {
		return errors.Join(fault.Wrap(late, fault.PromotionFail, "the promotion came to be ordered too late"), o.CancelPromotion())
	}
	f, err := os.OpenFile(o.promoteFile(), os.O_WRONLY|os.O_CREATE, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err == nil {
		err = h.Signal(unix.SIGUSR1)
	}
	if err != nil {
		return errors.Join(fault.Wrap(err, fault.PromotionFail, "the promotion could not be ordered"), o.CancelPromotion())
	}
	return nil
}

// CancelPromotion removes the file that orders a promotion. It does not take back
// one that the postmaster has read.
func (o Own) CancelPromotion() error {
	_, err := o.TakeBack()
	return err
}

// awaitWrites waits until recovery is over.
func (o Own) awaitWrites(ctx context.Context, c *pg.Conn) error {
	nudged := time.Now()
	done, err := eachWhile(ctx, func() (bool, error) {
		var recovering bool
		if err := c.QueryRow(ctx, "SELECT pg_catalog.pg_is_in_recovery()").Scan(&recovering); err != nil {
			return false, err
		}
		if recovering && time.Since(nudged) >= nudgeEvery {
			nudged = time.Now()
			if err := host.NudgePromotion(o.dir()); err != nil {
				o.log("the promotion could not be hurried: " + err.Error())
			}
		}
		return !recovering, nil
	})
	if err == nil && done {
		return nil
	}
	return fault.Wrap(errors.Join(ctx.Err(), err), fault.PromotionFail, "the server has not become a primary").
		WithHint("An order that the server has read stays in force: stop it. Then look into its log.")
}

// verify asks which timeline is written. pg_control still names the old one (A7),
// and the number is PostgreSQL's choice.
func (o Own) verify(ctx context.Context, c *pg.Conn, wanted cluster.Timeline) (Promoted, error) {
	var segment string
	err := c.QueryRow(ctx, "SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn())").Scan(&segment)
	if err != nil || len(segment) != 24 {
		return Promoted{}, fault.Wrap(errors.Join(err, fmt.Errorf("segment %q", segment)), fault.PromotionFail, "timeline of the new primary")
	}
	n, err := strconv.ParseUint(segment[:8], 16, 32)
	if err != nil {
		return Promoted{}, fault.Wrap(err, fault.PromotionFail, "timeline of the new primary")
	}
	h, err := o.History(cluster.Timeline(n))
	if err != nil {
		return Promoted{}, err
	}
	p := Promoted{Timeline: cluster.Timeline(n)}
	if len(h.Switches) == 0 {
		return p, fault.New(fault.PromotionFail, "timeline %d has no history file", n)
	}
	last := h.Switches[len(h.Switches)-1]
	p.Parent, p.Fork = last.Parent, last.LSN
	if p.Timeline != wanted {
		return p, fault.New(fault.PromotionFail, "the server became the primary of timeline %d, not of %d", p.Timeline, wanted).
			WithHint("Its number may be another server's: stop it, and clone it from the primary.")
	}
	return p, nil
}
