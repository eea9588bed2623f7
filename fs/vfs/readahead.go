package vfs

import (
	"context"
	"sync"
	"time"

	"tarn/backends"
	"tarn/cache"
)

// ReadAhead bounds how far recalls run ahead of a reader that goes through a directory
// file by file. The zero value means the defaults; Files < 0 switches it off.
type ReadAhead struct {
	Files int   // at most ahead of the reader; default 512
	Bytes int64 // at most ahead of the reader; default a quarter of the hot cache
}

// readAhead turns a plain loop over a directory of tape files into few bulk requests:
// each time the loop meets a file that is not here yet, twice as many of its following
// siblings are recalled with it. The siblings land in the hot cache.
type readAhead struct {
	v   *FS
	opt ReadAhead

	mu   sync.Mutex
	dirs map[uint64]*run // by inode of the directory
}

// run is the last sequence of recalls seen in a directory.
type run struct {
	last   string // name of the last file recalled by a reader
	until  string // last name recalled ahead
	window int
	used   time.Time
	busy   int // files on their way
}

// forgetRun is how long a pause ends a sequence.
const forgetRun = 10 * time.Minute

func newReadAhead(v *FS, o ReadAhead) *readAhead {
	if o.Files == 0 {
		o.Files = 512
	}
	return &readAhead{v: v, opt: o, dirs: map[uint64]*run{}}
}

// recalled is told that a reader began to wait for the nearline file n.
func (r *readAhead) recalled(n *Node) {
	if r.opt.Files < 0 {
		return
	}
	dir := n.Parent()
	if dir == nil {
		return
	}
	n.fs.mu.Lock()
	name := n.name
	n.fs.mu.Unlock()
	now := time.Now()
	r.mu.Lock()
	for ino, d := range r.dirs {
		if now.Sub(d.used) > forgetRun && d.busy == 0 {
			delete(r.dirs, ino)
		}
	}
	d := r.dirs[dir.ino]
	if d == nil {
		d = &run{}
		r.dirs[dir.ino] = d
	}
	sequential := d.last != "" && name > d.last
	d.last, d.used = name, now
	if !sequential {
		d.window, d.until = 0, ""
		r.mu.Unlock()
		return
	}
	if name <= d.until {
		r.mu.Unlock()
		return // on its way already
	}
	d.window = min(max(4, d.window*4), r.opt.Files)
	window := d.window
	r.mu.Unlock()
	dir.hold()
	r.v.goDo(func(ctx context.Context) {
		defer dir.Forget(1)
		r.fetch(ctx, dir, d, name, window)
	})
}

// fetch recalls up to window nearline files of dir that follow after. Their recalls
// fall into one hold window and so into one bulk request.
func (r *readAhead) fetch(ctx context.Context, dir *Node, d *run, after string, window int) {
	v := r.v
	budget := r.opt.Bytes
	if budget <= 0 {
		budget = v.cache.Stats().Limit / 4
	}
	var todo []Entry
	for cursor := after; len(todo) < window; {
		entries, err := v.List(ctx, dir, cursor)
		if err != nil || len(entries) == 0 {
			break
		}
		cursor = entries[len(entries)-1].Name
		todo = append(todo, v.nearlineOf(ctx, entries, window-len(todo), &budget)...)
		if budget <= 0 {
			break
		}
	}
	if len(todo) == 0 {
		return
	}
	r.mu.Lock()
	d.until = todo[len(todo)-1].Name
	d.busy += len(todo)
	r.mu.Unlock()
	var wg sync.WaitGroup
	for _, e := range todo {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if n := v.Place(ctx, dir, e); n != nil {
				defer n.Forget(1)
				if err := v.fill(ctx, n); err != nil && ctx.Err() == nil {
					v.log.Debug("recall ahead", "path", n.Path(), "err", err)
				}
			}
			r.mu.Lock()
			d.busy--
			r.mu.Unlock()
		}()
	}
	wg.Wait()
	v.stats.ahead.Add(int64(len(todo)))
}

// nearlineOf picks the files among entries that are on tape only and not in the hot
// cache, at most count and within budget bytes, which it lowers.
func (v *FS) nearlineOf(ctx context.Context, entries []Entry, count int, budget *int64) (out []Entry) {
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
		if len(files) == count {
			break
		}
	}
	locs, err := v.lake.Localities(ctx, infos...)
	if err != nil {
		return nil
	}
	for i, e := range files {
		if locs[i] != backends.Nearline {
			continue
		}
		if *budget -= e.Info.Size; *budget < 0 {
			return out
		}
		out = append(out, e)
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
