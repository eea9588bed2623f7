package lake

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"tarn/backends"
	"tarn/backends/checksum"
)

// At an RSE with a naming the path of a copy follows from the DID, so two contents may
// want the same one: generations of one file, or a file that has the name now and one that
// had it before. Each path has one owner at a time, and only that one deletes there:
//
//   - a replica on record, of a file or a Past, in any state;
//   - a holder in memory, before that: a content of the journal with its copies planned or
//     begun, a copy under way, an import.
//
// Place gives the path of the naming to nobody as long as it has an owner, or a file lies
// there. An owner is in memory before it is on record, and is forgotten only after what it
// has at the path was deleted, or is on record for somebody.

// Holder is who has paths before, or beside, the catalogue: an ID of its own, which whoever takes up its
// work has, too. Two that make the same copy share no path: the one that gives up deletes what it made.
type Holder string

// NewHolder is one that nobody else is.
func (l *Lake) NewHolder() Holder {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holders++
	return Holder(fmt.Sprintf("holder-%d", l.holders))
}

// spot is a path at an RSE.
type spot struct{ rse, pfn string }

// Hold makes h an owner of a path that it has on record of its own. ErrBusy when somebody
// else is. At an RSE without a naming every path has its owner by itself.
func (l *Lake) Hold(h Holder, rse, pfn string) error {
	_, err := l.hold(h, rse, pfn)
	return err
}

// hold is Hold; had tells that h had it before.
func (l *Lake) hold(h Holder, rse, pfn string) (had bool, err error) {
	if r := l.rse(rse); r == nil || r.Naming == nil {
		return false, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	at := spot{rse, pfn}
	switch o, taken := l.held[at]; {
	case taken && o != h:
		return false, fmt.Errorf("path %s at %s: somebody else makes a copy there: %w: %w", pfn, rse, backends.ErrBusy, backends.ErrTemporary)
	case taken:
		return true, nil
	}
	l.held[at] = h
	l.holds[h] = append(l.holds[h], at)
	return false, nil
}

// LetGo ends all that the holder has.
func (l *Lake) LetGo(h Holder) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, at := range l.holds[h] {
		delete(l.held, at)
	}
	delete(l.holds, h)
}

// Held tells whether somebody in memory has the path.
func (l *Lake) Held(rse, pfn string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, taken := l.held[spot{rse, pfn}]
	return taken
}

// letGoOf ends one hold of h.
func (l *Lake) letGoOf(h Holder, at spot) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.held, at)
	if l.holds[h] = slices.DeleteFunc(l.holds[h], func(s spot) bool { return s == at }); len(l.holds[h]) == 0 {
		delete(l.holds, h)
	}
}

// Others tells whether somebody beside the caller, whose own records of the path are own,
// has it on record: then a file there is not the caller's to delete.
func (l *Lake) Others(ctx context.Context, rse, pfn string, own int) (bool, error) {
	r := l.rse(rse)
	if r == nil || r.Naming == nil {
		return false, nil
	}
	n, err := l.o.Places.Holders(ctx, rse, pfn)
	if err != nil {
		return true, err
	}
	return n > own, nil
}

// RemoveAt deletes the file at a path of the caller's, who has own records of it. Success when
// there is none, and when it stays because somebody else has the path on record, too.
func (l *Lake) RemoveAt(ctx context.Context, rse *RSE, pfn string, own int) error {
	others, err := l.Others(ctx, rse.Name, pfn, own)
	if err != nil {
		return err
	}
	if others {
		l.log.Warn("file stays, another replica has its path", "rse", rse.Name, "pfn", pfn)
		return nil
	}
	err = rse.Storage.Remove(ctx, pfn)
	switch {
	case errors.Is(err, backends.ErrNotExist):
		return nil
	case rse.Naming != nil && (errors.Is(err, backends.ErrNotEmpty) || errors.Is(err, backends.ErrIsDir)):
		return nil // a folder of other files' paths
	}
	return err
}

