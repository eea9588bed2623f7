package importer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"syscall"
	"time"

	"tarn/backends"
	"tarn/backends/checksum"
	"tarn/backends/lake"
)

// job is one entry of the tree on its way into the catalogue.
type job struct {
	source string // path on the local disk
	target string // lake path
	isDir  bool
	link   bool

	// Written before done is closed.
	entry backends.Entry
	has   bool // the lake has it already
	err   error
	done  chan struct{}
}

// skipWork tells whether everything about j is known without reading bytes.
func (j *job) skipWork() bool { return j.isDir || j.link || j.err != nil }

// walk calls emit for every entry, directories before what they hold and names in
// order, until emit answers false.
func (r *run) walk(ctx context.Context, emit func(*job) bool) error {
	st, err := os.Stat(r.o.Source)
	if err != nil {
		return err
	}
	_, err = r.walkEntry(ctx, r.o.Source, r.target, st, emit)
	return err
}

func (r *run) walkEntry(ctx context.Context, source, target string, st os.FileInfo, emit func(*job) bool) (bool, error) {
	j := &job{source: source, target: target, done: make(chan struct{})}
	did := r.l.PathDID(target)
	info := backends.Info{DID: did, Type: backends.File, Mode: modeOf(st), MTime: st.ModTime(), CTime: r.o.Now()}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		info.UID, info.GID = sys.Uid, sys.Gid
	}
	j.entry = backends.Entry{Info: info}
	switch {
	case st.IsDir():
		entries, err := os.ReadDir(source)
		j.isDir = true
		r.dirs.Add(1)
		if err != nil {
			// Without its names nothing of it can be imported, and the rest can.
			r.fail(source, err)
			return true, nil
		}
		j.entry.Info.Type = collectionType(entries)
		if target != "/"+r.scope && !emit(j) {
			return false, nil
		}
		for _, e := range entries {
			if err := ctx.Err(); err != nil {
				return false, nil
			}
			sub := filepath.Join(source, e.Name())
			if r.o.RegisterOnly && source == r.o.Folder && e.Name() == ".tarn-uploads" {
				continue // the storage's own
			}
			st, err := e.Info()
			if err != nil {
				r.fail(sub, err) // it went away meanwhile, or cannot be seen
				continue
			}
			more, err := r.walkEntry(ctx, sub, path.Join(target, e.Name()), st, emit)
			if err != nil || !more {
				return more, err
			}
		}
		return true, nil
	case st.Mode()&os.ModeSymlink != 0:
		j.link = true
		j.entry.Info.Target, j.err = os.Readlink(source)
		j.entry.Info.Size = int64(len(j.entry.Info.Target))
		j.entry.Info.Mode = 0o777
		if j.err == nil && !r.l.Catalogue().Traits().Symlinks {
			j.err = fmt.Errorf("symbolic links: %w", backends.ErrNotSupported)
		}
		return emit(j), nil
	case st.Mode().IsRegular():
		j.entry.Info.Size = st.Size()
		return emit(j), nil
	}
	r.fail(source, fmt.Errorf("a %s cannot be kept in a lake: %w", kindOf(st.Mode()), backends.ErrNotSupported))
	return true, nil
}

// collectionType: what holds files only is a dataset, as in Rucio.
func collectionType(entries []os.DirEntry) backends.Type {
	files := 0
	for _, e := range entries {
		if e.IsDir() {
			return backends.Container
		}
		files++
	}
	if files == 0 {
		return backends.Container
	}
	return backends.Dataset
}

func kindOf(m os.FileMode) string {
	switch {
	case m&os.ModeSocket != 0:
		return "socket"
	case m&os.ModeNamedPipe != 0:
		return "named pipe"
	}
	return "device"
}

func modeOf(st os.FileInfo) uint32 {
	m := uint32(st.Mode().Perm())
	for _, b := range []struct {
		go_  os.FileMode
		unix uint32
	}{{os.ModeSetuid, 0o4000}, {os.ModeSetgid, 0o2000}, {os.ModeSticky, 0o1000}} {
		if st.Mode()&b.go_ != 0 {
			m |= b.unix
		}
	}
	return m
}

