package ingest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"tarn/backends/ingest/watch"
)

// A source is deleted in these steps, each of which a crash may follow:
//
//  1. the proof that it is safe is made again, and is on record with the name that the file will have (DELETING);
//  2. it is opened, a lease proves that nobody can write to it, and it must be the version that was sealed;
//  3. it is renamed to that name, in its folder: what is created under its own name from now on is another file;
//  4. the proof is made again, and the name is unlinked;
//  5. its folder is on stable storage, and the tombstone on record (DELETED).
//
// Any doubt gives the file its name back, or, if that is taken by now, another one in view.

// removed is how many files are deleted at a time.
const removed = 200

// hiddenName is a new name for a file that is being deleted.
func hiddenName() string {
	var b [16]byte
	rand.Read(b[:])
	return watch.Own + hex.EncodeToString(b[:])
}

// remover deletes what is safe until ctx ends.
func (k *link) remover(ctx context.Context) error {
	for {
		n, err := k.removeAll(ctx)
		if err != nil && fatal(ctx, err) {
			return err
		}
		rest := 100 * time.Millisecond
		if k.setTrouble("delete", err); err != nil {
			rest = 5 * time.Second
		}
		if n == 0 {
			wait(ctx, k.wakes[wakeRemover], 10*time.Second)
			rest = 0
		}
		if !sleep(ctx, rest) {
			return ctx.Err()
		}
	}
}

// over tells how many bytes of safe files are to be deleted; all there are but for keep-newest.
func (k *link) over() int64 {
	switch k.keep {
	case -2:
		return 0
	case -1:
		return 1<<63 - 1
	}
	return k.ledger.count().Here - k.keep
}

// removeAll goes once through the safe files that may go, the oldest first, and tells how many were deleted.
func (k *link) removeAll(ctx context.Context) (n int, err error) {
	if err := k.resumeRemovals(ctx); err != nil {
		return 0, err
	}
	var after []byte
	for over := k.over(); over > 0; {
		rs, last, err := k.ledger.next(safe, after, removed)
		if err != nil || last == nil {
			return n, err
		}
		after = last
		var some []*Record
		for _, r := range rs {
			if over <= 0 {
				break
			}
			if r.NextTry.After(k.o.Now()) && r.NextTry.Before(k.o.Now().Add(2*longestWait)) {
				continue
			}
			some = append(some, r)
			over -= max(r.Size, 1)
		}
		m, err := k.remove(ctx, some)
		if n += m; err != nil {
			return n, err
		}
	}
	return n, nil
}

// removal is one file on its way out.
type removal struct {
	*Record
	dir    *os.File
	file   *os.File // under the hidden name
	base   string
	undone error // why it was not deleted
	gone   bool
	folder bool // its folder was changed
}

func (x *removal) close() {
	for _, f := range []*os.File{x.file, x.dir} {
		if f != nil {
			f.Close()
		}
	}
	x.file, x.dir = nil, nil
}

// remove deletes safe files.
func (k *link) remove(ctx context.Context, rs []*Record) (n int, err error) {
	s, err := k.see(ctx, rs)
	if err != nil {
		return 0, err
	}
	var xs []*removal
	var changes []*change
	for _, r := range rs {
		now, err := k.folder.stat(r.Path)
		switch {
		case errors.Is(err, errGone):
			k.log.Warn("safe file was deleted by somebody else", "path", r.Path)
			to := *r
			to.Stage, to.DeletedAt, to.Error = Deleted, k.o.Now(), "it was deleted by somebody else"
			changes = append(changes, &change{path: r.Path, rev: r.Rev, to: &to})
			continue
		case err != nil:
			changes = append(changes, k.laterSafe(r, err))
			continue
		case !now.Same(r.file()):
			changes = append(changes, k.keepChanged(r))
			continue
		}
		copies, err := k.prove(ctx, r, s)
		if fatal(ctx, err) {
			return n, err
		}
		if err != nil {
			changes = append(changes, k.unsafe(r, err))
			continue
		}
		r.Stage, r.Copies, r.Hidden = Deleting, copies, hiddenName()
		changes = append(changes, &change{path: r.Path, rev: r.Rev, to: r})
		xs = append(xs, &removal{Record: r})
	}
	if err := k.step("delete", ""); err != nil {
		return n, err
	}
	if err := k.note(ctx, changes); err != nil {
		return n, err
	}
	ok := map[*Record]bool{}
	for _, c := range changes {
		ok[c.to] = c.err == nil
	}
	ours := xs[:0]
	for _, x := range xs {
		if ok[x.Record] {
			ours = append(ours, x)
		}
	}
	return k.finish(ctx, ours, false)
}

