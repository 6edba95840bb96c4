package cli

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes this binary the repmgr command of the scripts.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"repmgr": func() {
		sys := FromProcess()
		sys.UID = 1000
		if uid, err := strconv.Atoi(os.Getenv("TEST_UID")); err == nil {
			sys.UID = uid
		}
		sys.Executable = "/nowhere/bin/repmgr"
		os.Exit(Main(context.Background(), os.Args[1:], sys))
	}})
}

// TestScripts runs the command lines of testdata/*.txtar.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata", UpdateScripts: *update,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

// exits runs a command that must end with the status named first.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	status := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if want := args[0]; strconv.Itoa(status) != want {
		ts.Fatalf("exit status %d, want %s", status, want)
	}
}
