package ops

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/plan"
)

var update = flag.Bool("update", false, "rewrite golden files")

var (
	up     = Server{Reachable: true, Version: 150018, SystemID: "7", Timeline: 1, Position: 0x3000148, SlotsFree: 10, Senders: 10}
	behind = Server{Reachable: true, Version: 150018, SystemID: "7", Timeline: 1, Position: 0x3000100, SlotsFree: 10, Senders: 10, InRecovery: true}
	down   = Server{Why: "connection refused"}

	node1 = cluster.Node{ID: 1, Active: true, Name: "node1", Role: cluster.Primary, Location: "default", Priority: 100, Conninfo: "host=a", ReplUser: "repmgr", ConfigFile: "/etc/repmgr.conf"}
	node2 = cluster.Node{ID: 2, Upstream: 1, Active: true, Name: "node2", Role: cluster.Standby, Location: "default", Priority: 100, Conninfo: "host=b", ReplUser: "repmgr", ConfigFile: "/etc/repmgr.conf"}
	node3 = cluster.Node{ID: 3, Upstream: 1, Active: true, Name: "node3", Role: cluster.Standby, Location: "default", Priority: 100, Conninfo: "host=c", ReplUser: "repmgr", ConfigFile: "/etc/repmgr.conf"}
	node4 = cluster.Node{ID: 4, Upstream: 1, Active: true, Name: "node4", Role: cluster.Witness, Location: "default", Conninfo: "host=d", ReplUser: "repmgr", ConfigFile: "/etc/repmgr.conf"}
)

// surveyOf is a cluster of three nodes and a witness, seen from self.
func surveyOf(self cluster.Node) Survey {
	s := Survey{Self: self, Endpoint: Endpoint{"here", 7433}, Local: behind, Primary: 1,
		Nodes:   []cluster.Node{node1, node2, node3, node4},
		Servers: map[cluster.NodeID]Server{1: up, 2: behind, 3: behind, 4: {Reachable: true, Version: 150018, SystemID: "9"}}}
	if self.Role == cluster.Primary {
		s.Local = up
	}
	return s
}

// worldOf is the world that matches a survey.
func worldOf(s Survey) *fake {
	f := newFake()
	for _, n := range s.Nodes {
		f.Records[n.ID] = n
	}
	f.Standby = s.Local.InRecovery
	f.Metadata[Cluster] = len(s.Nodes) > 0
	return f
}

func without(s Survey, id cluster.NodeID) Survey {
	var nodes []cluster.Node
	for _, n := range s.Nodes {
		if n.ID != id {
			nodes = append(nodes, n)
		}
	}
	s.Nodes = nodes
	return s
}

// holding says that the primary has the local standby attached.
func holding(s Survey) Survey {
	held := up
	held.Holds = true
	s.Servers[1] = held
	return s
}

var cloneSource = CloneSource{Server: up, Name: "server a:5432", Metadata: true, ClusterID: "7", ClusterName: "node1", Size: 1 << 30,
	Settings: map[string]string{"wal_level": "replica", "hot_standby": "on", "max_wal_senders": "10", "archive_mode": "off"}, Checksums: true,
	Tablespaces: []Tablespace{{Location: "/mnt/fast", Target: "/mnt/other"}},
	Files:       []ExternalFile{{Setting: "config_file", Path: "/etc/postgresql/15/main/postgresql.conf"}, {Setting: "hba_file", Path: "/etc/postgresql/15/main/pg_hba.conf"}}, MayReadFile: true}

var cloneOptions = CloneOptions{DataDirectory: "/data", Upstream: 1, Streams: true, Slot: "repmgr_slot_3", VerifyBackup: true, ToolMajor: 15,
	Recovery: Recovery{PrimaryConninfo: "host=a user=repmgr application_name=node3", PrimarySlotName: "repmgr_slot_3"},
	Backup:   Backup{Path: "/data", Tablespaces: [][2]string{{"/mnt/fast", "/mnt/other"}}, Command: "pg_basebackup -D /data"}}

