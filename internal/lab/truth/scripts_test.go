package truth

// script is a list of what is done to a primary, node 1, and a standby that streams from
// it, node 2, and of what is looked at, a line each: the node, the verb, and its object. The
// verbs are those of model and of servers.
type script struct {
	name  string
	open  bool // the model allows more than one course of it
	lines string
}

// scripts are the behaviours of PostgreSQL that the simulator goes by. Numbers with an A
// are those of internal/sim/DESIGN.md.
var scripts = []script{
	{name: "a killed primary has all it acknowledged, its standby what was sent; a rewind discards the rest (A21, A23, A24)", lines: `
		1 writes a
		2 gets a
		1 stops-sender 2
		1 writes b
		1 is-killed
		1 state
		2 rows
		2 promotes 1
		2 writes c
		1 starts
		1 rows
		1 stops
		1 arms
		1 points-at 2
		1 starts
		1 gets c
		1 stops
		1 rewinds-to 2
		1 starts
		1 gets c
		1 rows
		1 timeline`},
	{name: "who was killed when the standby had everything follows it without a rewind, whatever number was chosen (A22, A23, A26)", lines: `
		1 writes a
		2 gets a
		1 is-killed
		2 promotes 3
		2 writes b
		1 arms
		1 points-at 2
		1 starts
		1 gets b
		1 rows
		1 timeline`},
	{name: "a stop in order waits until the standby has everything (A23)", open: true, lines: `
		1 writes a
		1 stops
		2 promotes 1
		2 writes b
		1 arms
		1 points-at 2
		1 starts
		1 gets b
		1 rows`},
	{name: "a shutdown checkpoint that the standby did not get parts the two (A23)", lines: `
		1 writes a
		2 gets a
		2 points-at 0
		2 loses-receiver
		1 stops
		2 promotes 1
		2 writes b
		1 arms
		1 points-at 2
		1 starts
		1 gets b
		1 rows`},
	{name: "of a killed postmaster's backends, one that is busy commits on, and no server starts before it is gone (A8, A9)", lines: `
		1 writes a
		2 gets a
		1 is-busy b
		1 loses-postmaster b
		1 writes c
		1 starts
		1 orphan-writes b
		1 ends
		2 rows
		1 starts
		1 rows
		2 gets b`},
	{name: "while the postmaster is stopped its backends and walsenders work on; while all is stopped nothing does (A11)", lines: `
		1 writes a
		2 gets a
		1 hangs
		1 writes b
		2 gets b
		1 is-silent
		1 goes-on
		1 state
		1 freezes
		1 asks c
		1 is-silent
		1 thaws
		1 answers c
		2 gets c`},
	{name: "a wait that is cancelled leaves its row, one that a crash ends too (A13, A16)", lines: `
		1 writes a
		2 gets a
		1 names 2
		1 writes b
		1 stops-sender 2
		1 begins c
		1 rows
		1 cancels c
		1 answers c
		1 rows
		1 begins d
		1 names
		1 answers d
		1 rows
		1 names 2
		1 begins e
		1 is-killed
		1 answers e
		2 rows
		1 starts
		1 rows
		2 gets e`},
	{name: "a standby of another history acknowledges what it does not have (A14)", lines: `
		1 writes a
		2 gets a
		2 points-at 0
		2 loses-receiver
		1 writes b
		1 fills
		1 is-killed
		2 promotes 1
		2 names 1
		2 begins c
		1 arms
		1 points-at 2
		1 starts
		2 answers c
		1 gets c
		1 rows`},
	{name: "an armed primary writes until it starts again, and is promoted to a new timeline that its standby follows (A25)", lines: `
		1 writes a
		2 gets a
		1 arms
		1 writes b
		1 loses-backend
		1 writes c
		1 rows
		1 promotes 1
		1 writes d
		2 gets d
		2 timeline
		1 loses-backend
		1 writes e
		2 gets e`},
	{name: "a seal outlives a restart; what is received goes back to none (A1, A4, A5, A6)", lines: `
		1 writes a
		2 gets a
		2 received
		2 points-at 0
		2 loses-receiver
		1 writes b
		2 rows
		2 received
		2 stops
		2 starts
		2 received
		2 rows
		2 points-at 1
		2 gets b
		2 received`},
	{name: "beside an upstream that is gone, what is received goes back to the start of a segment, and nothing is lost (A5, A6)", lines: `
		1 writes a
		2 gets a
		1 is-killed
		2 received
		2 is-killed
		2 starts
		2 received
		2 rows
		2 promotes 1
		2 rows`},
	{name: "while the startup process waits the receiver lives on, whatever primary_conninfo says, and none is started (A2, A3)", lines: `
		1 writes a
		2 gets a
		2 holds-replay
		1 writes b
		2 gets b
		2 points-at 0
		1 writes c
		2 gets c
		2 receiver
		2 replays
		2 loses-receiver
		1 writes d
		2 points-at 1
		2 gets d
		2 holds-replay
		1 writes e
		2 gets e
		2 ends-receiver
		2 loses-receiver
		1 writes f
		2 points-at 1
		2 receiver
		2 replays
		2 gets f
		2 rows`},
	{name: "a receiver ends with its upstream, and another is started when that is back, once the startup process goes on (A2, A22)", lines: `
		1 writes a
		2 gets a
		1 is-killed
		2 loses-receiver
		1 starts
		1 writes b
		2 gets b
		2 holds-replay
		1 writes c
		2 gets c
		1 is-killed
		2 loses-receiver
		1 starts
		1 writes d
		2 receiver
		2 replays
		2 gets d
		2 rows`},
	{name: "a promotion ends a pause of replay, and has all that was received (A19)", lines: `
		1 writes a
		2 gets a
		2 holds-replay
		1 writes b
		2 gets b
		1 is-killed
		2 promotes 1
		2 rows
		2 writes c`},
}
