package registry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/fault"
	"repmgr/internal/lab/ports"
	"repmgr/internal/pg"
)

// columns lists every column of the schema that repmgr 5 has, with its type.
const columns = `SELECT c.relname || '.' || a.attname || ' ' || pg_catalog.format_type(a.atttypid, a.atttypmod)
	|| CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
	|| COALESCE(' default ' || pg_catalog.pg_get_expr(d.adbin, d.adrelid), '')
	FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
	LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
	WHERE c.relnamespace = 'repmgr'::regnamespace AND c.relkind IN ('r', 'v')
	  AND c.relname NOT IN ('endpoints', 'authority', 'quorum', 'schema_version')
	ORDER BY c.relname, a.attnum`

// constraints lists the constraints, indexes and rules of repmgr 5's tables.
const constraints = `SELECT line FROM (
	SELECT pg_catalog.pg_get_constraintdef(oid) AS line FROM pg_catalog.pg_constraint
	 WHERE connamespace = 'repmgr'::regnamespace AND conrelid <> COALESCE(to_regclass('repmgr.endpoints'), 0)
	   AND contype <> 'n'
	UNION ALL SELECT indexdef FROM pg_catalog.pg_indexes WHERE schemaname = 'repmgr' AND tablename NOT IN ('endpoints', 'authority', 'quorum')
	UNION ALL SELECT definition FROM pg_catalog.pg_rules WHERE schemaname = 'repmgr') AS all_of_them ORDER BY 1`

var (
	node1 = cluster.Node{ID: 1, Active: true, Name: "node1", Role: cluster.Primary, Location: "default", Priority: 100,
		Conninfo: "host=a dbname=repmgr", ReplUser: "repmgr", SlotName: "repmgr_slot_1", ConfigFile: "/etc/repmgr.conf"}
	node2 = cluster.Node{ID: 2, Upstream: 1, Active: true, Name: "node2", Role: cluster.Standby, Location: "south", Priority: 0,
		Conninfo: "host=b dbname=repmgr", ReplUser: "repmgr", ConfigFile: "/etc/repmgr.conf"}
)

