package registry

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/host"
)

// Remembered are the members that the local daemon wrote down in its state
// directory, as long ago as that may be: a hint, which is empty where there is
// no such file or this user may not read it.
func Remembered(stateDir string) []cluster.Node {
	if stateDir == "" {
		return nil
	}
	text, err := ReadState(stateDir)
	if err != nil {
		return nil
	}
	var file struct {
		Nodes []cluster.Node `json:"nodes"`
	}
	if json.Unmarshal(text, &file) != nil {
		return nil
	}
	return file.Nodes
}

// DisownGroup makes the daemon of a state directory forget that the quorum rule was
// in force, and pay no heed to those who say so of that group, which is lost. The
// daemon must not run.
func DisownGroup(stateDir, group string) error {
	return remember(stateDir, map[string]any{"quorum": false, "disowned": group})
}

// PauseAhead lets the daemon of a state directory start with failover paused, as if an
// operator had paused it, until one ends it. The daemon must not run.
func PauseAhead(stateDir, reason string) error {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return fault.Wrap(err, fault.BadConfig, "the state directory cannot be made")
	}
	return remember(stateDir, map[string]any{"paused": true, "pause_reason": reason, "paused_until": time.Time{}})
}

// remember changes what a daemon that does not run has written down; the rest of the
// file is the daemon's own, and stays as it is.
func remember(stateDir string, facts map[string]any) error {
	text, err := ReadState(stateDir)
	if err != nil {
		return err
	}
	file := map[string]json.RawMessage{}
	if text != nil {
		if err := json.Unmarshal(text, &file); err != nil {
			return fault.Wrap(err, fault.BadConfig, "what the daemon remembers of its cluster cannot be read")
		}
	} else {
		file["format"] = json.RawMessage(strconv.Itoa(StateFormat))
	}
	for name, value := range facts {
		if file[name], err = json.Marshal(value); err != nil {
			return err
		}
	}
	if text, err = json.MarshalIndent(file, "", "  "); err != nil {
		return err
	}
	return host.WriteFileDurable(filepath.Join(stateDir, StateFile), text, 0o600)
}

// RememberedQuorum tells whether the quorum rule was in force, as the local daemon
// wrote it down in its state directory. An unreadable file is an error: nobody
// knows then.
func RememberedQuorum(stateDir string) (bool, error) {
	text, err := ReadState(stateDir)
	if text == nil {
		return false, err
	}
	var file struct {
		Quorum bool `json:"quorum"`
	}
	err = json.Unmarshal(text, &file)
	return file.Quorum, err
}

// Early are questions that are put to the members that are remembered while the
// records are still being read. An answer counts only for a record of the same
// node id and conninfo: the records decide who is asked.
type Early[T any] struct {
	cancel  context.CancelFunc
	answers map[way]chan T
}

// way is a node as it was reached.
type way struct {
	id       cluster.NodeID
	conninfo string
}

// AskEarly begins to ask all of nodes at the same time, each for AskTimeout at most.
func AskEarly[T any](ctx context.Context, nodes []cluster.Node, ask func(context.Context, cluster.Node) T) Early[T] {
	e := Early[T]{answers: map[way]chan T{}}
	ctx, e.cancel = context.WithTimeout(ctx, AskTimeout)
	for _, n := range nodes {
		answer := make(chan T, 1)
		e.answers[way{n.ID, n.Conninfo}] = answer
		go func() { answer <- ask(ctx, n) }()
	}
	return e
}

// Answer waits for what n answered; false if it was not asked, or not in that way.
// It may be called once for each node.
func (e Early[T]) Answer(n cluster.Node) (T, bool) {
	answer, asked := e.answers[way{n.ID, n.Conninfo}]
	if !asked {
		var none T
		return none, false
	}
	return <-answer, true
}

// End gives up every question whose answer nobody waits for.
func (e Early[T]) End() { e.cancel() }
