package cluster

// Version is the release of both programs, three numbers with dots between
// them. The build may set it: -ldflags "-X repmgr/internal/cluster.Version=6.0.1".
var Version = "6.0.0"
