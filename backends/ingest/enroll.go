package ingest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"
	"time"

	"tarn/backends"
)

// prepareServed makes the target. It is a container unless it is to be a dataset, which holds nothing but files: folders may come. Rules stand on
// the datasets of files, and are asked for when these have some: Rucio then keeps the copies where they are.
func (o Options) prepareServed(ctx context.Context, target string, dataset bool) error {
	var missing []backends.Entry
	for p := target; strings.Count(p, "/") > 1; p = path.Dir(p) {
		in, err := o.Lake.Resolve(ctx, p)
		if err == nil && in.IsDir() {
			break
		}
		if err != nil && !errors.Is(err, backends.ErrNotExist) {
			return err
		}
		e := backends.Entry{Info: backends.Info{DID: o.Lake.PathDID(p), Type: backends.Container}, Into: o.Lake.PathDID(path.Dir(p))}
		if strings.Count(path.Dir(p), "/") == 1 {
			if in, err := o.Lake.Resolve(ctx, path.Dir(p)); err == nil { // of a scope the path does not tell the name
				e.Into = in.DID
			}
		}
		if p == target && dataset {
			e.Info.Type = backends.Dataset
		}
		missing = append([]backends.Entry{e}, missing...)
	}
	if len(missing) == 0 {
		return nil
	}
	imp, ok := o.Lake.Catalogue().(backends.Importer)
	if !ok {
		return fmt.Errorf("make %s: the catalogue has no bulk way: %w", target, backends.ErrNotSupported)
	}
	if _, err := imp.Import(ctx, func(yield func(backends.Entry, error) bool) {
		for _, e := range missing {
			if !yield(e, nil) {
				return
			}
		}
	}); err != nil {
		return fmt.Errorf("make %s: %w", target, err)
	}
	return nil
}

// Files that were sent wait for others, so that a server is asked for many at a time: gatheringServed at most, and no longer than none has
// come for quietServed.
const (
	gatheringServed = 10 * time.Second
	quietServed     = time.Second
)

// enroll registers files with a catalogue that is Served, and asks for the rules on their datasets. It ends when that is so, or with what is
// fatal; those that the catalogue does not take fail, and those whose rules it does not take wait for these (see askFor).
func (k *link) enroll(ctx context.Context, rs []*Record) ([]*Record, error) {
	for wait := 1; ; wait++ {
		good, err := k.enterHalves(ctx, rs)
		if err == nil {
			rs = good
			if err = k.askFor(ctx, k.homes(rs)); err == nil {
				k.setTrouble("register", nil)
				return rs, nil
			}
			err = fmt.Errorf("rules of %d files: %w", len(rs), err)
		}
		if fatal(ctx, err) {
			return nil, err
		}
		k.mu.Lock()
		clear(k.leaves) // a folder that somebody removed there is made again
		k.mu.Unlock()
		k.setTrouble("register", fmt.Errorf("register %d files: %w", len(rs), err))
		if !k.patient(ctx, min(patience(wait), time.Minute)) {
			return nil, ctx.Err()
		}
	}
}

// askFor asks for the rules on the files of directories. The directories of which the server does not take them are found by halving, and
// are noted with the reason: their files are registered, and not safe, and the prover asks again after a while, ever longer. The error is that the
// server cannot be asked, or fatal.
func (k *link) askFor(ctx context.Context, dirs []backends.DID) error {
	if len(dirs) == 0 {
		return nil
	}
	err := k.server.Ask(ctx, dirs, k.d.Rules)
	switch {
	case err == nil:
		k.mu.Lock()
		defer k.mu.Unlock()
		for _, d := range dirs {
			delete(k.refused, d)
		}
		return nil
	case fatal(ctx, err), outage(err) && !isOf(err, backends.ErrQuota, backends.ErrPermission, backends.ErrNoSpace, backends.ErrReadOnly):
		return err
	case len(dirs) > 1:
		return errors.Join(k.askFor(ctx, dirs[:len(dirs)/2]), k.askFor(ctx, dirs[len(dirs)/2:]))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.refused) >= maxDoubts {
		clear(k.refused)
	}
	times := k.refused[dirs[0]].times + 1
	k.refused[dirs[0]] = doubt{err, k.clock().Add(patience(times)), times}
	k.log.Warn("rules are not made", "directory", dirs[0], "err", err)
	return nil
}

// isOf tells whether an error is one of some.
func isOf(err error, some ...error) bool {
	return slices.ContainsFunc(some, func(e error) bool { return errors.Is(err, e) })
}

// refusal is why a directory's files have no rules; nil: that is not known.
func (k *link) refusal(dir backends.DID) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.refused[dir].err
}

// refusedOf are those of some directories whose rules are to be asked for again.
func (k *link) refusedOf(dirs []backends.DID) (out []backends.DID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, d := range dirs {
		if x, ok := k.refused[d]; ok && !k.clock().Before(x.until) {
			out = append(out, d)
		}
	}
	return out
}

