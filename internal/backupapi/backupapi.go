// Package backupapi asks pg-backup-api, the small HTTP service beside Barman, to
// restore a backup. It speaks to version 1.0 and later; what the service does is
// taken from its source, version 2.2.
package backupapi

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"repmgr/internal/fault"
)

// Port is where the service listens, unless it is told another.
const Port = 7480

// Client asks one service. The durations may be changed before it is used.
type Client struct {
	// Connect bounds the way to the service, Answer one whole question. To tell of
	// backups the service asks every server that Barman knows, so that has Diagnosis.
	Connect, Answer, Diagnosis time.Duration
	// Interval lies between two questions how a restore comes on.
	Interval time.Duration
	// Patience is for how long no answer to that is understood before the restore is
	// given up: the service may be restarted meanwhile, the restore is another process.
	Patience time.Duration

	base *url.URL
}

// New is for a host, a host and its port, or the URL of a proxy before the service,
// which by itself listens on its own host only.
func New(host string) (*Client, error) {
	text := host
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fault.New(fault.BadConfig, "pg_backupapi_host is no address of pg-backup-api"). // it may hold a password
														WithHint("write a host, host:port, or a URL such as https://backup.example:8443/barman; an IPv6 address stands in brackets: [fd00::1]:7480")
	}
	if u.Port() == "" && u.Scheme == "http" && !strings.Contains(host, "://") {
		u.Host = net.JoinHostPort(u.Hostname(), strconv.Itoa(Port))
	}
	return &Client{base: u, Connect: 10 * time.Second, Answer: 30 * time.Second, Diagnosis: 2 * time.Minute,
		Interval: 3 * time.Second, Patience: time.Minute}, nil
}

// URL is the service's, as messages have it.
func (c *Client) URL() string { return c.base.Redacted() }

// Operations is the URL where restores of a server are ordered.
func (c *Client) Operations(server string) string {
	return c.at("servers", server, "operations").Redacted()
}

func (c *Client) at(path ...string) *url.URL {
	escaped := make([]string, len(path))
	for i, p := range path {
		escaped[i] = url.PathEscape(p)
	}
	return c.base.JoinPath(escaped...)
}

// reply is an answer of HTTP, whatever it says.
type reply struct {
	code int
	text []byte
	to   string // the location of a redirect
}

// Limits of what is read of an answer.
const (
	maxAnswer    = 1 << 20
	maxDiagnosis = 256 << 20
)

