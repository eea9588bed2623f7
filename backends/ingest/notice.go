package ingest

import (
	"context"
	"errors"
	"sync"
	"time"

	"tarn/backends"
	"tarn/backends/ingest/watch"
)

// inbox holds versions that the watcher told of and that are not in the ledger yet, where they get together, many in a
// transaction. What a crash takes from it is found again.
type inbox struct {
	come chan struct{} // something is there
	room chan struct{} // something was taken

	mu    sync.Mutex // guards the rest
	files map[string]watch.File
}

// mostNoticed bounds an inbox.
const mostNoticed = 4096

func (b *inbox) init() {
	b.come, b.room, b.files = make(chan struct{}, 1), make(chan struct{}, 1), map[string]watch.File{}
}

// put adds a version; false when there is no room.
func (b *inbox) put(f watch.File) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.files[f.Path]; !ok && len(b.files) >= mostNoticed {
		return false
	}
	b.files[f.Path] = f
	ring(b.come)
	return true
}

// has tells whether the version is there.
func (b *inbox) has(f watch.File) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	g, ok := b.files[f.Path]
	return ok && g.Same(f)
}

// some gives at most a thousand versions, which stay until done is called.
func (b *inbox) some() (out []watch.File) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.files {
		if out = append(out, f); len(out) == groupChanges {
			break
		}
	}
	return out
}

// done takes versions out, but for those of which a newer one came.
func (b *inbox) done(fs []watch.File) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range fs {
		if g, ok := b.files[f.Path]; ok && g.Same(f) {
			delete(b.files, f.Path)
		}
	}
	if len(b.files) > 0 {
		ring(b.come)
	}
	ring(b.room)
}

// empty tells whether all is in the ledger.
func (b *inbox) empty() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.files) == 0
}

// ring wakes who waits at the channel.
func ring(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// known tells the watcher which versions are taken care of.
func (k *link) known(f watch.File) bool {
	if k.inbox.has(f) {
		return true
	}
	r, err := k.ledger.get(f.Path)
	return err == nil && r.file().Same(f)
}

// found takes a complete version of a file. It waits while too many are not in the ledger yet.
func (k *link) found(ctx context.Context, f watch.File) error {
	if k.isSide(f) {
		return nil
	}
	for !k.inbox.put(f) {
		select {
		case <-k.inbox.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// noticer brings the inbox into the ledger until ctx ends.
func (k *link) noticer(ctx context.Context) error {
	for {
		select {
		case <-k.inbox.come:
		case <-ctx.Done():
			return ctx.Err()
		}
		fs := k.inbox.some()
		if err := k.notice(ctx, fs); err != nil {
			return err
		}
		k.inbox.done(fs)
		k.kick(wakeSender)
	}
}

// notice notes complete versions.
func (k *link) notice(ctx context.Context, fs []watch.File) error {
	var changes []*change
	for _, f := range fs {
		r := &Record{Path: f.Path, Stage: Found, Dev: f.Dev, Ino: f.Ino, Size: f.Size, MTime: f.MTime, CTime: f.CTime, Mode: f.Mode, UID: f.UID, GID: f.GID,
			DID: k.did(f.Path), Rank: k.rank(f.Path), FoundAt: k.o.Now()}
		c := &change{path: f.Path, to: r}
		old, err := k.ledger.get(f.Path)
		switch {
		case errors.Is(err, backends.ErrNotExist):
		case err != nil:
			return err
		case old.file().Same(f):
			continue
		case old.Stage == Sealed, old.Stage == Transferred, old.Stage == Verified, old.Stage == Deleting:
			continue // who has it will see; the next look at the folder tells of it again
		case old.Stage == Found:
			c.rev, r.Left = old.Rev, old.left()
		default: // its old content is in the lake, and stays there as an old generation
			c.rev, c.changed = old.Rev, 1
			if old.Stage == Safe {
				c.kept = 1
			}
			k.log.Info("file changed after it was registered, and begins anew", "path", f.Path)
		}
		changes = append(changes, c)
	}
	return k.note(ctx, changes)
}

// settled waits until the inbox is empty.
func (k *link) settled(ctx context.Context) error {
	for !k.inbox.empty() {
		if !sleep(ctx, 5*time.Millisecond) {
			return ctx.Err()
		}
	}
	return nil
}