// enterHalves gives files to the catalogue, and finds those that it does not take by halving: they fail. It gives those that it took.
func (k *link) enterHalves(ctx context.Context, rs []*Record) (good []*Record, err error) {
	if len(rs) == 0 {
		return nil, nil
	}
	err = k.enter(ctx, rs)
	switch {
	case err == nil:
		return rs, nil
	case fatal(ctx, err), outage(err):
		return nil, err
	case len(rs) == 1:
		if errors.Is(err, backends.ErrExist) {
			err = fmt.Errorf("%w: %w", err, errTaken)
		}
		if err := k.fail(rs[0], err); err != nil && !errors.Is(err, backends.ErrStale) {
			return nil, err
		}
		return nil, nil
	}
	for _, half := range [][]*Record{rs[:len(rs)/2], rs[len(rs)/2:]} {
		some, err := k.enterHalves(ctx, half)
		if err != nil {
			return nil, err
		}
		good = append(good, some...)
	}
	return good, nil
}

// home is the directory that a file is registered in.
func (k *link) home(r *Record) backends.DID { return k.lake.PathDID(k.dirOf(r)) }

// dirOf is its lake path.
func (k *link) dirOf(r *Record) string { return path.Dir(k.target + "/" + r.Path) }

// homes are the directories of files, each once.
func (k *link) homes(rs []*Record) (out []backends.DID) {
	seen := map[backends.DID]bool{}
	for _, r := range rs {
		if d := k.home(r); !seen[d] {
			seen[d] = true
			out = append(out, d)
		}
	}
	return out
}

// maxLeaves bounds Link.leaves.
const maxLeaves = 10_000

// foldersServed are the collections from the target down to a file that the server is not known to have. One that has no folder in it at the
// source becomes a dataset, which can hold nothing but files there.
func (k *link) foldersServed(r *Record, done map[string]bool) (out []backends.Entry) {
	for p := k.dirOf(r); p != k.target && !done[p]; p = path.Dir(p) {
		done[p] = true
		k.mu.Lock()
		known := k.leaves[p]
		k.mu.Unlock()
		if known {
			break
		}
		e := backends.Entry{Info: backends.Info{DID: k.lake.PathDID(p), Type: backends.Dataset}, Into: k.lake.PathDID(path.Dir(p))}
		if k.folder.hasFolders(p[len(k.target)+1:]) {
			e.Info.Type = backends.Container
		}
		out = append([]backends.Entry{e}, out...)
	}
	return out
}

// entriesServed are all that a batch needs, collections before what they hold.
func (k *link) entriesServed(rs []*Record) iter.Seq2[backends.Entry, error] {
	return func(yield func(backends.Entry, error) bool) {
		done := map[string]bool{}
		for _, r := range rs {
			e := k.entry(r)
			e.Into = k.home(r)
			for _, e := range append(k.foldersServed(r, done), e) {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

// remember notes the folders of files that were registered.
func (k *link) remember(rs []*Record) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.leaves) > maxLeaves {
		clear(k.leaves)
	}
	for _, r := range rs {
		for p := k.dirOf(r); p != k.target && !k.leaves[p]; p = path.Dir(p) {
			k.leaves[p] = true
		}
	}
}

// rereadServed wants the server to have the very contents with the very copies; it gives what is wrong with each.
func (k *link) rereadServed(ctx context.Context, rs []*Record) (wrong []error, err error) {
	for wait := 1; ; wait++ {
		err := k.meet(ctx, rs)
		if err == nil {
			break
		}
		if fatal(ctx, err) {
			return nil, err
		}
		k.setTrouble("register", fmt.Errorf("read %d files again: %w", len(rs), err))
		if !k.patient(ctx, min(patience(wait), 10*time.Second)) {
			return nil, ctx.Err()
		}
	}
	wrong = make([]error, len(rs))
	for i, r := range rs {
		wrong[i] = k.rereadMet(r)
	}
	return wrong, nil
}

func (k *link) rereadMet(r *Record) error {
	if !r.met.is || r.met.look.Removed {
		return fmt.Errorf("read again: %w", backends.ErrNotExist)
	}
	if err := k.sameServed(r, r.met.look.Info); err != nil || r.PFN == "" {
		return err
	}
	for _, x := range r.met.look.Replicas {
		switch {
		case x.RSE != r.RSE:
		case x.PFN == r.PFN: // it is AVAILABLE, or was declared BAD since
			return nil
		default: // it had a copy there already
			k.useTheirs(r)
			return nil
		}
	}
	return fmt.Errorf("the catalogue does not know the copy at %s: %w", r.RSE, backends.ErrStale)
}

// sameServed compares what the server has of a file with the record.
func (k *link) sameServed(r *Record, in backends.Info) error {
	switch {
	case in.Type != backends.File:
		return fmt.Errorf("%s is no file in the lake: %w", r.DID, backends.ErrStale)
	case in.Size != r.Size:
		return fmt.Errorf("%s has another content in the lake: %w", r.DID, backends.ErrStale)
	}
	if err := in.Checksums.Match(r.Checksums); err != nil {
		return err
	}
	return certain(in.Checksums)
}
