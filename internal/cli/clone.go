package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"repmgr/internal/fault"
	"repmgr/internal/ops"
	"repmgr/internal/registry"
)

func standbyClone(ctx context.Context, s *Session) error {
	dir := s.Conf.DataDirectory
	if dir == "" {
		dir = s.Opt.PgData
	}
	if dir == "" {
		return fault.New(fault.BadConfig, "no data directory is named").
			WithHint("set data_directory in repmgr.conf, or give one with -D")
	}
	if s.Conf.BarmanHost != "" && !s.Opt.WithoutBarman || s.Conf.PgBackupapiHost != "" {
		return fault.New(fault.BadConfig, "cloning from Barman is not available yet").
			WithDetail("barman_host or pg_backupapi_host is set").
			WithHint("give --without-barman to copy the server itself")
	}
	source, err := s.OptionConninfo()
	if err != nil {
		return err
	}
	if len(s.Args) > 0 {
		source = source.With("host", s.Args[0])
	}
	bar := newProgress(s)
	defer bar.end()
	w := s.worldWith(func(o *registry.WorldOptions) { o.Progress = bar.report })
	defer w.Close()
	request := registry.CloneRequest{Source: s.withDefaults(source), DataDirectory: dir, Force: s.Opt.Force,
		Upstream: s.Opt.UpstreamNodeID, UpstreamConninfo: s.Opt.UpstreamConninfo, ReplicationUser: s.Opt.ReplicationUser,
		FastCheckpoint: s.Opt.FastCheckpoint, VerifyBackup: s.Opt.VerifyBackup,
		CopyFiles: ops.Place(s.Opt.CopyExternalConfigFiles), ApplyDelay: s.Opt.RecoveryMinApplyDelay}
	if s.Opt.ReplicationConfOnly {
		return replicationConfOnly(ctx, s, w, request)
	}
	v, err := w.SurveyClone(ctx, request)
	if err != nil {
		return err
	}
	p, err := ops.StandbyClone(v.Survey, v.Source, v.Directory, v.Options)
	if err != nil {
		return err
	}
	for _, note := range ops.CloneNotes(v.Source, v.Options) {
		s.Talk.Say(Entry{Level: Warning, Text: note.Msg, Detail: note.Detail, Hint: note.Hint})
	}
	if v.Source.Size > 0 {
		s.Talk.Info("the databases of %s have %s", v.Source.Name, ops.Bytes(v.Source.Size))
	}
	if err := s.carry(ctx, p, w, fault.BadBasebackup); err != nil || s.Opt.DryRun {
		return err
	}
	bar.end()
	s.Talk.Say(Entry{Level: Notice, Text: fmt.Sprintf("the standby in %s is ready to be started", dir),
		Hint: "start it, for example with \"pg_ctl -D " + dir + " start\", and then run \"repmgr standby register\""})
	return nil
}

// replicationConfOnly writes the settings into a copy that is there already.
func replicationConfOnly(ctx context.Context, s *Session, w *registry.World, r registry.CloneRequest) error {
	v, err := w.SurveyReplicationConf(ctx, r)
	if err != nil {
		return err
	}
	p, err := ops.ReplicationConf(v.Survey, v.Directory, v.Options)
	if err != nil {
		return err
	}
	return s.carry(ctx, p, w, fault.BadConfig)
}

// Progress is told on a line of its own for each tenth of the copy, or after
// that time, where there is no terminal.
const (
	progressStep = 10 // per cent
	progressTime = 10 * time.Second
)

// progress shows how a copy comes on: as a bar on a terminal, as lines elsewhere.
type progress struct {
	s     *Session
	bars  *mpb.Progress
	bar   *mpb.Bar
	begun time.Time
	told  time.Time
	next  int64 // per cent at which a line is due
	done  int64
}

func newProgress(s *Session) *progress {
	p := &progress{s: s}
	f, ok := s.Stderr.(*os.File)
	if ok && term.IsTerminal(int(f.Fd())) && !s.Opt.Quiet && !s.Opt.LogToFile {
		p.bars = mpb.New(mpb.WithOutput(f), mpb.WithWidth(48), mpb.WithRefreshRate(150*time.Millisecond))
	}
	return p
}

// report is called by the copy, about each second.
func (p *progress) report(done, total int64) {
	now := p.s.Now()
	if p.begun.IsZero() {
		p.begun, p.told = now, now
	}
	if p.bars != nil {
		p.draw(now, done, total)
		return
	}
	percent := int64(0)
	if total > 0 {
		percent = min(100, done*100/total)
	}
	if percent < p.next && now.Sub(p.told) < progressTime {
		return
	}
	p.told, p.next = now, percent/progressStep*progressStep+progressStep
	p.s.Talk.Info("copied %s of %s (%d %%)%s", ops.Bytes(done), ops.Bytes(total), percent, p.pace(now, done, total))
}

// pace is the rate, and the time left by it.
func (p *progress) pace(now time.Time, done, total int64) string {
	elapsed := now.Sub(p.begun).Seconds()
	if elapsed < 1 || done == 0 {
		return ""
	}
	rate := float64(done) / elapsed
	left := time.Duration(float64(max(0, total-done)) / rate * float64(time.Second))
	return fmt.Sprintf(", %s/s, %s left", ops.Bytes(int64(rate)), left.Round(time.Second))
}

// draw moves the bar. Its total grows with what the source writes meanwhile.
func (p *progress) draw(now time.Time, done, total int64) {
	if p.bar == nil {
		p.bar = p.bars.AddBar(total,
			mpb.PrependDecorators(decor.CountersKibiByte("% .1f / % .1f ", decor.WCSyncSpace)),
			mpb.AppendDecorators(decor.Percentage(decor.WCSyncSpace),
				decor.Any(func(decor.Statistics) string { return p.pace(p.s.Now(), p.done, total) }, decor.WCSyncSpace)))
	}
	p.done = done
	p.bar.SetTotal(total, false)
	p.bar.SetCurrent(done)
	p.told = now
}

// end takes the bar off, so that what follows begins on a line of its own.
func (p *progress) end() {
	if p.bars == nil {
		return
	}
	if p.bar != nil {
		p.bar.SetTotal(-1, true)
	}
	p.bars.Wait()
	p.bars = nil
	_, _ = io.WriteString(p.s.Stderr, "")
}
