package watch

import (
	"context"
	"errors"
	"hash/maphash"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// wanted tells whether a name is one of those that the Watcher is for, as a file or as a folder.
func (w *Watcher) wanted(name string, folder bool) bool {
	if strings.HasPrefix(name, Own) || strings.HasPrefix(name, ".") && !w.o.Hidden {
		return false
	}
	if folder {
		return true
	}
	if _, is := w.o.Complete.triggers(name); is {
		return false
	}
	for _, p := range w.o.Pattern {
		if ok, _ := path.Match(p, name); ok {
			return true
		}
	}
	return len(w.o.Pattern) == 0
}

// join is the path of a name in a folder.
func join(folder, name string) string {
	if folder == "" {
		return name
	}
	return folder + "/" + name
}

// look stats one name and tells its version, or notes what it waits for. It gives true for a
// folder, with which it does nothing. scan says that no event was seen of the file.
func (w *Watcher) look(ctx context.Context, dir *os.File, folder, name string, scan bool, found Found) (isDir bool, err error) {
	at := join(folder, name)
	st, err := statAt(dir, name)
	if err != nil {
		w.forget(at)
		if !errors.Is(err, unix.ENOENT) {
			w.trouble(at, err.Error())
		}
		return false, nil
	}
	switch kind := st.Mode & unix.S_IFMT; kind {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		w.forget(at)
		return true, nil
	default:
		w.forget(at)
		if kind != unix.S_IFLNK && w.wanted(name, false) {
			w.once("special", "sockets, pipes and devices are not taken", "path", at)
		}
		return false, nil
	}
	f := fileOf(at, &st)
	if !w.wanted(name, false) || w.o.Known(f) {
		w.forget(at)
		return false, nil
	}
	v := w.judge(dir, name, f, scan)
	if !v.complete {
		w.later(f, v)
		return false, nil
	}
	w.forget(at)
	begun := w.mono()
	err = found(ctx, f)
	w.inFound += w.mono() - begun
	if err != nil {
		return false, err
	}
	w.remember(f)
	return false, nil
}

// verdict is what a look at a version came to.
type verdict struct {
	complete bool
	again    time.Duration // when to look again; 0: at an event or the next scan
	trouble  string
}

// judge decides by the rule, and by whether the file can be read. The version of f has been there for as
// long as pending knows of it; a scan may take one that it sees the first time.
func (w *Watcher) judge(dir *os.File, name string, f File, scan bool) verdict {
	var observed, unchanged time.Duration // by two looks; or by a look and the silence of inotify
	tries := 0
	e := w.pending.of[f.Path]
	switch {
	case e == nil && scan && w.now().Sub(f.CTime).Abs() > w.settle:
		unchanged = w.settle
	case e != nil && e.seen.Ino == 0:
		unchanged = w.mono() - e.since
	case e != nil && e.seen.Same(f):
		observed = w.mono() - e.since
		unchanged, tries = observed, e.tries
	}
	ask := func(int) (held bool, err error) { return false, nil }
	least := w.settle
	switch w.o.Complete.kind {
	case age:
		least, unchanged = w.o.Complete.age, observed
	case trigger:
		if _, err := statAt(dir, w.o.Complete.Trigger(name)); err != nil {
			return verdict{}
		}
	default:
		ask = w.leases
	}
	if unchanged < least {
		return verdict{again: least - unchanged}
	}
	held, changed, err := probe(dir, name, f, ask)
	switch {
	case errors.Is(err, errNoLease):
		w.once("lease", "no lease tells whether a file is open: files are complete when they have not changed for a while",
			"path", f.Path, "for", w.unleased)
		return verdict{complete: observed >= w.unleased, again: w.unleased - observed}
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return verdict{trouble: err.Error()}
	case err != nil:
		return verdict{trouble: err.Error(), again: w.patience(tries)}
	case changed:
		return verdict{again: w.settle}
	case held:
		return verdict{again: w.patience(tries)}
	}
	return verdict{complete: true}
}

// patience is how long a file is left alone that is still open: inotify tells of a close in no
// way that fsnotify passes on. However many they are, they are 5000 a second at most.
func (w *Watcher) patience(tries int) time.Duration {
	d := w.settle << min(tries, 3)
	return max(d, time.Duration(len(w.pending.of))*200*time.Microsecond)
}

// later notes a version that is not complete.
func (w *Watcher) later(f File, v verdict) {
	e := w.pending.of[f.Path]
	if e == nil { // not seen before, and not by an event
		if v.trouble != "" {
			w.trouble(f.Path, v.trouble)
		}
		// What waits for an event or the next scan needs no place, since both find it without.
		if !w.room(v.again > 0) {
			w.beyond.files++
			w.beyond.bytes += f.Size
			return
		}
		e = &pending{path: f.Path, seen: f, since: w.mono()}
		w.pending.add(e)
	}
	w.pending.see(e, f, w.mono())
	e.gen = w.gen
	e.tries++
	if v.trouble != "" {
		w.trouble(f.Path, v.trouble)
	} else {
		w.untrouble(f.Path)
	}
	if v.again > 0 {
		w.pending.wake(e, w.mono()+v.again)
	} else {
		w.pending.park(e)
	}
}

// room tells whether one more may be pending. What has to be looked at again takes the place of
// what waits for an event, if one is found soon, and otherwise calls for a scan later.
func (w *Watcher) room(timed bool) bool {
	if len(w.pending.of) < w.o.Pending {
		return true
	}
	if !timed {
		return false
	}
	tries := 0
	for path, e := range w.pending.of {
		if e.at < 0 {
			w.beyond.files++
			w.beyond.bytes += e.seen.Size
			w.pending.remove(path)
			return true
		}
		if tries++; tries == 16 {
			break
		}
	}
	w.full = true
	return false
}

// forget drops what is known of a path: it is told, gone, or nothing of ours.
func (w *Watcher) forget(path string) {
	w.pending.remove(path)
	w.untrouble(path)
}

var seed = maphash.MakeSeed()

// remember keeps the version that was told of a path, as two hashes.
func (w *Watcher) remember(f File) {
	if w.told != nil {
		w.told[maphash.String(seed, f.Path)] = versionHash(f)
	}
}

func (w *Watcher) remembers(f File) bool {
	v, ok := w.told[maphash.String(seed, f.Path)]
	return ok && v == versionHash(f)
}

func versionHash(f File) uint64 {
	return maphash.Comparable(seed, [5]int64{int64(f.Dev), int64(f.Ino), f.Size, f.MTime.UnixNano(), f.CTime.UnixNano()})
}
