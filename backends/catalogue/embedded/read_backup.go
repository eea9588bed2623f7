package embedded

import (
	"context"
	"fmt"
	"io"
)

// OpenBackup opens a backup as a catalogue in memory, to look into it. Errors as ReadBackup.
func OpenBackup(ctx context.Context, o Options, backup io.ReadSeeker) (*Catalogue, BackupInfo, error) {
	info, err := ReadBackup(backup, nil)
	if err != nil {
		return nil, info, err
	}
	if _, err := backup.Seek(0, io.SeekStart); err != nil {
		return nil, info, err
	}
	o.InMemory, o.Places = true, nil
	c, err := openQuiet(o)
	if err != nil {
		return nil, info, err
	}
	var n counters
	if err = load(ctx, c.db, backup, info, &n); err == nil {
		err = c.load(false)
	}
	if err != nil {
		_ = c.release() // it holds nothing but memory
		return nil, info, fmt.Errorf("look into the backup: %w", err)
	}
	c.start()
	return c, info, nil
}
