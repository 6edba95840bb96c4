package truth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/host"
	"repmgr/internal/lab"
	"repmgr/internal/lab/labtest"
	"repmgr/internal/pg"
	"repmgr/internal/server"
)

// aMoment is how long an answer that should not come is waited for.
const aMoment = 500 * time.Millisecond

// servers plays on real servers, one script after the other.
type servers struct {
	ctx     context.Context
	lab     *lab.Lab
	saved   string      // a data directory that every script begins with
	spare   []*pgx.Conn // by node: a session that was there before; may be nil
	log     []int64     // by node: where its log ended when it was started last
	killed  []int       // by node: the postmaster that was killed, until it is reaped
	commits map[string]*commit
}

// commit is what became of a row.
type commit struct {
	node   int
	conn   *pgx.Conn
	pid    uint32
	done   chan struct{}
	answer string // once it is done
	end    string // of the log, after it
	warned bool
}

func newServers(t *testing.T) *servers {
	t.Helper()
	l, ctx := labtest.OpenFor(t, labtest.ScenarioBound, lab.Options{Nodes: 2, Settings: map[string]string{
		"wal_retrieve_retry_interval": "100ms", "checkpoint_timeout": "1h"}})
	r := &servers{ctx: ctx, lab: l, spare: make([]*pgx.Conn, 3), log: make([]int64, 3), killed: make([]int, 3)}
	t.Cleanup(r.hangUp)
	n := l.Node(1)
	r.saved = filepath.Join(n.Dir, "saved")
	labtest.Must(t, n.InitPrimary(ctx))
	_, err := n.Rows(ctx, "CREATE TABLE public.rows (name text)")
	labtest.Must(t, err)
	// A standby asks for WAL from the start of a segment. One that is in a later one than the
	// fork is turned away before it acknowledges anything (A14): no script fills a segment.
	_, err = n.Rows(ctx, "SELECT pg_switch_wal()")
	labtest.Must(t, err)
	labtest.Must(t, n.Stop(ctx, "fast"))
	labtest.Must(t, n.Run(ctx, "cp", "-a", n.DataDir, r.saved).Err())
	return r
}

func (r *servers) hangUp() {
	for i, c := range r.spare {
		if c != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), aMoment)
			_ = c.Close(ctx)
			cancel()
		}
		r.spare[i] = nil
	}
}

// renew makes node 2 a standby of node 1 again, with the rows of no script.
func (r *servers) renew(t *testing.T) {
	t.Helper()
	r.hangUp()
	r.commits = map[string]*commit{}
	var all sync.WaitGroup
	errs := make([]error, len(r.lab.Nodes))
	for i, n := range r.lab.Nodes {
		all.Go(func() { errs[i] = r.renewNode(n) })
	}
	all.Wait()
	labtest.Must(t, errors.Join(errs...))
	one, two := r.lab.Node(1), r.lab.Node(2)
	for _, n := range r.lab.Nodes { // the primary first: a standby that has failed to connect may try again only after ten seconds
		_, err := r.start(n)
		labtest.Must(t, err)
	}
	labtest.WaitFor(t, r.ctx, "node 2 to stream", func() error {
		attached, err := one.Attached(r.ctx, two)
		if err == nil && !attached {
			err = errors.New("it does not")
		}
		return err
	})
}

func (r *servers) renewNode(n *lab.Node) error {
	if n.Running() && n.Stop(r.ctx, "immediate") != nil { // it stands still
		if err := r.kill(n); err != nil {
			return err
		}
	}
	r.killed[n.ID] = 0 // its directory goes, and the lock on its socket, which names it too
	locks, err := filepath.Glob(filepath.Join(n.Dir, ".s.PGSQL.*"))
	if err != nil {
		return err
	}
	for _, lock := range locks {
		if err := os.Remove(lock); err != nil {
			return err
		}
	}
	if err := errors.Join(host.FreeMemory(n.DataDir), os.RemoveAll(n.DataDir)); err != nil {
		return err
	}
	if err := n.Run(r.ctx, "cp", "-a", "--reflink=auto", r.saved, n.DataDir).Err(); err != nil {
		return err
	}
	if n.ID == 2 {
		return r.follows(n, r.lab.Node(1))
	}
	return nil
}

