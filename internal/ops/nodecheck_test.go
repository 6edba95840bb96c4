package ops

import (
	"errors"
	"testing"
	"time"

	"repmgr/internal/cluster"
)

// Each check, its status and its line for Nagios, as repmgr 5 writes them but for the words.
func TestNodeChecks(t *testing.T) {
	own := cluster.Node{ID: 2, Name: "n2", Role: cluster.Standby, Upstream: 1}
	one := cluster.Node{ID: 1, Name: "n1", Role: cluster.Primary}
	nodes := []cluster.Node{one, own, {ID: 3, Name: "n3", Role: cluster.Standby, Upstream: 1}, {ID: 4, Name: "n4", Role: cluster.Witness, Upstream: 1}}
	only2 := func(n cluster.Node) bool { return n.ID == 2 }
	const warn, crit = 300 * time.Second, 600 * time.Second
	for name, tt := range map[string]struct {
		check  NodeCheck
		status CheckStatus
		nagios string
	}{
		"role":                   {CheckRole(cluster.Standby, true), CheckOK, "REPMGR_SERVER_ROLE OK: node is standby"},
		"role of a primary":      {CheckRole(cluster.Primary, true), CheckCritical, "REPMGR_SERVER_ROLE CRITICAL: node is registered as primary and runs as standby"},
		"role of a witness":      {CheckRole(cluster.Witness, true), CheckCritical, "REPMGR_SERVER_ROLE CRITICAL: node is registered as witness and runs as standby"},
		"role of a standby":      {CheckRole(cluster.Standby, false), CheckCritical, "REPMGR_SERVER_ROLE CRITICAL: node is registered as standby and runs as primary"},
		"a witness that writes":  {CheckRole(cluster.Witness, false), CheckOK, "REPMGR_SERVER_ROLE OK: node is witness"},
		"no lag":                 {CheckLag(true, 0, warn, crit), CheckOK, "REPMGR_REPLICATION_LAG OK: 0 seconds | lag=0;300;600"},
		"at the first threshold": {CheckLag(true, 300, warn, crit), CheckOK, "REPMGR_REPLICATION_LAG OK: 300 seconds | lag=300;300;600"},
		"beyond the first":       {CheckLag(true, 301, warn, crit), CheckWarning, "REPMGR_REPLICATION_LAG WARNING: 301 seconds | lag=301;300;600"},
		"at the second":          {CheckLag(true, 600, warn, crit), CheckCritical, "REPMGR_REPLICATION_LAG CRITICAL: 600 seconds | lag=600;300;600"},
		"lag of a primary":       {CheckLag(false, 999, warn, crit), CheckOK, "REPMGR_REPLICATION_LAG OK: 0 seconds | lag=0;300;600"},
		"lag not known":          {CheckLag(true, -1, warn, crit), CheckUnknown, "REPMGR_REPLICATION_LAG UNKNOWN: the lag is not known"},
		"archive":                {CheckArchive(16, nil, 16, 128), CheckOK, "REPMGR_ARCHIVE_READY OK: 16 pending archive ready files | files=16;16;128"},
		"archive warns":          {CheckArchive(17, nil, 16, 128), CheckWarning, "REPMGR_ARCHIVE_READY WARNING: 17 pending archive ready files | files=17;16;128"},
		"archive critical":       {CheckArchive(129, nil, 16, 128), CheckCritical, "REPMGR_ARCHIVE_READY CRITICAL: 129 pending archive ready files | files=129;16;128"},
		"archive not readable":   {CheckArchive(0, errors.New("no such directory"), 16, 128), CheckUnknown, "REPMGR_ARCHIVE_READY UNKNOWN: no such directory"},
		"upstream":               {CheckUpstream(own, &one, "streaming", ""), CheckOK, `REPMGR_UPSTREAM_SERVER OK: node is attached to upstream node "n1" (ID: 1)`},
		"upstream catching up":   {CheckUpstream(own, &one, "catchup", ""), CheckCritical, `REPMGR_UPSTREAM_SERVER CRITICAL: node is not attached to upstream node "n1" (ID: 1): "catchup"`},
		"upstream gone":          {CheckUpstream(own, &one, "", "refused"), CheckCritical, `REPMGR_UPSTREAM_SERVER CRITICAL: upstream node "n1" (ID: 1): refused`},
		"no upstream":            {CheckUpstream(own, nil, "", ""), CheckCritical, "REPMGR_UPSTREAM_SERVER CRITICAL: no upstream is registered"},
		"upstream of a primary":  {CheckUpstream(one, nil, "", ""), CheckOK, "REPMGR_UPSTREAM_SERVER OK: N/A - node is primary"},
		"downstream":             {CheckDownstream(1, nodes, only2), CheckCritical, "REPMGR_DOWNSTREAM_SERVERS CRITICAL: 1 of 2 downstream nodes not attached (missing: n3 (ID: 3)) | attached=1, missing=1"},
		"all of downstream":      {CheckDownstream(1, nodes[:2], only2), CheckOK, "REPMGR_DOWNSTREAM_SERVERS OK: 1 of 1 downstream nodes attached | attached=1, missing=0"},
		"no downstream":          {CheckDownstream(3, nodes, only2), CheckOK, "REPMGR_DOWNSTREAM_SERVERS OK: this node has no downstream nodes | attached=0, missing=0"},
		"slots":                  {CheckSlots(2, []string{"a"}), CheckCritical, "REPMGR_INACTIVE_SLOTS CRITICAL: 1 of 2 physical replication slots are inactive (a) | slots=2;1"},
		"slots in use":           {CheckSlots(2, nil), CheckOK, "REPMGR_INACTIVE_SLOTS OK: 2 of 2 physical replication slots are active | slots=2;0"},
		"no slots":               {CheckSlots(0, nil), CheckOK, "REPMGR_INACTIVE_SLOTS OK: node has no physical replication slots | slots=0;0"},
		"missing slots":          {CheckMissingSlots([]string{"a", "b"}), CheckCritical, "REPMGR_MISSING_SLOTS CRITICAL: 2 physical replication slots are missing (a, b) | missing_slots=2;a,b"},
		"no missing slots":       {CheckMissingSlots(nil), CheckOK, "REPMGR_MISSING_SLOTS OK: node has no missing physical replication slots | missing_slots=0"},
		"data directory":         {CheckDataDirectory("/a", "/a", true, true, true), CheckOK, "REPMGR_DATA_DIRECTORY OK: /a"},
		"another directory":      {CheckDataDirectory("/a", "/b", false, true, true), CheckCritical, `REPMGR_DATA_DIRECTORY CRITICAL: /a | configured "data_directory" is "/a", the server works in "/b"`},
		"no directory":           {CheckDataDirectory("/a", "", false, false, false), CheckCritical, `REPMGR_DATA_DIRECTORY CRITICAL: /a | configured "data_directory" is "/a", which is no data directory`},
		"not allowed to see it":  {CheckDataDirectory("/a", "", false, false, true), CheckOK, "REPMGR_DATA_DIRECTORY OK: /a"},
		"repmgrd":                {CheckDaemon(true, false, true), CheckOK, "REPMGRD OK: repmgrd running"},
		"repmgrd paused":         {CheckDaemon(true, true, true), CheckWarning, "REPMGRD WARNING: repmgrd running but paused"},
		"no repmgrd":             {CheckDaemon(false, false, true), CheckCritical, "REPMGRD CRITICAL: repmgrd not running"},
		"repmgrd not known":      {CheckDaemon(false, false, false), CheckUnknown, "REPMGRD UNKNOWN: repmgrd status unknown"},
	} {
		if tt.check.Status != tt.status || tt.check.Nagios() != tt.nagios {
			t.Errorf("%s: %s\n%s, want\n%s", name, tt.check.Status, tt.check.Nagios(), tt.nagios)
		}
	}
}