// do asks once. Its error says that there was no answer. A redirect is none that is
// followed: that would make a GET of an order.
func (c *Client) do(ctx context.Context, method string, at *url.URL, body []byte, within time.Duration, limit int64) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, method, at.String(), bytes.NewReader(body))
	if err != nil {
		return reply{}, c.silent(err)
	}
	if body != nil {
		q.Header.Set("Content-Type", "application/json")
	}
	// One connection a question: a proxy may close one that is idle just when it is used.
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: c.Connect}).DialContext,
		TLSHandshakeTimeout: c.Connect, DisableKeepAlives: true}
	follow := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	r, err := (&http.Client{Transport: transport, CheckRedirect: follow}).Do(q)
	if err != nil {
		return reply{}, c.silent(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(io.LimitReader(r.Body, limit))
	if err != nil {
		return reply{}, c.silent(err)
	}
	return reply{code: r.StatusCode, text: text, to: r.Header.Get("Location")}, nil
}

// silent explains that there was no answer.
func (c *Client) silent(err error) error {
	var asked *url.Error
	if errors.As(err, &asked) {
		err = asked.Err // the URL is in the message already
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = errors.New("no answer in time")
	}
	return fault.Wrap(err, fault.PgBackupAPIService, "pg-backup-api at %s does not answer", c.URL()).
		WithHint("check pg_backupapi_host, and \"pg-backup-api status\" on that host; the service listens on its own host only, so a proxy must forward to it; \"curl %s\" here must say \"OK\"",
			c.at("status").Redacted())
}

// said is what the service says of a failure: JSON, or a page for people.
func (r reply) said() string {
	var answer struct {
		Error string `json:"error"`
	}
	text := string(r.text)
	if json.Unmarshal(r.text, &answer) == nil && answer.Error != "" {
		text = answer.Error
	} else {
		text = tags.ReplaceAllString(text, " ")
	}
	if text = strings.Join(strings.Fields(text), " "); len(text) > 300 {
		text = text[:300] + "..."
	}
	if text == "" {
		text = "nothing"
	}
	return strings.ToValidUTF8(text, "?")
}

var tags = regexp.MustCompile(`(?s)<(title|style|script).*?</(title|style|script)>|<[^>]*>`)

// strange explains an answer that the service does not give.
func (c *Client) strange(what string, r reply) error {
	f := fault.New(fault.PgBackupAPIService, "what answers at %s is not understood", c.URL()).
		WithDetail("asked for %s, it answered with status %d and said: %s", what, r.code, r.said()).
		WithHint("check pg_backupapi_host: \"curl %s\" must say \"OK\"; see the log of pg-backup-api, /var/log/barman/barman-api.log", c.at("status").Redacted())
	if r.to != "" {
		f.WithHint("it refers to %s: set pg_backupapi_host to that address", r.to)
	}
	return f
}

// Status makes sure that the service is there.
func (c *Client) Status(ctx context.Context) error {
	r, err := c.do(ctx, http.MethodGet, c.at("status"), nil, c.Answer, maxAnswer)
	if err != nil {
		return err
	}
	if ok := strings.Trim(strings.TrimSpace(string(r.text)), `"`) == "OK"; r.code != http.StatusOK || !ok {
		return c.strange("its status", r)
	}
	return nil
}

// Knows makes sure that Barman there has a server of that name.
func (c *Client) Knows(ctx context.Context, server string) error {
	r, err := c.do(ctx, http.MethodGet, c.at("servers", server, "operations"), nil, c.Answer, maxAnswer)
	if err != nil {
		return err
	}
	var answer struct {
		Operations *json.RawMessage `json:"operations"`
	}
	switch {
	case r.code == http.StatusNotFound:
		return c.unknown(server, r)
	case r.code != http.StatusOK || json.Unmarshal(r.text, &answer) != nil || answer.Operations == nil:
		return c.strange("the operations of "+strconv.Quote(server), r)
	}
	return nil
}

func (c *Client) unknown(server string, r reply) error {
	return fault.New(fault.PgBackupAPIService, "pg-backup-api at %s does not know the server %q", c.URL(), server).
		WithDetail("it said: %s", r.said()).
		WithHint("correct pg_backupapi_node_name in repmgr.conf: \"barman list-servers\" on Barman's host shows the names")
}

// Backup is a backup as Barman's diagnosis tells of it.
type Backup struct {
	Status      string // Barman's word
	Version     int    // PostgreSQL's, as server_version_num has it
	SystemID    string `json:"systemid"`
	Timeline    int
	EndLSN      string          `json:"end_xlog"`
	Size        int64           // in bytes
	Tablespaces json.RawMessage // name, oid, location of each
}

// Locations are the directories of the backup's tablespaces.
func (b Backup) Locations() []string {
	var all [][]any
	_ = json.Unmarshal(b.Tablespaces, &all) // what is not understood is not known
	var out []string
	for _, t := range all {
		if len(t) == 3 {
			if location, ok := t[2].(string); ok {
				out = append(out, location)
			}
		}
	}
	return out
}

// Complete tells whether Barman takes the backup for complete.
func (b Backup) Complete() bool { return b.Status == "DONE" || b.Status == "WAITING_FOR_WALS" }

// Backups are those that Barman has of a server, by their ids.
func (c *Client) Backups(ctx context.Context, server string) (map[string]Backup, error) {
	r, err := c.do(ctx, http.MethodGet, c.at("diagnose"), nil, c.Diagnosis, maxDiagnosis)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Servers map[string]struct {
			Backups map[string]Backup
		}
	}
	if r.code != http.StatusOK || json.Unmarshal(r.text, &answer) != nil || answer.Servers == nil {
		return nil, c.strange("Barman's diagnosis", r)
	}
	return answer.Servers[server].Backups, nil
}