// count sums up the tree for the progress, beside the import itself.
func (r *run) count(ctx context.Context) {
	// What cannot be read here fails in walk too, and is reported there.
	_ = filepath.WalkDir(r.o.Source, func(_ string, d os.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil || d.IsDir() {
			return nil
		}
		r.totalFiles.Add(1)
		if d.Type().IsRegular() {
			if st, err := d.Info(); err == nil {
				r.totalBytes.Add(st.Size())
			}
		}
		return nil
	})
}

// file brings one regular file to the RSE and gives its entry; has: the lake has it there.
func (r *run) file(ctx context.Context, j *job) (e backends.Entry, has bool, err error) {
	e = j.entry
	if err := ctx.Err(); err != nil {
		return e, false, err
	}
	f, err := os.Open(j.source)
	if err != nil {
		return e, false, err
	}
	defer f.Close()
	var pfn string
	if r.o.RegisterOnly {
		if pfn, err = filepath.Rel(r.o.Folder, j.source); err != nil {
			return e, false, err
		}
		if e.Info.Checksums, err = r.rse.Storage.Checksum(ctx, filepath.ToSlash(pfn)); err != nil {
			return e, false, err
		}
		if err = r.unowned(ctx, e.Info.DID, filepath.ToSlash(pfn)); err != nil {
			return e, false, err
		}
	} else if e.Info.Checksums, err = r.digest(ctx, f, e.Info.Size); err != nil {
		return e, false, err
	}
	e.Info.Generation = backends.GenerationOf(e.Info.DID, e.Info.Size, e.Info.Checksums)
	e.Meta = r.o.Meta
	if has, err = r.has(ctx, e.Info, pfn); err != nil || has {
		r.bytes.Add(e.Info.Size)
		return e, has, err
	}
	rep := backends.Replica{RSE: r.rse.Name, PFN: filepath.ToSlash(pfn), State: backends.Available, Verified: r.o.Now()}
	if !r.o.RegisterOnly {
		if rep, err = r.store(ctx, e.Info, f); err != nil {
			return e, false, err
		}
		if r.o.Seed != nil && r.rse.Tape != nil {
			r.o.Seed(e.Info, f)
		}
	} else {
		r.bytes.Add(e.Info.Size)
	}
	e.Replicas = []backends.Replica{rep}
	return e, false, nil
}

// store makes the copy of a file. What it may have left when it fails is removed, but not a
// file that lay at its path before.
func (r *run) store(ctx context.Context, in backends.Info, f *os.File) (backends.Replica, error) {
	last := int64(0)
	h := r.l.NewHolder()
	pfn, found, err := r.l.Place(ctx, r.rse, in, h, "", true)
	if err != nil {
		return backends.Replica{}, err
	}
	store := r.l.StoreNew
	if r.rse.Naming != nil {
		store = r.l.Store // there may be a file
	}
	at := func(pfn string) (backends.Replica, error) {
		return store(ctx, r.rse, pfn, f, in.Size, in.Checksums, func(n int64) {
			r.bytes.Add(n - last)
			last = n
		})
	}
	rep, err := at(pfn)
	if r.rse.Elsewhere(err) {
		pfn, found = r.l.NewPFN(in.DID, ""), false
		rep, err = at(pfn)
	}
	if err != nil {
		r.bytes.Add(-last)
		if !found {
			r.discard(ctx, pfn)
		}
		r.l.LetGo(h)
		return rep, err
	}
	r.bytes.Add(in.Size - last)
	r.letGoLater(h, pfn)
	return rep, nil
}

// stored is a copy whose path is held until the catalogue has it.
type stored struct {
	id  lake.Holder
	pfn string
}

// fewHeld is how many copies may be held without a look at what is registered by now.
const fewHeld = 4096

