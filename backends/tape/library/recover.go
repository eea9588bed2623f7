package library

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const bootID = "/proc/sys/kernel/random/boot_id"

// recoverBuffer finds the copies that the last process left: those of files, which are
// kept, and those of unfinished uploads and recalls, which go. What is not on tape is queued for it.
//
// Copies of recalls are not synced when they are made, so after a restart of the machine
// only those of files that are nowhere else are trusted.
func (l *Library) recoverBuffer() error {
	trusted := l.sameBoot()
	byID := l.loaded
	l.loaded = nil
	top := filepath.Join(l.o.Dir, "buffer")
	shards, err := os.ReadDir(top)
	if err != nil {
		return translated(err)
	}
	for _, sh := range shards {
		copies, err := os.ReadDir(filepath.Join(top, sh.Name()))
		if err != nil {
			return translated(err)
		}
		for _, e := range copies {
			name := filepath.Join(top, sh.Name(), e.Name())
			if l.recoverCopy(byID, name, e, trusted) {
				continue
			}
			if err := os.Remove(name); err != nil {
				return translated(err)
			}
		}
		os.Remove(filepath.Join(top, sh.Name())) // succeeds when it is empty
	}
	var untaped []*file
	for _, f := range byID {
		if f.cart < 0 {
			untaped = append(untaped, f)
		}
	}
	slices.SortFunc(untaped, func(a, b *file) int { return cmp.Compare(a.id, b.id) })
	for _, f := range untaped {
		if f.buf == nil {
			f.bad = true
			l.o.Log.Error("tape library: file is lost: neither on tape nor in the buffer", "path", f.path(), "size", f.size)
			continue
		}
		l.migrate(f)
	}
	return l.noteBoot()
}

func (l *Library) recoverCopy(byID map[uint64]*file, name string, e os.DirEntry, trusted bool) bool {
	var id, n uint64
	if c, err := fmt.Sscanf(e.Name(), "%x-%x", &id, &n); c != 2 || err != nil || strings.HasSuffix(e.Name(), partSuffix) {
		return false
	}
	l.nextID = max(l.nextID, id+1, n+1)
	f := byID[id]
	fi, err := e.Info()
	if f == nil || f.buf != nil || err != nil || fi.Size() != f.size || name != l.bufferPath(id, n) || f.cart >= 0 && !trusted {
		return false
	}
	f.buf = &copied{f: f, id: n}
	l.used += f.size
	l.settle(f.buf)
	return true
}

// sameBoot tells whether the machine has run on since the last Open.
func (l *Library) sameBoot() bool {
	now, err := os.ReadFile(bootID)
	if err != nil {
		return false
	}
	last, err := os.ReadFile(filepath.Join(l.o.Dir, "boot"))
	return err == nil && string(last) == string(now)
}

// noteBoot is called when nothing that a cut of power may have torn is left.
func (l *Library) noteBoot() error {
	now, err := os.ReadFile(bootID)
	if err != nil {
		return nil // never the same, then
	}
	return translated(os.WriteFile(filepath.Join(l.o.Dir, "boot"), now, 0o600))
}