var barmanBackup = BarmanBackup{Host: "barman@backup", Server: "main", ID: "20260102T030405", Done: true, Version: 150018, SystemID: "7", BeginWAL: "000000010000000000000002"}

// unseenSource is one that nobody connected to: nothing is known of it.
func unseenSource(change func(*CloneSource)) CloneSource {
	c := CloneSource{Server: Server{Version: 150000}, Unseen: true, Name: "the upstream", Address: "Barman on barman@backup"}
	change(&c)
	return c
}

// fromBarman is a clone of that backup.
func fromBarman(change func(*BarmanBackup)) CloneOptions {
	o, b := cloneOptions, barmanBackup
	change(&b)
	o.Barman, o.VerifyBackup, o.Streams = &b, false, false
	return o
}

// byAPI is a clone of a backup by way of pg-backup-api.
func byAPI(change func(*APIBackup)) CloneOptions {
	o := cloneOptions
	b := APIBackup{URL: "http://backup:7480", Server: "main", ID: "20260102T030405", SSHCommand: "ssh postgres@node3",
		Known: true, Done: true, Status: "DONE", Version: 150018, SystemID: "7"}
	change(&b)
	o.API, o.VerifyBackup, o.Streams = &b, false, false
	return o
}

var followOptions = FollowOptions{Target: 2, Timeout: 30 * time.Second, OldSlot: "repmgr_slot_3",
	Recovery: Recovery{PrimaryConninfo: "host=b user=repmgr application_name=node3", PrimarySlotName: "repmgr_slot_3"}}

// verbs are plans of every kind, with the world that each was made for.
var verbs = []struct {
	name   string
	survey func() Survey
	plan   func(Survey) (Plan, error)
	dir    string
}{
	{"primary_register", func() Survey { return Survey{Self: node1, Endpoint: Endpoint{"a", 7433}, Local: up} },
		func(s Survey) (Plan, error) { return PrimaryRegister(s, RegisterOptions{}) }, ""},
	{"primary_register_over_a_dead_one", func() Survey {
		s := surveyOf(cluster.Node{ID: 9, Active: true, Name: "node9", Role: cluster.Primary, ConfigFile: "x"})
		s.Servers[1] = down
		return s
	}, func(s Survey) (Plan, error) { return PrimaryRegister(s, RegisterOptions{}) }, ""},
	{"primary_unregister", func() Survey {
		s := without(surveyOf(node2), 4)
		s = without(s, 3)
		s = without(s, 2)
		s.Servers[1] = down
		return s
	},
		func(s Survey) (Plan, error) {
			return PrimaryUnregister(s, UnregisterOptions{Target: 1, Force: true, Endpoint: &Endpoint{"a", 7433}})
		}, ""},
	{"standby_register", func() Survey { return holding(without(surveyOf(node3), 3)) },
		func(s Survey) (Plan, error) { return StandbyRegister(s, RegisterOptions{WaitSync: time.Minute}) }, ""},
	{"standby_register_below_a_stranger", func() Survey { return holding(without(surveyOf(node3), 2)) },
		func(s Survey) (Plan, error) {
			return StandbyRegister(s, RegisterOptions{Force: true, Upstream: 2, UpstreamConninfo: "host=b"})
		}, ""},
	{"standby_unregister", func() Survey { return surveyOf(node3) },
		func(s Survey) (Plan, error) { return StandbyUnregister(s, UnregisterOptions{}) }, ""},
	{"witness_register", func() Survey {
		s := without(surveyOf(node4), 4)
		s.Local = Server{Reachable: true, Version: 150018, SystemID: "9"}
		return s
	}, func(s Survey) (Plan, error) { return WitnessRegister(s, false, RegisterOptions{}) }, ""},
	{"standby_promote", func() Survey { s := surveyOf(node2); s.Servers[1] = down; return s },
		func(s Survey) (Plan, error) {
			return StandbyPromote(s, PromoteOptions{Promotion: Promotion{Timeout: time.Minute}})
		}, ""},
	{"standby_follow", func() Survey { return surveyOf(node3) },
		func(s Survey) (Plan, error) { return StandbyFollow(s, followOptions) }, ""},
	{"witness_follow", func() Survey { s := surveyOf(node4); s.Primary = 2; return s }, WitnessFollow, ""},
	{"standby_clone", func() Survey { return surveyOf(node3) },
		func(s Survey) (Plan, error) {
			return StandbyClone(s, cloneSource, DirectoryState{Free: -1}, cloneOptions)
		}, "missing"},
	{"standby_clone_into_an_empty_directory", func() Survey { return surveyOf(node3) },
		func(s Survey) (Plan, error) {
			return StandbyClone(s, cloneSource, DirectoryState{Exists: true, Empty: true, Free: -1}, cloneOptions)
		}, "empty"},
	{"standby_clone_from_barman", func() Survey { return surveyOf(node3) },
		func(s Survey) (Plan, error) {
			return StandbyClone(s, cloneSource, DirectoryState{Free: -1}, fromBarman(func(*BarmanBackup) {}))
		}, "missing"},
	{"standby_clone_by_pg_backup_api", func() Survey { return surveyOf(node3) },
		func(s Survey) (Plan, error) {
			return StandbyClone(s, cloneSource, DirectoryState{Free: -1}, byAPI(func(*APIBackup) {}))
		}, "missing"},
	{"standby_clone_from_barman_alone", func() Survey { s := surveyOf(node3); s.Nodes, s.Servers, s.Primary = nil, nil, 0; return s },
		func(s Survey) (Plan, error) {
			o := fromBarman(func(*BarmanBackup) {})
			o.Upstream, o.Backup.Tablespaces = 0, nil
			return StandbyClone(s, unseenSource(func(*CloneSource) {}), DirectoryState{Free: -1}, o)
		}, "missing"},
}

