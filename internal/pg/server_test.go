package pg

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
)

func TestServer(t *testing.T) {
	t.Parallel()
	p, s := primary(t), standby(t)
	control, err := ReadControl(t.Context(), testBin, p.dir)
	check(t, err)
	for name, one := range map[string]struct {
		c          *Conn
		dir        string
		inRecovery bool
	}{
		"superuser": {connect(t, p.socket()), p.dir, false},
		"monitor":   {connect(t, p.tcp("monitor", scramPassword)), p.dir, false},
		"plain":     {connect(t, p.tcp("plain", "plain")), "", false},
		"standby":   {connect(t, s.tcp("monitor", scramPassword)), s.dir, true},
	} {
		got, err := one.c.Server(within(t, time.Minute))
		check(t, err)
		if got.Major() != testMajor(t) || got.Version != one.c.version() || !strings.HasPrefix(got.VersionText, strconv.Itoa(testMajor(t))) ||
			got.SystemID != control.SystemID || got.Timeline != 1 || got.InRecovery != one.inRecovery ||
			got.DataDirectory != one.dir || time.Since(got.StartedAt) > time.Hour || got.StartedAt.IsZero() {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestProgressOfAPrimary(t *testing.T) {
	t.Parallel()
	c := connect(t, primary(t).tcp("plain", "plain"))
	before, err := c.Progress(within(t, time.Minute))
	check(t, err)
	primary(t).exec(t, "SELECT pg_logical_emit_message(false, 'x', 'y')", "SELECT pg_switch_wal()")
	after, err := c.Progress(within(t, time.Minute))
	check(t, err)
	if after.InRecovery || after.Timeline != 1 || after.Written <= before.Written || after.Position() != after.Written ||
		after.Received != 0 || after.Replayed != 0 || after.Receiving || after.LagSeconds != 0 || !after.LastReplayAt.IsZero() {
		t.Errorf("%+v after %+v", after, before)
	}
}

func TestProgressOfAStandby(t *testing.T) {
	t.Parallel()
	p := primary(t)
	s := p.clone(t, "recovery_min_apply_delay = 0\n")
	s.start(t)
	c, plain := connect(t, s.tcp("monitor", scramPassword)), connect(t, s.tcp("plain", "plain"))
	progress := func(c *Conn) Progress {
		got, err := c.Progress(within(t, time.Minute))
		check(t, err)
		return got
	}
	until(t, "streaming", func() bool { return progress(c).ReceiverStatus == "streaming" })
	p.exec(t, "CREATE TABLE IF NOT EXISTS public.progress_a (i int)")
	target, err := connect(t, p.socket()).Progress(within(t, time.Minute))
	check(t, err)
	until(t, "caught up", func() bool { return progress(c).Replayed >= target.Written })
	got := progress(c)
	if !got.InRecovery || got.Timeline != 1 || got.Written != 0 || got.Position() < target.Written || !got.Receiving ||
		got.ReceiverHost != baseDir || got.ReceiverPort != p.port || got.LagSeconds != 0 || time.Since(got.LastReplayAt) > time.Minute {
		t.Errorf("%+v", got)
	}
	if hidden := progress(plain); !hidden.Receiving || hidden.ReceiverHost != "" || hidden.Timeline != 1 {
		t.Errorf("a plain role sees %+v", hidden)
	}
	super := connect(t, s.socket())
	for _, sql := range []string{"SELECT pg_wal_replay_pause()"} {
		_, err := super.Exec(context.Background(), sql)
		check(t, err)
	}
	p.exec(t, "INSERT INTO public.progress_a VALUES (1)")
	until(t, "received and not replayed", func() bool { got = progress(c); return got.Received > got.Replayed })
	if !got.ReplayPaused || got.Position() != got.Received || got.LagSeconds <= 0 {
		t.Errorf("paused: %+v", got)
	}
	check(t, super.ResumeReplay(within(t, time.Minute)))
	until(t, "replayed", func() bool { got = progress(c); return !got.ReplayPaused && got.LagSeconds == 0 })

	// After a restart without an upstream the receive position is NULL (safety notes, A5).
	check(t, WriteRecovery(s.dir, Recovery{}))
	s.stop(t, "fast")
	s.start(t)
	c = connect(t, s.tcp("monitor", scramPassword))
	if got = progress(c); got.Received != 0 || got.Receiving || got.Position() != got.Replayed || got.Timeline != 1 {
		t.Errorf("after a restart: %+v", got)
	}
}

// The timeline of a primary is the one it writes, at once: the control file
// still names the old one until the checkpoint after the promotion is done (A7).
func TestTimelineAfterAPromotion(t *testing.T) {
	t.Parallel()
	s := primary(t).clone(t, "checkpoint_completion_target = 0.9\n")
	s.start(t)
	c := connect(t, s.socket())
	if may, err := c.CanPromote(within(t, time.Minute)); err != nil || !may {
		t.Errorf("the superuser may promote: %v (%v)", may, err)
	}
	monitor := connect(t, s.tcp("monitor", scramPassword))
	if may, err := monitor.CanPromote(within(t, time.Minute)); err != nil || may {
		t.Errorf("the monitor may promote: %v (%v)", may, err)
	}
	if err := monitor.Promote(within(t, time.Minute)); fault.CodeOf(err) != fault.PromotionFail || Code(err) != "42501" {
		t.Errorf("a promotion without the right: %v", err)
	}
	if on, err := c.Promotes(within(t, time.Minute)); err != nil || on {
		t.Errorf("a standby that nobody has promoted goes on with a promotion: %v (%v)", on, err)
	}
	if _, err := monitor.Promotes(within(t, time.Minute)); Code(err) != "42501" {
		t.Errorf("whether it is promoted, asked without the right: %v", err)
	}
	check(t, c.Promote(within(t, time.Minute)))
	var got Progress
	until(t, "a primary", func() bool {
		var err error
		got, err = monitor.Progress(within(t, time.Minute)) // a session from before
		check(t, err)
		return !got.InRecovery
	})
	if got.Timeline != 2 || got.Written == 0 {
		t.Errorf("%+v", got)
	}
	if err := c.Promote(within(t, time.Minute)); fault.CodeOf(err) != fault.PromotionFail {
		t.Errorf("the promotion of a primary: %v", err)
	}
	if on, err := c.Promotes(within(t, time.Minute)); err != nil || on {
		t.Errorf("a primary goes on with a promotion: %v (%v)", on, err)
	}
	if err := c.ResumeReplay(within(t, time.Minute)); fault.CodeOf(err) != fault.DBQuery {
		t.Errorf("the resumption of a primary: %v", err)
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	p := primary(t)
	names := []string{"wal_level", "max_wal_senders", "data_directory", "shared_buffers", "no_such_setting"}
	got, err := connect(t, p.tcp("monitor", scramPassword)).Settings(within(t, time.Minute), names...)
	check(t, err)
	if len(got) != 4 || got["wal_level"] != "replica" || got["max_wal_senders"] != "8" || got["data_directory"] != p.dir || got["shared_buffers"] != "2048" {
		t.Errorf("%v", got)
	}
	got, err = connect(t, p.tcp("plain", "plain")).Settings(within(t, time.Minute), names...)
	check(t, err)
	if _, seen := got["data_directory"]; seen || len(got) != 3 {
		t.Errorf("a plain role sees %v", got)
	}
}

func TestAttached(t *testing.T) {
	t.Parallel()
	p, s := primary(t), standby(t)
	monitor, plain := connect(t, p.tcp("monitor", scramPassword)), connect(t, p.tcp("plain", "plain"))
	var state string
	until(t, "attached", func() bool {
		a, st, err := monitor.Attached(within(t, time.Minute), s.name())
		check(t, err)
		state = st
		return a == Attached
	})
	if state != "streaming" {
		t.Errorf("state %q", state)
	}
	if a, st, err := plain.Attached(within(t, time.Minute), s.name()); err != nil || a != Attached || st != "" {
		t.Errorf("a plain role sees %s, %q, %v", a, st, err)
	}
	if a, _, err := monitor.Attached(within(t, time.Minute), "absent"); err != nil || a != Detached {
		t.Errorf("an absent one is %s (%v)", a, err)
	}
	// A session that does not stream yet, and then two of the same name.
	name := p.socket().With("application_name", "idle")
	open := func() *ReplConn {
		r, err := ConnectReplication(within(t, time.Minute), name, "")
		check(t, err)
		t.Cleanup(func() { r.Close(within(t, time.Second)) })
		return r
	}
	open()
	if a, st, err := monitor.Attached(within(t, time.Minute), "idle"); err != nil || a != NotAttached || st != "startup" {
		t.Errorf("one that does not stream is %s, %q, %v", a, st, err)
	}
	open()
	if a, _, err := monitor.Attached(within(t, time.Minute), "idle"); err != nil || a != AttachmentUnknown {
		t.Errorf("two are %s (%v)", a, err)
	}
	used, limit, err := plain.WalSenders(within(t, time.Minute))
	if err != nil || used < 3 || limit != 8 {
		t.Errorf("%d of %d senders (%v)", used, limit, err)
	}
}

func TestSlots(t *testing.T) {
	t.Parallel()
	p := primary(t).clone(t, "max_replication_slots = 2\nwal_level = logical\n")
	check(t, RemoveStandbySignal(p.dir))
	p.start(t)
	c := connect(t, p.socket())
	ctx := within(t, time.Minute)
	check(t, c.CreateSlot(ctx, "repmgr_slot_1"))
	check(t, c.CreateSlot(ctx, "repmgr_slot_1")) // there already, and free
	slots, err := c.Slots(ctx)
	check(t, err)
	if len(slots) != 1 || slots[0].Name != "repmgr_slot_1" || !slots[0].Physical || slots[0].Active || slots[0].RestartLSN == 0 || slots[0].WALStatus != "reserved" {
		t.Errorf("%+v", slots)
	}
	_, err = c.Exec(ctx, "SELECT pg_create_logical_replication_slot('logical', 'test_decoding')")
	if err != nil {
		_, err = c.Exec(ctx, "SELECT pg_create_logical_replication_slot('logical', 'pgoutput')")
	}
	check(t, err)
	for name, hint := range map[string]string{"logical": "slots are named after it", "third": "max_replication_slots", "Not valid": ""} {
		if err := c.CreateSlot(ctx, name); !isFault(err, fault.DBQuery, hint) {
			t.Errorf("%s: %v", name, err)
		}
	}
	streamer := command(testBin+"/pg_receivewal", "-D", tempDir(t), "-S", "repmgr_slot_1", "-d", p.socket().Without("dbname").String())
	check(t, streamer.Start())
	t.Cleanup(func() { streamer.Process.Kill(); streamer.Wait() })
	until(t, "a slot in use", func() bool { slots, err = c.Slots(ctx); check(t, err); return slots[1].Active })
	if err := c.CreateSlot(ctx, "repmgr_slot_1"); !isFault(err, fault.DBQuery, "pg_stat_replication") {
		t.Errorf("a slot in use was taken: %v", err)
	}
	if err := c.DropSlot(ctx, "repmgr_slot_1"); !isFault(err, fault.DBQuery, "Stop that standby") && !isFault(err, fault.DBQuery, "stop that standby") {
		t.Errorf("a slot in use was dropped: %v", err)
	}
	streamer.Process.Kill()
	until(t, "a dropped slot", func() bool { return c.DropSlot(ctx, "repmgr_slot_1") == nil })
	check(t, c.DropSlot(ctx, "repmgr_slot_1"))
	plain := connect(t, p.tcp("postgres", ""))
	_, err = plain.Exec(ctx, "SET ROLE plain")
	check(t, err)
	if err := plain.CreateSlot(ctx, "x"); !isFault(err, fault.DBQuery, "REPLICATION") {
		t.Errorf("a plain role made a slot: %v", err)
	}
}

func isFault(err error, code fault.Code, hint string) bool {
	f, ok := err.(*fault.Error)
	return ok && f.Code == code && strings.Contains(f.Hint, hint)
}

func TestPrivileges(t *testing.T) {
	t.Parallel()
	p := primary(t)
	for name, want := range map[string]Privileges{
		"postgres": {"postgres", true, true, true, true, true, true, true},
		"monitor":  {Role: "monitor", ReadStats: true, ReadSettings: true},
		"plain":    {Role: "plain"},
		"streamer": {Role: "streamer", Replication: true},
	} {
		c := connect(t, p.socket().With("user", name))
		got, err := c.Privileges(within(t, time.Minute))
		check(t, err)
		if got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	plain := connect(t, p.tcp("plain", "plain"))
	if err := plain.Checkpoint(within(t, time.Minute)); Code(err) != "42501" && fault.CodeOf(err) != fault.DBQuery {
		t.Errorf("a plain role's checkpoint: %v", err)
	}
	if err := plain.ReloadConf(within(t, time.Minute)); Code(err) != "42501" {
		t.Errorf("a plain role's reload: %v", err)
	}
	super := connect(t, p.socket())
	check(t, super.Checkpoint(within(t, time.Minute)))
	check(t, super.ReloadConf(within(t, time.Minute)))
}

func TestSizeAndTablespaces(t *testing.T) {
	t.Parallel()
	p := primary(t).clone(t, "")
	check(t, RemoveStandbySignal(p.dir))
	p.start(t)
	dir := tempDir(t) + "/it is = here"
	mustRun(t, "mkdir", dir)
	p.exec(t, "CREATE TABLESPACE fast LOCATION "+literal(dir))
	c := connect(t, p.tcp("monitor", scramPassword))
	spaces, err := c.Tablespaces(within(t, time.Minute))
	check(t, err)
	if len(spaces) != 1 || spaces[0].Name != "fast" || spaces[0].Location != dir || spaces[0].OID == 0 {
		t.Errorf("%+v", spaces)
	}
	size, err := c.DatabaseSize(within(t, time.Minute))
	if err != nil || size < 1<<20 {
		t.Errorf("%d bytes (%v)", size, err)
	}
}

// Every question ends with its context, and says what it was about.
func TestQuestionsToADeadServer(t *testing.T) {
	t.Parallel()
	p := primary(t).clone(t, "")
	p.start(t)
	ask := map[string]func(context.Context, *Conn) error{
		"Server":       func(ctx context.Context, c *Conn) error { _, err := c.Server(ctx); return err },
		"Progress":     func(ctx context.Context, c *Conn) error { _, err := c.Progress(ctx); return err },
		"Settings":     func(ctx context.Context, c *Conn) error { _, err := c.Settings(ctx, "port"); return err },
		"Attached":     func(ctx context.Context, c *Conn) error { _, _, err := c.Attached(ctx, "x"); return err },
		"Slots":        func(ctx context.Context, c *Conn) error { _, err := c.Slots(ctx); return err },
		"CreateSlot":   func(ctx context.Context, c *Conn) error { return c.CreateSlot(ctx, "x") },
		"DropSlot":     func(ctx context.Context, c *Conn) error { return c.DropSlot(ctx, "x") },
		"WalSenders":   func(ctx context.Context, c *Conn) error { _, _, err := c.WalSenders(ctx); return err },
		"CanPromote":   func(ctx context.Context, c *Conn) error { _, err := c.CanPromote(ctx); return err },
		"Tablespaces":  func(ctx context.Context, c *Conn) error { _, err := c.Tablespaces(ctx); return err },
		"DatabaseSize": func(ctx context.Context, c *Conn) error { _, err := c.DatabaseSize(ctx); return err },
		"Privileges":   func(ctx context.Context, c *Conn) error { _, err := c.Privileges(ctx); return err },
	}
	conns := map[string]*Conn{}
	for name := range ask {
		conns[name] = connect(t, p.socket())
	}
	p.stop(t, "immediate")
	for name, f := range ask {
		if err := f(within(t, time.Minute), conns[name]); fault.CodeOf(err) != fault.DBQuery {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{
		"15.18 (Debian 15.18-0+deb12u1)": 150018, "13.0": 130000, "17beta1": 170000, "18devel": 180000, "18.1": 180001, "": 0, "x": 0,
	} {
		if got := parseVersion(text); got != want {
			t.Errorf("%q is %d, want %d", text, got, want)
		}
	}
	q := queries{{since: 150000, sql: "new"}, {since: 130000, until: 150000, sql: "old"}}
	for version, want := range map[int]string{150000: "new", 180001: "new", 149999: "old", 130000: "old", 120009: ""} {
		if got, err := q.forVersion(version); got != want || (err == nil) != (want != "") {
			t.Errorf("version %d: %q (%v), want %q", version, got, err, want)
		}
	}
	for _, bad := range []string{"", "x", strings.Repeat("x", 24)} {
		var timeline cluster.Timeline
		if scanWalFile(&timeline, &bad) == nil {
			t.Errorf("%q is a WAL segment", bad)
		}
	}
	if s := fmt.Sprint(NoAnswer, Rejecting, Accepting); s != "no answer rejecting connections accepting connections" {
		t.Error(s)
	}
}

// TestRecoveryTargets: what would end a server's recovery early is named, also where it
// takes effect from the next start on, and where it does so no more from then on.
func TestRecoveryTargets(t *testing.T) {
	t.Parallel()
	s := primary(t).clone(t, "recovery_target_name = 'never'\nrecovery_target_timeline = 'latest'\nrecovery_target_action = 'promote'\n")
	s.start(t)
	c := connect(t, s.socket())
	want := func(names ...string) {
		t.Helper()
		until(t, fmt.Sprint(names), func() bool {
			got, err := c.RecoveryTargets(within(t, time.Minute))
			check(t, err)
			return slices.Equal(got, names)
		})
	}
	want("recovery_target_name")
	s.exec(t, "ALTER SYSTEM SET recovery_target_timeline = '1'", "ALTER SYSTEM SET recovery_target_name = ''", "SELECT pg_reload_conf()")
	want("recovery_target_name", "recovery_target_timeline")
	s.stop(t, "fast")
	s.start(t)
	c = connect(t, s.socket())
	want("recovery_target_timeline")
	s.exec(t, "ALTER SYSTEM RESET recovery_target_timeline")
	s.stop(t, "fast")
	s.start(t)
	c = connect(t, s.socket())
	want()
	s.exec(t, "ALTER SYSTEM SET recovery_target_xid = '4000000000'", "SELECT pg_reload_conf()")
	want("recovery_target_xid")
}
