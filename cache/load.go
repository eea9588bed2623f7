package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// loaders is how many folders are read at a time at start: enough to keep a disk busy.
const loaders = 16

// load takes up what an earlier process left. Side files are all that is read; data files
// are only looked at. What does not fit together is removed and logged.
func (c *Cache) load() error {
	folders, err := c.folders()
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(loaders)
	var mu sync.Mutex
	var damaged []string
	for _, prefix := range folders {
		g.Go(func() error {
			entries, bad, err := c.loadFolder(prefix)
			mu.Lock()
			defer mu.Unlock()
			damaged = append(damaged, bad...)
			for _, e := range entries {
				c.enter(e)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if len(damaged) > 0 {
		c.log.Warn("damaged cache entries were dropped; they will be fetched again", "entries", len(damaged))
	}
	slices.Sort(damaged)
	c.mu.Lock()
	c.dropped = damaged
	if len(c.idle) > 0 {
		c.age = c.idle[0].prio // the youngest age that explains the priorities kept
	}
	c.mu.Unlock()
	c.evictDownTo(c.limit)
	return nil
}

// enter makes a loaded entry known.
func (c *Cache) enter(e *entry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	for b := e.have.NextSet(0); b < e.lay.Count(); b = e.have.NextSet(b + 1) {
		e.cameLocked(b)
	}
	c.entries[e.key] = e
	if e.pinned.After(c.now()) {
		c.pins[e] = struct{}{}
	}
	c.idleLocked(e)
}

// loadFolder gives the sound entries of one folder and removes everything else of ours.
// Files with names that are not ours are left alone.
func (c *Cache) loadFolder(prefix string) (entries []*entry, damaged []string, err error) {
	dir := filepath.Join(c.o.Dir, prefix[:1], prefix[1:])
	d, err := os.Open(dir)
	if err != nil {
		return nil, nil, err
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return nil, nil, err
	}
	data, sides := map[string]bool{}, []string{}
	for _, name := range names {
		stem, suffix, _ := strings.Cut(name, ".")
		if len(stem) != 64 || !strings.HasPrefix(stem, prefix) || strings.Trim(stem, hexDigits) != "" {
			continue
		}
		switch "." + suffix {
		case dataSuffix:
			data[stem] = true
		case sideSuffix:
			sides = append(sides, stem)
		case sideSuffix + tempSuffix, dataSuffix + tempSuffix:
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				return nil, nil, err
			}
		}
	}
	for _, stem := range sides {
		e, err := c.loadEntry(stem)
		if err != nil {
			damaged = append(damaged, c.path(stem, sideSuffix))
			c.log.Warn("cache entry is damaged; dropped", "file", stem, "err", err)
			continue // its data is removed below
		}
		entries = append(entries, e)
		delete(data, stem)
	}
	for stem := range data { // of a fill that was cut before its first side file, or damaged
		if err := c.removeFiles(stem); err != nil {
			return nil, damaged, err
		}
	}
	return entries, damaged, nil
}

// loadEntry makes an entry of a side file. The blocks need no check at first use only if
// the file was whole and synced with the stamp it still has; a power cut may have kept
// the side file and lost data written before it.
func (c *Cache) loadEntry(stem string) (*entry, error) {
	path := c.path(stem, sideSuffix)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s, err := decodeSide(b)
	if err == nil && fileName(s.key) != stem {
		err = fmt.Errorf("%w: it is of another key", errSide)
	}
	var st unix.Stat_t
	if err == nil {
		err = unix.Lstat(c.path(stem, dataSuffix), &st)
	}
	if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != s.lay.Size || s.have.Count() == 0) {
		err = errors.New("data file does not fit the side file")
	}
	if err != nil {
		if e := os.Remove(path); e != nil && !errors.Is(e, fs.ErrNotExist) {
			c.diskFailed("remove", e)
		}
		return nil, err
	}
	e := c.newEntry(s.key, s.lay, s.sums)
	e.have, e.known, e.crc, e.whole = s.have, s.known, s.crc, s.whole
	e.cost, e.pinned, e.used, e.prio = s.cost, s.pinned, s.used, s.prio
	e.st = stampOf(&st)
	if s.synced && s.st == e.st {
		e.synced = true
		e.checked.Fill()
	} else {
		e.dirty = e.whole && e.lay.Size >= syncMin // worth a sync once it is checked
	}
	if !e.whole && st.Blocks*512 > c.claims(e) {
		e.litter = true // blocks stored after the side file was written
		e.tidy()
	}
	return e, nil
}

// claims is the disk space that the resident blocks of e explain.
func (c *Cache) claims(e *entry) (n int64) {
	for b := e.have.NextSet(0); b < e.lay.Count(); b = e.have.NextSet(b + 1) {
		n += pages(int64(e.lay.Len(b)))
	}
	return n
}

// touched lists entries whose time of use is not written down.
func (c *Cache) touched() (all []*entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entries {
		if e.touched && e.charge > 0 {
			all = append(all, e)
		}
	}
	return all
}

// persistTouched writes the side files of those entries that need it. Losing a time of
// use harms nobody, so that it is not done at each open.
func (c *Cache) persistTouched(all []*entry) {
	var g errgroup.Group
	g.SetLimit(loaders)
	for _, e := range all {
		e.mu.Lock()
		c.mu.Lock()
		need := (e.touched || e.dirty) && e.charge > 0
		c.mu.Unlock()
		e.mu.Unlock()
		if need {
			g.Go(func() error {
				if err := e.persist(false); err != nil {
					c.diskFailed("write", err)
				}
				return nil
			})
		}
	}
	_ = g.Wait()
}
