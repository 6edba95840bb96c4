package chaos

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"repmgr/internal/lab"
)

// patroni drives Patroni, at its default settings.
type patroni struct {
	*lab.Patroni
	sync string
}

func findPatroni(ctx context.Context) (System, error) {
	p, err := lab.FindPatroni(ctx)
	if err != nil {
		return nil, err
	}
	return &patroni{Patroni: p}, nil
}

func (p *patroni) StartsServer() bool { return true }

func (p *patroni) Up(ctx context.Context, setup Setup) (*lab.Lab, error) {
	p.sync = setup.Sync
	l, err := p.Patroni.Up(ctx, lab.Options{Nodes: setup.Nodes, Settings: serverSettings}, map[string]any{
		"synchronous_mode": p.sync != "off", "synchronous_mode_strict": p.sync == "strict",
	})
	if err != nil {
		return nil, err
	}
	if err := p.wait(ctx, l); err != nil {
		return nil, errors.Join(fmt.Errorf("%w\n%s", err, l.Logs()), l.Close())
	}
	return l, nil
}

func (p *patroni) wait(ctx context.Context, l *lab.Lab) error {
	return lab.Wait(ctx, p.Patience(), "a whole cluster", func() error { return p.Whole(ctx, l) })
}

func (p *patroni) StartProgram(ctx context.Context, n *lab.Node, program string) error {
	return p.Start(ctx, n, program)
}

// Companion is the node's etcd member.
func (p *patroni) Companion(n *lab.Node, signal syscall.Signal) (string, error) {
	if n.ServicePID(lab.EtcdService) == 0 {
		return "", nil
	}
	return lab.EtcdService, n.SignalService(lab.EtcdService, signal)
}

func (p *patroni) Whole(ctx context.Context, l *lab.Lab) error {
	err := p.Patroni.Whole(ctx, l)
	if err == nil && p.sync != "off" {
		err = l.Synced(ctx)
	}
	return err
}

func (p *patroni) Pause(ctx context.Context, n *lab.Node) error {
	return p.Control(ctx, n, "pause").Err()
}

// Unpause: resuming a cluster that is not paused is an error for patronictl, and none for us.
func (p *patroni) Unpause(ctx context.Context, n *lab.Node) error {
	err := p.Control(ctx, n, "resume").Err()
	if err != nil && strings.Contains(err.Error(), "is not paused") {
		return nil
	}
	return err
}

func (p *patroni) Mend(ctx context.Context, l *lab.Lab, primary *lab.Node) error {
	return errors.Join(p.Reinit(ctx, primary), p.wait(ctx, l))
}
