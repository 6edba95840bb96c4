// Package quorum holds the tests of the quorum rule against real clusters: what is lost, and what comes back.
package quorum

import (
	"testing"

	"repmgr/internal/lab/labtest"
)

// TestMain leaves nothing behind, however the run ends.
func TestMain(m *testing.M) { labtest.Main(m) }

// The words of these tests.
var (
	bringUpQuorum = labtest.BringUpQuorum
	comesBack     = labtest.ComesBack
	logged        = labtest.Logged
	must          = labtest.Must
	newPrimary    = labtest.NewPrimary
	says          = labtest.Says
	staysPrimary  = labtest.StaysPrimary
	waitEvent     = labtest.WaitEvent
	waitFollows   = labtest.WaitFollows
	waitFor       = labtest.WaitFor
	waitGoverned  = labtest.WaitGoverned
	waitLog       = labtest.WaitLog
)
