package vfs

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"

	"tarn/backends"
	"tarn/backends/lake"
	"tarn/cache/journal"
)

// recover takes up what the journal holds after a start: finishes renames that a
// crash cut in two, drops what lost its name or was replaced, and queues the rest.
// It never deletes a content that an acknowledged close promised.
func (v *FS) recover(ctx context.Context) error {
	HoldCopies(v.lake, v.jrnl, v.log)
	entries := v.jrnl.Entries()
	byID := map[string]*journal.Entry{}
	for _, e := range entries {
		byID[e.ID()] = e
	}
	if err := v.finishIntents(ctx, byID); err != nil {
		return err
	}
	// In the order of sealing; what was synced and never sealed is newer than all that was.
	seqs := make(map[*journal.Entry]uint64, len(entries))
	for _, e := range entries {
		if seqs[e] = e.Record().Seq; seqs[e] == 0 {
			seqs[e] = math.MaxUint64
		}
	}
	slices.SortStableFunc(entries, func(a, b *journal.Entry) int { return cmp.Compare(seqs[a], seqs[b]) })
	last := map[string]*unsent{}
	for _, e := range entries {
		r := e.Record()
		if _, ok := byID[e.ID()]; !ok {
			continue // dropped by an intent
		}
		switch {
		case len(r.Path) == 0: // unlinked while it was open, or replaced
			v.up.discard(lost(v, e))
			continue
		case registeredState(r.State) && v.outdated(ctx, r):
			u := lost(v, e)
			u.last = string(r.Path)
			v.up.discard(u)
			continue
		}
		if r.State == journal.Abandoned {
			v.mu.Lock()
			u := &unsent{fs: v, entry: e, id: r.ID, inode: r.Inode, path: string(r.Path), state: r.State, mode: r.Mode, uid: r.UID, gid: r.GID,
				mtime: r.MTime, ctime: r.Created, why: "was being written when tarn stopped, and was never closed nor synced"}
			v.unsent[u.id] = u
			v.mu.Unlock()
			v.log.Warn("unfinished file kept aside", "path", u.path, "id", u.id, "bytes", e.Size())
			continue
		}
		// A newer content was sealed for the same name. But one that is registered stands
		// there only until the other file, which was moved over it, is.
		old := last[string(r.Path)]
		if old != nil && old.registered() {
			old = nil
		}
		if old != nil && (old.inode == r.Inode || !registeredState(r.State)) {
			v.drop(old)
			old = nil
		}
		u := v.newUnsent(e)
		u.dirty = false // WRITING here was synced before the crash: Verify seals it as it is
		// Copies of this content are elsewhere by now, under names of this entry: what
		// replaces it must be another one.
		u.frozen = u.state != journal.Writing && u.state != journal.Sealed
		if !registeredState(u.state) {
			v.setName(u, u.path)
		}
		if err := u.grow(e.Size()); err != nil {
			v.log.Warn("unsent files exceed the cache's limit", "err", err)
		}
		if old == nil {
			last[u.path] = u
		}
		u.promised = true
		v.up.add(u, 0)
	}
	return nil
}

// HoldCopies makes the lake know of the copies that the journal's contents have or began, so
// that nobody else takes their paths. Whoever makes copies beside an FS needs that before.
func HoldCopies(l *lake.Lake, j *journal.Journal, log *slog.Logger) {
	for _, e := range j.Entries() {
		r := e.Record()
		for _, c := range r.Copies {
			if err := l.Hold(lake.Holder(r.ID), c.RSE, c.PFN); err != nil {
				log.Error("two contents in the journal have one path", "id", r.ID, "rse", c.RSE, "pfn", c.PFN, "err", err)
			}
		}
	}
}

func (v *FS) finishIntents(ctx context.Context, byID map[string]*journal.Entry) error {
	notes, err := v.jrnl.Intents()
	if err != nil {
		return fmt.Errorf("read the journal's intents: %w", err)
	}
	for name, b := range notes {
		var in intent
		if err := json.Unmarshal(b, &in); err != nil {
			v.log.Error("unreadable intent left alone", "name", name, "err", err)
			continue
		}
		_, err := v.lake.Resolve(ctx, in.From)
		switch {
		case err == nil: // the catalogue's rename did not happen
		case isNotExist(err):
			if err := v.applyRename(in, byID); err != nil {
				return err
			}
		case errors.Is(err, backends.ErrUnavailable):
			v.log.Warn("rename cannot be finished while the catalogue is away", "from", in.From, "to", in.To)
			continue
		default:
			return fmt.Errorf("finish rename %q to %q: %w", in.From, in.To, err)
		}
		if err := v.jrnl.DropIntent(name); err != nil {
			return fmt.Errorf("drop intent: %w", err)
		}
	}
	return nil
}

func (v *FS) applyRename(in intent, byID map[string]*journal.Entry) error {
	for _, id := range in.Drop {
		if e := byID[id]; e != nil {
			u := lost(v, e)
			if u.last == "" {
				u.last = string(e.Record().Path)
			}
			v.up.discard(u)
			delete(byID, id)
		}
	}
	for id, e := range byID {
		p := string(e.Record().Path)
		var to string
		switch {
		case p == "": // it lost its name after the rename
			continue
		case slices.Contains(in.Move, id):
			to = in.To
		case in.Tree && strings.HasPrefix(p, in.From+"/"):
			to = in.To + p[len(in.From):]
		default:
			continue
		}
		if err := e.Update(func(r *journal.Record) { r.Path = []byte(to) }); err != nil {
			return fmt.Errorf("finish rename: %w", err)
		}
	}
	return nil
}