// Restore is what is to be restored, and whither.
type Restore struct {
	Server     string // Barman's name of it
	BackupID   string
	SSHCommand string // by which Barman's host reaches this one
	Directory  string // here
}

// Begin orders a restore, and returns the number that the service gives it.
func (c *Client) Begin(ctx context.Context, o Restore) (id string, err error) {
	// Version 2 reads "type", and takes a restore for granted where it is missing, as version 1 does.
	body, err := json.Marshal(map[string]string{"type": "recovery", "backup_id": o.BackupID,
		"remote_ssh_command": o.SSHCommand, "destination_directory": o.Directory})
	if err != nil {
		return "", err
	}
	r, err := c.do(ctx, http.MethodPost, c.at("servers", o.Server, "operations"), body, c.Answer, maxAnswer)
	var cause *fault.Error
	if errors.As(err, &cause) {
		return "", cause.WithDetail("whether it has begun to restore is not known")
	}
	var answer struct {
		ID string `json:"operation_id"`
	}
	switch {
	case r.code == http.StatusNotFound && strings.Contains(r.said(), "Backup"):
		return "", fault.New(fault.PgBackupAPIService, "pg-backup-api at %s has no backup %s of %q", c.URL(), o.BackupID, o.Server).
			WithDetail("it said: %s", r.said()).
			WithHint("correct pg_backupapi_backup_id in repmgr.conf: \"barman list-backups %s\" on Barman's host shows the ids", o.Server)
	case r.code == http.StatusNotFound:
		return "", c.unknown(o.Server, r)
	case r.code != http.StatusAccepted || json.Unmarshal(r.text, &answer) != nil || answer.ID == "":
		return "", c.strange("a restore", r)
	}
	return answer.ID, nil
}

// The states of a restore.
const (
	done       = "DONE"
	failed     = "FAILED"
	inProgress = "IN_PROGRESS"
)

// state asks how a restore is.
func (c *Client) state(ctx context.Context, server, id string) (string, error) {
	r, err := c.do(ctx, http.MethodGet, c.at("servers", server, "operations", id), nil, c.Answer, maxAnswer)
	if err != nil {
		return "", err
	}
	var answer struct {
		Status string `json:"status"`
	}
	if r.code == http.StatusOK && json.Unmarshal(r.text, &answer) == nil {
		switch answer.Status {
		case done, failed, inProgress:
			return answer.Status, nil
		}
	}
	return "", c.strange("operation "+id, r)
}

// Wait waits for the end of a restore, however long it takes, and tells how long that is
// already at every question. An answer that makes no sense is no end: the service says
// 404 also while it reads the file that the restore is just writing.
func (c *Client) Wait(ctx context.Context, server, id string, tell func(elapsed time.Duration)) error {
	began := time.Now()
	heard := began
	for {
		switch state, err := c.state(ctx, server, id); {
		case ctx.Err() != nil:
			return ctx.Err()
		case state == done:
			return nil
		case state == failed:
			return fault.New(fault.PgBackupAPIService, "the restore by pg-backup-api has failed").
				WithDetail("it is operation %s of %q at %s", id, server, c.URL()).
				WithHint("what \"barman recover\" said is on Barman's host, in the directory of that server below barman_home: output/%s.json; often Barman's user cannot log in here by pg_backupapi_remote_ssh_command, or rsync is missing", id)
		case err == nil:
			heard = time.Now()
		case time.Since(heard) > c.Patience:
			f := fault.Wrap(err, fault.PgBackupAPIService, "pg-backup-api was lost while it restored").
				WithDetail("for %s it has not told how operation %s of %q is", time.Since(heard).Round(time.Second), id, server)
			var cause *fault.Error
			if errors.As(err, &cause) {
				f.WithDetail("%s; at last: %s", f.Detail, cmp.Or(cause.Detail, err.Error())).WithHint("%s", cause.Hint)
			}
			return f
		}
		tell(time.Since(began))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(c.Interval):
		}
	}
}
