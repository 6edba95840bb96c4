package lab

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"
)

// TestMain leaves nothing behind, however the run ends.
func TestMain(m *testing.M) {
	CloseOnInterrupt()
	status := m.Run()
	CloseAll()
	os.Exit(status)
}

// testTimeout bounds one scenario.
const testTimeout = 3 * time.Minute

// open makes a lab that is closed with the test, and tells its logs if the test failed.
func open(t *testing.T, options Options) (*Lab, context.Context) {
	t.Helper()
	l, err := New(options)
	if errors.Is(err, ErrNamespaces) {
		t.Skipf("SKIPPED, NOT TESTED HERE: %v", err)
	}
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			t.Log(l.Logs())
		}
		if err := l.Close(); err != nil {
			t.Errorf("close the lab: %v", err)
		}
	})
	return l, ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