// laterSafe leaves a safe file alone for a while.
func (k *link) laterSafe(r *Record, why error) *change {
	to := *r
	to.Stage, to.Hidden, to.Attempts, to.Error, to.NextTry = Safe, "", r.Attempts+1, why.Error(), k.o.Now().Add(patience(r.Attempts+1))
	return &change{path: r.Path, rev: r.Rev, to: &to}
}

// unsafe notes that a file that was safe is not any more: it waits for its copies again.
func (k *link) unsafe(r *Record, why error) *change {
	k.log.Warn("file is not safe any more, and is not deleted", "path", r.Path, "err", why)
	to := *r
	to.Stage, to.Hidden, to.SafeAt, to.Copies, to.Error = Registered, "", time.Time{}, nil, why.Error()
	return &change{path: r.Path, rev: r.Rev, to: &to}
}

// keepChanged forgets a safe file whose source has changed, so that it is found again.
func (k *link) keepChanged(r *Record) *change {
	k.log.Info("safe file has changed, is not deleted and begins anew", "path", r.Path)
	if k.watcher != nil {
		k.watcher.Kick()
	}
	return &change{path: r.Path, rev: r.Rev, changed: 1, kept: 1}
}

// resumeRemovals finishes, or undoes, what was begun and not ended: by the last process, or in a pass that failed.
func (k *link) resumeRemovals(ctx context.Context) error {
	var after []byte
	for {
		rs, last, err := k.ledger.next(deleting, after, removed)
		if err != nil || last == nil {
			return err
		}
		after = last
		xs := make([]*removal, len(rs))
		for i, r := range rs {
			xs[i] = &removal{Record: r}
		}
		if _, err := k.finish(ctx, xs, true); err != nil {
			return err
		}
	}
}

// unhide does that when the ingest does not run: what is to be deleted has another name until then.
func (k *link) unhide(ctx context.Context) error {
	rs, _, err := k.ledger.next(deleting, nil, 1)
	if err != nil || len(rs) == 0 {
		return err
	}
	if err := k.enterFolder(); err != nil {
		return err
	}
	defer k.leaveFolder()
	if err := k.sameFolder(); err != nil {
		return err
	}
	return k.resumeRemovals(ctx)
}