// kill ends every process of a server. Nobody takes note of the end of its first one for up
// to two seconds where the machine's init is slow: who starts it again waits for that (A10).
func (r *servers) kill(n *lab.Node) error {
	return r.wait("the end of every process", func() error {
		left, err := n.Processes()
		if err != nil || len(left) == 0 {
			return err
		}
		if r.killed[n.ID] == 0 {
			r.killed[n.ID] = left[0]
		}
		for _, pid := range left {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
		return fmt.Errorf("%d are left", len(left))
	})
}

// reaped waits until a killed postmaster is no zombie any more.
func (r *servers) reaped(n *lab.Node) error {
	return r.wait("the killed postmaster to be reaped", func() error {
		if pid := r.killed[n.ID]; pid != 0 && !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			return fmt.Errorf("process %d is a zombie", pid)
		}
		r.killed[n.ID] = 0
		return nil
	})
}

// follows makes a data directory a standby's.
func (r *servers) follows(n, up *lab.Node) error {
	return errors.Join(pg.WriteSetting(n.DataDir, "primary_conninfo", r.conninfo(n, up)), pg.WriteStandbySignal(n.DataDir))
}

func (r *servers) conninfo(n, up *lab.Node) string {
	return up.Conninfo() + " application_name=" + n.Name
}

// start starts a server as it is, waits until all of its own WAL is replayed if it stays in
// recovery (A6), and opens a session.
func (r *servers) start(n *lab.Node) (string, error) {
	if err := r.reaped(n); err != nil {
		return "", err
	}
	if info, err := os.Stat(n.ServerLog()); err == nil {
		r.log[n.ID] = info.Size()
	}
	if err := n.Start(r.ctx); err != nil {
		return "refused", nil
	}
	return r.ready(n)
}

func (r *servers) ready(n *lab.Node) (string, error) {
	if err := r.wait("the server to replay what it has", func() error {
		waits, err := n.SQL(r.ctx, "SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'startup'")
		if err == nil && !slices.Contains([]string{"", "RecoveryWalStream", "RecoveryRetrieveRetryInterval"}, waits) {
			err = fmt.Errorf("it waits for %q", waits)
		}
		return err
	}); err != nil {
		return "", err
	}
	c, err := r.connect(r.ctx, n)
	if err != nil {
		return "", err
	}
	r.spare[n.ID] = c
	return r.state(n)
}

func (r *servers) wait(what string, cond func() error) error {
	return lab.Wait(r.ctx, labtest.WaitBound, what, cond)
}

// connect opens a session of the superuser, which tells of warnings.
func (r *servers) connect(ctx context.Context, n *lab.Node) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(r.socket(n))
	if err != nil {
		return nil, err
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	config.OnNotice = func(c *pgconn.PgConn, notice *pgconn.Notice) {
		if w, ok := c.CustomData()["commit"].(*commit); ok && notice.Code == "01000" {
			w.warned = true
		}
	}
	ctx, cancel := context.WithTimeout(ctx, labtest.WaitBound)
	defer cancel()
	return pgx.ConnectConfig(ctx, config)
}

func (r *servers) socket(n *lab.Node) string {
	return fmt.Sprintf("host=%s port=%d user=postgres dbname=repmgr sslmode=disable", n.Dir, n.Port)
}

// session is one that was there before, or else a new one.
func (r *servers) session(n *lab.Node) (*pgx.Conn, error) {
	if c := r.spare[n.ID]; c != nil {
		r.spare[n.ID] = nil
		return c, nil
	}
	return r.connect(r.ctx, n)
}

// begin has a session of its own carry out what writes a row.
func (r *servers) begin(n *lab.Node, name, statement string) (*commit, error) {
	w := &commit{done: make(chan struct{})}
	r.commits[name] = w
	c, err := r.session(n)
	if err != nil {
		return nil, err
	}
	w.node, w.conn, w.pid = n.ID, c, c.PgConn().PID()
	c.PgConn().CustomData()["commit"] = w
	go func() {
		defer close(w.done)
		_, err := c.Exec(r.ctx, statement)
		w.answer = answer(err, w.warned)
		if err == nil {
			_ = c.QueryRow(r.ctx, "SELECT pg_current_wal_flush_lsn()::text").Scan(&w.end)
		}
	}()
	return w, nil
}

// answer is what a client makes of the outcome.
func answer(err error, warned bool) string {
	var refused *pgconn.PgError
	switch {
	case err == nil && warned:
		return "acknowledged with a warning"
	case err == nil:
		return "acknowledged"
	case errors.As(err, &refused) && refused.Code == "25006": // read_only_sql_transaction
		return "refused"
	}
	return "connection lost"
}

func (r *servers) insert(n *lab.Node, name string) (*commit, error) {
	return r.begin(n, name, "INSERT INTO public.rows VALUES ('"+name+"')")
}

