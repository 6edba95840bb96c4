package daemon

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/failover"
	"repmgr/internal/pg"
	"repmgr/internal/quorum"
	"repmgr/internal/registry"
	"repmgr/internal/server"
)

// After a power cut the number in a left-over PID file is soon another program's:
// the daemon starts all the same. It does not beside another daemon.
func TestPidFileOfAnotherProgram(t *testing.T) {
	other := exec.Command("sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	path := filepath.Join(t.TempDir(), "pid")
	for pid, free := range map[int]bool{other.Process.Pid: true, 1 << 22: true, -1: true, 0: true} {
		d := &Daemon{cfg: &conf.Config{}, opt: Options{PidFile: path}}
		if err := os.WriteFile(path, []byte(strconv.Itoa(pid)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := d.takePidFile(); (err == nil) != free {
			t.Errorf("process %d: %v", pid, err)
		}
	}
	if !isDaemon(os.Getpid()) {
		t.Error("a process of this very program is no daemon")
	}
}

// A daemon that does not see its server's processes gets no lease.
func TestServerOutOfSight(t *testing.T) {
	own := server.Own{Config: &conf.Config{DataDirectory: t.TempDir()}}
	// As from another PID namespace: the file names a number that is here nobody's, or somebody else's.
	for _, pid := range []int{1 << 22, 1, os.Getpid()} {
		if err := os.WriteFile(filepath.Join(own.Config.DataDirectory, "postmaster.pid"), []byte(strconv.Itoa(pid)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := pg.ReadPostmaster(own.Config.DataDirectory); err != nil {
			t.Fatal(err)
		}
		if err := mustSee(own); err == nil {
			t.Errorf("process %d is taken for the postmaster", pid)
		}
	}
}

// A state file of format 1 is read as it was meant, by this version and by every later
// one. What is in the file never changes: a later format gets a file of its own.
func TestStateFileOfFormat1(t *testing.T) {
	kept, err := os.ReadFile("testdata/cluster-1.json")
	if err != nil {
		t.Fatal(err)
	}
	s := &stateDir{path: t.TempDir()}
	path := filepath.Join(s.path, registry.StateFile)
	if err := os.WriteFile(path, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	want := remembered{
		Format: 1,
		Nodes: []cluster.Node{
			{ID: 1, Active: true, Name: "node1", Role: cluster.Primary, Location: "default", Priority: 100, Conninfo: "host=node1 dbname=repmgr user=repmgr",
				ReplUser: "repmgr", SlotName: "repmgr_slot_1", ConfigFile: "/etc/repmgr.conf"},
			{ID: 2, Upstream: 1, Active: true, Name: "node2", Role: cluster.Standby, Location: "here", Priority: 50, Conninfo: "host=node2 dbname=repmgr user=repmgr",
				ReplUser: "repmgr", ConfigFile: "/etc/repmgr.conf"},
		},
		Endpoints:   map[cluster.NodeID]registry.Endpoint{1: {Host: "node1", Port: 7433}, 2: {Host: "node2", Port: 7434}},
		Certificate: "of the authority", Key: "of the authority as well",
		Paused: true, PauseReason: "works", PausedUntil: time.Date(2026, 11, 26, 18, 0, 0, 0, time.UTC),
		FencedBy: 2, Ended: true, Rejoins: 3, Quorum: true, Disowned: "6f9a1a52", PeerKeys: api.Keys{2: "sha256:aa"},
		Withheld:  withheld{Held: true, Conninfo: "host=node1 user=repmgr"},
		Operators: operatorsSync{Kept: true, Set: true, Value: "ANY 1 (node2)"},
	}
	for range 2 { // as it was kept, and as this version writes it
		got, err := s.load()
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, %v\nwant %+v", got, err, want)
		}
		if err := s.save(got); err != nil {
			t.Fatal(err)
		}
	}
	if registry.StateFormat == 1 {
		if text, err := os.ReadFile(path); err != nil || string(text)+"\n" != string(kept) {
			t.Errorf("it is written in another form and has the same number (%v):\n%s", err, text)
		}
	}
}

// What a daemon notes in the group's store is read as it was noted by an older one.
func TestNotesOfFormat1(t *testing.T) {
	var seal failover.Sealed
	var marks keptMarks
	wantSeal := failover.Sealed{Group: "6f9a", Vacancy: 7, Incarnation: "1-2.3", Timeline: 4, LSN: 0x5000148, Line: "1@0/3000060 4"}
	wantMarks := keptMarks{Group: "6f9a", Marks: quorum.Marks{10: {Term: 3, Index: 12, Life: 99, Forgot: true}}}
	for text, into := range map[string]any{
		`{"group":"6f9a","vacancy":7,"incarnation":"1-2.3","timeline":4,"lsn":"0/5000148","line":"1@0/3000060 4"}`: &seal,
		`{"group":"6f9a","marks":{"10":{"term":3,"index":12,"life":99,"forgot":true}}}`:                            &marks,
	} {
		if err := json.Unmarshal([]byte(text), into); err != nil {
			t.Error(err)
		}
	}
	if seal != wantSeal || !reflect.DeepEqual(marks, wantMarks) {
		t.Errorf("%+v\n%+v", seal, marks)
	}
	if sealKey != "seal" || marksKey != "marks" || raftIDKey != "raft-id" || foundingKey != "founding" {
		t.Error("a note has another name than it had")
	}
}
