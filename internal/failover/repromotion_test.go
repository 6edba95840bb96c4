package failover

import (
	"testing"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/record"
)

// regrants lets a holder live with a link that is up and down for so long each, in
// steps of 100 ms, and returns when it asked for a new term. The server comes up
// read-only after each loss of the lease, and is promoted at once when it may be.
func regrants(t *testing.T, up, down, total time.Duration) (at []time.Duration) {
	v, now := holderView(), t0
	v.Local.Role, v.Tenure.Since = cluster.Standby, t0
	for ; now.Sub(t0) < total; now = now.Add(100 * time.Millisecond) {
		v.Local.At = now
		for id, p := range v.Peers {
			p.At = now
			v.Peers[id] = p
		}
		if now.Sub(t0)%(up+down) < up {
			if c, due := Renewal(v, now); due {
				v.Observe(Asked{c}, now)
				v.Group.Record.Apply(c, now, 10)
				v.Observe(Answered{Change: c}, now)
			}
		} else if !MayWrite(v, now) {
			v.Local.Role = cluster.Standby // it was ended, and started again
		}
		d := Decide(v, now)
		for _, a := range d.Actions {
			p, ok := a.(Propose)
			if _, regrant := p.Change.(record.Regrant); !ok || !regrant || now.Sub(t0)%(up+down) >= up {
				continue
			}
			at = append(at, now.Sub(t0))
			v.Observe(Asked(p), now)
			if why := v.Group.Record.Apply(p.Change, now, 11); why != "" {
				t.Fatal(why)
			}
			v.Observe(Answered{Change: p.Change}, now)
			v.Local.Role, v.Group.Record.Lease.Promoted = cluster.Primary, true
			v.Local.Position.Timeline = v.Group.Record.Lease.Timeline
			v.Local.Line = ""
		}
	}
	return at
}

// A link that flaps for ten minutes costs a timeline every 10 s at first and every
// five minutes in the end, and not one each time.
func TestFlappingLink(t *testing.T) {
	at := regrants(t, 2*time.Second, 4*time.Second, 20*time.Minute)
	if len(at) < 5 || len(at) > 9 {
		t.Fatalf("%d new terms in 200 flaps: %v", len(at), at)
	}
	for i := 1; i < len(at); i++ {
		pause := min(repromotionPause<<(i-1), repromotionBound)
		if gap := at[i] - at[i-1]; gap < pause || gap > pause+6100*time.Millisecond {
			t.Errorf("between promotion %d and the next lie %v, want %v", i, gap, pause)
		}
	}
}

// One that loses its lease now and then is the primary again at once.
func TestRareLoss(t *testing.T) {
	at := regrants(t, 100*time.Second, 5*time.Second, 10*time.Minute)
	if len(at) != 6 {
		t.Fatalf("%v", at)
	}
	for i, d := range at {
		if late := d - time.Duration(i)*105*time.Second; late > 200*time.Millisecond {
			t.Errorf("promotion %d waited for %v", i, late)
		}
	}
}

// When the link stands still again, nobody waits for minutes: the lease was held all along.
func TestSteadyAgain(t *testing.T) {
	v := holderView()
	v.Local.Role = cluster.Standby
	v.Repromotions = Repromotions{At: t0.Add(-40 * time.Second), Pause: repromotionBound}
	for since, rule := range map[time.Duration]string{29 * time.Second: "regrant-waits", 30 * time.Second: "regrant"} {
		v.Tenure.Since = t0.Add(-since)
		if d := Decide(v, t0); d.Rule != rule {
			t.Errorf("the lease is held for %v: %s (%s), want %s", since, d.Rule, d.Why, rule)
		}
	}
}

// An election waits for nobody's pause: here this node is the only one that bids.
func TestElectionNeverWaits(t *testing.T) {
	v := quorumView()
	change(t, v, claimed...)
	sealed(v)
	sure(v)
	v.Tenure.Since = t0
	v.Repromotions = Repromotions{At: t0, Pause: repromotionBound}
	if d := Decide(v, t0); d.Rule != "promote-granted" {
		t.Errorf("%s: %s", d.Rule, d.Why)
	}
}
