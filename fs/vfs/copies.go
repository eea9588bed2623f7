package vfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"syscall"

	"tarn/backends"
	"tarn/backends/checksum"
	"tarn/backends/lake"
	"tarn/cache/journal"
)

// inPlace runs do on u's file as the catalogue has it, while no name in its directory
// changes. ErrNotExist when it was removed, ErrStale when it has another content by now.
func (v *FS) inPlace(ctx context.Context, u *unsent, do func(in backends.Info) error) error {
	p := u.where()
	parent, err := v.Resolve(ctx, path.Dir(p))
	if err == nil {
		defer parent.Forget(1)
	} else if !isNotExist(err) {
		return err
	}
	v.tree.RLock()
	defer v.tree.RUnlock()
	if parent != nil {
		parent.dir.RLock()
		defer parent.dir.RUnlock()
	}
	if now := u.where(); now != p || parent != nil && parent.Path() != path.Dir(p) {
		return fmt.Errorf("%s: it is being renamed: %w", p, errNotYet)
	}
	if err != nil {
		return err
	}
	in, err := v.lake.Lookup(ctx, parent.Info(), path.Base(p))
	if err != nil {
		return err
	}
	if !u.sameAs(in) {
		return fmt.Errorf("%s: %w", p, backends.ErrStale)
	}
	return do(in)
}

// sameAs tells whether in is of the content that u was sealed with.
func (u *unsent) sameAs(in backends.Info) bool {
	r := u.entry.Record()
	return in.Type == backends.File && in.Size == r.Size && checksum.FromMap(r.Sums).Match(in.Checksums) == nil
}

// isGone tells whether err says that a file is not there any more with the content it had.
func isGone(err error) bool { return isNotExist(err) || errors.Is(err, backends.ErrStale) }

// further makes the other copies and waits until those on tape are on tape.
func (up *uploader) further(ctx context.Context, u *unsent, r journal.Record) error {
	v := up.v
	for i := range r.Copies {
		if err := up.copyTo(ctx, u, &r, i); err != nil {
			if isGone(err) {
				v.drop(u) // replaced or removed: no copies of it are wanted any more
			}
			return err
		}
	}
	waiting := false
	for _, c := range r.Copies {
		rse, ok := v.lake.RSE(c.RSE)
		if !ok || rse.Tape == nil {
			continue
		}
		ok, err := v.lake.StoredOnTape(ctx, rse, c.PFN)
		if err != nil {
			return fmt.Errorf("ask %s whether %s is on tape: %w", c.RSE, r.Path, err)
		}
		waiting = waiting || !ok
	}
	if waiting {
		return errNotYet
	}
	return nil
}

// copyTo makes copy i of r and tells the catalogue, unless it is there.
func (up *uploader) copyTo(ctx context.Context, u *unsent, r *journal.Record, i int) error {
	v := up.v
	there := func() bool { return r.Copies[i].State == journal.Verified || r.Copies[i].State == journal.Safe }
	was := there()
	if !was {
		var in backends.Info // the inode that the catalogue has: one that is written again with the same bytes keeps its own
		if err := v.inPlace(ctx, u, func(now backends.Info) error { in = now; return nil }); err != nil {
			return err
		}
		release, err := v.lake.Claim(ctx, in, r.Copies[i].RSE)
		if err != nil {
			return err
		}
		defer release()
		var reps []backends.Replica
		if err := v.inPlace(ctx, u, func(in backends.Info) (err error) {
			reps, err = v.lake.Catalogue().Replicas(ctx, in.DID)
			return err
		}); err != nil {
			return err
		}
		if err := up.goOn(ctx, u, reps, r, i); err != nil {
			return err
		}
		if !there() {
			if err := up.another(ctx, in, u, r, i); err != nil {
				return err
			}
		}
	}
	var other []journal.Copy
	err := v.inPlace(ctx, u, func(in backends.Info) error {
		var out []journal.Copy
		var err error
		if out, other, err = v.align(ctx, in.DID, r.Copies[i:i+1]); err != nil {
			return err
		}
		if len(other) > 0 { // others made one meanwhile
			r.Copies[i] = out[0]
			return nil
		}
		if there() {
			return nil
		}
		r.Copies[i].State = journal.Verified
		return v.lake.Catalogue().PutReplica(ctx, in.DID, in.Generation, up.replica(r.Copies[i]))
	})
	if err != nil || was && len(other) == 0 {
		return err
	}
	if err := up.keepCopies(u, r); err != nil {
		return err
	}
	for _, c := range other {
		up.removeCopy(ctx, c)
	}
	return nil
}

