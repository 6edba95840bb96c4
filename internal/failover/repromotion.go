package failover

import "time"

// Repromotions are this node's promotions that nobody but itself asked for: its
// lease was not sure for a while, or its server came up read-only under it. On a
// link that flaps each costs a timeline, and a moment in which all standbys follow
// (safety notes, B33). Elections are not counted: those that a crash or the loss of
// a host call for never wait.
type Repromotions struct {
	At    time.Time     // when the last one was asked for; zero: none was
	Pause time.Duration // before the next
}

// The pauses between two of them, and how long the lease has to be held without a
// gap to end one: the link does not flap any more, and nobody else takes writes.
const (
	repromotionPause = 10 * time.Second
	repromotionBound = 5 * time.Minute
	steadyFor        = 30 * time.Second
)

// asked notes one more. The pause doubles, unless the node has been the primary for
// long enough since the last.
func (p *Repromotions) asked(now time.Time) {
	if p.At.IsZero() || now.Sub(p.At) >= 2*p.Pause {
		p.Pause = repromotionPause
	} else {
		p.Pause = min(2*p.Pause, repromotionBound)
	}
	p.At = now
}

// waits returns how long this node waits before it asks for its promotion again.
func (f facts) waits() time.Duration {
	p := f.Repromotions
	if p.At.IsZero() || f.Tenure.Since.IsZero() {
		return 0
	}
	return min(p.At.Add(p.Pause).Sub(f.now), f.Tenure.Since.Add(steadyFor).Sub(f.now))
}