// write commits a row, and answers when that is over.
func (r *servers) write(n *lab.Node, name string) (string, error) {
	w, err := r.insert(n, name)
	if err != nil {
		return "", err
	}
	return r.over(w)
}

func (r *servers) over(w *commit) (string, error) {
	select {
	case <-w.done:
		if r.spare[w.node] == nil && !w.conn.IsClosed() {
			r.spare[w.node] = w.conn
		}
		return w.answer, nil
	case <-time.After(labtest.WaitBound):
		return "", errors.New("the client has no answer")
	}
}

// begins commits a row, and answers when that is over or waits for standbys.
func (r *servers) begins(n *lab.Node, name string) (seen string, err error) {
	w, err := r.insert(n, name)
	if err != nil {
		return "", err
	}
	err = r.wait("the commit to be over, or to wait", func() error {
		select {
		case <-w.done:
			seen = w.answer
			return nil
		default:
		}
		waits, err := n.SQL(r.ctx, "SELECT wait_event FROM pg_stat_activity WHERE pid = $1", int(w.pid))
		if seen = "it waits"; err == nil && waits != "SyncRep" {
			err = fmt.Errorf("it waits for %q", waits)
		}
		return err
	})
	return seen, err
}

// asks commits a row, and waits a moment.
func (r *servers) asks(n *lab.Node, name string) (string, error) {
	w, err := r.insert(n, name)
	if err != nil {
		return "", err
	}
	select {
	case <-w.done:
		return w.answer, nil
	case <-time.After(aMoment):
		return "no answer", nil
	}
}

// state is what a new session finds.
func (r *servers) state(n *lab.Node) (string, error) {
	if !n.Running() {
		return "down", nil
	}
	c, err := r.connect(r.ctx, n)
	if err != nil {
		return "", err
	}
	defer c.Close(r.ctx)
	var standby bool
	if err := c.QueryRow(r.ctx, "SELECT pg_is_in_recovery()").Scan(&standby); err != nil {
		return "", err
	}
	return map[bool]string{true: "in recovery", false: "takes writes"}[standby], nil
}

// silent is what a session finds that waits a moment.
func (r *servers) silent(n *lab.Node) (string, error) {
	ctx, cancel := context.WithTimeout(r.ctx, aMoment)
	defer cancel()
	c, err := r.connect(ctx, n)
	if ctx.Err() != nil {
		return "no answer", nil
	}
	if err != nil {
		return "", err
	}
	return "an answer", c.Close(r.ctx)
}

func (r *servers) rows(n *lab.Node) (string, error) {
	return n.SQL(r.ctx, "SELECT string_agg(name, ' ' ORDER BY name) FROM public.rows")
}

// gets waits until a row is there: to be seen, or, where replay is paused, on disk.
func (r *servers) gets(n *lab.Node, name string) (seen string, err error) {
	err = r.wait("row "+name+", or another history", func() error {
		if log, err := os.ReadFile(n.ServerLog()); err == nil && strings.Contains(string(log[r.log[n.ID]:]), "forked off current database system timeline") {
			seen = "diverged"
			return nil
		}
		has, err := n.SQL(r.ctx, `SELECT EXISTS (SELECT FROM public.rows WHERE name = $1)
			OR EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'startup' AND wait_event = 'RecoveryPause')
				AND pg_last_wal_receive_lsn() >= nullif($2, '')::pg_lsn`, name, r.commits[name].end)
		if seen = "yes"; err == nil && has != "t" {
			err = errors.New("it is not there")
		}
		return err
	})
	return seen, err
}

func (r *servers) receiver(n *lab.Node) (string, error) {
	count, err := n.SQL(r.ctx, "SELECT count(*) FROM pg_stat_wal_receiver")
	return map[string]string{"0": "gone", "1": "there"}[count], err
}

func (r *servers) losesReceiver(n *lab.Node) (seen string, err error) {
	err = r.wait("the WAL receiver to go", func() (err error) {
		if seen, err = r.receiver(n); err == nil && seen != "gone" {
			err = errors.New(seen)
		}
		return err
	})
	return seen, err
}

// received is pg_last_wal_receive_lsn(). One that has an upstream comes to have some.
func (r *servers) received(n *lab.Node) (seen string, err error) {
	question := `SELECT CASE WHEN pg_last_wal_receive_lsn() IS NULL THEN 'none'
		WHEN pg_last_wal_receive_lsn() >= pg_last_wal_replay_lsn() THEN 'all'
		WHEN (pg_last_wal_receive_lsn() - '0/0') % (SELECT setting::numeric FROM pg_settings WHERE name = 'wal_segment_size') = 0 THEN 'the start of a segment'
		ELSE pg_last_wal_receive_lsn()::text END, current_setting('primary_conninfo') = ''`
	err = r.wait("a WAL receiver to be started", func() error {
		rows, err := n.Rows(r.ctx, question)
		if err != nil {
			return err
		}
		if seen = rows[0][0]; seen == "none" && rows[0][1] == "f" {
			return errors.New("none was")
		}
		return nil
	})
	return seen, err
}

