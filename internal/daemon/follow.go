package daemon

import (
	"context"
	"strconv"

	"repmgr/internal/conf"
	"repmgr/internal/failover"
	"repmgr/internal/registry"
)

// follow points this node at another one: by follow_command if there is one.
func (d *Daemon) follow(ctx context.Context, cfg *conf.Config, a failover.Follow) error {
	ctx, cancel := context.WithTimeout(ctx, cfg.StandbyFollowTimeout+commandMargin)
	defer cancel()
	line := registry.Expand(cfg.FollowCommand, map[byte]string{'n': strconv.Itoa(int(a.Upstream))})
	return d.command(ctx, "follow_command", line, a.Upstream)
}
