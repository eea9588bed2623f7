package ingest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"tarn/backends"
)

// Files are registered so many at a time, or as many as have come within a moment.
const (
	mostRegistered = 1000
	gathering      = 100 * time.Millisecond
)

// registrar registers what was sent until in is closed or ctx ends.
func (k *link) registrar(ctx context.Context, in <-chan *Record) error {
	for {
		var batch []*Record
		select {
		case r := <-in:
			batch = append(batch, r)
		case <-ctx.Done():
			return ctx.Err()
		}
		within, quiet := gathering, gathering
		if k.server != nil {
			within, quiet = gatheringServed, quietServed
		}
		full, still := time.NewTimer(within), time.NewTimer(quiet)
	gather:
		for len(batch) < mostRegistered {
			select {
			case r := <-in:
				batch = append(batch, r)
				still.Reset(quiet)
			case <-still.C:
				break gather
			case <-full.C:
				break gather
			case <-ctx.Done():
				break gather
			}
		}
		full.Stop()
		still.Stop()
		// What was stored is noted even when ctx has ended: it need not be looked at again.
		if err := k.register(ctx, batch); err != nil {
			return err
		}
	}
}

// register notes that files are verified, gives them to the catalogue, reads them again there, and notes that.
func (k *link) register(ctx context.Context, rs []*Record) error {
	changes := make([]*change, len(rs))
	for i, r := range rs {
		r.Stage, r.Error, r.Attempts, r.NextTry = Verified, "", 0, time.Time{}
		changes[i] = &change{path: r.Path, rev: r.Rev, to: r}
	}
	if err := k.step("verified", ""); err != nil {
		return err
	}
	if err := k.note(ctx, changes); err != nil {
		return err
	}
	rs = k.made(rs, changes)
	if err := k.step("import", ""); err != nil {
		return err
	}
	enter := k.enterAll
	if k.server != nil {
		enter = k.enroll
	}
	rs, err := enter(ctx, rs)
	if err != nil {
		return err
	}
	if err := k.step("imported", ""); err != nil {
		return err
	}
	return k.confirm(ctx, rs)
}

// enterAll gives the files to the catalogue, however often it takes; it gives those that the catalogue took.
func (k *link) enterAll(ctx context.Context, rs []*Record) ([]*Record, error) {
	for wait := 1; ; wait++ {
		err := k.enter(ctx, rs)
		if err == nil {
			k.setTrouble("register", nil)
			return rs, nil
		}
		if fatal(ctx, err) {
			return nil, err
		}
		if !outage(err) {
			if rs, err = k.enterEach(ctx, rs); err == nil {
				return rs, nil
			}
			if fatal(ctx, err) {
				return nil, err
			}
		}
		k.setTrouble("register", fmt.Errorf("register %d files: %w", len(rs), err))
		if !k.patient(ctx, min(patience(wait), 10*time.Second)) {
			return nil, ctx.Err()
		}
	}
}

// note writes changes down, however often it takes.
func (k *link) note(ctx context.Context, changes []*change) error {
	for wait := 1; ; wait++ {
		err := k.ledger.commit(changes...)
		if err == nil {
			k.setTrouble("ledger", nil)
		}
		if err == nil || fatal(ctx, err) {
			return err
		}
		// Of those that were written before the error this will say that they are stale: their records are right, and
		// are looked at when the ingest starts again.
		k.setTrouble("ledger", err)
		if !k.patient(ctx, min(patience(wait), 10*time.Second)) {
			return ctx.Err()
		}
	}
}

// entry is what the catalogue is told of a file.
func (k *link) entry(r *Record) backends.Entry {
	e := backends.Entry{Meta: r.meta, Info: backends.Info{
		DID: r.DID, Type: backends.File, Size: r.Size, Checksums: r.Checksums, Generation: r.Generation,
		Mode: r.Mode, UID: r.UID, GID: r.GID, MTime: r.MTime, CTime: k.o.Now(), Born: r.FoundAt,
	}}
	if r.PFN != "" {
		e.Replicas = []backends.Replica{{RSE: r.RSE, PFN: r.PFN, State: backends.Available, Verified: r.VerifiedAt}}
	}
	return e
}

