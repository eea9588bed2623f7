package watch

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"tarn/backends"
)

// maxDepth of folders in folders; what is deeper is a Trouble.
const maxDepth = 100

// Scan looks at everything in the folder once, calls found for each complete version that is
// not known, by name within a folder and before its subfolders, and tells how many files are
// not complete. It waits for those only that changed less than 200 ms ago. The rule age wants
// two looks, and so a Scan that is called again later.
//
// A folder that is gone or another one is backends.ErrUnavailable.
func (w *Watcher) Scan(ctx context.Context, found Found) (incomplete int, err error) {
	if err := w.begin(); err != nil {
		return 0, err
	}
	defer w.busy.Store(false)
	if err := w.scan(ctx, found); err != nil {
		return 0, err
	}
	// What was written a moment ago gets its moment.
	if e := w.pending.next(); e != nil && e.due <= w.mono()+settle {
		if err := w.sleep(ctx, settle); err != nil {
			return 0, err
		}
		if err := w.lookAtDue(ctx, found); err != nil {
			return 0, err
		}
	}
	files, _ := w.Incomplete()
	return int(files), nil
}

// scan looks at everything. It fails if the folder is not what it was, before or after.
func (w *Watcher) scan(ctx context.Context, found Found) error {
	if err := w.sameFolder(); err != nil {
		return err
	}
	w.gen++
	w.full, w.rescan, w.beyond = false, false, count{}
	if err := w.walk(ctx, "", 0, found); err != nil {
		return err
	}
	if err := w.sameFolder(); err != nil {
		return err
	}
	// What was pending and not met has gone, or moved away.
	for _, e := range w.pending.of {
		if e.gen < w.gen && e.seen.Ino != 0 {
			w.pending.wake(e, w.mono())
		}
	}
	w.watches.sweep(w.o.Dir, w.gen)
	return w.lookAtDue(ctx, found)
}

// walk looks at a folder and all below it.
func (w *Watcher) walk(ctx context.Context, folder string, depth int, found Found) error {
	if depth > maxDepth {
		w.trouble(folder, "too deep a folder")
		return nil
	}
	w.scanning++
	defer func() { w.scanning-- }()
	w.watch(folder) // before it is read, so that nothing falls between
	dir, err := w.openFolder(folder)
	if err != nil {
		return w.unreadable(folder, err)
	}
	defer dir.Close()
	w.untrouble(folder)
	subfolders := false
	err = w.each(ctx, dir, folder, false, &subfolders, func(name string) error {
		_, err := w.look(ctx, dir, folder, name, true, found)
		if err != nil {
			return err
		}
		return w.meanwhile(ctx, found)
	})
	if err != nil || !subfolders {
		return err
	}
	return w.each(ctx, dir, folder, true, &subfolders, func(name string) error {
		return w.walk(ctx, join(folder, name), depth+1, found)
	})
}

// each calls do for each wanted name of a folder.
func (w *Watcher) each(ctx context.Context, dir *os.File, folder string, folders bool, met *bool, do func(name string) error) error {
	after, more := "", true
	for more {
		var batch []string
		var some bool
		var err error
		batch, more, some, err = names(dir, after, folders, w.batch)
		if err != nil {
			return w.unreadable(folder, err)
		}
		*met = *met || some
		for _, name := range batch {
			if err := ctx.Err(); err != nil {
				return err
			}
			if !w.wanted(name, folders) {
				continue
			}
			if err := do(name); err != nil {
				return err
			}
		}
		if len(batch) > 0 {
			after = batch[len(batch)-1]
		}
	}
	return nil
}

// unreadable is for a folder that cannot be read: of the root it is an error, another one has
// gone or is a trouble.
func (w *Watcher) unreadable(folder string, err error) error {
	switch {
	case folder == "":
		return fmt.Errorf("watch %s: %w: %w", w.o.Dir, backends.ErrUnavailable, err)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil
	}
	w.trouble(folder, err.Error())
	return nil
}

// lookAtDue looks at what is due.
func (w *Watcher) lookAtDue(ctx context.Context, found Found) error {
	now := w.mono()
	for {
		e := w.pending.next()
		if e == nil || e.due > now {
			w.count()
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.lookAgain(ctx, e, found); err != nil {
			return err
		}
	}
}

// lookAgain looks at one path that is pending, and walks it if it is a folder.
func (w *Watcher) lookAgain(ctx context.Context, e *pending, found Found) error {
	w.pending.park(e)
	folder, name := split(e.path)
	dir, err := w.openFolder(folder)
	if err != nil {
		w.forget(e.path)
		return w.unreadable(folder, err)
	}
	defer dir.Close()
	isDir, err := w.look(ctx, dir, folder, name, false, found)
	if err != nil || !isDir || !w.wantedPath(e.path) {
		return err
	}
	if w.scanning > 0 { // it is for the walk under way, or for the next
		w.rescan = true
		return nil
	}
	return w.walk(ctx, e.path, depthOf(e.path), found)
}

// meanwhile serves, within a scan, the events that come and what becomes due, so that a long
// one does not keep the rest waiting, and the queue of events from overflowing.
func (w *Watcher) meanwhile(ctx context.Context, found Found) error {
	w.drain()
	return w.lookAtDue(ctx, found)
}

// count brings what Incomplete tells up to date.
func (w *Watcher) count() {
	w.incompleteFiles.Store(int64(len(w.pending.of)) + w.beyond.files)
	w.incompleteBytes.Store(w.pending.bytes + w.beyond.bytes)
}
