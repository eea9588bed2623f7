package rucio

import (
	"context"
	"errors"

	"tarn/backends"
)

// Metas gives what users have set on DIDs and on the collections above them, nearest wins, as Find sees it, in ceil(n/1000) calls. Those
// that do not exist are missing.
func (c *Catalogue) Metas(ctx context.Context, dids []backends.DID) (map[backends.DID]backends.Meta, error) {
	return c.c.BulkUserMeta(ctx, dids)
}

// Stats gives the Infos of DIDs, in ceil(n/1000) calls for those that are not known. Those that do not exist are missing.
func (c *Catalogue) Stats(ctx context.Context, dids []backends.DID) (map[backends.DID]backends.Info, error) {
	if err := c.warm(ctx, dids); err != nil {
		return nil, err
	}
	out := make(map[backends.DID]backends.Info, len(dids))
	for _, d := range dids {
		in, err := c.Stat(ctx, d)
		switch {
		case err == nil:
			out[d] = in
		case !errors.Is(err, backends.ErrNotExist) && !errors.Is(err, backends.ErrNotDir):
			return nil, err
		}
	}
	return out, nil
}

// Home is the collection that a DID of layout lfn is in by its name; false for one at the root of the tree.
func (c *Catalogue) Home(d backends.DID) (backends.DID, bool) {
	if c.isRoot(d) || d.Name == "/" {
		return backends.DID{}, false
	}
	return c.home(d), true
}

// Own makes an Info, which may have been kept by another process, one of this: its owner and inode are not Rucio's.
func (c *Catalogue) Own(in *backends.Info) {
	ino, ok := c.inodes.Get(in.DID)
	if !ok {
		ino = inode(in.DID)
	}
	in.Inode, in.UID, in.GID = ino, c.o.UID, c.o.GID
}
