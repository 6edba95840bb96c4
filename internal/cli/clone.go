package cli

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"repmgr/internal/fault"
	"repmgr/internal/ops"
	"repmgr/internal/plan"
	"repmgr/internal/registry"
	"repmgr/internal/server"
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
	barman := s.Conf.BarmanHost != "" && !s.Opt.WithoutBarman && !s.Opt.ReplicationConfOnly
	api := !barman && s.Conf.PgBackupapiHost != "" && !s.Opt.ReplicationConfOnly
	if s.Opt.NoUpstreamConnection && !barman {
		return fault.New(fault.BadConfig, "--no-upstream-connection is for a copy of Barman's backup").
			WithDetail("what is made here needs a connection to the server").
			WithHint("set barman_host and barman_server in repmgr.conf, or leave --no-upstream-connection out")
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
	w := s.worldWith(func(o *registry.WorldOptions) { o.Progress, o.Restoring = bar.report, s.sayRestoring })
	defer w.Close()
	request := registry.CloneRequest{Source: s.withDefaults(source), DataDirectory: dir, Force: s.Opt.Force,
		Upstream: s.Opt.UpstreamNodeID, UpstreamConninfo: s.Opt.UpstreamConninfo, ReplicationUser: s.Opt.ReplicationUser,
		FastCheckpoint: s.Opt.FastCheckpoint, VerifyBackup: s.Opt.VerifyBackup,
		CopyFiles: ops.Place(s.Opt.CopyExternalConfigFiles), ApplyDelay: s.Opt.RecoveryMinApplyDelay, Barman: barman, BackupAPI: api, NoUpstream: s.Opt.NoUpstreamConnection}
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
	s.sayClone(v)
	err = s.carryTelling(ctx, p, w, fault.BadBasebackup, func(e plan.Event) {
		bar.end()
		s.tell(e)
	})
	if err != nil || s.Opt.DryRun {
		return err
	}
	if err := s.replacesRewind(dir); err != nil {
		return err
	}
	s.Talk.Say(Entry{Level: Notice, Text: fmt.Sprintf("the standby in %s is ready to be started", dir),
		Hint: "start it, for example with \"pg_ctl -D " + dir + " start\", and then run \"repmgr standby register\""})
	return nil
}

// sayClone tells of the copy before it is taken.
func (s *Session) sayClone(v registry.CloneSurvey) {
	b, api, size := v.Options.Barman, v.Options.API, ops.Bytes(v.Source.Size)
	if b != nil {
		s.Talk.Info("%s was complete at %s", b, b.Ended)
	}
	switch {
	case v.Source.Size == 0:
	case b != nil || api != nil && api.Known:
		s.Talk.Info("the backup has %s", size)
	default:
		s.Talk.Info("the databases of %s have %s", v.Source.Name, size)
	}
	s.Talk.Info("the copy is taken by: %s", v.Options.Backup.Command)
	if b == nil && api == nil && !s.Opt.FastCheckpoint {
		s.Talk.Info("the copy begins when the source has made a checkpoint, which may take minutes; -c/--fast-checkpoint makes it at once")
	}
}

// sayRestoring tells how a restore comes on that another program makes.
func (s *Session) sayRestoring(operation string, elapsed time.Duration, bytes int64) {
	if elapsed < time.Second {
		s.Talk.Info("pg-backup-api restores: it is operation %s", operation)
		return
	}
	s.Talk.Info("operation %s has been restoring for %s, and %s have come", operation, elapsed.Round(time.Second), ops.Bytes(bytes))
}

// replacesRewind lets the server start again whose rewind was broken off: it was
// cloned. Nothing is known of a directory that is not the configuration's.
func (s *Session) replacesRewind(dir string) error {
	if dir != s.Conf.DataDirectory {
		return nil
	}
	state := s.Conf.StateDir()
	if broken, err := server.RewindInterrupted(state); err != nil || !broken {
		return err
	}
	if err := server.ClearRewind(state); err != nil {
		return err
	}
	s.Talk.Say(Entry{Level: Notice, Text: "a rewind of this server had been broken off; the clone has replaced it",
		Hint: "the configuration that it had is kept in " + server.ConfigAside(state)})
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
// It belongs to the goroutine of the copy; the bar draws itself meanwhile.
type progress struct {
	s        *Session
	terminal *os.File // nil: lines are told
	bars     *mpb.Progress
	bar      *mpb.Bar
	pace     atomic.Value // string: rate and time left, for the bar
	begun    time.Time
	told     time.Time
	next     int64 // per cent at which a line is due
}

func newProgress(s *Session) *progress {
	p := &progress{s: s}
	f, ok := s.Stderr.(*os.File)
	if ok && term.IsTerminal(int(f.Fd())) && !s.Opt.Quiet && !s.Opt.LogToFile {
		p.terminal = f
	}
	return p
}

// report is called by the copy, about each second.
func (p *progress) report(done, total int64) {
	now := p.s.Now()
	if p.begun.IsZero() {
		p.begun, p.told = now, now
	}
	pace := pace(now.Sub(p.begun), done, total)
	if p.terminal != nil {
		p.draw(done, total, pace)
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
	p.s.Talk.Info("copied %s of %s (%d %%)%s", ops.Bytes(done), ops.Bytes(total), percent, pace)
}

// pace is the rate, and the time left by it.
func pace(elapsed time.Duration, done, total int64) string {
	if elapsed < time.Second || done == 0 {
		return ""
	}
	rate := float64(done) / elapsed.Seconds()
	left := time.Duration(float64(max(0, total-done)) / rate * float64(time.Second))
	return fmt.Sprintf(", %s/s, %s left", ops.Bytes(int64(rate)), left.Round(time.Second))
}

// draw moves the bar. Its total grows with what the source writes meanwhile.
func (p *progress) draw(done, total int64, pace string) {
	p.pace.Store(pace)
	if p.bar == nil {
		p.bars = mpb.New(mpb.WithOutput(p.terminal), mpb.WithWidth(48), mpb.WithRefreshRate(150*time.Millisecond))
		p.bar = p.bars.AddBar(total,
			mpb.PrependDecorators(decor.CountersKibiByte("% .1f / % .1f ")),
			mpb.AppendDecorators(decor.Percentage(),
				decor.Any(func(decor.Statistics) string { return p.pace.Load().(string) })))
	}
	p.bar.SetTotal(total, false)
	p.bar.SetCurrent(min(done, total-1)) // the end is for end to say
}

// end takes the bar off the terminal, so that what follows begins on a line of
// its own.
func (p *progress) end() {
	if p.bar == nil {
		return
	}
	p.bar.SetTotal(-1, true)
	p.bars.Wait()
	p.bar = nil
}
