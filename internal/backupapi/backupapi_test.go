package backupapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"repmgr/internal/fault"
)

// service listens on this machine and answers as it is told, by method and path.
func service(t *testing.T, answers map[string]func(http.ResponseWriter, *http.Request)) *Client {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if answer, ok := answers[q.Method+" "+q.URL.EscapedPath()]; ok {
			answer(w, q)
			return
		}
		http.NotFound(w, q)
	}))
	t.Cleanup(s.Close)
	return client(t, s.Listener.Addr().String())
}

func client(t *testing.T, host string) *Client {
	t.Helper()
	c, err := New(host)
	if err != nil {
		t.Fatal(err)
	}
	c.Interval = 5 * time.Millisecond
	return c
}

// says answers with a status and a text.
func says(code int, format string, args ...any) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		fmt.Fprintf(w, format, args...)
	}
}

// fails makes sure that an error has the service's exit status, and tells all of that and
// what to do.
func fails(t *testing.T, err error, texts ...string) {
	t.Helper()
	var f *fault.Error
	if !errors.As(err, &f) || f.Code != fault.PgBackupAPIService || f.Hint == "" {
		t.Fatalf("it is no failure of the service with a hint: %v", err)
	}
	all := err.Error() + "\n" + f.Detail + "\n" + f.Hint
	for _, text := range texts {
		if !strings.Contains(all, text) {
			t.Errorf("it does not say %q:\n%s", text, all)
		}
	}
}

const deadline = time.Minute

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	return ctx
}

func TestAddresses(t *testing.T) {
	for host, want := range map[string]string{
		"backup":                              "http://backup:7480/servers/main%2F1/operations",
		"backup:80":                           "http://backup:80/servers/main%2F1/operations",
		"10.0.0.1":                            "http://10.0.0.1:7480/servers/main%2F1/operations",
		"[fd00::1]":                           "http://[fd00::1]:7480/servers/main%2F1/operations",
		"[fd00::1]:7":                         "http://[fd00::1]:7/servers/main%2F1/operations",
		"https://backup.example/barman/":      "https://backup.example/barman/servers/main%2F1/operations",
		"http://backup.example":               "http://backup.example/servers/main%2F1/operations",
		"https://me:secret@backup.example:84": "https://me:xxxxx@backup.example:84/servers/main%2F1/operations",
	} {
		if got := client(t, host).Operations("main/1"); got != want {
			t.Errorf("%s: got %s, want %s", host, got, want)
		}
	}
	for _, host := range []string{"", "http://", "ftp://backup", "backup:port", "a b", "http://backup/?x=1", "https://me:secret@backup:x"} {
		if _, err := New(host); fault.CodeOf(err) != fault.BadConfig || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q is an address: %v", host, err)
		}
	}
}

func TestStatus(t *testing.T) {
	ok := service(t, map[string]func(http.ResponseWriter, *http.Request){"GET /status": says(200, `"OK"`)})
	if err := ok.Status(within(t)); err != nil {
		t.Error(err)
	}
	fails(t, service(t, nil).Status(within(t)), "is not understood", "status 404", "404 page not found", "pg_backupapi_host")
	fails(t, service(t, map[string]func(http.ResponseWriter, *http.Request){"GET /status": says(200, "<html><title>x</title>Welcome to <b>nginx</b></html>")}).
		Status(within(t)), "is not understood", "Welcome to nginx")
	fails(t, service(t, map[string]func(http.ResponseWriter, *http.Request){"GET /status": func(w http.ResponseWriter, q *http.Request) {
		http.Redirect(w, q, "https://elsewhere/status", http.StatusMovedPermanently)
	}}).Status(within(t)), "is not understood", "https://elsewhere/status")
}

// Nobody waits for ever: not for a port where nobody listens, nor for who accepts and says nothing,
// or says the half.
func TestSilence(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	silent := client(t, listener.Addr().String())
	silent.Answer = 50 * time.Millisecond
	fails(t, silent.Status(within(t)), "does not answer", "no answer in time", "curl")
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	fails(t, silent.Status(within(t)), "does not answer", "connection refused", "pg-backup-api status")

	halt := make(chan struct{})
	half := service(t, map[string]func(http.ResponseWriter, *http.Request){"GET /status": func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `"O`)
		w.(http.Flusher).Flush()
		<-halt
	}})
	t.Cleanup(func() { close(halt) })
	half.Answer = 200 * time.Millisecond
	fails(t, half.Status(within(t)), "does not answer", "no answer in time")
}

func TestServersAndBackups(t *testing.T) {
	c := service(t, map[string]func(http.ResponseWriter, *http.Request){
		"GET /servers/main/operations":  says(200, `{"operations": [{"id": "20260101T000000", "type": "recovery"}]}`),
		"GET /servers/old/operations":   says(200, `{"operations": []}`),
		"GET /servers/other/operations": says(404, `{"error": "404 Not Found: No barman config found for 'other'."}`),
		"GET /servers/bad/operations":   says(502, "Bad Gateway"),
		"GET /diagnose": says(200, `{"global": {}, "servers": {"main": {"backups": {"20260101T000000": {"status": "DONE", "version": 150018, "systemid": "7",
			"timeline": 2, "end_xlog": "0/5000100", "size": 1000, "tablespaces": [["fast", 16384, "/mnt/fast"]], "error": null},
			"20260102T000000": {"status": "FAILED", "version": null, "systemid": null, "size": null, "tablespaces": null}}}}}`)})
	for _, server := range []string{"main", "old"} {
		if err := c.Knows(within(t), server); err != nil {
			t.Error(err)
		}
	}
	fails(t, c.Knows(within(t), "other"), `does not know the server "other"`, "No barman config found", "pg_backupapi_node_name")
	fails(t, c.Knows(within(t), "bad"), "status 502", "Bad Gateway")
	all, err := c.Backups(within(t), "main")
	if err != nil {
		t.Fatal(err)
	}
	b, failed := all["20260101T000000"], all["20260102T000000"]
	if !b.Complete() || b.Version != 150018 || b.SystemID != "7" || b.Timeline != 2 || b.EndLSN != "0/5000100" || b.Size != 1000 ||
		!slices.Equal(b.Locations(), []string{"/mnt/fast"}) || failed.Complete() || len(failed.Locations()) != 0 {
		t.Errorf("got %+v", all)
	}
	_, err = service(t, map[string]func(http.ResponseWriter, *http.Request){"GET /diagnose": says(500, "<h1>Internal Server Error</h1>")}).Backups(within(t), "main")
	fails(t, err, "Barman's diagnosis", "status 500", "Internal Server Error")
}

