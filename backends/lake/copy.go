package lake

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"tarn/backends"
)

// Copy makes a verified copy of in at the RSE and registers it. Servers that can copy between
// themselves do (CopyByServers). Else the source is what Open
// gives; a file that is on tape only is recalled and waited for. A source whose
// bytes do not match the catalogue's checksum is declared BAD and the next one is
// taken. A replica that is AVAILABLE there is success at once; a BAD one is replaced,
// and its file removed afterwards.
//
// The replica is registered as COPYING with its PFN before bytes move, so that a crash
// leaves nothing that is not on record, and the next Copy goes on with the same PFN.
// One that replaces a BAD replica is on record with that one: its path follows from it (Replacements).
// If the content was replaced meanwhile, the copy is removed and the error is ErrStale.
func (l *Lake) Copy(ctx context.Context, in backends.Info, to *RSE, progress func(int64)) (backends.Replica, error) {
	return l.CopyFrom(ctx, in, to, nil, progress)
}

// From tells of an RSE whether its replicas may be what a copy is made of; nil: all may.
type From func(backends.RSE) bool

func (f From) allows(s source) bool { return f == nil || s.rse != nil && f(s.rse.RSE) }

// ErrNoSource is the error of CopyFrom when there is no good replica that the copy may be made of. There may be one later.
var ErrNoSource = errors.New("no copy that it may be made of")

// CopyFrom is Copy of a replica at an RSE that from allows, whatever others there are. ErrNoSource, and nothing was
// begun, when none is AVAILABLE.
func (l *Lake) CopyFrom(ctx context.Context, in backends.Info, to *RSE, from From, progress func(int64)) (backends.Replica, error) {
	r, err := l.copy(ctx, in, to, from, progress)
	if err != nil {
		return r, fmt.Errorf("copy %s to %s: %w", in.DID, to.Name, err)
	}
	return r, nil
}

func (l *Lake) copy(ctx context.Context, in backends.Info, to *RSE, from From, progress func(int64)) (backends.Replica, error) {
	release, err := l.Claim(ctx, in, to.Name)
	if err != nil {
		return backends.Replica{}, err
	}
	defer release()
	replicas, err := l.replicasOf(ctx, in)
	if err != nil {
		return backends.Replica{}, err
	}
	if _, ok := l.SourceOf(replicas, to.Name, from); !ok && from != nil && in.Size > 0 && !l.isAt(replicas, to.Name) {
		return backends.Replica{}, ErrNoSource
	}
	h := l.NewHolder()
	defer l.LetGo(h)
	pfn, bad := "", ""
	i := slices.IndexFunc(replicas, func(r backends.Replica) bool { return r.RSE == to.Name })
	switch {
	case i < 0:
		if l.heldElsewhere(to, in) {
			return backends.Replica{}, fmt.Errorf("somebody makes a copy at its path: %w: %w", backends.ErrBusy, backends.ErrTemporary)
		}
		if pfn, _, err = l.Place(ctx, to, in, h, "", false); err != nil {
			return backends.Replica{}, err
		}
		err := l.o.Catalogue.PutReplica(ctx, in.DID, in.Generation, backends.Replica{RSE: to.Name, PFN: pfn, State: backends.Copying})
		if err != nil {
			return backends.Replica{}, stale(err)
		}
	case replicas[i].State == backends.Available:
		return replicas[i], nil
	case replicas[i].State == backends.Copying:
		pfn = replicas[i].PFN
		if err := l.holdOnRecord(ctx, h, in, replicas[i]); err != nil {
			return backends.Replica{}, err
		}
	case replicas[i].State == backends.BeingDeleted:
		return backends.Replica{}, fmt.Errorf("the replica there is being deleted: %w: %w", backends.ErrBusy, backends.ErrTemporary)
	default:
		bad = replicas[i].PFN
		if !l.Held(to.Name, bad) { // by whoever uploads the file, who is not done elsewhere
			if err := l.holdOnRecord(ctx, h, in, replicas[i]); err != nil {
				return backends.Replica{}, err
			}
		}
		if pfn, err = l.replacement(ctx, to, in, bad); err != nil { // the other file is there until this one is
			return backends.Replica{}, err
		}
	}

	r, err := l.copyBytes(ctx, in, to, pfn, from, progress)
	if bad == "" && to.Elsewhere(err) {
		if pfn, err = l.instead(ctx, in, to, pfn); err == nil {
			r, err = l.copyBytes(ctx, in, to, pfn, from, progress)
		}
	}
	if err != nil {
		if bad == "" && ctx.Err() == nil {
			l.abandon(ctx, in, to, pfn)
		}
		return r, err
	}
	if err := l.putCopy(ctx, in, r); err != nil {
		if err = stale(err); errors.Is(err, backends.ErrStale) {
			l.removeFile(ctx, to, pfn, 1)
		}
		return r, err
	}
	if bad == "" {
		return r, nil
	}
	if err := l.Hold(h, to.Name, bad); err != nil {
		l.log.Warn("bad file of no more use stays", "did", in.DID, "rse", to.Name, "pfn", bad, "err", err)
		return r, nil
	}
	l.removeFile(ctx, to, bad, 0)
	return r, nil
}

