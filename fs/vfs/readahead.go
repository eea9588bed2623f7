package vfs

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"tarn/backends"
	"tarn/cache"
)

// ReadAhead bounds how far recalls run ahead of those who read a directory of tape files.
// The zero value means the defaults; Files < 0 switches it off.
type ReadAhead struct {
	Files int   // at most on their way ahead of the readers of a directory; default stageBatch
	Bytes int64 // the same in bytes; default a quarter of the hot cache
}

// readAhead turns many recalls of single files of a directory into few bulk requests. What
// it recalls lands in the hot cache. It knows three ways of going through a directory:
//
//   - in the order of names, as a plain loop does: each time the loop meets a file that is
//     not here yet, four times as many of its following siblings are recalled with it;
//   - by a crowd, as a batch system does, in whatever order: the whole directory is recalled
//     at once, so that each cartridge is mounted once;
//   - one by one in another order: from the eighth file on, and whenever their number has
//     doubled, four times as many siblings as have been asked for are recalled.
type readAhead struct {
	v   *FS
	opt ReadAhead

	mu   sync.Mutex
	dirs map[uint64]*run // by inode of the directory
}

// run is what is known of those who go through a directory.
type run struct {
	last    string              // name of the last file that had to be asked for
	window  int                 // of a sequence in the order of names
	asked   int                 // files that had to be asked for, and did not come ahead
	used    time.Time           //
	waiting map[uint64]int      // readers that wait, by inode
	coming  map[uint64]struct{} // inodes on their way ahead of the readers
	bytes   int64               // of coming
	busy    bool                // looking for more
	cursor  string              // where the look for more of a crowd goes on
	barren  time.Time           // no look for a crowd before this: the last one found nothing
}

const (
	forgetRun = 10 * time.Minute // a pause that ends it
	crowd     = 16               // files of one directory waited for at one time
	strolled  = 8                // files read in no order that make a reader of many
	barrenFor = time.Minute
)

func newReadAhead(v *FS, o ReadAhead) *readAhead {
	if o.Files == 0 {
		o.Files = stageBatch
	}
	return &readAhead{v: v, opt: o, dirs: map[uint64]*run{}}
}

// recalled is told that a reader began to wait for the nearline file n; it returns what
// is to be called when the wait is over.
func (r *readAhead) recalled(n *Node) (over func()) {
	dir := n.Parent()
	if r.opt.Files < 0 || dir == nil {
		return func() {}
	}
	n.fs.mu.Lock()
	name := n.name
	n.fs.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.runLocked(dir.ino)
	d.waiting[n.ino]++
	if _, ok := d.coming[n.ino]; !ok {
		if after, count := r.wantLocked(d, name); count > 0 {
			d.busy = true
			dir.hold()
			r.v.goDo(func(ctx context.Context) {
				defer dir.Forget(1)
				r.fetch(ctx, dir, d, after, count)
			})
		}
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if d.waiting[n.ino]--; d.waiting[n.ino] == 0 {
			delete(d.waiting, n.ino)
		}
		d.used = time.Now()
	}
}

func (r *readAhead) runLocked(dir uint64) *run {
	now := time.Now()
	for ino, d := range r.dirs {
		if now.Sub(d.used) > forgetRun && !d.busy && len(d.waiting)+len(d.coming) == 0 {
			delete(r.dirs, ino)
		}
	}
	d := r.dirs[dir]
	if d == nil {
		d = &run{waiting: map[uint64]int{}, coming: map[uint64]struct{}{}}
		r.dirs[dir] = d
	}
	d.used = now
	return d
}

// wantLocked decides, after a reader had to ask for name, how many files beside it are to
// be recalled too, and after which name; 0: none.
func (r *readAhead) wantLocked(d *run, name string) (after string, count int) {
	sequential := d.last != "" && name > d.last
	d.last = name
	d.asked++
	room := r.opt.Files - len(d.coming)
	switch {
	case d.busy || room <= 0:
		return "", 0
	case len(d.waiting) >= crowd:
		if room < (r.opt.Files+1)/2 || d.bytes > r.budget()/2 || time.Now().Before(d.barren) {
			return "", 0
		}
		return d.cursor, room
	case sequential:
		d.window = min(max(4, d.window*4), r.opt.Files)
		return name, min(d.window, room)
	}
	d.window = 0
	if d.asked >= strolled && d.asked&(d.asked-1) == 0 {
		return "", min(4*d.asked, room)
	}
	return "", 0
}

