package daemon_test

import (
	"context"
	"os"
	"testing"

	"repmgr/internal/daemon"
	"repmgr/internal/lab/labtest"
)

// TestMain leaves nothing behind, however the run ends. It is also the guard of a
// daemon that a test makes by itself.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "--guard" {
		os.Exit(daemon.Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	}
	labtest.Main(m)
}

// The words of these tests.
var (
	bringUp          = labtest.BringUp
	bringUpQuorum    = labtest.BringUpQuorum
	logged           = labtest.Logged
	must             = labtest.Must
	newPrimary       = labtest.NewPrimary
	open             = labtest.Open
	recordedUpstream = labtest.RecordedUpstream
	says             = labtest.Says
	staysPrimary     = labtest.StaysPrimary
	waitEvent        = labtest.WaitEvent
	waitFollows      = labtest.WaitFollows
	waitFor          = labtest.WaitFor
	waitGoverned     = labtest.WaitGoverned
	waitLog          = labtest.WaitLog
	waitPrimary      = labtest.WaitPrimary
	watches          = labtest.Watches
)

const waitBound = labtest.WaitBound