// losesBackend ends a backend, and answers when the server has started anew.
func (r *servers) losesBackend(n *lab.Node) (string, error) {
	victim, err := r.connect(r.ctx, n)
	if err != nil {
		return "", err
	}
	defer victim.Close(r.ctx)
	if err := syscall.Kill(int(victim.PgConn().PID()), syscall.SIGKILL); err != nil {
		return "", err
	}
	witness, err := r.session(n)
	if err != nil {
		return "", err
	}
	if err := r.wait("the sessions to end", func() error {
		if witness.Ping(r.ctx) == nil {
			return errors.New("one lives")
		}
		return nil
	}); err != nil {
		return "", err
	}
	if err := r.wait("the server to take connections", func() error {
		c, err := r.connect(r.ctx, n)
		if err == nil {
			err = c.Close(r.ctx)
		}
		return err
	}); err != nil {
		return "", err
	}
	return r.ready(n)
}

// losesPostmaster ends the first process alone, and waits until all but that which writes
// a row have seen it.
func (r *servers) losesPostmaster(n *lab.Node, name string) error {
	before, err := n.Processes()
	if err != nil || len(before) == 0 {
		return errors.Join(err, errors.New("the server does not run"))
	}
	if err := n.SignalPostmaster(syscall.SIGKILL); err != nil {
		return err
	}
	r.killed[n.ID] = before[0]
	return r.wait("the others to go", func() error {
		left, err := n.Processes()
		if err == nil && (len(left) != 1 || left[0] != int(r.commits[name].pid)) {
			err = fmt.Errorf("processes %d are left, and %d is busy", left, r.commits[name].pid)
		}
		return err
	})
}

// busy has a backend look for a file, and write a row when that is there.
func (r *servers) busy(n *lab.Node, name string) error {
	w, err := r.begin(n, name, "DO $$ BEGIN LOOP EXIT WHEN (pg_stat_file('go', true)).size IS NOT NULL; END LOOP; INSERT INTO public.rows VALUES ('"+name+"'); END $$")
	if err != nil {
		return err
	}
	if err := r.wait("the backend to be busy", func() error {
		state, err := n.SQL(r.ctx, "SELECT state FROM pg_stat_activity WHERE pid = $1 AND query LIKE 'DO %'", int(w.pid))
		if err == nil && state != "active" {
			err = fmt.Errorf("it is %q", state)
		}
		return err
	}); err != nil {
		return err
	}
	r.spare[n.ID], err = r.connect(r.ctx, n) // one that sleeps
	return err
}

func (r *servers) orphanWrites(n *lab.Node, name string) (string, error) {
	if err := n.Run(r.ctx, "touch", filepath.Join(n.DataDir, "go")).Err(); err != nil {
		return "", err
	}
	return r.over(r.commits[name])
}

func (r *servers) ends(n *lab.Node) (string, error) {
	err := r.wait("the last process to end", func() error {
		if n.Running() {
			return errors.New("one is left")
		}
		return nil
	})
	return "down", err
}

// stopsSender stops a walsender where it sleeps, so that it holds nothing others wait for.
func (r *servers) stopsSender(n *lab.Node, standby string) error {
	return r.wait("the walsender to be stopped", func() error {
		text, err := n.SQL(r.ctx, "SELECT pid FROM pg_stat_replication WHERE application_name = $1 AND state = 'streaming'", "node"+standby)
		pid, errPID := strconv.Atoi(text)
		if err = errors.Join(err, errPID); err != nil {
			return err
		}
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return err
		}
		waits, err := n.SQL(r.ctx, "SELECT wait_event FROM pg_stat_activity WHERE pid = $1", pid)
		if err == nil && waits == "WalSenderMain" {
			return nil
		}
		return errors.Join(err, fmt.Errorf("it waits for %q", waits), syscall.Kill(pid, syscall.SIGCONT))
	})
}