// another makes copy i of what is registered: servers that can copy it between themselves do, and else it is uploaded.
func (up *uploader) another(ctx context.Context, in backends.Info, u *unsent, r *journal.Record, i int) error {
	rse, ok := up.v.lake.RSE(r.Copies[i].RSE)
	if !ok {
		return up.store(ctx, u, r, i, u.entry, up.v.lake.Store) // which says so
	}
	_, done, err := up.v.lake.CopyByServers(ctx, in, rse, r.Copies[i].PFN, nil, nil)
	switch {
	case !done:
		return up.store(ctx, u, r, i, u.entry, up.v.lake.Store)
	case err != nil:
		return fmt.Errorf("upload to %s: %w", rse.Name, err)
	}
	up.v.stats.uploads.Add(1)
	return nil
}

// goOn takes copy i over from whoever made it, or began to, at that RSE: the replication of the rules does too
// what they lack. What was written at another path before goes: it is of no record after this.
func (up *uploader) goOn(ctx context.Context, u *unsent, reps []backends.Replica, r *journal.Record, i int) error {
	c := r.Copies[i]
	at := slices.IndexFunc(reps, func(x backends.Replica) bool {
		return x.RSE == c.RSE && x.PFN != c.PFN && (x.State == backends.Available || x.State == backends.Copying)
	})
	if at < 0 {
		return nil
	}
	rse, ok := up.v.lake.RSE(c.RSE)
	if ok {
		if err := up.v.lake.Hold(lake.Holder(u.id), rse.Name, reps[at].PFN); err != nil {
			return err
		}
	}
	if !up.removeCopy(ctx, c) && reps[at].State == backends.Copying && up.mayBeThere(ctx, c) {
		return fmt.Errorf("a copy begun at %s cannot be taken back: %w: %w", c.RSE, backends.ErrUnavailable, backends.ErrTemporary)
	}
	r.Copies[i].PFN = reps[at].PFN
	if reps[at].State == backends.Available {
		r.Copies[i].State = journal.Verified
	}
	return up.keepCopies(u, r)
}

// mayBeThere asks about a copy that could not be removed: who may not delete is refused also where nothing is.
func (up *uploader) mayBeThere(ctx context.Context, c journal.Copy) bool {
	rse, ok := up.v.lake.RSE(c.RSE)
	if !ok {
		return false
	}
	_, err := rse.Storage.Stat(ctx, c.PFN)
	return !isNotExist(err)
}

// keepCopies notes in the journal what copies there are.
func (up *uploader) keepCopies(u *unsent, r *journal.Record) error {
	err := u.entry.Update(func(rec *journal.Record) { rec.Copies = slices.Clone(r.Copies) })
	if err != nil {
		return local(err)
	}
	return nil
}

// settle ends the unsent life of a content that is safe: its bytes become a clean file
// of the hot cache, or go when there is no room.
func (v *FS) settle(u *unsent) {
	r := u.entry.Record()
	in := u.published()
	u.release()
	ct := content(in)
	ct.Cost = tapeCost
	for _, c := range r.Copies {
		if rse, ok := v.lake.RSE(c.RSE); ok && rse.Kind == backends.DiskKind {
			ct.Cost = diskCost
		}
	}
	err := u.entry.TakeData(func(data string) error {
		if r.Size > 0 {
			err := v.cache.Adopt(ct, data)
			if err == nil {
				return nil
			}
			v.log.Info("a safe file does not stay in the hot cache", "path", string(r.Path), "err", err)
		}
		return os.Remove(data)
	})
	switch {
	case err == nil:
	case u.isRotten() || errors.Is(err, journal.ErrDamaged):
		v.log.Warn("the local copy of a safe file is damaged and goes", "path", string(r.Path), "err", err)
		err = u.entry.Remove()
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		v.log.Info("a safe file does not stay in the hot cache", "path", string(r.Path), "err", err)
		err = u.entry.Remove()
	}
	if err != nil {
		v.log.Error("take a safe file out of the journal", "path", string(r.Path), "err", err)
	}
	u.mu.Lock()
	u.ended = true // before the node is looked at: from here on nobody gives it u any more
	u.mu.Unlock()
	if node := v.Known(u.inode); node != nil {
		node.mu.Lock()
		if node.work == u {
			node.work = nil
		}
		node.mu.Unlock()
		node.Forget(1)
	}
	v.forget(u)
	v.lake.LetGo(lake.Holder(u.id)) // its copies are the catalogue's
	v.stats.safe.Add(1)
	if v.opt.OnSafe != nil {
		v.opt.OnSafe(in.DID)
	}
}
