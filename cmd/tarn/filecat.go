package main

import (
	"context"
	"os/user"
	"strconv"

	"tarn/backends"
	"tarn/backends/filecat"
)

// fileCatalogue gives what DIRAC's users expect over the lake.
func (o *opened) fileCatalogue() *filecat.Catalogue {
	opt := filecat.Options{Catalogue: o.cat, Tree: o.lake, UserID: userID, GroupID: groupID, Now: o.now}
	if o.stored != nil {
		opt.Side, opt.Names, opt.Records = o.stored, o.stored, o.stored
	} else {
		opt.Side = o.openBeside()
	}
	return filecat.New(opt)
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
