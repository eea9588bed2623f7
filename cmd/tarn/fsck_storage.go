package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"sort"
	"time"

	"tarn/backends"
	"tarn/backends/compare"
	"tarn/backends/lake"
	"tarn/backends/replication"
	"tarn/cmd/tarn/control"
)

// stranger is a file at a storage that the catalogue does not know.
type stranger struct {
	rse   *lake.RSE
	pfn   string
	size  int64
	mtime time.Time
}

// storage compares one RSE with the catalogue.
func (f *fsck) storage(ctx context.Context, rse *lake.RSE, strange *[]stranger) error {
	return compare.Walk(ctx, rse, func(a backends.Attr) error {
		at := place{rse.Name, a.Path}
		c := f.known[at]
		if c == nil {
			if !f.own[at] {
				*strange = append(*strange, stranger{rse, a.Path, a.Size, a.MTime})
			}
			return nil
		}
		c.seen = true
		bad := ""
		if a.Size != c.file.in.Size {
			bad = fmt.Sprintf("%d bytes, and it should have %d", a.Size, c.file.in.Size)
		} else if f.deep && rse.Tape == nil {
			if err := compare.Sums(ctx, rse, a.Path, c.file.in.Checksums, false); errors.Is(err, backends.ErrCorrupt) {
				bad = err.Error()
			} else if err != nil {
				return err
			}
		}
		if bad == "" {
			c.file.good++
			return nil
		}
		if err := f.bad(ctx, c, "replica_damaged", bad); err != nil {
			return err
		}
		if rse.Naming != nil && f.sum.Backup != nil {
			// The path may have been freed since the backup, and be that of a newer file.
			*strange = append(*strange, stranger{rse, a.Path, a.Size, a.MTime})
		}
		return nil
	})
}

// bad tells of a copy that is no good, and declares it so in the catalogue. Whether it
// was the last one is told by missing.
func (f *fsck) bad(ctx context.Context, c *copyOf, what, why string) error {
	x := finding{Kind: "problem", What: what, RSE: c.rep.RSE, PFN: control.Text(c.rep.PFN), Path: control.Text(c.file.in.DID.Name), Detail: why}
	if c.rep.State == backends.Bad || c.file.past || c.rep.State == backends.BeingDeleted || c.rep.State == backends.Copying {
		x.Kind = "note"
	} else if f.repair && !f.broken {
		r := c.rep
		r.State, r.Error = backends.Bad, "fsck: "+why
		if err := f.cat.PutReplica(ctx, c.file.in.DID, c.file.in.Generation, r); err != nil {
			return fmt.Errorf("declare a copy of %s bad: %w", c.file.in.DID, err)
		}
		x.Repaired, x.Detail = true, why+"; declared BAD"
	}
	return f.add(x)
}

// missing tells of the copies that were not met.
func (f *fsck) missing(ctx context.Context) error {
	var places []place
	for at := range f.known {
		places = append(places, at)
	}
	sort.Slice(places, func(i, j int) bool {
		return places[i].rse < places[j].rse || places[i].rse == places[j].rse && places[i].pfn < places[j].pfn
	})
	for _, at := range places {
		c := f.known[at]
		if !c.seen {
			why := "it is not there"
			if _, ok := f.rseNames()[at.rse]; !ok {
				why = "the lake file has no such RSE"
			}
			if err := f.bad(ctx, c, "replica_missing", why); err != nil {
				return err
			}
		}
	}
	return nil
}