// Replacements are the paths of the copy that is made in place of a BAD replica of in, whose record stays until it is there: the first
// that nobody has on record. They are always the same, so that whoever goes on after a crash finds what was begun, whoever looks for
// files that nobody knows knows them, and whoever deletes the BAD one deletes what is left there. They do not change with a rename; and
// they are of this content alone: at an RSE with a naming the path of the BAD one may have been another's, and be another's again.
func Replacements(in backends.Info, bad string) []string {
	name := bad
	if i := strings.LastIndexByte(bad, '.'); len(bad)-i == 13 { // the salt of NewPFN
		name = bad[:i]
	}
	out := make([]string, 3) // a content that comes back is met again where it was: in what was replaced
	for i := range out {
		sum := sha256.Sum256(fmt.Appendf(nil, "%d\x00%s\x00%d\x00%s", in.Inode, in.Generation, i, bad))
		out[i] = newPFN(backends.DID{Scope: in.DID.Scope, Name: name}, hex.EncodeToString(sum[:6]))
	}
	return out
}

// replacement chooses one.
func (l *Lake) replacement(ctx context.Context, to *RSE, in backends.Info, bad string) (string, error) {
	all := Replacements(in, bad)
	if to.Naming == nil {
		return all[0], nil // where every path has its owner by itself
	}
	for _, pfn := range all {
		n, err := l.o.Places.Holders(ctx, to.Name, pfn)
		if err != nil {
			return "", fmt.Errorf("look who has %s at %s: %w", pfn, to.Name, err)
		}
		if n == 0 {
			return pfn, nil
		}
	}
	return "", fmt.Errorf("all paths for a copy in place of %s are in use: %w: %w", bad, backends.ErrBusy, backends.ErrTemporary)
}

// RemoveReplica deletes the file of a replica that is on record, and of a BAD one what a copy in its place has left.
func (l *Lake) RemoveReplica(ctx context.Context, rse *RSE, in backends.Info, r backends.Replica) error {
	if Replaceable(r) {
		for _, pfn := range Replacements(in, r.PFN) {
			if err := l.RemoveAt(ctx, rse, pfn, 0); err != nil && !Misfit(err) {
				return err
			}
			if rse.Naming == nil {
				break // the others are never taken
			}
		}
	}
	return l.RemoveAt(ctx, rse, r.PFN, 1)
}

// Replaceable tells of a replica that was declared BAD, which may be being deleted for that: there may be something at its
// Replacements.
func Replaceable(r backends.Replica) bool {
	return r.State == backends.Bad || r.State == backends.BeingDeleted && r.Error != ""
}

// SourceOf gives the RSE that a copy to another would be made of now: the best whose replica is good, that from allows,
// and of those on disk if there are any. ok is false for none.
func (l *Lake) SourceOf(have []backends.Replica, to string, from From) (rse *RSE, ok bool) {
	for _, s := range l.sources(have) {
		if !s.good() || s.RSE == to || !from.allows(s) {
			continue
		}
		if !s.tape() {
			return s.rse, true
		}
		if rse == nil {
			rse = s.rse
		}
	}
	return rse, rse != nil
}

