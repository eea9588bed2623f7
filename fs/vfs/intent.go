package vfs

import (
	"encoding/json"
	"fmt"
)

// intent is a rename of several durable steps: noted before, undone or finished after a
// crash.
type intent struct {
	From, To string
	Move     []string `json:",omitempty"` // journal ids of the unsent contents that move along
	Drop     []string `json:",omitempty"` // journal ids of the unsent contents that are replaced
	Tree     bool     `json:",omitempty"` // a directory: all unsent contents below move
}

func (v *FS) putIntent(in intent) (done func(), err error) {
	b, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("rename-%016x", newInode())
	if err := v.jrnl.PutIntent(name, b); err != nil {
		return nil, fmt.Errorf("note the rename in the journal: %w", local(err))
	}
	return func() {
		if err := v.jrnl.DropIntent(name); err != nil {
			v.log.Error("drop a finished intent", "name", name, "err", err)
		}
	}, nil
}