// folders are the collections from the scope down to a file, once a batch.
func (k *link) folders(r *Record, done map[string]bool) (out []backends.Entry) {
	dir := path.Dir(r.DID.Name)
	for p := dir; p != "/"+k.scope && p != "/" && !done[p]; p = path.Dir(p) {
		done[p] = true
		in := backends.Info{DID: k.lake.PathDID(p), Type: backends.Container, Mode: 0o755,
			UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), MTime: k.o.Now(), CTime: k.o.Now()}
		if p == dir {
			in.Type = backends.Dataset
		}
		if rel, ok := strings.CutPrefix(p, k.target+"/"); ok {
			if st, err := k.folder.root.Stat(rel); err == nil {
				in.Mode = uint32(st.Mode().Perm())
			}
		}
		out = append([]backends.Entry{{Info: in}}, out...)
	}
	return out
}

// entries are all that a batch needs, collections before what they hold.
func (k *link) entries(rs []*Record) iter.Seq2[backends.Entry, error] {
	return func(yield func(backends.Entry, error) bool) {
		done := map[string]bool{}
		for _, r := range rs {
			for _, e := range append(k.folders(r, done), k.entry(r)) {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

// enter gives the files to the catalogue in bulk, where it can.
func (k *link) enter(ctx context.Context, rs []*Record) error {
	if len(rs) == 0 {
		return nil
	}
	for _, r := range rs {
		if r.meta == nil {
			k.readAgain(r)
		}
	}
	if imp, ok := k.lake.Catalogue().(backends.Importer); ok {
		entries := k.entries
		if k.server != nil {
			entries = k.entriesServed
		}
		_, err := imp.Import(ctx, entries(rs))
		if err == nil && k.server != nil {
			k.remember(rs)
		}
		return err
	}
	return k.add(ctx, k.entries(rs))
}

// readAgain reads the metadata of a file that was stored before this process began.
func (k *link) readAgain(r *Record) {
	if k.extractor() == nil {
		return
	}
	f, err := k.folder.open(r.Path)
	if err != nil {
		return
	}
	defer f.Close()
	if v, err := statOf(f); err == nil && v.Same(r.file()) {
		k.read(r, f)
	}
}

// add is enter without a bulk way.
func (k *link) add(ctx context.Context, entries iter.Seq2[backends.Entry, error]) error {
	for e, err := range entries {
		if err != nil {
			return err
		}
		err = k.lake.Catalogue().Add(ctx, e.Info, e.Meta, e.Replicas...)
		if errors.Is(err, backends.ErrExist) && e.Info.IsDir() {
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// enterEach finds the files that the catalogue does not take, which fail; it gives those that it took.
func (k *link) enterEach(ctx context.Context, rs []*Record) (good []*Record, err error) {
	for i, r := range rs {
		err := k.add(ctx, k.entries([]*Record{r}))
		switch {
		case err == nil:
			good = append(good, r)
		case fatal(ctx, err):
			return append(good, rs[i:]...), err
		case outage(err):
			return append(good, rs[i:]...), err
		default:
			if err := k.fail(r, err); err != nil {
				return append(good, rs[i+1:]...), err
			}
		}
	}
	return good, nil
}

// confirm reads again what the catalogue has of files that were given to it, and notes that they are registered.
func (k *link) confirm(ctx context.Context, rs []*Record) error {
	var changes []*change
	var good []*Record
	defer k.setTrouble("register", nil)
	var wrong []error // of a catalogue that is Served
	if k.server != nil {
		var err error
		if wrong, err = k.rereadServed(ctx, rs); err != nil {
			return err
		}
	}
	for i, r := range rs {
		var err error
		if k.server != nil {
			err = wrong[i]
		} else {
			err = k.reread(ctx, r)
		}
		if fatal(ctx, err) {
			return err
		}
		if err != nil {
			if err := k.fail(r, err); err != nil && fatal(ctx, err) {
				return err
			}
			continue
		}
		r.Stage, r.RegisteredAt = Registered, k.o.Now()
		good, changes = append(good, r), append(changes, &change{path: r.Path, rev: r.Rev, to: r})
	}
	if err := k.step("reread", ""); err != nil {
		return err
	}
	for _, r := range good {
		for _, s := range r.Left {
			k.discard(ctx, r, s)
		}
		r.Left = nil
	}
	if err := k.note(ctx, changes); err != nil {
		return err
	}
	var dids []backends.DID
	var dirs []string
	for _, r := range k.made(good, changes) {
		k.lake.LetGo(r.held)
		r.held, r.meta, r.met, r.round = "", nil, nil, nil
		dids = append(dids, r.DID)
		if dir := k.dirOf(r); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
		k.meters.transferred(r)
	}
	if k.o.Changed != nil && len(dirs) > 0 {
		k.o.Changed(dirs)
	}
	if k.o.Kick != nil && len(dids) > 0 {
		k.o.Kick(dids...)
	}
	k.kick(wakeProver)
	return nil
}

// reread wants the catalogue to have the very content with the very copy.
func (k *link) reread(ctx context.Context, r *Record) error {
	for wait := 1; ; wait++ {
		err := k.rereadOnce(ctx, r)
		if err == nil || fatal(ctx, err) || !outage(err) {
			return err
		}
		k.setTrouble("register", err)
		if !k.patient(ctx, min(patience(wait), 10*time.Second)) {
			return ctx.Err()
		}
	}
}

func (k *link) rereadOnce(ctx context.Context, r *Record) error {
	in, err := k.lake.Catalogue().Stat(ctx, r.DID)
	if err != nil {
		return fmt.Errorf("read again: %w", err)
	}
	if err := k.same(r, in); err != nil {
		return err
	}
	if r.PFN == "" {
		return nil
	}
	on, err := k.lake.Catalogue().Replicas(ctx, r.DID)
	if err != nil {
		return fmt.Errorf("read again: %w", err)
	}
	for _, x := range on {
		switch {
		case x.RSE != r.RSE:
		case x.PFN == r.PFN && x.State == backends.Available:
			return nil
		case x.PFN == r.PFN: // it was declared BAD, or is being moved, since
			return nil
		case x.State == backends.BeingDeleted:
			return fmt.Errorf("the copy at %s is being deleted: %w", r.RSE, backends.ErrBusy)
		case x.State != backends.Available: // this one takes its place
			mine := backends.Replica{RSE: r.RSE, PFN: r.PFN, State: backends.Available, Verified: r.VerifiedAt}
			if err := k.lake.Catalogue().PutReplica(ctx, r.DID, r.Generation, mine); err != nil {
				return fmt.Errorf("replace the copy at %s: %w", r.RSE, err)
			}
			r.Left = append(r.Left[:len(r.Left):len(r.Left)], Spot{x.RSE, x.PFN})
			return nil
		default: // it had a copy there already
			k.useTheirs(r)
			return nil
		}
	}
	return fmt.Errorf("the catalogue does not know the copy at %s: %w", r.RSE, backends.ErrStale)
}

// useTheirs leaves the copy that was sent to be deleted, where the lake has another one.
func (k *link) useTheirs(r *Record) {
	r.Left = append(r.Left[:len(r.Left):len(r.Left)], Spot{r.RSE, r.PFN})
	k.lake.LetGo(r.held)
	r.RSE, r.PFN = "", ""
}

// same compares what the catalogue has of a file with the record.
func (k *link) same(r *Record, in backends.Info) error {
	switch {
	case in.Type != backends.File || in.IsSymlink():
		return fmt.Errorf("%s is no file in the lake: %w", r.DID, backends.ErrStale)
	case in.Generation != r.Generation || in.Size != r.Size:
		return fmt.Errorf("%s has another content in the lake: %w", r.DID, backends.ErrStale)
	}
	return in.Checksums.Match(r.Checksums)
}
