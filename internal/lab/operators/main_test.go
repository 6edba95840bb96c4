// Package operators holds the tests of what operators ask of a cluster whose daemons run: to see,
// to pause, to switch over, to be synchronous.
package operators

import (
	"testing"

	"repmgr/internal/lab/labtest"
)

// TestMain leaves nothing behind, however the run ends.
func TestMain(m *testing.M) { labtest.Main(m) }

// The words of these tests.
var (
	bringUp       = labtest.BringUp
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
	waitPrimary   = labtest.WaitPrimary
	watches       = labtest.Watches
)

const waitBound = labtest.WaitBound
