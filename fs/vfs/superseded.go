package vfs

import (
	"context"
	"errors"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
	"tarn/backends/lake"
	"tarn/cache/journal"
)

// lastPath is the key in the metadata of a record without a path under which the path
// stands that it had.
const lastPath = "tarn.last_path"

// supersede drops the sealed contents of u's file that are older than u and were not
// registered yet: nobody saw them elsewhere, and u must not be overtaken by them.
func (up *uploader) supersede(u *unsent) {
	for _, w := range up.v.olderThan(u) {
		if !w.registered() {
			up.v.drop(w)
		}
	}
}

// outdate drops the contents of u's file that are older than u, which is registered. The
// catalogue keeps the copies that they have for the grace period; no more are made.
func (up *uploader) outdate(u *unsent) {
	for _, w := range up.v.olderThan(u) {
		up.v.drop(w)
	}
}

// olderThan lists the unsent contents of u's file that are older than u.
func (v *FS) olderThan(u *unsent) []*unsent {
	all := v.contents(u.inode)
	for i, w := range all {
		if w == u {
			return all[:i]
		}
	}
	return nil
}

// outdated tells whether the catalogue has, at the name of a content that was registered,
// another one or none by now.
func (v *FS) outdated(ctx context.Context, r journal.Record) bool {
	in, err := v.lake.Resolve(ctx, string(r.Path))
	switch {
	case err == nil:
		// Where a name never gets another content, its inode may be one that the catalogue makes up.
		moved := in.Inode != r.Inode && v.lake.Catalogue().Traits().Versions
		return moved || in.Size != r.Size || checksum.FromMap(r.Sums).Match(in.Checksums) != nil
	case isNotExist(err), errors.Is(err, backends.ErrNotDir):
		return true
	}
	return false // the catalogue is away: to be seen later
}

// lost wraps a journal entry that is to be discarded.
func lost(v *FS, e *journal.Entry) *unsent {
	r := e.Record()
	u := &unsent{fs: v, entry: e, id: r.ID, inode: r.Inode, state: r.State, mode: r.Mode, uid: r.UID, gid: r.GID, mtime: r.MTime, dropped: true, ended: true}
	u.last, _ = r.Meta[lastPath].(string)
	return u
}

// discard removes the copies of a dropped content that the catalogue does not know, and
// the content, unless handles still read it. What is not done before a crash the journal
// remembers.
func (up *uploader) discard(u *unsent) {
	v := up.v
	u.mu.Lock()
	keep := !u.ended
	u.mu.Unlock()
	remove := func() {
		if keep {
			return
		}
		if err := u.entry.Remove(); err != nil && !errors.Is(err, journal.ErrRemoved) {
			v.log.Error("remove unsent file", "id", u.id, "err", err)
			return
		}
		v.lake.LetGo(lake.Holder(u.id))
	}
	if len(u.entry.Record().Copies) == 0 {
		remove()
		return
	}
	if err := u.noteIfKept(true, nil); err != nil {
		v.log.Warn("note a replaced file in the journal", "id", u.id, "err", err)
	}
	v.goDo(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		if up.clean(ctx, u) {
			remove()
		}
	})
}

// clean removes the copies of a dropped content that the catalogue does not know; false:
// some may be left.
func (up *uploader) clean(ctx context.Context, u *unsent) bool {
	u.mu.Lock()
	p := u.last
	u.mu.Unlock()
	known, err := up.v.copiesAt(ctx, p)
	if err != nil {
		if ctx.Err() == nil {
			up.v.log.Warn("copies of a replaced file stay until the next start", "path", p, "id", u.id, "err", err)
		}
		return false
	}
	done := true
	r := u.entry.Record()
	for _, c := range r.Copies {
		// One that was registered is the catalogue's, wherever a rename took it since.
		registered := registeredState(r.State) && (c.State == journal.Verified || c.State == journal.Safe)
		if !registered && !known[[2]string{c.RSE, c.PFN}] {
			done = up.removeCopy(ctx, c) && done
		}
	}
	return done
}

// copiesAt gives the copies that the catalogue knows of the present and the past contents
// of a path, by RSE and PFN. It deletes those of the past after the grace period.
func (v *FS) copiesAt(ctx context.Context, p string) (map[[2]string]bool, error) {
	known := map[[2]string]bool{}
	did := v.lake.PathDID(p)
	reps, err := v.lake.Catalogue().Replicas(ctx, did)
	if err != nil && !isNotExist(err) {
		return nil, err
	}
	if ver := v.lake.Versions(); ver != nil {
		for past, err := range ver.Pasts(ctx, did) {
			if isNotExist(err) {
				break
			}
			if err != nil {
				return nil, err
			}
			reps = append(reps, past.Replicas...)
		}
	}
	for _, r := range reps {
		known[[2]string{r.RSE, r.PFN}] = true
	}
	return known, nil
}

// align compares copies with what the catalogue has: a site that has a good copy already,
// as when the same bytes are written again, keeps that one, and other tells which of
// copies are too many.
func (v *FS) align(ctx context.Context, did backends.DID, copies []journal.Copy) (out, other []journal.Copy, err error) {
	reps, err := v.lake.Catalogue().Replicas(ctx, did)
	if err != nil {
		return nil, nil, err
	}
	for _, c := range copies {
		for _, r := range reps {
			if r.RSE == c.RSE && r.PFN != c.PFN && r.State == backends.Available {
				other = append(other, c)
				c.PFN, c.State = r.PFN, journal.Verified
			}
		}
		out = append(out, c)
	}
	return out, other, nil
}

// removeCopy deletes what was stored of a content that nobody wants, unless the catalogue
// has its path on record; false: it may be there still.
func (up *uploader) removeCopy(ctx context.Context, c journal.Copy) bool {
	rse, ok := up.v.lake.RSE(c.RSE)
	if !ok {
		return true // it was taken out of the lake with all that is on it
	}
	if err := up.v.lake.RemoveAt(ctx, rse, c.PFN, 0); err != nil {
		up.v.log.Warn("a copy of a dropped file stays behind", "rse", c.RSE, "pfn", c.PFN, "err", err)
		return false
	}
	return true
}