// lost tells of the files of which no good copy is left. Those that wait in the journal for
// their first one are none.
func (f *fsck) lost(ctx context.Context) error {
	var lost []*fileOf
	for _, file := range f.files {
		if file.good == 0 && !f.unsent[file.in.DID.Name] {
			lost = append(lost, file)
		}
	}
	sort.Slice(lost, func(i, j int) bool { return lost[i].in.DID.Name < lost[j].in.DID.Name })
	for _, file := range lost {
		if m, err := f.cat.Meta(ctx, file.in.DID); err == nil && m[replication.Expired] != nil {
			x := finding{Kind: "note", What: "file_expired", Path: control.Text(file.in.DID.Name), Size: file.in.Size, Detail: fmt.Sprint("its last copy was let go: ", m[replication.Expired])}
			if err := f.add(x); err != nil {
				return err
			}
			continue
		}
		err := f.add(finding{Kind: "problem", What: "file_lost", Path: control.Text(file.in.DID.Name), Size: file.in.Size, Detail: "no good copy is left", Lost: true})
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *fsck) rseNames() map[string]bool {
	out := map[string]bool{}
	for _, r := range f.cfg.RSEs {
		out[r.Name] = true
	}
	return out
}

// strangers tells of the copies that nobody knows. With repair those are registered whose
// path tells their name: exactly one folder of the catalogue fits it.
func (f *fsck) strangers(ctx context.Context, all []stranger) error {
	sort.SliceStable(all, func(i, j int) bool { return all[i].mtime.Before(all[j].mtime) })
	for _, st := range all {
		x := finding{Kind: "note", What: "unknown_copy", RSE: st.rse.Name, PFN: control.Text(st.pfn), Size: st.size}
		if f.sum.Backup != nil {
			f.sum.Backup.Newer++
		}
		d, ok := f.nameOf(st)
		if ok {
			x.Path = control.Text(d.Name)
			if f.sum.Backup != nil {
				f.sum.Backup.Named++
			}
			if f.repair && !f.broken && f.sum.Backup != nil {
				// Only after a restore: in a lake that lost nothing it is a copy that was given up.
				done, why, err := f.register(ctx, d, st)
				if err != nil {
					return err
				}
				x.Detail = why
				if done {
					x.Kind, x.Repaired = "problem", true
				}
			}
		} else if f.sum.Backup != nil {
			x.Detail = "its path does not tell its name"
		}
		if err := f.add(x); err != nil {
			return err
		}
	}
	return nil
}

// nameOf finds the one name below the folders of the catalogue that a path can be of.
func (f *fsck) nameOf(st stranger) (d backends.DID, ok bool) {
	if a := st.rse.Naming; a != nil {
		n := 0
		for scope, folders := range f.folders {
			for _, c := range a.DIDs(scope, st.pfn) {
				if slices.Contains(folders, path.Dir(c.Name)) {
					d = c
					n++
				}
			}
		}
		if n > 0 {
			return d, n == 1
		}
	}
	p, ok := lake.ParsePFN(st.pfn)
	if !ok {
		return d, false
	}
	n := 0
	for scope, folders := range f.folders {
		for _, dir := range folders {
			c := backends.DID{Scope: scope, Name: dir + "/" + p.Base}
			if p.Is(c) {
				d = c
				n++
			}
		}
	}
	return d, n == 1
}

// register makes a copy known: of the file that stands at its name, when it is that, or
// as a new file.
func (f *fsck) register(ctx context.Context, d backends.DID, st stranger) (done bool, why string, err error) {
	sums, err := st.rse.Storage.Checksum(ctx, st.pfn)
	if errors.Is(err, backends.ErrOffline) || errors.Is(err, backends.ErrNotSupported) {
		return false, "its checksum cannot be had: " + err.Error(), nil
	}
	if err != nil {
		return false, "", fmt.Errorf("read %s at %s: %w", st.pfn, st.rse.Name, err)
	}
	rep := backends.Replica{RSE: st.rse.Name, PFN: st.pfn, State: backends.Available, Verified: f.s.t.now()}
	have, err := f.cat.Stat(ctx, d)
	old := f.files[d]
	same := err == nil && have.Size == st.size && have.Checksums.Match(sums) == nil
	switch {
	// Another content that cannot be had any more, or was registered a moment ago and is older, gives way.
	case errors.Is(err, backends.ErrNotExist), err == nil && !same && old != nil && (old.good == 0 || old.fresh):
		in := backends.Info{DID: d, Type: backends.File, Size: st.size, Checksums: sums, Generation: backends.GenerationOf(d, st.size, sums), Mode: 0o644, MTime: st.mtime, CTime: f.s.t.now()}
		in.UID, in.GID = f.ownerOf(ctx, d)
		if err := f.cat.Add(ctx, in, nil, rep); err != nil {
			return false, "", fmt.Errorf("register %s: %w", d, err)
		}
		f.files[d] = &fileOf{in: in, fresh: true, good: 1}
		f.sum.Files++
		if old != nil {
			f.sum.Files--
			return true, "registered in the place of another content", nil
		}
		return true, "registered", nil
	case err != nil:
		return false, "", err
	case !same:
		return false, "the catalogue has another content of that name", nil
	}
	reps, err := f.cat.Replicas(ctx, d)
	if err != nil {
		return false, "", err
	}
	for _, r := range reps {
		if r.RSE == st.rse.Name && r.State == backends.Available {
			return false, "a second copy at this RSE", nil
		}
	}
	if err := f.cat.PutReplica(ctx, d, have.Generation, rep); err != nil {
		return false, "", fmt.Errorf("register a copy of %s: %w", d, err)
	}
	if old != nil {
		old.good++
	}
	return true, "registered as a copy", nil
}

// ownerOf gives who owns the folder of d.
func (f *fsck) ownerOf(ctx context.Context, d backends.DID) (uid, gid uint32) {
	in, err := f.cat.Stat(ctx, backends.DID{Scope: d.Scope, Name: path.Dir(d.Name)})
	if err != nil {
		return 0, 0
	}
	return in.UID, in.GID
}