// finish goes on from the record of step 1.
func (k *link) finish(ctx context.Context, xs []*removal, resumed bool) (n int, err error) {
	defer func() {
		for _, x := range xs {
			x.close()
		}
	}()
	for _, x := range xs {
		if err := k.step("hide", x.Path); err != nil {
			return 0, err
		}
		if x.undone = k.takeAway(x, resumed); errors.Is(x.undone, errCrash) {
			return 0, x.undone
		}
		if x.gone && x.dir != nil { // the process ended before that
			k.removeCompany(x)
		}
	}
	rs := make([]*Record, len(xs))
	for i, x := range xs {
		rs[i] = x.Record
	}
	s, unseen := k.see(ctx, rs)
	for _, x := range xs {
		if x.undone == nil && !x.gone {
			if unseen == nil && k.server != nil && k.clock().Sub(s.at) > seenFor {
				s, unseen = k.see(ctx, rs)
			}
			if x.undone = unseen; unseen == nil {
				x.undone = k.unlink(ctx, x, s)
			}
		}
		if x.undone == nil {
			continue
		}
		if errors.Is(x.undone, errCrash) {
			return 0, x.undone
		}
		if err := k.step("give back", x.Path); err != nil {
			return 0, err
		}
	}
	var changes []*change
	for _, x := range xs {
		c := k.outcome(x)
		if c.to != nil && c.to.Stage == Deleted {
			n++
		}
		changes = append(changes, c)
	}
	synced := map[string]bool{}
	for _, x := range xs {
		if at := path.Dir(x.Path); x.folder && !synced[at] {
			synced[at] = true
			if err := x.dir.Sync(); err != nil {
				return 0, fmt.Errorf("sync the folder of %s: %w", x.Path, err) // it is DELETING still, and looked at again
			}
		}
	}
	if err := k.step("deleted", ""); err != nil {
		return 0, err
	}
	if err := k.note(ctx, changes); err != nil {
		return 0, err
	}
	for _, c := range changes {
		if c.to != nil && c.to.Stage == Deleted && c.err == nil {
			k.meters.deleted(c.to)
		}
	}
	return n, nil
}

// takeAway renames the file, if that did not happen before, and proves that it is the one that was sealed.
func (k *link) takeAway(x *removal, resumed bool) (err error) {
	if x.dir, x.base, err = k.folder.parent(x.Path); err != nil {
		if errors.Is(err, errGone) { // with its folder
			x.gone = true
			return nil
		}
		return err
	}
	x.folder = true // what a crash left has to be on stable storage as well
	_, err = statAt(x.dir, x.Hidden)
	hidden := err == nil
	if err != nil && !errors.Is(err, errGone) {
		return err
	}
	if !hidden {
		if kept, err := statAt(x.dir, x.keptName()); err == nil && kept.Ino == x.Ino && kept.Dev == x.Dev {
			return errChanged // it was given back
		}
		now, err := statAt(x.dir, x.base)
		if errors.Is(err, errGone) || err == nil && resumed && (now.Ino != x.Ino || now.Dev != x.Dev) {
			x.gone = true // it was unlinked, and what has its name is another file
			return nil
		}
		if err != nil {
			return err
		}
		// Our renaming changes the ctime, by which alone a writer that puts the mtime back is seen: none may come in between.
		if err := x.hold(x.base); err != nil {
			return err
		}
		if now, err = statOf(x.file); err == nil && !now.Same(x.Record.file()) {
			err = errChanged
		}
		if err != nil {
			return err
		}
		if err := k.step("leased", x.Path); err != nil {
			return err
		}
		if err := hide(x.dir, x.base, x.Hidden); err != nil {
			return err
		}
		if err := k.step("hidden", x.Path); err != nil {
			return err
		}
		if now, err = statAt(x.dir, x.Hidden); err == nil && (now.Ino != x.Ino || now.Dev != x.Dev) {
			err = errChanged // another file came to have the name
		}
		if err != nil {
			return err
		}
	} else if err := x.hold(x.Hidden); err != nil {
		return err
	}
	return x.check()
}

// hold opens the file, and keeps writers from it, where leases can.
func (x *removal) hold(name string) (err error) {
	if x.file, err = openAt(x.dir, name); err == nil && lease(x.file) {
		err = errInUse
	}
	return err
}

// errInUse is that somebody has the file open for writing.
var errInUse = errors.New("somebody has the file open for writing")

// file0 is the version on record.
func (x *removal) file0() watch.File { return x.Record.file() }

// check wants the hidden file to be the version that was sealed. Our renaming has changed its ctime.
func (x *removal) check() error {
	now, err := statOf(x.file)
	if err == nil && !now.SameContent(x.file0()) {
		err = errChanged
	}
	return err
}