// letGoLater keeps the path of a copy for it until it is registered.
func (r *run) letGoLater(id lake.Holder, pfn string) {
	if r.rse.Naming == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.held = append(r.held, stored{id, pfn}); len(r.held) > fewHeld; r.held = r.held[1:] {
		// Their order is about that of the registration.
		if on, err := r.l.Others(context.Background(), r.rse.Name, r.held[0].pfn, 0); err != nil || !on {
			return
		}
		r.l.LetGo(r.held[0].id)
	}
}

// letGo ends all that is held.
func (r *run) letGo() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.held {
		r.l.LetGo(s.id)
	}
	r.held = nil
}

// unowned gives an error when the copy at a path is that of something else than d.
func (r *run) unowned(ctx context.Context, d backends.DID, pfn string) error {
	if r.rse.Naming == nil {
		return nil
	}
	if r.l.Held(r.rse.Name, pfn) {
		return fmt.Errorf("it is the copy of a file that is just being written: %w: %w", backends.ErrBusy, backends.ErrTemporary)
	}
	own := 0
	count := func(rs []backends.Replica) {
		for _, x := range rs {
			if x.RSE == r.rse.Name && x.PFN == pfn {
				own++
			}
		}
	}
	now, err := r.l.Catalogue().Replicas(ctx, d)
	if err != nil && !errors.Is(err, backends.ErrNotExist) && !errors.Is(err, backends.ErrIsDir) {
		return err
	}
	count(now)
	if v := r.l.Versions(); v != nil {
		for p, err := range v.Pasts(ctx, d) {
			if err != nil {
				return err
			}
			count(p.Replicas)
		}
	}
	others, err := r.l.Others(ctx, r.rse.Name, pfn, own)
	if err == nil && others {
		err = fmt.Errorf("it is the copy of another file of the lake, or of one that was removed: %w", backends.ErrExist)
	}
	return err
}

// discard removes what a failed or interrupted store may have left; its path is this
// import's alone, so nothing else can be there.
func (r *run) discard(ctx context.Context, pfn string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if err := r.l.RemoveAt(ctx, r.rse, pfn, 0); err != nil {
		r.o.Log.Warn("a copy stays behind", "rse", r.rse.Name, "pfn", pfn, "err", err)
	}
}

// digest reads the whole file; a file that grows or shrinks meanwhile is an error.
func (r *run) digest(ctx context.Context, f *os.File, size int64) (backends.Checksums, error) {
	h := checksum.New(r.l.Algs()...)
	buf := make([]byte, min(size+1, 1<<20)) // of many small files, much larger ones would be most of the work
	for {
		if err := ctx.Err(); err != nil {
			return backends.Checksums{}, err
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			return backends.Checksums{}, err
		}
	}
	if h.Size() != size {
		return backends.Checksums{}, fmt.Errorf("it changed while it was read, from %d to %d bytes: %w", size, h.Size(), backends.ErrStale)
	}
	return h.Sum(), nil
}

// has tells whether the lake has this content under this name with a copy at the RSE.
func (r *run) has(ctx context.Context, in backends.Info, pfn string) (bool, error) {
	old, err := r.l.Catalogue().Stat(ctx, in.DID)
	if errors.Is(err, backends.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if old.IsDir() {
		return false, fmt.Errorf("%s in the lake: %w", in.DID.Name, backends.ErrIsDir)
	}
	if old.Generation != in.Generation {
		if r.o.Replace {
			return false, nil
		}
		return false, fmt.Errorf("%s in the lake has another content: %w", in.DID.Name, backends.ErrExist)
	}
	reps, err := r.l.Catalogue().Replicas(ctx, in.DID)
	if err != nil {
		return false, err
	}
	for _, rep := range reps {
		if rep.RSE == r.rse.Name && rep.State == backends.Available && (pfn == "" || rep.PFN == pfn) {
			return true, nil
		}
	}
	return false, nil
}
