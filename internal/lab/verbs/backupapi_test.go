package verbs

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"repmgr/internal/lab"
)

// backupAPI stands for pg-backup-api, which cannot be installed from Debian's packages:
// it speaks as that program's version 2.2 does by its source, and does what it is asked
// for by the real Barman.
type backupAPI struct {
	t      *testing.T
	ctx    context.Context
	host   *lab.Node // that Barman is on
	addr   string
	server *http.Server

	mu         sync.Mutex
	operations map[string]string // their states
	said       string            // what Barman said in the last one
}

func newBackupAPI(t *testing.T, ctx context.Context, host *lab.Node) *backupAPI {
	t.Helper()
	a := &backupAPI{t: t, ctx: ctx, host: host, addr: "127.0.0.1:0", operations: map[string]string{}}
	a.start()
	t.Cleanup(func() { _ = a.server.Close() })
	return a
}

func (a *backupAPI) start() {
	a.t.Helper()
	l, err := net.Listen("tcp", a.addr)
	must(a.t, err)
	a.addr = l.Addr().String()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `"OK"`) })
	mux.HandleFunc("GET /diagnose", a.diagnose)
	mux.HandleFunc("GET /servers/{name}/operations", a.list)
	mux.HandleFunc("POST /servers/{name}/operations", a.begin)
	mux.HandleFunc("GET /servers/{name}/operations/{id}", a.status)
	a.server = &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = a.server.Serve(l) }()
}

// stop ends the service, not what it has begun.
func (a *backupAPI) stop() { must(a.t, a.server.Close()) }

func (a *backupAPI) barman(ctx context.Context, args ...string) lab.Result {
	return a.host.Run(ctx, "barman", append([]string{"--config", a.host.Dir + "/barman.conf"}, args...)...)
}

func answer(w http.ResponseWriter, code int, what any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(what)
}

func notFound(w http.ResponseWriter, format string, args ...any) {
	answer(w, http.StatusNotFound, map[string]string{"error": "404 Not Found: " + fmt.Sprintf(format, args...)})
}

func (a *backupAPI) diagnose(w http.ResponseWriter, q *http.Request) {
	r := a.barman(q.Context(), "diagnose")
	if r.Code != 0 {
		http.Error(w, r.Stderr, http.StatusInternalServerError)
		return
	}
	fmt.Fprint(w, r.Stdout)
}

