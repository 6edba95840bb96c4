package registry

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"repmgr/internal/fault"
)

// StateFile is the file in the state directory in which a daemon keeps what it must know
// before its server answers.
const StateFile = "cluster.json"

// StateFormat is the number of the state file's form that this program writes. It reads
// this one and lower ones. A field that may be missed without harm comes without a new
// number: a program that does not know it drops it.
const StateFormat = 1

// ReadState reads the state file; nil where there is none. One of a newer format is refused
// before anything else of it is looked at, and left as it is: it may mean anything, and what
// it holds of a lease, a pause or a fence stands nowhere else.
func ReadState(stateDir string) ([]byte, error) {
	path := filepath.Join(stateDir, StateFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.Wrap(err, fault.SysFailure, "the remembered cluster cannot be read")
	}
	var head struct {
		Format int `json:"format"`
	}
	switch err := json.Unmarshal(text, &head); {
	case err != nil:
		return nil, fault.Wrap(err, fault.BadConfig, "%s is damaged", path).
			WithHint("Remove the file: the daemon writes it again from the database.")
	case head.Format > StateFormat:
		return nil, fault.New(fault.BadConfig, "%s was written by a newer version of repmgr", path).
			WithDetail("Format %d was found, this version knows formats up to %d.", head.Format, StateFormat).
			WithHint("Run the version that wrote it, or a later one. Nothing was changed. To stay with this version see \"Going back\" in docs/upgrade.md.")
	case head.Format < 1:
		return nil, fault.New(fault.BadConfig, "%s is damaged", path).
			WithDetail("It does not say which format it has.").
			WithHint("Remove the file: the daemon writes it again from the database.")
	}
	return text, nil
}
