package registry

import (
	"encoding/binary"
	"encoding/json"
	"slices"
	"testing"

	"repmgr/internal/cluster"
)

func TestMajorVersionOfABackup(t *testing.T) {
	for _, c := range []struct {
		text  string
		major int
		found bool
	}{
		{" 74 45 a6 5f 6c 6c 08 6b\nPG_VERSION 15\nSTART WAL LOCATION: 0/5000028\n", 15, true},
		{"PG_VERSION \n", 0, false},
		{"PG_VERSION 9.6\n", 0, false},
		{"15\n", 0, false},
	} {
		if major, found := majorOf(c.text); major != c.major || found != c.found {
			t.Errorf("%q: got %d, %v; want %d, %v", c.text, major, found, c.major, c.found)
		}
	}
}

// The row is as PostgreSQL 15 writes it: what is not set is null.
func TestRecordsToldThroughBarman(t *testing.T) {
	var got told
	err := json.Unmarshal([]byte(`{"system_id" : "7712533574588974452", "version" : 150018, "nodes" : [{"node_id":1,"upstream_node_id":null,"active":true,"node_name":"node1","type":"primary","location":"default","priority":100,"conninfo":"host=a","repluser":"repmgr","slot_name":null,"config_file":"/etc/repmgr.conf"},
 {"node_id":2,"upstream_node_id":1,"active":false,"node_name":"node2","type":"standby","location":"there","priority":50,"conninfo":"host=b","repluser":"other","slot_name":"repmgr_slot_2","config_file":"/etc/2.conf"}]}`), &got)
	want := []cluster.Node{
		{ID: 1, Active: true, Name: "node1", Role: cluster.Primary, Location: "default", Priority: 100, Conninfo: "host=a", ReplUser: "repmgr", ConfigFile: "/etc/repmgr.conf"},
		{ID: 2, Upstream: 1, Name: "node2", Role: cluster.Standby, Location: "there", Priority: 50, Conninfo: "host=b", ReplUser: "other", SlotName: "repmgr_slot_2", ConfigFile: "/etc/2.conf"},
	}
	if err != nil || got.SystemID != "7712533574588974452" || got.Version != 150018 || !slices.Equal(got.nodes(), want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

func TestSystemIDOfABackup(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the example is of a little-endian machine")
	}
	for _, c := range []struct {
		text, id string
		found    bool
	}{
		{" 74 45 a6 5f 6c 6c 08 6b\nSTART WAL LOCATION: 0/5000028\n", "7712533574588974452", true},
		{"Welcome to backup\n 01 00 00 00 00 00 00 00\n", "1", true},
		{"START WAL LOCATION: 0/5000028\n", "", false},
		{" 01 00 00\n", "", false},
		{"", "", false},
	} {
		if id, found := systemID(c.text); id != c.id || found != c.found {
			t.Errorf("%q: got %q, %v; want %q, %v", c.text, id, found, c.id, c.found)
		}
	}
}
