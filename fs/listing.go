package fs

import (
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"tarn/fs/vfs"
)

// listing is what is known of how the kernel keeps a directory's listing. It does so when
// a handle has FOPEN_CACHE_DIR: handles that read from the beginning on fill it, one after
// another or several at a time, and who reaches the end makes it complete; from then on
// handles are served from it (fs/fuse/readdir.c). A reader at the beginning drops it when
// a name was changed through the mount since the filling began, or when its pages are gone.
// A reader in the middle does not look, and a filling does not begin anew before it was
// complete. So what is left to do here, with drops of its pages:
//
//   - A change that did not come through the mount drops it. What was read before the
//     change may reach the kernel after that; so it is dropped once more at the end.
//   - When a name changes while several read, what one of them began before the change is
//     not given to another that began after it: it is dropped at the end.
type listing struct {
	positions

	mu    sync.Mutex
	open  int       // handles
	since time.Time // what the kernel has is not older
	clean uint64    // vfs.Node.Changes when it was sure to have nothing older
	told  uint64    // changes that did not come through the mount
	doubt bool      // one of them since it was dropped at an end
	mixed bool      // names here come and go with names elsewhere: it is not kept
	total int       // entries when it was last read to its end, -1: never
}

func listingOf(n *vfs.Node) *listing {
	return n.Above(func() any { return &listing{clean: n.Changes(), total: -1} }).(*listing)
}

// opened gives the flags of a new handle. known is how many entries have nodes; what the
// kernel keeps is names only, so a process that is known to look at the files, too, is
// better served with names and attributes together, unless the kernel has them all.
func (l *listing) opened(known int, timeout time.Duration, looks bool) (flags uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open++
	if l.mixed || timeout < time.Second {
		return 0
	}
	if now := time.Now(); now.Sub(l.since) < timeout {
		flags = fuse.FOPEN_KEEP_CACHE
	} else {
		l.since = now
	}
	if !looks || l.total >= 0 && known >= l.total {
		flags |= fuse.FOPEN_CACHE_DIR
	}
	return flags
}

func (l *listing) closed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
}

// read looks at a page of the directory n: what is attached here and at home elsewhere
// goes without a word to the kernel about this directory.
func (l *listing) read(n *vfs.Node, page []vfs.Entry) {
	home := n.Info().DID
	for i := range page {
		d, name := page[i].Info.DID, page[i].Name
		if at := len(d.Name) - len(name); d.Name == "" && !page[i].Info.IsDir() ||
			at == len(home.Name)+1 && d.Name[at:] == name && d.Name[at-1] == '/' && d.Name[:at-1] == home.Name {
			continue // not registered yet, or at home
		}
		l.mu.Lock()
		l.mixed = true
		l.mu.Unlock()
		return
	}
}

func (l *listing) toldNow() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.told
}

// tell notes a change that did not come through the mount.
func (l *listing) tell() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told++
	l.doubt = true
}

// ended notes that a handle read the last of total entries (negative: not known), having
// begun when told was what it says; true when the kernel must drop what it has.
func (l *listing) ended(total int, changes, told uint64) (drop bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if total >= 0 {
		l.total = total
	}
	drop = l.mixed || l.doubt || told != l.told || changes != l.clean && l.open > 1
	if drop {
		l.clean, l.doubt = changes, false
	}
	return drop
}

// lookers are the processes that look at the files of directories that they list. A
// process that only reads names, as find does, never gets in: it skims. The kernel asks
// for the beginning of every directory with attributes; one who was given names without
// them to the end of a directory, and looked none up, gets no more of them, until it does.
type lookers struct {
	mu    sync.Mutex
	count map[uint32]int // look-ups by process; skimmed is less than one
}

const skimmed = -1

// looks is after how many look-ups a process is one of them.
const looks = 8

func (l *lookers) is(pid uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count[pid] >= looks
}

// add counts a look-up; true when it makes the process one of them.
func (l *lookers) add(pid uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count == nil || len(l.count) >= 4096 {
		l.count = map[uint32]int{}
	}
	if l.count[pid] < looks {
		l.count[pid] = max(0, l.count[pid]) + 1
		return l.count[pid] == looks
	}
	return false
}

// listed notes that a process was given names without attributes, to the end of a directory.
func (l *lookers) listed(pid uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count == nil || len(l.count) >= 4096 {
		l.count = map[uint32]int{}
	}
	if l.count[pid] == 0 {
		l.count[pid] = skimmed
	}
}

func (l *lookers) skims(pid uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count[pid] == skimmed
}

// looked counts the look-up of a file in the directory p, whose listing may be open. When
// it shows that the process wants the files, too, it gets the rest with their attributes.
func (r *rawFS) looked(p *vfs.Node, pid uint32) {
	if p.Above(nil) != nil && r.lookers.add(pid) {
		r.forgetListing(p.Inode())
	}
}

// forgetListing drops what the kernel keeps of a directory's listing. It may be called while
// the kernel waits for an answer about the directory: it takes none of its locks.
func (r *rawFS) forgetListing(inode uint64) {
	if st := r.srv.InodeNotify(inode, 0, 0); st != fuse.OK && st != fuse.ENOENT {
		r.log.Debug("notify listing", "inode", inode, "status", st)
	}
}