func (a *backupAPI) list(w http.ResponseWriter, q *http.Request) {
	if name := q.PathValue("name"); name != "main" {
		notFound(w, "No barman config found for '%s'.", name)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	list := []map[string]string{}
	for id := range a.operations {
		list = append(list, map[string]string{"id": id, "type": "recovery"})
	}
	answer(w, http.StatusOK, map[string]any{"operations": list})
}

func (a *backupAPI) begin(w http.ResponseWriter, q *http.Request) {
	var ask map[string]string
	err := json.NewDecoder(q.Body).Decode(&ask)
	if err != nil || ask["type"] != "recovery" || ask["destination_directory"] == "" || ask["remote_ssh_command"] == "" {
		http.Error(w, "Make sure all options/arguments are met and try again", http.StatusBadRequest)
		return
	}
	if name := q.PathValue("name"); name != "main" {
		notFound(w, "Server '%s' does not exist", name)
		return
	}
	if a.barman(q.Context(), "show-backup", "main", ask["backup_id"]).Code != 0 {
		notFound(w, "Backup '%s' does not exist", ask["backup_id"])
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	id := fmt.Sprintf("20260101T%06d", len(a.operations))
	a.operations[id] = "IN_PROGRESS"
	go func() {
		r := a.barman(a.ctx, "recover", "main", ask["backup_id"], ask["destination_directory"], "--remote-ssh-command", ask["remote_ssh_command"])
		a.mu.Lock()
		defer a.mu.Unlock()
		a.said, a.operations[id] = r.Stdout+r.Stderr, map[bool]string{true: "DONE", false: "FAILED"}[r.Code == 0]
	}()
	answer(w, http.StatusAccepted, map[string]string{"operation_id": id})
}

func (a *backupAPI) status(w http.ResponseWriter, q *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	state, known := a.operations[q.PathValue("id")]
	if !known {
		notFound(w, "Resource not found")
		return
	}
	answer(w, http.StatusOK, map[string]string{"operation_id": q.PathValue("id"), "status": state})
}

// orders is how many restores were ordered, and how many of them run.
func (a *backupAPI) orders() (all, running int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, state := range a.operations {
		if all++; state == "IN_PROGRESS" {
			running++
		}
	}
	return all, running
}

// ends waits until no restore runs.
func (a *backupAPI) ends() {
	a.t.Helper()
	must(a.t, lab.Wait(a.ctx, time.Minute, "the restores to end", func() error {
		if _, running := a.orders(); running > 0 {
			return fmt.Errorf("%d run", running)
		}
		return nil
	}))
}

func TestACloneByPgBackupAPI(t *testing.T) {
	t.Parallel()
	l, ctx := open(t, lab.Options{Nodes: 2, Slots: true, Settings: map[string]string{"archive_mode": "on",
		"archive_command": "cp %p ../barman/%f && mv ../barman/%f ../barman/main/incoming/%f"}})
	one, two := l.Node(1), l.Node(2)
	options := barmanHost(t, ctx, one)
	api := newBackupAPI(t, ctx, one)
	conf := map[string]string{"pg_backupapi_host": api.addr, "pg_backupapi_node_name": "main", "pg_backupapi_backup_id": "latest",
		"pg_backupapi_remote_ssh_command": "ssh " + options + " 127.0.0.1"}
	with := func(name, value string) []string {
		changed := map[string]string{name: value}
		for n, v := range conf {
			if n != name {
				changed[n] = v
			}
		}
		return withConf(t, two, changed, cloneOf(one))
	}
	must(t, l.BringUpPrimary(ctx))
	// Nothing is changed, and nothing is ordered, by what cannot be.
	refused(t, ctx, two, 1, []string{"pg_backupapi_host is set, and not pg_backupapi_backup_id"}, with("pg_backupapi_backup_id", "")...)
	refused(t, ctx, two, 1, []string{"is no address"}, with("pg_backupapi_host", "ftp://backup")...)
	refused(t, ctx, two, 28, []string{"does not answer", "onnection refused", "pg-backup-api status"}, with("pg_backupapi_host", "127.0.0.1:1")...)
	refused(t, ctx, two, 28, []string{"is not understood", "status 404"}, with("pg_backupapi_host", "http://"+api.addr+"/elsewhere")...)
	refused(t, ctx, two, 28, []string{"does not know the server", "nosuch", "list-servers"}, with("pg_backupapi_node_name", "nosuch")...)
	refused(t, ctx, two, 28, []string{"has no backup latest", "it has none"}, with("pg_backupapi_backup_id", "latest")...)
	runBarman(t, ctx, one, "switch-wal", "--force", "--archive", "--archive-timeout", "300", "main")
	runBarman(t, ctx, one, "backup", "--immediate-checkpoint", "main")
	refused(t, ctx, two, 28, []string{"has no backup 19990101T000000", "it has 20", "list-backups main"}, with("pg_backupapi_backup_id", "19990101T000000")...)
	must(t, two.WriteConf(conf))
	must(t, two.Repmgr(ctx, cloneOf(one, "--dry-run")...).Err())
	if n, _ := api.orders(); n > 0 || exists(two, "data") {
		t.Errorf("%d restores were ordered; the directory is there: %v", n, exists(two, "data"))
	}
	refused(t, ctx, two, 28, []string{"has failed", "output/"}, with("pg_backupapi_remote_ssh_command", "ssh -q -o BatchMode=yes -p 1 127.0.0.1")...)
	if exists(two, "data") {
		t.Error("the directory of the failed restore is left")
	}

	must(t, two.WriteConf(conf))
	brokenRestores(t, ctx, l, one, two, api)
	restoredStandby(t, ctx, one, two)
	api.ends() // that of the clone that was killed, too

	// A tablespace is restored to where it was, and nothing is deleted there.
	must(t, one.Run(ctx, "mkdir", one.Dir+"/fast").Err())
	_, err := one.Rows(ctx, "CREATE TABLESPACE fast LOCATION '"+one.Dir+"/fast'")
	must(t, err)
	runBarman(t, ctx, one, "backup", "--immediate-checkpoint", "main")
	must(t, two.Stop(ctx, "fast"))
	refused(t, ctx, two, 1, []string{one.Dir + "/fast, for a tablespace, is not empty", "to where it is on the server"}, cloneOf(one, "-F")...)
}

// brokenRestores has clones that are broken off, and one whose service goes away: what they
// leave cannot be taken for a whole copy, holds no WAL, and nobody writes there.
func brokenRestores(t *testing.T, ctx context.Context, l *lab.Lab, one, two *lab.Node, api *backupAPI) {
	t.Helper()
	slow := func(limit string) {
		text, err := os.ReadFile(filepath.Join(one.Dir, "barman.conf"))
		must(t, err)
		whole, _, _ := strings.Cut(string(text), "bandwidth_limit")
		must(t, one.WriteFile("barman.conf", whole+limit))
	}
	slow("bandwidth_limit = 50\n") // it would take some ten minutes
	for _, c := range []struct {
		what   string
		script string
		status int
	}{
		{"SIGTERM", "kill -TERM $p", 14},
		{"a service that is gone", "echo stop > stop", 28},
		{"SIGKILL", "kill -KILL $p", 137},
	} {
		script := `"$@" >&2 & p=$!; until [ -e data/repmgr-clone.partial/pg-backup-api-*/data/base ]; do kill -0 $p || exit 99; sleep 0.02; done; ` + c.script + `; wait $p`
		gone := make(chan struct{})
		go func() { // the service goes away when the restore has begun
			defer close(gone)
			if c.status == 28 {
				_ = lab.Wait(ctx, 5*time.Minute, "the restore to have begun", func() error {
					_, err := os.Stat(filepath.Join(two.Dir, "stop"))
					return err
				})
				api.stop()
			}
		}()
		r := two.Run(ctx, "bash", append([]string{"-c", script, "bash", l.Dir + "/bin/repmgr", "-f", two.ConfFile()}, cloneOf(one, "-F")...)...)
		<-gone
		if r.Code != c.status || c.status == 28 && !strings.Contains(r.Stderr, "was lost while it restored") {
			t.Errorf("%s: status %d, want %d\n%s", c.what, r.Code, c.status, r.Stderr)
		}
		becomes(t, ctx, "the slot to be gone", one, slots, "")
		if exists(two, "data/PG_VERSION") || c.status != 137 && exists(two, "data") {
			t.Errorf("%s: the directory is left, or a server could start in it", c.what)
		}
		if c.status != 137 { // who is killed cannot end what it has begun: the next clone does
			must(t, lab.Wait(ctx, time.Minute, "the end of rsync", func() error { return noProcess("rsync", two.DataDir) }))
			api.ends()
		}
		if c.status == 28 {
			api.start()
		}
	}
	if all, _ := api.orders(); all != 4 {
		t.Errorf("%d restores were ordered, want 4", all)
	}
	slow("")
}

// restoredStandby makes the clone that goes well.
func restoredStandby(t *testing.T, ctx context.Context, one, two *lab.Node) {
	t.Helper()
	_, err := one.Rows(ctx, "CREATE TABLE there AS SELECT 'after' AS n")
	must(t, err)
	r := two.Repmgr(ctx, cloneOf(one, "-F")...)
	must(t, r.Err())
	for _, text := range []string{"it is operation 2026", `of "main"`, "ready to be started"} {
		if !strings.Contains(r.Stderr, text) {
			t.Errorf("it does not say %q:\n%s", text, r.Stderr)
		}
	}
	equal(t, "event", sql(t, ctx, one, "SELECT count(*) FROM repmgr.events WHERE event = 'standby_clone' AND successful AND details ~ 'backup method: pg-backup-api; --force: Y'"), "1")
	becomes(t, ctx, "slots", one, slots, "repmgr_slot_2 f f")
	for _, name := range []string{"repmgr-clone.partial", "repmgr-clone.outside", "recovery.signal", ".barman-recover.info"} {
		if exists(two, "data/"+name) {
			t.Errorf("%s is left", name)
		}
	}
	must(t, two.Start(ctx))
	becomes(t, ctx, "the standby to stream", one, "SELECT count(*) FROM pg_stat_replication WHERE application_name = '"+two.Name+"' AND state = 'streaming'", "1")
	must(t, two.Repmgr(ctx, "standby", "register").Err())
	becomes(t, ctx, "the row", two, "SELECT n FROM there", "after")
	for _, name := range []string{"archive_command", "primary_slot_name"} {
		want := map[string]string{"archive_command": sql(t, ctx, one, "SHOW archive_command"), "primary_slot_name": "repmgr_slot_2"}[name]
		equal(t, name, sql(t, ctx, two, "SHOW "+name), want)
	}
}
