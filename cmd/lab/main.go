// Command lab shows real clusters on this machine: `lab demo` lets a primary die
// before the reader's eyes, `lab bench` measures how long that takes, beside other
// programs of the kind, `lab soak` works a cluster hard, and `lab chaos` breaks one
// at random. They leave nothing behind.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"repmgr/internal/lab"
)

// interrupted is the exit status of a program that SIGINT ended.
const interrupted = 130

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	root := &cobra.Command{Use: "lab", Short: "Real clusters on this machine", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(demoCommand(), benchCommand(), chaosCommand(), soakCommand())
	err := root.ExecuteContext(ctx)
	cut := ctx.Err() != nil
	stop()
	lab.CloseAll()
	if cut {
		fmt.Fprintln(os.Stderr, "\nlab: interrupted; everything was removed")
	}
	switch {
	case errors.Is(err, errMissed), errors.Is(err, errBroken):
		os.Exit(2)
	case cut:
		os.Exit(interrupted)
	case err != nil:
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}
