package daemon

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"repmgr/internal/conf"
)

// Among several daemons in one process a panic ends the one alone, and what it
// held is free again.
func TestPanicIsOneDaemons(t *testing.T) {
	dir := t.TempDir()
	opt := Options{Among: true, ConfigFile: "/etc/one.conf", PidFile: "-", Load: func() (*conf.Config, []conf.Warning, error) {
		return &conf.Config{NodeID: 3, NodeName: "w", StateDirectory: dir, LeaseTTL: time.Second, LogLevel: "INFO", DaemonListenAddress: "127.0.0.1"}, nil, nil
	}}
	for name, breaks := range map[string]func(*Daemon, context.Context, context.CancelCauseFunc){
		"in a goroutine": func(d *Daemon, _ context.Context, _ context.CancelCauseFunc) { d.goes(func() { panic("planted") }) },
		"in the loop": func(d *Daemon, ctx context.Context, fail context.CancelCauseFunc) {
			d.goes(func() { d.runLoop(ctx, fail) })
			d.send(reloaded{}) // without a configuration
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, fail := context.WithCancelCause(t.Context())
			d, err := New(opt)
			if err != nil {
				t.Fatal(err)
			}
			d.log = slog.New(slog.NewTextHandler(io.Discard, nil))
			d.fail = fail
			breaks(d, ctx, fail)
			select {
			case <-ctx.Done():
			case <-time.After(time.Minute):
				t.Fatal("the daemon lives on")
			}
			if err := context.Cause(ctx); !strings.Contains(err.Error(), "a defect of repmgrd ended it") {
				t.Errorf("it ended with %v", err)
			}
			if err := d.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
}
