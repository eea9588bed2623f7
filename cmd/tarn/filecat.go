package main

import (
	"context"
	"os/user"
	"strconv"
	"time"

	"tarn/backends"
	"tarn/backends/filecat"
)

// fileCatalogue gives what DIRAC's users expect over a catalogue, with what that can; nil where it keeps no side records.
func fileCatalogue(cat backends.Catalogue, now func() time.Time) *filecat.Catalogue {
	side, ok := cat.(backends.Side)
	if !ok {
		return nil
	}
	o := filecat.Options{Catalogue: cat, Side: side, UserID: userID, GroupID: groupID, Now: now}
	o.Names, _ = cat.(backends.Names)
	o.Records, _ = cat.(backends.Records)
	return filecat.New(o)
}

// userID and groupID take numbers as they are, too.
func userID(name string) (uint32, bool) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(n), true
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(u.Uid, 10, 32)
	return uint32(n), err == nil
}

func groupID(name string) (uint32, bool) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(n), true
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(g.Gid, 10, 32)
	return uint32(n), err == nil
}

// checkMeta judges metadata that is set, by whatever way, with the fields that are declared.
func (o *opened) checkMeta(ctx context.Context, in backends.Info, m backends.Meta) (backends.Meta, error) {
	s, err := o.files.Schema(ctx)
	if err != nil || len(s) == 0 {
		return m, err
	}
	return o.files.ToSet(ctx, s, in, m)
}
