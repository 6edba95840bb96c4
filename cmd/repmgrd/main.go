// Command repmgrd watches a node of a PostgreSQL replication cluster and fails over.
package main

import (
	"context"
	"os"

	"repmgr/internal/daemon"
)

func main() {
	os.Exit(daemon.Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}