// isAt tells whether there is a good replica at the RSE.
func (l *Lake) isAt(have []backends.Replica, rse string) bool {
	return slices.ContainsFunc(have, func(r backends.Replica) bool { return r.RSE == rse && r.State == backends.Available })
}

// heldElsewhere tells whether the path that the naming of an RSE has for a file is somebody's who is not done: mostly of
// whoever uploads that file, and makes this copy, too.
func (l *Lake) heldElsewhere(to *RSE, in backends.Info) bool {
	if to.Naming == nil {
		return false
	}
	p, ok := to.Naming.Path(in.DID)
	return ok && l.Held(to.Name, p)
}

// putCopy puts a copy on record, but not of another file that has the name and the same
// content by now: both would have one path.
func (l *Lake) putCopy(ctx context.Context, in backends.Info, r backends.Replica) error {
	now, err := l.o.Catalogue.Stat(ctx, in.DID)
	if err == nil && in.Inode != 0 && now.Inode != in.Inode {
		err = fmt.Errorf("another file has its name: %w", backends.ErrStale)
	}
	if err != nil {
		return err
	}
	return l.o.Catalogue.PutReplica(ctx, in.DID, in.Generation, r)
}

// holdOnRecord makes h an owner of a replica's path, if the replica is still on record then.
func (l *Lake) holdOnRecord(ctx context.Context, h Holder, in backends.Info, r backends.Replica) error {
	if rse := l.rse(r.RSE); rse == nil || rse.Naming == nil {
		return nil
	}
	if err := l.Hold(h, r.RSE, r.PFN); err != nil {
		return err
	}
	now, err := l.replicasOf(ctx, in)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(now, func(x backends.Replica) bool { return x.RSE == r.RSE && x.PFN == r.PFN && x.State == r.State }) {
		return fmt.Errorf("the replica there was changed meanwhile: %w: %w", backends.ErrBusy, backends.ErrTemporary)
	}
	return nil
}

// instead puts a path of its own on record of a copy whose path does not fit the storage.
func (l *Lake) instead(ctx context.Context, in backends.Info, to *RSE, pfn string) (string, error) {
	own := l.NewPFN(in.DID, "")
	l.log.Info("the path of the naming does not fit the storage", "did", in.DID, "rse", to.Name, "pfn", pfn, "instead", own)
	err := l.o.Catalogue.PutReplica(ctx, in.DID, in.Generation, backends.Replica{RSE: to.Name, PFN: own, State: backends.Copying})
	return own, stale(err)
}

// stale makes ErrStale of "is gone": the content that was to be copied is not there any more.
func stale(err error) error {
	if errors.Is(err, backends.ErrNotExist) {
		return fmt.Errorf("%w: %w", backends.ErrStale, err)
	}
	return err
}

// copyBytes stores the content from one source after the other until one is good.
func (l *Lake) copyBytes(ctx context.Context, in backends.Info, to *RSE, pfn string, from From, progress func(int64)) (backends.Replica, error) {
	if r, done, err := l.CopyByServers(ctx, in, to, pfn, from, progress); done {
		return r, err
	}
	for blamed, mixed := map[string]bool{}, false; ; {
		src, release, err := l.openOrRecall(ctx, in, to.Name, from)
		if err != nil {
			return backends.Replica{}, err
		}
		r, err := l.Store(ctx, to, pfn, &readerAt{ctx, src}, in.Size, in.Checksums, progress)
		served := src.Served()
		src.Close()
		release()
		if !errors.Is(err, errSource) || !errors.Is(err, backends.ErrCorrupt) {
			return r, err
		}
		// With one source the blame is clear; with several, one more attempt makes it so.
		switch {
		case len(served) == 1 && !blamed[served[0]]:
			blamed[served[0]] = true
			if badErr := l.DeclareBad(ctx, in, served[0], err); badErr != nil {
				return r, errors.Join(err, badErr)
			}
		case len(served) > 1 && !mixed:
			mixed = true
		default:
			return r, err
		}
	}
}

