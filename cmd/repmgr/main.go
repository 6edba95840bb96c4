// Command repmgr sets up, shows and changes a PostgreSQL replication cluster.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"repmgr/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	status := cli.Main(ctx, os.Args[1:], cli.FromProcess())
	stop()
	os.Exit(status)
}