var order = Restore{Server: "main", BackupID: "20260101T000000", SSHCommand: "ssh postgres@node2", Directory: "/data"}

func TestBegin(t *testing.T) {
	var asked map[string]string
	begin := func(code int, answer string) (string, error) {
		return service(t, map[string]func(http.ResponseWriter, *http.Request){"POST /servers/main/operations": func(w http.ResponseWriter, q *http.Request) {
			if q.Header.Get("Content-Type") != "application/json" || json.NewDecoder(q.Body).Decode(&asked) != nil {
				code = http.StatusUnsupportedMediaType
			}
			says(code, "%s", answer)(w, q)
		}}).Begin(within(t), order)
	}
	id, err := begin(202, `{"operation_id": "20260103T000000"}`)
	if err != nil || id != "20260103T000000" {
		t.Errorf("got %q, %v", id, err)
	}
	want := map[string]string{"type": "recovery", "backup_id": order.BackupID, "remote_ssh_command": order.SSHCommand, "destination_directory": order.Directory}
	if fmt.Sprint(asked) != fmt.Sprint(want) {
		t.Errorf("asked was %v, want %v", asked, want)
	}
	_, err = begin(404, `{"error": "404 Not Found: Backup '20260101T000000' does not exist"}`)
	fails(t, err, "has no backup 20260101T000000", "pg_backupapi_backup_id", "barman list-backups main")
	_, err = begin(404, `{"error": "404 Not Found: Server 'main' does not exist"}`)
	fails(t, err, `does not know the server "main"`)
	_, err = begin(400, "<title>400 Bad Request</title><p>Make sure all options/arguments are met and try again</p>")
	fails(t, err, "status 400", "Make sure all options")
	_, err = begin(200, `{"operation_id": "20260103T000000"}`)
	fails(t, err, "status 200")
	_, err = begin(202, `{}`)
	fails(t, err, "is not understood")
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	_, err = client(t, gone.Listener.Addr().String()).Begin(within(t), order)
	fails(t, err, "does not answer", "whether it has begun to restore is not known")
}

// restoring waits for a restore whose state is asked for again and again.
func restoring(t *testing.T, ctx context.Context, patience time.Duration, answers ...func(http.ResponseWriter, *http.Request)) (tells int, err error) {
	t.Helper()
	var n atomic.Int64
	c := service(t, map[string]func(http.ResponseWriter, *http.Request){"GET /servers/main/operations/1": func(w http.ResponseWriter, q *http.Request) {
		answers[min(int(n.Add(1)), len(answers))-1](w, q)
	}})
	c.Patience = patience
	var last time.Duration
	err = c.Wait(ctx, "main", "1", func(elapsed time.Duration) {
		if tells++; elapsed < last {
			t.Errorf("%s after %s", elapsed, last)
		}
		last = elapsed
	})
	return tells, err
}

func TestWait(t *testing.T) {
	version1, going := says(200, `{"recovery_id": "1", "status": "IN_PROGRESS"}`), says(200, `{"operation_id": "1", "status": "IN_PROGRESS"}`)
	complete, broken := says(200, `{"operation_id": "1", "status": "DONE"}`), says(200, `{"operation_id": "1", "status": "FAILED"}`)
	unreadable, hangUp := says(404, `{"error": "404 Not Found: Resource not found"}`), func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	if tells, err := restoring(t, within(t), deadline, version1, going, complete); err != nil || tells != 2 {
		t.Errorf("%d questions, %v", tells, err)
	}
	const short = 100 * time.Millisecond
	// The service reads a file that is just written, or is restarted.
	if _, err := restoring(t, within(t), deadline, going, unreadable, hangUp, says(503, ""), complete); err != nil {
		t.Error(err)
	}
	_, err := restoring(t, within(t), deadline, going, broken)
	fails(t, err, "has failed", "operation 1", "output/1.json", "pg_backupapi_remote_ssh_command")
	_, err = restoring(t, within(t), short, going, hangUp)
	fails(t, err, "was lost while it restored", "operation 1", "pg_backupapi_host")
	_, err = restoring(t, within(t), short, says(404, `{"error": "404 Not Found: Operation '1' does not exist"}`))
	fails(t, err, "was lost while it restored", "does not exist")
	_, err = restoring(t, within(t), short, says(200, `{"status": "PONDERING"}`))
	fails(t, err, "is not understood", "PONDERING")

	ctx, cancel := context.WithCancel(within(t))
	if _, err := restoring(t, ctx, deadline, func(w http.ResponseWriter, q *http.Request) { cancel(); going(w, q) }); !errors.Is(err, context.Canceled) {
		t.Errorf("it was broken off: %v", err)
	}
}
