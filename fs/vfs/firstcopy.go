package vfs

import (
	"context"
	"fmt"
	"io"
	"slices"

	"tarn/backends"
	"tarn/backends/checksum"
	"tarn/backends/lake"
	"tarn/cache/journal"
)

// plan chooses where the copies go: one list over all write rules, the first rule's first.
func (up *uploader) plan(ctx context.Context, u *unsent, r journal.Record) ([]journal.Copy, error) {
	in := up.v.infoOf(r)
	did := in.DID
	var have []backends.Replica
	var copies []journal.Copy
	for _, rule := range up.v.lake.WriteRules() {
		rule.DID = did
		rses, err := up.v.lake.Targets(ctx, rule, have, r.Size)
		if err != nil {
			return nil, err
		}
		for _, rse := range rses {
			pfn, _, err := up.v.lake.Place(ctx, rse, in, lake.Holder(u.id), u.id, false)
			if err != nil {
				return nil, err
			}
			c := journal.Copy{RSE: rse.Name, PFN: pfn}
			copies = append(copies, c)
			have = append(have, backends.Replica{RSE: c.RSE, PFN: c.PFN, State: backends.Available})
		}
	}
	if len(copies) == 0 {
		return nil, fmt.Errorf("no write rule names an RSE for new files; set write_rules in lake.yaml: %w", backends.ErrNotSupported)
	}
	return copies, nil
}

// infoOf is what a record tells of the file that it is to become.
func (v *FS) infoOf(r journal.Record) backends.Info {
	return backends.Info{DID: v.lake.PathDID(string(r.Path)), Type: backends.File, Inode: r.Inode, Size: r.Size, Checksums: checksum.FromMap(r.Sums)}
}

func (up *uploader) first(ctx context.Context, u *unsent, r journal.Record) error {
	src, err := u.source(ctx, r)
	if err != nil {
		return err
	}
	defer src.wait()
	r.Sums = u.entry.Record().Sums // some may have come with the look at it
	store := up.v.lake.Store
	planned := len(r.Copies) == 0
	if planned {
		if r.Attempts == 0 {
			store = up.v.lake.StoreNew // their paths end in the id of the entry
		}
		copies, err := up.plan(ctx, u, r)
		if err != nil {
			return err
		}
		if err := u.entry.Update(func(r *journal.Record) { r.Copies = slices.Clone(copies) }); err != nil {
			return local(err)
		}
		r.Copies = copies
	}
	var last error
	for i := range r.Copies {
		if last = up.store(ctx, u, &r, i, src, store); last == nil {
			last = src.wait() // it was there already, and nothing was read
		}
		if last == nil {
			copies := r.Copies
			copies[0], copies[i] = copies[i], copies[0]
			copies[0].State = journal.Verified
			if up.v.lake.Served() {
				copies = copies[:1] // the others are made by the rules
			}
			return u.reach(journal.Verified, func(r *journal.Record) { r.Copies = copies })
		}
		if ctx.Err() != nil {
			return last
		}
		if err := src.failed(); err != nil {
			if !planned {
				return err // what was begun before stays on record
			}
			last = err
			break
		}
	}
	// None of the chosen RSEs takes it: choose anew next time.
	if err := u.entry.Update(func(r *journal.Record) { r.Copies = nil }); err != nil {
		return local(err)
	}
	return last
}

// storeFunc is lake.Lake's Store or StoreNew.
type storeFunc func(ctx context.Context, rse *lake.RSE, pfn string, src io.ReaderAt, size int64, want backends.Checksums, progress func(int64)) (backends.Replica, error)

// store makes copy i and verifies it. Where its path does not fit the storage it gets one of its own.
func (up *uploader) store(ctx context.Context, u *unsent, r *journal.Record, i int, src io.ReaderAt, store storeFunc) error {
	rse, ok := up.v.lake.RSE(r.Copies[i].RSE)
	if ok && rse.Naming != nil {
		store = up.v.lake.Store // there may be a file at a path that others can have, too
	}
	err := up.storeAt(ctx, *r, i, src, store)
	if !ok || !rse.Elsewhere(err) {
		return err
	}
	r.Copies[i].PFN = up.v.lake.NewPFN(up.v.infoOf(*r).DID, u.id)
	up.v.log.Info("a path does not fit the storage", "rse", r.Copies[i].RSE, "instead", r.Copies[i].PFN, "err", err)
	if err := up.keepCopies(u, r); err != nil {
		return err
	}
	return up.storeAt(ctx, *r, i, src, store)
}

func (up *uploader) storeAt(ctx context.Context, r journal.Record, i int, src io.ReaderAt, store storeFunc) error {
	v := up.v
	rse, ok := v.lake.RSE(r.Copies[i].RSE)
	if !ok {
		return fmt.Errorf("RSE %s is not in lake.yaml any more: %w", r.Copies[i].RSE, backends.ErrNotExist)
	}
	sent := int64(0)
	_, err := store(ctx, rse, r.Copies[i].PFN, src, r.Size, checksum.FromMap(r.Sums), func(n int64) {
		v.stats.sent.Add(n - sent)
		sent = n
	})
	if err != nil {
		return fmt.Errorf("upload to %s: %w", rse.Name, err)
	}
	v.stats.uploads.Add(1)
	return nil
}