// openOrRecall opens in, from tape if need be and not from the RSE it goes to, nor one that from does not allow; release
// lets the tape system evict it.
func (l *Lake) openOrRecall(ctx context.Context, in backends.Info, to string, from From) (o *Object, release func(), err error) {
	for range 3 { // what was staged may be evicted before it is opened, though not for ever
		o, err = l.openFrom(ctx, in, to, from, 0)
		if !errors.Is(err, backends.ErrOffline) {
			return o, func() {}, err
		}
		t, err := l.recallFrom(ctx, in, to, from)
		if err != nil {
			return nil, nil, err
		}
		select {
		case <-t.Done():
			err = t.Err()
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err == nil {
			if o, err = l.openFrom(ctx, in, to, from, 0); err == nil {
				return o, t.Close, nil
			}
		}
		t.Close()
		if !errors.Is(err, backends.ErrOffline) {
			return nil, nil, err
		}
	}
	return nil, nil, fmt.Errorf("evicted again and again before it was read: %w: %w", backends.ErrUnavailable, backends.ErrTemporary)
}

// recallFrom recalls in from tape: from any that has it, where a copy may be made of any.
func (l *Lake) recallFrom(ctx context.Context, in backends.Info, to string, from From) (*Ticket, error) {
	if from == nil {
		return l.Recall(ctx, in)
	}
	replicas, err := l.replicasOf(ctx, in)
	if err != nil {
		return nil, err
	}
	rse, ok := l.SourceOf(replicas, to, func(r backends.RSE) bool { return r.Kind == backends.TapeKind && from(r) })
	if !ok {
		return nil, ErrNoSource
	}
	return l.RecallAt(ctx, in, rse.Name)
}

// Abandon takes back what a Copy to the RSE that did not end has left, if nobody makes one now: the record, and what lies there.
func (l *Lake) Abandon(ctx context.Context, in backends.Info, to *RSE) error {
	release, err := l.Claim(ctx, in, to.Name)
	if err != nil {
		return err
	}
	defer release()
	replicas, err := l.replicasOf(ctx, in)
	if errors.Is(err, backends.ErrNotExist) || errors.Is(err, backends.ErrStale) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("abandon the copy of %s to %s: %w", in.DID, to.Name, err)
	}
	i := slices.IndexFunc(replicas, func(r backends.Replica) bool { return r.RSE == to.Name && r.State == backends.Copying })
	if i < 0 || l.Held(to.Name, replicas[i].PFN) { // by whoever uploads the file
		return nil
	}
	l.abandon(ctx, in, to, replicas[i].PFN)
	return nil
}

// abandon takes back the record of a copy that was not made. It stays when the file
// cannot be removed, so that it is known.
func (l *Lake) abandon(ctx context.Context, in backends.Info, to *RSE, pfn string) {
	if !l.removeFile(ctx, to, pfn, 1) {
		return
	}
	now, err := l.replicasOf(ctx, in)
	if err != nil {
		return
	}
	if !slices.ContainsFunc(now, func(r backends.Replica) bool {
		return r.RSE == to.Name && r.PFN == pfn && r.State == backends.Copying
	}) {
		return
	}
	if err := l.o.Catalogue.DropReplica(ctx, in.DID, to.Name, pfn); err != nil {
		l.log.Warn("copy that was begun stays on record", "did", in.DID, "rse", to.Name, "err", err)
	}
}

// removeFile deletes a file of no more use, and tells whether it is gone. own is how many
// records of its path are of the content that it was of, at most.
func (l *Lake) removeFile(ctx context.Context, rse *RSE, pfn string, own int) bool {
	if err := l.RemoveAt(ctx, rse, pfn, own); err != nil {
		l.log.Warn("file of no more use stays", "rse", rse.Name, "pfn", pfn, "err", err)
		return false
	}
	return true
}

// readerAt is an Object for Store.
type readerAt struct {
	ctx context.Context
	o   backends.Object
}

var _ io.ReaderAt = (*readerAt)(nil)

func (r *readerAt) ReadAt(p []byte, off int64) (int, error) { return r.o.ReadAt(r.ctx, p, off) }