// Place chooses the path of a new copy of in at the RSE: that of the RSE's naming when it
// is proved to be free, which h has from then on until LetGo; else one of its own, as
// NewPFN makes it. With adopt a file that lies there and is what in is, in size and all
// checksums, is no hindrance, and found tells of it: it is not the caller's to delete. An
// error is that nobody can tell.
func (l *Lake) Place(ctx context.Context, rse *RSE, in backends.Info, h Holder, salt string, adopt bool) (pfn string, found bool, err error) {
	own := l.NewPFN(in.DID, salt)
	if rse.Naming == nil {
		return own, false, nil
	}
	if rse.Bound {
		return l.boundPlace(ctx, rse, in, h)
	}
	p, ok := rse.Naming.Path(in.DID)
	if !ok {
		return own, false, nil
	}
	had, err := l.hold(h, rse.Name, p)
	if err != nil {
		return own, false, nil
	}
	free, found, err := l.free(ctx, rse, p, in, adopt || had) // what an owner wrote it may go on with
	if err == nil && free {
		return p, found && !had, nil
	}
	l.letGoOf(h, spot{rse.Name, p})
	if err != nil {
		return "", false, fmt.Errorf("look whether %s at %s is free: %w", p, rse.Name, err)
	}
	return own, false, nil
}

// boundPlace is Place at an RSE where a copy of a DID can be at one path only. What lies there is overwritten if it is nobody's;
// what is on record there is the DID's own, and must be what in is. ErrExist when it is not.
func (l *Lake) boundPlace(ctx context.Context, rse *RSE, in backends.Info, h Holder) (pfn string, found bool, err error) {
	fail := func(err error) (string, bool, error) {
		return "", false, fmt.Errorf("path of %s at %s: %w", in.DID, rse.Name, err)
	}
	p, ok := rse.Naming.Path(in.DID)
	if !ok {
		return fail(fmt.Errorf("algorithm %s makes none of this name: %w", rse.Naming, backends.ErrName))
	}
	had, err := l.hold(h, rse.Name, p)
	if err != nil {
		return fail(err)
	}
	n, err := l.o.Places.Holders(ctx, rse.Name, p)
	switch {
	case err != nil:
	case n == 0:
		return p, false, nil
	case in.Checksums.IsZero():
		err = fmt.Errorf("a copy of the name is on record, and the checksum of the new file is not known yet: %w: %w", backends.ErrBusy, backends.ErrTemporary)
	case l.stored(ctx, rse, p, in.Size, in.Checksums):
		return p, true, nil
	default:
		err = fmt.Errorf("the name has another content on record, and a name never gets another one there; write it under another name: %w", backends.ErrExist)
	}
	if !had {
		l.letGoOf(h, spot{rse.Name, p})
	}
	return fail(err)
}

// Elsewhere tells whether an error says that a copy does not go to the path of the RSE's naming, and may go to another.
func (r *RSE) Elsewhere(err error) bool { return r.Naming != nil && !r.Bound && Misfit(err) }

// Astray tells whether a copy that was stored for a DID is not where copies of that DID have to be: the file was renamed since.
func (r *RSE) Astray(d backends.DID, pfn string) bool {
	if !r.Bound {
		return false
	}
	p, ok := r.Naming.Path(d)
	return ok && p != pfn
}

// free tells whether nothing is on record of the path and nothing lies there.
func (l *Lake) free(ctx context.Context, rse *RSE, p string, in backends.Info, adopt bool) (free, found bool, err error) {
	n, err := l.o.Places.Holders(ctx, rse.Name, p)
	if err != nil || n > 0 {
		return false, false, err
	}
	a, err := rse.Storage.Stat(ctx, p)
	switch {
	case errors.Is(err, backends.ErrNotExist):
		return true, false, nil
	case Misfit(err):
		return false, false, nil
	case err != nil:
		return false, false, err
	case !adopt || a.IsDir || a.Size != in.Size || in.Checksums.IsZero():
		return false, false, nil
	}
	o, err := rse.Storage.Open(ctx, p)
	if err != nil {
		return false, false, err
	}
	defer o.Close()
	got, err := checksum.Object(ctx, o, checksum.Known(in.Checksums)...)
	if err != nil {
		return false, false, err
	}
	same := in.Checksums.Match(got) == nil
	return same, same, nil
}

// Misfit tells whether an error of a storage says that no file can be at that path: a file
// is where a folder should be, or the other way round, or the name does not go there.
func Misfit(err error) bool {
	if errors.Is(err, errSource) {
		return false
	}
	for _, e := range []error{backends.ErrNotDir, backends.ErrIsDir, backends.ErrExist, backends.ErrName, backends.ErrNameTooLong} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
