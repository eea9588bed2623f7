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
	if e := w.pending.next(); e != nil && e.due <= w.mono()+w.settle {
		if err := w.sleep(ctx, w.settle); err != nil {
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
	w.oldTroubles()
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
	// First the files, then the subfolders: as many as fit into memory, and again from there.
	after, rest := "", true
	for files := true; rest; files = false {
		var folders []string
		rest = false
		err := w.each(ctx, dir, folder, after, func(name string) error {
			isFolder, err := w.lookOnce(ctx, dir, folder, name, files, found)
			switch {
			case !isFolder:
			case len(folders) < w.batch:
				folders = append(folders, name)
			default:
				rest = true
			}
			return err
		})
		if err != nil {
			return err
		}
		for _, name := range folders {
			if err := w.walk(ctx, join(folder, name), depth+1, found); err != nil {
				return err
			}
			after = name
		}
	}
	return nil
}

// lookOnce looks at a name of a folder, unless its files have been looked at, and tells whether it is a folder.
func (w *Watcher) lookOnce(ctx context.Context, dir *os.File, folder, name string, files bool, found Found) (isFolder bool, err error) {
	if !files {
		st, err := statAt(dir, name)
		return err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
	}
	if isFolder, err = w.look(ctx, dir, folder, name, true, found); err != nil {
		return false, err
	}
	return isFolder, w.meanwhile(ctx, found)
}

// each calls do for each name of a folder after one that may be wanted, in their order.
func (w *Watcher) each(ctx context.Context, dir *os.File, folder, after string, do func(name string) error) error {
	for more := true; more; {
		var batch []string
		var err error
		if batch, more, err = names(dir, after, w.batch); err != nil {
			return w.unreadable(folder, err)
		}
		for _, name := range batch {
			if err := ctx.Err(); err != nil {
				return err
			}
			after = name
			if !w.wanted(name, true) {
				continue
			}
			if err := do(name); err != nil {
				return err
			}
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
		w.drain()
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
	w.incompleteFiles.Store(w.pending.files + w.beyond.files)
	w.incompleteBytes.Store(w.pending.bytes + w.beyond.bytes)
}