// again is what a survey finds after a first attempt.
func again(f *fake, s Survey) Survey {
	s.Local.InRecovery = f.Standby
	s.Nodes = nil
	for id := cluster.NodeID(1); id < 10; id++ {
		if n, found := f.Records[id]; found {
			s.Nodes = append(s.Nodes, n)
		}
	}
	return s
}

func TestDryRunsSayEverythingAndChangeNothing(t *testing.T) {
	for _, v := range verbs {
		t.Run(v.name, func(t *testing.T) {
			s := v.survey()
			f := worldOf(s)
			f.Dir = v.dir
			p, err := v.plan(s)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			fmt.Fprintln(&out, p.Name)
			err = p.Explain(t.Context(), f, func(e plan.Event) {
				fmt.Fprintf(&out, "%d/%d %-5s %s\n", e.Step, e.Of, e.What, e.Text)
			})
			if err != nil {
				t.Error(err)
			}
			if f.changes != 0 || len(f.events) != 0 {
				t.Errorf("a dry run made %d changes and %d events", f.changes, len(f.events))
			}
			golden := filepath.Join("testdata", v.name+".golden")
			if *update {
				if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(want, out.Bytes()) {
				t.Errorf("got:\n%s\nwant:\n%s", out.Bytes(), want)
			}
		})
	}
}

// Whichever change fails, before or after it took effect: either the world is as
// it was, or the same verb finishes what was begun.
func TestPlansSurviveAFailureOfEveryChange(t *testing.T) {
	for _, v := range verbs {
		t.Run(v.name, func(t *testing.T) {
			s := v.survey()
			clean := worldOf(s)
			clean.Dir = v.dir
			if err := carry(t, v.plan, s, clean); err != nil {
				t.Fatal(err)
			}
			for n := 1; n <= clean.changes; n++ {
				for _, after := range []bool{false, true} {
					f := worldOf(s)
					f.Dir, f.failAt, f.after = v.dir, n, after
					before := f.copied()
					err := carry(t, v.plan, s, f)
					t.Run(fmt.Sprintf("change %d after %v", n, after), func(t *testing.T) {
						checkFailure(t, v.name, f, err)
						checkRest(t, v.name, f, before)
						if strings.HasPrefix(v.name, "standby_clone") || reflect.DeepEqual(f.state, before) {
							return
						}
						second := again(f, s)
						err := carry(t, func(s Survey) (Plan, error) { return forced(v.name, v.plan, s) }, second, f)
						if !reflect.DeepEqual(f.state, clean.state) {
							t.Errorf("the second run (%v) ended at\n%+v\nwant\n%+v", err, f.state, clean.state)
						}
					})
				}
			}
		})
	}
}

// checkFailure looks at the error and the event of a plan of which a change failed.
func checkFailure(t *testing.T, verb string, f *fake, err error) {
	t.Helper()
	last := len(f.events) - 1
	switch {
	case err == nil && verb == "standby_follow" && f.failAt == f.changes:
		// An old slot that is left is no failure of the follow.
	case !errors.Is(err, errBoom) || fault.CodeOf(err) != fault.DBQuery:
		t.Errorf("got %v (status %d)", err, fault.CodeOf(err))
	case verb == "witness_follow": // it has no event
	case last < 0 || !f.events[last].Failed || f.events[last].Details == "":
		t.Errorf("the failure was not announced: %+v", f.events)
	}
}

// checkRest looks at what a failed plan has left behind.
func checkRest(t *testing.T, verb string, f *fake, before state) {
	t.Helper()
	if len(f.Held) > 0 {
		t.Errorf("WAL is still held: %v", f.Held)
	}
	before.Recovery, before.Active = f.state.Recovery, f.Active // they are the copy's, and gone with it
	if strings.HasPrefix(verb, "standby_clone") && !reflect.DeepEqual(f.state, before) {
		t.Errorf("the clone left\n%+v\nof\n%+v", f.state, before)
	}
}

// forced is the verb as an operator gives it a second time: a registration
// overwrites the record that the first attempt may have left.
func forced(name string, build func(Survey) (Plan, error), s Survey) (Plan, error) {
	switch name {
	case "primary_register", "primary_register_over_a_dead_one":
		return PrimaryRegister(s, RegisterOptions{Force: true})
	case "standby_register":
		return StandbyRegister(s, RegisterOptions{WaitSync: time.Minute, Force: true})
	case "witness_register":
		return WitnessRegister(s, true, RegisterOptions{Force: true})
	}
	return build(s)
}

func carry(t *testing.T, build func(Survey) (Plan, error), s Survey, f *fake) error {
	t.Helper()
	p, err := build(s)
	if fault.CodeOf(err) == fault.PromotionFail {
		return err // it was finished after all
	}
	if err != nil {
		t.Fatal(err)
	}
	return Carry(t.Context(), p, f, fault.DBQuery, func(plan.Event) {})
}

// refusal is a verb that must not be planned.
type refusal struct {
	name   string
	survey Survey
	plan   func(Survey) (Plan, error)
	code   fault.Code
	text   string
}

func checkRefusals(t *testing.T, refusals []refusal) {
	t.Helper()
	for _, c := range refusals {
		t.Run(c.name, func(t *testing.T) {
			_, err := c.plan(c.survey)
			var f *fault.Error
			if !errors.As(err, &f) || f.Code != c.code || !strings.Contains(f.Msg, c.text) {
				t.Fatalf("got %v (status %d), want %q (%d)", err, fault.CodeOf(err), c.text, c.code)
			}
			if f.Hint == "" {
				t.Error("it does not say what to do")
			}
		})
	}
}

// alter is a survey with something changed.
func alter(s Survey, change func(*Survey)) Survey {
	change(&s)
	return s
}

func TestRegistrationsThatAreRefused(t *testing.T) {
	register := func(s Survey) (Plan, error) { return StandbyRegister(s, RegisterOptions{}) }
	checkRefusals(t, []refusal{
		{"a standby as primary", surveyOf(node2), func(s Survey) (Plan, error) { return PrimaryRegister(s, RegisterOptions{}) }, 1, "is a standby"},
		{"a second primary", alter(surveyOf(node1), func(s *Survey) { s.Self.ID, s.Self.Name = 9, "x" }), func(s Survey) (Plan, error) { return PrimaryRegister(s, RegisterOptions{Force: true}) }, 1, "another primary"},
		{"registered already", surveyOf(node1), func(s Survey) (Plan, error) { return PrimaryRegister(s, RegisterOptions{}) }, 1, "registered already"},
		{"a taken name", alter(surveyOf(node1), func(s *Survey) { s.Self.Name = "node2" }), func(s Survey) (Plan, error) { return PrimaryRegister(s, RegisterOptions{Force: true}) }, 1, `the name "node2"`},
		{"an old server", alter(surveyOf(node1), func(s *Survey) { s.Local.Version = 120004 }), func(s Survey) (Plan, error) { return PrimaryRegister(s, RegisterOptions{Force: true}) }, 1, "too old"},
		{"an upstream unregistered", surveyOf(node1), func(s Survey) (Plan, error) { return PrimaryUnregister(s, UnregisterOptions{Force: true}) }, 1, "upstream of other nodes"},
		{"a primary as standby", alter(surveyOf(node2), func(s *Survey) { s.Local = up }), register, 1, "is no standby"},
		{"another major version", alter(without(surveyOf(node3), 3), func(s *Survey) { s.Local.Version = 140001 }), register, 1, "another major version"},
		{"another cluster", alter(without(surveyOf(node3), 3), func(s *Survey) { s.Local.SystemID = "8" }), register, 1, "another cluster"},
		{"not attached", without(surveyOf(node3), 3), register, 1, "not attached"},
		{"its own upstream", holding(without(surveyOf(node3), 3)), func(s Survey) (Plan, error) { return StandbyRegister(s, RegisterOptions{Upstream: 3}) }, 1, "own upstream"},
		{"an unknown upstream", holding(without(surveyOf(node3), 3)), func(s Survey) (Plan, error) { return StandbyRegister(s, RegisterOptions{Upstream: 8}) }, 1, "not registered"},
		{"a witness unregistered as standby", surveyOf(node3), func(s Survey) (Plan, error) { return StandbyUnregister(s, UnregisterOptions{Target: 4}) }, 1, "no standby"},
		{"a stranger unregistered", surveyOf(node3), func(s Survey) (Plan, error) { return StandbyUnregister(s, UnregisterOptions{Target: 8}) }, 1, "not registered"},
		{"a copy of the cluster as witness", alter(without(surveyOf(node4), 4), func(s *Survey) { s.Local = up }), func(s Survey) (Plan, error) { return WitnessRegister(s, false, RegisterOptions{}) }, 1, "belongs to the cluster"},
		{"a standby as witness", without(surveyOf(node4), 4), func(s Survey) (Plan, error) { return WitnessRegister(s, false, RegisterOptions{}) }, 1, "cannot be a witness"},
	})
}

func TestPromotionsAndFollowsThatAreRefused(t *testing.T) {
	promote := func(s Survey) (Plan, error) { return StandbyPromote(s, PromoteOptions{}) }
	follow := func(change func(*FollowOptions)) func(Survey) (Plan, error) {
		o := followOptions
		change(&o)
		return func(s Survey) (Plan, error) { return StandbyFollow(s, o) }
	}
	checkRefusals(t, []refusal{
		{"a primary promoted", alter(surveyOf(node1), func(s *Survey) {}), promote, 8, "primary already"},
		{"a promotion beside a primary", surveyOf(node2), promote, 8, "the cluster has a primary"},
		{"an unregistered node promoted", without(surveyOf(node3), 3), promote, 7, "not registered"},
		{"a primary that follows", alter(surveyOf(node3), func(s *Survey) { s.Local = up }), follow(func(*FollowOptions) {}), 1, "no standby"},
		{"a node that follows itself", surveyOf(node3), follow(func(o *FollowOptions) { o.Target = 3 }), 23, "cannot follow itself"},
		{"an unknown target", surveyOf(node3), follow(func(o *FollowOptions) { o.Target = 8 }), 23, "not registered"},
		{"a witness followed", surveyOf(node3), follow(func(o *FollowOptions) { o.Target = 4 }), 23, "is a witness"},
		{"no primary", alter(surveyOf(node3), func(s *Survey) { s.Primary = 0 }), follow(func(o *FollowOptions) { o.Target = 0 }), 23, "no primary"},
		{"a primary that is none", alter(surveyOf(node3), func(s *Survey) { n := s.Servers[2]; n.InRecovery, s.Primary = true, 1; s.Servers[2] = n }),
			follow(func(o *FollowOptions) { o.Primary = true }), 23, "is not the primary"},
		{"a dead target", alter(surveyOf(node3), func(s *Survey) { s.Servers[2] = down }), follow(func(*FollowOptions) {}), 23, "cannot be reached"},
		{"a diverged server", surveyOf(node3), follow(func(o *FollowOptions) { o.Diverged = "timeline 1 ended at 0/2" }), 23, "cannot follow"},
		{"no slots", alter(surveyOf(node3), func(s *Survey) { n := behind; n.SlotsFree = 0; s.Servers[2] = n }), follow(func(*FollowOptions) {}), 23, "replication slots"},
		{"no senders", alter(surveyOf(node3), func(s *Survey) { n := behind; n.Senders = 0; s.Servers[2] = n }), follow(func(*FollowOptions) {}), 23, "WAL senders"},
	})
}

func TestClonesThatAreRefused(t *testing.T) {
	source := func(change func(*CloneSource)) CloneSource { c := cloneSource; change(&c); return c }
	clone := func(src CloneSource, dir DirectoryState, change func(*CloneOptions)) func(Survey) (Plan, error) {
		o := cloneOptions
		change(&o)
		return func(s Survey) (Plan, error) { return StandbyClone(s, src, dir, o) }
	}
	same := func(*CloneOptions) {}
	free := DirectoryState{Free: -1}
	checkRefusals(t, []refusal{
		{"a running server", surveyOf(node3), clone(cloneSource, DirectoryState{Exists: true, Running: 5}, func(o *CloneOptions) { o.Force = true }), 1, "server runs"},
		{"a full directory", surveyOf(node3), clone(cloneSource, DirectoryState{Exists: true, Is: "other files"}, same), 1, "not empty"},
		{"a broken clone", surveyOf(node3), clone(cloneSource, DirectoryState{Exists: true, Partial: true}, same), 1, "broken off"},
		{"no metadata", surveyOf(node3), clone(source(func(c *CloneSource) { c.Metadata = false }), free, same), 1, "no repmgr metadata"},
		{"a witness cloned", surveyOf(node3), clone(source(func(c *CloneSource) { c.SystemID = "9" }), free, same), 1, "does not belong"},
		{"other programs", surveyOf(node3), clone(cloneSource, free, func(o *CloneOptions) { o.ToolMajor = 17 }), 1, "another major version"},
		{"wal_level", surveyOf(node3), clone(source(func(c *CloneSource) { c.Settings = map[string]string{"wal_level": "minimal"} }), free, same), 1, "wal_level"},
		{"no senders to clone", surveyOf(node3), clone(source(func(c *CloneSource) { c.Senders = 1 }), free, same), 1, "WAL senders"},
		{"no slots to clone", alter(surveyOf(node3), func(s *Survey) { n := up; n.SlotsFree = 1; s.Servers[1] = n }), clone(cloneSource, free, same), 1, "replication slots"},
		{"no room", surveyOf(node3), clone(source(func(c *CloneSource) { c.Tablespaces = nil }), DirectoryState{Free: 1 << 20}, func(o *CloneOptions) { o.Backup.Tablespaces = nil }), 14, "too little room"},
		{"no upstream", alter(surveyOf(node3), func(s *Survey) { s.Nodes = nil }), clone(cloneSource, free, same), 1, "no record"},
		{"an unknown tablespace", surveyOf(node3), clone(source(func(c *CloneSource) { c.Tablespaces = nil }), free, same), 1, "tablespace_mapping"},
		{"a full tablespace", surveyOf(node3), clone(source(func(c *CloneSource) {
			c.Tablespaces = []Tablespace{{Location: "/mnt/fast", Target: "/mnt/other", State: DirectoryState{Exists: true}}}
		}), free, same), 1, "for a tablespace, is not empty"},
		{"files that may not be read", surveyOf(node3), clone(source(func(c *CloneSource) { c.MayReadFile = false }), free, func(o *CloneOptions) { o.CopyFiles = SamePath }), 1, "may not be read"},
	})
}

func TestClonesFromBarmanThatAreRefused(t *testing.T) {
	clone := func(change func(*CloneOptions), backup func(*BarmanBackup)) func(Survey) (Plan, error) {
		o := fromBarman(backup)
		change(&o)
		return func(s Survey) (Plan, error) {
			return StandbyClone(s, cloneSource, DirectoryState{Free: -1}, o)
		}
	}
	same, asIs := func(*CloneOptions) {}, func(*BarmanBackup) {}
	checkRefusals(t, []refusal{
		{"to be verified", surveyOf(node3), clone(func(o *CloneOptions) { o.VerifyBackup = true }, asIs), 1, "cannot be verified"},
		{"a backup of another cluster", surveyOf(node3), clone(same, func(b *BarmanBackup) { b.SystemID = "8" }), 19, "another cluster"},
		{"of another major version", surveyOf(node3), clone(same, func(b *BarmanBackup) { b.Version = 140009 }), 19, "another major version"},
		{"that has failed", surveyOf(node3), clone(same, func(b *BarmanBackup) { b.Done = false }), 19, "not complete"},
		{"of a former primary", surveyOf(node3), clone(same, func(b *BarmanBackup) { b.Diverged = "timeline 1 ended at 0/2" }), 19, "has left"},
		{"whose WAL is gone", surveyOf(node3), clone(same, func(b *BarmanBackup) { b.Gone = true }), 1, "cannot be had"},
	})
	whole := func(o *CloneOptions) { o.RestoreCommand = "barman-wal-restore -U barman backup main %f %p" }
	p, err := clone(whole, func(b *BarmanBackup) { b.Gone = true })(surveyOf(node3))
	if err != nil || len(p.Steps) == 0 {
		t.Errorf("refused though Barman has the WAL: %v", err)
	}
}

func TestClonesByPgBackupAPIThatAreRefused(t *testing.T) {
	clone := func(src CloneSource, change func(*CloneOptions), backup func(*APIBackup)) func(Survey) (Plan, error) {
		o := byAPI(backup)
		change(&o)
		return func(s Survey) (Plan, error) { return StandbyClone(s, src, DirectoryState{Free: -1}, o) }
	}
	same, asIs := func(*CloneOptions) {}, func(*APIBackup) {}
	full := cloneSource
	full.Tablespaces = []Tablespace{{Location: "/mnt/fast", Target: "/mnt/fast", State: DirectoryState{Exists: true, Is: "other files"}}}
	checkRefusals(t, []refusal{
		{"to be verified", surveyOf(node3), clone(cloneSource, func(o *CloneOptions) { o.VerifyBackup = true }, asIs), 1, "cannot be verified"},
		{"a backup of another cluster", surveyOf(node3), clone(cloneSource, same, func(b *APIBackup) { b.SystemID = "8" }), 28, "another cluster"},
		{"of another major version", surveyOf(node3), clone(cloneSource, same, func(b *APIBackup) { b.Version = 140009 }), 28, "another major version"},
		{"that has failed", surveyOf(node3), clone(cloneSource, same, func(b *APIBackup) { b.Done = false }), 28, "not complete"},
		{"of a former primary", surveyOf(node3), clone(cloneSource, same, func(b *APIBackup) { b.Diverged = "timeline 1 ended at 0/2" }), 28, "has left"},
		{"a tablespace where something is", surveyOf(node3), clone(full, same, asIs), 1, "for a tablespace, is not empty"},
	})
	unknown := byAPI(func(b *APIBackup) { *b = APIBackup{URL: b.URL, Server: b.Server, ID: b.ID} })
	unknown.Slot = ""
	if _, err := StandbyClone(surveyOf(node3), cloneSource, DirectoryState{Free: -1}, unknown); err != nil {
		t.Errorf("refused though nothing is known of the backup: %v", err)
	}
	var told string
	for _, n := range CloneNotes(cloneSource, unknown) {
		told += n.Msg + "\n"
	}
	for _, text := range []string{"diagnosis was not to be had", "tablespace_mapping has no effect", "neither restore_command nor use_replication_slots"} {
		if !strings.Contains(told, text) {
			t.Errorf("it does not say %q:\n%s", text, told)
		}
	}
}

func TestClonesWithoutAConnectionThatAreRefused(t *testing.T) {
	asIs := func(*CloneSource) {}
	clone := func(src CloneSource, dir DirectoryState, change func(*CloneOptions)) func(Survey) (Plan, error) {
		o := fromBarman(func(*BarmanBackup) {})
		o.Backup.Tablespaces = nil
		change(&o)
		return func(s Survey) (Plan, error) { return StandbyClone(s, src, dir, o) }
	}
	same, free := func(*CloneOptions) {}, DirectoryState{Free: -1}
	alone := surveyOf(node3)
	alone.Nodes = nil
	inactive := alter(surveyOf(node3), func(s *Survey) { s.Nodes = []cluster.Node{node2} })
	checkRefusals(t, []refusal{
		{"files to be copied", alone, clone(unseenSource(asIs), free, func(o *CloneOptions) { o.CopyFiles = InPgData }), 1, "cannot be copied without a connection"},
		{"other programs", alone, clone(unseenSource(asIs), free, func(o *CloneOptions) { o.ToolMajor = 17 }), 1, "another major version"},
		{"a backup of another cluster", surveyOf(node3), clone(unseenSource(func(c *CloneSource) { c.SystemID = "8" }), free, same), 19, "another cluster"},
		{"a backup of another major version", surveyOf(node3), clone(unseenSource(func(c *CloneSource) { c.Version = 170002 }), free, func(o *CloneOptions) { o.ToolMajor = 0 }), 19, "another major version"},
		{"no primary in the records", inactive, clone(unseenSource(asIs), free, func(o *CloneOptions) { o.Force = true }), 1, "no record of an active primary"},
		{"its own upstream", alone, clone(unseenSource(asIs), free, func(o *CloneOptions) { o.Upstream, o.UpstreamGiven = 3, true }), 1, "its own upstream"},
		{"a full directory", alone, clone(unseenSource(asIs), DirectoryState{Exists: true, Is: "other files"}, same), 1, "not empty"},
	})
}

func TestACloneWithoutAConnectionSaysWhatIsNotChecked(t *testing.T) {
	told := func(src CloneSource, o CloneOptions) (all string) {
		for _, n := range CloneNotes(src, o) {
			all += n.Msg + "\n" + n.Detail + "\n" + n.Hint + "\n"
		}
		return all
	}
	o := fromBarman(func(b *BarmanBackup) { b.Timeline = 4 })
	nobody := told(unseenSource(func(*CloneSource) {}), o)
	for _, text := range []string{"was not asked", "system identifier is 7", "major version, 15", "timeline, 4", "000000010000000000000002", "configuration files",
		"pg_create_physical_replication_slot('repmgr_slot_3', true)"} {
		if !strings.Contains(nobody, text) {
			t.Errorf("it does not say %q:\n%s", text, nobody)
		}
	}
	o.Slot = ""
	known := told(unseenSource(func(c *CloneSource) { c.SystemID = "7" }), o)
	if strings.Contains(known, "system identifier") || strings.Contains(known, "slot") || !strings.Contains(known, "was not asked") {
		t.Errorf("it says what is known, or not what is not:\n%s", known)
	}
}

func TestAPromotionThatWasNotRecordedIsMadeUpFor(t *testing.T) {
	s := surveyOf(node2)
	s.Servers[1], s.Local = down, up
	p, err := StandbyPromote(s, PromoteOptions{})
	if err != nil || len(p.Steps) != 2 {
		t.Fatalf("%d steps, %v", len(p.Steps), err)
	}
	if _, ok := p.Steps[0].(RecordPromotion); !ok {
		t.Errorf("first step is %q", p.Steps[0].Describe())
	}
}
