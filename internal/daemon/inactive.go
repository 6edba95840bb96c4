package daemon

import (
	"context"
	"fmt"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/registry"
)

// refuseInactive is the reason not to start on a node whose record is inactive,
// where repmgrd_exit_on_inactive_node asks for one. The operator's command is told.
func (d *Daemon) refuseInactive(ctx context.Context, self cluster.Node) error {
	if self.Active || !d.cfg.RepmgrdExitOnInactiveNode {
		return nil
	}
	hint := fmt.Sprintf("Register the node again with `repmgr %s register --force`, which marks it as active.", self.Role)
	if self.Role == cluster.Primary {
		hint = "It is a former primary: bring it back as a standby by `repmgr standby clone --force` and `repmgr standby register --force`."
	}
	err := fault.New(fault.BadConfig, "node %q (ID: %d) is marked as inactive", self.Name, self.ID).
		WithDetail("repmgrd_exit_on_inactive_node is set.").WithHint("%s", hint)
	told := registry.Notify(ctx, d.cfg, registry.Event{Node: self.ID, Name: "repmgrd_start", At: time.Now(), Details: err.Msg})
	if told != nil {
		d.log.Warn(told.Error())
	}
	return err
}

// activate marks a standby or a witness that this daemon begins to watch as
// active. A former primary's record stays as it is, see setActive.
func (d *Daemon) activate(self cluster.Node) {
	if self.Active || self.Role == cluster.Primary {
		return
	}
	if d.cfg.RepmgrdExitOnInactiveNode { // its server was not running when this daemon started
		d.log.Warn(fmt.Sprintf("node %q (ID: %d) stays marked as inactive: repmgrd_exit_on_inactive_node is set", self.Name, self.ID))
		return
	}
	d.notice(fmt.Sprintf("node %q (ID: %d) was marked as inactive, and is marked as active", self.Name, self.ID))
	d.setActive(self, true)
}
