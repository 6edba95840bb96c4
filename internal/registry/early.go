package registry

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/pg"
)

// Remembered are the members that the local daemon wrote down in its state
// directory, as long ago as that may be: a hint, which is empty where there is
// no such file or this user may not read it.
func Remembered(stateDir string) []cluster.Node {
	text, err := os.ReadFile(filepath.Join(stateDir, "cluster.json"))
	if stateDir == "" || err != nil {
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
	path := filepath.Join(stateDir, "cluster.json")
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		text, err = []byte(`{"format":1}`), nil
	}
	if err != nil {
		return fault.Wrap(err, fault.SysFailure, "the remembered cluster cannot be read")
	}
	file := map[string]json.RawMessage{} // the daemon's own form, of which the rest stays as it is
	if err := json.Unmarshal(text, &file); err != nil {
		return fault.Wrap(err, fault.BadConfig, "%s cannot be read", path).WithHint("remove the file: it is written again from the database")
	}
	file["quorum"] = json.RawMessage("false")
	if file["disowned"], err = json.Marshal(group); err != nil {
		return err
	}
	if text, err = json.MarshalIndent(file, "", "  "); err != nil {
		return err
	}
	return host.WriteFileDurable(path, text, 0o600)
}

// RememberedQuorum tells whether the quorum rule was in force, as the local daemon
// wrote it down in its state directory. An unreadable file is an error: nobody
// knows then.
func RememberedQuorum(stateDir string) (bool, error) {
	text, err := os.ReadFile(filepath.Join(stateDir, "cluster.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	var file struct {
		Quorum bool `json:"quorum"`
	}
	if err == nil {
		err = json.Unmarshal(text, &file)
	}
	return file.Quorum, err
}

// Early are sessions that are being opened before the records say to whom: each
// is used if a record turns out to have its conninfo, and closed if not.
type Early struct {
	cancel   context.CancelFunc
	attempts map[string]*attempt // by conninfo
}

// attempt is one session on its way; done is closed once it is there or failed.
type attempt struct {
	done chan struct{}
	conn *pg.Conn
	err  error
}

// ConnectEarly begins to open a session for each of the conninfos.
func ConnectEarly(ctx context.Context, conninfos []string) *Early {
	e := &Early{attempts: map[string]*attempt{}}
	ctx, e.cancel = context.WithTimeout(ctx, AskTimeout)
	for _, conninfo := range conninfos {
		if e.attempts[conninfo] != nil {
			continue
		}
		a := &attempt{done: make(chan struct{})}
		e.attempts[conninfo] = a
		go func() {
			defer close(a.done)
			a.conn, a.err = Connect(ctx, cluster.Node{Conninfo: conninfo})
		}()
	}
	return e
}

// Keep gives up the sessions that no record asks for, and returns the others by
// node id. Two records with one conninfo do not share a session.
func (e *Early) Keep(nodes []cluster.Node) map[cluster.NodeID]func() (*pg.Conn, error) {
	kept := map[cluster.NodeID]func() (*pg.Conn, error){}
	for _, n := range nodes {
		if a := e.attempts[n.Conninfo]; a != nil {
			delete(e.attempts, n.Conninfo)
			kept[n.ID] = func() (*pg.Conn, error) {
				<-a.done
				return a.conn, a.err
			}
		}
	}
	e.drop()
	return kept
}

// drop closes what was not kept, whenever it arrives.
func (e *Early) drop() {
	for _, a := range e.attempts {
		go func() {
			<-a.done
			Close(a.conn)
		}()
	}
	clear(e.attempts)
}

// End gives up every attempt that is still on its way.
func (e *Early) End() {
	e.cancel()
	e.drop()
}
