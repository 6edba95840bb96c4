// Package truth holds the simulator's model of PostgreSQL to the truth: the same short
// scripts are played on the model and on real servers, and what is seen is compared.
package truth

import (
	"testing"

	"repmgr/internal/lab/labtest"
)

// TestMain leaves nothing behind, however the run ends.
func TestMain(m *testing.M) { labtest.Main(m) }