// seenFor is how old what a server said of a file may be when it is unlinked: it is asked about many files at once.
const seenFor = 10 * time.Second

// unlink makes the last proof and deletes the hidden file.
func (k *link) unlink(ctx context.Context, x *removal, s sight) error {
	if err := k.step("prove", x.Path); err != nil {
		return err
	}
	copies, err := k.prove(ctx, x.Record, s)
	if err != nil {
		return err
	}
	if err := x.check(); err != nil {
		return err
	}
	if err := k.step("unlink", x.Path); err != nil {
		return err
	}
	if _, err := again(func() (int, error) { return 0, unix.Unlinkat(int(x.dir.Fd()), x.Hidden, 0) }); err != nil {
		return err
	}
	x.Copies, x.gone = copies, true
	if err := k.step("unlinked", x.Path); err != nil {
		return err
	}
	k.removeCompany(x)
	return nil
}

// removeCompany deletes the trigger file, and the side file if it is the one that was read.
func (k *link) removeCompany(x *removal) {
	var names []string
	if t := k.rule.Trigger(x.base); t != "" {
		names = append(names, t)
	}
	if x.Side != "" {
		name := sideName(x.Side)
		if v, err := statAt(x.dir, name); err == nil && sideVersion(name, v) == x.Side {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return
	}
	if _, err := statAt(x.dir, x.base); err == nil {
		return // they are of the new file of that name
	}
	for _, name := range names {
		if err := unix.Unlinkat(int(x.dir.Fd()), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			k.log.Warn("a file stays beside the one that was deleted", "path", path.Join(path.Dir(x.Path), name), "err", err)
		}
	}
}

// outcome is what is noted of a removal; what was not deleted gets its name back.
func (k *link) outcome(x *removal) *change {
	if x.gone {
		to := *x.Record
		to.Stage, to.DeletedAt, to.Error, to.Attempts, to.NextTry = Deleted, k.o.Now(), "", 0, time.Time{}
		return &change{path: x.Path, rev: x.Rev, to: &to}
	}
	back, err := k.giveBack(x)
	if err != nil { // it stays hidden and on record, and is looked at again
		k.log.Error("a file that was not deleted has not got its name back", "path", x.Path, "hidden", x.Hidden, "err", err)
		return &change{path: x.Path, rev: x.Rev, to: x.Record}
	}
	if back == nil || !back.SameContent(x.file0()) || errors.Is(x.undone, errChanged) {
		return k.keepChanged(x.Record)
	}
	x.CTime = back.CTime
	if errors.Is(x.undone, errUnsafe) || errors.Is(x.undone, errNotThere) || errors.Is(x.undone, errNoRules) {
		return k.unsafe(x.Record, x.undone)
	}
	k.log.Info("file is not deleted now", "path", x.Path, "err", x.undone)
	return k.laterSafe(x.Record, x.undone)
}

// keptName is the name of what is not deleted and whose own name is taken.
func (x *removal) keptName() string {
	mark := ".kept-" + x.Hidden[len(watch.Own):][:8]
	return x.base[:min(len(x.base), 255-len(mark))] + mark
}

// giveBack gives a hidden file its name, or another one if that is taken, and tells its version under its own name.
func (k *link) giveBack(x *removal) (*watch.File, error) {
	if x.dir == nil {
		return nil, nil
	}
	err := move(x.dir, x.Hidden, x.base)
	switch {
	case errors.Is(err, unix.ENOENT): // it was not renamed, or is lost
	case errors.Is(err, unix.EEXIST):
		name := x.keptName()
		if err := move(x.dir, x.Hidden, name); err != nil {
			return nil, err
		}
		k.log.Warn("a file that was not deleted has a new name, since its own was taken", "path", x.Path, "name", name)
		return nil, nil
	case err != nil:
		return nil, err
	}
	now, err := statAt(x.dir, x.base)
	if errors.Is(err, errGone) {
		return nil, nil
	}
	return &now, err
}
