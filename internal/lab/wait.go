package lab

import (
	"context"
	"fmt"
	"time"
)

// How long Wait lets pass between two questions: twice as long as the last took, so that
// who asks by a program leaves most of a processor to what is waited for, within these.
const (
	pollInterval = 20 * time.Millisecond
	longestPause = 250 * time.Millisecond
)

// Wait asks cond until it answers nil. After timeout, or when ctx ends, it
// returns an error that names what was waited for and cond's last answer.
func Wait(ctx context.Context, timeout time.Duration, what string, cond func() error) error {
	started := time.Now()
	for {
		asked := time.Now()
		err := cond()
		if err == nil {
			return nil
		}
		took := time.Since(asked)
		if waited := time.Since(started); waited >= timeout {
			return fmt.Errorf("wait for %s: not after %s: %w", what, waited.Round(time.Millisecond), err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w; last: %w", what, ctx.Err(), err)
		case <-time.After(min(max(2*took, pollInterval), longestPause)):
		}
	}
}
