package journal

import (
	"errors"
	"time"
)

func newWAL(j *Journal, o Options, syncAll func() error) *wal {
	w := &wal{
		j: j, size: o.logSize, few: checkpointFew,
		most:   min(max(o.DirtyFiles/3, segmentLeast), segmentMost),
		manual: o.manualLog, every: o.SyncEvery,
		now: make(chan struct{}, 1), later: make(chan struct{}, 1),
		syncSoon: make(chan struct{}, 1), wanting: make(chan struct{}, 1),
		quit: make(chan struct{}),
	}
	w.group = &groupSync{do: w.syncSegments}
	w.all = &groupSync{do: syncAll}
	return w
}

// kick asks the background for something; it waits for nothing.
func (w *wal) kick(c chan struct{}) {
	if w.manual {
		return
	}
	w.loop.Do(func() {
		w.running.Go(w.runCheckpoints)
		w.running.Go(w.runSyncs)
	})
	select {
	case c <- struct{}{}:
	default:
	}
}

// runCheckpoints makes the log when it is wanted, and a checkpoint when a segment is full or
// some time after one was begun.
func (w *wal) runCheckpoints() {
	var timer <-chan time.Time
	for {
		select {
		case <-w.quit:
			return
		case <-w.wanting:
			if err := w.make(); err != nil {
				w.j.log.Info("journal: works without a log", "err", err)
			}
			continue
		case <-w.later:
			if timer == nil {
				timer = time.After(checkpointAfter)
			}
			continue
		case <-w.now:
		case <-timer:
		}
		timer = nil
		if err := w.checkpoint(); err != nil {
			w.j.log.Warn("journal: checkpoint of the log", "err", err)
			timer = time.After(checkpointAfter)
		} else if w.used() {
			timer = time.After(checkpointAfter)
		}
	}
}

func (w *wal) used() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cur != nil && !w.pinned && w.cur.off > segStart
}

// runSyncs syncs what SealLazy took.
func (w *wal) runSyncs() {
	var timer <-chan time.Time
	for {
		select {
		case <-w.quit:
			return
		case <-w.syncSoon:
			if timer == nil {
				timer = time.After(w.every)
			}
		case <-timer:
			timer = nil
			_ = w.sync() // its failure is logged, and the entries' files become durable otherwise
		}
	}
}

// wanted tells whether there is a log. When enough small files were sealed without, one is
// made.
func (w *wal) wanted() bool {
	w.mu.Lock()
	there, usable := w.cur != nil, w.broken == nil
	w.mu.Unlock()
	if !there && usable && w.sealed.Add(1) == logAfter {
		w.kick(w.wanting)
	}
	return there && usable
}

// stop ends the background and waits for it.
func (w *wal) stop() {
	w.loop.Do(func() {}) // none begins any more
	select {
	case <-w.quit:
	default:
		close(w.quit)
	}
	w.running.Wait()
}

// close closes the files of the log.
func (w *wal) close() error {
	w.stop()
	var errs []error
	segs := w.segments()
	w.mu.Lock()
	segs = append(segs, w.dead...)
	w.cur, w.old, w.free, w.dead = nil, nil, nil, nil
	w.mu.Unlock()
	for _, s := range segs {
		errs = append(errs, s.file.Close())
	}
	return errors.Join(errs...)
}