func migrated(t *testing.T, s server) *pg.Conn {
	t.Helper()
	c := s.connect(t, "repmgr", "repmgr")
	if _, err := Migrate(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSchemaNeedsNoSuperuserAndIsMadeOnce(t *testing.T) {
	t.Parallel()
	c := startServer(t).connect(t, "repmgr", "repmgr")
	if nodes, current, err := Installed(t.Context(), c); nodes || current || err != nil {
		t.Errorf("before: %v %v %v", nodes, current, err)
	}
	for _, want := range []bool{true, false} {
		if created, err := Migrate(t.Context(), c); err != nil || created != want {
			t.Fatalf("created %v (%v), want %v", created, err, want)
		}
	}
	if nodes, current, err := Installed(t.Context(), c); !nodes || !current || err != nil {
		t.Errorf("after: %v %v %v", nodes, current, err)
	}
	if got := psql(t, c, "SELECT version FROM repmgr.schema_version"); got != "3" {
		t.Errorf("version %s", got)
	}
	if got := psql(t, c, "SELECT count(*) FROM information_schema.table_privileges WHERE table_schema='repmgr' AND grantee='PUBLIC'"); got != "0" {
		t.Errorf("%s privileges of PUBLIC", got)
	}
	version := func() string { t.Helper(); return psql(t, c, "SELECT version FROM repmgr.schema_version") }

	// Of an older version: what is missing is added.
	psql(t, c, "DROP TABLE repmgr.quorum")
	psql(t, c, "UPDATE repmgr.schema_version SET version = 2")
	if nodes, current, err := Installed(t.Context(), c); !nodes || current || err != nil {
		t.Errorf("an older one: %v %v %v", nodes, current, err)
	}
	if created, err := Migrate(t.Context(), c); created || err != nil || version() != "3" || psql(t, c, "SELECT to_regclass('repmgr.quorum') IS NULL") != "false" {
		t.Errorf("an older one was not brought forward: %v %v, version %s", created, err, version())
	}

	// Of a newer version that has only added to it, as while a cluster is updated.
	psql(t, c, "UPDATE repmgr.schema_version SET version = 999")
	if nodes, current, err := Installed(t.Context(), c); !nodes || !current || err != nil {
		t.Errorf("a newer one: %v %v %v", nodes, current, err)
	}
	if _, err := Migrate(t.Context(), c); err != nil || version() != "999" {
		t.Errorf("a newer one: %v, version %s", err, version())
	}

	// Of a newer version whose tables this one cannot use.
	psql(t, c, "DROP TABLE repmgr.quorum")
	psql(t, c, "UPDATE repmgr.schema_version SET version = 1000")
	_, _, installed := Installed(t.Context(), c)
	_, migrated := Migrate(t.Context(), c)
	for what, err := range map[string]error{"asked for": installed, "migrated": migrated, "founded": RecordFounding(t.Context(), c, "g", 1)} {
		var f *fault.Error
		if !errors.As(err, &f) || f.Code != fault.BadConfig || !strings.Contains(f.Msg, "newer version") || !strings.Contains(f.Detail, "version 1000 was found") || f.Hint == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if version() != "1000" || psql(t, c, "SELECT to_regclass('repmgr.quorum') IS NULL") != "true" {
		t.Error("it was changed")
	}
}

func TestSchemaIsThatOfTheExtension(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	super := s.connect(t, "postgres", "postgres")
	if psql(t, super, "SELECT count(*) FROM pg_catalog.pg_available_extensions WHERE name = 'repmgr'") == "0" {
		t.Skip("repmgr 5's extension is not installed")
	}
	psql(t, super, "CREATE DATABASE old")
	old := s.connect(t, "postgres", "old")
	psql(t, old, "CREATE EXTENSION repmgr")
	ours := migrated(t, s)
	for what, query := range map[string]string{"columns": columns, "constraints": constraints} {
		if got, want := psql(t, ours, query), psql(t, old, query); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", what, got, want)
		}
	}
	// The extension's tables belong to the superuser who created it.
	c := s.connect(t, "repmgr", "old")
	_, err := Migrate(t.Context(), c)
	if fault.CodeOf(err) != fault.BadConfig || !strings.Contains(err.(*fault.Error).Hint, "GRANT ALL ON SCHEMA repmgr TO \"repmgr\"") {
		t.Errorf("without privileges: %v", err)
	}
	if err := HandOver(t.Context(), old, "repmgr"); err != nil {
		t.Fatal(err)
	}
	if created, err := Migrate(t.Context(), c); created || err != nil {
		t.Errorf("adopting: created %v, %v", created, err)
	}
	if err := SaveNode(t.Context(), c, node1); err != nil {
		t.Error(err)
	}
	if got, want := psql(t, old, columns), psql(t, ours, columns); got != want {
		t.Errorf("adopted: got\n%s\nwant\n%s", got, want)
	}
}

func TestSchemaOfAUserWithoutCreate(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	super := s.connect(t, "postgres", "postgres")
	psql(t, super, "CREATE DATABASE bare")
	c := s.connect(t, "repmgr", "bare")
	_, err := Migrate(t.Context(), c)
	if fault.CodeOf(err) != fault.BadConfig || !strings.Contains(err.(*fault.Error).Hint, `GRANT CREATE ON DATABASE "bare" TO "repmgr"`) {
		t.Errorf("got %v", err)
	}
	if err := HandOver(t.Context(), s.connect(t, "postgres", "bare"), "repmgr"); err != nil {
		t.Fatal(err)
	}
	if created, err := Migrate(t.Context(), c); !created || err != nil {
		t.Errorf("created %v, %v", created, err)
	}
}

func TestRecords(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := migrated(t, startServer(t))
	for range 2 {
		for _, n := range []cluster.Node{node1, node2} {
			if err := SaveNode(ctx, c, n); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got, err := Nodes(ctx, c); err != nil || !reflect.DeepEqual(got, []cluster.Node{node1, node2}) {
		t.Errorf("nodes %+v, %v", got, err)
	}
	if _, err := Node(ctx, c, 9); !errors.Is(err, ErrNoRecord) {
		t.Errorf("node 9: %v", err)
	}
	err := DeleteNode(ctx, c, 1)
	if fault.CodeOf(err) != fault.DBQuery || !strings.Contains(err.(*fault.Error).Hint, "upstream") {
		t.Errorf("deleting an upstream: %v", err)
	}
	if err := RecordPromotion(ctx, c, 9); !errors.Is(err, ErrNoRecord) {
		t.Errorf("promoting a stranger: %v", err)
	}
	if n, _ := Node(ctx, c, 1); !n.Active {
		t.Error("a promotion that could not be recorded made the primary inactive")
	}
	if err := RecordPromotion(ctx, c, 2); err != nil {
		t.Fatal(err)
	}
	psql(t, c, "UPDATE repmgr.nodes SET type = 'standby', upstream_node_id = 2, active = true WHERE node_id = 1")
	if err := SetSlotName(ctx, c, 1, ""); err != nil {
		t.Fatal(err)
	}
	got := psql(t, c, "SELECT node_id || type || COALESCE(upstream_node_id, 0) || active || COALESCE(slot_name, '-') FROM repmgr.nodes ORDER BY 1")
	if want := "1standby2true-\n2primary0true-"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Under the quorum rule nobody is recorded behind a former primary, and a cascaded standby
// stays where it is.
func TestRecordSuccession(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := migrated(t, startServer(t))
	for id, upstream := range []cluster.NodeID{1: 0, 2: 1, 3: 1, 4: 3, 5: 2} {
		n := node2
		if n.ID, n.Name, n.Upstream = cluster.NodeID(id), fmt.Sprint("n", id), upstream; id == 0 {
			continue
		}
		if id == 1 {
			n.Role = cluster.Primary
		}
		if err := SaveNode(ctx, c, n); err != nil {
			t.Fatal(err)
		}
	}
	for _, odd := range []string{"", "", // the second time nothing is changed
		"UPDATE repmgr.nodes SET upstream_node_id = 1 WHERE node_id = 3", "UPDATE repmgr.nodes SET active = true WHERE node_id = 1"} {
		if odd != "" {
			psql(t, c, odd)
		}
		if err := RecordSuccession(ctx, c, 2); err != nil {
			t.Fatal(err)
		}
		got := psql(t, c, "SELECT string_agg(node_id || type || COALESCE(upstream_node_id, 0) || active, ' ' ORDER BY node_id) FROM repmgr.nodes")
		if want := "1primary0false 2primary0true 3standby0true 4standby3true 5standby2true"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestCopyNodesFollowsTheSource(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := startServer(t)
	from := migrated(t, s)
	psql(t, s.connect(t, "postgres", "postgres"), "CREATE DATABASE witness OWNER repmgr")
	to := s.connect(t, "repmgr", "witness")
	if _, err := Migrate(ctx, to); err != nil {
		t.Fatal(err)
	}
	stale := cluster.Node{ID: 7, Upstream: 2, Active: true, Name: "gone", Role: cluster.Standby, Location: "default", Conninfo: "x", ReplUser: "x", ConfigFile: "x"}
	lower := node2
	lower.ID, lower.Upstream = 3, 7 // refers to a record that is written after it
	seven := stale
	seven.ID, seven.Upstream = 7, 0
	steps := [][]cluster.Node{{node1, node2}, {node1, lower, seven}, {node1}}
	for _, nodes := range steps {
		psql(t, from, "DELETE FROM repmgr.nodes WHERE node_id > 2")
		psql(t, from, "DELETE FROM repmgr.nodes WHERE node_id > 1")
		for i := len(nodes) - 1; i >= 0; i-- {
			if nodes[i].Upstream == 1 {
				_ = SaveNode(ctx, from, node1)
			}
			if err := SaveNode(ctx, from, nodes[i]); err != nil {
				t.Fatal(err)
			}
		}
		if err := SaveEndpoint(ctx, from, 1, Endpoint{"a", 7433}); err != nil {
			t.Fatal(err)
		}
		if err := SaveAuthority(ctx, from, []byte("certificate"), []byte("key")); err != nil {
			t.Fatal(err)
		}
		if err := CopyNodes(ctx, from, to); err != nil {
			t.Fatal(err)
		}
		if got, err := Nodes(ctx, to); err != nil || !reflect.DeepEqual(got, nodes) {
			t.Errorf("copied %+v, %v; want %+v", got, err, nodes)
		}
	}
	if got, err := Endpoints(ctx, to); err != nil || !reflect.DeepEqual(got, map[cluster.NodeID]Endpoint{1: {"a", 7433}}) {
		t.Errorf("endpoints %v, %v", got, err)
	}
	if cert, key, found, err := Authority(ctx, to); string(cert) != "certificate" || string(key) != "key" || !found || err != nil {
		t.Errorf("authority %s %s %v %v", cert, key, found, err)
	}
	before := psql(t, to, "SELECT string_agg(xmin::text, ',') FROM repmgr.nodes")
	if err := CopyNodes(ctx, from, to); err != nil {
		t.Fatal(err)
	}
	if after := psql(t, to, "SELECT string_agg(xmin::text, ',') FROM repmgr.nodes"); after != before {
		t.Errorf("rows were written though nothing differed: %s, %s", before, after)
	}
}

func TestAuthorityAndTermAreNeverReplaced(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := migrated(t, startServer(t))
	if _, _, found, err := Authority(ctx, c); found || err != nil {
		t.Errorf("found %v, %v", found, err)
	}
	for _, name := range []string{"first", "second"} {
		if err := SaveAuthority(ctx, c, []byte(name), []byte(name)); err != nil {
			t.Fatal(err)
		}
	}
	if cert, _, _, _ := Authority(ctx, c); string(cert) != "first" {
		t.Errorf("the authority was replaced by %s", cert)
	}
	if term, err := RaiseTerm(ctx, c); term != 2 || err != nil {
		t.Errorf("term %d, %v", term, err)
	}
	if err := StartTerm(ctx, c); err != nil {
		t.Fatal(err)
	}
	if term, err := Term(ctx, c); term != 2 || err != nil {
		t.Errorf("registering again made the term %d, %v", term, err)
	}
	psql(t, c, "DELETE FROM repmgr.voting_term")
	if term, _ := Term(ctx, c); term != 2 {
		t.Error("the term could be deleted")
	}
}

func TestMonitoringHistory(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := migrated(t, startServer(t))
	for _, n := range []cluster.Node{node1, node2} {
		if err := SaveNode(ctx, c, n); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		err := AddMonitoring(ctx, c, Sample{Primary: 1, Standby: 2, PrimaryLSN: 0x3000148, ReplicationLag: 2048, Applied: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
	}
	got := psql(t, c, `SELECT concat_ws(' ', standby_name, node_type, last_wal_primary_location, replication_lag,
		replication_time_lag < '1 minute', apply_lag, communication_time_lag < '1 minute') FROM repmgr.replication_status`)
	if want := "node2 standby 0/3000148 2048 bytes t 0 bytes t"; got != want {
		t.Errorf("status %q, want %q", got, want)
	}
	psql(t, c, "UPDATE repmgr.monitoring_history SET last_monitor_time = now() - '3 days'::interval WHERE ctid = '(0,1)'")
	for _, step := range []struct {
		h    History
		want int64
	}{{History{KeepDays: 4}, 0}, {History{KeepDays: 2}, 1}, {History{Standby: 9}, 0}, {History{}, 2}, {History{}, 0}} {
		if n, err := CleanupMonitoring(ctx, c, step.h); n != step.want || err != nil {
			t.Errorf("%+v: deleted %d, %v; want %d", step.h, n, err, step.want)
		}
	}
	if err := VacuumMonitoring(ctx, c); err != nil {
		t.Error(err)
	}
}

func TestEventsAreKeptAndNotified(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := migrated(t, startServer(t))
	if err := SaveNode(ctx, c, node1); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	cfg := conf.Default()
	cfg.EventNotificationCommand = `printf '%%s\n' %n %e %s "%t" "%d" %p "%c" %a >>` + out
	cfg.EventNotifications = []string{"standby_follow"}
	details := `it's "$(touch /tmp/no)" ` + "`x`"
	events := []Event{
		{Node: 1, Name: "standby_follow", Successful: true, Details: details, About: cluster.Node{ID: 2, Name: "b c", Conninfo: "host=b dbname=x"}},
		{Node: 8, Name: "standby_promote"},
	}
	for _, e := range events {
		if err := Announce(ctx, c, cfg, e); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := Events(ctx, c, EventFilter{})
	if err != nil || len(kept) != 2 || kept[0].Name != "standby_promote" || kept[0].NodeName != "" || kept[1].NodeName != "node1" || kept[1].Details != details {
		t.Errorf("events %+v, %v", kept, err)
	}
	for _, f := range []EventFilter{{Limit: 1}, {Node: 8}, {NodeName: "node1"}, {Name: "standby_follow"}} {
		if kept, err := Events(ctx, c, f); len(kept) != 1 || err != nil {
			t.Errorf("%+v: %d events, %v", f, len(kept), err)
		}
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	lines[3] = "" // the time
	want := []string{"1", "standby_follow", "1", "", details, "2", "host=b dbname=x", "b", "c"}
	if !reflect.DeepEqual(lines, want) {
		t.Errorf("notified %q, want %q", lines, want)
	}
	cfg.EventNotificationCommand, cfg.EventNotifications = "exit 3", nil
	if err := Notify(ctx, cfg, events[0]); err == nil || !strings.Contains(err.Error(), "status 3") {
		t.Errorf("a failing command: %v", err)
	}
}

func TestExpandLeavesWhatItDoesNotKnow(t *testing.T) {
	got := Expand(`100%% %x '%d' "%d" %d \%d "'%d'" %`, map[byte]string{'d': `a'b"c d`})
	want := `100% %x 'a'\''b"c d' "a'b\"c d" a\'b\"c d \%d "'a'b\"c d'" %`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestAskAllTakesAsLongAsTheSlowest(t *testing.T) {
	t.Parallel()
	nodes := make([]cluster.Node, 20)
	all := make(chan struct{}, len(nodes))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	answers := AskAll(ctx, nodes, func(ctx context.Context, n cluster.Node) (int, error) {
		all <- struct{}{}
		for len(all) < len(nodes) { // returns only once everybody was asked
			select {
			case <-ctx.Done():
				return 0, ctx.Err()
			case <-time.After(time.Millisecond):
			}
		}
		return 1, nil
	})
	for i, a := range answers {
		if a.Value != 1 || a.Err != nil {
			t.Errorf("node %d: %v", i, a.Err)
		}
	}
}

func TestFindPrimaryAmongTheLivingAndTheDead(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	primary := startServer(t)
	standby := primary.startStandby(t)
	nodes := []cluster.Node{
		{ID: 1, Name: "gone", Active: true, Role: cluster.Primary, Conninfo: server{port: ports.For(t)}.conninfo("repmgr", "repmgr")},
		{ID: 2, Name: "standby", Active: true, Role: cluster.Primary, Conninfo: standby.conninfo("repmgr", "repmgr")},
		{ID: 3, Name: "primary", Active: true, Role: cluster.Standby, Conninfo: primary.conninfo("repmgr", "repmgr")},
		{ID: 4, Name: "witness", Active: true, Role: cluster.Witness, Conninfo: primary.conninfo("repmgr", "postgres")},
	}
	n, c, err := FindPrimary(ctx, nodes)
	if err != nil || n.ID != 3 {
		t.Fatalf("found %d, %v", n.ID, err)
	}
	Close(c)
	_, _, err = FindPrimary(ctx, append(nodes[:2:2], nodes[3]))
	if fault.CodeOf(err) != fault.BadConfig || !strings.Contains(err.(*fault.Error).Detail, `1 of 2 nodes are in recovery; node "gone"`) {
		t.Errorf("without a primary: %v", err)
	}
	program(t, "pg_ctl", "-D", standby.dir, "-w", "promote")
	n, c, err = FindPrimary(ctx, nodes)
	if err != nil || n.ID != 2 {
		t.Fatalf("of two primaries %d was taken, %v; the one on the newer timeline is node 2", n.ID, err)
	}
	Close(c)
	nodes[0] = nodes[2]
	if _, _, err = FindPrimary(ctx, []cluster.Node{nodes[2], {ID: 5, Name: "same timeline", Active: true, Conninfo: nodes[2].Conninfo}}); err == nil || !strings.Contains(err.Error(), "two servers take writes") {
		t.Errorf("two primaries on one timeline: %v", err)
	}
}

// What a daemon reads at once is what its parts are; tables that repmgr 5 has not are empty.
func TestKept(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := startServer(t)
	if _, err := ReadKept(ctx, s.connect(t, "repmgr", "repmgr")); err == nil {
		t.Error("a database without metadata was read")
	}
	c := migrated(t, s)
	want := Kept{Nodes: []cluster.Node{node1}, Endpoints: map[cluster.NodeID]Endpoint{}}
	read := func() {
		t.Helper()
		if got, err := ReadKept(ctx, c); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	}
	if err := SaveNode(ctx, c, node1); err != nil {
		t.Fatal(err)
	}
	read()
	want.Endpoints[1], want.Certificate, want.Key = Endpoint{"a", 7433}, []byte("certificate"), []byte("key")
	want.Founding = Founding{Group: "g", Rule: "visibility"}
	err := errors.Join(SaveEndpoint(ctx, c, 1, want.Endpoints[1]), SaveAuthority(ctx, c, want.Certificate, want.Key), RecordFounding(ctx, c, "g", 1))
	if err != nil {
		t.Fatal(err)
	}
	read()
	psql(t, c, "DROP TABLE repmgr.endpoints, repmgr.authority, repmgr.quorum")
	want = Kept{Nodes: []cluster.Node{node1}, Endpoints: map[cluster.NodeID]Endpoint{}}
	read()
}
