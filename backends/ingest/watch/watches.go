package watch

import (
	"errors"
	"os"
	"strings"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// queue is how many events wait in memory; the kernel holds 16384 more before it drops them and says so.
const queue = 1024

// watches are the folders that inotify tells of. The methods of a nil one do nothing.
type watches struct {
	n    *fsnotify.Watcher
	of   map[string]*watched // by folder, relative
	at   map[inode]string    // the same by inode: a folder that was renamed keeps its watch under the old name
	errs chan error          // the last errors of n
	done chan struct{}       // errs is closed
}

type inode struct{ dev, ino uint64 }

type watched struct {
	inode inode
	gen   uint64 // the scan that met it last
}

// startWatches begins to listen. Without, the scans do alone.
func (w *Watcher) startWatches() {
	n, err := w.inotify(queue)
	if err != nil {
		w.once("watches", "no inotify: files are noticed by looking at the folder only", "error", err, "every", w.o.Rescan)
		return
	}
	s := &watches{n: n, of: map[string]*watched{}, at: map[inode]string{}, errs: make(chan error, 1), done: make(chan struct{})}
	go s.forward()
	w.watches = s
}

// forward takes errors at once and keeps one. fsnotify may send one while it holds the lock
// that Add and Remove want (IN_MOVE_SELF of a folder that is gone by then): whoever calls these and
// reads the errors too would wait for itself.
func (s *watches) forward() {
	defer close(s.done)
	for err := range s.n.Errors {
		select {
		case s.errs <- err:
		default: // one is waiting, and calls for a look at everything
		}
	}
}

func (w *Watcher) stopWatches() {
	if w.watches != nil {
		w.watches.n.Close()
		<-w.watches.done
		w.watches = nil
	}
}

func (s *watches) events() <-chan fsnotify.Event {
	if s == nil {
		return nil
	}
	return s.n.Events
}

func (s *watches) errors() <-chan error {
	if s == nil {
		return nil
	}
	return s.errs
}

// watch has inotify tell of a folder, if it may.
func (w *Watcher) watch(folder string) {
	s := w.watches
	if s == nil {
		return
	}
	path := w.o.Dir
	if folder != "" {
		path += "/" + folder
	}
	id, ok := inodeOf(path)
	if !ok {
		return
	}
	if e := s.of[folder]; e != nil {
		if e.inode == id {
			e.gen = w.gen
			return
		}
		s.remove(w.o.Dir, folder)
	}
	if old, ok := s.at[id]; ok {
		s.remove(w.o.Dir, old)
	}
	if len(s.of) >= w.o.Watches {
		w.once("limit", "no more folders are watched: the rest is noticed by looking at it only", "watches", len(s.of), "every", w.o.Rescan)
		return
	}
	switch err := w.addWatch(s.n, path); {
	case err == nil:
		s.of[folder] = &watched{inode: id, gen: w.gen}
		s.at[id] = folder
		if now, _ := inodeOf(path); now != id { // another folder came into its place meanwhile
			s.remove(w.o.Dir, folder)
			w.rescan = true
		}
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.ENOMEM):
		w.once("limit", "the system refuses more inotify watches (fs.inotify.max_user_watches): the rest is noticed by looking at it only",
			"watches", len(s.of), "every", w.o.Rescan)
	case errors.Is(err, os.ErrNotExist):
	default:
		w.once("add", "a folder cannot be watched: it is noticed by looking at it only", "path", folder, "error", err, "every", w.o.Rescan)
	}
}

func inodeOf(path string) (id inode, ok bool) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return inode{}, false
	}
	return inode{uint64(st.Dev), st.Ino}, true
}

// remove takes a watch away.
func (s *watches) remove(root, folder string) {
	e := s.of[folder]
	if e == nil {
		return
	}
	path := root
	if folder != "" {
		path += "/" + folder
	}
	_ = s.n.Remove(path) // it may have gone with its folder
	delete(s.of, folder)
	if s.at[e.inode] == folder {
		delete(s.at, e.inode)
	}
}

// removeBelow takes away the watches of a folder and of all below it.
func (s *watches) removeBelow(root, folder string) {
	for f := range s.of {
		if f == folder || strings.HasPrefix(f, folder+"/") {
			s.remove(root, f)
		}
	}
}

// sweep takes away the watches of folders that a scan did not meet.
func (s *watches) sweep(root string, gen uint64) {
	if s == nil {
		return
	}
	for f, e := range s.of {
		if e.gen < gen {
			s.remove(root, f)
		}
	}
}

// event notes what inotify tells. It looks at nothing: a file that is being written causes
// hundreds of events in a second.
func (w *Watcher) event(ev fsnotify.Event) {
	path, ok := strings.CutPrefix(ev.Name, strings.TrimSuffix(w.o.Dir, "/")+"/")
	if !ok || !w.wantedPath(path) {
		return
	}
	if _, watched := w.watches.of[path]; watched {
		if ev.Has(fsnotify.Remove) || ev.Has(fsnotify.Rename) {
			w.watches.removeBelow(w.o.Dir, path)
			w.touch(path) // another folder may have the name by now
		}
		return
	}
	_, name := split(path)
	_, isTrigger := w.o.Complete.triggers(name)
	// Whatever appears may be a folder.
	if isTrigger || ev.Has(fsnotify.Create) || w.wanted(name, false) {
		w.touch(path)
	}
}

// watchError notes that events were lost.
func (w *Watcher) watchError(err error) {
	w.rescan, w.lost = true, true
	if errors.Is(err, fsnotify.ErrEventOverflow) {
		w.once("overflow", "more happened than inotify keeps: the folder is looked at instead")
	} else {
		w.once("inotify", "inotify failed: the folder is looked at instead", "error", err)
	}
}

// drain takes the events that wait, without waiting for any.
func (w *Watcher) drain() {
	for range queue {
		select {
		case ev, ok := <-w.watches.events():
			if !ok {
				return
			}
			w.event(ev)
		case err := <-w.watches.errors():
			w.watchError(err)
		default:
			return
		}
	}
}
