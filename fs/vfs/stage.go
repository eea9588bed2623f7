package vfs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"tarn/backends"
	"tarn/backends/lake"
	"tarn/cache"
)

// StagePlan is what staging would cost.
type StagePlan struct {
	backends.RecallPlan
	Cached int   `json:"cached"` // of Files: in the hot cache or not yet sent
	Disk   int   `json:"disk"`   // of Files: on a disk RSE
	Fits   bool  `json:"fits"`   // the recalled bytes fit into the hot cache at once
	Recall int   `json:"recall"` // files to be recalled
	Moved  int64 `json:"recall_bytes"`
}

// Plan says what staging everything at and below the paths would cost; nothing moves.
func (v *FS) Plan(ctx context.Context, paths ...string) (StagePlan, error) {
	var p StagePlan
	var near []backends.Info
	err := v.sortOut(ctx, paths, func(in backends.Info, l backends.Locality, cached bool) error {
		p.Files++
		p.Bytes += in.Size
		switch {
		case cached:
			p.Cached++
			p.Online++
		case l.IsOnline():
			p.Disk++
			p.Online++
		case l == backends.Nearline:
			near = append(near, in)
			p.Recall++
			p.Moved += in.Size
		}
		return nil
	})
	if err != nil {
		return p, err
	}
	p.Fits = p.Moved <= v.cache.Stats().Limit
	if len(near) == 0 {
		return p, nil
	}
	rp, err := v.lake.Plan(ctx, near)
	if err != nil && !errors.Is(err, backends.ErrNotSupported) {
		return p, err
	}
	p.Tapes, p.Mounts, p.Time = rp.Tapes, rp.Mounts, rp.Time
	return p, nil
}

// sortOut calls each for every file at and below the paths, with its locality, asked in
// bulk a page at a time.
func (v *FS) sortOut(ctx context.Context, paths []string, each func(in backends.Info, l backends.Locality, cached bool) error) error {
	var batch []backends.Info
	flush := func() error {
		locs, err := v.Localities(ctx, batch)
		if err != nil {
			return err
		}
		for i, in := range batch {
			cached := in.Size == 0 || v.unsentOf(in.Inode) != nil
			if st, ok := v.Cached(in); ok && st.Whole {
				cached = true
			}
			if err := each(in, locs[i], cached); err != nil {
				return err
			}
		}
		batch = batch[:0]
		return nil
	}
	for _, p := range paths {
		for w, err := range v.Walk(ctx, p) {
			if err != nil {
				return err
			}
			if w.Info.Type != backends.File || w.Info.IsSymlink() {
				continue
			}
			if w.Info.DID.Scope == "" {
				w.Info.DID = v.lake.PathDID(w.Path)
			}
			if batch = append(batch, w.Info); len(batch) == Page {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	return flush()
}

// StageProgress is how far a stage job is.
type StageProgress struct {
	Files     int      `json:"files"`
	Bytes     int64    `json:"bytes"`
	Online    int      `json:"online"` // were online before
	Done      int      `json:"done"`   // recalled by this job
	DoneBytes int64    `json:"done_bytes"`
	Failed    int      `json:"failed"`
	Errors    []string `json:"errors,omitempty"` // the first few
	Ended     bool     `json:"ended"`
}

// StageOptions tunes Stage.
type StageOptions struct {
	Pin time.Duration // pin what is staged in the hot cache for so long; 0: no pin
	// Window bounds how many bytes are on their way or unread at a time; 0: half the hot cache.
	Window int64
}

const (
	stageBatch   = 10000 // files in one bulk request
	stageStreams = 8     // files copied from tape buffers to the hot cache at one time
)

// Stage brings every nearline file at and below the paths into the hot cache, by bulk
// requests as large as the cache allows, and returns when all are there or failed.
// progress is called, from one goroutine at a time, whenever something changed.
func (v *FS) Stage(ctx context.Context, paths []string, o StageOptions, progress func(StageProgress)) (StageProgress, error) {
	if o.Window <= 0 {
		o.Window = v.cache.Stats().Limit / 2
	}
	var mu sync.Mutex
	var p StageProgress
	tell := func(f func()) {
		mu.Lock()
		defer mu.Unlock()
		f()
		if progress != nil {
			progress(p)
		}
	}
	var batch []backends.Info
	var bytes int64
	flush := func() error {
		err := v.stageBatch(ctx, batch, o, func(in backends.Info, err error) {
			tell(func() {
				if err == nil {
					p.Done++
					p.DoneBytes += in.Size
					return
				}
				p.Failed++
				if len(p.Errors) < 20 {
					p.Errors = append(p.Errors, err.Error())
				}
			})
		})
		batch, bytes = nil, 0
		return err
	}
	err := v.sortOut(ctx, paths, func(in backends.Info, l backends.Locality, cached bool) error {
		tell(func() {
			p.Files++
			p.Bytes += in.Size
			if cached || l.IsOnline() {
				p.Online++
			}
		})
		switch {
		case cached:
			if o.Pin > 0 && in.Size > 0 {
				v.pinFor(in, o.Pin)
			}
			return nil
		case l != backends.Nearline && o.Pin == 0 && l.IsOnline():
			return nil
		}
		batch = append(batch, in)
		bytes += in.Size
		if len(batch) < stageBatch && bytes < o.Window {
			return nil
		}
		return flush()
	})
	if err == nil && len(batch) > 0 {
		err = flush()
	}
	mu.Lock()
	defer mu.Unlock()
	p.Ended = true
	if progress != nil {
		progress(p)
	}
	return p, err
}

func (v *FS) pinFor(in backends.Info, d time.Duration) {
	if err := v.Pin(in, v.now().Add(d)); err != nil && !isNotExist(err) {
		v.log.Warn("pin", "did", in.DID.String(), "err", err)
	}
}

// stageBatch recalls the files by one bulk request and copies each into the hot cache as
// it arrives; ended is told of each.
func (v *FS) stageBatch(ctx context.Context, batch []backends.Info, o StageOptions, ended func(backends.Info, error)) error {
	tickets, err := v.lake.RecallAll(ctx, batch)
	if err != nil {
		return fmt.Errorf("recall %d files: %w", len(batch), err)
	}
	slots := make(chan struct{}, stageStreams)
	var wg sync.WaitGroup
	for i, in := range batch {
		wg.Add(1)
		go func() {
			defer wg.Done()
			t := tickets[i]
			defer t.Close()
			err := v.await(ctx, t)
			if err == nil {
				slots <- struct{}{}
				err = v.fillInfo(ctx, in)
				<-slots
			}
			if err == nil && o.Pin > 0 {
				v.pinFor(in, o.Pin)
			}
			if err != nil {
				err = fmt.Errorf("%s: %w", in.DID.Name, err)
			}
			ended(in, err)
		}()
	}
	wg.Wait()
	return ctx.Err()
}

func (v *FS) await(ctx context.Context, t *lake.Ticket) error {
	select {
	case <-t.Done():
		return t.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fillInfo makes a published content whole in the hot cache.
func (v *FS) fillInfo(ctx context.Context, in backends.Info) error {
	n := v.Known(in.Inode)
	if n == nil {
		n = newNode(v, in) // not in the tree: only carries the Info to the fetch
		n.name = in.DID.Name
	} else {
		defer n.Forget(1)
	}
	if st, ok := v.cache.Status(cache.Key(in.Generation)); ok && st.Whole {
		return nil
	}
	return v.fill(ctx, n)
}