func (r *readAhead) budget() int64 {
	if r.opt.Bytes > 0 {
		return r.opt.Bytes
	}
	return r.v.cache.Stats().Limit / 4
}

// fetch recalls up to count nearline files of dir by one bulk request: those that follow
// after, then, if there was a place to go on from, those before it.
func (r *readAhead) fetch(ctx context.Context, dir *Node, d *run, after string, count int) {
	r.mu.Lock()
	budget := r.budget() - d.bytes
	round := after != "" && after == d.cursor
	r.mu.Unlock()
	todo, cursor := r.look(ctx, dir, after, "", count, &budget)
	if round && cursor == "" && len(todo) < count {
		var more []backends.Info
		more, cursor = r.look(ctx, dir, "", after, count-len(todo), &budget)
		todo = append(todo, more...)
	}
	r.mu.Lock()
	d.busy = false
	mine := todo[:0]
	for _, in := range todo {
		if _, twice := d.coming[in.Inode]; !twice {
			d.coming[in.Inode] = struct{}{}
			d.bytes += in.Size
			mine = append(mine, in)
		}
	}
	d.cursor = cursor
	if len(mine) == 0 && (after == "" || round) {
		d.barren = time.Now().Add(barrenFor) // all of it was looked at
	}
	r.mu.Unlock()
	if len(mine) == 0 {
		return
	}
	left := func(in backends.Info) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if _, ok := d.coming[in.Inode]; ok {
			delete(d.coming, in.Inode)
			d.bytes -= in.Size
		}
	}
	err := r.v.stageBatch(ctx, mine, StageOptions{}, func(in backends.Info, err error) {
		left(in)
		if err == nil {
			r.v.stats.ahead.Add(1)
		} else if ctx.Err() == nil {
			r.v.log.Debug("recall ahead", "err", err)
		}
	})
	if err != nil { // none was begun, or the mount ends
		for _, in := range mine {
			left(in)
		}
	}
}

// look lists up to count nearline files of dir after one name and before another ("" for
// no end), within budget bytes, which it lowers. cursor is where to go on, "" at the end.
func (r *readAhead) look(ctx context.Context, dir *Node, after, before string, count int, budget *int64) (todo []backends.Info, cursor string) {
	for {
		entries, err := r.v.List(ctx, dir, after)
		if err != nil || len(entries) == 0 {
			return todo, ""
		}
		end := entries[len(entries)-1].Name
		if before != "" && end >= before {
			i, _ := slices.BinarySearchFunc(entries, before, func(e Entry, name string) int { return strings.Compare(e.Name, name) })
			entries, end = entries[:i], ""
		}
		for _, e := range r.v.nearlineOf(ctx, entries) {
			if len(todo) == count || e.Info.Size > *budget {
				return todo, after
			}
			*budget -= e.Info.Size
			todo = append(todo, e.Info)
			after = e.Name
		}
		if end == "" {
			return todo, ""
		}
		after = end
	}
}

// nearlineOf picks the files among entries that are on tape only and not in the hot cache.
func (v *FS) nearlineOf(ctx context.Context, entries []Entry) (out []Entry) {
	var files []Entry
	var infos []backends.Info
	for _, e := range entries {
		if e.Info.Type != backends.File || e.Info.IsSymlink() || e.Info.Size == 0 || v.unsentOf(e.Info.Inode) != nil {
			continue
		}
		if st, ok := v.cache.Status(cache.Key(e.Info.Generation)); ok && st.Whole {
			continue
		}
		files = append(files, e)
		infos = append(infos, e.Info)
	}
	locs, err := v.lake.Localities(ctx, infos...)
	if err != nil {
		return nil
	}
	for i, e := range files {
		if locs[i] == backends.Nearline {
			out = append(out, e)
		}
	}
	return out
}

// fill makes n's published content whole in the hot cache.
func (v *FS) fill(ctx context.Context, n *Node) error {
	in := n.Info()
	if in.Size == 0 || in.Generation == "" {
		return nil
	}
	f, err := v.openCached(n, in)
	if err != nil {
		return err
	}
	defer f.Close()
	return local(f.Fill(ctx))
}
