package watch

import (
	"context"
	"strings"
	"time"
)

// Run calls found, from one goroutine, for each version of each file that is complete and not
// known, until ctx ends (whose error it returns), found gives an error, or the folder is gone or is
// another one (backends.ErrUnavailable; the caller opens it again and makes a new Watcher). While found
// takes its time nothing is looked for and nothing piles up: what changes meanwhile is seen afterwards.
//
// A version is told once if Known is true for it from then on. What is told of a file that
// was renamed is its new path, as of a new file.
func (w *Watcher) Run(ctx context.Context, found Found) error {
	if err := w.begin(); err != nil {
		return err
	}
	defer w.busy.Store(false)
	w.startWatches()
	defer w.stopWatches()

	var next, ended, last time.Duration // when to scan, when the last scan ended and how long it took without found
	var checked time.Duration           // when the root was
	for {
		if now := w.mono(); now >= next {
			if w.lost { // a folder that was removed and made again may have lost its watch
				w.stopWatches()
				w.startWatches()
				w.lost = false
			}
			inFound := w.inFound
			if err := w.scan(ctx, found); err != nil {
				return err
			}
			ended = w.mono()
			last = ended - now - (w.inFound - inFound)
			next = ended + max(w.o.Rescan, 3*last)
			checked = ended
		}
		// inotify tells nothing of a folder that is removed while somebody, and be it Root, has it open.
		if now := w.mono(); now >= checked+health {
			if err := w.sameFolder(); err != nil {
				return err
			}
			checked = now
		}
		if err := w.lookAtDue(ctx, found); err != nil {
			return err
		}
		if w.rescan || w.full && len(w.pending.of) < w.o.Pending/2 {
			// Scans that are called for by events take half the time at most.
			next = min(next, ended+max(last, w.settle))
		}
		wait := min(next, checked+health)
		if e := w.pending.next(); e != nil {
			wait = min(wait, e.due)
		}
		timer := time.NewTimer(max(0, wait-w.mono()))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-w.kick:
			next = w.mono()
		case ev, ok := <-w.watches.events():
			if ok {
				w.event(ev)
			}
		case err := <-w.watches.errors():
			w.watchError(err)
		case <-timer.C:
		}
		timer.Stop()
		w.drain()
	}
}

// touch has a path looked at a moment after its last event.
func (w *Watcher) touch(path string) {
	if file, is := w.o.Complete.triggers(path); is {
		path = file
	}
	e := w.pending.of[path]
	if e == nil {
		if !w.room(true) {
			return
		}
		e = &pending{path: path, gen: w.gen}
		w.pending.add(e)
	}
	now := w.mono()
	e.since = now
	w.pending.wake(e, now+w.settle)
}

// sleep waits, or ends with ctx.
func (w *Watcher) sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// split gives the folder and the name of a path.
func split(path string) (folder, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

func depthOf(path string) int { return strings.Count(path, "/") + 1 }

// wantedPath tells whether every folder of a path, and the last name as one, is wanted.
func (w *Watcher) wantedPath(path string) bool {
	for name := range strings.SplitSeq(path, "/") {
		if !w.wanted(name, true) {
			return false
		}
	}
	return true
}
