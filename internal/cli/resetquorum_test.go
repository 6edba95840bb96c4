package cli

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"repmgr/internal/conf"
	"repmgr/internal/quorum"
	"repmgr/internal/raftstore"
	"repmgr/internal/record"
)

// A number of a timeline is never used twice: where the group's last entries are of a newer
// version, which may have granted one, the group is not given up by this one.
func TestTimelinesOfANewerVersion(t *testing.T) {
	rec := record.New("g", "s", record.Member{Node: 1, RaftID: 10})
	rec.TopTimeline = 7
	known, err := rec.Encode()
	if err != nil {
		t.Fatal(err)
	}
	first := quorum.Found(10, known)
	at := first.Snapshot.GetMetadata().GetIndex()
	pause, err := record.EncodeEntry(record.SetPause{On: true}, 1, 1, time.Unix(1_700_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	entry := func(n uint64, data string) *raftpb.Entry {
		return &raftpb.Entry{Index: new(at + n), Term: new(uint64(1)), Data: []byte(data)}
	}
	for what, v := range map[string]struct {
		snapshot []byte
		entries  []*raftpb.Entry
		refused  bool
	}{
		"all is known":    {known, []*raftpb.Entry{entry(1, ""), entry(2, string(pause))}, false},
		"a newer entry":   {known, []*raftpb.Entry{entry(1, ""), entry(2, fmt.Sprintf(`{"v":%d,"kind":"grant","body":{}}`, record.Level+1))}, true},
		"a newer record":  {[]byte(`{"format":1,"quarantine":true,"top_timeline":7}`), nil, true},
		"a newer format":  {[]byte(`{"format":2}`), nil, true},
		"nothing is kept": {nil, nil, false},
	} {
		dir := t.TempDir()
		if v.snapshot != nil {
			store, err := raftstore.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			stored := quorum.Found(10, v.snapshot)
			stored.Entries = v.entries
			if err := store.Create(raftstore.Identity{Group: "g", RaftID: 10, Node: 1}, stored); err != nil {
				t.Fatal(err)
			}
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
		}
		top, err := (&Session{Conf: &conf.Config{StateDirectory: dir}}).topTimeline()
		switch {
		case v.refused && (err == nil || !strings.Contains(err.Error(), "which timelines")):
			t.Errorf("%s: %d, %v", what, top, err)
		case !v.refused && (err != nil || top != 7 && v.snapshot != nil || top != 0 && v.snapshot == nil):
			t.Errorf("%s: %d, %v", what, top, err)
		}
	}
}
