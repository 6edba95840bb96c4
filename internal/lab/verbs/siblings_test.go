package verbs

import (
	"errors"
	"testing"
	"time"

	"repmgr/internal/lab"
)

// Siblings are told to follow over their daemons, though failover is manual: none
// is left behind unless that is asked for.
func TestSiblingsFollowAPromotionByHand(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 3, Witness: true, Slots: true, Conf: map[string]string{"failover": "manual", "promotion_rule": "visibility"}})
	one, two, three, witness := l.Node(1), l.Node(2), l.Node(3), l.Node(4)
	must(t, l.BringUpPrimary(ctx))
	must(t, l.BringUpStandbys(ctx))
	must(t, l.BringUpWitness(ctx))
	must(t, two.StartDaemon(ctx))
	must(t, witness.StartDaemon(ctx))
	killCaughtUp(t, ctx, one, "2")
	refused(t, ctx, two, 1, []string{"1 of 2 siblings cannot be told", `"node3"`, "--force"}, "standby", "promote", "--siblings-follow")
	if standby, err := two.InRecovery(ctx); !standby || err != nil {
		t.Fatalf("it was promoted all the same (%v)", err)
	}
	must(t, three.StartDaemon(ctx))
	must(t, lab.Wait(ctx, time.Minute, "the promotion with its siblings", func() error {
		r := two.Repmgr(ctx, "standby", "promote", "--siblings-follow")
		if r.Code == 1 { // a daemon that has just started does not answer yet
			return errors.New(r.Stderr)
		}
		return r.Err()
	}))
	attached(t, ctx, two, three)
	equal(t, "records", sql(t, ctx, two, records), "1 primary  f repmgr_slot_1\n2 primary  t repmgr_slot_2\n3 standby 2 t repmgr_slot_3\n4 witness 2 t ")
}