// pointsAt changes primary_conninfo, and returns when every session of a running server has that.
func (r *servers) pointsAt(n *lab.Node, upstream int) error {
	want := ""
	if upstream != 0 {
		want = r.conninfo(n, r.lab.Node(upstream))
	}
	err := pg.WriteEmptySetting(n.DataDir, "primary_conninfo")
	if want != "" {
		err = pg.WriteSetting(n.DataDir, "primary_conninfo", want)
	}
	if err != nil || !n.Running() {
		return err
	}
	if err := n.Reload(r.ctx); err != nil {
		return err
	}
	return r.wait("the setting to be in force", func() error {
		c, err := r.connect(r.ctx, n)
		if err != nil {
			return err
		}
		defer c.Close(r.ctx)
		var got string
		if err := c.QueryRow(r.ctx, "SHOW primary_conninfo").Scan(&got); err != nil || got != want {
			return errors.Join(err, fmt.Errorf("it is %q", got))
		}
		return nil
	})
}

// arms writes what makes a server come up read-only when it is started next (A25).
func (r *servers) arms(n *lab.Node) error {
	return errors.Join(pg.WriteEmptySetting(n.DataDir, "primary_conninfo"), pg.WriteStandbySignal(n.DataDir))
}

func (r *servers) endsReceiver(n *lab.Node) error {
	text, err := n.SQL(r.ctx, "SELECT pid FROM pg_stat_wal_receiver")
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(text)
	if err != nil {
		return fmt.Errorf("no WAL receiver: %w", err)
	}
	return syscall.Kill(pid, syscall.SIGTERM)
}

// names sets synchronous_standby_names, and returns when commits go by it.
func (r *servers) names(n *lab.Node, standby string) error {
	value := ""
	if standby != "" {
		value = `ANY 1 ("node` + standby + `")`
	}
	own := server.Own{Config: &conf.Config{Conninfo: r.socket(n), DataDirectory: n.DataDir, PgBindir: r.lab.Bindir}}
	return own.SetSync(r.ctx, value)
}

// rewindsTo makes a server that was stopped in order a standby of another.
func (r *servers) rewindsTo(n *lab.Node, upstream int) error {
	up := r.lab.Node(upstream)
	if _, err := up.Rows(r.ctx, "CHECKPOINT"); err != nil { // else it looks as if it were on its former timeline (A20)
		return err
	}
	if err := n.Run(r.ctx, filepath.Join(r.lab.Bindir, "pg_rewind"), "-D", n.DataDir, "--no-sync", "--source-server="+r.socket(up)).Err(); err != nil {
		return err
	}
	return r.follows(n, up)
}

// promotes promotes a standby to the timeline that is so many numbers after its own: the
// others are kept free by empty files (A26).
func (r *servers) promotes(n *lab.Node, by int) (string, error) {
	rows, err := n.Rows(r.ctx, "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), timeline_id FROM pg_control_checkpoint()")
	if err != nil {
		return "", err
	}
	end, from := rows[0][0], number(rows[0][1])
	history := func(timeline int) string {
		return filepath.Join(n.DataDir, "pg_wal", fmt.Sprintf("%08X.history", timeline))
	}
	for i := from + 1; i < from+by; i++ {
		if err := n.Run(r.ctx, "touch", history(i)).Err(); err != nil {
			return "", err
		}
	}
	if done, err := n.SQL(r.ctx, "SELECT pg_promote(true, 120)"); err != nil || done != "t" {
		return "", errors.Join(err, errors.New("the promotion took too long"))
	}
	name, err := n.SQL(r.ctx, "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)")
	if err != nil {
		return "", err
	}
	to, err := strconv.ParseInt(name, 16, 32)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(history(int(to)))
	if err != nil {
		return "", err
	}
	fork := strings.Fields(string(text))
	at, errAt := cluster.ParseLSN(end)
	left, errLeft := cluster.ParseLSN(fork[1])
	where := ", where its WAL ended"
	if at != left || fork[0] != strconv.Itoa(from) {
		where = fmt.Sprintf(", not where its WAL ended: at %s of timeline %s, not %s of %d", left, fork[0], at, from)
	}
	return fmt.Sprintf("timeline +%d%s", int(to)-from, where), errors.Join(errAt, errLeft)
}

func (r *servers) timeline(n *lab.Node) (seen string, err error) {
	err = r.wait("a timeline", func() error {
		seen, err = n.SQL(r.ctx, "SELECT CASE WHEN pg_is_in_recovery() THEN (SELECT received_tli FROM pg_stat_wal_receiver) ELSE (pg_control_checkpoint()).timeline_id END")
		return cmp.Or(err, missing(seen))
	})
	return seen, err
}

func missing(seen string) error {
	if seen == "" {
		return errors.New("none is known")
	}
	return nil
}
